//! CSV files of llama.cpp tools: `layer,expert`, a line for each choice, or `layer_id,expert_ids`, a line for each
//! token and layer with the experts between blanks.
//!
//! Tokens are not numbered: the n-th row of a layer is token n, whatever the order of the layers. Where choices have a
//! line each, k is the largest number that divides all stretches of one layer and leaves no token with an expert twice.
//! Stretches of several tokens are passes over a prompt, if there are also stretches of one.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Entry, Importer, Options, Part, Recording};
use crate::error::{Error, Result};
use crate::{MAX_TOP_K, Meta, Phase, Shape, Trace};

/// Choices as CSV.
pub(super) struct LlamaCsv;

const HEADS: [&str; 2] = ["layer,expert", "layer_id,expert_ids"];

impl Importer for LlamaCsv {
    fn name(&self) -> &'static str {
        "llama-csv"
    }

    fn about(&self) -> &'static str {
        "CSV layer,expert or layer_id,expert_ids of llama.cpp tools"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        let line = head.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii();
        let line: Vec<u8> = line.iter().filter(|b| !b.is_ascii_whitespace()).map(u8::to_ascii_lowercase).collect();
        HEADS.iter().any(|head| head.as_bytes() == line)
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let stretches = stretches(&entry.bytes()?)?;
        let trace = trace(stretches, options)?;
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known: false, sequences_known: false })
    }
}

/// Rows of one layer that follow each other.
struct Stretch {
    layer: u32,
    ids: Vec<u16>,
    /// Experts of each row, 1 where choices have a line each.
    width: usize,
}

fn stretches(bytes: &[u8]) -> Result<Vec<Stretch>> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    for (index, record) in reader.records().enumerate() {
        let at = |error: Error| error.at(format!("line {}", index + 2));
        let record = record.map_err(|error| at(Error::new(format!("expected two columns: {error}"))))?;
        let layer = record.get(0).and_then(|layer| layer.parse().ok());
        let ids: Option<Vec<u16>> =
            record.get(1).map(str::split_whitespace).and_then(|ids| ids.map(|id| id.parse().ok()).collect());
        let (Some(layer), Some(ids)) = (layer, ids.filter(|ids| !ids.is_empty())) else {
            let found = record.iter().collect::<Vec<_>>().join(",");
            return Err(at(Error::new(format!("expected the number of a layer and of experts, found \"{found}\""))));
        };
        match stretches.last_mut() {
            Some(last) if last.layer == layer && last.width == ids.len() => last.ids.extend(ids),
            _ => stretches.push(Stretch { layer, width: ids.len(), ids }),
        }
    }
    if stretches.is_empty() {
        return Err(Error::new("expected lines with a layer and experts, found none"));
    }
    Ok(stretches)
}

fn trace(stretches: Vec<Stretch>, options: &Options) -> Result<Trace> {
    let width = stretches[0].width;
    if let Some(other) = stretches.iter().find(|stretch| stretch.width != width) {
        return Err(Error::new(format!(
            "expected {width} experts in every line, found {} in layer {}",
            other.width, other.layer
        )));
    }
    let distinct = |k: usize| {
        let fits = |ids: &[u16]| ids.len() == k && ids.iter().enumerate().all(|(i, id)| !ids[..i].contains(id));
        stretches.iter().all(|stretch| stretch.ids.chunks(k).all(fits))
    };
    let k = match width {
        1 => {
            let found = options.top_k.filter(|&k| k > 0).or_else(|| (1..=MAX_TOP_K).rev().find(|&k| distinct(k)));
            found.filter(|&k| distinct(k)).ok_or_else(|| {
                Error::new(
                    "expected as many experts for every token, all different, found no such number (--top-k says it)",
                )
            })?
        }
        width => width,
    };
    let mut layers: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
    let mut phase = Vec::new();
    let counted = stretches[0].layer;
    // A stretch of one token in a file that has longer ones is a step of decoding.
    let mixed = stretches.iter().any(|stretch| stretch.ids.len() > k);
    for Stretch { layer, ids, .. } in stretches {
        let tokens = ids.len() / k;
        if layer == counted {
            let kind = if mixed && tokens == 1 { Phase::Decode } else { Phase::Prefill };
            phase.resize(phase.len() + tokens, kind);
        }
        layers.entry(layer).or_default().extend(ids);
    }
    let tokens = phase.len();
    if let Some((layer, ids)) = layers.iter().find(|(_, ids)| ids.len() != tokens * k) {
        return Err(Error::new(format!(
            "expected {tokens} tokens in every layer, found {} in layer {layer}",
            ids.len() as f64 / k as f64
        )));
    }
    let mut ids = Vec::with_capacity(tokens * layers.len() * k);
    for token in 0..tokens {
        for layer in layers.values() {
            ids.extend_from_slice(&layer[token * k..(token + 1) * k]);
        }
    }
    let highest = ids.iter().max().map_or(0, |&id| usize::from(id));
    let shape = Shape { tokens, layers: layers.len(), experts: highest + 1, k };
    let meta = Meta {
        source: "llama.cpp".into(),
        domains: vec![String::new()],
        layer_ids: layers.into_keys().collect(),
        ..Meta::default()
    };
    Ok(Trace { meta, phase, ..Trace::of_ids(shape, ids) })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    #[test]
    fn a_line_for_each_choice() {
        let folder = Folder::new();
        // A prompt of two tokens, then one: layers 0 and 3, two experts each.
        let lines = ["0,1", "0,2", "0,3", "0,1", "3,4", "3,5", "3,5", "3,0", "0,2", "0,1", "3,1", "3,2"];
        let text = format!("layer,expert\n{}\n", lines.join("\n"));
        let trace = folder.trace("a.csv", &text, &Options::default());
        assert_eq!(trace.ids, [1, 2, 4, 5, 3, 1, 5, 0, 2, 1, 1, 2]);
        assert_eq!((trace.meta.layer_ids, trace.shape.k), (vec![0, 3], 2));
        assert_eq!(trace.phase, [Phase::Prefill, Phase::Prefill, Phase::Decode]);
        let refusal = |text: &str| folder.refusal("a.csv", text, &Options::default());
        assert!(refusal("layer,expert\n").contains("found none"));
        assert!(refusal("layer,expert\n0,x\n").contains("line 2: expected the number of a layer"));
        assert!(
            refusal("layer,expert\n0,1\n0,2\n3,1\n").contains("expected 2 tokens in every layer, found 1 in layer 3")
        );
    }

    #[test]
    fn a_line_for_each_token() {
        let folder = Folder::new();
        let text = "layer_id,expert_ids\n3,7 6\n4,2 1\n3,5 6\n4,0 1\n";
        let trace = folder.trace("a.csv", text, &Options::default());
        assert_eq!((trace.ids, trace.meta.layer_ids), (vec![7, 6, 2, 1, 5, 6, 0, 1], vec![3, 4]));
        assert!(
            folder
                .refusal("a.csv", format!("{text}3,1\n"), &Options::default())
                .contains("expected 2 experts in every line")
        );
    }
}
