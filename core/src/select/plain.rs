//! Selection with a softmax router without bias and groups, which most are.

use heapless::Vec;

use super::MAX_EXPERTS;
use crate::num::{Eps, Gate, Logit, part_of};
use crate::router::{Router, Score, softmax_mass};
use crate::set::{Experts, words_for};
use crate::topk::Best;

/// Most wanted experts that this way takes.
pub(super) const PLAIN_K: usize = 16;

impl Router<'_> {
    /// Whether the wanted experts are those with the greatest logits, and masses those of a softmax.
    #[inline]
    pub(super) const fn is_plain(&self) -> bool {
        let softmax = matches!(self.score, Score::SoftmaxAll | Score::SoftmaxSelected | Score::SparseMixer(_));
        softmax
            && self.bias.is_empty()
            && !self.table
            && self.groups.count == self.groups.open
            && self.null_experts == 0
    }
}

/// One bit per expert of a layer.
type Words = Vec<u32, { words_for(MAX_EXPERTS) }>;

/// Masses of the chosen that a selection has come by, so that their mixing weights ([`Router::weights_of`]) need no
/// exponential of their own. None of more than 16 experts, or where nothing was missing.
#[derive(Debug, Clone, Default)]
pub struct Masses {
    /// Relative to the greatest of them, in the order of the chosen.
    masses: Vec<Gate, PLAIN_K>,
}

impl Masses {
    /// Those of so many chosen experts, if they are known.
    pub(crate) fn of(&mut self, chosen: usize) -> Option<&mut [Gate]> {
        if self.masses.len() == chosen { Some(&mut self.masses) } else { None }
    }

    pub(super) fn forget(&mut self) {
        self.masses.clear();
    }

    /// Those that are known now, as bits, if there is room for them.
    pub(super) fn know(&mut self, masses: &[u32]) {
        self.forget();
        if masses.len() <= PLAIN_K {
            masses.iter().for_each(|&mass| _ = self.masses.push(Gate::from_bits(mass)));
        }
    }
}

/// What a selection with a plain softmax router goes by.
pub(super) struct Plain<'a> {
    /// At most [`MAX_EXPERTS`].
    pub(super) logits: &'a [Logit],
    pub(super) resident: &'a Experts,
}

/// Missing experts of those that are wanted.
struct Missing<'m> {
    /// A bit for the rank of each.
    ranks: u32,
    /// The masses of all that are wanted.
    masses: &'m [Gate],
}

impl Missing<'_> {
    /// Mass and rank of each, from the last rank up: least mass first.
    #[inline(always)]
    fn least_first(&self) -> impl Iterator<Item = (u32, usize)> {
        let masses = (0..self.masses.len()).zip(self.masses).rev();
        let missing = masses.filter(|&(rank, _)| self.ranks.wrapping_shr(rank as u32) & 1 != 0);
        missing.map(|(rank, mass)| (mass.to_bits(), rank))
    }

    /// Whether none has more mass than one of a rank before it.
    #[cold]
    #[inline(never)]
    fn in_order(&self) -> bool {
        self.least_first().is_sorted_by_key(|(mass, _)| mass)
    }
}

