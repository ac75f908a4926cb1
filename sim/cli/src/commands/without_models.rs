//! Commands that run language models, in a program that was built without the libraries for them.

use crate::columns::Page;
use cptr_trace::error::{Error, Result};

/// Whatever is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(hide = true, allow_hyphen_values = true, trailing_var_arg = true)]
    rest: Vec<String>,
}

pub(super) fn main(_: &Args) -> Result<Page> {
    Err(missing())
}

/// How to have what is missing.
pub(super) fn missing() -> Error {
    Error::new(
        "this program was built without language models; cargo run --release --features model -- … builds it with them",
    )
}
