//! Closed forms that any such memory obeys, and single commands: illegal one cycle early, legal on time.
use cptr_hw_model::dram::{
    BankState, Channel, Command, CommandError, CommandKind, Config, Controller, Device, MappingKind, PagePolicy,
    Refresh, Request, StreamKind, Until, presets, stream,
};

fn controller(device: &Device, mapping: MappingKind, refresh: Refresh) -> Controller {
    Controller::new(device, Config::new(mapping, refresh)).unwrap()
}

fn stream_of(device: &Device, lines: u64, random: bool) -> Box<dyn Iterator<Item = Request>> {
    let access = device.organisation.access_bytes();
    let kind = if random { StreamKind::Random } else { StreamKind::Sequential };
    kind.requests(lines * (stream::LINE / access), access)
}

fn rate(device: &Device, mapping: MappingKind, refresh: Refresh, random: bool) -> f64 {
    let mut controller = controller(device, mapping, refresh);
    controller.run(stream_of(device, 200_000, random), Until::Served).unwrap();
    controller.bandwidth_gb_s()
}

fn assert_near(value: f64, expected: f64, share: f64, what: &str) {
    assert!((value / expected - 1.0).abs() <= share, "{what}: {value} instead of {expected}");
}

/// 1 - (nRTP + nRP + nRFC + nRCD) / nREFI.
fn refresh_factor(device: &Device) -> f64 {
    let t = &device.timing;
    1.0 - f64::from(t.n_rtp + t.n_rp_all + t.n_rfc + t.n_rcd_rd) / f64::from(t.n_refi)
}

#[test]
fn an_interleaved_stream_runs_at_the_peak_but_for_refresh() {
    for device in presets::all() {
        let peak = device.peak_gb_s();
        let free = rate(&device, MappingKind::Mop4ClXor, Refresh::None, false);
        assert!(free <= peak * 1.0001, "{}: {free} above the peak {peak}", device.name);
        if !device.pseudo_channels {
            // All banks change rows at nearly the same time; at the higher clocks the queue of 32 hides less of that.
            let share = match device.name.as_str() {
                "LPDDR5X-8533" => 0.03,
                "LPDDR6-10667" => 0.05,
                _ => 0.012,
            };
            assert_near(free, peak, share, &device.name);
            let refreshed = rate(&device, MappingKind::Mop4ClXor, Refresh::AllBank, false);
            assert_near(refreshed, free * refresh_factor(&device), 0.01, &format!("{} with refresh", device.name));
        }
    }
}

#[test]
fn random_reads_are_bound_by_activates() {
    for device in
        [presets::ddr4_3200(), presets::ddr5_3200(), presets::ddr5_4800(), presets::ddr5_5600(), presets::ddr5_6400()]
    {
        let bytes = device.organisation.access_bytes() as f64;
        let window = f64::from(device.timing.n_faw) * f64::from(device.timing.t_ck_ps);
        let bound = 4.0 * bytes / window * 1e3;
        let rate = rate(&device, MappingKind::RoBaRaCoCh, Refresh::None, true);
        // Where the read of an opened row falls due in the very cycle in which the window ends, the read goes first and
        // the window grows by the cycles of a read (DDR5-5600: ACT at 0, 8, 16, 24 and 56; reads from 40 on, the third
        // at 56).
        let collided =
            bound * f64::from(device.timing.n_faw) / f64::from(device.timing.n_faw + device.timing.column_cycles);
        // Four activates of DDR5-3200 take exactly as long as four bursts: the data bus is as much of a limit.
        let lowest = if bound > 0.99 * device.peak_gb_s() { 0.97 * bound } else { 0.99 * collided };
        assert!((lowest..=1.001 * bound).contains(&rate), "{}: {rate} instead of {bound}", device.name);
    }
}

#[test]
fn random_reads_of_the_reference_devices_are_within_one_percent_of_the_closed_form() {
    for (device, gb_s) in [(presets::ddr4_3200(), 12.05), (presets::ddr5_4800(), 12.82)] {
        assert_near(rate(&device, MappingKind::RoBaRaCoCh, Refresh::None, true), gb_s, 0.01, &device.name);
    }
}

/// While one bank is refreshed the others work: bank by bank, refresh costs less than all at once, if the queue holds
/// requests for other banks for as long as a refresh takes. A queue of 32 does not everywhere: 364 clocks of DDR5-5600
/// are 46 bursts.
#[test]
fn refresh_bank_by_bank_costs_less_than_all_at_once() {
    for device in presets::all().into_iter().filter(|device| device.bank_refresh.is_some()) {
        for kind in StreamKind::ALL {
            let [none, all, each] = [Refresh::None, Refresh::AllBank, Refresh::SameBank].map(|refresh| {
                let config = Config { queue_depth: 128, ..Config::new(MappingKind::Mop4ClXor, refresh) };
                let mut controller = Controller::new(&device, config).unwrap();
                controller.run(kind.requests(60_000, device.organisation.access_bytes()), Until::Served).unwrap();
                controller.cycle() as f64
            });
            assert!(none <= each && each < all, "{} {}: {none} {each} {all}", device.name, kind.name());
        }
    }
}

