//! Time model of GPU, link and near-data device.
#![forbid(unsafe_code)]

pub mod dram;
