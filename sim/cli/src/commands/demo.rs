//! x
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) fn main() -> cptr_trace::error::Result<crate::columns::Page> { todo!() }
