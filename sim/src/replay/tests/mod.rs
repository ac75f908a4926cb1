//! The loop against closed forms, brute force, and itself.

mod ahead;
mod recall;
mod safe;

use super::*;
use crate::strategy::{PRESETS, Strategy, kinds};
use cptr_trace::array::FloatArray;
use cptr_trace::router::Row;
use cptr_trace::{Meta, Router};
use proptest::prelude::*;
use proptest::strategy::Strategy as Draw;

/// Routing of random logits, with all of them.
fn routed(tokens: usize, layers: usize, experts: usize, k: usize, seed: u64) -> Trace {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut logits: Vec<f32> = Vec::new();
    let mut level = vec![0.0f32; layers * experts];
    for token in 0..tokens {
        if token % 40 == 0 {
            level.iter_mut().for_each(|level| *level = 3.0 * random.f32());
        }
        logits.extend(level.iter().map(|level| level + 2.0 * random.f32()));
    }
    let logits = FloatArray::owned([tokens, layers, experts], logits);
    let ids = cptr_trace::top_k::of_logits(&logits, k);
    Trace {
        meta: Meta {
            router: Router::SOFTMAX_ALL,
            domains: vec!["a".into()],
            layer_ids: (0..layers as u32).collect(),
            ..Meta::default()
        },
        logits: Some(logits),
        ..Trace::of_ids(Shape { tokens, layers, experts, k }, ids)
    }
}

fn ids(tokens: &[Vec<u16>], experts: usize) -> Trace {
    let k = tokens[0].len();
    Trace::of_ids(Shape { tokens: tokens.len(), layers: 1, experts, k }, tokens.concat())
}

fn ndp() -> Machine<'static> {
    Machine::new(System::find("ndp").unwrap(), Some(Model::find("Qwen3-30B-A3B").unwrap()))
}

fn tally(trace: &Trace, text: &str, plan: &Plan<'_>) -> Tally {
    drive(trace, plan, &Strategy::parse(text).unwrap(), &mut []).unwrap()
}

/// Misses of one layer without a machine.
fn misses(text: &str, tokens: &[Vec<u16>], resident: usize) -> u64 {
    tally(&ids(tokens, 16), text, &Plan::new(Budget::Experts(resident))).layers[0].misses
}

/// Fewest misses of any memory filled on demand, by trying every eviction.
fn fewest(tokens: &[Vec<u16>], resident: &[u16], capacity: usize) -> u64 {
    let Some((wanted, rest)) = tokens.split_first() else { return 0 };
    let missing: Vec<u16> = wanted.iter().copied().filter(|e| !resident.contains(e)).collect();
    let all: Vec<u16> = resident.iter().chain(&missing).copied().collect();
    let excess = all.len().saturating_sub(capacity);
    let free: Vec<u16> = all.iter().copied().filter(|e| !wanted.contains(e)).collect();
    (0u32..1 << free.len())
        .filter(|set| set.count_ones() as usize == excess)
        .map(|set| {
            let gone = |e: &u16| free.iter().position(|f| f == e).is_some_and(|i| set >> i & 1 != 0);
            let kept: Vec<u16> = all.iter().copied().filter(|e| !gone(e)).collect();
            missing.len() as u64 + fewest(rest, &kept, capacity)
        })
        .min()
        .unwrap()
}

fn some_tokens(
    k: usize,
    experts: u16,
    count: impl Into<prop::collection::SizeRange>,
) -> impl Draw<Value = Vec<Vec<u16>>> {
    let token = prop::collection::hash_set(0..experts, k..=k).prop_map(|set| set.into_iter().collect());
    prop::collection::vec(token, count)
}

/// Residencies that fill memory on demand.
const ON_DEMAND: [&str; 8] = ["lru", "lfu", "lrfu", "arc", "s3-fifo", "sieve", "tracked", "safe"];

