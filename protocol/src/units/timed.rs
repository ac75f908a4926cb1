//! Jobs that take their time.

use core::cmp::Reverse;

use cptr_core::dispatch::{Busy, ExecutionUnits, Job, MOST_BITS};
use heapless::Vec;

use super::{Outcome, Units};

/// A clock, in ticks of its own, modulo 2^32.
pub trait Clock {
    /// Its time.
    fn now(&self) -> u32;
}

/// Another driver's jobs on `N` units, each of which takes a time that depends on the bits: one that is free starts a
/// job at once, which ends so many ticks later. Jobs must take less than 2^31 ticks.
#[derive(Debug, Clone)]
pub struct Timed<U, C, const N: usize> {
    units: U,
    clock: C,
    /// By bits; entry 0 is of no job.
    ticks: [u32; MOST_BITS as usize + 1],
    /// With the time at which they end.
    running: Vec<(Job, Outcome, u32), N>,
}

impl<U, C, const N: usize> Timed<U, C, N> {
    /// Units that take `ticks[b]` for an expert of b bits.
    pub const fn new(units: U, clock: C, ticks: [u32; MOST_BITS as usize + 1]) -> Self {
        Self { units, clock, ticks, running: Vec::new() }
    }
}

impl<U: Units, C: Clock, const N: usize> ExecutionUnits for Timed<U, C, N> {
    fn submit(&mut self, job: &Job) -> Result<(), Busy> {
        if self.running.is_full() {
            return Err(Busy);
        }
        self.units.submit(job)?;
        // Its result is there before anybody is told.
        let (job, outcome) = self.units.ended().unwrap_or((*job, Outcome::Failed));
        let ticks = self.ticks.get(usize::from(job.bits)).copied().unwrap_or(0);
        self.running.push((job, outcome, self.clock.now().wrapping_add(ticks))).map_err(|_| Busy)
    }

    fn poll(&mut self) -> Option<Job> {
        self.ended().map(|(job, _)| job)
    }
}

impl<U: Units, C: Clock, const N: usize> Units for Timed<U, C, N> {
    /// The one that has ended first.
    fn ended(&mut self) -> Option<(Job, Outcome)> {
        let now = self.clock.now();
        let past = |end: u32| now.wrapping_sub(end) as i32;
        let ended = self.running.iter().enumerate().filter(|(_, (.., end))| past(*end) >= 0);
        let (first, &(job, outcome, _)) = ended.min_by_key(|(_, (.., end))| Reverse(past(*end)))?;
        // The order stays that of their starts: of those that end at once, the first comes first.
        let others = self.running.iter().enumerate().filter(|(place, _)| *place != first);
        self.running = others.map(|(_, job)| *job).collect();
        Some((job, outcome))
    }

    fn memory(&mut self) -> &mut [u8] {
        self.units.memory()
    }

    fn configure(&mut self, replicas: u32) {
        self.units.configure(replicas);
    }
}
