//! Recall: forecasting a router from remembered trajectories.
//!
//! How often an expert is wanted says little about what the next tokens want; where in the flow of the text a token
//! is says a lot. The choices of all layers together say where that is. Such places come again, and what followed
//! then follows now.
//!
//! - The *signature* of a token is the signs of random projections of its choices in all layers: 64, 128 or 256 bits.
//! - A *memory* holds the signatures and the choices of the last 64 to 65,536 tokens, in the caller's words.
//! - The *match*: at the end of a token all remembered places but the newest 12 are searched once. They are alike if
//!   the signatures of the two tokens, and with falling weight (0.7, 0.5, 0.35, …) those of the tokens before each,
//!   differ in few bits. The nearest places, moved on by a token, are scored again in every layer of the next token
//!   by what they have in common with the layers that have run; up to 16 of them lead.
//! - The *phase* is the age of the best match. It is *locked* while that moves along with the text; the
//!   margin of the best one over the crowd is the *signal-to-noise ratio*. Losing the match is a change of context.
//! - The *forecast* for a layer is the mean of what followed the leading places, over the next token (for fetching
//!   ahead) or the next few (for eviction).
//! - [`JointCalibration`] and [`Skill`] learn on line how far a forecast is to be trusted;
//!   [`Companions`] are a second one to ask.
//!
//! ```
//! use cptr_core::recall::{Config, Recall, Shape};
//! use cptr_core::Level;
//!
//! let shape = Shape { layers: 2, experts: 8, k: 2 };
//! let mut words = [0; Shape { layers: 2, experts: 8, k: 2 }.words(64, 2)];
//! // Signatures of 2 words, 64 bits; at most 32 places.
//! let mut recall = Recall::<_, 2, 32>::new(&Config::default(), shape, 64, &mut words[..])?;
//! // A text of 20 tokens that repeats itself.
//! let choices = |token: u16, layer: u16| [token * 7 % 20 % 8, (token * 7 % 20 % 7 + layer + 1) % 8];
//! for token in (0..20).cycle().take(100) {
//!     for layer in 0..2 {
//!         let [a, mut b] = choices(token, layer);
//!         b = if a == b { (b + 1) % 8 } else { b };
//!         recall.observe(&Config::default(), layer, &[a, b])?;
//!     }
//!     recall.end_token(&Config::default())?;
//! }
//! // The next token is the first of the text, as it was 20 tokens ago.
//! assert_eq!(recall.phase(), Some(20));
//! let mut shares = [Level::ZERO; 8];
//! recall.forecast(0, 1, &mut shares)?;
//! assert!(shares[0] > 0.9 && shares[2] < 0.1);
//! # Ok::<(), cptr_core::recall::RecallError>(())
//! ```
//!
//! Source: the design is this project's own. Its nearest of kin search maps of gate probabilities in floating point,
//! by embedding and by trajectory (FineMoE, arXiv 2502.05370), or activation matrices of whole sequences
//! (MoE-Infinity, arXiv 2401.14361).

mod companions;
mod confidence;
mod forecast;
mod memory;
mod saved;
mod search;
pub(crate) mod signature;
mod sketch;
#[cfg(test)]
mod tests;

use core::fmt;
use core::mem::replace;
use core::num::NonZeroU32;

pub use companions::Companions;
pub use confidence::{JointCalibration, Skill};
pub use memory::{MAX_CHOICES, MAX_EXPERTS, MAX_TOKENS, MIN_TOKENS, Shape};
pub use sketch::MAX_SKETCH;

use crate::num::{Level, LogRatio};
use crate::phase::Lock;
use crate::set::{ExpertSet, Experts, words_for};
use forecast::{Each, Place, Places};
use memory::Memory;
use search::{Crowd, Nearest, Search};
use signature::{Signature, distance};

