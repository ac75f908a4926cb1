//! The device's end of a [region](crate::region): requests out of its rings, answers into them, from several queues in
//! turn.

use core::convert::Infallible;

use heapless::Vec;
use zerocopy::IntoBytes;

use crate::platform::Platform;
use crate::region::{DeviceEnd, DeviceQueue, Geometry, MAX_QUEUES};
use crate::ring::Corrupt;
use crate::serve::Mailbox;
use crate::sync::AtomicU32;
use crate::wire::Integrity;

/// Where the next request of a queue and its answer lie, by addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Slot of the request: its bytes, then the frame.
    pub request: usize,
    /// Index of requests put in.
    pub put: usize,
    /// Requests taken out so far.
    pub taken: u32,
    /// Slot of the answer.
    pub answer: usize,
    /// Index of answers put in.
    pub answered_at: usize,
    /// What it will be.
    pub answered: u32,
}

/// The controller's end of a region. Whatever a host writes there, the worst is that it has to attach anew.
#[derive(Debug)]
pub struct Rings<'a, P> {
    end: DeviceEnd<'a>,
    platform: P,
    queues: Vec<DeviceQueue<'a>, MAX_QUEUES>,
    /// The queue that is looked at first.
    first: usize,
    request: &'a mut [u32],
}

impl<'a, P: Platform> Rings<'a, P> {
    /// Begins a new generation of a region, with working memory for the words of a
    /// [`max_request`](crate::wire::max_request): aligned, so that logits are.
    ///
    /// # Errors
    /// [`Corrupt`] if the memory does not hold the region, or its sizes are none.
    pub fn new(
        memory: &'a [AtomicU32],
        geometry: Geometry,
        platform: P,
        request: &'a mut [u32],
    ) -> Result<Self, Corrupt> {
        let end = DeviceEnd::new(&platform, memory, geometry)?;
        Ok(Self { end, platform, queues: Vec::new(), first: 0, request })
    }

    /// How often the region has been begun: another number after each start, for
    /// [`Controller::with_generation`](crate::Controller::with_generation).
    pub const fn generation(&self) -> u32 {
        self.end.generation()
    }

    /// Answers a request of one queue, if there is one and room for the answer.
    fn serve<'k>(
        &mut self,
        index: usize,
        answer: &mut Option<impl FnOnce(&[u8], Integrity) -> &'k [u8]>,
    ) -> Result<bool, Corrupt> {
        let integrity = self.end.integrity();
        let Self { queues, platform, request, .. } = self;
        let Some(DeviceQueue { requests, answers }) = queues.get_mut(index) else { return Ok(false) };
        if answers.is_full(platform)? {
            return Ok(false);
        }
        // A damaged frame is answered like any other.
        let Some(length) = requests.take_words(platform, request)? else { return Ok(false) };
        let Some(answer) = answer.take() else { return Ok(false) };
        let frame = answer(request.as_bytes().get(..length).unwrap_or_default(), integrity);
        if answers.put(platform, frame)? == Some(true) {
            platform.notify(index);
        }
        Ok(true)
    }

    /// Where the next request of a queue will lie and where its answer goes, for hardware that carries both; from here
    /// on it wants to be called. `None` if nobody is attached, if frames have checksums, if there is no room for the
    /// answer, or if there are other queues, which would wait for this one.
    #[cfg(not(loom))]
    pub fn places(&self, queue: usize) -> Option<Places> {
        let alone = self.queues.len() == 1 && self.end.attached();
        let DeviceQueue { requests, answers } = self.queues.get(queue).filter(|_| alone)?;
        if self.end.integrity() != Integrity::Link || answers.is_full(&self.platform) != Ok(false) {
            return None;
        }
        // Whether there is a request already the hardware sees itself.
        requests.ask(&self.platform).ok()?;
        let ((request, put, taken), (answer, answered_at, answered)) = (requests.place()?, answers.place()?);
        Some(Places { request, put, taken, answer, answered_at, answered })
    }

    /// Accounts for the next request of a queue, which hardware has answered: has `answer` give what the answer ought
    /// to be. If it is another one the queue is broken, and its host has to attach anew.
    #[cfg(not(loom))]
    pub(crate) fn follow<'k>(&mut self, index: usize, answer: impl FnOnce(&[u8], Integrity) -> &'k [u8]) -> bool {
        let integrity = self.end.integrity();
        let Self { queues, platform, request, .. } = self;
        let Some(DeviceQueue { requests, answers }) = queues.get_mut(index) else { return false };
        // What the hardware has said of itself comes before what it has stored.
        platform.publish();
        let Ok(Some(length)) = requests.take_words(platform, request) else { return false };
        let frame = answer(request.as_bytes().get(..length).unwrap_or_default(), integrity);
        match answers.follow(platform, frame) {
            Ok(true) => platform.notify(index),
            Ok(false) => {}
            Err(Corrupt) => self.end.give_up(&self.platform),
        }
        true
    }

    /// Waits as [`Platform::wait`], for whoever has said already that it wants to be called.
    #[cfg(not(loom))]
    pub(crate) fn idle(&mut self) {
        self.platform.wait();
    }

    /// Whether every ring of requests is empty, after asking to be called for the next.
    fn ask(&self) -> Result<bool, Corrupt> {
        self.queues.iter().try_fold(true, |empty, queue| Ok(queue.requests.ask(&self.platform)? && empty))
    }
}

