//! The engine from the outside: conversations, refusals, and bytes that no host would send.

use cptr_core::dispatch::{Busy, ExecutionUnits};
use cptr_core::num::Scale;
use cptr_core::placement::{Demand, importance, rank};
use cptr_core::router::{BiasPlace, Count, GroupRating, Groups, Score};
use cptr_core::{Bounds, Eps, ExpertSet, Gate, Logit, Router, ScaledLevels, Tracker, TrackerConfig, select};
use proptest::prelude::*;
use std::vec::Vec;
use zerocopy::little_endian::{I32, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::*;
use crate::units::{Outcome, Untimed};
use crate::wire::{Bias, Configure, Counters, Decision, Identity, Load, NOBODY, Part, Place, Prefill, Run, Token};

mod batch;
mod once;

const E: usize = 16;
const W: usize = cptr_core::words_for(E);
const LAYERS: usize = 3;
const K: usize = 4;

type Engine<'a, U = Untimed> = Controller<'a, U, Uncounted, E, W>;

/// An engine with memory for two queues, in its first session.
fn engine<U: Units>(units: U) -> Engine<'static, U> {
    let layers = std::vec![Layer::new(); LAYERS].leak();
    let answers = std::vec![0; 2 * wire::max_answer(E)].leak();
    let mut engine = Engine::new(layers, answers, units, Uncounted);
    let reset = frame(Head { kind: Command::Reset as u8, session: 1, ..Head::default() }, &[0; 4]);
    assert_eq!(answer(&mut engine, &reset).0, Status::Done);
    engine
}

/// Two layers of 12 experts, 4 per token, 5 in fast memory.
fn configuration() -> Configure {
    Configure {
        layers: 2.into(),
        experts: 12.into(),
        k: K as u8,
        keep: 1,
        score: 1,
        on_demand: 1,
        capacity: 5.into(),
        bits: 2,
        threshold: 10,
        eps: (1 << 28).into(),
        bounds_error: 0,
        bias_place: 0,
        groups: 1,
        top_groups: 1,
        error: 0.into(),
        slow: (1 << 26).into(),
        reopened: (u32::MAX / 20).into(),
        fast: (1 << 29).into(),
        group_rating: 0,
        renormalise: 1,
        table: 0,
        count: 0,
        bound: 0.into(),
        jitter: 0.into(),
        scale: (1 << 24).into(),
        null_experts: 0.into(),
        events: 0,
        reserved: 0,
        replicas: 0.into(),
    }
}

fn frame(head: Head, body: &[u8]) -> Vec<u8> {
    let mut buffer = std::vec![0; OVERHEAD + body.len()];
    let mut writer = Writer::new(&mut buffer);
    writer.put(body);
    writer.finish(head, Status::Done).to_vec()
}

/// A descriptor and the bytes of what follows it.
fn body<T: IntoBytes + Immutable>(descriptor: &T, rest: &[u8]) -> Vec<u8> {
    [descriptor.as_bytes(), rest].concat()
}

/// The status and the body of the answer to a frame; checks what holds for every answer.
fn answer<U: Units>(engine: &mut Engine<'_, U>, request: &[u8]) -> (Status, Vec<u8>) {
    let found = Frame::open(engine.handle(request)).expect("every answer is a frame");
    let status = Status::from_number(found.header.status).expect("a known status");
    if let Ok(asked) = Frame::open(request) {
        assert_eq!(found.head(), answer_to(asked.head()));
    }
    assert!(status == Status::Done || found.body.rest().is_empty());
    (status, found.body.rest().to_vec())
}

/// What the next request of the first queue is of.
fn next<U: Units>(engine: &Engine<'_, U>, kind: u8) -> Head {
    Head { kind, queue: 0, session: engine.session, sequence: engine.answers.next(0) }
}

/// The answer to the next request; a reset begins the next session.
fn ask<U: Units>(engine: &mut Engine<'_, U>, command: Command, body: &[u8]) -> (Status, Vec<u8>) {
    let mut head = next(engine, command as u8);
    if command == Command::Reset {
        (head.session, head.sequence) = (head.session + 1, 0);
    }
    answer(engine, &frame(head, body))
}

fn token(layer: u16, logits: &[Logit], wanted: &[u16], starts_sequence: bool) -> Vec<u8> {
    after_loads(layer, logits, wanted, starts_sequence, &[], &[])
}

/// A token, and experts whose loads are done or have failed.
fn after_loads(
    layer: u16,
    logits: &[Logit],
    wanted: &[u16],
    starts_sequence: bool,
    loaded: &[u16],
    failed: &[u16],
) -> Vec<u8> {
    let head = Token {
        layer: layer.into(),
        experts: (logits.len() as u16).into(),
        wanted: wanted.len() as u8,
        starts_sequence: starts_sequence.into(),
        loaded: loaded.len() as u8,
        failed: failed.len() as u8,
        activation: 0.into(),
        result: 0.into(),
    };
    let logits: Vec<I32> = logits.iter().map(|logit| I32::new(logit.to_bits())).collect();
    let ids: Vec<U16> = [wanted, loaded, failed].concat().into_iter().map(U16::new).collect();
    body(&head, &[logits.as_bytes(), ids.as_bytes()].concat())
}

