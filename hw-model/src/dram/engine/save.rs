//! An engine as bytes: one list of all that it holds, for writing and for reading.
//!
//! Words of 64 bits, lowest byte first: a mark, the fingerprint of device, configuration and version, the state, a
//! checksum. What is read is checked: numbers are in their ranges, and nothing in it can make the engine panic.

use std::collections::VecDeque;
use std::fmt::Write;

use super::super::channel::{Channel, banks_of, spot};
use super::super::controller::{Controller, Served};
use super::super::device::Device;
use super::super::histogram::Histogram;
use super::super::queue::{BELOW_PRIORITY, Entry, PRIORITY_SHIFT, Queue};
use super::super::schedule::{Active, Choice, State, UNKNOWN};
use super::super::statistics::{SourceStatistics, Statistics};
use super::completions::Completions;
use super::{Engine, EngineConfig, LAST_CYCLE, MOST_UNREAD, SnapshotError};

/// First word.
const MARK: u64 = u64::from_le_bytes(*b"cptrmem3");
/// Times lie at most so far ahead: longer than any constraint, short enough not to overflow.
const AHEAD: u64 = 1 << 24;

type Done = Result<(), SnapshotError>;

/// Where words go to or come from. Both directions go through the same calls.
trait Words {
    /// Writes the word, or replaces it.
    fn word(&mut self, word: &mut u64) -> Done;
}

struct Writer(Vec<u64>);

impl Words for Writer {
    fn word(&mut self, word: &mut u64) -> Done {
        self.0.push(*word);
        Ok(())
    }
}

struct Reader<'a>(std::slice::Iter<'a, u64>);

impl Words for Reader<'_> {
    fn word(&mut self, word: &mut u64) -> Done {
        *word = *self.0.next().ok_or(SnapshotError::Damaged)?;
        Ok(())
    }
}

fn require(holds: bool) -> Done {
    if holds { Ok(()) } else { Err(SnapshotError::Damaged) }
}

/// A number of at most `most`.
fn number(io: &mut impl Words, value: &mut u64, most: u64) -> Done {
    io.word(value)?;
    require(*value <= most)
}

/// A small number of at most `most`.
fn small<T: TryFrom<u64> + Copy>(io: &mut impl Words, value: &mut T, most: u64) -> Done
where
    u64: From<T>,
{
    let mut word = u64::from(*value);
    number(io, &mut word, most)?;
    *value = T::try_from(word).map_err(|_| SnapshotError::Damaged)?;
    Ok(())
}

fn flag(io: &mut impl Words, value: &mut bool) -> Done {
    let mut word = u64::from(*value);
    number(io, &mut word, 1)?;
    *value = word == 1;
    Ok(())
}

/// How many follow.
fn count(io: &mut impl Words, len: usize, most: usize) -> Result<usize, SnapshotError> {
    let mut word = len as u64;
    number(io, &mut word, most as u64)?;
    Ok(word as usize)
}

/// Times from the beginning to a little ahead of `now`.
fn times<'a>(io: &mut impl Words, now: u64, times: impl IntoIterator<Item = &'a mut u64>) -> Done {
    times.into_iter().try_for_each(|time| number(io, time, now + AHEAD))
}

/// Counts of things that happened.
fn counts<'a>(io: &mut impl Words, counts: impl IntoIterator<Item = &'a mut u64>) -> Done {
    counts.into_iter().try_for_each(|count| number(io, count, 1 << 60))
}

