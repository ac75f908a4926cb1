//! Selection with any router.

use heapless::Vec;

use super::Bounds;
use crate::num::{Logit, part_of};
use crate::router::{MAX_K, OpenGroups, Router};
use crate::set::{Experts, words_for};

/// What a selection goes by.
pub(super) struct Layer<'a> {
    router: &'a Router<'a>,
    logits: &'a [Logit],
    resident: &'a Experts,
    open: OpenGroups,
    /// So many of the wanted are never replaced.
    keep_top: usize,
    /// The logit that masses are relative to.
    largest: Logit,
}

/// A choice, and what it leaves of the bounds.
#[derive(Clone)]
struct Choice {
    experts: Vec<u16, MAX_K>,
    /// Mass that may still be lost; below 0 the bound is exceeded.
    mass: i64,
    /// Squared error that is still allowed; `None`: the bound is exceeded.
    error: Option<u64>,
}

impl<'a> Layer<'a> {
    pub(super) fn new(router: &'a Router<'a>, keep_top: usize, logits: &'a [Logit], resident: &'a Experts) -> Self {
        Self { router, logits, resident, open: router.open_groups(logits), keep_top, largest: Logit::ZERO }
    }

    /// Lets residents stand in for missing ones of `experts`, a list that has been checked, within both bounds if `ERROR`, else within that on
    /// mass alone. Returns the number of stand-ins.
    ///
    /// Every step makes one miss less. The most mass that a choice of n residents can have is that of the n best residents and the best of the
    /// others, and it is concave in n. So steps are taken until one fails, and one fails only if no exchange of experts for their like
    /// makes room for it.
    #[inline(never)]
    pub(super) fn replace<const ERROR: bool>(mut self, experts: &mut [u16], bounds: Bounds) -> usize {
        // Whether the wanted may have less mass than others: else nothing is gained by an exchange.
        let exchanges = !ERROR && (self.router.biased_choice() || self.router.table);
        self.largest = if ERROR || exchanges {
            self.router.unit(self.router.largest(self.logits))
        } else {
            let stand_in = self.best_outside(experts, true);
            experts.iter().copied().chain(stand_in).map(|expert| self.logit(expert)).max().unwrap_or(Logit::ZERO)
        };
        let all = experts.iter().map(|&expert| u64::from(self.mass(expert))).sum();
        let mut choice = Choice { experts: Vec::new(), mass: 0, error: Some(0) };
        // There is room: the list has been checked.
        _ = choice.experts.extend_from_slice(experts);
        choice.mass = part_of(all, bounds.mass.to_bits()).cast_signed();
        if ERROR {
            let total = self.router.total_mass(self.logits, all, self.largest);
            let error = bounds.error.map_or(0, |error| part_of(total, error.to_bits()).min(u32::MAX.into()));
            choice.error = Some(error * error);
        }
        let wanted = choice.experts.clone();
        loop {
            let mut next = choice.clone();
            if !self.step::<ERROR>(&mut next, exchanges) {
                break;
            }
            choice = next;
        }
        // An expert that went and came again stands in for nobody.
        for (rank, &expert) in wanted.iter().enumerate() {
            let at = choice.experts.iter().position(|&chosen| chosen == expert);
            if let Some(at) = at
                && let Some(&other) = choice.experts.get(rank)
            {
                choice.experts.iter_mut().skip(at).take(1).for_each(|place| *place = other);
                choice.experts.iter_mut().skip(rank).take(1).for_each(|place| *place = expert);
            }
        }
        experts.iter_mut().zip(&choice.experts).for_each(|(to, &from)| *to = from);
        wanted.iter().zip(&choice.experts).filter(|(wanted, chosen)| wanted != chosen).count()
    }

