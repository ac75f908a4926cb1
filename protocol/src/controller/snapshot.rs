//! A layer's state in words that a host can keep and put back, in this or in another generation of the device.
//!
//! | words | what |
//! |---|---|
//! | 0 | magic number, with a version |
//! | 1 | experts; in the upper half 1: a prompt is being observed, 2: experts were placed |
//! | 2 to 15 | seven counters of 64 bits, low half first |
//! | 3 `W` | sets of `W = E / 32` words, rounded up: resident, being loaded, run by the last token |
//! | `E / 4`, rounded up | bits per weight near the data, a byte each |
//! | 11 | tracker beside its levels, where no prompt is being observed |
//! | 2 `E` | levels, or what the prompt has asked |
//! | 1 | check word over all before |
//!
//! The bias of its router is the host's, which sends it again.

use cptr_core::placement::Demand;
use cptr_core::tracker::SAVED;
use cptr_core::{ExpertSet, Metrics, ScaledLevels, Tracker, words_for};

use super::layer::{Layer, Wanted};
use crate::region::{CHECK_START, check_step};
use crate::wire::{PART, Part, Status};

/// "cpL", and a version.
const MAGIC: u32 = u32::from_le_bytes(*b"cpL\x01");
/// Words before the sets.
const HEAD: usize = 16;
const PROMPT: u32 = 1;
const PLACED: u32 = 2;

/// How far a layer has been put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Restoring {
    layer: u16,
    /// Words so far.
    words: usize,
    /// Of them.
    sum: u32,
    tracker: [u32; SAVED],
}

/// Where a word lies.
enum Place {
    Magic,
    Head,
    Counter(usize),
    /// One of three sets, and a word of it.
    Set(usize, usize),
    Bits(usize),
    Tracker(usize),
    Level(usize),
    Sum,
}

/// The place of a word, `None` beyond the last.
// Asked for in three places, and rarely: its code is there once.
#[inline(never)]
fn place(word: usize, experts: usize, prompt: bool) -> Option<Place> {
    let mut rest = word;
    let mut within = |length: usize| {
        let found = (rest < length).then_some(rest);
        rest = rest.saturating_sub(length);
        found
    };
    let sets = words_for(experts);
    if let Some(word) = within(HEAD) {
        return Some(match word {
            0 => Place::Magic,
            1 => Place::Head,
            word => Place::Counter(word.saturating_sub(2)),
        });
    }
    for set in 0..3 {
        if let Some(word) = within(sets) {
            return Some(Place::Set(set, word));
        }
    }
    if let Some(word) = within(experts.div_ceil(4)) {
        return Some(Place::Bits(word));
    }
    if let Some(word) = within(if prompt { 0 } else { SAVED }) {
        return Some(Place::Tracker(word));
    }
    if let Some(word) = within(experts.saturating_mul(2)) {
        return Some(Place::Level(word));
    }
    within(1).map(|_| Place::Sum)
}

/// The seven counters.
fn counters(metrics: &mut Metrics) -> [&mut u64; 7] {
    let Metrics { tokens, runs, misses, substituted, runs_with_predecessor, switches, lost_locks } = metrics;
    [tokens, runs, misses, substituted, runs_with_predecessor, switches, lost_locks]
}

/// Half of a number of 64 bits.
const fn half(value: u64, upper: bool) -> u32 {
    if upper { (value >> 32) as u32 } else { value as u32 }
}

fn with_half(value: u64, upper: bool, half: u32) -> u64 {
    let half = u64::from(half);
    if upper { value & 0xFFFF_FFFF | half << 32 } else { value >> 32 << 32 | half }
}

/// A demand's bits: tokens, and above 22 bits the sum of their weights.
const COUNT_BITS: u32 = 22;

fn bits_of(demand: Demand) -> u64 {
    u64::from(demand.count()) | demand.score() << COUNT_BITS
}

impl<const E: usize, const W: usize> Layer<E, W> {
    /// Words of a part of the state, `None` beyond the last part.
    #[inline(never)]
    pub(super) fn part(&mut self, part: usize) -> Option<heapless::Vec<u32, PART>> {
        let first = part.saturating_mul(PART);
        let mut words = heapless::Vec::new();
        let mut sum = CHECK_START;
        // The check word is over all before: they are gone through again for the last part.
        for index in 0..first.saturating_add(PART) {
            let Some(word) = self.word(index, sum) else { break };
            sum = check_step(sum, word);
            if index >= first {
                let _ = words.push(word);
            }
        }
        (!words.is_empty()).then_some(words)
    }

    /// A word of the state, where those before it have a check word.
    fn word(&mut self, index: usize, sum: u32) -> Option<u32> {
        let experts = self.bits.len();
        let prompt = matches!(self.wanted, Wanted::Prompt(_));
        Some(match place(index, experts, prompt)? {
            Place::Magic => MAGIC,
            Place::Head => {
                let flags = if prompt { PROMPT } else { 0 } | if self.placed { PLACED } else { 0 };
                experts as u32 | flags << 16
            }
            Place::Counter(word) => {
                let counters = counters(&mut self.metrics);
                counters.get(word / 2).map_or(0, |counter| half(**counter, word % 2 == 1))
            }
            Place::Set(set, word) => {
                let sets = [&self.resident, &self.loading, &self.previous];
                sets.get(set).and_then(|set| set.words().get(word)).copied().unwrap_or(0)
            }
            Place::Bits(word) => {
                let bytes = self.bits.iter().skip(word.saturating_mul(4)).take(4);
                bytes.rev().fold(0, |value, &bits| value << 8 | u32::from(bits))
            }
            Place::Tracker(word) => match &self.wanted {
                Wanted::Tokens(tracker) => tracker.saved().get(word).copied().unwrap_or(0),
                Wanted::Prompt(_) => 0,
            },
            Place::Level(word) => match &self.wanted {
                Wanted::Tokens(tracker) => tracker.saved_level(word).unwrap_or(0),
                Wanted::Prompt(demand) => {
                    demand.get(word / 2).map_or(0, |&demand| half(bits_of(demand), word % 2 == 1))
                }
            },
            Place::Sum => sum,
        })
    }

