//! The core's cache, as an engine calls it, decides what `cptr run` decides: same stand-ins, same loads on demand, same
//! fetches, layer by layer, over the bundled traces.
#![forbid(unsafe_code)]

use std::path::Path;

use cptr_core::cache::{Cache, Config, Layer, Load, Memory, NOTHING, Shape, Step};
use cptr_core::{Eps, Level, Logit, Router, ScaledLevels};
use cptr_sim::replay::{self, Budget, Plan};
use cptr_sim::strategy::Strategy;
use cptr_trace::Trace;
use cptr_trace::import::{self, Options, Recording};

fn bundled(name: &str) -> Trace {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/data").join(name);
    match import::read(&file, &Options::default()).expect("a bundled trace") {
        Recording::Tokens(trace) => trace,
        Recording::Counts(_) => panic!("{name} has tokens"),
    }
}

/// By layer what had to be waited for, and what was fetched.
fn of_the_cache(trace: &Trace, router: &Router<'_>, config: &Config, slots: u16) -> Vec<(u64, u64)> {
    let (layers, experts, k) = (trace.shape.layers, trace.shape.experts, trace.shape.k);
    let shape =
        Shape { layers: layers as u16, experts: experts as u16, k: k as u16, slots, tokens: 1, remembered: 2048 };
    let (mut levels, mut shares) = (vec![ScaledLevels::ZERO; layers * experts], vec![Level::ZERO; layers * experts]);
    let (mut lies, mut places) = (vec![NOTHING; layers * usize::from(slots)], vec![NOTHING; layers * experts]);
    let states = levels.chunks_mut(experts).zip(lies.chunks_mut(slots.into()));
    let states = states.zip(places.chunks_mut(experts).zip(shares.chunks_mut(experts)));
    let mut states: Vec<Layer<'_>> =
        states.map(|((levels, slots), (places, shares))| Layer::new(levels, slots, places, shares)).collect();
    let memory = Memory {
        layers: &mut states,
        recall: &mut vec![0; shape.recall_words(4)],
        companions: &mut vec![0; shape.companions_words()],
        wanted: &mut [],
        forecasts: &mut vec![Level::ZERO; 3 * experts],
        logits: &mut vec![Logit::ZERO; shape.logits()],
    };
    let mut cache = Cache::<4, 64>::new(config, shape, memory).expect("the shape fits");
    let mut counts = vec![(0, 0); layers];
    let mut logits = vec![0.0; experts];
    for token in 0..trace.shape.tokens {
        for layer in 0..layers {
            let (mut ids, mut slots, mut waves) = (vec![0; k], vec![0; k], vec![0; k]);
            let wanted = trace.chosen(token, layer);
            ids.copy_from_slice(wanted);
            let (layer_id, tokens) = (layer as u16, 1);
            let mut step = Step { layer: layer_id, tokens, ids: &mut ids, slots: &mut slots, waves: &mut waves };
            let row = |_: u16, row: &mut [Logit]| {
                if let Some(recorded) = &trace.logits {
                    recorded.read_row(token, layer, &mut logits);
                    row.iter_mut().zip(&logits).for_each(|(to, from)| *to = Logit::saturating_from_num(*from));
                }
            };
            let found = cache.step(config, router, &mut step, row, |_| ()).expect("layers come in order");
            counts[layer].0 += found.loads as u64;
            let next = (layer + 1) % layers;
            // The replay fetches nothing for a token behind the last.
            if next == 0 && token + 1 == trace.shape.tokens {
                continue;
            }
            let mut fetches = Vec::new();
            counts[next].1 += cache.fetch(config, |load: Load| fetches.push(load)) as u64;
            for load in fetches {
                cache.loaded(load.layer, load.expert).expect("it is on its way");
            }
        }
    }
    counts
}

fn of_the_replay(trace: &Trace, strategy: &str, slots: u32) -> Vec<(u64, u64)> {
    let strategy = Strategy::parse(strategy).expect("a strategy");
    let plan = Plan::new(Budget::Experts(slots as usize));
    let tally = replay::drive(trace, &plan, &strategy, &mut []).expect("a bundled trace runs");
    tally.layers.iter().map(|layer| (layer.stalls, layer.fetched)).collect()
}

#[test]
fn an_engine_gets_what_the_replay_counts() {
    let raw = Config::default();
    let bounded = Config { bounds: Eps::saturating_from_num(0.04).into(), ..raw };
    let without = Config { fetches: 0, ..raw };
    let mut tiny = bundled("tiny-moe-8m.safetensors");
    let k = tiny.shape.k;
    for (config, strategy) in [
        (without, "recall"),
        (raw, "recall+recall-fetch:gain=off"),
        (bounded, "bounded:eps=0.04+recall+recall-fetch:gain=off"),
    ] {
        let found = of_the_cache(&tiny, &Router::softmax_all(k), &config, 8);
        assert_eq!(found, of_the_replay(&tiny, strategy, 8), "{strategy}");
        assert!(found.iter().all(|(waited, _)| *waited > 0));
    }
    // The ids alone, as of a router that the cache does not know.
    tiny.logits = None;
    let table = Router { table: true, ..Router::softmax_all(k) };
    let found = of_the_cache(&tiny, &table, &raw, 8);
    assert_eq!(found, of_the_replay(&tiny, "recall+recall-fetch:gain=off", 8));
}
