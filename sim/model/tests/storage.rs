//! Storage that fails: files of packed experts that are damaged, cut short or gone, and an engine whose reads of them
//! fail, come short, come late or come wrong. Each fault is detected or harmless: every token is served with the bytes
//! that were written, or the run ends with one sentence.

use std::fs;
use std::path::{Path, PathBuf};

use cptr_core::cache::{Cache, Config as CacheConfig, Counts, Layer, Load, Memory, NOTHING, Shape, Step};
use cptr_core::{Level, Logit, Router, ScaledLevels};
use cptr_model::quantise::{Method, Packed, Plan, Replicas, Sample, run};
use cptr_model::{Config, Model};
use fastrand::Rng;

const BITS: u8 = 2;
/// Longest sentence with which a run ends.
const SENTENCE: usize = 300;

/// What came of the faults of one sort.
#[derive(Debug, Default)]
struct Sums {
    injected: u64,
    detected: u64,
    harmless: u64,
}

fn print(what: &str, sums: &Sums) {
    let Sums { injected, detected, harmless } = sums;
    assert_eq!(detected + harmless, *injected, "{what}");
    println!("| {what} | {injected} | {detected} | {harmless} | 0 |");
}

/// A model's packed experts in a folder, and what was written.
struct Written {
    folder: tempfile::TempDir,
    config: Config,
    experts: Vec<Vec<Packed>>,
}

impl Written {
    fn new() -> Self {
        let model = Model::load(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/olmoe").as_ref()).expect("a model");
        let sample = Sample::of(&model, &["It was the spring of hope, it was the winter of despair."], 64);
        let folder = tempfile::tempdir().expect("a folder");
        let plan = Plan { bits: vec![BITS], group: 32, method: Method::Rtn };
        run(&model, &sample.expect("a text"), &plan, folder.path()).expect("replicas");
        let config = model.config;
        let replicas = Replicas::open(folder.path(), &config).expect("as written");
        let packed = |layer, expert| replicas.packed(layer, expert, BITS).expect("as written");
        let layer = |layer| (0..config.experts as u16).map(|expert| packed(layer, expert)).collect();
        let experts = (0..config.moe_layers.len()).map(layer).collect();
        Self { folder, config, experts }
    }

    fn layer_file(&self, layer: usize) -> PathBuf {
        self.folder.path().join(format!("layer-{layer:03}.safetensors"))
    }
}

/// A reason is one sentence.
fn is_a_sentence(error: &impl ToString) {
    let said = error.to_string();
    assert!(!said.is_empty() && said.chars().count() <= SENTENCE && !said.contains('\n'), "{said}");
}

/// What can be wrong with a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// A bit has flipped.
    Bit,
    /// A sector reads as zeros.
    Zeros,
    /// Two sectors have changed places.
    Exchanged,
    /// The end is missing.
    Short,
    /// All of it is.
    Gone,
}

const SECTOR: usize = 512;

fn damaged(bytes: &[u8], damage: Damage, random: &mut Rng) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let sectors = bytes.len() / SECTOR;
    match damage {
        Damage::Bit => {
            let at = random.usize(..bytes.len());
            bytes[at] ^= 1 << random.u32(..8);
        }
        Damage::Zeros => {
            let at = random.usize(..sectors) * SECTOR;
            bytes[at..at + SECTOR].fill(0);
        }
        Damage::Exchanged => {
            let (a, b) = (random.usize(..sectors) * SECTOR, random.usize(..sectors) * SECTOR);
            (0..SECTOR).for_each(|i| bytes.swap(a + i, b + i));
        }
        Damage::Short => bytes.truncate(random.usize(..bytes.len())),
        Damage::Gone => return None,
    }
    Some(bytes)
}

