//! Selection with any router.

use heapless::Vec;

use super::pairs::{PairBound, squared};
use super::{Bounds, Masses};
use crate::num::{Logit, part_of};
use crate::router::{BiasPlace, MAX_K, OpenGroups, Router, Score};
use crate::set::Experts;
use crate::topk::Best;

/// What a selection goes by.
pub(super) struct Layer<'a, P> {
    router: &'a Router<'a>,
    logits: &'a [Logit],
    resident: &'a Experts,
    open: OpenGroups,
    /// So many of the wanted are never replaced.
    keep_top: usize,
    /// What each stand-in may cost.
    pairs: P,
    /// The logit that masses are relative to.
    largest: Logit,
}

/// How far a selection has come.
struct Course {
    /// Masses of those that are chosen.
    masses: Vec<u32, MAX_K>,
    /// The best that are near at hand and in an open group, as many as may be needed: all such, or but for the wanted,
    /// where nothing that is chosen goes again.
    near: Best<Logit, { MAX_K + 1 }>,
    /// How many of them, from the best, are known to be chosen.
    taken: usize,
}

/// Selection with any router, of a list that has been checked. A function of its own, so that who finds all of the
/// wanted does not pay for it.
#[inline(never)]
#[expect(clippy::too_many_arguments, reason = "part of one function")]
pub(super) fn replace<const ERROR: bool, P: PairBound>(
    router: &Router<'_>,
    bounds: Bounds,
    keep_top: usize,
    most: usize,
    logits: &[Logit],
    experts: &mut [u16],
    resident: &Experts,
    pairs: P,
    masses: &mut Masses,
) -> usize {
    Layer::new(router, keep_top, logits, resident, experts, pairs).replace::<ERROR>(experts, bounds, most, masses)
}

/// What a choice leaves of the bounds.
#[derive(Clone, Copy)]
struct Left {
    /// Mass that may still be lost; below 0 the bound is exceeded.
    mass: i64,
    /// Squared error that is still allowed; `None`: the bound is exceeded.
    error: Option<u64>,
}

impl<'a, P: PairBound> Layer<'a, P> {
    pub(super) fn new(
        router: &'a Router<'a>,
        keep_top: usize,
        logits: &'a [Logit],
        resident: &'a Experts,
        wanted: &[u16],
        pairs: P,
    ) -> Self {
        let open = router.open_groups_of(logits, wanted);
        Self { router, logits, resident, open, keep_top, pairs, largest: Logit::ZERO }
    }

    /// Lets residents stand in for missing ones of `experts`, a list that has been checked, within both bounds if
    /// `ERROR`, else within that on mass alone. Returns the number of stand-ins.
    ///
    /// Every step makes one miss less. The most mass that a choice of n residents can have is that of the n best
    /// residents and the best of the others, and it is concave in n. So steps are taken until one fails, and one fails
    /// only if no exchange of experts for their like makes room for it.
    #[inline(always)]
    fn replace<const ERROR: bool>(
        mut self,
        experts: &mut [u16],
        bounds: Bounds,
        most: usize,
        masses: &mut Masses,
    ) -> usize {
        // Whether the wanted may have less mass than others: else nothing is gained by an exchange.
        let exchanges = !ERROR && (self.router.biased_choice() || self.router.table);
        self.largest = experts.iter().fold(Logit::MIN, |largest, &expert| largest.max(self.logit(expert)));
        if ERROR || exchanges {
            self.largest = self.with_gains(self.largest);
        }
        if ERROR {
            self.largest = self.router.unit(self.largest);
        }
        let count = if exchanges { experts.len().wrapping_add(1) } else { most };
        let mut course = Course { masses: Vec::new(), near: Best::new(count), taken: 0 };
        let mut all = 0u64;
        for &expert in experts.iter() {
            let mass = self.mass(expert);
            all = all.wrapping_add(mass.into());
            // There is room, here and below: the list has been checked.
            _ = course.masses.push(mass);
        }
        self.find_near(experts, exchanges, &mut course.near);
        let mut left = Left { mass: part_of(all, bounds.mass.to_bits()).cast_signed(), error: Some(0) };
        if ERROR {
            let total = self.router.total_mass(self.logits, all, self.largest);
            // Without a bound on pairs there is one on the token, and nothing else is linked.
            let none = P::BOUNDED && bounds.error.is_none();
            left.error = Some(if none { u64::MAX } else { squared(bounds.error, total) });
            self.pairs.begin(total);
        }
        // What is wanted, and the choice of the last step that kept the bounds.
        let mut places = Vec::<[u16; 2], MAX_K>::new();
        experts.iter().for_each(|&expert| _ = places.push([expert; 2]));
        while let Some(after) = self.step::<ERROR>(experts, &mut course, left, exchanges) {
            left = after;
            places.iter_mut().zip(&*experts).for_each(|([_, chosen], &expert)| *chosen = expert);
        }
        experts.iter_mut().zip(&places).for_each(|(expert, &[_, chosen])| *expert = chosen);
        let greatest = || experts.iter().fold(Logit::MIN, |greatest, &expert| greatest.max(self.logit(expert)));
        if !ERROR && !exchanges && greatest() == self.largest {
            masses.know(&course.masses);
        }
        let mut substituted = 0usize;
        for (rank, &[wanted, chosen]) in (0..places.len()).zip(&places) {
            if wanted == chosen {
                continue;
            }
            // A wanted expert that went and came again stands in for nobody.
            if let Some(at) = experts.iter().position(|&expert| expert == wanted) {
                put(experts, at, experts.get(rank).copied().unwrap_or(wanted));
                put(experts, rank, wanted);
            } else {
                substituted = substituted.wrapping_add(1);
            }
        }
        substituted
    }

