//! Least recently used; inside one token the better expert counts as the more recent.

use cptr_core::placement::Demand;

use super::{Kind, Make, Residency, Setup, by_falling, least};
use crate::memory::Resident;
use crate::strategy::{Served, Values};

pub(super) const KIND: Kind<Make> = Kind::new("lru", "on demand; the least recently used goes", Make(make));

struct Lru {
    /// Last uses of each layer's experts.
    layers: Vec<Vec<u64>>,
    clock: u64,
}

fn make(_: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    Box::new(Lru { layers: vec![vec![0; setup.experts]; setup.layers], clock: 0 })
}

impl Residency for Lru {
    fn on_demand(&self) -> bool {
        true
    }

    fn victim(&mut self, layer: usize, free: &Resident) -> Option<u16> {
        let last_use = &self.layers[layer];
        least(free, |expert| last_use[expert])
    }

    fn observe(&mut self, served: &Served<'_>) {
        let last_use = &mut self.layers[served.layer];
        for (choice, _) in served.choices.iter().zip(served.used).rev().filter(|(_, used)| **used) {
            self.clock += 1;
            last_use[usize::from(choice.expert)] = self.clock;
        }
    }

    fn fetched(&mut self, layer: usize, expert: u16) {
        self.clock += 1;
        self.layers[layer][usize::from(expert)] = self.clock;
    }

    fn worth(&mut self, layer: usize, _: &[Demand], order: &mut Vec<u16>) {
        let last_use = &self.layers[layer];
        by_falling(last_use.len(), order, |expert| last_use[usize::from(expert)]);
    }
}
