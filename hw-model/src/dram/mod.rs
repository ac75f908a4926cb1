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
//! Layers, each knowing only those above it: [`device`] and [`presets`] (tables), [`mapping`] (addresses), [`Channel`]
//! (what is legal when, from the table of [`constraints`]), [`Controller`] (what is done when), [`engine`] (the same,
//! driven by others), [`FastChannel`] (long contiguous reads in jumps, to the cycle the same). Cycles are cycles of the
//! command clock. Several channels are several controllers; [`ChannelStripe`] spreads addresses over them, and
//! [`FastChannels`] reads ranges from all of them at once.
//!
//! # How far to trust it
//! - Every count of 36 runs of Ramulator 2.1 (DDR4-3200, DDR5-4800, LPDDR5-6400; two mappings, three streams, with and
//!   without refresh) is met to the last digit: `cargo run --release --example dram_reference` prints the table. So is
//!   every count of 598 random configurations (`tests/dram_random.rs`), and when each of 2,792 single commands is legal
//!   (`tests/dram_commands.rs`).
//! - An independent checker judges every command of random runs of all devices, two ranks included
//!   (`tests/dram_rules.rs`).
//!
//! # What is left out
//! Power-down and self-refresh, refresh postponing, ECC, calibration, and the on-die details of a bank-wise refresh
//! that counts as an activate in the tFAW window. Where the reference simulator is known to deviate from the standard,
//! it is followed if its counts are the measure (LPDDR5: PREab to REFab takes nRP, activates count from ACT1) and not
//! otherwise (nRRD of DDR5; a read of one rank followed by a write of another, whose bursts would collide).
mod channel;
mod command;
mod config;
pub mod constraints;
mod controller;
pub mod device;
pub mod energy;
pub mod engine;
mod error;
mod fast;
mod histogram;
mod issue;
mod management;
pub mod mapping;
pub mod presets;
mod queue;
mod request;
mod schedule;
mod snapshot;
mod statistics;
#[cfg(test)]
mod stepping;
pub mod stream;
mod system;

pub use channel::{BankState, Channel};
pub use command::{Command, CommandCounts, CommandKind};
pub use config::{Config, MAX_QUEUE_DEPTH, PagePolicy, Refresh};
pub use controller::{Controller, Observer, Served};
pub use device::Device;
pub use energy::{CommandEnergy, Energy};
pub use engine::{CallError, Completion, Engine, EngineConfig, Id, NotTaken, SnapshotError};
pub use error::{AddressError, CommandError, ConfigError, DeviceFileError, Refused};
pub use fast::FastChannel;
pub use histogram::Histogram;
pub use management::{ManagementCommand, RefreshManagement};
pub use mapping::{AddressMap, ChannelStripe, Location, MappingKind};
pub use request::{Request, RequestKind, StreamError, Until};
pub use statistics::{SourceStatistics, Statistics};
pub use stream::StreamKind;
pub use system::FastChannels;
