//! How long a layer takes: bytes over bandwidth for GPU, link and near-data device, overlapped.
//!
//! Approximate: no DRAM timing, no flits, no compute limits; [`System::METHOD`] says so in every output. One token at a time, as in
//! decoding for one user, where all three are bound by the weights they read.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::model::Model;

/// Where an expert runs that is not in GPU memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cold {
    /// On the GPU, after a copy over the link.
    Gpu,
    /// Near the data, where it lies; copies to the GPU go on behind it.
    Ndp,
}

/// A machine. Field meanings, units and sources: `data/systems.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the data file documents each field with its unit, once")]
pub struct System {
    pub name: String,
    pub summary: String,
    pub cold: Cold,
    pub gpu_gb_s: f64,
    pub gpu_bits: f64,
    pub link_gb_s: f64,
    pub link_round_trip_us: f64,
    pub copy_launch_us: f64,
    pub ndp_gb_s: f64,
    pub ndp_bits: f64,
    pub source: String,
}

/// What one layer has to do for one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerWork {
    /// Chosen experts that are in GPU memory.
    pub resident_runs: u32,
    /// Chosen experts that are not.
    pub cold_runs: u32,
    /// Experts copied into GPU memory to stay there. Where cold experts run on the GPU, each of them is copied in any case.
    pub loads: u32,
}

/// Time of one layer for one token in picoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerTime {
    /// GPU busy: dense part and resident experts, and copied ones.
    pub gpu_ps: u64,
    /// Link busy.
    pub link_ps: u64,
    /// Near-data device busy.
    pub ndp_ps: u64,
    /// From the start of the layer to its end.
    pub total_ps: u64,
}

#[derive(Deserialize)]
struct File {
    system: Vec<System>,
}

static SYSTEMS: LazyLock<Vec<System>> = LazyLock::new(|| {
    toml::from_str::<File>(include_str!("../data/systems.toml"))
        .expect("the shipped table parses: a unit test reads it")
        .system
});

impl System {
    /// How times are computed, for people who read them.
    pub const METHOD: &'static str = "approximate: bytes over bandwidth";

    /// All systems of the table.
    pub fn all() -> &'static [Self] {
        &SYSTEMS
    }

    /// The system called `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        SYSTEMS.iter().find(|system| system.name == name)
    }

    /// Time of one layer.
    ///
    /// The dense part comes first, as the router needs it. Then resident experts on the GPU, copies on the link and cold experts on the
    /// device go on side by side; where cold experts run on the GPU, each starts when it has arrived, so that only the last one's run
    /// shows behind the copies.
    pub fn layer_time(&self, model: &Model, work: LayerWork) -> LayerTime {
        let ps = |bytes: f64, gb_s: f64| bytes / gb_s * 1e3;
        let dense = ps(model.dense_parameters as f64 * self.gpu_bits / 8.0, self.gpu_gb_s);
        let run = ps(model.expert_bytes(self.gpu_bits), self.gpu_gb_s);
        let resident = f64::from(work.resident_runs) * run;
        let copy = |loads: u32| match loads {
            0 => 0.0,
            n => self.copy_launch_us * 1e6 + f64::from(n) * ps(model.expert_bytes(self.gpu_bits), self.link_gb_s),
        };
        let cold_runs = f64::from(work.cold_runs);
        let (gpu, link, ndp, total) = match self.cold {
            Cold::Gpu => {
                let link = copy(work.loads.max(work.cold_runs));
                let last = if work.cold_runs > 0 { run } else { 0.0 };
                let on_gpu = resident + cold_runs * run;
                (dense + on_gpu, link, 0.0, dense + (link + last).max(on_gpu))
            }
            Cold::Ndp if work.cold_runs == 0 => {
                let link = copy(work.loads);
                (dense + resident, link, 0.0, dense + resident.max(link))
            }
            Cold::Ndp => {
                let activations = cold_runs * ps(2.0 * model.activation_bytes(), self.link_gb_s);
                let link = copy(work.loads) + activations;
                let ndp = cold_runs * ps(model.expert_bytes(self.ndp_bits), self.ndp_gb_s);
                let away = self.link_round_trip_us * 1e6 + activations + ndp;
                (dense + resident, link, ndp, dense + resident.max(link).max(away))
            }
        };
        let [gpu_ps, link_ps, ndp_ps, total_ps] = [gpu, link, ndp, total].map(|ps| ps.round() as u64);
        LayerTime { gpu_ps, link_ps, ndp_ps, total_ps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mixtral() -> &'static Model {
        Model::find("Mixtral-8x7B").unwrap()
    }

    #[test]
    fn one_mixtral_expert() {
        let work = LayerWork { cold_runs: 1, ..LayerWork::default() };
        let near_data = System::find("ndp").unwrap().layer_time(mixtral(), work);
        // 44.04 MB at 512 GB/s.
        assert_eq!(near_data.ndp_ps, 86_016_000);
        let offload = System::find("offload").unwrap().layer_time(mixtral(), LayerWork { loads: 1, ..work });
        // 352.3 MB at 24.8 GB/s and the launch.
        assert!((offload.link_ps as f64 / 1e9 - 14.207).abs() < 0.001, "{offload:?}");
    }

    #[test]
    fn all_resident_is_gpu_time_only() {
        for system in System::all() {
            let time = system.layer_time(mixtral(), LayerWork { resident_runs: 2, ..LayerWork::default() });
            assert_eq!((time.total_ps, time.link_ps, time.ndp_ps), (time.gpu_ps, 0, 0), "{}", system.name);
        }
    }

    proptest! {
        #[test]
        fn no_part_is_busy_longer_than_the_layer_and_work_never_saves_time(
            resident_runs in 0u32..16, cold_runs in 0u32..16, loads in 0u32..16,
        ) {
            let work = LayerWork { resident_runs, cold_runs, loads };
            for system in System::all() {
                let time = system.layer_time(mixtral(), work);
                for part in [time.gpu_ps, time.link_ps, time.ndp_ps] {
                    prop_assert!(part <= time.total_ps + 1);
                }
                for more in [
                    LayerWork { resident_runs: resident_runs + 1, ..work },
                    LayerWork { cold_runs: cold_runs + 1, ..work },
                    LayerWork { loads: loads + 1, ..work },
                ] {
                    prop_assert!(system.layer_time(mixtral(), more).total_ps >= time.total_ps);
                }
            }
        }
    }
}