fn decision(bytes: &[u8]) -> (Decision, Vec<Run>, Vec<Load>) {
    let (head, rest) = Decision::read_from_prefix(bytes).unwrap();
    let (runs, rest) = <[Run]>::ref_from_prefix_with_elems(rest, head.runs.into()).unwrap();
    let (loads, rest) = <[Load]>::ref_from_prefix_with_elems(rest, head.loads.into()).unwrap();
    assert!(rest.is_empty());
    (head, runs.to_vec(), loads.to_vec())
}

/// What is known of the model and its tokens.
fn known<U: Units>(engine: &mut Engine<'_, U>) -> impl PartialEq + std::fmt::Debug + use<U> {
    for _ in 0..10 {
        engine.idle();
    }
    let queue = (engine.queue.room(), engine.queue.outstanding(), engine.jobs);
    let bias = engine.bias.to_vec();
    (engine.layers.to_vec(), bias, engine.configuration, engine.pending.clone(), queue, engine.ticks)
}

/// Everything that a refusal must leave as it is.
fn state<U: Units>(engine: &mut Engine<'_, U>) -> impl PartialEq + std::fmt::Debug + use<U> {
    let known = known(engine);
    (known, engine.session, engine.answers.state(), engine.events.clone(), engine.turn, engine.repeated)
}

fn logits() -> impl Strategy<Value = Vec<Logit>> {
    let small = (-40i32..40).prop_map(|v| Logit::from_num(v) / 16);
    prop_oneof![prop::collection::vec(small, 12), prop::collection::vec(any::<i32>().prop_map(Logit::from_bits), 12),]
}

/// The policy written out with the core's functions.
struct Policy {
    tracker: Tracker<[ScaledLevels; 12]>,
    resident: ExpertSet<1>,
    /// What the last token has asked to be loaded.
    asked: Vec<u16>,
}

impl Policy {
    fn new() -> Self {
        Self { tracker: Tracker::new(), resident: ExpertSet::new(), asked: Vec::new() }
    }

    fn step(&mut self, router: &Router<'_>, logits: &[Logit], wanted: &[u16]) -> (Vec<Run>, Vec<Load>) {
        let bounds = Bounds::from(Eps::from_bits(1 << 28));
        let chosen = select::<16>(router, bounds, 1, logits, wanted, &self.resident).unwrap().experts;
        let mut weights = [Gate::ZERO; 16];
        router.weights(logits, &chosen, &mut weights);
        let at_hand = |resident: &ExpertSet<1>, expert| resident.contains(expert) || router.is_null(expert, 12);
        let run = |(&expert, weight): (&u16, Gate)| Run {
            expert: expert.into(),
            bits: if at_hand(&self.resident, expert) { 0 } else { 2 },
            stand_in: u8::from(!wanted.contains(&expert)),
            weight: weight.to_bits().into(),
        };
        let runs = chosen.iter().zip(weights).map(run).collect();
        let mut loads = Vec::new();
        for &expert in &chosen {
            if !router.is_null(expert, 12) && self.resident.insert(expert) {
                let full = self.resident.len() > 5;
                // The new one is among the chosen and stays.
                let victim = if full { self.tracker.victim(&self.resident, &chosen).unwrap() } else { NOBODY };
                self.resident.remove(victim);
                loads.push(Load { expert: expert.into(), victim: victim.into() });
            }
        }
        self.asked = loads.iter().map(|load| load.expert.get()).collect();
        self.tracker.update(&TrackerConfig::default(), wanted);
        (runs, loads)
    }
}

/// A router of 12 experts, and how a host says so.
fn any_router() -> impl Strategy<Value = (Router<'static>, Configure)> {
    let numbers =
        (0u8..5, 0u8..4, prop_oneof![Just((1u8, 1u8)), Just((2, 1)), Just((2, 2)), Just((4, 2)), Just((4, 3))]);
    let flags = (any::<bool>(), any::<bool>(), 0u8..3, 0u16..3);
    (numbers, flags, any::<u32>(), 1u32..).prop_map(|((score, place, (groups, open)), flags, number, scale)| {
        let (two_best, renormalise, count, null_experts) = flags;
        let (bound, jitter) = (if count == 0 { 0 } else { number }, if score == 4 { number >> 4 } else { 0 });
        let configure = Configure {
            score,
            bias_place: place,
            groups,
            top_groups: open,
            group_rating: two_best.into(),
            renormalise: renormalise.into(),
            count,
            bound: bound.into(),
            jitter: jitter.into(),
            scale: scale.into(),
            null_experts: null_experts.into(),
            ..configuration()
        };
        let scores = [
            Score::SoftmaxAll,
            Score::SoftmaxSelected,
            Score::Sigmoid,
            Score::SqrtSoftplus,
            Score::SparseMixer(Eps::from_bits(jitter)),
        ];
        let places = [BiasPlace::Scores, BiasPlace::Scores, BiasPlace::ChoiceLogits, BiasPlace::Logits];
        let counts = [Count::Fixed, Count::TopP(Eps::from_bits(bound)), Count::Above(Gate::from_bits(bound))];
        let rating = if two_best { GroupRating::TwoBest } else { GroupRating::Best };
        let router = Router {
            score: scores[usize::from(score)],
            bias_place: places[usize::from(place)],
            groups: Groups { count: groups.into(), open: open.into(), rating },
            count: counts[usize::from(count)],
            renormalise,
            scale: Scale::from_bits(scale),
            null_experts: null_experts.into(),
            ..Router::softmax_all(K)
        };
        (router, configure)
    })
}

