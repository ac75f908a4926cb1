//! The serial line.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;

use cptr_protocol::{Coherent, Mailbox, Serial, serial, wire};
use embedded_io::{ErrorType, Read, ReadReady, Write};

use super::conversation::{EXPERTS, Fault, Random, TOKENS, Way, disturb};
use super::{Engine, engine};

const REQUEST: usize = wire::max_request_of(EXPERTS, TOKENS);
const ANSWER: usize = wire::max_answer_of(EXPERTS, TOKENS);

/// The device's port: bytes that have arrived, and bytes sent.
#[derive(Clone, Default)]
struct Port(Rc<RefCell<(VecDeque<u8>, Vec<u8>)>>);

impl ErrorType for Port {
    type Error = Infallible;
}

impl ReadReady for Port {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(!self.0.borrow().0.is_empty())
    }
}

impl Read for Port {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        let next = self.0.borrow_mut().0.pop_front();
        Ok(next.map_or(0, |byte| {
            bytes[0] = byte;
            1
        }))
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.0.borrow_mut().1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

struct Line {
    /// How often the device has started anew: a count in memory that survives.
    starts: u32,
    port: Port,
    serial: Serial<'static, Port, Coherent>,
    engine: Engine,
    /// What is held up on its way to the device and back, and for how many turns.
    held: [Vec<u8>; 2],
    stalled: usize,
    /// What has come back and is not a whole frame yet.
    rest: Vec<u8>,
}

fn device(generation: u32) -> (Port, Serial<'static, Port, Coherent>, Engine) {
    let port = Port::default();
    let memory = |bytes: usize| Box::leak(vec![0; bytes].into_boxed_slice());
    let serial = Serial::new(port.clone(), Coherent, memory(REQUEST), memory(serial::encoded(ANSWER)));
    (port, serial, engine(generation))
}

pub(crate) fn new() -> Box<dyn Way> {
    let (port, serial, engine) = device(0);
    Box::new(Line { starts: 0, port, serial, engine, held: Default::default(), stalled: 0, rest: Vec::new() })
}

impl Way for Line {
    fn stalls(&self) -> bool {
        self.stalled > 0
    }

    fn turn(&mut self, _: usize, request: &[u8], _: bool, fault: Option<Fault>, random: &mut Random) -> Vec<Vec<u8>> {
        self.stalled = self.stalled.saturating_sub(1);
        match fault {
            Some(Fault::DeviceReset) => {
                self.starts += 1;
                (self.port, self.serial, self.engine) = device(self.starts);
            }
            Some(Fault::HostReset) => self.rest.clear(),
            Some(Fault::Stall) => self.stalled = 1 + random.below(3),
            _ => {}
        }
        let there = random.below(2) == 0;
        let mut bytes = cobs::encode_vec(request);
        bytes.push(0);
        let held = std::mem::take(&mut self.held);
        if let (Some(fault), true) = (fault, there) {
            bytes = disturb(bytes, fault, &mut self.held[0], random);
        }
        bytes.extend(&held[0]);
        self.port.0.borrow_mut().0.extend(bytes);
        if self.stalled > 0 {
            // A host whose patience is over asks again, and the device answers all of it later.
            self.held[1].extend(&held[1]);
            return Vec::new();
        }
        let engine = &mut self.engine;
        while self.serial.poll(|request, link| engine.handle_from(request, link)).unwrap_or(false) {
            // What is answered is on its way before the next request is looked at.
            if self.port.0.borrow().1.len() > 1 << 20 {
                break;
            }
        }
        let mut back = std::mem::take(&mut self.port.0.borrow_mut().1);
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
        frames
    }
}
