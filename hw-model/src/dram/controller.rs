//! The memory controller of one channel: FR-FCFS, event-driven and exact to the cycle.
//!
//! Order in each cycle, as in Ramulator 2.1 (commit c5b1c3a), whose cycle counts this controller reproduces:
//! 1. a request for which a row was opened (at most one a bank), oldest first among the ready ones;
//! 2. a waiting refresh: it closes the open banks it needs, then refreshes;
//! 3. the read queue (or, in write mode, the write queue): ready commands first, then the oldest; a row stays open
//!    while a request no younger than the one that wants another row still hits it. While an all-bank refresh waits,
//!    nothing of the queue goes out; while a bank-wise one waits, nothing for its banks does, and no activate that
//!    would delay it.
//!
//! One command a cycle (HBM: one on the row bus, one on the column bus). A request leaves its queue when its ACT or its
//! RD/WR goes out. LPDDR5: ACT2 goes out when nothing else can, at the latest nAAD after ACT1, and no other ACT1 comes
//! between.
//!
//! Between two cycles in which something can happen the controller jumps. Memory does not depend on the length of the
//! stream.
use super::command::Command;
use super::config::Config;
use super::device::{Device, MAX_BANKS};
use super::error::ConfigError;
use super::mapping::AddressMap;
use super::queue::{Entry, PRIORITY_SHIFT, Queue};
use super::request::{Request, RequestKind, StreamError, Until};
use super::schedule::{State, UNKNOWN, WRITES};
use super::statistics::{Part, SourceStatistics, Statistics};

/// Sees what a controller does, in order. Closures `FnMut(u64, Command)` are observers of the commands; `()` looks away
/// at no cost.
pub trait Observer {
    /// `command` goes out in `cycle`.
    fn command(&mut self, cycle: u64, command: Command);

    /// A request is served: its last data goes over the bus in a later cycle, which is known now. Reads come in order
    /// of that cycle, writes too, and what the write queue answers as well.
    fn served(&mut self, _: Served) {}
}

impl Observer for () {
    fn command(&mut self, _: u64, _: Command) {}
}

impl<F: FnMut(u64, Command)> Observer for F {
    fn command(&mut self, cycle: u64, command: Command) {
        self(cycle, command);
    }
}

/// A request that was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Running number of the request on its channel, in order of acceptance.
    pub number: u64,
    /// Who asked.
    pub source: u8,
    /// Write or read.
    pub is_write: bool,
    /// End of its data.
    pub cycle: u64,
    /// Cycles from acceptance to that.
    pub latency: u64,
}

/// Why a request was not taken now. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    /// Its queue is full, until a command goes out.
    Queue,
    /// As many as one cycle may bring have been taken in this one.
    Cycle,
}

/// One channel with its controller. Keeps its state between runs, so that one stream can follow another.
#[derive(Debug, Clone)]
pub struct Controller<O = ()> {
    pub(super) state: State,
    pub(super) map: AddressMap,
    pub(super) refresh_interval: u64,
    pub(super) statistics: Statistics,
    /// The same for each source; empty where there is one.
    pub(super) by_source: Vec<SourceStatistics>,
    /// The source that the open row of a bank was opened for, where there are several.
    pub(super) opened_by: [u8; MAX_BANKS as usize],
    /// Priority of each source, at its place above running numbers and cycles.
    pub(super) priorities: Vec<u64>,
    t_ck_ps: u64,
    cycles_per_clock: u64,
    pub(super) read_latency: u64,
    pub(super) write_latency: u64,
    pub(super) split: bool,
    pub(super) observer: O,
}

impl Controller {
    /// A controller for one channel of `device`, idle at cycle 0.
    ///
    /// # Errors
    /// An impossible device or configuration: the field, the value and the rule.
    pub fn new(device: &Device, config: Config) -> Result<Self, ConfigError> {
        Self::with_observer(device, config, ())
    }
}

