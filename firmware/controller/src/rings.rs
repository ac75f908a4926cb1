//! A near-data controller on an emulated board that serves a region of memory which it shares with a host: two queues,
//! and a byte on the serial port as the doorbell, each way.
//!
//! The emulator keeps the board's memory in a file, in which the host writes as it would over a bus.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod board;
#[cfg(all(feature = "defmt", target_os = "none"))]
mod log;
mod memory;

use cptr_protocol::{Geometry, Platform, Rings, serve};

use board::{Dog, Machine};
use memory::{ANSWER, REQUEST};

cptr_rt::entry!(image);

const QUEUES: usize = 2;
const GEOMETRY: Geometry = Geometry { queues: QUEUES, slots: 4, request: REQUEST, answer: ANSWER };

/// The machine, with a host that hears and rings.
#[derive(Debug)]
struct Bell;

impl Platform for Bell {
    fn publish(&self) {
        Machine.publish();
    }

    /// A byte with the number of the queue.
    fn notify(&mut self, queue: usize) {
        cptr_rt::write(&[queue as u8]);
    }

    /// For a byte, whatever is in it.
    fn wait(&mut self) {
        if cptr_rt::read().is_none() {
            cptr_rt::wait();
        }
        while cptr_rt::read().is_some() {}
    }
}

#[expect(unreachable_code, reason = "rings never fail")]
fn image() -> bool {
    let (mut request, mut answers) = ([0; REQUEST.div_ceil(4)], [0; QUEUES * ANSWER]);
    let Ok(mut rings) = Rings::new(cptr_rt::shared(GEOMETRY.words()), GEOMETRY, Bell, &mut request) else {
        return false;
    };
    // SAFETY: this function is called once.
    let controller = unsafe { memory::engine(&mut answers) };
    let mut controller = controller.with_generation(rings.generation());
    match serve(&mut controller, &mut rings, &mut Dog::start()) {}
}
