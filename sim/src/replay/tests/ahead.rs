//! What routers of later layers do, through the loop.

use super::routed;
use crate::replay::{Budget, Plan, Replay, run};
use crate::source::{Routed, Streams};
use crate::strategy::Strategy;

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
