//! Which command goes out next: the arbitration of the controller.
//!
//! The order is that of the controller's module. To stay fast, each kind of command has a lower bound of the cycle in
//! which a bank or its group allows one. The controller visits the least of them, and only kinds that may be ready then
//! are looked at. A bound may be too low, never too high: ready times only grow, and whatever gives a bank a new
//! candidate lowers the bound again.
use super::channel::{Channel, Masks, PerBank, banks_of, bits, spot};
use super::command::CommandKind;
use super::config::Config;
use super::device::{Device, MAX_BANKS, MAX_RANKS};
use super::error::ConfigError;
use super::queue::{Entry, Queue};
use refresh::RefreshStep;

mod refresh;

/// Room for the banks of the greatest channel.
const BANKS: usize = MAX_BANKS as usize;
/// Requests to look at, oldest first, before all banks are: measured, 4 and 16 are as good.
const WALK: usize = 8;

/// Index of the read queue and of the write queue: `usize::from(is_write)`.
pub(super) const READS: usize = 0;
pub(super) const WRITES: usize = 1;

/// A cycle that must be found out: 0 is never ahead.
pub(super) const UNKNOWN: u64 = 0;

/// A request whose row was opened for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Active {
    pub(super) entry: Entry,
    /// Order of activation, to decide between equal ages.
    pub(super) order: u64,
}

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

/// What the queue must leave alone in one rank.
#[derive(Clone, Copy)]
struct Held {
    rank: usize,
    /// Banks that get no command at all, in the word of their rank.
    banks: u64,
    /// No activate.
    activates: bool,
}

impl Held {
    const NOTHING: Self = Self { rank: 0, banks: 0, activates: false };

    /// Banks of a rank that are not held.
    const fn free(self, rank: usize) -> u64 {
        if rank == self.rank { !self.banks } else { u64::MAX }
    }
}

/// Lower bounds of the first cycle in which bank and group allow a candidate of one rank, for each [`Kind`]; `u64::MAX`
/// without any candidate.
type RankBounds = [u64; 3];

/// What a request of the queue needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Column,
    Precharge,
    Activate,
}

/// Lower bounds of the first cycle in which something can be issued.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// For requests whose row was opened for them.
    pub(super) active: u64,
    ranks: [RankBounds; MAX_RANKS],
}

impl Bounds {
    pub(super) fn new() -> Self {
        Self { active: 0, ranks: [RankBounds::default(); MAX_RANKS] }
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.active = 0;
        self.ranks.fill(RankBounds::default());
    }
}

/// What the controller of a channel knows and decides by.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) config: Config,
    pub(super) channel: Channel,
    /// Reads, then writes.
    pub(super) queues: [Queue; 2],
    pub(super) active: Vec<Option<Active>>,
    /// Banks of those.
    pub(super) active_banks: Masks,
    pub(super) activations: u64,
    pub(super) sequence: u64,
    /// LPDDR5, LPDDR6: the request between its ACT1 and ACT2.
    pub(super) activating: Option<Entry>,
    /// LPDDR5, LPDDR6: CAS went out for this choice; its burst follows as soon as the bus is free.
    pub(super) after_cas: Option<Choice>,
    pub(super) write_mode: bool,
    /// More waiting writes than this make or keep it write mode: when in read mode, when in write mode.
    write_marks: [u32; 2],
    pub(super) refreshes_waiting: u64,
    /// Those of them that fell due before the management that is asked for.
    pub(super) refreshes_ahead: u64,
    pub(super) next_refresh: u64,
    /// Refreshes issued, to know whose turn it is.
    pub(super) refresh_turn: u64,
    refresh_banks: Vec<u16>,
    /// Current cycle.
    pub(super) now: u64,
    /// First later cycle in which something can happen, or [`UNKNOWN`].
    pub(super) wake: u64,
    /// Offers that the front end may still make in this cycle.
    pub(super) offers_left: u32,
    pub(super) bounds: Bounds,
    /// End of the last data burst.
    pub(super) last_data: u64,
    pub(super) dual_bus: bool,
}

impl State {
    /// An idle channel at cycle 0, refreshed every `refresh_interval` cycles, bank by bank in the order of
    /// `refresh_banks`.
    pub(super) fn new(
        device: &Device,
        config: Config,
        refresh_interval: u64,
        refresh_banks: Vec<u16>,
    ) -> Result<Self, ConfigError> {
        let channel = Channel::new(device)?;
        let banks = channel.bank_count() as usize;
        Ok(Self {
            queues: [(); 2].map(|()| Queue::new(config.queue_depth)),
            active: vec![None; banks],
            active_banks: Masks::default(),
            activations: 0,
            sequence: 0,
            activating: None,
            after_cas: None,
            write_mode: false,
            write_marks: config.write_marks(),
            refreshes_waiting: 0,
            refreshes_ahead: 0,
            next_refresh: refresh_interval,
            refresh_turn: 0,
            refresh_banks,
            now: 0,
            wake: UNKNOWN,
            // The front end runs faster than the memory; the run begins on the last of its steps within cycle 0.
            offers_left: 1,
            bounds: Bounds::new(),
            last_data: 0,
            dual_bus: device.dual_command_bus,
            channel,
            config,
        })
    }

