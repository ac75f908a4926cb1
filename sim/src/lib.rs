//! What a model with too many experts for its fast memory does on a machine: which experts run, stay, are fetched,
//! where and at how many bits, and what that costs in time, traffic and routing mass.
//!
//! It is for people who study or build systems that run mixture-of-experts models from slow memory: recordings of
//! routing in ([`cptr_trace`]), machines described by parts ([`cptr_hw_model`]), rows of figures out.
//!
//! - [`strategy`]: five choices that make a system, and the published ones as names for five;
//! - [`replay`]: the one loop that takes a strategy through a trace, a model's forward pass, or counts; a controller's
//!   firmware may decide beside it;
//! - studies on top: [`ablation`] (what each part of a strategy is worth), [`devices`] (several near-data devices),
//!   [`detect`] (changes of context), [`predict`] (does the prompt say what the answer wants?), [`recall`] (how much of
//!   a routing comes again), [`reproduce`] (a published evaluation);
//! - pictures: [`layer`] (a layer on a machine), [`dram`] (a memory channel), [`timeline`] (files for viewers).
//!
//! ```
//! use cptr_hw_model::{Model, System};
//! use cptr_sim::replay::{self, Budget, Machine, Plan};
//! use cptr_sim::strategy::Strategy;
//! use cptr_trace::{Shape, Trace};
//!
//! // Every token wants two experts of its half of a text, out of sixteen.
//! let ids = (0..400).flat_map(|token| [token / 200 * 8 + token % 5, token / 200 * 8 + 5 + token % 3]).collect();
//! let trace = Trace::of_ids(Shape { tokens: 400, layers: 1, experts: 16, k: 2 }, ids);
//! let (system, model) = (System::find("ndp").ok_or("no such machine")?, Model::find("olmoe").ok_or("no such model")?);
//! let plan = Plan {
//!     strategies: Strategy::parse_list("lru,belady,ctx-aware,migrate")?,
//!     prefill: 100,
//!     machine: Some(Machine::new(system, Some(model))),
//!     ..Plan::new("8".parse::<Budget>()?)
//! };
//! for row in replay::run(&trace, &plan)?.rows {
//!     println!("{}: {:.3} stalls per choice, {:?} tokens/s", row.strategy, row.stall_rate, row.tokens_per_s);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod ablation;
pub mod advise;
pub mod attack;
pub mod batches;
pub mod detect;
pub mod devices;
pub mod dram;
pub mod filter;
pub mod layer;
pub mod machine;
pub mod memory;
pub mod nearest;
pub mod plan;
pub mod predict;
pub mod recall;
pub mod replay;
pub mod reproduce;
pub mod serving;
pub mod source;
pub mod strategy;
pub mod sweep;
pub mod timeline;
