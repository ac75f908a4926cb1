//! What a replay says of a layer.

use cptr_hw_model::LayerTime;

use crate::memory::Resident;
use crate::source::Routed;
use crate::strategy::{Choice, Execution};

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
    /// Shares of the routing mass, token by token in the order of what they wanted.
    pub shares: &'r [f32],
    /// Time and energy, where there is a machine.
    pub time: Option<LayerTime>,
    pub(super) chosen: &'r [u16],
    /// Where the choice of each token ends in `chosen` and `shares`.
    pub(super) ends: &'r [usize],
}

impl<'r> LayerOutcome<'r> {
    /// What a token runs, in the order of what it wanted: a stand-in is where the expert was that it stands in for, a
    /// null expert (an id from E on) where nothing runs.
    #[must_use]
    pub fn chosen(&self, sequence: usize) -> &'r [u16] {
        &self.chosen[range(self.ends, sequence)]
    }

    /// What becomes of an expert of this step.
    #[must_use]
    pub fn execution(&self, expert: u16) -> Option<Execution> {
        let at = self.choices.iter().position(|choice| choice.expert == expert)?;
        self.executions.get(at).copied()
    }
}

/// Where the choice of a token is in a list of all tokens' choices.
pub(super) fn range(ends: &[usize], sequence: usize) -> std::ops::Range<usize> {
    let start = sequence.checked_sub(1).map_or(0, |before| ends[before]);
    start..ends[sequence]
}
