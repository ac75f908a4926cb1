//! Where the chosen experts run: resident ones on the GPU, the others near the data, and a queue to the units there.
//!
//! [`dispatch()`] splits a token's experts of one layer; the near ones come longest first, so that several units finish
//! close together. [`Queue`] holds them until the device's [`ExecutionUnits`] take them. Nothing here waits:
//! [`Queue::advance`] is called when there is time.
//!
//! ```
//! use cptr_core::dispatch::dispatch;
//! use cptr_core::{ExpertSet, words_for};
//!
//! let mut resident = ExpertSet::<{ words_for(4) }>::new();
//! resident.insert(2);
//! let found = dispatch::<3>(&[0, 2, 3], &resident, &[1, 1, 1, 4]).unwrap();
//! assert_eq!(found.gpu, [2]);
//! assert!(found.near.iter().map(|run| (run.expert, run.bits)).eq([(3, 4), (0, 1)]));
//! ```

use core::fmt;

use heapless::Vec;

use crate::num::Gate;
use crate::router::Router;
use crate::set::Experts;

/// Most bits per weight of an expert near the data.
pub const MOST_BITS: u8 = 16;

/// An expert that runs near the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct NearRun {
    /// Its id in the layer.
    pub expert: u16,
    /// Its index in the list of chosen experts, which the mixing weights follow.
    pub rank: u16,
    /// Bits per weight of the replica to run, 1 to [`MOST_BITS`].
    pub bits: u8,
}

/// A token's experts of one layer by where they run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dispatch<const K: usize> {
    /// Resident experts, in the order of the chosen.
    pub gpu: Vec<u16, K>,
    /// The others, most bits first (which take longest: the time of an expert is that of its bytes), of equals in the
    /// order of the chosen.
    pub near: Vec<NearRun, K>,
}

impl<const K: usize> Dispatch<K> {
    fn clear(&mut self) {
        self.gpu.clear();
        self.near.clear();
    }
}

/// Why there is no dispatch.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DispatchError {
    /// More experts than the lists hold.
    Capacity,
    /// An expert is out of range or stands twice.
    Id,
    /// An expert that is not resident has a replica of no, or of more than [`MOST_BITS`] bits.
    Bits,
    /// The queue has no room for all of the jobs.
    Full,
}

impl fmt::Display for DispatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Capacity => "more experts than the dispatch holds",
            Self::Id => "an expert is out of range or stands twice",
            Self::Bits => "an expert has no replica of 1 to 16 bits",
            Self::Full => "the queue has no room for the jobs",
        })
    }
}

impl core::error::Error for DispatchError {}

/// Splits the `chosen` experts of a token by residency; `bits[e]` is the width of expert e's replica near the data, one
/// entry per expert of the layer.
///
/// Longest first is Graham's rule: on m units of one speed that each take the next job when they are free, the last one
/// finishes within `4/3 - 1/(3m)` of the best order (SIAM Journal on Applied Mathematics 17, 1969). Cost: one insertion
/// into a list of at most K per near expert.
///
/// # Errors
/// [`DispatchError::Capacity`], [`DispatchError::Id`], [`DispatchError::Bits`].
pub fn dispatch<const K: usize>(chosen: &[u16], resident: &Experts, bits: &[u8]) -> Result<Dispatch<K>, DispatchError> {
    let mut found = Dispatch::default();
    dispatch_in_place(chosen, resident, bits, &mut found)?;
    Ok(found)
}

/// [`dispatch()`] for a caller with memory of its own, as moving the lists would cost more than the work. What was in
/// them before does not matter; after an error they hold nothing.
///
/// # Errors
/// As [`dispatch()`].
pub fn dispatch_in_place<const K: usize>(
    chosen: &[u16],
    resident: &Experts,
    bits: &[u8],
    found: &mut Dispatch<K>,
) -> Result<(), DispatchError> {
    found.clear();
    if chosen.len() > K {
        return Err(DispatchError::Capacity);
    }
    Router::check_ids(chosen, bits.len()).map_err(|_| DispatchError::Id)?;
    let Dispatch { gpu, near } = &mut *found;
    // There is room, here and below: both lists hold as many as there are chosen.
    let done = dispatch_each(chosen, resident, bits, near, |expert, bits| {
        if bits == 0 {
            let _ = gpu.push(expert);
        }
    });
    if done.is_err() {
        found.clear();
    }
    done
}

