//! Faults between a host here and the images in their emulators: on the serial line, and in shared memory. Decisions
//! are those of the engine here without faults; recovery takes two turns (`protocol/tests/faults`, whose conversation
//! this is).
//!
//! A turn ends when the device has seen everything of it, however fast the emulator is: on the line when it has
//! answered a question behind it, in shared memory when it has gone to wait.

#[path = "../../../protocol/tests/faults/conversation.rs"]
mod conversation;

use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cptr_protocol::region::{Geometry, State, device_word};
use cptr_protocol::ring::{self, LINE};
use cptr_protocol::wire::{self, ANSWER, Command, Frame, Head, Status, Writer};
use cptr_protocol::{Controller, HostRegion, Layer, Uncounted, Untimed};

use super::build::{build, built};
use super::command::Done;
use super::controller::RINGS;
use super::emulator::Emulator;
use super::machines::{Machine, Scope};
use super::rings::{Bus, Shared, attach};
use conversation::{EXPERTS, Fault, LAYERS, QUEUES, Random, TOKENS, Way, disturb, run};

/// On each way to each machine: in the short form 4,000 together, else 35,000.
const FAULTS: [usize; 2] = [1_000, 2_500];
/// The device has seen everything by then.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who hears nothing asks again: bytes may be lost while the image starts.
const AGAIN: Duration = Duration::from_millis(100);

