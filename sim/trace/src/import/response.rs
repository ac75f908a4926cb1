//! Answers of vLLM and SGLang servers that carry the routed experts: JSON, one answer or several, in a list or line by
//! line.
//!
//! vLLM: `choices[i].routed_experts` `[T, L, k]` as lists or base64, and `prompt_routed_experts` beside `choices`.
//! SGLang: `meta_info.routed_experts`, or `choices[i].sgl_ext.routed_experts`, base64 of int32; its shape is not
//! written down: the number of tokens follows from `prompt_tokens` and `completion_tokens` (the last token is never an
//! input), k is the largest number for which no token has an expert twice, unless the caller says it.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::npy::{self, Values};
use super::numpy::{Choice, Cube, clean};
use super::{Entry, Importer, Options, Part, Recording};
use crate::error::{Error, Result};
use crate::native::positions;
use crate::{MAX_TOP_K, Meta, NO_EXPERT, Phase, Shape, Trace};

/// Server answers.
pub(super) struct Response;

impl Importer for Response {
    fn name(&self) -> &'static str {
        "response"
    }

    fn about(&self) -> &'static str {
        "JSON answers of vLLM and SGLang with routed_experts"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        let has = |key: &[u8]| head.windows(key.len()).any(|part| part == key);
        matches!(head.trim_ascii_start().first(), Some(b'{' | b'['))
            && (has(b"routed_experts\"") || has(b"\"meta_info\"") || has(b"\"choices\"") && has(b"\"object\""))
    }

    fn serves(&self) -> bool {
        true
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let bytes = entry.bytes()?;
        let mut answers = Answers { options, budget: options.budget(), all: Vec::new(), model: String::new() };
        for value in serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>() {
            let value = value.map_err(|error| Error::new(format!("expected JSON with routed_experts: {error}")))?;
            match value {
                Value::Array(values) => values.iter().try_for_each(|value| answers.answer(value))?,
                value => answers.answer(&value)?,
            }
        }
        let model = answers.model;
        let trace = trace(answers.all, model)?;
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known: false, sequences_known: true })
    }
}

/// The tokens of one sequence.
struct Answer {
    cube: Cube<i32>,
    /// Position of its first token.
    first: usize,
    /// Tokens of the prompt, those before `first` among them.
    prompt: usize,
}

struct Answers<'a> {
    options: &'a Options,
    budget: u64,
    all: Vec<Answer>,
    model: String,
}

