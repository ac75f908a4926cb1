//! The main loop: feed the watchdog, answer a request if there is one, then use the idle time.

use cptr_core::dispatch::ExecutionUnits;

use crate::controller::{Controller, InstructionCounter};

/// Carries requests to the controller and its answers back: [`Serial`](crate::Serial), [`Rings`](crate::Rings).
pub trait Mailbox {
    /// What can go wrong with the device behind it.
    type Error;

    /// If a request has come, has `answer` write the answer to it (into the second slice; it returns the length) and
    /// sends that; returns whether there was one. Does not wait for a request.
    ///
    /// # Errors
    /// The device's. What a host sends is never an error here.
    fn poll(&mut self, answer: impl FnMut(&[u8], &mut [u8]) -> usize) -> Result<bool, Self::Error>;
}

/// A watchdog that is running: it resets the machine if it is not fed in time. `embedded-hal` 1.0 has none.
pub trait Watchdog {
    /// Starts its time anew.
    fn feed(&mut self);
}

/// No watchdog.
impl Watchdog for () {
    fn feed(&mut self) {}
}

/// Serves requests until the mailbox fails, and returns why it did.
pub fn serve<M: Mailbox, U: ExecutionUnits, C: InstructionCounter, const E: usize, const W: usize>(
    controller: &mut Controller<'_, U, C, E, W>,
    mailbox: &mut M,
    watchdog: &mut impl Watchdog,
) -> M::Error {
    loop {
        watchdog.feed();
        if let Err(error) = mailbox.poll(|request, answer| controller.handle(request, answer)) {
            return error;
        }
        controller.idle();
    }
}
