//! Frames through a ring in memory that two ends share: one puts in, the other takes out.
//!
//! | line of 16 words | written by | words |
//! |---|---|---|
//! | 0 | producer | 0: frames put in, modulo 2^32 |
//! | 1 | consumer | 0: frames taken out, modulo 2^32; 1: whether it wants to be called (not 0) |
//! | 2 + i n | producer | slot i of n lines: bytes of the frame, then the frame in little-endian words |
//!
//! Each end keeps its own index for itself and only tells it: what the other end, or a fault, writes over it is never
//! read back and is gone with the next frame. Of the other's index each believes only what can be. A frame is copied
//! out before it is looked at.
//!
//! | store | before |
//! |---|---|
//! | frame into its slot (cleaned) | `put` (release) |
//! | `put` (release, cleaned, [`Platform::publish`]) | load of "wants to be called", doorbell |
//! | load of the frame | `taken` (release) |
//! | "wants to be called" (cleaned, [`Platform::publish`]) | the last look at `put` before waiting |

use crate::platform::Platform;
use crate::sync::{AtomicU32, Ordering, release};

/// Words of a line of 64 bytes: what one end writes and the other reads has lines of its own.
pub const LINE: usize = 16;
/// Words of the answer to a token that count instructions, which hardware has not: behind the frame's header two of the
/// decision.
#[cfg(not(loom))]
const COUNTS: [usize; 2] = [6, 7];
/// Words before the slots.
const HEAD: usize = 2 * LINE;
/// Most slots: more than an index can tell apart is far away.
pub const MAX_SLOTS: usize = 1 << 15;

/// Words of a slot for frames of at most `bytes` bytes.
const fn slot_words(bytes: usize) -> usize {
    bytes.div_ceil(4).saturating_add(1).div_ceil(LINE).saturating_mul(LINE)
}

/// Words of memory for a ring of `slots` frames of at most `bytes` bytes.
pub const fn words(slots: usize, bytes: usize) -> usize {
    slot_words(bytes).saturating_mul(slots).saturating_add(HEAD)
}

/// The memory does not hold a ring, or the other end has written what it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

/// A ring as it lies in memory.
#[derive(Debug, Clone, Copy)]
struct Ring<'a> {
    /// Lines of the producer and of the consumer.
    producer: &'a [AtomicU32],
    consumer: &'a [AtomicU32],
    put: &'a AtomicU32,
    taken: &'a AtomicU32,
    wanted: &'a AtomicU32,
    slots: &'a [AtomicU32],
    count: usize,
    /// Words of a slot.
    slot: usize,
    /// Most bytes of a frame.
    bytes: usize,
}

impl<'a> Ring<'a> {
    /// A ring of `slots` frames, a power of two up to [`MAX_SLOTS`], of at most `bytes` bytes at the start of `memory`.
    fn new(memory: &'a [AtomicU32], slots: usize, bytes: usize) -> Result<Self, Corrupt> {
        let (producer, rest) = memory.split_at_checked(LINE).ok_or(Corrupt)?;
        let (consumer, rest) = rest.split_at_checked(LINE).ok_or(Corrupt)?;
        let ([put, ..], [taken, wanted, ..]) = (producer, consumer) else { return Err(Corrupt) };
        let slot = slot_words(bytes);
        if !slots.is_power_of_two() || slots > MAX_SLOTS {
            return Err(Corrupt);
        }
        let slot_memory = rest.get(..slot.saturating_mul(slots)).ok_or(Corrupt)?;
        Ok(Self { producer, consumer, put, taken, wanted, slots: slot_memory, count: slots, slot, bytes })
    }

    /// The slot of the frame with number `index`.
    fn slot(&self, index: u32) -> Result<&'a [AtomicU32], Corrupt> {
        let start = (index as usize & self.count.wrapping_sub(1)).saturating_mul(self.slot);
        self.slots.get(start..).and_then(|rest| rest.get(..self.slot)).ok_or(Corrupt)
    }

    /// Frames between two indices.
    const fn between(&self, put: u32, taken: u32) -> Result<usize, Corrupt> {
        let waiting = put.wrapping_sub(taken) as usize;
        if waiting <= self.count { Ok(waiting) } else { Err(Corrupt) }
    }
}

/// The end that puts frames in.
#[derive(Debug)]
pub struct Producer<'a> {
    ring: Ring<'a>,
    /// Frames put in so far.
    put: u32,
}

