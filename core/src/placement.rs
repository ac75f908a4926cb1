//! Which experts are hot: demand seen in prefill, importance, and what fits a budget of bytes.
//!
//! After prefill, arXiv 2512.04476 (Algorithm 1) ranks the experts of each layer by `S = alpha P + (1 - alpha) W`,
//! where P is the share of the layer's choices that fell on the expert and W its share of the layer's routing scores,
//! and keeps the first in GPU memory. [`rank`] is that order; [`hot_in_layer`] cuts it at a layer's own budget;
//! [`hot_globally`] spends one budget over all layers, since layers differ in how unequal their experts are.
//!
//! All memory is the caller's. Cost: one pass per token for [`Demand`], one heap sort per layer. No 64-bit division,
//! nothing that can panic.

use crate::num::{Eps, Gate, Share, mul_frac};

/// What prefill asked of one expert, 8 bytes: the tokens that chose it in the lowest 22 bits, the sum of its mixing
/// weights (`U22F20`) in the others.
///
/// Both saturate, after 2^22 tokens at the earliest. Each weight is rounded to the nearest step of 2^-20.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Demand(u64);

/// Bits of a [`Demand`] that count tokens.
const COUNT_BITS: u32 = 22;
const MOST_COUNTED: u32 = (1 << COUNT_BITS) - 1;
const MOST_SCORED: u64 = u64::MAX >> COUNT_BITS;
/// Bits of a weight (`U1F31`) below a step of the sum.
const DROPPED_BITS: u32 = 31 - 20;

impl Demand {
    /// From both sums; what is too large is cut.
    pub const fn new(count: u32, score: u64) -> Self {
        let count = if count < MOST_COUNTED { count } else { MOST_COUNTED };
        let score = if score < MOST_SCORED { score } else { MOST_SCORED };
        Self(score << COUNT_BITS | count as u64)
    }

    /// Tokens that chose the expert.
    pub const fn count(self) -> u32 {
        self.0 as u32 & MOST_COUNTED
    }

    /// Sum of its mixing weights, `U22F20`.
    pub const fn score(self) -> u64 {
        self.0 >> COUNT_BITS
    }

    /// Counts one token of a layer: the experts it chose and their weights in the same order. Where weights are not
    /// known (`weights` is shorter), every choice counts as 1. Ids beyond `layer` are ignored.
    pub fn observe(layer: &mut [Self], chosen: &[u16], weights: &[Gate]) {
        for (rank, &expert) in (0..chosen.len()).zip(chosen) {
            if let Some(demand) = layer.get_mut(usize::from(expert)) {
                let weight = u64::from(weights.get(rank).copied().unwrap_or(Gate::ONE).to_bits());
                let steps = weight.wrapping_add(1 << (DROPPED_BITS - 1)) >> DROPPED_BITS;
                demand.add(1, steps);
            }
        }
    }

    /// Adds tokens, and the sum of their weights (`U22F20`).
    pub const fn add(&mut self, tokens: u32, score: u64) {
        *self = Self::new(self.count().saturating_add(tokens), self.score().saturating_add(score));
    }
}

/// Importance of every expert of a layer, `S = alpha P + (1 - alpha) W`, written to `importance` (`U1F31`, rounded
/// down; the sum is at most 1).
///
/// P and W are normalised by their sums over the layer. A layer that nobody asked anything of has importance 0
/// throughout. `alpha` as `U0F32`: its largest value stands for 1. Stops at the shorter of the two slices. Cost: four
/// 32-bit divisions per expert.
pub fn importance(layer: &[Demand], alpha: Eps, importance: &mut [Gate]) {
    // Scores have 42 bits: their sum fits for up to 2^22 experts.
    let counts = Share::of(layer.iter().fold(0, |sum: u64, demand| sum.saturating_add(demand.count().into())));
    let scores = Share::of(layer.iter().fold(0, |sum: u64, demand| sum.saturating_add(demand.score())));
    for (demand, importance) in layer.iter().zip(importance) {
        let (count, score) = (counts.share(demand.count().into()), scores.share(demand.score()));
        // Whole at the ends, so that alpha = 0 and alpha = 1 are exactly one of the two.
        let mixed = match alpha.to_bits() {
            0 => score,
            u32::MAX => count,
            alpha => mul_frac(count, alpha).wrapping_add(mul_frac(score, alpha.wrapping_neg())),
        };
        *importance = Gate::from_bits(mixed);
    }
}

/// Fills `order` with expert ids by falling importance, of equals the lower id first. Stops at the shorter of the two
/// slices.
pub fn rank(importance: &[Gate], order: &mut [u16]) {
    let experts = importance.len().min(order.len());
    for (slot, expert) in order.iter_mut().zip(0..experts) {
        *slot = expert as u16;
    }
    let key = |&expert: &u16| (importance.get(usize::from(expert)).map_or(0, |s| !s.to_bits()), expert);
    sort(order.get_mut(..experts).unwrap_or(&mut []), key);
}

