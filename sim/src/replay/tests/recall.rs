//! What remembered trajectories do, through the loop.

use cptr_hw_model::{Model, System};
use cptr_trace::array::FloatArray;
use cptr_trace::{Shape, Trace};

use crate::replay::{Budget, Counted, LayerOutcome, Machine, Observer, Plan, Row, drive, run};
use crate::strategy::{Place, Strategy};

const SHAPE: Shape = Shape { tokens: 1600, layers: 3, experts: 32, k: 4 };

/// A text of 350 tokens that comes again and again, a fifth of its choices replaced each time; or the same tokens
/// in no order.
fn text(ordered: bool) -> Trace {
    let mut random = fastrand::Rng::with_seed(7);
    let draw = |random: &mut fastrand::Rng, ids: &mut Vec<u16>| loop {
        // Some experts are wanted more than others.
        let id = random.u16(0..32).min(random.u16(0..32));
        if !ids.contains(&id) {
            return ids.push(id);
        }
    };
    let once: Vec<Vec<u16>> = (0..350 * SHAPE.layers)
        .map(|_| {
            let mut ids = Vec::new();
            (0..SHAPE.k).for_each(|_| draw(&mut random, &mut ids));
            ids
        })
        .collect();
    let mut order: Vec<usize> = (0..SHAPE.tokens).map(|token| token % 350).collect();
    if !ordered {
        random.shuffle(&mut order);
    }
    let mut ids = Vec::new();
    for token in order {
        for layer in 0..SHAPE.layers {
            let mut here = once[token * SHAPE.layers + layer].clone();
            here.retain(|_| random.u8(0..5) > 0);
            while here.len() < SHAPE.k {
                draw(&mut random, &mut here);
            }
            ids.extend(here);
        }
    }
    Trace::of_ids(SHAPE, ids)
}

fn rows(trace: &Trace, strategies: &str) -> Vec<Row> {
    let strategies = Strategy::parse_list(strategies).unwrap();
    let plan = Plan { strategies, prefill: 800, ..Plan::new(Budget::Experts(8)) };
    let outcome = run(trace, &plan).unwrap();
    assert!(outcome.skipped.is_empty());
    outcome.rows
}

#[test]
fn what_comes_again_is_kept_and_fetched() {
    // So short a text has few forecasts of each sort to learn from: a lower threshold.
    let fetching = "recall-fetch:sure=0.6,lru+recall-fetch";
    let strategies = format!("lru,tracked,recall,belady,{fetching},recall:bits=64,recall:memory=64");
    let rows = rows(&text(true), &strategies);
    let [lru, tracked, recall, belady, both, fetch, narrow, short] = &rows[..] else { panic!() };
    let closed = (tracked.stall_rate - recall.stall_rate) / (tracked.stall_rate - belady.stall_rate);
    assert!(closed > 0.5, "{closed}");
    assert!(both.stall_rate < belady.stall_rate && both.load_rate < lru.load_rate, "{}", both.stall_rate);
    assert!(fetch.stall_rate < lru.stall_rate && fetch.fetch_rate > 0.05, "{}", fetch.fetch_rate);
    assert!(narrow.stall_rate < tracked.stall_rate);
    // A memory that is shorter than the text knows nothing, and does no harm.
    assert!(short.stall_rate < 1.01 * tracked.stall_rate, "{} {}", short.stall_rate, tracked.stall_rate);
}

#[test]
fn fetching_that_is_measured_to_pay_leads() {
    let rows = rows(&text(true), "safe,recall-fetch:sure=0.5,safe-fetch:load=0:sure=0.5");
    let [alone, fetched, led] = [0, 1, 2].map(|row: usize| rows[row].stall_rate);
    assert!(fetched < 0.8 * alone, "{fetched} {alone}");
    // Half of what fetching saves, at least, goes to who finds out that it does.
    assert!(led < (fetched + alone) / 2.0, "{led} {fetched} {alone}");
}

