//! Times of single experts and of whole layers for one batch, in the terms of schemes.

use cptr_hw_model::{CopiedRun, ExpertRun, LayerTime, LayerTimes, LayerWork, Model, System};

/// A layer's work.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Experts on the GPU, from its memory.
    pub gpu: Vec<ExpertRun>,
    /// Experts on the GPU that the layer waits for.
    pub copied: Vec<CopiedRun>,
    /// Experts near the data.
    pub near: Vec<ExpertRun>,
    /// Whether a migration is under way.
    pub migrating: bool,
    /// Whether the controller goes through all scores before dispatch.
    pub selects: bool,
    /// Whether it goes through all levels behind dispatch.
    pub updates: bool,
}

/// Times on one machine for one model.
#[derive(Debug)]
pub struct Costs<'a> {
    times: LayerTimes<'a>,
    experts: u32,
    sequences: u32,
}

const fn run(bits: u8, tokens: u32) -> ExpertRun {
    ExpertRun { bits: bits as f64, tokens }
}

impl<'a> Costs<'a> {
    /// For layers of `experts` experts and a batch of `sequences`.
    pub fn new(system: &'a System, model: &'a Model, experts: usize, sequences: usize) -> Self {
        Self { times: LayerTimes::new(system, model), experts: experts as u32, sequences: sequences as u32 }
    }

    /// Bytes of an expert at full precision, as it is copied.
    pub fn expert_bytes(&self) -> f64 {
        self.times.model().expert_bytes(16.0)
    }

    /// The machine.
    pub const fn system(&self) -> &System {
        self.times.system()
    }

    /// One expert on the GPU, from its memory, in picoseconds.
    pub fn gpu_run_ps(&self, bits: u8, tokens: u32) -> f64 {
        self.times.gpu_run_ps(run(bits, tokens))
    }

    /// One expert near the data in picoseconds, when others follow it without a gap.
    pub fn near_run_ps(&self, bits: u8, tokens: u32) -> f64 {
        self.times.near_run_ps(run(bits, tokens))
    }

    /// A copy of one expert into GPU memory in picoseconds, nothing else on the link.
    pub fn copy_ps(&self, bits: u8) -> f64 {
        self.times.copy_ps(f64::from(bits))
    }

    /// Share of the time near the data that a migration takes from experts at `bits` bits while it is under way.
    pub fn migration_share(&self, bits: u8) -> f64 {
        self.times.migration_share(f64::from(bits))
    }

    /// About how long a layer takes, see [`LayerTimes::estimate_ps`].
    pub fn layer_ps(&self, gpu_ps: f64, near_ps: f64) -> f64 {
        self.times.estimate_ps(self.sequences, gpu_ps, near_ps)
    }

    /// Time and energy of a layer.
    pub fn layer(&self, work: &Work) -> LayerTime {
        let counted = |yes: bool| if yes { self.experts } else { 0 };
        self.times.get(&LayerWork {
            tokens: self.sequences,
            gpu: &work.gpu,
            copied: &work.copied,
            near_data: &work.near,
            copies_bits: &[],
            migrating: work.migrating,
            scored: counted(work.selects),
            tracked: counted(work.updates),
        })
    }
}
