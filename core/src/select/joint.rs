//! The experts of several tokens together: as few different ones as their bounds allow.
//!
//! Tokens that are computed together, those of a prompt or of a draft to be verified, load each expert once for all of
//! them. Which stand-in a token gets is then a question of what the others run. Given the experts that are near at
//! hand, [`select_in_place`] says whether a token can do with them alone, for every router and every bound; what is
//! looked for is the smallest set with which all of them can. That is a set cover, and hard; what is done is:
//!
//! 1. All experts of the layer count as near at hand.
//! 2. One after the other goes, those first that are worth least to all tokens together ([`Batch::worth`]), if every
//!    token that runs it can do without. Who cannot go now cannot go later, when fewer are left: each is asked for
//!    once, and in the end none of them can go. Residents cost nothing and stay.
//! 3. Each token chooses with what is left, or with what the tokens before it run, whichever loads less.
//!
//! ```
//! use cptr_core::select::{Batch, select_jointly};
//! use cptr_core::{Eps, ExpertSet, Level, Logit, Router};
//!
//! // Two tokens want (0, 1) and (2, 3); expert 4 is nearly as good as 1 for the first, and as 3 for the second.
//! let logits = [2.0, 1.0, 0.0, 0.0, 0.9, 0.0, 0.0, 2.0, 1.0, 0.9].map(Logit::from_num);
//! let (mut experts, mut choices, mut worth) = ([0, 1, 2, 3], [0; 4], [Level::ZERO; 5]);
//! let mut batch =
//!     Batch { logits: &logits, experts: &mut experts, k: 2, choices: &mut choices, worth: &mut worth };
//! let nothing = ExpertSet::<1>::new();
//! select_jointly(&Router::softmax_selected(2), Eps::from_num(0.1), 1, &mut batch, &nothing)?;
//! assert_eq!(experts, [0, 4, 2, 4]);
//! # Ok::<(), cptr_core::SelectError>(())
//! ```

use core::num::NonZeroU32;

use heapless::Vec;

use super::{Bounds, MAX_EXPERTS, SelectError, missing, select_in_place};
use crate::num::{Eps, Level, Logit};
use crate::pieces::{pieces, pieces_mut};
use crate::router::{MAX_K, Router};
use crate::set::ExpertSet;

/// No expert, no slot.
pub const NOTHING: u16 = u16::MAX;

/// Tokens of a batch in a layer, and memory for the choice.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Logits `[T, E]`, token by token.
    pub logits: &'a [Logit],
    /// Experts `[T, k]`: what each token wants, best first, before the choice; what it runs after it. [`NOTHING`]
    /// behind the last one of a token that gets fewer than k.
    pub experts: &'a mut [u16],
    /// Experts of a token at most.
    pub k: usize,
    /// Memory `[T, k]`: what each token runs, while the choice is made.
    pub choices: &'a mut [u16],
    /// Memory `[E]`: what each expert is worth to all tokens together, the mean of its masses relative to the greatest
    /// of each token.
    pub worth: &'a mut [Level],
}

impl Batch<'_> {
    /// Tokens, if all lists are as long as they should be.
    fn tokens(&self) -> Option<usize> {
        let tokens = self.experts.len().checked_div(self.k)?;
        let fits = tokens > 0
            && self.experts.len() == tokens.wrapping_mul(self.k)
            && self.choices.len() == self.experts.len()
            && Some(self.logits.len()) == tokens.checked_mul(self.worth.len());
        fits.then_some(tokens)
    }

    /// Logits and wanted experts of each token.
    fn rows(&self) -> impl Iterator<Item = (&[Logit], &[u16])> {
        pieces(self.logits, self.worth.len()).zip(pieces(self.experts, self.k).map(real))
    }
}

/// The ids before the first that is [`NOTHING`].
pub(crate) fn real(ids: &[u16]) -> &[u16] {
    ids.split(|&id| id == NOTHING).next().unwrap_or(&[])
}

