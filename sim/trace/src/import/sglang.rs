//! The SGLang expert distribution recorder: `.pt` files of its per-token forms, and `logical_count` of its statistics
//! and of EPLB, as `.pt` or JSON.
//!
//! A record of the per-token form is a forward pass: `topk_ids_of_layer` `[L, T, 8]` with -1 where the model takes
//! fewer, dense layers of nothing but -1, and ids of physical experts, which `last_physical_to_logical_map` turns into
//! those of the model. Request numbers are not recorded: in a prefill pass positions that restart separate the
//! sequences; in a decode pass every row is a sequence, and the rows of passes that follow are told apart by their
//! positions.

use std::path::Path;

use serde::Deserialize;

use super::numpy::{Choice, Cube, clean};
use super::torch::{self, File, Id, Tensor};
use super::{Entry, Importer, Options, Part, Recording};
use crate::counts::{CountTable, Counts};
use crate::error::{Error, Result};
use crate::{Meta, NO_EXPERT, Phase, Shape, Trace};

/// Recorder files and EPLB counts.
pub(super) struct Sglang;

/// Layers of counts, or steps of layers of counts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Nested {
    Layers(Vec<Vec<u64>>),
    Steps(Vec<Vec<Vec<u64>>>),
}

#[derive(Deserialize)]
struct Eplb {
    logical_count: Nested,
}

impl Importer for Sglang {
    fn name(&self) -> &'static str {
        "sglang"
    }

    fn about(&self) -> &'static str {
        "expert distribution recorder (.pt), EPLB logical_count (.pt, JSON)"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        let json =
            head.trim_ascii_start().starts_with(b"{") && head.windows(15).any(|part| part == b"\"logical_count\"");
        json || torch::detect(head)
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let bytes = entry.bytes()?;
        if !torch::detect(&bytes) {
            let parsed = serde_json::from_slice(&bytes);
            let Eplb { logical_count } =
                parsed.map_err(|error| Error::new(format!("expected JSON with logical_count: {error}")))?;
            let steps = match logical_count {
                Nested::Layers(layers) => vec![layers],
                Nested::Steps(steps) => steps,
            };
            return Ok(Part::counts(path, sum(steps, options)?));
        }
        let mut budget = options.budget();
        let mut file = File::open(&bytes, &mut budget)?;
        if let Some(counts) = file.get(file.root(), "logical_count") {
            let tensor = file.tensor(counts, &mut budget)?;
            return Ok(Part::counts(path, sum(steps(&tensor)?, options)?));
        }
        let records = file.get(file.root(), "records").and_then(|id| file.items(id)).map(<[Id]>::to_vec);
        let Some(records) = records else {
            return Err(Error::new("expected logical_count or records of the SGLang recorder, found neither"));
        };
        let map = file.get(file.root(), "last_physical_to_logical_map");
        let map = map.map(|id| file.tensor(id, &mut budget)).transpose()?;
        let trace = passes(&mut file, &records, map.as_ref(), &mut budget)?;
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known: map.is_some(), sequences_known: true })
    }
}

fn steps(tensor: &Tensor) -> Result<Vec<Vec<Vec<u64>>>> {
    let (layers, experts) = match tensor.shape[..] {
        [layers, experts] | [_, layers, experts] => (layers, experts),
        _ => return Err(Error::new(format!("expected logical_count of two or three axes, found {:?}", tensor.shape))),
    };
    let count = |&value: &f64| {
        let fits = value >= 0.0 && value.fract() == 0.0 && value < 9e15;
        if fits { Ok(value as u64) } else { Err(Error::new(format!("expected whole counts, found {value}"))) }
    };
    let values = tensor.values.iter().map(count).collect::<Result<Vec<u64>>>()?;
    let layers = values.chunks(layers * experts).map(|step| step.chunks(experts).map(<[u64]>::to_vec).collect());
    Ok(layers.collect())
}

