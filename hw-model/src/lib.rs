//! Time model of GPU, link and near-data device: how long a layer takes, given which experts run where.
//!
//! Knows no traces and no policies. [`model`] holds the sizes of models, [`system`] the machines; both are data files with sources.
//! [`dram`] is a command-level model of memory channels, exact to the cycle, with a fast path for streamed experts.
#![forbid(unsafe_code)]

pub mod dram;
pub mod model;
pub mod system;

pub use model::Model;
pub use system::{Cold, LayerTime, LayerWork, System};