proptest! {
    #[test]
    fn belady_is_optimal(tokens in some_tokens(2, 6, 1..8), capacity in 2usize..4) {
        prop_assert_eq!(misses("belady", &tokens, capacity), fewest(&tokens, &[], capacity));
    }

    /// No causal strategy whose selection is the router's waits less often, or loads less, than the one that is called
    /// a bound.
    #[test]
    fn nothing_beats_the_bound(tokens in some_tokens(3, 16, 1..120), capacity in 3usize..12) {
        let bound = Strategy::parse("belady").unwrap();
        prop_assert!(bound.is_bound());
        let least = misses("belady", &tokens, capacity);
        for residency in kinds().iter().filter(|kind| kind.axis == "residency" && !kind.sees_future) {
            if ["migrate", "safe-migrate", "all"].contains(&residency.name) {
                continue;
            }
            let text = format!("raw+{}", residency.name);
            let tally = tally(&ids(&tokens, 16), &text, &Plan::new(Budget::Experts(capacity)));
            let layer = &tally.layers[0];
            if ON_DEMAND.contains(&residency.name) {
                prop_assert!(layer.misses >= least && layer.stalls >= least, "{}", residency.name);
            }
            prop_assert!(layer.loads() >= least, "{}", residency.name);
        }
    }

    #[test]
    fn a_memory_for_all_experts_misses_each_once(tokens in some_tokens(3, 16, 1..120)) {
        let mut seen: Vec<u16> = tokens.concat();
        seen.sort_unstable();
        seen.dedup();
        for name in ON_DEMAND.iter().chain(&["belady"]) {
            prop_assert_eq!(misses(name, &tokens, 16), seen.len() as u64, "{}", name);
        }
    }
}

#[test]
fn a_memory_smaller_than_the_choice_serves_what_it_can() {
    let tokens = vec![vec![0, 1, 2], vec![0, 1, 2]];
    for name in ON_DEMAND.iter().chain(&["belady"]) {
        assert_eq!(misses(name, &tokens, 2), 4, "{name}");
    }
}

#[test]
fn once_moves_once() {
    let mut tokens = vec![vec![0, 1]; 3];
    tokens.extend(vec![vec![2, 3]; 5]);
    // Three tokens cold, then 0 and 1 stay and nothing else ever does.
    assert_eq!(misses("once:tokens=3", &tokens, 2), 6 + 10);
    assert_eq!(misses("once:tokens=4", &tokens, 3), 6 + 2 + 4);
    // With a prompt they are there from the first token on, and nothing is charged.
    let plan = Plan { prefill: 3, ..Plan::new(Budget::Experts(2)) };
    let found = &tally(&ids(&tokens, 16), "once", &plan).layers[0];
    assert_eq!((found.tokens, found.misses, found.migrated), (5, 10, 0));
}

#[test]
fn prompts_fill_memory_alike() {
    let tokens: Vec<Vec<u16>> = (0..20).map(|t| vec![t % 3, 3 + t % 2]).collect();
    let plan = Plan { prefill: 10, ..Plan::new(Budget::Experts(5)) };
    for name in ON_DEMAND.iter().chain(&["belady", "once", "periodic+gpu+full"]) {
        let found = &tally(&ids(&tokens, 16), name, &plan).layers[0];
        assert_eq!((found.tokens, found.misses), (10, 0), "{name}");
    }
}

/// Two layers; the second wants what the first wanted, one further. By hand: expert 4 of layer 1 is fetched when token
/// 2 has been through layer 0.
#[test]
fn fetches_by_hand() {
    let shape = Shape { tokens: 4, layers: 2, experts: 8, k: 1 };
    let trace = Trace::of_ids(shape, vec![0, 3, 1, 4, 0, 3, 1, 4]);
    let plan = Plan::new(Budget::Experts(1));
    let text = "lru+transition:most=1:sure=0.5";
    let found = tally(&trace, text, &plan);
    // Layer 0 learns on line that 1 follows layer 1's 3, and 0 its 4; layer 1 that 3 follows 0, and 4 follows 1.
    assert_eq!((found.layers[1].stalls, found.layers[1].fetched, found.layers[1].misses), (2, 2, 2));
    assert_eq!((found.layers[0].stalls, found.layers[0].fetched), (3, 1));
    assert_eq!(found.layers[1].loads(), 4);
    // Counts do not depend on the machine.
    let machine = |model| Plan { machine: Some(Machine { model: Some(model), ..ndp() }), ..plan.clone() };
    let (large, small) = (ndp().model.unwrap(), Model::new("small experts", 4096, 16));
    let time = |tally: &Tally| tally.steps.iter().map(|step| step.time_ps).sum::<u64>() as f64;
    for (model, hidden) in [(large, 0.05), (&small, 0.9)] {
        let (with, without) = (tally(&trace, text, &machine(model)), tally(&trace, "lru", &machine(model)));
        assert_eq!(with.layers, found.layers);
        // Three of eight stalls are gone. What they would have taken is saved as far as decoding leaves the link:
        // nearly all of it where a layer takes longer than a copy, next to nothing where it takes a twentieth.
        let times = cptr_hw_model::LayerTimes::new(ndp().system, model);
        let saved = (time(&without) - time(&with)) / (3.0 * times.copy_ps(16.0));
        assert!((hidden - 0.1..=hidden + 0.1).contains(&saved), "{saved}");
    }
    // A perfect forecast leaves the first token of the first layer to wait for.
    let perfect = tally(&trace, "lru+perfect:accuracy=1", &plan);
    assert_eq!(perfect.layers.iter().map(|layer| layer.stalls).sum::<u64>(), 1);
}