pub(super) fn fingerprint(device: &Device, config: &EngineConfig) -> u64 {
    let mut text = String::new();
    let _ = write!(text, "{} {device:?} {config:?}", env!("CARGO_PKG_VERSION"));
    hash(text.as_bytes())
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

pub(super) fn save(engine: &Engine) -> Vec<u8> {
    let mut writer = Writer(vec![MARK, engine.fingerprint]);
    // Writing changes nothing but wants to be able to, and cannot fail.
    let _ = state(&mut writer, &mut engine.clone());
    let mut bytes: Vec<u8> = writer.0.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(hash(&bytes).to_le_bytes());
    bytes
}

pub(super) fn load(engine: &Engine, bytes: &[u8]) -> Result<Engine, SnapshotError> {
    let (words, rest) = bytes.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let [MARK, fingerprint, body @ .., checksum] = &words[..] else { return Err(SnapshotError::Damaged) };
    require(rest.is_empty() && hash(&bytes[..bytes.len() - 8]) == *checksum)?;
    if *fingerprint != engine.fingerprint {
        return Err(SnapshotError::OfAnother);
    }
    let mut reader = Reader(body.iter());
    let mut loaded = engine.clone();
    state(&mut reader, &mut loaded)?;
    require(reader.0.next().is_none())?;
    Ok(loaded)
}

fn state(io: &mut impl Words, engine: &mut Engine) -> Done {
    number(io, &mut engine.now, LAST_CYCLE)?;
    let now = engine.now;
    engine.lanes.iter_mut().try_for_each(|lane| controller(io, lane, now))
}

fn controller(io: &mut impl Words, lane: &mut Controller<Completions>, now: u64) -> Done {
    let (c, priorities) = (&mut lane.state, &lane.priorities);
    c.now = now;
    c.wake = UNKNOWN;
    number(io, &mut c.sequence, BELOW_PRIORITY)?;
    number(io, &mut c.activations, BELOW_PRIORITY)?;
    channel(io, &mut c.channel, now)?;
    for index in 0..c.queues.len() {
        queue(io, c, index, priorities)?;
    }
    actives(io, c, priorities)?;
    decisions(io, c, priorities)?;
    number(io, &mut c.refreshes_waiting, 1 << 32)?;
    number(io, &mut c.refreshes_ahead, c.refreshes_waiting)?;
    io.word(&mut c.next_refresh)?;
    require(c.next_refresh == u64::MAX && lane.refresh_interval == u64::MAX || c.next_refresh > now)?;
    require(c.next_refresh == u64::MAX || c.next_refresh <= now + AHEAD)?;
    number(io, &mut c.refresh_turn, 1 << 60)?;
    small(io, &mut c.offers_left, u64::from(c.config.offers_per_cycle))?;
    times(io, now, [&mut c.last_data])?;
    c.bounds.forget();
    statistics(io, &mut lane.statistics)?;
    lane.by_source.iter_mut().try_for_each(|of| source_statistics(io, of))?;
    let sources = lane.priorities.len() as u64;
    let banks = lane.state.channel.bank_count() as usize;
    lane.opened_by[..banks].iter_mut().try_for_each(|by| small(io, by, sources - 1))?;
    completions(io, &mut lane.observer, now, sources)
}

fn channel(io: &mut impl Words, c: &mut Channel, now: u64) -> Done {
    let (banks, groups) = (c.bank_count() as usize, c.group_count() as usize);
    for (at, (open, activating)) in c.open.iter_mut().zip(&mut c.activating).enumerate().take(banks.div_ceil(64)) {
        io.word(open)?;
        io.word(activating)?;
        let valid = u64::MAX >> 64usize.saturating_sub(banks - 64 * at);
        require((*open | *activating) & !valid == 0 && *open & *activating == 0)?;
    }
    for of_bank in c.banks.all_mut() {
        times(io, now, &mut of_bank[..banks])?;
    }
    c.banks.row[..banks].iter_mut().try_for_each(|row| small(io, row, u64::from(u32::MAX)))?;
    for of_group in c.groups.all_mut() {
        times(io, now, &mut of_group[..groups])?;
    }
    for rank in &mut c.ranks[..c.rank_count] {
        times(io, now, rank.all_mut())?;
        times(io, now, &mut rank.window)?;
        small(io, &mut rank.oldest, 3)?;
    }
    io.word(&mut c.open_balance)?;
    let mut valid = Ok(());
    c.replace_activates(|mut number, most| {
        valid = valid.and_then(|()| small(io, &mut number, u64::from(most)));
        number
    });
    valid?;
    times(io, now, &mut c.bus)?;
    times(io, now, [&mut c.act2_deadline, &mut c.wck_until])
}

fn entry(io: &mut impl Words, c: &State, entry: &mut Entry, priorities: &[u64]) -> Done {
    small(io, &mut entry.bank, u64::from(c.channel.bank_count() - 1))?;
    small(io, &mut entry.row, u64::from(u32::MAX))?;
    io.word(&mut entry.address)?;
    small(io, &mut entry.source, priorities.len() as u64 - 1)?;
    let (mut is_write, mut counted) = (entry.is_write(), entry.is_counted());
    flag(io, &mut is_write)?;
    flag(io, &mut counted)?;
    *entry = entry.of_kind(is_write, counted);
    let priority = priorities[usize::from(entry.source)];
    for (value, most) in [(&mut entry.arrive, c.now), (&mut entry.sequence, c.sequence)] {
        io.word(value)?;
        require(*value >> PRIORITY_SHIFT == priority >> PRIORITY_SHIFT && *value & BELOW_PRIORITY <= most)?;
    }
    Ok(())
}

fn queue(io: &mut impl Words, c: &mut State, index: usize, priorities: &[u64]) -> Done {
    let entries: Vec<Entry> = c.queues[index].by_age().copied().collect();
    let len = count(io, entries.len(), usize::from(c.config.queue_depth))?;
    let mut queue = Queue::new(c.config.queue_depth);
    for at in 0..len {
        let mut of = entries.get(at).copied().unwrap_or(Entry::EMPTY);
        entry(io, c, &mut of, priorities)?;
        require(usize::from(of.is_write()) == index)?;
        queue.push(of, c.channel.open_row(of.bank));
    }
    c.queues[index] = queue;
    Ok(())
}

/// Requests whose row was opened for them.
fn actives(io: &mut impl Words, c: &mut State, priorities: &[u64]) -> Done {
    let words = (c.channel.bank_count() as usize).div_ceil(64);
    for (active, open) in c.active_banks.iter_mut().zip(&c.channel.open).take(words) {
        io.word(active)?;
        require(*active & !open == 0)?;
    }
    let mut active = vec![None; c.active.len()];
    for bank in (0..words).flat_map(|word| banks_of(word, c.active_banks[word])).collect::<Vec<_>>() {
        let mut of = c.active[bank].unwrap_or(Active { entry: Entry::EMPTY, order: 0 });
        entry(io, c, &mut of.entry, priorities)?;
        number(io, &mut of.order, c.activations)?;
        require(usize::from(of.entry.bank) == bank && c.channel.open_row(of.entry.bank) == Some(of.entry.row))?;
        active[bank] = Some(of);
    }
    c.active = active;
    Ok(())
}

/// What was decided and is not done yet.
fn decisions(io: &mut impl Words, c: &mut State, priorities: &[u64]) -> Done {
    flag(io, &mut c.write_mode)?;
    let mut halfway = c.activating.is_some();
    flag(io, &mut halfway)?;
    c.activating = if halfway {
        let mut of = c.activating.unwrap_or(Entry::EMPTY);
        entry(io, c, &mut of, priorities)?;
        let (word, bit) = spot(of.bank);
        let others =
            c.channel.activating.iter().enumerate().all(|(of, &banks)| banks == if of == word { bit } else { 0 });
        require(others && c.channel.banks.row[usize::from(of.bank)] == of.row)?;
        Some(of)
    } else {
        require(c.channel.activating.iter().all(|&banks| banks == 0))?;
        None
    };
    let mut word = match c.after_cas {
        Some(Choice::Active(bank)) => 1 | u64::from(bank) << 2,
        Some(Choice::Hit(bank)) => 2 | u64::from(bank) << 2,
        _ => 0,
    };
    number(io, &mut word, u64::from(c.channel.bank_count() - 1) << 2 | 3)?;
    let bank = (word >> 2) as u16;
    let (set, bit) = spot(bank);
    let hits = c.queues[usize::from(c.write_mode)].hits[set];
    c.after_cas = match word & 3 {
        0 => None,
        1 if c.active[usize::from(bank)].is_some() => Some(Choice::Active(bank)),
        2 if hits & bit != 0 => Some(Choice::Hit(bank)),
        _ => return Err(SnapshotError::Damaged),
    };
    Ok(())
}

fn statistics(io: &mut impl Words, s: &mut Statistics) -> Done {
    counts(io, [&mut s.reads_served, &mut s.writes_served, &mut s.reads_forwarded, &mut s.writes_merged])?;
    counts(io, [&mut s.row_hits, &mut s.row_misses, &mut s.row_conflicts])?;
    counts(io, s.commands.all_mut())?;
    counts(io, [&mut s.open_cycles])?;
    histogram(io, &mut s.read_latency)
}

fn source_statistics(io: &mut impl Words, s: &mut SourceStatistics) -> Done {
    counts(io, [&mut s.reads_served, &mut s.writes_served, &mut s.reads_forwarded, &mut s.writes_merged])?;
    counts(io, [&mut s.row_hits, &mut s.row_misses, &mut s.row_conflicts, &mut s.conflicts_with_others])?;
    histogram(io, &mut s.read_latency)
}

/// The buckets in use.
fn histogram(io: &mut impl Words, histogram: &mut Histogram) -> Done {
    let (buckets, sums) = histogram.parts_mut();
    counts(io, sums)?;
    let mut used: Vec<(u64, u64)> = (0..).zip(buckets.iter().copied()).filter(|(_, count)| *count > 0).collect();
    let len = count(io, used.len(), buckets.len())?;
    used.resize(len, (0, 0));
    buckets.fill(0);
    for (bucket, count) in &mut used {
        number(io, bucket, buckets.len() as u64 - 1)?;
        counts(io, [&mut *count])?;
        buckets[*bucket as usize] = *count;
    }
    Ok(())
}

fn completions(io: &mut impl Words, completions: &mut Completions, now: u64, sources: u64) -> Done {
    let mut all: VecDeque<Served> = completions.iter().copied().collect();
    // Beside those that wait, requests in the queues and on their way may follow.
    let len = count(io, all.len(), 2 * MOST_UNREAD)?;
    all.resize(len, Served { number: 0, source: 0, is_write: false, cycle: 0, latency: 0 });
    let mut last = 0;
    for served in &mut all {
        number(io, &mut served.number, BELOW_PRIORITY)?;
        small(io, &mut served.source, sources - 1)?;
        flag(io, &mut served.is_write)?;
        number(io, &mut served.cycle, now + AHEAD)?;
        number(io, &mut served.latency, served.cycle)?;
        require(std::mem::replace(&mut last, served.cycle) <= served.cycle)?;
    }
    completions.set(all);
    Ok(())
}
