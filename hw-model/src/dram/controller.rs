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
use super::channel::bits;
use super::command::{Command, CommandKind};
use super::config::{Config, PagePolicy};
use super::device::Device;
use super::error::ConfigError;
use super::mapping::AddressMap;
use super::queue::{Entry, Queue};
use super::request::{Request, RequestKind, StreamError, Until};
use super::schedule::{Active, Choice, READS, Slot, State, WRITES};
use super::statistics::Statistics;

/// Sees every command as it goes out, in order. Closures `FnMut(u64, Command)` are observers; `()` looks away at no
/// cost.
pub trait Observer {
    /// `command` goes out in `cycle`.
    fn command(&mut self, cycle: u64, command: Command);
}

impl Observer for () {
    fn command(&mut self, _: u64, _: Command) {}
}

impl<F: FnMut(u64, Command)> Observer for F {
    fn command(&mut self, cycle: u64, command: Command) {
        self(cycle, command);
    }
}

/// One channel with its controller. Keeps its state between runs, so that one stream can follow another.
#[derive(Debug, Clone)]
pub struct Controller<O = ()> {
    pub(super) state: State,
    pub(super) map: AddressMap,
    refresh_interval: u64,
    pub(super) statistics: Statistics,
    t_ck_ps: u64,
    read_latency: u64,
    write_latency: u64,
    split: bool,
    observer: O,
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
        let (refresh_interval, refresh_banks) = super::config::refresh_plan(device, config.refresh);
        Ok(Self {
            state: State::new(device, config, refresh_interval, refresh_banks)?,
            map: AddressMap::new(config.mapping, device)?,
            refresh_interval,
            statistics: Statistics::default(),
            t_ck_ps: u64::from(device.timing.t_ck_ps),
            read_latency: u64::from(device.read_latency()),
            write_latency: u64::from(device.timing.n_cwl + device.timing.n_bl),
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
        self.state.now * self.t_ck_ps
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
            while let Some((not_before, entry)) = &pending
                && self.state.offers_left > 0
                && *not_before <= self.state.now
                && self.offer(entry)
            {
                self.state.offers_left -= 1;
                index += 1;
                pending = self.take(&mut stream, index)?;
            }
            if pending.is_none() && (until == Until::Accepted || self.is_idle()) {
                break;
            }
            self.step(pending.as_ref().map(|(not_before, entry)| (*not_before, entry.is_write)));
        }
        if until == Until::Served && self.state.last_data > self.state.now {
            self.idle_until(self.state.last_data);
        }
        Ok(())
    }

    /// Lets time pass without requests, refreshing meanwhile, up to `cycle`.
    pub fn idle_until(&mut self, cycle: u64) {
        while self.state.now < cycle {
            self.step(Some((cycle, false)));
        }
    }

    /// The next request: when it may be offered, and how the queue wants it.
    #[inline(always)]
    fn take(
        &self,
        stream: &mut impl Iterator<Item = Request>,
        index: u64,
    ) -> Result<Option<(u64, Entry)>, StreamError> {
        let Some(Request { address, kind, not_before }) = stream.next() else { return Ok(None) };
        self.map.check(address).map_err(|error| StreamError { index, error })?;
        Ok(Some((not_before, self.entry(address, kind == RequestKind::Write))))
    }

    /// A request as the queue wants it; age and number come with its acceptance.
    pub(super) fn entry(&self, address: u64, is_write: bool) -> Entry {
        let at = self.map.decode(address);
        Entry { address, arrive: 0, sequence: 0, row: at.row, bank: at.bank, is_write, counted: false }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state.queues.iter().all(Queue::is_empty) && self.state.active_banks == 0 && self.state.activating.is_none()
    }