#[test]
fn bytes_are_split() {
    let trace = routed(200, 3, 16, 2, 1);
    let expert = ndp().model.unwrap().expert_bytes(16.0);
    let strategies = || Strategy::parse_list("lru,once").unwrap();
    let plan = |resident| Plan { strategies: strategies(), prefill: 50, machine: Some(ndp()), ..Plan::new(resident) };
    let of = |resident| run(&trace, &plan(resident)).unwrap().rows;
    let bytes = |experts: f64| Budget::Bytes { bytes: (experts * expert).ceil() as u64, split: Split::Equal };
    assert_eq!(of(bytes(12.0)), of(Budget::Experts(4)));
    assert_eq!(of(bytes(14.0)), of(Budget::Experts(4)));
    let global = Budget::Bytes { bytes: (12.0 * expert).ceil() as u64, split: Split::Global };
    let rows = of(global);
    // What a split by importance covers of the prompt is no less, layer shares differ.
    assert!(
        rows[1]
            .by_layer
            .iter()
            .any(|layer| layer.miss_rate != of(bytes(12.0))[1].by_layer[layer.layer as usize].miss_rate)
    );
    let error = run(&trace, &Plan { prefill: 0, ..plan(global) }).unwrap_err().to_string();
    assert!(error.contains("expected a prompt (--prefill) for split=global"), "{error}");
    let error = run(&trace, &Plan { machine: None, ..plan(bytes(12.0)) }).unwrap_err().to_string();
    assert!(error.contains("the model's sizes are not known"), "{error}");
}

/// Every sequence of a batch is itself, and experts that they share are copied once.
#[test]
fn a_batch_of_the_same_text_is_one_sequence() {
    let one = routed(100, 2, 16, 4, 3);
    let mut two = one.clone();
    two.ids.extend(&one.ids);
    two = Trace::of_ids(Shape { tokens: 200, ..one.shape }, two.ids);
    let single = Trace::of_ids(one.shape, one.ids.clone());
    for text in ["lru", "tracked", "belady", "once", "periodic+gpu+full", "d2moe"] {
        let plan = Plan { prefill: 10, ..Plan::new(Budget::Experts(6)) };
        let alone = tally(&single, text, &plan);
        let batch = tally(&two, text, &Plan { batch: 2, ..plan });
        for (alone, batch) in alone.layers.iter().zip(&batch.layers) {
            assert_eq!(2 * alone.choices, batch.choices);
            assert_eq!(2 * alone.switches, batch.switches);
            if text != "tracked" {
                assert_eq!((2 * alone.stalls, alone.loads()), (batch.stalls, batch.loads()), "{text}");
            }
        }
    }
}

/// What was decided in a layer of a step: what runs, where, and what is resident then.
#[derive(PartialEq, Debug)]
struct Decision {
    at: (usize, usize),
    chosen: Vec<u16>,
    executions: Vec<crate::strategy::Execution>,
    resident: Vec<u16>,
}

/// What was decided, layer by layer.
#[derive(Default)]
struct Decisions(Vec<Decision>);

impl Observer for Decisions {
    fn layer(&mut self, seen: &LayerOutcome<'_>) -> Result<()> {
        self.0.push(Decision {
            at: (seen.step, seen.layer),
            chosen: seen.chosen(0).to_vec(),
            executions: seen.executions.to_vec(),
            resident: seen.resident.iter().collect(),
        });
        Ok(())
    }
}