/// [`dispatch()`] of what a selection has left: its ids, which that has checked, are not checked once more. Adds those
/// that run near the data to the empty list `near`, and says of each of the chosen, in their order, at how many bits it
/// runs there, 0 for the GPU.
///
/// # Errors
/// [`DispatchError::Capacity`], [`DispatchError::Bits`], also for an expert that is out of range. What has been said
/// and listed before it does not count.
#[inline]
pub fn dispatch_each<const K: usize>(
    chosen: &[u16],
    resident: &Experts,
    bits: &[u8],
    near: &mut Vec<NearRun, K>,
    mut each: impl FnMut(u16, u8),
) -> Result<(), DispatchError> {
    for (rank, &expert) in (0..chosen.len()).zip(chosen) {
        if resident.contains(expert) {
            each(expert, 0);
            continue;
        }
        let bits = bits.get(usize::from(expert)).copied().unwrap_or(0);
        if !(1..=MOST_BITS).contains(&bits) {
            return Err(DispatchError::Bits);
        }
        each(expert, bits);
        near.push(NearRun { expert, rank: rank as u16, bits }).map_err(|_| DispatchError::Capacity)?;
        let mut runs = &mut near[..];
        while let [.., above, last] = runs
            && above.bits < last.bits
        {
            core::mem::swap(above, last);
            let Some((_, rest)) = runs.split_last_mut() else { break };
            runs = rest;
        }
    }
    Ok(())
}

/// One expert to run for one token, 24 bytes. Places are lines of 64 bytes of the memory that units and host share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Job {
    /// The caller's number of the token.
    pub token: u32,
    /// Layer.
    pub layer: u16,
    /// Expert of the layer.
    pub expert: u16,
    /// Bits per weight of the replica to run.
    pub bits: u8,
    /// Index of the expert among the token's chosen: its result is the one of that number from `result` on.
    pub rank: u8,
    /// What the result is multiplied with.
    pub weight: Gate,
    /// Where the token's activation lies.
    pub activation: u32,
    /// Where the results of the token's experts lie, one behind the other, each in lines of its own.
    pub result: u32,
}

impl Job {
    /// Nobody's job: what an empty queue's memory holds.
    pub const NONE: Self =
        Self { token: 0, layer: 0, expert: 0, bits: 0, rank: 0, weight: Gate::ZERO, activation: 0, result: 0 };
}

/// No unit is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// The driver of the device's execution units, to be written for each device.
pub trait ExecutionUnits {
    /// Starts a job on a unit that is free; returns at once.
    ///
    /// # Errors
    /// [`Busy`]: no unit is free, the job is not taken.
    fn submit(&mut self, job: &Job) -> Result<(), Busy>;

    /// A job that has finished and was not reported before; `None` if there is none yet.
    fn poll(&mut self) -> Option<Job>;
}

/// Jobs on their way to the units, in the caller's memory: `Queue<[Job; N]>`, of which at most N wait while any number
/// runs; `&Queue` is the view of any size, to which references to the former coerce. 24 bytes a job, and three words
/// beside.
///
/// A ring of its own: that of heapless has its size in its type and trusts its indices, this one may lie in memory of
/// any size that a C program has, and with whatever is written there it stays inside of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue<J: ?Sized = [Job]> {
    /// Index of the job that waits longest.
    first: usize,
    waiting: usize,
    running: usize,
    /// A ring: the jobs that wait begin at `first`.
    jobs: J,
}

impl<const N: usize> Queue<[Job; N]> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { first: 0, waiting: 0, running: 0, jobs: [Job::NONE; N] }
    }
}

impl<const N: usize> Default for Queue<[Job; N]> {
    fn default() -> Self {
        Self::new()
    }
}

impl<J: AsRef<[Job]> + AsMut<[Job]> + ?Sized> Queue<J> {
    /// How many more jobs may wait.
    pub fn room(&self) -> usize {
        self.jobs.as_ref().len().saturating_sub(self.waiting)
    }

