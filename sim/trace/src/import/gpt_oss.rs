//! gpt-oss router recordings by A. Priyanshu (GPT-OSS-MoE-ExpertFingerprinting): a JSON object, or a list of them, for
//! each generation.
//!
//! `router_data` is a list of `{"token_P": {"layer_L": {"selected_experts": […], "selected_probs": […]}}}` over the
//! generated tokens; P is the absolute position. The probabilities are a softmax over the chosen. `dataset` becomes the
//! domain. Prompts and answers, which are in the files too, are skipped over and never kept.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Entry, Importer, Options, Part, Recording};
use crate::array::FloatArray;
use crate::error::{Error, Result};
use crate::{Meta, Phase, Router, Shape, Trace};

/// Decode traces of gpt-oss models.
pub(super) struct GptOss;

#[derive(Deserialize)]
struct Generation<'a> {
    #[serde(default)]
    dataset: String,
    #[serde(borrow)]
    router_data: Vec<BTreeMap<&'a str, Token<'a>>>,
}

type Token<'a> = BTreeMap<&'a str, Choice>;

#[derive(Deserialize)]
struct Choice {
    selected_experts: Vec<u16>,
    selected_probs: Vec<f32>,
}

impl Importer for GptOss {
    fn name(&self) -> &'static str {
        "gpt-oss"
    }

    fn about(&self) -> &'static str {
        "JSON with router_data {token_P: {layer_L: {selected_experts, selected_probs}}}"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        let has = |key: &[u8]| head.windows(key.len()).any(|part| part == key);
        matches!(head.trim_ascii_start().first(), Some(b'{' | b'['))
            && (has(b"\"router_data\"") || has(b"\"row_index\"") && has(b"\"full_text\""))
    }

    fn import(&self, entry: Entry<'_>, _: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let bytes = entry.bytes()?;
        let parsed = if bytes.trim_ascii_start().starts_with(b"[") {
            serde_json::from_slice(&bytes)
        } else {
            serde_json::from_slice(&bytes).map(|generation| vec![generation])
        };
        let generations: Vec<Generation<'_>> =
            parsed.map_err(|error| Error::new(format!("expected JSON with router_data: {error}")))?;
        let (trace, experts_known) = Builder::default().build(&generations)?;
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known, sequences_known: true })
    }
}

#[derive(Default)]
struct Builder {
    layer_ids: Vec<u32>,
    k: usize,
    ids: Vec<u16>,
    weights: Vec<f32>,
    sequence: Vec<u32>,
    position: Vec<u32>,
    domains: Vec<String>,
    domain: Vec<u8>,
}