/// A refresh waits for its own banks only: reads of all others go on, and reads of the refreshed banks wait.
#[test]
fn other_banks_work_while_one_is_refreshed() {
    let device = presets::ddr5_4800();
    let (interval, n_rfc) =
        (u64::from(device.bank_refresh.unwrap().n_refi), u64::from(device.bank_refresh.unwrap().n_rfc));
    // The first refresh is due in cycle `interval` and covers bank 0 of every group; robaracoch has the bank above the
    // group.
    let bank_step = device.organisation.row_bytes() * u64::from(device.organisation.groups);
    let last_read = |bank: u64| {
        let mut controller = controller(&device, MappingKind::RoBaRaCoCh, Refresh::SameBank);
        controller.idle_until(interval + 1);
        controller.run([Request::read(bank * bank_step)], Until::Served).unwrap();
        controller.cycle() - interval
    };
    assert!(last_read(0) > n_rfc, "{}", last_read(0));
    assert!(last_read(1) < n_rfc, "{}", last_read(1));
}

/// Ramulator issue #14: random reads of LPDDR5 as fast as sequential ones.
#[test]
fn random_is_never_faster_than_sequential() {
    for device in presets::all() {
        for refresh in [Refresh::None, Refresh::AllBank] {
            let (sequential, random) = (
                rate(&device, MappingKind::Mop4ClXor, refresh, false),
                rate(&device, MappingKind::Mop4ClXor, refresh, true),
            );
            assert!(random < sequential, "{}: {random} and {sequential}", device.name);
        }
    }
}

#[test]
fn one_bank_group_alone_gives_a_burst_every_ccd_l() {
    for device in [
        presets::ddr4_3200(),
        presets::ddr5_4800(),
        presets::ddr5_6400(),
        presets::lpddr5_6400(),
        presets::lpddr5x_8533(),
    ] {
        let o = &device.organisation;
        let access = o.access_bytes();
        // Rows of the banks of group 0 in turn: under robaracoch the bank lies above the group.
        let row = o.row_bytes();
        let bank_step = row * u64::from(o.groups);
        let reads = (0..40_000u64).map(|i| {
            let (run, within) = (i * access / row, i * access % row);
            Request::read(run * bank_step + within)
        });
        let mut controller = controller(&device, MappingKind::RoBaRaCoCh, Refresh::None);
        controller.run(reads, Until::Served).unwrap();
        let t = &device.timing;
        let bound = access as f64 / (f64::from(t.n_ccd_l) * f64::from(t.t_ck_ps)) * 1e3;
        assert_near(controller.bandwidth_gb_s(), bound, 0.01, &device.name);
    }
}

/// One dependent read at a time, each to another row of one bank.
#[test]
fn a_lone_read_takes_precharge_activate_and_burst() {
    for device in presets::all() {
        let mut controller = controller(&device, MappingKind::RoBaRaCoCh, Refresh::None);
        let o = &device.organisation;
        let next_row = o.capacity_bytes / u64::from(o.rows);
        controller.run([Request::read(0)], Until::Served).unwrap();
        let before = controller.statistics().read_latency.clone();
        for row in 1..50 {
            // Far enough apart that only the chain of this one read counts.
            controller.idle_until(controller.cycle() + 500);
            controller.run([Request::read(row * next_row)], Until::Served).unwrap();
        }
        let t = &device.in_cycles().timing;
        // One cycle from acceptance to the first command; distances are from last cycle to last cycle, so the length of
        // PRE counts and that of RD does not; LPDDR5 and LPDDR6 need a CAS.
        let before_burst = 1 + t.other_cycles + t.n_rp + t.n_rcd_rd - t.column_cycles;
        let cas = if device.split_activate.is_some() { t.other_cycles } else { 0 };
        let expected = before_burst + cas + t.n_cl + t.n_bl;
        let latencies = &controller.statistics().read_latency;
        assert_eq!(latencies.len(), 50);
        // ACT and RD wait for a rising edge where there are two in a clock.
        let latest = u64::from(expected + 2 * (device.cycles_per_clock() - 1));
        for latency in [latencies.max(), latencies.quantile(0.1)] {
            assert!((u64::from(expected)..=latest).contains(&latency), "{}: {latency}", device.name);
        }
        assert_eq!(before.len(), 1);
    }
}

