//! Least frequently used since the start; of equals the least recently used goes.

use cptr_core::placement::Demand;

use super::{Kind, Make, Residency, Setup, by_falling, least};
use crate::memory::Resident;
use crate::strategy::{Served, Values};

pub(super) const KIND: Kind<Make> = Kind::new("lfu", "on demand; the least frequently used goes", Make(make));

struct Lfu {
    /// Uses of each layer's experts, and the last of them.
    layers: Vec<Vec<(u32, u64)>>,
    clock: u64,
}

fn make(_: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    Box::new(Lfu { layers: vec![vec![(0, 0); setup.experts]; setup.layers], clock: 0 })
}

impl Residency for Lfu {
    fn on_demand(&self) -> bool {
        true
    }

    fn victim(&mut self, layer: usize, free: &Resident) -> Option<u16> {
        let uses = &self.layers[layer];
        least(free, |expert| uses[expert])
    }

    fn observe(&mut self, served: &Served<'_>) {
        let uses = &mut self.layers[served.layer];
        for (choice, _) in served.choices.iter().zip(served.used).rev().filter(|(_, used)| **used) {
            self.clock += 1;
            let (count, last) = &mut uses[usize::from(choice.expert)];
            *count += choice.tokens;
            *last = self.clock;
        }
    }

    fn worth(&mut self, layer: usize, _: &[Demand], order: &mut Vec<u16>) {
        let uses = &self.layers[layer];
        by_falling(uses.len(), order, |expert| uses[usize::from(expert)]);
    }
}