impl<'a> Producer<'a> {
    /// The end of a ring of `slots` frames, a power of two, of at most `bytes` bytes at the start of `memory`; empties
    /// it. The other end is told to begin anew, too.
    ///
    /// # Errors
    /// [`Corrupt`] if the memory does not hold it.
    pub fn new(platform: &impl Platform, memory: &'a [AtomicU32], slots: usize, bytes: usize) -> Result<Self, Corrupt> {
        let ring = Ring::new(memory, slots, bytes)?;
        ring.put.store(0, Ordering::Release);
        platform.clean(ring.producer);
        Ok(Self { ring, put: 0 })
    }

    /// Whether there is no room for a frame.
    ///
    /// # Errors
    /// [`Corrupt`] if the consumer's index cannot be.
    pub fn is_full(&self, platform: &impl Platform) -> Result<bool, Corrupt> {
        platform.invalidate(self.ring.consumer);
        let taken = self.ring.taken.load(Ordering::Acquire);
        self.ring.between(self.put, taken).map(|waiting| waiting == self.ring.count)
    }

    /// Puts a frame in: `None` if there was no room, else whether the consumer wants to be called.
    ///
    /// # Errors
    /// [`Corrupt`] if the consumer's index cannot be, or the frame is longer than a slot.
    pub fn put(&mut self, platform: &impl Platform, frame: &[u8]) -> Result<Option<bool>, Corrupt> {
        let ring = self.ring;
        if self.is_full(platform)? {
            return Ok(None);
        }
        let slot = ring.slot(self.put)?;
        let [length, words @ ..] = slot else { return Err(Corrupt) };
        if frame.len() > ring.bytes {
            return Err(Corrupt);
        }
        length.store(frame.len() as u32, Ordering::Relaxed);
        let (whole, rest) = frame.as_chunks::<4>();
        match bytemuck::try_cast_slice::<[u8; 4], u32>(whole) {
            Ok(whole) => {
                words.iter().zip(whole).for_each(|(word, &value)| word.store(u32::from_le(value), Ordering::Relaxed));
            }
            // Byte by byte where a processor does not load words from anywhere.
            Err(_) => words.iter().zip(whole).for_each(|(word, bytes)| {
                word.store(u32::from_le_bytes(*bytes), Ordering::Relaxed);
            }),
        }
        if let Some(word) = words.get(whole.len()) {
            let value = rest.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            word.store(value, Ordering::Relaxed);
        }
        platform.clean(slot);
        self.put = self.put.wrapping_add(1);
        // After the frame itself.
        ring.put.store(self.put, release());
        platform.clean(ring.producer);
        // Before the doorbell, and before asking who wants it: the consumer says so before its last look at the index.
        platform.publish();
        platform.invalidate(ring.consumer);
        Ok(Some(ring.wanted.load(Ordering::Relaxed) != 0))
    }
}

impl Producer<'_> {
    /// Address of the slot of the next frame, address of the index, and what the index will be then.
    #[cfg(not(loom))]
    pub(crate) fn place(&self) -> Option<(usize, usize, u32)> {
        let slot = self.ring.slot(self.put).ok()?;
        Some((slot.as_ptr().expose_provenance(), self.ring.put.as_ptr().expose_provenance(), self.put.wrapping_add(1)))
    }

    /// Counts a frame that hardware has put in, as [`put`](Self::put) would have: the same words but for the two that
    /// count the instructions of a decision. Returns whether the consumer wants to be called.
    ///
    /// # Errors
    /// [`Corrupt`] if another frame lies there, and nothing is counted.
    #[cfg(not(loom))]
    pub(crate) fn follow(&mut self, platform: &impl Platform, frame: &[u8]) -> Result<bool, Corrupt> {
        let ring = self.ring;
        let [length, words @ ..] = ring.slot(self.put)? else { return Err(Corrupt) };
        let (whole, rest) = frame.as_chunks::<4>();
        let same = |(at, (word, bytes)): (usize, (&AtomicU32, &[u8; 4]))| {
            COUNTS.contains(&at) || word.load(Ordering::Relaxed) == u32::from_le_bytes(*bytes)
        };
        let right = length.load(Ordering::Relaxed) as usize == frame.len()
            && rest.is_empty()
            && words.len() >= whole.len()
            && (0..whole.len()).zip(words.iter().zip(whole)).all(same)
            && ring.put.load(Ordering::Acquire) == self.put.wrapping_add(1);
        if !right {
            return Err(Corrupt);
        }
        self.put = self.put.wrapping_add(1);
        platform.invalidate(ring.consumer);
        Ok(ring.wanted.load(Ordering::Relaxed) != 0)
    }
}

/// The end that takes frames out.
#[derive(Debug)]
pub struct Consumer<'a> {
    ring: Ring<'a>,
    /// Frames taken out so far.
    taken: u32,
}

