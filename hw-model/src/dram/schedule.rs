//! Which command goes out next: the arbitration of the controller.
//!
//! The order is that of the module [`super::controller`]. To stay fast, each kind of command has a lower bound of the cycle in which
//! a bank or its group allows one; while the bound lies in the future nothing is looked at. A bound may be too low, never too high:
//! ready times only grow, and whatever gives a bank a new candidate lowers the bound again.
use super::channel::bits;
use super::command::{Command, CommandKind};
use super::config::Refresh;
use super::controller::{Controller, Observer, READS, WRITES};
use super::device::MAX_BANKS;

/// Command buses that a choice may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Any,
    Column,
    Row,
}

/// What goes out next, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Choice {
    /// Data burst of the request that opened the row of this bank.
    Active(u16),
    /// Data burst of the oldest hit in the queue.
    Hit(u16),
    /// ACT for the oldest request of a closed bank.
    Activate(u16),
    /// PRE for the oldest request that wants another row.
    Precharge(u16),
    /// For a refresh: precharge or the refresh itself.
    Refresh(CommandKind, u16),
}

/// A refresh, and what it needs.
struct RefreshTurn {
    rank: usize,
    /// Banks that must be closed, one bit each.
    banks: u64,
    refresh: Command,
    /// What closes them.
    precharge: CommandKind,
}

/// Where a waiting refresh stands.
enum RefreshStep {
    /// This command can go out: a precharge or the refresh itself.
    Ready(Command),
    /// The next command can go out in this cycle.
    At(u64),
    /// A row was opened for a request, which must be served first.
    AfterBursts,
}

/// Banks that the queue must leave alone, one bit each.
#[derive(Clone, Copy)]
struct Held {
    /// No command at all.
    banks: u64,
    /// No activate.
    activates: u64,
}

impl Held {
    const NOTHING: Self = Self { banks: 0, activates: 0 };
}

/// Lower bounds of the first cycle in which bank and group allow a candidate of one rank; `u64::MAX` without any candidate.
#[derive(Debug, Clone, Copy, Default)]
struct RankBounds {
    column: u64,
    precharge: u64,
    activate: u64,
}

/// Lower bounds of the first cycle in which something can be issued.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// For requests whose row was opened for them.
    pub(super) active: u64,
    ranks: Vec<RankBounds>,
}

impl Bounds {
    pub(super) fn new(ranks: usize) -> Self {
        Self { active: 0, ranks: vec![RankBounds::default(); ranks] }
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.active = 0;
        self.ranks.fill(RankBounds::default());
    }
}

impl<O: Observer> Controller<O> {
    /// First later cycle in which something of what is known may go out, not counting refreshes yet to fall due; never too late.
    pub(super) fn next_event(&self) -> u64 {
        let channel = &self.channel;
        let (row_bus, column_bus) = (channel.bus[0], channel.bus[usize::from(self.dual_bus)]);
        if self.activating.is_some() || self.after_cas.is_some() {
            return row_bus;
        }
        if self.write_mode_wanted() != self.write_mode {
            return self.now + 1;
        }
        let mut next = self.bounds.active.max(column_bus);
        if self.refreshes_waiting > 0 {
            next = next.min(match self.refresh_step(&self.refresh_turn()) {
                RefreshStep::Ready(_) => self.now + 1,
                RefreshStep::At(cycle) => cycle,
                RefreshStep::AfterBursts => u64::MAX,
            });
            if self.config.refresh != Refresh::SameBank {
                return next;
            }
        }
        for (rank, bounds) in channel.ranks.iter().zip(&self.bounds.ranks) {
            let column = if self.write_mode { rank.wr } else { rank.rd };
            let column = bounds.column.max(column).max(column_bus);
            let row = bounds.precharge.max(rank.pre).min(bounds.activate.max(rank.act)).max(row_bus);
            next = next.min(column).min(row);
        }
        next
    }

    /// `bank` may have a candidate of the queue that it did not have before.
    pub(super) fn touch(&mut self, bank: u16) {
        let (channel, queue) = (&self.channel, &self.queues[usize::from(self.write_mode)]);
        let bounds = &mut self.bounds.ranks[channel.rank_of(bank)];
        let (banks, at) = (&channel.banks, usize::from(bank));
        let has = |mask: u64| mask >> bank & 1 == 1;
        if has(queue.hits) {
            bounds.column = bounds.column.min(if self.write_mode { banks.wr[at] } else { banks.rd[at] });
        }
        if has(queue.misses & channel.open & !self.active_banks) {
            bounds.precharge = bounds.precharge.min(banks.pre[at]);
        }
        if has(queue.misses & !channel.open) {
            bounds.activate = bounds.activate.min(banks.act[at]);
        }
    }