/// How many of a layer's experts fit `budget_bytes`, if each takes `expert_bytes`: the first so many of [`rank`] are
/// hot. All of them if an expert takes nothing. No division: one multiplication for each bit of the number of experts.
pub fn hot_in_layer(experts: usize, expert_bytes: u64, budget_bytes: u64) -> usize {
    let fits = |count: usize| expert_bytes.checked_mul(count as u64).is_some_and(|bytes| bytes <= budget_bytes);
    let mut hot = 0;
    for bit in (0..usize::BITS.wrapping_sub(experts.leading_zeros())).rev() {
        let more = hot | 1usize.wrapping_shl(bit);
        if more <= experts && fits(more) {
            hot = more;
        }
    }
    hot
}

/// One expert of one layer in a choice over all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Candidate {
    /// Its importance inside its layer.
    pub importance: Gate,
    /// Index of its layer.
    pub layer: u16,
    /// Its id in the layer.
    pub expert: u16,
}

/// Moves the candidates that are hot under one budget over all layers to the front, and returns how many they are: the
/// most important ones (of equals the lower layer, then the lower id), as many as fit if each takes `expert_bytes`.
///
/// As all experts are of one size this is the choice of the largest total importance. Every layer sees every token, so
/// importances of different layers are in one unit. The hot ones are a heap with the least important first; the order
/// of the others is not defined. Cost: one comparison per candidate, and `log2(hot)` steps for each that makes it.
pub fn hot_globally(candidates: &mut [Candidate], expert_bytes: u64, budget_bytes: u64) -> usize {
    let hot = hot_in_layer(candidates.len(), expert_bytes, budget_bytes);
    let key = |c: &Candidate| (!c.importance.to_bits(), c.layer, c.expert);
    let Some((best, rest)) = candidates.split_at_mut_checked(hot) else { return 0 };
    make_heap(best, key);
    for candidate in rest {
        if let Some(root) = best.first_mut()
            && key(candidate) < key(root)
        {
            core::mem::swap(root, candidate);
            sink(best, 0, key);
        }
    }
    hot
}

/// Sorts by rising key: a heap sort (Williams 1964), as the library's own sorts link panics.
fn sort<T: Copy, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K + Copy) {
    make_heap(items, key);
    let mut heap = items;
    while let [first, .., last] = heap {
        core::mem::swap(first, last);
        let Some((_, rest)) = heap.split_last_mut() else { return };
        heap = rest;
        sink(heap, 0, key);
    }
}

/// Orders the items so that none has a larger key than its parent: the largest comes first.
fn make_heap<T: Copy, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K + Copy) {
    (0..items.len() / 2).rev().for_each(|parent| sink(items, parent, key));
}