/// One layer's file is damaged, and all experts are read.
fn files(written: &Written, damage: Damage, faults: u64, random: &mut Rng) -> Sums {
    let folder = tempfile::tempdir().expect("a folder");
    let layers = written.experts.len();
    let whole: Vec<Vec<u8>> = (0..layers).map(|layer| fs::read(written.layer_file(layer)).expect("a file")).collect();
    let place = |layer: usize| folder.path().join(written.layer_file(layer).file_name().expect("a name"));
    (0..layers).for_each(|layer| fs::write(place(layer), &whole[layer]).expect("room"));
    let mut sums = Sums { injected: faults, ..Sums::default() };
    for _ in 0..faults {
        let layer = random.usize(..layers);
        match damaged(&whole[layer], damage, random) {
            Some(bytes) => fs::write(place(layer), bytes).expect("room"),
            None => fs::remove_file(place(layer)).expect("it was there"),
        }
        if all_as_written(folder.path(), written) {
            sums.harmless += 1;
        } else {
            sums.detected += 1;
        }
        fs::write(place(layer), &whole[layer]).expect("room");
    }
    sums
}

/// Whether all experts are read as they were written; else one is refused. Never is one read that is another.
fn all_as_written(folder: &Path, written: &Written) -> bool {
    let replicas = match Replicas::open(folder, &written.config) {
        Ok(replicas) => replicas,
        Err(error) => {
            is_a_sentence(&error);
            return false;
        }
    };
    let mut all = true;
    for (layer, experts) in written.experts.iter().enumerate() {
        for (expert, expected) in (0..).zip(experts) {
            match replicas.packed(layer, expert, BITS) {
                Ok(found) => assert!(found == *expected, "expert {expert} of layer {layer} is another one"),
                Err(error) => {
                    is_a_sentence(&error);
                    all = false;
                }
            }
        }
    }
    all
}

/// What comes of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Whole,
    Failed,
    Short,
    Wrong,
    /// Whole, so many steps later.
    Late(usize),
}

/// A drive with faults: what a read brings is what its reader makes of it.
struct Drive<'a> {
    written: &'a Written,
    random: Rng,
    /// Of this many reads one meets a fault.
    one_in: u64,
    sums: [Sums; 4],
}

impl Drive<'_> {
    fn next(&mut self) -> Read {
        if self.random.u64(..self.one_in) > 0 {
            return Read::Whole;
        }
        match self.random.u8(..4) {
            0 => Read::Failed,
            1 => Read::Short,
            2 => Read::Wrong,
            _ => Read::Late(self.random.usize(1..5)),
        }
    }

    /// Reads an expert: its bytes and after how many steps they are there, or nothing. Damage is on a copy of the file.
    fn read(&mut self, layer: usize, expert: u16) -> (Option<Packed>, usize) {
        let read = self.next();
        let place = match read {
            Read::Whole => return (Some(self.written.experts[layer][usize::from(expert)].clone()), 0),
            Read::Failed => 0,
            Read::Short => 1,
            Read::Wrong => 2,
            Read::Late(_) => 3,
        };
        self.sums[place].injected += 1;
        if let Read::Late(steps) = read {
            self.sums[place].harmless += 1;
            return (Some(self.written.experts[layer][usize::from(expert)].clone()), steps);
        }
        let damage = [Damage::Gone, Damage::Short, Damage::Bit][place];
        let folder = tempfile::tempdir().expect("a folder");
        for of in 0..self.written.experts.len() {
            let name = self.written.layer_file(of);
            let bytes = fs::read(&name).expect("a file");
            let bytes = if of == layer { damaged(&bytes, damage, &mut self.random) } else { Some(bytes) };
            let to = folder.path().join(name.file_name().expect("a name"));
            bytes.into_iter().for_each(|bytes| fs::write(&to, bytes).expect("room"));
        }
        let found = Replicas::open(folder.path(), &self.written.config)
            .and_then(|replicas| replicas.packed(layer, expert, BITS));
        match found {
            // A bit of another expert.
            Ok(packed) => {
                self.sums[place].harmless += 1;
                (Some(packed), 0)
            }
            Err(error) => {
                is_a_sentence(&error);
                self.sums[place].detected += 1;
                (None, 0)
            }
        }
    }
}

/// Reads of an expert that a token waits for, before the run ends.
const TRIES: usize = 8;