/// Tokens at the end of the memory that are not searched: they are alike because they are near.
const NEWEST: u32 = 12;
/// Places that this token alone is held against, about.
const ALONE: u32 = 32;
/// Most places that a forecast goes by.
pub const LEADING: usize = 16;
/// Longest forecast in tokens; what followed a place is in the memory for so long.
pub const MAX_AHEAD: u16 = NEWEST as u16;
/// Numbers of a sketch before the first token, which says how many there are.
const OPEN: u16 = u16::MAX;

/// Why something is refused; nothing has changed then.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecallError {
    /// No layer, no expert, none chosen, or more of them than there may be.
    Shape,
    /// Fewer than [`MIN_TOKENS`] or more than [`MAX_TOKENS`] tokens to remember.
    Tokens,
    /// Fewer words than [`Shape::words`] says.
    Memory,
    /// Not the layer that is next; or an end of the token before its last layer.
    Layer,
    /// A chosen expert is out of range or stands twice, or there are more than `k`.
    Id,
    /// A sketch of no number, of more than [`MAX_SKETCH`], or of another length than before; or a token without one
    /// where those before had one, or the other way round.
    Sketch,
    /// Forecasts for no token, for more than [`MAX_AHEAD`], or into fewer shares than there are experts.
    Forecast,
    /// Too few words for what is saved; or words that are not what was saved of the same model, shape, number of
    /// tokens, signatures and places, or are damaged.
    Saved,
}

impl fmt::Display for RecallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "no layer, expert or choice, or too many of them",
            Self::Tokens => "a memory remembers 64 to 65,536 tokens",
            Self::Memory => "too few words for so many tokens",
            Self::Layer => "not the layer that is next",
            Self::Id => "a chosen expert is out of range or stands twice, or there are too many",
            Self::Sketch => "a sketch has 1 to 32,768 numbers, and is of one length at every token, or at none",
            Self::Saved => {
                "not a saved memory of this model, shape and size, or a damaged one, or too few words for one"
            }
            Self::Forecast => "a forecast is for 1 to 12 tokens, with a share for every expert",
        })
    }
}

impl core::error::Error for RecallError {}

/// Constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Places that go on into the next token, up to what a [`Recall`] holds.
    pub candidates: u16,
    /// Weight of 1/64 of a bit in which the tokens before differ, `U16F16`: before the first layer the exponent of a
    /// place is less by this times its distance over the number of bits. At most four times `now`.
    pub before: u32,
    /// Exponent of a place that has everything in common with the layers that have run.
    pub now: u16,
    /// Places that forecasts go by, up to [`LEADING`].
    pub leading: u16,
    /// Of the other places half go after each so many layers, until none is left; 0: never.
    pub thinning: u16,
    /// How far a place may be from the best one to count in a forecast, in 64ths of a halving of its weight.
    pub farthest: u16,
}

impl Config {
    /// The same with half of the leading places, and fewer others for a shorter time: for controllers. 540 instead of
    /// 1,200 choices of a layer are scored in a token of Qwen3-30B-A3B, which takes three quarters of the instructions;
    /// eviction closes 0.4 to 1.8 points less of the gap.
    #[must_use]
    pub fn small() -> Self {
        Self { leading: 8, candidates: 44, thinning: 2, farthest: 256, ..Self::default() }
    }
}

impl Default for Config {
    fn default() -> Self {
        // 1/10 for 1/64 of a bit: 0.4 of `now` where all bits differ. Places count down to 2^-8 of the weight of the
        // best one: who is to be fetched is told better by many.
        Self { candidates: 64, before: 6554, now: 16, leading: 16, thinning: 4, farthest: 512 }
    }
}

