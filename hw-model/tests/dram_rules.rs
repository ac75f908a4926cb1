//! No run of any device breaks a timing rule; every request is served; refreshes come on time.
mod checker;

use cptr_hw_model::dram::device::BankRefresh;
use cptr_hw_model::dram::{
    Command, CommandKind, Config, Controller, Device, MappingKind, PagePolicy, Refresh, Request, RequestKind, Until,
    presets,
};
use proptest::prelude::*;

/// A stream with some locality: runs of lines from random places, some of them writes.
fn requests(device: &Device, seed: u64, count: usize, writes: u64, gap: u64) -> Vec<Request> {
    let (mut state, access) = (seed | 1, device.organisation.access_bytes());
    let mut draw = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) % below
    };
    let (mut address, mut left, mut not_before) = (0, 0, 0);
    (0..count)
        .map(|_| {
            if left == 0 {
                (address, left) = (draw(device.organisation.capacity_bytes / access) * access, draw(40) + 1);
            }
            left -= 1;
            address = (address + access) % device.organisation.capacity_bytes;
            not_before += draw(gap + 1);
            let kind = if draw(100) < writes { RequestKind::Write } else { RequestKind::Read };
            Request { address, kind, not_before, source: 0 }
        })
        .collect()
}

/// The device with so many ranks.
fn ranks(mut device: Device, ranks: u32) -> Device {
    device.organisation.ranks = ranks;
    device.organisation.capacity_bytes *= u64::from(ranks);
    device
}

/// The device with half as many rows again: 24 Gb instead of 16.
fn half_more(mut device: Device) -> Device {
    device.organisation.rows = device.organisation.rows / 2 * 3;
    device.organisation.capacity_bytes = device.organisation.capacity_bytes / 2 * 3;
    device
}

/// Runs the stream, returns the log of commands, and checks what can be counted.
fn run(device: &Device, config: Config, stream: &[Request]) -> Vec<(u64, Command)> {
    run_late(device, config, stream, u64::MAX)
}

/// As [`run`]; of so many refreshes one may be late.
fn run_late(device: &Device, config: Config, stream: &[Request], late: u64) -> Vec<(u64, Command)> {
    let mut log = Vec::new();
    let observer = |cycle: u64, command: Command| log.push((cycle, command));
    let mut controller = Controller::with_observer(device, config, observer).unwrap();
    controller.run(stream.iter().copied(), Until::Served).unwrap();
    let statistics = controller.statistics();
    let count = |kind| statistics.commands.get(kind);
    let served = statistics.reads_served + statistics.writes_served;
    let answered = served + statistics.reads_forwarded + statistics.writes_merged;
    assert_eq!(answered, stream.len() as u64);
    assert_eq!(count(CommandKind::Rd) + count(CommandKind::RdA), statistics.reads_served);
    assert_eq!(count(CommandKind::Wr) + count(CommandKind::WrA), statistics.writes_served);
    assert_eq!(statistics.row_hits + statistics.row_misses + statistics.row_conflicts, served);
    let end = controller.cycle();
    let ranks = u64::from(device.organisation.ranks);
    let device = device.in_cycles();
    let (refreshes, interval) = match config.refresh {
        Refresh::None => (0, u64::MAX),
        Refresh::AllBank => (count(CommandKind::RefAll), u64::from(device.timing.n_refi)),
        Refresh::SameBank => (count(CommandKind::RefBank), u64::from(device.bank_refresh.unwrap().n_refi)),
    };
    // One that fell due in the last cycles may still be on its way.
    let due = end / interval * ranks;
    assert!(refreshes <= due && refreshes + 2 * ranks + due / late >= due, "{refreshes} refreshes of {due} due");
    log
}

