//! The memory engine as others use it.
use cptr_hw_model::dram::{
    AddressError, CallError, Completion, Config, Controller, Device, Engine, EngineConfig, Id, ManagementCommand,
    MappingKind, NotTaken, PagePolicy, Refresh, RefreshManagement, Request, RequestKind, SnapshotError, StreamKind,
    Until, presets,
};
use proptest::prelude::*;
use std::collections::HashMap;

mod devices;

use devices::devices;

fn config(refresh: Refresh) -> Config {
    Config::new(MappingKind::Mop4ClXor, refresh)
}

fn engine(channels: u32, priorities: &[u8]) -> Engine {
    let config =
        EngineConfig { channels, priorities: priorities.to_vec(), ..EngineConfig::new(config(Refresh::AllBank)) };
    Engine::new(&presets::ddr5_4800(), config).unwrap()
}

/// Offers the stream as soon as there is room, in order; stops when the last request is taken or complete.
fn feed(engine: &mut Engine, stream: impl IntoIterator<Item = Request>, until: Until) -> Vec<Completion> {
    let mut completions = Vec::new();
    for request in stream {
        while let Err(refused) = engine.offer(request) {
            assert!(refused.is_busy());
            let next = if refused == NotTaken::NextCycle { engine.now() + 1 } else { engine.next_command().unwrap() };
            engine.advance(next).unwrap();
            completions.extend(std::iter::from_fn(|| engine.pop()));
        }
    }
    while until == Until::Served && !engine.is_idle() {
        let next = engine.next_event().unwrap();
        engine.advance(next).unwrap();
        completions.extend(std::iter::from_fn(|| engine.pop()));
    }
    completions
}

/// The engine is the controller of `cptr dram`: the same cycles, the same counts.
#[test]
fn a_list_gives_the_figures_of_a_run() {
    for device in presets::all() {
        for kind in StreamKind::ALL {
            for until in [Until::Accepted, Until::Served] {
                let requests = || kind.requests(20_000, device.organisation.access_bytes());
                let mut run = Controller::new(&device, config(Refresh::AllBank)).unwrap();
                run.run(requests(), until).unwrap();
                let mut engine = Engine::new(&device, EngineConfig::new(config(Refresh::AllBank))).unwrap();
                let completions = feed(&mut engine, requests(), until);
                assert_eq!(engine.statistics(), *run.statistics(), "{} {}", device.name, kind.name());
                if until == Until::Accepted {
                    assert_eq!(engine.now(), run.cycle(), "{} {}", device.name, kind.name());
                } else {
                    assert_eq!(completions.len(), 20_000);
                    assert_eq!(completions.last().unwrap().cycle, run.cycle());
                }
                let sum: u64 = completions.iter().map(|completion| completion.latency).sum();
                if until == Until::Served {
                    assert_eq!(sum as f64 / 20_000.0, run.statistics().read_latency.mean());
                }
            }
        }
    }
}

/// What a host does in a cycle.
#[derive(Debug, Clone)]
struct Turn {
    requests: Vec<Request>,
    cycles: u64,
}

fn turns(device: &Device, channels: u64) -> impl Strategy<Value = Vec<Turn>> + use<> {
    let (access, capacity) = (device.organisation.access_bytes(), device.organisation.capacity_bytes * channels);
    let request = (0u64..1 << 14, 0u32..12, any::<bool>(), 0u8..3).prop_map(move |(line, spread, write, source)| {
        let address = (line << spread) * access % capacity;
        if write { Request::write(address) } else { Request::read(address) }.from_source(source)
    });
    let turn = (prop::collection::vec(request, 0..8), prop_oneof![9 => 0u64..40, 1 => 0u64..12_000])
        .prop_map(|(requests, cycles)| Turn { requests, cycles });
    prop::collection::vec(turn, 1..120)
}

fn setups() -> impl Strategy<Value = (Device, EngineConfig, Vec<Turn>)> {
    let figures = (
        0usize..devices().len(),
        0usize..6,
        0usize..3,
        any::<bool>(),
        1u16..40,
        1u32..5,
        1u32..4,
        prop::collection::vec(0u8..3, 3),
    );
    figures.prop_flat_map(|(device, mapping, refresh, closed, queue_depth, offers_per_cycle, channels, priorities)| {
        let device = devices()[device].clone();
        let refresh = [Refresh::None, Refresh::AllBank, Refresh::SameBank][refresh];
        let refresh =
            if device.bank_refresh.is_none() && refresh == Refresh::SameBank { Refresh::AllBank } else { refresh };
        let page_policy = if closed { PagePolicy::Closed } else { PagePolicy::Open };
        let controller =
            Config { page_policy, queue_depth, offers_per_cycle, ..Config::new(MappingKind::ALL[mapping], refresh) };
        let config = EngineConfig { controller, channels, stripe_bytes: 256, priorities };
        let turns = turns(&device, u64::from(channels));
        (Just(device), Just(config), turns)
    })
}

