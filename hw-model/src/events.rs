//! A layer piece by piece: what each unit of the machine does, and when.
//!
//! [`System::layer_events`] lays out the same schedule that [`System::layer_time`] adds up, for timelines. Times are
//! picoseconds from the start of the layer. Messages are shown where the GPU sees them: what it sends when it leaves,
//! results when they arrive.
use serde::Serialize;

use crate::model::Model;
use crate::ndp::Expert;
use crate::schedule::{NearData, Schedule};
use crate::system::System;
use crate::work::LayerWork;

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
    /// Launches, attention, router, shared experts.
    Dense,
    /// Keys and values that lie behind the link.
    KeysAndValues,
    /// An expert from GPU memory.
    ResidentExpert,
    /// An expert that was copied.
    ColdExpert,
    /// The controller's turn: from the request to the published answer.
    Turn,
    /// The filter's update.
    Update,
    /// Activations and descriptors.
    Activations,
    /// One expert's results.
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
            Self::KeysAndValues => "keys and values",
            Self::ResidentExpert => "resident expert",
            Self::ColdExpert => "cold expert",
            Self::Turn => "turn",
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
    /// Everything that happens in a layer, by unit; the events of a unit are in order and do not overlap. The last end
    /// of all is [`crate::LayerTime::total_ps`]. Experts near the data are cut into chunks up to [`MOST_CHUNKS`]; a
    /// migration is not shown.
    #[must_use]
    pub fn layer_events(&self, model: &Model, work: &LayerWork<'_>) -> Vec<Event> {
        let schedule = Schedule::new(self, model, work);
        let mut events = Events(Vec::new());
        let (dense_ps, decided_ps) = (schedule.before_router_ps(), schedule.decided_ps());
        let at = |time: u64| decided_ps.saturating_add(time);
        // Where keys and values come over the link, the GPU waits for the last of them.
        let attention = &schedule.attention;
        events.add(Unit::Gpu, Task::Dense, None, (attention.total_ps() - attention.gpu_ps, dense_ps));
        events.add(Unit::Copies, Task::KeysAndValues, None, (0, attention.link_ps));
        let turn = (dense_ps.saturating_add(schedule.asked_ps), decided_ps.saturating_sub(schedule.answered_ps));
        events.add(Unit::Controller, Task::Turn, None, turn);
        events.add(Unit::Controller, Task::Update, None, (decided_ps, at(schedule.update_ps)));
        let resident = (0..).map(|expert| (Task::ResidentExpert, expert)).take(work.gpu.len());
        let tasks = resident.chain((0..).map(|expert| (Task::ColdExpert, expert)));
        for ((task, expert), &(start, end)) in tasks.zip(&schedule.gpu_runs) {
            events.add(Unit::Gpu, task, Some(expert), (at(start), at(end)));
        }
        if let Some(near_data) = &schedule.near_data {
            let end_ps = if schedule.arrivals.is_empty() { 0 } else { at(schedule.link_ps) };
            events.add(Unit::Copies, Task::Batch, None, (decided_ps, end_ps));
            events.near_data(near_data, decided_ps);
        } else {
            let starts = std::iter::once(0).chain(schedule.arrivals.iter().copied());
            for (copy, (start, &there)) in (0..).zip(starts.zip(&schedule.arrivals)) {
                events.add(Unit::Copies, Task::Copy, Some(copy), (at(start), at(there)));
            }
        }
        events.0.sort_by_key(|event| (event.unit, event.start_ps));
        events.0
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
        let arrives = |time: u64| start_ps.saturating_add(time).saturating_add(near_data.back_ps);
        for (expert, (start, end)) in (0..).zip(near_data.results()) {
            self.add(Unit::LinkToGpu, Task::Result, Some(expert), (arrives(start), arrives(end)));
        }
        let at = |time: u64| start_ps.saturating_add(near_data.shared(time));
        let chunks = near_data.experts.iter().fold(0_u64, |sum, expert| sum.saturating_add(expert.chunks));
        if chunks > MOST_CHUNKS {
            let ends = Expert::queue_ends(&near_data.experts);
            let mut start = start_ps;
            for (expert, end) in (0..).zip(ends) {
                self.add(Unit::Memory, Task::Read, Some(expert), (start, at(end)));
                self.add(Unit::Arrays, Task::Multiply, Some(expert), (start, at(end)));
                start = at(end);
            }
            return;
        }
        for times in Expert::queue_chunks(&near_data.experts) {
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
    use crate::work::tests::{Lists, lists};

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
            one in lists(1), batch in lists(6), controller in (0u32..256, 0u32..256), migrating: bool,
            model in 0..Model::all().len(), attended in 0u64..5000,
        ) {
            let model = &Model::all()[model];
            let (scored, tracked) = controller;
            for (system, lists) in System::all().iter().flat_map(|system| [(system, &one), (system, &batch)]) {
                let lists = lists.clone().on(system);
                let work = LayerWork { scored, tracked, migrating, attended, ..lists.work() };
                let (time, events) = (system.layer_time(model, &work), system.layer_events(model, &work));
                let last = events.iter().map(|event| event.end_ps).max();
                prop_assert_eq!(last, Some(time.total_ps), "{} {:?}", system.name, work);
                prop_assert_eq!(busy(&events, Unit::Gpu), time.gpu_ps);
                prop_assert_eq!(busy(&events, Unit::Controller), time.controller_ps);
                let reads = events.iter().find(|event| event.unit == Unit::Memory);
                let first_read = reads.map_or(0, |event| event.start_ps);
                let last_work = end(&events, Unit::Arrays).max(end(&events, Unit::Memory));
                prop_assert_eq!(last_work.map_or(0, |end| end - first_read), time.ndp_ps);
                if !work.copies_bits.is_empty() || !work.copied.is_empty() {
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
        let lists = Lists::counts(system, 0, 2, 0);
        let events = system.layer_events(&huge, &lists.work());
        assert_eq!(events.iter().filter(|event| event.unit == Unit::Memory).count(), 2);
        assert_eq!(end(&events, Unit::LinkToGpu), Some(system.layer_time(&huge, &lists.work()).total_ps));
    }

    /// Where runs are slower than copies, they queue from the first arrival on.
    #[test]
    fn slow_runs_wait_for_the_first_copy_only() {
        let text = include_str!("../data/systems/offload.toml");
        let line = text.lines().find(|line| line.starts_with("memory_gb_s")).unwrap();
        let system = System::from_toml(&text.replace(line, "memory_gb_s = 1.0")).unwrap();
        let model = Model::find("olmoe").unwrap();
        let lists = |cold| Lists::counts(&system, 0, cold, 0);
        let time = |cold| system.layer_time(model, &lists(cold).work());
        let (one, three) = (time(1), time(3));
        let run_ps = one.gpu_ps - time(0).gpu_ps;
        assert_eq!(three.total_ps, one.total_ps + 2 * run_ps);
        let events = system.layer_events(model, &lists(3).work());
        assert_eq!(end(&events, Unit::Gpu), Some(three.total_ps));
    }
}
