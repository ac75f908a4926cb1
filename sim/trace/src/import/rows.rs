//! Line formats: a record for each token and layer.

use serde::de::DeserializeOwned;

use crate::array::FloatArray;
use crate::error::{Error, Result};
use crate::{Meta, Phase, Shape, Trace};

/// One token in one layer.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Number of the sequence.
    pub(super) sequence: u32,
    /// Position in it.
    pub(super) position: u32,
    pub(super) phase: Phase,
    pub(super) token: Option<u32>,
    pub(super) layer: u32,
    pub(super) ids: Vec<u16>,
    /// Weights in the order of `ids`.
    pub(super) weights: Option<Vec<f32>>,
}

/// Parses JSON lines; `take` gets each value with its line number. Empty lines are passed over.
///
/// # Errors
/// The first line that is not such a value, or that `take` refuses.
pub(super) fn json_lines<T: DeserializeOwned>(bytes: &[u8], mut take: impl FnMut(T) -> Result<()>) -> Result<()> {
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let value = serde_json::from_slice(line).map_err(|error| {
            let what = error.to_string();
            // The parser sees one line only: its line number would mislead.
            Error::new(format!("expected a JSON record: {}", what.split(" at line").next().unwrap_or(&what)))
        });
        value.and_then(&mut take).map_err(|error| error.at(format!("line {}", i + 1)))?;
    }
    Ok(())
}

/// Puts rows in any order together, the tokens of a sequence by position. The number of experts is one more than the
/// highest id.
///
/// # Errors
/// If tokens differ in their layers or layers in their number of experts.
pub(super) fn trace(mut rows: Vec<Row>, mut meta: Meta) -> Result<Trace> {
    rows.sort_by_key(|row| (row.sequence, row.position, row.layer));
    let same_token = |a: &Row, b: &Row| (a.sequence, a.position) == (b.sequence, b.position);
    let Some(first) = rows.chunk_by(same_token).next() else {
        return Err(Error::new("expected routing records, found none"));
    };
    meta.layer_ids = first.iter().map(|row| row.layer).collect();
    let (layers, k) = (first.len(), first[0].ids.len());
    let weighted = rows.iter().all(|row| row.weights.is_some());
    let mut trace = Trace {
        shape: Shape { tokens: 0, layers, experts: 0, k },
        meta,
        ids: Vec::with_capacity(rows.len() * k),
        weights: None,
        logits: None,
        bias: None,
        expert_scale: None,
        hidden: None,
        sequence: Vec::new(),
        position: Vec::new(),
        phase: Vec::new(),
        token: None,
        domain: Vec::new(),
        notes: Vec::new(),
        evidence: None,
    };
    let (mut weights, mut tokens) = (Vec::new(), Vec::new());
    for token in rows.chunk_by(same_token) {
        let Row { sequence, position, phase, token: id, .. } = token[0];
        let place = |error: Error| error.at(format!("sequence {sequence}, position {position}"));
        if !token.iter().map(|row| row.layer).eq(trace.meta.layer_ids.iter().copied()) {
            let found: Vec<_> = token.iter().take(64).map(|row| row.layer.to_string()).collect();
            return Err(place(Error::new(format!(
                "expected the {layers} layers of the first token once each, found {}",
                found.join(", ")
            ))));
        }
        for row in token {
            let found = [row.ids.len(), row.weights.as_ref().map_or(k, Vec::len)];
            if found != [k; 2] {
                let message = format!("expected {k} experts and as many weights, found {} and {}", found[0], found[1]);
                return Err(place(Error::new(message).at(format!("layer {}", row.layer))));
            }
            trace.ids.extend(&row.ids);
            weights.extend(row.weights.iter().flatten().filter(|_| weighted));
        }
        trace.sequence.push(sequence);
        trace.position.push(position);
        trace.phase.push(phase);
        trace.domain.push(0);
        tokens.extend(id);
    }
    trace.shape.tokens = trace.sequence.len();
    trace.shape.experts = trace.ids.iter().max().map_or(0, |&id| usize::from(id)) + 1;
    trace.weights = weighted.then(|| FloatArray::owned([trace.shape.tokens, layers, k], weights));
    trace.token = Some(tokens).filter(|tokens| tokens.len() == trace.shape.tokens);
    Ok(trace)
}