/// At layer l of token t nothing of the layers behind and of the tokens after is visible: they are permuted, and every
/// decision up to there stays. What is resident in other layers is seen when they are next decided.
#[test]
fn nothing_later_is_seen() {
    let trace = routed(150, 3, 16, 3, 5);
    let (at, layer) = (100, 1);
    let mut altered = trace.clone();
    let logits = trace.logits.as_ref().unwrap();
    let mut values = Vec::new();
    let mut row = vec![0.0; 16];
    for token in 0..150 {
        for l in 0..3 {
            logits.read_row(token, l, &mut row);
            if (token, l) > (at, layer) {
                row.rotate_left(5);
            }
            values.extend_from_slice(&row);
        }
    }
    altered.logits = Some(FloatArray::owned([150, 3, 16], values));
    altered.ids = cptr_trace::top_k::of_logits(altered.logits.as_ref().unwrap(), 3);
    let decisions = |trace: &Trace, text: &str| {
        let mut decisions = Decisions::default();
        let plan = Plan { prefill: 30, machine: Some(ndp()), ..Plan::new(Budget::Experts(6)) };
        drive(trace, &plan, &Strategy::parse(text).unwrap(), &mut [&mut decisions]).unwrap();
        decisions.0
    };
    let mut seeing = 0;
    let sparing = ["tracked", "recall", "recall+recall-fetch"].map(|text| format!("bounded:pair=0.2:spare=2+{text}"));
    for text in combinations().chain(PRESETS.iter().map(|preset| preset.name.to_owned())).chain(sparing) {
        let strategy = Strategy::parse(&text).unwrap();
        let (mut before, mut after) = (decisions(&trace, &text), decisions(&altered, &text));
        assert_eq!(before.last().map(|last| last.at), Some((149, 2)));
        let until = |found: &mut Vec<_>| found.truncate(3 * at + layer + 1);
        until(&mut before);
        until(&mut after);
        if strategy.sees_future() {
            seeing += u32::from(before != after);
        } else {
            assert_eq!(before, after, "{text}");
        }
    }
    assert!(seeing > 0, "belady sees the future, and the test would notice");
}

/// A combination of every two kinds of different axes that run on recordings.
fn combinations() -> impl Iterator<Item = String> {
    let all: Vec<_> = kinds().into_iter().filter(|kind| !kind.asks_routers).collect();
    let pairs = all.iter().flat_map(|a| all.iter().map(move |b| (a, b))).filter(|(a, b)| a.axis < b.axis);
    let texts: Vec<String> = pairs.map(|(a, b)| format!("{}+{}", a.name, b.name)).collect();
    texts.into_iter().filter(|text| Strategy::parse(text).is_ok())
}

/// One text for each axis, as drawn.
fn five() -> impl Draw<Value = String> {
    let axis = |axis: &'static str, parameters: &'static [(&'static str, &'static str)]| {
        let names: Vec<String> = kinds()
            .iter()
            .filter(|kind| kind.axis == axis && !kind.asks_routers)
            .flat_map(|kind| {
                let with = parameters.iter().filter(|(name, _)| *name == kind.name);
                std::iter::once(kind.name.to_owned()).chain(with.map(|(name, value)| format!("{name}:{value}")))
            })
            .collect();
        prop::sample::select(names)
    };
    (
        axis(
            "select",
            &[
                ("bounded", "eps=0.3"),
                ("bounded", "eps=0.3:error=0.05:keep=0"),
                ("bounded", "eps=0.2:pair=0.1:spare=2"),
                ("smoothing", "alpha=0.2"),
            ],
        ),
        axis(
            "residency",
            &[("once", "tokens=20:alpha=0"), ("periodic", "interval=7"), ("migrate", "rate=0.5:horizon=500")],
        ),
        axis("prefetch", &[("transition", "most=3:sure=0.1"), ("perfect", "accuracy=0.5:most=1")]),
        axis("division", &[("bandwidth", "hot=2"), ("slack", "slack=100"), ("fastest", "slack=0.5")]),
        axis("precision", &[("uniform", "bits=2:everywhere=on"), ("mean", "bits=2"), ("nested", "low=1:high=3")]),
    )
        .prop_map(|(a, b, c, d, e)| format!("{a}+{b}+{c}+{d}+{e}"))
}

/// What must hold in every layer of every combination.
struct Invariants {
    eps: Option<f64>,
    experts: usize,
    capacity_bits: u32,
    full_bits: u32,
    /// Whether what is fetched behind a layer may be for the same layer of the next token, and take the place of what
    /// was loaded a moment ago.
    fetches_round: bool,
    seen: u64,
}