/// Follows the turns in steps of at most `step` cycles; what was taken, and what came out.
fn follow(engine: &mut Engine, turns: &[Turn], step: u64) -> (Vec<Result<Id, NotTaken>>, Vec<Completion>) {
    let (mut taken, mut completions) = (Vec::new(), Vec::new());
    for turn in turns {
        taken.extend(turn.requests.iter().map(|&request| engine.offer(request)));
        let to = engine.now() + turn.cycles;
        while engine.now() < to {
            engine.advance(to.min(engine.now().saturating_add(step))).unwrap();
            completions.extend(std::iter::from_fn(|| engine.pop()));
        }
    }
    (taken, completions)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_time_is_cut_the_same_comes_out((device, config, turns) in setups(), step in 2u64..50) {
        let new = || Engine::new(&device, config.clone()).unwrap();
        let mut at_once = new();
        let (taken, completions) = follow(&mut at_once, &turns, u64::MAX);
        for step in [1, step] {
            let mut stepping = new();
            let found = follow(&mut stepping, &turns, step);
            prop_assert_eq!(&found.0, &taken);
            prop_assert_eq!(&found.1, &completions);
            prop_assert_eq!(stepping.statistics(), at_once.statistics());
            prop_assert_eq!(stepping.snapshot(), at_once.snapshot());
        }
        // In order, each once, of requests that were taken.
        prop_assert!(completions.is_sorted_by_key(|completion| completion.cycle));
        let mut ids: HashMap<Id, u32> = taken.iter().flatten().map(|&id| (id, 0)).collect();
        prop_assert_eq!(ids.len(), taken.iter().flatten().count());
        for completion in &completions {
            *ids.get_mut(&completion.id).unwrap() += 1;
        }
        prop_assert!(ids.values().all(|&times| times <= 1));
        // What has no completion yet is known to be on its way, and comes.
        let missing: Vec<Id> = ids.iter().filter(|(_, times)| **times == 0).map(|(id, _)| *id).collect();
        let mut expected = HashMap::new();
        for &id in &missing {
            expected.insert(id, at_once.completes(id).unwrap());
        }
        while !at_once.is_idle() {
            at_once.advance(at_once.now() + 100).unwrap();
            while let Some(completion) = at_once.pop() {
                let known = expected.remove(&completion.id).unwrap();
                prop_assert!(known.is_none_or(|cycle| cycle == completion.cycle));
            }
        }
        prop_assert!(expected.is_empty());
        let (all, sources) = (at_once.statistics(), [0, 1, 2].map(|source| at_once.source_statistics(source).unwrap()));
        prop_assert_eq!(sources.iter().map(|of| of.reads_served).sum::<u64>(), all.reads_served);
        prop_assert_eq!(sources.iter().map(|of| of.writes_served).sum::<u64>(), all.writes_served);
        prop_assert_eq!(sources.iter().map(|of| of.row_conflicts).sum::<u64>(), all.row_conflicts);
        prop_assert_eq!(sources.iter().map(|of| of.row_hits + of.row_misses).sum::<u64>(), all.row_hits + all.row_misses);
        prop_assert_eq!(sources.iter().map(|of| of.read_latency.len()).sum::<u64>(), all.read_latency.len());
        let answered = all.reads_served + all.writes_served + all.reads_forwarded + all.writes_merged;
        prop_assert_eq!(answered, taken.iter().flatten().count() as u64);
    }

    #[test]
    fn who_goes_on_from_a_snapshot_was_never_stopped((device, config, turns) in setups(), at in 0.0f64..1.0, damage: usize) {
        let (first, second) = turns.split_at((turns.len() as f64 * at) as usize);
        let mut engine = Engine::new(&device, config.clone()).unwrap();
        follow(&mut engine, first, 7);
        let bytes = engine.snapshot();
        let mut other = Engine::new(&device, config.clone()).unwrap();
        follow(&mut other, second, 11);
        other.restore(&bytes).unwrap();
        prop_assert_eq!(other.snapshot(), bytes.clone());
        prop_assert_eq!(follow(&mut other, second, u64::MAX), follow(&mut engine, second, u64::MAX));
        prop_assert_eq!(other.statistics(), engine.statistics());
        prop_assert_eq!(other.source_statistics(1), engine.source_statistics(1));
        // A damaged one changes nothing.
        let (now, mut damaged) = (other.snapshot(), bytes.clone());
        let place = damage % damaged.len();
        damaged[place] ^= 1 << (damage % 8);
        prop_assert!(other.restore(&damaged).is_err());
        prop_assert_eq!(other.restore(&bytes[..place]), Err(SnapshotError::Damaged));
        prop_assert_eq!(other.snapshot(), now);
    }

    /// Several channels are as many engines of one.
    #[test]
    fn channels_do_not_touch_each_other((device, config, turns) in setups()) {
        let mut together = Engine::new(&device, config.clone()).unwrap();
        let (_, completions) = follow(&mut together, &turns, u64::MAX);
        let stripe = cptr_hw_model::dram::ChannelStripe::new(config.channels, 256, &device).unwrap();
        let mut found = 0;
        for channel in 0..config.channels {
            let mut alone = Engine::new(&device, EngineConfig { channels: 1, ..config.clone() }).unwrap();
            let own = |request: &Request| {
                let (of, local) = stripe.split(request.address);
                (of == channel).then_some(Request { address: local, ..*request })
            };
            let turns: Vec<Turn> = turns.iter()
                .map(|turn| Turn { requests: turn.requests.iter().filter_map(own).collect(), cycles: turn.cycles }).collect();
            found += follow(&mut alone, &turns, u64::MAX).1.len();
            prop_assert_eq!(together.channel_statistics(channel as usize).unwrap(), alone.statistics());
        }
        prop_assert_eq!(found, completions.len());
    }
}

