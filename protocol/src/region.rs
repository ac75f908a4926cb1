//! The region that host and device share: who is there, what both understand, and pairs of rings (docs/device.md).
//!
//! | line of 16 words | written by | words |
//! |---|---|---|
//! | 0 | device | 0 [`MAGIC`], 1 versions, 2 features, 3 queues, 4 slots, 5, 6 most bytes of request and answer |
//! | | | 7 generation, 8 [`check`] of 0 to 7, 9 [`State`], 10 attachment that this is the answer to |
//! | | | 11 version and 12 features agreed on, 13 events so far |
//! | 1 | host | 0 versions, 1 features, 2 attachment, 3 [`check`] of 0 to 2 |
//! | then, for each queue | | a [`ring`] of requests and one of answers |
//!
//! Versions are the oldest one in the lower half of a word and the newest in the upper.

use crate::platform::Platform;
use crate::ring::{self, Consumer, Corrupt, LINE, MAX_SLOTS, Producer};
use crate::sync::{AtomicU32, Ordering};
use crate::wire::{self, Integrity};

/// First word: "cptr".
pub const MAGIC: u32 = u32::from_le_bytes(*b"cptr");
/// Oldest and newest version of the region and of the frames in it that this crate understands.
pub const VERSIONS: u32 = wire::VERSION as u32 | (wire::VERSION as u32) << 16;
/// Most queues.
pub const MAX_QUEUES: usize = 8;
/// Words before the queues.
const HEAD: usize = 2 * LINE;

/// A device that counts events in word 13 and calls the host for them.
pub const FEATURE_EVENTS: u32 = 1;
/// Frames have no checksum ([`Integrity::Link`]): the host knows that link and memory have checks of their own.
pub const FEATURE_NO_CHECKSUM: u32 = 2;
/// All features that this crate has.
pub const FEATURES: u32 = FEATURE_EVENTS | FEATURE_NO_CHECKSUM;

/// Words of the device's line; those before [`CHECK`](device_word::CHECK) do not change in a generation.
pub mod device_word {
    /// [`MAGIC`](super::MAGIC).
    pub const MAGIC: usize = 0;
    /// Oldest version, and above 16 bits the newest.
    pub const VERSIONS: usize = 1;
    /// Features that the device has.
    pub const FEATURES: usize = 2;
    /// Queues.
    pub const QUEUES: usize = 3;
    /// Slots of a ring.
    pub const SLOTS: usize = 4;
    /// Most bytes of a request.
    pub const REQUEST: usize = 5;
    /// Most bytes of an answer.
    pub const ANSWER: usize = 6;
    /// Another number after each start.
    pub const GENERATION: usize = 7;
    /// [`check`](super::check) of those before.
    pub const CHECK: usize = 8;
    /// [`State`](super::State).
    pub const STATE: usize = 9;
    /// The attachment that this is the answer to.
    pub const ATTACHMENT: usize = 10;
    /// The version agreed on.
    pub const VERSION: usize = 11;
    /// The features agreed on.
    pub const AGREED: usize = 12;
    /// Events so far.
    pub const EVENTS: usize = 13;
}

/// Words of the host's line.
pub mod host_word {
    /// Oldest version, and above 16 bits the newest.
    pub const VERSIONS: usize = 0;
    /// Features that the host has.
    pub const FEATURES: usize = 1;
    /// 0 to let go.
    pub const ATTACHMENT: usize = 2;
    /// [`check`](super::check) of those before.
    pub const CHECK: usize = 3;
}

/// What the device's line says of the attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Nobody has begun.
    Off = 0,
    /// Rings are empty and nobody is attached.
    Ready = 1,
    /// A host is attached.
    Attached = 2,
    /// The host's version is none of the device's.
    Refused = 3,
    /// The host, or a fault, has written an index that cannot be: the host has to attach anew.
    Broken = 4,
}

impl State {
    /// The state of a number; `None` for unknown ones.
    pub fn from_number(number: u32) -> Option<Self> {
        let all = [Self::Off, Self::Ready, Self::Attached, Self::Refused, Self::Broken];
        all.into_iter().find(|&state| state as u32 == number)
    }
}