impl Observer for Invariants {
    fn layer(&mut self, seen: &LayerOutcome<'_>) -> Result<()> {
        for (sequence, token) in seen.tokens.iter().enumerate() {
            let chosen = seen.chosen(sequence);
            assert_eq!(chosen.len(), token.wanted.len());
            let runs: Vec<u16> = chosen.iter().copied().filter(|&expert| expert != NO_EXPERT).collect();
            assert!(cptr_core::Router::check_ids(&runs, self.experts).is_ok(), "{chosen:?}");
            if let Some(eps) = self.eps.filter(|_| !seen.prefill) {
                let lost = Router::SOFTMAX_ALL.mass_loss(Row::of(token.logits), token.wanted, chosen);
                assert!((-1e-6..=eps + 1e-6).contains(&lost), "{lost}");
            }
        }
        assert!(self.fetches_round || seen.loads.iter().all(|&expert| seen.resident.contains(expert)));
        if !seen.prefill {
            assert_eq!(seen.executions.len(), seen.choices.len());
        }
        // At one bit or more each.
        assert!(seen.resident.len() as u32 * self.full_bits <= self.capacity_bits * 16);
        self.seen += 1;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Any five choices go together: they read and print, run with and without a batch, and keep what they promise.
    #[test]
    fn any_combination_runs(text in five(), seed in 0u64..50, resident in 1usize..12, batch in 1usize..3, prefill in prop::sample::select(vec![0, 12])) {
        let strategy = Strategy::parse(&text).unwrap();
        prop_assert_eq!(strategy.to_string(), text.clone());
        prop_assert!(Strategy::parse(&strategy.to_string()).unwrap().is(&strategy));
        let mut trace = routed(96, 2, 16, 3, seed);
        trace.weights = None;
        let plan = Plan { batch, prefill, machine: Some(ndp()), ..Plan::new(Budget::Experts(resident)) };
        let bounded = strategy.select.kind.name == "bounded";
        let all = strategy.residency.kind.name == "all";
        let mut invariants = Invariants {
            eps: bounded.then(|| strategy.select.values.get("eps")),
            experts: 16,
            capacity_bits: if all { 16 * 16 } else { resident as u32 * 16 },
            full_bits: 16,
            // By gain, two layers ahead of two.
            fetches_round: strategy.prefetch.kind.name.ends_with("-fetch"),
            seen: 0,
        };
        let found = drive(&trace, &plan, &strategy, &mut [&mut invariants]).unwrap();
        let steps = 96 / batch;
        prop_assert_eq!(invariants.seen, (steps * 2) as u64);
        let decided = ((steps - prefill) * batch) as u64;
        for layer in &found.layers {
            prop_assert_eq!(layer.tokens, decided);
            prop_assert!(layer.choices <= 3 * decided && layer.choices >= decided);
            prop_assert!(strategy.select.kind.name == "drop" || layer.choices == 3 * decided);
            prop_assert!(layer.switches <= layer.with_predecessor && layer.agreed <= layer.choices);
            prop_assert!(layer.stalls <= layer.choices && layer.misses <= layer.choices);
            prop_assert!(layer.demanded <= layer.loads());
            let names = (strategy.division.kind.name, strategy.precision.kind.name);
            if batch == 1 && names.0 == "gpu" {
                prop_assert!(layer.loads() >= layer.stalls, "{:?}", layer);
                if ["full", "uniform", "mean"].contains(&names.1) {
                    prop_assert_eq!(layer.stalls, layer.misses);
                }
            }
            if strategy.select.kind.name == "raw" {
                prop_assert_eq!((layer.agreed, layer.mass_lost), (layer.choices, 0.0));
            }
        }
        let mass: f64 = found.steps.iter().map(|step| step.mass).sum();
        let dropped: f64 = found.layers.iter().map(|layer| layer.mass_lost).sum();
        let dropped = if strategy.select.kind.name == "drop" { dropped } else { 0.0 };
        prop_assert!((mass + dropped - (decided * 2) as f64).abs() < 1e-3 * mass);
        for step in &found.steps {
            prop_assert!(step.time_ps > 0 && step.full <= step.mass + 1e-6 && step.covered <= step.mass + 1e-6);
        }
        prop_assert!(found.skipped <= mass + 1e-6 && found.near_mass <= mass + 1e-6);
    }
}

/// A model that goes layer by layer finds what one finds that goes token by token.
#[test]
fn layers_may_be_replayed_one_by_one() {
    let trace = routed(120, 3, 16, 3, 9);
    let plan = Plan { machine: Some(ndp()), ..Plan::new(Budget::Experts(5)) };
    let streams = Streams::new(120, 1, 0).unwrap();
    for text in
        ["lru", "bounded:eps=0.1", "cache-prior+tracked", "belady", "once:tokens=30+in-place+mean:bits=2", "d2moe"]
    {
        let strategy = Strategy::parse(text).unwrap();
        assert!(!strategy.couples_layers());
        let mut replay = Replay::new(&strategy, &plan.setup(&trace, &streams).unwrap(), None).unwrap();
        let mut logits = vec![0.0; 16];
        for layer in 0..3 {
            let ids: Vec<u16> = (0..120).flat_map(|token| trace.chosen(token, layer).to_vec()).collect();
            replay.foresee(Future::of_layer(3, layer, &ids, 16, 3));
            for step in 0..120 {
                trace.logits.as_ref().unwrap().read_row(step, layer, &mut logits);
                let token = Routed {
                    wanted: trace.chosen(step, layer),
                    weights: &[],
                    logits: &logits,
                    ahead: &[],
                    starts_sequence: step == 0,
                };
                replay.layer(step, layer, &[token]).unwrap();
            }
        }
        (0..120).for_each(|step| replay.end_step(step).unwrap());
        let (found, expected) = (replay.finish(), tally(&trace, text, &plan));
        assert_eq!((&found.layers, found.steps.len()), (&expected.layers, expected.steps.len()), "{text}");
        let times = |tally: &Tally| tally.steps.iter().map(|step| step.time_ps).collect::<Vec<_>>();
        assert_eq!(times(&found), times(&expected), "{text}");
    }
}

#[test]
fn what_does_not_fit_is_left_out_with_the_reason() {
    let trace = routed(60, 2, 16, 2, 2);
    let huge = Model::new("huge", 1 << 15, 1 << 17);
    let machine = |model| Some(Machine::new(System::find("ndp").unwrap(), Some(model)));
    let reasons = |text: &str, plan: Plan<'_>| -> Vec<String> {
        let strategies = Strategy::parse_list(text).unwrap();
        run(&trace, &Plan { strategies, ..plan }).unwrap().skipped.into_iter().map(|skipped| skipped.reason).collect()
    };
    let plan = || Plan { prefill: 8, ..Plan::new(Budget::Experts(6)) };
    let found = reasons("lru,all-full,near-only", Plan { machine: machine(&huge), ..plan() });
    assert!(found[0].contains("residency lru needs 309.2 GB for experts, and H100 SXM has"), "{found:?}");
    assert!(found[1].contains("residency all needs 824.6 GB for experts"), "{found:?}");
    let wide = Model::new("wide", 1 << 14, 1 << 17);
    let found = reasons("lru,near-only", Plan { machine: machine(&wide), ..Plan::new(Budget::Experts(1)) });
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("division near needs a device for 670.0 GB"), "{found:?}");
    let offload = Some(Machine::new(System::find("offload").unwrap(), None));
    let found = reasons("ctx-aware,migrate", Plan { machine: offload, ..plan() });
    assert!(found[0].contains("division in-place needs a near-data device, and machine offload has none"), "{found:?}");
    let found = reasons("migrate,ctx-aware", plan());
    assert_eq!(found, ["residency migrate needs a machine, and there is none"]);
    let found = reasons("all-full,all-4bit", plan());
    assert_eq!(found, ["residency all needs memory for 16 experts a layer, and there is memory for 6"]);
    let ids_only = Trace { logits: None, ..trace.clone() };
    let strategies = Strategy::parse_list("lru,bounded,hobbit,transition").unwrap();
    let outcome = run(&ids_only, &Plan { strategies, ..plan() }).unwrap();
    assert_eq!(outcome.rows.len(), 2);
    assert_eq!(outcome.skipped[0].reason, "select bounded needs all router logits, and the source has expert ids only");
}