/// An engine on the library's cache: slots of packed experts, loads that may fail, fetches that come late or never.
struct Engine<'a> {
    cache: Cache<'static, 2, 32>,
    shape: Shape,
    drive: Drive<'a>,
    /// What lies in the slots of each layer.
    slots: Vec<Vec<Option<Packed>>>,
    /// Fetches that have not arrived, and the steps until they do.
    coming: Vec<(usize, Load, Packed)>,
    ended: u64,
}

impl<'a> Engine<'a> {
    fn new(written: &'a Written, one_in: u64, random: Rng) -> Self {
        let config = &written.config;
        let shape = Shape {
            layers: config.moe_layers.len() as u16,
            experts: config.experts as u16,
            k: config.k as u16,
            slots: (config.experts / 2).max(config.k) as u16,
            tokens: 1,
            remembered: 64,
        };
        let (experts, slots) = (usize::from(shape.experts), usize::from(shape.slots));
        let layer = |_| {
            Layer::new(
                vec![ScaledLevels::ZERO; experts].leak(),
                vec![0; slots].leak(),
                vec![0; experts].leak(),
                vec![Level::ZERO; experts].leak(),
            )
        };
        let memory = Memory {
            layers: (0..shape.layers).map(layer).collect::<Vec<_>>().leak(),
            recall: vec![0; shape.recall_words(2)].leak(),
            companions: vec![0; shape.companions_words()].leak(),
            wanted: vec![0; shape.wanted()].leak(),
            forecasts: vec![Level::ZERO; 3 * experts].leak(),
            logits: vec![Logit::ZERO; shape.logits()].leak(),
        };
        // Fetches as soon as anything is forecast, so that there are some to fail.
        let cache = Cache::new(&Self::config(), shape, memory).expect("it fits");
        Self {
            cache,
            shape,
            drive: Drive { written, random, one_in, sums: Default::default() },
            slots: vec![vec![None; slots]; shape.layers.into()],
            coming: Vec::new(),
            ended: 0,
        }
    }

    fn config() -> CacheConfig {
        CacheConfig { sure: Level::ZERO, fetches: 2, ..CacheConfig::default() }
    }

    /// A layer of a token: whether it was served. Else the run ends, with what failed given up.
    fn layer(&mut self, layer: u16, logits: &[Logit]) -> bool {
        self.arrive();
        let k = usize::from(self.shape.k);
        let (mut ids, mut slots, mut waves) = (vec![0; k], vec![0; k], vec![0; k]);
        let mut step = Step { layer, tokens: 1, ids: &mut ids, slots: &mut slots, waves: &mut waves };
        let mut loads = Vec::new();
        let row = |_: u16, row: &mut [Logit]| row.copy_from_slice(logits);
        let router = Router::softmax_all(k);
        let Counts { loads: count, .. } =
            self.cache.step(&Self::config(), &router, &mut step, row, |load| loads.push(load)).expect("a step");
        assert_eq!(count, loads.len());
        for (index, load) in loads.iter().enumerate() {
            // What is on its way is waited for; what is in the slot of one that was to come is not.
            if load.on_its_way {
                let at = self.coming.iter().position(|(_, other, _)| (other.layer, other.slot) == (layer, load.slot));
                let (_, _, packed) = self.coming.remove(at.expect("it is on its way"));
                self.slots[usize::from(layer)][usize::from(load.slot)] = Some(packed);
                continue;
            }
            self.coming.retain(|(_, other, _)| (other.layer, other.slot) != (layer, load.slot));
            let Some(packed) = (0..TRIES).find_map(|_| self.drive.read(layer.into(), load.expert).0) else {
                // What was to come for this layer is not there; whoever goes on finds the cache as it is.
                for load in loads[index..].iter() {
                    self.cache.lost(layer, load.expert).expect("it was to come");
                    self.coming.retain(|(_, other, _)| (other.layer, other.slot) != (layer, load.slot));
                    self.slots[usize::from(layer)][usize::from(load.slot)] = None;
                }
                self.ended += 1;
                return false;
            };
            self.slots[usize::from(layer)][usize::from(load.slot)] = Some(packed);
        }
        // What runs is what was written.
        for (&id, &slot) in ids.iter().zip(&slots).filter(|(id, _)| **id != NOTHING) {
            let held = &self.slots[usize::from(layer)][usize::from(slot)];
            let expected = &self.drive.written.experts[usize::from(layer)][usize::from(id)];
            assert!(held.as_ref() == Some(expected), "layer {layer}: slot {slot} is not expert {id}");
        }
        true
    }

