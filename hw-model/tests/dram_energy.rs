//! Energy against sums by hand: what a run must cost by its commands and its time.
use cptr_hw_model::dram::{
    CommandEnergy, CommandKind, Config, Controller, Device, Engine, EngineConfig, ManagementCommand, MappingKind,
    PagePolicy, Refresh, RefreshManagement, Request, Until, presets, stream,
};

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{found} instead of {expected}");
}

/// DDR4-3200, eight devices at 1.2 V: in nanojoules, from the data sheet's milliamperes and the clock of 0.625 ns.
#[test]
fn commands_of_ddr4_cost_what_the_currents_say() {
    let of = CommandEnergy::of(&presets::ddr4_3200()).unwrap();
    let pj = |ma_clocks: f64| ma_clocks * 1.2 * 8.0 * 0.625;
    near(of.activate_pj, pj((57.0 - 37.0) * 74.0 - (52.0 - 37.0) * 52.0 / 16.0));
    near(of.read_pj, pj((168.0 - 52.0) * 4.0));
    near(of.write_pj, pj((150.0 - 52.0) * 4.0));
    near(of.refresh_all_pj, pj((250.0 - 37.0) * 576.0));
    near(of.cycle_pj, pj(37.0));
    near(of.open_cycle_pj, pj(15.0 / 16.0));
    // 2.8 mJ for a gigabyte of reads beyond standby is 5.4 pJ a bit.
    assert!((of.read_pj / 512.0 - 5.4).abs() < 0.1, "{}", of.read_pj);
}

/// A lone read with auto-precharge, then nothing: one row for nRCD cycles, and standby of one rank.
#[test]
fn a_lone_read_by_hand() {
    let device = presets::ddr4_3200();
    let config = Config { page_policy: PagePolicy::Closed, ..Config::new(MappingKind::RoBaRaCoCh, Refresh::None) };
    let mut controller = Controller::new(&device, config).unwrap();
    controller.run([Request::read(0)], Until::Served).unwrap();
    controller.idle_until(10_000);
    let counts = controller.statistics();
    assert_eq!(counts.open_cycles, 22);
    let of = CommandEnergy::of(&device).unwrap();
    let energy = of.total(counts, 10_000);
    near(energy.total_pj(), of.activate_pj + of.read_pj + of.cycle_pj * 10_000.0 + of.open_cycle_pj * 22.0);
    assert_eq!((energy.write_pj, energy.refresh_pj), (0.0, 0.0));
}

/// Management costs what a refresh of the same banks costs in its time: DDR4 takes 213 mA beyond standby for 100
/// clocks.
#[test]
fn management_costs_what_a_refresh_as_long_does() {
    let (raaimt, raammt, refresh_decrement) = (4, 8, 0);
    let mut device = presets::ddr4_3200();
    let command = ManagementCommand::AllBank;
    device.refresh_management = Some(RefreshManagement { command, raaimt, raammt, refresh_decrement, n_rfm: 100 });
    let of = CommandEnergy::of(&device).unwrap();
    near(of.management_pj, (250.0 - 37.0) * 100.0 * 1.2 * 8.0 * 0.625);
    let mut controller = Controller::new(&device, Config::new(MappingKind::RoBaRaCoCh, Refresh::None)).unwrap();
    // Thirteen rows of a bank: managed after the fourth, the eighth and the twelfth.
    controller.run((0..13).map(|row| Request::read(row << 17)), Until::Served).unwrap();
    let energy = of.total(controller.statistics(), controller.cycle());
    near(energy.refresh_pj, 3.0 * of.management_pj);
    let mut device = presets::ddr5_4800();
    let (command, n_rfm) = (ManagementCommand::BankWise, device.bank_refresh.unwrap().n_rfc);
    device.refresh_management = Some(RefreshManagement { command, raaimt, raammt, refresh_decrement, n_rfm });
    let of = CommandEnergy::of(&device).unwrap();
    near(of.management_pj, of.refresh_bank_pj);
}