#[test]
fn refuses_with_the_numbers() {
    let trace = routed(60, 3, 16, 2, 2);
    let refusal = |plan: Plan<'_>| run(&trace, &plan).unwrap_err().to_string();
    let plan = || Plan::new(Budget::Experts(4));
    assert!(refusal(Plan::new(Budget::Experts(17))).contains("expected 1 to 16 experts per layer, found 17"));
    assert!(refusal(Plan::new(Budget::Experts(0))).contains("found 0"));
    assert!(refusal(Plan { prefill: 60, ..plan() }).contains("expected at most 59 tokens"));
    assert!(refusal(Plan { batch: 0, ..plan() }).contains("expected 1 to 1024 sequences, found 0"));
    let losses = LossTable::new(2, 16, &[1, 2, 3, 4], vec![0.5; 128]).unwrap();
    assert!(refusal(Plan { losses: Some(&losses), ..plan() }).contains("expected 3 layers of 16 experts"));
}

/// Two domains of disjoint experts, `segment` tokens each in turn; ids are a fixed shuffle inside the domain's half.
fn alternating(tokens: usize, segment: usize) -> Trace {
    let shape = Shape { tokens, layers: 3, experts: 16, k: 2 };
    let mut ids = Vec::new();
    for token in 0..tokens {
        for layer in 0..shape.layers {
            let half = if (token / segment).is_multiple_of(2) { 0 } else { 8 };
            let first = (token * 7 + layer * 3) % 4;
            let second = 4 + (token * 5 + layer) % 2;
            ids.extend([half + first as u16, half + second as u16]);
        }
    }
    Trace {
        meta: Meta { domains: vec!["a".into(), "b".into()], layer_ids: vec![0, 1, 2], ..Meta::default() },
        domain: (0..tokens).map(|token| (token / segment % 2) as u8).collect(),
        ..Trace::of_ids(shape, ids)
    }
}

