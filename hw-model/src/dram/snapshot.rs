//! The state of a controller without absolute times and rows: equal snapshots have equal futures.
//!
//! Times are written as the distance from the current cycle; a time that has passed is 0, whenever it was. Rows are
//! written as the distance from a base that moves with the stream. An open row outside the rows of the whole read is
//! "foreign": which one it is makes no difference to this read, and a bank that keeps such a row was not touched by it.
use super::channel::{banks_of, spot};
use super::queue::Entry;
use super::schedule::{Active, Choice, READS, State, UNKNOWN, WRITES};

/// Stands for an open row that is not of this read.
const FOREIGN: u32 = u32::MAX;
/// Stands for "never".
const NEVER: u32 = u32::MAX;

/// Rows that a snapshot counts from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// Row that counts as 0.
    pub(super) base_row: i64,
    /// First and end of the rows that the whole read touches, counted from the base.
    pub(super) first: i64,
    pub(super) end: i64,
}

impl Frame {
    fn relative(&self, row: u32) -> Option<u32> {
        i32::try_from(i64::from(row) - self.base_row).ok().map(|row| row as u32).filter(|&row| row != FOREIGN)
    }

    fn absolute(&self, relative: u32) -> u32 {
        (self.base_row + i64::from(relative as i32)) as u32
    }
}

/// How far a snapshot looks ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Horizon {
    /// Across refreshes: when the next one falls due is part of the state.
    Refreshes,
    /// Up to the next refresh only: when it falls due and whose turn it is makes no difference. No refresh may be
    /// waiting.
    NextRefresh,
}

/// Writes the state of `c`; `None` if it holds writes or is out of the ordinary, so that it cannot be compared.
pub(super) fn encode(c: &State, frame: Frame, horizon: Horizon) -> Option<Vec<u32>> {
    if !c.queues[WRITES].is_empty() || c.after_cas.is_some_and(|choice| matches!(choice, Choice::Refresh(..))) {
        return None;
    }
    let channel = &c.channel;
    let banks = channel.bank_count() as usize;
    let reads = &c.queues[READS];
    let mut words = Vec::with_capacity(16 + banks * 6 + 4 * reads.len() as usize);
    let ahead = |time: u64| u32::try_from(time.saturating_sub(c.now)).ok();
    match horizon {
        Horizon::Refreshes => {
            words.push(if c.next_refresh == u64::MAX { NEVER } else { ahead(c.next_refresh)? });
            words.push(u32::try_from(c.refreshes_waiting).ok()?);
            words.push(u32::try_from(c.refreshes_ahead).ok()?);
            words.push((c.refresh_turn % c.refresh_round()) as u32);
        }
        Horizon::NextRefresh if c.refreshes_waiting > 0 => return None,
        Horizon::NextRefresh => {}
    }
    // Which edge of the clock it is makes a difference where commands use both.
    let edge = (c.now & channel.edge) as u32;
    words.push(u32::from(c.write_mode) | edge << 1 | c.offers_left << 2);
    for time in [c.last_data, channel.wck_until, channel.bus[0], channel.bus[1], channel.act2_deadline] {
        words.push(ahead(time)?);
    }
    let sets = 0..banks.div_ceil(64);
    for word in channel.open[sets.clone()].iter().chain(&channel.activating[sets.clone()]) {
        words.extend([*word as u32, (*word >> 32) as u32]);
    }
    for rank in &channel.ranks[..channel.rank_count] {
        for &time in rank.all() {
            words.push(ahead(time)?);
        }
        for turn in 0..4 {
            words.push(ahead(rank.window[usize::from((rank.oldest + turn) % 4)])?);
        }
    }
    for times in channel.banks.all() {
        for &time in &times[..banks] {
            words.push(ahead(time)?);
        }
    }
    let groups = channel.group_count() as usize;
    for times in channel.groups.all() {
        for &time in &times[..groups] {
            words.push(ahead(time)?);
        }
    }
    if let Some(management) = &channel.management {
        words.extend(management.counts(banks));
        words.push(channel.asking.map_or(0, |bank| u32::from(bank) + 1));
    }
    for bank in sets.flat_map(|set| banks_of(set, channel.open[set])) {
        let row = channel.banks.row[bank];
        let touched = (frame.first..frame.end).contains(&(i64::from(row) - frame.base_row));
        words.push(if touched { frame.relative(row)? } else { FOREIGN });
    }
    words.push(match c.after_cas {
        None => 0,
        Some(Choice::Active(bank)) => 1 | u32::from(bank) << 2,
        Some(Choice::Hit(bank)) => 2 | u32::from(bank) << 2,
        Some(_) => return None,
    });
    let put = |words: &mut Vec<u32>, entry: &Entry| {
        let age = u32::try_from(c.now - entry.arrive).ok()?;
        // What is left of an earlier read may hit a row that counts as foreign.
        if !(frame.first..frame.end).contains(&(i64::from(entry.row) - frame.base_row)) {
            return None;
        }
        words.extend([u32::from(entry.bank) | u32::from(entry.is_counted()) << 16, frame.relative(entry.row)?, age]);
        (!entry.is_write()).then_some(())
    };
    words.push(u32::from(c.activating.is_some()));
    if let Some(entry) = &c.activating {
        put(&mut words, entry)?;
    }
    let mut active: Vec<&Active> = c.active.iter().flatten().collect();
    active.sort_unstable_by_key(|active| active.order);
    words.push(active.len() as u32);
    for active in active {
        put(&mut words, &active.entry)?;
    }
    words.push(reads.len());
    for entry in reads.by_age() {
        put(&mut words, entry)?;
    }
    Some(words)
}

