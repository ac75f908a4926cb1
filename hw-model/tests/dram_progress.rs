//! Whatever device a file describes, if it is taken: all that is asked of it is served, and soon.
use cptr_hw_model::dram::{
    Config, Device, Engine, EngineConfig, ManagementCommand, MappingKind, PagePolicy, Refresh, RefreshManagement,
    Request, RequestKind, presets,
};
use proptest::prelude::*;

/// Sections of a device file whose numbers are changed.
const SECTIONS: [&str; 4] = ["timing", "bank_refresh", "refresh_management", "split_activate"];

/// A change: section, field, what becomes of its number.
type Change = (usize, usize, Number);

#[derive(Debug, Clone)]
enum Number {
    Times(f64),
    Is(i64),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let times = (-3.0f64..3.0).prop_map(|power| Number::Times(power.exp2()));
    let number = prop_oneof![3 => times, 1 => (0i64..5).prop_map(Number::Is)];
    prop::collection::vec((0usize..SECTIONS.len(), 0usize..64, number), 0..10)
}

/// The device with the changes, if it can be.
fn changed(mut device: Device, ranks: u32, managed: Option<bool>, changes: &[Change]) -> Option<Device> {
    if !device.pseudo_channels {
        device.organisation.ranks = ranks;
        device.organisation.capacity_bytes *= u64::from(ranks);
    }
    device.power = None;
    device.refresh_management = managed.map(|bank_wise| RefreshManagement {
        command: if bank_wise { ManagementCommand::BankWise } else { ManagementCommand::AllBank },
        raaimt: 4,
        raammt: 8,
        refresh_decrement: 2,
        n_rfm: device.timing.n_rfc,
    });
    let mut file = toml::Table::try_from(device).unwrap();
    for (section, field, number) in changes {
        let Some(toml::Value::Table(table)) = file.get_mut(SECTIONS[*section]) else { continue };
        let name = table.keys().nth(field % table.len()).unwrap().clone();
        if let Some(toml::Value::Integer(value)) = table.get_mut(&name) {
            *value = match number {
                Number::Times(factor) => (*value as f64 * factor) as i64,
                Number::Is(number) => *number,
            };
        }
    }
    Device::from_toml(&file.to_string()).ok()
}

/// A request each takes at most a few of the longest times; refreshes of all ranks may come between.
fn longest(device: &Device, requests: u64) -> u64 {
    let t = device.in_cycles().timing;
    let managed = device.refresh_management.map_or(0, |needs| needs.n_rfm * device.cycles_per_clock());
    let each = [t.n_refi, t.n_rfc, t.n_rc, t.n_faw, t.n_rp_all, t.n_wr, t.n_wtr_l, t.n_cl, t.n_cwl, managed];
    let each: u64 = each.iter().map(|&cycles| u64::from(cycles)).sum();
    4 * (requests + 4) * each * u64::from(device.organisation.ranks)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000, failure_persistence: None, max_global_rejects: 100_000, ..ProptestConfig::default()
    })]

    #[test]
    fn all_that_is_asked_is_served(
        device in prop::sample::select(presets::all()), ranks in 1u32..5, managed in prop::option::of(any::<bool>()),
        changes in changes(), mapping in 0usize..6, refresh in 0usize..3, closed: bool, depth in 1u16..40,
        asked in prop::collection::vec((0u64..1 << 24, 0u32..12, any::<bool>()), 1..120),
    ) {
        let device = changed(device, ranks, managed, &changes);
        prop_assume!(device.is_some());
        let device = device.unwrap();
        let bank_wise = if device.bank_refresh.is_some() { Refresh::SameBank } else { Refresh::AllBank };
        let refresh = [Refresh::None, Refresh::AllBank, bank_wise][refresh];
        let page_policy = if closed { PagePolicy::Closed } else { PagePolicy::Open };
        let config = Config { page_policy, queue_depth: depth, ..Config::new(MappingKind::ALL[mapping], refresh) };
        let mut engine = Engine::new(&device, EngineConfig::new(config)).unwrap();
        let limit = longest(&device, asked.len() as u64);
        let (capacity, access) = (engine.capacity(), engine.access_bytes());
        let (mut left, mut served) = (asked.iter(), 0);
        let mut next = left.next();
        while next.is_some() || !engine.is_idle() {
            if let Some(&(line, spread, is_write)) = next {
                let address = (line << spread) * access % capacity;
                let kind = if is_write { RequestKind::Write } else { RequestKind::Read };
                if engine.offer(Request { kind, ..Request::read(address) }).is_ok() {
                    next = left.next();
                    continue;
                }
            }
            let event = engine.next_event().unwrap_or(engine.now() + 1);
            prop_assert!(event <= limit, "{device:?} {config:?}: {served} of {} served in {event} cycles", asked.len());
            engine.advance(event).unwrap();
            served += std::iter::from_fn(|| engine.pop()).count();
        }
        prop_assert_eq!(served, asked.len());
    }
}
