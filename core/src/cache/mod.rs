//! The experts of a model in bounded fast memory, for who runs the model: which expert lies in which slot, what has to
//! be loaded for a token and who goes for it, and what to fetch before it is wanted.
//!
//! [`Cache::step`] is called once for every layer, in their order, with the router's logits of one token or of a batch.
//! It chooses ([`select_jointly`](crate::select_jointly)), finds the slot of every choice, and says what to load into
//! which slot. What it says has been done when the experts of the layer have run. [`Cache::fetch`] says, when the link
//! is idle, what to load for the next layer; [`Cache::loaded`] that such a load has arrived.
//!
//! - *Who goes*: the expert that levels and [`recall`] expect least, recall as far as it has known more than levels
//!   ([`Skill`](recall::Skill)); never one that the batch still needs, that is pinned, or that is on its way.
//! - *Batches*: an expert is loaded once for all tokens of a batch. A bound on the loss therefore also saves distinct
//!   experts: the tokens choose together, so that few have to be loaded, each within its own bound. Where a batch needs
//!   more experts than there are slots, it runs in *waves*: those of a wave are there together, and a load of wave `n`
//!   may begin when wave `n - 1` has run.
//! - *Sequences*: a cache belongs to one sequence of tokens; the tokens of a batch follow each other (a prompt, or
//!   tokens to be verified), and are remembered in that order.
//!
//! ```
//! use cptr_core::cache::{Cache, Config, Layer, Load, Memory, NOTHING, Shape, Step};
//! use cptr_core::{Level, Logit, Router, ScaledLevels};
//!
//! const SHAPE: Shape = Shape { layers: 1, experts: 4, k: 1, slots: 2, tokens: 1, remembered: 64 };
//! let (mut levels, mut shares) = ([ScaledLevels::ZERO; 4], [Level::ZERO; 4]);
//! let (mut slots, mut places) = ([NOTHING; 2], [NOTHING; 4]);
//! let mut layers = [Layer::new(&mut levels, &mut slots, &mut places, &mut shares)];
//! let (mut recall, mut companions) = ([0; SHAPE.recall_words(2)], [0; SHAPE.companions_words()]);
//! let (mut forecasts, mut logits) = ([Level::ZERO; 12], [Logit::ZERO; 4]);
//! let memory = Memory {
//!     layers: &mut layers,
//!     recall: &mut recall,
//!     companions: &mut companions,
//!     wanted: &mut [],
//!     forecasts: &mut forecasts,
//!     logits: &mut logits,
//! };
//! let config = Config::default();
//! let mut cache = Cache::<2, 32>::new(&config, SHAPE, memory)?;
//! // Experts 0 and 1 are loaded into the two slots; 0 is there when it is wanted again.
//! for (favourite, loads) in [(0, 1), (1, 1), (0, 0)] {
//!     let row = |_: u16, logits: &mut [Logit]| logits[favourite] = Logit::ONE;
//!     let (mut ids, mut slots, mut waves) = ([0; 1], [0; 1], [0; 1]);
//!     let mut step = Step { layer: 0, tokens: 1, ids: &mut ids, slots: &mut slots, waves: &mut waves };
//!     let load = |load: Load| assert_eq!(load.expert, favourite as u16);
//!     assert_eq!(cache.step(&config, &Router::softmax_all(1), &mut step, row, load)?.loads, loads);
//!     assert_eq!(ids[0], favourite as u16);
//! }
//! # Ok::<(), cptr_core::cache::CacheError>(())
//! ```

mod fetch;
mod layer;
mod step;
#[cfg(test)]
mod tests;

use core::fmt;

pub use crate::select::NOTHING;
pub use layer::Layer;

use crate::num::{Level, Logit};
use crate::recall::{self, Companions, JointCalibration, Recall, RecallError};
use crate::router::MAX_K;
use crate::select::Bounds;
use crate::set::{ExpertSet, words_for};
use crate::tracker::TrackerConfig;

/// Most experts of a layer: those that recall remembers.
pub const MAX_EXPERTS: usize = recall::MAX_EXPERTS;
/// A set of experts of a layer.
pub(crate) type Set = ExpertSet<{ words_for(MAX_EXPERTS) }>;

