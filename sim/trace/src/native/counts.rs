//! Counts as tensors.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::tensors::{Out, Tensors, write_tensors};
use crate::counts::{CountTable, Counts, PairTable};
use crate::error::{Error, Result};

/// Names beside the tensors of a counts file.
#[derive(Serialize, Deserialize)]
struct CountsAbout {
    tables: Vec<TableAbout>,
    pairs: Vec<PairAbout>,
    notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct TableAbout {
    name: String,
    model: String,
    k: usize,
    layer_ids: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct PairAbout {
    name: String,
    layers: (u32, u32),
}

impl Tensors {
    pub(super) fn counts(&self) -> Result<Counts> {
        let about: CountsAbout = serde_json::from_str(&self.text("counts")).map_err(|error| {
            Error::new(format!("metadata counts: expected JSON with the names of the tables: {error}"))
        })?;
        let mut counts = Counts { source: self.text("source"), notes: about.notes, ..Counts::default() };
        for (i, about) in about.tables.into_iter().enumerate() {
            let table = self.table(&format!("counts.{i}"))?;
            if table.len() != about.layer_ids.len() {
                return Err(Error::new(format!(
                    "counts.{i}: expected {} layers, found {}",
                    about.layer_ids.len(),
                    table.len()
                )));
            }
            let TableAbout { name, model, k, layer_ids } = about;
            counts.tables.push(CountTable { name, model, k, layer_ids, counts: table });
        }
        for (i, PairAbout { name, layers }) in about.pairs.into_iter().enumerate() {
            counts.pairs.push(PairTable { name, layers, counts: self.table(&format!("pairs.{i}"))? });
        }
        Ok(counts)
    }

    fn table(&self, name: &str) -> Result<Vec<Vec<u64>>> {
        let found = self.tensor(name).filter(|(info, _)| info.dtype == Dtype::U64 && info.shape.len() == 2);
        let Some((info, bytes)) = found else {
            return Err(Error::new(format!("expected a tensor {name} of U64 with two dimensions")));
        };
        let values: Vec<u64> = bytes.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b)).collect();
        Ok(values.chunks(info.shape[1].max(1)).map(<[u64]>::to_vec).collect())
    }
}

/// Writes counts. The file appears whole or not at all.
///
/// # Errors
/// If rows of a table differ in length or the file cannot be written.
pub fn write_counts(counts: &Counts, path: &Path) -> Result<()> {
    let table = |name: String, rows: &[Vec<u64>]| {
        let experts = rows.first().map_or(0, Vec::len);
        if rows.iter().any(|row| row.len() != experts) {
            return Err(Error::new(format!("{name}: expected {experts} counts in every row")));
        }
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|count| count.to_le_bytes()).collect();
        Ok(Out::new(&name, Dtype::U64, &[rows.len(), experts], bytes))
    };
    let mut tensors = Vec::new();
    for (i, part) in counts.tables.iter().enumerate() {
        tensors.push(table(format!("counts.{i}"), &part.counts)?);
    }
    for (i, part) in counts.pairs.iter().enumerate() {
        tensors.push(table(format!("pairs.{i}"), &part.counts)?);
    }
    let tables = counts.tables.iter().map(|CountTable { name, model, k, layer_ids, .. }| TableAbout {
        name: name.clone(),
        model: model.clone(),
        k: *k,
        layer_ids: layer_ids.clone(),
    });
    let pairs =
        counts.pairs.iter().map(|PairTable { name, layers, .. }| PairAbout { name: name.clone(), layers: *layers });
    let about = CountsAbout { tables: tables.collect(), pairs: pairs.collect(), notes: counts.notes.clone() };
    let about = serde_json::to_string(&about).map_err(|error| Error::in_file(path, error.to_string()))?;
    write_tensors(tensors, &BTreeMap::from([("counts", about), ("source", counts.source.clone())]), path)
}
