//! Binary records of llama-moe-trace (Shriniwas410/cacheable-by-design): little-endian `i32` layer, tokens T and k,
//! then T times k expert numbers, for each layer of each pass of the model.
//!
//! Sequences are rebuilt from the passes: one of several tokens is a prompt, one of a single token a step of decoding.
//! A prompt begins a sequence, unless it follows a pass of as many tokens as the longest of all: then it is the next
//! piece of the same prompt.

use std::path::Path;

use super::{Entry, Importer, Options, Part, Recording};
use crate::error::{Error, Result};
use crate::{MAX_TOP_K, Meta, NO_EXPERT, Phase, Shape, Trace};

/// Records of passes.
pub(super) struct MoeTrace;

/// Numbers that a record begins with: layer, tokens, k.
const HEAD: usize = 3;
/// A layer's number and the tokens of a pass are smaller than this: it is how the format is recognised.
const MOST: i32 = 1 << 16;

struct Record {
    layer: u32,
    k: usize,
    ids: Vec<u16>,
}

fn word(bytes: &[u8], index: usize) -> Option<i32> {
    bytes.get(4 * index..4 * index + 4)?.first_chunk().map(|word| i32::from_le_bytes(*word))
}

/// Layer, tokens and k of the record that begins at a number.
fn head(bytes: &[u8], at: usize) -> Option<(u32, usize, usize)> {
    let [layer, tokens, k] = [word(bytes, at)?, word(bytes, at + 1)?, word(bytes, at + 2)?];
    let sane = (0..MOST).contains(&layer) && (1..MOST).contains(&tokens) && (1..=MAX_TOP_K as i32).contains(&k);
    sane.then_some((layer as u32, tokens as usize, k as usize))
}

impl Importer for MoeTrace {
    fn name(&self) -> &'static str {
        "moe-trace"
    }

    fn about(&self) -> &'static str {
        "binary records (layer, tokens, k, ids) of llama-moe-trace"
    }

    fn detect(&self, _: &Path, bytes: &[u8]) -> bool {
        // As many records as there are must be sound, and their experts different.
        let (mut at, mut records) = (0, 0);
        while let Some((_, tokens, k)) = head(bytes, at) {
            let first: Option<Vec<i32>> = (0..k).map(|i| word(bytes, at + HEAD + i)).collect();
            let Some(first) = first else { break };
            let sane = |(i, id): (usize, &i32)| (0..MOST).contains(id) && !first[..i].contains(id);
            if !first.iter().enumerate().all(sane) {
                return false;
            }
            records += 1;
            at += HEAD + tokens * k;
        }
        // Text is never so: its words are far above.
        records > 0 && (4 * at >= bytes.len() || head(bytes, at).is_some() || bytes.len() < 4 * (at + HEAD))
    }

    fn import(&self, entry: Entry<'_>, _: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let records = records(&entry.bytes()?)?;
        let (passes, layer_ids) = passes(&records)?;
        let longest = passes.iter().map(|pass| pass.tokens).max().unwrap_or(0);
        let k = passes.first().map_or(0, |pass| pass.k);
        let (mut ids, mut sequence, mut position, mut phase) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut number, mut at, mut before) = (0, 0, None);
        for pass in &passes {
            let continues = before == Some(longest) && longest > 1;
            if pass.tokens > 1 && before.is_some() && !continues {
                (number, at) = (number + 1, 0);
            }
            for token in 0..pass.tokens {
                for layer in &pass.layers {
                    ids.extend_from_slice(&layer[token * k..(token + 1) * k]);
                }
                sequence.push(number);
                position.push(at);
                phase.push(if pass.tokens == 1 { Phase::Decode } else { Phase::Prefill });
                at += 1;
            }
            before = Some(pass.tokens);
        }
        let experts = ids.iter().max().map_or(0, |&id| usize::from(id)) + 1;
        let shape = Shape { tokens: sequence.len(), layers: layer_ids.len(), experts, k };
        let meta =
            Meta { source: "llama-moe-trace".into(), domains: vec![String::new()], layer_ids, ..Meta::default() };
        let mut trace = Trace { meta, sequence, position, phase, ..Trace::of_ids(shape, ids) };
        trace.notes.push(format!(
            "Sequences are rebuilt from {} passes: one of several tokens begins one, unless it follows one of {longest}.",
            passes.len()
        ));
        let cut = records.len() % trace.shape.layers;
        if cut > 0 {
            trace
                .notes
                .push(format!("The last pass ends after {cut} of {} layers, and is left out.", trace.shape.layers));
        }
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known: false, sequences_known: true })
    }
}

