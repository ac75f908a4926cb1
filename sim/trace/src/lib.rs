//! Routing traces of mixture-of-experts models: which experts every token chose in every layer, and what the router's
//! scores were where they were recorded. For everybody who asks what a cache, a placement or a selection would make of
//! a model's routing, whatever tool recorded it.
//!
//! [`Trace`] is what everybody sees; [`native`] is its file format; [`import`] turns everybody else's files into it,
//! [`export`] turns it into files that engines place experts by.
//! Count files have no token order and stay [`Counts`](counts::Counts). A [`Router`] says as data what the model does
//! with its logits, and [`evidence`] holds every trace that is read against it. [`statistics`] says how a trace
//! switches, reuses and repeats; [`generate`] makes traces.
//!
//! ```
//! use cptr_trace::{Router, Shape, Trace, native};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("trace.safetensors");
//! let mut trace = Trace::of_ids(Shape { tokens: 3, layers: 1, experts: 8, k: 2 }, vec![0, 1, 1, 2, 2, 3]);
//! trace.meta.router = "sigmoid:4:2".parse()?;
//! native::write(&trace, &path)?;
//!
//! let trace = native::read(&path)?;
//! assert_eq!(trace.meta.router, Router::SIGMOID.grouped(4, 2));
//! assert_eq!(trace.chosen(2, 0), [2, 3]);
//! # Ok::<(), cptr_trace::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod array;
pub mod bias;
pub mod counts;
pub mod error;
pub mod evidence;
pub mod export;
pub mod file;
mod gate;
pub mod generate;
pub mod import;
pub mod lock;
pub mod loss;
pub mod native;
mod part;
pub mod progress;
pub mod restarts;
pub mod router;
pub mod statistics;
pub mod top_k;
mod trace;

pub use bias::BiasTable;
pub use error::{Error, Result};
pub use evidence::Evidence;
pub use loss::LossTable;
pub use router::{Router, Row};
pub use trace::{Knowledge, MAX_EXPERTS, MAX_TOP_K, Meta, NO_EXPERT, Phase, Shape, Trace};