fn devices() -> Vec<Device> {
    let mut devices = presets::all();
    devices.push(ranks(presets::ddr4_3200(), 2));
    devices.push(ranks(presets::ddr5_4800(), 2));
    devices.push(ranks(presets::lpddr5_6400(), 2));
    devices.push(ranks(presets::ddr5_6400(), 4));
    devices.push(ranks(half_more(presets::ddr5_5600()), 3));
    devices.push(half_more(presets::ddr4_3200()));
    devices
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_rule_is_broken(device in 0usize..devices().len(), mapping in 0usize..6, refresh in 0usize..3, closed: bool,
                         depth in 1u16..64, offers in 1u32..5, seed: u64,
                         writes in prop::sample::select(vec![0u64, 10, 50, 100]),
                         gap in prop::sample::select(vec![0u64, 0, 5, 100])) {
        let device = &devices()[device];
        let refresh = [Refresh::None, Refresh::AllBank, Refresh::SameBank][refresh];
        let refresh = if device.bank_refresh.is_none() && refresh == Refresh::SameBank { Refresh::AllBank } else { refresh };
        let page_policy = if closed { PagePolicy::Closed } else { PagePolicy::Open };
        let config = Config { page_policy, queue_depth: depth, offers_per_cycle: offers,
                              ..Config::new(MappingKind::ALL[mapping], refresh) };
        let log = run(device, config, &requests(device, seed, 1500, writes, gap));
        if let Err(violation) = checker::check(device, &log) {
            prop_assert!(false, "{} {config:?}: {violation:?}", device.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// A device with bank-wise refresh that is accepted serves every stream to its end, legally: at the edge of what is
    /// accepted, too.
    #[test]
    fn bank_refresh_that_is_accepted_lets_a_run_end(
        preset in 0usize..devices().len(), n_refi in 20u32..2000, n_rfc in 1u32..2000, n_ref_to_act in 0u32..2000,
        edge: bool, seed: u64,
    ) {
        let mut device = devices()[preset].clone();
        let Some(refresh) = &mut device.bank_refresh else { return Ok(()) };
        (refresh.n_refi, refresh.n_ref_to_act) = (n_refi, n_ref_to_act);
        refresh.n_rfc = n_rfc.min(device.timing.n_rfc);
        refresh.n_ref_to_ref = refresh.n_ref_to_ref.min(n_refi);
        if edge && device.validate().is_err() {
            let row = device.timing.n_rrd_l + device.timing.n_rc + device.timing.n_rp_all;
            device.bank_refresh = device.bank_refresh.map(|refresh| BankRefresh { n_refi: n_ref_to_act + row + 1, ..refresh });
        }
        if device.validate().is_err() {
            return Ok(());
        }
        let config = Config::new(MappingKind::Mop4ClXor, Refresh::SameBank);
        // Where refreshes hardly leave time for rows, writes hold some of them up.
        let log = run_late(&device, config, &requests(&device, seed, 300, 30, 0), 3);
        if let Err(violation) = checker::check(&device, &log) {
            prop_assert!(false, "{}: {violation:?}", device.name);
        }
    }
}

/// The checker is worth something only if it notices: most commands that are moved three cycles forward break a rule.
#[test]
fn the_checker_notices_a_command_that_comes_too_early() {
    for device in presets::all() {
        let config = Config::new(MappingKind::Mop4ClXor, Refresh::AllBank);
        let log = run(&device, config, &requests(&device, 7, 150, 30, 0));
        checker::check(&device, &log).unwrap();
        let (mut noticed, mut moved) = (0, 0);
        for index in 1..log.len() {
            let mut early = log[..=index].to_vec();
            early[index].0 = early[index - 1].0.max(early[index].0.saturating_sub(3));
            moved += 1;
            noticed += usize::from(checker::check(&device, &early).is_err());
        }
        assert!(noticed * 2 > moved, "{}: {noticed} of {moved}", device.name);
    }
}

/// Refreshes = floor(T / interval), on every device and rank, whatever the load; never silently none.
#[test]
fn refreshes_are_issued_on_every_device() {
    for device in devices() {
        for refresh in [Refresh::AllBank, Refresh::SameBank] {
            let config = Config::new(MappingKind::RoBaRaCoCh, refresh);
            let Ok(mut controller) = Controller::new(&device, config) else {
                assert!(device.bank_refresh.is_none());
                continue;
            };
            let device = device.in_cycles();
            let (kind, interval) = match refresh {
                Refresh::SameBank => (CommandKind::RefBank, device.bank_refresh.unwrap().n_refi),
                _ => (CommandKind::RefAll, device.timing.n_refi),
            };
            let cycles = 20 * u64::from(interval) + u64::from(interval) / 2;
            controller.idle_until(cycles);
            assert_eq!(controller.cycle(), cycles);
            let expected = cycles / u64::from(interval) * u64::from(device.organisation.ranks);
            assert_eq!(controller.statistics().commands.get(kind), expected, "{} {}", device.name, refresh.name());
        }
    }
}

#[test]
fn same_bank_refresh_covers_every_bank() {
    for device in devices().iter().filter(|device| device.bank_refresh.is_some()) {
        let config = Config::new(MappingKind::RoBaRaCoCh, Refresh::SameBank);
        let mut covered = vec![0u32; device.organisation.total_banks() as usize];
        let mut sets = 0;
        let n_refi = u64::from(device.in_cycles().bank_refresh.unwrap().n_refi);
        let mut controller = Controller::with_observer(device, config, |_: u64, command: Command| {
            assert_eq!(command.kind, CommandKind::RefBank);
            sets += 1;
            covered[usize::from(command.bank)] += 1;
        })
        .unwrap();
        controller.idle_until(n_refi * 64 + 8);
        drop(controller);
        let first_banks = covered.iter().filter(|&&times| times > 0).count() as u64;
        assert_eq!(sets, 64 * u64::from(device.organisation.ranks), "{}", device.name);
        let per_rank = first_banks / u64::from(device.organisation.ranks);
        let o = &device.organisation;
        use cptr_hw_model::dram::device::RefreshSet;
        let expected = match device.bank_refresh.unwrap().set {
            RefreshSet::Bank => o.banks_per_rank(),
            RefreshSet::Pair => o.banks_per_rank() / 2,
            RefreshSet::SameBank => o.banks,
        };
        assert_eq!(per_rank, u64::from(expected), "{}", device.name);
    }
}
