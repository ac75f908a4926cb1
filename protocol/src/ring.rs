//! Frames through descriptor rings in memory that host and controller share: one ring of requests, one of answers, and
//! a doorbell.
//!
//! | word | written by | |
//! |---|---|---|
//! | 0 | producer | frames put in since the start, modulo 2^32 |
//! | 1 | consumer | frames taken out since the start, modulo 2^32 |
//! | 2 + i n | producer | slot i of n words: bytes of the frame, then the frame in little-endian words |
//!
//! A ring is its memory; both ends make a [`Ring`] over it. What the other end writes is checked before use.

use core::sync::atomic::{AtomicU32, Ordering};

use embedded_hal::digital::OutputPin;

use crate::serve::Mailbox;

/// Words before the slots.
const HEAD: usize = 2;

/// Words of memory for a ring of `slots` frames of at most `bytes` bytes.
pub const fn words(slots: usize, bytes: usize) -> usize {
    HEAD + slots * (1 + bytes.div_ceil(4))
}

/// One end of a ring: a single producer or a single consumer.
#[derive(Debug, Clone, Copy)]
pub struct Ring<'a> {
    put: &'a AtomicU32,
    taken: &'a AtomicU32,
    slots: &'a [AtomicU32],
    /// Words of a slot.
    slot: usize,
}

/// The memory does not hold a ring, or the other end has written what it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

impl<'a> Ring<'a> {
    /// A ring of frames of at most `bytes` bytes over all of `memory`, which is all zero before the first end is made;
    /// the number of slots is rounded down to a power of two.
    ///
    /// # Errors
    /// [`Corrupt`] if not even one slot fits.
    pub fn new(memory: &'a [AtomicU32], bytes: usize) -> Result<Self, Corrupt> {
        let [put, taken, rest @ ..] = memory else { return Err(Corrupt) };
        let slot = 1 + bytes.div_ceil(4);
        let slots = (rest.len() / slot).checked_ilog2().ok_or(Corrupt)?;
        // A counter of 32 bits tells at most so many apart.
        let slots = 1usize << slots.min(16);
        Ok(Self { put, taken, slots: rest.get(..slots * slot).ok_or(Corrupt)?, slot })
    }

    /// Frames that lie in the ring.
    ///
    /// # Errors
    /// [`Corrupt`] if that is more than it holds.
    pub fn len(&self) -> Result<usize, Corrupt> {
        let waiting = self.put.load(Ordering::Acquire).wrapping_sub(self.taken.load(Ordering::Acquire)) as usize;
        if waiting <= self.slots.len() / self.slot { Ok(waiting) } else { Err(Corrupt) }
    }

    /// Whether no frame lies in the ring.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    pub fn is_empty(&self) -> Result<bool, Corrupt> {
        self.len().map(|waiting| waiting == 0)
    }

    /// Whether there is no room for a frame.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    pub fn is_full(&self) -> Result<bool, Corrupt> {
        self.len().map(|waiting| waiting == self.slots.len() / self.slot)
    }

    /// The slot of the frame with number `count`: its length and its words.
    fn slot(&self, count: u32) -> Result<(&'a AtomicU32, &'a [AtomicU32]), Corrupt> {
        let slots = self.slots.len() / self.slot;
        let start = (count as usize & (slots - 1)) * self.slot;
        match self.slots.get(start..).and_then(|rest| rest.get(..self.slot)) {
            Some([length, words @ ..]) => Ok((length, words)),
            _ => Err(Corrupt),
        }
    }

    /// Puts a frame in, for the producer; returns whether there was room.
    ///
    /// # Errors
    /// [`Corrupt`] also if the frame is longer than a slot.
    pub fn put(&self, frame: &[u8]) -> Result<bool, Corrupt> {
        if self.is_full()? {
            return Ok(false);
        }
        let count = self.put.load(Ordering::Relaxed);
        let (length, words) = self.slot(count)?;
        if frame.len() > words.len() * 4 {
            return Err(Corrupt);
        }
        for (word, bytes) in words.iter().zip(frame.chunks(4)) {
            let value = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            word.store(value, Ordering::Relaxed);
        }
        length.store(frame.len() as u32, Ordering::Relaxed);
        // After the frame itself.
        self.put.store(count.wrapping_add(1), Ordering::Release);
        Ok(true)
    }

    /// Copies the next frame out, for the consumer; returns its length, `None` if there is none.
    ///
    /// # Errors
    /// [`Corrupt`], and the frame is skipped, if its length is that of no slot or more than `frame` holds.
    pub fn take(&self, frame: &mut [u8]) -> Result<Option<usize>, Corrupt> {
        if self.is_empty()? {
            return Ok(None);
        }
        let count = self.taken.load(Ordering::Relaxed);
        let (length, words) = self.slot(count)?;
        let length = length.load(Ordering::Relaxed) as usize;
        let copied = frame.get_mut(..length).filter(|_| length <= words.len() * 4);
        let found = copied.map(|frame| {
            for (bytes, word) in frame.chunks_mut(4).zip(words) {
                let value = word.load(Ordering::Relaxed).to_le_bytes();
                bytes.iter_mut().zip(value).for_each(|(to, from)| *to = from);
            }
        });
        // After the frame was read.
        self.taken.store(count.wrapping_add(1), Ordering::Release);
        found.map(|()| Some(length)).ok_or(Corrupt)
    }
}

