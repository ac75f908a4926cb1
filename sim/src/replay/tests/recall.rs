//! What remembered trajectories do, through the loop.

use cptr_trace::{Shape, Trace};

use crate::replay::{Budget, LayerOutcome, Observer, Plan, Row, drive, run};
use crate::strategy::Strategy;

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
    let rows =
        rows(&text(true), "lru,tracked,recall,belady,recall-fetch,lru+recall-fetch,recall:bits=64,recall:memory=64");
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
    let decisions = |trace: &Trace, strategy: &str| {
        let mut seen = Residents::default();
        let plan = Plan { prefill: 100, ..Plan::new(Budget::Experts(8)) };
        drive(trace, &plan, &Strategy::parse(strategy).unwrap(), &mut [&mut seen]).unwrap();
        seen.0
    };
    for strategy in ["recall", "recall-fetch", "lru+recall-fetch"] {
        let before = decisions(&trace, strategy);
        for (token, layer) in [(700, 0), (1201, 1), (1302, 2)] {
            let last = token * SHAPE.layers + layer;
            let mut altered = trace.clone();
            let later = &mut altered.ids[(last + 1) * SHAPE.k..];
            later.iter_mut().for_each(|id| *id = (*id + 11) % 32);
            let after = decisions(&altered, strategy);
            assert_eq!(before[..=last], after[..=last], "{strategy} {token} {layer}");
            // What was fetched for the next layer, too.
            assert_eq!(before[last + 1][0], after[last + 1][0], "{strategy} {token} {layer}");
            assert_ne!(before[last + 1..], after[last + 1..], "{strategy} decides by what it sees");
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
