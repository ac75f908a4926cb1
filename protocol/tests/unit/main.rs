//! The driver of the hardware unit against what stands for it: whatever a host sends, it gets what a controller without
//! a unit answers, and what the unit can answer the unit does.

mod engine;

use std::cell::RefCell;
use std::sync::atomic::AtomicU32;

use cptr_core::dispatch::{Busy, ExecutionUnits, Job};
use cptr_core::{Logit, Router};
use cptr_protocol::region::{Attachment, FEATURE_NO_CHECKSUM, FEATURES, State};
use cptr_protocol::wire::{self, Command, Configure, Head, Integrity, Place, Prefill, Status, Writer};
use cptr_protocol::{
    Coherent, Controller, Geometry, HostRegion, Layer, Mailbox, Rings, Uncounted, Unit, Units, Untimed, words_for,
};
use engine::{EXPERTS, Engine, K, LAYERS};
use proptest::prelude::*;
use zerocopy::little_endian::{I32, U16};

const GEOMETRY: Geometry =
    Geometry { queues: 1, slots: 2, request: wire::max_request(EXPERTS), answer: wire::max_answer(EXPERTS) };
type Layers = [Layer<EXPERTS, { words_for(EXPERTS) }>; LAYERS];

/// Units that write down what they are given.
struct Written<'a>(&'a RefCell<Vec<Job>>, Untimed);

impl ExecutionUnits for Written<'_> {
    fn submit(&mut self, job: &Job) -> Result<(), Busy> {
        self.0.borrow_mut().push(*job);
        self.1.submit(job)
    }

    fn poll(&mut self) -> Option<Job> {
        self.1.poll()
    }
}

impl Units for Written<'_> {}

fn memory(geometry: Geometry) -> Vec<AtomicU32> {
    (0..geometry.words()).map(|_| AtomicU32::new(0)).collect()
}

