//! When everything of a layer begins and ends. Time, events and breakdown are views of it.

use crate::controller::{Controller, Kernel};
use crate::link::{LINE_BYTES, Link};
use crate::model::Model;
use crate::ndp::Expert;
use crate::system::System;
use crate::work::{ExpertRun, LayerWork};

/// A layer in time, in picoseconds: durations, and times from the dispatch on, when router and controller have decided.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) attention: Attention,
    /// Weights that every token reads.
    pub(crate) dense_ps: u64,
    /// Kernels that follow each other.
    pub(crate) launches_ps: u64,
    /// A request on its way to the controller, and its answer back to the GPU.
    pub(crate) asked_ps: u64,
    pub(crate) answered_ps: u64,
    pub(crate) turn_ps: u64,
    pub(crate) update_ps: u64,
    /// Start and end of each expert on the GPU: those from its memory, then those that were copied.
    pub(crate) gpu_runs: Vec<(u64, u64)>,
    /// Arrival of each copy: those that no run waits for go first.
    pub(crate) arrivals: Vec<u64>,
    pub(crate) near_data: Option<NearData>,
    /// The link busy with this layer, in either direction.
    pub(crate) link_ps: u64,
    /// Bytes of a migration that pass meanwhile.
    pub(crate) migrated_bytes: f64,
}

impl Schedule {
    pub(crate) fn new(system: &System, model: &Model, work: &LayerWork<'_>) -> Self {
        debug_assert!(work.near_data.is_empty() || system.runs_near_data(), "{} has no device", system.name);
        let near_runs = if system.runs_near_data() { work.near_data } else { &[] };
        let taken = taken_by_migration(system, work);
        let kernel_ps = |parameters: u64, run| (system.kernel_ps(parameters, run) / (1.0 - taken)).round() as u64;
        let run_ps = |run: ExpertRun| kernel_ps(model.expert_parameters(), run);

        let (turn_ps, update_ps) = controller_ps(system, model, work, near_runs);
        // Copies of a layer are one batch with one start.
        let bits = work.copies_bits.iter().copied().chain(work.copied.iter().map(|copied| copied.bits));
        let arrival = |bits: &mut f64, next: f64| {
            *bits += next;
            Some(system.copy_ps(model.expert_bytes(*bits)))
        };
        let arrivals: Vec<u64> = bits.scan(0.0, arrival).collect();
        let there = arrivals.iter().skip(work.copies_bits.len()).copied();
        let runs = work.gpu.iter().map(|&run| (0, run)).chain(there.zip(work.copied.iter().map(|copied| copied.run)));
        let gpu_runs = runs.scan(0_u64, |free, (there, run)| {
            let start = there.max(*free);
            *free = start.saturating_add(run_ps(run));
            Some((start, *free))
        });
        let copy_ps = arrivals.last().copied().unwrap_or(0);
        let near_data = NearData::new(system, model, work, near_runs, copy_ps);
        let (asked_ps, answered_ps) = if work.scored > 0 { system.controller_trip_ps() } else { (0, 0) };
        let mut schedule = Self {
            attention: Attention::new(system, model, work),
            launches_ps: system.gpu().launches_ps(system.gpu().kernels_per_layer),
            asked_ps,
            answered_ps,
            dense_ps: kernel_ps(
                model.dense_parameters(),
                ExpertRun { bits: system.dense_bits, tokens: work.sequences() },
            ),
            turn_ps,
            update_ps,
            gpu_runs: gpu_runs.collect(),
            link_ps: near_data.as_ref().map_or(copy_ps, |near_data| near_data.link_ps(system.link(), copy_ps)),
            arrivals,
            near_data,
            migrated_bytes: 0.0,
        };
        if work.migrating {
            let results_ps = schedule.near_data.as_ref().map_or(0, NearData::results_ps);
            let after_ps = schedule.total_ps().saturating_sub(schedule.attention.total_ps());
            let free_ps = after_ps.saturating_sub(copy_ps).saturating_sub(results_ps);
            let passes = |free_ps: u64| free_ps as f64 * system.copy_gb_s() / 1e3;
            // Bytes per picosecond are GB/s / 1000.
            schedule.migrated_bytes = passes(free_ps) + passes(schedule.attention.link_free_ps());
        }
        schedule
    }

    /// From the start of the layer to the router's choice.
    pub(crate) fn before_router_ps(&self) -> u64 {
        self.launches_ps.saturating_add(self.attention.total_ps()).saturating_add(self.dense_ps)
    }

    /// From the start of the layer to the dispatch.
    pub(crate) fn decided_ps(&self) -> u64 {
        let asked_ps = self.before_router_ps().saturating_add(self.asked_ps);
        asked_ps.saturating_add(self.turn_ps).saturating_add(self.answered_ps)
    }

