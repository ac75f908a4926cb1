//! Experts in bounded memory, and the threads that read or copy them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cptr_trace::error::Result;

use super::link::{Link, wait_until};
use super::work::{Job, Slice, State, Work};
use crate::ffi::pages::Pages;

/// What all threads share.
struct Shared {
    pages: Pages,
    /// What reads go over, where that is not as fast as they are.
    link: Option<Link>,
    work: Mutex<Work>,
    /// There is something to do, or nothing ever again.
    asked: Condvar,
    /// What is waited for has been read, or has failed.
    read: Condvar,
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
                    work = self.work();
                    work.left(slice);
                    self.read.notify_all();
                }
                Job::Open(slice, gone) => {
                    drop(work);
                    if let Some(gone) = gone {
                        if !self.pages.hand_on((gone.place, gone.expert), (slice.place, slice.expert)) {
                            self.pages.give_back(gone.place, gone.expert);
                        }
                        self.work().left(gone);
                    }
                    work = self.ended(slice, 0, Ok(()));
                }
                Job::Read(slice, range) => {
                    drop(work);
                    let bytes = range.len();
                    let arrival = self.link.as_ref().map(|link| link.arrival(Instant::now(), bytes));
                    let outcome = self.pages.load(slice.place, slice.expert, range);
                    arrival.into_iter().for_each(wait_until);
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

impl Store {
    /// Nothing is there. `layers` are the tensors of each layer, as indices into the places of `pages`.
    pub(crate) fn new(pages: Pages, link: Option<Link>, layers: Vec<Vec<usize>>, threads: usize) -> Self {
        let of = |place: usize| (0..pages.places()[place].experts).map(|expert| pages.bytes(place, expert)).collect();
        let work = Work::new((0..pages.places().len()).map(of).collect());
        let (asked, read) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { pages, link, work: Mutex::new(work), asked, read });
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
                work.demand(slice);
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
            work.fetch(slice);
        }
        drop(work);
        self.shared.asked.notify_one();
    }

    /// Gives an expert's memory back, at once or when the read that is under way has ended.
    pub(crate) fn evict(&self, layer: usize, expert: u16) {
        let mut work = self.shared.work();
        for &place in &self.layers[layer] {
            let slice = Slice { place, expert: expert.into() };
            work.evict(slice);
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