#[test]
fn without_order_recall_does_nothing() {
    let rows = rows(&text(false), "tracked,recall,recall-fetch");
    assert!(
        (rows[1].stall_rate / rows[0].stall_rate - 1.0).abs() < 0.01,
        "{} {}",
        rows[1].stall_rate,
        rows[0].stall_rate
    );
    assert!(rows[2].load_rate < 1.01 * rows[1].load_rate, "{} {}", rows[2].load_rate, rows[1].load_rate);
}

/// A machine and a model whose layers compute `ratio` times as long as a copy takes, nearly all of it before experts
/// run, and whose copies do not slow the kernels.
fn serial(ratio: f64) -> (Model, System) {
    let model = Model::new("made", 4096, 4);
    let text = include_str!("../../../../hw-model/data/systems/offload.toml")
        .replace("memory_gb_s = 3352.0", "memory_gb_s = 1e6")
        .replace("copy_launch_ns = 1000.0", "copy_launch_ns = 0.0")
        .replace("kernel_launch_ns = 1300.0", "kernel_launch_ns = 0.0");
    let copy_us = model.expert_bytes(16.0) / System::from_toml(&text).unwrap().link().copy_gb_s() / 1e3;
    let tflop_s = 2.0 * model.dense_parameters() as f64 / 1e6 / (0.8 * copy_us * ratio);
    (model, System::from_toml(&text.replace("tflop_s = 989.4", &format!("tflop_s = {tflop_s:.6}"))).unwrap())
}

#[test]
fn fetching_saves_time_where_there_is_some_and_costs_little_where_not() {
    for (ordered, ratio, least, most) in
        [(true, 1.0, 0.3, 0.9), (true, 8.0, 0.3, 0.95), (true, 1.0 / 16.0, 0.9, 1.01), (false, 1.0, 0.9, 1.01)]
    {
        let (model, system) = serial(ratio);
        let machine = Some(Machine { counted: Counted::Layers, ..Machine::new(&system, Some(&model)) });
        let strategies = Strategy::parse_list("recall,recall-fetch").unwrap();
        let plan = Plan { strategies, prefill: 800, machine, ..Plan::new(Budget::Experts(8)) };
        let rows = run(&text(ordered), &plan).unwrap().rows;
        let ratio = rows[1].token_time_us.unwrap() / rows[0].token_time_us.unwrap();
        assert!((least..most).contains(&ratio), "{ordered} {ratio}");
    }
}

/// The link by hand, in loads, of one layer that nobody leaves and whose fetches are for the next token: a copy that
/// has started is waited for where something else is, and passes behind where nothing is.
struct Serial {
    /// Copies on their way: expert, what is left, whether it is under way.
    copies: Vec<(u16, f64, bool)>,
    computes: f64,
    load_ps: f64,
    layers: usize,
    /// Those where a copy under way was waited for.
    held_up: usize,
    fetched: usize,
}

impl Observer for Serial {
    fn layer(&mut self, seen: &LayerOutcome<'_>) -> cptr_trace::Result<()> {
        if seen.prefill {
            return Ok(());
        }
        let mut waits = 0.0;
        for (choice, execution) in seen.choices.iter().zip(seen.executions) {
            if matches!(execution.place, Place::Copied { .. }) {
                waits += 1.0;
            } else if let Some(at) = self.copies.iter().position(|copy| copy.0 == choice.expert) {
                waits += self.copies.remove(at).1;
            }
        }
        if waits > 0.0 && self.copies.first().is_some_and(|copy| copy.2) {
            waits += self.copies.remove(0).1;
            self.held_up += 1;
        }
        for expert in seen.resident.iter() {
            if !seen.before.contains(expert) && !seen.loads.contains(&expert) {
                self.copies.push((expert, 1.0, false));
                self.fetched += 1;
            }
        }
        let mut idle = self.computes;
        while let Some(copy) = self.copies.first_mut().filter(|_| idle > 0.0) {
            let passes = copy.1.min(idle);
            idle -= passes;
            *copy = (copy.0, copy.1 - passes, true);
            if copy.1 == 0.0 {
                self.copies.remove(0);
            }
        }
        self.layers += 1;
        let found = seen.time.unwrap().total_ps as f64 / self.load_ps;
        let expected = self.computes + waits;
        assert!((found - expected).abs() < 0.01, "layer {}: {found} {expected}", self.layers);
        Ok(())
    }
}

