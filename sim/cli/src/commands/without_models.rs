//! Commands that run language models, in a program that was built without the libraries for them.

use std::path::{Path, PathBuf};

use super::about::About;
use crate::columns::Page;
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};

/// Whatever is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(hide = true, allow_hyphen_values = true, trailing_var_arg = true)]
    rest: Vec<String>,
}

pub(super) static ABOUT: About = About {
    rows: &[],
    examples: &[(
        "cargo install --path sim/cli --features model",
        "builds cptr with them, in a clone of the repository",
    )],
};

pub(super) fn main(_: &Args) -> Result<Page> {
    Err(missing())
}

/// As [`main`].
pub(super) fn record(_: &Path, _: &[PathBuf], _: Option<usize>) -> Result<Trace> {
    Err(missing())
}

/// How to have what is missing.
pub(super) fn missing() -> Error {
    Error::new(
        "this program was built without language models; cargo install --path sim/cli --features model, in a clone of \
         the repository, builds it with them",
    )
}