    /// Whether the layer is being put back.
    pub(super) const fn partial(&self) -> bool {
        self.partial
    }

    /// Puts a part back, where `restoring` is the layer that was begun last. The first one forgets what there was.
    #[inline(never)]
    pub(super) fn restore(
        &mut self,
        part: Part,
        words: &[u32],
        most_bits: u8,
        restoring: &mut Option<Restoring>,
    ) -> Result<(), Status> {
        let experts = self.bits.len();
        let (layer, part) = (part.layer.get(), usize::from(part.part.get()));
        let first = part.saturating_mul(PART);
        let before = match *restoring {
            _ if part == 0 => {
                let &[MAGIC, head, ..] = words else { return Err(Status::Version) };
                if head & 0xFFFF != experts as u32 || head >> 16 > PROMPT + PLACED {
                    return Err(Status::Value);
                }
                Restoring { layer, words: 0, sum: CHECK_START, tracker: [0; SAVED] }
            }
            Some(known) if known.layer == layer && known.words == first => known,
            _ => return Err(Status::Order),
        };
        let prompt = if part == 0 {
            words.get(1).is_some_and(|head| head >> 16 & PROMPT != 0)
        } else {
            matches!(self.wanted, Wanted::Prompt(_))
        };
        let mut now = before;
        let mut whole = false;
        // Checked first, so that a part which is refused changes nothing.
        for &word in words {
            match place(now.words, experts, prompt) {
                Some(Place::Sum) if word != now.sum => return Err(Status::Value),
                Some(Place::Sum) => whole = true,
                Some(Place::Bits(index)) => {
                    let count = experts.saturating_sub(index.saturating_mul(4)).min(4);
                    let bytes = word.to_le_bytes();
                    let (used, unused) = bytes.split_at_checked(count).ok_or(Status::Value)?;
                    let fits = used.iter().all(|bits| (1..=most_bits).contains(bits));
                    if !fits || unused.iter().any(|&byte| byte != 0) {
                        return Err(Status::Value);
                    }
                }
                Some(Place::Set(_, index)) => {
                    let ids = experts.saturating_sub(index.saturating_mul(32)).min(32) as u32;
                    if u64::from(word) >> ids != 0 {
                        return Err(Status::Id);
                    }
                }
                Some(Place::Tracker(index)) => {
                    if let Some(place) = now.tracker.get_mut(index) {
                        *place = word;
                    }
                }
                Some(_) => {}
                None => return Err(Status::Length),
            }
            now.sum = check_step(now.sum, word);
            now.words = now.words.saturating_add(1);
        }
        if words.len() != PART && !whole {
            return Err(Status::Length);
        }
        // The tracker's words lie before the levels: it is whole when the layer is.
        if whole && !prompt && !Tracker::<[ScaledLevels; 0]>::new().restore(&now.tracker) {
            return Err(Status::Value);
        }
        if part == 0 {
            self.begin_restoring(prompt);
        }
        for (&word, index) in words.iter().zip(first..) {
            self.set_word(index, prompt, word);
        }
        if let (Wanted::Tokens(tracker), true) = (&mut self.wanted, whole) {
            tracker.restore(&now.tracker);
        }
        self.partial = !whole;
        *restoring = (!whole).then_some(now);
        Ok(())
    }

    fn begin_restoring(&mut self, prompt: bool) {
        let experts = self.bits.len();
        self.wanted.begin_tokens(experts);
        if prompt {
            let _ = self.wanted.prompt(experts);
        }
        (self.resident, self.loading, self.previous) = (ExpertSet::new(), ExpertSet::new(), ExpertSet::new());
    }

    fn set_word(&mut self, index: usize, prompt: bool, value: u32) {
        match place(index, self.bits.len(), prompt) {
            Some(Place::Head) => self.placed = value >> 16 & PLACED != 0,
            Some(Place::Counter(word)) => {
                if let Some(counter) = counters(&mut self.metrics).get_mut(word / 2) {
                    **counter = with_half(**counter, word % 2 == 1, value);
                }
            }
            Some(Place::Set(set, word)) => {
                let base = word.saturating_mul(32);
                let set = match set {
                    0 => &mut self.resident,
                    1 => &mut self.loading,
                    _ => &mut self.previous,
                };
                let ids = (0..32).filter(|bit| value >> bit & 1 != 0);
                ids.for_each(|bit| _ = set.insert(base.saturating_add(bit) as u16));
            }
            Some(Place::Bits(word)) => {
                let bits = self.bits.iter_mut().skip(word.saturating_mul(4));
                bits.zip(value.to_le_bytes()).for_each(|(bits, byte)| *bits = byte);
            }
            Some(Place::Level(word)) => match &mut self.wanted {
                Wanted::Tokens(tracker) => _ = tracker.restore_level(word, value),
                Wanted::Prompt(demand) => {
                    if let Some(demand) = demand.get_mut(word / 2) {
                        let bits = with_half(bits_of(*demand), word % 2 == 1, value);
                        let count = bits as u32 & ((1 << COUNT_BITS) - 1);
                        *demand = Demand::new(count, bits >> COUNT_BITS);
                    }
                }
            },
            _ => {}
        }
    }
}