impl<'a> Consumer<'a> {
    /// As [`Producer::new`]; does not want to be called.
    ///
    /// # Errors
    /// [`Corrupt`] if the memory does not hold the ring.
    pub fn new(platform: &impl Platform, memory: &'a [AtomicU32], slots: usize, bytes: usize) -> Result<Self, Corrupt> {
        let ring = Ring::new(memory, slots, bytes)?;
        ring.wanted.store(0, Ordering::Relaxed);
        ring.taken.store(0, Ordering::Release);
        platform.clean(ring.consumer);
        Ok(Self { ring, taken: 0 })
    }

    /// Address of the slot of the next frame, address of the index of frames put in, and frames taken out so far.
    #[cfg(not(loom))]
    pub(crate) fn place(&self) -> Option<(usize, usize, u32)> {
        let slot = self.ring.slot(self.taken).ok()?;
        let put = self.ring.put.as_ptr().expose_provenance();
        Some((slot.as_ptr().expose_provenance(), put, self.taken))
    }

    /// Whether no frame lies in the ring.
    ///
    /// # Errors
    /// [`Corrupt`] if the producer's index cannot be.
    pub fn is_empty(&self, platform: &impl Platform) -> Result<bool, Corrupt> {
        platform.invalidate(self.ring.producer);
        let put = self.ring.put.load(Ordering::Acquire);
        self.ring.between(put, self.taken).map(|waiting| waiting == 0)
    }

    /// Copies the next frame out; returns its length, `None` if there is none, 0 if its length cannot be or is more
    /// than `frame` holds: it is skipped then.
    ///
    /// # Errors
    /// [`Corrupt`] if the producer's index cannot be.
    pub fn take(&mut self, platform: &impl Platform, frame: &mut [u8]) -> Result<Option<usize>, Corrupt> {
        let Some((length, words)) = self.next(platform, frame.len())? else { return Ok(None) };
        let (whole, rest) = frame.get_mut(..length).unwrap_or_default().as_chunks_mut::<4>();
        let last = words.get(whole.len());
        for (bytes, word) in whole.iter_mut().zip(words) {
            *bytes = word.load(Ordering::Relaxed).to_le_bytes();
        }
        if let (Some(word), false) = (last, rest.is_empty()) {
            let value = word.load(Ordering::Relaxed).to_le_bytes();
            rest.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        }
        self.free(platform);
        Ok(Some(length))
    }

