//! The `cptr` command from the outside: what it prints, writes and refuses.
//!
//! The program runs as a child process in a folder of its own. Inputs are the two bundled traces and small files, one
//! of every format, that [`samples`] makes; no test needs anything else. Only [`shared`] looks at public data sets,
//! where `CPTR_TRACES` says where they lie.
#![forbid(unsafe_code)]

mod ablation;
mod advise;
mod attack;
mod batches;
mod command;
mod controller;
mod damage;
mod demo;
mod dram;
mod drive;
#[cfg(feature = "model")]
mod eval;
mod files;
mod formats;
mod guarantees;
mod layer;
#[cfg(unix)]
mod manners;
#[cfg(feature = "model")]
mod models;
mod options;
mod plan;
#[cfg(feature = "model")]
mod quantize;
mod recall;
mod recordings;
mod report;
mod reproduce;
mod results;
mod samples;
mod serve;
mod shared;
mod sweep;
mod systems;
mod tenants;
mod traces;
mod writers;
