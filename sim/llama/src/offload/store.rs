//! Experts in bounded memory: which are there, which are on their way, and the threads that read them.
//!
//! What is waited for is read before what is fetched ahead, and a read that has begun is not broken off. An expert's
//! matrices are read one by one, in the order in which llama.cpp multiplies with them, so that it can go on with the
//! first while the others are still being read.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cptr_trace::error::{Error, Result};

use crate::ffi::pages::Pages;

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
    /// A thread reads it; `kept` is false where it was given up since.
    Reading {
        kept: bool,
    },
    There,
    /// Its memory is to be given back; `kept` is true where it has been asked for again since.
    Leaving {
        kept: bool,
    },
}

/// What all threads share.
struct Shared {
    pages: Pages,
    work: Mutex<Work>,
    /// There is something to read, or nothing ever again.
    asked: Condvar,
    /// Something has been read, or has failed.
    read: Condvar,
}

struct Work {
    /// Given back before anything is read.
    leaving: VecDeque<Slice>,
    demands: VecDeque<Slice>,
    ahead: VecDeque<Slice>,
    /// By tensor and expert.
    states: Vec<Vec<State>>,
    failed: Option<Error>,
    ended: bool,
    bytes: u64,
    held: u64,
    most_held: u64,
}

impl Work {
    /// One that is to leave is asked for again: it is still there, or a thread is about to free it.
    fn keep(&mut self, slice: Slice) {
        let before = self.leaving.len();
        self.leaving.retain(|other| *other != slice);
        self.states[slice.place][slice.expert] =
            if self.leaving.len() < before { State::There } else { State::Leaving { kept: true } };
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

    /// Reads what is asked for until there is nothing ever again.
    fn serve(&self) {
        let mut work = self.work();
        loop {
            // What goes makes room first, and where something comes, for that.
            let comes = !work.demands.is_empty() || !work.ahead.is_empty();
            let gone = work.leaving.pop_front();
            if let Some(slice) = gone.filter(|_| !comes || work.ended) {
                drop(work);
                self.pages.give_back(slice.place, slice.expert);
                work = self.left(slice);
                continue;
            }
            let next = work.demands.pop_front().or_else(|| work.ahead.pop_front());
            let Some(slice) = next.filter(|_| !work.ended) else {
                if work.ended {
                    return;
                }
                work = self.asked.wait(work).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Slice { place, expert } = slice;
            work.states[place][expert] = State::Reading { kept: true };
            let bytes = self.pages.bytes(place, expert) as u64;
            work.held += bytes;
            work.most_held = work.most_held.max(work.held);
            drop(work);
            if let Some(gone) = gone {
                if !self.pages.hand_on((gone.place, gone.expert), (place, expert)) {
                    self.pages.give_back(gone.place, gone.expert);
                }
                drop(self.left(gone));
            }
            let outcome = self.pages.load(place, expert);
            work = self.work();
            let kept = work.states[place][expert] == State::Reading { kept: true };
            match outcome {
                Ok(()) => work.bytes += bytes,
                Err(error) => _ = work.failed.get_or_insert(error),
            }
            if kept && work.failed.is_none() {
                work.states[place][expert] = State::There;
            } else {
                self.pages.give_back(place, expert);
                work.held -= bytes;
                work.states[place][expert] = State::Absent;
            }
            self.read.notify_all();
        }
    }
}

impl Shared {
    /// The memory of one that was to leave is no longer its own.
    fn left(&self, slice: Slice) -> MutexGuard<'_, Work> {
        let Slice { place, expert } = slice;
        let mut work = self.work();
        work.held -= self.pages.bytes(place, expert) as u64;
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
        let work = Work {
            leaving: VecDeque::new(),
            demands: VecDeque::new(),
            ahead: VecDeque::new(),
            states,
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
                match work.states[place][slice.expert] {
                    State::There | State::Reading { kept: true } | State::Leaving { kept: true } => continue,
                    State::Reading { kept: false } => {
                        work.states[place][slice.expert] = State::Reading { kept: true };
                        continue;
                    }
                    State::Leaving { kept: false } => {
                        work.keep(slice);
                        continue;
                    }
                    State::Asked => work.ahead.retain(|other| *other != slice),
                    State::Absent => {}
                }
                if !work.demands.contains(&slice) {
                    work.demands.push_back(slice);
                }
                work.states[place][slice.expert] = State::Asked;
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
            match work.states[place][slice.expert] {
                State::There | State::Reading { kept: true } | State::Leaving { kept: true } | State::Asked => {}
                State::Leaving { kept: false } => work.keep(slice),
                State::Reading { kept: false } => work.states[place][slice.expert] = State::Reading { kept: true },
                State::Absent => {
                    work.states[place][slice.expert] = State::Asked;
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
            match work.states[place][slice.expert] {
                State::Absent | State::Reading { kept: false } | State::Leaving { kept: false } => {}
                State::Leaving { kept: true } => work.states[place][slice.expert] = State::Leaving { kept: false },
                State::Asked => {
                    work.ahead.retain(|other| *other != slice);
                    work.demands.retain(|other| *other != slice);
                    work.states[place][slice.expert] = State::Absent;
                }
                State::Reading { kept: true } => work.states[place][slice.expert] = State::Reading { kept: false },
                State::There => {
                    work.states[place][slice.expert] = State::Leaving { kept: false };
                    work.leaving.push_back(slice);
                }
            }
        }
        drop(work);
        self.shared.asked.notify_one();
    }

    /// Whether experts' matrices of one part of a layer are all there.
    pub(crate) fn there(&self, layer: usize, part: usize, experts: &[u16]) -> bool {
        self.are_there(&self.shared.work(), layer, part, experts)
    }

    fn are_there(&self, work: &Work, layer: usize, part: usize, experts: &[u16]) -> bool {
        let states = &work.states[self.layers[layer][part]];
        experts.iter().all(|&expert| states[usize::from(expert)] == State::There)
    }

    /// Waits until experts' matrices of one part of a layer are there, and says how long that took.
    ///
    /// # Errors
    /// A read that failed: what is there is not to be run.
    pub(crate) fn wait(&self, layer: usize, part: usize, experts: &[u16]) -> Result<Duration> {
        let mut work = self.shared.work();
        let mut start = None;
        loop {
            if let Some(error) = &work.failed {
                return Err(error.clone());
            }
            if self.are_there(&work, layer, part, experts) {
                return Ok(start.map_or(Duration::ZERO, |start: Instant| start.elapsed()));
            }
            start.get_or_insert_with(Instant::now);
            work = self.shared.read.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
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
