//! Has the context changed? Evidence pooled over all layers, for decisions that concern the whole model.
//!
//! Each layer has two levels of every expert ([`crate::level`]): the context (gain 1/64) and the long run (gain
//! 1/4096). A token is compared with them by two cosines: of its demand with the context, and of what is peculiar about
//! both, demand less long run with context less long run. The second takes out the experts that all contexts want, so
//! that a change shows where contexts have much in common; the first holds where nothing else has been seen yet. Their
//! weighted sum, mean over the layers, is the *distance* of the token. A one-sided cumulative sum (Page's CUSUM,
//! Biometrika 1954) of its excess over its usual value, in units of its usual deviation, raises the alarm.
//!
//! The lock detector of one layer ([`crate::phase`]) serves the layer's own filter; this one decides about migrations.
//! docs/results.md has delay and false alarms of it and of others on real traces, the loss of a remembered match
//! ([`crate::recall`]) among them, which sees next to nothing of a change.
//!
//! ```
//! use cptr_core::context::{ChangeConfig, ChangeDetector, distance, trackers};
//! use cptr_core::{Angle, ScaledLevels, Tracker};
//!
//! let mut layer = Tracker::<[ScaledLevels; 8]>::new();
//! for token in 0..100u16 {
//!     layer.update(&trackers(), &[token % 3, 3 + token % 3]);
//! }
//! // What it has always wanted is near, what it has never wanted far.
//! assert!(distance(&layer, &[0, 3]) < 1.0 && distance(&layer, &[6, 7]) > 1.4);
//!
//! let mut detector = ChangeDetector::new();
//! // Distances of four layers that are larger from token 300 on.
//! let at = |token: u32, n: u32| Angle::from_num((token * n % 8 + token / 300 * 8 + 8) as f64 / 16.0);
//! let distances = |token: u32| [1, 5, 3, 7].map(|n| at(token, n));
//! let mut alarms = (0..600).filter(|&token| detector.step(&ChangeConfig::default(), &distances(token)));
//! assert!((300..310).contains(&alarms.next().unwrap()));
//! ```

use crate::level::{KalmanConfig, Levels, ScaledLevels};
use crate::num::{Angle, Gain, Share, div_frac_call, quotient, sqrt_call};
use crate::tracker::{Tracker, TrackerConfig};

/// Fraction bits of an expert's share of all demand.
const SHARE_BITS: u32 = 24;
/// Choices that count: 64 of them leave all sums below 2^62.
const MOST_WANTED: usize = 64;

/// Constants of the trackers whose levels [`distance`] takes: the slow level is the long run, the fast one the context.
pub fn trackers() -> TrackerConfig {
    TrackerConfig {
        kalman: const { KalmanConfig::from_gains(Gain::from_bits(1 << 20), Gain::ZERO) },
        fast_gain: Gain::from_bits(1 << 26),
        ..TrackerConfig::default()
    }
}

