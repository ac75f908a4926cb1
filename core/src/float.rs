//! The filter in f32, for controllers with a floating-point unit (feature `f32`); everywhere else
//! [`Tracker`](crate::Tracker) is cheaper.
//!
//! Levels, gain, angle and signal-to-noise ratio are floating-point numbers; the loop and its lock detector are those
//! of [`crate::phase`], so that an angle means the same to both. Not bit-identical to the fixed-point filter, nor
//! between processors: decisions may differ where two experts are nearly equal. Square root and arc cosine are
//! micromath's, accurate to some hundredths, which scatters less than the angle itself; the logarithm is libm's.

use micromath::F32Ext;

use crate::num::{Angle, Gain, LogRatio};
use crate::phase::{Phase, PhaseConfig};
use crate::set::Experts;
use crate::tracker::{MAX_WANTED, Step};

/// Constants of a [`FloatTracker`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FloatConfig {
    /// Variance of the level's random walk, in that of the observation.
    process: f32,
    /// Error variance that a loss of lock opens to, in that of the observation.
    reopened: f32,
    /// Gain of the fast level.
    fast_gain: f32,
    /// Loop and lock detector.
    phase: PhaseConfig,
}

impl FloatConfig {
    /// Gains as in [`KalmanConfig::from_gains`](crate::KalmanConfig::from_gains), each limited to 7/8, and the fast
    /// level's.
    pub fn new(steady: Gain, reopened: Gain, fast: Gain, phase: PhaseConfig) -> Self {
        let gain = |gain: Gain| gain.to_num::<f32>().min(0.875);
        let (steady, opened) = (gain(steady), gain(reopened));
        Self {
            process: steady * steady / (1.0 - steady),
            reopened: opened / (1.0 - opened),
            fast_gain: fast.to_num(),
            phase,
        }
    }
}

/// Error variance before the first token, in that of the observation: a first gain of 7/8.
const INITIAL: f32 = 7.0;

/// Levels of one expert, 8 bytes, each 0 to 1 but for rounding.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FloatLevels {
    /// The context.
    pub slow: f32,
    /// The last few tokens.
    pub fast: f32,
}

/// What the stored levels of a layer are multiplied with, as in the fixed-point filter ([`crate::level`]).
#[derive(Debug, Clone, Copy, PartialEq)]
struct FloatScale(f32);

impl FloatScale {
    const START: Self = Self(1.0);
    /// So small that the scale is seldom renewed, and so large that a level's quotient stays far from the largest
    /// number.
    const SMALLEST: f32 = 1.0 / (1u64 << 40) as f32;

    /// One token: returns what being wanted adds to a stored level.
    fn step(&mut self, gain: f32, levels: &mut [FloatLevels], level: impl Fn(&mut FloatLevels) -> &mut f32) -> f32 {
        self.0 *= 1.0 - gain;
        if self.0 < Self::SMALLEST {
            levels.iter_mut().for_each(|stored| *level(stored) *= self.0);
            *self = Self::START;
        }
        gain / self.0
    }
}

/// The filter of one layer of `E` experts, 8 bytes per expert and 36 beside.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatTracker<const E: usize> {
    variance: f32,
    phase: Phase,
    /// Sum of the squares of the slow levels.
    power: f32,
    slow_scale: FloatScale,
    fast_scale: FloatScale,
    /// Divided by the scales.
    levels: [FloatLevels; E],
}

impl<const E: usize> Default for FloatTracker<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const E: usize> FloatTracker<E> {
    /// Before the first token.
    pub const fn new() -> Self {
        Self {
            variance: INITIAL,
            phase: Phase::new(),
            power: 0.0,
            slow_scale: FloatScale::START,
            fast_scale: FloatScale::START,
            levels: [FloatLevels { slow: 0.0, fast: 0.0 }; E],
        }
    }

    /// Levels of every expert.
    pub fn levels(&self) -> impl Iterator<Item = FloatLevels> {
        let scaled =
            |l: &FloatLevels| FloatLevels { slow: l.slow * self.slow_scale.0, fast: l.fast * self.fast_scale.0 };
        self.levels.iter().map(scaled)
    }

    /// Forecast as in [`Tracker::victim`](crate::Tracker::victim).
    fn score(&self, expert: u16) -> f32 {
        let levels = self.levels.get(usize::from(expert)).copied().unwrap_or_default();
        levels.slow * self.slow_scale.0 + levels.fast * self.fast_scale.0 * 0.25
    }

    /// The resident expert that is least likely to be wanted soon, `keep` left out; the lowest id of equals. `None` if
    /// nothing may go.
    pub fn victim(&self, resident: &Experts, keep: &[u16]) -> Option<u16> {
        let free = resident.iter().filter(|expert| !keep.contains(expert));
        free.min_by(|&a, &b| self.score(a).total_cmp(&self.score(b)))
    }

