//! How long a layer takes, and what energy.
//!
//! ```text
//! dense ──▶ turn ────┬─▶ experts from GPU memory                       GPU
//!                    ├─▶ copies ─▶ run of each that waited             link, then GPU
//!                    ├─▶ activations ─▶ launch ─▶ experts ─▶ results   link, device
//!                    ├─▶ update                                        controller
//!                    └── migration ──────────────────▶                 link (not waited for)
//! ```
//!
//! The dense part comes first, as the router needs it: launches of the layer's kernels, attention over keys and values
//! ([`LayerWork::attended`]), the weights that every token reads. Then the controller's turn, with the way there and
//! back where the controller sits in the device. Behind that everything goes on side by side; a copied expert runs
//! when it has arrived and the GPU is free, so that mostly only the last one's run shows behind the copies, and
//! results return one by one, each behind the run of its expert. Copies out of the device's memory take their share of
//! its rate from the experts that run there.
//!
//! What a migration costs: its share of the rate of the device's memory, its share of that of the GPU's memory, and
//! half of the link's direction to the GPU while results use it.

use crate::energy::Energy;
use crate::model::Model;
use crate::ndp::Expert;
use crate::schedule::{Attention, NearData, Schedule};
use crate::system::System;
use crate::work::LayerWork;

/// Time and energy of one layer; times in picoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LayerTime {
    /// From the start of the layer to its end.
    pub total_ps: u64,
    /// GPU busy: launches, attention, dense part and experts.
    pub gpu_ps: u64,
    /// Link busy with the layer, in either direction; without a migration.
    pub link_ps: u64,
    /// Near-data device busy.
    pub ndp_ps: u64,
    /// Controller busy.
    pub controller_ps: u64,
    /// Bytes of a migration that pass meanwhile.
    pub migrated_bytes: f64,
    /// Energy of all but the migration.
    pub energy: Energy,
}

impl System {
    /// Time and energy of one layer, see [`crate::layer`]. Each kernel is rounded to a picosecond.
    ///
    /// [`System::layer_events`] shows the same layer piece by piece, [`crate::LayerTimes`] remembers.
    #[must_use]
    pub fn layer_time(&self, model: &Model, work: &LayerWork<'_>) -> LayerTime {
        let schedule = Schedule::new(self, model, work);
        LayerTime {
            total_ps: schedule.total_ps(),
            gpu_ps: schedule.gpu_ps(),
            link_ps: schedule.link_busy_ps(),
            ndp_ps: schedule.ndp_ps(),
            controller_ps: schedule.turn_ps.saturating_add(schedule.update_ps),
            migrated_bytes: schedule.migrated_bytes,
            energy: self.layer_energy(model, work, schedule.near_data.as_ref())
                + self.attention_energy(&schedule.attention),
        }
    }

    fn layer_energy(&self, model: &Model, work: &LayerWork<'_>, near_data: Option<&NearData>) -> Energy {
        let runs = work.gpu.iter().chain(work.copied.iter().map(|copied| &copied.run));
        let gpu_bytes = model.dense_parameters() as f64 * self.dense_bits / 8.0
            + runs.map(|run| model.expert_bytes(run.bits)).sum::<f64>();
        let (wire_bytes, near_bytes, macs) = near_data.map_or((0.0, 0.0, 0.0), |near_data| {
            let sum = |of: fn(&Expert) -> u64| near_data.experts.iter().map(|e| of(e) as f64).sum();
            let wire_bytes = near_data.trip.wire_bytes(near_data.result_count());
            (wire_bytes as f64, sum(|expert| expert.bytes), sum(|expert| expert.macs))
        });
        let copied_bytes = model.expert_bytes(work.copied_bits());
        let round = |pj: f64| pj.round() as u64;
        Energy {
            gpu_memory_pj: round(gpu_bytes * 8.0 * self.gpu().memory_pj_per_bit),
            gpu_compute_pj: round(gpu_bytes * self.gpu().on_chip_pj_per_byte),
            link_pj: round((copied_bytes + wire_bytes) * 8.0 * self.link().pj_per_bit),
            far_memory_pj: round((copied_bytes + near_bytes) * 8.0 * self.far_pj_per_bit()),
            ndp_compute_pj: round(self.ndp().map_or(0.0, |ndp| macs * ndp.arrays.pj_per_mac)),
        }
    }

    /// `time`, which is that of `work` with nothing attended, with attention: it comes before all else, and only adds.
    pub(crate) fn with_attention(&self, model: &Model, time: LayerTime, work: &LayerWork<'_>) -> LayerTime {
        let attention = Attention::new(self, model, work);
        // Bytes per picosecond are GB/s / 1000.
        let passes = attention.link_free_ps() as f64 * self.copy_gb_s() / 1e3;
        LayerTime {
            total_ps: time.total_ps.saturating_add(attention.total_ps()),
            gpu_ps: time.gpu_ps.saturating_add(attention.gpu_ps),
            link_ps: time.link_ps.saturating_add(attention.link_ps),
            migrated_bytes: time.migrated_bytes + if work.migrating { passes } else { 0.0 },
            energy: time.energy + self.attention_energy(&attention),
            ..time
        }
    }

