//! The fast path: long contiguous reads, to the cycle the same as the exact path.
//!
//! An expert is streamed as one contiguous range. Its lines fall on the banks in a pattern that repeats every few rows,
//! and all-bank refreshes cut the time into intervals that begin with nearly the same state. At checkpoints the state
//! is written down without absolute times and rows; a state that was met before has a known future, and the controller
//! jumps:
//! - **stretches**: every few hundred lines, from one place in the pattern to the next, as long as no refresh falls
//!   due;
//! - **rounds**: from one refresh (of all ranks and banks) to the next;
//! - **whole reads** that begin in a known state with a known length.
//!
//! Nothing is approximated: what is jumped over was simulated before from an equal state, and equal states with equal
//! requests to come have equal futures. Ranges that never repeat run at the speed of the exact path.
use super::config::{Config, Refresh};
use super::controller::Controller;
use super::device::Device;
use super::error::{AddressError, ConfigError};
use super::request::Until;
use super::snapshot::{Frame, Horizon, decode, encode};
use super::statistics::{Part, Statistics};
use std::collections::HashMap;
use std::rc::Rc;

/// Most 32-bit words that stretches, rounds and whole reads may each take; beyond, they are forgotten. Together some 40
/// MB.
const MAX_WORDS: usize = 3_000_000;

/// About what a node and its place in the map take beside state and counts.
const NODE_WORDS: usize = 64;

/// Stretches that one refresh interval is cut into, about.
const STRETCHES_PER_REFRESH: u64 = 48;

/// From one checkpoint to the next of its kind.
#[derive(Debug, Clone)]
struct Segment {
    lines: u64,
    cycles: u64,
    part: Part,
    next: u32,
}

/// A state that was met, with its place in the pattern of addresses.
#[derive(Debug, Clone)]
struct Node {
    state: Rc<[u32]>,
    segment: Option<Segment>,
}

/// States of one kind of checkpoint and what follows them.
#[derive(Debug, Clone, Default)]
struct Memory {
    nodes: Vec<Node>,
    known: HashMap<Rc<[u32]>, u32>,
    /// Size of all of that.
    words: usize,
    /// Last checkpoint, if what follows it is not known yet: node, line and cycle.
    open: Option<(u32, u64, u64)>,
}

impl Memory {
    /// The node of `state`, new if it was not met before. `part` is what was counted since the last checkpoint: it is
    /// kept as the segment that ends here, if that was not known.
    fn arrive(&mut self, state: Vec<u32>, line: u64, cycle: u64, part: impl FnOnce() -> Part) -> u32 {
        if self.words > MAX_WORDS {
            *self = Self::default();
        }
        let at = match self.known.get(state.as_slice()) {
            Some(&node) => node,
            None => {
                let state: Rc<[u32]> = state.into();
                let node = self.nodes.len() as u32;
                self.words += state.len() + NODE_WORDS;
                self.nodes.push(Node { state: Rc::clone(&state), segment: None });
                self.known.insert(state, node);
                node
            }
        };
        if let Some((from, from_line, from_cycle)) = self.open.take() {
            let segment = Segment { lines: line - from_line, cycles: cycle - from_cycle, part: part(), next: at };
            self.words += segment.part.words();
            self.nodes[from as usize].segment = Some(segment);
        }
        at
    }

    /// Follows the known segments from `node` as long as there is always a next line to offer and they end before
    /// `limit`; returns where and when that led.
    fn follow(&mut self, node: u32, range: &mut Range, cycle: u64, limit: u64, counts: &mut Statistics) -> (u32, u64) {
        let (mut at, mut now) = (node, cycle);
        while let Some(segment) = &self.nodes[at as usize].segment
            && range.line + segment.lines < range.lines
            && now + segment.cycles < limit
        {
            counts.add(&segment.part);
            range.line += segment.lines;
            now += segment.cycles;
            at = segment.next;
        }
        if self.nodes[at as usize].segment.is_none() {
            self.open = Some((at, range.line, now));
        }
        (at, now)
    }
}

/// A whole read from an idle controller.
#[derive(Debug, Clone)]
struct WholeRead {
    cycles: u64,
    part: Part,
    end: Vec<u32>,
}

/// All that is remembered. Holds for every channel of one device and configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Recall {
    stretches: Memory,
    rounds: Memory,
    reads: HashMap<Vec<u32>, WholeRead>,
    reads_words: usize,
}

/// A channel that serves contiguous reads and remembers what it has seen.
///
/// After any sequence of [`Self::read`], [`Self::read_until`] and [`Self::idle_until`], cycle and statistics are those
/// of a [`Controller`] that served the same lines with [`Controller::run`].
#[derive(Debug, Clone)]
pub struct FastChannel {
    controller: Controller,
    /// Bytes and rows after which the pattern of banks and columns repeats.
    period: Option<(u64, u32)>,
    /// Bytes of a stretch.
    stretch: u64,
    pub(super) recall: Recall,
    /// Counts since the last stretch are in the controller; before that since the last round, in this read, and in all.
    in_round: Statistics,
    in_read: Statistics,
    total: Statistics,
    simulated_lines: u64,
}

