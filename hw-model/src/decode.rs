//! One layer of decoding with experts at different places and bits, copies on demand, and copies that go on behind it.
//!
//! [`System::layer_time`](crate::System::layer_time) knows one number of bits and copies that end with their layer. Systems that place experts
//! need more: experts on the GPU at 16 or fewer bits, experts near the data at 1 to 4 bits or 16, copies that a layer waits for, and a
//! migration that only takes what decoding leaves of the link. With one kind of cold expert and no copies both agree to the picosecond.
//!
//! ```text
//! dense ──▶ select ──┬─▶ resident experts                     GPU
//!                    ├─▶ copies ─▶ run of the last            link, then GPU   (waited for)
//!                    ├─▶ activations ─▶ cold experts ─▶ results   link, device
//!                    ├─▶ update                                controller
//!                    └── migration ──────────────────▶         link             (not waited for)
//! ```
//!
//! What a migration costs the layer: it takes its share of the bandwidth of the device's memory from the experts that run there, its share of
//! the GPU memory's bandwidth from the kernels, and while results go to the GPU both have half of that direction of the link.

use crate::energy::Energy;
use crate::model::Model;
use crate::ndp::Expert;
use crate::system::{System, Trip, slowed};

/// One expert at work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertRun {
    /// Bits per weight.
    pub bits: f64,
    /// Tokens that it works on: 1, or as many sequences of the batch as chose it.
    pub tokens: u32,
}

/// What a layer has to do for one step of decoding.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DecodeWork<'a> {
    /// Sequences of the batch, each with one token.
    pub tokens: u32,
    /// Experts that run on the GPU, resident or copied.
    pub gpu: &'a [ExpertRun],
    /// Experts that run near the data; none on a machine without a device.
    pub near_data: &'a [ExpertRun],
    /// Bytes that must arrive before the last of the GPU's experts can run.
    pub awaited_bytes: f64,
    /// Copies that these are; each but the last runs while the next arrives.
    pub awaited: u32,
    /// Whether a migration is under way.
    pub migrating: bool,
    /// Experts whose scores the controller selects from, before dispatch.
    pub selected_from: u32,
    /// Experts whose levels it updates, behind dispatch.
    pub updated: u32,
}

/// Time and energy of a layer; times in picoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DecodeTime {
    /// From the start of the layer to its end.
    pub total_ps: u64,
    /// GPU busy.
    pub gpu_ps: u64,
    /// Near-data device busy.
    pub ndp_ps: u64,
    /// Link busy with what the layer waits for, in either direction.
    pub link_ps: u64,
    /// Bytes of a migration that pass in that time.
    pub migrated_bytes: f64,
    /// Energy of all but the migration.
    pub energy: Energy,
}

impl System {
    /// Time and energy of one layer; see the module.
    ///
    /// Experts near the data are queued in the order given; their results return one by one.
    pub fn decode_time(&self, model: &Model, work: &DecodeWork<'_>) -> DecodeTime {
        let copy_gb_s = self.link().copy_gb_s();
        let gpu_gb_s = self.gpu().memory_gb_s * self.gpu().memory_share;
        let gpu_share = if work.migrating { 1.0 - (copy_gb_s / gpu_gb_s).min(0.9) } else { 1.0 };
        let kernel = |parameters: f64, run: ExpertRun| {
            self.gpu().kernel_ps(parameters * run.bits / 8.0, parameters * f64::from(run.tokens)) / gpu_share
        };
        let whole = |ps: f64| ps.round() as u64;
        let dense_run = ExpertRun { bits: self.gpu_bits, tokens: work.tokens.max(1) };
        let dense_ps = whole(kernel(model.dense_parameters as f64, dense_run));
        let parameters = model.expert_parameters() as f64;
        let on_gpu_ps = whole(work.gpu.iter().map(|&run| kernel(parameters, run)).sum());
        // Experts of one token: the mean of the batch.
        let runs = work.gpu.iter().chain(work.near_data).fold(0u32, |runs, run| runs.saturating_add(run.tokens));
        let k = runs.div_ceil(work.tokens.max(1));
        let (select_ps, update_ps) = self.controller().map_or((0, 0), |controller| {
            let unless_none = |experts: u32, ps: u64| if experts > 0 { ps } else { 0 };
            (
                unless_none(work.selected_from, controller.select_ps(work.selected_from, k)),
                unless_none(work.updated, controller.update_ps(work.updated, k)),
            )
        });
        let copy_ps = self.link().copy_ps(work.awaited_bytes);
        let last_run = work.gpu.last().filter(|_| work.awaited > 0);
        let arrived_ps = copy_ps.saturating_add(last_run.map_or(0, |&run| whole(kernel(parameters, run))));
        let near = self.near_data_time(model, work, copy_ps);
        let end_ps = on_gpu_ps.max(arrived_ps).max(near.end_ps).max(update_ps);
        let total_ps = dense_ps.saturating_add(select_ps).saturating_add(end_ps);
        // Bytes per picosecond are GB/s / 1000.
        let free_ps = total_ps.saturating_sub(copy_ps).saturating_sub(near.to_gpu_ps / 2);
        DecodeTime {
            total_ps,
            gpu_ps: dense_ps.saturating_add(on_gpu_ps),
            ndp_ps: near.ndp_ps,
            link_ps: copy_ps.saturating_add(near.to_gpu_ps).saturating_add(near.from_gpu_ps),
            migrated_bytes: if work.migrating { free_ps as f64 * copy_gb_s / 1e3 } else { 0.0 },
            energy: self.decode_energy(model, work),
        }
    }

