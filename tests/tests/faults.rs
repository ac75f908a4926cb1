//! Bits that flip in state: of a filter, of recall's memory while it runs and where it is saved, of snapshots, of
//! packed weights, of recordings. Each is detected, or harmless: every token is served, within what is promised.
//!
//! Faults on the way between host and device are those of `protocol/tests/faults`.

use std::cell::Cell;
use std::rc::Rc;

use cptr_core::expert::{Layout, Matrix};
use cptr_core::recall::{Config, Recall, Shape};
use cptr_core::{Angle, Level, ScaledLevels, Tracker, TrackerConfig};
use cptr_hw_model::dram::{Engine, EngineConfig, MappingKind, Refresh, Request, presets};
use cptr_trace::native;
use fastrand::Rng;

/// What came of faults in one place.
#[derive(Debug, Default)]
struct Sums {
    injected: u64,
    detected: u64,
    harmless: u64,
}

fn print(place: &str, sums: &Sums) {
    let Sums { injected, detected, harmless } = sums;
    assert_eq!(detected + harmless, *injected, "{place}");
    println!("| {place} | {injected} | {detected} | {harmless} | 0 |");
}

fn flip(words: &mut [u32], random: &mut Rng) {
    words[random.usize(..words.len())] ^= 1 << random.u32(..32);
}

fn wanted(random: &mut Rng) -> [u16; 2] {
    let first = random.u16(..16);
    [first, (first + 1 + random.u16(..15)) % 16]
}

/// Words of a filter that goes on: refused, or within its ranges, and forgotten after 4,000 tokens.
fn filter(faults: u64, random: &mut Rng) -> Sums {
    let config = TrackerConfig::default();
    let mut sums = Sums::default();
    let mut tracker = Tracker::<[ScaledLevels; 16]>::new();
    for _ in 0..faults {
        for _ in 0..8 {
            tracker.update(&config, &wanted(random));
        }
        sums.injected += 1;
        if random.bool() {
            let mut words = tracker.saved();
            flip(&mut words, random);
            if !tracker.restore(&words) {
                sums.detected += 1;
                continue;
            }
        } else {
            let word = random.usize(..32);
            let changed = tracker.saved_level(word).unwrap_or(0) ^ 1 << random.u32(..32);
            assert!(tracker.restore_level(word, changed));
        }
        let step = tracker.update(&config, &wanted(random));
        assert!((Angle::ZERO..=Angle::FRAC_PI_2).contains(&step.angle), "{step:?}");
        sums.harmless += 1;
    }
    // What a fault leaves is gone: beside one that has met none, both see the same.
    let mut whole = Tracker::<[ScaledLevels; 16]>::new();
    for _ in 0..4000 {
        let wanted = wanted(random);
        tracker.update(&config, &wanted);
        whole.update(&config, &wanted);
    }
    for (a, b) in tracker.levels().zip(whole.levels()) {
        assert!((a.slow.to_num::<f64>() - b.slow.to_num::<f64>()).abs() < 1e-3, "{a:?} {b:?}");
    }
    sums
}

/// Memory in which bits flip when it is written, until so many have.
struct Faulty {
    words: Vec<u32>,
    random: Rng,
    injected: Rc<Cell<u64>>,
    most: u64,
}

impl AsRef<[u32]> for Faulty {
    fn as_ref(&self) -> &[u32] {
        &self.words
    }
}

impl AsMut<[u32]> for Faulty {
    fn as_mut(&mut self) -> &mut [u32] {
        if self.injected.get() < self.most && self.random.u8(..4) == 0 {
            flip(&mut self.words, &mut self.random);
            self.injected.set(self.injected.get() + 1);
        }
        &mut self.words
    }
}

const SHAPE: Shape = Shape { layers: 2, experts: 16, k: 2 };
const TOKENS: usize = 64;

/// Memory of recall that runs: every token is taken and forecast. A place whose row a fault has written may name an
/// expert twice, whose share is too large then; when the ring has been written once more, shares are shares again.
fn recall(faults: u64, random: &mut Rng) -> Sums {
    let injected = Rc::new(Cell::new(0));
    let words = vec![0; SHAPE.words(TOKENS, 2)];
    let memory = Faulty { words, random: random.fork(), injected: injected.clone(), most: faults };
    let config = Config::default();
    let mut recall = Recall::<_, 2, 16>::new(&config, SHAPE, TOKENS, memory).expect("it fits");
    let mut shares = [Level::ZERO; 16];
    let mut behind = 0;
    while behind < 4 * TOKENS {
        behind += usize::from(injected.get() == faults);
        for layer in 0..SHAPE.layers {
            recall.forecast(layer, random.u16(1..=12), &mut shares).expect("a forecast");
            let most = shares.iter().map(|share| share.to_num::<f64>()).fold(0.0, f64::max);
            assert!(behind <= 2 * TOKENS || most <= 1.0 + 1e-6, "{most}");
            recall.observe(&config, layer, &wanted(random)).expect("a token is taken");
        }
        recall.end_token(&config).expect("a token ends");
    }
    Sums { injected: faults, detected: 0, harmless: faults }
}

