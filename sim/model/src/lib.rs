//! Runs mixture-of-experts language models from their Hugging Face checkpoints on the CPU, with a say in which experts
//! run.
//!
//! What a strategy that alters the router's choice costs in quality shows only in the model: an altered choice changes
//! what later layers and later tokens see. So a [`Model`] reads tokens and lets a [`MoeHook`] see the scores of every
//! MoE layer, replace the choice, and run experts from other matrices. [`capture`] records what the routers do as a
//! trace of `cptr-trace`; [`quantise`] makes replicas of the experts at 1 to 4 bits and measures what they lose;
//! [`text`] reads the files that both need.
//!
//! The families are OLMoE, Mixtral, Qwen2-MoE, Qwen3-MoE, DeepSeek-V2, DeepSeek-V3 and gpt-oss. Weights may be f32, f16
//! or bf16 and stay in the mapped file until they are used; the arithmetic is f32. Threads are rayon's
//! (`RAYON_NUM_THREADS`).
//!
//! ```
//! use cptr_model::{Cache, Model, MoeHook, Routing};
//!
//! /// Runs the best expert of each token only.
//! struct Best;
//!
//! impl MoeHook for Best {
//!     fn route(&mut self, routing: &Routing<'_>, chosen: &mut [u16]) {
//!         for row in chosen.chunks_exact_mut(routing.k) {
//!             row[1..].fill(cptr_trace::NO_EXPERT);
//!         }
//!     }
//! }
//!
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/olmoe");
//! let model = Model::load(folder.as_ref())?;
//! let tokens = model.encode("Once upon a time")?;
//! let logits = model.forward(&tokens, &mut Cache::new(), &mut Best)?;
//! assert_eq!(logits.len(), tokens.len() * model.config.vocab);
//! # Ok::<(), cptr_model::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod capture;
mod error;
mod model;
pub mod quantise;
pub mod text;

pub use cptr_trace::error::Kind;
pub use error::{Error, Result};
pub use model::{Cache, Config, Expert, Hidden, Model, MoeHook, Routing, SKIPPED, Unaltered};
