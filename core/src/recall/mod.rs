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
//! - [`Calibration`], [`JointCalibration`] and [`Skill`] learn on line how far a forecast is to be trusted;
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
#[cfg(test)]
mod oracle;
mod saved;
mod search;
mod signature;
#[cfg(test)]
mod tests;

use core::fmt;

pub use companions::Companions;
pub use confidence::{Calibration, JointCalibration, Skill};
pub use memory::{MAX_CHOICES, MAX_EXPERTS, MAX_TOKENS, MIN_TOKENS, Shape};

use crate::num::{Level, LogRatio};
use crate::phase::Lock;
use crate::set::{ExpertSet, Experts, words_for};
use forecast::{Place, Places};
use memory::{Memory, part};
use search::{Crowd, Nearest, Search};
use signature::{Signature, distance};

/// Tokens at the end of the memory that are not searched: they are alike because they are near.
const NEWEST: u32 = 12;
/// Most places that a forecast goes by.
pub const LEADING: usize = 16;
/// Longest forecast in tokens; what followed a place is in the memory for so long.
pub const MAX_AHEAD: u16 = NEWEST as u16;

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
    /// Weight of the tokens before against 1/64 of a bit in all that differ, `U16F16`: exponent of a place is this
    /// times its distance over the number of bits.
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
    /// The same with half of the leading places, and less of the others: for controllers. At 64 places 600 instead of
    /// 1,200 choices of a layer are scored in a token of Qwen3-30B-A3B, and forecasts of 4 tokens read half as many;
    /// eviction closes 1 to 2 points less of the gap.
    #[must_use]
    pub fn small() -> Self {
        Self { leading: 8, thinning: 2, farthest: 160, ..Self::default() }
    }
}

impl Default for Config {
    fn default() -> Self {
        // exp(8 x) of similarities from -1 to 1, of which the tokens before count 0.4 and this one 2: 0.4 * 8 * 2 /
        // 64 = 1/10.
        Self { candidates: 64, before: 6554, now: 16, leading: 16, thinning: 4, farthest: 256 }
    }
}

/// The match of a sequence of layers, signatures of `32 * W` bits, at most `C` places.
///
/// Memory: `128 W + 24 C + 350` bytes beside the words of [`Shape::words`].
///
/// Cost a token, with N tokens remembered, L layers, k choices (a multiple of 4 below 256 experts; else about twice
/// as much): signature `L k` times about 17 instructions (where words share layers); search N times about 40 at 128
/// bits (20 with a population count); each place that is scored 5 k + 20; a forecast 2 for each expert, and for each
/// place and token ahead 8 k + 10. Measured: docs/firmware.md. Whatever the tokens are, no more than `leading L + 2
/// thinning C` choices of a layer are scored in a token, and no forecast reads more than `leading` of them for each
/// token ahead; the search looks at every place once, and moves at most `log2(C)` keys of a heap for each.
#[derive(Debug)]
pub struct Recall<B, const W: usize, const C: usize> {
    memory: Memory<B, W>,
    signature: Signature<W>,
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
            places: Places::new(config),
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
    /// after this one has to wait for.
    ///
    /// # Errors
    /// [`RecallError::Layer`], [`RecallError::Id`].
    pub fn observe_leading(&mut self, config: &Config, layer: u16, experts: &[u16]) -> Result<(), RecallError> {
        let shape = self.memory.shape();
        if layer != self.layers || layer >= shape.layers {
            return Err(RecallError::Layer);
        }
        if experts.len() > usize::from(shape.k) {
            return Err(RecallError::Id);
        }
        match self.memory.whole_words() {
            Some(whole) if experts.len() == usize::from(shape.k) => {
                let fits = mark_new(&mut self.chosen, experts, shape.experts);
                if !fits || self.settled != self.layers {
                    clear(&mut self.chosen, experts);
                    if !fits {
                        return Err(RecallError::Id);
                    }
                    self.settle();
                    mark_new(&mut self.chosen, experts, shape.experts);
                }
                self.memory.set_bytes(self.slot, layer, whole, experts);
                self.layers += 1;
                let each = self.places.layer(config, self.layers, shape.k);
                let from = u32::from(layer) * whole;
                score_bytes(self.memory.rows(), from, whole, &self.chosen, self.places.split().0, each);
                clear(&mut self.chosen, experts);
            }
            _ => {
                let mut chosen = ExpertSet::<{ words_for(MAX_EXPERTS) }>::new();
                if !experts.iter().all(|&id| id < shape.experts && chosen.insert(id)) {
                    return Err(RecallError::Id);
                }
                self.settle();
                self.memory.set_choices(self.slot, layer, experts);
                self.layers += 1;
                let each = self.places.layer(config, self.layers, shape.k);
                score(&self.memory, layer, &chosen, self.places.split().0, each);
            }
        }
        #[cfg(test)]
        {
            self.places.taken += self.places.split().0.len();
        }
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
        let (layer, own, each) = (self.layers.wrapping_sub(1), self.memory.row(self.slot), self.places.each());
        let others = self.places.split().1;
        match self.memory.whole_words() {
            Some(whole) => {
                let (rows, from) = (self.memory.rows(), u32::from(layer) * whole);
                mark(&mut self.chosen, part(rows, own + from, whole), 1);
                score_bytes(rows, from, whole, &self.chosen, others, each);
                mark(&mut self.chosen, part(rows, own + from, whole), 0);
            }
            None => {
                let mut chosen = ExpertSet::<{ words_for(MAX_EXPERTS) }>::new();
                self.memory.choices(own, layer, |id| _ = chosen.insert(id));
                score(&self.memory, layer, &chosen, others, each);
            }
        }
        #[cfg(test)]
        {
            self.places.taken += self.places.split().1.len();
        }
        self.places.settle(self.layers);
    }