    /// Energy of moving `bytes` of weights into GPU memory.
    pub fn migration_energy(&self, bytes: f64) -> Energy {
        let far = self.ndp().map_or(0.0, |ndp| ndp.memory.pj_per_bit);
        let pj = |rate: f64| (bytes * 8.0 * rate).round() as u64;
        Energy { link_pj: pj(self.link().pj_per_bit), far_memory_pj: pj(far), ..Energy::default() }
    }

    /// The experts of the work that run near the data, in its order.
    fn near_experts(&self, model: &Model, work: &DecodeWork<'_>) -> Vec<Expert> {
        let Some(ndp) = self.ndp() else { return Vec::new() };
        let expert = |run: &ExpertRun| {
            let one = self.expert_at(model, run.bits)?;
            Some(if run.tokens == 1 { one } else { ndp.for_tokens(&one, model, run.bits, run.tokens) })
        };
        work.near_data.iter().filter_map(expert).collect()
    }

    /// Cold experts beside awaited copies that take `copy_ps`, and beside a migration.
    fn near_data_time(&self, model: &Model, work: &DecodeWork<'_>, copy_ps: u64) -> Near {
        let experts = self.near_experts(model, work);
        let Some(last) = experts.last() else { return Near::default() };
        let link = self.link();
        let results: u32 = work.near_data.iter().map(|run| run.tokens).sum();
        let trip = Trip::new(link, model, experts.len() as u32);
        // One activation for each token of the batch that has a cold expert; the trip holds one.
        let sent = work.near_data.iter().map(|run| run.tokens).max().unwrap_or(1).clamp(1, work.tokens.max(1));
        let there_ps = trip.there_ps.saturating_add(trip.result_ps.saturating_mul(u64::from(sent - 1)));
        let result_ps = trip.result_ps.saturating_mul(if work.migrating { 2 } else { 1 });
        let (bytes, stream): (u64, u64) =
            experts.iter().fold((0, 0), |(bytes, stream), e| (bytes + e.bytes, stream + e.stream_ps));
        let taken = (link.copy_gb_s() / (bytes as f64 / stream as f64 * 1e3)).min(0.9);
        let beside_ps = if work.migrating { u64::MAX } else { copy_ps };
        let shared = |alone_ps: u64| slowed(alone_ps, beside_ps, taken);
        let ndp_ps = shared(Expert::queue_of(&experts));
        let all_results_ps = result_ps.saturating_mul(u64::from(results));
        let last_results_ps = result_ps.saturating_mul(work.near_data.last().map_or(1, |run| u64::from(run.tokens)));
        let first_ps = shared(experts.first().unwrap_or(last).run_ps());
        let end_ps = ndp_ps.saturating_add(last_results_ps).max(first_ps.saturating_add(all_results_ps));
        let away_ps = (there_ps + 2 * link.one_way_ps() + link.launch_ps()).saturating_add(end_ps);
        Near { ndp_ps, end_ps: away_ps, to_gpu_ps: all_results_ps, from_gpu_ps: there_ps }
    }

    fn decode_energy(&self, model: &Model, work: &DecodeWork<'_>) -> Energy {
        let expert_bytes = work.gpu.iter().map(|run| model.expert_bytes(run.bits)).sum::<f64>();
        let gpu_bytes = model.dense_parameters as f64 * self.gpu_bits / 8.0 + expert_bytes;
        let near = self.near_experts(model, work);
        let results: u32 = work.near_data.iter().map(|run| run.tokens).sum();
        let flit_bytes = Trip::wire_bytes(self.link(), model, results) as f64;
        let macs: f64 = near.iter().map(|expert| expert.macs as f64).sum();
        let far_bytes = work.awaited_bytes + near.iter().map(|expert| expert.bytes as f64).sum::<f64>();
        let (far_pj, mac_pj) = self.ndp().map_or((0.0, 0.0), |ndp| (ndp.memory.pj_per_bit, ndp.arrays.pj_per_mac));
        let round = |pj: f64| pj.round() as u64;
        Energy {
            gpu_memory_pj: round(gpu_bytes * 8.0 * self.gpu().memory_pj_per_bit),
            gpu_compute_pj: round(gpu_bytes * self.gpu().on_chip_pj_per_byte),
            link_pj: round((work.awaited_bytes + flit_bytes) * 8.0 * self.link().pj_per_bit),
            far_memory_pj: round(far_bytes * 8.0 * far_pj),
            ndp_compute_pj: round(macs * mac_pj),
        }
    }
}

