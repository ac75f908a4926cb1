//! Which experts are there, which are on their way, and what the threads that read them do next.
//!
//! Matrices are read in order, each in pieces that all threads share: what is waited for before what is fetched ahead,
//! and of that all experts' first matrices before any second one, so that llama.cpp can go on with the first while the
//! others are still being read. A fetch makes way for what is waited for, and is broken off where it is given up: no
//! more of it is read than the pieces that are under way.

use std::collections::VecDeque;
use std::ops::Range;

use cptr_trace::error::{Error, Result};

/// Bytes of a read at most. A demand waits for the reads of a fetch that are under way, so that they should not be
/// long; smaller ones take more of the processor's time.
const PIECE: usize = 512 << 10;
/// Pieces are multiples of this, and so whole pages of any system.
const STEP: usize = 64 << 10;

/// One expert's part of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) place: usize,
    pub(super) expert: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    /// In one of the queues.
    Asked,
    /// In [`Work::reading`].
    Reading,
    There,
    /// Its memory is to be given back; `kept` is true where it has been asked for again since.
    Leaving {
        kept: bool,
    },
}

/// A slice that is being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    slice: Slice,
    /// Whether its memory is there to be read into.
    open: bool,
    /// Bytes of it, those that some thread has begun to read, and those that have been read.
    bytes: usize,
    begun: usize,
    done: usize,
    /// Whether something waits for it.
    wanted: bool,
    /// Whether it has not been given up since.
    kept: bool,
}

/// What a thread does next.
pub(super) enum Job {
    /// Gives the memory of a slice back.
    GiveBack(Slice),
    /// Hands the memory of one that goes, if there is one, on to a slice that comes.
    Open(Slice, Option<Slice>),
    /// Reads these bytes of a slice.
    Read(Slice, Range<usize>),
}

/// The state of all experts.
pub(super) struct Work {
    /// Given back before anything is read, with the bytes of each that have been read.
    leaving: VecDeque<(Slice, usize)>,
    demands: VecDeque<Slice>,
    ahead: VecDeque<Slice>,
    reading: Vec<Reading>,
    /// By tensor and expert; bytes in memory.
    sizes: Vec<Vec<usize>>,
    pub(super) states: Vec<Vec<State>>,
    /// What computing waits for.
    pub(super) awaited: Vec<Slice>,
    pub(super) failed: Option<Error>,
    pub(super) ended: bool,
    pub(super) bytes: u64,
    pub(super) held: u64,
    pub(super) most_held: u64,
}

impl Work {
    /// Nothing is there; `sizes` are bytes in memory by tensor and expert.
    pub(super) fn new(sizes: Vec<Vec<usize>>) -> Self {
        Self {
            leaving: VecDeque::new(),
            demands: VecDeque::new(),
            ahead: VecDeque::new(),
            reading: Vec::new(),
            states: sizes.iter().map(|sizes| vec![State::Absent; sizes.len()]).collect(),
            sizes,
            awaited: Vec::new(),
            failed: None,
            ended: false,
            bytes: 0,
            held: 0,
            most_held: 0,
        }
    }

    fn state(&mut self, slice: Slice) -> &mut State {
        &mut self.states[slice.place][slice.expert]
    }

    /// The entry of a slice that is being read.
    fn reading(&mut self, slice: Slice) -> Option<&mut Reading> {
        self.reading.iter_mut().find(|reading| reading.slice == slice)
    }

    /// One that is to leave is asked for again: it is still there as far as it had been read, or a thread is about to
    /// free it.
    fn keep(&mut self, slice: Slice, wanted: bool) {
        let Some(at) = self.leaving.iter().position(|(other, _)| *other == slice) else {
            *self.state(slice) = State::Leaving { kept: true };
            return;
        };
        let (bytes, done) =
            (self.sizes[slice.place][slice.expert], self.leaving.remove(at).map_or(0, |(_, done)| done));
        *self.state(slice) = if done == bytes { State::There } else { State::Reading };
        if done < bytes {
            self.reading.push(Reading { slice, open: true, bytes, begun: done, done, wanted, kept: true });
        }
    }

