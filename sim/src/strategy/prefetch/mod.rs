//! Which experts are fetched before they are asked for.
//!
//! When a layer has been decided, experts of the next one (or of the first, for the next token) may be asked for, all
//! at once; or experts of any layer ahead, one by one when the link has nothing else to do. They take the place of
//! those that the residency gives up, and their copies take what decoding leaves of the link. An expert that was asked
//! for ahead is no stall; the bytes that have not passed when it is wanted are waited for, and so is what is left of a
//! copy that has started when others are wanted.
//!
//! ```
//! let kinds = cptr_sim::strategy::prefetch::KINDS;
//! assert!(kinds.iter().any(|kind| kind.name == "transition" && !kind.sees_future));
//! ```

mod finemoe;
mod gate_ahead;
mod look_ahead;
mod moe_infinity;
mod none;
mod perfect;
mod previous;
mod recall;
mod route_ahead;
mod successor;
mod transition;

use cptr_core::Level;

use super::forecaster::{Forecaster, Settings};
use super::{Kind, Parameter, Served, Unit, Values};
use crate::memory::Resident;
use crate::source::Future;

/// Every kind, in the order of tables.
pub const KINDS: &[&Kind<Make>] = &[
    &none::KIND,
    &transition::KIND,
    &previous::KIND,
    &successor::KIND,
    &gate_ahead::KIND,
    &route_ahead::KIND,
    &moe_infinity::KIND,
    &finemoe::KIND,
    &recall::KIND,
    &look_ahead::KIND,
    &perfect::KIND,
];

/// Makes the state of all layers.
#[derive(Debug, Clone, Copy)]
pub struct Make(pub(crate) fn(&Values, &Setup) -> Box<dyn Prefetch>);

/// What a prefetch is made for.
pub(crate) struct Setup {
    pub(crate) layers: usize,
    pub(crate) experts: usize,
    /// Experts that a token wants in a layer.
    pub(crate) k: usize,
    /// Sequences of the batch.
    pub(crate) sequences: usize,
    /// Whether a machine says how long copies take.
    pub(crate) timed: bool,
    /// Whether a fetch makes way for what is waited for.
    pub(crate) yields: bool,
}

/// Asks for experts ahead.
pub(crate) trait Prefetch: Send {
    /// Whether it never asks.
    fn never(&self) -> bool {
        false
    }

    /// Which memory of trajectories it asks, where the residency does not ask one; `None`: none.
    fn recalls(&self) -> Option<Settings> {
        None
    }

    /// Learns what a step wants in a layer, and fills `asks` with experts of the next layer, the surest first. Those
    /// that are there already will not go for another.
    fn ask(&mut self, served: &Served<'_>, next: Next<'_>, asks: &mut Vec<u16>);

    /// On a machine: the fetch to start now that the link has nothing else to do, for a layer after the one that was
    /// told last; `None`: none. Of an expert's copy `passes`, at most 1, is over before the next router result: what
    /// that wants waits for the rest. Asked again until there is none, or the link is busy until that result. For those
    /// who weigh each fetch.
    fn pick(&mut self, _passes: Level) -> Option<Pick> {
        None
    }

    /// What was picked last is fetched: somebody made room for it.
    fn fetched(&mut self) {}

    /// Probability that the layer of the last `ask` or pick wants each expert: who makes room must be less probable
    /// than who comes. `None`: the residency decides as on demand.
    fn next(&self) -> Option<&[Level]> {
        None
    }

    /// What the layer of the last `ask` is to run of a sequence whatever its router will say, best first; nothing: what
    /// the router says. For the selection that commits itself to it.
    fn committed(&self, _sequence: usize) -> &[u16] {
        &[]
    }

    /// Most experts that are fetched for a layer of a step.
    fn most(&self) -> usize;
}

/// The layer that is next.
pub(crate) struct Next<'a> {
    /// Its step: the same, or the next one.
    pub(crate) step: usize,
    /// Its index.
    pub(crate) layer: usize,
    /// What is resident in a layer, and on its way.
    pub(crate) resident: &'a dyn Fn(usize) -> &'a Resident,
    pub(crate) future: Option<&'a Future<'a>>,
    pub(crate) forecaster: Option<&'a mut Forecaster>,
}

/// An expert to fetch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pick {
    pub(crate) layer: usize,
    pub(crate) expert: u16,
}

/// Most fetches, for lists of parameters.
const MOST: Parameter =
    Parameter::new("most", 1.0, Unit::Count(0, 64), "experts that are fetched for a layer, at most");
