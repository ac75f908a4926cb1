//! DeepSeek ESFT expert scores: a folder for each task, in it `expert_weights_N.txt` for each layer N.
//!
//! A line is a sample: the ids of all its tokens (k each) with tabs between, two tabs, then as many weights. The order
//! inside a token is not that of the weights; it is here (of equal weights the lower id comes first). The weights are a
//! softmax over all experts, not renormalised. k is not written down: it is 6, that of DeepSeek-V2-Lite, unless the
//! caller says otherwise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Entry, Importer, Options, Part, Recording};
use crate::array::FloatArray;
use crate::error::{Error, Result};
use crate::native::positions;
use crate::{MAX_TOP_K, Meta, Phase, Router, Shape, Trace};

/// Experts per token of DeepSeek-V2-Lite (its config.json: num_experts_per_tok).
const DEFAULT_K: usize = 6;

/// Text files of ids and weights, one per layer.
pub(super) struct Esft;

impl Importer for Esft {
    fn name(&self) -> &'static str {
        "esft"
    }

    fn about(&self) -> &'static str {
        "DeepSeek ESFT expert_weights_N.txt: ids, two tabs, weights; one file per layer, one folder per task"
    }

    fn detect(&self, path: &Path, head: &[u8]) -> bool {
        let ids = head.split(|&b| b == b'\n').next().unwrap_or_default();
        let numbers = |&b: &u8| b.is_ascii_digit() || matches!(b, b'\t' | b'.' | b'e' | b'-' | b'\r');
        layer_number(path).is_some() && ids.contains(&b'\t') && ids.iter().all(numbers)
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let layer = layer_number(&path).unwrap_or(0);
        let k = options.top_k.unwrap_or(DEFAULT_K);
        if !(1..=MAX_TOP_K).contains(&k) {
            return Err(Error::new(format!("expected 1 to {MAX_TOP_K} experts per token, found {k}")));
        }
        let bytes = entry.bytes()?;
        let text = std::str::from_utf8(&bytes).map_err(|error| Error::new(format!("expected text: {error}")))?;
        let mut samples = Samples { k, ..Samples::default() };
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            samples.line(line).map_err(|error| error.at(format!("line {}", i + 1)))?;
        }
        let trace = samples.trace(layer);
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known: false, sequences_known: true })
    }

    /// Puts the layers of each task together.
    fn assemble(&self, parts: Vec<Part>, _: &Options) -> Result<Vec<Part>> {
        let mut tasks: BTreeMap<PathBuf, BTreeMap<u32, (PathBuf, Trace)>> = BTreeMap::new();
        for Part { path, recording, .. } in parts {
            let Recording::Tokens(trace) = recording else { continue };
            let task = path.parent().unwrap_or(Path::new("")).to_owned();
            let layer = trace.meta.layer_ids[0];
            if let Some((other, _)) = tasks.entry(task).or_default().insert(layer, (path.clone(), trace)) {
                return Err(Error::in_file(
                    &path,
                    format!("expected one file per layer, found {} too", other.display()),
                ));
            }
        }
        tasks.into_iter().map(|(task, layers)| stack_layers(task, layers.into_values().collect())).collect()
    }
}

/// N of `…_N.txt`.
fn layer_number(path: &Path) -> Option<u32> {
    let stem = path.file_stem()?.to_str()?;
    let (_, number) = stem.rsplit_once('_')?;
    number.parse().ok().filter(|_| path.extension().is_some_and(|ext| ext == "txt"))
}

/// One layer of one task.
#[derive(Default)]
struct Samples {
    k: usize,
    ids: Vec<u16>,
    weights: Vec<f32>,
    sequence: Vec<u32>,
}

impl Samples {
    fn line(&mut self, line: &str) -> Result<()> {
        let (ids, weights) =
            line.split_once("\t\t").ok_or_else(|| Error::new("expected ids, two tabs, weights, found no two tabs"))?;
        let mut token: Vec<(u16, f32)> = Vec::with_capacity(self.k);
        let (mut ids, mut weights) = (ids.split('\t'), weights.trim_end().split('\t'));
        let number = self.sequence.last().map_or(0, |last| last + 1);
        for i in 0.. {
            let (id, weight) = match (ids.next(), weights.next()) {
                (Some(id), Some(weight)) => (id, weight),
                (None, None) if i % self.k == 0 => return Ok(()),
                (None, None) => {
                    return Err(Error::new(format!("expected {} ids for each token, found {i} ids in all", self.k)));
                }
                _ => return Err(Error::new("expected as many weights as ids, found more of one")),
            };
            let wrong = |what: &str, found: &str| {
                Error::new(format!("expected {what}, found \"{found}\"")).at(format!("entry {i}"))
            };
            token.push((
                id.parse().map_err(|_| wrong("an expert id", id))?,
                weight.parse().map_err(|_| wrong("a weight", weight))?,
            ));
            if token.len() == self.k {
                token.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                self.ids.extend(token.iter().map(|entry| entry.0));
                self.weights.extend(token.iter().map(|entry| entry.1));
                self.sequence.push(number);
                token.clear();
            }
        }
        Ok(())
    }

    fn trace(self, layer: u32) -> Trace {
        let Self { k, ids, weights, sequence } = self;
        let tokens = sequence.len();
        let experts = ids.iter().max().map_or(0, |&id| usize::from(id)) + 1;
        Trace {
            shape: Shape { tokens, layers: 1, experts, k },
            meta: Meta {
                model: String::new(),
                router: Router::SOFTMAX_ALL,
                source: "DeepSeek ESFT expert scores".into(),
                domains: vec![String::new()],
                layer_ids: vec![layer],
            },
            ids,
            weights: Some(FloatArray::owned([tokens, 1, k], weights)),
            logits: None,
            bias: None,
            expert_scale: None,
            hidden: None,
            position: positions(&sequence),
            sequence,
            phase: vec![Phase::Prefill; tokens],
            token: None,
            domain: vec![0; tokens],
            notes: Vec::new(),
            evidence: None,
        }
    }
}

