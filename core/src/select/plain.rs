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

/// Mass and rank of missing experts, least mass first.
type Missing = Vec<(u32, u16), PLAIN_K>;

/// Masses of the chosen that a selection has come by, so that their mixing weights
/// ([`Router::weights_of`]) need no exponential of their own; none before it, and of most routers none after it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Masses {
    /// Relative to the greatest of them, in the order of the chosen.
    masses: [Gate; PLAIN_K],
    /// How many are known.
    known: usize,
}

impl Masses {
    /// Those of `chosen` experts, if it is they that are known.
    pub(crate) fn of(&mut self, chosen: &[u16]) -> Option<&mut [Gate]> {
        self.masses.get_mut(..self.known).filter(|masses| masses.len() == chosen.len() && !chosen.is_empty())
    }

    pub(super) const fn forget(&mut self) {
        self.known = 0;
    }

    #[inline(always)]
    fn note(&mut self, rank: usize, mass: u32) {
        if let Some(place) = self.masses.get_mut(rank) {
            *place = Gate::from_bits(mass);
        }
    }
}

/// What a selection with a plain softmax router goes by.
pub(super) struct Plain<'a> {
    /// At most [`MAX_EXPERTS`].
    pub(super) logits: &'a [Logit],
    pub(super) resident: &'a Experts,
}

/// What is wanted.
struct Wanted {
    /// Sum of the masses.
    all: u64,
    /// Logit and mass of one of the least, the last.
    last: (Logit, u32),
}

// The larger results of what follows are filled in place: moving them would cost more than the work.
impl Plain<'_> {
    /// Lets residents stand in for those of `experts` whose ranks are `missing`, within the bound on mass. `None`, and
    /// nothing is done, if they are not in order: a list that is not the model's own.
    #[inline(never)]
    pub(super) fn replace(
        &self,
        missing: u32,
        experts: &mut [u16],
        eps: Eps,
        mut masses: Option<&mut Masses>,
    ) -> Option<usize> {
        let (mut others, mut least_first) = (Words::new(), Missing::new());
        let words = self.resident.words();
        // There is room: no more words than those of `MAX_EXPERTS`.
        let _ = others.extend_from_slice(words.get(..words_for(self.logits.len())).unwrap_or(words));
        let largest = self.logit(experts.first().copied().unwrap_or(0));
        let wanted =
            self.masses(missing, experts, largest, &mut others, &mut least_first, masses.as_deref_mut())?;
        let mut mass_left = part_of(wanted.all, eps.to_bits());
        let possible = possible_pairs(&least_first, wanted.last.1, mass_left);
        let mut stand_ins = Best::new(possible.max(1));
        self.stand_ins(&others, largest, &least_first, possible, mass_left, wanted.last, &mut stand_ins);
        let (mut substituted, mut relative) = (0usize, true);
        for (&(mass, rank), &(score, expert)) in least_first.iter().zip(stand_ins.entries()) {
            let stand_in = softmax_mass(score, largest).to_bits();
            let loss = u64::from(mass.saturating_sub(stand_in));
            let (Some(left), Some(place)) = (mass_left.checked_sub(loss), experts.get_mut(usize::from(rank))) else {
                break;
            };
            mass_left = left;
            *place = expert;
            substituted = substituted.wrapping_add(1);
            if let Some(masses) = &mut masses {
                masses.note(rank.into(), stand_in);
                // The greatest of the chosen is still the first of the wanted.
                relative &= score <= largest && rank > 0;
            }
        }
        if let Some(masses) = masses
            && relative
        {
            masses.known = experts.len();
        }
        Some(substituted)
    }

    /// Logit of a wanted expert, whose id has been checked.
    #[inline(always)]
    fn logit(&self, expert: u16) -> Logit {
        self.logits.get(usize::from(expert)).copied().unwrap_or(Logit::MIN)
    }

    /// Masses of the wanted experts; those of the ranks `missing` go to `least_first`, and all wanted ones out of
    /// `others`. `None` if a logit is above `largest`, or the missing are not in order.
    #[inline(always)]
    fn masses(
        &self,
        missing: u32,
        wanted: &[u16],
        largest: Logit,
        others: &mut Words,
        least_first: &mut Missing,
        mut masses: Option<&mut Masses>,
    ) -> Option<Wanted> {
        let (mut all, mut last, mut most) = (0u64, u32::MAX, 0);
        // From the last rank up, so that of equal masses the lower-ranked gives way first.
        let mut rank = wanted.len();
        for &expert in wanted.iter().rev() {
            rank = rank.wrapping_sub(1);
            let logit = self.logit(expert);
            if logit > largest {
                return None;
            }
            let mass = softmax_mass(logit, largest).to_bits();
            if let Some(masses) = &mut masses {
                masses.note(rank, mass);
            }
            // At most 64 masses of at most 2^31.
            all = all.wrapping_add(mass.into());
            if last == u32::MAX {
                last = mass;
            }
            if missing.wrapping_shr(rank as u32) & 1 == 0 {
                // One that is missing is no resident.
                if let Some(word) = others.get_mut(usize::from(expert / 32)) {
                    *word &= !(1 << (expert % 32));
                }
                continue;
            }
            if mass < most {
                return None;
            }
            most = mass;
            // There is room: no more than the wanted ones.
            _ = least_first.push((mass, rank as u16));
        }
        Some(Wanted { all, last: (wanted.last().map_or(Logit::MAX, |&expert| self.logit(expert)), last) })
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
        missing: &Missing,
        possible: usize,
        budget: u64,
        (last, _): (Logit, u32),
        best: &mut Best<Logit, PLAIN_K>,
    ) {
        let enough = missing.first().map_or(0, |&(mass, _)| u64::from(mass).saturating_sub(budget) as u32);
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
            while let Some((bit, logit)) = next(logits, &mut open, least) {
                if logit < good {
                    if softmax_mass(logit, largest).to_bits() < enough {
                        least = logit.wrapping_add(Logit::DELTA); // `good` is above it
                        continue;
                    }
                    good = logit;
                }
                if logit > last {
                    best.widen(missing.len());
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

/// The next of the `open` experts of a word whose logit is `least` or above, and is taken out with those before it.
#[inline(always)]
fn next(logits: &[Logit], open: &mut u32, least: Logit) -> Option<(usize, Logit)> {
    // Nothing to check where the layer has experts for the whole word.
    let Some(logits) = logits.first_chunk::<32>() else { return next_of_part(logits, open, least) };
    while *open != 0 {
        let bit = open.trailing_zeros() as usize % 32;
        *open &= open.wrapping_sub(1);
        let logit = logits[bit];
        if logit >= least {
            return Some((bit, logit));
        }
    }
    None
}

/// [`next`] in the last word of a layer.
#[inline(never)]
fn next_of_part(logits: &[Logit], open: &mut u32, least: Logit) -> Option<(usize, Logit)> {
    while *open != 0 {
        let bit = open.trailing_zeros() as usize;
        *open &= open.wrapping_sub(1);
        let &logit = logits.get(bit)?;
        if logit >= least {
            return Some((bit, logit));
        }
    }
    None
}

/// How many of the missing experts, least mass first, could be paired within `budget` with stand-ins of the mass
/// `stand_in` each.
#[inline(always)]
fn possible_pairs(missing: &Missing, stand_in: u32, mut budget: u64) -> usize {
    let mut pairs = 0usize;
    for &(mass, _) in missing {
        let Some(left) = budget.checked_sub(u64::from(mass.saturating_sub(stand_in))) else { break };
        budget = left;
        pairs = pairs.wrapping_add(1);
    }
    pairs
}
