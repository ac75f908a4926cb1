//! Routing traces through the filter and a near-data system: the library behind the `cptr` command.
#![forbid(unsafe_code)]

pub mod cli;
pub mod dram;
pub mod error;
mod file;
pub mod format;
pub mod inspect;
pub mod layer;
pub mod placement;
pub mod policy;
pub mod progress;
pub mod report;
pub mod run;
pub mod spec;
pub mod timeline;
pub mod trace;