fn stack_layers(task: PathBuf, layers: Vec<(PathBuf, Trace)>) -> Result<Part> {
    let first = &layers[0].1;
    let Shape { tokens, k, .. } = first.shape;
    let experts = layers.iter().map(|(_, trace)| trace.shape.experts).max().unwrap_or(0);
    for (path, layer) in &layers {
        if layer.sequence != first.sequence {
            return Err(Error::in_file(
                path,
                format!(
                    "expected samples of the same lengths as in {} ({tokens} tokens), found others ({} tokens)",
                    layers[0].0.display(),
                    layer.shape.tokens
                ),
            ));
        }
    }
    let mut ids = Vec::with_capacity(tokens * layers.len() * k);
    let mut weights = vec![0.0; tokens * layers.len() * k];
    for (row, out) in weights.chunks_exact_mut(k).enumerate() {
        let (token, layer) = (row / layers.len(), &layers[row % layers.len()].1);
        ids.extend_from_slice(layer.chosen(token, 0));
        if let Some(weights) = &layer.weights {
            weights.read_row(token, 0, out);
        }
    }
    let trace = Trace {
        shape: Shape { tokens, layers: layers.len(), experts, k },
        meta: Meta {
            domains: vec![task.file_name().unwrap_or_default().to_string_lossy().into_owned()],
            layer_ids: layers.iter().map(|(_, trace)| trace.meta.layer_ids[0]).collect(),
            ..first.meta.clone()
        },
        ids,
        weights: Some(FloatArray::owned([tokens, layers.len(), k], weights)),
        ..first.clone()
    };
    Ok(Part { path: task, recording: Recording::Tokens(trace), experts_known: false, sequences_known: true })
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::super::testing::{Folder, tokens};
    use super::*;

    fn options() -> Options {
        Options { top_k: Some(2), ..Options::default() }
    }

    #[test]
    fn stacks_layers_and_joins_tasks() {
        let folder = Folder::new();
        folder.file("s/law/expert_weights_2.txt", "1\t2\t3\t0\t\t0.1\t0.4\t0.5\t0.2\n4\t5\t\t0.3\t0.3\n");
        folder.file("s/law/expert_weights_10.txt", "7\t6\t5\t4\t\t0.1\t0.4\t0.5\t0.2\n3\t2\t\t0.1\t0.2\n");
        folder.file("s/law/summary.json", "{}");
        folder.file("s/intent/expert_weights_2.txt", "0\t1\t\t0.5\t0.25\n");
        folder.file("s/intent/expert_weights_10.txt", "0\t1\t\t0.5\t0.25\n");
        let trace = tokens(read(folder.path(), &options()).unwrap());
        assert_eq!(trace.shape, Shape { tokens: 4, layers: 2, experts: 8, k: 2 });
        assert_eq!(
            (&trace.meta.domains[..], &trace.meta.layer_ids[..]),
            (&["intent".to_owned(), "law".into()][..], &[2, 10][..])
        );
        assert_eq!((&trace.sequence[..], &trace.domain[..]), (&[0, 1, 1, 2][..], &[0, 1, 1, 1][..]));
        // Best first; equal weights by id.
        assert_eq!(
            [trace.chosen(1, 0), trace.chosen(2, 0), trace.chosen(3, 0), trace.chosen(1, 1)],
            [[2, 1], [3, 0], [4, 5], [6, 7]]
        );
        let mut weights = [0.0; 2];
        trace.weights.as_ref().unwrap().read_row(2, 0, &mut weights);
        assert_eq!(weights, [0.5, 0.2]);
        assert!(trace.notes.iter().any(|note| note.contains("summary.json")));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let folder = Folder::new();
        let refusal = |text: &str| folder.refusal("a/w_1.txt", text, &options());
        assert_eq!(
            refusal("1\t2\t\t0.1\t0.2\n1\t2\t3\t\t0.1\t0.2\t0.3\n"),
            "a/w_1.txt: line 2: expected 2 ids for each token, found 3 ids in all"
        );
        assert!(refusal("1\t2\t\t0.1\n").contains("line 1: expected as many weights as ids"));
        assert!(refusal("1\t2\t0.1\t0.2\n").contains("line 1: expected ids, two tabs, weights"));
        assert!(refusal("1\t-2\t\t0.1\t0.2\n").contains("line 1, entry 1: expected an expert id"));
        assert!(refusal("1\t2\t\t0.1\t0.2\n1\t2\t\t0.1\tnan\n").contains("weight 0: expected finite"));
        assert!(
            refusal("3\t3\t\t0.1\t0.2\n").contains("token 0, layer 0: expected 2 different experts, found 3 twice")
        );
        assert!(refusal("3\t4000\t\t0.1\t0.2\n").contains("1 to 1024"));
        folder.file("b/w_1.txt", "1\t2\t\t0.1\t0.2\n");
        folder.file("b/w_2.txt", "1\t2\t3\t4\t\t0.1\t0.2\t0.1\t0.2\n");
        let message = read(&folder.path().join("b"), &options()).unwrap_err().to_string();
        assert!(message.contains("w_2.txt: expected samples of the same lengths"), "{message}");
    }
}