/// The match of a sequence of layers, signatures of `32 * W` bits, at most `C` places.
///
/// Memory: about `128 W + 20 C + 500` bytes beside the words of [`Shape::words`].
///
/// Cost a token, with N tokens remembered, L layers, k choices (4 or 8, below 256 experts; else about three times as
/// much): signature `L k` times about 20 instructions and 3,000 (where words share layers), search N times about 35 at
/// 128 bits (20 with a population count), 10,000 for the order of the nearest, the crowd and the places; a layer about
/// 360, each place that is scored 5 k + 15, each that counts 40; a forecast 1.2 for each expert and 60, and for each
/// place that counts and each token ahead 6 k + 12, where there is room for 256 shares. Measured: docs/budgets.md.
///
/// Whatever the tokens are, no more than `leading L + 2 thinning C` choices of a layer are scored in a token, and no
/// forecast reads more than `leading` of them for each token ahead; the search looks at every place once, and moves at
/// most `log2(C)` keys of a heap for each.
#[derive(Debug)]
pub struct Recall<B, const W: usize, const C: usize> {
    memory: Memory<B, W>,
    signature: Signature<W>,
    /// Numbers of a token's sketch, 0 where signatures are of choices; [`OPEN`] before the first token.
    sketch: u16,
    places: Places<C>,
    nearest: Nearest<C>,
    /// Whether each id is among those chosen in the layer at hand; none is between calls. Id 255 means none.
    chosen: [u8; 256],
    /// Slot of the token that is on its way.
    slot: u32,
    /// Tokens that are complete, up to the slots less one.
    complete: u32,
    /// Layers of this token that have run, and those that all places have taken.
    layers: u16,
    settled: u16,
    /// Distance of the farthest of the nearest places.
    reach: u32,
    snr: LogRatio,
    /// Share of tokens that were what had followed the best match, an average over 8 tokens, `U1F31` bits.
    moving: u32,
}

impl<B: AsRef<[u32]> + AsMut<[u32]>, const W: usize, const C: usize> Recall<B, W, C> {
    const SIZES: () = assert!(W == 2 || W == 4 || W == 8, "signatures have 64, 128 or 256 bits");

    /// Before the first token, in the caller's words, of which there are at least `shape.words(tokens, W)`. `tokens`
    /// are remembered, the one that is on its way included.
    ///
    /// # Errors
    /// [`RecallError::Shape`], [`RecallError::Tokens`], [`RecallError::Memory`].
    pub fn new(config: &Config, shape: Shape, tokens: usize, words: B) -> Result<Self, RecallError> {
        let () = Self::SIZES;
        let mut memory = Memory::new(shape, tokens, words)?;
        memory.for_search().1.fill(search::unknown(32 * W as u32));
        Ok(Self {
            memory,
            signature: Signature::new(),
            sketch: OPEN,
            places: Places::new(config, shape.k),
            nearest: Nearest::new(config.candidates.into()),
            chosen: [0; 256],
            slot: 0,
            complete: 0,
            layers: 0,
            settled: 0,
            reach: u32::MAX,
            snr: LogRatio::ZERO,
            moving: 0,
        })
    }

    /// Takes what a token chose in its next layer: the model's own choice, in any order. The same as
    /// [`observe_leading`](Self::observe_leading) and [`settle`](Self::settle).
    ///
    /// # Errors
    /// [`RecallError::Layer`], [`RecallError::Id`].
    pub fn observe(&mut self, config: &Config, layer: u16, experts: &[u16]) -> Result<(), RecallError> {
        self.observe_leading(config, layer, experts)?;
        self.settle();
        Ok(())
    }

    /// Takes what a token chose in its next layer, and scores the leading places by it: what a forecast for the layer
    /// after this one has to wait for. The configuration is the one that the token before ended with.
    ///
    /// # Errors
    /// [`RecallError::Layer`], [`RecallError::Id`].
    pub fn observe_leading(&mut self, _: &Config, layer: u16, experts: &[u16]) -> Result<(), RecallError> {
        let shape = self.memory.shape();
        if layer != self.layers || layer >= shape.layers {
            return Err(RecallError::Layer);
        }
        if experts.len() > usize::from(shape.k) {
            return Err(RecallError::Id);
        }
        match self.memory.whole_words() {
            1 if experts.len() == 4 => self.observe_words::<1>(layer, experts)?,
            2 if experts.len() == 8 => self.observe_words::<2>(layer, experts)?,
            _ => {
                let mut chosen = ExpertSet::<{ words_for(MAX_EXPERTS) }>::new();
                if !experts.iter().all(|&id| id < shape.experts && chosen.insert(id)) {
                    return Err(RecallError::Id);
                }
                self.settle();
                self.memory.set_choices(self.slot, layer, experts);
                self.layers = self.layers.wrapping_add(1);
                let each = self.places.layer(self.layers);
                score(&self.memory, layer, &chosen, self.places.split().0, each);
            }
        }
        self.places.weigh();
        #[cfg(test)]
        {
            self.places.taken += self.places.split().0.len();
        }
        Ok(())
    }

