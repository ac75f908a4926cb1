//! One small recording of every format, all of the same routing: what the program says of them must be the same, and is
//! computed here in the plainest way as well.

use std::collections::HashSet;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::command::Folder;
use crate::files::{f32s, npy, npy_text, npz, safetensors, tar, u16s, u32s, zstd};

pub(crate) const TOKENS: usize = 90;
/// The token at which a second sequence begins, where a format can say so.
pub(crate) const CUT: usize = 50;
pub(crate) const LAYERS: usize = 3;
pub(crate) const EXPERTS: usize = 16;
pub(crate) const K: usize = 2;

/// What a format keeps of a routing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Keeps {
    /// Every token, with the tokens at which sequences begin; whether all logits are kept too.
    Tokens { starts: &'static [usize], logits: bool },
    /// Tokens that follow no other.
    Unordered,
    /// Sums over the parts that begin at these tokens.
    Counts { starts: &'static [usize] },
}

/// A recording on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Name of the importer.
    pub(crate) format: &'static str,
    /// File or folder, followed by what must be said beside it.
    pub(crate) source: &'static str,
    pub(crate) keeps: Keeps,
}

impl Sample {
    const fn new(format: &'static str, source: &'static str, keeps: Keeps) -> Self {
        Self { format, source, keeps }
    }

    /// Whether it is a trace of tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        !matches!(self.keeps, Keeps::Counts { .. })
    }
}

const ONE: Keeps = Keeps::Tokens { starts: &[0], logits: false };
const TWO: Keeps = Keeps::Tokens { starts: &[0, CUT], logits: false };
const TWO_LOGITS: Keeps = Keeps::Tokens { starts: &[0, CUT], logits: true };

/// Every sample that [`write`] makes.
pub(crate) const SAMPLES: &[Sample] = &[
    Sample::new("native", "native.safetensors", TWO_LOGITS),
    Sample::new("native", "logits-only.safetensors", TWO_LOGITS),
    Sample::new("numpy", "ids.npz", ONE),
    Sample::new("numpy", "logits.npz --top-k 2", TWO_LOGITS),
    Sample::new("numpy", "ids.npy --experts 16", ONE),
    Sample::new("numpy", "layers-first.npy --experts 16 --chunk 50", TWO),
    Sample::new("gpt-oss", "oss.tar.zst --experts 16", TWO),
    Sample::new("esft", "esft --top-k 2 --experts 16", TWO),
    Sample::new("moe-sim", "sim.jsonl --experts 16", TWO),
    Sample::new("moe-cache-lab", "lab.jsonl", ONE),
    Sample::new("columns", "speculative.jsonl --experts 16", TWO),
    Sample::new("moe-trace", "passes.bin --experts 16", TWO),
    Sample::new("dynande", "nde --chunk 50", TWO),
    Sample::new("vllm-log", "vllm.jsonl", Keeps::Unordered),
    Sample::new("moe-infinity", "activations.npy --format moe-infinity --top-k 2", Keeps::Counts { starts: &[0, CUT] }),
    Sample::new("fiddler", "popularity.json", Keeps::Counts { starts: &[0] }),
    Sample::new("olmoe-counts", "counts.json.zst", Keeps::Counts { starts: &[0] }),
    Sample::new("coli-usage", "profile.coli_usage", Keeps::Counts { starts: &[0] }),
];

/// A routing with a slow context, as real ones have.
pub(crate) struct Routing {
    /// `[T, L, E]`.
    pub(crate) logits: Vec<f32>,
    /// `[T, L, k]`, best first.
    pub(crate) ids: Vec<u16>,
}

impl Routing {
    /// The same at every call.
    pub(crate) fn new() -> Self {
        let mut random = Random(1);
        let mut context = vec![0.0; LAYERS * EXPERTS];
        let mut logits = Vec::new();
        for _ in 0..TOKENS {
            for level in &mut context {
                *level = 0.9 * *level + 0.5 * random.symmetric();
                logits.push((*level + 1.2 * random.symmetric()) as f32);
            }
        }
        let ids = logits.chunks(EXPERTS).flat_map(best).collect();
        Self { logits, ids }
    }

