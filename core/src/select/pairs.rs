//! What a single stand-in may cost.

use crate::num::{Eps, Level, part_of};

/// A bound on each stand-in of a token: how far it may alter the output of the layer.
///
/// A bound on the token alone is spent where it can be spent, on the last of the wanted as on one that matters. With
/// the same bound for every pair of every token the same error is given for each miss that is avoided, which is the
/// least error for that number of misses as far as errors add up.
///
/// An expert that the next tokens want again saves more misses if it is loaded now, so less is given for replacing it:
/// with the share `s` of the next tokens that want it, the pair of an expert of mixing weight w and its stand-in of
/// weight v is allowed if `r^2 <= error^2 (1 - s)`, with r as of [`Bounds::error`](super::Bounds::error).
///
/// ```
/// use cptr_core::select::{Pairs, select_by_pairs};
/// use cptr_core::{Eps, ExpertSet, Level, Logit, Router};
///
/// let mut resident = ExpertSet::<1>::new();
/// assert!(resident.insert(0) && resident.insert(3));
/// let chosen = |shares: &[Level]| {
///     let (logits, mut experts) = ([2.0, 0.1, 0.0, -0.5].map(Logit::from_num), [0, 1, 2]);
///     let pairs = Pairs { error: Some(Eps::from_num(0.1)), shares };
///     select_by_pairs(&Router::softmax_all(3), Eps::MAX, 1, &logits, &mut experts, &resident, pairs)?;
///     Ok::<_, cptr_core::SelectError>(experts)
/// };
/// assert_eq!(chosen(&[])?, [0, 1, 3]);
/// // Expert 2 is wanted again.
/// assert_eq!(chosen(&[0.0, 0.0, 0.9].map(Level::from_num))?, [0, 3, 2]);
/// # Ok::<(), cptr_core::SelectError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a> {
    /// Largest estimated error of a pair, in units of an expert's output; `None` for no bound, and then shares make no
    /// difference.
    pub error: Option<Eps>,
    /// Share of the next tokens that want each expert `[E]`, as of
    /// [`Recall::forecast`](crate::recall::Recall::forecast), or what a caller makes of it; experts behind the end are
    /// not expected.
    pub shares: &'a [Level],
}

/// A bound on pairs as a selection goes by it; nothing is linked of one that nobody asks for.
pub(super) trait PairBound {
    /// Whether there is one.
    const BOUNDED: bool;

    /// The routing mass of the token's experts, all together.
    fn begin(&mut self, total: u64);

    /// The squared error that a pair may have that replaces an expert.
    fn most(&self, expert: u16) -> u64;
}

/// No bound.
pub(super) struct Unbounded;

impl PairBound for Unbounded {
    const BOUNDED: bool = false;

    fn begin(&mut self, _: u64) {}

    fn most(&self, _: u16) -> u64 {
        u64::MAX
    }
}

/// The bound of [`Pairs`].
pub(super) struct Bounded<'a> {
    pub(super) pairs: Pairs<'a>,
    /// Squared error for an expert that is not expected.
    pub(super) most: u64,
}

impl PairBound for Bounded<'_> {
    const BOUNDED: bool = true;

    fn begin(&mut self, total: u64) {
        self.most = squared(self.pairs.error, total);
    }

    /// Rounded down.
    fn most(&self, expert: u16) -> u64 {
        match self.pairs.shares.get(usize::from(expert)) {
            // Below 2^33 times at most 2^31.
            Some(share) if self.pairs.error.is_some() => {
                (self.most >> 31) * u64::from(Level::ONE.to_bits().saturating_sub(share.to_bits()))
            }
            _ => self.most,
        }
    }
}

/// The square of a share of a mass.
#[inline(always)]
pub(super) fn squared(error: Option<Eps>, total: u64) -> u64 {
    let error = error.map_or(0, |error| part_of(total, error.to_bits()).min(u32::MAX.into()));
    error * error
}