    /// The same where choices are `N` words of four bytes, but for the weights.
    fn observe_words<const N: usize>(&mut self, layer: u16, experts: &[u16]) -> Result<(), RecallError> {
        let most = self.memory.shape().experts;
        let (mut words, mut wrong) = ([0; N], 0);
        for (word, &[a, b, c, d]) in words.iter_mut().zip(experts.as_chunks::<4>().0) {
            let chosen = &mut self.chosen;
            let mut new = |id: u16| wrong |= u8::from(id >= most) | replace(&mut chosen[usize::from(id as u8)], 1);
            new(a);
            new(b);
            new(c);
            new(d);
            *word = u32::from(a) | u32::from(b) << 8 | u32::from(c) << 16 | u32::from(d) << 24;
        }
        if wrong != 0 || self.settled != self.layers {
            mark(&mut self.chosen, &words, 0);
            if wrong != 0 {
                return Err(RecallError::Id);
            }
            self.settle();
            mark(&mut self.chosen, &words, 1);
        }
        self.memory.set_layer(self.slot, layer, words);
        self.layers = self.layers.wrapping_add(1);
        let each = self.places.layer(self.layers);
        score_words(self.memory.layers::<N>(), layer, &self.chosen, self.places.split().0, each);
        mark(&mut self.chosen, &words, 0);
        Ok(())
    }

    /// Scores the other places by the last layer that ran, of which some may lead then. Off the critical path: between
    /// the forecast for the next layer and its choices. If it is left out, the next layer does it.
    pub fn settle(&mut self) {
        if self.settled == self.layers {
            return;
        }
        self.settled = self.layers;
        if !self.places.others() {
            return;
        }
        match self.memory.whole_words() {
            words @ 1..=2 => self.settle_words(words),
            _ => {
                let layer = self.layers.wrapping_sub(1);
                let mut chosen = ExpertSet::<{ words_for(MAX_EXPERTS) }>::new();
                self.memory.choices(self.memory.row(self.slot), layer, |id| _ = chosen.insert(id));
                let each = self.places.each();
                score(&self.memory, layer, &chosen, self.places.split().1, each);
            }
        }
        #[cfg(test)]
        {
            self.places.taken += self.places.split().1.len();
        }
        self.places.settle(self.layers);
    }

    /// The same where choices are `words` words of four bytes, one or two.
    fn settle_words(&mut self, words: u32) {
        let (layer, each) = (self.layers.wrapping_sub(1), self.places.each());
        let first = self.memory.row(self.slot).wrapping_add(u32::from(layer).wrapping_mul(words));
        let own = self.memory.rows().get(first as usize..).and_then(|rows| rows.get(..words as usize)).unwrap_or(&[]);
        mark_each(&mut self.chosen, own, 1);
        let others = self.places.split().1;
        match words {
            1 => score_words(self.memory.layers::<1>(), layer, &self.chosen, others, each),
            _ => score_words(self.memory.layers::<2>(), layer, &self.chosen, others, each),
        }
        mark_each(&mut self.chosen, own, 0);
    }

    /// Ends a token: its signature, and the search. Off the critical path.
    ///
    /// # Errors
    /// [`RecallError::Layer`] before its last layer, [`RecallError::Sketch`] where tokens before had a sketch.
    pub fn end_token(&mut self, config: &Config) -> Result<(), RecallError> {
        self.may_end(0)?;
        let signature = self.signature.end_token(&self.memory, self.slot);
        self.end(config, signature);
        Ok(())
    }

