//! Routing traces through the filter and a near-data system: the library behind the `cptr` command.
#![forbid(unsafe_code)]

pub mod capture;
pub mod cli;
pub mod decode;
pub mod detect;
pub mod devices;
pub mod dram;
pub mod error;
pub mod eval;
mod file;
pub mod format;
pub mod generate;
pub mod inspect;
pub mod layer;
pub mod model;
pub mod placement;
pub mod policy;
pub mod predict;
pub mod progress;
pub mod quantize;
pub mod report;
pub mod reproduce;
pub mod run;
pub mod scheme;
pub mod spec;
pub mod text;
pub mod timeline;
pub mod trace;