/// What recall has saved: refused.
fn saved(faults: u64, random: &mut Rng) -> Sums {
    let config = Config::default();
    let mut recall = Recall::<_, 2, 16>::new(&config, SHAPE, TOKENS, vec![0; SHAPE.words(TOKENS, 2)]).expect("it fits");
    for _ in 0..100 {
        for layer in 0..SHAPE.layers {
            recall.observe(&config, layer, &wanted(random)).expect("a token is taken");
        }
        recall.end_token(&config).expect("a token ends");
    }
    let mut words = vec![0; 1 << 14];
    let length = recall.save(7, &mut words).expect("room");
    words.truncate(length);
    for _ in 0..faults {
        let mut changed = words.clone();
        flip(&mut changed, random);
        assert!(recall.restore(&config, 7, &changed).is_err(), "a flipped bit");
    }
    recall.restore(&config, 7, &words).expect("its own");
    Sums { injected: faults, detected: faults, harmless: 0 }
}

/// Snapshots of the memory engine: refused.
fn snapshot(faults: u64, random: &mut Rng) -> Sums {
    let config = EngineConfig::new(cptr_hw_model::dram::Config::new(MappingKind::Mop4ClXor, Refresh::AllBank));
    let mut engine = Engine::new(&presets::ddr5_4800(), config).expect("a built-in device");
    for line in 0..64 {
        _ = engine.offer(Request::read(line * 64));
        engine.advance(line * 10).expect("forwards");
    }
    let snapshot = engine.snapshot();
    for _ in 0..faults {
        let mut changed = snapshot.clone();
        changed[random.usize(..snapshot.len())] ^= 1 << random.u32(..8);
        assert!(engine.restore(&changed).is_err(), "a flipped bit");
    }
    engine.restore(&snapshot).expect("its own");
    Sums { injected: faults, detected: faults, harmless: 0 }
}

/// Headers of packed weights: refused, or another matrix of the same bytes, which is read within them. Weights
/// themselves carry no check word: the memory's own ECC is what finds a bit there (docs/robustness.md).
fn weights(faults: u64, random: &mut Rng) -> Sums {
    let layout = Layout::new(2, 32, -20, 4, 64).expect("a layout");
    let mut bytes = vec![0; layout.byte_len() as usize];
    layout.write(&mut bytes).expect("room");
    let mut sums = Sums { injected: faults, ..Sums::default() };
    for _ in 0..faults {
        let mut changed = bytes.clone();
        changed[random.usize(..16)] ^= 1 << random.u32(..8);
        match Matrix::new(&changed) {
            Err(_) => sums.detected += 1,
            Ok(matrix) => {
                let read: i64 = matrix.rows().flat_map(|row| row.weights()).map(i64::from).sum();
                assert_eq!((matrix.layout().byte_len(), read.signum().abs()), (layout.byte_len(), read.abs().min(1)));
                sums.harmless += 1;
            }
        }
    }
    sums
}

/// Recordings: refused, or a valid trace.
fn recordings(faults: u64, random: &mut Rng) -> Sums {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/trace.safetensors")).expect("a trace");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.safetensors");
    let mut sums = Sums { injected: faults, ..Sums::default() };
    for _ in 0..faults {
        let mut changed = bytes.clone();
        changed[random.usize(..bytes.len())] ^= 1 << random.u32(..8);
        std::fs::write(&path, changed).expect("a file");
        match native::read(&path) {
            Err(_) => sums.detected += 1,
            Ok(trace) => {
                trace.validate().expect("what was read is valid");
                sums.harmless += 1;
            }
        }
    }
    sums
}

fn campaign(faults: u64) {
    let mut random = Rng::with_seed(11);
    println!("| bits flipped in | injected | detected | harmless | lost |\n|---|---|---|---|---|");
    print("a filter's state", &filter(faults * 4, &mut random));
    print("recall's memory while it runs", &recall(faults * 3, &mut random));
    print("what recall has saved", &saved(faults, &mut random));
    print("a snapshot of the memory engine", &snapshot(faults, &mut random));
    print("headers of packed weights", &weights(faults / 2, &mut random));
    print("recordings", &recordings(faults / 10, &mut random));
}

#[test]
fn ten_thousand_faults_are_detected_or_harmless() {
    campaign(1_100);
}

#[test]
#[ignore = "minutes; cargo xtask test hostile runs it"]
fn a_million_faults_are_detected_or_harmless() {
    campaign(105_000);
}
