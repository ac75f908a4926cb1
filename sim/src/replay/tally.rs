//! What is added up over a replay.

use cptr_hw_model::{Energy, LayerTime};

/// Most points of a series over the length of a replay.
pub const BINS: usize = 120;

/// Sums of one layer, decoding only.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct LayerTally {
    /// Tokens of all sequences.
    pub tokens: u64,
    /// Chosen experts of all tokens.
    pub choices: u64,
    /// Choices that were not resident when they were wanted.
    pub misses: u64,
    /// Choices that had to be waited for: their copy was asked for only when they were wanted.
    pub stalls: u64,
    /// Choices of tokens that have a predecessor.
    pub with_predecessor: u64,
    /// Of them, experts that the predecessor did not run.
    pub switches: u64,
    /// Choices that the model wanted.
    pub agreed: u64,
    /// Experts copied because they were wanted, whether they stayed or not.
    pub demanded: u64,
    /// Experts fetched before they were wanted.
    pub fetched: u64,
    /// Experts that came by a placement.
    pub migrated: u64,
    /// Sum over tokens of the share of the wanted mass given up.
    pub mass_lost: f64,
    /// Largest such share.
    pub worst_mass_loss: f64,
    /// By expert; empty where the router's choice is taken as it is.
    pub experts: Vec<ExpertTally>,
}

/// How often an expert was wanted, and how often it ran then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertTally {
    /// Tokens that wanted it.
    pub wanted: u64,
    /// Of them, those that ran it.
    pub ran: u64,
}

impl ExpertTally {
    /// The share of the tokens that wanted it which ran it; 1 where none did.
    #[must_use]
    pub fn share(self) -> f64 {
        if self.wanted == 0 { 1.0 } else { self.ran as f64 / self.wanted as f64 }
    }
}

impl LayerTally {
    /// Experts copied into fast memory.
    #[must_use]
    pub const fn loads(&self) -> u64 {
        self.demanded + self.fetched + self.migrated
    }
}

/// Sums of one step, all layers and sequences.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct StepTally {
    /// Its time in picoseconds; 0 without a machine.
    pub time_ps: u64,
    /// Routing mass: one per token and layer.
    pub mass: f64,
    /// Of it, executed at full precision.
    pub full: f64,
    /// Of it, of experts that were resident.
    pub covered: f64,
}

/// Sums of one sequence of a batch, all layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TenantTally {
    /// Chosen experts of all tokens.
    pub choices: u64,
    /// Choices that were not resident when they were wanted.
    pub misses: u64,
    /// Migrations that were asked for on its account.
    pub migrations: u64,
    /// Fetches ahead on its account.
    pub fetches: u64,
    /// Copies that were refused because its part was used up; one that is asked for again counts again.
    pub refused: u64,
}

/// Sums of a replay.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Tally {
    /// By layer.
    pub layers: Vec<LayerTally>,
    /// By step of decoding.
    pub steps: Vec<StepTally>,
    /// Misses of all layers by part of the replay, at most [`BINS`].
    pub miss_bins: Vec<u32>,
    /// Stalls, likewise.
    pub stall_bins: Vec<u32>,
    /// Busy time of GPU, link (migrations included), device and controller in picoseconds.
    pub busy_ps: [f64; 4],
    /// Energy in picojoules, of GPU memory, GPU chip, link, memory behind the link, near-data arrays.
    pub energy_pj: [f64; 5],
    /// Routing mass near the data, and the same times its bits.
    pub near_mass: f64,
    /// See [`Self::near_mass`].
    pub near_bits: f64,
    /// Routing mass times what its experts lose at their bits, where a table says.
    pub loss: f64,
    /// Routing mass of experts left out.
    pub skipped: f64,
    /// Time of the copies between prompt and decoding in picoseconds.
    pub placement_ps: u64,
    /// By sequence, where each has its part of the copies.
    pub tenants: Vec<TenantTally>,
}

impl Tally {
    /// Adds a layer's busy times and energy.
    pub(super) fn add_time(&mut self, time: &LayerTime, migrated_ps: f64) {
        let times =
            [time.gpu_ps as f64, time.link_ps as f64 + migrated_ps, time.ndp_ps as f64, time.controller_ps as f64];
        self.busy_ps.iter_mut().zip(times).for_each(|(busy, time)| *busy += time);
        self.add_energy(&time.energy, 1.0);
    }

    /// Adds this part of an energy.
    pub(super) fn add_energy(&mut self, energy: &Energy, part: f64) {
        let parts =
            [energy.gpu_memory_pj, energy.gpu_compute_pj, energy.link_pj, energy.far_memory_pj, energy.ndp_compute_pj];
        self.energy_pj.iter_mut().zip(parts).for_each(|(all, pj)| *all += pj as f64 * part);
    }

    /// The part of the replay that a step of decoding belongs to.
    pub(super) fn bin(&self, step: usize) -> usize {
        step * self.miss_bins.len() / self.steps.len()
    }
}
