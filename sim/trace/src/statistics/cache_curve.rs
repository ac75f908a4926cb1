//! Hit rates of LRU, LFU and Belady's policy over the cache size, one cache per layer.
//!
//! Rules: a layer's cache starts empty and lives through the whole trace, over sequence boundaries. A token asks for
//! its `k` experts at once. Whatever of them is resident is a hit; the others are loaded, each in a free slot or in
//! place of the resident expert of least worth that the token itself did not choose. So a cache has at least `k` slots.
//!
//! One pass gives all sizes. Let the policy's order of worth not depend on the size. Then a cache of `C` slots is
//! always a subset of the one with `C + 1`, and both are described by one list, the *stack*, whose first `C` entries
//! are the content of the cache of `C` slots (Mattson, Gecsei, Slutz, Traiger, "Evaluation techniques for storage
//! hierarchies", IBM Systems Journal 9(2), 1970; here for `k` accesses at once). An access hits in every cache larger
//! than its expert's place in the list.

use std::cmp::Reverse;

use serde::Serialize;

use super::view::{Layer, View};
use crate::MAX_TOP_K;

/// Hit rates with one cache size. Hits over all accesses, the first use of every expert included; mean over layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CachePoint {
    /// Slots per layer.
    pub size: usize,
    /// Evicts the least recently used. Within a token, better experts count as more recent.
    pub lru: f64,
    /// Evicts the least frequently used since the start of the trace, resident or not; the least recent on ties.
    pub lfu: f64,
    /// Evicts the one whose next use is farthest, the lower number on ties: no policy can do better on the same
    /// choices.
    pub belady: f64,
}

/// Sizes to report without a wish of the user: `k` times 1, 2, 3, 4, 6, 8, 12, 16, … and `E`; powers of two only where
/// that gives more than ten.
pub fn default_sizes(k: usize, experts: usize) -> Vec<usize> {
    let below = |factors: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
        factors.map(|f| f * k).take_while(|&size| size < experts).chain([experts]).collect()
    };
    let mut steps = [1, 2].into_iter().chain((0..usize::BITS - 8).flat_map(|bits| [3 << bits, 4 << bits]));
    let sizes = below(&mut steps);
    if sizes.len() <= 10 { sizes } else { below(&mut (0..usize::BITS - 8).map(|bits| 1 << bits)) }
}

/// Hit rates at `sizes`, each in `k..=E`. Cost: `O(T L (k^2 + depth k))` with the depth to which a token searches the
/// stack, at most `E`.
pub(super) fn cache_curve(view: &View, sizes: &[usize]) -> Vec<CachePoint> {
    let layers = view.per_layer(|layer| [lru(layer), lfu(layer), belady(layer)]);
    let accesses = view.layers.iter().map(Layer::choices).sum::<usize>().max(1) as f64;
    let rate = |policy: usize, size: usize| {
        let hits: u64 = layers.iter().map(|hits| hits[policy][..size].iter().sum::<u64>()).sum();
        hits as f64 / accesses
    };
    sizes
        .iter()
        .map(|&size| CachePoint { size, lru: rate(0, size), lfu: rate(1, size), belady: rate(2, size) })
        .collect()
}

/// Notes in `last` the order of last use: by token, and within it the better expert later.
pub(super) fn note_use(last: &mut [u64], token: usize, chosen: &[u16]) {
    for (rank, &e) in chosen.iter().enumerate() {
        last[usize::from(e)] = (token * (MAX_TOP_K + 1) + chosen.len() - rank) as u64;
    }
}

fn lru(layer: &Layer) -> Vec<u64> {
    let mut last = vec![0; layer.experts];
    let mut stack = Stack::new(layer.experts);
    for (token, chosen) in layer.rows().enumerate() {
        stack.serve(chosen, |e| last[e]);
        note_use(&mut last, token, chosen);
    }
    stack.hits
}

fn lfu(layer: &Layer) -> Vec<u64> {
    let (mut last, mut uses) = (vec![0; layer.experts], vec![0_u64; layer.experts]);
    let mut stack = Stack::new(layer.experts);
    for (token, chosen) in layer.rows().enumerate() {
        stack.serve(chosen, |e| (uses[e], last[e]));
        note_use(&mut last, token, chosen);
        chosen.iter().for_each(|&e| uses[usize::from(e)] += 1);
    }
    stack.hits
}

fn belady(layer: &Layer) -> Vec<u64> {
    let mut next_use = vec![usize::MAX; layer.experts];
    let mut next: Vec<usize> = vec![usize::MAX; layer.ids().len()];
    for (token, chosen) in layer.rows().enumerate().rev() {
        for (rank, &e) in chosen.iter().enumerate() {
            next[token * layer.k + rank] = std::mem::replace(&mut next_use[usize::from(e)], token);
        }
    }
    let mut stack = Stack::new(layer.experts);
    for (token, chosen) in layer.rows().enumerate() {
        stack.serve(chosen, |e| (Reverse(next_use[e]), e));
        for (rank, &e) in chosen.iter().enumerate() {
            next_use[usize::from(e)] = next[token * layer.k + rank];
        }
    }
    stack.hits
}