/// Sizes of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Pairs of rings, 1 to [`MAX_QUEUES`].
    pub queues: usize,
    /// Frames that a ring holds, a power of two up to [`MAX_SLOTS`].
    pub slots: usize,
    /// Most bytes of a request.
    pub request: usize,
    /// Most bytes of an answer.
    pub answer: usize,
}

impl Geometry {
    /// Words of memory of the region.
    pub const fn words(&self) -> usize {
        HEAD.saturating_add(self.queue_words().saturating_mul(self.queues))
    }

    const fn queue_words(&self) -> usize {
        ring::words(self.slots, self.request).saturating_add(ring::words(self.slots, self.answer))
    }

    const fn is_sound(&self) -> bool {
        let longest = u16::MAX as usize + wire::OVERHEAD;
        self.queues >= 1
            && self.queues <= MAX_QUEUES
            && self.slots.is_power_of_two()
            && self.slots <= MAX_SLOTS
            && self.request <= longest
            && self.answer <= longest
    }

    /// Memory of the rings of requests and of answers of a queue.
    fn rings<'a>(&self, memory: &'a [AtomicU32], queue: usize) -> Result<[&'a [AtomicU32]; 2], Corrupt> {
        let start = HEAD.saturating_add(self.queue_words().saturating_mul(queue));
        let words = memory.get(start..).and_then(|rest| rest.get(..self.queue_words())).ok_or(Corrupt)?;
        words.split_at_checked(ring::words(self.slots, self.request)).map(|(up, down)| [up, down]).ok_or(Corrupt)
    }
}

/// Word of the index of the answers of the first queue.
#[cfg(all(test, not(loom)))]
pub(crate) const DEVICE_FIRST_ANSWER: fn(&Geometry) -> usize =
    |geometry| HEAD + ring::words(geometry.slots, geometry.request);

/// The check word over words of a line: the hash of Fowler, Noll and Vo over words, with a shift. Texts that differ in
/// one word have different sums, and that of zeros is not 0.
pub fn check(words: impl IntoIterator<Item = u32>) -> u32 {
    words.into_iter().fold(CHECK_START, check_step)
}

/// The check word over nothing.
pub(crate) const CHECK_START: u32 = 0x811C_9DC5;

/// The check word over one word more.
pub(crate) const fn check_step(sum: u32, word: u32) -> u32 {
    let sum = (sum ^ word).wrapping_mul(0x0100_0193);
    sum ^ (sum >> 15)
}

/// The newest version that both understand.
fn common(ours: u32, theirs: u32) -> Option<u32> {
    let (oldest, newest) = ((ours & 0xFFFF).max(theirs & 0xFFFF), (ours >> 16).min(theirs >> 16));
    (oldest <= newest && newest > 0).then_some(newest)
}

fn load<const N: usize>(line: &[AtomicU32]) -> [u32; N] {
    let mut values = [0; N];
    values.iter_mut().zip(line).for_each(|(value, word)| *value = word.load(Ordering::Relaxed));
    values
}

fn store(line: &[AtomicU32], values: &[u32]) {
    line.iter().zip(values).for_each(|(word, &value)| word.store(value, Ordering::Relaxed));
}

/// The device's end of a queue.
#[derive(Debug)]
pub(crate) struct DeviceQueue<'a> {
    pub(crate) requests: Consumer<'a>,
    pub(crate) answers: Producer<'a>,
}

/// The device's end of the two lines.
#[derive(Debug)]
pub(crate) struct DeviceEnd<'a> {
    memory: &'a [AtomicU32],
    ours: &'a [AtomicU32],
    theirs: &'a [AtomicU32],
    geometry: Geometry,
    generation: u32,
    state: State,
    attachment: u32,
    agreed: [u32; 2],
    events: u32,
}

impl<'a> DeviceEnd<'a> {
    /// Begins a new generation: one more than the memory says, whatever lies there.
    pub(crate) fn new(platform: &impl Platform, memory: &'a [AtomicU32], geometry: Geometry) -> Result<Self, Corrupt> {
        if !geometry.is_sound() || memory.len() < geometry.words() {
            return Err(Corrupt);
        }
        let (ours, rest) = memory.split_at_checked(LINE).ok_or(Corrupt)?;
        let (theirs, _) = rest.split_at_checked(LINE).ok_or(Corrupt)?;
        let generation =
            ours.get(device_word::GENERATION).map_or(0, |word| word.load(Ordering::Relaxed)).wrapping_add(1);
        // A host that was attached before attaches anew: its rings are not empty.
        let attachment = theirs.get(host_word::ATTACHMENT).map_or(0, |word| word.load(Ordering::Relaxed));
        let (state, agreed, events) = (State::Ready, [0; 2], 0);
        let end = Self { memory, ours, theirs, geometry, generation, state, attachment, agreed, events };
        end.tell(platform);
        Ok(end)
    }

