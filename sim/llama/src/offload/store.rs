//! Experts in bounded memory: which are there, which are on their way, and the threads that read them.
//!
//! Matrices are read in order, each in pieces that all threads share: what is waited for before what is fetched ahead,
//! and of that all experts' first matrices before any second one, so that llama.cpp can go on with the first while the
//! others are still being read. A fetch makes way for what is waited for, and is broken off where it is given up: no
//! more of it is read than the pieces that are under way.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cptr_trace::error::{Error, Result};

use crate::ffi::pages::Pages;

/// Bytes of a read at most. A demand waits for the reads of a fetch that are under way, so that they should not be
/// long; smaller ones take more of the processor's time.
const PIECE: usize = 512 << 10;
/// Pieces are multiples of this, and so whole pages of any system.
const STEP: usize = 64 << 10;

/// One expert's part of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slice {
    place: usize,
    expert: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
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
struct Reading {
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
enum Job {
    /// Gives the memory of a slice back.
    GiveBack(Slice),
    /// Hands the memory of one that goes, if there is one, on to a slice that comes.
    Open(Slice, Option<Slice>),
    /// Reads these bytes of a slice.
    Read(Slice, Range<usize>),
}

/// What all threads share.
struct Shared {
    pages: Pages,
    work: Mutex<Work>,
    /// There is something to do, or nothing ever again.
    asked: Condvar,
    /// What is waited for has been read, or has failed.
    read: Condvar,
}

struct Work {
    /// Given back before anything is read, with the bytes of each that have been read.
    leaving: VecDeque<(Slice, usize)>,
    demands: VecDeque<Slice>,
    ahead: VecDeque<Slice>,
    reading: Vec<Reading>,
    /// By tensor and expert; bytes in memory.
    sizes: Vec<Vec<usize>>,
    states: Vec<Vec<State>>,
    /// What computing waits for.
    awaited: Vec<Slice>,
    failed: Option<Error>,
    ended: bool,
    bytes: u64,
    held: u64,
    most_held: u64,
}

impl Work {
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

    /// What to do next, the most urgent first.
    fn next(&mut self) -> Option<Job> {
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
    fn ends(&mut self, slice: Slice, bytes: usize, outcome: Result<()>) -> bool {
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
            self.leaving.push_back((slice, done));
        }
    }
}

/// Experts of all layers.
pub(crate) struct Store {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Tensors of each layer, in the order of their use.
    layers: Vec<Vec<usize>>,
}

/// What has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Bytes.
    pub(crate) bytes: u64,
    /// Most bytes of experts that were in memory at a time, those on their way included.
    pub(crate) most_held: u64,
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is asked for until there is nothing ever again.
    fn serve(&self) {
        let mut work = self.work();
        while !work.ended {
            let Some(job) = work.next() else {
                work = self.asked.wait(work).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            match job {
                Job::GiveBack(slice) => {
                    drop(work);
                    self.pages.give_back(slice.place, slice.expert);
                    work = self.left(slice);
                }
                Job::Open(slice, gone) => {
                    drop(work);
                    if let Some(gone) = gone {
                        if !self.pages.hand_on((gone.place, gone.expert), (slice.place, slice.expert)) {
                            self.pages.give_back(gone.place, gone.expert);
                        }
                        drop(self.left(gone));
                    }
                    work = self.ended(slice, 0, Ok(()));
                }
                Job::Read(slice, range) => {
                    drop(work);
                    let bytes = range.len();
                    let outcome = self.pages.load(slice.place, slice.expert, range);
                    work = self.ended(slice, bytes, outcome);
                }
            }
        }
    }

    /// See [`Work::ends`]; wakes who waits for it.
    fn ended(&self, slice: Slice, bytes: usize, outcome: Result<()>) -> MutexGuard<'_, Work> {
        let mut work = self.work();
        let complete = work.ends(slice, bytes, outcome);
        if work.awaited.is_empty() || work.failed.is_some() {
            self.read.notify_all();
        }
        // What has been opened may be read now, and so may what was held back.
        if complete || bytes == 0 {
            self.asked.notify_one();
        }
        work
    }
}

impl Shared {
    /// The memory of one that was to leave is no longer its own.
    fn left(&self, slice: Slice) -> MutexGuard<'_, Work> {
        let Slice { place, expert } = slice;
        let mut work = self.work();
        work.held -= work.sizes[place][expert] as u64;
        if work.states[place][expert] == (State::Leaving { kept: true }) {
            work.states[place][expert] = State::Asked;
            work.demands.push_front(slice);
            self.asked.notify_one();
        } else {
            work.states[place][expert] = State::Absent;
        }
        self.read.notify_all();
        work
    }
}