/// Moves the item at `parent` down to where it belongs.
fn sink<T: Copy, K: Ord>(items: &mut [T], mut parent: usize, key: impl Fn(&T) -> K) {
    let Some(&item) = items.get(parent) else { return };
    loop {
        // Within a list of words, so that nothing overflows.
        let mut child = parent.wrapping_mul(2).wrapping_add(1);
        let Some(&(mut larger)) = items.get(child) else { break };
        if let Some(&right) = items.get(child.wrapping_add(1))
            && key(&right) > key(&larger)
        {
            (child, larger) = (child.wrapping_add(1), right);
        }
        if key(&larger) <= key(&item) {
            break;
        }
        if let Some(place) = items.get_mut(parent) {
            *place = larger;
        }
        parent = child;
    }
    if let Some(place) = items.get_mut(parent) {
        *place = item;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::oracle;
    use crate::testing::strategies::demand;
    use core::cmp::Reverse;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn importance_is_the_definition(layer in demand(), alpha: u32) {
            let mut found = std::vec![Gate::ZERO; layer.len()];
            importance(&layer, Eps::from_bits(alpha), &mut found);
            let alpha = f64::from(alpha) / f64::from(u32::MAX);
            for (found, expected) in found.iter().zip(oracle::importance(&layer, alpha)) {
                prop_assert!((found.to_num::<f64>() - expected).abs() < 1e-8, "{found} {expected}");
            }
            prop_assert!(found.iter().map(|s| s.to_num::<f64>()).sum::<f64>() <= 1.0 + 1e-9);
        }

        /// Brute force over all sets of the layer that fit.
        #[test]
        fn the_hot_set_has_the_most_importance(layer in demand(), budget in 0u64..40, bytes in 1u64..9) {
            let mut importance = std::vec![Gate::ZERO; layer.len()];
            super::importance(&layer, Eps::from_num(0.5), &mut importance);
            let mut order = std::vec![0; layer.len()];
            rank(&importance, &mut order);
            let hot = hot_in_layer(layer.len(), bytes, budget);
            let sum = |experts: &mut dyn Iterator<Item = usize>| experts.map(|e| u64::from(importance[e].to_bits())).sum::<u64>();
            let found = sum(&mut order[..hot].iter().map(|&e| usize::from(e)));
            let best = (0u32..1 << layer.len())
                .filter(|set| u64::from(set.count_ones()) * bytes <= budget)
                .map(|set| sum(&mut (0..layer.len()).filter(|e| set >> e & 1 != 0)))
                .max();
            prop_assert_eq!(Some(found), best);
        }

        #[test]
        fn ranks_as_a_sort_does(importance in prop::collection::vec((0u32..40).prop_map(Gate::from_bits), 0..200)) {
            let mut order = std::vec![0; importance.len()];
            rank(&importance, &mut order);
            prop_assert_eq!(order, oracle::rank(&importance));
        }

        #[test]
        fn as_many_are_hot_as_a_division_says(experts in 0usize..5000, bytes in 1u64.., budget: u64, shift in 0u32..64) {
            let bytes = bytes >> shift;
            let fit = budget.checked_div(bytes).map_or(experts, |fit| usize::try_from(fit).unwrap_or(experts).min(experts));
            prop_assert_eq!(hot_in_layer(experts, bytes, budget), fit);
        }

        #[test]
        fn one_budget_over_layers_has_the_most_importance(
            layers in prop::collection::vec(demand(), 1..4), budget in 0u64..14,
        ) {
            let mut candidates = Vec::new();
            for (layer, demand) in (0u16..).zip(&layers) {
                let mut importance = std::vec![Gate::ZERO; demand.len()];
                super::importance(demand, Eps::from_num(0.5), &mut importance);
                candidates.extend((0u16..).zip(importance).map(|(expert, importance)| Candidate { importance, layer, expert }));
            }
            let mut sorted = candidates.clone();
            sorted.sort_by_key(|c| (Reverse(c.importance), c.layer, c.expert));
            let hot = hot_globally(&mut candidates, 1, budget);
            prop_assert_eq!(hot, candidates.len().min(budget as usize));
            candidates[..hot].sort_by_key(|c| (Reverse(c.importance), c.layer, c.expert));
            prop_assert_eq!(&candidates[..hot], &sorted[..hot]);
        }
    }

    #[test]
    fn demand_counts_what_it_is_told() {
        let mut layer = [Demand::default(); 3];
        Demand::observe(&mut layer, &[2, 0], &[Gate::from_num(0.75), Gate::from_num(0.25)]);
        Demand::observe(&mut layer, &[2, 7], &[Gate::from_num(0.5), Gate::ONE]);
        Demand::observe(&mut layer, &[1], &[]);
        assert_eq!(layer.map(Demand::count), [1, 1, 2]);
        assert_eq!(layer.map(|d| d.score() >> 18), [1, 4, 5]);
        // Weights are rounded to 2^-20.
        let mut rounded = [Demand::default(); 2];
        Demand::observe(&mut rounded, &[0, 1], &[(1 << 10) - 1, 1 << 10].map(Gate::from_bits));
        assert_eq!(rounded.map(Demand::score), [0, 1]);
    }

    #[test]
    fn the_longest_prompts_fit_and_longer_ones_saturate() {
        let mut one = [Demand::default()];
        for _ in 0..1 << 20 {
            Demand::observe(&mut one, &[0], &[]);
        }
        assert_eq!((one[0].count(), one[0].score()), (1 << 20, 1 << 40));
        let mut full = [Demand::new(u32::MAX, u64::MAX)];
        assert_eq!((full[0].count(), full[0].score()), (MOST_COUNTED, MOST_SCORED));
        Demand::observe(&mut full, &[0], &[]);
        assert_eq!(full[0], Demand::new(u32::MAX, u64::MAX));
        // One sum that is full leaves the other alone.
        let mut half = [Demand::new(u32::MAX, 5), Demand::new(5, u64::MAX)];
        Demand::observe(&mut half, &[0, 1], &[]);
        assert_eq!(half, [Demand::new(u32::MAX, 5 + (1 << 20)), Demand::new(6, u64::MAX)]);
    }

    #[test]
    fn ends_of_alpha_are_counts_and_scores() {
        let layer = [Demand::new(3, 1), Demand::new(1, 3)];
        let mut found = [Gate::ZERO; 2];
        importance(&layer, Eps::MAX, &mut found);
        assert_eq!(found, [Gate::from_num(0.75), Gate::from_num(0.25)]);
        importance(&layer, Eps::ZERO, &mut found);
        assert_eq!(found, [Gate::from_num(0.25), Gate::from_num(0.75)]);
        importance(&[Demand::default(); 2], Eps::from_num(0.5), &mut found);
        assert_eq!(found, [Gate::ZERO; 2]);
    }

    #[test]
    fn budgets_at_their_ends() {
        assert_eq!(hot_in_layer(8, 0, 0), 8);
        assert_eq!(hot_in_layer(8, 10, 9), 0);
        assert_eq!(hot_in_layer(8, 1, u64::MAX), 8);
        assert_eq!(hot_globally(&mut [], 1, 5), 0);
    }
}