    /// First later cycle in which something of what is known may go out, not counting refreshes yet to fall due; never
    /// too late.
    pub(super) fn next_event(&self) -> u64 {
        let channel = &self.channel;
        if self.after_cas.is_some() {
            return channel.bus[0];
        }
        if self.write_mode_wanted() != self.write_mode {
            return self.now + 1;
        }
        if self.activating.is_some() {
            return channel.bus[0];
        }
        let (mut burst, mut others, mut precharge) = (u64::MAX, u64::MAX, u64::MAX);
        for rank in 0..channel.rank_count {
            let of_rank = &channel.ranks[rank % MAX_RANKS];
            burst = burst.min(of_rank.rd).min(of_rank.wr);
            let [of_column, of_precharge, of_activate] = self.due(rank);
            others = others.min(of_column).min(of_activate);
            precharge = precharge.min(of_precharge);
        }
        let mut refresh = u64::MAX;
        if self.is_refresh_wanted()
            && let Some(turn) = self.refresh_turn()
        {
            refresh = match self.refresh_step(&turn) {
                RefreshStep::Ready(_) => self.now + 1,
                RefreshStep::At(cycle) => cycle,
                RefreshStep::AfterBursts => u64::MAX,
            };
            if !turn.refresh.kind.is_bank_wise() {
                (others, precharge) = (u64::MAX, u64::MAX);
            }
        }
        // Commands other than PRE wait for the rising edge.
        let others = self.bounds.active.max(burst).min(others);
        (others.max(self.now + 1) | channel.edge).min(precharge).min(refresh)
    }

    /// The bounds of a rank with what the rank itself and the buses allow.
    #[inline(always)]
    fn due(&self, rank: usize) -> RankBounds {
        let (bounds, rank, bus) =
            (&self.bounds.ranks[rank % MAX_RANKS], &self.channel.ranks[rank % MAX_RANKS], self.channel.bus);
        let column = if self.write_mode { rank.wr } else { rank.rd };
        let [of_column, of_precharge, of_activate] = *bounds;
        [
            of_column.max(column).max(bus[usize::from(self.dual_bus)]),
            of_precharge.max(rank.pre).max(bus[0]),
            of_activate.max(rank.act).max(bus[0]),
        ]
    }

    /// `bank` may have a candidate of the queue that it did not have before.
    pub(super) fn touch(&mut self, bank: u16) {
        if self.channel.is_open(bank) {
            self.touch_open(bank);
        } else {
            self.touch_closed(bank);
        }
    }

    /// As [`Self::touch`], for a bank whose row is open.
    #[inline(always)]
    pub(super) fn touch_open(&mut self, bank: u16) {
        let (channel, queue) = (&self.channel, &self.queues[usize::from(self.write_mode)]);
        let (word, bit) = spot(bank);
        let [column, precharge, _] = &mut self.bounds.ranks[channel.rank_of(bank) % MAX_RANKS];
        let bank = usize::from(bank) % BANKS;
        if queue.hits[word] & bit != 0 {
            *column = channel.column_ready(bank, self.write_mode).min(*column);
        }
        if queue.misses[word] & !self.active_banks[word] & bit != 0 {
            *precharge = channel.banks.pre[bank].min(*precharge);
        }
    }

    /// As [`Self::touch`], for a bank whose row is closed.
    #[inline(always)]
    pub(super) fn touch_closed(&mut self, bank: u16) {
        let (channel, queue) = (&self.channel, &self.queues[usize::from(self.write_mode)]);
        let (word, bit) = spot(bank);
        if queue.misses[word] & bit != 0 {
            let [_, _, activate] = &mut self.bounds.ranks[channel.rank_of(bank) % MAX_RANKS];
            *activate = channel.act_ready(usize::from(bank) % BANKS).min(*activate);
        }
    }

    /// Whether a request that waits hits the open row of this bank.
    pub(super) fn is_wanted(&self, bank: u16) -> bool {
        let (word, bit) = spot(bank);
        let [reads, writes] = &self.queues;
        (reads.hits[word] | writes.hits[word] | self.active_banks[word]) & bit != 0
    }