    pub(crate) const fn generation(&self) -> u32 {
        self.generation
    }

    pub(crate) const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The device's end of a queue, with both rings empty.
    pub(crate) fn queue(&self, platform: &impl Platform, queue: usize) -> Result<DeviceQueue<'a>, Corrupt> {
        let Geometry { slots, request, answer, .. } = self.geometry;
        let [up, down] = self.geometry.rings(self.memory, queue)?;
        Ok(DeviceQueue {
            requests: Consumer::new(platform, up, slots, request)?,
            answers: Producer::new(platform, down, slots, answer)?,
        })
    }

    /// What keeps the frames of the attached host whole.
    pub(crate) const fn integrity(&self) -> Integrity {
        if self.agreed[1] & FEATURE_NO_CHECKSUM != 0 { Integrity::Link } else { Integrity::Checksum }
    }

    pub(crate) const fn attached(&self) -> bool {
        matches!(self.state, State::Attached)
    }

    /// Looks at the host's line; returns whether a host has attached since, for which `empty` is to make the rings
    /// anew before it is told.
    pub(crate) fn look<E>(
        &mut self,
        platform: &impl Platform,
        empty: impl FnOnce(&Self) -> Result<(), E>,
    ) -> Result<bool, E> {
        platform.invalidate(self.theirs);
        let attachment = self.theirs.get(host_word::ATTACHMENT).map_or(0, |word| word.load(Ordering::Acquire));
        // Mostly it is the host of before, and nothing else is looked at.
        let line = if attachment == self.attachment { None } else { Some(load::<4>(self.theirs)) };
        // Half written, or damaged: it is looked at again.
        let whole =
            |&[versions, features, now, sum]: &[u32; 4]| sum == check([versions, features, now]) && attachment == now;
        let Some([versions, features, ..]) = line.filter(whole) else {
            if !self.attached() {
                // A fault may have changed what a host has to read before it can attach.
                self.tell(platform);
            }
            return Ok(false);
        };
        self.attachment = attachment;
        (self.state, self.agreed) = match common(VERSIONS, versions) {
            _ if attachment == 0 => (State::Ready, [0; 2]),
            Some(version) => (State::Attached, [version, FEATURES & features]),
            None => (State::Refused, [0; 2]),
        };
        let attached = self.attached();
        if attached {
            empty(self)?;
        }
        self.tell(platform);
        Ok(attached)
    }

    /// Tells the line anew if a fault has changed for whom it is: a host that reads that the device has let go asks for
    /// an attachment, which may be the one that the device has, so that neither end would see anything new.
    pub(crate) fn mend(&self, platform: &impl Platform) {
        platform.invalidate(self.ours);
        let told = self.ours.get(device_word::ATTACHMENT).map(|word| word.load(Ordering::Relaxed));
        if told != Some(self.attachment) {
            self.tell(platform);
        }
    }

    /// Gives the rings up until a host attaches anew.
    pub(crate) fn give_up(&mut self, platform: &impl Platform) {
        self.state = State::Broken;
        self.tell(platform);
    }

    /// Tells how many events there have been, and whether a host wants to be called for them.
    pub(crate) fn count_events(&mut self, platform: &impl Platform, events: u32) -> bool {
        if events == self.events {
            return false;
        }
        self.events = events;
        if let Some(word) = self.ours.get(device_word::EVENTS) {
            word.store(events, Ordering::Release);
        }
        platform.clean(self.ours);
        platform.publish();
        self.attached() && self.agreed[1] & FEATURE_EVENTS != 0
    }

    /// Writes all of the device's line: what a fault has changed in it is gone.
    fn tell(&self, platform: &impl Platform) {
        let Geometry { queues, slots, request, answer } = self.geometry;
        let [queues, slots, request, answer] = [queues, slots, request, answer].map(|size| size as u32);
        let fixed = [MAGIC, VERSIONS, FEATURES, queues, slots, request, answer, self.generation];
        let [version, features] = self.agreed;
        store(self.ours, &fixed);
        let rest = [check(fixed), self.state as u32];
        store(self.ours.get(device_word::CHECK..).unwrap_or_default(), &rest);
        store(self.ours.get(device_word::VERSION..).unwrap_or_default(), &[version, features, self.events]);
        // After everything that it stands for.
        if let Some(word) = self.ours.get(device_word::ATTACHMENT) {
            word.store(self.attachment, Ordering::Release);
        }
        platform.clean(self.ours);
        platform.publish();
    }
}

