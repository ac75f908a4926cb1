//! Has the context changed? Evidence pooled over all layers, for decisions that concern the whole model.
//!
//! Each layer's tracker gives the angle between the token's demand and the tracked context
//! ([`crate::tracker::Step::angle`]). A change of context turns nearly all layers at once, a peculiar token (a digit, a
//! bracket) turns many of them for a token or a few. So the statistic is the *lower quartile* of the angles over the
//! layers: three quarters of the layers point at least so far away. A one-sided cumulative sum (Page's CUSUM,
//! Biometrika 1954) of its excess over its usual value, in units of its usual deviation, raises the alarm.
//!
//! The lock detector of one layer ([`crate::phase`]) serves the layer's own filter; this one decides about migrations.
//! docs/results.md has delay and false alarms of both on real traces.

use crate::num::Angle;

/// Constants of a [`ChangeDetector`]. Shifts are powers of two: `1 / 2^shift`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeConfig {
    /// Share of the layers, in 1/16, that may stay below the statistic: 4 is the lower quartile.
    pub below_16ths: u8,
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
        Self { below_16ths: 4, gain_shift: 8, acquire_tokens: 64, hold_tokens: 32, slack_16ths: 24, threshold: 20 }
    }
}

/// Detector of changes of context, one for all layers, 20 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

    /// Takes the angles of one token in all layers, each in [0, pi/2], which it reorders; returns whether the context
    /// has changed. No layers, no alarm.
    ///
    /// Cost: a selection among the layers (linear on average) and about 20 instructions.
    pub fn step(&mut self, config: &ChangeConfig, angles: &mut [Angle]) -> bool {
        let rank = (angles.len() * usize::from(config.below_16ths.min(15))) / 16;
        if rank >= angles.len() {
            return false;
        }
        let (_, &mut angle, _) = angles.select_nth_unstable(rank);
        if self.learnt < config.acquire_tokens {
            self.acquire(angle);
            return false;
        }
        if self.hold > 0 {
            self.hold -= 1;
            return false;
        }
        let error = angle - self.usual;
        let slack = Angle::from_bits((self.deviation.to_bits() >> 4).saturating_mul(i32::from(config.slack_16ths)));
        self.evidence = self.evidence.saturating_add(error).saturating_sub(slack).max(Angle::ZERO);
        if self.evidence > self.deviation.saturating_mul_int(i32::from(config.threshold)) {
            self.evidence = Angle::ZERO;
            self.hold = config.hold_tokens;
            return true;
        }
        let shift = u32::from(config.gain_shift.min(31));
        self.usual += error >> shift;
        self.deviation += (error.abs() - self.deviation) >> shift;
        false
    }

    /// Running means in which later tokens count more, as the levels themselves are still settling.
    fn acquire(&mut self, angle: Angle) {
        self.learnt += 1;
        if self.learnt == 1 {
            self.usual = angle;
            return;
        }
        let share = |error: Angle, n: u16| Angle::from_bits(error.to_bits() / i32::from(n));
        let n = self.learnt / 2 + 1;
        let error = angle - self.usual;
        self.usual += share(error, n);
        self.deviation += share(error.abs() - self.deviation, n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
                let mut angles: [Angle; 16] = core::array::from_fn(|l| {
                    let own = 0.1 * noise(token * 16 + l as u32);
                    Angle::from_num(mean(token, l as u32) + 0.15 * noise(token + 77) + own)
                });
                detector.step(&config, &mut angles)
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
    fn a_turn_of_some_layers_or_for_one_token_is_none() {
        let mut detector = ChangeDetector::new();
        assert_eq!(run(&mut detector, 0..1000, |_, _| 0.9), None);
        assert_eq!(run(&mut detector, 1000..3000, |_, layer| if layer < 5 { 0.9 } else { 1.4 }), None);
        assert_eq!(run(&mut detector, 3000..5000, |t, _| if t % 50 == 0 { 1.2 } else { 0.9 }), None);
    }

    #[test]
    fn without_layers_nothing_happens() {
        let mut detector = ChangeDetector::new();
        assert!((0..1000).all(|_| !detector.step(&ChangeConfig::default(), &mut [])));
    }

    proptest! {
        #[test]
        fn any_angles_and_any_configuration_keep_the_state_in_range(
            angles in prop::collection::vec(prop::array::uniform3(0i32..=421_657_429), 0..300),
            (below_16ths, gain_shift, slack_16ths, threshold) in any::<(u8, u8, u8, u8)>(),
            (acquire_tokens, hold_tokens) in any::<(u16, u16)>(),
        ) {
            let config = ChangeConfig { below_16ths, gain_shift, acquire_tokens, hold_tokens, slack_16ths, threshold };
            let mut detector = ChangeDetector::new();
            let mut since_alarm = None::<u16>;
            for bits in angles {
                let alarm = detector.step(&config, &mut bits.map(Angle::from_bits));
                // Never two alarms within the hold.
                prop_assert!(!alarm || since_alarm.is_none_or(|tokens| tokens >= hold_tokens));
                since_alarm = if alarm { Some(0) } else { since_alarm.map(|tokens| tokens.saturating_add(1)) };
                prop_assert!((Angle::ZERO..=Angle::from_num(1.6)).contains(&detector.usual));
                prop_assert!((Angle::ZERO..=Angle::from_num(1.6)).contains(&detector.deviation));
                prop_assert!(detector.evidence >= Angle::ZERO);
            }
        }
    }
}