impl Builder {
    fn build(mut self, generations: &[Generation<'_>]) -> Result<(Trace, bool)> {
        for (i, generation) in generations.iter().enumerate() {
            self.generation(generation).map_err(|error| error.at(format!("generation {i}")))?;
        }
        let Self { layer_ids, k, ids, weights, sequence, position, domains, domain } = self;
        let (tokens, layers) = (position.len(), layer_ids.len());
        // The files do not name the model; both that exist differ in their layers (OpenAI's model card, table 1).
        let known = match layers {
            24 => Some(("gpt-oss-20b", 32)),
            36 => Some(("gpt-oss-120b", 128)),
            _ => None,
        };
        let highest = ids.iter().max().map_or(0, |&id| usize::from(id));
        let trace = Trace {
            shape: Shape { tokens, layers, experts: known.map_or(highest + 1, |(_, experts)| experts), k },
            meta: Meta {
                model: known.map_or("", |(model, _)| model).into(),
                router: Router::SOFTMAX_SELECTED,
                source: "GPT-OSS-MoE-ExpertFingerprinting".into(),
                domains,
                layer_ids,
            },
            ids,
            weights: Some(FloatArray::owned([tokens, layers, k], weights)),
            logits: None,
            bias: None,
            expert_scale: None,
            hidden: None,
            sequence,
            position,
            phase: vec![Phase::Decode; tokens],
            token: None,
            domain,
            notes: Vec::new(),
            evidence: None,
        };
        Ok((trace, known.is_some()))
    }

    fn generation(&mut self, generation: &Generation<'_>) -> Result<()> {
        let name = &generation.dataset;
        let domain = self.domains.iter().position(|other| other == name).unwrap_or_else(|| {
            self.domains.push(name.clone());
            self.domains.len() - 1
        });
        let domain = u8::try_from(domain).map_err(|_| Error::new("expected at most 256 data sets, found more"))?;
        let mut number = self.sequence.last().map_or(0, |last| last + 1);
        let mut before = None;
        for token in generation.router_data.iter().flatten() {
            let position = numbered(token.0, "token_")?;
            if before.is_some_and(|before| position <= before) {
                return Err(Error::new(format!("expected positions that grow, found {position}")).at(token.0));
            }
            // Tokens that were not recorded lie between: what comes next has no predecessor.
            number += u32::from(before.is_some_and(|before| position != before + 1));
            before = Some(position);
            self.token(token.1).map_err(|error| error.at(token.0))?;
            self.sequence.push(number);
            self.position.push(position);
            self.domain.push(domain);
        }
        Ok(())
    }

    fn token(&mut self, token: &Token<'_>) -> Result<()> {
        let mut layers =
            token.iter().map(|(key, choice)| Ok((numbered(key, "layer_")?, choice))).collect::<Result<Vec<_>>>()?;
        layers.sort_by_key(|&(layer, _)| layer);
        if self.position.is_empty() {
            self.layer_ids = layers.iter().map(|&(layer, _)| layer).collect();
            self.k = layers.first().map_or(0, |(_, choice)| choice.selected_experts.len());
        }
        if !layers.iter().map(|(layer, _)| layer).eq(&self.layer_ids) {
            return Err(Error::new(format!(
                "expected the {} layers of the first token, found {}",
                self.layer_ids.len(),
                layers.len()
            )));
        }
        for (layer, Choice { selected_experts, selected_probs }) in layers {
            let (ids, weights) = (selected_experts.len(), selected_probs.len());
            if [ids, weights] != [self.k; 2] {
                let k = self.k;
                return Err(Error::new(format!(
                    "expected {k} experts and {k} probabilities, found {ids} and {weights}"
                ))
                .at(format!("layer_{layer}")));
            }
            self.ids.extend(selected_experts);
            self.weights.extend(selected_probs);
        }
        Ok(())
    }
}

/// The number after a prefix.
fn numbered(key: &str, prefix: &str) -> Result<u32> {
    key.strip_prefix(prefix)
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| Error::new(format!("expected a key {prefix}N, found \"{key}\"")))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, tar, tokens, zstd};
    use super::super::{Importer, read};
    use super::*;

    /// A file with tokens at `positions`, each with two layers.
    fn generation(dataset: &str, positions: &[u32]) -> String {
        let token = |p: &u32| {
            let [a, b] = [p % 32, (p + 5) % 32];
            format!(
                r#"{{"token_{p}": {{"layer_10": {{"selected_experts": [{b}, {a}], "selected_probs": [0.625, 0.375]}},
                "layer_2": {{"selected_experts": [{a}, {b}], "selected_probs": [0.75, 0.25]}}}}}}"#
            )
        };
        let tokens: Vec<String> = positions.iter().map(token).collect();
        format!(
            r#"{{"row_index": 1, "dataset": "{dataset}", "original_prompt": "a \"secret\" \u00e4",
            "full_text": ["a", "secret"], "router_data": [{}]}}"#,
            tokens.join(",")
        )
    }

    #[test]
    fn joins_the_files_of_an_archive() {
        let folder = Folder::new();
        let files = [
            ("d/b/x.json", generation("law", &[7, 8, 9])),
            ("d/c/x.json", generation("math", &[3, 4])),
            ("d/d/x.json", generation("law", &[5])),
        ];
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        let files = [&files[..], &[("d/README.md", b"hello".as_slice())]].concat();
        let options = Options { experts: Some(32), ..Options::default() };
        let trace = folder.trace("all.tar.zst", zstd(&tar(&files)), &options);
        assert_eq!(trace.shape, Shape { tokens: 6, layers: 2, experts: 32, k: 2 });
        assert_eq!(trace.meta.domains, ["law", "math"]);
        assert_eq!(trace.domain, [0, 0, 0, 1, 1, 0]);
        assert_eq!(trace.sequence, [0, 0, 0, 1, 1, 2]);
        assert_eq!(trace.position, [7, 8, 9, 3, 4, 5]);
        assert_eq!(trace.meta.layer_ids, [2, 10]);
        assert_eq!((trace.chosen(0, 0), trace.chosen(0, 1)), (&[7, 12][..], &[12, 7][..]));
        assert_eq!((trace.meta.router, trace.phase[0]), (Router::SOFTMAX_SELECTED, Phase::Decode));
        let mut weights = [0.0; 2];
        trace.weights.as_ref().unwrap().read_row(5, 1, &mut weights);
        assert_eq!(weights, [0.625, 0.375]);
        assert!(trace.notes.iter().any(|note| note.contains("README.md")), "{:?}", trace.notes);
        assert!(!format!("{trace:?}").contains("secret"));
        folder.file("unpacked/x/1.json", generation("law", &[7, 8, 9]));
        folder.file("unpacked/y/2.json", generation("math", &[3, 4]));
        let unpacked = tokens(read(&folder.path().join("unpacked"), &Options::default()).unwrap());
        assert_eq!(unpacked.shape, Shape { tokens: 5, layers: 2, experts: 15, k: 2 });
        assert!(unpacked.notes[0].contains("taken as 15"));
    }

    #[test]
    fn a_gap_starts_a_sequence_and_lists_are_read() {
        let folder = Folder::new();
        let text = format!("[{},{}]", generation("a", &[1, 2, 5, 6]), generation("b", &[1]));
        assert_eq!(folder.trace("a.json", text, &Options::default()).sequence, [0, 0, 1, 1, 2]);
    }

    #[test]
    fn refuses_what_cannot_be() {
        let folder = Folder::new();
        let refusal = |text: &str| folder.refusal("a.json", text, &Options::default());
        let good = generation("a", &[7, 8]);
        assert!(
            refusal(&good.replace("\"token_8\"", "\"token_7\""))
                .contains("generation 0, token_7: expected positions that grow")
        );
        assert!(
            refusal(&good.replacen("layer_10", "layer_11", 1))
                .contains("token_8: expected the 2 layers of the first token")
        );
        assert!(
            refusal(&good.replacen("[8, 13]", "[8]", 1)).contains("token_8, layer_2: expected 2 experts and 2 prob")
        );
        assert!(
            refusal(&good.replacen("[8, 13]", "[8, 8]", 1)).contains("token 1, layer 0: expected 2 different experts")
        );
        assert!(
            refusal(&good.replacen("0.75", "-0.75", 1))
                .contains("token 0, layer 0: weight 0: expected finite and not negative")
        );
        assert!(refusal(&good.replacen("0.75", "1e99", 1)).starts_with("a.json: "));
        assert!(refusal(&good.replacen("[8, 13]", "[70000, 13]", 1)).contains("expected JSON with router_data"));
        assert!(refusal(&good.replacen("token_8", "tok_8", 1)).contains("expected a key token_N"));
        assert!(refusal(&good[..good.len() - 9]).contains("expected JSON with router_data"));
        assert!(refusal(&generation("a", &[])).contains("at least one token"));
        assert!(!GptOss.detect(Path::new("a.json"), br#"{"model": "x"}"#));
    }
}
