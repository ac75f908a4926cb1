//! Which experts run: bounded-loss selection, the only part on the critical path.
//!
//! Wanted experts that are not resident may be replaced by resident ones, as long as the chosen experts keep at least `1 - eps` of
//! the routing mass of the wanted ones, token by token and layer by layer: a guarantee, not a tendency. Mixing weights are taken
//! from the raw scores afterwards ([`Router::weights`](crate::Router::weights)).

use core::fmt;

use heapless::Vec;

use crate::num::{Eps, Logit, mul_frac};
use crate::router::{Router, softmax_mass};
use crate::set::{Experts, words_for};
use crate::topk::Best;
use crate::tracker::MAX_WANTED;

/// Most experts of a layer that a selection can go through.
pub const MAX_EXPERTS: usize = 4096;

/// The experts to run for one token in one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection<const K: usize> {
    /// Chosen experts, distinct; a stand-in takes the place of the expert that it stands in for.
    pub experts: Vec<u16, K>,
    /// Number of stand-ins.
    pub substituted: usize,
}

/// Why there is no selection.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelectError {
    /// More wanted experts than the selection holds, or than [`MAX_WANTED`].
    Capacity,
    /// More experts than [`MAX_EXPERTS`], and stand-ins to be found among them.
    Experts,
    /// A wanted expert is out of range or stands twice.
    Id,
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Capacity => "more wanted experts than the selection holds",
            Self::Experts => "more experts in the layer than a selection can go through",
            Self::Id => "a wanted expert is out of range or stands twice",
        })
    }
}

impl core::error::Error for SelectError {}

/// What a token may lose in a layer.
///
/// The mass bound is on *which* experts run; the error bound on what that does to the block's output. An [`Eps`] alone is the mass bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Share of the routing mass of the wanted experts that the chosen ones may lack.
    pub mass: Eps,
    /// Largest estimated error of the block's output, in units of an expert's output; `None` for no bound.
    ///
    /// Expert i with mixing weight w gives way to j with weight v: the output changes by `v f_j - w f_i`. For outputs of equal norm and
    /// correlation 7/8 the square of that is `(w - v)^2 + w v / 4`, and the squares of several pairs add up. Mixing weights are
    /// the model's ([`Router::weights`]): where they do not sum to 1, a token whose router is undecided weighs less, and may be
    /// altered more.
    pub error: Option<Eps>,
}

impl From<Eps> for Bounds {
    fn from(mass: Eps) -> Self {
        Self { mass, error: None }
    }
}

/// Chooses the experts to run.
///
/// `wanted` is the model's own choice, best first; its first `keep_top` are never replaced. `sum mass(chosen) >= (1 - eps) * sum
/// mass(wanted)` holds in the arithmetic of [`Router::mass`] (`U1F31`; the budget is rounded down), and under this bound alone as many
/// misses are avoided as one can: the missing expert with the least mass is paired with the resident stand-in of the most mass, and
/// so on, which minimises the mass given up for every number of pairs. With an error bound the same pairs are taken until either
/// budget is spent. A bound of 0 returns `wanted` unchanged.
///
/// Cost: see [`select_in_place`].
///
/// # Errors
/// See [`SelectError`].
#[inline]
pub fn select<const K: usize>(
    router: &Router<'_>,
    bounds: impl Into<Bounds>,
    keep_top: usize,
    logits: &[Logit],
    wanted: &[u16],
    resident: &Experts,
) -> Result<Selection<K>, SelectError> {
    let mut experts = Vec::from_slice(wanted).map_err(|_| SelectError::Capacity)?;
    let substituted = select_in_place(router, bounds, keep_top, logits, &mut experts, resident)?;
    Ok(Selection { experts, substituted })
}

/// [`select()`] for a caller with memory of its own: `experts` are the wanted ones before and the chosen ones after it. Returns the number of
/// stand-ins; after an error nothing has been written.
///
/// Cost: a step per wanted expert, and if one is missing an exponential for each but the first, a comparison per resident expert, and an
/// exponential for each resident that looks good enough and each stand-in. With an error bound one exponential per expert of the layer where
/// the router does not renormalise.
///
/// # Errors
/// See [`SelectError`].
#[inline]
pub fn select_in_place(
    router: &Router<'_>,
    bounds: impl Into<Bounds>,
    keep_top: usize,
    logits: &[Logit],
    experts: &mut [u16],
    resident: &Experts,
) -> Result<usize, SelectError> {
    let missing = missing(keep_top, logits.len(), experts, resident)?;
    let Bounds { mass, error } = bounds.into();
    if missing == 0 || mass == Eps::ZERO || error == Some(Eps::ZERO) {
        return Ok(0);
    }
    if logits.len() > MAX_EXPERTS {
        return Err(SelectError::Experts);
    }
    let layer = Layer { router, logits, resident };
    // Three functions: who never asks for a bound on the error does not link its arithmetic, and most routers are a softmax.
    Ok(match error {
        None if router.compares() => layer.replace::<false, true>(missing, experts, mass, Eps::MAX),
        None => layer.replace::<false, false>(missing, experts, mass, Eps::MAX),
        Some(error) => layer.replace::<true, false>(missing, experts, mass, error),
    })
}