/// All records of a file.
fn records(bytes: &[u8]) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut at = 0;
    while 4 * at < bytes.len() {
        let place = |error: Error| error.at(format!("record {}", records.len()));
        let (layer, tokens, k) = head(bytes, at)
            .ok_or_else(|| place(Error::new("expected a layer's number, tokens and k, found something else")))?;
        let first = at + HEAD;
        let id = |i: usize| word(bytes, first + i).and_then(|id| u16::try_from(id).ok()).filter(|&id| id != NO_EXPERT);
        let ids: Option<Vec<u16>> = (0..tokens * k).map(id).collect();
        let ids = ids.ok_or_else(|| place(Error::new(format!("expected {} experts, found fewer", tokens * k))))?;
        records.push(Record { layer, k, ids });
        at = first + tokens * k;
    }
    Ok(records)
}

/// A pass of the model: as many tokens in each layer.
struct Pass<'a> {
    tokens: usize,
    k: usize,
    layers: Vec<&'a [u16]>,
}

/// Passes, and the numbers of their layers. The last pass may have been cut off.
fn passes(records: &[Record]) -> Result<(Vec<Pass<'_>>, Vec<u32>)> {
    let Some(first) = records.first() else { return Err(Error::new("expected records, found none")) };
    let again = records[1..].iter().position(|record| record.layer == first.layer).map_or(records.len(), |at| at + 1);
    let layers: Vec<u32> = records[..again].iter().map(|record| record.layer).collect();
    let mut passes = Vec::new();
    for (number, part) in records.chunks_exact(again).enumerate() {
        let place = |error: Error| error.at(format!("pass {number}"));
        if !part.iter().map(|record| record.layer).eq(layers.iter().copied()) {
            let found: Vec<String> = part.iter().take(64).map(|record| record.layer.to_string()).collect();
            let found = found.join(", ");
            return Err(place(Error::new(format!("expected the {again} layers of the first pass, found {found}"))));
        }
        let tokens = part[0].ids.len() / part[0].k;
        if part.iter().any(|record| (record.k, record.ids.len() / record.k) != (first.k, tokens)) {
            return Err(place(Error::new(format!(
                "expected {tokens} tokens and {} experts in every layer, found others",
                first.k
            ))));
        }
        passes.push(Pass { tokens, k: first.k, layers: part.iter().map(|record| &record.ids[..]).collect() });
    }
    Ok((passes, layers))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    fn record(layer: i32, k: i32, ids: &[i32]) -> Vec<u8> {
        let words = [layer, ids.len() as i32 / k, k];
        words.iter().chain(ids).flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn sequences_are_rebuilt_from_passes() {
        let folder = Folder::new();
        let bytes = [
            // A prompt of three tokens, which is as long as any, its rest of two, then two steps.
            record(1, 2, &[1, 2, 3, 4, 5, 6]),
            record(3, 2, &[6, 5, 4, 3, 2, 1]),
            record(1, 2, &[1, 0, 2, 0]),
            record(3, 2, &[3, 0, 4, 0]),
            record(1, 2, &[7, 1]),
            record(3, 2, &[7, 2]),
            record(1, 2, &[7, 3]),
            record(3, 2, &[7, 4]),
            // Another prompt.
            record(1, 2, &[1, 3, 1, 4]),
            record(3, 2, &[1, 5, 1, 6]),
        ];
        let trace = folder.trace("trace.bin", bytes.concat(), &Options::default());
        assert_eq!(trace.sequence, [0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(trace.position, [0, 1, 2, 3, 4, 5, 6, 0, 1]);
        assert_eq!(trace.ids[..8], [1, 2, 6, 5, 3, 4, 4, 3]);
        assert_eq!((trace.meta.layer_ids, trace.phase[5]), (vec![1, 3], Phase::Decode));
        let unfinished =
            folder.trace("trace.bin", [&bytes.concat()[..], &record(1, 2, &[1, 2])].concat(), &Options::default());
        assert_eq!(unfinished.shape.tokens, 9);
        assert!(
            unfinished.notes.iter().any(|note| note.contains("ends after 1 of 2 layers")),
            "{:?}",
            unfinished.notes
        );
        let refusal = |bytes: Vec<Vec<u8>>| folder.refusal("trace.bin", bytes.concat(), &Options::default());
        let cut = [record(0, 1, &[1]), record(0, 1, &[2])].concat()[..30].to_vec();
        assert!(refusal(vec![cut]).contains("record 1: expected 1 experts, found fewer"));
        assert!(
            refusal(vec![record(0, 1, &[1]), record(1, 1, &[1]), record(0, 1, &[1]), record(2, 1, &[1])])
                .contains("pass 1: expected the 2 layers of the first pass, found 0, 2")
        );
    }
}