#[test]
fn a_copy_under_way_holds_up_what_is_waited_for() {
    let mut random = fastrand::Rng::with_seed(3);
    let ids = (0..300).flat_map(|_| [random.u16(0..256), random.u16(256..512)]).collect();
    let trace = Trace::of_ids(Shape { tokens: 300, layers: 1, experts: 512, k: 2 }, ids);
    for ratio in [0.3, 0.8, 2.5] {
        let (model, system) = serial(ratio);
        let copy_ps = system.link().copy_ps(model.expert_bytes(16.0)) as f64;
        let mut link =
            Serial { copies: Vec::new(), computes: ratio, load_ps: copy_ps, layers: 0, held_up: 0, fetched: 0 };
        let machine = Some(Machine { counted: Counted::Layers, ..Machine::new(&system, Some(&model)) });
        let plan = Plan { machine, ..Plan::new(Budget::Experts(512)) };
        let strategy = Strategy::parse("lru+perfect:accuracy=0.5:most=1").unwrap();
        drive(&trace, &plan, &strategy, &mut [&mut link]).unwrap();
        assert!(link.fetched > 100 && (ratio > 2.0 || link.held_up > 20), "{} {}", link.fetched, link.held_up);
    }
}

/// What is resident before and after every layer.
#[derive(Default)]
struct Residents(Vec<[Vec<u16>; 2]>);

impl Observer for Residents {
    fn layer(&mut self, seen: &LayerOutcome<'_>) -> cptr_trace::Result<()> {
        self.0.push([seen.before.iter().collect(), seen.resident.iter().collect()]);
        Ok(())
    }
}

/// A decision at a layer of a token sees that layer and those before, and the tokens before: everything else is
/// replaced, and it stays.
#[test]
fn nothing_later_is_seen() {
    let trace = text(true);
    let (model, system) = serial(2.0);
    let decisions = |trace: &Trace, (strategy, timed): (&str, bool)| {
        let mut seen = Residents::default();
        let machine = timed.then_some(Machine::new(&system, Some(&model)));
        let plan = Plan { prefill: 100, machine, ..Plan::new(Budget::Experts(8)) };
        drive(trace, &plan, &Strategy::parse(strategy).unwrap(), &mut [&mut seen]).unwrap();
        seen.0
    };
    let strategies = [("recall", false), ("recall-fetch", false), ("lru+recall-fetch", false), ("recall-fetch", true)];
    for strategy in strategies {
        let before = decisions(&trace, strategy);
        for (token, layer) in [(700, 0), (1201, 1), (1302, 2)] {
            let last = token * SHAPE.layers + layer;
            let mut altered = trace.clone();
            let later = &mut altered.ids[(last + 1) * SHAPE.k..];
            later.iter_mut().for_each(|id| *id = (*id + 11) % 32);
            let after = decisions(&altered, strategy);
            assert_eq!(before[..=last], after[..=last], "{strategy:?} {token} {layer}");
            // What was fetched for the next layer, too.
            assert_eq!(before[last + 1][0], after[last + 1][0], "{strategy:?} {token} {layer}");
            assert_ne!(before[last + 1..], after[last + 1..], "{strategy:?} decides by what it sees");
        }
    }
}