    /// [`take`](Self::take) into words, which is faster: their bytes are the frame's, and what is behind it in the last
    /// one does not matter.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_words(&mut self, platform: &impl Platform, frame: &mut [u32]) -> Result<Option<usize>, Corrupt> {
        let Some((length, words)) = self.next(platform, size_of_val(frame))? else { return Ok(None) };
        let words = words.get(..length.div_ceil(4)).unwrap_or_default();
        platform.fetch(words, frame.get_mut(..words.len()).unwrap_or_default());
        self.free(platform);
        Ok(Some(length))
    }

    /// Length and words of the next frame, `None` if there is none; the length is 0 if it is more than `most` bytes, or
    /// more than there can be.
    fn next(&self, platform: &impl Platform, most: usize) -> Result<Option<(usize, &'a [AtomicU32])>, Corrupt> {
        let ring = self.ring;
        if self.is_empty(platform)? {
            return Ok(None);
        }
        let slot = ring.slot(self.taken)?;
        platform.invalidate(slot);
        let [length, words @ ..] = slot else { return Err(Corrupt) };
        let length = length.load(Ordering::Relaxed) as usize;
        Ok(Some((if length <= ring.bytes && length <= most { length } else { 0 }, words)))
    }

    /// Gives the slot of a frame that was read back.
    fn free(&mut self, platform: &impl Platform) {
        self.taken = self.taken.wrapping_add(1);
        // After the frame was read.
        self.ring.taken.store(self.taken, Ordering::Release);
        platform.clean(self.ring.consumer);
    }

    /// Asks to be called at the next frame; returns whether there is none yet, so that it may wait. What comes later
    /// calls.
    ///
    /// # Errors
    /// As [`is_empty`](Self::is_empty).
    pub fn ask(&self, platform: &impl Platform) -> Result<bool, Corrupt> {
        self.want(platform, 1);
        // Either this look finds the frame, or the producer finds the wish.
        platform.publish();
        self.is_empty(platform)
    }

    /// Does not want to be called any more.
    pub fn unask(&self, platform: &impl Platform) {
        self.want(platform, 0);
    }

    fn want(&self, platform: &impl Platform, value: u32) {
        self.ring.wanted.store(value, Ordering::Relaxed);
        platform.clean(self.ring.consumer);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::platform::Coherent;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    fn memory(words: usize) -> Vec<AtomicU32> {
        (0..words).map(|_| AtomicU32::new(0)).collect()
    }

    fn ends(memory: &[AtomicU32], slots: usize, bytes: usize) -> (Producer<'_>, Consumer<'_>) {
        let producer = Producer::new(&Coherent, memory, slots, bytes).unwrap();
        (producer, Consumer::new(&Coherent, memory, slots, bytes).unwrap())
    }

    #[test]
    fn memory_must_hold_the_ring() {
        assert_eq!((words(2, 60), words(2, 61), words(4, 10)), (32 + 2 * 16, 32 + 2 * 32, 32 + 4 * 16));
        let memory = memory(words(2, 60));
        assert!((0..memory.len()).all(|length| Producer::new(&Coherent, &memory[..length], 2, 60).is_err()));
        assert!((0..memory.len()).all(|length| Consumer::new(&Coherent, &memory[..length], 2, 60).is_err()));
        for (slots, bytes) in [(0, 60), (3, 60), (2, usize::MAX), (usize::MAX, 60), (1 << 16, 0), (1 << 63, 8)] {
            assert!(Producer::new(&Coherent, &memory, slots, bytes).is_err(), "{slots} {bytes}");
        }
        let (mut producer, mut consumer) = ends(&memory, 2, 60);
        let mut put = |frame: &[u8]| producer.put(&Coherent, frame);
        assert_eq!((put(&[1]), put(&[2; 60]), put(&[3])), (Ok(Some(false)), Ok(Some(false)), Ok(None)));
        let mut frame = [0; 60];
        // No room for the frame: it is skipped.
        assert_eq!(consumer.take(&Coherent, &mut frame[..0]), Ok(Some(0)));
        assert_eq!(consumer.take(&Coherent, &mut frame), Ok(Some(60)));
        assert_eq!(consumer.take(&Coherent, &mut frame), Ok(None));
        assert_eq!(producer.put(&Coherent, &[0; 61]), Err(Corrupt));
    }

    #[test]
    fn what_the_other_end_writes_is_not_believed() {
        let memory = memory(words(2, 8));
        let (mut producer, mut consumer) = ends(&memory, 2, 8);
        let mut frame = [0; 64];
        for put in [3, 1 << 31, u32::MAX - 2] {
            memory[0].store(put, Ordering::Relaxed);
            assert_eq!(
                (consumer.is_empty(&Coherent), consumer.take(&Coherent, &mut frame)),
                (Err(Corrupt), Err(Corrupt))
            );
            memory[LINE].store(put, Ordering::Relaxed);
            assert_eq!((producer.is_full(&Coherent), producer.put(&Coherent, &[])), (Err(Corrupt), Err(Corrupt)));
        }
        // An index that was changed is gone with the next frame: each end knows its own.
        memory[LINE].store(0, Ordering::Relaxed);
        assert_eq!(producer.put(&Coherent, &[7]), Ok(Some(false)));
        assert_eq!(memory[0].load(Ordering::Relaxed), 1);
        memory[LINE].store(77, Ordering::Relaxed);
        assert_eq!((consumer.take(&Coherent, &mut frame), frame[0]), (Ok(Some(1)), 7));
        assert_eq!(memory[LINE].load(Ordering::Relaxed), 1);
        for length in [9, 64, 65, u32::MAX] {
            producer.put(&Coherent, &[1, 2]).unwrap();
            let slot = memory[2 * LINE..].iter().step_by(LINE);
            slot.for_each(|word| word.store(length, Ordering::Relaxed));
            assert_eq!(consumer.take(&Coherent, &mut frame), Ok(Some(0)));
            assert_eq!(consumer.is_empty(&Coherent), Ok(true), "the frame is skipped");
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_queue(
            actions in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..=9)), 0..100),
            start: u32,
        ) {
            let memory = memory(words(4, 9));
            let (mut producer, mut consumer) = ends(&memory, 4, 9);
            // As after so many frames.
            (producer.put, consumer.taken) = (start, start);
            let _ = [0, LINE].map(|word| memory[word].store(start, Ordering::Relaxed));
            let mut model = VecDeque::new();
            for action in actions {
                if let Some(frame) = action {
                    let room = model.len() < 4;
                    prop_assert_eq!(producer.put(&Coherent, &frame), Ok(room.then_some(false)));
                    room.then(|| model.push_back(frame));
                } else {
                    let mut frame = [0; 9];
                    let length = consumer.take(&Coherent, &mut frame).unwrap();
                    prop_assert_eq!(length.map(|length| frame[..length].to_vec()), model.pop_front());
                }
                prop_assert_eq!(producer.is_full(&Coherent), Ok(model.len() == 4));
                prop_assert_eq!(consumer.is_empty(&Coherent), Ok(model.is_empty()));
            }
        }
    }

    /// Frames from thread to thread; interpreted, each takes long.
    const FRAMES: u32 = if cfg!(miri) { 200 } else { 20_000 };

    #[test]
    fn frames_pass_between_threads() {
        let memory = memory(words(4, 64));
        let (mut producer, mut consumer) = ends(&memory, 4, 64);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..FRAMES {
                    let frame = [i as u8; 64];
                    while producer.put(&Coherent, &frame[..i as usize % 65]).unwrap().is_none() {
                        std::thread::yield_now();
                    }
                }
            });
            let mut frame = [0; 64];
            for i in 0..FRAMES {
                let length = loop {
                    match consumer.take(&Coherent, &mut frame).unwrap() {
                        Some(length) => break length,
                        None => std::thread::yield_now(),
                    }
                };
                assert_eq!(length, i as usize % 65);
                assert!(frame[..length].iter().all(|&byte| byte == i as u8));
            }
        });
    }
}