impl<O: Observer> Controller<O> {
    /// As [`Controller::new`], with an observer that sees every command.
    pub fn with_observer(device: &Device, config: Config, observer: O) -> Result<Self, ConfigError> {
        config.validate(device)?;
        let cycles = device.in_cycles();
        let (refresh_interval, refresh_banks) = super::config::refresh_plan(&cycles, config.refresh);
        Ok(Self {
            state: State::new(device, config, refresh_interval, refresh_banks)?,
            map: AddressMap::new(config.mapping, device)?,
            refresh_interval,
            statistics: Statistics::default(),
            by_source: Vec::new(),
            opened_by: [0; MAX_BANKS as usize],
            priorities: vec![0],
            t_ck_ps: u64::from(device.timing.t_ck_ps),
            cycles_per_clock: u64::from(device.cycles_per_clock()),
            read_latency: u64::from(cycles.read_latency()),
            write_latency: u64::from(cycles.timing.n_cwl + cycles.timing.n_bl),
            split: device.split_activate.is_some(),
            observer,
        })
    }

    /// Current cycle: that of the last acceptance after [`Until::Accepted`], the end of the last data after
    /// [`Until::Served`].
    pub const fn cycle(&self) -> u64 {
        self.state.now
    }

    /// Current time in picoseconds.
    pub const fn time_ps(&self) -> u64 {
        self.state.now * self.t_ck_ps / self.cycles_per_clock
    }

    /// All counts since the start.
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The mapping in use.
    pub const fn mapping(&self) -> &AddressMap {
        &self.map
    }

    /// Rate of the data served so far in GB/s (10^9 bytes), over all cycles since the start.
    pub fn bandwidth_gb_s(&self) -> f64 {
        let served = self.statistics.reads_served + self.statistics.writes_served;
        if self.state.now == 0 {
            return 0.0;
        }
        (served * self.map.access_bytes()) as f64 / self.time_ps() as f64 * 1e3
    }

    /// Serves `stream` in order of acceptance, beginning in the current cycle.
    ///
    /// # Errors
    /// An address that is unaligned or outside the channel; the requests before it have been accepted.
    pub fn run(&mut self, stream: impl IntoIterator<Item = Request>, until: Until) -> Result<(), StreamError> {
        let mut stream = stream.into_iter();
        let mut index = 0;
        let mut pending = self.take(&mut stream, index)?;
        loop {
            let mut retry = u64::MAX;
            while let Some((not_before, entry)) = &pending {
                if *not_before > self.state.now {
                    retry = *not_before;
                    break;
                }
                if let Err(busy) = self.accept(entry) {
                    retry = self.retry(busy);
                    break;
                }
                index += 1;
                pending = self.take(&mut stream, index)?;
            }
            if pending.is_none() && (until == Until::Accepted || self.is_idle()) {
                break;
            }
            let wake = self.wake();
            if wake <= retry {
                self.visit(wake);
            } else {
                self.advance(retry);
            }
        }
        if until == Until::Served {
            self.advance(self.state.last_data);
        }
        self.count_open();
        Ok(())
    }

    /// Lets time pass without requests, refreshing meanwhile, up to `cycle`.
    pub fn idle_until(&mut self, cycle: u64) {
        self.advance(cycle);
        self.count_open();
    }

    /// Counts the time of open rows up to now.
    pub(super) fn count_open(&mut self) {
        self.statistics.open_cycles += self.state.channel.open_cycles(self.state.now);
        self.state.channel.start_count(self.state.now);
    }

    /// Takes the counts up to now and starts again from nothing.
    pub(super) fn take_counts(&mut self) -> Part {
        self.count_open();
        self.statistics.take()
    }

    /// All counts up to now.
    pub(super) fn counts(&self) -> Statistics {
        let open_cycles = self.statistics.open_cycles + self.state.channel.open_cycles(self.state.now);
        Statistics { open_cycles, ..self.statistics.clone() }
    }

    /// First later cycle in which something of what is known can happen; `u64::MAX` if nothing ever will.
    #[inline(always)]
    pub(super) fn wake(&mut self) -> u64 {
        if self.state.wake == UNKNOWN {
            self.state.wake = self.state.next_event().min(self.state.next_refresh).max(self.state.now + 1);
        }
        self.state.wake
    }

    /// When to offer a request again that was not taken.
    pub(super) const fn retry(&self, busy: Busy) -> u64 {
        match busy {
            Busy::Cycle => self.state.now + 1,
            Busy::Queue => u64::MAX, // When something happens.
        }
    }