/// What a host reads in the device's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Sizes.
    pub geometry: Geometry,
    /// How often the device has started: another one has forgotten everything.
    pub generation: u32,
    /// Of the attachment.
    pub state: State,
    /// The version agreed on.
    pub version: u32,
    /// The features agreed on.
    pub features: u32,
    /// Events so far.
    pub events: u32,
    attachment: u32,
}

/// The device's line, if it is whole and has room in the memory.
fn device(platform: &impl Platform, memory: &[AtomicU32]) -> Option<Device> {
    let line = memory.get(..LINE)?;
    platform.invalidate(line);
    let attachment = line.get(device_word::ATTACHMENT)?.load(Ordering::Acquire);
    let [magic, versions, features, queues, slots, request, answer, generation, sum, state] = load::<10>(line);
    let [version, agreed, events] = load::<3>(line.get(device_word::VERSION..)?);
    let fixed = [magic, versions, features, queues, slots, request, answer, generation];
    let size = |word| usize::try_from(word).unwrap_or(usize::MAX);
    let geometry = Geometry { queues: size(queues), slots: size(slots), request: size(request), answer: size(answer) };
    let right = magic == MAGIC && sum == check(fixed) && geometry.is_sound() && geometry.words() <= memory.len();
    let state = State::from_number(state)?;
    right.then_some(Device { geometry, generation, state, version, features: agreed, events, attachment })
}

/// The host's end of a queue.
#[derive(Debug)]
struct HostQueue<'a> {
    requests: Producer<'a>,
    answers: Consumer<'a>,
}

/// The host's end of a region.
#[derive(Debug)]
pub struct HostRegion<'a, P> {
    memory: &'a [AtomicU32],
    platform: P,
    /// What has been asked of the device: 0 to let go, else to attach.
    asked: u32,
    /// The attachment to ask for next.
    next: u32,
    /// What is asked for.
    features: u32,
    queues: heapless::Vec<HostQueue<'a>, MAX_QUEUES>,
}

/// Where a host stands with the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// The device has not answered yet: call [`HostRegion::attach`] again.
    Waiting,
    /// Requests can be sent.
    Attached,
    /// The device speaks no version of this crate.
    Refused,
}

impl<'a, P: Platform> HostRegion<'a, P> {
    /// A host that is not attached. The memory is the device's to set up.
    pub const fn new(memory: &'a [AtomicU32], platform: P) -> Self {
        Self { memory, platform, asked: 0, next: 0, features: FEATURE_EVENTS, queues: heapless::Vec::new() }
    }

    /// With these features, where the device has them; without, [`FEATURE_EVENTS`] alone.
    #[must_use]
    pub const fn with_features(mut self, features: u32) -> Self {
        self.features = features & FEATURES;
        self
    }

    /// What the device says of itself; `None` while it is not there or its line is damaged, which the next attachment
    /// mends.
    pub fn device(&self) -> Option<Device> {
        device(&self.platform, self.memory)
    }

    /// Lets go of whatever attachment there is, so that the next [`attach`](Self::attach) begins anew with empty rings.
    pub fn detach(&mut self) {
        self.queues.clear();
        self.ask(0);
    }

