//! Which experts run: bounded-loss selection, the only part on the critical path.
//!
//! Wanted experts that are not resident may be replaced by resident ones, as long as the chosen experts keep at least
//! `1 - eps` of the routing mass of the wanted ones, token by token and layer by layer: a guarantee, not a tendency.
//! Mixing weights are taken from the raw scores afterwards ([`Router::weights`](crate::Router::weights)).
//!
//! Routing mass is the score without the bias that only the choice sees ([`Router::mass`]), so the wanted experts of a
//! router with such a bias, or with a table, need not be those of most mass, and the chosen can have more of it than
//! the wanted. That counts as a loss of 0, not as a negative one; what is gained by one stand-in may be given up by
//! another.

mod any;
mod floor;
mod joint;
#[cfg(test)]
mod joint_tests;
mod pairs;
mod plain;
#[cfg(test)]
mod tests;

use core::fmt;

use heapless::Vec;

use crate::num::{Eps, Logit};
use crate::router::{MAX_K, Router};
use crate::set::Experts;
pub use floor::Floor;
pub(crate) use joint::real;
pub use joint::{Batch, NOTHING, select_in_turn, select_jointly};
pub use pairs::Pairs;
use pairs::{Bounded, PairBound, Unbounded};
pub use plain::Masses;
use plain::{PLAIN_K, Plain};

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
    /// More wanted experts than the selection holds, or than [`MAX_K`].
    Capacity,
    /// More experts than [`MAX_EXPERTS`], and stand-ins to be found among them.
    Experts,
    /// A wanted expert is out of range or stands twice.
    Id,
    /// The lists of a [`Batch`] do not fit each other, or the resident experts.
    Batch,
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Capacity => "more wanted experts than the selection holds",
            Self::Experts => "more experts in the layer than a selection can go through",
            Self::Id => "a wanted expert is out of range or stands twice",
            Self::Batch => "the lists of a batch do not fit each other",
        })
    }
}

impl core::error::Error for SelectError {}

/// What a token may lose in a layer.
///
/// The mass bound is on *which* experts run; the error bound on what that does to the block's output. An [`Eps`] alone
/// is the mass bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Share of the routing mass of the wanted experts that the chosen ones may lack.
    pub mass: Eps,
    /// Largest estimated error of the block's output, in units of an expert's output; `None` for no bound.
    ///
    /// Expert i with mixing weight w gives way to j with weight v: the output changes by `d = v f_j - w f_i`. The
    /// estimate of its length is `r`, with `r^2 = (w - v)^2 + w v / 4`, and that of the whole change is the root of the
    /// sum of the squares of all pairs. It assumes:
    ///
    /// - Within a pair: outputs of length 1 with a correlation (cosine) of 7/8 or more; then `|d| <= r`, with equality
    ///   at 7/8.
    /// - Between pairs: that the changes are not correlated. **With correlated ones the change may be longer than the
    ///   bound**: at most `sqrt(n)` times for n stand-ins, whatever the correlation (the inequality of Cauchy and
    ///   Schwarz), and with 7/8 between the outputs of all experts most selections of two and more stand-ins exceed it.
    ///   Who needs a bound for every case divides it by the root of the stand-ins that a token may have, at most `k -
    ///   keep_top`.
    /// - Where not even the 7/8 can be assumed, `|d| <= w + v`, which is at most `4 r`.
    ///
    /// Mixing weights are the model's before any scale ([`Router::weights`]): where they do not sum to 1, a token whose
    /// router is undecided weighs less, and may be altered more. Where they are the scores themselves (a sigmoid or a
    /// root of softplus that is not renormalised), masses are taken of a score of 1 beside this bound, in steps of
    /// 2^-31: of a token whose wanted experts weigh less than that, the bound on mass keeps nothing.
    pub error: Option<Eps>,
}

impl From<Eps> for Bounds {
    fn from(mass: Eps) -> Self {
        Self { mass, error: None }
    }
}

/// Chooses the experts to run.
///
/// `wanted` is the model's own choice, best first; its first `keep_top` are never replaced. `sum mass(chosen) >= (1 -
/// eps) * sum mass(wanted)` holds in the arithmetic of [`Router::mass`] (`U1F31`; the budget is rounded down), and only
/// experts of groups that are open to the token stand in. Null experts ([`Router::null_experts`]) count as resident. A
/// bound of 0 returns `wanted` unchanged.
///
/// Under the bound on mass alone, and for a list that is the router's own, as many misses are avoided as any choice
/// could that keeps the first ones, the groups and the bound: the missing expert with the least mass is paired with the
/// resident of the most mass, and so on, which gives up the least mass for every number of pairs. Where the wanted are
/// not those of most mass, as a bias or a table chose them, and the next pair would exceed the bound, experts of more
/// mass that are as near at hand also take the place of wanted ones, those that gain most first, if that makes room for
/// the pair. With an error bound the pairs are taken until either budget is spent, and nothing beyond.
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

/// [`select()`] for a caller with memory of its own: `experts` are the wanted ones before and the chosen ones after it.
/// Returns the number of stand-ins; after an error nothing has been written.
///
/// Cost: a step per wanted expert. If one is missing, of a softmax router without bias and groups and with up to 16
/// wanted experts: an exponential for each but the first, a comparison per resident expert, and an exponential for each
/// resident that looks good enough and each stand-in. Of other routers: the mass of each wanted expert and each
/// stand-in, and a pass over the resident experts; a pass over all experts once if a bias or a table chose, and one
/// over those far away for each exchange that makes room; the cost of the groups ([`Router::top_k`]). With an error
/// bound one exponential per expert of the layer where the router does not renormalise.
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
    select_with_masses(router, bounds, keep_top, logits, experts, resident, &mut Masses::default())
}