fn bias_of(layer: u16, bias: &[Logit]) -> Vec<u8> {
    let head = Bias { layer: layer.into(), experts: (bias.len() as u16).into() };
    let bias: Vec<I32> = bias.iter().map(|bias| I32::new(bias.to_bits())).collect();
    body(&head, bias.as_bytes())
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_core(
        tokens in prop::collection::vec((0u16..2, logits(), any::<bool>(), 0usize..3), 1..60),
        (router, configure) in any_router(),
        biases in [logits(), logits()],
    ) {
        let biased = configure.bias_place != 0;
        let mut engine = engine(Untimed::default()).with_bias(std::vec![Logit::ZERO; 24].leak());
        let start = |engine: &mut Engine<'_>| {
            prop_assert_eq!(ask(engine, Command::Configure, configure.as_bytes()).0, Status::Done);
            for (layer, bias) in (0u16..).zip(&biases) {
                let expected = if biased { Status::Done } else { Status::Order };
                prop_assert_eq!(ask(engine, Command::Bias, &bias_of(layer, bias)).0, expected);
            }
            Ok(())
        };
        start(&mut engine)?;
        let routers = [0, 1].map(|layer: usize| Router { bias: if biased { &biases[layer] } else { &[] }, ..router });
        let mut policies = [Policy::new(), Policy::new()];
        let mut misses = 0;
        let mut requests = Vec::new();
        for (number, (layer, logits, given, idle)) in tokens.iter().enumerate() {
            let (router, policy) = (routers[usize::from(*layer)], &mut policies[usize::from(*layer)]);
            let wanted = router.top_k::<16>(logits).unwrap();
            let list: &[u16] = if *given { &wanted } else { &[] };
            // Loads are done before the next token of the layer.
            let request = after_loads(*layer, logits, list, false, &policy.asked, &[]);
            let (status, bytes) = ask(&mut engine, Command::Token, &request);
            requests.push(request);
            prop_assert_eq!(status, Status::Done);
            let (head, runs, loads) = decision(&bytes);
            let expected = policy.step(&router, logits, &wanted);
            prop_assert_eq!((usize::from(head.turn.get()), head.events), (number, 0));
            prop_assert_eq!(head.layer.get(), *layer);
            prop_assert_eq!(head.substituted, runs.iter().map(|run| run.stand_in).sum::<u8>());
            misses += runs.iter().filter(|run| run.bits > 0).count() as u64;
            prop_assert_eq!((runs, loads), expected);
            // Whatever there is of idle time.
            for _ in 0..*idle {
                engine.idle();
            }
        }
        // After a reset the same tokens find the same.
        let before = known(&mut engine);
        prop_assert_eq!(ask(&mut engine, Command::Reset, &[0; 4]).0, Status::Done);
        start(&mut engine)?;
        for request in &requests {
            prop_assert_eq!(ask(&mut engine, Command::Token, request).0, Status::Done);
        }
        prop_assert!(known(&mut engine) == before);
        let (status, bytes) = ask(&mut engine, Command::Counters, &ALL_LAYERS.to_le_bytes());
        prop_assert_eq!(status, Status::Done);
        let counters = Counters::read_from_bytes(&bytes).unwrap();
        prop_assert_eq!(counters.tokens.get(), tokens.len() as u64);
        prop_assert_eq!((counters.misses.get(), counters.jobs.get(), counters.outstanding.get()), (misses, misses, 0));
    }

    #[test]
    fn bytes_of_any_kind_are_refused_and_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200), configured: bool) {
        let mut engine = engine(Untimed::default());
        if configured {
            ask(&mut engine, Command::Configure, configuration().as_bytes());
        }
        let before = state(&mut engine);
        let (status, _) = answer(&mut engine, &bytes);
        prop_assert_eq!(status, Status::Frame);
        prop_assert!(state(&mut engine) == before);
    }

    /// Frames with the right checksum and any contents, between requests that are right.
    #[test]
    fn whatever_is_refused_changes_nothing(
        requests in prop::collection::vec((0usize..12, any::<u8>(), logits(), prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..3)), 1..40),
        on_demand: bool,
        place in 0u8..2,
    ) {
        let mut engine = engine(Untimed::default()).with_bias(std::vec![Logit::ZERO; 24].leak());
        let configuration = Configure { on_demand: on_demand.into(), bias_place: place, ..configuration() };
        for (kind, noise, logits, changes) in requests {
            let layer = u16::from(noise % 3);
            let ids = [noise % 12, (noise / 2) % 12, 5, 7].map(|id| U16::new(id.into()));
            let (command, mut body) = match kind {
                0 => (Command::Identify, Vec::new()),
                1 => (Command::Reset, std::vec![0; 4]),
                2 | 3 => (Command::Configure, configuration.as_bytes().to_vec()),
                4 => (Command::Prefill, body(&Prefill { layer: layer.into(), count: 4, weighted: 0 }, ids.as_bytes())),
                5 => (Command::Place, body(&Place { layer: layer.into(), hot: 4.into(), alpha: (1 << 31).into(), split: [2, 3, 2, 1].map(U16::new) }, &[])),
                6 => (Command::Token, token(layer, &logits, &ids.map(U16::get), noise & 1 != 0)),
                7 => (Command::Bias, bias_of(layer, &logits)),
                8 => (Command::Events, Vec::new()),
                9 => (Command::Snapshot, body(&Part { layer: layer.into(), part: u16::from(noise / 128).into() }, &[])),
                10 => {
                    // As it was, or with bytes changed.
                    let part = body(&Part { layer: layer.into(), part: 0.into() }, &[]);
                    let words = ask(&mut engine, Command::Snapshot, &part).1;
                    (Command::Restore, [part, words].concat())
                }
                _ => (Command::Counters, layer.to_le_bytes().to_vec()),
            };
            for (index, byte) in changes {
                if !body.is_empty() {
                    let index = index.index(body.len());
                    body[index] = byte;
                }
            }
            let before = state(&mut engine);
            let (status, _) = ask(&mut engine, command, &body);
            prop_assert!(status == Status::Done || state(&mut engine) == before, "{:?} {:?}", command, status);
        }
    }

    #[test]
    fn bodies_of_any_length_are_checked(kind in 0u8..14, length in 0usize..120, configured: bool, byte: u8) {
        let mut engine = engine(Untimed::default());
        if configured {
            ask(&mut engine, Command::Configure, configuration().as_bytes());
        }
        let before = state(&mut engine);
        let request = frame(next(&engine, kind), &std::vec![byte; length]);
        let (status, _) = answer(&mut engine, &request);
        prop_assert!(status == Status::Done || state(&mut engine) == before);
        prop_assert!(Command::try_from(kind).is_ok() || status == Status::Command);
    }
}

