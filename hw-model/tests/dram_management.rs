//! Refresh management: no bank is activated more often than the device allows, and what that costs.
mod checker;

use cptr_hw_model::dram::{
    Channel, Command, CommandError, CommandKind, Config, Controller, Device, ManagementCommand, MappingKind,
    PagePolicy, Refresh, RefreshManagement, Request, Until, presets,
};
use proptest::prelude::*;

/// The device with management, each command taking as long as the refresh of the same banks.
fn managed(mut device: Device, command: ManagementCommand, raaimt: u32, refresh_decrement: u32) -> Device {
    let n_rfm = match command {
        ManagementCommand::AllBank => device.timing.n_rfc,
        ManagementCommand::BankWise => device.bank_refresh.unwrap().n_rfc,
    };
    device.refresh_management =
        Some(RefreshManagement { command, raaimt, raammt: 3 * raaimt, refresh_decrement, n_rfm });
    device
}

/// So many reads of so many banks in turn, each of another row of its bank.
fn rows_in_turn(device: &Device, banks: u64, reads: u64) -> impl Iterator<Item = Request> + use<> {
    let o = &device.organisation;
    // `robaracoch`: row, bank, bank group, rank, column from high to low.
    let row = o.row_bytes() * u64::from(o.total_banks());
    let bank = o.row_bytes();
    (0..reads).map(move |index| Request::read(index / banks * row + index % banks * bank))
}

fn log_of(device: &Device, config: Config, stream: impl Iterator<Item = Request>) -> Vec<(u64, Command)> {
    let mut log = Vec::new();
    let observer = |cycle: u64, command: Command| log.push((cycle, command));
    Controller::with_observer(device, config, observer).unwrap().run(stream, Until::Served).unwrap();
    log
}

fn count(log: &[(u64, Command)], kind: CommandKind) -> u64 {
    log.iter().filter(|(_, command)| command.kind == kind).count() as u64
}

/// One bank activated as often as tRC allows: after every RAAIMT activates comes one management command, and
/// RAAIMT activates take RAAIMT tRC + tRFM.
#[test]
fn a_hammered_bank_is_managed_every_raaimt_activates() {
    let config = Config::new(MappingKind::RoBaRaCoCh, Refresh::None);
    for command in [ManagementCommand::AllBank, ManagementCommand::BankWise] {
        for raaimt in [1, 32, 80] {
            let device = managed(presets::ddr5_4800(), command, raaimt, 0);
            let needs = device.refresh_management.unwrap();
            let rounds = 5;
            let log = log_of(&device, config, rows_in_turn(&device, 1, rounds * u64::from(raaimt) + 1));
            let acts: Vec<u64> =
                log.iter().filter(|(_, command)| command.kind == CommandKind::Act).map(|&(cycle, _)| cycle).collect();
            let period = u64::from(raaimt * device.timing.n_rc + needs.n_rfm);
            assert_eq!(acts[acts.len() - 1] - acts[0], rounds * period, "{command:?} {raaimt}");
            let kind = match command {
                ManagementCommand::AllBank => CommandKind::RfmAll,
                ManagementCommand::BankWise => CommandKind::RfmBank,
            };
            let (rfm, other) = (count(&log, CommandKind::RfmAll), count(&log, CommandKind::RfmBank));
            // The last activate alone makes the device ask again where one is enough.
            assert_eq!(rfm + other, rounds, "{command:?} {raaimt}");
            assert_eq!(count(&log, kind), rounds);
        }
    }
}

/// All banks alike: RFMab serves them all, so it comes after RAAIMT activates of each; RFMsb as often for each set.
#[test]
fn one_command_serves_all_its_banks() {
    let config = Config::new(MappingKind::RoBaRaCoCh, Refresh::None);
    let base = presets::ddr5_4800();
    let (banks, sets) = (u64::from(base.organisation.total_banks()), u64::from(base.organisation.banks));
    let (raaimt, rounds) = (16, 6);
    let reads = banks * u64::from(raaimt) * rounds;
    let all = managed(base.clone(), ManagementCommand::AllBank, raaimt, 0);
    let found = count(&log_of(&all, config, rows_in_turn(&all, banks, reads)), CommandKind::RfmAll);
    assert!(found.abs_diff(rounds) <= 1, "{found} RFMab of {rounds}");
    let wise = managed(base, ManagementCommand::BankWise, raaimt, 0);
    let found = count(&log_of(&wise, config, rows_in_turn(&wise, banks, reads)), CommandKind::RfmBank);
    assert!(found.abs_diff(rounds * sets) <= sets, "{found} RFMsb of {}", rounds * sets);
}