    /// What masses are relative to where experts of more mass than the wanted count, `wanted` being the best logit of
    /// those. It is not far above: the masses of the wanted must keep their precision, and one that is as large as the
    /// sum of 64 of them makes room for everything. No limit is needed where scores end at 1, or hardly grow.
    #[inline(never)]
    pub(super) fn with_gains(&self, wanted: Logit) -> Logit {
        const FAR: Logit = Logit::lit("8.5");
        let (largest, far) = (self.router.largest(self.logits), wanted.saturating_add(FAR));
        let grows = far.is_negative() || !matches!(self.router.score, Score::Sigmoid | Score::SqrtSoftplus);
        if grows { largest.min(far) } else { largest }
    }

    /// The missing expert of least mass gives way to the resident of most mass, and if that exceeds the bound on mass,
    /// others give way to their like of more mass. Returns what is left of the bounds, if they are kept.
    fn step<const ERROR: bool>(
        &self,
        experts: &mut [u16],
        course: &mut Course,
        mut left: Left,
        exchanges: bool,
    ) -> Option<Left> {
        let mut pair =
            if P::BOUNDED { self.pair_within(experts, course) } else { self.pair(experts, course, false, true) }?;
        loop {
            // Sums of masses are below 2^48, and so is what is left of one.
            left.mass = left.mass.wrapping_add(pair.gain());
            if ERROR {
                left.error = left.error.and_then(|left| left.checked_sub(squared_error(pair.old, pair.new)));
            }
            if !exchanges && left.mass < 0 {
                return None;
            }
            put(experts, pair.rank, pair.expert);
            if let Some(mass) = course.masses.get_mut(pair.rank) {
                *mass = pair.new;
            }
            if exchanges {
                // Who is chosen may go again.
                course.taken = 0;
            }
            if left.mass >= 0 {
                return left.error.map(|_| left);
            }
            let gain = |pair: &Option<Pair>| pair.as_ref().map_or(0, Pair::gain);
            let near = self.pair(experts, course, true, true);
            let far = self.pair(experts, course, false, false);
            pair = if gain(&far) > gain(&near) { far } else { near }.filter(|pair| pair.gain() > 0)?;
        }
    }

    /// The chosen expert of least mass, resident or not, the last of equals, and the best expert that is not chosen,
    /// resident or not.
    fn pair(&self, experts: &[u16], course: &mut Course, from_resident: bool, to_resident: bool) -> Option<Pair> {
        let mut least = (Logit::MAX, None);
        let mut next = self.keep_top;
        for &expert in experts.iter().skip(self.keep_top) {
            let rank = next;
            next = next.wrapping_add(1);
            let logit = self.logit(expert);
            if logit <= least.0 && self.is_resident(expert) == from_resident {
                least = (logit, Some(rank));
            }
        }
        let rank = least.1?;
        let expert = if to_resident { course.next_near(experts) } else { self.best_far(experts) }?;
        Some(Pair { rank, expert, old: course.masses.get(rank).copied().unwrap_or(0), new: self.mass(expert) })
    }

