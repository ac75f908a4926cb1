//! Rings in shared memory.

use std::sync::atomic::{AtomicU32, Ordering};

use cptr_protocol::region::Attachment;
use cptr_protocol::{Coherent, Geometry, HostRegion, Mailbox, Rings, wire};

use super::conversation::{EXPERTS, Fault, QUEUES, Random, TOKENS, Way};
use super::{Engine, engine};

const GEOMETRY: Geometry = Geometry {
    queues: QUEUES,
    slots: 4,
    request: wire::max_request_of(EXPERTS, TOKENS),
    answer: wire::max_answer_of(EXPERTS, TOKENS),
};

struct Memory {
    words: &'static [AtomicU32],
    host: HostRegion<'static, Coherent>,
    device: Rings<'static, Coherent>,
    engine: Engine,
    attached: bool,
    /// Turns that the device does not look.
    stalled: usize,
}

fn device(words: &'static [AtomicU32]) -> Rings<'static, Coherent> {
    let request = Box::leak(vec![0; GEOMETRY.request.div_ceil(4)].into_boxed_slice());
    Rings::new(words, GEOMETRY, Coherent, request).expect("the memory holds the region")
}

pub(crate) fn new() -> Box<dyn Way> {
    let words: Vec<AtomicU32> = (0..GEOMETRY.words()).map(|_| AtomicU32::new(0)).collect();
    let words: &'static [AtomicU32] = words.leak();
    let (host, device) = (HostRegion::new(words, Coherent), device(words));
    let engine = engine(device.generation());
    Box::new(Memory { words, host, device, engine, attached: false, stalled: 0 })
}

impl Memory {
    fn work(&mut self) {
        if self.stalled > 0 {
            return;
        }
        loop {
            let engine = &mut self.engine;
            let Ok(served) = self.device.poll(|request, link| engine.handle_from(request, link));
            if !served {
                return;
            }
        }
    }

    /// Attaches anew; where the device does not answer that is for the next turn.
    fn attach(&mut self) {
        self.host.detach();
        for _ in 0..8 {
            match self.host.attach() {
                Ok(Attachment::Attached) => {
                    self.attached = true;
                    return;
                }
                _ => self.work(),
            }
        }
        self.attached = false;
    }

    fn flip(&self, random: &mut Random) {
        // Anywhere, and as often in one of the lines with indices as in a frame.
        let place = match random.below(2) {
            0 => random.below(self.words.len()),
            _ => random.below(self.words.len() / 16) * 16 + random.below(2),
        };
        let bit = 1 << random.below(32);
        let word = &self.words[place];
        word.store(word.load(Ordering::Relaxed) ^ bit, Ordering::Relaxed);
    }

    /// Changes a slot, which is where a frame may lie.
    fn slot(&self, random: &mut Random, fault: Fault) {
        let slot = random.below(self.words.len() / 16) * 16;
        match fault {
            Fault::Truncate => {
                let length = self.words[slot].load(Ordering::Relaxed);
                self.words[slot].store(length & 0xFF, Ordering::Relaxed);
            }
            Fault::Reorder => {
                let other = random.below(self.words.len() / 16) * 16;
                for word in 0..16 {
                    let (a, b) = (&self.words[slot + word], &self.words[other + word]);
                    let (x, y) = (a.load(Ordering::Relaxed), b.load(Ordering::Relaxed));
                    a.store(y, Ordering::Relaxed);
                    b.store(x, Ordering::Relaxed);
                }
            }
            _ => (0..16).for_each(|word| self.words[slot + word].store(0, Ordering::Relaxed)),
        }
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
        self.stalled = self.stalled.saturating_sub(1);
        match fault {
            Some(Fault::DeviceReset) => {
                self.device = device(self.words);
                self.engine = engine(self.device.generation());
            }
            Some(Fault::HostReset) => {
                self.host = HostRegion::new(self.words, Coherent);
                self.attached = false;
            }
            Some(Fault::Stall) => self.stalled = 1 + random.below(3),
            _ => {}
        }
        if again || !self.attached {
            self.attach();
        }
        let before = random.below(2) == 0;
        let mut sent = self.host.send(queue, request);
        if fault == Some(Fault::Repeat) {
            sent = self.host.send(queue, request);
        }
        self.attached &= sent.is_ok();
        // While the request lies there, or while its answer does.
        let disturb = |way: &Self, random: &mut Random| match fault {
            Some(Fault::Flip) => way.flip(random),
            Some(fault @ (Fault::Loss | Fault::Reorder | Fault::Truncate)) => way.slot(random, fault),
            _ => {}
        };
        if before {
            disturb(self, random);
        }
        self.work();
        if !before {
            disturb(self, random);
        }
        let (mut frames, mut frame) = (Vec::new(), [0; GEOMETRY.answer]);
        while let Ok(Some(length)) = self.host.receive(queue, &mut frame) {
            frames.push(frame[..length].to_vec());
        }
        frames
    }
}