/// An idle rank takes I2N, and I5B while it refreshes: so many nanoseconds of each nREFI.
#[test]
fn an_idle_rank_takes_standby_and_refresh() {
    for device in presets::all().iter().filter(|device| device.power.is_some()) {
        let ranks = Device { organisation: device.organisation, ..device.clone() };
        for refresh in [Refresh::AllBank, Refresh::SameBank] {
            let Ok(mut controller) = Controller::new(&ranks, Config::new(MappingKind::RoBaRaCoCh, refresh)) else {
                continue;
            };
            let n_refi = u64::from(device.timing.n_refi);
            let cycles = 800 * n_refi + n_refi / 2;
            controller.idle_until(cycles);
            let energy = CommandEnergy::of(&ranks).unwrap().total(controller.statistics(), cycles);
            let power = device.power.as_ref().unwrap();
            let share = f64::from(device.timing.n_rfc) / f64::from(device.timing.n_refi);
            let watts = |supply: &cptr_hw_model::dram::energy::Supply| {
                let mean = f64::from(supply.i2n_ua) * (1.0 - share) + f64::from(supply.i5b_ua) * share;
                f64::from(supply.mv) * mean * 1e-9 * f64::from(power.devices)
            };
            let expected: f64 = power.supplies.iter().map(watts).sum();
            let found = energy.total_pj() / controller.time_ps() as f64;
            assert!((found / expected - 1.0).abs() < 2e-3, "{} {found} {expected}", device.name);
        }
    }
}

/// Rows are open from ACT to PRE: the sum over the log is what is counted, and what the engine counts at any time.
#[test]
fn open_rows_are_counted_bank_by_bank() {
    for device in presets::all() {
        for (policy, refresh) in [(PagePolicy::Open, Refresh::AllBank), (PagePolicy::Closed, Refresh::None)] {
            let config = Config { page_policy: policy, ..Config::new(MappingKind::Mop4ClXor, refresh) };
            let access = device.organisation.access_bytes();
            let requests: Vec<Request> = stream::StreamKind::Random.requests(3000, access).collect();
            let mut opened = vec![None; device.organisation.total_banks() as usize];
            let per_rank = device.organisation.banks_per_rank() as usize;
            let mut sum = 0;
            let mut controller =
                Controller::with_observer(&device, config, |cycle, command: cptr_hw_model::dram::Command| {
                    let bank = usize::from(command.bank);
                    let close = match command.kind {
                        CommandKind::Act => {
                            opened[bank] = Some(cycle);
                            return;
                        }
                        CommandKind::Pre | CommandKind::RdA | CommandKind::WrA => bank..bank + 1,
                        CommandKind::PreAll => bank / per_rank * per_rank..(bank / per_rank + 1) * per_rank,
                        _ => return,
                    };
                    sum += opened[close].iter_mut().filter_map(Option::take).map(|at| cycle - at).sum::<u64>();
                })
                .unwrap();
            controller.run(requests.iter().copied(), Until::Accepted).unwrap();
            let (end, counted) = (controller.cycle(), controller.statistics().open_cycles);
            drop(controller);
            sum += opened.iter().flatten().map(|at| end - at).sum::<u64>();
            assert_eq!(counted, sum, "{}", device.name);

            let mut engine = Engine::new(&device, EngineConfig::new(config)).unwrap();
            for request in requests {
                while engine.offer(request).is_err() {
                    engine.advance(engine.now() + 1).unwrap();
                }
            }
            assert!(engine.statistics().open_cycles > 0);
            let spent = engine.energy();
            assert_eq!(spent.is_some(), device.power.is_some());
            engine.advance(engine.now() + 1000).unwrap();
            assert!(engine.energy().map(|energy| energy.standby_pj) >= spent.map(|energy| energy.standby_pj));
        }
    }
}
