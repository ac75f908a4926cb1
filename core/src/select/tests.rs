//! Selections against their definition and against every other choice.

use super::*;
use crate::set::ExpertSet;
use proptest::prelude::*;
use std::vec::Vec as StdVec;

const E: usize = 12;
const K: usize = 4;

#[derive(Debug, Clone)]
struct Case {
    logits: StdVec<Logit>,
    resident: ExpertSet<1>,
    eps: Eps,
    keep_top: usize,
    sigmoid: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let logits = prop_oneof![
        prop::collection::vec((-40i32..40).prop_map(|v| Logit::from_num(v) / 16), E),
        prop::collection::vec(any::<i32>().prop_map(Logit::from_bits), E),
    ];
    let eps = prop_oneof![
        Just(Eps::ZERO),
        Just(Eps::MAX),
        any::<u32>().prop_map(Eps::from_bits),
        (0u32..1 << 29).prop_map(Eps::from_bits)
    ];
    (logits, any::<u16>(), eps, 0..=K, any::<bool>()).prop_map(|(logits, residents, eps, keep_top, sigmoid)| {
        let mut resident = ExpertSet::new();
        (0..E as u16).filter(|e| residents >> e & 1 != 0).for_each(|e| {
            resident.insert(e);
        });
        Case { logits, resident, eps, keep_top, sigmoid }
    })
}

fn router(case: &Case) -> Router<'static> {
    if case.sigmoid { Router::sigmoid_grouped(K, 1, 1, &[]) } else { Router::softmax_selected(K) }
}

fn masses(case: &Case, experts: &[u16]) -> u64 {
    let largest = *case.logits.iter().max().unwrap();
    experts.iter().map(|&e| u64::from(router(case).mass(case.logits[usize::from(e)], largest).to_bits())).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn guarantees(case in case()) {
        let router = router(&case);
        let wanted = router.top_k::<K>(&case.logits).unwrap();
        let found = select::<K>(&router, case.eps, case.keep_top, &case.logits, &wanted, &case.resident).unwrap();
        // k distinct experts.
        prop_assert!(Router::ids_only::<K>(&found.experts, E).is_ok());
        prop_assert_eq!(found.experts.len(), K);
        // The best ones stay, and only missing experts give way, to resident ones.
        let changed = found.experts.iter().zip(&wanted).enumerate().filter(|(_, (a, b))| a != b);
        for (rank, (new, old)) in changed.clone() {
            prop_assert!(rank >= case.keep_top && case.resident.contains(*new) && !case.resident.contains(*old));
        }
        prop_assert_eq!(changed.count(), found.substituted);
        // The mass bound. `largest` is the top wanted logit, except where no wanted one is above a stand-in.
        let (kept, all) = (masses(&case, &found.experts), masses(&case, &wanted));
        let bound = (u128::from(all) * u128::from(u32::MAX - case.eps.to_bits())) >> 32;
        prop_assert!(u128::from(kept) + 1 >= bound, "{kept} of {all}");
        if case.eps == Eps::ZERO {
            prop_assert_eq!(&found.experts, &wanted);
        }
    }

    #[test]
    fn avoids_as_many_misses_as_any_choice_could(case in case()) {
        let router = router(&case);
        let wanted = router.top_k::<K>(&case.logits).unwrap();
        prop_assume!(case.eps != Eps::ZERO);
        let found = select::<K>(&router, case.eps, case.keep_top, &case.logits, &wanted, &case.resident).unwrap();
        let all = masses(&case, &wanted);
        let budget = ((u128::from(all) * u128::from(case.eps.to_bits())) >> 32) as u64;
        // Brute force: every set of k experts that keeps the top and keeps the mass.
        let fewest = (0u32..1 << E)
            .filter(|set| set.count_ones() as usize == K)
            .map(|set| (0..E as u16).filter(|e| set >> e & 1 != 0).collect::<StdVec<_>>())
            .filter(|set| wanted.iter().take(case.keep_top).all(|e| set.contains(e)))
            .filter(|set| masses(&case, set) + budget >= all)
            .map(|set| set.iter().filter(|e| !case.resident.contains(**e)).count())
            .min()
            .unwrap();
        let misses = found.experts.iter().filter(|e| !case.resident.contains(**e)).count();
        prop_assert_eq!(misses, fewest);
    }
}