/// Checks the list of wanted experts; returns the ranks of those that are not resident and may be replaced, one bit each.
#[inline]
fn missing(keep_top: usize, layer_experts: usize, wanted: &[u16], resident: &Experts) -> Result<u32, SelectError> {
    if wanted.len() > MAX_WANTED {
        return Err(SelectError::Capacity);
    }
    let (mut seen, mut present) = (0u32, 0u32);
    for &expert in wanted.iter().rev() {
        let bit = 1 << (expert % 32);
        // The list is searched only if another id has the same remainder.
        if usize::from(expert) >= layer_experts || seen & bit != 0 && stands_twice(expert, wanted) {
            return Err(SelectError::Id);
        }
        seen |= bit;
        let word = resident.words().get(usize::from(expert / 32)).copied().unwrap_or(0);
        present = present << 1 | word.wrapping_shr(expert.into()) & 1;
    }
    let from = |rank: usize| u32::MAX.checked_shl(rank as u32).unwrap_or(0);
    Ok(!present & from(keep_top) & !from(wanted.len()))
}

#[cold]
fn stands_twice(expert: u16, list: &[u16]) -> bool {
    list.iter().filter(|&&other| other == expert).count() > 1
}

/// One bit per expert of a layer.
type Words = Vec<u32, { words_for(MAX_EXPERTS) }>;

/// Mass and rank of missing experts, least mass first.
type Missing = Vec<(u32, u16), MAX_WANTED>;

/// What a selection goes by.
struct Layer<'a> {
    router: &'a Router<'a>,
    /// At most [`MAX_EXPERTS`].
    logits: &'a [Logit],
    resident: &'a Experts,
}

/// Masses of the wanted experts.
struct Masses {
    /// Their sum.
    all: u64,
    /// Logit and mass of one of the least, the last.
    last: (Logit, u32),
}

