//! Which command goes out next: the arbitration of the controller.
//!
//! The order is that of the module [`super::controller`]. To stay fast, each kind of command has a lower bound of the cycle in which
//! a bank or its group allows one; while the bound lies in the future nothing is looked at. A bound may be too low, never too high:
//! ready times only grow, and whatever gives a bank a new candidate lowers the bound again.
use super::channel::{Channel, bits};
use super::command::{Command, CommandKind};
use super::config::Refresh;
use super::controller::{Controller, Observer};
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

/// Lower bounds of the first cycle in which bank and group allow a candidate of one rank.
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

    /// `bank` may have a candidate that it did not have before.
    pub(super) fn touch(&mut self, channel: &Channel, bank: u16) {
        let bounds = &mut self.ranks[channel.rank_of(bank)];
        let (banks, bank) = (&channel.banks, usize::from(bank));
        bounds.column = bounds.column.min(banks.rd[bank]).min(banks.wr[bank]);
        bounds.precharge = bounds.precharge.min(banks.pre[bank]);
        bounds.activate = bounds.activate.min(banks.act[bank]);
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.active = 0;
        self.ranks.fill(RankBounds::default());
    }
}

impl<O: Observer> Controller<O> {
    pub(super) fn pick(&mut self, slot: Slot) -> Option<Choice> {
        if slot != Slot::Row
            && let Some(choice) = self.pick_active()
        {
            return Some(choice);
        }
        let mut held = Held::NOTHING;
        if self.refreshes_waiting > 0 {
            let turn = self.refresh_turn();
            match self.refresh_step(&turn) {
                RefreshStep::Ready(command) if slot != Slot::Column => {
                    return Some(Choice::Refresh(command.kind, command.bank));
                }
                RefreshStep::Ready(_) => {}
                RefreshStep::At(cycle) => self.wake = self.wake.min(cycle),
                RefreshStep::AfterBursts => {} // Which wake us.
            }
            if self.config.refresh != Refresh::SameBank {
                return None;
            }
            held = self.held_for(&turn);
        }
        self.set_write_mode();
        self.pick_queued(slot, held)
    }

    /// 1. Requests whose row was opened for them.
    fn pick_active(&mut self) -> Option<Choice> {
        if self.active_banks == 0 {
            return None;
        }
        if self.bounds.active > self.now {
            self.wake = self.wake.min(self.bounds.active);
            return None;
        }
        let mut best = (u64::MAX, u64::MAX, 0);
        let mut bound = u64::MAX;
        for bank in bits(self.active_banks) {
            let Some(active) = &self.active[bank] else { continue };
            let ready = self.column_ready(bank, active.entry.is_write);
            bound = bound.min(ready);
            if ready <= self.now {
                best = best.min((active.entry.arrive, active.order, bank));
            }
        }
        self.bounds.active = bound;
        if best.0 == u64::MAX {
            self.wake = self.wake.min(bound);
            return None;
        }
        Some(Choice::Active(best.2 as u16))
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
    fn set_write_mode(&mut self) {
        let (waiting, depth) = (self.writes.len() * 10, u32::from(self.config.queue_depth));
        let enough = if self.write_mode { waiting >= 2 * depth } else { waiting > 8 * depth };
        let mode = enough || self.reads.len() == 0;
        if mode != self.write_mode {
            self.write_mode = mode;
            self.bounds.forget();
        }
    }

    /// 3. The oldest ready command of the queue.
    fn pick_queued(&mut self, slot: Slot, held: Held) -> Option<Choice> {
        let queue = if self.write_mode { &self.writes } else { &self.reads };
        let (channel, writing) = (&self.channel, self.write_mode);
        let mut scan = Scan { now: self.now, wake: self.wake, age: u64::MAX, choice: Choice::Hit(0) };
        for (index, rank) in channel.ranks.iter().enumerate() {
            let banks = channel.rank_mask(index) & !held.banks;
            let bounds = &mut self.bounds.ranks[index];
            if slot != Slot::Row {
                let (gate, ready) = if writing { (rank.wr, &channel.banks.wr) } else { (rank.rd, &channel.banks.rd) };
                let gate = gate.max(channel.bus[usize::from(self.dual_bus)]);
                scan.look(queue.hits & banks, gate, &mut bounds.column, (ready, &queue.hit_age), Choice::Hit);
            }
            if slot != Slot::Column {
                let misses = queue.misses & banks & !channel.activating;
                let closable = misses & channel.open & !self.active_banks;
                let gate = rank.pre.max(channel.bus[0]);
                if scan.worth_a_look(closable, gate, bounds.precharge) {
                    let guarded = bits(closable & queue.hits).filter(|&bank| queue.hit_guards_row(bank));
                    let free = closable & !guarded.fold(0, |mask, bank| mask | 1 << bank);
                    let times = (&channel.banks.pre, &queue.miss_age);
                    scan.look(free, gate, &mut bounds.precharge, times, Choice::Precharge);
                }
                let closed = if channel.activating == 0 { misses & !channel.open & !held.activates } else { 0 };
                let gate = rank.act.max(channel.bus[0]);
                let times = (&channel.banks.act, &queue.miss_age);
                scan.look(closed, gate, &mut bounds.activate, times, Choice::Activate);
            }
        }
        self.wake = scan.wake;
        (scan.age != u64::MAX).then_some(scan.choice)
    }
}

/// Search for the oldest ready command.
struct Scan {
    now: u64,
    /// Earliest later cycle in which something becomes ready.
    wake: u64,
    /// Running number of the best request so far.
    age: u64,
    choice: Choice,
}

/// One number a bank.
type PerBank = [u64; MAX_BANKS as usize];

impl Scan {
    /// True if a bank of `mask` may be ready; otherwise notes when one may be.
    #[inline(always)]
    fn worth_a_look(&mut self, mask: u64, gate: u64, bound: u64) -> bool {
        let earliest = gate.max(bound);
        if mask != 0 && earliest > self.now {
            self.wake = self.wake.min(earliest);
        }
        mask != 0 && earliest <= self.now
    }

    /// Looks at the banks of `mask`. `gate` is the first cycle that rank and bus allow; `ready` holds the first cycle that bank and
    /// group allow, `age` the running number of the oldest request.
    #[inline(always)]
    fn look(
        &mut self,
        mask: u64,
        gate: u64,
        bound: &mut u64,
        (ready, age): (&PerBank, &PerBank),
        choice: impl Fn(u16) -> Choice,
    ) {
        if !self.worth_a_look(mask, gate, *bound) {
            return;
        }
        let (mut first, mut best, mut oldest) = (u64::MAX, usize::MAX, self.age);
        for bank in bits(mask) {
            first = first.min(ready[bank]);
            let candidate = if ready[bank] <= self.now { age[bank] } else { u64::MAX };
            if candidate < oldest {
                (oldest, best) = (candidate, bank);
            }
        }
        *bound = first;
        if first > self.now {
            self.wake = self.wake.min(first);
        } else if best != usize::MAX {
            (self.age, self.choice) = (oldest, choice(best as u16));
        }
    }
}
