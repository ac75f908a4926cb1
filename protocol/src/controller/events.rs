//! What becomes of jobs: the units say it, and the host takes it with
//! [`Command::Events`](crate::wire::Command::Events).

use cptr_core::dispatch::{Busy, ExecutionUnits, Job};
use heapless::Deque;

use crate::units::{Outcome, Units};
use crate::wire::Event;

/// Events that may wait to be taken. Tokens whose jobs might bring more are refused as busy until then.
pub const EVENTS: usize = 128;

/// Events that wait, and counts of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Events {
    /// Whether anybody wants to know.
    pub(super) wanted: bool,
    pub(super) waiting: Deque<Event, EVENTS>,
    /// Since the start, modulo 2^32.
    pub(super) count: u32,
    /// Jobs that have failed or took too long; saturates.
    pub(super) failed: u32,
    /// Number of the first token of the session: jobs of tokens before it are nobody's.
    pub(super) first: u32,
}

impl Events {
    pub(super) const fn new() -> Self {
        Self { wanted: false, waiting: Deque::new(), count: 0, failed: 0, first: 0 }
    }

    /// A new session, whose first token has a number.
    pub(super) fn clear(&mut self, first: u32) {
        self.wanted = false;
        self.waiting.clear();
        (self.failed, self.first) = (0, first);
    }

    /// Whether what becomes of so many jobs can be told.
    pub(super) fn room(&self, jobs: usize) -> bool {
        !self.wanted || self.waiting.len().saturating_add(jobs) <= EVENTS
    }

    fn note(&mut self, job: &Job, outcome: Outcome) {
        // Less than half of all numbers lies between a token and its jobs' ends.
        if (job.token.wrapping_sub(self.first) as i32) < 0 {
            return;
        }
        self.failed = self.failed.saturating_add(u32::from(outcome != Outcome::Done));
        if !self.wanted {
            return;
        }
        self.count = self.count.wrapping_add(1);
        let [turn, layer, expert] = [job.token as u16, job.layer, job.expert].map(Into::into);
        // There is room: tokens are refused before there is none.
        let _ = self.waiting.push_back(Event { kind: outcome as u8, bits: job.bits, turn, layer, expert });
    }
}

/// Units whose reports are noted on their way to the queue.
pub(super) struct Reporting<'u, U> {
    pub(super) units: &'u mut U,
    pub(super) events: &'u mut Events,
}

impl<U: Units> ExecutionUnits for Reporting<'_, U> {
    fn submit(&mut self, job: &Job) -> Result<(), Busy> {
        self.units.submit(job)
    }

    fn poll(&mut self) -> Option<Job> {
        let (job, outcome) = self.units.ended()?;
        self.events.note(&job, outcome);
        Some(job)
    }
}
