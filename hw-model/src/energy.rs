//! Energy by component. Dynamic energy only: refresh, standby and leakage are left out, so that a slow system is not
//! charged for time.
use std::ops::{Add, AddAssign};

use serde::Serialize;

/// Energy in picojoules. Rates and their sources stand in the system's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Energy {
    /// GPU memory: reads of weights.
    pub gpu_memory_pj: u64,
    /// GPU chip: caches, registers, arithmetic.
    pub gpu_compute_pj: u64,
    /// Wires of the link, both ends.
    pub link_pj: u64,
    /// Memory behind the link: experts that run near the data, and experts that are copied.
    pub far_memory_pj: u64,
    /// Arrays of the near-data device.
    pub ndp_compute_pj: u64,
}

impl Energy {
    /// All components.
    pub const fn total_pj(&self) -> u64 {
        self.gpu_memory_pj
            .saturating_add(self.gpu_compute_pj)
            .saturating_add(self.link_pj)
            .saturating_add(self.far_memory_pj)
            .saturating_add(self.ndp_compute_pj)
    }
}

impl Add for Energy {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            gpu_memory_pj: self.gpu_memory_pj.saturating_add(other.gpu_memory_pj),
            gpu_compute_pj: self.gpu_compute_pj.saturating_add(other.gpu_compute_pj),
            link_pj: self.link_pj.saturating_add(other.link_pj),
            far_memory_pj: self.far_memory_pj.saturating_add(other.far_memory_pj),
            ndp_compute_pj: self.ndp_compute_pj.saturating_add(other.ndp_compute_pj),
        }
    }
}

impl AddAssign for Energy {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