/// Sizes of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Layers that have a router.
    pub layers: u16,
    /// Experts of a layer, at most [`MAX_EXPERTS`].
    pub experts: u16,
    /// Most experts that a token chooses in a layer, at most [`MAX_K`].
    pub k: u16,
    /// Experts of a layer that fast memory holds: at least one, at most all.
    pub slots: u16,
    /// Tokens of the largest batch.
    pub tokens: u16,
    /// Tokens that recall remembers, 64 to 65,536.
    pub remembered: u32,
}

impl Shape {
    /// Words that recall takes with signatures of `32 * signature` bits.
    #[must_use]
    pub const fn recall_words(self, signature: usize) -> usize {
        self.trajectories().words(self.remembered as usize, signature)
    }

    /// Logits of a batch: those of all its tokens in a layer.
    #[must_use]
    pub const fn logits(self) -> usize {
        (self.tokens as usize).wrapping_mul(self.experts as usize)
    }

    /// Words that [`Companions`] take.
    #[must_use]
    pub const fn companions_words(self) -> usize {
        Companions::<&mut [u32]>::words(self.trajectories())
    }

    /// Ids that a batch takes: what each token wanted in each layer; none for single tokens.
    #[must_use]
    pub const fn wanted(self) -> usize {
        if self.tokens > 1 {
            (self.tokens as usize).wrapping_mul(self.layers as usize).wrapping_mul(self.k as usize)
        } else {
            0
        }
    }

    /// Whether all sizes are in range.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.k >= 1
            && self.k as usize <= MAX_K
            && self.slots >= 1
            && self.slots <= self.experts
            && self.tokens >= 1
            && self.remembered as usize >= recall::MIN_TOKENS
            && self.remembered as usize <= recall::MAX_TOKENS
            && self.trajectories().is_valid()
    }

    /// Choices of a token in a layer; at least 1, which compilers for small code do not see.
    fn choices(self) -> usize {
        usize::from(self.k).max(1)
    }

    const fn trajectories(self) -> recall::Shape {
        recall::Shape { layers: self.layers, experts: self.experts, k: self.k }
    }
}

/// Constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// What a token may lose in a layer; 0 is the model's own choice.
    pub bounds: Bounds,
    /// Best experts of a token that are always chosen.
    pub keep_top: u16,
    /// Whether the tokens of a batch choose together ([`select_jointly`](crate::select_jointly)), else one after the
    /// other ([`select_in_turn`](crate::select::select_in_turn)).
    pub joint: bool,
    /// Of the levels.
    pub tracker: TrackerConfig,
    /// Of recall.
    pub recall: recall::Config,
    /// Tokens ahead that count for who stays, 1 to [`recall::MAX_AHEAD`].
    pub window: u16,
    /// Weight of the forecast beside the levels, `U16F16`.
    pub weight: u32,
    /// Most fetches for a layer; 0: none.
    pub fetches: u16,
    /// Share of forecasts like this one that came true, at least, for a fetch.
    pub sure: Level,
}

impl Default for Config {
    fn default() -> Self {
        let tracker = TrackerConfig {
            kalman: const { crate::KalmanConfig::from_gains(crate::Gain::from_bits(1 << 26), crate::Gain::ZERO) },
            fast_gain: crate::Gain::from_bits(1 << 29),
            ..TrackerConfig::default()
        };
        Self {
            bounds: crate::Eps::ZERO.into(),
            keep_top: 1,
            joint: true,
            tracker,
            recall: recall::Config::default(),
            window: 4,
            weight: 4 << 16,
            fetches: 8,
            // 0.68
            sure: Level::from_bits(1_460_288_880),
        }
    }
}

/// Why nothing was done.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheError {
    /// Sizes are not what [`Shape`] says, or the layers were not made for it.
    Shape,
    /// Too little memory.
    Memory,
    /// Not the layer that is next; or another number of tokens than in the layer before.
    Layer,
    /// No token, or more than the largest batch.
    Tokens,
    /// The router does not fit the experts.
    Router,
    /// A list of the step is too short.
    Step,
    /// No such expert, or one that is not on its way.
    Expert,
    /// Nobody may go: all slots are pinned.
    Pinned,
    /// What was saved is not of this model or of these sizes, or is damaged.
    Saved,
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "sizes of the cache are out of range or contradict its layers",
            Self::Memory => "too little memory for the cache",
            Self::Layer => "not the layer that is next, or not the tokens of the layer before",
            Self::Tokens => "no token, or more than the largest batch",
            Self::Router => "the router does not fit the experts",
            Self::Step => "a list of the step is too short",
            Self::Expert => "no such expert, or it is not on its way",
            Self::Pinned => "all slots are pinned",
            Self::Saved => "what was saved is of another model or of other sizes, or damaged",
        })
    }
}