    pub(super) fn pick(&mut self, slot: Slot) -> Option<Choice> {
        if slot != Slot::Row
            && let Some(choice) = self.pick_active()
        {
            return Some(choice);
        }
        let mut held = Held::NOTHING;
        if self.refreshes_waiting > 0 {
            let turn = self.refresh_turn();
            if let RefreshStep::Ready(command) = self.refresh_step(&turn)
                && slot != Slot::Column
            {
                return Some(Choice::Refresh(command.kind, command.bank));
            }
            if self.config.refresh != Refresh::SameBank {
                return None;
            }
            held = self.held_for(&turn);
        }
        let write_mode = self.write_mode_wanted();
        if write_mode != self.write_mode {
            self.write_mode = write_mode;
            self.bounds.forget();
        }
        self.pick_queued(slot, held)
    }

    /// 1. Requests whose row was opened for them.
    fn pick_active(&mut self) -> Option<Choice> {
        if self.bounds.active > self.now {
            return None;
        }
        let mut best = (u64::MAX, u64::MAX, 0);
        for bank in bits(self.active_banks) {
            let Some(active) = &self.active[bank] else { continue };
            if self.column_ready(bank, active.entry.is_write) <= self.now {
                best = best.min((active.entry.arrive, active.order, bank));
            }
        }
        if best.0 == u64::MAX {
            self.bounds.active = self.next_active();
            return None;
        }
        Some(Choice::Active(best.2 as u16))
    }

    /// First cycle in which a burst of a request is legal whose row was opened for it.
    pub(super) fn next_active(&self) -> u64 {
        let ready = |bank: usize| self.active[bank].map_or(u64::MAX, |at| self.column_ready(bank, at.entry.is_write));
        bits(self.active_banks).map(ready).min().unwrap_or(u64::MAX)
    }

    /// First cycle in which a burst of `bank` is legal, if its row is open.
    pub(super) fn column_ready(&self, bank: usize, is_write: bool) -> u64 {
        let channel = &self.channel;
        let rank = &channel.ranks[channel.rank_of(bank as u16)];
        let bus = channel.bus[usize::from(self.dual_bus)];
        if is_write {
            channel.banks.wr[bank].max(rank.wr).max(bus)
        } else {
            channel.banks.rd[bank].max(rank.rd).max(bus)
        }
    }

    /// 2. The waiting refresh whose turn it is.
    fn refresh_turn(&self) -> RefreshTurn {
        let ranks = self.channel.ranks.len() as u64;
        let rank = (self.refresh_turn % ranks) as usize;
        let first = rank as u16 * (self.channel.bank_count() / ranks as u32) as u16;
        if self.config.refresh != Refresh::SameBank {
            let refresh = Command::new(CommandKind::RefAll, first);
            return RefreshTurn { rank, banks: self.channel.rank_mask(rank), refresh, precharge: CommandKind::PreAll };
        }
        let round = self.refresh_turn / ranks % self.refresh_banks.len() as u64;
        let bank = first + self.refresh_banks[round as usize];
        let refresh = Command::new(CommandKind::RefBank, bank);
        RefreshTurn { rank, banks: self.channel.refresh_mask(bank), refresh, precharge: CommandKind::Pre }
    }

    fn refresh_step(&self, turn: &RefreshTurn) -> RefreshStep {
        if (self.channel.activating | self.active_banks) & turn.banks != 0 {
            return RefreshStep::AfterBursts;
        }
        let open = self.channel.open & turn.banks;
        let command = if open == 0 { turn.refresh } else { Command::new(turn.precharge, open.trailing_zeros() as u16) };
        match self.channel.probe(command) {
            Ok(earliest) if earliest > self.now => RefreshStep::At(earliest),
            Ok(_) => RefreshStep::Ready(command),
            Err(_) => RefreshStep::AfterBursts,
        }
    }

    /// What the queue must leave alone for a bank-wise refresh. An activate of another bank of the rank delays the refresh by
    /// nRRD; where that would be beyond its time the activate waits, or a stream of them could hold the refresh off for ever.
    fn held_for(&self, turn: &RefreshTurn) -> Held {
        let closed = (self.channel.open | self.channel.activating) & turn.banks == 0;
        let ready = if closed { self.channel.probe(turn.refresh).unwrap_or(u64::MAX) } else { u64::MAX };
        let delays = self.now + self.channel.lat.act_other_refpb > ready;
        Held { banks: turn.banks, activates: if delays { self.channel.rank_mask(turn.rank) } else { 0 } }
    }

