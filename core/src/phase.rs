//! Phase and lock: how far the demand of a token points away from the tracked context, and whether that has changed.
//!
//! Demand (which experts the token wants) and context (the tracked levels) are vectors with one component per expert;
//! their angle is the phase. Within one context it scatters around a typical value; when the context changes it jumps
//! towards a right angle. A second-order loop (as in a phase-locked loop: proportional and integral branch) follows the
//! typical angle and its drift; a one-sided cumulative sum of its error (Page's CUSUM, Biometrika 1954) is the lock
//! detector. The loop's published ancestors track a carrier; using it on the angle of routing demand is this project's
//! own design.

use crate::num::Angle;

/// State of the lock detector.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lock {
    /// Acquiring: at the start and after a change of context. The levels are not to be trusted yet.
    #[default]
    Unlocked,
    /// The evidence for a change is half of what an alarm takes, or has not yet stayed below that since the last alarm.
    Transition,
    /// The context is the tracked one.
    Locked,
}

/// Constants of the loop. Shifts are powers of two: `1 / 2^shift`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseConfig {
    /// Proportional gain of the loop, as a shift; also the gain of the mean absolute error.
    pub proportional_shift: u8,
    /// Integral gain of the loop (drift in radians per token), as a shift.
    pub integral_shift: u8,
    /// Tokens from unlock to the first possible lock.
    pub acquire_tokens: u16,
    /// Error that the detector takes as normal, in 1/16 of the mean absolute error.
    pub slack_16ths: u8,
    /// Evidence that loses lock, in units of the mean absolute error.
    pub threshold: u8,
}

impl PhaseConfig {
    /// Whether the loop can settle: shifts of 1 to 15 and of 1 to 23. With others it does something, and stays in
    /// range.
    pub const fn is_valid(&self) -> bool {
        self.proportional_shift >= 1
            && self.proportional_shift <= 15
            && self.integral_shift >= 1
            && self.integral_shift <= 23
    }
}

impl Default for PhaseConfig {
    /// A compromise between delay and false alarms on joined domains; eviction hardly depends on it (docs/filter.md).
    fn default() -> Self {
        Self { proportional_shift: 6, integral_shift: 12, acquire_tokens: 32, slack_16ths: 18, threshold: 10 }
    }
}

/// Loop and lock detector of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Phase {
    /// Typical angle.
    angle: Angle,
    /// Drift of the typical angle per token.
    drift: Angle,
    /// Mean absolute error of the loop.
    deviation: Angle,
    /// Evidence for a change: cumulative error beyond the slack.
    evidence: Angle,
    /// Tokens since the start or the last alarm, saturating.
    tokens: u16,
    /// State of the lock detector, a number: in memory that a fault has written, an enum would be undefined.
    lock: u8,
}

impl Phase {
    /// Before the first token.
    pub const fn new() -> Self {
        Self {
            angle: Angle::ZERO,
            drift: Angle::ZERO,
            deviation: Angle::ZERO,
            evidence: Angle::ZERO,
            tokens: 0,
            lock: Lock::Unlocked as u8,
        }
    }

    /// Itself in words: angle, drift, deviation, evidence; tokens, in the upper half the lock.
    pub(crate) const fn words(&self) -> [u32; 5] {
        let [angle, drift, deviation, evidence] = [self.angle, self.drift, self.deviation, self.evidence];
        [
            angle.to_bits() as u32,
            drift.to_bits() as u32,
            deviation.to_bits() as u32,
            evidence.to_bits() as u32,
            self.tokens as u32 | (self.lock as u32) << 16,
        ]
    }

    /// From [`words`](Self::words); `None` if a value is out of the range that steps leave it in.
    pub(crate) fn from_words(words: [u32; 5]) -> Option<Self> {
        let [angle, drift, deviation, evidence, rest] = words;
        let [angle, drift, deviation, evidence] =
            [angle, drift, deviation, evidence].map(|word| Angle::from_bits(word as i32));
        let lock = rest >> 16;
        let in_range = (Angle::ZERO..=Angle::FRAC_PI_2).contains(&angle)
            && (-Angle::ONE..=Angle::ONE).contains(&drift)
            && (Angle::ZERO..=Angle::from_bits(5 << 28)).contains(&deviation)
            && evidence >= Angle::ZERO
            && lock <= Lock::Locked as u32;
        in_range.then_some(Self { angle, drift, deviation, evidence, tokens: rest as u16, lock: lock as u8 })
    }

    /// The typical angle between demand and context.
    pub const fn angle(&self) -> Angle {
        self.angle
    }

    /// State of the lock detector.
    pub const fn lock(&self) -> Lock {
        match self.lock {
            1 => Lock::Transition,
            2 => Lock::Locked,
            _ => Lock::Unlocked,
        }
    }