/// Chooses the experts of all tokens of a batch, so that few have to be loaded. Returns the number of stand-ins.
///
/// Each token keeps its own bounds and its own first `keep_top`, as if it were alone: what it runs is what
/// [`select_in_place`] says for some set of experts near at hand. No more experts that are not resident run than with
/// [`select_in_turn`]. A bound of 0 leaves what is wanted; a single token gets what [`select_in_place`] gives it.
///
/// Cost: a mass for every token and expert of the layer, about 2 T k selections (at most one for every time that an
/// expert that a token runs is asked for, and three for each token), and for each different expert that runs a pass
/// over the layer and over the choices. On the stack four sets and a list of [`MAX_K`] ids beside what
/// [`select_in_place`] takes.
///
/// # Errors
/// See [`SelectError`]; nothing has been chosen then.
pub fn select_jointly<const WORDS: usize>(
    router: &Router<'_>,
    bounds: impl Into<Bounds>,
    keep_top: usize,
    batch: &mut Batch<'_>,
    resident: &ExpertSet<WORDS>,
) -> Result<usize, SelectError> {
    let Some(layer) = Layer::of(router, bounds.into(), keep_top, batch, resident)? else { return Ok(0) };
    let mut near = *resident;
    if batch.experts.len() > batch.k {
        let loads = layer.run(batch, near, resident, false).0;
        if loads > 1 {
            layer.worth(batch);
            let few = layer.few(batch, resident);
            if layer.run(batch, few, resident, false).0 < loads {
                near = few;
            }
        }
    }
    Ok(layer.run(batch, near, resident, true).1)
}

/// Chooses the experts of one token after the other; what one runs is near at hand for the next. Returns the number of
/// stand-ins. [`Batch::choices`] and the values of [`Batch::worth`] are left as they are.
///
/// Cost: a selection for each token.
///
/// # Errors
/// See [`SelectError`]; nothing has been chosen then.
pub fn select_in_turn<const WORDS: usize>(
    router: &Router<'_>,
    bounds: impl Into<Bounds>,
    keep_top: usize,
    batch: &mut Batch<'_>,
    resident: &ExpertSet<WORDS>,
) -> Result<usize, SelectError> {
    let layer = Layer::of(router, bounds.into(), keep_top, batch, resident)?;
    Ok(layer.map_or(0, |layer| layer.run(batch, *resident, resident, true).1))
}

/// What all tokens choose by.
struct Layer<'a> {
    router: &'a Router<'a>,
    bounds: Bounds,
    keep_top: usize,
    experts: usize,
}

impl<'a> Layer<'a> {
    /// `None` where the bounds leave what is wanted.
    fn of<const WORDS: usize>(
        router: &'a Router<'a>,
        bounds: Bounds,
        keep_top: usize,
        batch: &Batch<'_>,
        resident: &ExpertSet<WORDS>,
    ) -> Result<Option<Self>, SelectError> {
        let experts = batch.worth.len();
        if batch.tokens().is_none() || experts > 32 * WORDS {
            return Err(SelectError::Batch);
        }
        if experts > MAX_EXPERTS {
            return Err(SelectError::Experts);
        }
        for (_, wanted) in batch.rows() {
            missing(keep_top, experts, wanted, resident)?;
        }
        let nothing = bounds.mass == Eps::ZERO || bounds.error == Some(Eps::ZERO);
        Ok((!nothing).then_some(Self { router, bounds, keep_top, experts }))
    }

    /// What a token runs if these experts are near at hand, and how many of them stand in.
    fn choose<const WORDS: usize>(
        &self,
        (logits, wanted): (&[Logit], &[u16]),
        near: &ExpertSet<WORDS>,
    ) -> (Vec<u16, MAX_K>, usize) {
        let mut experts = Vec::new();
        // There is room: the list has been checked.
        wanted.iter().for_each(|&expert| _ = experts.push(expert));
        let stand_ins = select_in_place(self.router, self.bounds, self.keep_top, logits, &mut experts, near);
        (experts, stand_ins.unwrap_or(0))
    }

