//! Equal parts of one limit on copies, for tenants that share fast memory: none of them takes what is another's.
//!
//! Tenants are the sequences of a batch, or the queues of a device. Of each step's `rate` copies every tenant that has
//! a token in the step gets an equal part, and may save up its part of `burst` (one copy at least). What a tenant may
//! take hangs on who is there, and never on what the others ask for; one that is away saves nothing. A tenant that is
//! alone has the whole limit, as an [`Allowance`](crate::replace::Allowance) would give it.
//!
//! ```
//! use cptr_core::shares::{Share, Shares};
//!
//! // Two copies a step, of which four may be saved up: those of two tenants.
//! let mut shares = Shares::new(2 << 16, 4, [Share::default(); 2]);
//! shares.step(|_| true);
//! // The first one asks for all that there is, and gets its half.
//! assert_eq!((0..9).filter(|_| shares.take(0)).count(), 2);
//! assert_eq!((0..9).filter(|_| shares.take(1)).count(), 2);
//! // Alone, it has all of it.
//! shares.step(|tenant| tenant == 0);
//! assert_eq!((0..9).filter(|_| shares.take(0)).count(), 2);
//! assert_eq!(shares.of(0).map(Share::refused), Some(7 + 7));
//! ```

/// A copy, with 16 fraction bits.
const ONE: u64 = 1 << 16;
/// Tenants of which a part is computed; those beyond get nothing.
const MOST: usize = u16::MAX as usize;

/// What one tenant has of a limit. The memory is the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Copies left, 16 fraction bits.
    left: u64,
    taken: u32,
    refused: u32,
}

impl Share {
    /// Whole copies that it may take now.
    pub const fn left(&self) -> u32 {
        (self.left >> 16) as u32
    }

    /// Copies that it took, saturating.
    pub const fn taken(&self) -> u32 {
        self.taken
    }

    /// Copies that it was refused, saturating.
    pub const fn refused(&self) -> u32 {
        self.refused
    }
}

/// One limit, and what each tenant has of it. Up to 65,535 tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares<L> {
    /// Copies per step, 16 fraction bits.
    rate: u32,
    /// Copies that may be saved up.
    burst: u32,
    /// Whether no step has begun yet.
    fresh: bool,
    shares: L,
}

impl<L: AsRef<[Share]> + AsMut<[Share]>> Shares<L> {
    /// `rate` copies per step with 16 fraction bits, and at most `burst` saved up, which are there at the first step.
    pub const fn new(rate: u32, burst: u32, shares: L) -> Self {
        Self { rate, burst, fresh: true, shares }
    }

    /// A step begins, in which `is_here` says who has a token. Cost: four 32-bit divisions, and two passes over the
    /// tenants.
    pub fn step(&mut self, is_here: impl Fn(usize) -> bool) {
        let shares = self.shares.as_mut();
        let here = (0..shares.len().min(MOST)).filter(|&tenant| is_here(tenant)).count() as u32;
        let gets = u64::from(self.rate.checked_div(here).unwrap_or(0));
        let whole = u64::from(self.burst.checked_div(here).unwrap_or(0));
        // The rest is below 2^16.
        let rest = self.burst.checked_rem(here).unwrap_or(0).wrapping_shl(16).checked_div(here).unwrap_or(0);
        let least = if self.burst > 0 { ONE } else { 0 };
        let most = (whole << 16 | u64::from(rest)).max(least);
        for (tenant, share) in (0..MOST).zip(shares) {
            share.left = match (is_here(tenant), self.fresh) {
                (false, _) => 0,
                (true, true) => most,
                (true, false) => share.left.saturating_add(gets).min(most),
            };
        }
        self.fresh = self.fresh && here == 0;
    }

    /// Takes a copy out of a tenant's share; returns whether there was one. Counts both.
    pub fn take(&mut self, tenant: usize) -> bool {
        let Some(share) = self.shares.as_mut().get_mut(tenant) else { return false };
        match share.left.checked_sub(ONE) {
            Some(left) => {
                share.left = left;
                share.taken = share.taken.saturating_add(1);
                true
            }
            None => {
                share.refused = share.refused.saturating_add(1);
                false
            }
        }
    }

    /// Who of some tenants has the most left, of equals the first one named: who should answer for a copy that is for
    /// all of them.
    pub fn richest(&self, tenants: impl IntoIterator<Item = usize>) -> Option<usize> {
        let left = |tenant: usize| self.of(tenant).map_or(0, |share| share.left);
        tenants.into_iter().reduce(|best, tenant| if left(tenant) > left(best) { tenant } else { best })
    }