    /// The same with a signature of a sketch instead of the choices: of the routers' inputs, or of their logits, in any
    /// scale that is the same for all tokens. Choices are remembered as ever, and places are scored by them.
    ///
    /// # Errors
    /// [`RecallError::Layer`] before its last layer, [`RecallError::Sketch`]; nothing has changed then.
    pub fn end_token_with(&mut self, config: &Config, sketch: &[i16]) -> Result<(), RecallError> {
        if sketch.is_empty() {
            return Err(RecallError::Sketch);
        }
        self.may_end(sketch.len())?;
        let signature = sketch::end_token(&mut self.signature, sketch);
        self.end(config, signature);
        Ok(())
    }

    /// Whether a token may end with a sketch of so many numbers, or none: then all that follow have as many.
    fn may_end(&mut self, sketch: usize) -> Result<(), RecallError> {
        if self.layers < self.memory.shape().layers {
            return Err(RecallError::Layer);
        }
        let known = self.sketch == OPEN || usize::from(self.sketch) == sketch;
        if sketch > MAX_SKETCH || !known {
            return Err(RecallError::Sketch);
        }
        self.sketch = sketch as u16;
        Ok(())
    }

    fn end(&mut self, config: &Config, signature: [u32; W]) {
        let slots = self.memory.tokens();
        self.memory.set_signature(self.slot, signature);
        // The best match of the token before has moved on: is this token what it was there?
        let alone = self.phase().map(|age| distance(&signature, &self.memory.signature(before(self.slot, age, slots))));
        let (least, most) = (NEWEST + 1, self.complete);
        let (signatures, past) = self.memory.for_search();
        Search { now: &signature, slot: self.slot, least, most, reach: self.reach }.run(
            signatures,
            past,
            &mut self.nearest,
        );
        self.reach = search::reach(&self.nearest);
        let mut crowd = Crowd::of(past, least, most);
        let step = (most.wrapping_add(1).saturating_sub(least) / ALONE).max(1);
        let mut age = least;
        while age <= most {
            let other = signatures.get(before(self.slot, age, slots) as usize);
            crowd.alone(other.map_or(0, |other| distance(&signature, other)));
            // Of at most 65,536 places.
            age = age.wrapping_add(step);
        }
        let moved = u32::from(alone.is_some_and(|alone| crowd.follows(alone)));
        self.moving = self.moving.wrapping_sub(self.moving >> 3).wrapping_add(moved << (31 - 3));
        self.snr = self.nearest.iter().next().map_or(LogRatio::ZERO, |(_, distance)| crowd.snr(distance));
        self.complete = self.complete.wrapping_add(1).min(slots.wrapping_sub(1));
        let next = self.slot.wrapping_add(1);
        self.slot = if next == slots { 0 } else { next };
        self.begin(config);
    }

    /// Before the first layer of a token.
    fn begin(&mut self, config: &Config) {
        let (memory, slot) = (&self.memory, self.slot);
        let row = |age| memory.row(before(slot, age, memory.tokens()));
        self.places.begin(config, &self.nearest, 32 * W as u32, row);
        (self.layers, self.settled) = (0, 0);
    }

    /// Forecast for the next `tokens` tokens that run a layer: the mean over them of the weighted share of places
    /// where an expert was chosen, rounded down; together at most k. The token that is on its way counts where the
    /// layer has not yet run. All zero where there is no match. Shares beyond those of the experts stay as they are;
    /// with room for 256 of them it takes half of the time. Where a fault has written memory, a share may be any number
    /// until the ring has been written once more.
    ///
    /// # Errors
    /// [`RecallError::Layer`], [`RecallError::Forecast`].
    pub fn forecast(&self, layer: u16, tokens: u16, shares: &mut [Level]) -> Result<(), RecallError> {
        let shape = self.memory.shape();
        if layer >= shape.layers {
            return Err(RecallError::Layer);
        }
        let Some(wanted) = shares.get_mut(..shape.experts.into()) else { return Err(RecallError::Forecast) };
        let Some(tokens) = NonZeroU32::new(tokens.into()).filter(|tokens| tokens.get() <= u32::from(MAX_AHEAD)) else {
            return Err(RecallError::Forecast);
        };
        fill_with_zero(wanted);
        match self.memory.whole_words() {
            1 => self.forecast_words::<1>(layer, tokens, shares),
            2 => self.forecast_words::<2>(layer, tokens, shares),
            _ => self.forecast_ids(layer, tokens, shares),
        }
        Ok(())
    }

