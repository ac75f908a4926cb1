//! Against what transformers computes; `tests/golden/make.py` says how the files came about.

use std::path::{Path, PathBuf};

use cptr_core::{Eps, ExpertSet, Logit, select_in_place};
use cptr_trace::NO_EXPERT;
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
    "deepseek_v3",
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
    fn route(&mut self, routing: &Routing<'_>, chosen: &mut [u16]) {
        let Routing { layer, scores, wanted, .. } = *routing;
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
            // The files have the order of the weights, which with a bias is not that of the choice.
            let sets = |ids: &[u16]| {
                let mut ids = ids.to_vec();
                ids.chunks_mut(if model.router_bias().is_some() { k } else { 1 }).for_each(<[u16]>::sort_unstable);
                ids
            };
            assert_eq!(sets(&record.wanted[layer]), sets(&ids), "{name}, layer {layer}");
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

/// Alters the choice by a function of layer, token and what the model wants, and runs all at `bits`.
struct Altered<'a> {
    model: &'a Model,
    choose: fn(usize, usize, &mut [u16]),
    bits: u8,
}

impl MoeHook for Altered<'_> {
    fn route(&mut self, routing: &Routing<'_>, chosen: &mut [u16]) {
        assert_eq!(routing.wanted, chosen);
        let rows = chosen.chunks_exact_mut(routing.k).enumerate();
        rows.for_each(|(token, chosen)| (self.choose)(routing.layer, token, chosen));
    }

    fn bits(&mut self, _layer: usize, _chosen: &[u16], bits: &mut [u8]) {
        bits.fill(self.bits);
    }

    fn replica(&mut self, layer: usize, expert: u16, bits: u8) -> Result<Expert> {
        let own = self.model.expert(layer, expert.into())?;
        // At 1 bit nothing at all is left of an expert.
        let down = if bits == 1 { vec![0.0; own.down().len()] } else { own.down() };
        Expert::new(self.model.config.hidden, &own.gate(), &own.up(), &down)
    }
}

#[test]
fn what_changes_nothing_changes_no_bit() {
    for name in MODELS {
        let golden = Golden::read(name);
        let mut model = Model::load(&folder(name)).unwrap();
        let run = |model: &Model, choose, bits| {
            let mut hook = Altered { model, choose, bits };
            model.forward(&golden.tokens, &mut Cache::new(), &mut hook).unwrap()
        };
        let own = model.forward(&golden.tokens, &mut Cache::new(), &mut Unaltered).unwrap();
        assert_eq!(run(&model, |_, _, _| (), 0), own, "{name}");
        assert_eq!(run(&model, |_, _, chosen| chosen.reverse(), 0), own, "{name}");
        assert_eq!(run(&model, |_, _, _| (), 4), own, "{name}: replicas that are equal");
        assert_ne!(run(&model, |_, _, _| (), 1), own, "{name}: replicas that are not");
        model.layers.iter_mut().for_each(|layer| {
            if let Ffn::Moe { routed, .. } = &mut layer.block {
                routed.read_when_run();
            }
        });
        assert_eq!(run(&model, |_, _, _| (), 0), own, "{name}: experts from the file");
    }
}

#[test]
fn a_skipped_expert_is_missing_and_the_others_stay() {
    let golden = Golden::read("olmoe");
    let model = Model::load(&folder("olmoe")).unwrap();
    let run = |choose, bits| {
        let mut hook = Altered { model: &model, choose, bits };
        model.forward(&golden.tokens, &mut Cache::new(), &mut hook).unwrap()
    };
    let nothing: fn(usize, usize, &mut [u16]) = |_, _, _| ();
    // Replicas at 1 bit are experts whose output is 0.
    assert_eq!(run(nothing, SKIPPED), run(nothing, 1));
    assert_eq!(run(|_, _, chosen| chosen.fill(NO_EXPERT), 0), run(nothing, 1));
    // OLMoE's weights are a softmax over all: to run fewer leaves those of the others as they are.
    let one = run(|_, _, chosen| chosen[1..].fill(NO_EXPERT), 0);
    assert!(one != run(nothing, 0) && one != run(nothing, 1));
}

/// Even experts are resident and stand in under a bound.
struct Bounded<'a> {
    stand_ins: usize,
    resident: &'a cptr_core::Experts,
}

