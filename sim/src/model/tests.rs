//! Against what transformers computes; `sim/tests/golden/make.py` says how the files came about.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::*;

const MODELS: &[&str] = &[
    "olmoe",
    "olmoe_tied",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_moe_yarn",
    "deepseek_v2",
    "deepseek_v2_groups",
    "gpt_oss",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

struct Golden {
    tokens: Vec<u32>,
    logits: Vec<f32>,
    /// `[T, L, E]`.
    router: Vec<f32>,
    /// `[T, L, k]`.
    ids: Vec<u16>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let bytes = std::fs::read(folder(name).join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> { tensors.tensor(name).unwrap().data().as_chunks().0.to_vec() };
        let floats = |name: &str| words(name).into_iter().map(f32::from_le_bytes).collect();
        Self {
            tokens: words("tokens").into_iter().map(u32::from_le_bytes).collect(),
            logits: floats("logits"),
            router: floats("router"),
            ids: tensors.tensor("ids").unwrap().data().as_chunks().0.iter().map(|&id| u16::from_le_bytes(id)).collect(),
        }
    }
}

/// What the blocks saw, layer by layer.
#[derive(Default)]
struct Record {
    scores: Vec<Vec<f32>>,
    wanted: Vec<Vec<u16>>,
}

impl MoeHook for Record {
    fn route(&mut self, layer: usize, scores: &[f32], wanted: &[u16], chosen: &mut [u16]) {
        assert_eq!(wanted, chosen);
        let layers = self.scores.len().max(layer + 1);
        self.scores.resize(layers, Vec::new());
        self.wanted.resize(layers, Vec::new());
        self.scores[layer].extend_from_slice(scores);
        self.wanted[layer].extend_from_slice(wanted);
    }
}

#[track_caller]
fn assert_close(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst <= 1e-4 * scale, "{name}: off by {worst} of {scale}");
}

#[test]
fn every_family_computes_what_transformers_does() {
    for name in MODELS {
        let golden = Golden::read(name);
        let model = Model::load(&folder(name)).unwrap();
        let Config { experts, k, .. } = model.config;
        let layers = model.config.moe_layers.len();
        let mut record = Record::default();
        let logits = model.forward(&golden.tokens, &mut Cache::new(), &mut record).unwrap();
        assert_close(name, &logits, &golden.logits);
        assert_eq!(record.scores.len(), layers, "{name}");
        for layer in 0..layers {
            let rows = |width: usize| (0..golden.tokens.len()).map(move |token| (token * layers + layer) * width);
            let scores: Vec<f32> = rows(experts).flat_map(|at| &golden.router[at..at + experts]).copied().collect();
            let ids: Vec<u16> = rows(k).flat_map(|at| &golden.ids[at..at + k]).copied().collect();
            assert_close(&format!("{name}, router of layer {layer}"), &record.scores[layer], &scores);
            assert_eq!(record.wanted[layer], ids, "{name}, layer {layer}");
        }
    }
}

#[test]
fn calls_in_parts_are_one_call() {
    for name in MODELS {
        let golden = Golden::read(name);
        let model = Model::load(&folder(name)).unwrap();
        let whole = model.forward(&golden.tokens, &mut Cache::new(), &mut Unaltered).unwrap();
        for lengths in [&[11, 13][..], &[1; 24]] {
            let (mut cache, mut parts, mut first) = (Cache::new(), Vec::new(), 0);
            for length in lengths {
                let tokens = &golden.tokens[first..first + length];
                parts.extend(model.forward(tokens, &mut cache, &mut Unaltered).unwrap());
                first += length;
                assert_eq!(cache.tokens(), first);
            }
            assert_close(name, &parts, &whole);
        }
        let last = model.forward_last(&golden.tokens, &mut Cache::new(), &mut Unaltered).unwrap();
        assert_close(name, &last, &whole[whole.len() - model.config.vocab..]);
    }
}
