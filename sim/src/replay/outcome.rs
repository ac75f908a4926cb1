//! What a replay is told of a layer, and what it says of it.

use cptr_hw_model::LayerTime;

use super::Resident;
use crate::strategy::{Choice, Execution};

/// One token of a step in one layer, as a source knows it.
#[derive(Debug, Clone, Copy)]
pub struct Routed<'r> {
    /// The model's own choice, best first where the source says so.
    pub wanted: &'r [u16],
    /// Mixing weights of `wanted`; empty where they are not known.
    pub weights: &'r [f32],
    /// The router's logits `[E]`; empty where they are not known.
    pub logits: &'r [f32],
    /// Whether this is the first token of a sequence.
    pub starts_sequence: bool,
}

/// What has been decided for a layer of a step.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct LayerOutcome<'r> {
    /// Steps before it, those of the prompts included.
    pub step: usize,
    /// Index of the layer.
    pub layer: usize,
    /// Whether the step is of the prompts: the wanted experts ran, and nothing was counted.
    pub prefill: bool,
    /// The tokens of the step, one for each sequence.
    pub tokens: &'r [Routed<'r>],
    /// What runs, each expert once.
    pub choices: &'r [Choice],
    /// What becomes of each choice, in their order; empty for prompts.
    pub executions: &'r [Execution],
    /// Experts that came into fast memory in this layer and stay.
    pub loads: &'r [u16],
    /// What was resident before.
    pub before: &'r Resident,
    /// What is resident now.
    pub resident: &'r Resident,
    /// Shares of the routing mass, `k` for each token.
    pub shares: &'r [f32],
    /// Time and energy, where there is a machine.
    pub time: Option<LayerTime>,
    pub(super) chosen: &'r [u16],
    pub(super) k: usize,
}

impl<'r> LayerOutcome<'r> {
    /// What a token runs, in the order of what it wanted: a stand-in is where the expert was that it stands in for.
    #[must_use]
    pub fn chosen(&self, sequence: usize) -> &'r [u16] {
        &self.chosen[sequence * self.k..(sequence + 1) * self.k]
    }

    /// What becomes of an expert of this step.
    #[must_use]
    pub fn execution(&self, expert: u16) -> Option<Execution> {
        let at = self.choices.iter().position(|choice| choice.expert == expert)?;
        self.executions.get(at).copied()
    }
}
