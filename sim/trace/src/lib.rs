//! Routing traces: which experts every token chose in every layer, and what the router's scores were where they were recorded.
//!
//! [`Trace`] is what everybody sees; [`native`] is its file format; [`import`] turns everybody else's files into it. Count files have no
//! token order and stay [`Counts`](counts::Counts). [`statistics`] says how a trace switches, reuses and repeats; [`generate`] makes traces.
#![forbid(unsafe_code)]

pub mod array;
pub mod counts;
pub mod error;
pub mod evidence;
pub mod file;
mod gate;
pub mod generate;
pub mod import;
pub mod loss;
pub mod native;
mod part;
pub mod progress;
pub mod restarts;
pub mod router;
pub mod statistics;
pub mod top_k;
mod trace;

pub use error::{Error, Result};
pub use loss::LossTable;
pub use evidence::Evidence;
pub use router::{Router, Row};
pub use trace::{Knowledge, MAX_EXPERTS, MAX_TOP_K, Meta, NO_EXPERT, Phase, Shape, Trace};