/// The caches of all sizes at once, under an order of worth `W`.
pub(super) struct Stack<W> {
    /// The first `C` entries are resident in the cache of `C` slots.
    order: Vec<u16>,
    /// Whether the token being served chose the expert.
    own: Vec<bool>,
    /// Experts that the cache of the size in hand evicts, with their worth.
    evicted: Vec<(W, u16)>,
    /// `[E]` hits by place in the stack: a cache of `C` slots had the sum of the first `C`.
    pub(super) hits: Vec<u64>,
}

impl<W: Ord + Copy> Stack<W> {
    pub(super) fn new(experts: usize) -> Self {
        Self { order: Vec::new(), own: vec![false; experts], evicted: Vec::new(), hits: vec![0; experts] }
    }

    /// Empties the caches and keeps the statistics.
    pub(super) fn clear(&mut self) {
        self.order.clear();
    }

    /// Serves one token. `worth` orders the experts that it did not choose, without ties; least worth is evicted first.
    ///
    /// The cache of `k` slots keeps the chosen and evicts the rest of its content. Going from `C` to `C + 1` slots,
    /// entry `C + 1` of the stack joins the evicted if it was not chosen; if it was, one load less is needed. Either
    /// way one expert fewer has to leave, so the worthiest evicted one stays and becomes the new entry `C + 1`. Below
    /// the last chosen entry nothing changes.
    pub(super) fn serve(&mut self, chosen: &[u16], worth: impl Fn(usize) -> W) {
        let k = chosen.len();
        chosen.iter().for_each(|&e| self.own[usize::from(e)] = true);
        for place in 0..k.min(self.order.len()) {
            self.look(place, &worth);
        }
        // A token may choose more than all before it did.
        let held = k.min(self.order.len());
        self.order[..held].copy_from_slice(&chosen[..held]);
        self.order.extend_from_slice(&chosen[held..]);
        let mut place = k;
        while !self.evicted.is_empty() {
            if place < self.order.len() {
                self.look(place, &worth);
            }
            let stays = self.take_worthiest();
            match self.order.get_mut(place) {
                Some(entry) => *entry = stays,
                None => self.order.push(stays),
            }
            place += 1;
        }
        chosen.iter().for_each(|&e| self.own[usize::from(e)] = false);
    }

    fn look(&mut self, place: usize, worth: impl Fn(usize) -> W) {
        let expert = self.order[place];
        if self.own[usize::from(expert)] {
            self.hits[place] += 1;
        } else {
            self.evicted.push((worth(usize::from(expert)), expert));
        }
    }