#[test]
fn lone_reads_of_the_reference() {
    let lone = |device: Device| {
        let t = device.timing;
        t.n_rp + t.n_rcd_rd + t.n_cl + t.n_bl
    };
    // As measured: DDR5-4800 109.73 = 110, LPDDR5-6400 50.92 = 49 + acceptance + CAS.
    assert_eq!(lone(presets::ddr5_4800()), 110);
    assert_eq!(lone(presets::lpddr5_6400()) + 2, 51);
}

/// First legal cycle of `second` after `first` in cycle 1000; checks that it is refused one cycle earlier and leaves no
/// trace.
fn distance(device: &Device, prepare: &[(u64, Command)], first: Command, second: Command) -> u64 {
    let mut channel = Channel::new(device).unwrap();
    for &(cycle, command) in prepare {
        channel.issue(command, cycle).unwrap();
    }
    channel.issue(first, 1000).unwrap();
    let earliest = channel.probe(second).unwrap();
    let untouched = format!("{channel:?}");
    let refused = channel.issue(second, earliest - 1).unwrap_err();
    assert_eq!(refused.reason, CommandError::TooEarly { earliest });
    assert_eq!(format!("{channel:?}"), untouched, "probe and a refused command must not change the channel");
    channel.issue(second, earliest).unwrap();
    earliest - 1000
}

#[test]
fn two_cycle_commands_shift_the_distances_of_ddr5() {
    let device = presets::ddr5_4800();
    let (act, pre) = (Command::act(0, 5), Command::new(CommandKind::Pre, 0));
    let rd = Command::new(CommandKind::Rd, 0);
    let opened = [(0, act)];
    assert_eq!(distance(&device, &opened, pre, act), 33);
    assert_eq!(distance(&device, &[], act, pre), 78);
    assert_eq!(distance(&device, &[], act, rd), 34);
    assert_eq!(distance(&device, &opened, rd, pre), 19);
    assert_eq!(distance(&device, &[], Command::new(CommandKind::RefAll, 0), act), 709);
    // Bank groups of four banks: 0 and 1 share one, 4 is in the next.
    let (same, other) = (Command::act(1, 9), Command::act(4, 9));
    assert_eq!((distance(&device, &[], act, same), distance(&device, &[], act, other)), (12, 8));
    let both = [(0, act), (100, other), (200, same)];
    assert_eq!(distance(&device, &both, rd, Command::new(CommandKind::Rd, 1)), 12);
    assert_eq!(distance(&device, &both, rd, Command::new(CommandKind::Rd, 4)), 8);
    assert_eq!(distance(&device, &both, Command::new(CommandKind::Wr, 0), Command::new(CommandKind::Wr, 1)), 48);
}

#[test]
fn illegal_commands_are_refused_whenever_they_come() {
    let mut channel = Channel::new(&presets::ddr4_3200()).unwrap();
    let reason = |channel: &mut Channel, command| channel.issue(command, 1_000_000).unwrap_err().reason;
    assert_eq!(reason(&mut channel, Command::new(CommandKind::Rd, 3)), CommandError::RowNotOpen);
    assert_eq!(reason(&mut channel, Command::new(CommandKind::Cas, 3)), CommandError::NotSupported);
    assert_eq!(reason(&mut channel, Command::new(CommandKind::RefBank, 3)), CommandError::NotSupported);
    assert_eq!(reason(&mut channel, Command::new(CommandKind::Pre, 16)), CommandError::NoSuchBank);
    channel.issue(Command::act(3, 77), 0).unwrap();
    assert_eq!((channel.bank_state(3), channel.open_row(3)), (Some(BankState::Open), Some(77)));
    assert_eq!(reason(&mut channel, Command::act(3, 78)), CommandError::BankNotClosed);
    assert_eq!(reason(&mut channel, Command::new(CommandKind::RefAll, 0)), CommandError::BankNotClosed);
}

#[test]
fn lpddr5_activates_in_two_halves_and_starts_its_data_clock() {
    let device = presets::lpddr5_6400();
    let mut channel = Channel::new(&device).unwrap();
    let (act2, rd, cas) =
        (Command::new(CommandKind::Act2, 0), Command::new(CommandKind::Rd, 0), Command::new(CommandKind::Cas, 0));
    channel.issue(Command::act(0, 1), 0).unwrap();
    assert_eq!(channel.bank_state(0), Some(BankState::Activating));
    assert_eq!(channel.issue(rd, 50).unwrap_err().reason, CommandError::RowNotOpen);
    assert_eq!(channel.clone().issue(act2, 9).unwrap_err().reason, CommandError::ActivateExpired);
    channel.issue(act2, 8).unwrap();
    assert_eq!(channel.probe(rd), Ok(15), "tRCD counts from ACT1");
    assert_eq!(channel.issue(rd, 15).unwrap_err().reason, CommandError::DataClockStopped);
    channel.issue(cas, 15).unwrap();
    channel.issue(rd, 16).unwrap();
    // The clock runs for nCL + nBL + nWCKPST = 20 more cycles.
    assert!(channel.clone().issue(rd, 35).is_ok());
    assert_eq!(channel.issue(rd, 36).unwrap_err().reason, CommandError::DataClockStopped);
}

