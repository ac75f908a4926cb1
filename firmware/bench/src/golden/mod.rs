//! Results that must be the same bits everywhere.
//!
//! Corners are short: the model of a core in logic takes a second for a million cycles.

mod cache;
mod experts;
mod placement;
mod recall;

use core::fmt::Write;

use cptr_core::num::{acos, exp_neg, log2_ratio, sigmoid};
use cptr_core::{
    Eps, ExpertSet, Gain, Gate, KalmanConfig, Logit, Router, ScaledLevels, Tracker, TrackerConfig, select,
};
use cptr_rt::Console;

use crate::random::{Random, fill};

/// Numbers of golden steps after which the chain is printed; slow machines are stopped at one of the first.
const PRINTED: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
const EXPERTS: usize = 16;
const K: usize = 4;
const CAPACITY: usize = 6;
/// Steps from one context to the next.
const CONTEXT_STEPS: u32 = 700;

/// FNV-1a over 32-bit words.
pub(crate) struct Hash(pub(crate) u32);

impl Hash {
    pub(crate) const START: Self = Self(0x811C_9DC5);

    pub(crate) fn word(&mut self, word: u32) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0193);
        self.0 ^= self.0 >> 15;
    }

    fn long(&mut self, word: u64) {
        self.word(word as u32);
        self.word((word >> 32) as u32);
    }

    fn ids(&mut self, ids: &[u16]) {
        ids.iter().for_each(|&id| self.word(id.into()));
    }
}

/// Prints the corner vectors, then the chain.
#[inline(never)]
pub(crate) fn report() {
    let corner = |name: &str, hash: Hash| {
        let _ = writeln!(Console, "corner {name} {:08x}", hash.0);
    };
    corner("functions", functions());
    corner("routers", routers());
    corner("select", selections());
    corner("update", updates());
    corner("recall", recall::recalls());
    corner("companions", recall::companions());
    corner("cache", cache::caches());
    corner("lead", cache::leaders());
    corner("placement", placement::placements());
    corner("bits", placement::splits());
    corner("change", placement::changes());
    corner("migration", placement::migrations());
    corner("shares", placement::shares());
    corner("experts", experts::experts());
    chain();
}

/// 10^6 tokens through router, selection, eviction and update of one layer; the hash takes in every output.
fn chain() {
    let (router, config) = (Router::softmax_selected(K), TrackerConfig::default());
    let eps = Eps::from_bits(343_597_384);
    let mut tracker = Tracker::<[ScaledLevels; EXPERTS]>::new();
    let mut resident = ExpertSet::<1>::new();
    let (mut random, mut hash) = (Random(7), Hash::START);
    let mut logits = [Logit::ZERO; EXPERTS];
    for step in 1..=PRINTED[PRINTED.len() - 1] {
        fill(&mut logits, &mut random, step / CONTEXT_STEPS);
        let wanted = router.top_k::<K>(&logits).unwrap_or_default();
        hash.ids(&wanted);
        if let Ok(selection) = select::<K>(&router, eps, 1, &logits, &wanted, &resident) {
            hash.ids(&selection.experts);
            for &expert in &selection.experts {
                if resident.insert(expert) && resident.len() > CAPACITY {
                    let victim = tracker.victim(&resident, &selection.experts).unwrap_or(u16::MAX);
                    hash.word(victim.into());
                    resident.remove(victim);
                }
            }
        }
        let seen = tracker.update(&config, &wanted);
        hash.word(seen.snr.to_bits() as u32);
        hash.word(seen.angle.to_bits() as u32);
        hash.word(seen.lock as u32 | u32::from(seen.lost_lock) << 8);
        if PRINTED.contains(&step) {
            let _ = writeln!(Console, "golden {step} {:08x}", hash.0);
        }
    }
}

/// 32-bit integers around the places where formats end.
fn corners() -> impl Iterator<Item = u32> + Clone {
    (0..32).flat_map(|bit| {
        [(1u32 << bit).wrapping_sub(1), 1 << bit, (1 << bit) + 1, u32::MAX << bit, !(u32::MAX << bit).wrapping_add(1)]
    })
}

