//! The GPU as a roofline: what is bound by its memory and what by its arithmetic, the longer of the two.
use serde::Deserialize;

use crate::dram::ConfigError;
use crate::validate::{share, within};

/// A GPU.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Name for people.
    pub name: String,
    /// Memory in GB (10^9 bytes), for judging what fits.
    pub memory_gb: f64,
    /// Peak memory bandwidth, 10^9 bytes per second.
    pub memory_gb_s: f64,
    /// Share of it that kernels reach.
    pub memory_share: f64,
    /// Peak rate of dense 16-bit matrix arithmetic, 10^12 operations per second; a multiply-accumulate is two.
    pub tflop_s: f64,
    /// Share of it that kernels reach.
    pub compute_share: f64,
    /// From the end of a kernel to the first read of the next one, in nanoseconds.
    #[serde(default)]
    pub kernel_launch_ns: f64,
    /// Kernels of a layer that follow each other.
    #[serde(default)]
    pub kernels_per_layer: u32,
    /// Energy per bit read from memory, in picojoules.
    pub memory_pj_per_bit: f64,
    /// Energy per byte read that its way through caches, registers and arithmetic takes, in picojoules.
    pub on_chip_pj_per_byte: f64,
}

impl Gpu {
    /// Refuses impossible values; fields are named below `gpu`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("gpu.memory_gb", self.memory_gb, 0.001, 1e6)?;
        within("gpu.memory_gb_s", self.memory_gb_s, 0.001, 1e9)?;
        share("gpu.memory_share", self.memory_share)?;
        within("gpu.tflop_s", self.tflop_s, 0.001, 1e9)?;
        share("gpu.compute_share", self.compute_share)?;
        within("gpu.kernel_launch_ns", self.kernel_launch_ns, 0.0, 1e9)?;
        within("gpu.kernels_per_layer", f64::from(self.kernels_per_layer), 0.0, 1e4)?;
        within("gpu.memory_pj_per_bit", self.memory_pj_per_bit, 0.0, 1e3)?;
        within("gpu.on_chip_pj_per_byte", self.on_chip_pj_per_byte, 0.0, 1e3)
    }

    /// Time in picoseconds of a kernel that reads `bytes` bytes and does `macs` multiply-accumulates.
    pub fn kernel_ps(&self, bytes: f64, macs: f64) -> f64 {
        let memory = bytes / (self.memory_gb_s * self.memory_share) * 1e3;
        let compute = 2.0 * macs / (self.tflop_s * self.compute_share);
        memory.max(compute)
    }

    /// Launches of `kernels` kernels that follow each other, in picoseconds.
    pub fn launches_ps(&self, kernels: u32) -> u64 {
        (f64::from(kernels) * self.kernel_launch_ns * 1e3).round() as u64
    }

    /// Multiply-accumulates per byte read above which arithmetic is the bound.
    pub fn ridge_macs_per_byte(&self) -> f64 {
        self.tflop_s * self.compute_share * 500.0 / (self.memory_gb_s * self.memory_share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h100() -> Gpu {
        crate::System::find("ndp").unwrap().gpu().clone()
    }

    #[test]
    fn one_token_is_bound_by_memory_many_by_arithmetic() {
        let gpu = h100();
        let parameters = 176_160_768.0;
        let at = |tokens: f64| gpu.kernel_ps(parameters * 2.0, parameters * tokens);
        // 352.3 MB at 85 % of 3,352 GB/s.
        assert!((at(1.0) / 123.66e6 - 1.0).abs() < 1e-3, "{}", at(1.0));
        assert_eq!(at(1.0), at(100.0));
        // 2 x 176 M x 4096 operations at 80 % of 989.4 TFLOP/s.
        assert!((at(4096.0) / 1823.2e6 - 1.0).abs() < 1e-3, "{}", at(4096.0));
        let ridge = gpu.ridge_macs_per_byte() * 2.0;
        assert!(at(ridge * 0.999) == at(1.0) && at(ridge * 1.01) > at(1.0));
    }

    #[test]
    fn impossible_gpus_are_refused() {
        let change = |change: fn(&mut Gpu)| {
            let mut gpu = h100();
            change(&mut gpu);
            gpu.validate().unwrap_err().field
        };
        assert_eq!(change(|gpu| gpu.memory_gb_s = 0.0), "gpu.memory_gb_s");
        assert_eq!(change(|gpu| gpu.memory_share = 1.5), "gpu.memory_share");
        assert_eq!(change(|gpu| gpu.tflop_s = f64::NAN), "gpu.tflop_s");
        assert_eq!(change(|gpu| gpu.on_chip_pj_per_byte = -1.0), "gpu.on_chip_pj_per_byte");
    }
}