    /// The missing expert of least mass gives way to the resident of most mass, and if that exceeds the bound on mass, others give way to their
    /// like of more mass. Returns whether that keeps the bounds.
    fn step<const ERROR: bool>(&self, choice: &mut Choice, exchanges: bool) -> bool {
        let Some(pair) = self.pair(choice, false, true) else { return false };
        self.swap::<ERROR>(choice, pair);
        while exchanges && choice.mass < 0 {
            let gain = |&(rank, expert): &(usize, u16)| {
                self.mass(expert).saturating_sub(choice.experts.get(rank).map_or(u32::MAX, |&old| self.mass(old)))
            };
            let (near, far) = (self.pair(choice, true, true), self.pair(choice, false, false));
            let best = if far.as_ref().map_or(0, gain) > near.as_ref().map_or(0, gain) { far } else { near };
            let Some(pair) = best.filter(|pair| gain(pair) > 0) else { return false };
            self.swap::<ERROR>(choice, pair);
        }
        choice.mass >= 0 && choice.error.is_some()
    }

    /// Puts an expert in the place of a rank.
    fn swap<const ERROR: bool>(&self, choice: &mut Choice, (rank, expert): (usize, u16)) {
        if let Some(place) = choice.experts.get_mut(rank) {
            let (old, new) = (self.mass(*place), self.mass(expert));
            choice.mass += i64::from(new) - i64::from(old);
            if ERROR {
                choice.error = choice.error.and_then(|left| left.checked_sub(squared_error(old, new)));
            }
            *place = expert;
        }
    }

    /// The rank of the chosen expert of least mass, resident or not, the last of equals, and the best expert that is not chosen, resident or not.
    fn pair(&self, choice: &Choice, from_resident: bool, to_resident: bool) -> Option<(usize, u16)> {
        let mut least: Option<(Logit, usize)> = None;
        for (rank, &expert) in choice.experts.iter().enumerate().skip(self.keep_top) {
            let logit = self.logit(expert);
            if self.is_resident(expert) == from_resident && least.is_none_or(|(lowest, _)| logit <= lowest) {
                least = Some((logit, rank));
            }
        }
        let (_, rank) = least?;
        Some((rank, self.best_outside(&choice.experts, to_resident)?))
    }

    /// The expert of most mass, resident or not, that is not among the `chosen` and in an open group; the first of equals.
    fn best_outside(&self, chosen: &[u16], resident: bool) -> Option<u16> {
        let first_null = self.logits.len().saturating_sub(self.router.null_experts);
        let mut best: Option<(Logit, u16)> = None;
        for index in 0..words_for(self.logits.len()) {
            let word = self.resident.words().get(index).copied().unwrap_or(0);
            let nulls = u32::MAX.checked_shl(first_null.saturating_sub(32 * index) as u32).unwrap_or(0);
            let mut open = if resident { word | nulls } else { !(word | nulls) };
            while open != 0 {
                let expert = (32 * index) as u16 + open.trailing_zeros() as u16;
                open &= open - 1;
                if usize::from(expert) >= self.logits.len() {
                    break;
                }
                let logit = self.logit(expert);
                let better = best.is_none_or(|(greatest, _)| logit > greatest);
                if better && self.open.contains(expert) && !chosen.contains(&expert) {
                    best = Some((logit, expert));
                }
            }
        }
        best.map(|(_, expert)| expert)
    }

    fn is_resident(&self, expert: u16) -> bool {
        self.resident.contains(expert) || self.router.is_null(expert, self.logits.len())
    }

    #[inline(always)]
    fn logit(&self, expert: u16) -> Logit {
        self.router.logit(self.logits, expert)
    }

    /// Mass of an expert, `U1F31` bits.
    fn mass(&self, expert: u16) -> u32 {
        self.router.mass(self.logit(expert), self.largest).to_bits()
    }
}

/// What replacing an expert of mass `w` by one of mass `v` adds to the squared error: `(w - v)^2 + w v / 4`, in the square of the format;
/// below 2^63, as masses are at most 1.
pub(super) fn squared_error(w: u32, v: u32) -> u64 {
    let (w, v) = (u64::from(w), u64::from(v));
    let difference = w.abs_diff(v);
    difference * difference + ((w * v) >> 2)
}