// The larger results of what follows are filled in place: moving them would cost more than the work.
impl Layer<'_> {
    /// Lets residents stand in for those of `experts` whose ranks are `missing`, within both bounds if `ERROR`, else within that on mass alone.
    /// `SOFTMAX`: the router is known to be one.
    #[inline(never)]
    fn replace<const ERROR: bool, const SOFTMAX: bool>(
        &self,
        missing: u32,
        experts: &mut [u16],
        eps: Eps,
        error: Eps,
    ) -> usize {
        let (mut others, mut least_first) = (Words::new(), Missing::new());
        for &word in self.resident.words().iter().take(words_for(self.logits.len())) {
            // There is room: no more words than those of `MAX_EXPERTS`.
            _ = others.push(word);
        }
        let greatest = |logits: &mut dyn Iterator<Item = Logit>| logits.fold(Logit::MIN, Ord::max);
        let mut largest = if ERROR {
            // It counts stand-ins above all wanted ones for what they are.
            greatest(&mut self.logits.iter().copied())
        } else {
            self.logit(experts.first().copied().unwrap_or(0))
        };
        let masses = loop {
            if let Some(masses) = self.masses::<SOFTMAX>(missing, experts, largest, &mut others, &mut least_first) {
                break masses;
            }
            // The first is not the best: a list that is not the model's own.
            largest = greatest(&mut experts.iter().map(|&expert| self.logit(expert)));
            least_first.clear();
        };
        let mut mass_left = share_of(masses.all, eps);
        let mut error_left = 0;
        if ERROR {
            let total = self.router.total_mass(self.logits, masses.all, largest);
            let error = share_of(total, error).min(u64::from(u32::MAX));
            error_left = error * error;
        }
        let possible = possible_pairs(&least_first, masses.last.1, mass_left);
        let mut stand_ins = Best::new(possible.max(1));
        self.stand_ins::<SOFTMAX>(&others, largest, &least_first, possible, mass_left, masses.last, &mut stand_ins);
        let mut substituted = 0;
        for (&(mass, rank), &(score, expert)) in least_first.iter().zip(stand_ins.entries()) {
            let stand_in = self.mass::<SOFTMAX>(score, largest);
            let loss = u64::from(mass.saturating_sub(stand_in));
            let (Some(left), Some(place)) = (mass_left.checked_sub(loss), experts.get_mut(usize::from(rank))) else {
                break;
            };
            if ERROR {
                let Some(left) = error_left.checked_sub(squared_error(mass, stand_in)) else { break };
                error_left = left;
            }
            mass_left = left;
            *place = expert;
            substituted += 1;
        }
        substituted
    }

    /// Mass of an expert, `U1F31` bits.
    #[inline(always)]
    fn mass<const SOFTMAX: bool>(&self, logit: Logit, largest: Logit) -> u32 {
        if SOFTMAX { softmax_mass(logit, largest) } else { self.router.mass(logit, largest) }.to_bits()
    }

    /// Logit of a wanted expert, whose id has been checked.
    #[inline(always)]
    fn logit(&self, expert: u16) -> Logit {
        self.logits.get(usize::from(expert)).copied().unwrap_or(Logit::MIN)
    }

    /// Masses of the wanted experts; those of the ranks `missing` go to `least_first`, and all wanted ones out of `others`. `None` if a logit is
    /// above `largest`.
    #[inline(always)]
    fn masses<const SOFTMAX: bool>(
        &self,
        missing: u32,
        wanted: &[u16],
        largest: Logit,
        others: &mut Words,
        least_first: &mut Missing,
    ) -> Option<Masses> {
        let mut masses = Masses { all: 0, last: (Logit::MAX, u32::MAX) };
        let (mut most, mut in_order) = (0, true);
        // From the last rank up, so that of equal masses the lower-ranked gives way first.
        for (rank, &expert) in wanted.iter().enumerate().rev() {
            let logit = self.logit(expert);
            if logit > largest && (SOFTMAX || self.router.compares()) {
                return None;
            }
            if let Some(word) = others.get_mut(usize::from(expert / 32)) {
                *word &= !(1 << (expert % 32));
            }
            let mass = self.mass::<SOFTMAX>(logit, largest);
            if rank + 1 == wanted.len() {
                masses.last = (logit, mass);
            }
            masses.all += u64::from(mass);
            if missing >> rank & 1 != 0 {
                in_order &= mass >= most;
                most = mass;
                // There is room: no more than the wanted ones.
                _ = least_first.push((mass, rank as u16));
            }
        }
        if !in_order {
            sort(least_first);
        }
        Some(masses)
    }

    /// The best of `others`: as many as may pair with the `missing` within `budget`, or more.
    ///
    /// Two bounds keep the work small. A stand-in that exceeds the budget with the least missing expert is never taken. And if no stand-in is above
    /// the last wanted one, as is so where the wanted are the best, no more than `possible` can be taken; every one above makes one more possible.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "part of one function")]
    fn stand_ins<const SOFTMAX: bool>(
        &self,
        others: &Words,
        largest: Logit,
        missing: &Missing,
        possible: usize,
        budget: u64,
        (last, _): (Logit, u32),
        best: &mut Best<Logit, MAX_WANTED>,
    ) {
        let enough = missing.first().map_or(0, |&(mass, _)| u64::from(mass).saturating_sub(budget) as u32);
        // Logits from `good` on are known to have enough, logits below `least` to be of no use.
        let mut good = match (enough, possible) {
            (0, _) => Logit::MIN,
            (_, 0) => Logit::MAX,
            _ => last,
        };
        let mut least = Logit::MIN;
        for (index, &word) in others.iter().enumerate() {
            let base = 32 * index;
            let (mut open, logits) = (word, self.logits.get(base..).unwrap_or(&[]));
            while open != 0 {
                let bit = open.trailing_zeros() as usize;
                open &= open - 1;
                let Some(&logit) = logits.get(bit) else { break };
                if logit < least {
                    continue;
                }
                if logit < good {
                    if self.mass::<SOFTMAX>(logit, largest) < enough {
                        least = logit + Logit::DELTA; // `good` is above it
                        continue;
                    }
                    good = logit;
                }
                if logit > last {
                    best.widen(missing.len());
                }
                if let Some(bar) = best.insert(logit, (base + bit) as u16) {
                    let Some(above) = bar.checked_add(Logit::DELTA) else { return };
                    least = least.max(above);
                }
            }
        }
    }
}

/// How many of the missing experts, least mass first, could be paired within `budget` with stand-ins of the mass `stand_in` each.
#[inline(always)]
fn possible_pairs(missing: &Missing, stand_in: u32, mut budget: u64) -> usize {
    let mut pairs = 0;
    for &(mass, _) in missing {
        let Some(left) = budget.checked_sub(u64::from(mass.saturating_sub(stand_in))) else { break };
        budget = left;
        pairs += 1;
    }
    pairs
}

/// Sorts by rising mass, in the order there is for equals. Only lists that are not the model's own order need it.
#[cold]
#[inline(never)]
fn sort(missing: &mut [(u32, u16)]) {
    for end in 1..=missing.len() {
        let mut rest = missing.get_mut(..end).unwrap_or(&mut []);
        while let [.., below, last] = rest
            && below.0 > last.0
        {
            core::mem::swap(below, last);
            let Some((_, sorted)) = rest.split_last_mut() else { break };
            rest = sorted;
        }
    }
}

/// What replacing an expert of mass `w` by one of mass `v` adds to the squared error: `(w - v)^2 + w v / 4`, in the square of the format;
/// below 2^63, as masses are at most 1.
fn squared_error(w: u32, v: u32) -> u64 {
    let (w, v) = (u64::from(w), u64::from(v));
    let difference = w.abs_diff(v);
    difference * difference + ((w * v) >> 2)
}

/// `mass * eps`, rounded down, for any number of masses that a selection can hold.
fn share_of(mass: u64, eps: Eps) -> u64 {
    let (high, low) = (mass >> 32, mass as u32);
    high * u64::from(eps.to_bits()) + u64::from(mul_frac(low, eps.to_bits()))
}

#[cfg(test)]
mod tests {
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
}