    /// One that is being read is wanted, now or ahead, whether it had been given up or not.
    fn wants(&mut self, slice: Slice, now: bool) {
        if let Some(reading) = self.reading(slice) {
            reading.kept = true;
            reading.wanted |= now;
        }
    }

    /// Has a slice read before anything else.
    pub(super) fn demand(&mut self, slice: Slice) {
        match *self.state(slice) {
            State::There | State::Leaving { kept: true } => {}
            State::Reading => self.wants(slice, true),
            State::Leaving { kept: false } => self.keep(slice, true),
            State::Asked | State::Absent => {
                self.ahead.retain(|other| *other != slice);
                if !self.demands.contains(&slice) {
                    self.demands.push_back(slice);
                }
                *self.state(slice) = State::Asked;
            }
        }
    }

    /// Has a slice read when nothing is waited for.
    pub(super) fn fetch(&mut self, slice: Slice) {
        match *self.state(slice) {
            State::There | State::Leaving { kept: true } | State::Asked => {}
            State::Leaving { kept: false } => self.keep(slice, false),
            State::Reading => self.wants(slice, false),
            State::Absent => {
                *self.state(slice) = State::Asked;
                self.ahead.push_back(slice);
            }
        }
    }

    /// Gives a slice up.
    pub(super) fn evict(&mut self, slice: Slice) {
        match *self.state(slice) {
            State::Absent | State::Leaving { kept: false } => {}
            State::Leaving { kept: true } => *self.state(slice) = State::Leaving { kept: false },
            State::Asked => {
                self.ahead.retain(|other| *other != slice);
                self.demands.retain(|other| *other != slice);
                *self.state(slice) = State::Absent;
            }
            State::Reading => {
                if let Some(reading) = self.reading(slice) {
                    (reading.kept, reading.wanted) = (false, false);
                }
                self.let_go(slice);
            }
            State::There => {
                *self.state(slice) = State::Leaving { kept: false };
                self.leaving.push_back((slice, self.sizes[slice.place][slice.expert]));
            }
        }
    }

    /// The memory of one that was to leave is no longer its own.
    pub(super) fn left(&mut self, slice: Slice) {
        self.held -= self.sizes[slice.place][slice.expert] as u64;
        if *self.state(slice) == (State::Leaving { kept: true }) {
            *self.state(slice) = State::Asked;
            self.demands.push_front(slice);
        } else {
            *self.state(slice) = State::Absent;
        }
    }

    /// What to do next, the most urgent first.
    pub(super) fn next(&mut self) -> Option<Job> {
        if let Some(job) = self.piece(true) {
            return Some(job);
        }
        if let Some(slice) = self.demands.pop_front() {
            return Some(self.open(slice, true));
        }
        // Beside what is waited for nothing is read ahead: it would take its share of the drive.
        let comes = !self.ahead.is_empty() || self.reading.iter().any(|reading| reading.kept);
        if !comes && let Some((slice, _)) = self.leaving.pop_front() {
            return Some(Job::GiveBack(slice));
        }
        if self.reading.iter().any(|reading| reading.wanted) {
            return None;
        }
        if let Some(job) = self.piece(false) {
            return Some(job);
        }
        let slice = self.ahead.pop_front()?;
        Some(self.open(slice, false))
    }

    fn open(&mut self, slice: Slice, wanted: bool) -> Job {
        *self.state(slice) = State::Reading;
        let bytes = self.sizes[slice.place][slice.expert];
        self.held += bytes as u64;
        self.most_held = self.most_held.max(self.held);
        self.reading.push(Reading { slice, open: false, bytes, begun: 0, done: 0, wanted, kept: true });
        Job::Open(slice, self.leaving.pop_front().map(|(gone, _)| gone))
    }