/// The status of a request to an engine in the state that `prepare` leaves it in; checks that a refusal changes
/// nothing.
fn refusal(prepare: &[(Command, Vec<u8>)], command: Command, body: &[u8]) -> Status {
    let mut engine = engine(Untimed::default());
    for (command, body) in prepare {
        assert_eq!(ask(&mut engine, *command, body).0, Status::Done, "{command:?}");
    }
    let before = state(&mut engine);
    let (status, _) = ask(&mut engine, command, body);
    assert!(status == Status::Done || state(&mut engine) == before);
    status
}

fn configured(on_demand: u8) -> Vec<(Command, Vec<u8>)> {
    std::vec![(Command::Configure, Configure { on_demand, ..configuration() }.as_bytes().to_vec())]
}

#[test]
fn commands_out_of_order() {
    let zeros = [Logit::ZERO; 12];
    let counters = ALL_LAYERS.to_le_bytes().to_vec();
    let prefill = body(&Prefill { layer: 0.into(), count: 1, weighted: 0 }, &[3, 0]);
    let place = Place { layer: 0.into(), hot: 5.into(), alpha: 0.into(), split: [7, 0, 0, 0].map(U16::new) };
    let place = place.as_bytes().to_vec();
    let wanted = token(0, &zeros, &[], true);
    for (command, body) in [
        (Command::Prefill, &prefill),
        (Command::Place, &place),
        (Command::Token, &wanted),
        (Command::Counters, &counters),
    ] {
        assert_eq!(refusal(&[], command, body), Status::Order, "{command:?} before it is configured");
    }
    assert_eq!(refusal(&configured(1), Command::Configure, configuration().as_bytes()), Status::Order);
    assert_eq!(refusal(&configured(0), Command::Place, &place), Status::Order, "without a prefill");
    assert_eq!(refusal(&configured(1), Command::Prefill, &prefill), Status::Order, "nothing is placed on demand");
    assert_eq!(refusal(&configured(1), Command::Place, &place), Status::Order);
    assert_eq!(refusal(&configured(0), Command::Token, &wanted), Status::Order, "before anything is placed");
    let mut steps = configured(0);
    steps.push((Command::Prefill, prefill));
    steps.push((Command::Place, place));
    assert_eq!(refusal(&steps, Command::Token, &wanted), Status::Done);
    steps.push((Command::Reset, std::vec![0; 4]));
    assert_eq!(refusal(&steps, Command::Token, &wanted), Status::Order);
    assert_eq!(refusal(&steps, Command::Configure, configuration().as_bytes()), Status::Done);
}

