//! JSON lines of moe-sim (robinber/moe-sim): `{request_id, phase, step_id, token_position, layer_id, expert_ids}` for
//! each token and layer; phase is "prefill" or "decode".

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::rows::{self, Row};
use super::{Entry, Importer, Options, Part, Recording};
use crate::error::Result;
use crate::{Meta, Phase};

/// Traces of several requests.
pub(super) struct MoeSim;

#[derive(Deserialize)]
struct Record {
    request_id: RequestId,
    phase: PhaseName,
    token_position: u32,
    layer_id: u32,
    expert_ids: Vec<u16>,
}

#[derive(Deserialize, PartialEq, Eq, Hash)]
#[serde(untagged)]
enum RequestId {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum PhaseName {
    Prefill,
    Decode,
}

impl Importer for MoeSim {
    fn name(&self) -> &'static str {
        "moe-sim"
    }

    fn about(&self) -> &'static str {
        "JSON lines {request_id, phase, token_position, layer_id, expert_ids}"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        let line = head.trim_ascii_start().split(|&b| b == b'\n').next().unwrap_or_default();
        serde_json::from_slice::<Record>(line).is_ok()
    }

    fn import(&self, entry: Entry<'_>, _: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let (mut requests, mut all) = (HashMap::new(), Vec::new());
        rows::json_lines(&entry.bytes()?, |record: Record| {
            let next = requests.len() as u32;
            all.push(Row {
                sequence: *requests.entry(record.request_id).or_insert(next),
                position: record.token_position,
                phase: if matches!(record.phase, PhaseName::Prefill) { Phase::Prefill } else { Phase::Decode },
                token: None,
                layer: record.layer_id,
                ids: record.expert_ids,
                weights: None,
            });
            Ok(())
        })?;
        let meta = Meta { source: "moe-sim".into(), domains: vec![String::new()], ..Meta::default() };
        let recording = Recording::Tokens(rows::trace(all, meta)?);
        Ok(Part { path, recording, experts_known: false, sequences_known: true })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    fn line(request: &str, phase: &str, position: u32, layer: u32, ids: &str) -> String {
        format!(
            r#"{{"request_id": {request}, "phase": "{phase}", "step_id": 0, "token_position": {position}, "layer_id": {layer}, "expert_ids": {ids}}}"#
        ) + "\n"
    }

    #[test]
    fn sorts_interleaved_requests() {
        let folder = Folder::new();
        let text = [
            line("\"a\"", "prefill", 0, 3, "[1, 0]"),
            line("7", "decode", 9, 3, "[5, 4]"),
            line("\"a\"", "prefill", 0, 1, "[2, 3]"),
            line("7", "decode", 9, 1, "[6, 7]"),
            "\n".into(),
            line("\"a\"", "decode", 1, 1, "[0, 2]"),
            line("\"a\"", "decode", 1, 3, "[1, 2]"),
        ];
        let trace = folder.trace("a.jsonl", text.concat(), &Options::default());
        assert_eq!((&trace.sequence[..], &trace.position[..]), (&[0, 0, 1][..], &[0, 1, 9][..]));
        assert_eq!(trace.ids, [2, 3, 1, 0, 0, 2, 1, 2, 6, 7, 5, 4]);
        assert_eq!((trace.meta.layer_ids, trace.shape.experts), (vec![1, 3], 8));
        assert_eq!(trace.phase, [Phase::Prefill, Phase::Decode, Phase::Decode]);
    }

    #[test]
    fn refuses_what_cannot_be() {
        let folder = Folder::new();
        let first = line("0", "decode", 0, 0, "[1]");
        let refusal = |more: &str| folder.refusal("a.jsonl", format!("{first}{more}"), &Options::default());
        assert!(refusal(&line("0", "decode", 1, 1, "[1]")).contains("sequence 0, position 1: expected the 1 layers"));
        assert!(
            refusal(&line("1", "decode", 0, 0, "[1]").repeat(2))
                .contains("sequence 1, position 0: expected the 1 layers")
        );
        assert!(refusal(&line("0", "decode", 1, 0, "[1, 2]")).contains("layer 0: expected 1 experts"));
        assert!(refusal(&line("0", "sleep", 1, 0, "[1]")).contains("a.jsonl: line 2: expected a JSON record"));
        assert!(refusal("{\"request_id\"").contains("line 2: expected a JSON record"));
        assert!(refusal(&line("0", "decode", 1, 0, "[-1]")).contains("line 2"));
    }
}