/// Fewer than RAAIMT activates from refresh to refresh, and each refresh takes RAAIMT off: nothing to manage. If
/// refreshes take nothing off, every RAAIMT activates are managed.
#[test]
fn refresh_takes_activates_off() {
    let config = Config::new(MappingKind::RoBaRaCoCh, Refresh::AllBank);
    let (raaimt, intervals, each) = (32, 20, 30);
    for (decrement, expected) in [(raaimt, 0), (0, intervals * each / u64::from(raaimt))] {
        let device = managed(presets::ddr5_4800(), ManagementCommand::AllBank, raaimt, decrement);
        let n_refi = u64::from(device.timing.n_refi);
        // 30 activates take 3,330 of the 9,375 clocks from one refresh to the next.
        let spread = rows_in_turn(&device, 1, intervals * each)
            .enumerate()
            .map(|(index, request)| Request { not_before: index as u64 / each * n_refi + 2000, ..request });
        let log = log_of(&device, config, spread);
        assert_eq!(count(&log, CommandKind::RfmAll), expected, "decrement {decrement}");
        assert!(count(&log, CommandKind::RefAll) >= intervals - 1);
    }
}

/// HBM3 refreshes a bank every 97 clocks and each for 320, so one always is: RFMab of all banks gets its turn, and so
/// do the refreshes.
#[test]
fn management_of_all_banks_and_refresh_of_single_ones_do_not_keep_each_other_off() {
    for decrement in [0, 1] {
        let device = managed(presets::hbm3_6400(), ManagementCommand::AllBank, 1, decrement);
        let config = Config::new(MappingKind::RoBaRaCoCh, Refresh::SameBank);
        let reads = 300;
        let log = log_of(&device, config, rows_in_turn(&device, 4, reads));
        assert_eq!(count(&log, CommandKind::Act), reads);
        let (managements, refreshes) = (count(&log, CommandKind::RfmAll), count(&log, CommandKind::RefBank));
        assert!(managements * 4 >= reads, "{managements} RFMab, decrement {decrement}");
        // One of each pseudo-channel every 195 clocks; what falls due while the last RFMab waits and lasts is left.
        let interval = u64::from(device.bank_refresh.unwrap().n_refi * device.cycles_per_clock());
        let due = log.last().unwrap().0 / interval * u64::from(device.organisation.ranks);
        assert!((due - 20..=due).contains(&refreshes), "{refreshes} of {due} REFpb, decrement {decrement}");
        checker::check(&device, &log).unwrap_or_else(|violation| panic!("{violation:?}"));
    }
}

/// Single commands: at RAAMMT the bank takes no activate until it is managed or refreshed.
#[test]
fn a_bank_at_raammt_takes_no_activate() {
    let device = managed(presets::ddr5_4800(), ManagementCommand::BankWise, 2, 2);
    let mut at = 0;
    let mut step = |channel: &mut Channel, command: Command| {
        at = channel.probe(command)?.max(at + 1);
        channel.issue(command, at).map_err(|refused| refused.reason)
    };
    for cure in [CommandKind::RfmBank, CommandKind::RefBank, CommandKind::RefAll] {
        let mut channel = Channel::new(&device).unwrap();
        for row in 0..6 {
            step(&mut channel, Command::act(5, row)).unwrap();
            step(&mut channel, Command::new(CommandKind::Pre, 5)).unwrap();
        }
        assert_eq!(step(&mut channel, Command::act(5, 6)), Err(CommandError::ManagementDue));
        step(&mut channel, Command::act(6, 6)).unwrap();
        step(&mut channel, Command::new(CommandKind::Pre, 6)).unwrap();
        // Bank 1 is of the set of bank 5: the same of another group.
        step(&mut channel, Command::new(cure, 1)).unwrap();
        for row in 0..2 {
            step(&mut channel, Command::act(5, row)).unwrap();
            step(&mut channel, Command::new(CommandKind::Pre, 5)).unwrap();
        }
        assert_eq!(step(&mut channel, Command::act(5, 6)), Err(CommandError::ManagementDue));
        assert_eq!(step(&mut channel, Command::new(CommandKind::RfmAll, 5)), Err(CommandError::NotSupported));
    }
}