    /// Jobs that have not been reported as done.
    pub fn outstanding(&self) -> usize {
        self.waiting.saturating_add(self.running)
    }

    /// Adds jobs, all or none.
    ///
    /// # Errors
    /// [`DispatchError::Full`].
    pub fn push(&mut self, jobs: &[Job]) -> Result<(), DispatchError> {
        self.push_all(jobs.iter().copied())
    }

    /// [`push`](Self::push) of jobs that are made where they wait.
    ///
    /// # Errors
    /// [`DispatchError::Full`].
    #[inline]
    pub fn push_all(&mut self, jobs: impl ExactSizeIterator<Item = Job>) -> Result<(), DispatchError> {
        if jobs.len() > self.room() {
            return Err(DispatchError::Full);
        }
        let (mut end, mut waiting) = (self.after_first(self.waiting), self.waiting);
        let places = self.jobs.as_mut();
        for job in jobs {
            if end >= places.len() {
                end = 0;
            }
            let Some(place) = places.get_mut(end) else { break };
            *place = job;
            (end, waiting) = (end.wrapping_add(1), waiting.wrapping_add(1));
        }
        self.waiting = waiting;
        Ok(())
    }

    /// Takes what has finished and starts what can be started, in order; returns how many have finished. A job that was
    /// never started here does not count.
    pub fn advance(&mut self, units: &mut impl ExecutionUnits) -> usize {
        let mut finished = 0;
        while self.running > 0 && units.poll().is_some() {
            (self.running, finished) = (self.running.wrapping_sub(1), usize::wrapping_add(finished, 1));
        }
        while self.waiting > 0
            && let Some(job) = self.jobs.as_ref().get(self.first)
            && units.submit(job).is_ok()
        {
            self.first = self.after_first(1);
            (self.waiting, self.running) = (self.waiting.wrapping_sub(1), self.running.wrapping_add(1));
        }
        finished
    }

    /// Forgets the jobs that wait; those that run are still reported when they finish.
    pub fn clear(&mut self) {
        self.waiting = 0;
    }