/// A softmax router, a bound of 0.1, placed.
fn configuration(experts: usize, k: usize) -> Configure {
    Configure {
        layers: (LAYERS as u16).into(),
        experts: (experts as u16).into(),
        k: k as u8,
        keep: 1,
        score: 1,
        on_demand: 0,
        capacity: (experts as u16).into(),
        bits: 2,
        threshold: 8,
        eps: 429_496_729.into(),
        bounds_error: 0,
        bias_place: 0,
        groups: 1,
        top_groups: 1,
        error: 0.into(),
        slow: (1 << 26).into(),
        reopened: (1 << 29).into(),
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

fn frame(command: Command, session: u32, sequence: u32, body: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buffer = vec![0; GEOMETRY.request];
    let mut writer = Writer::new(&mut buffer);
    body(&mut writer);
    let head = Head { kind: command as u8, queue: 0, session, sequence };
    writer.finish_for(head, Status::Done, Integrity::Link).to_vec()
}

/// The requests that begin a session and place a quarter of the experts of each layer.
fn beginning(configuration: Configure, generation: u32) -> Vec<Vec<u8>> {
    let experts = configuration.experts.get() - configuration.null_experts.get();
    let mut requests = vec![
        frame(Command::Reset, 1, 0, |body| body.put(&wire::Reset { generation: generation.into() })),
        frame(Command::Configure, 1, 1, |body| body.put(&configuration)),
    ];
    for layer in 0..LAYERS as u16 {
        let sequence = requests.len() as u32;
        requests.push(frame(Command::Prefill, 1, sequence, |body| {
            body.put(&Prefill { layer: layer.into(), count: 1, weighted: 0 });
            body.put(&U16::new(3 * layer));
        }));
        requests.push(frame(Command::Place, 1, sequence + 1, |body| {
            let cold = experts - experts / 4;
            let split = [cold - 3 * (cold / 4), cold / 4, cold / 4, cold / 4].map(U16::new);
            body.put(&Place { layer: layer.into(), hot: (experts / 4).into(), alpha: 0.into(), split });
        }));
    }
    requests
}

fn token(sequence: u32, layer: u16, logits: &[i32], wanted: &[u16]) -> Vec<u8> {
    frame(Command::Token, 1, sequence, |body| {
        body.put(&wire::Token {
            layer: layer.into(),
            experts: (logits.len() as u16).into(),
            wanted: wanted.len() as u8,
            starts_sequence: 0,
            loaded: 0,
            failed: 0,
            activation: (sequence * 3).into(),
            result: (sequence * 5).into(),
        });
        logits.iter().for_each(|&logit| body.put(&I32::new(logit)));
        wanted.iter().for_each(|&expert| body.put(&U16::new(expert)));
    })
}

/// A controller with a unit, its twin without, and a host of each.
struct Pair<'a> {
    engine: &'a Engine<'a>,
    unit: Unit<&'a Engine<'a>>,
    controller: Controller<'a, Written<'a>, Uncounted, EXPERTS, { words_for(EXPERTS) }>,
    rings: Rings<'a, Coherent>,
    host: HostRegion<'a, Coherent>,
    jobs: &'a RefCell<Vec<Job>>,
    twin: Controller<'a, Untimed, Uncounted, EXPERTS, { words_for(EXPERTS) }>,
}

impl Pair<'_> {
    /// Sends a request; returns the answer, which is that of the twin, and whether the unit has given it.
    fn ask(&mut self, request: &[u8]) -> (Vec<u8>, bool) {
        let before = self.unit.answered();
        self.jobs.borrow_mut().clear();
        assert_eq!(self.host.send(0, request), Ok(true));
        self.engine.ring();
        while !self.unit.waits() && self.unit.step(&mut self.controller, &mut self.rings) {}
        let mut answer = vec![0; GEOMETRY.answer];
        let length = self.host.receive(0, &mut answer).unwrap().expect("an answer");
        answer.truncate(length);
        let expected = self.twin.handle_from(request, Integrity::Link).to_vec();
        while self.twin.idle() {}
        let by_unit = self.unit.answered() != before;
        assert_eq!(answer, expected, "by the unit: {by_unit}");
        if by_unit {
            let words = |job: &Job| {
                let ids = u32::from(job.layer) | u32::from(job.expert) << 16;
                let run = u32::from(job.bits) | u32::from(job.rank) << 8;
                [job.token, ids, run, job.weight.to_bits(), job.activation, job.result]
            };
            assert_eq!(self.jobs.borrow().iter().map(words).collect::<Vec<_>>(), *self.engine.jobs.borrow());
            assert_eq!(self.unit.listed(), self.jobs.borrow().len());
        }
        (answer, by_unit)
    }
}

