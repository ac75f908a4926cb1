//! Belady's rule: the expert goes whose next use lies farthest ahead. With the raw router and everything on the GPU the
//! fewest loads of any memory that is filled on demand; with another selection it knows the model's wishes, and is no
//! bound.

use cptr_core::placement::Demand;

use super::{Kind, Make, Residency, Setup, by_falling, least};
use crate::memory::Resident;
use crate::strategy::{Served, Values};

pub(super) const KIND: Kind<Make> =
    Kind { sees_future: true, ..Kind::new("belady", "on demand; the farthest next use goes", Make(make)) };

struct Belady {
    /// Next step that wants each of a layer's experts.
    layers: Vec<Vec<u32>>,
}

fn make(_: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    // An expert that no token has wanted yet is resident only if it stood in or was fetched: it goes first.
    Box::new(Belady { layers: vec![vec![u32::MAX; setup.experts]; setup.layers] })
}

impl Residency for Belady {
    fn on_demand(&self) -> bool {
        true
    }

    fn victim(&mut self, layer: usize, free: &Resident) -> Option<u16> {
        let next = &self.layers[layer];
        least(free, |expert| std::cmp::Reverse((next[expert], expert)))
    }

    fn observe(&mut self, served: &Served<'_>) {
        let next = &mut self.layers[served.layer];
        for token in 0..served.tokens {
            let token = (served.token)(token);
            for (&expert, &step) in token.wanted.iter().zip(token.next_use) {
                next[usize::from(expert)] = step;
            }
        }
    }

    fn worth(&mut self, layer: usize, _: &[Demand], order: &mut Vec<u16>) {
        let next = &self.layers[layer];
        by_falling(next.len(), order, |expert| std::cmp::Reverse(next[usize::from(expert)]));
    }
}