    // What followed all places, for as long as is asked, is in the memory. Apart, as each needs all registers.
    #[inline(never)]
    fn forecast_words<const N: usize>(&self, layer: u16, tokens: NonZeroU32, shares: &mut [Level]) {
        // With room for every byte no id has to be looked at; no expert has the last one, which means none.
        match shares.first_chunk_mut::<256>() {
            Some(shares) => {
                let last = shares[255];
                self.ids_ahead::<N>(layer, tokens, |id, part| {
                    let share = &mut shares[(id & 0xff) as usize];
                    *share = Level::from_bits(share.to_bits().wrapping_add(part));
                });
                shares[255] = last;
            }
            None => self.ids_ahead::<N>(layer, tokens, |id, part| add(shares, id & 0xff, part)),
        }
    }

    /// Calls `add` with what the places that count chose in a layer over the next tokens, in the lowest byte, and what
    /// each is worth.
    #[inline(always)]
    fn ids_ahead<const N: usize>(&self, layer: u16, tokens: NonZeroU32, mut add: impl FnMut(u32, u32)) {
        let (rows, layers) = (self.memory.layers::<N>(), u32::from(self.memory.shape().layers));
        let first = u32::wrapping_add(if layer < self.layers { layers } else { 0 }, layer.into());
        let ring = self.memory.tokens().wrapping_mul(layers);
        for &(row, weight) in self.places.weights() {
            // On the critical path nothing is divided: some processors have no instruction for it.
            let each = if tokens == NonZeroU32::MIN { weight } else { weight / tokens };
            let mut at = (row / N as u32).wrapping_add(first);
            for _ in 0..tokens.get() {
                // Only what begins before the end of the ring goes on at its start.
                at = if at >= ring { at.wrapping_sub(ring) } else { at };
                if let Some(words) = rows.get(at as usize) {
                    for ids in words {
                        add(*ids, each);
                        add(ids >> 8, each);
                        add(ids >> 16, each);
                        add(ids >> 24, each);
                    }
                }
                at = at.wrapping_add(layers);
            }
        }
    }

    #[inline(never)]
    fn forecast_ids(&self, layer: u16, tokens: NonZeroU32, shares: &mut [Level]) {
        let first = u32::from(layer < self.layers);
        for &(row, weight) in self.places.weights() {
            let each = weight / tokens;
            for ahead in first..first.wrapping_add(tokens.get()) {
                self.memory.choices(self.memory.row_ahead(row, ahead), layer, |id| add(shares, id.into(), each));
            }
        }
    }

    /// The phase: how many tokens ago the text was where it is now, by the best match; `None` without one.
    pub fn phase(&self) -> Option<u32> {
        self.nearest.iter().next().map(|(age, _)| age)
    }

    /// Whether the best match moves along with the text, that is, whether tokens are like what followed the best
    /// match of the token before, nearer than three quarters of the mean of all places: locked where a quarter of the
    /// last 8 tokens or so are, unlocked below an eighth.
    pub const fn lock(&self) -> Lock {
        match self.moving >> 28 {
            0 => Lock::Unlocked,
            1 => Lock::Transition,
            _ => Lock::Locked,
        }
    }

    /// Margin of the best match over the crowd: a base-2 logarithm of squared distances, 1 is 3.01 dB; 0 without a
    /// match.
    pub const fn snr(&self) -> LogRatio {
        self.snr
    }

    /// Words that [`save`](Self::save) takes for a memory of `tokens` tokens.
    pub const fn saved_words(shape: Shape, tokens: usize) -> usize {
        saved::saved_words(shape, tokens, W, C)
    }

