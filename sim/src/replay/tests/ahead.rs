//! What routers of later layers do, through the loop.

use super::{routed, tally};
use crate::replay::{Budget, Plan, Replay, drive, run};
use crate::source::{Routed, Streams};
use crate::strategy::Strategy;
use cptr_trace::array::FloatArray;

/// Stalls by layer of `gate-ahead`, whose source says that the next layer will want `ahead` of what it will want.
fn stalls(text: &str, ahead: impl Fn(&[u16]) -> Vec<u16>) -> (Vec<u64>, u64) {
    let trace = routed(300, 3, 32, 3, 4);
    let plan = Plan::new(Budget::Experts(8));
    let streams = Streams::new(300, 1, 0).unwrap();
    let mut replay =
        Replay::new(&Strategy::parse(text).unwrap(), &plan.setup(&trace, &streams).unwrap(), None).unwrap();
    for step in 0..300 {
        for layer in 0..3 {
            let ahead = if layer < 2 { ahead(trace.chosen(step, layer + 1)) } else { Vec::new() };
            let wanted = trace.chosen(step, layer);
            let token = Routed { wanted, weights: &[], logits: &[], ahead: &ahead, starts_sequence: step == 0 };
            replay.layer(step, layer, &[token]).unwrap();
        }
        replay.end_step(step).unwrap();
    }
    let tally = replay.finish();
    (tally.layers.iter().map(|layer| layer.stalls).collect(), tally.layers.iter().map(|layer| layer.fetched).sum())
}

#[test]
fn what_the_next_router_says_is_fetched_where_it_comes_true() {
    let (without, none) = stalls("lru+gate-ahead", |_| Vec::new());
    let (right, fetched) = stalls("lru+gate-ahead", <[u16]>::to_vec);
    assert_eq!((none, right[0]), (0, without[0]), "nobody knows the first layer of the next token");
    assert!(right[1] + right[2] == 0 && fetched >= without[1] + without[2], "{right:?} {without:?}");
    // What never comes true is fetched no more.
    let (wrong, fetched) = stalls("lru+gate-ahead", |wanted| wanted.iter().map(|id| (id + 1) % 32).collect());
    assert!(fetched < 300 && wrong[1] >= without[1], "{fetched} {wrong:?}");
    let (_, most) = stalls("lru+gate-ahead:most=1", <[u16]>::to_vec);
    assert!(most <= 600);
}

#[test]
fn a_recording_has_no_routers_to_ask() {
    let trace = routed(40, 2, 16, 2, 2);
    let plan = Plan { strategies: Strategy::parse_list("gate-ahead").unwrap(), ..Plan::new(Budget::Experts(6)) };
    let reason = &run(&trace, &plan).unwrap().skipped[0].reason;
    assert!(reason.contains("prefetch gate-ahead asks the routers of later layers"), "{reason}");
}

/// Two layers of which the second wants what the first wants, one id further.
fn echoed(tokens: usize) -> cptr_trace::Trace {
    let mut trace = routed(tokens, 2, 16, 2, 9);
    let logits = trace.logits.as_ref().unwrap();
    let (mut values, mut row) = (Vec::new(), vec![0.0; 16]);
    for token in 0..tokens {
        logits.read_row(token, 0, &mut row);
        values.extend_from_slice(&row);
        row.rotate_right(1);
        values.extend_from_slice(&row);
    }
    trace.logits = Some(FloatArray::owned([tokens, 2, 16], values));
    trace.ids = cptr_trace::top_k::of_logits(trace.logits.as_ref().unwrap(), 2);
    trace
}

#[test]
fn a_committed_prediction_never_stalls_and_loses_what_it_mistakes() {
    let trace = echoed(600);
    let plan = Plan::new(Budget::Experts(5));
    let layers = |text: &str| tally(&trace, text, &plan).layers;
    let (raw, ahead) = (layers("lru"), layers("committed+lru+route-ahead"));
    // The first layer has its own router. At first there is nothing to go by.
    assert_eq!((ahead[0].stalls, ahead[0].agreed), (raw[0].stalls, ahead[0].choices));
    assert!(ahead[1].stalls < 60 && raw[1].stalls > 200, "{} {}", ahead[1].stalls, raw[1].stalls);
    assert!(ahead[1].mass_lost > 0.0 && ahead[1].agreed < ahead[1].choices);
    let first = layers("committed+lru+route-ahead:first=on");
    assert!(first[0].stalls < 60 && first[0].mass_lost > 0.0, "{}", first[0].stalls);
    // Without the selection it is a prefetch like others, and without the prefetch there is nothing to commit to.
    let fetched = layers("lru+route-ahead");
    assert!(fetched[1].mass_lost == 0.0 && fetched[1].stalls < raw[1].stalls);
    assert_eq!(layers("committed+lru")[1].mass_lost, 0.0);
}