    /// What a tenant has.
    pub fn of(&self, tenant: usize) -> Option<&Share> {
        self.shares.as_ref().get(tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replace::Allowance;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const TENANTS: usize = 5;

    /// Steps: who is there (a bit each), and how much each asks for.
    fn steps() -> impl Strategy<Value = Vec<(u8, [u8; TENANTS])>> {
        prop::collection::vec((any::<u8>(), prop::array::uniform5(0u8..12)), 0..120)
    }

    fn is_here(set: u8, tenant: usize) -> bool {
        set >> tenant & 1 != 0
    }

    /// Copies that each tenant takes in each step.
    fn taken(rate: u32, burst: u32, steps: &[(u8, [u8; TENANTS])]) -> Vec<[u64; TENANTS]> {
        let mut shares = Shares::new(rate, burst, [Share::default(); TENANTS]);
        let step = |&(here, asks): &(u8, [u8; TENANTS])| {
            shares.step(|tenant| is_here(here, tenant));
            core::array::from_fn(|tenant| (0..asks[tenant]).filter(|_| shares.take(tenant)).count() as u64)
        };
        steps.iter().map(step).collect()
    }

    proptest! {
        /// In any stretch of steps, whatever is asked: a tenant's parts of the rate, and what it may have saved up.
        #[test]
        fn nobody_is_above_their_share(rate in 0u32..6 << 16, burst in 0u32..40, steps in steps()) {
            let taken = taken(rate, burst, &steps);
            let here = |set: u8| (0..TENANTS).filter(|&tenant| is_here(set, tenant)).count() as u64;
            for tenant in 0..TENANTS {
                for first in 0..steps.len() {
                    // In sixteen-bit fractions; before the stretch at most what may be saved up with those there now.
                    let (mut bound, mut sum) = (None, 0);
                    for (&(set, _), step) in steps.iter().zip(&taken).skip(first) {
                        if !is_here(set, tenant) {
                            break;
                        }
                        let part = u64::from(rate) / here(set);
                        let most = ((u64::from(burst) << 16) / here(set)).max(if burst > 0 { ONE } else { 0 });
                        bound = Some(bound.map_or(most, |bound: u64| bound + part));
                        sum += step[tenant];
                        prop_assert!(sum << 16 <= bound.unwrap_or(0), "{sum} of {bound:?}");
                    }
                }
            }
        }

        /// What one tenant gets is the same whatever the others ask for.
        #[test]
        fn others_take_nothing_away(
            rate in 0u32..6 << 16, burst in 0u32..40, steps in steps(), others in prop::array::uniform5(0u8..12),
        ) {
            let mut changed = steps.clone();
            for (index, (_, asks)) in changed.iter_mut().enumerate() {
                (1..TENANTS).for_each(|tenant| asks[tenant] = others[(index + tenant) % TENANTS]);
            }
            let of_first = |steps: &[_]| taken(rate, burst, steps).iter().map(|step| step[0]).collect::<Vec<_>>();
            prop_assert_eq!(of_first(&steps), of_first(&changed));
        }

        /// Alone, a tenant has what a limit without parts gives.
        #[test]
        fn alone_nothing_is_lost(
            rate in 0u32..6 << 16, burst in 0u32..40, asks in prop::collection::vec(0u8..12, 0..200),
        ) {
            let steps: Vec<_> = asks.iter().map(|&asks| (1, [asks, 0, 0, 0, 0])).collect();
            let mut limit = Allowance::new(rate, burst);
            for (step, asks) in taken(rate, burst, &steps).into_iter().zip(asks) {
                limit.token();
                prop_assert_eq!(step[0], (0..asks).filter(|_| limit.take()).count() as u64);
            }
        }

        /// All together take no more than the limit.
        #[test]
        fn together_they_keep_the_limit(rate in 0u32..6 << 16, burst in 0u32..40, steps in steps()) {
            let mut sum = 0;
            for (index, step) in taken(rate, burst, &steps).iter().enumerate() {
                sum += step.iter().sum::<u64>();
                let saved = u64::from(if burst > 0 { burst.max(TENANTS as u32) } else { 0 });
                prop_assert!(sum << 16 <= (saved << 16) + u64::from(rate) * index as u64);
            }
        }
    }

    #[test]
    fn counts_and_who_has_most() {
        let mut shares = Shares::new(1 << 16, 6, vec![Share::default(); 3]);
        assert_eq!((shares.take(0), shares.richest([])), (false, None));
        shares.step(|_| true);
        assert!(shares.take(1) && shares.take(1) && !shares.take(1) && !shares.take(3));
        assert_eq!([0, 1, 2].map(|tenant| shares.of(tenant).unwrap().left()), [2, 0, 2]);
        assert_eq!((shares.richest([1, 2, 0]), shares.richest([1])), (Some(2), Some(1)));
        let counts = shares.of(1).map(|share| (share.taken(), share.refused()));
        assert_eq!((counts, shares.of(3)), (Some((2, 1)), None));
    }
}