    /// Writes everything that is remembered into the first words of `to` and returns how many: between two tokens, for
    /// a model that the caller knows by `model`. Words are for machines of one byte order; who keeps bytes says which.
    ///
    /// # Errors
    /// [`RecallError::Layer`] inside a token, [`RecallError::Saved`] with fewer words than
    /// [`saved_words`](Self::saved_words); nothing is written then.
    pub fn save(&self, model: u64, to: &mut [u32]) -> Result<usize, RecallError> {
        if self.layers != 0 {
            return Err(RecallError::Layer);
        }
        let count = Self::saved_words(self.memory.shape(), self.memory.tokens() as usize);
        let Some((last, to)) = to.get_mut(..count).and_then(<[u32]>::split_last_mut) else {
            return Err(RecallError::Saved);
        };
        let (means, tokens) = self.signature.state();
        let (keys, none) = (self.nearest.keys(), [0; C]);
        let no_places = none.get(keys.len()..).unwrap_or(&[]);
        let state = [
            self.slot,
            self.complete,
            self.reach,
            self.moving,
            self.snr.to_bits().cast_unsigned(),
            tokens,
            keys.len() as u32 | u32::from(self.sketch) << 16,
        ];
        let mut left = to.iter_mut();
        // One loop for all parts.
        for part in [&self.head(model)[..], &state, keys, no_places, means.as_flattened(), self.memory.all()] {
            part.iter().zip(left.by_ref()).for_each(|(word, to)| *to = *word);
        }
        *last = saved::checksum(&*to);
        Ok(count)
    }

    /// Takes over what was saved of a model, of the same shape and with as many tokens, places and bits; what was
    /// remembered before is forgotten. Goes on with exactly the decisions of the one that was saved.
    ///
    /// # Errors
    /// [`RecallError::Saved`] with anything else: another model, shape or size, another length, damage. Nothing has
    /// changed then.
    pub fn restore(&mut self, config: &Config, model: u64, saved: &[u32]) -> Result<(), RecallError> {
        let slots = self.memory.tokens();
        let count = Self::saved_words(self.memory.shape(), slots as usize);
        let Some((last, words)) = saved.split_last().filter(|_| saved.len() == count) else {
            return Err(RecallError::Saved);
        };
        let head = self.head(model);
        let parts = words.split_first_chunk().and_then(|(found, rest): (&[u32; 7], _)| {
            let (state, rest) = rest.split_first_chunk()?;
            let (keys, rest) = rest.split_at_checked(C)?;
            let (means, memory) = rest.split_at_checked(32 * W)?;
            // Word by word: whole, small libraries would hold a `memcmp` for it.
            let same = found.iter().zip(&head).all(|(found, word)| found == word);
            (same && saved::checksum(words) == *last).then_some((state, keys, means, memory))
        });
        let Some((&[slot, complete, reach, moving, snr, tokens, found], keys, means, memory)) = parts else {
            return Err(RecallError::Saved);
        };
        // Also with a checksum that fits nothing may lead beyond the memory.
        let bits = 32 * W as u32;
        let (found, sketch) = (found & 0xffff, (found >> 16) as u16);
        let (keys, ages) = (keys.get(..found as usize).unwrap_or(&[]), NEWEST + 1..=complete);
        let past = memory.get((slots as usize).wrapping_mul(W)..(slots as usize).wrapping_mul(W + 1)).unwrap_or(&[]);
        let possible = slot < slots
            && complete < slots
            && keys.len() == found as usize
            && keys.len() <= self.nearest.most()
            && keys.iter().all(|key| ages.contains(&(key & 0xffff).wrapping_add(1)))
            && past.iter().all(|&distance| search::possible(distance, bits));
        if !possible {
            return Err(RecallError::Saved);
        }
        self.memory.all_mut().iter_mut().zip(memory).for_each(|(to, from)| *to = *from);
        let mut mean = [[0; 32]; W];
        mean.iter_mut().flatten().zip(means).for_each(|(to, from)| *to = *from);
        self.signature = Signature::restore(mean, tokens);
        self.sketch = sketch;
        self.nearest.restore(keys);
        (self.slot, self.complete, self.reach) = (slot, complete, reach);
        (self.moving, self.snr) = (moving, LogRatio::from_bits(snr.cast_signed()));
        self.begin(config);
        Ok(())
    }