/// Puts `c` into the state of `words`, written by [`encode`], at cycle `now`. Foreign rows stay the rows they are.
pub(super) fn decode(c: &mut State, words: &[u32], frame: Frame, horizon: Horizon, now: u64) {
    let mut words = Words { rest: words.iter(), now, frame };
    c.now = now;
    if horizon == Horizon::Refreshes {
        let next_refresh = words.next();
        c.next_refresh = if next_refresh == NEVER { u64::MAX } else { now + u64::from(next_refresh) };
        c.refreshes_waiting = u64::from(words.next());
        c.refreshes_ahead = u64::from(words.next());
        c.refresh_turn = u64::from(words.next());
    }
    let word = words.next();
    (c.write_mode, c.offers_left) = (word & 1 == 1, word >> 2);
    c.last_data = words.time();
    let channel = &mut c.channel;
    channel.wck_until = words.time();
    channel.bus = [words.time(), words.time()];
    channel.act2_deadline = words.time();
    let banks = channel.bank_count() as usize;
    let sets = 0..banks.div_ceil(64);
    channel.open[sets.clone()].fill_with(|| words.mask());
    channel.activating[sets.clone()].fill_with(|| words.mask());
    for rank in &mut channel.ranks[..channel.rank_count] {
        rank.all_mut().for_each(|time| *time = words.time());
        rank.oldest = 0;
        rank.window = std::array::from_fn(|_| words.time());
    }
    for times in channel.banks.all_mut() {
        times[..banks].fill_with(|| words.time());
    }
    let groups = channel.group_count() as usize;
    for times in channel.groups.all_mut() {
        times[..groups].fill_with(|| words.time());
    }
    channel.replace_activates(|_, _| words.next());
    for set in sets {
        for bank in banks_of(set, channel.open[set]) {
            let row = words.next();
            if row != FOREIGN {
                channel.banks.row[bank] = frame.absolute(row);
            }
        }
    }
    let word = words.next();
    let bank = (word >> 2) as u16;
    c.after_cas = match word & 3 {
        1 => Some(Choice::Active(bank)),
        2 => Some(Choice::Hit(bank)),
        _ => None,
    };
    c.activating = (words.next() == 1).then(|| words.entry(0));
    if let Some(entry) = &c.activating {
        c.channel.banks.row[usize::from(entry.bank)] = entry.row; // ACT2 opens it.
    }
    c.active.fill(None);
    c.active_banks.fill(0);
    for _ in 0..words.next() {
        let entry = words.entry(0);
        c.active[usize::from(entry.bank)] = Some(Active { entry, order: c.activations });
        let (set, bit) = spot(entry.bank);
        c.active_banks[set] |= bit;
        c.activations += 1;
    }
    let reads = &mut c.queues[READS];
    reads.clear();
    for _ in 0..words.next() {
        let entry = words.entry(c.sequence);
        reads.push(entry, c.channel.open_row(entry.bank));
        c.sequence += 1;
    }
    // Up to here it was counted.
    c.channel.start_count(now);
    c.bounds.forget();
    c.wake = UNKNOWN;
}

/// Reads what [`encode`] wrote.
struct Words<'a> {
    rest: std::slice::Iter<'a, u32>,
    now: u64,
    frame: Frame,
}

impl Words<'_> {
    fn next(&mut self) -> u32 {
        self.rest.next().copied().unwrap_or(0)
    }

    fn time(&mut self) -> u64 {
        self.now + u64::from(self.next())
    }

    fn mask(&mut self) -> u64 {
        u64::from(self.next()) | u64::from(self.next()) << 32
    }

    fn entry(&mut self, sequence: u64) -> Entry {
        let (word, row, age) = (self.next(), self.next(), self.next());
        let entry = Entry {
            arrive: self.now - u64::from(age),
            sequence,
            row: self.frame.absolute(row),
            bank: word as u16,
            ..Entry::EMPTY // Only the address of a write is ever looked at again.
        };
        entry.of_kind(false, word >> 16 == 1)
    }
}
