//! The native trace format: a [safetensors](https://github.com/huggingface/safetensors) file.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `experts` | u16 | `[T, L, k]` | chosen experts, best first where the source says so; -1 or 65,535: none |
//! | `logits` | f16, bf16, f32 | `[T, L, E]` | raw router scores, those of null experts after the others |
//! | `weights` | f16, bf16, f32 | `[T, L, k]` | mixing weights, in the order of `experts` |
//! | `hidden` | f16, bf16, f32 | `[T, L, D]`, `[T, 1, D]` | router input |
//! | `bias` | f32 | `[L, E]` | the router's bias |
//! | `expert_scale` | f32 | `[L, E]` | factor on the weight of each expert |
//! | `token`, `sequence`, `position` | u32 | `[T]` | token id, sequence number, position in the sequence |
//! | `phase` | u8 | `[T]` | 0 prefill, 1 decode |
//! | `domain` | u8 | `[T]` | index into the metadata `domains` |
//!
//! One of `experts` and `logits` must be there, everything else may be absent. Defaults: `experts` what `router`
//! chooses `top_k` of from `logits` (of equal scores the lower id), one sequence, positions from 0 in each sequence,
//! phase prefill, one domain named after the file. Any integer type is read where the table says u8, u16 or u32:
//! several writers have no unsigned ones.
//!
//! Metadata, all of it text: `model`, `router` (see [`router`](crate::router)), `experts`, `top_k`, `layers`, `source`,
//! `domains` and `layer_ids` (both comma-separated), `notes` (one a line). `experts` is the number E; where it is
//! absent it is taken from `logits`, else it is one more than the highest id.
//!
//! Counts ([`Counts`]) are a safetensors file too: u64 tensors `counts.<i>` `[L, E]` and `pairs.<i>` `[E, E]`; the
//! metadata `counts` is JSON with the names.
//!
//! Float arrays stay in the mapped file: reading a trace costs its ids and no more. Nobody may shorten the file
//! meanwhile.
//!
//! ```
//! use cptr_trace::{Shape, Trace, native};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("trace.safetensors");
//! native::write(&Trace::of_ids(Shape { tokens: 2, layers: 1, experts: 4, k: 1 }, vec![3, 1]), &path).unwrap();
//! assert_eq!(native::read(&path).unwrap().chosen(1, 0), [1]);
//! ```

mod counts;
mod read;
mod tensors;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;

use super::counts::Counts;
use super::{Shape, Trace, gate};
use crate::error::{Error, Result};
pub use counts::write_counts;
pub(super) use read::Loaded;
pub(crate) use read::positions;
pub use tensors::{Out, Tensors, write_tensors};

/// Reads a trace; see the module for the format.
///
/// # Errors
/// If the file cannot be read or is no valid trace.
pub fn read(path: &Path) -> Result<Trace> {
    let file = fs::File::open(path).map_err(|error| Error::io(path, &error))?;
    let mut trace = load(&file, path)?.trace;
    gate::pass(&mut trace).map_err(|error| error.or_file(path))?;
    Ok(trace)
}

/// Reads counts; see the module for the format.
///
/// # Errors
/// If the file cannot be read or holds no counts.
pub fn read_counts(path: &Path) -> Result<Counts> {
    let file = fs::File::open(path).map_err(|error| Error::io(path, &error))?;
    let mut counts = load_counts(&file, path)?;
    gate::pass_counts(&mut counts).map_err(|error| error.or_file(path))?;
    Ok(counts)
}

/// Reads a trace from an open file; `path` is for messages and names.
pub(super) fn load(file: &fs::File, path: &Path) -> Result<Loaded> {
    Tensors::open(file, path).and_then(|tensors| tensors.trace()).map_err(|error| error.or_file(path))
}

/// Reads counts from an open file; `path` is for messages.
pub(super) fn load_counts(file: &fs::File, path: &Path) -> Result<Counts> {
    Tensors::open(file, path).and_then(|tensors| tensors.counts()).map_err(|error| error.or_file(path))
}

/// Whether an open file holds counts rather than a trace.
pub(super) fn holds_counts(file: &fs::File, path: &Path) -> Result<bool> {
    Tensors::open(file, path).map(|tensors| tensors.info.contains_key("counts")).map_err(|error| error.or_file(path))
}

/// Writes a trace, floats in the width that they came in. The file appears whole or not at all. A comma in a domain
/// name becomes a semicolon, a line break in a note a space.
///
/// # Errors
/// If the trace is not valid or the file cannot be written.
pub fn write(trace: &Trace, path: &Path) -> Result<()> {
    trace.validate()?;
    let Trace { shape: Shape { tokens, layers, experts, k }, meta, .. } = trace;
    let ids: Vec<u8> = trace.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut tensors = vec![
        Out::new("experts", Dtype::U16, &[*tokens, *layers, *k], ids),
        Out::u32("sequence", &trace.sequence),
        Out::u32("position", &trace.position),
        Out::new("phase", Dtype::U8, &[*tokens], trace.phase.iter().map(|&p| p as u8).collect::<Vec<u8>>()),
        Out::new("domain", Dtype::U8, &[*tokens], &trace.domain),
    ];
    tensors.extend(trace.token.as_ref().map(|token| Out::u32("token", token)));
    for (name, array) in [("logits", &trace.logits), ("weights", &trace.weights), ("hidden", &trace.hidden)] {
        tensors.extend(array.as_ref().map(|array| Out::floats(name, array)));
    }
    for (name, values) in [("bias", &trace.bias), ("expert_scale", &trace.expert_scale)] {
        if let Some(values) = values {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.push(Out::new(name, Dtype::F32, &[*layers, trace.scored()], bytes));
        }
    }
    let domains: Vec<String> = meta.domains.iter().map(|name| name.replace(',', ";")).collect();
    let layer_ids: Vec<String> = meta.layer_ids.iter().map(u32::to_string).collect();
    let notes: Vec<String> = trace.notes.iter().map(|note| note.replace(['\n', '\r'], " ")).collect();
    let info = [
        ("model", meta.model.clone()),
        ("router", meta.router.to_string()),
        ("experts", experts.to_string()),
        ("top_k", k.to_string()),
        ("layers", layers.to_string()),
        ("source", meta.source.clone()),
        ("domains", domains.join(",")),
        ("layer_ids", layer_ids.join(",")),
        ("notes", notes.join("\n")),
    ];
    write_tensors(tensors, &BTreeMap::from(info), path)
}

#[cfg(test)]
mod tests;
