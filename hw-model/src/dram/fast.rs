//! The fast path: long contiguous reads, to the cycle the same as the exact path.
//!
//! An expert is streamed as one contiguous range. Its lines fall on the banks in a pattern that repeats every few rows, and all-bank
//! refreshes cut the time into intervals that begin with nearly the same state. So at every checkpoint (when the refreshes come
//! round; without refresh, when the pattern of addresses begins anew) the state is written down without absolute times and rows. A
//! state that was seen before has a known future: the controller jumps to the next checkpoint, and on along the chain of known
//! states. A whole read that begins in a known state with the same length is answered at once.
//!
//! Nothing is approximated: what is jumped over was simulated before from an equal state, and equal states with equal requests to
//! come have equal futures. Ranges that never repeat run at the speed of the exact path.
use super::config::Config;
use super::controller::Controller;
use super::device::Device;
use super::error::{AddressError, ConfigError};
use super::snapshot::{Frame, decode, encode};
use super::statistics::{Part, Statistics};
use std::collections::HashMap;
use std::rc::Rc;

/// Most states, and most whole reads, that are remembered; then all is forgotten. Bounds the memory to some 40 MB.
const MAX_REMEMBERED: usize = 6_000;

/// A state with the place in the pattern of addresses where it was met.
type Key = Rc<[u32]>;

/// From one checkpoint to the next.
#[derive(Debug, Clone)]
struct Segment {
    lines: u64,
    cycles: u64,
    part: Part,
    next: u32,
}

#[derive(Debug, Clone)]
struct Node {
    state: Key,
    segment: Option<Segment>,
}

/// A whole read from an idle controller.
#[derive(Debug, Clone)]
struct WholeRead {
    cycles: u64,
    part: Part,
    end: Vec<u32>,
}

/// A checkpoint from which the segment is not known yet.
#[derive(Debug, Clone, Copy)]
struct Open {
    node: u32,
    line: u64,
    cycle: u64,
}

/// A channel that serves contiguous reads and remembers what it has seen.
///
/// After any sequence of [`Self::read`] and [`Self::idle_until`], cycle and statistics are those of a [`Controller`] that served
/// the same lines with [`Controller::run`] until [`super::Until::Served`].
#[derive(Debug, Clone)]
pub struct FastChannel {
    controller: Controller,
    /// Everything but what the controller has counted since the last checkpoint.
    total: Statistics,
    /// Bytes and rows after which the pattern of banks and columns repeats.
    period: Option<(u64, u32)>,
    nodes: Vec<Node>,
    known: HashMap<Key, u32>,
    reads: HashMap<Vec<u32>, WholeRead>,
    simulated_lines: u64,
}

