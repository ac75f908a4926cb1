//! Choices and weights against the router modules of `transformers`, with random weights and biases: 0 sets differ, and weights are within 1e-6.
//! `tests/golden/routers/make.py` has made the files, and says what is in them.

use std::collections::BTreeMap;
use std::path::Path;

use cptr_core::num::Scale;
use cptr_core::router::{BiasPlace, GroupRating, Groups, MAX_K, Router, RouterError};
use cptr_core::{Gate, Logit};

/// What one module did.
struct Golden {
    header: BTreeMap<String, String>,
    /// One row of experts for each token.
    logits: Vec<Vec<Logit>>,
    bias: Vec<Logit>,
    ids: Vec<Vec<u16>>,
    weights: Vec<Vec<f32>>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/routers");
        let data = std::fs::read(folder.join(format!("{name}.bin"))).expect("a golden file");
        let end = data.windows(2).position(|two| two == b"\n\n").expect("a header");
        let header = std::str::from_utf8(&data[..end]).expect("text").lines();
        let header: BTreeMap<String, String> =
            header.filter_map(|line| line.split_once(' ')).map(|(key, value)| (key.into(), value.into())).collect();
        let count = |key: &str| header.get(key).map_or(0, |value| value.parse::<usize>().expect("a number"));
        let (tokens, experts, k) = (count("tokens"), count("experts"), count("k"));
        let shift: i32 = header.get("shift").map_or(0, |value| value.parse().expect("a number"));
        let mut rest = &data[end + 2..];
        let mut take = |bytes: usize| {
            let (head, tail) = rest.split_at(bytes);
            rest = tail;
            head
        };
        // Steps of 2^-12.
        let logit = |two: &[u8]| Logit::from_bits(16 * i32::from(i16::from_le_bytes(two.try_into().unwrap())));
        let logits = take(2 * tokens * experts).chunks(2).map(|two| logit(two) + Logit::from_num(shift));
        let logits = logits.collect::<Vec<_>>().chunks(experts).map(<[Logit]>::to_vec).collect();
        let bias = take(2 * count("bias")).chunks(2).map(logit).collect();
        let ids = take(2 * tokens * k).chunks(2).map(|two| u16::from_le_bytes(two.try_into().unwrap()));
        let ids = ids.collect::<Vec<_>>().chunks(k).map(<[u16]>::to_vec).collect();
        let weights = take(4 * tokens * k).chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
        let weights = weights.collect::<Vec<_>>().chunks(k).map(<[f32]>::to_vec).collect();
        assert!(rest.is_empty());
        Self { header, logits, bias, ids, weights }
    }

    fn number(&self, key: &str) -> usize {
        self.header.get(key).map_or(0, |value| value.parse().expect("a number"))
    }

    /// The convention by the name of the family, as its documentation says.
    fn router(&self) -> Router<'_> {
        let (k, bias) = (self.number("k"), &self.bias[..]);
        let (groups, open) = (self.number("groups"), self.number("open"));
        let scale = self.header.get("scale").map_or(Scale::ONE, |value| value.parse().expect("a number"));
        let router = match self.header["file"].as_str() {
            "deepseek_v2_greedy" | "olmoe" => Router::softmax_all(k),
            "deepseek_v2_group_limited_greedy" => Router::deepseek_v2(k, groups, open),
            "deepseek_v3" => return Router::deepseek_v3(bias),
            "deepseek_v3_low" | "glm4_moe" | "dots1" | "nemotron_h" | "kimi_linear" | "exaone_moe"
            | "mimo_v2_flash" | "laguna" => {
                let renormalise = self.number("renormalise") == 1;
                Router { renormalise, ..Router::sigmoid_grouped(k, groups, open, bias) }
            }
            "ernie4_5_moe" => Router::ernie4_5_moe(k, bias),
            "longcat_flash" => return Router::longcat_flash(k, self.number("null"), bias),
            "kolibri1" => Router::kolibri1(k, bias),
            "llama4" | "llama4_top4" => Router::llama4(k),
            "mixtral" => Router::mixtral(),
            "qwen3_moe" => Router::softmax_selected(k),
            "gpt_oss" => Router { bias, bias_place: BiasPlace::Logits, ..Router::gpt_oss() },
            "phimoe" => Router::phimoe(),
            "switch" => Router::switch(),
            "deepseek_v4" => Router::deepseek_v4(k, bias),
            "deepseek_v4_hash" => Router { table: true, ..Router::deepseek_v4(k, bias) },
            "mistral_large4" => {
                let groups = Groups { count: groups, open, rating: GroupRating::TwoBest };
                Router { groups, renormalise: true, ..Router::softmax_all(k) }
            }
            other => panic!("no convention for {other}"),
        };
        Router { scale, ..router }
    }
}

fn sorted(ids: &[u16]) -> Vec<u16> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

/// Sets that differ, and the largest error of a weight.
fn compare(golden: &Golden) -> (usize, f64) {
    let router = golden.router();
    let (mut differ, mut worst) = (0, 0.0f64);
    for ((logits, ids), weights) in golden.logits.iter().zip(&golden.ids).zip(&golden.weights) {
        let chosen = match router.top_k::<MAX_K>(logits) {
            Err(RouterError::Table) if router.table => ids.clone(),
            chosen => chosen.expect("the router fits").to_vec(),
        };
        if sorted(&chosen) != sorted(ids) {
            differ += 1;
            continue;
        }
        // In the order of the module's ids: the first of a sparse mixer counts for the second.
        let mut shares = vec![Gate::ZERO; chosen.len()];
        router.weights(logits, &chosen, &mut shares);
        for (&expert, &share) in chosen.iter().zip(&shares) {
            let rank = ids.iter().position(|&id| id == expert).expect("the sets are the same");
            worst = worst.max((router.scaled(expert, share).to_num::<f64>() - f64::from(weights[rank])).abs());
        }
    }
    (differ, worst)
}

#[test]
fn choices_and_weights_are_those_of_transformers() {
    const FAMILIES: [&str; 25] = [
        "deepseek_v2_greedy",
        "deepseek_v2_group_limited_greedy",
        "deepseek_v3",
        "deepseek_v3_low",
        "deepseek_v4",
        "deepseek_v4_hash",
        "dots1",
        "ernie4_5_moe",
        "exaone_moe",
        "glm4_moe",
        "gpt_oss",
        "kimi_linear",
        "kolibri1",
        "laguna",
        "llama4",
        "llama4_top4",
        "longcat_flash",
        "mimo_v2_flash",
        "mistral_large4",
        "mixtral",
        "nemotron_h",
        "olmoe",
        "phimoe",
        "qwen3_moe",
        "switch",
    ];
    let mut wrong = Vec::new();
    for family in FAMILIES {
        let golden = Golden::read(family);
        let (differ, worst) = compare(&golden);
        println!("{family:<34} {:>4} tokens, {differ} sets differ, weights within {worst:.1e}", golden.ids.len());
        if golden.ids.len() < 200 || differ > 0 || worst > 1e-6 {
            wrong.push(family);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