/// Starts an image, and gives the way to it.
type Start = fn(&'static Machine) -> Done<Box<dyn Way>>;

/// Injects the faults on both ways to each machine, on two machines in the short form.
pub(super) fn check(scope: Scope) -> Done {
    scope.targets().into_iter().try_for_each(|target| build("cptr-controller", target))?;
    let [few, many] = FAULTS;
    let faults = if scope == Scope::Short { few } else { many };
    for machine in scope.machines() {
        std::thread::scope(|scope| {
            let ways: [(&str, Start); 2] = [("line", line), ("rings", memory)];
            let threads = ways.map(|(name, way)| {
                let injected = scope.spawn(move || Ok(run(way(machine)?, Box::new(Well::new()), faults, 5)));
                (name, injected)
            });
            threads.into_iter().try_for_each(|(name, thread)| {
                let done: Done<String> = thread.join().map_err(|_| "see above".to_owned())?;
                let done = done.map_err(|error| format!("{}: faults, {name}: {error}", machine.core))?;
                println!("{:<12} {name:<5} {done}", machine.core);
                Ok(())
            })
        })
        .map_err(|error: String| format!("{}: faults: {error}", machine.core))?;
    }
    Ok(())
}

/// The engine in this process, to which everything comes as it is sent.
struct Well(Controller<'static, Untimed, Uncounted, EXPERTS, 1>);

impl Well {
    fn new() -> Self {
        let layers = vec![Layer::new(); LAYERS].leak();
        let answers = vec![0; QUEUES * wire::max_answer_of(EXPERTS, TOKENS)].leak();
        Self(Controller::new(layers, answers, Untimed::default(), Uncounted).with_tokens(TOKENS))
    }
}

impl Way for Well {
    fn stalls(&self) -> bool {
        false
    }

    fn turn(&mut self, _: usize, request: &[u8], _: bool, _: Option<Fault>, _: &mut Random) -> Vec<Vec<u8>> {
        vec![self.0.handle(request).to_vec()]
    }
}

/// The image on a serial line.
struct Line {
    emulator: Emulator,
    /// What is held up on its way to the device and back, and for how many turns the machine is.
    held: [Vec<u8>; 2],
    stalled: usize,
    /// Whether the image may not be there yet.
    starts: bool,
    /// Number of the last question.
    asked: u32,
    /// What has come back and is not a whole frame yet.
    rest: Vec<u8>,
}

fn line(machine: &'static Machine) -> Done<Box<dyn Way>> {
    let emulator = Emulator::start(machine, &built(&machine.target, "cptr-controller"), Stdio::inherit())?;
    let (held, rest) = Default::default();
    Ok(Box::new(Line { emulator, held, stalled: 0, starts: true, asked: 1 << 31, rest }))
}

impl Line {
    /// Who is there, twice: what is left of a frame before it ends with the first. Returns what comes before the answer
    /// to the second.
    fn everything(&mut self) -> Done<Vec<u8>> {
        let (mut before, mut frame, begun) = (Vec::new(), Vec::new(), Instant::now());
        let first = self.asked;
        self.ask()?;
        loop {
            let Some(byte) = self.emulator.byte_within(AGAIN)? else {
                if begun.elapsed() > PATIENCE {
                    return Err("the image is silent".into());
                }
                if self.starts {
                    self.ask()?;
                }
                continue;
            };
            frame.push(byte);
            if byte != 0 {
                continue;
            }
            let decoded = cobs::decode_vec(&frame[..frame.len() - 1]).unwrap_or_default();
            match Frame::open(&decoded).map(|frame| frame.head()) {
                Ok(head) if head.kind == Command::Identify as u8 | ANSWER && head.sequence > 1 << 31 => {
                    if head.sequence == self.asked {
                        self.starts = false;
                        return Ok(before);
                    }
                    // To a question of a turn before, or the first of the two.
                    debug_assert!(head.sequence <= first + 1 || self.starts);
                }
                _ => before.extend(&frame),
            }
            frame.clear();
        }
    }

    fn ask(&mut self) -> Done {
        for _ in 0..2 {
            self.asked += 1;
            let head = Head { kind: Command::Identify as u8, sequence: self.asked, ..Head::default() };
            let mut memory = [0; wire::OVERHEAD];
            let bytes = cobs::encode_vec(Writer::new(&mut memory).finish(head, Status::Done));
            self.emulator.send(&[&bytes[..], &[0]].concat())?;
        }
        Ok(())
    }

    fn try_turn(&mut self, request: &[u8], fault: Option<Fault>, random: &mut Random) -> Done<Vec<Vec<u8>>> {
        let stalled = self.stalled > 0;
        self.stalled = self.stalled.saturating_sub(1);
        match fault {
            Some(Fault::DeviceReset) => {
                self.emulator.reset()?;
                self.starts = true;
            }
            Some(Fault::HostReset) => self.rest.clear(),
            Some(Fault::Stall) => self.stalled = 1 + random.below(3),
            _ => {}
        }
        match (stalled, self.stalled > 0) {
            (false, true) => self.emulator.stop()?,
            (true, false) => self.emulator.go_on()?,
            _ => {}
        }
        if self.starts && self.stalled == 0 {
            // What was on its way is lost.
            self.everything()?;
        }
        let there = random.below(2) == 0;
        let mut bytes = cobs::encode_vec(request);
        bytes.push(0);
        let held = std::mem::take(&mut self.held);
        if let (Some(fault), true) = (fault, there) {
            bytes = disturb(bytes, fault, &mut self.held[0], random);
        }
        bytes.extend(&held[0]);
        self.emulator.send(&bytes)?;
        if self.stalled > 0 {
            self.held[1].extend(&held[1]);
            return Ok(Vec::new());
        }
        let mut back = self.everything()?;
        if let (Some(fault), false) = (fault, there) {
            back = disturb(back, fault, &mut self.held[1], random);
        }
        back.extend(&held[1]);
        self.rest.extend(back);
        let mut frames = Vec::new();
        while let Some(end) = self.rest.iter().position(|&byte| byte == 0) {
            let frame: Vec<u8> = self.rest.drain(..=end).collect();
            frames.push(cobs::decode_vec(&frame[..end]).unwrap_or_default());
        }
        Ok(frames)
    }
}

impl Way for Line {
    fn queues(&self) -> usize {
        1
    }

    fn stalls(&self) -> bool {
        self.stalled > 0
    }

    fn turn(&mut self, _: usize, request: &[u8], _: bool, fault: Option<Fault>, random: &mut Random) -> Vec<Vec<u8>> {
        self.try_turn(request, fault, random).expect("an emulator on a line")
    }
}

/// The image with rings.
struct Memory {
    shared: Shared,
    host: HostRegion<'static, Bus>,
    geometry: Geometry,
    attached: bool,
    stalled: usize,
}

fn memory(machine: &'static Machine) -> Done<Box<dyn Way>> {
    let shared = Shared::start(machine)?;
    let mut host = shared.host()?;
    attach(&mut host)?;
    let geometry = host.device().ok_or_else(|| format!("{RINGS}: the device has gone"))?.geometry;
    Ok(Box::new(Memory { shared, host, geometry, attached: true, stalled: 0 }))
}

impl Memory {
    fn load(&self, word: usize) -> Done<u32> {
        let mut bytes = [0; 4];
        let place = self.shared.offset + 4 * word as u64;
        self.shared.file.read_exact_at(&mut bytes, place).map_err(|error| format!("the shared memory: {error}"))?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn store(&self, word: usize, value: u32) -> Done {
        let place = self.shared.offset + 4 * word as u64;
        let stored = self.shared.file.write_all_at(&value.to_le_bytes(), place);
        stored.map_err(|error| format!("the shared memory: {error}"))
    }

    /// Changes a word.
    fn change(&self, word: usize, with: impl FnOnce(u32) -> u32) -> Done {
        self.store(word, with(self.load(word)?))
    }

    /// Returns when the device has seen everything: it goes to wait, twice, as the first time it may have said so
    /// before it looked. Or it has given the rings up.
    fn wait_for_device(&self) -> Done {
        // The line of the device in the first ring of requests: whether it wants to be called.
        let wanted = 2 * LINE + LINE + 1;
        let begun = Instant::now();
        for _ in 0..2 {
            self.store(wanted, 0)?;
            let mut rings = 0;
            while self.load(wanted)? == 0 && self.load(device_word::STATE)? == State::Attached as u32 {
                if begun.elapsed() > PATIENCE {
                    return Err("the device does not wait".into());
                }
                if rings % 500 == 0 {
                    self.shared.emulator.borrow_mut().send(&[0])?;
                }
                rings += 1;
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        Ok(())
    }

    /// A fault in a place where frames may lie, or anywhere.
    fn disturb(&self, fault: Fault, random: &mut Random) -> Done {
        let words = self.geometry.words();
        let slot = |random: &mut Random| random.below(words / LINE) * LINE;
        match fault {
            Fault::Flip => {
                // As often in one of the lines with indices as in a frame.
                let place = match random.below(2) {
                    0 => random.below(words),
                    _ => self.index(random),
                };
                let bit = 1 << random.below(32);
                self.change(place, |word| word ^ bit)
            }
            Fault::Truncate => self.change(slot(random), |length| length & 0xFF),
            Fault::Reorder => {
                let (a, b) = (slot(random), slot(random));
                (0..LINE).try_for_each(|word| {
                    let (x, y) = (self.load(a + word)?, self.load(b + word)?);
                    self.store(a + word, y).and_then(|()| self.store(b + word, x))
                })
            }
            Fault::Loss => {
                let slot = slot(random);
                (0..LINE).try_for_each(|word| self.store(slot + word, 0))
            }
            Fault::Repeat | Fault::Stall | Fault::DeviceReset | Fault::HostReset => Ok(()),
        }
    }

    /// One of the words that say how far an end is, or who is there.
    fn index(&self, random: &mut Random) -> usize {
        let Geometry { queues, slots, request, answer } = self.geometry;
        let (requests, answers) = (ring::words(slots, request), ring::words(slots, answer));
        let (queue, line, word) = (random.below(queues), random.below(2), random.below(2));
        match random.below(5) {
            0 => line * LINE + random.below(LINE),
            which => {
                let ring = 2 * LINE + queue * (requests + answers) + if which % 2 == 0 { requests } else { 0 };
                ring + line * LINE + word
            }
        }
    }

    fn try_turn(
        &mut self,
        queue: usize,
        request: &[u8],
        again: bool,
        fault: Option<Fault>,
        random: &mut Random,
    ) -> Done<Vec<Vec<u8>>> {
        let stalled = self.stalled > 0;
        self.stalled = self.stalled.saturating_sub(1);
        match fault {
            Some(Fault::DeviceReset) => self.shared.emulator.borrow().reset()?,
            Some(Fault::HostReset) => {
                self.host = self.shared.host()?;
                self.attached = false;
            }
            Some(Fault::Stall) => self.stalled = 1 + random.below(3),
            _ => {}
        }
        match (stalled, self.stalled > 0) {
            (false, true) => self.shared.emulator.borrow().stop()?,
            (true, false) => self.shared.emulator.borrow().go_on()?,
            _ => {}
        }
        if again || !self.attached {
            self.host.detach();
            self.attached = self.stalled == 0;
            if self.attached {
                attach(&mut self.host)?;
            }
        }
        let mut sent = self.host.send(queue, request);
        if fault == Some(Fault::Repeat) {
            sent = self.host.send(queue, request);
        }
        self.attached &= sent.is_ok();
        // While the request lies there, or while its answer does.
        let before = random.below(2) == 0;
        if let (Some(fault), true) = (fault, before) {
            self.disturb(fault, random)?;
        }
        if self.stalled > 0 {
            return Ok(Vec::new());
        }
        self.wait_for_device()?;
        if let (Some(fault), false) = (fault, before) {
            self.disturb(fault, random)?;
        }
        let (mut frames, mut frame) = (Vec::new(), vec![0; self.geometry.answer]);
        while let Ok(Some(length)) = self.host.receive(queue, &mut frame) {
            frames.push(frame[..length].to_vec());
        }
        Ok(frames)
    }
}

impl Way for Memory {
    fn stalls(&self) -> bool {
        self.stalled > 0
    }

    fn turn(
        &mut self,
        queue: usize,
        request: &[u8],
        again: bool,
        fault: Option<Fault>,
        random: &mut Random,
    ) -> Vec<Vec<u8>> {
        self.try_turn(queue, request, again, fault, random).expect("an emulator with shared memory")
    }
}
