//! Each convention against its definition in floating point.

use super::*;
use crate::testing::oracle;
use crate::testing::strategies::any_router;
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

#[test]
fn what_only_some_routers_have() {
    let z = logits(&[1.0, 0.5, 0.25, 0.0]);
    let table = Router { table: true, ..Router::deepseek_v4(2, &[]) };
    assert_eq!(table.top_k::<2>(&z), Err(RouterError::Table));
    let softplus = |z: f64| z.exp().ln_1p().sqrt();
    let found = weights(&table, &z, &[3, 1]);
    assert!((found[0] - softplus(0.0) / (softplus(0.0) + softplus(0.5))).abs() < 1e-7, "{found:?}");
    let longcat = Router::longcat_flash(2, 1, &[]);
    assert!((0..4).map(|expert| longcat.is_null(expert, 4)).eq([false, false, false, true]) && !longcat.is_null(4, 4));
    assert_eq!(longcat.scaled(0, Gate::from_num(0.25)), Scale::from_num(1.5));
    let factors = [Scale::ONE, Scale::from_num(0.5), Scale::MAX, Scale::ZERO];
    let gemma = Router { expert_scale: &factors, scale: Scale::from_num(2), ..Router::softmax_selected(2) };
    assert_eq!(
        [0, 1, 2, 3, 9].map(|e| gemma.scaled(e, Gate::ONE).to_num::<f64>()),
        [2.0, 1.0, 256.0 - 2f64.powi(-24), 0.0, 2.0]
    );
    assert_eq!(gemma.top_k::<2>(&z[..3]), Err(RouterError::Bias));
    // All experts in one group each; nothing is rated by a second.
    let groups = Groups { count: 4, open: 2, rating: GroupRating::TwoBest };
    assert_eq!(Router { groups, ..Router::softmax_all(2) }.top_k::<2>(&z).unwrap(), [0, 1]);
    // At most so many, at least one.
    let dynamic = |count| Router { count, ..Router::softmax_selected(3) }.top_k::<4>(&z).unwrap().len();
    assert_eq!(dynamic(Count::TopP(Eps::ZERO)), 1);
    assert_eq!(dynamic(Count::TopP(Eps::from_num(0.5))), 2);
    assert_eq!(dynamic(Count::TopP(Eps::MAX)), 3);
    assert_eq!(dynamic(Count::Above(Gate::from_num(0.24))), 2);
    assert_eq!(dynamic(Count::Above(Gate::ONE)), 1);
    let sigmoid = Router { count: Count::Above(Gate::from_num(0.56)), ..Router::llama4(4) };
    assert_eq!(sigmoid.top_k::<4>(&z).unwrap(), [0, 1, 2]);
}

/// Scores that 31 fraction bits cannot tell from 0 still have an order and shares.
#[test]
fn low_scores_keep_their_order_and_their_relative_weights() {
    let mut z = logits(&[-40.0, -38.5, -60.0, -39.0]);
    for router in [Router::sigmoid_grouped(2, 1, 1, &[]), Router::deepseek_v4(2, &[]), Router::llama4(2)] {
        assert_eq!(router.top_k::<2>(&z).unwrap(), [1, 3], "{router:?}");
    }
    let zero = [Logit::ZERO; 4];
    // A bias of zeros is none.
    assert_eq!(Router::sigmoid_grouped(2, 2, 1, &zero).top_k::<2>(&z).unwrap(), [1, 0]);
    assert_eq!(Router::sigmoid_grouped(2, 2, 1, &[]).top_k::<2>(&z).unwrap(), [1, 0]);
    z[2] = Logit::from_num(-38);
    assert_eq!(Router::sigmoid_grouped(2, 2, 1, &[]).top_k::<2>(&z).unwrap(), [2, 3]);
    for level in [-23, -100, -32_000] {
        let z: StdVec<Logit> = (0..8).map(|i| Logit::from_num(level) + Logit::from_num(i) / 8).collect();
        let list: StdVec<u16> = (0..8).collect();
        for (router, slope) in [(Router::sigmoid_grouped(8, 1, 1, &[]), 1.0), (Router::deepseek_v4(8, &[]), 0.5)] {
            let sum: f64 = (0..8).map(|i| (slope * f64::from(i) / 8.0).exp()).sum();
            for (i, weight) in weights(&router, &z, &list).into_iter().enumerate() {
                let exact = (slope * i as f64 / 8.0).exp() / sum;
                assert!((weight / exact - 1.0).abs() < 2f64.powi(-23), "{level} {i}: {weight} {exact}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn every_convention_equals_its_floating_point_form(
        drawn in any_router(16, 4),
        z in prop_oneof![prop::collection::vec(-6.0f64..6.0, 16), prop::collection::vec(-40.0f64..40.0, 16)],
    ) {
        // Both sides see the same rounded numbers; draws closer than the format resolves are left out.
        let (z, router) = (logits(&z), Router { table: false, ..drawn.router() });
        let oracle = oracle::Router::new(router, &z);
        let (expected, gap) = oracle.choice();
        let found = router.top_k::<4>(&z).unwrap();
        prop_assume!(gap > 4e-7 || found[..] == expected[..]);
        prop_assert_eq!(&found[..], &expected[..]);
        let (exact, gap) = oracle.weights(&found);
        prop_assume!(gap > 1e-4);
        for ((&expert, weight), exact) in found.iter().zip(weights(&router, &z, &found)).zip(exact) {
            let error = weight - exact;
            prop_assert!(error.abs() < 2f64.powi(-22) && error <= 2f64.powi(-25), "{} {}", weight, exact);
            let own = router.expert_scale.get(usize::from(expert)).map_or(1.0, |scale| scale.to_num::<f64>());
            let scales = router.scale.to_num::<f64>() * own;
            let scaled = router.scaled(expert, Gate::from_num(weight)).to_num::<f64>();
            let error = (scaled - weight * scales).abs();
            prop_assert!(error <= 2f64.powi(-25) * (1.0 + own), "{} {}", scaled, weight * scales);
        }
    }

    #[test]
    fn no_input_panics(
        drawn in any_router(16, 4),
        z in prop::collection::vec(any::<i32>().prop_map(Logit::from_bits), 0..40),
        ids in prop::collection::vec(0u16..40, 0..70),
    ) {
        let router = drawn.router();
        let found = router.top_k::<4>(&z);
        prop_assert!(found.is_ok() || z.len() != 16 || router.table);
        let mut weights = std::vec![Gate::ZERO; ids.len()];
        router.weights(&z, &ids, &mut weights);
        for (&expert, weight) in ids.iter().zip(weights) {
            let _ = router.scaled(expert, weight);
            prop_assert!(usize::from(expert) < z.len() || weight == Gate::ZERO);
        }
    }

    #[test]
    fn masses_are_what_they_say(drawn in any_router(16, 4), z in -60.0f64..60.0, below in 0.0f64..30.0) {
        let router = drawn.router();
        let (largest, logit) = (Logit::from_num(z), Logit::from_num(z - below));
        let log = |z: Logit| oracle::log_score(router.score, z.to_num());
        let [greatest, mass] = [largest, logit].map(|z| router.mass(z, largest).to_num::<f64>());
        prop_assert!((0.25..=1.0).contains(&greatest), "{}", greatest);
        let share = (log(logit) - log(largest)).exp();
        prop_assert!((mass / greatest - share).abs() < 2f64.powi(-23), "{} {}", mass, greatest);
        prop_assert_eq!(router.mass(largest + Logit::ONE, largest), router.mass(largest, largest));
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
