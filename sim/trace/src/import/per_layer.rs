//! Traces of one layer each, in files named after it, become one trace.

use std::path::Path;

use super::{Part, Recording};
use crate::array::FloatArray;
use crate::error::{Error, Result};
use crate::{Shape, Trace};

/// What the name of a file says: what is in it, and of which layer.
fn name(path: &Path) -> Option<(String, u32)> {
    let stem = path.file_stem()?.to_string_lossy().into_owned();
    let what = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = stem[what.len()..].parse().ok()?;
    let known = ["layer", "moe", "logits", "topk", "router", "gate"].iter().any(|word| what.contains(word));
    known.then(|| (what.to_owned(), number))
}

/// Joins parts that are layers of one recording: same folder, numbered names, one layer each. Ids come from files of
/// ids, where there are both those and logits. Other parts stay as they are.
pub(super) fn assemble(parts: Vec<Part>) -> Result<Vec<Part>> {
    let layers = |part: &Part| match &part.recording {
        Recording::Tokens(trace) => trace.shape.layers == 1 && name(&part.path).is_some(),
        Recording::Counts(_) => false,
    };
    if parts.len() < 2 || !parts.iter().all(layers) {
        return Ok(parts);
    }
    let folder = parts[0].path.parent().map(Path::to_owned).unwrap_or_default();
    let mut logits: Vec<(u32, Trace)> = Vec::new();
    let mut ids: Vec<(u32, Trace)> = Vec::new();
    let mut what: Vec<String> = Vec::new();
    for Part { path, recording, .. } in parts {
        if let (Some((kind, number)), Recording::Tokens(trace)) = (name(&path), recording) {
            if trace.logits.is_some() { &mut logits } else { &mut ids }.push((number, trace));
            if !what.contains(&kind) {
                what.push(kind);
            }
        }
    }
    if what.len() > 1 + usize::from(!logits.is_empty() && !ids.is_empty()) {
        let found = what.join(", ");
        return Err(Error::new(format!("expected layers of one recording, found {found}: name one of the files")));
    }
    let logits = stack(logits)?;
    let trace = match (stack(ids)?, logits) {
        (Some(ids), Some(logits)) => {
            let same =
                |a: &Trace, b: &Trace| (a.shape.tokens, &a.meta.layer_ids) == (b.shape.tokens, &b.meta.layer_ids);
            if !same(&ids, &logits) {
                return Err(Error::new("expected ids and logits of the same tokens and layers, found others"));
            }
            let shape = Shape { experts: logits.shape.experts, ..ids.shape };
            Trace { shape, logits: logits.logits, ..ids }
        }
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => return Err(Error::new("expected layers, found none")),
    };
    let experts_known = trace.logits.is_some();
    Ok(vec![Part { path: folder, recording: Recording::Tokens(trace), experts_known, sequences_known: false }])
}

fn stack(mut layers: Vec<(u32, Trace)>) -> Result<Option<Trace>> {
    layers.sort_by_key(|(number, _)| *number);
    let Some((_, first)) = layers.first() else { return Ok(None) };
    let Shape { tokens, k, .. } = first.shape;
    let experts = layers.iter().map(|(_, trace)| trace.shape.experts).max().unwrap_or(0);
    let scores = first.logits.as_ref().map(|logits| logits.shape()[2]);
    for (i, (number, trace)) in layers.iter().enumerate() {
        let scored = trace.logits.as_ref().map(|logits| logits.shape()[2]);
        if (trace.shape.tokens, trace.shape.k, scored) != (tokens, k, scores) {
            return Err(Error::new(format!(
                "expected {tokens} tokens and {k} experts per token as in the first layer, found {} and {} in layer {number}",
                trace.shape.tokens, trace.shape.k
            )));
        }
        if i > 0 && layers[i - 1].0 == *number {
            return Err(Error::new(format!("expected one file for each layer, found two of layer {number}")));
        }
    }
    let ids = (0..tokens).flat_map(|token| layers.iter().flat_map(move |(_, trace)| trace.recorded(token, 0)));
    let ids: Vec<u16> = ids.copied().collect();
    let logits = scores.map(|n| floats(&layers, tokens, n, |trace| trace.logits.as_ref()));
    let weighted = layers.iter().all(|(_, trace)| trace.weights.is_some());
    let weights = weighted.then(|| floats(&layers, tokens, k, |trace| trace.weights.as_ref()));
    let shape = Shape { tokens, layers: layers.len(), experts, k };
    let mut meta = first.meta.clone();
    meta.layer_ids = layers.iter().map(|(number, _)| *number).collect();
    Ok(Some(Trace { shape, meta, ids, logits, weights, ..first.clone() }))
}

/// The rows of all layers, `[T, L, width]`. Every layer has them.
fn floats(
    layers: &[(u32, Trace)],
    tokens: usize,
    width: usize,
    of: impl Fn(&Trace) -> Option<&FloatArray>,
) -> FloatArray {
    let mut values = vec![0.0; tokens * layers.len() * width];
    for (at, row) in values.chunks_exact_mut(width).enumerate() {
        let array = of(&layers[at % layers.len()].1);
        array.expect("compared by the caller").read_row(at / layers.len(), 0, row);
    }
    FloatArray::owned([tokens, layers.len(), width], values)
}