/// How far what a token wants is from the context of a layer: `1 - a + (1 - b) / 2`, where a is the cosine of demand
/// and context (the fast levels), and b that of demand less long run and context less long run (the slow levels), in
/// [0, 2], rounded to about 2^-20. All three are shares of one. Without levels, or where nobody is wanted, it is 3/2.
///
/// The levels are those before the token; ids beyond them are ignored, and choices beyond 64.
///
/// Cost: two passes over the experts, 8 and 30 instructions each, 25 for each choice, and about 300 beside.
pub fn distance<L>(tracker: &Tracker<L>, wanted: &[u16]) -> Angle
where
    L: AsRef<[ScaledLevels]> + AsMut<[ScaledLevels]> + ?Sized,
{
    let (mut context, mut long_run) = (0u64, 0u64);
    for Levels { slow, fast } in tracker.levels() {
        context = u64::wrapping_add(context, fast.to_bits().into());
        long_run = u64::wrapping_add(long_run, slow.to_bits().into());
    }
    let (context, long_run) = (Inverse::of(context), Inverse::of(long_run));
    let shares = |levels: Levels| (context.share(levels.fast.to_bits()), long_run.share(levels.slow.to_bits()));
    // Squares of context, of what is peculiar about it, of the long run, and the product of the last two: `F48`, below
    // 2^50, as shares add up to at most one.
    let (mut whole, mut own, mut run, mut both) = (0u64, 0u64, 0u64, 0i64);
    for (here, always) in tracker.levels().map(shares) {
        let peculiar = i64::from(here).wrapping_sub(always.into());
        whole = u64::wrapping_add(whole, square(here.into()));
        run = u64::wrapping_add(run, square(always.into()));
        own = u64::wrapping_add(own, square(peculiar.unsigned_abs()));
        both = i64::wrapping_add(both, peculiar.wrapping_mul(always.into()));
    }
    // The same of the wanted experts alone: `F24`.
    let (mut want_context, mut want_run, mut count) = (0u64, 0u64, 0u64);
    for levels in wanted.iter().take(MOST_WANTED).filter_map(|&id| tracker.level(id)) {
        let (here, always) = shares(levels);
        want_context = u64::wrapping_add(want_context, here.into());
        want_run = u64::wrapping_add(want_run, always.into());
        count = u64::wrapping_add(count, 1);
    }
    let near = sqrt_call(count.wrapping_mul(whole));
    let cosine = if near == 0 { 0 } else { div_frac_call((want_context as u32).min(near), near) >> 4 };
    // Demand less long run, both times the number of choices.
    let demand = (count << (2 * SHARE_BITS)).wrapping_add(square(count).wrapping_mul(run));
    let demand = demand.saturating_sub(count.wrapping_mul(want_run) << (SHARE_BITS + 1));
    let lengths = u64::from(sqrt_call(demand)).wrapping_mul(sqrt_call(own).into());
    let product = want_context.wrapping_sub(want_run).cast_signed() << SHARE_BITS;
    let product = product.wrapping_sub(count.cast_signed().wrapping_mul(both));
    let size = (Share::of(lengths).share(product.unsigned_abs().min(lengths)) >> 3).cast_signed();
    let peculiar = if product < 0 { size.wrapping_neg() } else { size };
    Angle::from_bits((3i32 << 27).wrapping_sub(cosine.cast_signed()).wrapping_sub(peculiar / 2))
}

fn square(x: u64) -> u64 {
    x.wrapping_mul(x)
}

/// Shares of a sum, by multiplication.
struct Inverse {
    /// Bits that parts are shifted up; down if negative.
    up: i32,
    /// `2^62` over the sum, which has its upper bit set when it has been shifted so; 0 where there is nothing.
    inverse: u32,
}

impl Inverse {
    fn of(sum: u64) -> Self {
        let up = sum.leading_zeros().cast_signed().wrapping_sub(32);
        match shifted(sum, up) {
            0 => Self { up: 0, inverse: 0 },
            sum => Self { up, inverse: div_frac_call(1 << 30, sum) },
        }
    }

    /// The share of a part, `F24`, rounded down.
    fn share(&self, part: u32) -> u32 {
        (u64::from(shifted(part.into(), self.up)).wrapping_mul(self.inverse.into()) >> (62 - SHARE_BITS)) as u32
    }
}

/// 32 bits of `value`, shifted `up`; none where all are gone.
fn shifted(value: u64, up: i32) -> u32 {
    let bits = if up < 0 { value.checked_shr(up.unsigned_abs()) } else { value.checked_shl(up.unsigned_abs()) };
    bits.unwrap_or(0) as u32
}

/// Constants of a [`ChangeDetector`]. Shifts are powers of two: `1 / 2^shift`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeConfig {
    /// Gain of the usual value and of the usual deviation, as a shift.
    pub gain_shift: u8,
    /// Tokens at the start from which the usual value and deviation are learnt, without alarms; at least 1.
    pub acquire_tokens: u16,
    /// Tokens after an alarm in which the levels move to the new context: nothing is learnt and no alarm raised.
    pub hold_tokens: u16,
    /// Excess that counts as usual, in 1/16 of the usual deviation.
    pub slack_16ths: u8,
    /// Evidence that raises the alarm, in units of the usual deviation.
    pub threshold: u8,
}