impl Answers<'_> {
    fn answer(&mut self, value: &Value) -> Result<()> {
        if let Some(model) = value["model"].as_str() {
            self.model = model.into();
        }
        let number = |value: &Value| value.as_u64().map(|number| number as usize);
        let listed = value["prompt_token_ids"].as_array().map(Vec::len);
        let about = &value["meta_info"];
        let prompt = number(&value["usage"]["prompt_tokens"]).or(number(&about["prompt_tokens"])).or(listed);
        let first = number(&about["routed_experts_start_len"]).unwrap_or(0);
        // The experts of the prompt belong to the first of several answers; the others go on from a copy of its state.
        let mut before = match &value["prompt_routed_experts"] {
            Value::Null => None,
            experts => Some(self.array(experts, prompt).map_err(|error| error.at("prompt_routed_experts"))?),
        };
        let choices = ["choices", "outputs"].iter().find_map(|key| value[*key].as_array());
        let parts = choices.map_or(&[][..], Vec::as_slice);
        let single = std::slice::from_ref(value);
        for part in if parts.is_empty() { single } else { parts } {
            let experts =
                [&part["routed_experts"], &part["sgl_ext"]["routed_experts"], &part["meta_info"]["routed_experts"]];
            let Some(experts) = experts.into_iter().find(|experts| !experts.is_null()) else { continue };
            let completion =
                number(&part["meta_info"]["completion_tokens"]).or(number(&value["usage"]["completion_tokens"]));
            let tokens = prompt.zip(completion).and_then(|(prompt, new)| (prompt + new).checked_sub(1 + first));
            let cube = self.array(experts, tokens).map_err(|error| error.at("routed_experts"))?;
            self.all.push(match before.take() {
                Some(mut all) => {
                    if all.shape[1..] != cube.shape[1..] {
                        return Err(Error::new(format!(
                            "expected prompt and answer of one shape, found {:?} and {:?}",
                            all.shape, cube.shape
                        )));
                    }
                    let prompt = all.shape[0];
                    all.shape[0] += cube.shape[0];
                    all.values.extend(cube.values);
                    Answer { cube: all, first: 0, prompt }
                }
                // With the prompt in an array of its own, every answer begins after it.
                None if !value["prompt_routed_experts"].is_null() => {
                    let prompt = prompt.unwrap_or(0);
                    Answer { cube, first: prompt, prompt }
                }
                None => Answer { prompt: prompt.unwrap_or(first + cube.shape[0]), cube, first },
            });
        }
        Ok(())
    }

    /// `[T, L, k]` from nested lists or base64.
    fn array(&mut self, value: &Value, tokens: Option<usize>) -> Result<Cube<i32>> {
        match value {
            Value::Array(rows) => nested(rows),
            Value::String(text) => self.decode(text, None, None, tokens),
            Value::Object(fields) => {
                let text = fields.values().find_map(Value::as_str).map(str::to_owned);
                let text = fields.get("data").and_then(Value::as_str).map(str::to_owned).or(text);
                let shape = fields.get("shape").and_then(|shape| serde_json::from_value(shape.clone()).ok());
                let wide =
                    fields.get("dtype").and_then(Value::as_str).map(|dtype| if dtype.contains("16") { 2 } else { 4 });
                self.decode(&text.unwrap_or_default(), shape, wide, tokens)
            }
            _ => Err(Error::new("expected lists or base64, found something else")),
        }
    }

    fn decode(
        &mut self,
        text: &str,
        shape: Option<[usize; 3]>,
        wide: Option<usize>,
        tokens: Option<usize>,
    ) -> Result<Cube<i32>> {
        let needed = text.len() as u64 * 4;
        self.budget = self.budget.checked_sub(needed).ok_or_else(|| {
            Error::new(format!("expected arrays that become at most {} bytes, found {needed}", self.budget))
        })?;
        let bytes = STANDARD.decode(text).map_err(|error| Error::new(format!("expected base64: {error}")))?;
        if bytes.starts_with(npy::MAGIC) {
            let array = npy::read(&bytes[..], &mut self.budget)?;
            return match (array.values, &array.shape[..]) {
                (Values::Integers(values), &[a, b, c]) => Ok(Cube { name: String::new(), shape: [a, b, c], values }),
                (_, shape) => Err(Error::new(format!("expected integers [tokens, layers, k], found {shape:?}"))),
            };
        }
        let values: Vec<i32> = match wide.unwrap_or(4) {
            2 => bytes.as_chunks().0.iter().map(|&b| i16::from_le_bytes(b).into()).collect(),
            _ => bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect(),
        };
        let shape = match shape {
            Some(shape) => shape,
            None => self.shape(&values, tokens)?,
        };
        if shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n)) != Some(values.len())
            || values.is_empty()
        {
            return Err(Error::new(format!("expected {shape:?} numbers, found {}", values.len())));
        }
        Ok(Cube { name: String::new(), shape, values })
    }

    fn shape(&self, values: &[i32], tokens: Option<usize>) -> Result<[usize; 3]> {
        let tokens = tokens.filter(|&tokens| tokens > 0 && values.len().is_multiple_of(tokens)).ok_or_else(|| {
            Error::new(
                "expected prompt_tokens and completion_tokens that fit the array: without them its shape is unknown",
            )
        })?;
        let row = values.len() / tokens;
        let distinct = |k: usize| {
            values.chunks(k).all(|ids| {
                // Dense layers are zeros, tokens that were not recorded -1.
                let empty = ids.iter().all(|&id| id == ids[0]) && (ids[0] == 0 || ids[0] == -1);
                empty || ids.iter().enumerate().all(|(i, id)| *id == -1 || !ids[..i].contains(id))
            })
        };
        let told = self.options.top_k.filter(|&k| k > 0 && row.is_multiple_of(k));
        let k = told.or_else(|| (1..=MAX_TOP_K.min(row)).rev().find(|&k| row.is_multiple_of(k) && distinct(k)));
        k.map(|k| [tokens, row / k, k])
            .ok_or_else(|| Error::new("expected ids that differ within a token, found others"))
    }
}

