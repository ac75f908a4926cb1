//! Helpers for the tests that cross crates.
#![forbid(unsafe_code)]

pub mod fuzz;
