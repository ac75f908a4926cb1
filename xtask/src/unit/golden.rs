//! The golden chain and corner vectors of `firmware/golden/bench.out`, which host, emulated machines and cores in logic
//! print, through the unit. Each is made of `cptr-core` here with the same seeds, and its hash must be the one in that
//! file; of its steps those that the unit does go through it.

use std::io::Write;

use cptr_core::{Eps, ExpertSet, Logit, Router, TrackerConfig, select};

use super::Done;
use super::model::{By, Settings, Unit, gains};
use super::random::{Random, fill};
use super::script::command;

const EXPERTS: usize = 16;
const K: usize = 4;
const CAPACITY: usize = 6;
const CONTEXT_STEPS: u32 = 700;

/// The hash of the golden file.
struct Hash(u32);

impl Hash {
    const START: Self = Self(0x811C_9DC5);

    fn word(&mut self, word: u32) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0193);
        self.0 ^= self.0 >> 15;
    }

    fn ids(&mut self, ids: &[u16]) {
        ids.iter().for_each(|&id| self.word(id.into()));
    }

    /// Whether the golden file has this hash under a name.
    fn check(&self, golden: &str, name: &str) -> Done {
        let line = format!("{name} {:08x}", self.0);
        let found = golden.lines().any(|other| other == line);
        found.then_some(()).ok_or_else(|| format!("{line} is not in firmware/golden/bench.out"))
    }
}

/// The chain as far as one of the steps that are in the file.
pub(super) fn chain<W: Write>(unit: &mut Unit<W>, golden: &str, steps: u32) -> Done {
    unit.restart();
    let settings = Settings {
        experts: EXPERTS,
        k: K,
        by: By::Chosen,
        keep_top: 1,
        capacity: CAPACITY,
        mass: 343_597_384,
        error: None,
    };
    let (mut random, mut hash) = (Random(7), Hash::START);
    let mut logits = [Logit::ZERO; EXPERTS];
    for step in 1..=steps {
        fill(&mut logits, &mut random, step / CONTEXT_STEPS);
        let token = unit.request(0, settings, &logits, command::APPLY | command::LEARN)?;
        hash.ids(&token.wanted);
        hash.ids(&token.chosen);
        hash.ids(&token.victims);
        let seen = token.step.ok_or("the layer did not learn")?;
        hash.word(seen.snr.to_bits().cast_unsigned());
        hash.word(seen.angle.to_bits().cast_unsigned());
        hash.word(seen.lock as u32 | u32::from(seen.lost_lock) << 8);
        if step.is_power_of_two() || step % 100_000 == 0 {
            unit.compare(0);
        }
    }
    unit.compare(0);
    hash.check(golden, &format!("golden {steps}"))
}

/// 32-bit integers around the places where formats end.
fn corners() -> impl Iterator<Item = u32> + Clone {
    (0..32).flat_map(|bit| {
        [(1u32 << bit).wrapping_sub(1), 1 << bit, (1 << bit) + 1, u32::MAX << bit, !(u32::MAX << bit).wrapping_add(1)]
    })
}

/// Logits out of corners.
pub(super) fn corner_logits(random: &mut Random, logits: &mut [Logit]) {
    for logit in logits {
        let pick = random.bits() >> 16;
        let corner = corners().nth(pick as usize % 160).unwrap_or(0);
        *logit = if pick & 1 == 0 { Logit::from_bits(corner.cast_signed()) } else { random.logit() };
    }
}

/// Selections out of corners; those of a sigmoid router are not the unit's.
pub(super) fn selections<W: Write>(unit: &mut Unit<W>, golden: &str) -> Done {
    unit.restart();
    let (mut hash, mut random) = (Hash::START, Random(13));
    let mut logits = [Logit::ZERO; 32];
    for round in 0..64 {
        corner_logits(&mut random, &mut logits);
        let k = 1 + round % 8;
        let (mut resident, bits) = (ExpertSet::<32>::new(), random.bits());
        (0..32).filter(|expert| bits >> expert & 1 != 0).for_each(|expert| _ = resident.insert(expert));
        unit.residents(0, resident);
        for softmax in [true, false] {
            let by = if softmax { By::All } else { By::Sigmoid };
            for (eps, keep_top) in [(0, 0), (1, 0), (1 << 27, 1), (1 << 31, 2), (u32::MAX, 0), (u32::MAX, 9)] {
                let settings = Settings { experts: 32, k, by, keep_top, capacity: 32, mass: eps, error: None };
                hash.ids(&unit.request(0, settings, &logits, 0)?.chosen);
            }
        }
    }
    for wanted in [&[0u16, 0][..], &[99], &[0, 1, 2], &[]] {
        let found = select::<2>(&Router::mixtral(), Eps::MAX, 0, &[Logit::ZERO; 4], wanted, &ExpertSet::<1>::new());
        hash.word(found.map_or_else(|error| error as u32, |selection| selection.experts.len() as u32 + 100));
    }
    hash.check(golden, "corner select")
}

/// Updates out of corners: every shape of demand, ids out of range, repeated and too many, gains at their ends.
pub(super) fn updates<W: Write>(unit: &mut Unit<W>, golden: &str) -> Done {
    unit.restart();
    let settings = Settings { experts: 32, k: 1, by: By::Chosen, keep_top: 0, capacity: 0, mass: 0, error: None };
    unit.settings(settings);
    let (mut hash, mut random) = (Hash::START, Random(17));
    for (steady, reopened, fast) in
        [(1 << 26, u32::MAX / 20, 1 << 29), (0, 0, 0), (u32::MAX, u32::MAX, u32::MAX), (1, u32::MAX, 1 << 31)]
    {
        unit.tracker(gains(steady, reopened, fast));
        unit.clear(0);
        for round in 0..200u32 {
            let wanted: [u16; 20] = core::array::from_fn(|i| match round % 5 {
                0 => i as u16,
                1 => (random.bits() >> 26) as u16,
                2 => 7,
                3 => u16::MAX,
                _ => (random.bits() >> 27) as u16,
            });
            let wanted: Vec<u16> = wanted[..(round % 21) as usize].to_vec();
            // The layer of the file has 32 experts; the unit's has more, which no id may reach.
            let known: Vec<u16> = wanted.iter().map(|&id| if id < 32 { id } else { u16::MAX }).collect();
            let step = unit.list(0, &known, command::LEARN).ok_or("the layer did not learn")?;
            hash.word(step.snr.to_bits().cast_unsigned());
            hash.word(step.angle.to_bits().cast_unsigned());
        }
        for level in unit.layers[0].tracker.levels().take(32) {
            hash.word(level.slow.to_bits());
            hash.word(level.fast.to_bits());
        }
        unit.compare(0);
    }
    unit.tracker(TrackerConfig::default());
    hash.check(golden, "corner update")
}