fn nested(rows: &[Value]) -> Result<Cube<i32>> {
    let wrong = || Error::new("expected lists [tokens][layers][k] of numbers, found another shape");
    let list = |value: &Value| value.as_array().cloned();
    let first = rows.first().and_then(Value::as_array).ok_or_else(wrong)?;
    let (layers, k) = (first.len(), first.first().and_then(Value::as_array).ok_or_else(wrong)?.len());
    let mut values = Vec::with_capacity(rows.len() * layers * k);
    for row in rows {
        let row = list(row).filter(|row| row.len() == layers).ok_or_else(wrong)?;
        for ids in &row {
            let ids = ids.as_array().filter(|ids| ids.len() == k).ok_or_else(wrong)?;
            for id in ids {
                values.push(id.as_i64().and_then(|id| i32::try_from(id).ok()).ok_or_else(wrong)?);
            }
        }
    }
    if values.is_empty() {
        return Err(wrong());
    }
    Ok(Cube { name: String::new(), shape: [rows.len(), layers, k], values })
}

fn trace(answers: Vec<Answer>, model: String) -> Result<Trace> {
    let Some(first) = answers.first() else {
        return Err(Error::new("expected routed_experts in an answer, found none: ask the server for them"));
    };
    let [_, layers, k] = first.cube.shape;
    let (mut sequence, mut phase, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut firsts = Vec::new();
    for (number, Answer { cube, first, prompt }) in (0..).zip(answers) {
        if cube.shape[1..] != [layers, k] {
            return Err(Error::new(format!(
                "expected answers of one shape, found [{layers}, {k}] and {:?}",
                &cube.shape[1..]
            )));
        }
        let tokens = cube.shape[0];
        sequence.resize(sequence.len() + tokens, number);
        phase.extend((first..first + tokens).map(|at| if at < prompt { Phase::Prefill } else { Phase::Decode }));
        firsts.resize(firsts.len() + tokens, first as u32);
        values.extend(cube.values);
    }
    let mut notes = Vec::new();
    let cube = Cube { name: String::new(), shape: [sequence.len(), layers, k], values };
    let Choice { shape: [tokens, layers, k], ids, layer_ids } = clean(cube, false, None, &mut notes)?;
    let highest = ids.iter().filter(|&&id| id != NO_EXPERT).max().map_or(0, |&id| usize::from(id));
    let position = positions(&sequence).iter().zip(&firsts).map(|(position, first)| position + first).collect();
    let meta =
        Meta { model, source: "server answers".into(), domains: vec![String::new()], layer_ids, ..Meta::default() };
    let shape = Shape { tokens, layers, experts: highest + 1, k };
    Ok(Trace { meta, sequence, position, phase, notes, ..Trace::of_ids(shape, ids) })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    fn base64(ids: &[i32]) -> String {
        STANDARD.encode(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())
    }

    #[test]
    fn prompt_and_answer_are_one_sequence() {
        let folder = Folder::new();
        let text = r#"{"model": "m", "prompt_routed_experts": [[[0, 1]], [[1, 2]]], "choices":
            [{"routed_experts": [[[2, 3]]]}, {"routed_experts": [[[3, 0]], [[0, 2]]]}], "usage": {"prompt_tokens": 2}}"#;
        let trace = folder.trace("a.json", text, &Options::default());
        assert_eq!((trace.ids, trace.sequence), (vec![0, 1, 1, 2, 2, 3, 3, 0, 0, 2], vec![0, 0, 0, 1, 1]));
        assert_eq!((trace.position, trace.meta.model.as_str()), (vec![0, 1, 2, 2, 3], "m"));
        assert_eq!(trace.phase.iter().filter(|&&phase| phase == Phase::Prefill).count(), 2);
    }

    #[test]
    fn shapes_are_found() {
        let folder = Folder::new();
        // Three tokens, a dense layer, two layers of two experts; the layers of a token share an expert somewhere.
        let ids = [0, 0, 1, 2, 2, 3, 0, 0, 3, 1, 1, 0, 0, 0, 0, 1, 3, 2];
        let text = |prompt: usize| {
            format!(
                r#"[{{"meta_info": {{"prompt_tokens": {prompt}, "completion_tokens": 2, "routed_experts": "{}"}}}}]"#,
                base64(&ids)
            )
        };
        let trace = folder.trace("a.json", text(2), &Options::default());
        assert_eq!(trace.shape, Shape { tokens: 3, layers: 2, experts: 4, k: 2 });
        assert_eq!((trace.meta.layer_ids.clone(), trace.phase[2]), (vec![1, 2], Phase::Decode));
        assert!(folder.refusal("a.json", text(4), &Options::default()).contains("its shape is unknown"));
        let broken = text(2).replace("AAAA", "A*AA");
        assert!(folder.refusal("a.json", broken, &Options::default()).contains("expected base64"));
        assert!(folder.refusal("b.json", r#"{"meta_info": {}}"#, &Options::default()).contains("found none"));
    }
}