    /// What a saved memory begins with.
    fn head(&self, model: u64) -> [u32; 7] {
        let Shape { layers, experts, k } = self.memory.shape();
        [
            saved::MAGIC,
            model as u32,
            (model >> 32) as u32,
            u32::from(layers) | u32::from(experts) << 16,
            u32::from(k) | (W as u32) << 16,
            self.memory.tokens(),
            C as u32,
        ]
    }
}

/// Scores places by how many of their choices in a layer are among the chosen.
fn score<B: AsRef<[u32]> + AsMut<[u32]>, const W: usize>(
    memory: &Memory<B, W>,
    layer: u16,
    chosen: &Experts,
    places: &mut [Place],
    each: Each,
) {
    for place in places {
        let mut common = 0;
        memory.choices(place.row, layer, |id| common = u32::wrapping_add(common, chosen.contains(id).into()));
        place.take(common, each);
    }
}

/// The same where choices are `N` words of four bytes.
#[inline(never)]
fn score_words<const N: usize>(rows: &[[u32; N]], layer: u16, chosen: &[u8; 256], places: &mut [Place], each: Each) {
    let of = |id: u32| u32::from(chosen[(id & 0xff) as usize]);
    let four =
        |ids: u32| u32::wrapping_add(of(ids), of(ids >> 8)).wrapping_add(of(ids >> 16)).wrapping_add(of(ids >> 24));
    for place in places {
        let words = rows.get((place.row / N as u32).wrapping_add(layer.into()) as usize).unwrap_or(&[u32::MAX; N]);
        // No loop over one or two.
        let common = u32::wrapping_add(four(words[0]), if N > 1 { four(words[N - 1]) } else { 0 });
        place.take(common, each);
    }
}

/// Says of ids, four in a word, that they are among the chosen, or are not; of the one that means none, always not.
#[inline]
fn mark(chosen: &mut [u8; 256], ids: &[u32], to: u8) {
    for ids in ids {
        let mut set = |id: u32| chosen[(id & 0xff) as usize] = to;
        set(*ids);
        set(ids >> 8);
        set(ids >> 16);
        set(ids >> 24);
    }
    chosen[255] = 0;
}

/// [`mark`] where a call hardly counts.
#[inline(never)]
fn mark_each(chosen: &mut [u8; 256], ids: &[u32], to: u8) {
    mark(chosen, ids, to);
}

/// Adds to the share of an expert; to none where there is no such expert. All parts of one add up to 1 at most, as no
/// token chose it twice.
#[inline]
fn add(shares: &mut [Level], id: u32, part: u32) {
    if let Some(share) = shares.get_mut(id as usize) {
        *share = Level::from_bits(share.to_bits().wrapping_add(part));
    }
}

/// Sixteen at a time: the compiler's `memset` for RV32 takes three instructions a word, and it would be called if the
/// zero were known.
fn fill_with_zero(shares: &mut [Level]) {
    let zero = Level::from_bits(core::hint::black_box(0));
    let (sixteens, rest) = shares.as_chunks_mut::<16>();
    for [a, b, c, d, e, f, g, h, others @ ..] in sixteens {
        (*a, *b, *c, *d, *e, *f, *g, *h) = (zero, zero, zero, zero, zero, zero, zero, zero);
        let [a, b, c, d, e, f, g, h] = others;
        (*a, *b, *c, *d, *e, *f, *g, *h) = (zero, zero, zero, zero, zero, zero, zero, zero);
    }
    rest.fill(zero);
}

/// The slot of an age before another slot.
#[inline]
const fn before(slot: u32, age: u32, slots: u32) -> u32 {
    if age <= slot { slot.wrapping_sub(age) } else { slot.wrapping_add(slots).wrapping_sub(age) }
}
