//! Execution units: what the controller asks of their driver, and drivers that need no hardware.
//!
//! | driver | what it does with a job |
//! |---|---|
//! | [`Untimed`] | nothing; it is done when somebody asks |
//! | [`Kernels`] | runs it on this processor, with the kernels of the core |
//! | [`Timed`] | has another driver run it, and says so after the time that a device would take |

mod kernels;
#[cfg(test)]
mod tests;
mod timed;

use cptr_core::dispatch::{Busy, ExecutionUnits, Job};
use heapless::Vec;

use crate::wire::MAX_K;

pub use kernels::Kernels;
pub use timed::{Clock, Timed};

/// How a job has ended.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Its result is there.
    Done = 1,
    /// There is none: the unit has found an error.
    Failed = 2,
    /// There is none: the unit has taken too long and was stopped.
    TimedOut = 3,
}

/// Execution units that can say how a job has ended; each job that was started ends once.
pub trait Units: ExecutionUnits {
    /// A job that has ended and was not reported before, and how; `None` if there is none yet. Those that `poll`
    /// reports are done, unless the driver says more here.
    fn ended(&mut self) -> Option<(Job, Outcome)> {
        self.poll().map(|job| (job, Outcome::Done))
    }

    /// The memory in which activations, replicas and results lie, as far as hosts may write and read it. A session may
    /// put anything anywhere in it.
    fn memory(&mut self) -> &mut [u8] {
        &mut []
    }

    /// A model was configured: the line of the memory in which its replicas begin
    /// ([`Replicas`](cptr_core::expert::Replicas)); 0: there are none, and jobs give no results.
    fn configure(&mut self, replicas: u32) {
        let _ = replicas;
    }
}

/// Execution units in place of a device's: done with every job when they are asked for the next time.
#[derive(Debug, Clone, Default)]
pub struct Untimed {
    running: Vec<Job, MAX_K>,
}

impl ExecutionUnits for Untimed {
    fn submit(&mut self, job: &Job) -> Result<(), Busy> {
        self.running.push(*job).map_err(|_| Busy)
    }

    fn poll(&mut self) -> Option<Job> {
        self.running.pop()
    }
}

impl Units for Untimed {}