    /// The next piece of what is being read.
    fn piece(&mut self, wanted: bool) -> Option<Job> {
        let left = |reading: &&mut Reading| {
            reading.open && reading.kept && reading.wanted == wanted && reading.begun < reading.bytes
        };
        let reading = self.reading.iter_mut().find(left)?;
        let pieces = reading.bytes.div_ceil(PIECE);
        let piece = reading.bytes.div_ceil(pieces).next_multiple_of(STEP);
        let first = reading.begun;
        reading.begun = reading.bytes.min(first + piece);
        Some(Job::Read(reading.slice, first..reading.begun))
    }

    /// What a thread has done for a slice that is being read has ended; whether the slice is there now.
    pub(super) fn ends(&mut self, slice: Slice, bytes: usize, outcome: Result<()>) -> bool {
        match outcome {
            Ok(()) => self.bytes += bytes as u64,
            Err(error) => _ = self.failed.get_or_insert(error),
        }
        let failed = self.failed.is_some();
        let Some(reading) = self.reading(slice) else { return false };
        reading.open = true;
        reading.done += bytes;
        reading.kept &= !failed;
        if reading.kept && reading.done == reading.bytes {
            self.reading.retain(|reading| reading.slice != slice);
            *self.state(slice) = State::There;
            self.awaited.retain(|awaited| *awaited != slice);
            return true;
        }
        self.let_go(slice);
        false
    }

