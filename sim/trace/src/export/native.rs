//! The project's own format.

use std::path::Path;

use super::{Exporter, Options};
use crate::error::Result;
use crate::import::Recording;
use crate::native;

/// All that is known.
pub(super) struct Native;

impl Exporter for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn about(&self) -> &'static str {
        "safetensors with all that is known"
    }

    fn write(&self, recording: &Recording, _: &Options, path: &Path) -> Result<()> {
        match recording {
            Recording::Tokens(trace) => native::write(trace, path),
            Recording::Counts(counts) => native::write_counts(counts, path),
        }
    }
}
