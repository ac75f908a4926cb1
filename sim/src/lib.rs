//! Routing traces through the filter and a near-data system: the library behind the `cptr` command.
#![forbid(unsafe_code)]

pub mod error;
pub mod format;
pub mod placement;
pub mod policy;
pub mod progress;
pub mod report;
pub mod run;
pub mod spec;
pub mod trace;
