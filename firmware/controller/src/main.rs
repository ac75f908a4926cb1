//! A near-data controller on an emulated board: serves the descriptors of a host over the serial port, for ever.
//!
//! The engine is `cptr-protocol`; this image is its memory, the board and the main loop.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod board;
#[cfg(all(feature = "defmt", target_os = "none"))]
mod log;
mod memory;
mod port;

use cptr_protocol::{Serial, serial, serve};

use board::{Dog, Machine};
use memory::{ANSWER, REQUEST};
use port::Port;

cptr_rt::entry!(image);

fn image() -> bool {
    let (mut incoming, mut answers, mut outgoing) = ([0; REQUEST], [0; ANSWER], [0; serial::encoded(ANSWER)]);
    // SAFETY: this function is called once.
    let mut controller = unsafe { memory::engine(&mut answers) };
    let mut mailbox = Serial::new(Port::default(), Machine, &mut incoming, &mut outgoing);
    // The port cannot fail.
    let _ = serve(&mut controller, &mut mailbox, &mut Dog::start());
    false
}