#[test]
fn configurations_out_of_range() {
    let good = configuration();
    let try_one = |change: &dyn Fn(&mut Configure)| {
        let mut configure = good;
        change(&mut configure);
        refusal(&[], Command::Configure, configure.as_bytes())
    };
    assert_eq!(try_one(&|_| ()), Status::Done);
    let values: [&dyn Fn(&mut Configure); 27] = [
        &|c| c.layers = 0.into(),
        &|c| c.experts = 0.into(),
        &|c| c.experts = 3.into(),
        &|c| c.k = 0,
        &|c| c.k = 13,
        &|c| c.capacity = 0.into(),
        &|c| c.capacity = 13.into(),
        &|c| c.bits = 0,
        &|c| c.bits = 17,
        &|c| c.threshold = 0,
        &|c| c.score = 5,
        &|c| c.on_demand = 2,
        &|c| c.bounds_error = 2,
        // 12 experts in groups: of equal size, enough of them open for 4.
        &|c| c.groups = 0,
        &|c| c.groups = 5,
        &|c| c.groups = 33,
        &|c| c.top_groups = 2,
        &|c| (c.groups, c.top_groups) = (4, 1),
        &|c| (c.groups, c.top_groups) = (4, 0),
        &|c| c.group_rating = 2,
        &|c| c.renormalise = 2,
        &|c| c.table = 2,
        &|c| c.count = 3,
        &|c| c.bound = 1.into(),
        &|c| c.jitter = 1.into(),
        &|c| c.scale = 0.into(),
        &|c| c.null_experts = 13.into(),
    ];
    for (index, change) in values.iter().enumerate() {
        assert_eq!(try_one(change), Status::Value, "{index}");
    }
    assert_eq!(try_one(&|c| c.reserved = 1), Status::Value);
    assert_eq!(try_one(&|c| c.events = 2), Status::Value);
    assert_eq!(try_one(&|c| (c.groups, c.top_groups) = (4, 2)), Status::Done);
    let capacities: [&dyn Fn(&mut Configure); 4] =
        [&|c| c.layers = 4.into(), &|c| c.experts = 17.into(), &|c| c.k = 65, &|c| c.bias_place = 1];
    for change in capacities {
        assert_eq!(try_one(change), Status::Capacity);
    }
    // The largest of everything.
    let largest = |c: &mut Configure| {
        (c.layers, c.experts, c.k, c.capacity) = (3.into(), 16.into(), 16, 16.into());
        (c.keep, c.bits, c.threshold, c.bounds_error) = (255, 16, 255, 1);
        (c.eps, c.error, c.slow, c.reopened, c.fast) =
            (u32::MAX.into(), u32::MAX.into(), u32::MAX.into(), u32::MAX.into(), u32::MAX.into());
    };
    assert_eq!(try_one(&largest), Status::Done);
}

#[test]
fn tokens_out_of_range() {
    let zeros = [Logit::ZERO; 12];
    let wanted = [0, 1, 2, 3];
    let token_of = |body: &[u8]| refusal(&configured(1), Command::Token, body);
    let good = token(0, &zeros, &wanted, true);
    assert_eq!(token_of(&good), Status::Done);
    assert_eq!(token_of(&token(2, &zeros, &wanted, true)), Status::Layer, "there is memory, but no such layer");
    assert_eq!(token_of(&token(u16::MAX, &zeros, &wanted, true)), Status::Layer);
    assert_eq!(token_of(&token(0, &zeros, &[0, 1, 2, 12], true)), Status::Id);
    assert_eq!(token_of(&token(0, &zeros, &[0, 1, 2, 2], true)), Status::Id);
    assert_eq!(token_of(&token(0, &zeros, &[0, 1, 2], true)), Status::Length);
    assert_eq!(token_of(&token(0, &zeros, &[0, 1, 2, 3, 4], true)), Status::Length);
    assert_eq!(token_of(&token(0, &zeros[..11], &wanted, true)), Status::Length);
    assert_eq!(token_of(&good[..good.len() - 1]), Status::Length);
    assert_eq!(token_of(&[&good[..], &[0]].concat()), Status::Length);
    for (place, value, status) in [(5, 2, Status::Value), (6, 1, Status::Length), (7, 1, Status::Length)] {
        let mut bytes = good.clone();
        bytes[place] = value;
        assert_eq!(token_of(&bytes), status, "{place}");
    }
}

#[test]
fn biases_out_of_range_and_tables() {
    let mut engine = engine(Untimed::default()).with_bias(std::vec![Logit::ZERO; 24].leak());
    let zeros = [Logit::ZERO; 12];
    let good = bias_of(1, &[Logit::ONE; 12]);
    assert_eq!(ask(&mut engine, Command::Bias, &good).0, Status::Order, "before it is configured");
    let three = Configure { layers: 3.into(), bias_place: 1, ..configuration() };
    assert_eq!(ask(&mut engine, Command::Configure, three.as_bytes()).0, Status::Capacity, "24 biases, not 36");
    let place = Configure { bias_place: 4, ..configuration() };
    assert_eq!(ask(&mut engine, Command::Configure, place.as_bytes()).0, Status::Value);
    let configure = Configure { bias_place: 1, ..configuration() };
    assert_eq!(ask(&mut engine, Command::Configure, configure.as_bytes()).0, Status::Done);
    let before = state(&mut engine);
    for (body, status) in [
        (bias_of(2, &zeros), Status::Layer),
        (bias_of(0, &zeros[..11]), Status::Length),
        (bias_of(0, &[Logit::ZERO; 13]), Status::Length),
        (good[..good.len() - 1].to_vec(), Status::Length),
        ([&good[..], &[0]].concat(), Status::Length),
    ] {
        assert_eq!(ask(&mut engine, Command::Bias, &body).0, status);
        assert!(state(&mut engine) == before);
    }
    assert_eq!(ask(&mut engine, Command::Token, &token(1, &zeros, &[], true)).0, Status::Order, "before its bias");
    assert_eq!(ask(&mut engine, Command::Bias, &good).0, Status::Done);
    assert_eq!(engine.bias, [&zeros[..], &[Logit::ONE; 12]].concat());
    assert_eq!(ask(&mut engine, Command::Token, &token(1, &zeros, &[], true)).0, Status::Done);
    assert_eq!(ask(&mut engine, Command::Token, &token(0, &zeros, &[], true)).0, Status::Order, "another layer");
    assert_eq!(ask(&mut engine, Command::Reset, &[0; 4]).0, Status::Done);
    assert_eq!(ask(&mut engine, Command::Configure, configure.as_bytes()).0, Status::Done);
    assert_eq!(ask(&mut engine, Command::Token, &token(1, &zeros, &[], true)).0, Status::Order, "forgotten");
    // Experts from a table have to be there; a token may have fewer than k of them only where it says so.
    let table = [(Command::Configure, Configure { table: 1, ..configuration() }.as_bytes().to_vec())];
    assert_eq!(refusal(&table, Command::Token, &token(0, &zeros, &[], true)), Status::Value);
    assert_eq!(refusal(&table, Command::Token, &token(0, &zeros, &[7, 3, 9, 1], true)), Status::Done);
    let dynamic = Configure { count: 1, bound: (1 << 31).into(), ..configuration() };
    let dynamic = [(Command::Configure, dynamic.as_bytes().to_vec())];
    assert_eq!(refusal(&dynamic, Command::Token, &token(0, &zeros, &[7, 3], true)), Status::Done);
    assert_eq!(refusal(&dynamic, Command::Token, &token(0, &zeros, &[7, 3, 1, 2, 4], true)), Status::Length);
}

