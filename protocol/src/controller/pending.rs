//! What is left to do for the tokens of the last request, behind their answer.

use cptr_core::TrackerConfig;
use heapless::Vec;

use super::layer::Layer;
use super::log::Log;
use super::token::Turn;
use super::{InstructionCounter, Ticks, elapsed};
use crate::wire::MAX_TOKENS;

/// Ids that there is room for: of as many tokens as a request may have, what each wants and runs where that is 8.
const IDS: usize = 16 * MAX_TOKENS;

/// A token that its layer has not learnt from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Late {
    layer: u16,
    /// How many experts it wants, how many it runs, and of those how many are cold and how many stand in.
    wanted: u8,
    chosen: u8,
    cold: u8,
    substituted: u8,
    starts_sequence: bool,
}

/// Tokens that their layers have not learnt from, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    tokens: Vec<Late, MAX_TOKENS>,
    /// What each wants, then what it runs.
    ids: Vec<u16, IDS>,
}

impl Pending {
    pub(super) const NOTHING: Self = Self { tokens: Vec::new(), ids: Vec::new() };

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.ids.clear();
    }

    /// Whether there is room for one more.
    pub(super) fn room(&self, turn: &Turn) -> bool {
        let ids = turn.wanted.len().saturating_add(turn.chosen.len());
        !self.tokens.is_full() && IDS.saturating_sub(self.ids.len()) >= ids
    }

    /// Keeps a token, for which there is room.
    pub(super) fn keep(&mut self, turn: &Turn) {
        let Turn { wanted, chosen, .. } = turn;
        let _ = wanted.iter().chain(chosen).try_for_each(|&expert| self.ids.push(expert));
        let _ = self.tokens.push(Late {
            layer: turn.layer.get(),
            wanted: wanted.len() as u8,
            chosen: chosen.len() as u8,
            cold: turn.cold() as u8,
            substituted: turn.substituted as u8,
            starts_sequence: turn.starts_sequence,
        });
    }

    /// Has the layers learn from all of them.
    pub(super) fn learn<C: InstructionCounter, const E: usize, const W: usize>(
        &mut self,
        layers: &mut [Layer<E, W>],
        config: &TrackerConfig,
        counter: &C,
        ticks: &mut Ticks,
    ) {
        let begin = counter.ticks();
        let mut ids = &self.ids[..];
        for late in &self.tokens {
            let Some((wanted, rest)) = ids.split_at_checked(late.wanted.into()) else { break };
            let Some((chosen, rest)) = rest.split_at_checked(late.chosen.into()) else { break };
            ids = rest;
            let index = usize::from(late.layer);
            let Some(layer) = layers.get_mut(index) else { continue };
            layer.count(chosen, late.cold.into(), late.substituted.into(), late.starts_sequence);
            if layer.update(config, wanted) {
                Log::lost_lock(index);
            }
        }
        self.clear();
        ticks.update = ticks.update.saturating_add(elapsed::<C>(begin, counter.ticks()));
    }
}

const _: () = assert!(MAX_TOKENS <= 255 && IDS >= 2 * crate::wire::MAX_K);
