//! The main loop: feed the watchdog, answer a request if there is one, use the idle time, wait.

use crate::controller::{Controller, InstructionCounter};
use crate::units::Units;
use crate::wire::Integrity;

/// Carries requests to the controller and its answers back: [`Serial`](crate::Serial), [`Rings`](crate::Rings).
pub trait Mailbox {
    /// What can go wrong with the device behind it.
    type Error;

    /// If a request has come, has `answer` give the answer to it, told what keeps frames whole, and sends that; returns
    /// whether there was one. Does not wait for a request.
    ///
    /// # Errors
    /// The device's. What a host sends is never an error here.
    fn poll<'k>(&mut self, answer: impl FnOnce(&[u8], Integrity) -> &'k [u8]) -> Result<bool, Self::Error>;

    /// Tells the host how many events there have been, where it can be told without being asked.
    fn events(&mut self, events: u32) {
        let _ = events;
    }

    /// Waits until a request may have come; at most until the watchdog wants to be fed. Whoever polls returns at once.
    fn wait(&mut self) {}
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

/// Serves requests until the mailbox fails, and returns why it did. Waits when there is nothing to do and no job runs.
pub fn serve<M: Mailbox, U: Units, C: InstructionCounter, const E: usize, const W: usize>(
    controller: &mut Controller<'_, U, C, E, W>,
    mailbox: &mut M,
    watchdog: &mut impl Watchdog,
) -> M::Error {
    loop {
        watchdog.feed();
        let engine = &mut *controller;
        let served = match mailbox.poll(move |request, integrity| engine.handle_from(request, integrity)) {
            Ok(served) => served,
            Err(error) => return error,
        };
        let worked = controller.idle();
        mailbox.events(controller.events());
        if !served && !worked && controller.outstanding() == 0 {
            mailbox.wait();
        }
    }
}