/// One table of all steps.
fn sum(steps: Vec<Vec<Vec<u64>>>, options: &Options) -> Result<Counts> {
    let number = steps.len();
    let mut steps = steps.into_iter();
    let mut total =
        steps.next().filter(|step| !step.is_empty()).ok_or_else(|| Error::new("expected counts, found none"))?;
    for (step, counts) in steps.enumerate() {
        let sizes = |counts: &[Vec<u64>]| counts.iter().map(Vec::len).collect::<Vec<_>>();
        if sizes(&counts) != sizes(&total) {
            return Err(Error::new("expected steps of one shape, found others").at(format!("step {}", step + 1)));
        }
        for (sum, count) in total.iter_mut().flatten().zip(counts.iter().flatten()) {
            *sum = sum.saturating_add(*count);
        }
    }
    // Layers without experts are rows of zeros.
    let layers = (0..).zip(total).filter(|(_, row)| row.iter().any(|&count| count > 0));
    let (layer_ids, counts) = layers.unzip();
    let table =
        CountTable { name: String::new(), model: String::new(), k: options.top_k.unwrap_or(0), layer_ids, counts };
    let notes = (number > 1).then(|| format!("The counts of {number} steps are summed.")).into_iter().collect();
    Ok(Counts { source: "SGLang or EPLB logical_count".into(), tables: vec![table], pairs: Vec::new(), notes })
}

/// One row of a pass.
struct Row {
    sequence: u32,
    position: u32,
    phase: Phase,
    token: u32,
    ids: Vec<i32>,
}

fn passes(file: &mut File<'_>, records: &[Id], map: Option<&Tensor>, budget: &mut u64) -> Result<Trace> {
    let mut rows: Vec<Row> = Vec::new();
    // Sequences that may go on: number, and the position that comes next.
    let mut open: Vec<(u32, u32)> = Vec::new();
    let (mut shape, mut number, mut next) = (None, 0, 0);
    for (index, &record) in records.iter().enumerate() {
        let at = |error: Error| error.at(format!("record {index}"));
        let ids = file.get(record, "topk_ids_of_layer");
        let ids = ids.ok_or_else(|| {
            at(Error::new("expected topk_ids_of_layer: only per-token records hold tokens, found none"))
        })?;
        let tensor = file.tensor(ids, budget).map_err(at)?;
        let &[layers, tokens, width] = &tensor.shape[..] else {
            return Err(at(Error::new(format!(
                "expected topk_ids_of_layer [layers, tokens, k], found {:?}",
                tensor.shape
            ))));
        };
        if *shape.get_or_insert((layers, width)) != (layers, width) {
            return Err(at(Error::new(format!(
                "expected the layers and k of the first record, found [{layers}, {tokens}, {width}]"
            ))));
        }
        let numbers = |file: &mut File<'_>, key: &str, budget: &mut u64| -> Vec<u32> {
            let Some(id) = file.get(record, key) else { return Vec::new() };
            match file.items(id).map(<[Id]>::to_vec) {
                Some(items) => items.iter().filter_map(|&id| file.number(id)).map(|value| value as u32).collect(),
                None => {
                    file.tensor(id, budget).map_or(Vec::new(), |t| t.values.iter().map(|&value| value as u32).collect())
                }
            }
        };
        let positions = numbers(file, "positions", budget);
        let token_ids = numbers(file, "input_ids", budget);
        let prefill = file.get(record, "extend_seq_lens").is_some();
        // Rows that the pass was padded with have no position.
        let count = if positions.is_empty() { tokens } else { positions.len().min(tokens) };
        let mut before = None;
        for token in 0..count {
            let position = positions.get(token).copied().unwrap_or(token as u32);
            let goes_on = if prefill { before.is_some_and(|before| position == before + 1) } else { false };
            if !goes_on {
                // A prompt that comes in pieces, or the next token of an answer; of several, the first that fits.
                let known = open.iter().position(|&(_, next)| next == position && position > 0);
                number = match known {
                    Some(known) => open.remove(known).0,
                    None => {
                        next += 1;
                        next - 1
                    }
                };
            } else if let Some(last) = open.iter().position(|&(sequence, _)| sequence == number) {
                open.remove(last);
            }
            open.push((number, position + 1));
            before = Some(position);
            let place = |layer: usize| &tensor.values[(layer * tokens + token) * width..][..width];
            let ids = (0..layers).flat_map(|layer| place(layer).iter().map(move |&id| logical(map, layer, id)));
            rows.push(Row {
                sequence: number,
                position,
                phase: if prefill { Phase::Prefill } else { Phase::Decode },
                token: token_ids.get(token).copied().unwrap_or(0),
                ids: ids.collect(),
            });
        }
    }
    let Some((layers, width)) = shape else { return Err(Error::new("expected records, found none")) };
    rows.sort_by_key(|row| (row.sequence, row.position));
    let mut notes = Vec::new();
    let cube = Cube {
        name: "topk_ids_of_layer".into(),
        shape: [rows.len(), layers, width],
        values: rows.iter().flat_map(|row| row.ids.iter().copied()).collect(),
    };
    let Choice { shape: [tokens, layers, k], ids, layer_ids } = clean(cube, false, None, &mut notes)?;
    let highest = ids.iter().filter(|&&id| id != NO_EXPERT).max().map_or(0, |&id| usize::from(id));
    let logical = map.and_then(|map| map.values.iter().copied().reduce(f64::max)).map(|most| most as usize + 1);
    let experts = logical.unwrap_or(highest + 1).max(highest + 1);
    let trace = Trace {
        meta: Meta {
            source: "SGLang expert distribution recorder".into(),
            domains: vec![String::new()],
            layer_ids,
            ..Meta::default()
        },
        sequence: rows.iter().map(|row| row.sequence).collect(),
        position: rows.iter().map(|row| row.position).collect(),
        phase: rows.iter().map(|row| row.phase).collect(),
        token: Some(rows.iter().map(|row| row.token).collect()),
        notes,
        ..Trace::of_ids(Shape { tokens, layers, experts, k }, ids)
    };
    Ok(trace)
}

