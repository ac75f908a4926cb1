//! What goes out in a cycle, and what that means for queues, rows and counts.
use super::channel::{banks_of, spot};
use super::command::{Command, CommandKind};
use super::config::PagePolicy;
use super::controller::{Controller, Observer, Served};
use super::queue::{BELOW_PRIORITY, Entry};
use super::schedule::{Active, Choice, Slot, UNKNOWN};

impl<O: Observer> Controller<O> {
    /// Goes to `cycle` and lets happen what can happen then. Nothing can happen before.
    pub(super) fn visit(&mut self, cycle: u64) {
        self.state.now = cycle;
        self.state.wake = UNKNOWN;
        self.state.offers_left = self.state.config.offers_per_cycle;
        while self.state.next_refresh <= self.state.now {
            self.state.refreshes_waiting += self.state.channel.rank_count as u64;
            self.state.next_refresh += self.refresh_interval;
            if self.state.channel.asking.is_some() {
                self.state.bounds.forget(); // What goes first may be another, and other banks are held for it.
            }
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

    /// One cycle of an LPDDR5 or LPDDR6 controller: burst after CAS, urgent ACT2, normal choice with CAS in front if
    /// needed, other ACT2. The commands are equally long.
    fn tick_split_activate(&mut self) {
        let length = self.state.channel.other_cycles;
        if let Some(choice) = self.state.after_cas {
            if self.state.channel.bus[0] <= self.state.now {
                self.state.after_cas = None;
                self.issue(choice);
            }
            return;
        }
        // The last cycle in which ACT2 may go out comes before another command would be over.
        if self.state.channel.act2_deadline < self.state.now + length && self.issue_act2() {
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
        } else if self.state.channel.act2_deadline < self.state.now + 2 * length && self.issue_act2() {
            // CAS and its burst would have taken the last cycle for ACT2.
            self.state.bounds.active = self.state.now;
            self.state.touch(bank);
        } else {
            self.send(Command::new(CommandKind::Cas, bank));
            self.state.after_cas = Some(choice);
        }
    }

    /// ACT2, if a row is half open and the bus is free.
    fn issue_act2(&mut self) -> bool {
        if self.state.channel.bus[0] > self.state.now {
            return false;
        }
        let Some(entry) = self.state.activating.take() else { return false };
        self.send(Command::new(CommandKind::Act2, entry.bank));
        self.row_opened(entry);
        true
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
                let (word, bit) = spot(bank);
                self.state.active_banks[word] &= !bit;
                self.burst(active.entry);
            }
            Choice::Hit(bank) => {
                let row = self.state.channel.banks.row[usize::from(bank)];
                let entry = self.state.queues[usize::from(self.state.write_mode)].remove_hit(bank, row);
                if !entry.is_counted() {
                    self.statistics.row_hits += 1;
                    if let Some(of) = self.by_source.get_mut(usize::from(entry.source)) {
                        of.row_hits += 1;
                    }
                }
                self.burst(entry);
            }
            Choice::Activate(bank) => self.activate(bank),
            Choice::Precharge(bank) => {
                let entry = self.state.queues[usize::from(self.state.write_mode)].miss(bank);
                if !entry.is_counted() {
                    self.statistics.row_conflicts += 1;
                    entry.set_counted();
                    if let Some(of) = self.by_source.get_mut(usize::from(entry.source)) {
                        of.row_conflicts += 1;
                        of.conflicts_with_others += u64::from(self.opened_by[usize::from(bank)] != entry.source);
                    }
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
        if !entry.is_counted() {
            self.statistics.row_misses += 1;
            entry.set_counted();
            if let Some(of) = self.by_source.get_mut(usize::from(entry.source)) {
                of.row_misses += 1;
            }
        }
        let asked = self.state.channel.asking.is_some();
        self.send(Command::act(bank, entry.row));
        if !asked && self.state.channel.asking.is_some() {
            self.state.refreshes_ahead = self.state.refreshes_waiting;
        }
        if self.split {
            self.row_closed(bank);
            self.state.activating = Some(entry);
        } else {
            self.row_opened(entry);
        }
    }

    fn issue_refresh(&mut self, command: Command) {
        let (word, _) = spot(command.bank);
        let open = self.state.channel.open[word];
        self.send(command);
        if matches!(command.kind, CommandKind::RefAll | CommandKind::RefBank) {
            self.state.refreshes_waiting -= 1;
            self.state.refreshes_ahead = self.state.refreshes_ahead.saturating_sub(1);
            self.state.refresh_turn += 1;
        } else if !command.kind.is_precharge() {
            self.state.refreshes_ahead = self.state.refreshes_waiting; // Who asks now comes behind them.
        }
        for bank in banks_of(word, open & !self.state.channel.open[word]) {
            self.row_closed(bank as u16);
        }
        if self.state.channel.management.is_some() {
            self.state.bounds.forget(); // Other banks are held now.
        } else if command.kind.is_bank_wise() {
            // The bounds were found without these banks.
            for bank in banks_of(word, self.state.channel.refresh_mask(command.bank)) {
                self.state.touch(bank as u16);
            }
        }
    }

    /// The row of `entry` is open: it waits for its burst, and others of the bank may hit.
    fn row_opened(&mut self, entry: Entry) {
        let bank = usize::from(entry.bank);
        if !self.by_source.is_empty() {
            self.opened_by[bank] = entry.source;
        }
        self.state.active[bank] = Some(Active { entry, order: self.state.activations });
        self.state.activations += 1;
        let (word, bit) = spot(entry.bank);
        self.state.active_banks[word] |= bit;
        for queue in &mut self.state.queues {
            queue.row_changed(entry.bank, Some(entry.row));
        }
        self.state.touch_open(entry.bank);
        self.state.bounds.active = self.state.bounds.active.min(self.state.column_ready(bank, entry.is_write()));
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
        let close = self.state.config.page_policy == PagePolicy::Closed && !self.state.is_wanted(bank);
        let kind = match (entry.is_write(), close) {
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
        let end = self.state.now + if entry.is_write() { self.write_latency } else { self.read_latency };
        let latency = end - (entry.arrive & BELOW_PRIORITY);
        self.state.last_data = self.state.last_data.max(end);
        if entry.is_write() {
            self.statistics.writes_served += 1;
        } else {
            self.statistics.reads_served += 1;
            self.statistics.read_latency.record(latency);
        }
        if let Some(of) = self.by_source.get_mut(usize::from(entry.source)) {
            if entry.is_write() {
                of.writes_served += 1;
            } else {
                of.reads_served += 1;
                of.read_latency.record(latency);
            }
        }
        self.observer.served(Served {
            number: entry.sequence & BELOW_PRIORITY,
            source: entry.source,
            is_write: entry.is_write(),
            cycle: end,
            latency,
        });
    }
}