impl Default for ChangeConfig {
    /// Median delay and false alarms of these values, and of others: docs/results.md.
    fn default() -> Self {
        Self { gain_shift: 8, acquire_tokens: 64, hold_tokens: 32, slack_16ths: 16, threshold: 20 }
    }
}

/// Detector of changes of context, one for all layers, 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ChangeDetector {
    /// Usual value of the statistic.
    usual: Angle,
    /// Mean absolute deviation from it.
    deviation: Angle,
    /// Cumulative excess.
    evidence: Angle,
    /// Tokens learnt at the start, saturating at the configured number.
    learnt: u16,
    /// Tokens left to hold still.
    hold: u16,
}

impl ChangeDetector {
    /// Before the first token.
    pub const fn new() -> Self {
        Self { usual: Angle::ZERO, deviation: Angle::ZERO, evidence: Angle::ZERO, learnt: 0, hold: 0 }
    }

    /// Whether the detector is learning at the start or letting the levels settle after an alarm.
    pub const fn settling(&self, config: &ChangeConfig) -> bool {
        self.hold > 0 || self.learnt < config.acquire_tokens
    }

    /// Takes the [`distance`]s of one token in all layers; returns whether the context has changed. No layers, no
    /// alarm.
    ///
    /// Cost: an addition a layer, a division and about 40 instructions.
    pub fn step(&mut self, config: &ChangeConfig, distances: &[Angle]) -> bool {
        let sum = distances.iter().map(|distance| i64::from(distance.to_bits())).fold(0, i64::saturating_add);
        if distances.is_empty() {
            return false;
        }
        // Towards 0.
        let mean = quotient(sum.unsigned_abs(), distances.len() as u64) as i32;
        let distance = Angle::from_bits(if sum < 0 { mean.wrapping_neg() } else { mean });
        if self.learnt < config.acquire_tokens {
            self.acquire(distance);
            return false;
        }
        if self.hold > 0 {
            self.hold = self.hold.saturating_sub(1);
            return false;
        }
        // Distances are in [0, 2], and so are means of them: nothing overflows the format, which ends at 8.
        let error = distance.wrapping_sub(self.usual);
        let slack = Angle::from_bits((self.deviation.to_bits() >> 4).saturating_mul(i32::from(config.slack_16ths)));
        self.evidence = self.evidence.saturating_add(error).saturating_sub(slack).max(Angle::ZERO);
        if self.evidence > self.deviation.saturating_mul_int(i32::from(config.threshold)) {
            self.evidence = Angle::ZERO;
            self.hold = config.hold_tokens;
            return true;
        }
        let shift = u32::from(config.gain_shift.min(31));
        self.usual = self.usual.wrapping_add(error.wrapping_shr(shift));
        let more = error.wrapping_abs().wrapping_sub(self.deviation);
        self.deviation = self.deviation.wrapping_add(more.wrapping_shr(shift));
        false
    }

