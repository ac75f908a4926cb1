//! What a forecast is made from.

use cptr_core::Level;

use crate::source::Routed;

/// A memory of the tokens of one sequence.
pub(super) trait Remembers: Send {
    /// What a token wants in its next layer, null experts left out.
    fn observe(&mut self, layer: usize, token: &Routed<'_>);

    /// The router's input of the layer that is next, or a sketch of it, where the source has one.
    fn sketch(&mut self, _input: &[f32]) {}

    /// All layers of the token have run.
    fn end_token(&mut self);

    /// Fills `shares` with the share of the next `tokens` tokens that run a layer that will want each expert.
    fn forecast(&mut self, layer: usize, tokens: usize, shares: &mut [Level]);
}
