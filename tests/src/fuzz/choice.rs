//! Routers, selections and low-bit products against their definitions.

use arbitrary::{Result, Unstructured};
use cptr_core::expert::{ActivationGroup, Activations, Matrix, matvec};
use cptr_core::num::Scale;
use cptr_core::router::{BiasPlace, Count, GroupRating, Groups, Score};
use cptr_core::testing::oracle;
use cptr_core::{Bounds, Eps, ExpertSet, Gate, Logit, Router};

/// Experts of a layer here: a multiple of 4 that all sets can be gone through of.
const EXPERTS: usize = 12;

fn logit(input: &mut Unstructured<'_>) -> Result<Logit> {
    Ok(match input.arbitrary::<u8>()? {
        0..=127 => Logit::from_bits(i32::from(input.arbitrary::<i16>()?) << 3),
        128..=191 => Logit::from_num(i32::from(input.arbitrary::<i8>()?) / 8),
        _ => Logit::from_bits(input.arbitrary()?),
    })
}

fn list<T>(input: &mut Unstructured<'_>, of: fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
    (0..EXPERTS).map(|_| of(input)).collect()
}

/// The arrays of a router, and the router.
fn any_router(input: &mut Unstructured<'_>) -> Result<(Vec<Logit>, Vec<Scale>, Router<'static>)> {
    let k = input.int_in_range(1..=4)?;
    let groups = *input.choose(&[1usize, 1, 2, 4])?;
    let open = input.int_in_range(1..=4usize)?.min(groups).max((k * groups).div_ceil(EXPERTS));
    let router = Router {
        score: match input.int_in_range(0..=4)? {
            0 => Score::SoftmaxAll,
            1 => Score::SoftmaxSelected,
            2 => Score::Sigmoid,
            3 => Score::SqrtSoftplus,
            _ => Score::SparseMixer(Eps::from_bits(input.arbitrary::<u32>()? >> 4)),
        },
        bias_place: *input.choose(&[BiasPlace::Scores, BiasPlace::ChoiceLogits, BiasPlace::Logits])?,
        groups: Groups { count: groups, open, rating: *input.choose(&[GroupRating::Best, GroupRating::TwoBest])? },
        count: match input.int_in_range(0..=5)? {
            0 => Count::TopP(Eps::from_bits(input.arbitrary()?)),
            1 => Count::Above(Gate::from_bits(input.arbitrary::<u32>()? >> 1)),
            _ => Count::Fixed,
        },
        renormalise: input.arbitrary()?,
        scale: Scale::from_bits(input.arbitrary::<u32>()? >> 4),
        null_experts: input.int_in_range(0..=3)?,
        ..Router::softmax_all(k)
    };
    let bias = if input.arbitrary()? {
        list(input, |input| Ok(Logit::from_bits(i32::from(input.arbitrary::<i16>()?) << 4)))?
    } else {
        Vec::new()
    };
    let scale = if input.arbitrary()? {
        list(input, |input| Ok(Scale::from_bits(input.arbitrary::<u32>()? >> 6)))?
    } else {
        Vec::new()
    };
    Ok((bias, scale, router))
}

pub(super) fn select(data: &[u8]) {
    let _ = any_selection(&mut Unstructured::new(data));
}