/// A read on its way.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u64,
    lines: u64,
    /// Next line to offer.
    line: u64,
}

impl FastChannel {
    /// An idle channel at cycle 0.
    ///
    /// # Errors
    /// As [`Controller::new`].
    pub fn new(device: &Device, config: Config) -> Result<Self, ConfigError> {
        let controller = Controller::new(device, config)?;
        let period = controller.map.period();
        let buses = if device.pseudo_channels { device.organisation.ranks } else { 1 };
        let lines_per_refresh = u64::from(device.timing.n_refi / device.timing.n_bl * buses);
        let stretch = (lines_per_refresh / STRETCHES_PER_REFRESH).max(1).next_power_of_two();
        let period_bytes = period.map_or(u64::MAX, |(bytes, _)| bytes);
        let stretch = if config.refresh == Refresh::None { u64::MAX } else { stretch * controller.map.access_bytes() };
        Ok(Self {
            period,
            stretch: stretch.min(period_bytes),
            controller,
            recall: Recall::default(),
            in_round: Statistics::default(),
            in_read: Statistics::default(),
            total: Statistics::default(),
            simulated_lines: 0,
        })
    }

    /// Current cycle: the end of the last data, or where [`Self::idle_until`] went.
    pub const fn cycle(&self) -> u64 {
        self.controller.cycle()
    }

    /// Current time in picoseconds.
    pub const fn time_ps(&self) -> u64 {
        self.controller.time_ps()
    }

    /// All counts since the start.
    pub const fn statistics(&self) -> &Statistics {
        &self.total
    }

    /// Rate of the data served so far in GB/s (10^9 bytes), over all cycles since the start.
    pub fn bandwidth_gb_s(&self) -> f64 {
        if self.cycle() == 0 {
            return 0.0;
        }
        (self.total.reads_served * self.controller.map.access_bytes()) as f64 / self.time_ps() as f64 * 1e3
    }

    /// Lines that had to be simulated one by one; the others were jumped over.
    pub const fn simulated_lines(&self) -> u64 {
        self.simulated_lines
    }

    /// Lets time pass without reads up to `cycle`.
    pub fn idle_until(&mut self, cycle: u64) {
        self.controller.idle_until(cycle);
        let part = self.controller.take_counts();
        self.total.add(&part);
    }

    /// Bytes of the channel.
    pub const fn capacity(&self) -> u64 {
        self.controller.map.capacity()
    }

    /// Bytes of one access.
    pub const fn access_bytes(&self) -> u64 {
        self.controller.map.access_bytes()
    }

    /// Bytes after which the pattern of banks and columns repeats; `None` if it never does. Reads that begin at
    /// multiples of it are recognised soonest.
    pub fn alignment(&self) -> Option<u64> {
        self.period.map(|(bytes, _)| bytes)
    }

    /// Reads `bytes` bytes from `start` on, rounded up to whole accesses, and waits for the last data.
    ///
    /// # Errors
    /// An unaligned start, or an end beyond the channel; nothing was read.
    pub fn read(&mut self, start: u64, bytes: u64) -> Result<(), AddressError> {
        self.read_until(start, bytes, Until::Served)
    }

