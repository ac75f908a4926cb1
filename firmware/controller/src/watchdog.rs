//! Shows that the watchdog ends a main loop that hangs. The loop is the controller's, over its serial port; the port is
//! well for three times the watchdog's time, and then a call of it never returns.
//!
//! For the mps2 boards. Other machines have no watchdog: there this image never ends.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod board;
#[cfg(all(feature = "defmt", target_os = "none"))]
mod log;
mod port;

use core::fmt::Write;

use cptr_protocol::wire::Integrity;
use cptr_protocol::{Controller, InstructionCounter, Layer, Mailbox, Serial, Untimed, serial, serve, wire, words_for};

use board::{Counter, Dog, Machine};
use port::Port;

cptr_rt::entry!(image);

const EXPERTS: usize = 8;
const REQUEST: usize = wire::max_request(EXPERTS);
const ANSWER: usize = wire::max_answer(EXPERTS);

fn image() -> bool {
    let mut layers = [Layer::<EXPERTS, { words_for(EXPERTS) }>::new()];
    let (mut incoming, mut answers, mut outgoing) = ([0; REQUEST], [0; ANSWER], [0; serial::encoded(ANSWER)]);
    let mut controller = Controller::new(&mut layers, &mut answers, Untimed::default(), Counter);
    let mailbox = Serial::new(Port::default(), Machine, &mut incoming, &mut outgoing);
    let _ = serve(&mut controller, &mut Hangs { mailbox, now: Counter.ticks(), well: 0 }, &mut Dog::start());
    false
}

/// A mailbox that hangs in the end.
struct Hangs<M> {
    mailbox: M,
    /// The counter when it was last asked, and the ticks until then.
    now: u64,
    well: u64,
}

impl<M: Mailbox> Mailbox for Hangs<M> {
    type Error = M::Error;

    fn poll<'k>(&mut self, answer: impl FnOnce(&[u8], Integrity) -> &'k [u8]) -> Result<bool, M::Error> {
        let before = core::mem::replace(&mut self.now, Counter.ticks());
        self.well += self.now.wrapping_sub(before) & ((1 << Counter::BITS) - 1);
        if self.well < 3 * u64::from(Dog::TICKS) {
            return self.mailbox.poll(answer);
        }
        let _ = writeln!(cptr_rt::Console, "the main loop ran for three times the watchdog's time, and hangs");
        loop {
            core::hint::spin_loop();
        }
    }
}
