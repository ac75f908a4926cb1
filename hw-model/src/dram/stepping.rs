//! The event-driven controller against itself stepping through every single cycle.
use super::config::{Config, PagePolicy, Refresh};
use super::controller::Controller;
use super::request::{Request, RequestKind};
use super::{Device, MappingKind, presets};
use proptest::prelude::*;

/// Serves the stream; `every_cycle` visits each cycle and trusts no bound.
fn serve(device: &Device, config: Config, stream: &[Request], every_cycle: bool) -> (u64, u64, Vec<(u64, String)>) {
    let mut log = Vec::new();
    let mut c = Controller::with_observer(device, config, |cycle: u64, command: super::Command| {
        log.push((cycle, command.to_string()));
    })
    .unwrap();
    let mut requests = stream.iter().map(|r| (r.not_before, c.entry(r.address, r.kind == RequestKind::Write)));
    let entries: Vec<_> = requests.by_ref().collect();
    drop(requests);
    let mut entries = entries.into_iter().peekable();
    let mut visited = 0;
    loop {
        while let Some((not_before, entry)) = entries.peek() {
            if c.state.offers_left == 0 || *not_before > c.state.now || !c.offer(entry) {
                break;
            }
            c.state.offers_left -= 1;
            entries.next();
        }
        if entries.peek().is_none() && c.is_idle() {
            break;
        }
        if every_cycle {
            c.state.bounds.forget();
            c.visit(c.state.now + 1);
        } else {
            c.step(entries.peek().map(|(not_before, entry)| (*not_before, entry.is_write)));
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
    fn jumping_changes_nothing(device in 0usize..9, mapping in 0usize..6, refresh in 0usize..3, closed: bool, depth in 1u16..40,
                               lines in prop::collection::vec((0u64..1 << 20, 1u64..24, 0u64..200, 0u32..5), 1..60),
                               spread in 0u32..14) {
        let device = &presets::all()[device];
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
            stream.extend(addresses.map(|address| Request { address, kind, not_before }));
        }
        let (end, visited, log) = serve(device, config, &stream, false);
        let (stepped_end, all, stepped_log) = serve(device, config, &stream, true);
        prop_assert_eq!(log, stepped_log);
        prop_assert_eq!(end, stepped_end);
        prop_assert!(visited <= all);
    }
}