    pub(super) fn pick(&mut self, slot: Slot) -> Option<Choice> {
        // Commands but PRE are for the rising edge: what is due before this.
        let rising = if self.channel.is_rising(self.now) { self.now + 1 } else { 0 };
        if slot != Slot::Row
            && self.bounds.active < rising
            && let Some(choice) = self.pick_active()
        {
            return Some(choice);
        }
        let mut held = Held::NOTHING;
        if self.is_refresh_wanted()
            && let Some(turn) = self.refresh_turn()
        {
            if let RefreshStep::Ready(command) = self.refresh_step(&turn)
                && slot != Slot::Column
            {
                return Some(Choice::Refresh(command.kind, command.bank));
            }
            if !turn.refresh.kind.is_bank_wise() {
                return None;
            }
            held = self.held_for(&turn);
        }
        let write_mode = self.write_mode_wanted();
        if write_mode != self.write_mode {
            self.write_mode = write_mode;
            self.bounds.forget();
        }
        self.pick_queued(slot, rising, held)
    }

    /// 1. Requests whose row was opened for them.
    fn pick_active(&mut self) -> Option<Choice> {
        let (mut best, mut others) = (None, u64::MAX);
        for rank in 0..self.channel.rank_count {
            let (word, of_rank) = self.channel.set_of(rank);
            let gates = self.gates(rank);
            for bank in banks_of(word, self.active_banks[word] & of_rank) {
                let Some(active) = &self.active[bank] else { continue };
                let is_write = active.entry.is_write();
                let ready = self.channel.column_ready(bank % BANKS, is_write).max(gates[usize::from(is_write)]);
                if ready > self.now {
                    others = others.min(ready);
                    continue;
                }
                let candidate = (active.entry.arrive, active.order, bank as u16);
                if let Some(best) = &mut best {
                    others = self.now;
                    *best = candidate.min(*best);
                } else {
                    best = Some(candidate);
                }
            }
        }
        self.bounds.active = others;
        best.map(|(_, _, bank)| Choice::Active(bank))
    }

    /// First cycle in which a burst of `bank` is legal, if its row is open.
    pub(super) fn column_ready(&self, bank: usize, is_write: bool) -> u64 {
        let gate = self.gates(self.channel.rank_of(bank as u16))[usize::from(is_write)];
        self.channel.column_ready(bank, is_write).max(gate)
    }

    /// First cycle in which a rank and its bus allow a read, and a write.
    #[inline(always)]
    fn gates(&self, rank: usize) -> [u64; 2] {
        let (rank, bus) = (&self.channel.ranks[rank % MAX_RANKS], self.channel.bus[usize::from(self.dual_bus)]);
        [rank.rd.max(bus), rank.wr.max(bus)]
    }

    /// Writes are served in batches, or while there is nothing to read.
    fn write_mode_wanted(&self) -> bool {
        let enough = self.write_marks[usize::from(self.write_mode)];
        self.queues[WRITES].len() > enough || self.queues[READS].is_empty()
    }

    /// 3. The oldest ready command of the queue.
    #[inline(always)]
    fn pick_queued(&mut self, slot: Slot, rising: u64, held: Held) -> Option<Choice> {
        let mut best = Best::NONE;
        for rank in 0..self.channel.rank_count {
            let [column, precharge, activate] = self.due(rank);
            if slot != Slot::Row && column < rising {
                self.look_at_hits(rank, held, &mut best);
            }
            if slot != Slot::Column && precharge <= self.now {
                self.look_at_conflicts(rank, held, &mut best);
            }
            if slot != Slot::Column && activate < rising {
                self.look_at_misses(rank, held, &mut best);
            }
        }
        (best.age != u64::MAX).then_some(match best.kind {
            Kind::Column => Choice::Hit(best.bank),
            Kind::Precharge => Choice::Precharge(best.bank),
            Kind::Activate => Choice::Activate(best.bank),
        })
    }

    /// Bursts for requests that hit an open row. Like the two below not inlined: together they want more registers than
    /// there are.
    #[inline(never)]
    fn look_at_hits(&mut self, rank: usize, held: Held, best: &mut Best) {
        let (channel, queue) = (&self.channel, &self.queues[usize::from(self.write_mode)]);
        let (word, of_rank) = channel.set_of(rank);
        let hits = queue.hits[word] & of_rank & held.free(rank);
        let ready = |bank: usize| channel.column_ready(bank, self.write_mode);
        let oldest = oldest_ready(queue, word, hits, self.now, &queue.hit_age, ready);
        self.meet(best, oldest, rank, Kind::Column);
    }

