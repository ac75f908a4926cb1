//! The host: a processor that runs experts out of its own memory, as engines do that leave experts there.

use serde::Deserialize;

use crate::dram::ConfigError;
use crate::model::Model;
use crate::ndp::Expert;
use crate::validate::{share, within};
use crate::work::ExpertRun;

/// A host's processor and memory, as a roofline: what is bound by memory and what by arithmetic, the longer of the two.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Name for people.
    pub name: String,
    /// Memory in GB (10^9 bytes), for judging what fits.
    pub memory_gb: f64,
    /// Peak memory bandwidth, 10^9 bytes per second.
    pub memory_gb_s: f64,
    /// Share of it that the kernels of experts reach.
    pub memory_share: f64,
    /// Rate of matrix arithmetic that kernels reach, 10^12 operations per second; a multiply-accumulate is two.
    pub tflop_s: f64,
    /// Energy per bit read, in picojoules.
    pub pj_per_bit: f64,
}

impl Host {
    /// Refuses impossible values; fields are named below `host`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("host.memory_gb", self.memory_gb, 0.001, 1e6)?;
        within("host.memory_gb_s", self.memory_gb_s, 0.001, 1e9)?;
        share("host.memory_share", self.memory_share)?;
        within("host.tflop_s", self.tflop_s, 0.001, 1e9)?;
        within("host.pj_per_bit", self.pj_per_bit, 0.0, 1e3)
    }

    /// One expert of `model`.
    pub(crate) fn expert(&self, model: &Model, run: ExpertRun) -> Expert {
        let (bytes, macs) = (model.expert_bytes(run.bits), model.expert_parameters() as f64 * f64::from(run.tokens));
        let memory_ps = bytes / (self.memory_gb_s * self.memory_share) * 1e3;
        let compute_ps = 2.0 * macs / self.tflop_s;
        Expert::at_once(bytes.ceil() as u64, macs as u64, memory_ps.max(compute_ps).round() as u64)
    }
}