    /// Gives the memory of what is being read up, if it is not wanted any more and no thread is at it.
    fn let_go(&mut self, slice: Slice) {
        let Some(at) = self.reading.iter().position(|reading| reading.slice == slice) else { return };
        let Reading { open, begun, done, kept, .. } = self.reading[at];
        if open && !kept && begun == done {
            self.reading.remove(at);
            *self.state(slice) = State::Leaving { kept: false };
            // What a read has left that failed is nothing, should the slice be asked for again.
            self.leaving.push_back((slice, if self.failed.is_some() { 0 } else { done }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 3 * PIECE;

    fn slice(place: usize, expert: usize) -> Slice {
        Slice { place, expert }
    }

    fn reads(work: &mut Work) -> Option<Slice> {
        match work.next()? {
            Job::Read(slice, range) => {
                work.ends(slice, range.len(), Ok(()));
                Some(slice)
            }
            Job::Open(slice, gone) => {
                gone.into_iter().for_each(|gone| work.left(gone));
                work.ends(slice, 0, Ok(()));
                reads(work)
            }
            Job::GiveBack(slice) => {
                work.left(slice);
                reads(work)
            }
        }
    }

    #[test]
    fn a_fetch_makes_way_and_goes_on() {
        let mut work = Work::new(vec![vec![BYTES; 4]]);
        work.fetch(slice(0, 0));
        assert_eq!(reads(&mut work), Some(slice(0, 0)));
        work.demand(slice(0, 1));
        let order: Vec<usize> = std::iter::from_fn(|| reads(&mut work)).map(|slice| slice.expert).collect();
        assert_eq!(order, [1, 1, 1, 0, 0]);
        // What is on its way and wanted now is no fetch any more.
        for expert in [2, 3] {
            work.fetch(slice(0, expert));
        }
        assert_eq!(reads(&mut work), Some(slice(0, 2)));
        work.demand(slice(0, 3));
        work.demand(slice(0, 2));
        let order: Vec<usize> = std::iter::from_fn(|| reads(&mut work)).map(|slice| slice.expert).collect();
        assert_eq!(order, [2, 2, 3, 3, 3]);
    }

    #[test]
    fn what_is_given_up_is_not_read_on() {
        let mut work = Work::new(vec![vec![BYTES; 2]]);
        work.fetch(slice(0, 0));
        reads(&mut work);
        work.evict(slice(0, 0));
        // A third of it is there still, and no more.
        work.demand(slice(0, 0));
        assert_eq!(*work.state(slice(0, 0)), State::Reading);
        assert_eq!(std::iter::from_fn(|| reads(&mut work)).count(), 2);
        assert_eq!((*work.state(slice(0, 0)), work.bytes), (State::There, BYTES as u64));
        work.evict(slice(0, 0));
        assert_eq!((reads(&mut work), work.held), (None, 0));
    }

    #[test]
    fn a_read_that_fails_leaves_nothing_there() {
        let mut work = Work::new(vec![vec![BYTES; 2]]);
        work.demand(slice(0, 0));
        while let Some(job) = work.next() {
            match job {
                Job::Open(slice, _) => _ = work.ends(slice, 0, Ok(())),
                Job::Read(slice, range) => _ = work.ends(slice, range.len(), Err(Error::new("no"))),
                Job::GiveBack(slice) => work.left(slice),
            }
        }
        assert!(work.failed.is_some() && work.held == 0 && *work.state(slice(0, 0)) == State::Absent);
    }

    /// Whatever is asked for and given up, in whatever order threads end, and whichever read fails: what counts as
    /// there has been read whole since its memory was last another's, and memory is counted right. `fails` is the
    /// number of the read that fails; whether it came to that.
    fn any_order(random: &mut fastrand::Rng, fails: Option<usize>) -> bool {
        // The second tensor has no pages of its own.
        let mut work = Work::new(vec![vec![BYTES; 6], vec![0; 6], vec![PIECE - STEP; 6]]);
        let mut read = vec![vec![vec![false; BYTES / STEP]; 6]; 3];
        let (mut jobs, mut reads): (Vec<Job>, usize) = (Vec::new(), 0);
        for step in 0..400 {
            let slice = slice(random.usize(..3), random.usize(..6));
            match random.usize(..8) {
                // At the end everything comes to rest.
                _ if step > 300 => jobs.extend(work.next()),
                0 => work.demand(slice),
                1 => work.fetch(slice),
                2 | 3 => work.evict(slice),
                _ if jobs.len() < 3 => jobs.extend(work.next()),
                _ => {}
            }
            if !jobs.is_empty() && (random.bool() || step > 300) {
                match jobs.swap_remove(random.usize(..jobs.len())) {
                    Job::GiveBack(gone) => {
                        read[gone.place][gone.expert].fill(false);
                        work.left(gone);
                    }
                    Job::Open(slice, gone) => {
                        if let Some(gone) = gone {
                            read[gone.place][gone.expert].fill(false);
                            work.left(gone);
                        }
                        work.ends(slice, 0, Ok(()));
                    }
                    Job::Read(slice, range) if fails == Some(reads) => {
                        reads += 1;
                        work.ends(slice, range.len(), Err(Error::new("expected an expert, found the end")));
                    }
                    Job::Read(slice, range) => {
                        reads += 1;
                        read[slice.place][slice.expert][range.start / STEP..range.end.div_ceil(STEP)].fill(true);
                        work.ends(slice, range.len(), Ok(()));
                    }
                }
            }
            for (place, states) in work.states.iter().enumerate() {
                for (expert, state) in states.iter().enumerate() {
                    let whole =
                        read[place][expert][..work.sizes[place][expert].div_ceil(STEP)].iter().all(|&read| read);
                    assert!(*state != State::There || whole, "{place} {expert} at {step}");
                }
            }
        }
        let failed = fails.is_some_and(|fails| reads > fails);
        assert_eq!(work.failed.is_some(), failed, "a failure is said, and nothing else is");
        let rests = |state: &State| matches!(state, State::Absent | State::There);
        assert!(failed || jobs.is_empty() && work.states.iter().flatten().all(rests));
        let there = work.states.iter().zip(&work.sizes).flat_map(|(states, sizes)| states.iter().zip(sizes));
        let held: usize = there.filter(|(state, _)| **state == State::There).map(|(_, size)| size).sum();
        assert!(failed || work.held == held as u64);
        failed
    }

    #[test]
    fn nothing_is_there_that_was_not_read() {
        let mut random = fastrand::Rng::with_seed(7);
        (0..200).for_each(|_| assert!(!any_order(&mut random, None)));
    }

    #[test]
    fn a_read_that_fails_is_said_and_what_it_was_of_never_runs() {
        let mut random = fastrand::Rng::with_seed(11);
        let failed = (0..10_000).filter(|number| any_order(&mut random, Some(number % 40))).count();
        println!("{failed} reads failed, each was said, none was run");
        assert!(failed > 5_000, "{failed}");
    }
}