    /// Takes the angle of one token, in [0, pi/2]; returns whether lock was lost at it. One 32-bit division while
    /// acquiring, none after.
    #[inline]
    pub fn step(&mut self, config: &PhaseConfig, angle: Angle) -> bool {
        if self.tokens < config.acquire_tokens {
            self.acquire(config, angle);
            return false;
        }
        // Angles are within two right angles, and what is added to them within a few: none overflows the format.
        let error = angle.wrapping_sub(self.angle).wrapping_sub(self.drift);
        // Of a configuration that a fault has written the lower bits count.
        let proportional = |angle: Angle| angle.wrapping_shr(config.proportional_shift.into());
        let integral = |angle: Angle| angle.wrapping_shr(config.integral_shift.into());
        // Limits that only a configuration whose loop is not stable ever meets: they keep all sums within the format.
        self.angle = self.angle.wrapping_add(self.drift).wrapping_add(proportional(error));
        self.angle = self.angle.clamp(Angle::ZERO, Angle::FRAC_PI_2);
        // The leak keeps the integral branch from winding up on an angle that does not drift.
        let drift = self.drift.wrapping_add(integral(error)).wrapping_sub(proportional(self.drift));
        self.drift = drift.clamp(-Angle::ONE, Angle::ONE);
        self.deviation = self.deviation.wrapping_add(proportional(error.wrapping_abs().wrapping_sub(self.deviation)));
        let slack = (self.deviation >> 4u32).saturating_mul_int(i32::from(config.slack_16ths));
        let threshold = self.deviation.saturating_mul_int(i32::from(config.threshold));
        self.evidence = self.evidence.saturating_add(error.saturating_sub(slack)).max(Angle::ZERO);
        if self.evidence > threshold {
            *self = Self { deviation: self.deviation, ..Self::new() };
            return true;
        }
        self.tokens = self.tokens.saturating_add(1);
        if self.evidence > threshold >> 1 {
            self.lock = Lock::Transition as u8;
            self.tokens = config.acquire_tokens;
        } else if self.tokens >= config.acquire_tokens.saturating_mul(2) {
            self.lock = Lock::Locked as u8;
        }
        false
    }

    /// Running mean of the angle and of its absolute error. Later tokens count more as the context level itself is
    /// still settling.
    fn acquire(&mut self, config: &PhaseConfig, angle: Angle) {
        self.tokens = self.tokens.wrapping_add(1);
        let error = angle.wrapping_sub(self.angle);
        let share = |error: Angle, n: i32| Angle::from_bits(error.to_bits().wrapping_div(n.max(1)));
        if self.tokens == 1 {
            self.angle = angle;
            return;
        }
        let n = i32::from(self.tokens / 2).wrapping_add(1);
        self.angle = self.angle.wrapping_add(share(error, n));
        self.deviation = self.deviation.wrapping_add(share(error.wrapping_abs().wrapping_sub(self.deviation), n));
        if self.tokens >= config.acquire_tokens {
            self.lock = Lock::Transition as u8;
        }
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

    fn run(phase: &mut Phase, tokens: core::ops::Range<u32>, mean: f64) -> Option<u32> {
        let config = PhaseConfig::default();
        tokens.clone().find(|&n| phase.step(&config, Angle::from_num(mean + 0.1 * noise(n)))).map(|n| n - tokens.start)
    }

    #[test]
    fn locks_on_a_steady_angle_and_loses_lock_on_a_jump() {
        let mut phase = Phase::new();
        assert_eq!(phase.lock(), Lock::Unlocked);
        assert_eq!(run(&mut phase, 0..2000, 0.8), None);
        assert_eq!(phase.lock(), Lock::Locked);
        assert!((phase.angle().to_num::<f64>() - 0.8).abs() < 0.03);
        let delay = run(&mut phase, 2000..2100, 1.2).expect("a jump of eight deviations");
        assert!(delay <= 3, "{delay}");
        assert_eq!(phase.lock(), Lock::Unlocked);
        assert_eq!(run(&mut phase, 2100..4000, 1.2), None);
        assert_eq!(phase.lock(), Lock::Locked);
    }

    #[test]
    fn a_fall_of_the_angle_is_no_alarm() {
        let mut phase = Phase::new();
        assert_eq!(run(&mut phase, 0..1000, 1.0), None);
        assert_eq!(run(&mut phase, 1000..2000, 0.6), None);
    }

    #[test]
    fn a_slow_drift_is_followed() {
        let mut phase = Phase::new();
        let config = PhaseConfig::default();
        for n in 0..5000 {
            let angle = Angle::from_num(0.5 + f64::from(n) * 1e-4 + 0.1 * noise(n));
            assert!(!phase.step(&config, angle), "{n}");
        }
    }

    proptest! {
        #[test]
        fn any_angles_and_any_configuration_keep_the_state_in_range(
            angles in prop::collection::vec(0i32..=421_657_429, 0..400),
            proportional_shift: u8, integral_shift: u8, acquire_tokens: u16, slack_16ths: u8, threshold: u8,
        ) {
            let config = PhaseConfig { proportional_shift, integral_shift, acquire_tokens, slack_16ths, threshold };
            let mut phase = Phase::new();
            for bits in angles {
                phase.step(&config, Angle::from_bits(bits));
                prop_assert!(phase.angle.abs() < Angle::from_num(4) && phase.deviation < Angle::from_num(4));
                prop_assert!(phase.drift.abs() < Angle::from_num(2));
                prop_assert!(phase.evidence >= Angle::ZERO);
            }
        }
    }
}
