//! Which experts a router chooses.

use core::num::NonZeroU16;

use heapless::Vec;

use super::{BiasPlace, Count, GroupRating, Groups, MAX_GROUPS, Router, RouterError, Score};
use crate::num::{Logit, Share, part_of, sigmoid, sqrt_softplus};
use crate::topk::Best;

/// What the choice goes by: a value with 31 fraction bits, high half first (two halves, so that nothing is aligned to
/// more than 4 bytes), and of equal values the higher logit: scores far below 2^-31 are alike, and still have an order.
type Key = (i32, u32, Logit);

impl Router<'_> {
    /// The experts that the model wants, best first; of equal scores the lower id ranks higher. As many as
    /// [`Router::count`] says.
    ///
    /// Exact where the choice goes by logits. Where it goes by scores, they have an absolute error below 2^-25 (below
    /// 2^-22 for [`Score::SqrtSoftplus`]): experts closer than that may change places.
    ///
    /// Cost: one pass over the logits without groups and bias; with them one or two scores per expert (of a softmax: an
    /// exponential and a division; without a bias the rating of a group takes two scores). [`Count::TopP`] and
    /// [`Count::Above`] take an exponential for every expert.
    ///
    /// # Errors
    /// See [`RouterError`].
    pub fn top_k<const K: usize>(&self, logits: &[Logit]) -> Result<Vec<u16, K>, RouterError> {
        let mut chosen = Vec::new();
        self.top_k_in_place(logits, &mut chosen)?;
        Ok(chosen)
    }

    /// [`top_k`](Self::top_k) for a caller with memory of its own. What was in it before does not matter; after an
    /// error it holds nothing.
    ///
    /// # Errors
    /// See [`RouterError`].
    #[inline]
    pub fn top_k_in_place<const K: usize>(
        &self,
        logits: &[Logit],
        chosen: &mut Vec<u16, K>,
    ) -> Result<(), RouterError> {
        chosen.clear();
        if self.k > K {
            return Err(RouterError::Capacity);
        }
        self.fits(logits.len())?;
        if self.table {
            return Err(RouterError::Table);
        }
        if self.bias.is_empty() && self.groups.open == self.groups.count {
            self.best_logits(logits, chosen);
        } else {
            let values = Values::new(self, logits);
            // Before its result is needed, so that its memory is not, too.
            values.ranked(values.open_groups(), chosen);
        }
        if self.count != Count::Fixed {
            self.keep(logits, chosen);
        }
        Ok(())
    }

    #[inline]
    fn best_logits<const K: usize>(&self, logits: &[Logit], chosen: &mut Vec<u16, K>) {
        let mut best = Best::<Logit, K>::new(self.k);
        best.offer_all(logits.iter().enumerate().map(|(expert, &logit)| (logit, expert as u16)));
        best.ids_to(chosen);
    }

    /// Which groups of experts are open to a token.
    pub(crate) fn open_groups(&self, logits: &[Logit]) -> OpenGroups {
        if self.groups.open >= self.groups.count { OpenGroups::ALL } else { Values::new(self, logits).open_groups() }
    }

    /// Which groups were open to a token that wants these experts: theirs, if those are as many as are open, which
    /// needs no score; else as [`open_groups`](Self::open_groups). The same where `wanted` is the router's own choice.
    pub(crate) fn open_groups_of(&self, logits: &[Logit], wanted: &[u16]) -> OpenGroups {
        let (count, open) = (self.groups.count, self.groups.open);
        let size = NonZeroU16::new((logits.len() / count.max(1)).min(usize::from(u16::MAX)) as u16);
        if let Some(size) = size.filter(|_| open < count) {
            let groups =
                wanted.iter().fold(0u32, |groups, &expert| groups | 1u32.wrapping_shl(u32::from(expert / size)));
            if groups.count_ones() as usize == open {
                return OpenGroups { groups, size };
            }
        }
        self.open_groups(logits)
    }

    /// Leaves out those of the `best` that [`Router::count`] leaves out.
    fn keep<const K: usize>(&self, logits: &[Logit], best: &mut Vec<u16, K>) {
        let greatest = self.largest(logits);
        let (largest, whole) = match (self.count, self.score) {
            (Count::Above(_), Score::Sigmoid | Score::SqrtSoftplus) => {
                (greatest.max(Logit::ZERO), self.mass_of_one(greatest.max(Logit::ZERO)))
            }
            _ => (greatest, self.mass_of_all(logits, greatest)),
        };
        let (by_share, bound) = match self.count {
            Count::Fixed => return,
            Count::TopP(share) => (true, part_of(whole, share.to_bits())),
            Count::Above(bound) => (false, part_of(whole, bound.to_bits()) << 1),
        };
        let (mut sum, mut kept) = (0u64, 0usize);
        for &expert in best.iter() {
            let mass = u64::from(self.mass(self.logit(logits, expert), largest).to_bits());
            if kept > 0 && if by_share { sum >= bound } else { mass <= bound } {
                break;
            }
            (sum, kept) = (sum.wrapping_add(mass), kept.wrapping_add(1));
        }
        best.truncate(kept);
    }

    /// The logit of an expert as everything but the choice sees it; the least for an id out of range.
    #[inline(always)]
    pub(crate) fn logit(&self, logits: &[Logit], expert: u16) -> Logit {
        if self.bias_place == BiasPlace::Logits {
            return self.biased_logit(logits, expert);
        }
        logits.get(usize::from(expert)).copied().unwrap_or(Logit::MIN)
    }

    /// [`logit`](Self::logit) with a bias.
    #[inline(never)]
    fn biased_logit(&self, logits: &[Logit], expert: u16) -> Logit {
        let index = usize::from(expert);
        logits.get(index).map_or(Logit::MIN, |logit| logit.saturating_add(self.bias(index)))
    }

    /// The largest logit, as [`logit`](Self::logit) says them.
    pub(crate) fn largest(&self, logits: &[Logit]) -> Logit {
        if self.bias_place != BiasPlace::Logits {
            return logits.iter().copied().fold(Logit::MIN, Logit::max);
        }
        (0..logits.len()).fold(Logit::MIN, |largest, expert| largest.max(self.logit(logits, expert as u16)))
    }

    #[inline(always)]
    fn bias(&self, expert: usize) -> Logit {
        self.bias.get(expert).copied().unwrap_or(Logit::ZERO)
    }
}