impl MoeHook for Bounded<'_> {
    fn route(&mut self, routing: &Routing<'_>, chosen: &mut [u16]) {
        let fixed = |values: &[f32]| values.iter().map(|&z| Logit::saturating_from_num(z)).collect::<Vec<_>>();
        let bias = fixed(routing.bias);
        let core = routing.router.to_core(routing.k, &bias).unwrap();
        for (token, chosen) in chosen.chunks_exact_mut(routing.k).enumerate() {
            let row = routing.row(token);
            let (logits, bound) = (fixed(row.logits), Eps::from_num(0.25));
            self.stand_ins += select_in_place(&core, bound, 1, &logits, chosen, self.resident).unwrap();
            let open = routing.router.selection_scores(row);
            assert!(chosen.iter().all(|&id| open[usize::from(id)] > f64::NEG_INFINITY), "an expert of a closed group");
            let loss = routing.router.mass_loss(row, routing.wanted(token), chosen);
            assert!(loss <= 0.2501, "{loss}");
        }
    }
}

#[test]
fn stand_ins_keep_to_the_open_groups_and_the_bound() {
    let mut resident = ExpertSet::<1>::new();
    assert!([0, 2, 4, 6].into_iter().all(|expert| resident.insert(expert)));
    for name in ["deepseek_v2_groups", "deepseek_v3", "olmoe"] {
        let golden = Golden::read(name);
        let model = Model::load(&folder(name)).unwrap();
        let mut hook = Bounded { stand_ins: 0, resident: &resident };
        let logits = model.forward(&golden.tokens, &mut Cache::new(), &mut hook).unwrap();
        assert!(hook.stand_ins > 0 && logits.iter().all(|logit| logit.is_finite()), "{name}");
    }
}

/// The steps of two sequences in lockstep are those of each alone, and the hook sees a row for each.
#[test]
fn sequences_step_together() {
    for name in MODELS {
        let golden = Golden::read(name);
        let model = Model::load(&folder(name)).unwrap();
        let (long, short) = (&golden.tokens[..], &golden.tokens[5..]);
        let (mut caches, mut alone) = ([Cache::new(), Cache::new()], [Cache::new(), Cache::new()]);
        model.forward(&long[..5], &mut caches[0], &mut Unaltered).unwrap();
        model.forward(&long[..5], &mut alone[0], &mut Unaltered).unwrap();
        for at in 0..12 {
            let tokens = [long[5 + at], short[3 + at]];
            let mut record = Record::default();
            let logits = model.step(&tokens, &mut caches, &mut record).unwrap();
            assert_eq!(record.wanted[0].len(), 2 * model.config.k);
            for (token, (cache, logits)) in alone.iter_mut().zip(logits.chunks_exact(model.config.vocab)).enumerate() {
                let expected = model.forward_last(&tokens[token..=token], cache, &mut Unaltered).unwrap();
                assert_close(name, logits, &expected);
            }
        }
        assert_eq!((caches[0].tokens(), caches[1].tokens()), (17, 12));
        assert!(model.step(&[3], &mut caches, &mut Unaltered).is_err());
    }
}

/// Asks the routers of the next two layers.
#[derive(Default)]
struct Ahead {
    said: Vec<(usize, usize, Vec<u16>)>,
    wanted: Vec<Vec<u16>>,
}

impl MoeHook for Ahead {
    fn looks_ahead(&self) -> usize {
        2
    }

    fn ahead(&mut self, layer: usize, distance: usize, wanted: &[u16]) {
        assert_eq!(layer, self.wanted.len(), "before the layer runs");
        self.said.push((layer, distance, wanted.to_vec()));
    }

    fn route(&mut self, routing: &Routing<'_>, _: &mut [u16]) {
        self.wanted.push(routing.wanted.to_vec());
    }
}

/// It changes nothing, speaks of the layers that there are, and is right more often than chance.
#[test]
fn later_routers_know_something_of_a_layers_input() {
    let (mut right, mut all, mut chance) = (0, 0, 0.0);
    for name in MODELS {
        let golden = Golden::read(name);
        let model = Model::load(&folder(name)).unwrap();
        let mut hook = Ahead::default();
        let own = model.forward(&golden.tokens, &mut Cache::new(), &mut Unaltered).unwrap();
        assert_eq!(own, model.forward(&golden.tokens, &mut Cache::new(), &mut hook).unwrap());
        let (layers, experts, k) = (model.config.moe_layers.len(), model.config.experts, model.config.k);
        let pairs: Vec<_> = hook.said.iter().map(|&(layer, distance, _)| (layer, distance)).collect();
        let expected = (0..layers).flat_map(|layer| (1..=2).map(move |distance| (layer, distance)));
        assert_eq!(pairs, expected.filter(|(layer, distance)| layer + distance < layers).collect::<Vec<_>>());
        for (layer, distance, said) in &hook.said {
            let wanted = &hook.wanted[layer + distance];
            assert_eq!(said.len(), wanted.len());
            for (said, wanted) in said.chunks_exact(k).zip(wanted.chunks_exact(k)) {
                right += said.iter().filter(|id| usize::from(**id) < experts && wanted.contains(id)).count();
                all += k;
                chance += (k * k) as f64 / experts as f64;
            }
        }
    }
    assert!(all > 0 && right as f64 > 1.2 * chance, "{right} of {all}, {chance} by chance");
}