    /// GPU busy, launches among it.
    pub(crate) fn gpu_ps(&self) -> u64 {
        let before = self.launches_ps.saturating_add(self.attention.gpu_ps).saturating_add(self.dense_ps);
        self.gpu_runs.iter().fold(before, |sum, (start, end)| sum.saturating_add(end - start))
    }

    /// Link busy in either direction.
    pub(crate) const fn link_busy_ps(&self) -> u64 {
        self.attention.link_ps.saturating_add(self.link_ps)
    }

    /// Near-data device busy.
    pub(crate) fn ndp_ps(&self) -> u64 {
        self.near_data.as_ref().map_or(0, NearData::busy_ps)
    }

    /// From the start of the layer to its end.
    pub(crate) fn total_ps(&self) -> u64 {
        let gpu_end = self.gpu_runs.last().map_or(0, |&(_, end)| end);
        let near_end = self.near_data.as_ref().map_or(0, NearData::end_ps);
        self.decided_ps().saturating_add(gpu_end.max(near_end).max(self.link_ps).max(self.update_ps))
    }
}

/// Attention reading keys and values: those in GPU memory by its kernel, those behind the link beside it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Attention {
    pub(crate) gpu_ps: u64,
    pub(crate) link_ps: u64,
    pub(crate) gpu_bytes: f64,
    pub(crate) link_bytes: f64,
}

impl Attention {
    pub(crate) fn new(system: &System, model: &Model, work: &LayerWork<'_>) -> Self {
        let bytes = model.kv_bytes(work.attended);
        let link_bytes = bytes * system.kv_far_share;
        let gpu_bytes = bytes - link_bytes;
        let taken = taken_by_migration(system, work);
        Self {
            gpu_ps: (system.gpu().kernel_ps(gpu_bytes, 0.0) / (1.0 - taken)).round() as u64,
            link_ps: system.copy_ps(link_bytes),
            gpu_bytes,
            link_bytes,
        }
    }

    pub(crate) fn total_ps(&self) -> u64 {
        self.gpu_ps.max(self.link_ps)
    }

    /// The link left to a migration meanwhile.
    pub(crate) fn link_free_ps(&self) -> u64 {
        self.total_ps() - self.link_ps
    }
}

/// Share of the rate of the GPU's memory that a migration takes from the kernels by what it writes there.
fn taken_by_migration(system: &System, work: &LayerWork<'_>) -> f64 {
    let gpu_gb_s = system.gpu().memory_gb_s * system.gpu().memory_share;
    if work.migrating { (system.copy_gb_s() / gpu_gb_s).min(MOST_TAKEN) } else { 0.0 }
}

/// The controller's work before the dispatch, turns with a token of each sequence of the batch, and behind it.
fn controller_ps(system: &System, model: &Model, work: &LayerWork<'_>, near_runs: &[ExpertRun]) -> (u64, u64) {
    let turn = if model.sigmoid { Kernel::TurnSigmoid } else { Kernel::Turn };
    let runs = work.gpu.iter().chain(work.copied.iter().map(|copied| &copied.run)).chain(near_runs);
    // Experts of one token: the mean of the batch.
    let k = runs.fold(0_u32, |sum, run| sum.saturating_add(run.tokens)).div_ceil(work.sequences());
    let tokens = work.sequences();
    let of = |experts: u32, ps: fn(&Controller, Kernel, u32, u32, u32) -> u64| {
        system.controller().filter(|_| experts > 0).map_or(0, |controller| ps(controller, turn, experts, k, tokens))
    };
    (of(work.scored, Controller::turn_ps), of(work.tracked, Controller::update_ps))
}

/// Experts of a layer near the data; times of the device from its first read on.
#[derive(Debug, Clone)]
pub(crate) struct NearData {
    pub(crate) experts: Vec<Expert>,
    /// Tokens of each.
    tokens: Vec<u32>,
    pub(crate) trip: Trip,
    pub(crate) one_way_ps: u64,
    /// The way back, until the GPU notices.
    pub(crate) back_ps: u64,
    pub(crate) launch_ps: u64,
    /// How long copies out of the device's memory go on beside it.
    beside_ps: u64,
    /// Share of the memory's rate that they take.
    taken: f64,
    /// Whether results share their direction of the link with a migration, half and half.
    migrating: bool,
}

impl NearData {
    /// `None` if there are none.
    fn new(system: &System, model: &Model, work: &LayerWork<'_>, runs: &[ExpertRun], copy_ps: u64) -> Option<Self> {
        let most = runs.iter().map(|run| run.tokens).max()?;
        let experts: Vec<Expert> = runs.iter().filter_map(|&run| system.expert(model, run)).collect();
        Some(Self {
            taken: taken_by_copies(system, &experts),
            experts,
            tokens: runs.iter().map(|run| run.tokens).collect(),
            trip: Trip::new(system.link(), model, runs.len() as u32, most.min(work.sequences())),
            one_way_ps: system.link().one_way_ps(),
            back_ps: system.link().back_ps(),
            launch_ps: system.link().launch_ps(),
            beside_ps: if work.migrating { u64::MAX } else { copy_ps },
            migrating: work.migrating,
        })
    }

