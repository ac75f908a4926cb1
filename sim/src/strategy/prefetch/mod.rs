//! Which experts are fetched before they are asked for.
//!
//! When a layer has been decided, experts of the next one (or of the first, for the next token) may be asked for; they
//! take the place of those that the residency gives up, and their copies take what decoding leaves of the link. An
//! expert that was asked for a layer ahead is no stall; the bytes that have not passed when it is wanted are waited
//! for.
//!
//! ```
//! let kinds = cptr_sim::strategy::prefetch::KINDS;
//! assert!(kinds.iter().any(|kind| kind.name == "transition" && !kind.sees_future));
//! ```

mod gate_ahead;
mod none;
mod perfect;
mod previous;
mod recall;
mod transition;

use cptr_core::Level;

use super::forecaster::{Forecaster, Settings};
use super::{Kind, Parameter, Served, Unit, Values};
use crate::memory::Resident;
use crate::source::Future;

/// Every kind, in the order of tables.
pub const KINDS: &[&Kind<Make>] =
    &[&none::KIND, &transition::KIND, &previous::KIND, &gate_ahead::KIND, &recall::KIND, &perfect::KIND];

/// Makes the state of all layers.
#[derive(Debug, Clone, Copy)]
pub struct Make(pub(crate) fn(&Values, &Setup) -> Box<dyn Prefetch>);

/// What a prefetch is made for.
pub(crate) struct Setup {
    pub(crate) layers: usize,
    pub(crate) experts: usize,
    /// Sequences of the batch.
    pub(crate) sequences: usize,
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

    /// Probability that the next layer wants each expert, as it was asked last: who makes room must be less probable
    /// than who comes. `None`: the residency decides as on demand.
    fn next(&self) -> Option<&[Level]> {
        None
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
    /// What is resident there, and on its way.
    pub(crate) resident: &'a Resident,
    pub(crate) future: Option<&'a Future<'a>>,
    pub(crate) forecaster: Option<&'a mut Forecaster>,
}

/// Most fetches, for lists of parameters.
const MOST: Parameter =
    Parameter::new("most", 1.0, Unit::Count(0, 64), "experts that are fetched for a layer, at most");
