//! The board: what a port to another one writes anew. Here the instruction counter, the watchdog, barriers and waiting
//! of the emulated machines; their serial port is in `port.rs`.

use cptr_protocol::{InstructionCounter, Platform, Watchdog};

/// The machine: no caches between its memory and whoever else sees it.
#[derive(Debug)]
pub(crate) struct Machine;

impl Platform for Machine {
    fn publish(&self) {
        cptr_rt::publish();
    }

    /// Nobody to call: who is at the other end of the serial port hears the answer.
    fn notify(&mut self, _: usize) {}

    fn wait(&mut self) {
        cptr_rt::wait();
    }
}

/// The machine's instruction counter.
#[derive(Debug)]
pub(crate) struct Counter;

impl InstructionCounter for Counter {
    const BITS: u32 = cptr_rt::COUNTER_BITS;

    fn ticks(&self) -> u64 {
        cptr_rt::instructions()
    }

    fn instructions(ticks: u64) -> u64 {
        cptr_rt::to_instructions(ticks)
    }
}

/// The machine's watchdog; the mps2 boards have one, the others none.
#[derive(Debug)]
pub(crate) struct Dog;

impl Dog {
    /// Ticks of the core clock, a second: more than a wait takes at most, two thousand times the longest turn of the
    /// main loop.
    pub(crate) const TICKS: u32 = 25_000_000;

    pub(crate) fn start() -> Self {
        cptr_rt::start_watchdog(Self::TICKS);
        Self
    }
}

impl Watchdog for Dog {
    fn feed(&mut self) {
        cptr_rt::feed_watchdog();
    }
}