/// The example of the documentation.
#[test]
fn the_documented_file_is_a_device() {
    const DOCUMENT: &str = include_str!("../../docs/dram.md");
    let section = DOCUMENT.split("## Refresh management\n").nth(1).unwrap();
    let example = section.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let needs = Device::from_toml(example).unwrap().refresh_management.unwrap();
    assert_eq!((needs.raaimt, needs.raammt, needs.refresh_decrement, needs.n_rfm), (32, 96, 16, 710));
}

#[test]
fn what_no_device_asks_for_is_refused() {
    let file = |more: &str| Device::from_toml(&format!("base = \"DDR5-4800\"\n[refresh_management]\n{more}"));
    let good = "command = \"bank-wise\"\nraaimt = 32\nraammt = 96\nrefresh_decrement = 16\nn_rfm = 313\n";
    let device = file(good).unwrap();
    assert_eq!(device.refresh_management.unwrap().raammt, 96);
    let refused = |from: &str, to: &str| file(&good.replace(from, to)).unwrap_err().to_string();
    assert_eq!(
        refused("raammt = 96", "raammt = 31"),
        "refresh_management.raammt is 31, but it must be at least refresh_management.raaimt, which is 32"
    );
    assert!(refused("raaimt = 32", "raaimt = 0").starts_with("refresh_management.raaimt is 0"));
    assert!(refused("decrement = 16", "decrement = 33").contains("at most refresh_management.raaimt, which is 32"));
    assert!(refused("n_rfm = 313", "n_rfm = 9000").contains("at most timing.n_refi - n_rfc, which is 8665"));
    assert!(refused("bank-wise", "both").contains("unknown variant `both`"));
    let ddr4 = format!("base = \"DDR4-3200\"\n[refresh_management]\n{good}");
    assert!(Device::from_toml(&ddr4).unwrap_err().to_string().contains("needs bank_refresh"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is read and written, and however refreshed, no rule is broken and everything is served.
    #[test]
    fn no_rule_of_management_is_broken(
        device in prop::sample::select(vec!["DDR4-3200", "DDR5-4800", "LPDDR5-6400", "HBM2-2000", "HBM3-6400"]),
        ranks in 1u32..3, wise: bool, raaimt in 1u32..12, more in 0u32..12, decrement in 0u32..12, refresh in 0usize..3,
        closed: bool, depth in 1u16..64, rows in 1u64..40, banks in 1u64..12, writes: bool,
        picks in prop::collection::vec((0u64..1 << 20, 0u64..30), 50..600),
    ) {
        let mut device = presets::by_name(device).unwrap();
        if !device.pseudo_channels {
            device.organisation.ranks = ranks;
            device.organisation.capacity_bytes *= u64::from(ranks);
        }
        let wise = wise && device.bank_refresh.is_some();
        let command = if wise { ManagementCommand::BankWise } else { ManagementCommand::AllBank };
        let mut device = managed(device, command, raaimt, decrement.min(raaimt));
        device.refresh_management.as_mut().unwrap().raammt = raaimt + more;
        let refresh = [Refresh::None, Refresh::AllBank, Refresh::SameBank][refresh];
        let refresh = if device.bank_refresh.is_none() { Refresh::AllBank } else { refresh };
        let page_policy = if closed { PagePolicy::Closed } else { PagePolicy::Open };
        let config = Config { page_policy, queue_depth: depth, ..Config::new(MappingKind::RoBaRaCoCh, refresh) };
        let o = &device.organisation;
        let (row, bank) = (o.row_bytes() * u64::from(o.total_banks()), o.row_bytes());
        let mut not_before = 0;
        let stream = picks.iter().map(|&(pick, gap)| {
            not_before += gap;
            let address = pick % rows * row + pick / rows % banks * bank;
            let request = if writes && pick % 3 == 0 { Request::write(address) } else { Request::read(address) };
            Request { not_before, ..request }
        });
        let log = log_of(&device, config, stream);
        if let Err(violation) = checker::check(&device, &log) {
            prop_assert!(false, "{} {config:?}: {violation:?}", device.name);
        }
    }
}