/// The controller's end of two rings; the doorbell is a pin that goes up and down after each answer, for the host's
/// interrupt.
#[derive(Debug)]
pub struct Rings<'a, P> {
    requests: Ring<'a>,
    answers: Ring<'a>,
    doorbell: P,
    request: &'a mut [u8],
    answer: &'a mut [u8],
}

/// Why the rings cannot be served any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingsError<E> {
    /// The host has written indices that cannot be.
    Corrupt,
    /// The doorbell's pin.
    Doorbell(E),
}

impl<'a, P> Rings<'a, P> {
    /// Rings with working memory for a [`max_request`](crate::wire::max_request) and a
    /// [`max_answer`](crate::wire::max_answer).
    pub const fn new(
        requests: Ring<'a>,
        answers: Ring<'a>,
        doorbell: P,
        request: &'a mut [u8],
        answer: &'a mut [u8],
    ) -> Self {
        Self { requests, answers, doorbell, request, answer }
    }
}

impl<P: OutputPin> Mailbox for Rings<'_, P> {
    type Error = RingsError<P::Error>;

    /// Leaves requests where they are while there is no room for an answer.
    fn poll(&mut self, mut answer: impl FnMut(&[u8], &mut [u8]) -> usize) -> Result<bool, Self::Error> {
        if self.answers.is_full().map_err(|Corrupt| RingsError::Corrupt)? {
            return Ok(false);
        }
        let length = match self.requests.take(self.request) {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(false),
            // A damaged frame is answered like any other; damaged indices are the end.
            Err(Corrupt) if self.requests.len().is_ok() => 0,
            Err(Corrupt) => return Err(RingsError::Corrupt),
        };
        let written = answer(self.request.get(..length).unwrap_or_default(), self.answer);
        let answer = self.answer.get(..written).unwrap_or_default();
        self.answers.put(answer).map_err(|Corrupt| RingsError::Corrupt)?;
        self.doorbell.set_high().and_then(|()| self.doorbell.set_low()).map_err(RingsError::Doorbell)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::convert::Infallible;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    fn memory(words: usize) -> Vec<AtomicU32> {
        (0..words).map(|_| AtomicU32::new(0)).collect()
    }

    #[test]
    fn memory_must_hold_a_slot() {
        let memory = memory(words(3, 10));
        assert_eq!(memory.len(), 2 + 3 * 4);
        assert!((0..6).all(|length| Ring::new(&memory[..length], 10).is_err()));
        assert!(Ring::new(&memory[..6], 10).is_ok());
        assert!(Ring::new(&memory, usize::MAX).is_err());
        // Three slots are two.
        let ring = Ring::new(&memory, 10).unwrap();
        assert_eq!((ring.put(&[1]), ring.put(&[2; 10]), ring.put(&[3])), (Ok(true), Ok(true), Ok(false)));
        let mut frame = [0; 10];
        assert_eq!((ring.take(&mut frame[..0]), ring.take(&mut frame)), (Err(Corrupt), Ok(Some(10))));
        assert_eq!((ring.take(&mut frame), ring.put(&[0; 13])), (Ok(None), Err(Corrupt)));
    }

    #[test]
    fn what_the_other_end_writes_is_not_believed() {
        let memory = memory(words(2, 8));
        let ring = Ring::new(&memory, 8).unwrap();
        let mut frame = [0; 64];
        memory[0].store(3, Ordering::Relaxed);
        assert_eq!((ring.len(), ring.take(&mut frame), ring.put(&[])), (Err(Corrupt), Err(Corrupt), Err(Corrupt)));
        memory[0].store(1, Ordering::Relaxed);
        for length in [9, 64, 65, u32::MAX] {
            memory[1].store(0, Ordering::Relaxed);
            memory[2].store(length, Ordering::Relaxed);
            assert_eq!(ring.take(&mut frame), Err(Corrupt));
            assert_eq!(ring.len(), Ok(0), "the frame is skipped");
        }
    }

    struct Bell(usize);

    impl embedded_hal::digital::ErrorType for Bell {
        type Error = Infallible;
    }

    impl OutputPin for Bell {
        fn set_low(&mut self) -> Result<(), Infallible> {
            Ok(())
        }
        fn set_high(&mut self) -> Result<(), Infallible> {
            self.0 += 1;
            Ok(())
        }
    }

    #[test]
    fn requests_wait_while_nobody_takes_the_answers() {
        let (up, down) = (memory(words(2, 8)), memory(words(1, 8)));
        let (requests, answers) = (Ring::new(&up, 8).unwrap(), Ring::new(&down, 8).unwrap());
        let (mut request, mut answer, mut frame) = ([0; 8], [0; 8], [0; 8]);
        let mut rings = Rings::new(requests, answers, Bell(0), &mut request, &mut answer);
        let echo = |rings: &mut Rings<'_, Bell>| {
            rings.poll(|request, answer| {
                answer[..request.len()].copy_from_slice(request);
                request.len()
            })
        };
        assert_eq!(echo(&mut rings), Ok(false));
        requests.put(&[1, 2, 3]).unwrap();
        requests.put(&[4]).unwrap();
        assert_eq!((echo(&mut rings), echo(&mut rings)), (Ok(true), Ok(false)));
        assert_eq!((answers.take(&mut frame), frame[..3] == [1, 2, 3]), (Ok(Some(3)), true));
        assert_eq!((echo(&mut rings), rings.doorbell.0), (Ok(true), 2));
        up[0].store(77, Ordering::Relaxed);
        answers.take(&mut frame).unwrap();
        assert_eq!(echo(&mut rings), Err(RingsError::Corrupt));
    }

    proptest! {
        #[test]
        fn behaves_like_a_queue(
            actions in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..=9)), 0..100),
            start: u32,
        ) {
            let memory = memory(words(4, 9));
            memory[..2].iter().for_each(|count| count.store(start, Ordering::Relaxed));
            let (producer, consumer) = (Ring::new(&memory, 9).unwrap(), Ring::new(&memory, 9).unwrap());
            let mut model = VecDeque::new();
            for action in actions {
                if let Some(frame) = action {
                    let room = model.len() < 4;
                    prop_assert_eq!(producer.put(&frame), Ok(room));
                    room.then(|| model.push_back(frame));
                } else {
                    let mut frame = [0; 9];
                    let length = consumer.take(&mut frame).unwrap();
                    prop_assert_eq!(length.map(|length| frame[..length].to_vec()), model.pop_front());
                }
                prop_assert_eq!(consumer.len(), Ok(model.len()));
            }
        }
    }

    #[test]
    fn frames_pass_between_threads() {
        let memory = memory(words(4, 64));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let ring = Ring::new(&memory, 64).unwrap();
                for i in 0..20_000u32 {
                    let frame = [i as u8; 64];
                    while !ring.put(&frame[..i as usize % 65]).unwrap() {
                        std::thread::yield_now();
                    }
                }
            });
            let ring = Ring::new(&memory, 64).unwrap();
            let mut frame = [0; 64];
            for i in 0..20_000u32 {
                let length = loop {
                    match ring.take(&mut frame).unwrap() {
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
