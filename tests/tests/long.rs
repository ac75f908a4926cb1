//! Long runs: what is rounded at each step must not add up.

use cptr_core::testing::oracle;
use cptr_core::{ScaledLevels, Tracker, TrackerConfig};

const EXPERTS: usize = 8;
/// Tokens behind an alarm that only one side has seen, until both have forgotten it: 2^-20 of it is left.
const FORGET: u64 = 2000;

/// Demand that wanders: two of eight experts, near a place that moves now and then.
fn wanted(random: &mut fastrand::Rng, place: &mut u16) -> [u16; 2] {
    if random.u32(..4096) == 0 {
        *place = random.u16(..EXPERTS as u16);
    }
    let first = (*place + random.u16(..3)) % EXPERTS as u16;
    [first, (first + 1 + random.u16(..3)) % EXPERTS as u16]
}

/// The largest error of a level after so many steps, and the alarms of which only one side has seen one.
fn run(steps: u64) -> (f64, u64) {
    let (config, mut random, mut place) = (TrackerConfig::default(), fastrand::Rng::with_seed(3), 0);
    let mut tracker = Tracker::<[ScaledLevels; EXPERTS]>::new();
    let mut exact = oracle::Tracker::new(EXPERTS);
    let (mut worst, mut apart, mut alike) = (0.0f64, 0, 0);
    for _ in 0..steps {
        let wanted = wanted(&mut random, &mut place);
        let lost = tracker.update(&config, &wanted).lost_lock;
        if lost == exact.update(&wanted) {
            alike += 1;
        } else {
            (apart, alike) = (apart + 1, 0);
        }
        if alike > FORGET {
            for (expert, levels) in tracker.levels().enumerate() {
                let [slow, fast] = exact.level(expert);
                worst = worst.max((levels.slow.to_num::<f64>() - slow).abs());
                worst = worst.max((levels.fast.to_num::<f64>() - fast).abs());
            }
        }
    }
    (worst, apart)
}

/// A token rounds scale, gain and shift by a step of 2^-28 each, and forgets 1/64 of what was rounded before it: 3 x 64
/// steps. And Q is a whole number of steps of 2^-28 R, at 1/64 one of 66,576: the gain, which goes with its root, is
/// within 3.8e-6 of itself, and a level moves by at most 1/e of that.
const BOUND: f64 = 3.0 * 64.0 / (1u64 << 28) as f64 + 3.8e-6 / std::f64::consts::E;

#[track_caller]
fn check(steps: u64) {
    let (worst, apart) = run(steps);
    println!("{steps} steps: levels within {worst:.2e} of {BOUND:.2e}, alarms of one side alone: {apart}");
    assert!(worst > 0.0 && worst <= BOUND, "{worst}");
    assert!(apart * 100_000 <= steps, "{apart} alarms of {steps} steps that only one side has seen");
}

#[test]
fn levels_do_not_drift() {
    check(300_000);
}

#[test]
#[ignore = "minutes; cargo xtask test hostile runs it"]
fn levels_do_not_drift_in_a_thousand_million_steps() {
    check(1_000_000_000);
}
