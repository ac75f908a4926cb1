//! Least frequently used since the start of the trace; of equals the least recently used goes.

use super::{Eviction, Kind, Layer, OnDemand, Placement, Resident, Served};
use crate::spec::Values;

pub(super) const KIND: Kind =
    Kind { name: "lfu", summary: "on demand, least frequently used goes", parameters: &[], oracle: false, make };

struct Lfu {
    /// Uses, and the last of them.
    uses: Vec<(u32, u64)>,
    clock: u64,
}

fn make<'a>(_: &Values, layer: Layer<'a>) -> Box<dyn Placement + 'a> {
    Box::new(OnDemand { capacity: layer.capacity, eviction: Lfu { uses: vec![(0, 0); layer.experts], clock: 0 } })
}

impl Eviction for Lfu {
    fn victim(&self, resident: &Resident, keep: &[u16]) -> Option<u16> {
        resident.iter().filter(|expert| !keep.contains(expert)).min_by_key(|&expert| self.uses[usize::from(expert)])
    }

    fn observe(&mut self, token: &Served<'_>) {
        for &expert in token.chosen.iter().rev() {
            self.clock += 1;
            let (count, last) = &mut self.uses[usize::from(expert)];
            *count += 1;
            *last = self.clock;
        }
    }
}
