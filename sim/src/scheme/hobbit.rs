//! Mixed-precision loading on demand, as HOBBIT (arXiv 2411.01433): every expert runs on the GPU; a missing one is copied at 16 bits if it matters, at
//! 4 bits if it matters less, and left out if it hardly does.
//!
//! Unimportance of a token's j-th expert is the share of gate mass of those before it. Simplified: both caches evict the least recently used,
//! nothing is prefetched (its authors give 5 % for prefetching, and 5 to 9 % of the miss penalty for their cache policy).

use super::on_demand::{Lru, most_recent, warm_up};
use super::{Execution, FULL_BITS, Kind, Place, Scheme, Setup, Step};
use crate::placement::Resident;
use crate::spec::{Parameter, Values};
use cptr_trace::Knowledge;
use cptr_trace::error::Result;

/// Bits of the cheaper copies.
const LOW_BITS: u8 = 4;

pub(super) const KIND: Kind = Kind {
    name: "hobbit",
    summary: "all on the GPU; missing experts are copied at 16 bits, at 4 bits or not at all, by gate mass",
    parameters: &[
        Parameter {
            name: "t1",
            default: 0.6,
            range: (0.0, 1.0),
            summary: "unimportance up to which 16 bits are copied",
        },
        Parameter {
            name: "t2",
            default: 0.9,
            range: (0.0, 1.0),
            summary: "unimportance up to which 4 bits are copied",
        },
        Parameter {
            name: "low",
            default: 0.25,
            range: (0.0, 1.0),
            summary: "share of GPU memory for experts at 4 bits; assumed",
        },
    ],
    needs: Knowledge::Weights,
    oracle: false,
    make,
};

struct Hobbit {
    t1: f32,
    t2: f32,
    high: usize,
    low: usize,
    layers: Vec<Lru>,
    /// Experts in GPU memory at 4 bits.
    low_resident: Vec<Resident>,
}

fn make<'a>(values: &Values, setup: &Setup<'a>) -> Result<Box<dyn Scheme + 'a>> {
    let shape = setup.trace.shape;
    let mut layers: Vec<Lru> = (0..shape.layers).map(|_| Lru::new(shape.experts)).collect();
    warm_up(setup, &mut layers);
    // Whole experts at 16 bits; what is left holds four times as many at 4 bits.
    let high = (setup.hot as f64 * (1.0 - values.get("low"))).ceil() as usize;
    let low = (setup.hot - high) * usize::from(FULL_BITS / LOW_BITS);
    Ok(Box::new(Hobbit {
        t1: values.get("t1") as f32,
        t2: values.get("t2") as f32,
        high,
        low,
        low_resident: vec![Resident::new(); layers.len()],
        layers,
    }))
}

impl Scheme for Hobbit {
    fn place(&mut self) -> Vec<Resident> {
        most_recent(&self.layers, self.high)
    }

    fn dispatch(&mut self, step: &Step<'_>, resident: &mut Resident, executions: &mut Vec<Execution>) {
        let (lru, low) = (&mut self.layers[step.layer], &mut self.low_resident[step.layer]);
        let since = lru.now();
        let total: f32 = step.choices.iter().map(|choice| choice.mass).sum();
        let first = executions.len();
        executions.resize(first + step.choices.len(), Execution { place: Place::Skipped, bits: LOW_BITS });
        let mut before = 0.0;
        for index in super::by_demand(step.choices) {
            let choice = &step.choices[index];
            let unimportance = if total > 0.0 { before / total } else { 0.0 };
            before += choice.mass;
            let expert = choice.expert;
            let execution = &mut executions[first + index];
            lru.touch(expert);
            *execution = if resident.contains(expert) {
                Execution::RESIDENT
            } else if unimportance <= self.t1 {
                lru.load(resident, self.high, expert, since);
                Execution::COPIED
            } else if low.contains(expert) {
                Execution { place: Place::Gpu, bits: LOW_BITS }
            } else if unimportance <= self.t2 {
                lru.load(low, self.low, expert, since);
                Execution { place: Place::Copied { bits: LOW_BITS }, bits: LOW_BITS }
            } else {
                continue;
            };
        }
    }
}