    /// Takes what one token wanted; ids beyond the levels and entries beyond [`MAX_WANTED`] are ignored.
    ///
    /// Cost: that of the wanted experts, and per token five divisions, a square root, an arc cosine and a logarithm;
    /// when a scale is renewed, a multiplication per expert on top.
    pub fn update(&mut self, config: &FloatConfig, wanted: &[u16]) -> Step {
        let wanted = wanted.get(..MAX_WANTED).unwrap_or(wanted);
        let levels = wanted.iter().filter_map(|&expert| self.levels.get(usize::from(expert)));
        let (sum, known) = levels.fold((0.0_f32, 0.0_f32), |(sum, known), levels| (sum + levels.slow, known + 1.0));
        let dot = sum * self.slow_scale.0;
        let norm = F32Ext::sqrt(self.power * known);
        let cosine = if norm > 0.0 { (dot / norm).clamp(0.0, 1.0) } else { 0.0 };
        let angle = Angle::saturating_from_num(F32Ext::acos(cosine)).clamp(Angle::ZERO, Angle::FRAC_PI_2);
        let innovation = (known + self.power - 2.0 * dot).max(f32::MIN_POSITIVE);
        let snr = LogRatio::saturating_from_num(libm::log2f(self.power.max(f32::MIN_POSITIVE) / innovation));
        let lost_lock = self.phase.step(&config.phase, angle);
        if lost_lock {
            self.variance = self.variance.max(config.reopened);
        }
        let predicted = self.variance + config.process;
        let gain = predicted / (predicted + 1.0);
        self.variance = (1.0 - gain) * predicted;
        let slow = self.slow_scale.step(gain, &mut self.levels, |stored| &mut stored.slow);
        let fast = self.fast_scale.step(config.fast_gain, &mut self.levels, |stored| &mut stored.fast);
        for &expert in wanted {
            if let Some(stored) = self.levels.get_mut(usize::from(expert)) {
                stored.slow += slow;
                stored.fast += fast;
            }
        }
        // As in the fixed-point filter, without a pass over the levels.
        let kept = 1.0 - gain;
        self.power = kept * kept * self.power + gain * (2.0 * kept * dot + gain * known);
        Step { snr, angle, lock: self.phase.lock(), lost_lock }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::ExpertSet;
    use crate::tracker::{Tracker, TrackerConfig};
    use crate::{Lock, ScaledLevels};

    /// Eight of 64 experts, around a centre that moves once.
    fn token(n: u32) -> [u16; 4] {
        let random = n.wrapping_mul(2_654_435_761) >> 16;
        let centre = if n < 600 { 8 } else { 40 };
        core::array::from_fn(|i| centre + ((random >> (2 * i)) % 4) as u16 + 4 * i as u16)
    }

    #[test]
    fn follows_the_fixed_point_filter() {
        let fixed_config = TrackerConfig::default();
        let config = FloatConfig::new(
            Gain::from_bits(1 << 26),
            Gain::from_bits(u32::MAX / 20),
            fixed_config.fast_gain,
            fixed_config.phase,
        );
        let (mut fixed, mut float) = (Tracker::<[ScaledLevels; 64]>::new(), FloatTracker::<64>::new());
        let mut lost = [0, 0];
        for n in 0..1200 {
            let (a, b) = (fixed.update(&fixed_config, &token(n)), float.update(&config, &token(n)));
            assert!((a.angle.to_num::<f32>() - b.angle.to_num::<f32>()).abs() < 0.08, "{n}: {a:?} {b:?}");
            assert!(n == 0 || (a.snr.to_num::<f32>() - b.snr.to_num::<f32>()).abs() < 0.5, "{n}: {a:?} {b:?}");
            lost[0] += u32::from(a.lost_lock);
            lost[1] += u32::from(b.lost_lock);
            assert!(!(500..600).contains(&n) || b.lock == Lock::Locked, "{n}: {b:?}");
        }
        assert!(lost[0] >= 1 && lost[1] >= 1, "{lost:?}");
        for (a, b) in fixed.levels().zip(float.levels()) {
            assert!((a.slow.to_num::<f32>() - b.slow).abs() < 0.02 && (a.fast.to_num::<f32>() - b.fast).abs() < 0.001);
        }
        let mut resident = ExpertSet::<2>::new();
        [9, 41, 45].into_iter().for_each(|expert| {
            resident.insert(expert);
        });
        assert_eq!(float.victim(&resident, &[]), Some(9));
        assert_eq!(float.victim(&resident, &[9, 41, 45]), None);
    }

    #[test]
    fn size_is_what_the_documentation_says() {
        assert_eq!(size_of::<FloatTracker<64>>(), 64 * 8 + 36);
    }

    #[test]
    fn wrong_ids_and_long_lists_do_no_harm() {
        let config = FloatConfig::new(Gain::MAX, Gain::MAX, Gain::MAX, PhaseConfig::default());
        let mut tracker = FloatTracker::<4>::new();
        for n in 0..200_u16 {
            tracker.update(&config, &[n % 4; 40]);
            tracker.update(&config, &[u16::MAX, 4]);
            tracker.update(&config, &[]);
        }
        assert!(tracker.levels().all(|l| (0.0..=1.000001).contains(&l.slow) && (0.0..=1.000001).contains(&l.fast)));
        assert!(tracker.power.is_finite());
    }
}