/// Random reads of two sources that always want more than there is.
fn contest(priorities: &[u8]) -> [f64; 2] {
    let mut engine = engine(1, priorities);
    let mut streams = [1u64, 2].map(|seed| seed);
    let mut waiting = [0u32; 2];
    while engine.now() < 400_000 {
        for source in 0..2u8 {
            let (state, waiting) = (&mut streams[usize::from(source)], &mut waiting[usize::from(source)]);
            while *waiting < 12 {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if engine.offer(Request::read((*state >> 37) * 64).from_source(source)).is_err() {
                    break;
                }
                *waiting += 1;
            }
        }
        let next = engine.next_event().unwrap().max(engine.now() + 1);
        engine.advance(next).unwrap();
        while let Some(completion) = engine.pop() {
            waiting[usize::from(completion.source)] -= 1;
        }
    }
    [0, 1].map(|source| engine.source_statistics(source).unwrap().read_latency.mean())
}

#[test]
fn who_has_priority_waits_less() {
    let [a, b] = contest(&[3, 3]);
    assert!((a / b - 1.0).abs() < 0.05, "equal: {a} and {b}");
    let [first, last] = contest(&[0, 1]);
    assert!(first < 0.9 * a && last > 1.1 * b, "{first} and {last} instead of {a} and {b}");
}

/// Two sources that share banks see each other's rows; alone there is nobody to conflict with.
#[test]
fn interference_is_counted_where_it_happens() {
    let rows =
        |source: u8, row: u64| (0..64u64).map(move |line| Request::read(row << 17 | line << 13).from_source(source));
    let mut shared = engine(1, &[0, 0]);
    for row in 0..20 {
        feed(&mut shared, rows(0, 2 * row).zip(rows(1, 2 * row + 1)).flat_map(|(a, b)| [a, b]), Until::Served);
    }
    let of = shared.source_statistics(0).unwrap();
    assert!(of.conflicts_with_others > 0 && of.conflicts_with_others <= of.row_conflicts);
    let mut alone = engine(1, &[0, 0]);
    for row in 0..20 {
        feed(&mut alone, rows(0, row), Until::Served);
    }
    let of = alone.source_statistics(0).unwrap();
    assert_eq!((of.conflicts_with_others, of.row_conflicts > 0), (0, true));
    assert_eq!(alone.source_statistics(1).unwrap().reads_served, 0);
}

