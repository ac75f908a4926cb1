//! MoE-Infinity's expert activation matrices: a `.npy` file of floats `[sequences, L, E]`, the tokens of each sequence
//! that chose each expert (`moe_infinity/memory/expert_tracer.py`). Logits look the same, so the format must be asked
//! for.

use std::path::Path;

use super::npy::{self, Array, Values};
use super::{Entry, Importer, Options, Part};
use crate::counts::{CountTable, Counts};
use crate::error::{Error, Result};

/// Activation counts of sequences.
pub(super) struct MoeInfinity;

impl Importer for MoeInfinity {
    fn name(&self) -> &'static str {
        "moe-infinity"
    }

    fn about(&self) -> &'static str {
        ".npy of activation counts [sequences, L, E]; only when asked for, since logits look the same"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        head.starts_with(npy::MAGIC)
    }

    fn ambiguous(&self) -> bool {
        true
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let Array { shape, values } = npy::read(&entry.bytes()?[..], &mut options.budget())?;
        let (&[sequences, layers, experts], Values::Floats(values)) = (&shape[..], values) else {
            return Err(Error::new(format!("expected floats [sequences, layers, experts], found {shape:?}")));
        };
        if values.is_empty() {
            return Err(Error::new(format!("expected at least one sequence, found shape {shape:?}")));
        }
        let count = |(i, &value): (usize, &f32)| {
            let place = || format!("sequence {}, layer {}", i / experts / layers, i / experts % layers);
            let fits = value.is_finite() && value >= 0.0 && value.fract() == 0.0;
            fits.then_some(value as u64)
                .ok_or_else(|| Error::new(format!("expected whole counts, found {value}")).at(place()))
        };
        let counts = values.iter().enumerate().map(count).collect::<Result<Vec<u64>>>()?;
        let table = |(number, counts): (usize, &[u64])| CountTable {
            name: format!("sequence {number}"),
            model: String::new(),
            k: options.top_k.unwrap_or(0),
            layer_ids: (0..layers as u32).collect(),
            counts: counts.chunks(experts).map(<[u64]>::to_vec).collect(),
        };
        debug_assert_eq!(counts.len(), sequences * layers * experts);
        let tables = counts.chunks(layers * experts).enumerate().map(table).collect();
        Ok(Part::counts(path, Counts { source: "MoE-Infinity".into(), tables, ..Counts::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, counts, npy};
    use super::super::{Recording, read};
    use super::*;

    #[test]
    fn is_read_as_counts_only_when_asked_for() {
        let folder = Folder::new();
        let path = folder.file("eam.npy", npy(&[2, 1, 3], &[1.0_f32, 0.0, 3.0, 2.0, 2.0, 0.0]));
        let options = Options { format: Some("moe-infinity".into()), ..Options::default() };
        let read_counts = counts(read(&path, &options).unwrap());
        assert_eq!(
            read_counts.tables.iter().map(|table| &table.counts[0][..]).collect::<Vec<_>>(),
            [[1, 0, 3], [2, 2, 0]]
        );
        assert!(matches!(read(&path, &Options::default()), Ok(Recording::Tokens(_))));
        let refusal = |bytes: Vec<u8>| folder.refusal("a.npy", bytes, &options);
        assert!(
            refusal(npy(&[1, 1, 2], &[1.0_f32, 0.5])).contains("sequence 0, layer 0: expected whole counts, found 0.5")
        );
        assert!(refusal(npy(&[1, 1, 2], &[1.0_f32, f32::NAN])).contains("found NaN"));
        assert!(refusal(npy(&[2], &[1.0_f32, 2.0])).contains("expected floats [sequences, layers, experts]"));
        assert!(refusal(npy::<f32>(&[0, 1, 2], &[])).contains("at least one value"));
    }
}
