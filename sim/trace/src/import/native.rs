//! The native format itself, see [`crate::native`].

use std::path::Path;

use super::{Entry, Importer, Options, Part, Recording};
use crate::error::Result;
use crate::native;

/// Safetensors files of this project.
pub(super) struct Native;

impl Importer for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn about(&self) -> &'static str {
        "safetensors with experts [T,L,k] or logits [T,L,E]"
    }

    fn detect(&self, path: &Path, head: &[u8]) -> bool {
        // Eight bytes of length, then JSON. A wrong length is for the reader to complain about, where the name says
        // what was meant.
        head.len() > 8 && head[8] == b'{' && head[5..8] == [0; 3]
            || path.extension().is_some_and(|ext| ext == "safetensors")
    }

    fn import(&self, entry: Entry<'_>, _: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let file = entry.file()?;
        if native::holds_counts(&file, &path)? {
            return Ok(Part::counts(path.clone(), native::load_counts(&file, &path)?));
        }
        let native::Loaded { trace, experts_known, sequences_known } = native::load(&file, &path)?;
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known, sequences_known })
    }
}
