//! What the next request of a queue has to be and what a token of it is decided by, for hardware that decides it itself
//! ([`Unit`](crate::unit::Unit)).

use cptr_core::{Bounds, ExpertSet, Gate, Logit, Router};

use super::{Controller, InstructionCounter};
use crate::units::Units;

/// What the next request of a queue has to be, if it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Its session.
    pub session: u32,
    /// Its number in the queue.
    pub sequence: u32,
    /// The device's number of its token.
    pub turn: u32,
}

/// What hardware has decided for one rank of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// The expert that the router wants.
    pub wanted: u16,
    /// The expert that runs.
    pub runs: u16,
    /// Its mixing weight.
    pub weight: Gate,
}

/// What tokens are decided by in every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The router, without its bias.
    pub router: Router<'static>,
    /// Whether there is a bias, which is a layer's own ([`Placed`]).
    pub biased: bool,
    /// What a selection may cost.
    pub bounds: Bounds,
    /// How many of the wanted are never replaced.
    pub keep: usize,
    /// Experts of a layer.
    pub experts: usize,
}

/// What tokens of one layer are decided by, beside that.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'c, const W: usize> {
    /// The resident experts.
    pub resident: &'c ExpertSet<W>,
    /// The bits of the others' replicas.
    pub bits: &'c [u8],
    /// The bias of the router, one entry for each expert; empty without.
    pub bias: &'c [Logit],
}

impl<U: Units, C: InstructionCounter, const E: usize, const W: usize> Controller<'_, U, C, E, W> {
    /// What tokens are decided by, if a decision depends on nothing but their logits and who is where: experts are
    /// placed, and no events are told.
    pub fn policy(&self) -> Option<Policy> {
        let known = self.configuration.as_ref().filter(|known| !known.on_demand && !known.events)?;
        let (router, biased, bounds, keep) = (known.router, known.biased, known.bounds, known.keep);
        Some(Policy { router, biased, bounds, keep, experts: known.experts })
    }

    /// What the next request of a queue has to be; `None` if there is no session, if [`idle`](Self::idle) has left a
    /// token over, or if there may be no room for the jobs of one more.
    pub fn next(&self, queue: usize) -> Option<Next> {
        let room = self.configuration.as_ref().is_some_and(|known| self.queue.room() >= known.router.k);
        let free = self.session != 0 && self.pending.is_empty() && queue < self.answers.queues() && room;
        free.then(|| Next { session: self.session, sequence: self.answers.next(queue), turn: self.turn })
    }

    /// Who is where in a layer, if the model has the layer, experts are placed there and its bias, if it has one, is
    /// known.
    pub fn placed(&self, layer: usize) -> Option<Placed<'_, W>> {
        let known = self.configuration.as_ref()?;
        let bias = if known.biased {
            self.bias.get(layer.saturating_mul(known.experts)..)?.get(..known.experts)?
        } else {
            &[]
        };
        let layer = self.layers.get(..known.layers)?.get(layer)?;
        let ready = layer.placed() && !layer.partial() && (layer.biased() || !known.biased);
        ready.then(|| Placed { resident: layer.resident(), bits: layer.bits(), bias })
    }
}
