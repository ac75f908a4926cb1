//! Small traces for the tests of this module tree.

use proptest::prelude::*;
use proptest::test_runner::TestRng;

use super::view::View;
use crate::{Meta, Phase, Shape, Trace};

/// A valid trace without scores: sequences of the given lengths, one domain, prefill; `choose(token, layer)` gives the
/// ids.
pub(super) fn trace(
    experts: usize,
    layers: usize,
    lengths: &[usize],
    mut choose: impl FnMut(usize, usize) -> Vec<u16>,
) -> Trace {
    let tokens = lengths.iter().sum();
    let rows: Vec<Vec<u16>> = (0..tokens * layers).map(|i| choose(i / layers, i % layers)).collect();
    let trace = Trace {
        meta: Meta { domains: vec!["all".into()], layer_ids: (1..=layers as u32).collect(), ..Meta::default() },
        sequence: lengths.iter().zip(0..).flat_map(|(&n, id)| vec![id; n]).collect(),
        position: lengths.iter().flat_map(|&n| 0..n as u32).collect(),
        phase: vec![Phase::Prefill; tokens],
        ..Trace::of_ids(Shape { tokens, layers, experts, k: rows[0].len() }, rows.concat())
    };
    trace.validate().expect("a valid test trace");
    trace
}

/// One layer, one sequence.
pub(super) fn single(experts: usize, rows: &[&[u16]]) -> Trace {
    trace(experts, 1, &[rows.len()], |token, _| rows[token].to_vec())
}

/// Reproducible random numbers.
pub(super) fn random() -> TestRng {
    TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha)
}

/// A number in 0..1.
pub(super) fn uniform(random: &mut TestRng) -> f64 {
    f64::from(random.next_u32()) / 4_294_967_296.0
}

/// `k` different experts, expert `e` drawn with weight `weights[e]`, without putting back.
pub(super) fn draw(random: &mut TestRng, k: usize, weights: &[f64]) -> Vec<u16> {
    let mut left = weights.to_vec();
    (0..k)
        .map(|_| {
            let mut point = uniform(random) * left.iter().sum::<f64>();
            let found = left.iter().position(|&w| {
                point -= w;
                point < 0.0 && w > 0.0
            });
            let e = found.unwrap_or_else(|| left.iter().rposition(|&w| w > 0.0).expect("an expert left"));
            left[e] = 0.0;
            e as u16
        })
        .collect()
}

/// A text-like trace: each token keeps each of its predecessor's experts with probability `stay` and draws the others.
pub(super) fn sticky(experts: usize, k: usize, layers: usize, lengths: &[usize], stay: f64) -> Trace {
    let mut random = random();
    let mut before: Vec<Vec<u16>> = vec![Vec::new(); layers];
    trace(experts, layers, lengths, |_, layer| {
        let weights: Vec<f64> = (0..experts).map(|e| 1.0 / (2.0 + ((e * 7 + layer * 5) % experts) as f64)).collect();
        let mut chosen: Vec<u16> = before[layer].clone();
        chosen.retain(|_| uniform(&mut random) < stay);
        let mut left = weights;
        chosen.iter().for_each(|&e| left[usize::from(e)] = 0.0);
        let missing = k - chosen.len();
        chosen.extend(draw(&mut random, missing, &left));
        before[layer].clone_from(&chosen);
        chosen
    })
}

/// Any small trace of one layer: up to 8 experts, up to 3 sequences of up to 12 tokens.
pub(super) fn any_trace() -> impl Strategy<Value = Trace> {
    (2_usize..=8)
        .prop_flat_map(|experts| (Just(experts), 1..=experts.min(3), prop::collection::vec(1_usize..=12, 1..=3)))
        .prop_flat_map(|(experts, k, lengths)| {
            let tokens = lengths.iter().sum::<usize>();
            let row = prop::sample::subsequence((0..experts as u16).collect::<Vec<_>>(), k).prop_shuffle();
            (Just(experts), Just(lengths), prop::collection::vec(row, tokens))
        })
        .prop_map(|(experts, lengths, rows)| trace(experts, 1, &lengths, |token, _| rows[token].clone()))
}

pub(super) fn view(trace: &Trace) -> View<'_> {
    View::new(trace)
}
