//! Time model of GPU, link and near-data device: how long a layer takes and what energy, given which experts run where.
//!
//! Knows no traces and no policies. [`System`] is a machine put together from parts, each usable by itself:
//! - [`dram`]: a command-level model of memory channels, exact to the cycle, with a fast path for streamed experts;
//! - [`ndp`]: the near-data device, channels behind a scratchpad and arrays of processing elements;
//! - [`link`]: CXL flits, PCIe copies, launches; [`gpu`]: a roofline; [`controller`]: cycles of the filter; [`energy`]: picojoules;
//! - [`breakdown`]: what the time of one expert is made of; [`events`]: a layer piece by piece, for timelines; [`decode`]: a layer whose
//!   experts run at different bits, with copies behind it.
//!
//! [`model`] holds the sizes of models. Models and machines are data files with sources (`data/`).
#![forbid(unsafe_code)]

pub mod breakdown;
pub mod controller;
pub mod decode;
pub mod dram;
pub mod energy;
pub mod events;
pub mod gpu;
pub mod link;
pub mod model;
pub mod ndp;
pub mod system;
mod validate;

pub use breakdown::Breakdown;
pub use decode::{DecodeTime, DecodeWork, ExpertRun};
pub use energy::Energy;
pub use model::Model;
pub use system::{Cold, LayerTime, LayerWork, System, SystemError};
