//! Which experts run.
//!
//! Every kind takes the router's scores and what is in fast memory, and gives as many different experts as the router
//! did; `drop` leaves some out. The price of another choice than the router's is routing mass, which the replay
//! measures.
//!
//! ```
//! let kinds = cptr_sim::strategy::select::KINDS;
//! assert!(kinds.iter().any(|kind| kind.name == "bounded"));
//! ```

mod bias;
mod bounded;
mod cache_prior;
mod committed;
mod cumulative;
mod drop;
mod hysteresis;
mod max_rank;
mod raw;
mod rotate;
mod smoothing;
mod substitute;

use cptr_core::Experts;
use cptr_core::topk::Best;

use super::{Kind, Token, Values};
pub(crate) use bounded::bounds;
use cptr_trace::MAX_TOP_K;

/// Every kind, in the order of tables.
pub const KINDS: &[&Kind<Make>] = &[
    &raw::KIND,
    &smoothing::KIND,
    &rotate::KIND,
    &bias::KIND,
    &hysteresis::KIND,
    &max_rank::KIND,
    &cumulative::KIND,
    &substitute::KIND,
    &cache_prior::KIND,
    &drop::KIND,
    &committed::KIND,
    &bounded::KIND,
];

/// Makes the state of one sequence in one layer.
#[derive(Debug, Clone, Copy)]
pub struct Make(pub(crate) fn(&Values) -> Box<dyn Select>);

/// Chooses the experts of one sequence in one layer, token by token.
pub(crate) trait Select: Send {
    /// Appends as many distinct experts as the token wants to `chosen`, a stand-in in the place of the expert that it
    /// stands in for, and [`cptr_trace::NO_EXPERT`] for one that is left out.
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>);

    /// Whether it goes by what the next tokens are expected to want.
    fn expects(&self) -> bool {
        false
    }
}

/// A float as an integer of the same order, so that scores can be compared by the core's top-k.
fn key(score: f32) -> i32 {
    let bits = score.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// The `count` experts of the highest score, best first; of equal scores the lower id.
fn top(count: usize, scores: impl Iterator<Item = f32>) -> heapless::Vec<u16, MAX_TOP_K> {
    let mut best = Best::<i32, MAX_TOP_K>::new(count);
    for (score, expert) in scores.zip(0u16..) {
        best.offer(key(score), expert);
    }
    best.ids()
}

/// Fills `order` with all experts by falling score; of equal scores the lower id first.
fn rank(scores: &[f32], order: &mut Vec<u16>) {
    order.clear();
    order.extend(0..scores.len() as u16);
    order.sort_unstable_by_key(|&expert| (std::cmp::Reverse(key(scores[usize::from(expert)])), expert));
}

/// Keeps the first `keep` of `ranked`, then takes resident ones out of the first `window`, then the best of the rest:
/// the rule that max-rank and cumulative threshold share (arXiv 2412.00099).
fn promote(ranked: &[u16], k: usize, keep: usize, window: usize, resident: &Experts, chosen: &mut Vec<u16>) {
    let first = chosen.len();
    chosen.extend(ranked.iter().take(keep.min(k)));
    let window = &ranked[keep.min(ranked.len())..window.clamp(keep.min(ranked.len()), ranked.len())];
    let room = k - (chosen.len() - first);
    chosen.extend(window.iter().filter(|&&expert| resident.contains(expert)).take(room));
    for &expert in ranked {
        if chosen.len() - first == k {
            break;
        }
        if !chosen[first..].contains(&expert) {
            chosen.push(expert);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Part;
    use super::*;
    use cptr_core::{ExpertSet, Logit, Router};
    use cptr_trace::NO_EXPERT;
    use proptest::prelude::*;

    #[test]
    fn keys_keep_the_order_of_floats() {
        let values = [f32::MIN, -1.5, -0.0, 0.0, 1e-30, 2.0, f32::MAX];
        assert!(values.windows(2).all(|pair| key(pair[0]) <= key(pair[1])));
    }

    proptest! {
        /// Whatever the scores and residents: k distinct experts in range, from every kind with all logits, but what
        /// is left out.
        #[test]
        fn every_kind_chooses_k_distinct_experts(
            rows in prop::collection::vec(prop::collection::vec(-20.0f32..20.0, 16), 1..12),
            residents: u16,
            k in 1usize..=8,
        ) {
            let router = Router::softmax_selected(k);
            let mut resident = ExpertSet::<1>::new();
            (0..16).filter(|e| residents >> e & 1 != 0).for_each(|e| { resident.insert(e); });
            for kind in KINDS {
                let mut select = (kind.make.0)(&Part::new(kind).values);
                for (i, scores) in rows.iter().enumerate() {
                    let logits: Vec<Logit> = scores.iter().map(|&z| Logit::from_num(z)).collect();
                    let wanted = router.top_k::<MAX_TOP_K>(&logits).unwrap();
                    let shares = vec![1.0 / k as f32; k];
                    let token = Token {
                        layer: 0,
                        scores, logits: &logits, wanted: &wanted, shares: &shares, experts: 16, resident: &resident, starts_sequence: i == 0, router: &router,
                        expected: &[], committed: &[2, 5],
                    };
                    let mut chosen = vec![7];
                    select.select(&token, &mut chosen);
                    prop_assert_eq!(chosen.len(), k + 1, "{}", kind.name);
                    if kind.name == "drop" {
                        chosen.retain(|&expert| expert != NO_EXPERT);
                        prop_assert!(chosen.len() > 1);
                    }
                    prop_assert!(Router::ids_only::<MAX_TOP_K>(&chosen[1..], 16).is_ok(), "{}: {:?}", kind.name, chosen);
                }
            }
        }
    }
}
