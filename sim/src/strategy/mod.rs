//! What a system does with the experts that do not all fit its fast memory: five choices that can be combined at will.
//!
//! | axis | question |
//! |---|---|
//! | [`select`] | which experts run: the router's choice, or others for a loss of routing mass |
//! | [`residency`] | which experts stay in fast memory |
//! | [`prefetch`] | which are fetched before they are asked for |
//! | [`division`] | which run on the GPU, and which near the data |
//! | [`precision`] | at how many bits |
//!
//! A [`Strategy`] is one kind of each with its parameters, written `name[:parameter=value]…` joined by `+`; what is not
//! named is the router's choice, least recently used, nothing fetched, all on the GPU, full precision. Whole systems of
//! the literature are names for five choices ([`presets`]). A new kind is one file and one line in the list of its
//! axis.
//!
//! ```
//! use cptr_sim::strategy::Strategy;
//!
//! let strategy = Strategy::parse("bounded:eps=0.02+lru+transition")?;
//! assert_eq!((strategy.residency.kind.name, strategy.division.kind.name), ("lru", "gpu"));
//! assert_eq!(strategy.to_string(), "bounded:eps=0.02+lru+transition");
//! let wrong = Strategy::parse("lru+lfu").unwrap_err().to_string();
//! assert_eq!(wrong, "lru+lfu: expected one residency, found lru and lfu");
//! # Ok::<(), cptr_trace::Error>(())
//! ```

pub mod division;
pub(crate) mod forecaster;
mod list;
mod parameter;
mod parse;
mod parts;
pub mod precision;
pub mod prefetch;
pub mod presets;
mod remembers;
pub mod residency;
mod rivals;
pub mod select;
mod step;

use std::fmt;

use cptr_core::recall::MAX_SKETCH;
use cptr_hw_model::System;
use cptr_trace::Knowledge;
use cptr_trace::error::{Error, Result};

use forecaster::Signs;
pub use list::{KindRow, kinds};
pub use parameter::{Parameter, Unit, Values};
pub(crate) use parse::AXES;
pub use presets::{PRESETS, Preset};
pub use step::{Choice, Execution, Place};
pub(crate) use step::{Layer, Served, ServedToken, Site, Token, by_demand};

/// One way to make a choice of one axis, as the text of a strategy names it. `M` makes its state.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Kind<M: 'static> {
    /// Its name.
    pub name: &'static str,
    /// One line for help.
    pub summary: &'static str,
    /// Its parameters, the one that people turn first.
    pub parameters: &'static [Parameter],
    /// What the source must have recorded; unknown scores are never invented.
    pub needs: Knowledge,
    /// Whether it promises a bound on the loss of routing mass, so that the source's choices must follow from its
    /// logits.
    pub promises: bool,
    /// Whether it asks later layers' routers about this layer's input, which takes a model in the loop.
    pub asks_routers: bool,
    /// Whether it knows what tokens will want: no system can do that.
    pub sees_future: bool,
    /// Whether it takes long by nature, so that it runs only when it is named.
    pub slow: bool,
    /// Whether what it does in one layer depends on another, so that layers cannot be replayed one by one.
    pub couples_layers: bool,
    /// Whether a machine, where there is one, must have a near-data device.
    pub device: bool,
    /// Whether it decides by times of a machine with a near-data device, so that there must be one.
    pub times: bool,
    pub(crate) make: M,
}

impl<M> Kind<M> {
    /// A kind that takes nothing and needs ids only; others say what differs.
    pub(crate) const fn new(name: &'static str, summary: &'static str, make: M) -> Self {
        Self {
            name,
            summary,
            parameters: &[],
            needs: Knowledge::Ids,
            promises: false,
            asks_routers: false,
            sees_future: false,
            slow: false,
            couples_layers: false,
            device: false,
            times: false,
            make,
        }
    }
}

/// A kind with its parameters.
#[derive(Debug, Clone)]
pub struct Part<M: 'static> {
    /// Which kind.
    pub kind: &'static Kind<M>,
    /// With which numbers.
    pub values: Values,
}

