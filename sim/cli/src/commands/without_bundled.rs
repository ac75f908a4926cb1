//! What stands in for the bundled model in a program that was built without it (build.rs).

use cptr_model::Model;
use cptr_trace::error::{Error, Result};

/// How to have it.
pub(super) fn model() -> Result<Model> {
    Err(Error::unsupported(
        "the bundled model is too large for the package that this program was built of; in a clone of the repository \
         cargo install --path sim/cli --features model has it",
    ))
}

/// None, as nothing can read them.
pub(super) fn held_out() -> impl Iterator<Item = (&'static str, &'static str)> {
    std::iter::empty()
}

/// As [`held_out`].
pub(super) fn calibration() -> impl Iterator<Item = (&'static str, &'static str)> {
    std::iter::empty()
}