    /// Precharges for requests that want another row than the open one, unless an older request hits that. Always a
    /// look at all banks: nearly nothing else than the bank delays a precharge, so that an inexact bound would cost a
    /// visit for nothing.
    #[inline(never)]
    fn look_at_conflicts(&mut self, rank: usize, held: Held, best: &mut Best) {
        let (channel, queue) = (&self.channel, &self.queues[usize::from(self.write_mode)]);
        let (word, of_rank) = channel.set_of(rank);
        let conflicts = queue.misses[word] & channel.open[word] & !self.active_banks[word] & of_rank & held.free(rank);
        let guarded = bits(conflicts & queue.hits[word]).filter(|&bank| queue.hit_guards_row(word * 64 + bank));
        let free = conflicts & !guarded.fold(0, |mask, bank| mask | 1 << bank);
        let oldest = oldest_of_banks(word, free, self.now, &queue.miss_age, |bank| channel.banks.pre[bank]);
        self.meet(best, oldest, rank, Kind::Precharge);
    }

    /// Activates for requests whose bank is closed, unless an activate is under way or would delay a refresh.
    #[inline(never)]
    fn look_at_misses(&mut self, rank: usize, held: Held, best: &mut Best) {
        let (channel, queue) = (&self.channel, &self.queues[usize::from(self.write_mode)]);
        if self.activating.is_some() || held.activates && held.rank == rank {
            return;
        }
        let (word, of_rank) = channel.set_of(rank);
        let closed = !channel.open[word] & !channel.exhausted_banks(word);
        let misses = queue.misses[word] & closed & of_rank & held.free(rank);
        let ready = |bank: usize| channel.act_ready(bank);
        let oldest = oldest_ready(queue, word, misses, self.now, &queue.miss_age, ready);
        self.meet(best, oldest, rank, Kind::Activate);
    }

    /// Compares the oldest of one kind with the best so far. Who is beaten is ready now and stays so: its kind is
    /// looked at again in the next visit.
    #[inline(always)]
    fn meet(&mut self, best: &mut Best, oldest: Oldest, rank: usize, kind: Kind) {
        let mut bound = oldest.others;
        if oldest.age < best.age {
            if best.age != u64::MAX {
                self.bounds.ranks[best.rank % MAX_RANKS][best.kind as usize] = self.now;
            }
            *best = Best { age: oldest.age, bank: oldest.bank, kind, rank };
        } else if oldest.age != u64::MAX {
            bound = self.now;
        }
        self.bounds.ranks[rank % MAX_RANKS][kind as usize] = bound;
    }
}

/// The bank with the oldest ready request.
struct Oldest {
    /// Running number of the request; `u64::MAX` if none is ready.
    age: u64,
    bank: u16,
    /// Lower bound of the first cycle in which one of the other banks is ready.
    others: u64,
}

/// Looks at the banks of `mask`, in this word. `ready` is the first cycle that bank and group allow, `age` the running
/// number of the oldest request.
#[inline(always)]
fn oldest_of_banks(word: usize, mask: u64, now: u64, age: &PerBank, ready: impl Fn(usize) -> u64) -> Oldest {
    let (mut oldest, mut others, mut count) = (Oldest { age: u64::MAX, bank: 0, others: now }, u64::MAX, 0);
    for bank in banks_of(word, mask) {
        let bank = bank % BANKS;
        let ready = ready(bank);
        if ready > now {
            others = others.min(ready);
            continue;
        }
        count += 1;
        if age[bank] < oldest.age {
            (oldest.age, oldest.bank) = (age[bank], bank as u16);
        }
    }
    if count <= 1 {
        oldest.others = others;
    }
    oldest
}

/// As [`oldest_of_banks`], quicker where one of the oldest requests of the queue is the one; then the bound for the
/// others is `now`.
#[inline(always)]
fn oldest_ready(
    queue: &Queue,
    word: usize,
    mask: u64,
    now: u64,
    age: &PerBank,
    ready: impl Fn(usize) -> u64,
) -> Oldest {
    let found = queue.by_age().take(WALK).find(|entry| {
        let bank = usize::from(entry.bank) % BANKS;
        let (of, bit) = spot(entry.bank);
        of == word && mask & bit != 0 && age[bank] == entry.sequence && ready(bank) <= now
    });
    match found {
        Some(entry) => Oldest { age: entry.sequence, bank: entry.bank, others: now },
        None => oldest_of_banks(word, mask, now, age, ready),
    }
}

/// The oldest ready request of all kinds of commands.
struct Best {
    age: u64,
    bank: u16,
    kind: Kind,
    rank: usize,
}

impl Best {
    const NONE: Self = Self { age: u64::MAX, bank: 0, kind: Kind::Column, rank: 0 };
}
