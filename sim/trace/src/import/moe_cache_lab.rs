//! JSON lines of moe-cache-lab, format version 1: a metadata line, then for each token and layer `{record_type:
//! "routing_selection", phase, layer, token_position, token_id, selected_experts, selected_probabilities}`. One file is
//! one sequence; every phase but "prompt" is taken as decode. The texts in the metadata are not kept.

use std::path::Path;

use serde::Deserialize;

use super::rows::{self, Row};
use super::{Entry, Importer, Options, Part, Recording};
use crate::error::{Error, Result};
use crate::{Meta, Phase};

/// One generation.
pub(super) struct MoeCacheLab;

#[derive(Deserialize)]
#[serde(tag = "record_type", rename_all = "snake_case")]
enum Record {
    Metadata {
        format_version: u32,
        #[serde(default)]
        model_id: String,
        num_experts: Option<usize>,
    },
    RoutingSelection {
        phase: String,
        layer: u32,
        token_position: u32,
        token_id: Option<u32>,
        selected_experts: Vec<u16>,
        selected_probabilities: Option<Vec<f32>>,
    },
    #[serde(other)]
    Other,
}

impl Importer for MoeCacheLab {
    fn name(&self) -> &'static str {
        "moe-cache-lab"
    }

    fn about(&self) -> &'static str {
        "JSON lines of moe-cache-lab.routing-jsonl, version 1"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        let name = b"\"moe-cache-lab.routing-jsonl\"";
        head.trim_ascii_start().starts_with(b"{") && head.windows(name.len()).any(|part| part == name)
    }

    fn import(&self, entry: Entry<'_>, _: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let mut all = Vec::new();
        let mut experts = None;
        let mut meta = Meta { source: "moe-cache-lab".into(), domains: vec![String::new()], ..Meta::default() };
        rows::json_lines(&entry.bytes()?, |record: Record| {
            match record {
                Record::Metadata { format_version: 1, model_id, num_experts } => {
                    meta.model = model_id;
                    experts = num_experts;
                }
                Record::Metadata { format_version, .. } => {
                    return Err(Error::new(format!("expected format version 1, found {format_version}")));
                }
                Record::RoutingSelection {
                    phase,
                    layer,
                    token_position,
                    token_id,
                    selected_experts,
                    selected_probabilities,
                } => all.push(Row {
                    sequence: 0,
                    position: token_position,
                    phase: if phase == "prompt" { Phase::Prefill } else { Phase::Decode },
                    token: token_id,
                    layer,
                    ids: selected_experts,
                    weights: selected_probabilities,
                }),
                Record::Other => {}
            }
            Ok(())
        })?;
        let mut trace = rows::trace(all, meta)?;
        trace.shape.experts = experts.unwrap_or(trace.shape.experts);
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known: experts.is_some(), sequences_known: true })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    fn text(version: u32) -> String {
        let head = format!(
            r#"{{"record_type": "metadata", "format": "moe-cache-lab.routing-jsonl", "format_version": {version}, "model_id": "granite", "num_experts": 32, "source_text": "secret"}}"#
        );
        let row = |phase: &str, layer: u32, position: u32| {
            format!(
                r#"{{"record_type": "routing_selection", "phase": "{phase}", "layer": {layer}, "token_position": {position}, "token_id": {}, "selected_experts": [{position}, 9], "selected_probabilities": [0.5, 0.25]}}"#,
                position + 100
            )
        };
        let rows = [
            row("prompt", 0, 0),
            row("prompt", 0, 1),
            row("prompt", 1, 0),
            row("prompt", 1, 1),
            row("generated", 0, 2),
            row("generated", 1, 2),
        ];
        format!("{head}\n{}\n", rows.join("\n"))
    }

    #[test]
    fn reads_layer_major_records() {
        let trace = Folder::new().trace("a.jsonl", text(1), &Options::default());
        assert_eq!((trace.shape.tokens, trace.shape.layers, trace.shape.experts, trace.shape.k), (3, 2, 32, 2));
        assert_eq!(trace.ids, [0, 9, 0, 9, 1, 9, 1, 9, 2, 9, 2, 9]);
        assert_eq!(trace.token, Some(vec![100, 101, 102]));
        assert_eq!(trace.phase, [Phase::Prefill, Phase::Prefill, Phase::Decode]);
        assert_eq!((trace.meta.model.as_str(), trace.weights.is_some()), ("granite", true));
    }

    #[test]
    fn refuses_other_versions_and_damage() {
        let folder = Folder::new();
        assert!(
            folder
                .refusal("a.jsonl", text(2), &Options::default())
                .contains("line 1: expected format version 1, found 2")
        );
        let damaged = text(1).replace("[2, 9]", "[2]");
        assert!(
            folder.refusal("a.jsonl", damaged, &Options::default()).contains("position 2, layer 0: expected 2 experts")
        );
        let short = &text(1)[..600];
        assert!(folder.refusal("a.jsonl", short, &Options::default()).contains("expected"));
    }
}