#[cfg(all(test, loom))]
mod ordering {
    use super::*;
    use crate::sync::fence;
    use crate::sync::mutant::RELAXED;
    use loom::sync::{Arc, Notify};
    use loom::thread;
    use std::vec::Vec;

    /// A machine whose barrier is one, or not.
    #[derive(Clone, Copy)]
    struct Machine {
        barrier: bool,
    }

    impl Platform for Machine {
        fn publish(&self) {
            if self.barrier {
                fence(Ordering::SeqCst);
            }
        }
        fn notify(&mut self, _: usize) {}
        fn wait(&mut self) {}
    }

    fn memory(slots: usize) -> Arc<Vec<AtomicU32>> {
        Arc::new((0..words(slots, 8)).map(|_| AtomicU32::new(0)).collect())
    }

    /// Three frames through a ring of two; the consumer looks.
    fn frames_pass() {
        loom::model(|| {
            let memory = memory(2);
            let theirs = memory.clone();
            let machine = Machine { barrier: true };
            let producer = thread::spawn(move || {
                let mut producer = Producer::new(&machine, &theirs, 2, 8).unwrap();
                for number in 1..=3u8 {
                    while producer.put(&machine, &[number; 5]).unwrap().is_none() {
                        thread::yield_now();
                    }
                }
            });
            let mut consumer = Consumer { ring: Ring::new(&memory, 2, 8).unwrap(), taken: 0 };
            let mut frame = [0; 8];
            for number in 1..=3u8 {
                let length = loop {
                    match consumer.take(&machine, &mut frame).unwrap() {
                        Some(length) => break length,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!(frame[..length], [number; 5]);
            }
            producer.join().unwrap();
        });
    }

    #[test]
    fn frames_are_there_when_their_index_is() {
        frames_pass();
    }

    #[test]
    #[should_panic(expected = "left == right")]
    fn an_index_in_any_order_would_be_found() {
        RELAXED.set(true);
        frames_pass();
    }

    /// A consumer that asks to be called and waits; that nobody calls it is a deadlock.
    fn nobody_sleeps_over_a_frame(barrier: bool) {
        loom::model(move || {
            let memory = memory(2);
            let theirs = memory.clone();
            let bell = Arc::new(Notify::new());
            let ring = bell.clone();
            let machine = Machine { barrier };
            let producer = thread::spawn(move || {
                let mut producer = Producer { ring: Ring::new(&theirs, 2, 8).unwrap(), put: 0 };
                if producer.put(&machine, &[7]).unwrap() == Some(true) {
                    ring.notify();
                }
            });
            let mut consumer = Consumer { ring: Ring::new(&memory, 2, 8).unwrap(), taken: 0 };
            let mut frame = [0; 8];
            // As `serve` does: a call may come for nothing.
            while consumer.take(&machine, &mut frame).unwrap().is_none() {
                if consumer.ask(&machine).unwrap() {
                    bell.wait();
                }
                consumer.unask(&machine);
            }
            assert_eq!(frame[0], 7);
            producer.join().unwrap();
        });
    }

    #[test]
    fn a_wish_or_a_frame_is_seen() {
        nobody_sleeps_over_a_frame(true);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_barrier_that_is_none_would_be_found() {
        nobody_sleeps_over_a_frame(false);
    }
}