impl Store {
    /// Nothing is there. `layers` are the tensors of each layer, as indices into the places of `pages`.
    pub(crate) fn new(pages: Pages, layers: Vec<Vec<usize>>, threads: usize) -> Self {
        let states = pages.places().iter().map(|place| vec![State::Absent; place.experts]).collect();
        let of = |place: usize| (0..pages.places()[place].experts).map(|expert| pages.bytes(place, expert)).collect();
        let sizes = (0..pages.places().len()).map(of).collect();
        let work = Work {
            leaving: VecDeque::new(),
            demands: VecDeque::new(),
            ahead: VecDeque::new(),
            reading: Vec::new(),
            sizes,
            states,
            awaited: Vec::new(),
            failed: None,
            ended: false,
            bytes: 0,
            held: 0,
            most_held: 0,
        };
        let (asked, read) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { pages, work: Mutex::new(work), asked, read });
        let thread = |_| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.serve())
        };
        Self { threads: (0..threads).map(thread).collect(), shared, layers }
    }

    /// Tensors of a layer.
    pub(crate) fn parts(&self, layer: usize) -> usize {
        self.layers[layer].len()
    }

    /// Has experts of a layer read before anything else, and says how many of them were not there.
    pub(crate) fn demand(&self, layer: usize, experts: &[u16]) -> usize {
        let mut work = self.shared.work();
        let mut missing = 0;
        let there = |work: &Work, expert: usize| {
            self.layers[layer].iter().all(|&place| work.states[place][expert] == State::There)
        };
        for &expert in experts {
            missing += usize::from(!there(&work, expert.into()));
        }
        if missing == 0 {
            return 0;
        }
        // All experts' first matrices come before any second one.
        for &place in &self.layers[layer] {
            for &expert in experts {
                let slice = Slice { place, expert: expert.into() };
                match *work.state(slice) {
                    State::There | State::Leaving { kept: true } => continue,
                    State::Reading => {
                        work.wants(slice, true);
                        continue;
                    }
                    State::Leaving { kept: false } => {
                        work.keep(slice, true);
                        continue;
                    }
                    State::Asked => work.ahead.retain(|other| *other != slice),
                    State::Absent => {}
                }
                if !work.demands.contains(&slice) {
                    work.demands.push_back(slice);
                }
                *work.state(slice) = State::Asked;
            }
        }
        drop(work);
        self.shared.asked.notify_all();
        missing
    }

    /// Has an expert read when nothing is waited for.
    pub(crate) fn fetch(&self, layer: usize, expert: u16) {
        let mut work = self.shared.work();
        for &place in &self.layers[layer] {
            let slice = Slice { place, expert: expert.into() };
            match *work.state(slice) {
                State::There | State::Leaving { kept: true } | State::Asked => {}
                State::Leaving { kept: false } => work.keep(slice, false),
                State::Reading => work.wants(slice, false),
                State::Absent => {
                    *work.state(slice) = State::Asked;
                    work.ahead.push_back(slice);
                }
            }
        }
        drop(work);
        self.shared.asked.notify_one();
    }

    /// Gives an expert's memory back, at once or when the read that is under way has ended.
    pub(crate) fn evict(&self, layer: usize, expert: u16) {
        let mut work = self.shared.work();
        for &place in &self.layers[layer] {
            let slice = Slice { place, expert: expert.into() };
            match *work.state(slice) {
                State::Absent | State::Leaving { kept: false } => {}
                State::Leaving { kept: true } => *work.state(slice) = State::Leaving { kept: false },
                State::Asked => {
                    work.ahead.retain(|other| *other != slice);
                    work.demands.retain(|other| *other != slice);
                    *work.state(slice) = State::Absent;
                }
                State::Reading => {
                    if let Some(reading) = work.reading(slice) {
                        (reading.kept, reading.wanted) = (false, false);
                    }
                    work.let_go(slice);
                }
                State::There => {
                    *work.state(slice) = State::Leaving { kept: false };
                    let bytes = work.sizes[place][slice.expert];
                    work.leaving.push_back((slice, bytes));
                }
            }
        }
        drop(work);
        self.shared.asked.notify_one();
    }

    /// Whether experts' matrices of one part of a layer are all there.
    pub(crate) fn there(&self, layer: usize, part: usize, experts: &[u16]) -> bool {
        let work = self.shared.work();
        let states = &work.states[self.layers[layer][part]];
        experts.iter().all(|&expert| states[usize::from(expert)] == State::There)
    }

    /// Waits until experts' matrices of one part of a layer are there, which were asked for, and says how long that
    /// took.
    ///
    /// # Errors
    /// A read that failed: what is there is not to be run.
    pub(crate) fn wait(&self, layer: usize, part: usize, experts: &[u16]) -> Result<Duration> {
        let mut work = self.shared.work();
        let place = self.layers[layer][part];
        let slices = experts.iter().map(|&expert| Slice { place, expert: expert.into() });
        let missing = slices.filter(|slice| work.states[place][slice.expert] != State::There).collect();
        work.awaited = missing;
        let start = (!work.awaited.is_empty()).then(Instant::now);
        while !work.awaited.is_empty() && work.failed.is_none() {
            work = self.shared.read.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        work.failed.clone().map_or(Ok(start.map_or(Duration::ZERO, |start| start.elapsed())), Err)
    }

    /// Waits until nothing is asked for or read.
    ///
    /// # Errors
    /// A read that failed.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut work = self.shared.work();
        let busy = |work: &Work| {
            let pending = |state: &State| !matches!(state, State::Absent | State::There);
            work.failed.is_none() && work.states.iter().flatten().any(pending)
        };
        while busy(&work) {
            work = self.shared.read.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        work.failed.clone().map_or(Ok(()), Err)
    }

    /// Gives all memory back, and counts from nothing again.
    ///
    /// # Errors
    /// A read that failed.
    pub(crate) fn clear(&self) -> Result<()> {
        for layer in 0..self.layers.len() {
            let experts = self.layers[layer].first().map_or(0, |&place| self.shared.pages.places()[place].experts);
            (0..experts).for_each(|expert| self.evict(layer, expert as u16));
        }
        self.settle()?;
        let mut work = self.shared.work();
        (work.bytes, work.most_held) = (0, work.held);
        Ok(())
    }

    /// What has been read since [`Self::clear`].
    pub(crate) fn traffic(&self) -> Traffic {
        let work = self.shared.work();
        Traffic { bytes: work.bytes, most_held: work.most_held + self.shared.pages.shared() }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.work().ended = true;
        self.shared.asked.notify_all();
        for thread in self.threads.drain(..) {
            // One that has panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}