#[test]
fn every_command_of_lpddr6_takes_two_clocks() {
    let device = presets::lpddr6_10667();
    let mut channel = Channel::new(&device).unwrap();
    let of = |kind| Command::new(kind, 0);
    let too_early = |earliest| CommandError::TooEarly { earliest };
    channel.issue(Command::act(0, 1), 0).unwrap();
    assert_eq!(channel.issue(of(CommandKind::Act2), 1).unwrap_err().reason, too_early(2));
    assert_eq!(channel.clone().issue(of(CommandKind::Act2), 9).unwrap_err().reason, CommandError::ActivateExpired);
    channel.issue(of(CommandKind::Act2), 8).unwrap();
    assert_eq!(channel.probe(of(CommandKind::Rd)), Ok(48), "tRCD counts from ACT1");
    channel.issue(of(CommandKind::Cas), 48).unwrap();
    assert_eq!(channel.issue(of(CommandKind::Rd), 49).unwrap_err().reason, too_early(50));
    channel.issue(of(CommandKind::Rd), 50).unwrap();
    // The clock runs for nCL + nBL + nWCKPST = 65 more cycles.
    assert!(channel.clone().issue(of(CommandKind::Rd), 114).is_ok());
    assert_eq!(channel.issue(of(CommandKind::Rd), 115).unwrap_err().reason, CommandError::DataClockStopped);
    channel.issue(of(CommandKind::Pre), 115).unwrap();
    assert_eq!(channel.issue(of(CommandKind::PreAll), 116).unwrap_err().reason, too_early(119), "tPPD");
}

#[test]
fn a_closed_page_has_no_conflicts_and_an_open_one_has() {
    let device = presets::ddr4_3200();
    let count = |page_policy| {
        let config = Config { page_policy, ..Config::new(MappingKind::RoBaRaCoCh, Refresh::None) };
        let mut controller = Controller::new(&device, config).unwrap();
        controller.run(stream::random(20_000), Until::Served).unwrap();
        (controller.statistics().row_conflicts, controller.statistics().commands.get(CommandKind::RdA))
    };
    let (conflicts, auto_precharges) = count(PagePolicy::Closed);
    assert!(conflicts < 20 && auto_precharges > 19_900, "{conflicts} {auto_precharges}");
    assert!(count(PagePolicy::Open).0 > 19_900);
}

#[test]
fn a_deeper_queue_never_hurts_random_reads_much() {
    let device = presets::ddr5_4800();
    let cycles = |queue_depth| {
        let config = Config { queue_depth, ..Config::new(MappingKind::RoBaRaCoCh, Refresh::None) };
        let mut controller = Controller::new(&device, config).unwrap();
        controller.run(stream::random(20_000), Until::Served).unwrap();
        controller.cycle()
    };
    let by_depth = [1, 4, 16, 64].map(cycles);
    assert!(by_depth.is_sorted_by(|a, b| a > b), "{by_depth:?}");
}

#[test]
fn writes_are_merged_and_answer_reads() {
    let device = presets::ddr4_3200();
    let mut controller = controller(&device, MappingKind::RoBaRaCoCh, Refresh::None);
    let stream = [Request::write(0), Request::write(64), Request::write(64), Request::read(64)];
    controller.run(stream, Until::Served).unwrap();
    let statistics = controller.statistics();
    assert_eq!((statistics.writes_served, statistics.writes_merged), (2, 1));
    assert_eq!((statistics.reads_served, statistics.reads_forwarded), (0, 1));
}

#[test]
fn bad_addresses_are_refused_with_their_place_in_the_stream() {
    let mut controller = controller(&presets::ddr4_3200(), MappingKind::RoBaRaCoCh, Refresh::None);
    let error = controller.run([Request::read(0), Request::read(65)], Until::Served).unwrap_err();
    assert_eq!(error.to_string(), "request 1: address 0x41 is not a multiple of the 64 bytes of one access");
    let error = controller.run([Request::read(8 << 30)], Until::Served).unwrap_err();
    assert_eq!(error.index, 0);
}

#[test]
fn impossible_configurations_are_refused() {
    let device = presets::ddr4_3200();
    let config = Config::new(MappingKind::RoBaRaCoCh, Refresh::SameBank);
    let error = Controller::new(&device, config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "refresh is sb, but it needs a device with bank-wise refresh, which DDR4-3200 is not"
    );
    let config = Config { queue_depth: 0, ..Config::new(MappingKind::RoBaRaCoCh, Refresh::None) };
    assert_eq!(Controller::new(&device, config).unwrap_err().field, "queue_depth");
}