    /// Takes a request into its queue; false if there is no room.
    pub(super) fn offer(&mut self, request: &Entry) -> bool {
        let bank = request.bank;
        // A write that waits answers a read of its address and swallows a write to it.
        let writes = &self.state.queues[WRITES];
        if !writes.is_empty() && writes.contains(bank, request.address) {
            if request.is_write {
                self.statistics.writes_merged += 1;
            } else {
                self.statistics.reads_forwarded += 1;
                self.statistics.read_latency.record(1);
                self.state.last_data = self.state.last_data.max(self.state.now + 1);
            }
            return true;
        }
        let queue = &mut self.state.queues[usize::from(request.is_write)];
        if queue.is_full() {
            return false;
        }
        let open = (self.state.channel.open >> bank & 1 == 1).then(|| self.state.channel.banks.row[usize::from(bank)]);
        queue.push(Entry { arrive: self.state.now, sequence: self.state.sequence, ..*request }, open);
        self.state.sequence += 1;
        if request.is_write == self.state.write_mode {
            if open.is_some() {
                self.state.touch_open(bank);
            } else {
                self.state.touch_closed(bank);
            }
        }
        true
    }

    /// Goes to the next cycle in which something can happen and lets it happen. `pending` is the request at the head of
    /// the stream: when it may be offered, and whether it is a write.
    pub(super) fn step(&mut self, pending: Option<(u64, bool)>) {
        let mut next = self.state.next_event().min(self.state.next_refresh);
        if let Some((not_before, is_write)) = pending
            && !self.state.queues[usize::from(is_write)].is_full()
        {
            next = next.min(not_before);
        }
        debug_assert_ne!(next, u64::MAX, "nothing can ever happen again");
        self.visit(next.max(self.state.now + 1));
    }

    /// Goes to `cycle` and lets happen what can happen then. Nothing can happen before.
    pub(super) fn visit(&mut self, cycle: u64) {
        self.state.now = cycle;
        self.state.offers_left = self.state.config.offers_per_cycle;
        while self.state.next_refresh <= self.state.now {
            self.state.refreshes_waiting += self.state.channel.ranks.len() as u64;
            self.state.next_refresh += self.refresh_interval;
        }
        if self.split {
            self.tick_split_activate();
        } else if self.state.dual_bus {
            for slot in [Slot::Column, Slot::Row] {
                if let Some(choice) = self.state.pick(slot) {
                    self.issue(choice);
                }
            }
        } else if let Some(choice) = self.state.pick(Slot::Any) {
            self.issue(choice);
        }
    }

    /// One cycle of an LPDDR5 controller: urgent ACT2, burst after CAS, normal choice with CAS in front if needed,
    /// other ACT2.
    fn tick_split_activate(&mut self) {
        if let Some(choice) = self.state.after_cas.take() {
            self.issue(choice);
            return;
        }
        if self.state.activating.is_some() && self.state.channel.act2_deadline <= self.state.now {
            self.issue_act2();
            return;
        }
        let Some(choice) = self.state.pick(Slot::Any) else {
            self.issue_act2();
            return;
        };
        let (Choice::Active(bank) | Choice::Hit(bank)) = choice else {
            self.issue(choice);
            return;
        };
        if self.state.now < self.state.channel.wck_until {
            self.issue(choice);
        } else if self.state.activating.is_some() && self.state.channel.act2_deadline <= self.state.now + 1 {
            self.issue_act2(); // CAS takes two cycles, and the second is the last for ACT2.
            self.state.bounds.active = self.state.now;
            self.state.touch(bank);
        } else {
            self.send(Command::new(CommandKind::Cas, bank));
            self.state.after_cas = Some(choice);
        }
    }

    /// ACT2, if one is due.
    fn issue_act2(&mut self) {
        let Some(entry) = self.state.activating.take() else { return };
        self.send(Command::new(CommandKind::Act2, entry.bank));
        self.row_opened(entry);
    }

    /// Inlined, because callers know the kind.
    #[inline(always)]
    fn send(&mut self, command: Command) {
        debug_assert!(
            self.state.channel.probe(command).is_ok_and(|earliest| earliest <= self.state.now),
            "{command} at {}",
            self.state.now
        );
        self.state.channel.apply(command, self.state.now);
        self.statistics.commands.count(command.kind);
        self.observer.command(self.state.now, command);
    }

