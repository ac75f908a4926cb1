//! A layer piece by piece: what each unit of the machine does, and when.
//!
//! [`System::layer_events`] lays out the same schedule that [`System::layer_time`] adds up, for timelines. Times are picoseconds from the start
//! of the layer. Messages are shown where the GPU sees them: what it sends when it leaves, results when they arrive.
use serde::Serialize;

use crate::model::Model;
use crate::system::{Cold, LayerWork, NearData, Schedule, System};

/// Chunks beyond which experts near the data are shown whole.
pub const MOST_CHUNKS: u64 = 100_000;

/// A part of the machine that does one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// The GPU.
    Gpu,
    /// Messages to the device.
    LinkFromGpu,
    /// Messages from the device.
    LinkToGpu,
    /// Experts on their way into GPU memory; on the wires of [`Self::LinkToGpu`].
    Copies,
    /// The processor of the filter.
    Controller,
    /// What decodes descriptors in the near-data device.
    Launch,
    /// Its memory channels, all alike, filling one half of the scratchpad.
    Memory,
    /// Its arrays, emptying the other half.
    Arrays,
}

impl Unit {
    /// All units, in the order in which people read them.
    pub const ALL: [Self; 8] = [
        Self::Gpu,
        Self::LinkFromGpu,
        Self::LinkToGpu,
        Self::Copies,
        Self::Controller,
        Self::Launch,
        Self::Memory,
        Self::Arrays,
    ];

    /// Name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpu => "GPU",
            Self::LinkFromGpu => "link from the GPU",
            Self::LinkToGpu => "link to the GPU",
            Self::Copies => "copies to the GPU",
            Self::Controller => "controller",
            Self::Launch => "device: launch",
            Self::Memory => "device: memory",
            Self::Arrays => "device: arrays",
        }
    }
}

/// What a unit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Attention, router, shared experts.
    Dense,
    /// An expert from GPU memory.
    ResidentExpert,
    /// A cold expert that was copied.
    ColdExpert,
    /// The filter's selection.
    Select,
    /// The filter's update.
    Update,
    /// Activations and descriptors.
    Activations,
    /// One expert's result.
    Result,
    /// One expert's weights.
    Copy,
    /// All copies of the layer, beside which results use the same wires.
    Batch,
    /// Fetching and decoding descriptors.
    Launch,
    /// A chunk, or a whole expert, out of the memory.
    Read,
    /// A chunk, or a whole expert, through the arrays.
    Multiply,
}

impl Task {
    /// Name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense part",
            Self::ResidentExpert => "resident expert",
            Self::ColdExpert => "cold expert",
            Self::Select => "select",
            Self::Update => "update",
            Self::Activations => "activations",
            Self::Result => "result",
            Self::Copy => "copy",
            Self::Batch => "copies",
            Self::Launch => "launch",
            Self::Read => "read",
            Self::Multiply => "multiply",
        }
    }
}

/// What one unit does in one stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Who.
    pub unit: Unit,
    /// What.
    pub task: Task,
    /// Which expert of its kind, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert: Option<u32>,
    /// Which chunk of the expert, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u64>,
    /// Start in picoseconds.
    pub start_ps: u64,
    /// End, later than the start.
    pub end_ps: u64,
}

impl System {
    /// Everything that happens in a layer, by unit; the events of a unit are in order and do not overlap. The last end of all is
    /// [`crate::LayerTime::total_ps`]. Experts near the data are cut into chunks up to [`MOST_CHUNKS`].
    pub fn layer_events(&self, model: &Model, work: LayerWork) -> Vec<Event> {
        let schedule = self.schedule(model, work);
        let mut events = Events(Vec::new());
        let (dense_ps, decided_ps) = (schedule.dense_ps, schedule.decided_ps());
        events.add(Unit::Gpu, Task::Dense, None, (0, dense_ps));
        events.add(Unit::Controller, Task::Select, None, (dense_ps, decided_ps));
        events.add(Unit::Controller, Task::Update, None, (decided_ps, decided_ps.saturating_add(schedule.update_ps)));
        let mut gpu_free = decided_ps;
        for expert in 0..schedule.resident_runs {
            let start = gpu_free;
            gpu_free = start.saturating_add(schedule.run_ps);
            events.add(Unit::Gpu, Task::ResidentExpert, Some(expert), (start, gpu_free));
        }
        match (self.cold, &schedule.near_data) {
            (Cold::Gpu, _) => self.copied(model, &schedule, gpu_free, &mut events),
            (Cold::Ndp, near_data) => {
                let end_ps = if schedule.copies > 0 { decided_ps.saturating_add(schedule.side.link_ps) } else { 0 };
                events.add(Unit::Copies, Task::Batch, None, (decided_ps, end_ps));
                if let Some(near_data) = near_data {
                    events.near_data(near_data, decided_ps);
                }
            }
        }
        events.0.sort_by_key(|event| (event.unit, event.start_ps));
        events.0
    }

    /// Copies one behind the other; each expert that is wanted now runs when it has arrived and the GPU is free.
    fn copied(&self, model: &Model, schedule: &Schedule, mut gpu_free: u64, events: &mut Events) {
        let decided_ps = schedule.decided_ps();
        let (mut start, unused) = (decided_ps, schedule.copies - schedule.copied_runs);
        for copy in 0..schedule.copies {
            let copied_ps = self.link().copy_ps(f64::from(copy + 1) * model.expert_bytes(self.gpu_bits));
            let there = decided_ps.saturating_add(copied_ps);
            events.add(Unit::Copies, Task::Copy, Some(copy), (start, there));
            start = there;
            if let Some(expert) = copy.checked_sub(unused) {
                let run = gpu_free.max(there);
                gpu_free = run.saturating_add(schedule.run_ps);
                events.add(Unit::Gpu, Task::ColdExpert, Some(expert), (run, gpu_free));
            }
        }
    }
}

