//! What is added up over a run.

/// Sums of one step, all layers and sequences.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct StepSums {
    pub(super) time_ps: u64,
    /// Gate mass: one per token and layer.
    pub(super) mass: f64,
    /// Of it, executed at full precision.
    pub(super) full: f64,
    /// Of it, of experts that were in GPU memory.
    pub(super) covered: f64,
}

/// Sums of one scheme.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) steps: Vec<StepSums>,
    /// Mass near the data, and the same times its bits.
    pub(super) near_mass: f64,
    pub(super) near_bits: f64,
    /// Mass times what its experts lose at their bits, where a table says.
    pub(super) loss: f64,
    pub(super) skipped: f64,
    pub(super) mass_lost: f64,
    pub(super) worst_mass_loss: f64,
    pub(super) tokens_in_layers: u64,
    pub(super) awaited: u64,
    pub(super) hidden: u64,
    pub(super) link_ps: f64,
    pub(super) ndp_ps: f64,
    pub(super) gpu_ps: f64,
    pub(super) energy_pj: f64,
    pub(super) placement_ps: u64,
}