    /// Goes to cycle `to` and lets happen what happens up to then, that cycle included. The one way in which time
    /// passes: cycles in which nothing can happen are not visited. Does nothing if `to` is not ahead.
    #[inline(always)]
    pub(super) fn advance(&mut self, to: u64) {
        loop {
            let next = self.wake();
            if next > to {
                break;
            }
            self.visit(next);
            if next == to {
                return; // What comes next lies ahead: no need to know when.
            }
        }
        if self.state.now < to {
            self.state.now = to;
            self.state.offers_left = self.state.config.offers_per_cycle;
        }
    }

    /// The next request: when it may be offered, and how the queue wants it.
    #[inline(always)]
    fn take(
        &self,
        stream: &mut impl Iterator<Item = Request>,
        index: u64,
    ) -> Result<Option<(u64, Entry)>, StreamError> {
        let Some(Request { address, kind, not_before, .. }) = stream.next() else { return Ok(None) };
        self.map.check(address).map_err(|error| StreamError { index, error })?;
        Ok(Some((not_before, self.entry(address, kind == RequestKind::Write, 0))))
    }

    /// A request as the queue wants it; age and number come with its acceptance.
    #[inline(always)]
    pub(super) fn entry(&self, address: u64, is_write: bool, source: u8) -> Entry {
        let at = self.map.decode(address);
        Entry { address, row: at.row, bank: at.bank, source, ..Entry::EMPTY }.of_kind(is_write, false)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state.queues.iter().all(Queue::is_empty)
            && self.state.active_banks.iter().all(|&banks| banks == 0)
            && self.state.activating.is_none()
    }

    /// Takes a request into its queue in the current cycle; its running number.
    ///
    /// A write that waits answers a read of its address and swallows a write to it, in the next cycle.
    #[inline(always)]
    pub(super) fn accept(&mut self, request: &Entry) -> Result<u64, Busy> {
        let bank = request.bank;
        let writes = &self.state.queues[WRITES];
        let answered = !writes.is_empty() && writes.contains(bank, request.address);
        let queue = &mut self.state.queues[usize::from(request.is_write())];
        if !answered && queue.is_full() {
            return Err(Busy::Queue);
        }
        if self.state.offers_left == 0 {
            return Err(Busy::Cycle);
        }
        self.state.offers_left -= 1;
        let number = self.state.sequence;
        self.state.sequence += 1;
        if answered {
            self.answer(request, number);
            return Ok(number);
        }
        let open = self.state.channel.is_open(bank).then(|| self.state.channel.banks.row[usize::from(bank)]);
        let priority = self.priorities[usize::from(request.source)];
        queue.push(Entry { arrive: priority | self.state.now, sequence: priority | number, ..*request }, open);
        if request.is_write() == self.state.write_mode {
            if open.is_some() {
                self.state.touch_open(bank);
            } else {
                self.state.touch_closed(bank);
            }
        }
        self.state.wake = UNKNOWN;
        Ok(number)
    }

    /// What the write queue does at once: in the next cycle it is done.
    fn answer(&mut self, request: &Entry, number: u64) {
        let of = self.by_source.get_mut(usize::from(request.source));
        if request.is_write() {
            self.statistics.writes_merged += 1;
            if let Some(of) = of {
                of.writes_merged += 1;
            }
        } else {
            self.statistics.reads_forwarded += 1;
            self.statistics.read_latency.record(1);
            self.state.last_data = self.state.last_data.max(self.state.now + 1);
            if let Some(of) = of {
                of.reads_forwarded += 1;
                of.read_latency.record(1);
            }
        }
        let (source, is_write, cycle) = (request.source, request.is_write(), self.state.now + 1);
        self.observer.served(Served { number, source, is_write, cycle, latency: 1 });
    }

    /// Several sources with a priority each, in place of the one that there is at first. Only before anything is
    /// offered.
    pub(super) fn set_sources(&mut self, priorities: &[u8]) {
        self.priorities = priorities.iter().map(|&priority| u64::from(priority) << PRIORITY_SHIFT).collect();
        let several = if priorities.len() > 1 { priorities.len() } else { 0 };
        self.by_source = vec![SourceStatistics::default(); several];
    }
}
