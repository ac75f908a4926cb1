//! Re-placement during decoding: which expert to bring into GPU memory, whether that pays, and how often at most.
//!
//! Bringing an expert in saves `saving` on every token that wants it and costs `copy` once. With the tracked share of
//! tokens that want it (its level) and the tokens that the context is expected to last, the swap of a resident expert
//! for another one pays where
//!
//! ```text
//! (level of the new one - level of the old one) * horizon * saving > copy
//! ```
//!
//! [`ReplaceConfig::margin`] is that rule solved for the difference of levels, so that the token path only compares.
//! [`swap`] finds the pair with the largest difference; one swap at a time keeps migration incremental. [`Allowance`]
//! is the hard limit: whatever the input, no more copies than the allowance, so that contexts that alternate every few
//! tokens cannot make the device thrash.

use crate::num::{Level, quotient_up};
use crate::set::Experts;

/// The cost-benefit rule. Costs and savings in one unit, such as picoseconds of token time or loss of precision priced
/// in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplaceConfig {
    /// What a token saves if an expert that it wants is in GPU memory.
    pub saving: u32,
    /// What a copy costs: what decoding loses while it is under way.
    pub copy: u32,
    /// Tokens over which the saving counts: how long a context is expected to last.
    pub horizon_tokens: u32,
}

impl ReplaceConfig {
    /// From what is known of a machine: bytes of an expert, the link's bandwidth in MB/s (10^6 bytes), what a token
    /// saves that finds the expert in GPU memory, in nanoseconds, and the tokens that a context lasts. A copy costs the
    /// time in which it has the link for itself, rounded up, saturating; a link of 0 MB/s copies nothing.
    ///
    /// ```
    /// use cptr_core::replace::ReplaceConfig;
    /// // 9.4 MB over 25 GB/s take 377 us.
    /// let config = ReplaceConfig::of_link(9_437_184, 25_000, 1_100, 2_000);
    /// assert_eq!((config.copy, config.margin().map(|margin| margin.to_bits() >> 24)), (377_488, Some(21)));
    /// ```
    pub const fn of_link(expert_bytes: u32, link_mb_s: u32, saving_ns: u32, horizon_tokens: u32) -> Self {
        let mb_s = if link_mb_s == 0 { 1 } else { link_mb_s as u64 };
        let copy = (expert_bytes as u64 * 1_000).div_ceil(mb_s);
        let copy = if link_mb_s == 0 || copy > u32::MAX as u64 { u32::MAX } else { copy as u32 };
        Self { saving: saving_ns, copy, horizon_tokens }
    }

    /// Difference of levels above which a swap pays, `copy / (saving * horizon)`, rounded up; `None` if it never pays.
    /// Computed once.
    pub fn margin(&self) -> Option<Level> {
        let worth = u64::from(self.saving) * u64::from(self.horizon_tokens);
        let margin = quotient_up(u64::from(self.copy) << 31, worth);
        (worth > 0 && margin < 1 << 31).then(|| Level::from_bits(margin as u32))
    }
}

/// One expert for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swap {
    /// The expert to copy into GPU memory.
    pub load: u16,
    /// The resident expert that makes room.
    pub evict: u16,
    /// How much more often the new one is wanted: difference of the slow levels.
    pub gain: Level,
}

/// The swap with the largest gain, if that is above `margin`: the expert outside of the highest level against the
/// resident one of the lowest; of equals the lowest ids. `slow` are the slow levels of all experts, in the order of
/// ids. `busy` experts (on their way in) count neither as resident nor as outside.
///
/// Cost: one pass over the levels.
pub fn swap(slow: impl IntoIterator<Item = Level>, resident: &Experts, busy: &Experts, margin: Level) -> Option<Swap> {
    let (mut load, mut evict) = (None::<(Level, u16)>, None::<(Level, u16)>);
    let mut next = 0u16;
    for level in slow {
        let expert = next;
        next = next.wrapping_add(1);
        if busy.contains(expert) {
            continue;
        }
        if resident.contains(expert) {
            if evict.is_none_or(|(lowest, _)| level < lowest) {
                evict = Some((level, expert));
            }
        } else if load.is_none_or(|(highest, _)| level > highest) {
            load = Some((level, expert));
        }
    }
    let ((new, load), (old, evict)) = (load?, evict?);
    let gain = new.checked_sub(old)?;
    (gain > margin).then_some(Swap { load, evict, gain })
}