fn rows(trace: &Trace, text: &str, plan: Plan<'_>) -> Outcome {
    let strategies = Strategy::parse_list(text).unwrap();
    run(trace, &Plan { strategies, machine: Some(ndp()), ..plan }).unwrap()
}

fn decoding() -> Plan<'static> {
    Plan { prefill: 64, ..Plan::new(Budget::Experts(6)) }
}

#[test]
fn near_only_is_the_closed_form() {
    let near = [cptr_hw_model::ExpertRun::at(4.0); 2];
    let (trace, Machine { system, model, .. }) = (alternating(100, 1000), ndp());
    let model = model.unwrap();
    let layer_ps = |attended| {
        let work = cptr_hw_model::LayerWork { tokens: 1, near_data: &near, attended, ..Default::default() };
        system.layer_time(model, &work).total_ps as f64
    };
    let found = |counted| {
        let machine = Some(Machine { counted, ..ndp() });
        let strategies = Strategy::parse_list("near-only").unwrap();
        let row = run(&trace, &Plan { strategies, machine, ..decoding() }).unwrap().rows.remove(0);
        assert_eq!((row.full_precision, row.mean_near_bits), (0.0, Some(4.0)));
        1e6 / row.tokens_per_s.unwrap()
    };
    let close = |found_us: f64, expected_ps: f64| assert!((found_us * 1e6 / expected_ps - 1.0).abs() < 1e-6);
    close(found(Counted::Layers), 3.0 * layer_ps(0));
    // Whole tokens: attention over the tokens before, and of what is outside the layers those of 3 of 48.
    let token_ps =
        |context: u64| 3.0 * layer_ps(context) + system.outside_layers(model, 1, context).total_ps as f64 * 3.0 / 48.0;
    let (steps, first) = (trace.shape.tokens as u64 - 64, 1064);
    let mean_ps = (0..steps).map(|step| token_ps(first + step)).sum::<f64>() / steps as f64;
    close(found(Counted::Token { context: 1000 }), mean_ps);
}

#[test]
fn after_a_change_only_those_that_move_recover() {
    let text = "ctx-aware,periodic:interval=256:slack=0.6,migrate:slack=0.6,foresight:slack=0.6";
    let outcome = rows(&alternating(1600, 800), text, decoding());
    assert_eq!(outcome.first_change, Some(800 - 64));
    let after: Vec<AfterChange> = outcome.rows.iter().map(|row| row.after_change.unwrap()).collect();
    assert_eq!(after[0].full_precision, 0.0);
    assert!(after[2].full_precision > 0.8 && after[3].full_precision >= after[2].full_precision, "{after:?}");
    assert!(after[2].full_precision > after[1].full_precision);
    assert!(after[2].tokens_per_s.unwrap() > 1.05 * after[0].tokens_per_s.unwrap());
    assert!(outcome.rows[2].migration_rate > 0.0 && outcome.rows[0].load_rate == 0.0);
}