/// The groups that are open to a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenGroups {
    /// One bit for each.
    groups: u32,
    /// Experts of a group.
    size: NonZeroU16,
}

impl OpenGroups {
    /// No groups.
    pub(crate) const ALL: Self = Self { groups: u32::MAX, size: NonZeroU16::MAX };

    /// Whether an expert's group is open.
    #[inline(always)]
    pub(crate) fn contains(self, expert: u16) -> bool {
        self.groups.wrapping_shr(u32::from(expert / self.size)) & 1 != 0
    }
}

/// The values that a token's choice goes by.
struct Values<'a> {
    router: &'a Router<'a>,
    logits: &'a [Logit],
    /// The largest logit, where values are masses.
    largest: Logit,
    /// The mass of all experts, where values are shares of it.
    all: Share,
    /// Whether a bias is added for the choice, which one of zeros is not.
    biased: bool,
}

impl<'a> Values<'a> {
    fn new(router: &'a Router<'a>, logits: &'a [Logit]) -> Self {
        let largest = router.largest(logits);
        let biased = router.biased_choice() && router.bias.iter().any(|&bias| bias != Logit::ZERO);
        let shares = router.score == Score::SoftmaxAll && biased;
        let all = Share::of(if shares { router.mass_of_all(logits, largest) } else { 0 });
        Self { router, logits, largest, all, biased }
    }