    /// Writes are served in batches: from 80 % of the queue down to 20 %, or while there is nothing to read.
    fn write_mode_wanted(&self) -> bool {
        let (waiting, depth) = (self.queues[WRITES].len() * 10, u32::from(self.config.queue_depth));
        let enough = if self.write_mode { waiting >= 2 * depth } else { waiting > 8 * depth };
        enough || self.queues[READS].is_empty()
    }

    /// 3. The oldest ready command of the queue.
    fn pick_queued(&mut self, slot: Slot, held: Held) -> Option<Choice> {
        let (channel, queue) = (&self.channel, &self.queues[usize::from(self.write_mode)]);
        let (row_bus, column_bus) = (channel.bus[0], channel.bus[usize::from(self.dual_bus)]);
        let mut scan = Scan { now: self.now, age: u64::MAX, choice: Choice::Hit(0), rest: 0 };
        for (index, (rank, bounds)) in channel.ranks.iter().zip(&mut self.bounds.ranks).enumerate() {
            let banks = channel.rank_mask(index) & !held.banks;
            if slot != Slot::Row {
                let (gate, ready) =
                    if self.write_mode { (rank.wr, &channel.banks.wr) } else { (rank.rd, &channel.banks.rd) };
                if gate.max(column_bus).max(bounds.column) <= self.now {
                    scan.look(queue.hits & banks, &mut bounds.column, (ready, &queue.hit_age), Choice::Hit);
                }
            }
            if slot != Slot::Column && rank.pre.max(row_bus).max(bounds.precharge) <= self.now {
                let closable = queue.misses & banks & channel.open & !self.active_banks;
                let guarded = bits(closable & queue.hits).filter(|&bank| queue.hit_guards_row(bank));
                let free = closable & !guarded.fold(0, |mask, bank| mask | 1 << bank);
                let times = (&channel.banks.pre, &queue.miss_age);
                scan.look(free, &mut bounds.precharge, times, Choice::Precharge);
            }
            let activates = channel.activating == 0 && held.activates & banks == 0;
            if slot != Slot::Column && activates && rank.act.max(row_bus).max(bounds.activate) <= self.now {
                let closed = queue.misses & banks & !channel.open;
                let times = (&channel.banks.act, &queue.miss_age);
                scan.look(closed, &mut bounds.activate, times, Choice::Activate);
            }
        }
        if scan.age == u64::MAX {
            return None;
        }
        let (Choice::Active(bank) | Choice::Hit(bank) | Choice::Activate(bank) | Choice::Precharge(bank) | Choice::Refresh(_, bank)) = scan.choice;
        let bounds = &mut self.bounds.ranks[channel.rank_of(bank)];
        match scan.choice {
            Choice::Hit(_) => bounds.column = scan.rest,
            Choice::Precharge(_) => bounds.precharge = scan.rest,
            _ => bounds.activate = scan.rest,
        }
        Some(scan.choice)
    }
}

/// Search for the oldest ready command.
struct Scan {
    now: u64,
    /// Running number of the best request so far.
    age: u64,
    choice: Choice,
    /// Lower bound for the other banks that were looked at together with the best.
    rest: u64,
}

/// One number a bank.
type PerBank = [u64; MAX_BANKS as usize];

impl Scan {
    /// Looks at the banks of `mask`. `ready` holds the first cycle that bank and group allow, `age` the running number of the oldest
    /// request.
    #[inline(always)]
    fn look(
        &mut self,
        mask: u64,
        bound: &mut u64,
        (ready, age): (&PerBank, &PerBank),
        choice: impl Fn(u16) -> Choice,
    ) {
        let (mut later, mut count, mut best, mut oldest) = (u64::MAX, 0, usize::MAX, self.age);
        for bank in bits(mask) {
            if ready[bank] > self.now {
                later = later.min(ready[bank]);
                continue;
            }
            count += 1;
            if age[bank] < oldest {
                (oldest, best) = (age[bank], bank);
            }
        }
        *bound = if count == 0 { later } else { self.now };
        if best != usize::MAX {
            let rest = if count == 1 { later } else { self.now };
            (self.age, self.choice, self.rest) = (oldest, choice(best as u16), rest);
        }
    }
}