    /// The missing expert of least mass, the last of equals, that the best resident may stand in for, and who that is.
    fn pair_within(&self, experts: &[u16], course: &mut Course) -> Option<Pair> {
        let expert = course.next_near(experts)?;
        let new = self.mass(expert);
        let mut least = (Logit::MAX, None);
        let mut next = self.keep_top;
        for (&wanted, &old) in experts.iter().skip(self.keep_top).zip(course.masses.iter().skip(self.keep_top)) {
            let rank = next;
            next = next.wrapping_add(1);
            let logit = self.logit(wanted);
            if logit > least.0 || self.is_resident(wanted) {
                continue;
            }
            if squared_error(old, new) <= self.pairs.most(wanted) {
                least = (logit, Some(Pair { rank, expert, old, new }));
            }
        }
        least.1
    }

    /// Finds those near at hand. One pass over the residents, where one for each stand-in would do.
    fn find_near(&self, wanted: &[u16], exchanges: bool, near: &mut Best<Logit, { MAX_K + 1 }>) {
        self.each(true, near.bar(), &mut |expert, logit| {
            if exchanges || !among(wanted, expert) { near.insert(logit, expert) } else { near.bar() }
        });
    }

    /// The best expert far away that is not among the `chosen` and in an open group; the first of equals.
    fn best_far(&self, chosen: &[u16]) -> Option<u16> {
        let mut best = None;
        self.each(false, None, &mut |expert, logit| {
            if !among(chosen, expert) {
                best = Some((logit, expert));
            }
            best.map(|(logit, _)| logit)
        });
        best.map(|(_, expert)| expert)
    }

    /// Hands over the experts near at hand, or those far away, that are in an open group and whose logit is above a
    /// `bar`, which each may raise.
    // One copy of it: those that are handed over are few.
    #[inline(never)]
    fn each(&self, near: bool, mut bar: Option<Logit>, take: &mut dyn FnMut(u16, Logit) -> Option<Logit>) {
        let first_null = self.logits.len().saturating_sub(self.router.null_experts);
        let with_bias = self.router.bias_place == BiasPlace::Logits;
        let mut base = 0usize;
        for logits in self.logits.chunks(32) {
            let word = self.resident.words().get(base / 32).copied().unwrap_or(0);
            let word = word | u32::MAX.checked_shl(first_null.saturating_sub(base) as u32).unwrap_or(0);
            let mut open = if near { word } else { !word };
            while open != 0 {
                let bit = open.trailing_zeros();
                open &= open.wrapping_sub(1);
                let Some(&own) = logits.get(bit as usize) else { break };
                let expert = (base as u32).wrapping_add(bit) as u16;
                // One after the other; the bias is looked up only where there is one.
                let logit = if with_bias { self.logit(expert) } else { own };
                if bar.is_none_or(|bar| logit > bar) && self.open.contains(expert) {
                    bar = take(expert, logit);
                }
            }
            base = base.wrapping_add(32);
        }
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

impl Course {
    /// The best of those near at hand that is not among the `chosen`; the first of equals.
    fn next_near(&mut self, chosen: &[u16]) -> Option<u16> {
        loop {
            let &(_, expert) = self.near.entries().get(self.taken)?;
            if !among(chosen, expert) {
                return Some(expert);
            }
            self.taken = self.taken.wrapping_add(1);
        }
    }
}

/// An expert in the place of another.
struct Pair {
    /// The place.
    rank: usize,
    /// Who comes.
    expert: u16,
    /// Masses of who goes and who comes.
    old: u32,
    new: u32,
}

impl Pair {
    fn gain(&self) -> i64 {
        i64::from(self.new).wrapping_sub(self.old.into())
    }
}

/// Whether an expert is in a list.
#[expect(
    clippy::manual_contains,
    reason = "`contains` is unrolled: 50 bytes of flash for a list that is seldom searched"
)]
fn among(list: &[u16], expert: u16) -> bool {
    list.iter().any(|&other| other == expert)
}

/// Puts an expert in a place that there is.
fn put(experts: &mut [u16], rank: usize, expert: u16) {
    if let Some(place) = experts.get_mut(rank) {
        *place = expert;
    }
}

/// What replacing an expert of mass `w` by one of mass `v` adds to the squared error: `(w - v)^2 + w v / 4`, in the
/// square of the format; below 2^63, as masses are at most 1.
pub(super) fn squared_error(w: u32, v: u32) -> u64 {
    let (w, v) = (u64::from(w), u64::from(v));
    let difference = w.abs_diff(v);
    difference.wrapping_mul(difference).wrapping_add(w.wrapping_mul(v) >> 2)
}
