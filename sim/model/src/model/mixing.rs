//! The reference router in f32: the arithmetic of checkpoints, whose last bits decide ties and perplexities.
//!
//! Softmax without bias is done here as the frameworks do it; all else is [`Router`]'s own.

use cptr_trace::NO_EXPERT;
use cptr_trace::router::{Router, Row};
use cptr_trace::top_k::top_k;

/// The model's own choice for the scores of one token, best first, of equal ones the lower id; [`NO_EXPERT`] behind
/// fewer than k.
pub(super) fn choose(router: &Router, row: Row<'_>, wanted: &mut [u16]) {
    if router.is_plain(!row.bias.is_empty()) {
        return top_k(row.logits, wanted);
    }
    let ids = router.choose(row, wanted.len()).ids;
    wanted.fill(NO_EXPERT);
    wanted.iter_mut().zip(ids).for_each(|(wanted, id)| *wanted = id);
}

/// Mixing weights of the `chosen` among the scores of one token, in their order, without the factor on all of them;
/// places behind stay.
pub(crate) fn shares(router: &Router, row: Row<'_>, chosen: &[u16], shares: &mut [f32]) {
    let score = |expert: &u16| row.logits[usize::from(*expert)];
    if !router.is_softmax() {
        let weights = Router { scale: 1.0, ..*router }.weights(row, chosen);
        return shares.iter_mut().zip(weights).for_each(|(share, weight)| *share = weight as f32);
    }
    // Of the chosen relative to their best, so that a choice far below the best expert does not vanish. Summed by id,
    // so that the order of the choice does not show in the last bit.
    let mut ids = chosen.to_vec();
    ids.sort_unstable();
    let over: Vec<f32> = if router.renormalise { ids.iter().map(score).collect() } else { row.logits.into() };
    let largest = over.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = over.iter().map(|score| (score - largest).exp()).sum();
    shares.iter_mut().zip(chosen).for_each(|(share, expert)| *share = (score(expert) - largest).exp() / total);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f32 and the reference differ by rounding only, over all kinds of routers.
    #[test]
    fn agrees_with_the_reference() {
        let mut numbers = crate::quantise::testing::Numbers::new(7);
        let routers = [
            "softmax-all",
            "softmax-selected",
            "softmax-all:renormalise=on",
            "softmax-all:4:2",
            "sigmoid:4:2",
            "sigmoid:1:1:renormalise=off",
            "sqrt-softplus",
            "softmax-all:top-p=0.6",
            "softmax-all:4:2:scale=16",
        ];
        for router in routers.map(|text| text.parse::<Router>().unwrap()) {
            for round in 0..200 {
                let mut random = || (0..16).map(|_| (2.0 * numbers.normal()) as f32).collect::<Vec<_>>();
                let (logits, bias) = (random(), random());
                let row = Row { bias: if round % 2 == 0 { &[] } else { &bias }, ..Row::of(&logits) };
                let (mut wanted, mut found) = ([0; 5], [0.0; 5]);
                choose(&router, row, &mut wanted);
                let expected = router.choose(row, 5);
                let (ids, rest) = wanted.split_at(expected.ids.len());
                assert_eq!(ids, expected.ids, "{router}");
                assert!(rest.iter().all(|&id| id == NO_EXPERT));
                shares(&router, row, ids, &mut found[..ids.len()]);
                for (found, expected) in found.iter().zip(&expected.weights) {
                    let expected = expected / f64::from(router.scale);
                    assert!((f64::from(*found) - expected).abs() < 1e-6, "{router}: {found} {expected}");
                }
            }
        }
    }
}
