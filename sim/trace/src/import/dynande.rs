//! CSV files of the DynaNDE and NeuPIMs simulators (`moe_routing_trace_path`): `layer_id,token_id,expert_0,…`, a row of
//! scores for each token, zero for experts that were not chosen. One file for each layer: `layer_id` is always 0, and
//! the layer's number is that of the file's name.
//!
//! The order of the chosen is that of their scores, of equal ones that of their numbers.

use std::path::Path;

use super::{Entry, Importer, Options, Part, Recording, per_layer};
use crate::array::FloatArray;
use crate::error::{Error, Result};
use crate::{MAX_TOP_K, Meta, Shape, Trace};

/// Rows of scores.
pub(super) struct DynaNde;

/// Columns before the scores.
const FIRST: usize = 2;

impl Importer for DynaNde {
    fn name(&self) -> &'static str {
        "dynande"
    }

    fn about(&self) -> &'static str {
        "CSV layer_id,token_id,expert_0,... of the DynaNDE and NeuPIMs simulators, one file per layer"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        head.trim_ascii_start().starts_with(b"layer_id,token_id,expert_0")
    }

    fn import(&self, entry: Entry<'_>, _: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let bytes = entry.bytes()?;
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(&bytes[..]);
        let columns =
            reader.headers().map_err(|error| Error::new(format!("expected names of columns: {error}")))?.len();
        let experts = columns.saturating_sub(FIRST);
        let (mut ids, mut weights, mut tokens, mut k) = (Vec::new(), Vec::new(), 0, 0);
        let mut chosen: Vec<(u16, f32)> = Vec::new();
        for (index, record) in reader.records().enumerate() {
            let at = |error: Error| error.at(format!("line {}", index + 2));
            let record = record.map_err(|error| at(Error::new(format!("expected {columns} columns: {error}"))))?;
            chosen.clear();
            for (expert, cell) in (0..=u16::MAX).zip(record.iter().skip(FIRST)) {
                let score: f32 =
                    cell.parse().ok().filter(|score: &f32| score.is_finite() && *score >= 0.0).ok_or_else(|| {
                        at(Error::new(format!("expert_{expert}: expected a score of 0 or more, found \"{cell}\"")))
                    })?;
                if score > 0.0 {
                    chosen.push((expert, score));
                }
            }
            if index == 0 {
                k = chosen.len();
            }
            if chosen.len() != k || !(1..=MAX_TOP_K).contains(&k) {
                let found = chosen.len();
                return Err(at(Error::new(format!(
                    "expected as many scores above 0 as in the first row ({k}, 1 to {MAX_TOP_K}), found {found}"
                ))));
            }
            chosen.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            ids.extend(chosen.iter().map(|chosen| chosen.0));
            weights.extend(chosen.iter().map(|chosen| chosen.1));
            tokens += 1;
        }
        if tokens == 0 {
            return Err(Error::new("expected rows of scores, found none"));
        }
        let shape = Shape { tokens, layers: 1, experts, k };
        let meta = Meta { source: "dynande".into(), domains: vec![String::new()], ..Meta::default() };
        let weights = Some(FloatArray::owned([tokens, 1, k], weights));
        let trace = Trace { meta, weights, ..Trace::of_ids(shape, ids) };
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known: true, sequences_known: false })
    }

    fn assemble(&self, parts: Vec<Part>, _: &Options) -> Result<Vec<Part>> {
        per_layer::assemble(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::super::testing::{Folder, tokens};
    use super::*;

    #[test]
    fn a_file_for_each_layer() {
        let folder = Folder::new();
        let head = "layer_id,token_id,expert_0,expert_1,expert_2\n";
        folder.file("t/layer_2.csv", format!("{head}0,0,0.2,0.000000,0.7\n0,1,0.5,0.5,0.0\n"));
        folder.file("t/layer_3.csv", format!("{head}0,0,0.1,0.3,0.0\n0,1,0.0,0.2,0.6\n"));
        let trace = tokens(read(&folder.path().join("t"), &Options::default()).unwrap());
        assert_eq!((trace.meta.layer_ids, trace.shape.experts), (vec![2, 3], 3));
        assert_eq!(trace.ids, [2, 0, 1, 0, 0, 1, 2, 1]);
        let refusal = |text: &str| folder.refusal("layer_1.csv", format!("{head}{text}"), &Options::default());
        assert!(refusal("").contains("expected rows of scores, found none"));
        assert!(refusal("0,0,0,0,0\n").contains("line 2: expected as many scores above 0"));
        assert!(
            refusal("0,0,1,1,0\n0,1,1,0,0\n")
                .contains("line 3: expected as many scores above 0 as in the first row (2")
        );
        assert!(refusal("0,0,nan,1,0\n").contains("expert_0: expected a score of 0 or more, found \"nan\""));
        assert!(refusal("0,0,1\n").contains("line 2: expected 5 columns"));
    }
}
