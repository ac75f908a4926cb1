//! `layer,expert`, a line for each choice, in the order of the layers of each token: what llama-moe-trace writes and
//! `--moe-cache-profile` takes (github.com/thecodacus/llama.cpp, pull request 5). Files may be put one behind another.

use std::path::Path;

use super::{Exporter, Options};
use crate::NO_EXPERT;
use crate::error::{Error, Result};
use crate::file;
use crate::import::Recording;

/// Choices as CSV.
pub(super) struct LlamaCsv;

impl Exporter for LlamaCsv {
    fn name(&self) -> &'static str {
        "llama-csv"
    }

    fn about(&self) -> &'static str {
        "CSV layer,expert, a line for each choice: llama.cpp forks' --moe-cache-profile"
    }

    fn write(&self, recording: &Recording, _: &Options, path: &Path) -> Result<()> {
        let Recording::Tokens(trace) = recording else {
            return Err(Error::new("expected a trace of tokens for lines in their order, found counts"));
        };
        file::replace(path, |out| {
            writeln!(out, "layer,expert")?;
            for token in 0..trace.shape.tokens {
                for (layer, number) in trace.meta.layer_ids.iter().enumerate() {
                    // Of null experts nothing is kept in memory.
                    let real = |id: &&u16| **id != NO_EXPERT && usize::from(**id) < trace.shape.experts;
                    for id in trace.chosen(token, layer).iter().filter(real) {
                        writeln!(out, "{number},{id}")?;
                    }
                }
            }
            Ok(())
        })
    }
}
