//! The `cptr` command.
#![forbid(unsafe_code)]
fn main() {}