impl core::error::Error for CacheError {}

/// An expert to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Layer of the expert.
    pub layer: u16,
    /// The expert.
    pub expert: u16,
    /// Slot that it is loaded into.
    pub slot: u16,
    /// Expert that lay there, or [`NOTHING`].
    pub victim: u16,
    /// Wave that needs it; 0 of fetches.
    pub wave: u16,
    /// Whether it is on its way already: a fetch that has not arrived. It only has to be waited for.
    pub on_its_way: bool,
}

/// A layer that runs, and where it is written what to do: of a batch of T tokens lists of T k entries each, token by
/// token.
#[derive(Debug)]
pub struct Step<'a> {
    /// The layer, which is the next one.
    pub layer: u16,
    /// Tokens of the batch.
    pub tokens: u16,
    /// What each token runs; [`NOTHING`] where it gets fewer than k.
    pub ids: &'a mut [u16],
    /// Slot of each; [`NOTHING`] of null experts.
    pub slots: &'a mut [u16],
    /// Wave of each.
    pub waves: &'a mut [u16],
}

/// What a step came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Experts that have to be waited for.
    pub loads: usize,
    /// Waves that the batch runs in.
    pub waves: usize,
    /// Experts that stand in for others.
    pub stand_ins: usize,
}

/// Memory of a cache, the caller's.
#[derive(Debug)]
pub struct Memory<'a> {
    /// One for each layer.
    pub layers: &'a mut [Layer<'a>],
    /// [`Shape::recall_words`].
    pub recall: &'a mut [u32],
    /// [`Shape::companions_words`]; none where nothing is ever fetched.
    pub companions: &'a mut [u32],
    /// [`Shape::wanted`].
    pub wanted: &'a mut [u16],
    /// Three for each expert of a layer.
    pub forecasts: &'a mut [Level],
    /// [`Shape::logits`].
    pub logits: &'a mut [Logit],
}

/// A cache with signatures of `32 * W` bits and at most `C` places of [`recall`].
#[derive(Debug)]
pub struct Cache<'a, const W: usize, const C: usize> {
    shape: Shape,
    layers: &'a mut [Layer<'a>],
    recall: Recall<&'a mut [u32], W, C>,
    /// Where something is fetched.
    companions: Option<Companions<&'a mut [u32]>>,
    /// Of forecasts within a token, and for the first layer of the next one.
    calibrations: [JointCalibration; 2],
    /// What the tokens of a batch wanted, `[T, L, k]`.
    wanted: &'a mut [u16],
    /// Of the tokens of a batch, `[T, E]`.
    logits: &'a mut [Logit],
    /// Share of the next tokens, of the next one alone, and how often it came with the choices of the layer before, for
    /// the layer that something is fetched for. The first is also used for the choice of a batch.
    ahead: &'a mut [Level],
    next: &'a mut [Level],
    others: &'a mut [Level],
    /// Whether the layer that is next has been forecast, and who was there then.
    forecast: Option<Set>,
    /// The layer that is next, and the tokens of this step.
    layer: u16,
    tokens: u16,
}

