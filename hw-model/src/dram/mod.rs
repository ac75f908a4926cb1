//! Command-level DRAM: exact to the cycle, one channel at a time.
//!
//! Start with [`presets`] for a device, [`Config`] for the controller, [`Controller::run`] for a stream of requests:
//!
//! ```
//! use cptr_hw_model::dram::{Config, Controller, MappingKind, Refresh, Until, presets, stream};
//!
//! let device = presets::ddr5_4800();
//! let mut controller = Controller::new(&device, Config::new(MappingKind::Mop4ClXor, Refresh::AllBank))?;
//! controller.run(stream::sequential(100_000), Until::Served)?;
//! let share_of_peak = controller.bandwidth_gb_s() / device.peak_gb_s();
//! assert!(share_of_peak > 0.9);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Layers, each knowing only those above it: [`device`] and [`presets`] (tables), [`mapping`] (addresses), [`Channel`] (what is legal
//! when), [`Controller`] (what is done when). Cycles are cycles of the command clock.
mod channel;
mod command;
mod config;
mod controller;
pub mod device;
mod error;
mod fast;
mod histogram;
mod latencies;
pub mod mapping;
pub mod presets;
mod queue;
mod schedule;
mod snapshot;
mod statistics;
#[cfg(test)]
mod stepping;
pub mod stream;

pub use channel::{BankState, Channel};
pub use command::{Command, CommandCounts, CommandKind};
pub use config::{Config, MAX_QUEUE_DEPTH, PagePolicy, Refresh};
pub use controller::{Controller, Observer, Request, RequestKind, StreamError, Until};
pub use device::Device;
pub use error::{AddressError, CommandError, ConfigError, Refused};
pub use fast::FastChannel;
pub use histogram::Histogram;
pub use mapping::{AddressMap, ChannelStripe, MappingKind};
pub use statistics::Statistics;
