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

mod none;
mod perfect;
mod previous;
mod transition;

use super::{Kind, Parameter, Served, Unit, Values};
use crate::replay::Future;

/// Every kind, in the order of tables.
pub const KINDS: &[&Kind<Make>] = &[&none::KIND, &transition::KIND, &previous::KIND, &perfect::KIND];

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

    /// Learns what a step wants in a layer, and fills `asks` with experts of the next layer, the surest first. Those
    /// that are there already will not go for another.
    fn ask(&mut self, served: &Served<'_>, next: Next<'_>, asks: &mut Vec<u16>);

    /// Most experts that are fetched for a layer of a step.
    fn most(&self) -> usize;
}

/// The layer that is next.
#[derive(Clone, Copy)]
pub(crate) struct Next<'a> {
    /// Its step: the same, or the next one.
    pub(crate) step: usize,
    /// Its index.
    pub(crate) layer: usize,
    pub(crate) future: Option<&'a Future<'a>>,
}

/// Most fetches, for lists of parameters.
const MOST: Parameter =
    Parameter::new("most", 1.0, Unit::Count(0, 64), "experts that are fetched for a layer, at most");