    /// A step of attaching; to be called until it no longer says [`Attachment::Waiting`]. Neither end can take the
    /// answer to another attachment for its own: the device lets go first.
    ///
    /// # Errors
    /// [`Corrupt`] if the memory is too small for the two lines.
    pub fn attach(&mut self) -> Result<Attachment, Corrupt> {
        if self.memory.len() < HEAD {
            return Err(Corrupt);
        }
        // What was asked for is asked again: a fault may have changed it.
        self.ask(self.asked);
        let Some(device) = self.device() else { return Ok(Attachment::Waiting) };
        if device.attachment != self.asked {
            return Ok(Attachment::Waiting);
        }
        if self.asked == 0 {
            // Rings are the device's until it lets go, and from here on nobody's.
            self.next = self.next.wrapping_add(1).max(1);
            self.empty(device.geometry)?;
            self.ask(self.next);
            return Ok(Attachment::Waiting);
        }
        match device.state {
            State::Attached if !self.queues.is_empty() => Ok(Attachment::Attached),
            State::Refused => Ok(Attachment::Refused),
            _ => {
                self.detach();
                Ok(Attachment::Waiting)
            }
        }
    }

    fn empty(&mut self, geometry: Geometry) -> Result<(), Corrupt> {
        self.queues.clear();
        for queue in 0..geometry.queues {
            let [up, down] = geometry.rings(self.memory, queue)?;
            let requests = Producer::new(&self.platform, up, geometry.slots, geometry.request)?;
            let answers = Consumer::new(&self.platform, down, geometry.slots, geometry.answer)?;
            self.queues.push(HostQueue { requests, answers }).map_err(|_| Corrupt)?;
        }
        Ok(())
    }

    fn ask(&mut self, attachment: u32) {
        self.asked = attachment;
        let line = self.memory.get(LINE..HEAD).unwrap_or_default();
        let words = [VERSIONS, self.features, attachment];
        if let [versions, features, place, sum, ..] = line {
            versions.store(VERSIONS, Ordering::Relaxed);
            features.store(self.features, Ordering::Relaxed);
            sum.store(check(words), Ordering::Relaxed);
            // After the rings were emptied.
            place.store(attachment, Ordering::Release);
        }
        self.platform.clean(line);
        self.platform.publish();
        self.platform.notify(0);
    }

    /// Sends a request on a queue; returns whether there was room. The device is called if it wants to be.
    ///
    /// # Errors
    /// [`Corrupt`] if nobody is attached, there is no such queue, the request is too long, or the device's index cannot
    /// be: attach anew.
    pub fn send(&mut self, queue: usize, request: &[u8]) -> Result<bool, Corrupt> {
        let requests = &mut self.queues.get_mut(queue).ok_or(Corrupt)?.requests;
        let sent = requests.put(&self.platform, request)?;
        if sent == Some(true) {
            self.platform.notify(queue);
        }
        Ok(sent.is_some())
    }

    /// Takes an answer from a queue; its length, 0 if it is damaged, `None` if there is none.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn receive(&mut self, queue: usize, answer: &mut [u8]) -> Result<Option<usize>, Corrupt> {
        let answers = &mut self.queues.get_mut(queue).ok_or(Corrupt)?.answers;
        answers.take(&self.platform, answer)
    }

    /// Waits until an answer may lie in a queue, without looking all the time.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn wait(&mut self, queue: usize) -> Result<(), Corrupt> {
        let answers = &self.queues.get(queue).ok_or(Corrupt)?.answers;
        if answers.ask(&self.platform)? {
            self.platform.wait();
        }
        answers.unask(&self.platform);
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// `firmware/ffi/tests/device.c` expects the same of the C header.
    #[test]
    fn numbers_of_the_c_header() {
        assert_eq!(check([1, 2, 3]), 0x3E5B_1F1C);
        assert_eq!(ring::words(4, 1308), 32 + 4 * 336);
        assert_eq!(Geometry { queues: 2, slots: 4, request: 1308, answer: 804 }.words(), 4512);
    }

    #[test]
    fn the_newest_version_that_both_have() {
        let of = |oldest: u32, newest: u32| newest << 16 | oldest;
        for (ours, theirs, expected) in [
            (of(3, 3), of(3, 3), Some(3)),
            (of(1, 5), of(3, 9), Some(5)),
            (of(1, 5), of(5, 9), Some(5)),
            (of(1, 5), of(6, 9), None),
            (of(3, 3), of(0, 0), None),
            (of(0, 0), of(0, 0), None),
            (of(3, 3), of(9, 1), None),
        ] {
            assert_eq!((common(ours, theirs), common(theirs, ours)), (expected, expected));
        }
    }
}