    fn issue(&mut self, choice: Choice) {
        match choice {
            Choice::Active(bank) => {
                let Some(active) = self.state.active[usize::from(bank)].take() else { return };
                self.state.active_banks &= !(1 << bank);
                self.burst(active.entry);
            }
            Choice::Hit(bank) => {
                let row = self.state.channel.banks.row[usize::from(bank)];
                let entry = self.state.queues[usize::from(self.state.write_mode)].remove_hit(bank, row);
                if !entry.counted {
                    self.statistics.row_hits += 1;
                }
                self.burst(entry);
            }
            Choice::Activate(bank) => self.activate(bank),
            Choice::Precharge(bank) => {
                let entry = self.state.queues[usize::from(self.state.write_mode)].miss(bank);
                if !entry.counted {
                    self.statistics.row_conflicts += 1;
                    entry.counted = true;
                }
                self.send(Command::new(CommandKind::Pre, bank));
                self.row_closed(bank);
            }
            Choice::Refresh(kind, bank) => self.issue_refresh(Command::new(kind, bank)),
        }
    }

    /// ACT for the oldest request of a closed bank.
    fn activate(&mut self, bank: u16) {
        let mut entry = self.state.queues[usize::from(self.state.write_mode)].remove_miss(bank);
        if !entry.counted {
            self.statistics.row_misses += 1;
            entry.counted = true;
        }
        self.send(Command::act(bank, entry.row));
        if self.split {
            self.row_closed(bank);
            self.state.activating = Some(entry);
        } else {
            self.row_opened(entry);
        }
    }

    fn issue_refresh(&mut self, command: Command) {
        let open = self.state.channel.open;
        self.send(command);
        if matches!(command.kind, CommandKind::RefAll | CommandKind::RefBank) {
            self.state.refreshes_waiting -= 1;
            self.state.refresh_turn += 1;
        }
        for bank in bits(open & !self.state.channel.open) {
            self.row_closed(bank as u16);
        }
        if command.kind == CommandKind::RefBank {
            // The bounds were found without these banks.
            for bank in bits(self.state.channel.refresh_mask(command.bank)) {
                self.state.touch(bank as u16);
            }
        }
    }

    /// The row of `entry` is open: it waits for its burst, and others of the bank may hit.
    fn row_opened(&mut self, entry: Entry) {
        let bank = usize::from(entry.bank);
        self.state.active[bank] = Some(Active { entry, order: self.state.activations });
        self.state.activations += 1;
        self.state.active_banks |= 1 << entry.bank;
        for queue in &mut self.state.queues {
            queue.row_changed(entry.bank, Some(entry.row));
        }
        self.state.touch_open(entry.bank);
        self.state.bounds.active = self.state.bounds.active.min(self.state.column_ready(bank, entry.is_write));
    }

    fn row_closed(&mut self, bank: u16) {
        for queue in &mut self.state.queues {
            queue.row_changed(bank, None);
        }
        self.state.touch_closed(bank);
    }

    /// RD or WR for `entry`, closing the row at once if that is the policy and nobody hits it.
    fn burst(&mut self, entry: Entry) {
        let bank = entry.bank;
        let wanted =
            (self.state.queues[READS].hits | self.state.queues[WRITES].hits | self.state.active_banks) >> bank & 1 == 1;
        let close = self.state.config.page_policy == PagePolicy::Closed && !wanted;
        let kind = match (entry.is_write, close) {
            (false, false) => CommandKind::Rd,
            (false, true) => CommandKind::RdA,
            (true, false) => CommandKind::Wr,
            (true, true) => CommandKind::WrA,
        };
        self.send(Command::new(kind, bank));
        if close {
            self.row_closed(bank);
        } else {
            self.state.touch_open(bank);
        }
        if entry.is_write {
            self.statistics.writes_served += 1;
            self.state.last_data = self.state.last_data.max(self.state.now + self.write_latency);
        } else {
            let end = self.state.now + self.read_latency;
            self.statistics.reads_served += 1;
            self.statistics.read_latency.record(end - entry.arrive);
            self.state.last_data = self.state.last_data.max(end);
        }
    }
}
