//! Belady's rule: the expert goes whose next use lies farthest ahead. Sees the future, so a bound: for the raw router the fewest misses
//! of any demand-filled cache; for other policies an oracle of the model's wishes.

use super::{Eviction, Kind, Layer, OnDemand, Placement, Resident, Served};
use crate::spec::Values;

pub(super) const KIND: Kind = Kind {
    name: "belady",
    summary: "on demand, the farthest next use goes: an oracle, for the bound",
    parameters: &[],
    oracle: true,
    make,
};

struct Belady<'a> {
    next_use: &'a [u32],
    /// Next token that wants each expert.
    next: Vec<u32>,
}

fn make<'a>(_: &Values, layer: Layer<'a>) -> Box<dyn Placement + 'a> {
    // An expert that no token has wanted yet is resident only if it stood in or was prefetched: it goes first.
    let eviction = Belady { next_use: layer.next_use, next: vec![u32::MAX; layer.experts] };
    Box::new(OnDemand { capacity: layer.capacity, eviction })
}

/// For every token and wanted expert `[T, k]` the next token that wants the same expert, `u32::MAX` for none.
pub fn next_use(ids: &[u16], k: usize, experts: usize) -> Vec<u32> {
    let mut next = vec![u32::MAX; experts];
    let mut result = vec![u32::MAX; ids.len()];
    for (token, (wanted, found)) in ids.chunks_exact(k).zip(result.chunks_exact_mut(k)).enumerate().rev() {
        for (&expert, found) in wanted.iter().zip(found) {
            *found = std::mem::replace(&mut next[usize::from(expert)], token as u32);
        }
    }
    result
}

impl Eviction for Belady<'_> {
    fn victim(&self, resident: &Resident, keep: &[u16]) -> Option<u16> {
        resident.iter().filter(|expert| !keep.contains(expert)).max_by_key(|&expert| self.next[usize::from(expert)])
    }

    fn observe(&mut self, token: &Served<'_>) {
        let first = token.index * token.wanted.len();
        for (&expert, &next) in token.wanted.iter().zip(&self.next_use[first..first + token.wanted.len()]) {
            self.next[usize::from(expert)] = next;
        }
    }
}