/// [`select_in_place`], which leaves what it has come by of the chosen's `masses`, for [`Router::weights_of`].
///
/// # Errors
/// See [`SelectError`].
#[inline]
pub fn select_with_masses(
    router: &Router<'_>,
    bounds: impl Into<Bounds>,
    keep_top: usize,
    logits: &[Logit],
    experts: &mut [u16],
    resident: &Experts,
    masses: &mut Masses,
) -> Result<usize, SelectError> {
    masses.forget();
    let missing = missing(keep_top, logits.len(), experts, resident)?;
    let bounds = bounds.into();
    let Bounds { mass, error } = bounds;
    if missing == 0 || mass == Eps::ZERO || error == Some(Eps::ZERO) {
        return Ok(0);
    }
    match error {
        None => replace::<false, _>(router, bounds, keep_top, missing, logits, experts, resident, Unbounded, masses),
        Some(_) => replace::<true, _>(router, bounds, keep_top, missing, logits, experts, resident, Unbounded, masses),
    }
}

/// [`select_in_place`] with a bound on each stand-in beside those on the token, which depends on whether the next
/// tokens want the missing expert again: see [`Pairs`].
///
/// The bounds on the token hold as ever. The missing expert of least mass that may be replaced is paired with the
/// resident of the most mass, and so on, until no pair is allowed or a bound is spent; and nothing beyond.
///
/// Cost: that of a bound on the error, and the mass of each missing expert for each stand-in.
///
/// # Errors
/// See [`SelectError`].
#[inline]
pub fn select_by_pairs(
    router: &Router<'_>,
    bounds: impl Into<Bounds>,
    keep_top: usize,
    logits: &[Logit],
    experts: &mut [u16],
    resident: &Experts,
    pairs: Pairs<'_>,
) -> Result<usize, SelectError> {
    if pairs.error.is_none() {
        return select_in_place(router, bounds, keep_top, logits, experts, resident);
    }
    let (missing, bounds) = (missing(keep_top, logits.len(), experts, resident)?, bounds.into());
    let none = |error| error == Some(Eps::ZERO);
    if missing == 0 || bounds.mass == Eps::ZERO || none(bounds.error) || none(pairs.error) {
        return Ok(0);
    }
    let pairs = Bounded { pairs, most: 0 };
    replace::<true, _>(router, bounds, keep_top, missing, logits, experts, resident, pairs, &mut Masses::default())
}

/// What there is to do where an expert is missing. Functions of their own: who finds all of the wanted pays for none,
/// who never asks for a bound on the error does not link its arithmetic, and most routers are a plain softmax.
#[inline(never)]
#[expect(clippy::too_many_arguments, reason = "part of one function")]
fn replace<const ERROR: bool, P: PairBound>(
    router: &Router<'_>,
    bounds: Bounds,
    keep_top: usize,
    missing: u32,
    logits: &[Logit],
    experts: &mut [u16],
    resident: &Experts,
    pairs: P,
    masses: &mut Masses,
) -> Result<usize, SelectError> {
    if logits.len() > MAX_EXPERTS {
        return Err(SelectError::Experts);
    }
    if !ERROR
        && experts.len() <= PLAIN_K
        && router.is_plain()
        && let Some(substituted) = (Plain { logits, resident }).replace(missing, experts, bounds.mass, masses)
    {
        return Ok(substituted);
    }
    masses.forget();
    // Of more than 32 it is not known who is missing.
    let most = if experts.len() > 32 { experts.len() } else { missing.count_ones() as usize };
    Ok(any::replace::<ERROR, P>(router, bounds, keep_top, most, logits, experts, resident, pairs, masses))
}

/// Checks the list of wanted experts; returns the ranks of those that are not resident and may be replaced, one bit
/// each; of more than 32 not even one that says whether there are any.
#[inline]
fn missing(keep_top: usize, layer_experts: usize, wanted: &[u16], resident: &Experts) -> Result<u32, SelectError> {
    if wanted.len() > MAX_K {
        return Err(SelectError::Capacity);
    }
    let (mut seen, mut present) = ([0u32; 4], 0u32);
    for &expert in wanted {
        let (index, bit) = (usize::from(expert / 32), 1 << (expert % 32));
        let seen = &mut seen[index % 4];
        // The list is searched only if another id has the same remainder by 128.
        if usize::from(expert) >= layer_experts || *seen & bit != 0 && stands_twice(expert, wanted) {
            return Err(SelectError::Id);
        }
        *seen |= bit;
        let word = resident.words().get(index).copied().unwrap_or(0);
        // The first of them comes down to bit 0 in the end.
        present = present >> 1 | word.wrapping_shr(expert.into()) << 31;
    }
    if wanted.len() > 32 {
        return Ok(1);
    }
    let present = present.checked_shr(32u32.wrapping_sub(wanted.len() as u32)).unwrap_or(0);
    let from = |rank: usize| u32::MAX.checked_shl(rank as u32).unwrap_or(0);
    Ok(!present & from(keep_top) & !from(wanted.len()))
}

#[cold]
#[inline(never)]
fn stands_twice(expert: u16, list: &[u16]) -> bool {
    list.iter().fold(0u32, |times, &other| times.wrapping_add(u32::from(other == expert))) > 1
}
