//! Recordings for engines that place experts by them: profiles of caches, counts, masks.
//!
//! [`write()`] writes one of [`EXPORTERS`]; a new one is one file and one line there. A file appears whole or not at
//! all.
//!
//! ```
//! use cptr_trace::export::{Options, write};
//! use cptr_trace::import::Recording;
//! use cptr_trace::{Shape, Trace};
//!
//! let trace = Trace::of_ids(Shape { tokens: 2, layers: 1, experts: 4, k: 2 }, vec![3, 1, 3, 0]);
//! let path = tempfile::tempdir().unwrap().path().join("profile.json");
//! # std::fs::create_dir_all(path.parent().unwrap()).unwrap();
//! write("eplb", &Recording::Tokens(trace), &Options::default(), &path).unwrap();
//! assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"logical_count\":[[1,1,0,2]]}\n");
//! ```

mod eplb;
mod flash_moe;
mod ktransformers;
mod llama_csv;
mod native;
mod torch;

use std::path::Path;

use super::NO_EXPERT;
use crate::error::{Error, Result};
use crate::import::Recording;

/// What is asked beside the recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Experts of each layer that fast memory holds.
    pub resident: Option<usize>,
    /// Share of the sequences from which on an expert counts as wanted by all.
    pub threshold: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { resident: None, threshold: 0.5 }
    }
}

/// A format that an engine reads.
pub trait Exporter: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;

    /// One line for the help text: what it is, and which option of which engine takes it.
    fn about(&self) -> &'static str;

    /// Writes a recording.
    ///
    /// # Errors
    /// What the format cannot hold; what is missing from the options; a file that cannot be written.
    fn write(&self, recording: &Recording, options: &Options, path: &Path) -> Result<()>;
}

/// All formats.
pub const EXPORTERS: &[&dyn Exporter] = &[
    &native::Native,
    &llama_csv::LlamaCsv,
    &eplb::Eplb,
    &eplb::Sglang,
    &ktransformers::Ktransformers,
    &flash_moe::FlashMoe,
];

/// Writes a recording in a format, by its name.
///
/// # Errors
/// Those of [`Exporter::write`]; an unknown name.
pub fn write(name: &str, recording: &Recording, options: &Options, path: &Path) -> Result<()> {
    let names = || EXPORTERS.iter().map(|exporter| exporter.name()).collect::<Vec<_>>().join(", ");
    let exporter = EXPORTERS
        .iter()
        .find(|exporter| exporter.name() == name)
        .ok_or_else(|| Error::new(format!("expected a format ({}), found \"{name}\"", names())))?;
    exporter.write(recording, options, path)
}

/// How often each expert of each layer was chosen.
struct Wanted {
    /// The model's own number of each layer.
    layer_ids: Vec<u32>,
    /// `[L][E]`.
    counts: Vec<Vec<u64>>,
    model: String,
}

/// Layers that a model may have: rows of layers without experts are written too.
const MOST_LAYERS: u32 = 1 << 12;

impl Wanted {
    /// Sums over all tokens, or all tables.
    fn of(recording: &Recording) -> Result<Self> {
        match recording {
            Recording::Tokens(trace) => {
                let mut counts = vec![vec![0; trace.shape.experts]; trace.shape.layers];
                for (at, &id) in trace.ids.iter().enumerate().filter(|(_, id)| **id != NO_EXPERT) {
                    // Null experts run nothing.
                    if let Some(count) = counts[at / trace.shape.k % trace.shape.layers].get_mut(usize::from(id)) {
                        *count += 1;
                    }
                }
                let layer_ids = trace.meta.layer_ids.clone();
                Ok(Self { layer_ids, counts, model: trace.meta.model.clone() })
            }
            Recording::Counts(all) => {
                let [first, rest @ ..] = &all.tables[..] else {
                    return Err(Error::new("expected a table of counts, found none"));
                };
                let (layer_ids, model) = (first.layer_ids.clone(), first.model.clone());
                let mut counts = first.counts.clone();
                for table in rest {
                    let lengths = |rows: &[Vec<u64>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
                    if table.layer_ids != layer_ids || lengths(&table.counts) != lengths(&counts) {
                        return Err(Error::new(format!(
                            "expected tables of one model, found {} and {}",
                            first.name, table.name
                        )));
                    }
                    for (sum, more) in counts.iter_mut().flatten().zip(table.counts.iter().flatten()) {
                        *sum = sum.saturating_add(*more);
                    }
                }
                Ok(Self { layer_ids, counts, model })
            }
        }
    }

    /// A row for each layer from 0 to the last with experts; those of layers without are zero. Engines number all
    /// layers.
    fn all_layers(&self) -> Result<Vec<Vec<u64>>> {
        let experts = self.counts.iter().map(Vec::len).max().unwrap_or(0);
        let last = self.layer_ids.iter().max().copied().unwrap_or(0);
        if last >= MOST_LAYERS {
            return Err(Error::new(format!("expected layers below {MOST_LAYERS}, found {last}")));
        }
        let mut rows = vec![vec![0; experts]; last as usize + 1];
        for (layer, counts) in self.layer_ids.iter().zip(&self.counts) {
            rows[*layer as usize][..counts.len()].copy_from_slice(counts);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests;
