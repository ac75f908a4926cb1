//! What the controller's processor takes: cycles of `select` before dispatch, cycles of `update` behind it.
//!
//! The cycles are measured elsewhere and given as data, one line `base + per expert` for each of the two.
use serde::Deserialize;

use crate::dram::ConfigError;
use crate::validate::within;

/// Cost table of a controller.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// Core and its set-up.
    pub name: String,
    /// Clock in MHz.
    pub clock_mhz: f64,
    /// Cycles of one `select`, whatever the number of experts.
    pub select_cycles: f64,
    /// Further cycles of `select` for each expert of the layer.
    pub select_cycles_per_expert: f64,
    /// Cycles of one `update`, whatever the number of experts.
    pub update_cycles: f64,
    /// Further cycles of `update` for each expert of the layer.
    pub update_cycles_per_expert: f64,
}

impl Controller {
    /// Refuses impossible values; fields are named below `controller`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("controller.clock_mhz", self.clock_mhz, 0.001, 1e5)?;
        within("controller.select_cycles", self.select_cycles, 0.0, 1e9)?;
        within("controller.select_cycles_per_expert", self.select_cycles_per_expert, 0.0, 1e9)?;
        within("controller.update_cycles", self.update_cycles, 0.0, 1e9)?;
        within("controller.update_cycles_per_expert", self.update_cycles_per_expert, 0.0, 1e9)
    }

    /// One `select` over `experts` experts, in picoseconds: on the critical path, between router and dispatch.
    pub fn select_ps(&self, experts: u32) -> u64 {
        self.ps(self.select_cycles + self.select_cycles_per_expert * f64::from(experts))
    }

    /// One `update` over `experts` experts, in picoseconds: after dispatch, beside the experts' runs.
    pub fn update_ps(&self, experts: u32) -> u64 {
        self.ps(self.update_cycles + self.update_cycles_per_expert * f64::from(experts))
    }

    fn ps(&self, cycles: f64) -> u64 {
        (cycles * 1e6 / self.clock_mhz).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_calls_of_the_measured_core() {
        let controller = crate::System::find("ndp").unwrap().controller().unwrap();
        let cycles = |experts| controller.update_ps(experts) as f64 * controller.clock_mhz / 1e6;
        // Measured calls: 166, 1118 and 2206 cycles at 8, 64 and 128 experts.
        for (experts, measured) in [(8, 166.0), (64, 1118.0), (128, 2206.0)] {
            assert!((cycles(experts) - measured).abs() < 1.0, "{experts}: {}", cycles(experts));
        }
        let stopped = Controller { clock_mhz: 0.0, ..controller.clone() };
        assert_eq!(stopped.validate().unwrap_err().field, "controller.clock_mhz");
    }
}
