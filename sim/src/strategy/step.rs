//! What the parts of a strategy tell each other about one step in one layer.

use cptr_core::{Experts, Level, Logit, Router};
use cptr_hw_model::LayerTimes;

use crate::memory::Resident;

/// An expert that a step of decoding runs in one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Its id.
    pub expert: u16,
    /// Sequences of the batch that chose it.
    pub tokens: u32,
    /// Sum of its shares of their routing mass.
    pub mass: f32,
}

/// Where a chosen expert runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the GPU, from its memory.
    Gpu,
    /// On the GPU, after a copy that the layer waits for.
    Copied {
        /// Bits per weight that are copied: all, or those that fast memory lacks.
        bits: u8,
    },
    /// Near the data.
    NearData,
    /// Nowhere: left out.
    Skipped,
}

/// What becomes of one [`Choice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execution {
    /// Where.
    pub place: Place,
    /// At how many bits per weight; 0 if nowhere.
    pub bits: u8,
}

/// What a selection sees of one token in one layer.
pub(crate) struct Token<'a> {
    /// Index of the layer.
    pub(crate) layer: usize,
    /// What the router ranks by `[E]`: logits, or sigmoid plus bias. Empty where the source has none.
    pub(crate) scores: &'a [f32],
    /// Logits `[E]` in the controller's format. Empty where the source has none.
    pub(crate) logits: &'a [Logit],
    /// The model's own choice, best first where the source says so.
    pub(crate) wanted: &'a [u16],
    /// Its shares of the routing mass, in the order of `wanted`; equal where the source does not say.
    pub(crate) shares: &'a [f32],
    /// Experts of the layer E; ids from E on are null experts.
    pub(crate) experts: usize,
    /// Experts in fast memory before this step.
    pub(crate) resident: &'a Experts,
    /// Whether this is the first token of a sequence.
    pub(crate) starts_sequence: bool,
    /// The router in the controller's arithmetic.
    pub(crate) router: &'a Router<'a>,
    /// Share of the next tokens that are expected to want each expert `[E]`; empty where nobody says.
    pub(crate) expected: &'a [Level],
    /// What the prefetch has committed the layer to, best first; empty where it has not.
    pub(crate) committed: &'a [u16],
}

/// One token of a step after the selection.
pub(crate) struct ServedToken<'a> {
    /// What the model wanted.
    pub(crate) wanted: &'a [u16],
    /// Its shares of the routing mass, in the order of `wanted`.
    pub(crate) shares: &'a [f32],
    /// For each of `wanted` the next step that wants it in this layer, `u32::MAX` for none; empty where the future is
    /// not known.
    pub(crate) next_use: &'a [u32],
    /// As of [`Routed`](crate::source::Routed); for prefetches.
    pub(crate) ahead: &'a [u16],
}

/// One step in one layer after the selection, as residency and prefetch see it.
pub(crate) struct Served<'a> {
    /// Steps before it, those of the prompts included.
    pub(crate) step: usize,
    /// Index of the layer.
    pub(crate) layer: usize,
    /// Whether the step is of the prompts.
    pub(crate) prefill: bool,
    /// Tokens of the step, one per sequence of the batch.
    pub(crate) tokens: usize,
    /// What runs, each expert once.
    pub(crate) choices: &'a [Choice],
    /// Whether fast memory took part: false for what ran near the data and could not have been loaded.
    pub(crate) used: &'a [bool],
    pub(crate) token: &'a dyn Fn(usize) -> ServedToken<'a>,
}

/// Where a division sends a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    /// To the GPU, after a copy if it is not in fast memory.
    Gpu,
    /// To the near-data device.
    Near,
}

/// One step in one layer as a division sees it.
pub(crate) struct Layer<'a> {
    /// What runs, each expert once.
    pub(crate) choices: &'a [Choice],
    /// Experts in fast memory.
    pub(crate) resident: &'a Resident,
    /// Bits of each choice on the GPU.
    pub(crate) gpu_bits: &'a [u8],
    /// Bits of each choice near the data.
    pub(crate) near_bits: &'a [u8],
    /// The machine; none is needed by divisions that do not ask for it.
    pub(crate) times: Option<&'a LayerTimes<'a>>,
    /// Sequences of the batch.
    pub(crate) sequences: u32,
}

/// Fills `order` with the indices of the choices by falling number of tokens, then by falling mass, then in their
/// order: who deserves the GPU most.
pub(crate) fn by_demand(choices: &[Choice], order: &mut Vec<u16>) {
    order.clear();
    order.extend(0..choices.len() as u16);
    order.sort_by(|&a, &b| {
        let (a, b) = (&choices[usize::from(a)], &choices[usize::from(b)]);
        b.tokens.cmp(&a.tokens).then(b.mass.total_cmp(&a.mass))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_is_tokens_then_mass() {
        let choice = |tokens, mass| Choice { expert: 0, tokens, mass };
        let mut order = Vec::new();
        by_demand(&[choice(1, 0.5), choice(2, 0.1), choice(1, 0.9), choice(1, 0.5)], &mut order);
        assert_eq!(order, [1, 2, 0, 3]);
    }
}