    pub(crate) fn chosen(&self, token: usize, layer: usize) -> &[u16] {
        let start = (token * LAYERS + layer) * K;
        &self.ids[start..start + K]
    }

    /// Softmax of the chosen over the chosen.
    fn weights(&self, token: usize, layer: usize) -> Vec<f32> {
        let logit = |&expert: &u16| self.logits[(token * LAYERS + layer) * EXPERTS + usize::from(expert)];
        let exponentials: Vec<f32> = self.chosen(token, layer).iter().map(|expert| logit(expert).exp()).collect();
        exponentials.iter().map(|value| value / exponentials.iter().sum::<f32>()).collect()
    }

    /// Choices by layer and expert of the tokens in `range`.
    pub(crate) fn counts(&self, range: std::ops::Range<usize>) -> Vec<Vec<u64>> {
        let mut counts = vec![vec![0; EXPERTS]; LAYERS];
        for token in range {
            for (layer, counts) in counts.iter_mut().enumerate() {
                self.chosen(token, layer).iter().for_each(|&expert| counts[usize::from(expert)] += 1);
            }
        }
        counts
    }

    /// Share of the chosen experts that the token before in the sequence did not choose, mean over layers.
    pub(crate) fn switch_rate(&self, starts: &[usize]) -> f64 {
        let pairs = (1..TOKENS).filter(|token| !starts.contains(token));
        let switched =
            pairs.clone().flat_map(|token| (0..LAYERS).map(move |layer| (token, layer))).map(|(t, layer)| {
                let before: HashSet<_> = self.chosen(t - 1, layer).iter().collect();
                self.chosen(t, layer).iter().filter(|expert| !before.contains(expert)).count()
            });
        switched.sum::<usize>() as f64 / (pairs.count() * LAYERS * K) as f64
    }

    /// Misses of a cache that throws out the least recently used, per choice. Of the experts of one token the best
    /// counts as used last.
    pub(crate) fn lru_miss_rate(&self, cache: usize) -> f64 {
        let mut misses = 0;
        for layer in 0..LAYERS {
            // Most recently used first.
            let mut resident: Vec<u16> = Vec::new();
            for token in 0..TOKENS {
                let chosen = self.chosen(token, layer);
                misses += chosen.iter().filter(|expert| !resident.contains(expert)).count();
                resident.retain(|expert| !chosen.contains(expert));
                resident.splice(0..0, chosen.iter().copied());
                resident.truncate(cache);
            }
        }
        misses as f64 / self.ids.len() as f64
    }
}