    /// First read, from the dispatch on.
    pub(crate) const fn start_ps(&self) -> u64 {
        self.trip.there_ps.saturating_add(self.one_way_ps).saturating_add(self.launch_ps)
    }

    /// A time of the device that has its memory to itself, as it is beside the copies.
    pub(crate) fn shared(&self, alone_ps: u64) -> u64 {
        slowed(alone_ps, self.beside_ps, self.taken)
    }

    /// Start and end of each expert's results on the wire: when the expert is done, behind those before.
    pub(crate) fn results(&self) -> impl Iterator<Item = (u64, u64)> {
        let result_ps = self.trip.result_ps.saturating_mul(if self.migrating { 2 } else { 1 });
        Expert::queue_ends(&self.experts).zip(&self.tokens).scan(0, move |free, (done, &tokens)| {
            let start = self.shared(done).max(*free);
            *free = start.saturating_add(result_ps.saturating_mul(u64::from(tokens)));
            Some((start, *free))
        })
    }

    /// Results of all experts: one for each token.
    pub(crate) fn result_count(&self) -> u64 {
        self.tokens.iter().map(|&tokens| u64::from(tokens)).sum()
    }

    /// All results, if nothing else is on the wire.
    fn results_ps(&self) -> u64 {
        self.trip.result_ps.saturating_mul(self.result_count())
    }

    /// Arrival of the last result, from the dispatch on.
    fn end_ps(&self) -> u64 {
        let last_ps = self.results().last().map_or(0, |(_, end)| end);
        self.start_ps().saturating_add(last_ps).saturating_add(self.back_ps)
    }

    fn busy_ps(&self) -> u64 {
        self.shared(Expert::queue_ends(&self.experts).last().unwrap_or(0))
    }

    /// The link busy with these experts and with copies.
    fn link_ps(&self, link: &Link, copy_ps: u64) -> u64 {
        link.both_ways_ps(copy_ps.saturating_add(self.results_ps()), self.trip.there_ps)
    }
}

/// Messages of a layer: each token's activations once (all experts read the same), a descriptor for each expert, and
/// results.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trip {
    /// Activations and descriptors on the wire.
    pub(crate) there_ps: u64,
    /// One result on the wire.
    pub(crate) result_ps: u64,
    there_bytes: u64,
    result_bytes: u64,
}

impl Trip {
    /// The first token's activations go with the descriptors.
    pub(crate) fn new(link: &Link, model: &Model, experts: u32, tokens: u32) -> Self {
        let activation = (model.activation_bytes() as u64).next_multiple_of(LINE_BYTES);
        let first = activation + LINE_BYTES * u64::from(experts);
        let (result_ps, result_bytes) = (link.send(activation).serial_ps, link.wire_bytes(activation));
        let others = u64::from(tokens.saturating_sub(1));
        Self {
            there_ps: link.send(first).serial_ps.saturating_add(result_ps.saturating_mul(others)),
            result_ps,
            there_bytes: link.wire_bytes(first) + result_bytes * others,
            result_bytes,
        }
    }

    /// Bytes on the wire in both directions.
    pub(crate) const fn wire_bytes(&self, results: u64) -> u64 {
        self.there_bytes + self.result_bytes * results
    }
}

/// The greatest share that copies take of a memory's rate from those who work from it.
const MOST_TAKEN: f64 = 0.9;

/// Share of the rate of the device's memory, as `experts` reach it, that copies out of it take.
pub(crate) fn taken_by_copies(system: &System, experts: &[Expert]) -> f64 {
    let (bytes, ps) = experts.iter().fold((0, 0), |(bytes, ps), one| (bytes + one.bytes, ps + one.stream_ps));
    let device_gb_s = bytes as f64 / ps as f64 * 1e3;
    (system.link().copy_gb_s() / device_gb_s).min(MOST_TAKEN)
}

/// Time of work that takes `alone_ps` by itself, while something else takes the share `taken` of its rate for
/// `other_ps`.
fn slowed(alone_ps: u64, other_ps: u64, taken: f64) -> u64 {
    let stretched = alone_ps as f64 / (1.0 - taken);
    stretched.min(alone_ps as f64 + taken * other_ps as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::slowed;

    #[test]
    fn copies_take_their_share_as_long_as_they_go_on() {
        assert_eq!((slowed(100, 0, 0.1), slowed(90, 1000, 0.1), slowed(100, 50, 0.1)), (100, 100, 105));
    }
}
