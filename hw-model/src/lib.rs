//! How long a layer of a mixture-of-experts model takes on a GPU with a link and a near-data device, and what energy,
//! given which experts run where.
//!
//! Knows no traces and no policies. A [`System`] is a machine, [`LayerWork`] is what a layer has to do, and from one
//! schedule of it come
//! - [`System::layer_time`]: time and energy ([`layer`]); [`LayerTimes`] remembers them;
//! - [`System::outside_layers`]: what a token takes beside them ([`token`]);
//! - [`System::layer_events`]: what each unit does when, for timelines ([`events`]);
//! - [`System::expert_breakdown`]: what the time of one expert is made of, and why ([`breakdown`]).
//!
//! Each part of a machine is usable by itself:
//! - [`dram`]: a command-level model of memory channels, exact to the cycle, with a fast path for streamed experts;
//! - [`ndp`]: the near-data device, channels behind a scratchpad and arrays of processing elements;
//! - [`link`]: CXL flits, PCIe copies, launches; [`drive`]: reads in flight; [`gpu`] and [`host`]: rooflines;
//!   [`switch`]: several devices; [`controller`]: cycles of the filter; [`energy`]: picojoules.
//!
//! [`model`] holds the sizes of models. Models and machines are data files with sources (`data/`). See [`system`] for
//! an example.
#![forbid(unsafe_code)]

pub mod breakdown;
pub mod controller;
pub mod dram;
pub mod drive;
pub mod energy;
pub mod events;
pub mod gpu;
pub mod host;
pub mod layer;
pub mod link;
pub mod model;
pub mod ndp;
mod schedule;
pub mod switch;
pub mod system;
mod times;
pub mod token;
mod validate;
mod work;

pub use breakdown::Breakdown;
pub use drive::Drive;
pub use energy::Energy;
pub use layer::LayerTime;
pub use model::{Model, ModelError};
pub use switch::{Collective, Switch};
pub use system::{Cold, Parts, System, SystemError};
pub use times::LayerTimes;
pub use work::{CopiedRun, ExpertRun, LayerWork};
