//! The `cptr` command, and the same for programs: [`answer`] gives what a command says, [`read`] what it reads.
#![forbid(unsafe_code)]

mod columns;
mod commands;
#[cfg(feature = "model")]
mod eval;
mod report;
mod terminal;

pub use commands::{Answer, answer, main, read};