impl<P: Platform> Mailbox for Rings<'_, P> {
    type Error = Infallible;

    /// Leaves requests where they are while there is no room for an answer.
    fn poll<'k>(&mut self, answer: impl FnOnce(&[u8], Integrity) -> &'k [u8]) -> Result<bool, Infallible> {
        let Self { end, platform, queues, .. } = self;
        let made = end.look(platform, |end| {
            queues.clear();
            for queue in 0..end.geometry().queues {
                queues.push(end.queue(platform, queue)?).map_err(|_| Corrupt)?;
            }
            Ok::<(), Corrupt>(())
        });
        if made.is_err() {
            end.give_up(platform);
        }
        let mut answer = Some(answer);
        let count = self.queues.len();
        for index in (self.first..count).chain(0..self.first) {
            if !self.end.attached() {
                break;
            }
            match self.serve(index, &mut answer) {
                Ok(true) => {
                    // The others are next.
                    self.first = if index.saturating_add(1) < count { index.saturating_add(1) } else { 0 };
                    return Ok(true);
                }
                Ok(false) => {}
                Err(Corrupt) => self.end.give_up(&self.platform),
            }
        }
        // Nothing is waited for: there is time.
        self.end.mend(&self.platform);
        Ok(false)
    }

    fn events(&mut self, events: u32) {
        if self.end.count_events(&self.platform, events) {
            self.platform.notify(0);
        }
    }

    fn wait(&mut self) {
        // Who is not attached is called when a host wants to be.
        let idle = !self.end.attached() || self.ask().unwrap_or(false);
        if idle {
            self.platform.wait();
        }
        if self.end.attached() {
            self.queues.iter().for_each(|queue| queue.requests.unask(&self.platform));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::platform::Coherent;
    use crate::region::{Attachment, FEATURE_EVENTS, FEATURE_NO_CHECKSUM, HostRegion, MAGIC, State, VERSIONS, check};
    use crate::ring::LINE;
    use crate::sync::Ordering;
    use crate::wire::VERSION;
    use std::cell::{Cell, RefCell};
    use std::vec::Vec as StdVec;

    const GEOMETRY: Geometry = Geometry { queues: 2, slots: 2, request: 40, answer: 40 };

    fn memory() -> StdVec<AtomicU32> {
        (0..GEOMETRY.words()).map(|_| AtomicU32::new(0)).collect()
    }

    /// What a platform was asked for, and the first word of a line at that time.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Asked {
        Publish(u32),
        Notify(u32),
    }

    /// A machine that writes down what it is asked for, with the index that a doorbell is to follow.
    struct Written<'a> {
        index: &'a AtomicU32,
        asked: &'a RefCell<StdVec<Asked>>,
        waits: &'a Cell<usize>,
    }

    impl Platform for Written<'_> {
        fn publish(&self) {
            self.asked.borrow_mut().push(Asked::Publish(self.index.load(Ordering::Relaxed)));
        }

        fn notify(&mut self, _: usize) {
            self.asked.borrow_mut().push(Asked::Notify(self.index.load(Ordering::Relaxed)));
        }

        fn wait(&mut self) {
            self.waits.set(self.waits.get() + 1);
        }
    }

    fn device<'a, P: Platform>(memory: &'a [AtomicU32], platform: P) -> Rings<'a, P> {
        Rings::new(memory, GEOMETRY, platform, std::vec![0; GEOMETRY.request.div_ceil(4)].leak()).unwrap()
    }

    /// Answers with the request.
    fn echo<P: Platform>(rings: &mut Rings<'_, P>) -> bool {
        let Ok(served) = rings.poll(|request, _| request.to_vec().leak());
        served
    }

    fn attach<P: Platform, D: Platform>(host: &mut HostRegion<'_, P>, device: &mut Rings<'_, D>) -> Attachment {
        for _ in 0..10 {
            match host.attach().unwrap() {
                Attachment::Waiting => _ = echo(device),
                end => return end,
            }
        }
        Attachment::Waiting
    }

    #[test]
    fn sizes_are_checked() {
        let memory = memory();
        let new = |geometry| Rings::new(&memory, geometry, Coherent, &mut []).is_ok();
        assert!(new(GEOMETRY));
        for geometry in [
            Geometry { queues: 0, ..GEOMETRY },
            Geometry { queues: 3, ..GEOMETRY },
            Geometry { queues: MAX_QUEUES + 1, request: 0, answer: 0, slots: 1 },
            Geometry { slots: 3, ..GEOMETRY },
            Geometry { slots: 0, ..GEOMETRY },
            Geometry { slots: usize::MAX, ..GEOMETRY },
            Geometry { request: usize::MAX, ..GEOMETRY },
            Geometry { answer: 1 << 17, ..GEOMETRY },
        ] {
            assert!(!new(geometry), "{geometry:?}");
        }
        assert!(Rings::new(&memory[1..], GEOMETRY, Coherent, &mut []).is_err());
    }

    #[test]
    fn a_host_attaches_and_is_answered_on_each_queue() {
        let memory = memory();
        let mut host = HostRegion::new(&memory, Coherent);
        assert_eq!((host.device(), host.attach()), (None, Ok(Attachment::Waiting)), "nobody is there yet");
        let mut device = device(&memory, Coherent);
        assert_eq!(attach(&mut host, &mut device), Attachment::Attached);
        let found = host.device().unwrap();
        assert_eq!((found.geometry, found.state, found.generation), (GEOMETRY, State::Attached, 1));
        assert_eq!((found.version, found.features), (u32::from(VERSION), FEATURE_EVENTS));
        let mut frame = [0; 40];
        for queue in [0, 1, 1, 0, 1] {
            let request = [queue as u8 + 1; 33];
            assert_eq!(host.send(queue, &request), Ok(true));
            assert_eq!((echo(&mut device), echo(&mut device)), (true, false));
            assert_eq!(host.receive(1 - queue, &mut frame), Ok(None));
            assert_eq!((host.receive(queue, &mut frame), &frame[..33]), (Ok(Some(33)), &request[..]));
        }
        assert_eq!((host.send(2, &[1]), host.receive(2, &mut frame)), (Err(Corrupt), Err(Corrupt)));
    }

    /// The next host asks for the attachment that the device has already, and the device's line says that it has none.
    #[test]
    fn a_line_for_nobody_is_told_anew() {
        let memory = memory();
        let mut device = device(&memory, Coherent);
        for (index, word) in memory[..LINE].iter().enumerate() {
            for change in [|_| 0, |_| 2, |told| told ^ 1] as [fn(u32) -> u32; 3] {
                // Frames that had passed would give the old rings away.
                assert_eq!(attach(&mut HostRegion::new(&memory, Coherent), &mut device), Attachment::Attached);
                word.store(change(word.load(Ordering::Relaxed)), Ordering::Relaxed);
                let mut next = HostRegion::new(&memory, Coherent);
                assert_eq!(attach(&mut next, &mut device), Attachment::Attached, "word {index}");
                let mut frame = [0; 40];
                assert_eq!((next.send(0, &[7]), echo(&mut device)), (Ok(true), true));
                assert_eq!((next.receive(0, &mut frame), frame[0]), (Ok(Some(1)), 7));
            }
        }
    }

    #[test]
    fn frames_go_without_a_checksum_if_the_host_asks_for_that() {
        for (features, integrity) in [(0, Integrity::Checksum), (FEATURE_NO_CHECKSUM, Integrity::Link)] {
            let memory = memory();
            let mut host = HostRegion::new(&memory, Coherent).with_features(features);
            let mut device = device(&memory, Coherent);
            assert_eq!(attach(&mut host, &mut device), Attachment::Attached);
            assert_eq!(host.device().unwrap().features, features);
            assert_eq!(host.send(0, &[1]), Ok(true));
            let mut told = None;
            let served = device.poll(|_, integrity| {
                told = Some(integrity);
                &[]
            });
            assert_eq!((served, told), (Ok(true), Some(integrity)));
        }
    }

    #[test]
    fn queues_are_served_in_turn_and_wait_while_nobody_takes_their_answers() {
        let memory = memory();
        let (mut host, mut device) = (HostRegion::new(&memory, Coherent), device(&memory, Coherent));
        attach(&mut host, &mut device);
        let mut frame = [0; 40];
        // Two in the ring of answers, two that wait; the other queue is served.
        for number in 0..4 {
            assert_eq!(host.send(0, &[number]), Ok(true));
            echo(&mut device);
        }
        assert_eq!((host.send(0, &[9]), echo(&mut device)), (Ok(false), false));
        host.send(1, &[7]).unwrap();
        assert_eq!((echo(&mut device), host.receive(1, &mut frame), frame[0]), (true, Ok(Some(1)), 7));
        for number in 0..4 {
            assert_eq!((host.receive(0, &mut frame), frame[0]), (Ok(Some(1)), number));
            echo(&mut device);
        }
        for number in 0..2 {
            let _ = [0, 1].map(|queue| host.send(queue, &[number]).unwrap());
        }
        // One of each in turn.
        let served = [0; 4].map(|_| {
            echo(&mut device);
            [0, 1].map(|queue| host.receive(queue, &mut frame).unwrap().is_some())
        });
        assert!(served[0] != served[1] && served[0] == served[2] && served[1] == served[3], "{served:?}");
    }

    #[test]
    fn the_doorbell_follows_the_index_and_a_barrier() {
        let memory = memory();
        let (asked, waits) = (RefCell::default(), Cell::new(0));
        let answers = crate::region::DEVICE_FIRST_ANSWER;
        let index = &memory[answers(&GEOMETRY)];
        let mut device = device(&memory, Written { index, asked: &asked, waits: &waits });
        let mut host = HostRegion::new(&memory, Coherent);
        attach(&mut host, &mut device);
        asked.borrow_mut().clear();
        // Who looks for itself is not called.
        host.send(0, &[1]).unwrap();
        echo(&mut device);
        assert_eq!(asked.take(), [Asked::Publish(1)]);
        // Who wants to be called is: after the index, and a barrier between the two.
        host.wait(0).unwrap();
        memory[answers(&GEOMETRY) + LINE + 1].store(1, Ordering::Relaxed);
        host.send(0, &[2]).unwrap();
        echo(&mut device);
        assert_eq!(asked.take(), [Asked::Publish(2), Asked::Notify(2)]);
        // The device waits only when every ring is empty, with a barrier between its wish and the last look.
        device.wait();
        assert_eq!((waits.get(), asked.take().len()), (1, 2));
        host.send(1, &[3]).unwrap();
        device.wait();
        assert_eq!(waits.get(), 1, "there is something to do");
    }

    #[test]
    fn events_are_told_to_who_wants_them() {
        let memory = memory();
        let (asked, waits) = (RefCell::default(), Cell::new(0));
        let index = &memory[13];
        let mut device = device(&memory, Written { index, asked: &asked, waits: &waits });
        let mut host = HostRegion::new(&memory, Coherent);
        device.events(1);
        assert!(!asked.take().contains(&Asked::Notify(1)), "nobody is there");
        attach(&mut host, &mut device);
        asked.borrow_mut().clear();
        device.events(1);
        assert_eq!(asked.take(), []);
        device.events(4);
        assert_eq!((asked.take(), host.device().unwrap().events), (std::vec![Asked::Publish(4), Asked::Notify(4)], 4));
    }

    #[test]
    fn another_version_is_refused() {
        let memory = memory();
        let mut device = device(&memory, Coherent);
        let line = &memory[LINE..];
        for (versions, state) in [
            (VERSIONS, State::Attached),
            ((2 << 16) | 1, State::Refused),
            ((9 << 16) | (u32::from(VERSION) + 1), State::Refused),
            ((9 << 16) | 1, State::Attached),
            (0, State::Refused),
        ] {
            let attachment = line[2].load(Ordering::Relaxed) + 1;
            let words = [versions, 0, attachment];
            line.iter()
                .zip(words.into_iter().chain([check(words)]))
                .for_each(|(word, value)| word.store(value, Ordering::Relaxed));
            echo(&mut device);
            assert_eq!(memory[9].load(Ordering::Relaxed), state as u32, "{versions:#x}");
            assert_eq!(memory[10].load(Ordering::Relaxed), attachment);
            assert_eq!(memory[12].load(Ordering::Relaxed), 0, "features that nobody asked for");
        }
    }

    #[test]
    fn whatever_lies_in_the_memory_a_host_can_attach() {
        let memory = memory();
        let (mut device, mut random) = (device(&memory, Coherent), 1u32);
        let mut frame = [0; 40];
        for round in 0..if cfg!(miri) { 40 } else { 2_000 } {
            // A host that dies after having written anything anywhere.
            let mut host = HostRegion::new(&memory, Coherent);
            for _ in 0..round % 50 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (place, value) = (random as usize >> 8, random.rotate_left(13));
                memory[place % memory.len()].store(value >> (random & 31), Ordering::Relaxed);
                echo(&mut device);
            }
            host.detach();
            for _ in 0..3 {
                echo(&mut device);
            }
            assert_eq!(attach(&mut host, &mut device), Attachment::Attached, "{round}");
            host.send(1, &[5, 6, 7]).unwrap();
            echo(&mut device);
            assert_eq!((host.receive(1, &mut frame), &frame[..3]), (Ok(Some(3)), &[5, 6, 7][..]));
        }
    }

    #[test]
    fn a_device_that_starts_anew_is_noticed() {
        let memory = memory();
        let mut host = HostRegion::new(&memory, Coherent);
        let mut before = device(&memory, Coherent);
        attach(&mut host, &mut before);
        host.send(0, &[1]).unwrap();
        let mut after = device(&memory, Coherent);
        assert!(!echo(&mut after), "what the one before was asked");
        let found = host.device().unwrap();
        assert_eq!((found.generation, found.state), (2, State::Ready));
        assert_eq!(attach(&mut host, &mut after), Attachment::Attached);
        host.send(0, &[2]).unwrap();
        assert!(echo(&mut after));
        assert_eq!(memory[0].load(Ordering::Relaxed), MAGIC);
    }
}