#[test]
fn what_the_next_router_says_can_be_committed_to() {
    let trace = routed(300, 3, 32, 3, 4);
    let plan = Plan::new(Budget::Experts(8));
    let streams = Streams::new(300, 1, 0).unwrap();
    let strategy = Strategy::parse("committed+lru+gate-ahead:most=3:sure=0").unwrap();
    let mut replay = Replay::new(&strategy, &plan.setup(&trace, &streams).unwrap(), None).unwrap();
    let mut logits = vec![0.0; 32];
    for step in 0..300 {
        for layer in 0..3 {
            let wrong = |id: &u16| (id + 1) % 32;
            let ahead: Vec<u16> =
                if layer < 2 { trace.chosen(step, layer + 1).iter().map(wrong).collect() } else { Vec::new() };
            trace.logits.as_ref().unwrap().read_row(step, layer, &mut logits);
            let wanted = trace.chosen(step, layer);
            let token = Routed { wanted, weights: &[], logits: &logits, ahead: &ahead, starts_sequence: step == 0 };
            let routed = [token];
            let outcome = replay.layer(step, layer, &routed).unwrap();
            let mut chosen = outcome.chosen(0).to_vec();
            let mut expected: Vec<u16> = if layer > 0 { wanted.iter().map(wrong).collect() } else { wanted.to_vec() };
            chosen.sort_unstable();
            expected.sort_unstable();
            assert_eq!(chosen, expected, "layer {layer} of {step}");
        }
        replay.end_step(step).unwrap();
    }
    let tally = replay.finish();
    assert_eq!(tally.layers[1].stalls + tally.layers[2].stalls, 0);
}

#[test]
fn known_tokens_never_stall_and_no_others_are_seen() {
    let trace = routed(200, 3, 16, 3, 6);
    let plan = Plan::new(Budget::Experts(8));
    let layers = |text: &str| tally(&trace, text, &plan).layers;
    let (raw, token, next) = (layers("lru"), layers("lru+look-ahead"), layers("lru+look-ahead:tokens=2"));
    assert_eq!((token[0].stalls, token[1].stalls, token[2].stalls), (raw[0].stalls, 0, 0));
    // The first token of all has nothing before it.
    assert_eq!((next[0].stalls, next[1].stalls), (3, 0));
    // Belady's rule on what is known: the more, the less is loaded.
    let loads = |text: &str| layers(text).iter().map(|layer| layer.demanded + layer.fetched).sum::<u64>();
    let [one, four, all] = ["2", "4", "4096"].map(|tokens| loads(&format!("lru+look-ahead:tokens={tokens}")));
    assert!(one > four && four > all && all as f64 <= 1.02 * loads("belady") as f64, "{one} {four} {all}");
    // With a machine, what is fetched further ahead takes no place of what is wanted sooner.
    for known in [2, 3, 16] {
        let plan = Plan { machine: Some(super::ndp()), ..Plan::new(Budget::Experts(8)) };
        let found = tally(&trace, &format!("lru+look-ahead:tokens={known}"), &plan).layers;
        assert_eq!([0, 1, 2].map(|layer| found[layer].stalls), [3, 0, 0], "{known}");
    }
    // What is decided does not depend on tokens that are not known, and does on those that are.
    let (at, known) = (100, 12);
    let decisions = |from: usize, machine| {
        let mut altered = trace.clone();
        altered.ids[from * 9..].reverse();
        let mut found = super::Decisions::default();
        let plan = Plan { machine, ..Plan::new(Budget::Experts(5)) };
        let strategy = Strategy::parse(&format!("lru+look-ahead:tokens={known}")).unwrap();
        drive(&altered, &plan, &strategy, &mut [&mut found]).unwrap();
        found.0.truncate(3 * (at + 1));
        found.0
    };
    for machine in [None, Some(super::ndp())] {
        assert!(decisions(200, machine) == decisions(at + known, machine));
    }
    assert!(decisions(200, None) != decisions(at + 1, None));
}