fn any_selection(input: &mut Unstructured<'_>) -> Result<()> {
    let (bias, expert_scale, router) = any_router(input)?;
    let router = Router { bias: &bias, expert_scale: &expert_scale, ..router };
    let residents: u16 = input.arbitrary()?;
    let eps = Eps::from_bits(input.arbitrary()?);
    let error = if input.ratio(1, 4)? { Some(Eps::from_bits(input.arbitrary()?)) } else { None };
    let keep_top = input.int_in_range(0..=5usize)?;
    let logits = list(input, logit)?;
    let mut resident = ExpertSet::<1>::new();
    (0..EXPERTS as u16).filter(|expert| residents >> expert & 1 != 0).for_each(|expert| _ = resident.insert(expert));
    let Ok(wanted) = router.top_k::<4>(&logits) else { panic!("{router:?} fits {EXPERTS} experts") };

    // The router against its definition, where no comparison is close.
    let exact = oracle::Router::new(router, &logits);
    let (choice, gap) = exact.choice();
    let wide = logits.iter().all(|logit| logit.unsigned_abs() < 40);
    assert!(!wide || gap <= 4e-7 || choice[..] == wanted[..], "{router:?}: {wanted:?}, by definition {choice:?}");
    let mut weights = vec![Gate::ZERO; wanted.len()];
    router.weights(&logits, &wanted, &mut weights);
    let (by_definition, gap) = exact.weights(&wanted);
    if wide && gap > 1e-4 {
        for (weight, exact) in weights.iter().zip(by_definition) {
            let error = weight.to_num::<f64>() - exact;
            assert!(error.abs() < 2f64.powi(-22) && error <= 2f64.powi(-25), "{router:?}: {weight} for {exact}");
        }
    }

    // The selection's promises.
    let bounds = Bounds { mass: eps, error };
    let found =
        cptr_core::select::<4>(&router, bounds, keep_top, &logits, &wanted, &resident).expect("a router's own list");
    assert!(Router::check_ids(&found.experts, EXPERTS).is_ok() && found.experts.len() == wanted.len());
    assert_eq!(found.experts.iter().zip(&wanted).filter(|(a, b)| a != b).count(), found.substituted);
    assert!(found.experts.iter().zip(&wanted).take(keep_top).all(|(a, b)| a == b), "the first are kept");
    let loss = oracle::loss(&router, &logits, &wanted, &found.experts);
    // Beside a bound on the error, scores that are weights are taken of a score of 1, and the lowest have no mass.
    let absolute =
        error.is_some() && !router.renormalise && matches!(router.score, Score::Sigmoid | Score::SqrtSoftplus);
    let best = wanted.iter().map(|&expert| logits[usize::from(expert)].to_num::<f64>()).fold(f64::MIN, f64::max);
    let low = absolute && oracle::log_score(router.score, best) < -7.0;
    let allowed = eps.to_num::<f64>() + if absolute { 1e-3 } else { 1e-5 };
    assert!(low || loss <= allowed, "{loss} of {eps}: {router:?}");
    // One in eight: every set of experts is gone through.
    if residents.is_multiple_of(8) && error.is_none() && eps != Eps::ZERO && router.groups.count == router.groups.open {
        let misses = |experts: &[u16]| {
            experts.iter().filter(|&&expert| !resident.contains(expert) && !router.is_null(expert, EXPERTS)).count()
        };
        let eps = eps.to_num();
        let [most, fewest] = oracle::fewest_misses(&router, eps, 1e-5, keep_top, &logits, &wanted, &resident);
        let found = misses(&found.experts);
        assert!((fewest..=most).contains(&found), "{found} misses, by definition {fewest} to {most}: {router:?}");
    }
    Ok(())
}

/// A packed matrix, behind 16 bytes of activations.
pub(super) fn expert(data: &[u8]) {
    let (values, bytes) = data.split_at(data.len().min(16));
    let Ok(matrix) = Matrix::new(bytes) else { return };
    let layout = matrix.layout();
    let values: Vec<i32> = (0..layout.columns())
        .map(|column| {
            let at = |offset: usize| values.get((column * 5 + offset) % 16).copied().unwrap_or(0);
            i32::from_le_bytes([at(0), at(1), at(2), at(3)]) >> (column % 24)
        })
        .collect();
    let mut codes = vec![0; layout.padded_columns()];
    let mut groups = vec![ActivationGroup::default(); layout.groups()];
    let vector =
        Activations::quantise(&values, 0, layout, &mut codes, &mut groups).expect("all lengths are the layout's");
    let mut out = vec![0; layout.rows()];
    matvec(&matrix, &vector, &mut out).expect("as said");
    assert!(out.iter().map(|&sum| i128::from(sum)).eq(oracle::matvec(&matrix, &vector)), "{layout:?}");
}