struct Events(Vec<Event>);

impl Events {
    /// Adds what takes time.
    fn add(&mut self, unit: Unit, task: Task, expert: Option<u32>, (start_ps, end_ps): (u64, u64)) {
        if start_ps < end_ps {
            self.0.push(Event { unit, task, expert, chunk: None, start_ps, end_ps });
        }
    }

    fn near_data(&mut self, near_data: &NearData, decided_ps: u64) {
        let sent_ps = decided_ps.saturating_add(near_data.trip.there_ps);
        let start_ps = decided_ps.saturating_add(near_data.start_ps());
        self.add(Unit::LinkFromGpu, Task::Activations, None, (decided_ps, sent_ps));
        self.add(Unit::Launch, Task::Launch, None, (start_ps.saturating_sub(near_data.launch_ps), start_ps));
        let arrives = |time: u64| start_ps.saturating_add(time).saturating_add(near_data.one_way_ps);
        for (expert, (start, end)) in (0..).zip(near_data.results()) {
            self.add(Unit::LinkToGpu, Task::Result, Some(expert), (arrives(start), arrives(end)));
        }
        let at = |time: u64| start_ps.saturating_add(near_data.shared(time));
        let chunks = near_data.expert.chunks;
        let whole = chunks.saturating_mul(u64::from(near_data.runs)) > MOST_CHUNKS;
        if whole {
            let ends = near_data.expert.queue_ends(near_data.runs);
            let mut start = start_ps;
            for (expert, end) in (0..).zip(ends) {
                self.add(Unit::Memory, Task::Read, Some(expert), (start, at(end)));
                self.add(Unit::Arrays, Task::Multiply, Some(expert), (start, at(end)));
                start = at(end);
            }
            return;
        }
        for times in near_data.expert.queue_chunks(near_data.runs) {
            for (unit, task, (start, end)) in
                [(Unit::Memory, Task::Read, times.read_ps), (Unit::Arrays, Task::Multiply, times.work_ps)]
            {
                let chunk = Some(times.chunk);
                let event =
                    Event { unit, task, expert: Some(times.expert), chunk, start_ps: at(start), end_ps: at(end) };
                if event.start_ps < event.end_ps {
                    self.0.push(event);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn busy(events: &[Event], unit: Unit) -> u64 {
        events.iter().filter(|event| event.unit == unit).map(|event| event.end_ps - event.start_ps).sum()
    }

    fn end(events: &[Event], unit: Unit) -> Option<u64> {
        events.iter().filter(|event| event.unit == unit).map(|event| event.end_ps).max()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// One computation, two views: ends and busy times are those of `layer_time`.
        #[test]
        fn events_are_the_layer_time(
            resident_runs in 0u32..9, cold_runs in 0u32..9, loads in 0u32..9, scored_experts in 0u32..256,
            tracked_experts in 0u32..256, model in 0..Model::all().len(),
        ) {
            let model = &Model::all()[model];
            let work = LayerWork { resident_runs, cold_runs, loads, scored_experts, tracked_experts };
            for system in System::all() {
                let (time, events) = (system.layer_time(model, work), system.layer_events(model, work));
                prop_assert_eq!(events.iter().map(|event| event.end_ps).max(), Some(time.total_ps), "{} {:?}", system.name, work);
                prop_assert_eq!(busy(&events, Unit::Gpu), time.gpu_ps);
                prop_assert_eq!(busy(&events, Unit::Controller), time.controller_ps);
                let first_read = events.iter().find(|event| event.unit == Unit::Memory).map_or(0, |event| event.start_ps);
                prop_assert_eq!(end(&events, Unit::Arrays).map_or(0, |end| end - first_read), time.ndp_ps);
                if loads > 0 {
                    prop_assert_eq!(busy(&events, Unit::Copies), time.link_ps);
                }
                for pair in events.windows(2) {
                    prop_assert!(pair[0].unit < pair[1].unit || pair[0].end_ps <= pair[1].start_ps, "{pair:?}");
                }
            }
        }
    }

    #[test]
    fn an_expert_of_many_chunks_is_shown_whole() {
        let system = System::find("ndp").unwrap();
        let huge = Model::new("huge", 1 << 18, 1 << 18);
        let work = LayerWork { cold_runs: 2, ..LayerWork::default() };
        let events = system.layer_events(&huge, work);
        assert_eq!(events.iter().filter(|event| event.unit == Unit::Memory).count(), 2);
        assert_eq!(end(&events, Unit::LinkToGpu), Some(system.layer_time(&huge, work).total_ps));
    }

    /// Where runs are slower than copies, they queue from the first arrival on.
    #[test]
    fn slow_runs_wait_for_the_first_copy_only() {
        let text = include_str!("../data/systems/offload.toml");
        let line = text.lines().find(|line| line.starts_with("memory_gb_s")).unwrap();
        let system = System::from_toml(&text.replace(line, "memory_gb_s = 1.0")).unwrap();
        let model = Model::find("olmoe").unwrap();
        let time = |cold_runs| system.layer_time(model, LayerWork { cold_runs, ..LayerWork::default() });
        let (one, three) = (time(1), time(3));
        let run_ps = one.gpu_ps - system.layer_time(model, LayerWork::default()).gpu_ps;
        assert_eq!(three.total_ps, one.total_ps + 2 * run_ps);
        let events = system.layer_events(model, LayerWork { cold_runs: 3, ..LayerWork::default() });
        assert_eq!(end(&events, Unit::Gpu), Some(three.total_ps));
    }
}
