//! MoE language models from Hugging Face checkpoints: run with a policy in the loop, captured as traces, quantised
//! expert by expert.
#![forbid(unsafe_code)]

pub mod capture;
pub mod error;
pub mod model;
pub mod quantize;
pub mod text;

pub use candle_core::Tensor;
pub use error::{Error, Result};