/// The definition, with sorted lists: what replaces what under both bounds.
fn plain(case: &Case, bounds: Bounds, wanted: &[u16]) -> StdVec<u16> {
    let (router, mut chosen) = (router(case), wanted.to_vec());
    let logit = |expert: u16| case.logits[usize::from(expert)];
    let all = bounds.error.and(case.logits.iter().copied().max());
    let largest = all.or(wanted.iter().map(|&expert| logit(expert)).max()).unwrap_or(Logit::ZERO);
    let mass = |expert: u16| u64::from(router.mass(logit(expert), largest).to_bits());
    let mut missing: StdVec<usize> =
        (case.keep_top..wanted.len()).filter(|&r| !case.resident.contains(wanted[r])).collect();
    missing.sort_by_key(|&rank| (mass(wanted[rank]), core::cmp::Reverse(rank)));
    let mut others: StdVec<u16> =
        case.resident.iter().filter(|&e| usize::from(e) < E && !wanted.contains(&e)).collect();
    others.sort_by_key(|&expert| (core::cmp::Reverse(logit(expert)), expert));
    let sum: u64 = wanted.iter().map(|&expert| mass(expert)).sum();
    let share = |mass: u64, eps: Eps| ((u128::from(mass) * u128::from(eps.to_bits())) >> 32) as u64;
    let mut left = share(sum, bounds.mass);
    let mut error_left = bounds
        .error
        .map(|eps| share(router.total_mass(&case.logits, sum, largest), eps).min(u64::from(u32::MAX)).pow(2));
    if bounds.mass == Eps::ZERO || bounds.error == Some(Eps::ZERO) {
        return chosen;
    }
    for (&rank, &other) in missing.iter().zip(&others) {
        let (old, new) = (mass(wanted[rank]), mass(other));
        let squared = squared_error(old as u32, new as u32);
        if old.saturating_sub(new) > left || error_left.is_some_and(|left| squared > left) {
            break;
        }
        left -= old.saturating_sub(new);
        error_left = error_left.map(|left| left - squared);
        chosen[rank] = other;
    }
    chosen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    /// Any list of distinct experts may be wanted: recorded, biased, out of order.
    #[test]
    fn is_the_plain_algorithm_for_any_list(
        case in case(), order in Just((0..E as u16).collect::<StdVec<_>>()).prop_shuffle(), k in 0..=E, share in prop::option::of(any::<u32>()),
        best_first: bool,
    ) {
        let mut wanted = order[..k].to_vec();
        if best_first {
            wanted.sort_by_key(|&expert| core::cmp::Reverse(case.logits[usize::from(expert)]));
        }
        let bounds = Bounds { mass: case.eps, error: share.map(|bits| Eps::from_bits(bits >> 2)) };
        let found = select::<E>(&router(&case), bounds, case.keep_top, &case.logits, &wanted, &case.resident).unwrap();
        prop_assert_eq!(found.experts.as_slice(), plain(&case, bounds, &wanted));
        prop_assert_eq!(found.substituted, found.experts.iter().zip(&wanted).filter(|(a, b)| a != b).count());
    }
}

#[test]
fn more_experts_than_it_can_go_through() {
    let logits = std::vec![Logit::ZERO; MAX_EXPERTS + 1];
    let run = |logits| select::<1>(&Router::switch(), Eps::MAX, 0, logits, &[2], &ExpertSet::<1>::new());
    assert_eq!(run(&logits), Err(SelectError::Experts));
    assert_eq!(run(&logits[1..]).unwrap().experts, [2]);
    let many: StdVec<u16> = (0..17).collect();
    let found = select::<20>(&Router::switch(), Eps::MAX, 0, &logits, &many, &ExpertSet::<1>::new());
    assert_eq!(found, Err(SelectError::Capacity));
}

#[test]
fn refuses_bad_wanted_lists() {
    let (router, resident) = (Router::mixtral(), ExpertSet::<1>::new());
    let logits = [Logit::ZERO; 4];
    let run = |wanted: &[u16]| select::<2>(&router, Eps::MAX, 0, &logits, wanted, &resident);
    assert_eq!(run(&[0, 1, 2]), Err(SelectError::Capacity));
    assert_eq!(run(&[0, 0]), Err(SelectError::Id));
    assert_eq!(run(&[0, 4]), Err(SelectError::Id));
    assert!(run(&[]).unwrap().experts.is_empty());
}

#[test]
fn residents_beyond_the_logits_are_ignored() {
    let mut resident = ExpertSet::<1>::new();
    resident.insert(31);
    let found = select::<1>(&Router::switch(), Eps::MAX, 0, &[Logit::ZERO; 4], &[2], &resident).unwrap();
    assert_eq!(found.experts, [2]);
}

/// The squared error of a choice by the definition, with the model's weights in 64-bit floating point.
fn error(logits: &[Logit], wanted: &[u16], chosen: &[u16], renormalise: bool) -> f64 {
    let largest = logits.iter().max().unwrap().to_num::<f64>();
    let e = |expert: u16| (logits[usize::from(expert)].to_num::<f64>() - largest).exp();
    let all = (0..logits.len() as u16).map(e).sum::<f64>();
    let total = if renormalise { wanted.iter().map(|&expert| e(expert)).sum() } else { all };
    let pairs = wanted.iter().zip(chosen).filter(|(wanted, chosen)| wanted != chosen);
    let squares = pairs.map(|(&w, &v)| (e(w) / total, e(v) / total));
    squares.map(|(w, v)| (w - v).powi(2) + w * v / 4.0).sum::<f64>().sqrt()
}

proptest! {
    #[test]
    fn the_error_stays_within_its_bound(case in case(), share in 0.0f64..0.3, renormalise: bool) {
        let router = if renormalise { Router::softmax_selected(K) } else { Router::softmax_all(K) };
        let wanted = router.top_k::<K>(&case.logits).unwrap();
        let bounds = Bounds { mass: case.eps, error: Some(Eps::from_num(share)) };
        let run = |bounds: Bounds| select::<K>(&router, bounds, case.keep_top, &case.logits, &wanted, &case.resident).unwrap();
        let (found, free) = (run(bounds), run(case.eps.into()));
        prop_assert!(error(&case.logits, &wanted, &found.experts, renormalise) <= share + 1e-6);
        prop_assert!(found.substituted <= free.substituted);
        // One more pair would break the bound: what was left out is what the mass bound alone would do next.
        if found.substituted < free.substituted {
            prop_assert!(error(&case.logits, &wanted, &free.experts, renormalise) >= share - 1e-6);
        }
        let none = run(Bounds { error: Some(Eps::ZERO), ..bounds });
        prop_assert_eq!(none.experts.as_slice(), wanted.as_slice());
    }
}