/// Null experts are never hot, and have no bits.
#[test]
fn null_experts_are_not_placed() {
    let nulls = Configure { on_demand: 0, null_experts: 10.into(), ..configuration() };
    let mut steps = std::vec![(Command::Configure, nulls.as_bytes().to_vec())];
    let prefill = Prefill { layer: 0.into(), count: 2, weighted: 0 };
    steps.push((Command::Prefill, body(&prefill, &[5, 0, 1, 0])));
    let place = Place { layer: 0.into(), hot: 3.into(), alpha: 0.into(), split: [0; 4].map(U16::new) };
    assert_eq!(refusal(&steps, Command::Place, place.as_bytes()), Status::Value, "only two are real");
    let place = Place { hot: 1.into(), split: [1, 0, 0, 0].map(U16::new), ..place };
    assert_eq!(refusal(&steps, Command::Place, place.as_bytes()), Status::Done);
    steps.push((Command::Place, place.as_bytes().to_vec()));
    let mut engine = engine(Untimed::default());
    for (command, body) in &steps {
        let (status, bytes) = ask(&mut engine, *command, body);
        assert_eq!(status, Status::Done);
        assert!(*command != Command::Place || bytes == [1, 0]);
    }
    let (status, bytes) = ask(&mut engine, Command::Token, &token(0, &[Logit::ZERO; 12], &[5, 1, 0, 11], true));
    let (_, runs, _) = decision(&bytes);
    let bits: Vec<(u16, u8)> = runs.iter().map(|run| (run.expert.get(), run.bits)).collect();
    // Expert 0 is the only one that is neither at hand nor nothing; another null expert stands in for it.
    assert_eq!((status, bits), (Status::Done, std::vec![(5, 0), (1, 0), (2, 0), (11, 0)]));
}

#[test]
fn prefill_and_placement_out_of_range() {
    let prefill_of = |prefill: Prefill, ids: &[u16], weights: &[u32]| {
        let ids: Vec<U16> = ids.iter().copied().map(U16::new).collect();
        let weights: Vec<U32> = weights.iter().copied().map(U32::new).collect();
        let body = body(&prefill, &[ids.as_bytes(), weights.as_bytes()].concat());
        refusal(&configured(0), Command::Prefill, &body)
    };
    let prefill = Prefill { layer: 0.into(), count: 2, weighted: 1 };
    assert_eq!(prefill_of(prefill, &[1, 2], &[1 << 31, 0]), Status::Done);
    assert_eq!(prefill_of(prefill, &[1, 2], &[(1 << 31) + 1, 0]), Status::Value);
    assert_eq!(prefill_of(prefill, &[1, 2], &[0]), Status::Length);
    assert_eq!(prefill_of(prefill, &[1, 1], &[0, 0]), Status::Id);
    assert_eq!(prefill_of(prefill, &[1, 12], &[0, 0]), Status::Id);
    assert_eq!(prefill_of(Prefill { layer: 2.into(), ..prefill }, &[1, 2], &[0, 0]), Status::Layer);
    assert_eq!(prefill_of(Prefill { weighted: 2, ..prefill }, &[1, 2], &[0, 0]), Status::Value);
    assert_eq!(prefill_of(Prefill { count: 5, weighted: 0, ..prefill }, &[1, 2, 3, 4, 5], &[]), Status::Length);
    let mut steps = configured(0);
    steps.push((Command::Prefill, body(&Prefill { weighted: 0, ..prefill }, &[1, 0, 2, 0])));
    let place = Place { layer: 0.into(), hot: 5.into(), alpha: 0.into(), split: [4, 3, 0, 0].map(U16::new) };
    let prepared = steps.clone();
    let place_of = |place: Place| refusal(&prepared, Command::Place, place.as_bytes());
    assert_eq!(place_of(place), Status::Done);
    assert_eq!(place_of(Place { layer: 2.into(), ..place }), Status::Layer);
    assert_eq!(place_of(Place { layer: 1.into(), ..place }), Status::Order, "no prefill in this layer");
    assert_eq!(place_of(Place { hot: 6.into(), split: [6, 0, 0, 0].map(U16::new), ..place }), Status::Value);
    assert_eq!(place_of(Place { hot: 4.into(), ..place }), Status::Value);
    assert_eq!(place_of(Place { hot: 4.into(), split: [0; 4].map(U16::new), ..place }), Status::Done);
    assert_eq!(place_of(Place { split: [u16::MAX; 4].map(U16::new), ..place }), Status::Value);
    steps.push((Command::Place, place.as_bytes().to_vec()));
    assert_eq!(refusal(&steps, Command::Place, place.as_bytes()), Status::Order, "the prefill is used up");
    let counters_of = |layer: u16| refusal(&steps, Command::Counters, &layer.to_le_bytes());
    assert_eq!([0, 1, 2, ALL_LAYERS].map(counters_of), [Status::Done, Status::Done, Status::Layer, Status::Done]);
}