impl FastChannel {
    /// An idle channel at cycle 0.
    ///
    /// # Errors
    /// As [`Controller::new`].
    pub fn new(device: &Device, config: Config) -> Result<Self, ConfigError> {
        let controller = Controller::new(device, config)?;
        Ok(Self {
            period: controller.map.period(),
            controller,
            total: Statistics::default(),
            nodes: Vec::new(),
            known: HashMap::new(),
            reads: HashMap::new(),
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

    /// Lines that had to be simulated one by one; the others were jumped over.
    pub const fn simulated_lines(&self) -> u64 {
        self.simulated_lines
    }

    /// Lets time pass without reads up to `cycle`.
    pub fn idle_until(&mut self, cycle: u64) {
        self.controller.idle_until(cycle);
        let part = self.controller.statistics.take();
        self.total.add(&part);
    }

    /// Reads `bytes` bytes from `start` on, rounded up to whole accesses, and waits for the last data.
    ///
    /// # Errors
    /// An unaligned start, or an end beyond the channel; nothing was read.
    pub fn read(&mut self, start: u64, bytes: u64) -> Result<(), AddressError> {
        let map = &self.controller.map;
        let lines = bytes.div_ceil(map.access_bytes());
        map.check(start)?;
        if let Some(last) = lines.checked_sub(1) {
            let address = start.saturating_add(last.saturating_mul(map.access_bytes()));
            map.check(address).map_err(|_| AddressError::OutOfRange { address, capacity: map.capacity() })?;
        }
        let frame = self.frame(start, start, lines);
        let key = frame.and_then(|frame| self.read_key(frame, start, lines));
        if let (Some(frame), Some(whole)) = (frame, key.as_ref().and_then(|key| self.reads.get(key))) {
            let end = self.controller.now + whole.cycles;
            decode(&mut self.controller, &whole.end, frame, end);
            self.total.add(&whole.part);
            return Ok(());
        }
        let begin = self.controller.now;
        let mut run = Statistics::default();
        self.simulate(start, lines, &mut run);
        let part = run.take();
        self.total.add(&part);
        if let (Some(key), Some(frame)) = (key, frame)
            && let Some(end) = encode(&self.controller, frame)
        {
            if self.reads.len() >= MAX_REMEMBERED {
                self.reads.clear();
            }
            self.reads.insert(key, WholeRead { cycles: self.controller.now - begin, part, end });
        }
        Ok(())
    }

    /// Rows are counted from the period that holds `address`, in a read of `lines` lines from `start`.
    fn frame(&self, address: u64, start: u64, lines: u64) -> Option<Frame> {
        let (bytes, rows) = self.period?;
        let end = (start + lines * self.controller.map.access_bytes()).div_ceil(bytes);
        let row = |period: u64| period as i64 * i64::from(rows);
        let base_row = row(address / bytes);
        Some(Frame { base_row, first: row(start / bytes) - base_row, end: row(end) - base_row })
    }

    /// State, place in the pattern and length of a whole read.
    fn read_key(&self, frame: Frame, start: u64, lines: u64) -> Option<Vec<u32>> {
        let mut key = encode(&self.controller, frame)?;
        let place = start % self.period?.0;
        key.extend([place as u32, (place >> 32) as u32, lines as u32, (lines >> 32) as u32]);
        Some(key)
    }

    /// Serves the lines, jumping where the future is known.
    fn simulate(&mut self, start: u64, lines: u64, run: &mut Statistics) {
        let access = self.controller.map.access_bytes();
        let (mut line, mut open) = (0, None);
        let mut turn = self.controller.refresh_turn;
        let mut period_begun = false;
        loop {
            while line < lines && self.controller.offers_left > 0 {
                let address = start + line * access;
                let entry = self.controller.entry(address, false);
                if !self.controller.offer(&entry) {
                    break;
                }
                self.controller.offers_left -= 1;
                line += 1;
                self.simulated_lines += 1;
                period_begun |= self.period.is_some_and(|(bytes, _)| (address + access).is_multiple_of(bytes));
            }
            if line == lines && self.controller.is_idle() {
                break;
            }
            self.controller.step((line < lines).then_some((0, false)));
            let round = self.controller.refresh_round();
            let refreshed = self.controller.refresh_turn / round != turn / round;
            turn = self.controller.refresh_turn;
            let due = if self.controller.next_refresh == u64::MAX { period_begun } else { refreshed };
            if due && line < lines {
                line = self.checkpoint(start, line, lines, &mut open, run);
                turn = self.controller.refresh_turn;
                period_begun = false;
            }
        }
        if self.controller.last_data > self.controller.now {
            self.controller.idle_until(self.controller.last_data);
        }
        run.add(&self.controller.statistics.take());
    }

    /// Learns the segment that ends here and jumps along known segments; returns the next line to offer.
    fn checkpoint(&mut self, start: u64, line: u64, lines: u64, open: &mut Option<Open>, run: &mut Statistics) -> u64 {
        let part = self.controller.statistics.take();
        run.add(&part);
        if self.nodes.len() >= MAX_REMEMBERED {
            self.nodes.clear();
            self.known.clear();
            *open = None;
        }
        let Some(mut at) = self.node_of(start, line, lines) else {
            *open = None;
            return line;
        };
        let (mut line, mut cycle) = (line, self.controller.now);
        if let Some(from) = open.take() {
            let segment = Segment { lines: line - from.line, cycles: cycle - from.cycle, part, next: at };
            self.nodes[from.node as usize].segment = Some(segment);
        }
        let first = at;
        // The known future holds as long as there was always a next line to offer.
        while let Some(segment) = &self.nodes[at as usize].segment
            && line + segment.lines < lines
        {
            run.add(&segment.part);
            line += segment.lines;
            cycle += segment.cycles;
            at = segment.next;
        }
        let address = start + line * self.controller.map.access_bytes();
        if let (true, Some(frame)) = (at != first || cycle != self.controller.now, self.frame(address, start, lines)) {
            decode(&mut self.controller, &self.nodes[at as usize].state, frame, cycle);
        }
        if self.nodes[at as usize].segment.is_none() {
            *open = Some(Open { node: at, line, cycle });
        }
        line
    }

    /// The node of the current state, new if it was not met before.
    fn node_of(&mut self, start: u64, line: u64, lines: u64) -> Option<u32> {
        let address = start + line * self.controller.map.access_bytes();
        let frame = self.frame(address, start, lines)?;
        let mut words = encode(&self.controller, frame)?;
        let place = address % self.period?.0;
        words.extend([place as u32, (place >> 32) as u32]);
        let state: Key = words.into();
        if let Some(&node) = self.known.get(&state) {
            return Some(node);
        }
        let node = self.nodes.len() as u32;
        self.nodes.push(Node { state: Rc::clone(&state), segment: None });
        self.known.insert(state, node);
        Some(node)
    }
}
