//! Least recently used; inside one token the better expert counts as the more recent.

use super::{Eviction, Kind, Layer, OnDemand, Placement, Resident, Served};
use crate::spec::Values;

pub(super) const KIND: Kind =
    Kind { name: "lru", summary: "on demand, least recently used goes", parameters: &[], oracle: false, make };

struct Lru {
    last_use: Vec<u64>,
    clock: u64,
}

fn make<'a>(_: &Values, layer: Layer<'a>) -> Box<dyn Placement + 'a> {
    Box::new(OnDemand { capacity: layer.capacity, eviction: Lru { last_use: vec![0; layer.experts], clock: 0 } })
}

impl Eviction for Lru {
    fn victim(&self, resident: &Resident, keep: &[u16]) -> Option<u16> {
        resident.iter().filter(|expert| !keep.contains(expert)).min_by_key(|&expert| self.last_use[usize::from(expert)])
    }

    fn observe(&mut self, token: &Served<'_>) {
        for &expert in token.chosen.iter().rev() {
            self.clock += 1;
            self.last_use[usize::from(expert)] = self.clock;
        }
    }
}
