//! The `cptr` command.
#![forbid(unsafe_code)]

pub mod commands;
pub mod eval;
pub mod format;
pub mod inspect;
pub mod report;