/// The model's number of a physical expert.
fn logical(map: Option<&Tensor>, layer: usize, id: f64) -> i32 {
    let physical = id as i32;
    let Some(Tensor { shape, values }) = map else { return physical };
    let (Some(&experts), Ok(index)) = (shape.last(), usize::try_from(physical)) else { return physical };
    if index >= experts {
        return physical;
    }
    values.get(layer * experts + index).map_or(physical, |&id| id as i32)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, counts};
    use super::*;

    #[test]
    fn counts_of_layers_and_of_steps() {
        let folder = Folder::new();
        let read = |text: &str| folder.import("a.json", text, &Options::default());
        let layers = counts(read(r#"{"logical_count": [[1, 2], [3, 4]]}"#).unwrap());
        assert_eq!(layers.tables[0].counts, [[1, 2], [3, 4]]);
        let steps = counts(read(r#"{"logical_count": [[[1, 2], [3, 4]], [[5, 0], [0, 1]]]}"#).unwrap());
        assert_eq!(steps.tables[0].counts, [[6, 2], [3, 5]]);
        assert_eq!(steps.notes, ["The counts of 2 steps are summed."]);
        for (text, part) in [
            (r#"{"logical_count": []}"#, "expected counts, found none"),
            (r#"{"logical_count": [[1], [2, 3]]}"#, "expected 1 counts in each of 2 layers"),
            (r#"{"logical_count": [[[1]], [[1], [2]]]}"#, "step 1: expected steps of one shape"),
            (r#"{"logical_count": [[-1]]}"#, "expected JSON with logical_count"),
            (r#"{"logical_count": [[18446744073709551615, 1]]}"#, "sum to at most"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