/// A token bucket: `rate` copies per token on average, at most `burst` at once. In any n tokens there are at most
/// `burst + n * rate` copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Allowance {
    /// Most copies saved up, 16 fraction bits.
    most: u64,
    /// Copies left, 16 fraction bits.
    left: u64,
    /// Copies per token, 16 fraction bits.
    rate: u32,
}

impl Allowance {
    /// A full bucket: `rate` copies per token with 16 fraction bits, and at most `burst` saved up.
    pub const fn new(rate: u32, burst: u32) -> Self {
        let most = (burst as u64) << 16;
        Self { rate, most, left: most }
    }

    /// A token has passed.
    pub fn token(&mut self) {
        self.tokens(1);
    }

    /// Tokens have passed.
    pub fn tokens(&mut self, tokens: u32) {
        self.left = self.left.saturating_add(u64::from(self.rate) * u64::from(tokens)).min(self.most);
    }

    /// Takes one copy out; returns whether there was one.
    pub fn take(&mut self) -> bool {
        match self.left.checked_sub(1 << 16) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::ExpertSet;
    use crate::testing::{oracle, strategies};
    use proptest::prelude::*;

    fn set(ids: &[u16]) -> ExpertSet<1> {
        let mut set = ExpertSet::new();
        ids.iter().for_each(|&id| {
            set.insert(id);
        });
        set
    }

    #[test]
    fn swaps_the_best_outside_for_the_worst_inside() {
        let swap = |resident: &[u16], busy: &[u16], margin| {
            swap([0.5, 0.1, 0.9, 0.3].map(Level::from_num), &set(resident), &set(busy), margin)
        };
        let found = swap(&[0, 1], &[], Level::ZERO).unwrap();
        assert_eq!((found.load, found.evict), (2, 1));
        assert!((found.gain.to_num::<f64>() - 0.8).abs() < 1e-6);
        assert_eq!(swap(&[0, 1], &[], Level::from_num(0.85)), None);
        assert_eq!(swap(&[0, 1], &[2], Level::ZERO).unwrap().load, 3);
        assert_eq!(swap(&[0, 2], &[], Level::ZERO), None);
        assert_eq!(swap(&[], &[], Level::ZERO), None);
        assert_eq!(swap(&[0, 1, 2, 3], &[], Level::ZERO), None);
    }

    #[test]
    fn the_rule_by_hand() {
        let margin = |saving, copy, horizon_tokens| ReplaceConfig { saving, copy, horizon_tokens }.margin();
        assert_eq!(margin(10, 500, 100), Some(Level::from_num(0.5)));
        assert_eq!(margin(10, 0, 100), Some(Level::ZERO));
        assert_eq!(margin(1, 100, 100), None);
        assert_eq!(margin(0, 1, 100), None);
        assert_eq!(margin(u32::MAX, 1, u32::MAX), Some(Level::DELTA));
    }

    proptest! {
        #[test]
        fn no_swap_gains_more(
            slow in prop::collection::vec(strategies::level(), 0..40), margin in strategies::level(),
            (resident, busy) in (strategies::expert_set::<2>(40), strategies::expert_set::<2>(40)),
        ) {
            for (busy, margin) in [(busy, Level::ZERO), (ExpertSet::new(), margin)] {
                let found = swap(slow.iter().copied(), &resident, &busy, margin);
                let expected = oracle::swap(&slow, &resident, &busy, margin);
                prop_assert_eq!(found.map(|swap| (swap.load, swap.evict)), expected);
            }
        }

        #[test]
        fn never_more_copies_than_the_allowance(
            rate in 0u32..1 << 18, burst in 0u32..50, asks in prop::collection::vec(0u8..9, 0..200),
        ) {
            let mut allowance = Allowance::new(rate, burst);
            let mut taken = 0u64;
            for (tokens, asks) in (1u64..).zip(asks) {
                allowance.token();
                taken += (0..asks).filter(|_| allowance.take()).count() as u64;
                prop_assert!(taken <= u64::from(burst) + ((tokens * u64::from(rate)) >> 16));
            }
        }
    }
}
