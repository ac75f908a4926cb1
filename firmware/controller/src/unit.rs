//! A near-data controller with the hardware unit on its core's bus: serves one queue in a region of memory that it
//! shares with a host, and has the unit answer what it can.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod board;
#[cfg(all(feature = "defmt", target_os = "none"))]
mod log;
mod memory;

use core::sync::atomic::AtomicU32;

use cptr_protocol::unit::Registers;
use cptr_protocol::{Geometry, Platform, Rings, Unit};

use board::{Dog, Machine};
use memory::{ANSWER, REQUEST};

cptr_rt::entry!(image);

const GEOMETRY: Geometry = Geometry { queues: 1, slots: 4, request: REQUEST, answer: ANSWER };
/// Words of a job.
const JOB: usize = 6;
/// Most experts of a token that the unit is made for.
const MOST_K: usize = 8;

/// Where the unit lists the jobs of a token.
static JOBS: [AtomicU32; JOB * MOST_K] = [const { AtomicU32::new(0) }; JOB * MOST_K];

/// The unit's registers.
#[derive(Debug)]
struct Bus;

impl Registers for Bus {
    fn load(&self, address: u16) -> u32 {
        cptr_rt::load_unit(address)
    }

    fn store(&mut self, address: u16, value: u32) {
        cptr_rt::store_unit(address, value);
    }
}

/// The machine, whose host polls, and which polls.
#[derive(Debug)]
struct Polling;

impl Platform for Polling {
    fn publish(&self) {
        Machine.publish();
    }

    fn notify(&mut self, _: usize) {}

    fn wait(&mut self) {}
}

#[expect(unreachable_code, reason = "rings never fail")]
fn image() -> bool {
    let (mut request, mut answers) = ([0; REQUEST.div_ceil(4)], [0; ANSWER]);
    let Ok(mut rings) = Rings::new(cptr_rt::shared(GEOMETRY.words()), GEOMETRY, Polling, &mut request) else {
        return false;
    };
    // SAFETY: this function is called once.
    let controller = unsafe { memory::engine(&mut answers) };
    let mut controller = controller.with_generation(rings.generation());
    let Some(mut unit) = Unit::find(Bus, JOBS.as_ptr().expose_provenance() as u32) else { return false };
    match unit.serve(&mut controller, &mut rings, &mut Dog::start()) {}
}