    /// The place so many jobs after the first one that waits.
    fn after_first(&self, jobs: usize) -> usize {
        let (place, places) = (self.first.saturating_add(jobs), self.jobs.as_ref().len());
        place.checked_sub(places).unwrap_or(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::ExpertSet;
    use crate::testing::oracle;
    use proptest::prelude::*;
    use std::vec::Vec as StdVec;

    const E: usize = 16;

    fn set(residents: u16) -> ExpertSet<1> {
        let mut set = ExpertSet::new();
        (0..E as u16).filter(|e| residents >> e & 1 != 0).for_each(|e| _ = set.insert(e));
        set
    }

    #[test]
    fn refuses_what_cannot_run() {
        let none = set(0);
        assert_eq!(dispatch::<2>(&[0, 1, 2], &none, &[2; E]), Err(DispatchError::Capacity));
        assert_eq!(dispatch::<2>(&[0, 0], &none, &[2; E]), Err(DispatchError::Id));
        assert_eq!(dispatch::<2>(&[0, 16], &none, &[2; E]), Err(DispatchError::Id));
        assert_eq!(dispatch::<2>(&[0, 1], &none, &[2, 0]), Err(DispatchError::Bits));
        assert_eq!(dispatch::<2>(&[0, 1], &none, &[2, 17]), Err(DispatchError::Bits));
        // Experts on the GPU need no replica.
        assert_eq!(dispatch::<2>(&[0, 1], &set(2), &[2, 0]).unwrap().gpu, [1]);
        assert_eq!(dispatch::<2>(&[], &none, &[]), Ok(Dispatch::default()));
    }

    /// Units that take `speed` polls for a job.
    struct Units {
        running: StdVec<(Job, u32)>,
        free: usize,
        polls: u32,
        done: StdVec<u16>,
    }

    impl ExecutionUnits for Units {
        fn submit(&mut self, job: &Job) -> Result<(), Busy> {
            if self.running.len() == self.free {
                return Err(Busy);
            }
            self.running.push((*job, self.polls));
            Ok(())
        }

        fn poll(&mut self) -> Option<Job> {
            self.running.iter_mut().for_each(|(_, left)| *left = left.saturating_sub(1));
            let index = self.running.iter().position(|(_, left)| *left == 0)?;
            let (job, _) = self.running.remove(index);
            self.done.push(job.expert);
            Some(job)
        }
    }

    fn job(expert: u16) -> Job {
        Job { expert, bits: 2, weight: Gate::ONE, ..Job::NONE }
    }

    /// Time at which the last of `lengths` ends on `units` units that take them in order.
    fn makespan(lengths: impl Iterator<Item = u32>, units: usize) -> u32 {
        let mut free = std::vec![0; units];
        for length in lengths {
            *free.iter_mut().min().unwrap() += length;
        }
        free.into_iter().max().unwrap()
    }

    proptest! {
        #[test]
        fn every_chosen_expert_runs_once_where_it_lies(
            chosen in prop::collection::hash_set(0u16..E as u16, 0..=8),
            residents: u16,
            bits in prop::collection::vec(1u8..=4, E),
            units in 1usize..4,
        ) {
            let (chosen, resident): (StdVec<u16>, _) = (chosen.into_iter().collect(), set(residents));
            let found = dispatch::<8>(&chosen, &resident, &bits).unwrap();
            let (here, near) = oracle::dispatch(&chosen, &resident, &bits);
            prop_assert_eq!(&found.gpu[..], &here[..]);
            prop_assert!(found.near.iter().map(|run| run.expert).eq(near));
            for run in &found.near {
                prop_assert_eq!(chosen[usize::from(run.rank)], run.expert);
                prop_assert_eq!(run.bits, bits[usize::from(run.expert)]);
            }
            // Graham's bound against the best assignment of jobs to units, by trying all of them.
            let lengths: StdVec<u32> = found.near.iter().take(6).map(|run| run.bits.into()).collect();
            let (m, found) = (units as u32, makespan(lengths.iter().copied(), units));
            let best = oracle::makespan(&lengths, units);
            prop_assert!(found * 3 * m <= best * (4 * m - 1), "{lengths:?} on {units}: {found}");
        }

        #[test]
        fn jobs_are_done_once_in_order_and_never_lost(
            batches in prop::collection::vec(0usize..5, 1..20),
            free in 1usize..4,
            polls in 1u32..4,
        ) {
            let mut units = Units { running: StdVec::new(), free, polls, done: StdVec::new() };
            let mut queue = Queue::<[Job; 6]>::new();
            let (mut pushed, mut finished) = (0, 0);
            for batch in batches {
                let room = queue.room();
                let jobs: StdVec<Job> = (pushed..pushed + batch as u16).map(job).collect();
                match queue.push(&jobs) {
                    Ok(()) => pushed += batch as u16,
                    Err(error) => {
                        prop_assert_eq!(error, DispatchError::Full);
                        prop_assert!(batch > room && queue.room() == room);
                    }
                }
                finished += queue.advance(&mut units);
                prop_assert_eq!(queue.outstanding(), usize::from(pushed) - finished);
            }
            for _ in 0..200 {
                finished += queue.advance(&mut units);
            }
            prop_assert_eq!(queue.outstanding(), 0);
            prop_assert_eq!(finished, usize::from(pushed));
            let mut done = units.done;
            if free == 1 || polls == 1 {
                prop_assert!(done.is_sorted(), "{done:?}");
            }
            done.sort_unstable();
            prop_assert!(done.into_iter().eq(0..pushed));
        }
    }

    #[test]
    fn a_driver_that_reports_too_much_is_not_believed() {
        struct Liar;
        impl ExecutionUnits for Liar {
            fn submit(&mut self, _: &Job) -> Result<(), Busy> {
                Ok(())
            }
            fn poll(&mut self) -> Option<Job> {
                Some(job(9))
            }
        }
        let mut queue = Queue::<[Job; 2]>::new();
        queue.push(&[job(1), job(2)]).unwrap();
        assert_eq!((queue.advance(&mut Liar), queue.advance(&mut Liar), queue.advance(&mut Liar)), (0, 2, 0));
        queue.push(&[job(1)]).unwrap();
        queue.clear();
        assert_eq!((queue.outstanding(), queue.room()), (0, 2));
    }
}
