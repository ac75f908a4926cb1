//! Each convention against its definition in floating point.

use super::*;
use proptest::prelude::*;
use std::vec::Vec as StdVec;

fn logits(values: &[f64]) -> StdVec<Logit> {
    values.iter().map(|&v| Logit::saturating_from_num(v)).collect()
}

fn weights(router: &Router<'_>, logits: &[Logit], chosen: &[u16]) -> StdVec<f64> {
    let mut weights = std::vec![Gate::ZERO; chosen.len()];
    router.weights(logits, chosen, &mut weights);
    weights.iter().map(|w| w.to_num()).collect()
}

#[test]
fn conventions_differ_in_their_weights() {
    let z = logits(&[1.0, 3.0, 2.0, -1.0]);
    let exp: StdVec<f64> = [1.0f64, 3.0, 2.0, -1.0].iter().map(|v| v.exp()).collect();
    let (top, all) = (exp[1] + exp[2], exp.iter().sum::<f64>());
    assert_eq!(Router::mixtral().top_k::<2>(&z).unwrap(), [1, 2]);
    for (router, sum) in [(Router::mixtral(), top), (Router::glam(), top), (Router::softmax_all(2), all)] {
        let w = weights(&router, &z, &[1, 2]);
        assert!((w[0] - exp[1] / sum).abs() < 1e-7 && (w[1] - exp[2] / sum).abs() < 1e-7, "{router:?} {w:?}");
    }
    assert_eq!(Router::switch().top_k::<1>(&z).unwrap(), [1]);
    assert!((weights(&Router::switch(), &z, &[1])[0] - exp[1] / all).abs() < 1e-7);
}

/// The published routing of DeepSeek-V3 written out in floating point, as an oracle.
fn deepseek_oracle(z: &[f64], bias: &[f64], k: usize, groups: usize, top_groups: usize) -> StdVec<u16> {
    let score: StdVec<f64> = z.iter().zip(bias).map(|(z, b)| 1.0 / (1.0 + (-z).exp()) + b).collect();
    let size = z.len() / groups;
    let rank = |values: &[f64]| {
        let mut order: StdVec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap());
        order
    };
    let group_scores: StdVec<f64> = (0..groups)
        .map(|g| {
            let part = &score[g * size..(g + 1) * size];
            rank(part).iter().take(2).map(|&i| part[i]).sum()
        })
        .collect();
    let open: StdVec<usize> = rank(&group_scores).into_iter().take(top_groups).collect();
    rank(&score).into_iter().filter(|e| open.contains(&(e / size))).take(k).map(|e| e as u16).collect()
}

#[test]
fn refuses_what_does_not_fit() {
    let z = logits(&[0.0; 8]);
    assert_eq!(Router::softmax_all(3).top_k::<2>(&z), Err(RouterError::Capacity));
    assert_eq!(Router::softmax_all(9).top_k::<16>(&z), Err(RouterError::Experts));
    assert_eq!(Router::sigmoid_grouped(2, 3, 1, &[]).top_k::<2>(&z), Err(RouterError::Groups));
    assert_eq!(Router::sigmoid_grouped(2, 2, 3, &[]).top_k::<2>(&z), Err(RouterError::Groups));
    assert_eq!(Router::sigmoid_grouped(2, 0, 0, &[]).top_k::<2>(&z), Err(RouterError::Groups));
    assert_eq!(Router::sigmoid_grouped(5, 2, 1, &[]).top_k::<5>(&z), Err(RouterError::Experts));
    assert_eq!(Router::sigmoid_grouped(2, 2, 1, &z[..7]).top_k::<2>(&z), Err(RouterError::Bias));
    assert_eq!(Router::ids_only::<2>(&[1, 1], 8), Err(RouterError::Id));
    assert_eq!(Router::ids_only::<2>(&[1, 8], 8), Err(RouterError::Id));
    assert_eq!(Router::ids_only::<2>(&[1, 2, 3], 8), Err(RouterError::Capacity));
    assert_eq!(Router::ids_only::<2>(&[7, 2], 8).unwrap(), [7, 2]);
    assert_eq!(weights(&Router::mixtral(), &z, &[9, 1]), [0.0, 1.0]);
    assert_eq!(weights(&Router::mixtral(), &[], &[0]), [0.0]);
}

#[test]
fn end_values_do_not_overflow() {
    let z = [Logit::MAX, Logit::MIN, Logit::MAX, Logit::ZERO];
    assert_eq!(Router::mixtral().top_k::<2>(&z).unwrap(), [0, 2]);
    assert_eq!(weights(&Router::mixtral(), &z, &[0, 2]), [0.5, 0.5]);
    assert_eq!(weights(&Router::mixtral(), &z, &[0, 1]), [1.0, 0.0]);
    let bias = [Logit::MIN, Logit::MAX, Logit::ZERO, Logit::MIN];
    assert_eq!(Router::sigmoid_grouped(2, 2, 2, &bias).top_k::<2>(&z).unwrap(), [1, 2]);
}

proptest! {
    #[test]
    fn deepseek_equals_its_floating_point_form(
        z in prop::collection::vec(-6.0f64..6.0, 32),
        bias in prop::collection::vec(-0.3f64..0.3, 32),
        top_groups in 1usize..=4,
    ) {
        // Both sides see the same rounded numbers; draws closer than the format resolves are left out.
        let (z, bias) = (logits(&z), logits(&bias));
        let float = |v: &[Logit]| v.iter().map(|x| x.to_num::<f64>()).collect::<StdVec<_>>();
        let expected = deepseek_oracle(&float(&z), &float(&bias), 4, 4, top_groups);
        let router = Router::sigmoid_grouped(4, 4, top_groups, &bias);
        let found = router.top_k::<4>(&z).unwrap();
        let score = |e: u16| router.biased(usize::from(e), z[usize::from(e)]);
        let close = found.iter().zip(&expected).any(|(&a, &b)| a != b && (score(a) - score(b)).abs() < 1 << 8);
        prop_assume!(!close);
        prop_assert_eq!(&found[..], &expected[..]);
    }

    #[test]
    fn weights_meet_their_bound(z in prop::collection::vec(-30.0f64..30.0, 4..64)) {
        let z = logits(&z);
        let chosen = Router::softmax_all(4).top_k::<4>(&z).unwrap();
        let exp = |e: usize| (z[e] - *z.iter().max().unwrap()).to_num::<f64>().exp();
        let all: f64 = (0..z.len()).map(exp).sum();
        let top: f64 = chosen.iter().map(|&e| exp(usize::from(e))).sum();
        for (router, sum) in [(Router::softmax_all(4), all), (Router::softmax_selected(4), top)] {
            for (weight, &expert) in weights(&router, &z, &chosen).iter().zip(&chosen) {
                prop_assert!((weight - exp(usize::from(expert)) / sum).abs() < 2f64.powi(-24));
            }
        }
    }
}
