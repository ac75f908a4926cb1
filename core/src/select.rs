//! Which experts run: bounded-loss selection, the only part on the critical path.
//!
//! Wanted experts that are not resident may be replaced by resident ones, as long as the chosen experts keep at least `1 - eps` of
//! the routing mass of the wanted ones, token by token and layer by layer: a guarantee, not a tendency. Mixing weights are taken
//! from the raw scores afterwards ([`Router::weights`](crate::Router::weights)).

use core::fmt;

use heapless::Vec;

use crate::num::{Eps, Logit, mul_frac};
use crate::router::Router;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelectError {
    /// More wanted experts than the selection holds, or than [`MAX_WANTED`].
    Capacity,
    /// More experts than [`MAX_EXPERTS`].
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
    let bounds = bounds.into();
    // Two functions, so that who never asks for a bound on the error does not link its arithmetic.
    match bounds.error {
        None => within::<false>(router, bounds.mass, Eps::MAX, keep_top, logits, experts, resident),
        Some(error) => within::<true>(router, bounds.mass, error, keep_top, logits, experts, resident),
    }
}

/// [`select_in_place`] with both bounds if `ERROR`, else with the bound on mass alone.
fn within<const ERROR: bool>(
    router: &Router<'_>,
    eps: Eps,
    error: Eps,
    keep_top: usize,
    logits: &[Logit],
    experts: &mut [u16],
    resident: &Experts,
) -> Result<usize, SelectError> {
    let mut marked = Words::new();
    let Wanted { missing, largest } = wanted(&mut marked, keep_top, logits, experts, resident)?;
    if eps == Eps::ZERO || error == Eps::ZERO || missing == 0 {
        return Ok(0);
    }
    // The error counts stand-ins above all wanted ones for what they are.
    let largest = if ERROR { logits.iter().copied().fold(largest, Ord::max) } else { largest };
    let mut least_first = Best::<i32, MAX_WANTED>::new(MAX_WANTED);
    let mut wanted_mass = 0;
    // From the last rank up, so that of equal masses the lower-ranked gives way first.
    for (rank, &expert) in experts.iter().enumerate().rev() {
        let logit = logits.get(usize::from(expert)).copied().unwrap_or(largest);
        let mass = router.mass(logit, largest).to_bits();
        wanted_mass += u64::from(mass);
        if missing >> rank & 1 != 0 {
            // At most 2^31: the order of the negative numbers is that of falling masses.
            least_first.offer(mass.cast_signed().wrapping_neg(), rank as u16);
        }
    }
    let mut mass_left = share_of(wanted_mass, eps);
    let mut error_left = 0;
    if ERROR {
        let error = share_of(router.total_mass(logits, wanted_mass, largest), error).min(u64::from(u32::MAX));
        error_left = error * error;
    }
    let pairs = least_first.entries().iter().map(|&(mass, rank)| (mass.cast_unsigned().wrapping_neg(), rank));
    // A stand-in with less is never taken: with the least missing one it would already exceed the budget.
    let least_mass = pairs.clone().next().map_or(0, |(mass, _)| u64::from(mass).saturating_sub(mass_left) as u32);
    let enough = |logit: Logit| least_mass == 0 || router.mass(logit, largest).to_bits() >= least_mass;
    let stand_ins = stand_ins(pairs.len(), logits, resident, &marked, enough);
    let mut substituted = 0;
    for ((mass, rank), &(score, expert)) in pairs.zip(stand_ins.entries()) {
        let stand_in = router.mass(score, largest).to_bits();
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
    Ok(substituted)
}

/// One bit per expert of the layer.
type Words = Vec<u32, { words_for(MAX_EXPERTS) }>;

/// What a list of wanted experts says.
struct Wanted {
    /// Ranks that may be replaced as their experts are not resident, one bit each.
    missing: u32,
    /// The largest of their logits.
    largest: Logit,
}

/// Checks the list and sets the bits of its experts in `marked`.
#[inline(always)]
fn wanted(
    marked: &mut Words,
    keep_top: usize,
    logits: &[Logit],
    experts: &[u16],
    resident: &Experts,
) -> Result<Wanted, SelectError> {
    if experts.len() > MAX_WANTED {
        return Err(SelectError::Capacity);
    }
    if logits.len() > MAX_EXPERTS {
        return Err(SelectError::Experts);
    }
    for _ in 0..words_for(logits.len()) {
        // There is room: no more words than those of `MAX_EXPERTS`.
        _ = marked.push(0);
    }
    let mut wanted = Wanted { missing: 0, largest: Logit::MIN };
    for (rank, &expert) in experts.iter().enumerate() {
        let (word, bit) = (usize::from(expert / 32), 1 << (expert % 32));
        let (Some(&logit), Some(mark)) = (logits.get(usize::from(expert)), marked.get_mut(word)) else {
            return Err(SelectError::Id);
        };
        if *mark & bit != 0 {
            return Err(SelectError::Id);
        }
        *mark |= bit;
        wanted.largest = wanted.largest.max(logit);
        if rank >= keep_top && !resident.contains(expert) {
            wanted.missing |= 1 << rank;
        }
    }
    Ok(wanted)
}

/// The best `count` residents whose logits are `enough`, which none below one that is not can be, and whose bits are not `marked`.
#[inline(always)]
fn stand_ins(
    count: usize,
    logits: &[Logit],
    resident: &Experts,
    marked: &Words,
    enough: impl Fn(Logit) -> bool,
) -> Best<Logit, MAX_WANTED> {
    let mut best = Best::new(count);
    // Those below are known not to make it.
    let mut least = Logit::MIN;
    for ((logits, (words, marked)), base) in
        logits.chunks(32).zip(resident.words().iter().zip(marked)).zip((0u16..).step_by(32))
    {
        let mut open = words & !marked;
        while open != 0 {
            let bit = open.trailing_zeros();
            open &= open - 1;
            let Some(&logit) = logits.get(bit as usize) else { break };
            if logit < least {
                continue;
            }
            let bar = if enough(logit) {
                best.offer(logit, base + bit as u16);
                best.bar()
            } else {
                Some(logit)
            };
            least = bar.map_or(least, |bar| least.max(bar.saturating_add(Logit::DELTA)));
        }
    }
    best
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
