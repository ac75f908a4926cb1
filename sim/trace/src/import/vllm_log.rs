//! JSON lines of the `VLLM_LOG_MOE` patches to vLLM: a line `{type: "meta", …}`, then `{type: "route", req_id,
//! token_idx, layer, topk_ids, topk_weights}`.
//!
//! `token_idx` is the row in the batch of one forward pass, layer by layer, and `req_id` is usually the same for all:
//! which token follows which cannot be told. So every token is a sequence of its own here: experts can be counted and
//! weighed, but no switch is.

use std::path::Path;

use serde::Deserialize;

use super::rows::{self, Row};
use super::{Entry, Importer, Options, Part, Recording};
use crate::error::Result;
use crate::{Meta, Phase};

/// Batches without requests.
pub(super) struct VllmLog;

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Record {
    Meta {
        #[serde(default)]
        model_id: String,
        num_experts: Option<usize>,
    },
    Route {
        token_idx: u32,
        layer: u32,
        topk_ids: Vec<u16>,
        topk_weights: Option<Vec<f32>>,
    },
    #[serde(other)]
    Other,
}

impl Importer for VllmLog {
    fn name(&self) -> &'static str {
        "vllm-log"
    }

    fn about(&self) -> &'static str {
        "JSON lines of VLLM_LOG_MOE; tokens without sequences, so no switch rates"
    }

    fn serves(&self) -> bool {
        true
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        let has = |key: &[u8]| head.windows(key.len()).any(|part| part == key);
        head.trim_ascii_start().starts_with(b"{") && has(b"\"topk_ids\"") && has(b"\"token_idx\"")
    }

    fn import(&self, entry: Entry<'_>, _: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let mut all: Vec<Row> = Vec::new();
        let mut meta = Meta { source: "vLLM VLLM_LOG_MOE".into(), domains: vec![String::new()], ..Meta::default() };
        let mut experts = None;
        // First token of the pass, of the next one, and the place of the row before.
        let (mut pass, mut next, mut before) = (0_u32, 0_u32, None);
        rows::json_lines(&entry.bytes()?, |record: Record| {
            match record {
                Record::Meta { model_id, num_experts } => {
                    meta.model = model_id;
                    experts = num_experts;
                }
                Record::Route { token_idx, layer, topk_ids, topk_weights } => {
                    // Within a pass, layers follow each other and rows within a layer; anything else begins the next
                    // pass.
                    if before.is_some_and(|before| (layer, token_idx) <= before) {
                        pass = next;
                    }
                    before = Some((layer, token_idx));
                    let sequence = pass.saturating_add(token_idx);
                    next = next.max(sequence.saturating_add(1));
                    all.push(Row {
                        sequence,
                        position: 0,
                        phase: Phase::Prefill,
                        token: None,
                        layer,
                        ids: topk_ids,
                        weights: topk_weights,
                    });
                }
                Record::Other => {}
            }
            Ok(())
        })?;
        let mut trace = rows::trace(all, meta)?;
        trace.shape.experts = experts.unwrap_or(trace.shape.experts);
        trace.notes.push(
            "The log does not say which token follows which, and begins with profiling rows: every token is a sequence of its own, \
             and no switch rate can be computed."
                .into(),
        );
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known: experts.is_some(), sequences_known: true })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    #[test]
    fn tells_passes_apart_and_no_sequences() {
        let mut text = r#"{"type": "meta", "model_id": "m", "top_k": 1, "num_experts": 8}"#.to_owned();
        for (token, layer, id) in [(0, 0, 1), (1, 0, 2), (0, 1, 3), (1, 1, 4), (0, 0, 5), (0, 1, 6)] {
            text += &format!(
                "\n{{\"type\": \"route\", \"req_id\": \"r\", \"token_idx\": {token}, \"layer\": {layer}, \"topk_ids\": [{id}], \"topk_weights\": [1.0]}}"
            );
        }
        let folder = Folder::new();
        let trace = folder.trace("a.jsonl", &text, &Options::default());
        assert_eq!(trace.ids, [1, 3, 2, 4, 5, 6]);
        assert_eq!((trace.sequence, trace.shape.experts), (vec![0, 1, 2], 8));
        assert!(trace.notes[0].contains("no switch rate"));
        let message =
            folder.refusal("b.jsonl", text.replace("\"topk_ids\": [6]", "\"topk_ids\": [9]"), &Options::default());
        assert!(message.contains("expected expert ids below 8, found 9"), "{message}");
    }
}
