//! The event-driven controller against itself stepping through every single cycle.
use super::config::{Config, PagePolicy, Refresh};
use super::controller::Controller;
use super::request::{Request, RequestKind};
use super::{Device, ManagementCommand, MappingKind, RefreshManagement, presets};
use proptest::prelude::*;

#[path = "../../tests/devices/mod.rs"]
mod devices;

use devices::devices;

/// Serves the stream; `every_cycle` visits each cycle and trusts no bound.
fn serve(device: &Device, config: Config, stream: &[Request], every_cycle: bool) -> (u64, u64, Vec<(u64, String)>) {
    let mut log = Vec::new();
    let mut c = Controller::with_observer(device, config, |cycle: u64, command: super::Command| {
        log.push((cycle, command.to_string()));
    })
    .unwrap();
    let entries: Vec<_> =
        stream.iter().map(|r| (r.not_before, c.entry(r.address, r.kind == RequestKind::Write, 0))).collect();
    let mut entries = entries.into_iter().peekable();
    let mut visited = 0;
    loop {
        let mut retry = u64::MAX;
        while let Some((not_before, entry)) = entries.peek() {
            if *not_before > c.state.now {
                retry = *not_before;
                break;
            }
            if let Err(busy) = c.accept(entry) {
                retry = c.retry(busy);
                break;
            }
            entries.next();
        }
        if entries.peek().is_none() && c.is_idle() {
            break;
        }
        if every_cycle {
            c.state.bounds.forget();
            c.visit(c.state.now + 1);
        } else {
            let wake = c.wake();
            c.advance(retry.min(wake));
        }
        visited += 1;
    }
    let end = c.state.last_data;
    drop(c);
    (end, visited, log)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn jumping_changes_nothing(device in 0usize..devices().len(), mapping in 0usize..6, refresh in 0usize..3,
                               closed: bool, depth in 1u16..40,
                               lines in prop::collection::vec((0u64..1 << 20, 1u64..24, 0u64..200, 0u32..5), 1..60),
                               spread in 0u32..14) {
        let device = &devices()[device];
        let refresh = [Refresh::None, Refresh::AllBank, Refresh::SameBank][refresh];
        let refresh = if device.bank_refresh.is_none() && refresh == Refresh::SameBank { Refresh::AllBank } else { refresh };
        let page_policy = if closed { PagePolicy::Closed } else { PagePolicy::Open };
        let config = Config { page_policy, queue_depth: depth, ..Config::new(MappingKind::ALL[mapping], refresh) };
        let access = device.organisation.access_bytes();
        let mut not_before = 0;
        let mut stream = Vec::new();
        for (line, run, gap, kind) in lines {
            let kind = if kind == 0 { RequestKind::Write } else { RequestKind::Read };
            not_before += gap;
            let first = (line << spread) * access;
            let addresses = (0..run).map(|i| (first + i * access) % device.organisation.capacity_bytes);
            stream.extend(addresses.map(|address| Request { address, kind, not_before, source: 0 }));
        }
        let (end, visited, log) = serve(device, config, &stream, false);
        let (stepped_end, all, stepped_log) = serve(device, config, &stream, true);
        prop_assert_eq!(log, stepped_log);
        prop_assert_eq!(end, stepped_end);
        prop_assert!(visited <= all);
    }
}

/// What a host does: offers in a cycle, then lets time pass.
type Script = Vec<(Vec<Request>, u64)>;

/// How time passes.
#[derive(Clone, Copy)]
enum Pace {
    /// In one call.
    AtOnce,
    /// In calls of at most so many cycles.
    Steps(u64),
    /// Through every single cycle, trusting no bound.
    EveryCycle,
}

/// What was taken, all commands, what was served when, and the counts of each source.
type Log = (Vec<bool>, Vec<(u64, String)>, Vec<super::Served>, Vec<super::SourceStatistics>);

#[derive(Default)]
struct Recorder {
    commands: Vec<(u64, String)>,
    served: Vec<super::Served>,
}

impl super::Observer for Recorder {
    fn command(&mut self, cycle: u64, command: super::Command) {
        self.commands.push((cycle, command.to_string()));
    }

    fn served(&mut self, served: super::Served) {
        self.served.push(served);
    }
}

fn play(device: &Device, config: Config, priorities: &[u8], script: &Script, pace: Pace) -> Log {
    let mut c = Controller::with_observer(device, config, Recorder::default()).unwrap();
    c.set_sources(priorities);
    let mut taken = Vec::new();
    for (requests, cycles) in script {
        for request in requests {
            let entry = c.entry(request.address, request.kind == RequestKind::Write, request.source);
            taken.push(c.accept(&entry).is_ok());
        }
        let to = c.state.now + cycles;
        match pace {
            Pace::AtOnce => c.advance(to),
            Pace::Steps(most) => {
                while c.state.now < to {
                    c.advance(to.min(c.state.now + most));
                }
            }
            Pace::EveryCycle => {
                while c.state.now < to {
                    c.state.bounds.forget();
                    c.visit(c.state.now + 1);
                }
            }
        }
    }
    (taken, c.observer.commands, c.observer.served, c.by_source)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Offers at any time, of several sources: however time is cut, the same is taken, sent and served.
    #[test]
    fn any_steps_are_the_same(
        device in 0usize..devices().len(), mapping in 0usize..6, refresh in 0usize..3, closed: bool, depth in 1u16..40,
        offers in 1u32..5,
        script in prop::collection::vec((prop::collection::vec((0u64..1 << 12, any::<bool>(), 0u8..3), 0..8), 0u64..60), 1..150),
        pauses in prop::collection::vec(0u64..20_000, 3), spread in 0u32..12, most in 1u64..30,
        priorities in prop::collection::vec(0u8..4, 3)) {
        let device = &devices()[device];
        let refresh = [Refresh::None, Refresh::AllBank, Refresh::SameBank][refresh];
        let refresh = if device.bank_refresh.is_none() && refresh == Refresh::SameBank { Refresh::AllBank } else { refresh };
        let page_policy = if closed { PagePolicy::Closed } else { PagePolicy::Open };
        let config = Config { page_policy, queue_depth: depth, offers_per_cycle: offers, ..Config::new(MappingKind::ALL[mapping], refresh) };
        let access = device.organisation.access_bytes();
        let request = |(line, write, source): (u64, bool, u8)| {
            let address = (line << spread) * access % device.organisation.capacity_bytes;
            let request = if write { Request::write(address) } else { Request::read(address) };
            request.from_source(source)
        };
        let mut script: Script =
            script.into_iter().map(|(offers, cycles)| (offers.into_iter().map(request).collect(), cycles)).collect();
        for (index, pause) in pauses.into_iter().enumerate() {
            let at = index * script.len() / 3;
            script[at].1 += pause;
        }
        let at_once = play(device, config, &priorities, &script, Pace::AtOnce);
        prop_assert_eq!(&at_once, &play(device, config, &priorities, &script, Pace::EveryCycle));
        prop_assert_eq!(&at_once, &play(device, config, &priorities, &script, Pace::Steps(most)));
    }
}
