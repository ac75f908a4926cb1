//! Nested bits on demand, as D2MoE (arXiv 2504.15299): every expert runs on the GPU at few bits, and what is copied are only the bit planes that it
//! lacks.
//!
//! Matryoshka quantisation stores an expert so that its first planes are the expert at `low` bits, and further planes add one bit each. A choice
//! that matters needs all planes, the others need the first ones. GPU memory is counted in planes; when it is full, the least recently used
//! expert gives up its last plane, or at `low` bits itself. Simplified: what matters is decided by the share of gate mass before the choice, as
//! in HOBBIT, in place of a trained second router; copies are waited for, which the order "hottest bits first" can hide in part on a GPU that
//! starts with the planes it has.

use super::on_demand::{Lru, warm_up};
use super::{Execution, FULL_BITS, Kind, Place, Scheme, Setup, Step};
use crate::placement::Resident;
use crate::spec::{Parameter, Values};
use cptr_trace::Knowledge;
use cptr_trace::error::Result;

pub(super) const KIND: Kind = Kind {
    name: "d2moe",
    summary: "all on the GPU at nested bits; missing bit planes are copied, as many as the gate mass asks for",
    parameters: &[
        Parameter { name: "low", default: 2.0, range: (1.0, 4.0), summary: "bits of choices that matter less" },
        Parameter { name: "high", default: 4.0, range: (1.0, 4.0), summary: "bits of choices that matter" },
        Parameter {
            name: "t",
            default: 0.6,
            range: (0.0, 1.0),
            summary: "share of gate mass of better choices up to which one matters",
        },
    ],
    needs: Knowledge::Ids,
    oracle: false,
    make,
};

struct D2Moe {
    low: u8,
    high: u8,
    t: f32,
    layers: Vec<Planes>,
}

/// One layer's experts in GPU memory.
struct Planes {
    lru: Lru,
    /// Planes of each expert that are there: 0, or `low` to `high`.
    held: Vec<u8>,
    /// Planes that there is room for.
    free: usize,
}

fn make<'a>(values: &Values, setup: &Setup<'a>) -> Result<Box<dyn Scheme + 'a>> {
    let shape = setup.trace.shape;
    let low = values.get("low").round() as u8;
    let high = (values.get("high").round() as u8).max(low);
    let mut histories: Vec<Lru> = (0..shape.layers).map(|_| Lru::new(shape.experts)).collect();
    warm_up(setup, &mut histories);
    let room = setup.hot * usize::from(FULL_BITS);
    let layers = histories.into_iter().map(|lru| Planes::placed(lru, room, low, high)).collect();
    Ok(Box::new(D2Moe { low, high, t: values.get("t") as f32, layers }))
}

impl Planes {
    /// The most recently used experts: first at `low` bits, as many as there is room for, then plane by plane.
    fn placed(lru: Lru, room: usize, low: u8, high: u8) -> Self {
        let order = lru.most_recent();
        let mut planes = Self { held: vec![0; order.len()], lru, free: room };
        for bits in low..=high {
            for &expert in &order {
                let held = &mut planes.held[usize::from(expert)];
                let missing = usize::from(bits - *held);
                if missing <= planes.free && (bits == low || *held == bits - 1) {
                    (*held, planes.free) = (bits, planes.free - missing);
                }
            }
        }
        planes
    }

    /// Makes room for `planes` among experts not used since `since`; whether there is.
    fn make_room(&mut self, planes: usize, low: u8, since: u64, resident: &mut Resident) -> bool {
        while self.free < planes {
            let Some(victim) = self.lru.least_recent(since, |expert| self.held[usize::from(expert)] > 0) else {
                return false;
            };
            let held = &mut self.held[usize::from(victim)];
            let given_up = if *held > low { 1 } else { *held };
            *held -= given_up;
            self.free += usize::from(given_up);
            if *held == 0 {
                resident.remove(victim);
            }
        }
        true
    }
}

impl Scheme for D2Moe {
    fn place(&mut self) -> Vec<Resident> {
        let held = |layer: &Planes| {
            let mut set = Resident::new();
            (0u16..).zip(&layer.held).filter(|(_, held)| **held > 0).for_each(|(expert, _)| {
                set.insert(expert);
            });
            set
        };
        self.layers.iter().map(held).collect()
    }

    fn placed_bits(&self) -> f64 {
        let held = self.layers.iter().flat_map(|layer| &layer.held).filter(|held| **held > 0);
        let (planes, experts) =
            held.fold((0.0, 0.0), |(planes, experts), &held| (planes + f64::from(held), experts + 1.0));
        planes / f64::max(experts, 1.0)
    }

    fn dispatch(&mut self, step: &Step<'_>, resident: &mut Resident, executions: &mut Vec<Execution>) {
        let layer = &mut self.layers[step.layer];
        let since = layer.lru.now();
        let total: f32 = step.choices.iter().map(|choice| choice.mass).sum();
        let first = executions.len();
        executions.resize(first + step.choices.len(), Execution { place: Place::Gpu, bits: self.low });
        let mut before = 0.0;
        for index in super::by_demand(step.choices) {
            let choice = &step.choices[index];
            let wanted = if before <= self.t * total { self.high } else { self.low };
            before += choice.mass;
            layer.lru.touch(choice.expert);
            let held = layer.held[usize::from(choice.expert)];
            let execution = &mut executions[first + index];
            if held >= wanted {
                *execution = Execution { place: Place::Gpu, bits: wanted };
                continue;
            }
            let missing = wanted - held;
            *execution = Execution { place: Place::Copied { bits: missing }, bits: wanted };
            if layer.make_room(usize::from(missing), self.low, since, resident) {
                layer.held[usize::from(choice.expert)] = wanted;
                layer.free -= usize::from(missing);
                resident.insert(choice.expert);
            }
        }
    }
}
