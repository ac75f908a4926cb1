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
//! - [`serial`], [`rings`]: two ways to carry frames, over a line or in a [`region`] of memory that both ends see.
//!   [`serve()`] is the main loop over either.
//! - [`units`]: drivers of the execution units that run jobs.
//! - [`HostRegion`], [`wire::judge`]: the host's end.
//!
//! `docs/device.md` is the contract. To run it on a board, implement [`Platform`], [`InstructionCounter`], [`Units`],
//! [`Watchdog`], and for the serial line the traits of `embedded-io`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod controller;
pub mod platform;
pub mod region;
pub mod ring;
pub mod rings;
pub mod serial;
pub mod serve;
mod sync;
// It hands addresses to hardware, which atomics of loom have not.
#[cfg(not(loom))]
pub mod unit;
pub mod units;
pub mod wire;

pub use cptr_core::words_for;

pub use controller::{Controller, InstructionCounter, Layer, Uncounted};
pub use platform::{Coherent, Platform};
pub use region::{Geometry, HostRegion};
pub use rings::Rings;
pub use serial::Serial;
pub use serve::{Mailbox, Watchdog, serve};
#[cfg(not(loom))]
pub use unit::Unit;
pub use units::{Kernels, Outcome, Timed, Units, Untimed};
pub use wire::Status;
