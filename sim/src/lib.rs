//! Routing traces through the filter and a near-data system.
#![forbid(unsafe_code)]

pub mod decode;
pub mod detect;
pub mod devices;
pub mod dram;
pub mod layer;
pub mod placement;
pub mod policy;
pub mod predict;
pub mod replay;
pub mod reproduce;
pub mod run;
pub mod scheme;
pub mod spec;
pub mod strategy;
pub mod timeline;