impl<M> Part<M> {
    pub(crate) fn new(kind: &'static Kind<M>) -> Self {
        Self { kind, values: Values::defaults(kind.parameters) }
    }

    /// Reads `name[:parameter=value]…` as one of `kinds`, for lists that are no axis of a strategy; `what` is what
    /// they
    /// are called.
    pub(crate) fn of_list(what: &str, kinds: &[&'static Kind<M>], text: &str) -> Result<Self> {
        let mut items = text.split(':');
        let name = items.next().unwrap_or("");
        let Some(kind) = kinds.iter().find(|kind| kind.name == name) else {
            let names: Vec<_> = kinds.iter().map(|kind| kind.name).collect();
            return Err(Error::new(format!("expected {what} ({}), found \"{name}\"", names.join(", "))));
        };
        let mut part = Self::new(kind);
        items.try_for_each(|pair| part.values.set(name, pair))?;
        Ok(part)
    }

    /// Whether it is the same kind with the same numbers.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.kind.name == other.kind.name && self.values == other.values
    }
}

/// Name and what differs from the defaults.
impl<M> fmt::Display for Part<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.name, self.values)
    }
}

/// Five choices.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Strategy {
    /// As it was asked for.
    text: String,
    /// Which experts run.
    pub select: Part<select::Make>,
    /// Which stay in fast memory.
    pub residency: Part<residency::Make>,
    /// Which are fetched before they are asked for.
    pub prefetch: Part<prefetch::Make>,
    /// Which run where.
    pub division: Part<division::Make>,
    /// At how many bits.
    pub precision: Part<precision::Make>,
}

/// As it was asked for.
impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Applies an expression to the kind of every axis of a strategy, with the axis' name.
macro_rules! for_each_axis {
    ($strategy:expr, |$axis:ident, $kind:ident| $body:expr) => {{
        {
            let ($axis, $kind) = ("select", $strategy.select.kind);
            $body
        }
        {
            let ($axis, $kind) = ("residency", $strategy.residency.kind);
            $body
        }
        {
            let ($axis, $kind) = ("prefetch", $strategy.prefetch.kind);
            $body
        }
        {
            let ($axis, $kind) = ("division", $strategy.division.kind);
            $body
        }
        {
            let ($axis, $kind) = ("precision", $strategy.precision.kind);
            $body
        }
    }};
}

impl Strategy {
    /// Every preset that is not slow by nature, those that mean the same once: what runs where nothing is named.
    ///
    /// # Panics
    /// Never: presets are read by a test.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for preset in PRESETS {
            let strategy = Self::parse(preset.name).expect("a preset can be read");
            if !strategy.slow() && !all.iter().any(|other| other.is(&strategy)) {
                all.push(strategy);
            }
        }
        all
    }

    /// Whether two texts mean the same.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.select.is(&other.select)
            && self.residency.is(&other.residency)
            && self.prefetch.is(&other.prefetch)
            && self.division.is(&other.division)
            && self.precision.is(&other.precision)
    }

    /// Whether a part knows what tokens will want.
    #[must_use]
    pub fn sees_future(&self) -> bool {
        let mut sees = false;
        for_each_axis!(self, |_axis, kind| sees |= kind.sees_future);
        sees
    }

    /// Whether a part asks later layers' routers about this layer's input.
    #[must_use]
    pub fn asks_routers(&self) -> bool {
        let mut asks = false;
        for_each_axis!(self, |_axis, kind| asks |= kind.asks_routers);
        asks
    }

    /// Whether it takes long by nature: then it runs only when it is named.
    #[must_use]
    pub fn slow(&self) -> bool {
        let mut slow = false;
        for_each_axis!(self, |_axis, kind| slow |= kind.slow);
        slow
    }

    /// Whether no system that fills its memory on demand waits less often for experts at full precision: the raw router
    /// with Belady's rule, all on the GPU. Of any other strategy that sees the future it is not known.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        let names = (self.select.kind.name, self.residency.kind.name, self.prefetch.kind.name, self.division.kind.name);
        names == ("raw", "belady", "none", "gpu") && self.precision.kind.name == "full"
    }

    /// Whether what happens in one layer depends on another, so that layers cannot be replayed one by one.
    #[must_use]
    pub fn couples_layers(&self) -> bool {
        let mut couples = false;
        for_each_axis!(self, |_axis, kind| couples |= kind.couples_layers);
        couples
    }

    /// Why it cannot run on a source and a machine, in one sentence without its name; `None` if it can.
    #[must_use]
    pub fn refusal(&self, source: &Has<'_>) -> Option<String> {
        let mut reason = None;
        for_each_axis!(self, |axis, kind| {
            if reason.is_none() {
                reason = source.refuses(axis, kind);
            }
        });
        reason.or_else(|| source.refuses_signature(self.signs(), self.residency.kind.name))
    }

    /// What the signatures of its memory are of.
    fn signs(&self) -> Signs {
        Signs::of(&self.residency.values)
    }

    /// Whether it reads the routers' inputs, or sketches of them.
    pub(crate) fn sketches(&self) -> bool {
        self.signs() == Signs::Sketch
    }

    /// Whether it remembers logits.
    pub(crate) fn remembers_logits(&self) -> bool {
        self.signs() == Signs::Logits
    }
}