    fn attention_energy(&self, attention: &Attention) -> Energy {
        // What comes over the link goes through caches and arithmetic, not through the GPU's memory.
        let on_chip_pj = (attention.link_bytes * self.gpu().on_chip_pj_per_byte).round() as u64;
        self.weights_energy(attention.gpu_bytes)
            + Energy { gpu_compute_pj: on_chip_pj, ..self.migration_energy(attention.link_bytes) }
    }

    /// Energy of `bytes` bytes read from GPU memory by its kernels.
    pub(crate) fn weights_energy(&self, bytes: f64) -> Energy {
        Energy {
            gpu_memory_pj: (bytes * 8.0 * self.gpu().memory_pj_per_bit).round() as u64,
            gpu_compute_pj: (bytes * self.gpu().on_chip_pj_per_byte).round() as u64,
            ..Energy::default()
        }
    }

    /// Energy of copying `bytes` bytes of weights into GPU memory, as a migration does.
    #[must_use]
    pub fn migration_energy(&self, bytes: f64) -> Energy {
        let pj = |rate: f64| (bytes * 8.0 * rate).round() as u64;
        Energy { link_pj: pj(self.link().pj_per_bit), far_memory_pj: pj(self.far_pj_per_bit()), ..Energy::default() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::work::tests::lists;
    use crate::work::{CopiedRun, ExpertRun};

    fn qwen() -> &'static Model {
        Model::find("Qwen3-30B-A3B").unwrap()
    }

    fn machine() -> &'static System {
        System::find("ndp").unwrap()
    }

    fn time(work: &LayerWork<'_>) -> LayerTime {
        machine().layer_time(qwen(), work)
    }

    proptest! {
        /// A migration never makes a layer faster, and costs no more than the shares that it takes.
        #[test]
        fn a_migration_costs_little(lists in lists(1)) {
            // Where nothing is copied: copies take the same share as long as they go on.
            let alone = LayerWork { copied: &[], copies_bits: &[], ..lists.work() };
            let (alone, beside) = (time(&alone), time(&LayerWork { migrating: true, ..alone }));
            prop_assert!(beside.total_ps >= alone.total_ps);
            let result_ps = machine().link().send(qwen().activation_bytes() as u64).serial_ps;
            let results_ps = result_ps * lists.near_data.len() as u64;
            prop_assert!(beside.total_ps as f64 <= alone.total_ps as f64 * 1.12 + results_ps as f64);
        }
    }

    #[test]
    fn a_copied_expert_runs_when_it_is_there() {
        let dense = time(&LayerWork::default());
        let (bytes, link) = (qwen().expert_bytes(16.0), machine().link());
        let run_ps = machine().kernel_ps(qwen().expert_parameters(), ExpertRun::at(16.0)).round() as u64;
        let one =
            time(&LayerWork { gpu: &[ExpertRun::at(16.0)], copied: &[CopiedRun::at(16.0)], ..LayerWork::default() });
        assert_eq!(one.total_ps - dense.total_ps, link.copy_ps(bytes) + run_ps);
        // 9.4 MB at 24.8 GB/s: 0.38 ms.
        assert!((one.link_ps as f64 / 1e9 - 0.381).abs() < 0.002, "{one:?}");
        // What is copied to stay goes first.
        let two = LayerWork { copied: &[CopiedRun::at(16.0)], copies_bits: &[16.0], ..LayerWork::default() };
        assert_eq!(time(&two).total_ps - dense.total_ps, link.copy_ps(2.0 * bytes) + run_ps);
        // Three quarters of an expert are copied, all of it runs.
        let part = CopiedRun { run: ExpertRun::at(16.0), bits: 12.0 };
        let part = time(&LayerWork { copied: &[part], ..LayerWork::default() });
        assert_eq!(part.total_ps - dense.total_ps, link.copy_ps(0.75 * bytes) + run_ps);
    }

    #[test]
    fn a_batch_shares_the_weights() {
        let one = LayerWork { tokens: 1, gpu: &[ExpertRun::at(16.0)], ..LayerWork::default() };
        let eight = LayerWork { tokens: 8, gpu: &[ExpertRun { bits: 16.0, tokens: 8 }], ..LayerWork::default() };
        assert_eq!(time(&one).total_ps, time(&eight).total_ps);
        // Near the data four tokens are free at most, by the rows of the arrays.
        let near = |tokens| {
            let run = [ExpertRun { bits: 2.0, tokens }];
            time(&LayerWork { tokens, near_data: &run, ..LayerWork::default() }).ndp_ps
        };
        assert_eq!(near(1), near(4));
        assert!(near(8) > near(4));
    }

    #[test]
    fn a_copy_costs_the_energy_of_a_migration() {
        let bits = qwen().expert_bytes(16.0) * 8.0;
        let copy = time(&LayerWork { copies_bits: &[16.0], ..LayerWork::default() }).energy;
        let migration = machine().migration_energy(bits / 8.0);
        assert_eq!((copy.link_pj, copy.far_memory_pj), (migration.link_pj, migration.far_memory_pj));
        let offload = System::find("offload").unwrap();
        assert_eq!(offload.migration_energy(bits / 8.0).far_memory_pj, (bits * 14.0) as u64);
    }
}
