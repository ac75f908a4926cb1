//! Recall: forecasting a router from remembered trajectories.
//!
//! How often an expert is wanted says little about what the next tokens want; where in the flow of the text a token
//! is says a lot. The choices of all layers together say where that is. Such places come again, and what followed
//! then follows now.
//!
//! - The *signature* of a token is the signs of random projections of its choices in all layers: 64, 128 or 256 bits.
//! - A *memory* holds the signatures and the choices of the last 64 to 65,536 tokens, in the caller's words.
//! - The *match*: at the end of a token all remembered places but the newest 12 are searched once. They are alike if
//!   the signatures of the two tokens, and with weights 0.7, 0.5 and 0.35 those of the three tokens before each,
//!   differ in few bits. The nearest places, moved on by a token, are scored again in every layer of the next token
//!   by what they have in common with the layers that have run.
//! - The *phase* is the age of the best match. It is *locked* while that moves along with the text; the
//!   margin of the best one over the crowd is the *signal-to-noise ratio*. Losing the match is a change of context.
//! - The *forecast* for a layer is the mean of what followed the places, over the next token (for fetching ahead) or
//!   the next few (for eviction).
//! - [`Calibration`] and [`Skill`] learn on line how far a forecast is to be trusted.
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

mod confidence;
mod forecast;
mod memory;
mod search;
mod signature;
#[cfg(test)]
mod tests;

use core::fmt;

pub use confidence::{Calibration, Skill};
pub use memory::{MAX_EXPERTS, MAX_TOKENS, MIN_TOKENS, Shape};
pub use signature::MAX_CHOICES;

use crate::num::{Level, LogRatio};
use crate::phase::Lock;
use crate::set::{ExpertSet, words_for};
use forecast::Places;
use memory::Memory;
use search::Nearest;
use signature::Signature;

/// Tokens at the end of the memory that are not searched: they are alike because they are near.
const NEWEST: u32 = 12;
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
}

impl fmt::Display for RecallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "no layer, expert or choice, or too many of them",
            Self::Tokens => "a memory remembers 64 to 65,536 tokens",
            Self::Memory => "too few words for so many tokens",
            Self::Layer => "not the layer that is next",
            Self::Id => "a chosen expert is out of range or stands twice, or there are too many",
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
}

impl Default for Config {
    fn default() -> Self {
        // exp(8 x) of similarities from -1 to 1, of which the tokens before count 0.5 and this one 2: 0.5 * 8 * 2 /
        // 64 = 1/8.
        Self { candidates: 64, before: 1 << 13, now: 16 }
    }
}

/// The match of a sequence of layers, signatures of `32 * W` bits, at most `C` places.
///
/// Memory: `176 W + 20 C + 150` bytes beside the words of [`Shape::words`].
///
/// Cost a token, with N tokens remembered, L layers, k choices and M places: signature `L k W` times about 25
/// instructions; search N times about 30 (128 bits, with a population count; 75 without); rescoring `L M k` times
/// about 7 and `L M` times up to 30; a forecast up to `M k` times 10 per token ahead, of which most places have no
/// weight.
#[derive(Debug)]
pub struct Recall<B, const W: usize, const C: usize> {
    memory: Memory<B, W>,
    signature: Signature<W>,
    places: Places<C>,
    nearest: Nearest<C>,
    /// Slot of the token that is on its way.
    slot: u32,
    /// Tokens that are complete, up to the slots less one.
    complete: u32,
    /// Layers of this token that have run.
    layers: u16,
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
            places: Places::new(),
            nearest: Nearest::new(config.candidates.into()),
            slot: 0,
            complete: 0,
            layers: 0,
            snr: LogRatio::ZERO,
            moving: 0,
        })
    }

    /// Takes what a token chose in its next layer: the model's own choice, in any order.
    ///
    /// # Errors
    /// [`RecallError::Layer`], [`RecallError::Id`].
    pub fn observe(&mut self, config: &Config, layer: u16, experts: &[u16]) -> Result<(), RecallError> {
        let shape = self.memory.shape();
        if layer != self.layers || layer >= shape.layers {
            return Err(RecallError::Layer);
        }
        let mut chosen = ExpertSet::<{ words_for(MAX_EXPERTS) }>::new();
        if experts.len() > usize::from(shape.k) || !experts.iter().all(|&id| id < shape.experts && chosen.insert(id)) {
            return Err(RecallError::Id);
        }
        self.memory.set_choices(self.slot, layer, experts);
        self.signature.add(layer, experts);
        self.layers += 1;
        let (memory, slot) = (&self.memory, self.slot);
        self.places.layer(config, shape.k, |age| {
            let mut common = 0;
            memory.choices(before(slot, age, memory.tokens()), layer, |id| common += u32::from(chosen.contains(id)));
            common
        });
        Ok(())
    }

    /// Ends a token: its signature, and the search. Off the critical path.
    ///
    /// # Errors
    /// [`RecallError::Layer`] before its last layer.
    pub fn end_token(&mut self, config: &Config) -> Result<(), RecallError> {
        if self.layers < self.memory.shape().layers {
            return Err(RecallError::Layer);
        }
        let (signature, phase) = (self.signature.end_token(), self.phase());
        self.memory.set_signature(self.slot, signature);
        let (signatures, past) = self.memory.for_search();
        let crowd =
            search::search(&signature, self.slot, signatures, past, NEWEST + 1, self.complete, &mut self.nearest);
        // The best match of the token before has moved on: is this token what it was there?
        let alone = phase.and_then(|age| search::alone(past, age));
        let moved = u32::from(alone.is_some_and(|alone| crowd.follows(alone)));
        self.moving = self.moving - (self.moving >> 3) + (moved << (31 - 3));
        self.snr = self.nearest.iter().next().map_or(LogRatio::ZERO, |(_, distance)| crowd.snr(distance));
        self.places.begin(config, &self.nearest, 32 * W as u32);
        let slots = self.memory.tokens();
        self.complete = (self.complete + 1).min(slots - 1);
        self.slot = if self.slot + 1 == slots { 0 } else { self.slot + 1 };
        self.layers = 0;
        Ok(())
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
        if !(1..=MAX_AHEAD).contains(&tokens) || shares.len() < usize::from(shape.experts) {
            return Err(RecallError::Forecast);
        }
        shares.fill(Level::ZERO);
        let first = u32::from(layer < self.layers);
        for (age, weight) in self.places.weights() {
            let part = (weight / u32::from(tokens)) >> 1;
            for ahead in first..first + u32::from(tokens) {
                // All places are older than what is asked for, so that what followed them is there.
                let slot = before(self.slot, age - ahead, self.memory.tokens());
                self.memory.choices(slot, layer, |id| {
                    if let Some(share) = shares.get_mut(usize::from(id)) {
                        *share = Level::from_bits(share.to_bits().saturating_add(part));
                    }
                });
            }
        }
        Ok(())
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
}

/// The slot of an age before another slot.
#[inline]
const fn before(slot: u32, age: u32, slots: u32) -> u32 {
    if age <= slot { slot - age } else { slot + slots - age }
}