    /// Running means in which later tokens count more, as the levels themselves are still settling.
    fn acquire(&mut self, distance: Angle) {
        self.learnt = self.learnt.saturating_add(1);
        if self.learnt == 1 {
            self.usual = distance;
            return;
        }
        let n = i32::from(self.learnt / 2).wrapping_add(1).max(1);
        let share = |error: Angle| Angle::from_bits(error.to_bits() / n);
        let error = distance.wrapping_sub(self.usual);
        self.usual = self.usual.wrapping_add(share(error));
        self.deviation = self.deviation.wrapping_add(share(error.wrapping_abs().wrapping_sub(self.deviation)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::oracle;
    use proptest::prelude::*;

    /// Deterministic noise in [-1, 1).
    fn noise(n: u32) -> f64 {
        f64::from(n.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 23) - 1.0
    }

    /// Sixteen layers around `mean`, with noise of their own and noise that they share, as tokens turn all layers; the
    /// first alarm, counted from the start of the range.
    fn run(
        detector: &mut ChangeDetector,
        tokens: core::ops::Range<u32>,
        mean: impl Fn(u32, u32) -> f64,
    ) -> Option<u32> {
        let config = ChangeConfig::default();
        tokens
            .clone()
            .find(|&token| {
                let distances: [Angle; 16] = core::array::from_fn(|l| {
                    let own = 0.1 * noise(token * 16 + l as u32);
                    Angle::from_num(mean(token, l as u32) + 0.15 * noise(token + 77) + own)
                });
                detector.step(&config, &distances)
            })
            .map(|token| token - tokens.start)
    }

    #[test]
    fn a_turn_of_all_layers_is_a_change() {
        let mut detector = ChangeDetector::new();
        assert_eq!(run(&mut detector, 0..2000, |_, _| 0.9), None);
        let delay = run(&mut detector, 2000..2100, |_, _| 1.3).expect("a turn of all layers");
        assert!(delay <= 8, "{delay}");
        assert!(detector.settling(&ChangeConfig::default()));
        assert_eq!(run(&mut detector, 2100..4000, |_, _| 0.9), None);
    }

    #[test]
    fn a_turn_of_one_layer_or_for_one_token_is_none() {
        let mut detector = ChangeDetector::new();
        assert_eq!(run(&mut detector, 0..1000, |_, _| 0.9), None);
        assert_eq!(run(&mut detector, 1000..3000, |_, layer| if layer > 0 { 0.9 } else { 1.4 }), None);
        assert_eq!(run(&mut detector, 3000..5000, |t, _| if t % 50 == 0 { 1.2 } else { 0.9 }), None);
    }

    #[test]
    fn without_layers_nothing_happens() {
        let mut detector = ChangeDetector::new();
        assert!((0..1000).all(|_| !detector.step(&ChangeConfig::default(), &[])));
    }

    proptest! {
        #[test]
        fn a_distance_is_what_its_definition_says(
            tokens in prop::collection::vec(prop::collection::hash_set(0u16..24, 3), 1..200),
        ) {
            let mut tracker = Tracker::<[ScaledLevels; 24]>::new();
            prop_assert_eq!(distance(&tracker, &[1, 2]), 1.5);
            for token in tokens {
                let wanted: std::vec::Vec<u16> = token.into_iter().collect();
                let levels: std::vec::Vec<Levels> = tracker.levels().collect();
                let (found, expected) = (distance(&tracker, &wanted).to_num::<f64>(), oracle::distance(&levels, &wanted));
                // Of the first token both levels are the same, and what is peculiar about it is rounding.
                let long = levels.iter().filter(|level| level.fast > 0).count() > 3;
                prop_assert!((found - expected).abs() < if long { 1e-3 } else { 0.51 }, "{} {}", found, expected);
                tracker.update(&trackers(), &wanted);
            }
        }

        #[test]
        fn any_ids_have_a_distance(ids in prop::collection::vec(any::<u16>(), 0..100), seen: [u16; 8]) {
            let mut tracker = Tracker::<[ScaledLevels; 512]>::new();
            tracker.update(&trackers(), &seen.map(|id| id % 512));
            let found = distance(&tracker, &ids);
            prop_assert!((Angle::ZERO..=Angle::from_num(2)).contains(&found), "{}", found);
        }

        #[test]
        fn any_distances_and_any_configuration_keep_the_state_in_range(
            distances in prop::collection::vec(prop::array::uniform3(0i32..=2 << 28), 0..300),
            (gain_shift, slack_16ths, threshold) in any::<(u8, u8, u8)>(),
            (acquire_tokens, hold_tokens) in any::<(u16, u16)>(),
        ) {
            let config = ChangeConfig { gain_shift, acquire_tokens, hold_tokens, slack_16ths, threshold };
            let mut detector = ChangeDetector::new();
            let mut since_alarm = None::<u16>;
            for bits in distances {
                let alarm = detector.step(&config, &bits.map(Angle::from_bits));
                // Never two alarms within the hold.
                prop_assert!(!alarm || since_alarm.is_none_or(|tokens| tokens >= hold_tokens));
                since_alarm = if alarm { Some(0) } else { since_alarm.map(|tokens| tokens.saturating_add(1)) };
                prop_assert!((Angle::ZERO..=Angle::from_num(2)).contains(&detector.usual));
                prop_assert!((Angle::ZERO..=Angle::from_num(2)).contains(&detector.deviation));
                prop_assert!(detector.evidence >= Angle::ZERO);
            }
        }
    }
}