/// Of a token that takes fewer experts than k, and null experts for the rest, those that there are count.
#[test]
fn null_experts_are_not_remembered() {
    let mut trace = text(true);
    trace.meta.router.null_experts = 1;
    for row in trace.ids.chunks_mut(SHAPE.k).step_by(3) {
        row[SHAPE.k - 1] = 32;
    }
    let rows = rows(&trace, "lru,tracked,recall,recall-fetch");
    assert!(rows[2].stall_rate < 0.95 * rows[1].stall_rate, "{} {}", rows[2].stall_rate, rows[1].stall_rate);
    assert!(rows[3].stall_rate < rows[2].stall_rate, "{}", rows[3].stall_rate);
}

/// Sketches that say where in the text a token is, and logits that say what it wants.
#[test]
fn signatures_can_be_of_sketches_and_of_logits() {
    let mut trace = text(true);
    let plan = |strategies| Plan {
        strategies: Strategy::parse_list(strategies).unwrap(),
        prefill: 800,
        ..Plan::new(Budget::Experts(8))
    };
    let reasons = run(&trace, &plan("recall:signature=sketch,recall:signature=logits")).unwrap().skipped;
    for (skipped, what) in reasons.iter().zip(["routers' inputs (hidden)", "logits"]) {
        let expected = format!("residency recall needs {what} of 1 to 32768 numbers a token, and the source has 0");
        assert_eq!(skipped.reason, expected);
    }
    let Shape { tokens, layers, experts, .. } = SHAPE;
    let mut random = fastrand::Rng::with_seed(3);
    let place: Vec<f32> = (0..350 * 24).map(|_| random.f32() - 0.5).collect();
    let hidden = (0..tokens).flat_map(|token| &place[token % 350 * 24..][..24]).map(|&x| x + 0.3).collect();
    trace.hidden = Some(FloatArray::owned([tokens, 1, 24], hidden));
    let mut logits: Vec<f32> = (0..tokens * layers * experts).map(|_| random.f32() - 0.5).collect();
    for (row, ids) in logits.chunks_exact_mut(experts).zip(trace.ids.chunks_exact(SHAPE.k)) {
        ids.iter().for_each(|&id| row[usize::from(id)] += 2.0);
    }
    trace.logits = Some(FloatArray::owned([tokens, layers, experts], logits));
    let rows = rows(&trace, "tracked,recall,recall:signature=sketch,recall:signature=logits,belady");
    let [tracked, choices, sketch, logits, belady] = [0, 1, 2, 3, 4].map(|at| rows[at].stall_rate);
    for found in [choices, sketch, logits] {
        assert!((tracked - found) / (tracked - belady) > 0.5, "{tracked} {choices} {sketch} {logits} {belady}");
    }
    assert!(choices != sketch && choices != logits && sketch != logits);
    // With a batch every sequence has its own.
    let batch = Plan { batch: 2, prefill: 0, ..plan("recall:signature=sketch,recall:signature=logits") };
    assert!(run(&trace, &batch).unwrap().skipped.is_empty());
    // What an engine could not have seen is not seen: sketches of later tokens make no difference.
    let decisions = |trace: &Trace| {
        let mut found = super::Decisions::default();
        let strategy = Strategy::parse("recall:signature=sketch+recall-fetch:gain=off").unwrap();
        drive(trace, &plan("raw"), &strategy, &mut [&mut found]).unwrap();
        found.0
    };
    let mut altered = trace.clone();
    let later = |token: usize| (0..24).map(move |i| ((token * 7 + i * 3) % 11) as f32);
    let early = (0..1200).flat_map(|token| &place[token % 350 * 24..][..24]).map(|&x| x + 0.3);
    altered.hidden = Some(FloatArray::owned([tokens, 1, 24], early.chain((1200..tokens).flat_map(later)).collect()));
    let (before, after) = (decisions(&trace), decisions(&altered));
    assert!(before[..1201 * layers] == after[..1201 * layers] && before != after);
}