#[test]
fn migrations_stay_under_the_limit_whatever_the_input() {
    for segment in [2, 5, 16, 60] {
        let outcome = rows(&alternating(1500, segment), "migrate:rate=0.1:burst=0.5", decoding());
        let most = 0.1 + 0.5 * 18.0 / outcome.steps as f64;
        assert!(outcome.rows[0].loads_per_token <= most, "{segment}: {:?}", outcome.rows[0]);
    }
}

#[test]
fn the_selector_loses_less_and_a_wrong_table_makes_it_lose_more() {
    // Four experts are wanted by a quarter of the tokens each and lose a thousand times as much as the twelve others.
    let ids = (0..600 * 3).flat_map(|i| [i / 3 % 4, 4 + i / 3 % 12]).collect();
    let trace = Trace::of_ids(Shape { tokens: 600, layers: 3, experts: 16, k: 2 }, ids);
    let weight = |expert: u32| if expert < 4 { 1000.0 } else { 1.0 };
    let losses = (0..48).flat_map(|i| (1..5).map(move |bits| weight(i % 16) * 0.25_f64.powi(bits)));
    let table = LossTable::new(3, 16, &[1, 2, 3, 4], losses.collect()).unwrap();
    let text = "ctx-aware:bits=2,ctx-aware+uniform:bits=2,ctx-aware:bits=2:noise=3,near-only:bits=2";
    let plan = Plan { losses: Some(&table), prefill: 64, ..Plan::new(Budget::Experts(1)) };
    let loss: Vec<f64> = rows(&trace, text, plan).rows.iter().map(|row| row.quantisation_loss.unwrap()).collect();
    assert!(loss[0] < loss[1] / 4.0 && loss[0] < loss[2] && loss[1] < loss[3], "{loss:?}");
    // One of a token's two choices is lost a thousand times as much: the closed form of two bits for all.
    assert!((loss[3] - (1000.0 + 1.0) / 2.0 / 16.0).abs() < 1e-9, "{loss:?}");
}

#[test]
fn nested_bits_copy_only_what_is_missing() {
    // Six experts of 16 bits are 96 planes: all 16 experts at 4 bits and 32 planes to spare.
    let trace = alternating(400, 50);
    let roomy = rows(&trace, "d2moe,d2moe:low=4", decoding()).rows;
    assert!(roomy.iter().all(|row| row.full_precision == 0.0 && row.coverage == 1.0 && row.stall_rate == 0.0));
    let tight = |text: &str| {
        let found = rows(&routed(300, 2, 16, 4, 3), text, Plan { prefill: 64, ..Plan::new(Budget::Experts(1)) });
        found.rows.into_iter().next().unwrap()
    };
    let (nested, whole) = (tight("d2moe"), tight("d2moe:low=4"));
    assert!(nested.stall_rate > 0.0);
    // Copying the planes that are missing takes less time than copying whole experts at the most bits.
    assert!(nested.tokens_per_s > whole.tokens_per_s, "{nested:?} {whole:?}");
}

/// Rivals at full strength: what is in GPU memory is used, and helps.
#[test]
fn rivals_use_their_memory() {
    let trace = alternating(600, 200);
    let found = rows(&trace, "monde,monde-resident,best-split,best-split-slack,all-4bit,all-full", decoding());
    assert_eq!(found.rows.len(), 6, "{:?}", found.skipped);
    let rate = |index: usize| found.rows[index].tokens_per_s.unwrap();
    assert!(rate(1) > 1.2 * rate(0), "{} {}", rate(1), rate(0));
    assert!(rate(3) > rate(2));
    assert!(rate(4) > rate(5) && rate(5) > rate(3));
    assert!(found.rows[4..].iter().all(|row| row.miss_rate == 0.0 && row.load_rate == 0.0));
    assert_eq!((found.rows[4].full_precision, found.rows[5].full_precision), (0.0, 1.0));
}

/// Trackers have room for 8, 16, 32, … experts; a model may have another number of them.
#[test]
fn any_number_of_experts_is_placed_after_a_prompt() {
    for experts in [4, 5, 60] {
        let ids = (0..200).map(|token| token % experts as u16).collect();
        let trace = Trace::of_ids(Shape { tokens: 200, layers: 1, experts, k: 1 }, ids);
        let plan = Plan { prefill: 100, ..Plan::new(Budget::Experts(3)) };
        let found = rows(&trace, "lru,lfu,lrfu,tracked,recall,belady,recall-fetch", plan);
        assert_eq!(found.rows.len(), 7, "{:?}", found.skipped);
    }
}
