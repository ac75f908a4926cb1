//! Which experts run: the rivals and CPTR behind one trait. A new policy is one file and one line in [`KINDS`].

mod cache_prior;
mod cptr;
mod cumulative;
mod hysteresis;
mod max_rank;
mod raw;
mod smoothing;
mod substitute;

use cptr_core::topk::Best;
use cptr_core::{Experts, Logit, Router};

use crate::spec::{self, Parameter, Values};
use cptr_trace::{Knowledge, MAX_TOP_K};

/// What a policy sees of one token in one layer.
#[derive(Debug)]
pub struct Token<'a> {
    /// Selection scores `[E]`: logits, or sigmoid plus bias where the router ranks by that. Empty where the trace has none.
    pub scores: &'a [f32],
    /// Logits `[E]` in the controller's format. Empty where the trace has none.
    pub logits: &'a [Logit],
    /// The model's own choice, best first where the trace says so.
    pub wanted: &'a [u16],
    /// Experts in fast memory before this token.
    pub resident: &'a Experts,
    /// Whether this is the first token of a sequence.
    pub starts_sequence: bool,
}

/// Chooses the experts of one layer, token by token.
pub trait Policy: Send {
    /// Appends as many distinct experts as the token wants to `chosen`, which is empty.
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>);
}

/// Sizes of the layer that a policy is made for.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Routed experts E.
    pub experts: usize,
    /// The router's convention.
    pub router: Router<'a>,
}

/// A policy as the command line knows it.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for help.
    pub summary: &'static str,
    /// Its parameters, the one that people turn first.
    pub parameters: &'static [Parameter],
    /// What the trace must have recorded; unknown scores are never invented.
    pub needs: Knowledge,
    /// Placement that goes with it where none is asked for.
    pub placement: &'static str,
    /// Makes the state for one layer.
    pub make: for<'a> fn(&Values, Layer<'a>) -> Box<dyn Policy + 'a>,
}

/// Name of the policy that takes the router's choice as it is.
pub const RAW: &str = "raw";

/// Every policy, in the order of tables.
pub const KINDS: &[&Kind] = &[
    &raw::KIND,
    &smoothing::KIND,
    &hysteresis::KIND,
    &max_rank::KIND,
    &cumulative::KIND,
    &substitute::KIND,
    &cache_prior::KIND,
    &cptr::KIND,
];

/// A policy with its parameters.
pub type Choice = spec::Choice<Kind>;

impl spec::Kind for Kind {
    const WHAT: &'static str = "a policy";
    const SHOWS_FIRST: bool = true;

    fn all() -> &'static [&'static Self] {
        KINDS
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn parameters(&self) -> &'static [Parameter] {
        self.parameters
    }
}

impl Choice {
    /// Makes the state for one layer.
    pub fn make<'a>(&self, layer: Layer<'a>) -> Box<dyn Policy + 'a> {
        (self.kind.make)(&self.values, layer)
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

/// All experts by falling score; of equal scores the lower id first.
fn ranking(scores: &[f32]) -> Vec<u16> {
    let mut order: Vec<u16> = (0..scores.len() as u16).collect();
    order.sort_by_key(|&expert| std::cmp::Reverse(key(scores[usize::from(expert)])));
    order
}

/// Keeps the first `keep` of `ranked`, then takes resident ones out of the first `window`, then the best of the rest: the rule that
/// max-rank and cumulative threshold share (arXiv 2412.00099).
fn promote(ranked: &[u16], k: usize, keep: usize, window: usize, resident: &Experts, chosen: &mut Vec<u16>) {
    chosen.extend(ranked.iter().take(keep.min(k)));
    let window = &ranked[keep.min(ranked.len())..window.clamp(keep, ranked.len())];
    chosen.extend(window.iter().filter(|&&expert| resident.contains(expert)).take(k - chosen.len()));
    for &expert in ranked {
        if chosen.len() == k {
            break;
        }
        if !chosen.contains(&expert) {
            chosen.push(expert);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_core::ExpertSet;
    use proptest::prelude::*;

    #[test]
    fn keys_keep_the_order_of_floats() {
        let values = [f32::MIN, -1.5, -0.0, 0.0, 1e-30, 2.0, f32::MAX];
        assert!(values.windows(2).all(|pair| key(pair[0]) <= key(pair[1])));
    }

    #[test]
    fn names_are_unique_and_defaults_in_range() {
        for (i, kind) in KINDS.iter().enumerate() {
            assert!(KINDS[..i].iter().all(|other| other.name != kind.name));
            for parameter in kind.parameters {
                assert!((parameter.range.0..=parameter.range.1).contains(&parameter.default), "{}", kind.name);
            }
            assert_eq!(Choice::parse(kind.name).unwrap().kind.name, kind.name);
        }
        assert!(Choice::parse("nonsense").unwrap_err().to_string().contains("raw, "));
    }

    proptest! {
        /// Whatever the scores and residents: k distinct experts in range, from every policy with all logits.
        #[test]
        fn every_policy_chooses_k_distinct_experts(
            rows in prop::collection::vec(prop::collection::vec(-20.0f32..20.0, 16), 1..12),
            residents: u16,
            k in 1usize..=8,
        ) {
            let router = Router::softmax_selected(k);
            let mut resident = ExpertSet::<1>::new();
            (0..16).filter(|e| residents >> e & 1 != 0).for_each(|e| { resident.insert(e); });
            for kind in KINDS {
                let choice = Choice { kind, values: Values::defaults(kind.parameters) };
                let mut policy = choice.make(Layer { experts: 16, router });
                for (i, scores) in rows.iter().enumerate() {
                    let logits: Vec<Logit> = scores.iter().map(|&z| Logit::from_num(z)).collect();
                    let wanted = router.top_k::<MAX_TOP_K>(&logits).unwrap();
                    let token = Token { scores, logits: &logits, wanted: &wanted, resident: &resident, starts_sequence: i == 0 };
                    let mut chosen = Vec::new();
                    policy.select(&token, &mut chosen);
                    prop_assert_eq!(chosen.len(), k, "{}", kind.name);
                    prop_assert!(Router::ids_only::<MAX_TOP_K>(&chosen, 16).is_ok(), "{}: {:?}", kind.name, chosen);
                }
            }
        }
    }
}
