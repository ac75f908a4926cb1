//! Jobs that run on this processor.

use cptr_core::dispatch::{Busy, ExecutionUnits, Job};
use cptr_core::expert::{ExpertError, Replicas, Workspace};
use heapless::Vec;

use super::{Outcome, Units};
use crate::wire::{LINE, MAX_K};

/// An execution unit in software: it runs one job at a time, when it is asked whether the job has ended.
///
/// A job's activation is as many numbers of single precision as its expert has inputs; its result is the expert's
/// outputs times the weight of the job, in single precision ([`Expert::run`](cptr_core::expert::Expert::run)), in the
/// lines from `result + rank * lines of a result` on. A job whose replica is not there, whose places are outside of
/// the memory or whose activation is not finite has failed, and nothing is written.
#[derive(Debug)]
pub struct Kernels<'a> {
    memory: &'a mut [u8],
    workspace: Workspace<'a>,
    replicas: u32,
    /// More than one only where there is nothing to run.
    running: Vec<Job, MAX_K>,
}

impl<'a> Kernels<'a> {
    /// A unit over a memory; experts that want a larger workspace fail.
    pub const fn new(memory: &'a mut [u8], workspace: Workspace<'a>) -> Self {
        Self { memory, workspace, replicas: 0, running: Vec::new() }
    }

    fn run(&mut self, job: &Job) -> Result<(), ExpertError> {
        if self.replicas == 0 {
            return Ok(());
        }
        let replicas = Replicas::new(from(self.memory, self.replicas)?)?;
        let expert = replicas.expert(job.layer, job.expert, job.bits)?;
        let activation = from(self.memory, job.activation)?.as_chunks().0;
        let activation = activation.get(..expert.input().columns()).ok_or(ExpertError::Length)?;
        let output = expert.run(activation, &mut self.workspace)?.weighted(job.weight);
        let lines = (4 * output.len()).div_ceil(LINE);
        let first = u32::try_from(lines.saturating_mul(job.rank.into())).unwrap_or(u32::MAX);
        let first = offset(job.result.checked_add(first).ok_or(ExpertError::Length)?)?;
        let result = self.memory.get_mut(first..).ok_or(ExpertError::Length)?.as_chunks_mut().0;
        let result = result.get_mut(..output.len()).ok_or(ExpertError::Length)?;
        result.iter_mut().zip(output).for_each(|(to, from)| *to = from);
        Ok(())
    }
}

/// Offset of a line.
fn offset(line: u32) -> Result<usize, ExpertError> {
    usize::try_from(line).ok().and_then(|line| line.checked_mul(LINE)).ok_or(ExpertError::Length)
}

/// The memory from a line on.
fn from(memory: &[u8], line: u32) -> Result<&[u8], ExpertError> {
    memory.get(offset(line)?..).ok_or(ExpertError::Length)
}

impl ExecutionUnits for Kernels<'_> {
    fn submit(&mut self, job: &Job) -> Result<(), Busy> {
        if self.replicas > 0 && !self.running.is_empty() {
            return Err(Busy);
        }
        self.running.push(*job).map_err(|_| Busy)
    }

    fn poll(&mut self) -> Option<Job> {
        self.ended().map(|(job, _)| job)
    }
}

impl Units for Kernels<'_> {
    fn ended(&mut self) -> Option<(Job, Outcome)> {
        let job = self.running.pop()?;
        let outcome = if self.run(&job).is_ok() { Outcome::Done } else { Outcome::Failed };
        Some((job, outcome))
    }

    fn memory(&mut self) -> &mut [u8] {
        self.memory
    }

    fn configure(&mut self, replicas: u32) {
        self.replicas = replicas;
    }
}
