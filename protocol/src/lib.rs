//! What host and near-data controller say to each other, and the engine that answers. The same code runs in the
//! firmware and on the host.
//!
//! ```text
//! host ── request ──▶ [Serial] or [Rings] ──▶ [Controller::handle] ──▶ answer ──▶ host     (critical path)
//!                                              [Controller::idle]        (after the answer: update, execution units)
//! ```
//! - [`wire`]: frames and descriptors, checked before use.
//! - [`controller`]: the engine. It takes a request and writes an answer, whatever the bytes; a request that is refused
//!   changes nothing.
//! - [`serial`], [`ring`]: two ways to carry frames. [`serve()`] is the main loop over either.
//!
//! To run it on a board, implement [`InstructionCounter`], [`ExecutionUnits`](cptr_core::dispatch::ExecutionUnits),
//! [`Watchdog`], and either the traits of `embedded-io` for the serial port or an `embedded-hal` pin as the doorbell of
//! rings in shared memory.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod controller;
pub mod ring;
pub mod serial;
pub mod serve;
pub mod wire;

pub use cptr_core::words_for;

pub use controller::{Controller, InstructionCounter, Layer, Uncounted, Untimed};
pub use ring::{Ring, Rings};
pub use serial::Serial;
pub use serve::{Mailbox, Watchdog, serve};
pub use wire::Status;