    /// Ends a token: its signature, and the search. Off the critical path.
    ///
    /// # Errors
    /// [`RecallError::Layer`] before its last layer.
    pub fn end_token(&mut self, config: &Config) -> Result<(), RecallError> {
        if self.layers < self.memory.shape().layers {
            return Err(RecallError::Layer);
        }
        let slots = self.memory.tokens();
        let signature = self.signature.end_token(&self.memory, self.slot);
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
        self.reach = search::reach(&self.nearest, past);
        let mut crowd = Crowd::of(past, least, most);
        let step = ((most + 1).saturating_sub(least) / 32).max(1);
        for age in (least..=most).step_by(step as usize) {
            crowd.alone(distance(&signature, &self.memory.signature(before(self.slot, age, slots))));
        }
        let moved = u32::from(alone.is_some_and(|alone| crowd.follows(alone)));
        self.moving = self.moving - (self.moving >> 3) + (moved << (31 - 3));
        self.snr = self.nearest.iter().next().map_or(LogRatio::ZERO, |(_, distance)| crowd.snr(distance));
        self.complete = (self.complete + 1).min(slots - 1);
        self.slot = if self.slot + 1 == slots { 0 } else { self.slot + 1 };
        self.begin(config);
        Ok(())
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
    /// layer has not yet run. All zero where there is no match.
    ///
    /// # Errors
    /// [`RecallError::Layer`], [`RecallError::Forecast`].
    pub fn forecast(&self, layer: u16, tokens: u16, shares: &mut [Level]) -> Result<(), RecallError> {
        let shape = self.memory.shape();
        if layer >= shape.layers {
            return Err(RecallError::Layer);
        }
        let Some(shares) = shares.get_mut(..shape.experts.into()) else { return Err(RecallError::Forecast) };
        if !(1..=MAX_AHEAD).contains(&tokens) {
            return Err(RecallError::Forecast);
        }
        fill_with_zero(shares);
        if self.memory.whole_words().is_some() {
            self.forecast_bytes(layer, tokens, shares);
        } else {
            self.forecast_ids(layer, tokens, shares);
        }
        Ok(())
    }

    // What followed all places, for as long as is asked, is in the memory. Apart, as each needs all registers.
    #[inline(never)]
    fn forecast_bytes(&self, layer: u16, tokens: u16, shares: &mut [Level]) {
        let (memory, rows, whole) = (&self.memory, self.memory.rows(), self.memory.whole_words().unwrap_or(0));
        let first = u32::from(layer < self.layers);
        let (places, parts) = self.places.forecast(tokens);
        for (place, &each) in places.iter().zip(&parts).filter(|(_, each)| **each > 0) {
            for ahead in first..first + u32::from(tokens) {
                let row = memory.row_ahead(place.row, ahead) + u32::from(layer) * whole;
                for ids in part(rows, row, whole) {
                    add(shares, ids & 0xff, each);
                    add(shares, (ids >> 8) & 0xff, each);
                    add(shares, (ids >> 16) & 0xff, each);
                    add(shares, ids >> 24, each);
                }
            }
        }
    }

    #[inline(never)]
    fn forecast_ids(&self, layer: u16, tokens: u16, shares: &mut [Level]) {
        let first = u32::from(layer < self.layers);
        let (places, parts) = self.places.forecast(tokens);
        for (place, &each) in places.iter().zip(&parts).filter(|(_, each)| **each > 0) {
            for ahead in first..first + u32::from(tokens) {
                self.memory.choices(self.memory.row_ahead(place.row, ahead), layer, |id| add(shares, id.into(), each));
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
        let keys = self.nearest.keys();
        let places = keys.iter().chain(core::iter::repeat_n(&0, C.saturating_sub(keys.len())));
        let state = [
            self.slot,
            self.complete,
            self.reach,
            self.moving,
            self.snr.to_bits().cast_unsigned(),
            tokens,
            keys.len() as u32,
        ];
        let head = self.head(model);
        let words = head.iter().chain(&state).chain(places).chain(means.iter().flatten()).chain(self.memory.all());
        to.iter_mut().zip(words).for_each(|(to, word)| *to = *word);
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
            (*found == head && saved::checksum(words) == *last).then_some((state, keys, means, memory))
        });
        let Some((&[slot, complete, reach, moving, snr, tokens, found], keys, means, memory)) = parts else {
            return Err(RecallError::Saved);
        };
        // Also with a checksum that fits nothing may lead beyond the memory.
        let bits = 32 * W as u32;
        let (keys, ages) = (keys.get(..found as usize).unwrap_or(&[]), NEWEST + 1..=complete);
        let past = memory.get(slots as usize * W..slots as usize * (W + 1)).unwrap_or(&[]);
        let possible = slot < slots
            && complete < slots
            && keys.len() == found as usize
            && keys.len() <= self.nearest.most()
            && keys.iter().all(|key| ages.contains(&((key & 0xffff) + 1)))
            && past.iter().all(|&distance| search::possible(distance, bits));
        if !possible {
            return Err(RecallError::Saved);
        }
        self.memory.all_mut().iter_mut().zip(memory).for_each(|(to, from)| *to = *from);
        let mut mean = [[0; 32]; W];
        mean.iter_mut().flatten().zip(means).for_each(|(to, from)| *to = *from);
        self.signature = Signature::restore(mean, tokens);
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
    each: u32,
) {
    for place in places {
        let mut common = 0;
        memory.choices(place.row, layer, |id| common += u32::from(chosen.contains(id)));
        place.take(common, each);
    }
}

/// The same where choices are whole words of four bytes, `from` words behind where those of a token begin.
#[inline(never)]
fn score_bytes(rows: &[u32], from: u32, whole: u32, chosen: &[u8; 256], places: &mut [Place], each: u32) {
    for place in places {
        let mut common = 0;
        for &ids in part(rows, place.row + from, whole) {
            let of = |id: u32| u32::from(chosen[(id & 0xff) as usize]);
            common += of(ids) + of(ids >> 8) + of(ids >> 16) + of(ids >> 24);
        }
        place.take(common, each);
    }
}

/// Says of ids, four in a word, that they are among the chosen, or are not; of the one that means none, always not.
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

/// Whether all ids are below `experts` and none stands twice; those seen until then are marked.
fn mark_new(chosen: &mut [u8; 256], ids: &[u16], experts: u16) -> bool {
    ids.iter().all(|&id| match chosen.get_mut(usize::from(id)) {
        Some(mark) if id < experts => core::mem::replace(mark, 1) == 0,
        _ => false,
    })
}

/// None of the ids is chosen.
fn clear(chosen: &mut [u8; 256], ids: &[u16]) {
    ids.iter().for_each(|&id| {
        if let Some(mark) = chosen.get_mut(usize::from(id)) {
            *mark = 0;
        }
    });
}

/// Adds to the share of an expert; to none where there is no such expert. All parts of one add up to 1 at most, as no
/// token chose it twice.
#[inline]
fn add(shares: &mut [Level], id: u32, part: u32) {
    if let Some(share) = shares.get_mut(id as usize) {
        *share = Level::from_bits(share.to_bits().wrapping_add(part));
    }
}

/// Eight at a time: the compiler's `memset` for RV32 takes three instructions a word, and it would be called if the
/// zero were known.
fn fill_with_zero(shares: &mut [Level]) {
    let zero = Level::from_bits(core::hint::black_box(0));
    let (eights, rest) = shares.as_chunks_mut::<8>();
    for [a, b, c, d, e, f, g, h] in eights {
        (*a, *b, *c, *d, *e, *f, *g, *h) = (zero, zero, zero, zero, zero, zero, zero, zero);
    }
    rest.fill(zero);
}

/// The slot of an age before another slot.
#[inline]
const fn before(slot: u32, age: u32, slots: u32) -> u32 {
    if age <= slot { slot - age } else { slot + slots - age }
}