    /// Fetches for the layer that is next; one that fails is lost, and loaded when it is wanted.
    fn fetch(&mut self) {
        let mut fetches = Vec::new();
        self.cache.fetch(&Self::config(), |load| fetches.push(load));
        for load in fetches {
            self.coming.retain(|(_, other, _)| (other.layer, other.slot) != (load.layer, load.slot));
            self.slots[usize::from(load.layer)][usize::from(load.slot)] = None;
            match self.drive.read(load.layer.into(), load.expert) {
                (Some(packed), late) => self.coming.push((late, load, packed)),
                (None, _) => self.cache.lost(load.layer, load.expert).expect("it was on its way"),
            }
        }
    }

    /// A step has passed.
    fn arrive(&mut self) {
        for (late, load, packed) in std::mem::take(&mut self.coming) {
            if late > 0 {
                self.coming.push((late - 1, load, packed));
            } else {
                self.cache.loaded(load.layer, load.expert).expect("it was on its way");
                self.slots[usize::from(load.layer)][usize::from(load.slot)] = Some(packed);
            }
        }
    }
}

/// Tokens until so many reads have met a fault. Contexts that change now and then, so that there is something to load,
/// and to forecast.
fn engine(written: &Written, faults: u64, random: &mut Rng) -> [Sums; 4] {
    let mut engine = Engine::new(written, 6, random.fork());
    let experts = usize::from(engine.shape.experts);
    let mut favourites: Vec<usize> = (0..experts).collect();
    let (mut tokens, mut served) = (0u64, 0u64);
    while engine.drive.sums.iter().map(|sums| sums.injected).sum::<u64>() < faults {
        if tokens % 16 == 0 {
            random.shuffle(&mut favourites);
        }
        for layer in 0..engine.shape.layers {
            let mut logits = vec![Logit::ZERO; experts];
            for (rank, &expert) in favourites.iter().enumerate() {
                logits[expert] = Logit::from_num(random.f32() * 2.0 - rank as f32 / 2.0);
            }
            served += u64::from(engine.layer(layer, &logits));
            engine.fetch();
        }
        tokens += 1;
    }
    // Eight faults in a row: one read of 6^8 times (4/3)^8 ends a run.
    assert_eq!(served + engine.ended, tokens * u64::from(engine.shape.layers));
    assert!(engine.ended <= 1 + faults / 1000, "{} runs ended", engine.ended);
    engine.drive.sums
}

fn campaign(faults: u64) {
    let mut random = Rng::with_seed(23);
    let written = Written::new();
    println!("| storage | injected | detected | harmless | lost |\n|---|---|---|---|---|");
    for (what, damage, faults) in [
        ("a bit of a file of packed experts", Damage::Bit, faults),
        ("a sector of one that reads as zeros", Damage::Zeros, faults / 4),
        ("two sectors of one in each other's place", Damage::Exchanged, faults / 4),
        ("one that is cut short", Damage::Short, faults / 4),
        ("one that is gone", Damage::Gone, faults / 20),
    ] {
        print(what, &files(&written, damage, faults, &mut random));
    }
    let all = engine(&written, faults / 2, &mut random);
    let names = ["an engine's reads that fail", "that come short", "that bring wrong bytes", "that come late"];
    all.iter().zip(names).for_each(|(sums, what)| print(what, sums));
}

#[test]
fn no_fault_of_storage_goes_unseen() {
    campaign(1_000);
}

#[test]
#[ignore = "minutes; cargo xtask test hostile runs it"]
fn a_hundred_thousand_faults_of_storage() {
    campaign(50_000);
}
