//! Mixed precision by what a choice matters, as HOBBIT (arXiv 2411.01433): a missing expert is copied at full precision
//! if it matters, at 4 bits if it matters less, and left out if it hardly does.
//!
//! Unimportance of a token's j-th expert is the share of routing mass of those before it. Where the authors keep two
//! caches of fixed size, both sorts share the memory here, and the residency's rule decides who goes. What runs near
//! the data does so at 4 bits.

use cptr_trace::Knowledge;

use super::{Choice, Kind, Make, Parameter, Precision, Setup, Unit, Values, by_demand};

/// Bits of the cheaper copies.
const LOW_BITS: u8 = 4;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("t1", 0.6, Unit::Share, "unimportance up to which full precision is copied"),
        Parameter::new("t2", 0.9, Unit::Share, "unimportance up to which 4 bits are copied").off_at(1.0),
    ],
    needs: Knowledge::Weights,
    ..Kind::new("graded", "missing experts at full precision, at 4 bits or left out, by routing mass", Make(make))
};

struct Graded {
    t1: f32,
    t2: f32,
    full: u8,
    low: u8,
    order: Vec<u16>,
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Precision> {
    let full = setup.full_bits;
    let (t1, t2) = (values.get("t1") as f32, values.get("t2") as f32);
    Box::new(Graded { t1, t2, full, low: LOW_BITS.min(full), order: Vec::new() })
}

impl Precision for Graded {
    fn on_gpu(&mut self, choices: &[Choice], bits: &mut Vec<u8>) {
        let total: f32 = choices.iter().map(|choice| choice.mass).sum();
        bits.resize(choices.len(), 0);
        let mut before = 0.0;
        by_demand(choices, &mut self.order);
        for &at in &self.order {
            let at = usize::from(at);
            let unimportance = if total > 0.0 { before / total } else { 0.0 };
            before += choices[at].mass;
            bits[at] = match unimportance {
                _ if unimportance <= self.t1 => self.full,
                _ if unimportance <= self.t2 => self.low,
                _ => 0,
            };
        }
    }

    fn near(&self, _: usize, _: u16) -> u8 {
        self.low
    }

    fn near_bits(&self) -> u8 {
        self.low
    }

    fn load_bits(&self) -> u8 {
        self.full
    }
}
