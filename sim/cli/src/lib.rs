//! The `cptr` command.
#![forbid(unsafe_code)]

mod columns;
mod commands;
#[cfg(feature = "model")]
mod eval;
mod report;
mod terminal;

pub use commands::main;