#[test]
fn a_placement_is_the_papers() {
    let mut engine = engine(Untimed::default());
    ask(&mut engine, Command::Configure, Configure { on_demand: 0, ..configuration() }.as_bytes());
    let mut demand = [Demand::default(); 12];
    for sequence in 1..=50u32 {
        let ids = [sequence % 3, 3 + sequence % 4, 8, 11].map(|id| id as u16);
        let weights = [3, 9, sequence, 77].map(|weight| Gate::from_bits(weight << 20));
        Demand::observe(&mut demand, &ids, &weights);
        let weights = weights.map(|weight| U32::new(weight.to_bits()));
        let rest = [ids.map(U16::new).as_bytes(), weights.as_bytes()].concat();
        let prefill = Prefill { layer: 1.into(), count: 4, weighted: 1 };
        assert_eq!(ask(&mut engine, Command::Prefill, &body(&prefill, &rest)).0, Status::Done);
    }
    let (mut values, mut order) = ([Gate::ZERO; 12], [0; 12]);
    importance(&demand, Eps::from_bits(1 << 31), &mut values);
    rank(&values, &mut order);
    let place = Place { layer: 1.into(), hot: 5.into(), alpha: (1 << 31).into(), split: [3, 2, 1, 1].map(U16::new) };
    let (status, bytes) = ask(&mut engine, Command::Place, place.as_bytes());
    let expected: Vec<u8> = order[..5].iter().flat_map(|expert| expert.to_le_bytes()).collect();
    assert_eq!((status, bytes), (Status::Done, expected));
    let wanted = [order[0], order[5], order[6], order[11]];
    let (status, bytes) = ask(&mut engine, Command::Token, &token(1, &[Logit::ZERO; 12], &wanted, true));
    assert_eq!(status, Status::Done);
    let (_, runs, loads) = decision(&bytes);
    assert!(loads.is_empty());
    let bits = |expert: u16| runs.iter().find(|run| run.expert.get() == expert).map(|run| run.bits);
    // Whoever was chosen: the hot ones run on the GPU, the others at the bits of their rank.
    for run in &runs {
        let place = order.iter().position(|&expert| expert == run.expert.get()).unwrap();
        let expected = [0, 0, 0, 0, 0, 4, 3, 2, 2, 1, 1, 1][place];
        assert_eq!(bits(run.expert.get()), Some(expected));
    }
}

#[test]
fn a_second_prompt_is_heard_while_tokens_run() {
    let mut engine = engine(Untimed::default());
    let configure = Configure { on_demand: 0, bits: 7, eps: 0.into(), ..configuration() };
    let mut asked = |command, body: &[u8]| {
        let (status, bytes) = ask(&mut engine, command, body);
        assert_eq!(status, Status::Done, "{command:?}");
        bytes
    };
    let prompt =
        |ids: [u16; 4]| body(&Prefill { layer: 0.into(), count: 4, weighted: 0 }, ids.map(U16::new).as_bytes());
    let place = |hot: u16, split: [u16; 4]| Place {
        layer: 0.into(),
        hot: hot.into(),
        alpha: 0.into(),
        split: split.map(U16::new),
    };
    let wanted = token(0, &[Logit::ZERO; 12], &[1, 4, 7, 11], true);
    let bits = |bytes: &[u8]| decision(bytes).1.iter().map(|run| run.bits).collect::<Vec<_>>();
    asked(Command::Configure, configure.as_bytes());
    asked(Command::Prefill, &prompt([4, 5, 6, 7]));
    asked(Command::Place, place(4, [4, 4, 0, 0]).as_bytes());
    // Of those that nobody wanted the lower ids get more bits: 0 to 3 two, 8 to 11 one.
    assert_eq!(bits(&asked(Command::Token, &wanted)), [2, 0, 0, 1]);
    asked(Command::Prefill, &prompt([0, 1, 2, 3]));
    assert_eq!(bits(&asked(Command::Token, &wanted)), [2, 0, 0, 1], "placed by the first prompt until the second is");
    asked(Command::Prefill, &prompt([0, 1, 2, 4]));
    // A token does not make the controller forget the prompt.
    assert_eq!(asked(Command::Place, place(3, [0; 4]).as_bytes()), [0, 0, 1, 0, 2, 0]);
    assert_eq!(bits(&asked(Command::Token, &wanted)), [0, 7, 7, 7], "without a split all have the configured bits");
    let bytes = asked(Command::Counters, &[0, 0]);
    assert_eq!(Counters::read_from_bytes(&bytes).unwrap().tokens.get(), 3);
}