// The larger results of what follows are filled in place: moving them would cost more than the work.
impl Plain<'_> {
    /// Lets residents stand in for those of `experts` that are missing, by their `ranks`, within the bound on mass.
    /// `None`, and nothing is done, if they are not in order: a list that is not the model's own.
    #[inline(never)]
    pub(super) fn replace(&self, ranks: u32, experts: &mut [u16], eps: Eps, masses: &mut Masses) -> Option<usize> {
        let mut others = Words::new();
        let words = self.resident.words().iter().take(words_for(self.logits.len()));
        // There is room: no more words than those of `MAX_EXPERTS`.
        let _ = words.copied().try_for_each(|word| others.push(word));
        let largest = self.logit(experts.first().copied().unwrap_or(0));
        let all = self.masses(ranks, experts, largest, &mut masses.masses)?;
        // What is wanted stands in for nobody; who is missing is not there anyway.
        let mut there = !(ranks | u32::MAX.checked_shl(experts.len() as u32).unwrap_or(0));
        while there != 0 {
            let expert = experts.get(there.trailing_zeros() as usize).copied().unwrap_or(0);
            there &= there.wrapping_sub(1);
            if let Some(word) = others.get_mut(usize::from(expert / 32)) {
                *word &= !(1 << (expert % 32));
            }
        }
        let mut mass_left = part_of(all, eps.to_bits());
        let missing = Missing { ranks, masses: &masses.masses };
        let possible = possible_pairs(&missing, mass_left);
        let mut stand_ins = Best::new(possible.max(1));
        let last = self.logit(experts.last().copied().unwrap_or(0));
        self.stand_ins(&others, largest, &missing, possible, mass_left, last, &mut stand_ins);
        let (mut substituted, mut relative, mut entries) = (0usize, true, stand_ins.entries().iter());
        for (rank, mass) in (0..experts.len()).zip(&mut *masses.masses).rev() {
            if ranks.wrapping_shr(rank as u32) & 1 == 0 {
                continue;
            }
            let Some(&(score, expert)) = entries.next() else { break };
            let stand_in = softmax_mass(score, largest);
            let loss = u64::from(mass.saturating_sub(stand_in).to_bits());
            let (Some(left), Some(place)) = (mass_left.checked_sub(loss), experts.get_mut(rank)) else { break };
            (mass_left, *mass, *place) = (left, stand_in, expert);
            substituted = substituted.wrapping_add(1);
            // Whether the greatest of the chosen is still the first of the wanted.
            relative &= score <= largest && rank > 0;
        }
        if !relative {
            masses.forget();
        }
        Some(substituted)
    }

    /// Logit of a wanted expert, whose id has been checked.
    #[inline(always)]
    fn logit(&self, expert: u16) -> Logit {
        self.logits.get(usize::from(expert)).copied().unwrap_or(Logit::MIN)
    }

    /// Lists the masses of the wanted experts and returns their sum. `None` if a logit is above `largest`, or the
    /// missing are not in order.
    // A function of its own, whose loop has the registers for itself.
    #[inline(never)]
    fn masses(&self, missing: u32, wanted: &[u16], largest: Logit, masses: &mut Vec<Gate, PLAIN_K>) -> Option<u64> {
        masses.clear();
        let (mut all, mut least, mut in_order) = (0u64, Gate::MAX, true);
        for &expert in wanted {
            let logit = self.logit(expert);
            if logit > largest {
                return None;
            }
            let mass = softmax_mass(logit, largest);
            // There is room: the list is no longer.
            _ = masses.push(mass);
            // At most 64 masses of at most 2^31.
            all = all.wrapping_add(mass.to_bits().into());
            in_order &= mass <= least;
            least = mass;
        }
        // Mostly all of them are.
        (in_order || Missing { ranks: missing, masses }.in_order()).then_some(all)
    }

    /// The best of `others`: as many as may pair with the `missing` within `budget`, or more.
    ///
    /// Two bounds keep the work small. A stand-in that exceeds the budget with the least missing expert is never taken.
    /// And if no stand-in is above the last wanted one, as is so where the wanted are the best, no more than `possible`
    /// can be taken; every one above makes one more possible.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "part of one function")]
    fn stand_ins(
        &self,
        others: &Words,
        largest: Logit,
        missing: &Missing<'_>,
        possible: usize,
        budget: u64,
        last: Logit,
        best: &mut Best<Logit, PLAIN_K>,
    ) {
        let enough = missing.least_first().next().map_or(0, |(mass, _)| u64::from(mass).saturating_sub(budget) as u32);
        // Logits from `good` on are known to have enough, logits below `least` to be of no use.
        let mut good = match (enough, possible) {
            (0, _) => Logit::MIN,
            (_, 0) => Logit::MAX,
            _ => last,
        };
        let mut least = Logit::MIN;
        // An id: at most 65,535.
        let mut base = 0usize;
        for (logits, &word) in self.logits.chunks(32).zip(others) {
            let mut open = word;
            while let Some((bit, logit, rest)) = next(logits, open, least) {
                open = rest;
                if logit < good {
                    if softmax_mass(logit, largest).to_bits() < enough {
                        least = logit.wrapping_add(Logit::DELTA); // `good` is above it
                        continue;
                    }
                    good = logit;
                }
                if logit > last {
                    best.widen(missing.ranks.count_ones() as usize);
                }
                if let Some(bar) = best.insert(logit, (base | bit) as u16) {
                    let Some(above) = bar.checked_add(Logit::DELTA) else { return };
                    least = least.max(above);
                }
            }
            base = base.wrapping_add(32);
        }
    }
}

/// The next of the `open` experts of a word whose logit is `least` or above, and who is open behind it.
#[inline(always)]
fn next(logits: &[Logit], mut open: u32, least: Logit) -> Option<(usize, Logit, u32)> {
    // Nothing to check where the layer has experts for the whole word.
    let Some(logits) = logits.first_chunk::<32>() else { return next_of_part(logits, open, least) };
    while open != 0 {
        let bit = open.trailing_zeros() as usize % 32;
        open &= open.wrapping_sub(1);
        let logit = logits[bit];
        if logit >= least {
            return Some((bit, logit, open));
        }
    }
    None
}

/// [`next`] in the last word of a layer.
#[inline(never)]
fn next_of_part(logits: &[Logit], mut open: u32, least: Logit) -> Option<(usize, Logit, u32)> {
    while open != 0 {
        let bit = open.trailing_zeros() as usize;
        open &= open.wrapping_sub(1);
        let &logit = logits.get(bit)?;
        if logit >= least {
            return Some((bit, logit, open));
        }
    }
    None
}

/// How many of the missing experts, least mass first, could be paired within `budget` with stand-ins of the mass of the
/// last wanted one each.
#[inline(always)]
fn possible_pairs(missing: &Missing<'_>, mut budget: u64) -> usize {
    let (mut pairs, stand_in) = (0usize, missing.masses.last().map_or(0, |mass| mass.to_bits()));
    for (mass, _) in missing.least_first() {
        let Some(left) = budget.checked_sub(u64::from(mass.saturating_sub(stand_in))) else { break };
        budget = left;
        pairs = pairs.wrapping_add(1);
    }
    pairs
}