fn functions() -> Hash {
    let mut hash = Hash::START;
    for bits in corners() {
        let logit = Logit::from_bits(bits as i32);
        hash.word(exp_neg(logit).to_bits());
        hash.word(sigmoid(logit).to_bits());
        hash.word(acos(Gate::from_bits(bits)).to_bits() as u32);
        for other in corners().step_by(7) {
            hash.word(log2_ratio(bits, other).to_bits() as u32);
        }
    }
    hash
}

/// Logits of `n` experts out of corners.
fn corner_logits<const N: usize>(random: &mut Random) -> [Logit; N] {
    core::array::from_fn(|_| {
        let pick = random.bits() >> 16;
        let corner = corners().nth(pick as usize % 160).unwrap_or(0);
        if pick & 1 == 0 { Logit::from_bits(corner as i32) } else { random.logit() }
    })
}

fn routers() -> Hash {
    let (mut hash, mut random) = (Hash::START, Random(11));
    let bias: [Logit; 32] = corner_logits(&mut random);
    for round in 0..64 {
        let logits: [Logit; 32] = corner_logits(&mut random);
        let k = 1 + round % 8;
        let grouped = Router::sigmoid_grouped(k, 8, 4, &bias);
        for router in
            [Router::softmax_all(k), Router::softmax_selected(k), grouped, Router::sigmoid_grouped(k, 3, 1, &[])]
        {
            match router.top_k::<8>(&logits) {
                Ok(wanted) => {
                    let mut weights = [Gate::ZERO; 8];
                    router.weights(&logits, &wanted, &mut weights);
                    hash.ids(&wanted);
                    weights.iter().for_each(|weight| hash.word(weight.to_bits()));
                }
                Err(error) => hash.word(error as u32),
            }
        }
    }
    hash
}

fn selections() -> Hash {
    let (mut hash, mut random) = (Hash::START, Random(13));
    for round in 0..64 {
        let logits: [Logit; 32] = corner_logits(&mut random);
        let k = 1 + round % 8;
        let mut resident = ExpertSet::<1>::new();
        let bits = random.bits();
        (0..32).filter(|expert| bits >> expert & 1 != 0).for_each(|expert| {
            resident.insert(expert);
        });
        for router in [Router::softmax_all(k), Router::sigmoid_grouped(k, 1, 1, &[])] {
            let wanted = router.top_k::<8>(&logits).unwrap_or_default();
            for (eps, keep_top) in [(0, 0), (1, 0), (1 << 27, 1), (1 << 31, 2), (u32::MAX, 0), (u32::MAX, 9)] {
                match select::<8>(&router, Eps::from_bits(eps), keep_top, &logits, &wanted, &resident) {
                    Ok(selection) => hash.ids(&selection.experts),
                    Err(error) => hash.word(error as u32),
                }
            }
        }
    }
    for wanted in [&[0u16, 0][..], &[99], &[0, 1, 2], &[]] {
        let found = select::<2>(&Router::mixtral(), Eps::MAX, 0, &[Logit::ZERO; 4], wanted, &ExpertSet::<1>::new());
        hash.word(found.map_or_else(|error| error as u32, |selection| selection.experts.len() as u32 + 100));
    }
    hash
}

/// Every shape of demand, ids out of range, repeated and too many, gains at their ends.
fn updates() -> Hash {
    let (mut hash, mut random) = (Hash::START, Random(17));
    for (steady, reopened, fast) in
        [(1 << 26, u32::MAX / 20, 1 << 29), (0, 0, 0), (u32::MAX, u32::MAX, u32::MAX), (1, u32::MAX, 1 << 31)]
    {
        let config = TrackerConfig {
            kalman: KalmanConfig::from_gains(Gain::from_bits(steady), Gain::from_bits(reopened)),
            fast_gain: Gain::from_bits(fast),
            ..TrackerConfig::default()
        };
        let mut tracker = Tracker::<[ScaledLevels; 32]>::new();
        for round in 0..200u32 {
            let wanted: [u16; 20] = core::array::from_fn(|i| match round % 5 {
                0 => i as u16,
                1 => (random.bits() >> 26) as u16,
                2 => 7,
                3 => u16::MAX,
                _ => (random.bits() >> 27) as u16,
            });
            let step = tracker.update(&config, &wanted[..(round % 21) as usize]);
            hash.word(step.snr.to_bits() as u32);
            hash.word(step.angle.to_bits() as u32);
        }
        for level in tracker.levels() {
            hash.word(level.slow.to_bits());
            hash.word(level.fast.to_bits());
        }
    }
    hash
}