/// The k highest, best first; the scores differ.
fn best(scores: &[f32]) -> Vec<u16> {
    let mut order: Vec<u16> = (0..scores.len() as u16).collect();
    order.sort_by(|&a, &b| scores[usize::from(b)].total_cmp(&scores[usize::from(a)]));
    order.truncate(K);
    order
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// Uniform between -1 and 1.
    fn symmetric(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

/// Writes all samples into the folder.
pub(crate) fn write(folder: &Folder) {
    let routing = Routing::new();
    write_native(folder, &routing);
    write_numpy(folder, &routing);
    write_gpt_oss(folder, &routing);
    write_esft(folder, &routing);
    write_json_lines(folder, &routing);
    write_passes(folder, &routing);
    write_rows(folder, &routing);
    write_counts(folder, &routing);
}

pub(crate) fn sequence() -> Vec<u32> {
    (0..TOKENS).map(|token| u32::from(token >= CUT)).collect()
}

/// Each token and layer, in the order of the trace.
fn places() -> impl Iterator<Item = (usize, usize)> {
    (0..TOKENS).flat_map(|token| (0..LAYERS).map(move |layer| (token, layer)))
}

fn write_native(folder: &Folder, routing: &Routing) {
    let domain: Vec<u8> = sequence().iter().map(|&number| number as u8).collect();
    let logits = ("logits", Dtype::F32, &[TOKENS, LAYERS, EXPERTS][..], f32s(&routing.logits));
    let sequence = ("sequence", Dtype::U32, &[TOKENS][..], u32s(&sequence()));
    let domain = ("domain", Dtype::U8, &[TOKENS][..], domain);
    let experts = ("experts", Dtype::U16, &[TOKENS, LAYERS, K][..], u16s(&routing.ids));
    let metadata = [("model", "toy"), ("router", "softmax-selected"), ("top_k", "2"), ("domains", "code,law")];
    let tensors = [logits, sequence, domain, experts];
    folder.file("native.safetensors", safetensors(&tensors, &metadata));
    folder.file("logits-only.safetensors", safetensors(&tensors[..2], &metadata[1..3]));
}

fn write_numpy(folder: &Folder, routing: &Routing) {
    let ids: Vec<i16> = routing.ids.iter().map(|&id| id as i16).collect();
    let layers_first: Vec<i16> = (0..LAYERS)
        .flat_map(|layer| (0..TOKENS).flat_map(move |token| (0..K).map(move |i| (token * LAYERS + layer) * K + i)))
        .map(|index| ids[index])
        .collect();
    let meta = format!(r#"{{"model": "toy", "k": {K}, "num_experts": {EXPERTS}, "n_moe_layers": {LAYERS}}}"#);
    folder.file("ids.npy", npy(&[TOKENS, LAYERS, K], &ids));
    folder.file("layers-first.npy", npy(&[LAYERS, TOKENS, K], &layers_first));
    let by_layer = npy(&[LAYERS, TOKENS, K], &layers_first);
    folder.file("ids.npz", npz(&[("experts", by_layer), ("meta", npy_text(&meta))]));
    let (first, second) = routing.logits.split_at(CUT * LAYERS * EXPERTS);
    let array = |tokens: usize, logits: &[f32]| npy(&[tokens, LAYERS, EXPERTS], logits);
    folder.file("logits.npz", npz(&[("seq0", array(CUT, first)), ("seq1", array(TOKENS - CUT, second))]));
}

fn write_gpt_oss(folder: &Folder, routing: &Routing) {
    let generation = |tokens: std::ops::Range<usize>| {
        let token = |token: usize| {
            let layer = |layer: usize| {
                let choice = json!({"selected_experts": routing.chosen(token, layer), "selected_probs": routing.weights(token, layer)});
                (format!("layer_{layer}"), choice)
            };
            json!({ format!("token_{}", token + 7): Value::Object((0..LAYERS).map(layer).collect()) })
        };
        let data: Vec<Value> = tokens.map(token).collect();
        json!({"row_index": 0, "dataset": "toy", "full_text": ["never", "kept"], "router_data": data}).to_string()
    };
    let (first, second) = (generation(0..CUT), generation(CUT..TOKENS));
    let files = [("data/a_examples.json", &first[..]), ("data/b_examples.json", &second[..]), ("README.md", "hello")];
    folder.file("oss.tar.zst", zstd(tar(&files)));
}

fn write_esft(folder: &Folder, routing: &Routing) {
    for layer in 0..LAYERS {
        let line = |tokens: std::ops::Range<usize>| {
            let ids: Vec<String> =
                tokens.clone().flat_map(|token| routing.chosen(token, layer)).map(ToString::to_string).collect();
            let weights: Vec<String> =
                tokens.flat_map(|token| routing.weights(token, layer)).map(|weight| format!("{weight:.4}")).collect();
            format!("{}\t\t{}\n", ids.join("\t"), weights.join("\t"))
        };
        let text = line(0..CUT) + &line(CUT..TOKENS);
        folder.file(&format!("esft/toy/expert_weights_{}.txt", layer + 1), text);
    }
    folder.file("esft/toy/summary.json", "{}");
}

fn write_json_lines(folder: &Folder, routing: &Routing) {
    let sim = places().map(|(token, layer)| {
        let (request, position) = if token < CUT { ("a", token) } else { ("b", token - CUT) };
        json!({"request_id": request, "phase": "decode", "step_id": token, "token_position": position, "layer_id": layer,
            "expert_ids": routing.chosen(token, layer)})
    });
    let lab = places().map(|(token, layer)| {
        json!({"record_type": "routing_selection", "phase": "prompt", "layer": layer, "token_position": token, "token_id": token,
            "selected_experts": routing.chosen(token, layer), "selected_probabilities": routing.weights(token, layer)})
    });
    let vllm = places().map(|(token, layer)| {
        json!({"type": "route", "req_id": "a", "token_idx": 0, "layer": layer, "topk_ids": routing.chosen(token, layer),
            "topk_weights": routing.weights(token, layer)})
    });
    let speculative = places().map(|(token, layer)| {
        let (problem, position) = if token < CUT { (3, token) } else { (7, token - CUT) };
        json!({"dataset": "toy", "problem_id": problem, "layer": layer, "experts": routing.chosen(token, layer),
            "gating_probs": routing.weights(token, layer), "token_idx": position})
    });
    let lines = |head: Option<Value>, rows: &mut dyn Iterator<Item = Value>| {
        head.into_iter().chain(rows).map(|row| format!("{row}\n")).collect::<String>()
    };
    let lab_head = json!({"record_type": "metadata", "format": "moe-cache-lab.routing-jsonl", "format_version": 1,
        "model_id": "toy", "num_experts": EXPERTS, "source_text": "never kept"});
    let vllm_head = json!({"type": "meta", "model_id": "toy", "num_experts": EXPERTS, "top_k": K});
    folder.file("sim.jsonl", lines(None, &mut { sim }));
    folder.file("speculative.jsonl", lines(None, &mut { speculative }));
    folder.file("lab.jsonl", lines(Some(lab_head), &mut { lab }));
    folder.file("vllm.jsonl", lines(Some(vllm_head), &mut { vllm }));
}

/// A prompt, steps of decoding, and a longer prompt.
fn write_passes(folder: &Folder, routing: &Routing) {
    const PROMPT: usize = 30;
    let steps = (PROMPT..CUT).map(|token| token..token + 1);
    let passes = std::iter::once(0..PROMPT).chain(steps).chain(std::iter::once(CUT..TOKENS));
    let mut words: Vec<u32> = Vec::new();
    for pass in passes {
        for layer in 0..LAYERS {
            words.extend([layer as u32, pass.len() as u32, K as u32]);
            words.extend(pass.clone().flat_map(|token| routing.chosen(token, layer)).map(|&id| u32::from(id)));
        }
    }
    folder.file("passes.bin", u32s(&words));
}

/// A row of scores for each token, a file for each layer.
fn write_rows(folder: &Folder, routing: &Routing) {
    let names: Vec<String> = (0..EXPERTS).map(|expert| format!("expert_{expert}")).collect();
    for layer in 0..LAYERS {
        let mut text = format!("layer_id,token_id,{}\n", names.join(","));
        for token in 0..TOKENS {
            let mut scores = [0.0; EXPERTS];
            for (&id, weight) in routing.chosen(token, layer).iter().zip(routing.weights(token, layer)) {
                scores[usize::from(id)] = weight;
            }
            text += &format!("0,{token},{}\n", scores.map(|score| format!("{score:.6}")).join(","));
        }
        folder.file(&format!("nde/layer_{layer}.csv"), text);
    }
}

fn write_counts(folder: &Folder, routing: &Routing) {
    let counts = routing.counts(0..TOKENS);
    let parts = [routing.counts(0..CUT), routing.counts(CUT..TOKENS)];
    let activations: Vec<f32> = parts.iter().flatten().flatten().map(|&count| count as f32).collect();
    folder.file("activations.npy", npy(&[2, LAYERS, EXPERTS], &activations));
    folder.file("popularity.json", json!({"total_input_tokens": TOKENS, "expert_popularity": counts}).to_string());
    let sparse = |layer: &Vec<u64>| {
        let entry = |(expert, count): (usize, &u64)| (expert.to_string(), Value::from(*count));
        Value::Object(layer.iter().enumerate().map(entry).collect::<Map<_, _>>())
    };
    let tables = json!({"toy/expert_counts/code": counts.iter().map(sparse).collect::<Vec<_>>()});
    folder.file("counts.json.zst", zstd(tables.to_string()));
    let line = |(layer, expert): (usize, usize)| format!("{layer} {expert} {}\n", counts[layer][expert]);
    let lines: String =
        (0..LAYERS).flat_map(|layer| (0..EXPERTS).map(move |expert| (layer, expert))).map(line).collect();
    folder.file("profile.coli_usage", format!("-1 {LAYERS} {EXPERTS}\n{lines}"));
}