/// One sequence after the other is each alone.
#[test]
fn sequences_in_turn_are_each_alone() {
    let golden = Golden::read("olmoe");
    let model = Model::load(&folder("olmoe")).unwrap();
    let sequences = [golden.tokens.clone(), golden.tokens[3..9].to_vec()];
    let hidden = model.read_in_turn(&sequences, &mut Unaltered).unwrap();
    let mut first = 0;
    for sequence in &sequences {
        let alone = model.forward(sequence, &mut Cache::new(), &mut Unaltered).unwrap();
        let logits = model.logits(&hidden, first..first + sequence.len()).unwrap();
        assert_close("in turn", &logits, &alone);
        first += sequence.len();
    }
}

#[test]
fn an_altered_choice_is_seen_from_its_token_on() {
    let golden = Golden::read("olmoe");
    let model = Model::load(&folder("olmoe")).unwrap();
    let own = model.forward(&golden.tokens, &mut Cache::new(), &mut Unaltered).unwrap();
    let choose = |layer: usize, token: usize, chosen: &mut [u16]| {
        if layer == 0 && token == 9 {
            chosen[0] = (0..8).find(|id| !chosen.contains(id)).unwrap();
        }
    };
    let mut hook = Altered { model: &model, choose, bits: 0 };
    let altered = model.forward(&golden.tokens, &mut Cache::new(), &mut hook).unwrap();
    let rows = |logits: &[f32]| logits.chunks_exact(model.config.vocab).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let (own, altered) = (rows(&own), rows(&altered));
    for token in 0..golden.tokens.len() {
        // Other tokens run in groups of other sizes, which may round otherwise.
        let same = own[token].iter().zip(&altered[token]).all(|(a, b)| (a - b).abs() < 1e-5);
        assert_eq!(same, token < 9, "token {token}");
    }
}

#[test]
fn impossible_calls_are_refused() {
    let model = Model::load(&folder("olmoe")).unwrap();
    let refused = |tokens: &[u32], choose: fn(usize, usize, &mut [u16]), bits| {
        let mut hook = Altered { model: &model, choose, bits };
        model.forward(tokens, &mut Cache::new(), &mut hook).unwrap_err().to_string()
    };
    assert_eq!(refused(&[], |_, _, _| (), 0), "expected at least one token, found none");
    assert_eq!(refused(&[3, 64], |_, _, _| (), 0), "token 1: expected token ids below 64, found 64");
    let distinct = "expected a choice of distinct experts below 8, found ";
    assert_eq!(refused(&[3], |_, _, chosen| chosen.fill(2), 0), format!("{distinct}[2, 2, 2]"));
    assert_eq!(refused(&[3], |_, _, chosen| chosen.copy_from_slice(&[0, 8, 1]), 0), format!("{distinct}[0, 8, 1]"));
    struct Missing;
    impl MoeHook for Missing {
        fn bits(&mut self, _: usize, _: &[u16], bits: &mut [u8]) {
            bits.fill(2);
        }
    }
    let error = model.forward(&[3], &mut Cache::new(), &mut Missing).unwrap_err().to_string();
    assert!(error.starts_with("expected a replica of layer 0, expert "), "{error}");
    assert!(model.expert(2, 0).is_err() && model.expert(0, 8).is_err() && model.expert(1, 7).is_ok());
    assert!(Expert::new(16, &[0.0; 32], &[0.0; 32], &[0.0; 31]).is_err() && Expert::new(0, &[], &[], &[]).is_err());
}

#[test]
fn a_model_in_memory_is_the_model_on_disk() {
    let text = |name: &str| std::fs::read_to_string(folder("olmoe").join(name)).unwrap();
    let bytes = std::fs::read(folder("olmoe/model.safetensors")).unwrap();
    let model = Model::from_parts(&text("config.json"), bytes.clone(), &text("tokenizer.json")).unwrap();
    let loaded = Model::load(&folder("olmoe")).unwrap();
    let golden = Golden::read("olmoe");
    let run = |model: &Model| model.forward(&golden.tokens, &mut Cache::new(), &mut Unaltered).unwrap();
    assert_eq!(run(&model), run(&loaded));
    assert_eq!(model.fingerprint(), loaded.fingerprint());
    let tokens = model.encode("It is a test.").unwrap();
    assert_eq!((tokens.len(), model.decode(&tokens).unwrap().as_str()), (13, "It is a test."));
    let cut = bytes[..bytes.len() - 7].to_vec();
    let error = Model::from_parts(&text("config.json"), cut, &text("tokenizer.json")).unwrap_err().to_string();
    assert!(error.starts_with("model.safetensors: expected the tensors to fill the file"), "{error}");
}