impl<'a, const W: usize, const C: usize> Cache<'a, W, C> {
    /// Before the first token, with all slots empty.
    ///
    /// # Errors
    /// [`CacheError::Shape`], [`CacheError::Memory`].
    // Where it is wanted at once: a cache is large to be moved.
    #[inline(always)]
    pub fn new(config: &Config, shape: Shape, memory: Memory<'a>) -> Result<Self, CacheError> {
        let Memory { layers, recall, companions, wanted, forecasts, logits } = memory;
        let (experts, slots) = (usize::from(shape.experts), usize::from(shape.slots));
        let fits = shape.is_valid()
            && layers.len() == usize::from(shape.layers)
            && layers.iter().all(|layer| layer.fits(experts, slots));
        if !fits {
            return Err(CacheError::Shape);
        }
        let forecasts = forecasts.get_mut(..experts.wrapping_mul(3)).and_then(|all| {
            let (ahead, rest) = all.split_at_mut_checked(experts)?;
            Some((ahead, rest.split_at_mut_checked(experts)?))
        });
        let (Some(wanted), Some((ahead, (next, others))), Some(logits)) =
            (wanted.get_mut(..shape.wanted()), forecasts, logits.get_mut(..shape.logits()))
        else {
            return Err(CacheError::Memory);
        };
        let companions = match companions {
            [] => None,
            words => Some(Companions::new(shape.trajectories(), words).map_err(|_| CacheError::Memory)?),
        };
        // No closures: they would have it moved once more, and it is large.
        let recall = match Recall::new(&config.recall, shape.trajectories(), shape.remembered as usize, recall) {
            Ok(recall) => recall,
            Err(RecallError::Memory) => return Err(CacheError::Memory),
            Err(_) => return Err(CacheError::Shape),
        };
        Ok(Self {
            shape,
            layers,
            recall,
            companions,
            calibrations: [JointCalibration::new(), JointCalibration::new()],
            wanted,
            logits,
            ahead,
            next,
            others,
            forecast: None,
            layer: 0,
            tokens: 1,
        })
    }

    /// Sizes.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// A layer; `None` if there is no such layer.
    pub fn layer(&self, layer: u16) -> Option<&Layer<'a>> {
        self.layers.get(usize::from(layer))
    }

    /// Remembered trajectories.
    pub const fn recall(&self) -> &Recall<&'a mut [u32], W, C> {
        &self.recall
    }

    /// Words that [`Self::save`] takes.
    #[must_use]
    pub const fn saved_words(shape: Shape) -> usize {
        Recall::<&'a mut [u32], W, C>::saved_words(shape.trajectories(), shape.remembered as usize)
    }

    /// Writes the remembered trajectories, [`Recall::save`]: what is worth keeping when an engine stops. Levels are
    /// known again after some hundred tokens.
    ///
    /// # Errors
    /// [`CacheError::Layer`] inside a token, [`CacheError::Memory`] with too few words.
    pub fn save(&self, model: u64, to: &mut [u32]) -> Result<usize, CacheError> {
        if self.layer > 0 {
            return Err(CacheError::Layer);
        }
        self.recall.save(model, to).map_err(|_| CacheError::Memory)
    }

    /// Takes over what was saved of the same model, [`Recall::restore`].
    ///
    /// # Errors
    /// [`CacheError::Layer`] inside a token, [`CacheError::Saved`]; nothing has changed then.
    pub fn restore(&mut self, config: &Config, model: u64, saved: &[u32]) -> Result<(), CacheError> {
        if self.layer > 0 {
            return Err(CacheError::Layer);
        }
        self.recall.restore(&config.recall, model, saved).map_err(|_| CacheError::Saved)?;
        self.forecast = None;
        Ok(())
    }

    /// A fetch has arrived.
    ///
    /// # Errors
    /// [`CacheError::Expert`] if it was not on its way.
    pub fn loaded(&mut self, layer: u16, expert: u16) -> Result<(), CacheError> {
        let there = self.layers.get_mut(usize::from(layer)).ok_or(CacheError::Layer)?;
        if there.arriving.remove(expert) { Ok(()) } else { Err(CacheError::Expert) }
    }

    /// A load has failed, or what lay in a slot is lost: the expert is no longer there.
    ///
    /// # Errors
    /// [`CacheError::Expert`] if it was not.
    pub fn lost(&mut self, layer: u16, expert: u16) -> Result<(), CacheError> {
        self.layers.get_mut(usize::from(layer)).ok_or(CacheError::Layer)?.lose(expert)
    }

    /// From now on an expert that is there stays, or may go again.
    ///
    /// # Errors
    /// [`CacheError::Expert`] for one that is not there.
    pub fn pin(&mut self, layer: u16, expert: u16, stays: bool) -> Result<(), CacheError> {
        let there = self.layers.get_mut(usize::from(layer)).ok_or(CacheError::Layer)?;
        if !there.resident.contains(expert) {
            return Err(CacheError::Expert);
        }
        _ = if stays { there.pinned.insert(expert) } else { there.pinned.remove(expert) };
        Ok(())
    }
}