    /// One token after the other chooses with what is `near` and with what those before it run; the choices are kept if
    /// asked for. Returns how many experts have to be loaded, and how many stand in.
    fn run<const WORDS: usize>(
        &self,
        batch: &mut Batch<'_>,
        mut near: ExpertSet<WORDS>,
        resident: &ExpertSet<WORDS>,
        keep: bool,
    ) -> (usize, usize) {
        let (mut runs, mut loads, mut stand_ins) = (*resident, 0, 0usize);
        let rows = pieces(batch.logits, self.experts);
        for (logits, list) in rows.zip(pieces_mut(batch.experts, batch.k)) {
            let (chosen, new) = self.choose((logits, real(list)), &near);
            stand_ins = stand_ins.wrapping_add(new);
            for &expert in chosen.iter().filter(|&&expert| !self.router.is_null(expert, self.experts)) {
                near.insert(expert);
                loads = usize::wrapping_add(loads, runs.insert(expert).into());
            }
            if keep {
                list.iter_mut().zip(&chosen).for_each(|(to, &expert)| *to = expert);
            }
        }
        (loads, stand_ins)
    }

    /// Says what experts are worth.
    fn worth(&self, batch: &mut Batch<'_>) {
        let tokens = NonZeroU32::new((batch.experts.len() / batch.k.max(1)) as u32).unwrap_or(NonZeroU32::MIN);
        batch.worth.fill(Level::ZERO);
        for logits in pieces(batch.logits, self.experts) {
            let largest = self.router.largest(logits);
            for (expert, worth) in (0..self.experts as u16).zip(batch.worth.iter_mut()) {
                let mass = self.router.mass(self.router.logit(logits, expert), largest).to_bits();
                *worth = worth.saturating_add(Level::from_bits(mass / tokens));
            }
        }
    }

    /// Few experts with which all tokens can do: residents, and others of which none can go.
    fn few<const WORDS: usize>(&self, batch: &mut Batch<'_>, resident: &ExpertSet<WORDS>) -> ExpertSet<WORDS> {
        let mut near = ExpertSet::new();
        (0..self.experts).for_each(|expert| _ = near.insert(expert as u16));
        // Those that have not been asked for.
        let mut open = near;
        open.remove_all(resident);
        let first_null = self.experts.saturating_sub(self.router.null_experts);
        (first_null..self.experts).for_each(|expert| _ = open.remove(expert as u16));
        batch.choices.iter_mut().zip(&*batch.experts).for_each(|(choice, &wanted)| *choice = wanted);
        loop {
            let worth = |expert: u16| (batch.worth.get(usize::from(expert)).copied().unwrap_or(Level::ZERO), expert);
            let used = batch.choices.iter().copied().filter(|&expert| open.contains(expert));
            let goes = used.min_by_key(|&expert| worth(expert));
            // Whom nobody runs goes in any case, when it is its turn.
            let before = goes.map(worth);
            for expert in 0..self.experts as u16 {
                if open.contains(expert) && before.is_none_or(|before| worth(expert) < before) {
                    open.remove(expert);
                    near.remove(expert);
                }
            }
            let Some(goes) = goes else { return near };
            open.remove(goes);
            near.remove(goes);
            if !self.can_do(batch, goes, &near) {
                near.insert(goes);
            }
        }
    }

    /// Whether all tokens that run an expert can do with those `near`, of which it is none. Tokens up to the first that
    /// cannot go by their new choice, which keeps their bounds in any case.
    fn can_do<const WORDS: usize>(&self, batch: &mut Batch<'_>, without: u16, near: &ExpertSet<WORDS>) -> bool {
        let Batch { logits, experts, k, choices, .. } = batch;
        let rows = pieces(logits, self.experts).zip(pieces(experts, *k).map(real));
        for (row, choice) in rows.zip(pieces_mut(choices, *k)) {
            if !choice.contains(&without) {
                continue;
            }
            let (chosen, _) = self.choose(row, near);
            if !chosen.iter().all(|&expert| near.contains(expert)) {
                return false;
            }
            choice.iter_mut().zip(&chosen).for_each(|(to, &expert)| *to = expert);
        }
        true
    }
}