/// What a source and a machine offer.
#[derive(Debug, Clone, Copy)]
pub struct Has<'a> {
    /// What was recorded.
    pub knowledge: Knowledge,
    /// Whether the choices that were recorded follow from the logits, so that a bound on what others lose can be
    /// promised.
    pub bound: bool,
    /// Whether later layers' routers can be asked: of models that run.
    pub routers: bool,
    /// Whether what tokens will want can be known: of recordings.
    pub future: bool,
    /// The machine, where there is one.
    pub system: Option<&'a System>,
    /// Whether the sizes of the model are known, so that there are times.
    pub sizes: bool,
    /// Numbers that a token's logits of all layers are, and its routers' inputs or sketches of them; 0: none.
    pub numbers: [usize; 2],
}

impl Has<'_> {
    /// Why signatures cannot be of what they are to be of.
    fn refuses_signature(&self, signs: Signs, residency: &str) -> Option<String> {
        let (what, found) = match signs {
            Signs::Choices => return None,
            Signs::Sketch => ("routers' inputs (hidden)", self.numbers[1]),
            Signs::Logits => ("logits", self.numbers[0]),
        };
        (found == 0 || found > MAX_SKETCH).then(|| {
            format!(
                "residency {residency} needs {what} of 1 to {MAX_SKETCH} numbers a token, and the source has {found}"
            )
        })
    }

    fn refuses<M>(&self, axis: &str, kind: &Kind<M>) -> Option<String> {
        let part = || format!("{axis} {}", kind.name);
        let Kind { needs, promises, asks_routers, sees_future, device, times, .. } = *kind;
        let no_device = self.system.filter(|system| !system.runs_near_data());
        if needs > self.knowledge {
            Some(format!("{} needs {needs}, and the source has {}", part(), self.knowledge))
        } else if promises && !self.bound {
            Some(format!("{} cannot keep its bound here: the recorded choices do not follow from the logits", part()))
        } else if asks_routers && !self.routers {
            Some(format!("{} asks the routers of later layers, and the source is no model that runs", part()))
        } else if sees_future && !self.future {
            Some(format!("{} needs to know what later tokens want, and the source does not say", part()))
        } else if let Some(system) = no_device.filter(|_| device || times) {
            Some(format!("{} needs a near-data device, and machine {} has none", part(), system.name))
        } else if times && self.system.is_none() {
            Some(format!("{} needs a machine, and there is none", part()))
        } else if times && !self.sizes {
            Some(format!("{} needs the sizes of the model, and they are not known", part()))
        } else {
            None
        }
    }
}
