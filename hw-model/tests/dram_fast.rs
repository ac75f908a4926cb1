//! The fast path is the exact path, to the cycle and to the last count.
use cptr_hw_model::dram::{
    ChannelStripe, Config, Controller, Device, FastChannel, FastChannels, ManagementCommand, MappingKind, PagePolicy,
    Refresh, RefreshManagement, Until, presets, stream,
};
use proptest::prelude::*;

mod devices;

use devices::devices;

/// Both paths side by side.
struct Pair {
    exact: Controller,
    fast: FastChannel,
    access: u64,
}

impl Pair {
    fn new(device: &Device, config: Config) -> Self {
        let access = device.organisation.access_bytes();
        Self {
            exact: Controller::new(device, config).unwrap(),
            fast: FastChannel::new(device, config).unwrap(),
            access,
        }
    }

    fn read(&mut self, start: u64, bytes: u64) {
        self.read_until(start, bytes, Until::Served);
    }

    fn read_until(&mut self, start: u64, bytes: u64, until: Until) {
        self.exact.run(stream::contiguous(start, bytes, self.access), until).unwrap();
        self.fast.read_until(start, bytes, until).unwrap();
    }

    fn idle(&mut self, cycles: u64) {
        self.exact.idle_until(self.exact.cycle() + cycles);
        self.fast.idle_until(self.fast.cycle() + cycles);
    }

