//! Selections against their definition and against every other choice.

use super::any::{Layer, squared_error};
use super::pairs::Unbounded;
use super::*;
use crate::num::{Gate, Level};
use crate::set::ExpertSet;
use crate::testing::oracle;
use crate::testing::strategies::{Drawn, any_router, eps, logits};
use proptest::prelude::*;
use std::vec::Vec as StdVec;

pub(super) const E: usize = 12;
pub(super) const K: usize = 4;

#[derive(Debug, Clone)]
struct Case {
    logits: StdVec<Logit>,
    resident: ExpertSet<1>,
    eps: Eps,
    keep_top: usize,
    sigmoid: bool,
}

fn case() -> impl Strategy<Value = Case> {
    (logits(E), any::<u16>(), eps(), 0..=K, any::<bool>()).prop_map(|(logits, residents, eps, keep_top, sigmoid)| {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn what_a_selection_leaves_makes_the_same_weights(case in any_layer(), own: bool) {
        // Also of a list that no router would choose, best last.
        let (router, wanted) = (case.router(), if own { case.wanted() } else { case.table[..K].to_vec() });
        let (mut masses, mut memory, mut chosen) = (Masses::default(), Vec::<Gate, K>::new(), wanted.clone());
        for resident in [&ExpertSet::new(), &case.resident] {
            chosen.copy_from_slice(&wanted);
            let (eps, keep, logits) = (case.eps, case.keep_top, &case.logits);
            select_with_masses(&router, eps, keep, logits, &mut chosen, resident, &mut masses).unwrap();
            let mut same = wanted.clone();
            select_in_place(&router, eps, keep, logits, &mut same, resident).unwrap();
            prop_assert_eq!(&chosen, &same);
            let mut weights = std::vec![Gate::ZERO; chosen.len()];
            router.weights(logits, &chosen, &mut weights);
            prop_assert_eq!(router.weights_of(logits, &chosen, &mut masses, &mut memory), &weights[..]);
        }
    }
}

/// A layer with any router, and a choice to start from.
#[derive(Debug, Clone)]
pub(super) struct Any {
    pub(super) drawn: Drawn,
    pub(super) logits: StdVec<Logit>,
    pub(super) resident: ExpertSet<1>,
    pub(super) eps: Eps,
    pub(super) keep_top: usize,
    pub(super) table: StdVec<u16>,
}

impl Any {
    pub(super) fn router(&self) -> Router<'_> {
        let router = self.drawn.router();
        // A table knows no groups.
        if router.table { Router { groups: crate::router::Groups::ONE, ..router } } else { router }
    }

    pub(super) fn wanted(&self) -> StdVec<u16> {
        let router = self.router();
        if router.table { self.table[..K].to_vec() } else { router.top_k::<K>(&self.logits).unwrap().to_vec() }
    }

    pub(super) fn is_resident(&self, expert: u16) -> bool {
        self.resident.contains(expert) || self.router().is_null(expert, E)
    }

    fn misses(&self, experts: &[u16]) -> usize {
        experts.iter().filter(|&&expert| !self.is_resident(expert)).count()
    }

    /// In the unit in which the selection counts, so that bounds are met to the bit.
    pub(super) fn mass(&self, wanted: &[u16], experts: &[u16]) -> u64 {
        let router = self.router();
        let logit = |expert: u16| router.logit(&self.logits, expert);
        let mut largest = wanted.iter().map(|&expert| logit(expert)).max().unwrap();
        if router.biased_choice() || router.table {
            largest = Layer::new(&router, 0, &self.logits, &self.resident, &[], Unbounded).with_gains(largest);
        }
        experts.iter().map(|&expert| u64::from(router.mass(logit(expert), largest).to_bits())).sum()
    }
}

pub(super) fn any_layer() -> impl Strategy<Value = Any> {
    let list = Just((0..E as u16).collect::<StdVec<_>>()).prop_shuffle();
    (case(), any_router(E, K), list).prop_map(|(case, drawn, table)| {
        let Case { logits, resident, eps, keep_top, .. } = case;
        Any { drawn, logits, resident, eps, keep_top, table }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]
    /// Of every convention, the loss is 0 to eps, and no other choice that keeps the first, the groups and the bound
    /// has fewer misses.
    #[test]
    fn every_convention_has_the_fewest_misses_under_its_bound(layer in any_layer()) {
        let (router, wanted) = (layer.router(), layer.wanted());
        let found = select::<K>(&router, layer.eps, layer.keep_top, &layer.logits, &wanted, &layer.resident).unwrap();
        prop_assert!(Router::check_ids(&found.experts, E).is_ok());
        prop_assert_eq!(found.experts.len(), wanted.len());
        let open = router.open_groups(&layer.logits);
        let changed = found.experts.iter().zip(&wanted).enumerate().filter(|(_, (new, old))| new != old);
        prop_assert_eq!(changed.clone().count(), found.substituted);
        for (rank, (new, old)) in changed {
            prop_assert!(rank >= layer.keep_top && open.contains(*new) && !wanted.contains(new));
            // Nobody who is resident gives way to somebody who is not.
            prop_assert!(layer.is_resident(*new) || !layer.is_resident(*old));
            // Without a say of a bias or a table only the missing give way, to residents.
            prop_assert!(router.biased_choice() || router.table || layer.is_resident(*new) && !layer.is_resident(*old));
        }
        let (kept, all) = (layer.mass(&wanted, &found.experts), layer.mass(&wanted, &wanted));
        let budget = ((u128::from(all) * u128::from(layer.eps.to_bits())) >> 32) as u64;
        prop_assert!(all.saturating_sub(kept) <= budget, "{} of {}", kept, all);
        let loss = oracle::loss(&router, &layer.logits, &wanted, &found.experts);
        prop_assert!(loss <= layer.eps.to_num::<f64>() + 1e-5, "{}", loss);
        if layer.eps == Eps::ZERO {
            prop_assert_eq!(&found.experts[..], &wanted[..]);
            return Ok(());
        }
        let sets = (0u32..1 << E).filter(|set| set.count_ones() as usize == wanted.len());
        let sets = sets.map(|set| (0..E as u16).filter(|e| set >> e & 1 != 0).collect::<StdVec<_>>());
        let fewest = sets
            .filter(|set| set.iter().all(|&e| open.contains(e) || wanted.contains(&e)))
            .filter(|set| wanted.iter().take(layer.keep_top).all(|e| set.contains(e)))
            .filter(|set| layer.mass(&wanted, set) + budget >= all)
            .map(|set| layer.misses(&set))
            .min();
        prop_assert_eq!(Some(layer.misses(&found.experts)), fewest);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]
    /// Of every convention: no pair exceeds its bound, the bounds on the token hold, and no pair is left that all of
    /// them allow.
    #[test]
    fn every_pair_keeps_its_bound(
        layer in any_layer(), shares in prop::collection::vec(0u32..=1 << 31, 0..=E), pair in 0u32..1 << 31,
        error in prop::option::of(0u32..1 << 30),
    ) {
        let (router, wanted) = (layer.router(), layer.wanted());
        let shares: StdVec<Level> = shares.into_iter().map(Level::from_bits).collect();
        let (pairs, error) = (Pairs { error: Some(Eps::from_bits(pair)), shares: &shares }, error.map(Eps::from_bits));
        let bounds = Bounds { mass: layer.eps, error };
        let Any { logits, resident, keep_top, .. } = &layer;
        let choose = |pairs| {
            let mut experts = wanted.clone();
            select_by_pairs(&router, bounds, *keep_top, logits, &mut experts, resident, pairs).unwrap();
            experts
        };
        let found = choose(pairs);
        prop_assert!(Router::check_ids(&found, E).is_ok());
        let of = Layer::new(&router, *keep_top, logits, resident, &[], Unbounded);
        let largest = router.unit(of.with_gains(wanted.iter().map(|&e| router.logit(logits, e)).max().unwrap()));
        let mass = |expert: u16| router.mass(router.logit(logits, expert), largest).to_bits();
        let sum = |experts: &[u16]| experts.iter().map(|&expert| u64::from(mass(expert))).sum::<u64>();
        let share = |whole: u64, eps: Eps| ((u128::from(whole) * u128::from(eps.to_bits())) >> 32) as u64;
        let total = router.total_mass(logits, sum(&wanted), largest);
        let square = |eps: Eps| u128::from(share(total, eps).min(u64::from(u32::MAX))).pow(2);
        let limit = |old: u16| {
            let expected = shares.get(usize::from(old)).map_or(0, |share| share.to_bits());
            (square(Eps::from_bits(pair)) * u128::from((1u32 << 31).saturating_sub(expected))) >> 31
        };
        let squared = |old: u16, new: u16| u128::from(squared_error(mass(old), mass(new)));
        let replaced: StdVec<_> = wanted.iter().copied().zip(found.iter().copied()).filter(|(old, new)| old != new).collect();
        for &(old, new) in &replaced {
            prop_assert!(squared(old, new) <= limit(old) && !layer.is_resident(old) && layer.is_resident(new));
        }
        prop_assert!(found[..*keep_top.min(&found.len())] == wanted[..*keep_top.min(&found.len())]);
        let (kept, all) = (sum(&found), sum(&wanted));
        let spent: u128 = replaced.iter().map(|&(old, new)| squared(old, new)).sum();
        let (mass_left, error_left) = (i128::from(share(all, layer.eps)) + i128::from(kept) - i128::from(all), error.map(|error| square(error) - spent));
        prop_assert!(mass_left >= 0);
        let loss = oracle::loss(&router, logits, &wanted, &found);
        // Wanted experts of nearly no mass lose in the last bits of their format.
        prop_assert!(loss <= layer.eps.to_num::<f64>() + 1e-3 || all < 1 << 20, "{}", loss);
        // The first missing one that its bound lets go is more than what is left.
        let open = router.open_groups(logits);
        let others = (0..E as u16).filter(|&e| layer.is_resident(e) && open.contains(e) && !found.contains(&e));
        let best = others.max_by_key(|&e| (router.logit(logits, e), core::cmp::Reverse(e)));
        if let Some(new) = best.filter(|_| layer.eps != Eps::ZERO && error != Some(Eps::ZERO) && pair != 0) {
            // Limits are rounded down by less than 2^31.
            let allowed = |old: u16| squared(old, new) + (1 << 31) <= limit(old);
            let missing = found.iter().skip(*keep_top).copied().filter(|&old| !layer.is_resident(old) && allowed(old));
            if let Some(old) = missing.min_by_key(|&old| router.logit(logits, old)) {
                let lost = i128::from(mass(old)) - i128::from(mass(new));
                prop_assert!(lost > mass_left || error_left.is_some_and(|left| squared(old, new) > left));
            }
        }
        // Without a bound on pairs shares make no difference.
        prop_assert_eq!(choose(Pairs { error: None, shares: &shares }), choose(Pairs { error: None, shares: &[] }));
    }
}

/// A gain makes room: without it nobody could stand in for expert 1.
#[test]
fn what_a_bias_leaves_on_the_table_is_used() {
    let bias = [3.0, 2.0, 1.0, 0.0, 0.0].map(Logit::from_num);
    let router = Router::sigmoid_grouped(3, 1, 1, &bias);
    // 3 is resident and better by mass than the wanted 2, which is resident, too; 4 is resident and worse than the
    // missing 1.
    let logits = [2.0, 1.0, -2.0, 1.5, 0.0].map(Logit::from_num);
    let mut resident = ExpertSet::<1>::new();
    [0, 2, 3, 4].into_iter().for_each(|expert| assert!(resident.insert(expert)));
    let wanted = router.top_k::<3>(&logits).unwrap();
    assert_eq!(wanted, [0, 1, 2]);
    let found = select::<3>(&router, Eps::from_num(0.01), 1, &logits, &wanted, &resident).unwrap();
    assert_eq!((&found.experts[..], found.substituted), (&[0, 3, 2][..], 1));
    resident.remove(3);
    let found = select::<3>(&router, Eps::from_num(0.01), 1, &logits, &wanted, &resident).unwrap();
    assert_eq!(found.substituted, 0);
    // 4 for 1 loses 0.23, and 3, as far as 1, for nobody: with 2 missing it gains 0.7 in its place.
    resident.remove(2);
    let found = select::<3>(&router, Eps::from_num(0.01), 1, &logits, &wanted, &resident).unwrap();
    assert_eq!((&found.experts[..], found.substituted), (&[0, 1, 4][..], 1));
}

/// The definition, with sorted lists: what replaces what under both bounds.
fn plain(case: &Case, bounds: Bounds, wanted: &[u16]) -> StdVec<u16> {
    let (router, mut chosen) = (router(case), wanted.to_vec());
    let logit = |expert: u16| case.logits[usize::from(expert)];
    let mut others: StdVec<u16> =
        case.resident.iter().filter(|&e| usize::from(e) < E && !wanted.contains(&e)).collect();
    others.sort_by_key(|&expert| (core::cmp::Reverse(logit(expert)), expert));
    let best_wanted = wanted.iter().map(|&expert| logit(expert)).max();
    // The fast way: a softmax, the first is the best, and the missing are in order. It knows no gains.
    let in_order = (case.keep_top..wanted.len()).filter(|&r| !case.resident.contains(wanted[r]));
    let best = best_wanted.unwrap_or(Logit::MIN);
    let in_order = in_order.map(|rank| router.mass(logit(wanted[rank]), best)).is_sorted_by(|a, b| a >= b);
    let fast =
        !case.sigmoid && bounds.error.is_none() && in_order && wanted.first().is_none_or(|&first| logit(first) == best);
    let largest = match bounds.error {
        Some(_) => Layer::new(&router, 0, &case.logits, &case.resident, &[], Unbounded).with_gains(best),
        None => best,
    };
    let mass = |expert: u16| u64::from(router.mass(logit(expert), largest).to_bits());
    let mut missing: StdVec<usize> =
        (case.keep_top..wanted.len()).filter(|&r| !case.resident.contains(wanted[r])).collect();
    missing.sort_by_key(|&rank| (mass(wanted[rank]), (!fast).then(|| logit(wanted[rank])), core::cmp::Reverse(rank)));
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
        let new = if fast { new.min(old) } else { new };
        if old > left + new || error_left.is_some_and(|left| squared > left) {
            break;
        }
        left = left + new - old;
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
    let many: StdVec<u16> = (0..65).collect();
    let found = select::<70>(&Router::switch(), Eps::MAX, 0, &logits, &many, &ExpertSet::<1>::new());
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

/// Outputs of length 1 in six dimensions: `correlation` between the outputs of any two experts, or only between those
/// of a pair.
fn change(pairs: &[(f64, f64)], correlation: f64, between: bool) -> f64 {
    let (common, own) = (correlation.sqrt(), (1.0 - correlation).sqrt());
    // A common direction (of all, or of each pair), and one of its own for each expert.
    let square: f64 = pairs.iter().map(|(w, v)| own * own * (w * w + v * v)).sum();
    let along: f64 = pairs.iter().map(|(w, v)| common * (v - w)).sum();
    let apart: f64 = pairs.iter().map(|(w, v)| (common * (v - w)).powi(2)).sum();
    (square + if between { along * along } else { apart }).sqrt()
}

/// Mixing weights of what is replaced and of what replaces it.
fn replaced(logits: &[Logit], wanted: &[u16], chosen: &[u16], renormalise: bool) -> StdVec<(f64, f64)> {
    let largest = logits.iter().max().unwrap().to_num::<f64>();
    let e = |expert: u16| (logits[usize::from(expert)].to_num::<f64>() - largest).exp();
    let all = (0..logits.len() as u16).map(e).sum::<f64>();
    let total = if renormalise { wanted.iter().map(|&expert| e(expert)).sum() } else { all };
    let pairs = wanted.iter().zip(chosen).filter(|(wanted, chosen)| wanted != chosen);
    pairs.map(|(&w, &v)| (e(w) / total, e(v) / total)).collect()
}

proptest! {
    /// What the bound on the error promises, and under which assumption.
    #[test]
    fn the_error_stays_within_its_bound(case in case(), share in 0.0f64..0.3, renormalise: bool, correlation in 0.875f64..1.0) {
        let router = if renormalise { Router::softmax_selected(K) } else { Router::softmax_all(K) };
        let wanted = router.top_k::<K>(&case.logits).unwrap();
        let bounds = Bounds { mass: case.eps, error: Some(Eps::from_num(share)) };
        let run = |bounds: Bounds| select::<K>(&router, bounds, case.keep_top, &case.logits, &wanted, &case.resident).unwrap();
        let (found, free) = (run(bounds), run(case.eps.into()));
        let estimate = |chosen: &[u16]| change(&replaced(&case.logits, &wanted, chosen, renormalise), 0.875, false);
        prop_assert!(estimate(&found.experts) <= share + 1e-6);
        prop_assert!(found.substituted <= free.substituted);
        // One more pair would break the bound: what was left out is what the mass bound alone would do next.
        if found.substituted < free.substituted {
            prop_assert!(estimate(&free.experts) >= share - 1e-6);
        }
        let none = run(Bounds { error: Some(Eps::ZERO), ..bounds });
        prop_assert_eq!(none.experts.as_slice(), wanted.as_slice());
        let pairs = replaced(&case.logits, &wanted, &found.experts, renormalise);
        let root = (pairs.len() as f64).sqrt();
        // 7/8 or more within a pair and none between: the bound. As much between pairs, too, or any other correlation
        // between them, for which the lengths of all changes add up in the worst case: its root of the number of pairs.
        // No assumption at all: four times that.
        prop_assert!(change(&pairs, correlation, false) <= share + 1e-6);
        prop_assert!(change(&pairs, correlation, true) <= root * share + 1e-6);
        prop_assert!(pairs.iter().map(|&pair| change(&[pair], 0.875, false)).sum::<f64>() <= root * share + 1e-6);
        prop_assert!(pairs.iter().map(|(w, v)| w + v).sum::<f64>() <= 4.0 * root * share + 1e-6);
    }
}

/// Two pairs that lose alike: with the correlation between them the change is longer than the bound, as its
/// documentation says.
#[test]
fn correlated_pairs_may_exceed_the_bound_on_the_error() {
    let logits = [1.0, 1.0, 0.0, 0.0].map(Logit::from_num);
    let mut resident = ExpertSet::<1>::new();
    [2, 3].into_iter().for_each(|expert| assert!(resident.insert(expert)));
    let router = Router::softmax_selected(2);
    let share = 0.6;
    let bounds = Bounds { mass: Eps::MAX, error: Some(Eps::from_num(share)) };
    let found = select::<2>(&router, bounds, 0, &logits, &[0, 1], &resident).unwrap();
    assert_eq!(found.substituted, 2);
    let pairs = replaced(&logits, &[0, 1], &found.experts, true);
    assert!(change(&pairs, 0.875, false) <= share && change(&pairs, 0.875, true) > share);
    assert!(change(&pairs, 0.875, true) <= 2f64.sqrt() * share);
}