/// Lets `use_pair` talk to both; the host attaches with such features.
fn with<T>(geometry: Geometry, features: u32, use_pair: impl FnOnce(&mut Pair<'_>) -> T) -> T {
    let memory = memory(geometry);
    let engine = Engine::new(&memory);
    let (mut layers, mut twin_layers): (Layers, Layers) = Default::default();
    let mut answers = vec![0; geometry.queues * wire::max_answer(EXPERTS)];
    let (mut twin_answers, mut request) = (answers.clone(), vec![0; GEOMETRY.request.div_ceil(4)]);
    let jobs = RefCell::default();
    let rings = Rings::new(&memory, geometry, Coherent, &mut request).unwrap();
    let generation = rings.generation();
    let [mut bias, mut twin_bias] = [[Logit::ZERO; LAYERS * EXPERTS]; 2];
    let controller = Controller::new(&mut layers, &mut answers, Written(&jobs, Untimed::default()), Uncounted);
    let twin = Controller::new(&mut twin_layers, &mut twin_answers, Untimed::default(), Uncounted);
    let mut pair = Pair {
        engine: &engine,
        unit: Unit::find(&engine, 0x1000).expect("the unit is there"),
        controller: controller.with_generation(generation).with_bias(&mut bias),
        rings,
        host: HostRegion::new(&memory, Coherent).with_features(features),
        jobs: &jobs,
        twin: twin.with_generation(generation).with_bias(&mut twin_bias),
    };
    while pair.host.attach().unwrap() == Attachment::Waiting {
        pair.unit.step(&mut pair.controller, &mut pair.rings);
    }
    use_pair(&mut pair)
}

/// Logits in steps, so that some are equal.
fn logits(experts: usize) -> impl Strategy<Value = Vec<i32>> {
    prop::collection::vec((-40i32..40).prop_map(|step| step << 13), experts..=experts)
}

fn wanted(logits: &[i32], k: usize) -> Vec<u16> {
    let logits: Vec<_> = logits.iter().map(|&logit| Logit::from_bits(logit)).collect();
    Router::softmax_selected(k).top_k::<K>(&logits).unwrap().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 128 }))]

    #[test]
    fn whatever_is_sent_the_answers_are_those_without_a_unit(
        (experts, k) in prop::sample::select(vec![(8, 2), (20, 3), (33, 5), (64, 8)]),
        score in 0u8..3,
        renormalise in 0u8..2,
        error: Option<u32>,
        keep in 0u8..9,
        tokens in prop::collection::vec((0..LAYERS as u16, logits(EXPERTS), 0u8..6, 0usize..256), 1..30),
    ) {
        let configuration = Configure {
            score, keep,
            // Of sigmoids the unit makes shares alone.
            renormalise: if score == 2 { 1 } else { renormalise },
            bounds_error: error.is_some().into(),
            error: error.unwrap_or(0).into(),
            ..configuration(experts, k)
        };
        with(GEOMETRY, FEATURES, |pair| {
            let beginning = beginning(configuration, pair.rings.generation());
            let mut sequence = beginning.len() as u32;
            for request in beginning {
                prop_assert_eq!(pair.ask(&request).0[14], 0);
            }
            for (layer, logits, kind, bit) in tokens {
                let logits = &logits[..experts];
                let mut list = wanted(logits, k);
                match kind {
                    0 => list.clear(),
                    1 => list.rotate_left(1),
                    _ => {}
                }
                let mut request = token(sequence, layer, logits, &list);
                match kind {
                    2 if bit < 240 => request[bit / 8] ^= 1 << (bit % 8),
                    2 => *request.iter_mut().nth_back(bit / 4 % 4).unwrap() ^= 1 << (bit % 8),
                    3 => request.truncate(request.len() - 1 - bit % 4),
                    _ => {}
                }
                let (answer, by_unit) = pair.ask(&request);
                match kind {
                    0 => prop_assert!(by_unit),
                    1 | 3 => prop_assert!(!by_unit),
                    2 => {}
                    // An odd list does not end with a word.
                    _ => prop_assert_eq!(by_unit, k % 2 == 0),
                }
                let done = answer[14] == 0 && answer[8..12] == sequence.to_le_bytes();
                sequence += u32::from(done);
            }
            // What was learnt and counted is the same, too.
            for layer in 0..LAYERS as u16 {
                let part = |part: u16| wire::Part { layer: layer.into(), part: part.into() };
                for number in 0..2 {
                    pair.ask(&frame(Command::Snapshot, 1, sequence, |body| body.put(&part(number))));
                    sequence += 1;
                }
                pair.ask(&frame(Command::Counters, 1, sequence, |body| body.put(&U16::new(layer))));
                sequence += 1;
            }
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    #[test]
    fn choices_by_scores_and_groups_are_the_units(
        (experts, groups) in prop::sample::select(vec![(8, 1), (32, 8), (64, 8), (64, 4), (48, 6), (64, 16)]),
        top in 1u8..9,
        two_best in 0u8..2,
        eps in prop::sample::select(vec![0, 1 << 28]),
        biases in prop::collection::vec(-20_000i32..20_000, LAYERS * EXPERTS),
        none: bool,
        tokens in prop::collection::vec((0..LAYERS as u16, logits(EXPERTS)), 1..12),
    ) {
        let (k, top) = (4, top.min(groups));
        let size = experts as u8 / groups;
        prop_assume!(u32::from(size) * u32::from(top) >= k);
        let configuration = Configure {
            score: 2, eps: eps.into(), bias_place: 1, groups, top_groups: top, group_rating: two_best,
            ..configuration(experts, k as usize)
        };
        with(GEOMETRY, FEATURES, |pair| {
            let mut requests = beginning(configuration, pair.rings.generation());
            for layer in 0..LAYERS {
                let sequence = requests.len() as u32;
                requests.push(frame(Command::Bias, 1, sequence, |body| {
                    body.put(&wire::Bias { layer: (layer as u16).into(), experts: (experts as u16).into() });
                    let biases = biases.iter().skip(layer * EXPERTS).take(experts);
                    biases.for_each(|&bias| body.put(&I32::new(if none { 0 } else { bias | 1 })));
                }));
            }
            let mut sequence = requests.len() as u32;
            for request in requests {
                prop_assert_eq!(pair.ask(&request).0[14], 0);
            }
            // Nobody may stand in, a bias has to be one, and groups have a power of two of experts.
            let done = eps == 0 && !none && (size.is_power_of_two() || top == groups);
            for (layer, logits) in tokens {
                let (answer, by_unit) = pair.ask(&token(sequence, layer, &logits[..experts], &[]));
                prop_assert_eq!((answer[14], by_unit), (0, done));
                sequence += 1;
            }
            Ok(())
        })?;
    }
}

/// Sends a session's beginning and a token; whether the unit answers that.
fn answers_a_token(geometry: Geometry, features: u32, configuration: Configure) -> bool {
    with(geometry, features, |pair| {
        let (experts, k) = (usize::from(configuration.experts.get()), usize::from(configuration.k));
        let mut beginning = beginning(configuration, pair.rings.generation());
        if configuration.on_demand == 1 {
            beginning.truncate(2);
        }
        let mut sequence = beginning.len() as u32;
        for request in beginning {
            pair.ask(&request);
        }
        let logits: Vec<i32> = (0..experts as i32).map(|expert| (expert * 7 % 13) << 14).collect();
        let mut last = false;
        for _ in 0..3 {
            let (answer, by_unit) = pair.ask(&token(sequence, 1, &logits, &wanted(&logits, k)));
            assert_eq!(answer[14], 0, "{configuration:?}");
            sequence += 1;
            last = by_unit;
        }
        last
    })
}

#[test]
fn what_the_unit_cannot_do_the_firmware_does() {
    let usual = configuration(32, 4);
    assert!(answers_a_token(GEOMETRY, FEATURES, usual));
    for configuration in [
        Configure { on_demand: 1, capacity: 8.into(), ..usual },
        Configure { score: 2, renormalise: 0, ..usual },
        Configure { score: 2, groups: 4, top_groups: 2, eps: 0.into(), ..usual },
        Configure { score: 3, ..usual },
        Configure { groups: 4, top_groups: 2, ..usual },
        Configure { count: 1, bound: (1 << 31).into(), ..usual },
        Configure { events: 1, ..usual },
        Configure { null_experts: 2.into(), ..usual },
    ] {
        assert!(!answers_a_token(GEOMETRY, FEATURES, configuration), "{configuration:?}");
    }
}

#[test]
fn frames_with_checksums_are_the_firmwares() {
    // The twin and the frames here are without: what matters is that the unit is never armed.
    let memory = memory(GEOMETRY);
    let engine = Engine::new(&memory);
    let (mut layers, mut answers): (Layers, _) = (Default::default(), vec![0; GEOMETRY.answer]);
    let mut request = vec![0; GEOMETRY.request.div_ceil(4)];
    let mut rings = Rings::new(&memory, GEOMETRY, Coherent, &mut request).unwrap();
    let mut controller = Controller::new(&mut layers, &mut answers, Untimed::default(), Uncounted);
    let mut unit = Unit::find(&engine, 0).unwrap();
    let mut host = HostRegion::new(&memory, Coherent).with_features(FEATURES & !FEATURE_NO_CHECKSUM);
    while host.attach().unwrap() == Attachment::Waiting {
        unit.step(&mut controller, &mut rings);
    }
    let mut buffer = vec![0; GEOMETRY.request];
    for (sequence, command) in [(0, Command::Reset), (1, Command::Configure)] {
        let mut writer = Writer::new(&mut buffer);
        match command {
            Command::Reset => writer.put(&wire::Reset { generation: 0.into() }),
            _ => writer.put(&configuration(32, 4)),
        }
        let head = Head { kind: command as u8, queue: 0, session: 1, sequence };
        host.send(0, writer.finish(head, Status::Done)).unwrap();
        unit.step(&mut controller, &mut rings);
        assert!(!engine.armed());
        let mut answer = vec![0; GEOMETRY.answer];
        assert!(host.receive(0, &mut answer).unwrap().is_some() && answer[14] == 0);
    }
}

#[test]
fn a_second_queue_would_wait_and_has_no_unit() {
    assert!(!answers_a_token(Geometry { queues: 2, ..GEOMETRY }, FEATURES, configuration(32, 4)));
}

#[test]
fn an_answer_that_is_not_what_was_decided_is_found() {
    with(GEOMETRY, FEATURES, |pair| {
        let beginning = beginning(configuration(32, 4), pair.rings.generation());
        let sequence = beginning.len() as u32;
        for request in beginning {
            pair.ask(&request);
        }
        pair.engine.garbles.set(true);
        let logits: Vec<i32> = (0..32).map(|expert| (expert * 7 % 13) << 14).collect();
        pair.host.send(0, &token(sequence, 0, &logits, &[])).unwrap();
        pair.engine.ring();
        assert!(pair.unit.step(&mut pair.controller, &mut pair.rings));
        assert_eq!(pair.host.device().unwrap().state, State::Broken);
        assert!(!pair.engine.armed());
        // The host attaches anew and goes on.
        pair.engine.garbles.set(false);
        pair.host.detach();
        for _ in 0..8 {
            let _ = (pair.host.attach(), pair.unit.step(&mut pair.controller, &mut pair.rings));
        }
        assert_eq!(pair.host.device().unwrap().state, State::Attached);
        pair.twin.handle_from(&token(sequence, 0, &logits, &[]), Integrity::Link);
        assert_eq!(pair.ask(&token(sequence + 1, 1, &logits, &[])).0[14], 0);
    });
}

#[test]
fn who_has_no_unit_has_no_driver() {
    struct Nothing;
    impl cptr_protocol::unit::Registers for Nothing {
        fn load(&self, _: u16) -> u32 {
            0
        }
        fn store(&mut self, _: u16, _: u32) {}
    }
    assert!(Unit::find(Nothing, 0).is_none());
}

#[test]
fn a_mailbox_without_a_unit_is_as_before() {
    // Rings that were armed for hardware still serve by themselves.
    with(GEOMETRY, FEATURES, |pair| {
        for request in beginning(configuration(8, 2), pair.rings.generation()) {
            pair.ask(&request);
        }
        pair.unit.stop();
        let request = token(6, 0, &[1 << 16, 0, 3 << 16, 0, 0, 2 << 16, 0, 0], &[2, 5]);
        pair.host.send(0, &request).unwrap();
        let controller = &mut pair.controller;
        let Ok(served) = pair.rings.poll(|request, integrity| controller.handle_from(request, integrity));
        let mut answer = vec![0; GEOMETRY.answer];
        assert!(served && pair.host.receive(0, &mut answer).unwrap().is_some() && answer[14] == 0);
    });
}