    fn differs(&self) -> Option<String> {
        let (exact, fast) = (&self.exact, &self.fast);
        if exact.cycle() != fast.cycle() {
            return Some(format!("cycle {} and {}", exact.cycle(), fast.cycle()));
        }
        (exact.statistics() != fast.statistics()).then(|| {
            let counts = |s: &cptr_hw_model::dram::Statistics| {
                (s.row_hits, s.row_misses, s.row_conflicts, s.commands, s.read_latency.mean())
            };
            format!("{:?} and {:?}", counts(exact.statistics()), counts(fast.statistics()))
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random device, mapping, queue, page policy, refresh; reads of random place and length that follow each other
    /// with and without pauses, some of them again: whatever is in the memory of the fast path must lead to the same
    /// cycle.
    #[test]
    fn fast_and_exact_agree(device in 0usize..devices().len(), mapping in 0usize..6, refresh in 0usize..3, closed: bool,
                            depth in 1u16..64, offers in 1u32..5,
                            reads in prop::collection::vec((0u64..64, 0u64..3, 1u64..30_000, 0u64..20_000, 0usize..4), 2..6)) {
        let device = &devices()[device];
        let refresh = [Refresh::None, Refresh::AllBank, Refresh::SameBank][refresh];
        let refresh = if device.bank_refresh.is_none() && refresh == Refresh::SameBank { Refresh::AllBank } else { refresh };
        let page_policy = if closed { PagePolicy::Closed } else { PagePolicy::Open };
        let config = Config { page_policy, queue_depth: depth, offers_per_cycle: offers,
                              ..Config::new(MappingKind::ALL[mapping], refresh) };
        let mut pair = Pair::new(device, config);
        for (place, offset, lines, pause, times) in reads {
            for _ in 0..times {
                // Aligned to 2 MiB but for a few lines.
                let start = place * (2 << 20) + offset * 7 * pair.access;
                pair.read(start, lines * pair.access);
                prop_assert_eq!(pair.differs(), None, "{} {:?}", &device.name, config);
                pair.idle(pause);
                prop_assert_eq!(pair.differs(), None, "{} {:?} after a pause", &device.name, config);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Ranges that follow each other without waiting for data: the queue still holds the end of one when the next
    /// begins.
    #[test]
    fn ranges_without_a_break_agree(device in 0usize..devices().len(), mapping in 0usize..6, refresh: bool,
                                    closed: bool, depth in 1u16..64, offers in 1u32..5,
                                    reads in prop::collection::vec((0u64..6, 0u64..40, 1u64..20_000, 0u64..300, 0u32..4), 2..20)) {
        let device = &devices()[device];
        let refresh = if refresh { Refresh::AllBank } else { Refresh::None };
        let page_policy = if closed { PagePolicy::Closed } else { PagePolicy::Open };
        let config = Config { page_policy, queue_depth: depth, offers_per_cycle: offers,
                              ..Config::new(MappingKind::ALL[mapping], refresh) };
        let mut pair = Pair::new(device, config);
        for (place, offset, lines, pause, kind) in reads {
            let start = place * (1 << 20) + offset * pair.access;
            let until = if kind == 0 { Until::Served } else { Until::Accepted };
            pair.read_until(start, lines * pair.access, until);
            prop_assert_eq!(pair.differs(), None, "{} {:?}", &device.name, config);
            if kind == 1 {
                pair.idle(pause);
                prop_assert_eq!(pair.differs(), None, "{} {:?} after a pause", &device.name, config);
            }
        }
    }
}

/// LPDDR5 and LPDDR6 may be between ACT1 and ACT2 where a jump lands: the row that ACT2 opens is part of the state.
#[test]
fn jumps_that_land_between_the_halves_of_an_activate_agree() {
    for device in [presets::lpddr5_6400(), presets::lpddr5x_8533(), presets::lpddr6_10667()] {
        for (queue_depth, page_policy) in
            (20..64).flat_map(|depth| [(depth, PagePolicy::Closed), (depth, PagePolicy::Open)])
        {
            let config = Config {
                page_policy,
                queue_depth,
                offers_per_cycle: 1,
                ..Config::new(MappingKind::Mop4ClXor, Refresh::None)
            };
            let mut pair = Pair::new(&device, config);
            for lines in [8193, 8193, 12_314] {
                pair.read(0, lines * pair.access);
                assert_eq!(pair.differs(), None, "{} {config:?}", device.name);
            }
        }
    }
}

/// One stream in laps over the same window, up to the acceptance of its last line.
#[test]
fn laps_agree_and_are_jumped_over() {
    for device in presets::all() {
        let mut pair = Pair::new(&device, Config::new(MappingKind::Mop4ClXor, Refresh::AllBank));
        let window = 16 << 20;
        for _ in 0..6 {
            pair.read_until(0, window, Until::Accepted);
            assert_eq!(pair.differs(), None, "{}", device.name);
        }
        let lines = 6 * window / pair.access;
        assert!(pair.fast.simulated_lines() < lines, "{}: {}", device.name, pair.fast.simulated_lines());
    }
}

/// Sequences of equal experts, long enough for both kinds of jump.
#[test]
fn experts_one_after_the_other_are_jumped_over_and_agree() {
    for device in presets::all() {
        for refresh in [Refresh::None, Refresh::AllBank] {
            let mut pair = Pair::new(&device, Config::new(MappingKind::Mop4ClXor, refresh));
            let expert = 3 << 20;
            let mut lines = 0;
            for id in [0u64, 5, 2, 7, 7, 1, 0, 3, 4, 6, 9, 8] {
                pair.read(id * expert, expert);
                lines += expert / pair.access;
                assert_eq!(pair.differs(), None, "{} {}", device.name, refresh.name());
            }
            if refresh == Refresh::None {
                assert!(pair.fast.simulated_lines() < lines / 3, "{}: {}", device.name, pair.fast.simulated_lines());
            }
        }
    }
}

#[test]
fn a_long_read_crosses_refreshes_in_jumps() {
    let device = presets::ddr4_3200();
    let mut pair = Pair::new(&device, Config::new(MappingKind::Mop4ClXor, Refresh::AllBank));
    let bytes = 1 << 30;
    pair.read(0, bytes);
    assert_eq!(pair.differs(), None);
    let lines = bytes / 64;
    assert!(pair.fast.simulated_lines() < lines / 2, "{} of {lines}", pair.fast.simulated_lines());
}

#[test]
fn bad_ranges_are_refused() {
    let device = presets::ddr4_3200();
    let mut fast = FastChannel::new(&device, Config::new(MappingKind::Mop4ClXor, Refresh::AllBank)).unwrap();
    assert!(fast.read(32, 64).is_err());
    assert!(fast.read(8 << 30, 0).is_err());
    assert!(fast.read((8 << 30) - 64, 65).is_err());
    assert!(fast.read(0, u64::MAX).is_err());
    assert!(fast.read(64, 0).is_ok());
    assert_eq!(fast.cycle(), 0);
    assert!(fast.read((8 << 30) - 64, 64).is_ok());
    assert_eq!(fast.statistics().reads_served, 1);
}

/// Ten channels, which is no power of two, against ten exact controllers that each serve their stripes.
#[test]
fn channels_side_by_side_agree_with_as_many_controllers() {
    let device = presets::lpddr5_6400();
    let config = Config::new(MappingKind::Mop4ClXor, Refresh::AllBank);
    let (count, stripe_bytes) = (10, 256);
    let mut fast = FastChannels::new(&device, config, count, stripe_bytes).unwrap();
    let stripe = ChannelStripe::new(count, stripe_bytes, &device).unwrap();
    let mut exact: Vec<Controller> = (0..count).map(|_| Controller::new(&device, config).unwrap()).collect();
    for (start, bytes) in [(0u64, 3 << 20), (3 << 20, 3 << 20), (64, 32), (5 << 20, 1_000_000), (0, 3 << 20)] {
        fast.read(start, bytes).unwrap();
        for (index, channel) in exact.iter_mut().enumerate() {
            let addresses = (start..start + bytes).step_by(32).map(|address| stripe.split(address));
            let mine = addresses.filter(|&(owner, _)| owner as usize == index);
            channel.run(mine.map(|(_, local)| cptr_hw_model::dram::Request::read(local)), Until::Served).unwrap();
        }
        let end = exact.iter().map(Controller::cycle).max().unwrap();
        for channel in &mut exact {
            channel.idle_until(end);
        }
        assert_eq!(fast.cycle(), end);
        for (index, exact) in (0..).zip(&exact) {
            assert_eq!(fast.channel(index).unwrap().statistics(), exact.statistics());
        }
    }
    assert!(fast.channel(count).is_none());
    assert!(fast.read(1, 32).is_err() && fast.read(0, 33).is_err());
    assert!(fast.read(fast.capacity() - 32, 64).is_err());
}

/// One Mixtral-8x7B expert in FP16 from 512 GB/s: 0.688 ms at the peak, some 8 % more with refresh.
#[test]
fn a_mixtral_expert_in_fp16_from_ten_channels_of_ddr5_6400() {
    let device = presets::ddr5_6400();
    let config = Config::new(MappingKind::Mop4ClXor, Refresh::AllBank);
    let mut channels = FastChannels::new(&device, config, 20, 64).unwrap();
    channels.read(0, 3 * 4096 * 14336 * 2).unwrap();
    let ms = channels.time_ps() as f64 / 1e9;
    assert!((0.688..0.688 * 1.10).contains(&ms), "{ms} ms");
}