#[test]
fn damaged_frames_and_other_versions() {
    let mut engine = engine(Untimed::default());
    let good = frame(next(&engine, Command::Configure as u8), configuration().as_bytes());
    assert_eq!(answer(&mut engine, &[]).0, Status::Frame);
    assert_eq!(answer(&mut engine, &good[..good.len() - 1]).0, Status::Frame);
    let sealed = |change: &dyn Fn(&mut [u8])| {
        let mut content = good[..good.len() - 4].to_vec();
        change(&mut content);
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&content);
        [content, crc.to_le_bytes().to_vec()].concat()
    };
    for (place, value, status) in [
        (0, 0, Status::Frame),
        (2, 1, Status::Version),
        (3, 99, Status::Command),
        (3, Command::Configure as u8 | ANSWER, Status::Command),
        (4, 2, Status::Session),
        (8, 2, Status::Sequence),
        (12, 55, Status::Length),
        (13, 1, Status::Length),
        (14, 1, Status::Value),
        (15, 2, Status::Value),
    ] {
        let found = answer(&mut engine, &sealed(&|bytes| bytes[place] = value));
        assert_eq!(found.0, status, "byte {place}");
    }
    assert_eq!(engine.refused, 12);
    assert_eq!(answer(&mut engine, &sealed(&|_| ())).0, Status::Done);
}

#[test]
fn without_memory_for_answers_everything_is_refused() {
    let layers = std::vec![Layer::new(); LAYERS].leak();
    for room in [0, 1, wire::max_answer(E) - 1] {
        let mut engine = Engine::new(&mut *layers, std::vec![0; room].leak(), Untimed::default(), Uncounted);
        let reset = frame(Head { kind: Command::Reset as u8, session: 1, ..Head::default() }, &[0; 4]);
        assert_eq!(answer(&mut engine, &reset).0, Status::Value);
        assert_eq!(ask(&mut engine, Command::Identify, &[]).0, Status::Value);
    }
}

#[test]
fn a_full_queue_is_busy_until_a_unit_is_free() {
    /// Units that take jobs or not.
    struct Stuck(bool);
    impl Units for Stuck {}
    impl ExecutionUnits for Stuck {
        fn submit(&mut self, _: &Job) -> Result<(), Busy> {
            if self.0 { Err(Busy) } else { Ok(()) }
        }
        fn poll(&mut self) -> Option<Job> {
            None
        }
    }
    let mut engine = engine(Stuck(true));
    // One expert fits in fast memory: at least three of four run near the data.
    let configure = Configure { capacity: 1.into(), eps: 0.into(), ..configuration() };
    ask(&mut engine, Command::Configure, configure.as_bytes());
    let request = token(0, &[Logit::ZERO; 12], &[4, 5, 6, 7], true);
    let mut tokens = 0;
    while ask(&mut engine, Command::Token, &request).0 == Status::Done {
        tokens += 1;
        assert!(tokens < 100, "the queue is full at some time");
    }
    let before = state(&mut engine);
    assert_eq!(ask(&mut engine, Command::Token, &request).0, Status::Busy);
    assert!(state(&mut engine) == before);
    engine.units.0 = false;
    assert_eq!(ask(&mut engine, Command::Token, &request).0, Status::Done, "the same request");
}

#[test]
fn says_what_it_can_hold() {
    let mut engine = engine(Untimed::default());
    let (status, bytes) = ask(&mut engine, Command::Identify, &[]);
    let identity = Identity::read_from_bytes(&bytes).unwrap();
    assert_eq!(status, Status::Done);
    assert_eq!((identity.layers.get(), identity.experts.get(), identity.k, identity.counts), (3, 16, 64, 0));
    assert_eq!((usize::from(identity.jobs.get()), identity.session.get(), identity.queues), (QUEUE, 1, 2));
    assert_eq!(ask(&mut engine, Command::Identify, &[0]).0, Status::Length);
}

#[test]
fn instructions_are_summed_over_a_counter_that_wraps() {
    /// Eight bits, two ticks an instruction, ten instructions from one reading to the next.
    #[derive(Default)]
    struct Clock(std::cell::Cell<u64>);
    impl InstructionCounter for Clock {
        const BITS: u32 = 8;
        fn ticks(&self) -> u64 {
            self.0.set(self.0.get() + 20);
            self.0.get() & 0xFF
        }
        fn instructions(ticks: u64) -> u64 {
            ticks / 2
        }
    }
    let layers = std::vec![Layer::new(); LAYERS].leak();
    let answers = std::vec![0; wire::max_answer(E)].leak();
    let mut engine = Controller::<_, _, E, W>::new(layers, answers, Untimed::default(), Clock::default());
    let head = |kind: Command, sequence| Head { kind: kind as u8, queue: 0, session: 5, sequence };
    engine.handle(&frame(head(Command::Reset, 0), &[0; 4]));
    engine.handle(&frame(head(Command::Configure, 1), configuration().as_bytes()));
    for sequence in 2..=41 {
        let request = frame(head(Command::Token, sequence), &token(0, &[Logit::ZERO; 12], &[], false));
        let (head, _, _) = decision(Frame::open(engine.handle(&request)).unwrap().body.rest());
        assert_eq!((head.select_instructions.get(), head.decide_instructions.get()), (10, 30));
    }
    let answer = Frame::open(engine.handle(&frame(head(Command::Counters, 42), &[0, 0]))).unwrap();
    let counters = Counters::read_from_bytes(answer.body.rest()).unwrap();
    assert_eq!((counters.select_instructions.get(), counters.decide_instructions.get()), (400, 1200));
    assert_eq!(counters.update_instructions.get(), 400);
}