#[test]
fn calls_out_of_order_change_nothing() {
    let mut engine = engine(2, &[0, 5]);
    engine.advance(100).unwrap();
    let id = engine.offer(Request::read(0)).unwrap();
    let before = engine.snapshot();
    assert_eq!(engine.advance(99), Err(CallError::Backwards { now: 100, to: 99 }));
    assert_eq!(engine.advance(u64::MAX), Err(CallError::TooFar { to: u64::MAX }));
    assert_eq!(engine.completes(Id::from_raw(id.raw() + 2)), Err(CallError::UnknownId));
    assert_eq!(engine.completes(Id::from_raw(u64::MAX)), Err(CallError::UnknownId));
    assert_eq!(engine.completes(id), Ok(None));
    let unaligned = AddressError::Unaligned { address: 65, access_bytes: 64 };
    assert_eq!(engine.offer(Request::read(65)), Err(NotTaken::Address(unaligned)));
    let outside = AddressError::OutOfRange { address: 16 << 30, capacity: 16 << 30 };
    assert_eq!(engine.offer(Request::read(16 << 30)), Err(NotTaken::Address(outside)));
    assert!(engine.offer(Request::read(u64::MAX - 63)).is_err());
    assert_eq!(engine.offer(Request::read(0).from_source(2)), Err(NotTaken::NoSuchSource { source: 2, sources: 2 }));
    assert_eq!((engine.pop(), engine.source_statistics(2).is_none()), (None, true));
    assert!(engine.channel_statistics(2).is_none());
    assert_eq!(engine.restore(&[]), Err(SnapshotError::Damaged));
    assert_eq!(engine.restore(&self::engine(1, &[0, 5]).snapshot()), Err(SnapshotError::OfAnother));
    assert_eq!(engine.snapshot(), before);
    // The queue of reads: 32, four in a cycle.
    let mut full = self::engine(1, &[0]);
    let mut taken = 0;
    loop {
        match full.offer(Request::read(taken << 20)) {
            Ok(_) => taken += 1,
            Err(NotTaken::NextCycle) => full.advance(full.now() + 1).unwrap(),
            Err(refused) => break assert_eq!(refused, NotTaken::QueueFull),
        }
    }
    let before = full.snapshot();
    assert_eq!(full.offer(Request::read(0)), Err(NotTaken::QueueFull));
    assert_eq!(full.snapshot(), before);
    assert!(full.offer(Request::write(0)).is_ok() || full.advance(full.now() + 1).is_ok());
}

/// Who never takes completions is stopped before they fill the memory.
#[test]
fn completions_that_nobody_takes_are_bounded() {
    let mut engine = engine(1, &[0]);
    let mut taken = 0u64;
    let refused = loop {
        match engine.offer(Request::read(taken % (1 << 20) * 64)) {
            Ok(_) => taken += 1,
            Err(NotTaken::Unread) => break NotTaken::Unread,
            Err(NotTaken::NextCycle) => engine.advance(engine.now() + 1).unwrap(),
            Err(_) => {
                let next = engine.next_command().unwrap();
                engine.advance(next).unwrap();
            }
        }
    };
    assert!(refused.is_busy() && (1 << 16..(1 << 16) + 100).contains(&taken), "{taken}");
    while engine.pop().is_some() {}
    assert!(engine.offer(Request::read(0)).is_ok());
}

#[test]
fn impossible_engines_are_refused() {
    let refused = |change: &dyn Fn(&mut EngineConfig)| {
        let mut of = EngineConfig::new(config(Refresh::AllBank));
        change(&mut of);
        Engine::new(&presets::ddr5_4800(), of).unwrap_err().field
    };
    assert_eq!(refused(&|of| of.channels = 0), "channels");
    assert_eq!(refused(&|of| of.channels = u32::MAX), "channels");
    assert_eq!(refused(&|of| of.priorities = vec![]), "priorities");
    assert_eq!(refused(&|of| of.priorities = vec![0; 257]), "priorities");
    assert_eq!(refused(&|of| (of.channels, of.stripe_bytes) = (2, 96)), "stripe_bytes");
    assert_eq!(refused(&|of| of.controller.queue_depth = 0), "queue_depth");
}

/// An answer from the write queue comes in the next cycle, a write when its data has gone out.
#[test]
fn writes_and_what_they_answer() {
    let mut engine = engine(1, &[0]);
    engine.advance(1).unwrap();
    let requests = [Request::write(0), Request::read(0), Request::write(0)];
    let [write, read, again] = requests.map(|request| engine.offer(request).unwrap());
    engine.advance(2).unwrap();
    let first = engine.pop().unwrap();
    assert_eq!((first.id, first.kind, first.cycle, first.latency), (read, RequestKind::Read, 2, 1));
    let second = engine.pop().unwrap();
    assert_eq!((second.id, second.kind, second.cycle), (again, RequestKind::Write, 2));
    assert_eq!(engine.pop(), None);
    let t = presets::ddr5_4800().timing;
    engine.advance(200).unwrap();
    let last = engine.pop().unwrap();
    // ACT in cycle 2, two cycles long; WR nRCD later.
    let expected = u64::from(2 + t.n_rcd_wr + t.n_cwl + t.n_bl);
    assert_eq!((last.id, last.cycle), (write, expected));
    assert!(engine.is_idle());
    assert_eq!(engine.next_event(), Some(u64::from(t.n_refi)));
}
