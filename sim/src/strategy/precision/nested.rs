//! Nested bits, as D2MoE (arXiv 2504.15299): what is copied are only the bit planes that fast memory lacks.
//!
//! Matryoshka quantisation stores an expert so that its first planes are the expert at `low` bits, and further planes
//! add one bit each. A choice that matters needs `high` planes, the others need `low`. Fast memory is counted in
//! planes; when it is full, the expert that the residency gives up loses its last plane, or at `low` bits all.
//! Simplified: what matters is decided by the share of routing mass before the choice, as in HOBBIT, in place of a
//! trained second router; copies are waited for, which the order "hottest bits first" can hide in part on a GPU that
//! starts with the planes it has.

use super::{Choice, Kind, Make, Parameter, Precision, Setup, Unit, Values, by_demand};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("low", 2.0, Unit::Bits(1, 4), "bits of choices that matter less"),
        Parameter::new("high", 4.0, Unit::Bits(1, 4), "bits of choices that matter"),
        Parameter::new("t", 0.6, Unit::Share, "share of the mass of better choices up to which one matters"),
    ],
    ..Kind::new(
        "nested",
        "all at nested bits; missing planes are copied, as many as the routing mass asks for",
        Make(make),
    )
};

struct Nested {
    low: u8,
    high: u8,
    t: f32,
    order: Vec<u16>,
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Precision> {
    let low = (values.count("low") as u8).min(setup.full_bits);
    let high = (values.count("high") as u8).clamp(low, setup.full_bits);
    Box::new(Nested { low, high, t: values.get("t") as f32, order: Vec::new() })
}

impl Precision for Nested {
    fn on_gpu(&mut self, choices: &[Choice], bits: &mut Vec<u8>) {
        let total: f32 = choices.iter().map(|choice| choice.mass).sum();
        bits.resize(choices.len(), self.low);
        let mut before = 0.0;
        by_demand(choices, &mut self.order);
        for &at in &self.order {
            let at = usize::from(at);
            if before <= self.t * total {
                bits[at] = self.high;
            }
            before += choices[at].mass;
        }
    }

    fn near(&self, _: usize, _: u16) -> u8 {
        self.low
    }

    fn near_bits(&self) -> u8 {
        self.low
    }

    fn load_bits(&self) -> u8 {
        self.high
    }

    fn planes(&self) -> Option<u8> {
        Some(self.low)
    }
}