    /// As [`Self::read`], and stops when the last line is accepted or served, as asked. Reads that follow each other
    /// until accepted are one stream: cycle and statistics are those of one [`Controller::run`] over all of them.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_until(&mut self, start: u64, bytes: u64, until: Until) -> Result<(), AddressError> {
        let map = &self.controller.map;
        let lines = bytes.div_ceil(map.access_bytes());
        map.check(start)?;
        if let Some(last) = lines.checked_sub(1) {
            let address = start.saturating_add(last.saturating_mul(map.access_bytes()));
            map.check(address).map_err(|_| AddressError::OutOfRange { address, capacity: map.capacity() })?;
        }
        let range = Range { start, lines, line: 0 };
        let frame = self.frame(&range).filter(|_| until == Until::Served);
        let key = frame.and_then(|frame| self.read_key(frame, &range));
        if let (Some(frame), Some(whole)) = (frame, key.as_ref().and_then(|key| self.recall.reads.get(key))) {
            let end = self.controller.state.now + whole.cycles;
            decode(&mut self.controller.state, &whole.end, frame, Horizon::Refreshes, end);
            self.total.add(&whole.part);
            return Ok(());
        }
        let begin = self.controller.state.now;
        self.simulate(range, until);
        let part = self.in_read.take();
        self.total.add(&part);
        if let (Some(key), Some(frame)) = (key, frame)
            && let Some(end) = encode(&self.controller.state, frame, Horizon::Refreshes)
        {
            if self.recall.reads_words > MAX_WORDS {
                self.recall.reads.clear();
                self.recall.reads_words = 0;
            }
            self.recall.reads_words += key.len() + end.len() + part.words() + NODE_WORDS;
            self.recall.reads.insert(key, WholeRead { cycles: self.controller.state.now - begin, part, end });
        }
        Ok(())
    }

    /// Address of the next line.
    fn address(&self, range: &Range) -> u64 {
        range.start + range.line * self.controller.map.access_bytes()
    }

    /// Rows are counted from the period that holds the next line.
    fn frame(&self, range: &Range) -> Option<Frame> {
        let (bytes, rows) = self.period?;
        let end = (range.start + range.lines * self.controller.map.access_bytes()).div_ceil(bytes);
        let row = |period: u64| period as i64 * i64::from(rows);
        let base_row = row(self.address(range) / bytes);
        Some(Frame { base_row, first: row(range.start / bytes) - base_row, end: row(end) - base_row })
    }

    /// State and place in the pattern.
    fn state(&self, range: &Range, horizon: Horizon) -> Option<Vec<u32>> {
        let mut words = encode(&self.controller.state, self.frame(range)?, horizon)?;
        let place = self.address(range) % self.period?.0;
        words.extend([place as u32, (place >> 32) as u32]);
        Some(words)
    }

    /// State, place in the pattern and length of a whole read.
    fn read_key(&self, frame: Frame, range: &Range) -> Option<Vec<u32>> {
        debug_assert_eq!(Some(frame), self.frame(range));
        let mut key = self.state(range, Horizon::Refreshes)?;
        key.extend([range.lines as u32, (range.lines >> 32) as u32]);
        Some(key)
    }

    /// Serves the lines, jumping where the future is known.
    fn simulate(&mut self, mut range: Range, until: Until) {
        (self.recall.stretches.open, self.recall.rounds.open) = (None, None);
        let round = self.controller.state.refresh_round();
        let mut refreshes = self.controller.state.refresh_turn;
        let mut stretch = self.address(&range) / self.stretch;
        loop {
            let mut retry = u64::MAX;
            while range.line < range.lines {
                let entry = self.controller.entry(self.address(&range), false, 0);
                if let Err(busy) = self.controller.accept(&entry) {
                    retry = self.controller.retry(busy);
                    break;
                }
                range.line += 1;
                self.simulated_lines += 1;
            }
            if range.line == range.lines && (until == Until::Accepted || self.controller.is_idle()) {
                break;
            }
            let wake = self.controller.wake();
            self.controller.advance(retry.min(wake));
            if range.line == range.lines {
                continue;
            }
            if self.controller.state.refresh_turn != refreshes {
                self.recall.stretches.open = None; // What follows its start depends on when the refresh came.
                if self.controller.state.refresh_turn / round != refreshes / round {
                    self.round(&mut range);
                }
                refreshes = self.controller.state.refresh_turn;
                stretch = self.address(&range) / self.stretch;
            } else if self.controller.state.refreshes_waiting > 0 {
                self.recall.stretches.open = None;
            } else if self.address(&range) / self.stretch != stretch {
                self.stretch(&mut range);
                stretch = self.address(&range) / self.stretch;
            }
        }
        if until == Until::Served {
            self.controller.advance(self.controller.state.last_data);
        }
        let part = self.controller.take_counts();
        self.in_round.add(&part);
        let part = self.in_round.take();
        self.in_read.add(&part);
    }

    /// A stretch ends: learns it, and jumps along known stretches while no refresh falls due.
    fn stretch(&mut self, range: &mut Range) {
        let state = self.state(range, Horizon::NextRefresh);
        let part = self.controller.take_counts();
        self.in_round.add(&part);
        let Some(state) = state else {
            self.recall.stretches.open = None;
            return;
        };
        let cycle = self.controller.state.now;
        let at = self.recall.stretches.arrive(state, range.line, cycle, || part);
        let at = self.recall.stretches.follow(at, range, cycle, self.controller.state.next_refresh, &mut self.in_round);
        self.land(at, cycle, range, Horizon::NextRefresh);
    }

    /// A round of refreshes ends: learns it, and jumps along known rounds.
    fn round(&mut self, range: &mut Range) {
        let state = self.state(range, Horizon::Refreshes);
        let part = self.controller.take_counts();
        self.in_round.add(&part);
        let part = self.in_round.take();
        self.in_read.add(&part);
        let Some(state) = state else {
            self.recall.rounds.open = None;
            return;
        };
        let cycle = self.controller.state.now;
        let at = self.recall.rounds.arrive(state, range.line, cycle, || part);
        let at = self.recall.rounds.follow(at, range, cycle, u64::MAX, &mut self.in_read);
        self.land(at, cycle, range, Horizon::Refreshes);
    }

    /// Puts the controller into the state of a node, if a jump led there.
    fn land(&mut self, (node, cycle): (u32, u64), from_cycle: u64, range: &Range, horizon: Horizon) {
        if let (true, Some(frame)) = (cycle != from_cycle, self.frame(range)) {
            let memory = if horizon == Horizon::Refreshes { &self.recall.rounds } else { &self.recall.stretches };
            decode(&mut self.controller.state, &memory.nodes[node as usize].state, frame, horizon, cycle);
        }
    }
}