    /// Only the order matters where no bias is added: logits will do where single scores are compared, and masses where
    /// they are summed.
    #[inline(never)]
    fn value(&self, expert: u16, logit: Logit) -> i64 {
        let (router, biased) = (self.router, self.biased);
        let whole = |number: Logit| i64::from(number.to_bits()) << 15;
        let single = !biased && router.groups.rating == GroupRating::Best;
        let score = match router.score {
            Score::SoftmaxSelected | Score::SparseMixer(_) => whole(logit),
            _ if single || router.bias_place == BiasPlace::ChoiceLogits => whole(logit),
            _ if !biased => router.mass(logit, self.largest).to_bits().into(),
            Score::SoftmaxAll => self.all.share(router.mass(logit, self.largest).to_bits().into()).into(),
            Score::Sigmoid => sigmoid(logit).to_bits().into(),
            Score::SqrtSoftplus => sqrt_softplus(logit, Logit::ZERO).cast_signed(),
        };
        // Both are below 2^62.
        if biased { score.wrapping_add(whole(router.bias(expert.into()))) } else { score }
    }

    /// Whether a higher logit never has a lower value, in the last bit, too: logits do, and masses where they are one
    /// exponential or sigmoid.
    fn rise_with_logits(&self) -> bool {
        let one = match self.router.score {
            Score::Sigmoid => !self.largest.is_negative(),
            Score::SqrtSoftplus => false,
            _ => true,
        };
        !self.biased && (one || self.router.groups.rating == GroupRating::Best)
    }

    fn key(&self, expert: u16) -> Key {
        let logit = self.router.logit(self.logits, expert);
        let value = self.value(expert, logit);
        ((value >> 32) as i32, value as u32, logit)
    }

    /// The best experts of the open groups.
    #[inline(never)]
    fn ranked<const K: usize>(&self, open: OpenGroups, chosen: &mut Vec<u16, K>) {
        // In ascending order, as the lower id wins a tie.
        let mut best = Best::<Key, K>::new(self.router.k);
        for expert in 0..self.logits.len() {
            if open.contains(expert as u16) {
                best.offer(self.key(expert as u16), expert as u16);
            }
        }
        best.ids_to(chosen);
    }

    /// The groups that are rated best; of equals the first.
    #[inline(never)]
    fn open_groups(&self) -> OpenGroups {
        let Groups { count, open, rating } = self.router.groups;
        // At most as many as there are experts, which are no more than 65,536.
        let size = NonZeroU16::new((self.logits.len() / count.max(1)).min(usize::from(u16::MAX)) as u16);
        let Some(size) = size.filter(|_| open < count) else { return OpenGroups::ALL };
        let two = rating == GroupRating::TwoBest && size.get() > 1;
        let by_logits = self.rise_with_logits();
        let mut ratings = Vec::<i64, MAX_GROUPS>::new();
        let mut expert = 0;
        for _ in 0..count {
            let (mut best, mut second) = (i64::MIN, i64::MIN);
            if by_logits {
                let (mut high, mut low) = (Logit::MIN, Logit::MIN);
                for _ in 0..size.get() {
                    let logit = self.router.logit(self.logits, expert);
                    low = low.max(logit.min(high));
                    high = high.max(logit);
                    expert = expert.wrapping_add(1);
                }
                // Without a bias no value depends on whose it is.
                best = self.value(0, high);
                second = if two { self.value(0, low) } else { second };
            } else {
                for _ in 0..size.get() {
                    let value = self.value(expert, self.router.logit(self.logits, expert));
                    second = second.max(value.min(best));
                    best = best.max(value);
                    expert = expert.wrapping_add(1);
                }
            }
            // There is room: the number of groups has been checked, or the last ones are left out.
            _ = ratings.push(if two { best.wrapping_add(second) } else { best });
        }
        let mut groups = 0;
        let numbered = || (0..ratings.len()).zip(&ratings);
        for (group, &rating) in numbered() {
            let better = numbered().filter(|&(other, &value)| value > rating || value == rating && other < group);
            if better.fold(0, |count, _| usize::wrapping_add(count, 1)) < open {
                groups |= 1u32.wrapping_shl(group as u32);
            }
        }
        OpenGroups { groups, size }
    }
}