    /// # Panics
    /// If nothing is evicted.
    fn take_worthiest(&mut self) -> u16 {
        let mut best = 0;
        for i in 1..self.evicted.len() {
            if self.evicted[i].0 > self.evicted[best].0 {
                best = i;
            }
        }
        self.evicted.swap_remove(best).1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::test_traces::{any_trace, single, sticky, view};
    use super::*;
    use crate::Trace;

    fn all_sizes(trace: &Trace) -> Vec<CachePoint> {
        let sizes: Vec<usize> = (trace.shape.k..=trace.shape.experts).collect();
        cache_curve(&view(trace), &sizes)
    }

    fn rows(trace: &Trace) -> Vec<&[u16]> {
        trace.ids.chunks_exact(trace.shape.k).collect()
    }

    /// One cache of one size, expert by expert; `worth(expert, token)` of the residents decides.
    fn direct<W: Ord>(rows: &[&[u16]], size: usize, worth: impl Fn(u16, usize) -> W) -> u64 {
        let (mut resident, mut hits): (Vec<u16>, u64) = (Vec::new(), 0);
        for (token, chosen) in rows.iter().enumerate() {
            for e in *chosen {
                if resident.contains(e) {
                    hits += 1;
                    continue;
                }
                if resident.len() == size {
                    let others = resident.iter().copied().filter(|other| !chosen.contains(other));
                    let victim = others.min_by_key(|&other| worth(other, token)).expect("size >= k");
                    resident.retain(|&other| other != victim);
                }
                resident.push(*e);
            }
        }
        hits
    }

    /// Last use before `token`: the token, and the rank from the worst.
    fn recency(rows: &[&[u16]], e: u16, token: usize) -> Option<(usize, usize)> {
        let used = (0..token).rev().find_map(|t| Some((t, rows[t].iter().position(|&other| other == e)?)));
        used.map(|(t, rank)| (t, rows[t].len() - rank))
    }

    /// The most hits that any sequence of evictions reaches: all contents reachable, token by token.
    fn optimum(rows: &[&[u16]], size: usize) -> u64 {
        let mut best: HashMap<u32, u64> = HashMap::from([(0, 0)]);
        for chosen in rows {
            let own = chosen.iter().fold(0_u32, |set, &e| set | 1 << e);
            let mut next: HashMap<u32, u64> = HashMap::new();
            for (&resident, &hits) in &best {
                let hits = hits + u64::from((resident & own).count_ones());
                let others = resident & !own;
                let room = (size - chosen.len()) as u32;
                for kept in (0..=others).filter(|kept| kept & !others == 0 && kept.count_ones() <= room) {
                    let entry = next.entry(own | kept).or_default();
                    *entry = hits.max(*entry);
                }
            }
            best = next;
        }
        best.into_values().max().unwrap_or(0)
    }

    #[test]
    fn a_loop_one_larger_than_the_cache() {
        // LRU always evicts what comes next; Belady keeps one of the two.
        let trace = single(3, &[&[0], &[1], &[2], &[0], &[1], &[2], &[0], &[1], &[2]]);
        let points = all_sizes(&trace);
        assert_eq!(points[1].lru, 0.0);
        assert_eq!(points[1].belady, 3.0 / 9.0);
        assert_eq!((points[2].lru, points[2].lfu, points[2].belady), (6.0 / 9.0, 6.0 / 9.0, 6.0 / 9.0));
    }

    #[test]
    fn frequency_beats_recency_where_it_should() {
        // 0 is chosen often; 1 and 2 once, in between.
        let points = all_sizes(&single(4, &[&[0], &[0], &[1], &[2], &[0]]));
        assert_eq!((points[1].lru, points[1].lfu), (1.0 / 5.0, 2.0 / 5.0));
    }

    #[test]
    fn the_better_expert_stays_longer() {
        // [0, 1] with 0 the better: a third expert beside 2 of the next token must be 0.
        assert_eq!(all_sizes(&single(4, &[&[0, 1], &[2, 3], &[2, 0]]))[1].lru, 2.0 / 6.0);
        assert_eq!(all_sizes(&single(4, &[&[1, 0], &[2, 3], &[2, 0]]))[1].lru, 1.0 / 6.0);
    }

    #[test]
    fn default_sizes_run_from_k_to_all() {
        assert_eq!(default_sizes(8, 128), [8, 16, 24, 32, 48, 64, 96, 128]);
        assert_eq!(default_sizes(2, 8), [2, 4, 6, 8]);
        assert_eq!(default_sizes(4, 4), [4]);
        assert_eq!(default_sizes(1, 1024), [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]);
    }

    #[test]
    fn layers_are_averaged() {
        let trace = sticky(16, 2, 3, &[100, 50], 0.5);
        let whole = all_sizes(&trace);
        let apart: Vec<Vec<CachePoint>> = (0..3)
            .map(|layer| {
                let rows: Vec<&[u16]> = (0..150).map(|token| trace.chosen(token, layer)).collect();
                all_sizes(&single(16, &rows))
            })
            .collect();
        for (i, point) in whole.iter().enumerate() {
            let mean = apart.iter().map(|layer| layer[i].lru).sum::<f64>() / 3.0;
            assert!((point.lru - mean).abs() < 1e-12);
        }
    }

    proptest! {
        #[test]
        fn one_pass_equals_a_cache_of_each_size(trace in any_trace()) {
            let rows = rows(&trace);
            let accesses = trace.ids.len() as f64;
            for point in all_sizes(&trace) {
                let lru = direct(&rows, point.size, |e, token| recency(&rows, e, token));
                let lfu = direct(&rows, point.size, |e, token| {
                    (rows[..token].iter().filter(|row| row.contains(&e)).count(), recency(&rows, e, token))
                });
                prop_assert_eq!(point.lru, lru as f64 / accesses);
                prop_assert_eq!(point.lfu, lfu as f64 / accesses);
            }
        }

        #[test]
        fn belady_is_the_optimum(trace in any_trace()) {
            let rows = rows(&trace);
            for point in all_sizes(&trace) {
                prop_assert_eq!(point.belady, optimum(&rows, point.size) as f64 / trace.ids.len() as f64);
                prop_assert!(point.belady >= point.lru && point.belady >= point.lfu);
            }
        }

        #[test]
        fn more_slots_never_hurt(trace in any_trace()) {
            for pair in all_sizes(&trace).windows(2) {
                prop_assert!(pair[0].lru <= pair[1].lru && pair[0].lfu <= pair[1].lfu && pair[0].belady <= pair[1].belady);
            }
        }
    }
}