/// The near-data side of a layer.
#[derive(Default)]
struct Near {
    ndp_ps: u64,
    /// From the router's decision to the last result on the GPU.
    end_ps: u64,
    to_gpu_ps: u64,
    from_gpu_ps: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LayerWork;
    use proptest::prelude::*;

    const FULL: ExpertRun = ExpertRun { bits: 16.0, tokens: 1 };

    fn qwen() -> &'static Model {
        Model::find("Qwen3-30B-A3B").unwrap()
    }

    fn machine() -> &'static System {
        System::find("ndp").unwrap()
    }

    fn runs(bits: f64, count: usize) -> Vec<ExpertRun> {
        vec![ExpertRun { bits, tokens: 1 }; count]
    }

    proptest! {
        /// The plain model of a layer is the special case of one kind of cold expert and no copies.
        #[test]
        fn agrees_with_the_plain_layer(resident in 0usize..9, cold in 0usize..9, scored in prop_oneof![Just(0u32), 1u32..256]) {
            let plain = machine().layer_time(qwen(), LayerWork {
                resident_runs: resident as u32, cold_runs: cold as u32, loads: 0, scored_experts: scored, tracked_experts: scored,
            });
            let (gpu, near) = (runs(16.0, resident), runs(2.0, cold));
            let work = DecodeWork {
                tokens: 1, gpu: &gpu, near_data: &near, selected_from: scored, updated: scored, ..DecodeWork::default()
            };
            let found = machine().decode_time(qwen(), &work);
            // Each run is rounded to a picosecond there, their sum here.
            let near = |found: u64, plain: u64| found.abs_diff(plain) <= (resident + cold) as u64;
            prop_assert!(near(found.total_ps, plain.total_ps) && near(found.gpu_ps, plain.gpu_ps), "{:?} {:?}", found, plain);
            prop_assert_eq!((found.ndp_ps, found.energy), (plain.ndp_ps, plain.energy));
        }

        /// A migration never makes a layer faster, and costs no more than the shares that it takes.
        #[test]
        fn a_migration_costs_little(resident in 0usize..9, cold in 0usize..9, bits in 1u32..5) {
            let (gpu, near) = (runs(16.0, resident), runs(f64::from(bits), cold));
            let alone = DecodeWork { tokens: 1, gpu: &gpu, near_data: &near, ..DecodeWork::default() };
            let beside = DecodeWork { migrating: true, ..alone };
            let (alone, beside) = (machine().decode_time(qwen(), &alone), machine().decode_time(qwen(), &beside));
            prop_assert!(beside.total_ps >= alone.total_ps);
            let results_ps = Trip::new(machine().link(), qwen(), 1).result_ps * cold as u64;
            prop_assert!(beside.total_ps as f64 <= alone.total_ps as f64 * 1.06 + results_ps as f64);
            let most = beside.total_ps as f64 * machine().link().copy_gb_s() / 1e3;
            prop_assert!((0.0..=most).contains(&beside.migrated_bytes));
        }
    }

    #[test]
    fn an_awaited_copy_is_the_link_time_and_the_last_run() {
        let bytes = qwen().expert_bytes(16.0);
        let gpu = [FULL; 2];
        let work = DecodeWork { tokens: 1, gpu: &gpu, awaited: 1, awaited_bytes: bytes, ..DecodeWork::default() };
        let found = machine().decode_time(qwen(), &work);
        let dense = machine().decode_time(qwen(), &DecodeWork { tokens: 1, ..DecodeWork::default() });
        let run = machine().gpu().kernel_ps(bytes, 0.0).round() as u64;
        assert_eq!(found.total_ps - dense.total_ps, machine().link().copy_ps(bytes) + run);
        // 9.4 MB at 24.8 GB/s: 0.38 ms.
        assert!((found.link_ps as f64 / 1e9 - 0.381).abs() < 0.002, "{found:?}");
    }

    #[test]
    fn a_batch_shares_the_weights() {
        let one = DecodeWork { tokens: 1, gpu: &[FULL], ..DecodeWork::default() };
        let eight = DecodeWork { tokens: 8, gpu: &[ExpertRun { bits: 16.0, tokens: 8 }], ..DecodeWork::default() };
        let time = |work: &DecodeWork<'_>| machine().decode_time(qwen(), work).total_ps;
        assert_eq!(time(&one), time(&eight));
        // Near the data four tokens are free at most, by the rows of the arrays.
        let near = |tokens| {
            let run = [ExpertRun { bits: 2.0, tokens }];
            machine().decode_time(qwen(), &DecodeWork { tokens, near_data: &run, ..DecodeWork::default() }).ndp_ps
        };
        assert_eq!(near(1), near(4));
        assert!(near(8) > near(4));
    }
}
