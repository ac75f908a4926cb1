//! What is known of one layer: levels, their gain, phase and lock; and what follows from it, the expert to evict.

use crate::level::{Kalman, KalmanConfig, Levels, Scale, ScaledLevels};
use crate::num::{Angle, Gain, Gate, LogRatio, acos, div_frac, log2_ratio, mul_frac, sqrt};
use crate::phase::{Lock, Phase, PhaseConfig};
use crate::set::Experts;

/// Constants of a [`Tracker`]; one serves all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackerConfig {
    /// Gain of the slow level.
    pub kalman: KalmanConfig,
    /// Gain of the fast level.
    pub fast_gain: Gain,
    /// Loop and lock detector.
    pub phase: PhaseConfig,
}

impl Default for TrackerConfig {
    /// Slow gain 1/64, reopened to 1/20 when lock is lost, fast gain 1/8: near the optimum of every trace tried, and
    /// flat around it (docs/filter.md).
    fn default() -> Self {
        Self {
            kalman: const { KalmanConfig::from_gains(Gain::from_bits(1 << 26), Gain::from_bits(u32::MAX / 20)) },
            fast_gain: Gain::from_bits(1 << 29),
            phase: PhaseConfig::default(),
        }
    }
}

/// What [`Tracker::update`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// log2 of the power of the tracked context over the power of the innovation (demand minus context).
    pub snr: LogRatio,
    /// Angle between demand and context, 0 to pi/2.
    pub angle: Angle,
    /// State of the lock detector after this token.
    pub lock: Lock,
    /// Whether lock was lost at this token: the context has changed.
    pub lost_lock: bool,
}

/// Fraction bits of powers (`U5F27`: a power is at most the number of wanted experts that it is taken of).
const POWER_BITS: u32 = 27;
/// Wanted experts of a token that angle, lock and signal-to-noise ratio go by, the first ones: a power of more does not
/// fit its format.
const MAX_POWER: usize = 31;
/// Words of a tracker beside its levels, where it is saved.
pub const SAVED: usize = 11;
/// Largest number of wanted experts per token.
pub const MAX_WANTED: usize = crate::router::MAX_K;

/// Tracker of one layer in the caller's memory: `Tracker<[ScaledLevels; E]>`, 8 bytes per expert and 44 beside;
/// `&Tracker` is the view of any size, to which references to the former coerce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracker<L: ?Sized = [ScaledLevels]> {
    layer: Layer,
    levels: L,
}

/// What all experts of a layer share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layer {
    kalman: Kalman,
    phase: Phase,
    /// Sum of the squares of the slow levels, `U5F27` bits.
    power: u32,
    slow_scale: Scale,
    fast_scale: Scale,
}

impl<const E: usize> Tracker<[ScaledLevels; E]> {
    /// Before the first token.
    pub const fn new() -> Self {
        Self::over([ScaledLevels::ZERO; E])
    }
}

impl<const E: usize> Default for Tracker<[ScaledLevels; E]> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L> Tracker<L> {
    /// Before the first token, over the caller's levels, which are all [`ScaledLevels::ZERO`]: for a number of experts
    /// that is known at run time, as in `Tracker<heapless::Vec<ScaledLevels, MOST>>`.
    pub const fn over(levels: L) -> Self {
        Self { layer: Layer::new(), levels }
    }
}

impl<L: AsRef<[ScaledLevels]> + AsMut<[ScaledLevels]> + ?Sized> Tracker<L> {
    /// Forgets everything: as before the first token.
    pub fn reset(&mut self) {
        self.layer = Layer::new();
        self.levels.as_mut().fill(ScaledLevels::ZERO);
    }

    /// [`reset`](Self::reset) in memory that is all zero: writes only what is not zero before the first token.
    pub fn reset_zeroed(&mut self) {
        (self.layer.slow_scale, self.layer.fast_scale) = (Scale::START, Scale::START);
    }

    /// Number of experts.
    pub fn experts(&self) -> usize {
        self.levels.as_ref().len()
    }

    /// Everything but the levels, in words that can be kept: three of the gain, five of phase and lock, the power, two
    /// scales.
    pub fn saved(&self) -> [u32; SAVED] {
        let layer = &self.layer;
        let ([p, q, gain], [angle, drift, deviation, evidence, lock]) = (layer.kalman.words(), layer.phase.words());
        let [slow, fast] = [layer.slow_scale, layer.fast_scale].map(Scale::word);
        [p, q, gain, angle, drift, deviation, evidence, lock, layer.power, slow, fast]
    }

    /// Puts back what [`saved`](Self::saved) has given; returns whether it could be that, else nothing changes.
    pub fn restore(&mut self, saved: &[u32; SAVED]) -> bool {
        let &[p, q, gain, angle, drift, deviation, evidence, lock, power, slow, fast] = saved;
        let phase = Phase::from_words([angle, drift, deviation, evidence, lock]);
        let (Some(phase), Some(slow), Some(fast)) = (phase, Scale::from_word(slow), Scale::from_word(fast)) else {
            return false;
        };
        let kalman = Kalman::from_words([p, q, gain]);
        self.layer = Layer { kalman, phase, power, slow_scale: slow, fast_scale: fast };
        true
    }

    /// The levels as they are stored, slow and fast of each expert, in words that can be kept; `None` beyond the last.
    pub fn saved_level(&self, word: usize) -> Option<u32> {
        self.levels.as_ref().get(word / 2).map(|stored| if word.is_multiple_of(2) { stored.slow } else { stored.fast })
    }

    /// Puts back what [`saved_level`](Self::saved_level) has given; returns whether there is such a level.
    pub fn restore_level(&mut self, word: usize, value: u32) -> bool {
        let Some(stored) = self.levels.as_mut().get_mut(word / 2) else { return false };
        *if word.is_multiple_of(2) { &mut stored.slow } else { &mut stored.fast } = value;
        true
    }

    /// Levels of an expert; `None` if there is no such expert.
    pub fn level(&self, expert: u16) -> Option<Levels> {
        self.levels.as_ref().get(usize::from(expert)).map(|&stored| self.scaled(stored))
    }

    /// Levels of every expert.
    pub fn levels(&self) -> impl Iterator<Item = Levels> {
        self.levels.as_ref().iter().map(|&stored| self.scaled(stored))
    }

    fn scaled(&self, stored: ScaledLevels) -> Levels {
        let Layer { slow_scale, fast_scale, .. } = self.layer;
        Levels { slow: slow_scale.level(stored.slow), fast: fast_scale.level(stored.fast) }
    }

    /// The loop and its lock detector.
    pub const fn phase(&self) -> &Phase {
        &self.layer.phase
    }

    /// Opens the gain as a loss of lock does, to the `reopened` gain of `kalman`: for a change of context that was seen
    /// elsewhere ([`crate::context`]).
    pub fn reopen(&mut self, kalman: &KalmanConfig) {
        self.layer.kalman.reopen(kalman);
    }

    /// Forecast of the share of the next tokens that want an expert, as an order and not a probability: `slow + fast /
    /// 4`, `U4F28` bits, at most 1.25; 0 for an expert that there is not.
    fn score(&self, expert: u16) -> u32 {
        let stored = self.levels.as_ref().get(usize::from(expert)).copied().unwrap_or(ScaledLevels::ZERO);
        let Layer { slow_scale, fast_scale, .. } = self.layer;
        slow_scale.coarse(stored.slow).wrapping_add(fast_scale.coarse(stored.fast) >> 2)
    }

    /// The resident expert that is least likely to be wanted soon, `keep` left out; the lowest id of equals. `None` if
    /// nothing may go.
    ///
    /// Cost: two multiplications per resident expert, and a pass over `keep` for every 32 experts.
    pub fn victim(&self, resident: &Experts, keep: &[u16]) -> Option<u16> {
        let mut least = None;
        let mut next = 0u16;
        for &word in resident.words() {
            let (index, mut open) = (next, word);
            next = next.wrapping_add(1);
            if open == 0 {
                continue;
            }
            for &expert in keep {
                let bit = if expert / 32 == index { 1u32.wrapping_shl(expert.into()) } else { 0 };
                open &= !bit;
            }
            while open != 0 {
                let expert = index << 5 | open.trailing_zeros() as u16;
                open &= open.wrapping_sub(1);
                let score = self.score(expert);
                if least.is_none_or(|(lowest, _)| score < lowest) {
                    least = Some((score, expert));
                }
            }
        }
        least.map(|(_, expert)| expert)
    }

    /// Takes what one token wanted: the model's own choice, not the selection, as the selection follows residency and
    /// would confirm itself. Ids beyond the levels and entries beyond [`MAX_WANTED`] are ignored. Levels rise for all
    /// of them; angle, lock and signal-to-noise ratio go by the first 31.
    ///
    /// Cost: 25 to 30 instructions per wanted expert and 700 (Cortex-M4F) to 1,050 (RV32IMC) beside (docs/budgets.md):
    /// four 32-bit divisions, two square roots, no 64-bit division. When a scale is renewed (see [`crate::level`]), a
    /// load, a shift and a store per expert come on top.
    pub fn update(&mut self, config: &TrackerConfig, wanted: &[u16]) -> Step {
        self.layer.update(self.levels.as_mut(), config, wanted)
    }
}

impl Layer {
    /// Before the first token.
    const fn new() -> Self {
        Self {
            kalman: Kalman::new(),
            phase: Phase::new(),
            power: 0,
            slow_scale: Scale::START,
            fast_scale: Scale::START,
        }
    }

    /// [`Tracker::update`], once for levels of all sorts.
    fn update(&mut self, levels: &mut [ScaledLevels], config: &TrackerConfig, wanted: &[u16]) -> Step {
        let wanted = wanted.get(..MAX_WANTED).unwrap_or(wanted);
        let first = wanted.get(..MAX_POWER).unwrap_or(wanted);
        let stored = first.iter().filter_map(|&expert| levels.get(usize::from(expert)));
        // The product of demand and context, `U5F27` bits and at most 31; and how many of the wanted there are.
        let (dot, known) = stored.fold((0u32, 0u32), |(dot, known), stored| {
            (dot.wrapping_add(self.slow_scale.coarse(stored.slow) >> (28 - POWER_BITS)), u32::wrapping_add(known, 1))
        });
        let angle = angle(dot, self.power, known);
        let innovation = (known << POWER_BITS).saturating_add(self.power).saturating_sub(dot.saturating_mul(2));
        let snr = log2_ratio(self.power, innovation);
        let lost_lock = self.phase.step(&config.phase, angle);
        if lost_lock {
            self.kalman.reopen(&config.kalman);
        }
        let gain = self.kalman.step(&config.kalman);
        let (slow, fast) = (self.slow_scale.step(gain), self.fast_scale.step(config.fast_gain));
        shift(levels, slow.shift, |stored| &mut stored.slow);
        shift(levels, fast.shift, |stored| &mut stored.fast);
        for &expert in wanted {
            if let Some(stored) = levels.get_mut(usize::from(expert)) {
                stored.slow = stored.slow.saturating_add(slow.raise);
                stored.fast = stored.fast.saturating_add(fast.raise);
            }
        }
        self.power = next_power(self.power, dot, known, gain.to_bits());
        Step { snr, angle, lock: self.phase.lock(), lost_lock }
    }
}

/// Shifts one of the two levels of every expert down, where there is something to shift.
#[inline(always)]
fn shift(levels: &mut [ScaledLevels], bits: u32, level: impl Fn(&mut ScaledLevels) -> &mut u32) {
    match bits {
        0 => {}
        1..32 => {
            let (fours, rest) = levels.as_chunks_mut::<4>();
            // Four at a time, all loaded before one is stored. Written out, so that it is straight code also where the
            // compiler is told to save space.
            for [a, b, c, d] in fours {
                let (a, b, c, d) = (level(a), level(b), level(c), level(d));
                (*a, *b, *c, *d) = (*a >> bits, *b >> bits, *c >> bits, *d >> bits);
            }
            rest.iter_mut().for_each(|stored| *level(stored) >>= bits);
        }
        _ => levels.iter_mut().for_each(|stored| *level(stored) = 0),
    }
}

/// Angle between the context, of which `power` is the squared length, and a demand of `known` ones whose product with
/// it is `dot`.
fn angle(dot: u32, power: u32, known: u32) -> Angle {
    let norm = sqrt(u64::from(power).wrapping_mul(known.into()) << POWER_BITS); // sqrt(power * known), 27 fraction bits
    let cosine = match (dot, norm) {
        (_, 0) => 0,
        (dot, norm) if dot >= norm => 1 << 31,
        (dot, norm) => div_frac(dot, norm) >> 1,
    };
    acos(Gate::from_bits(cosine))
}

/// `|x + K (y - x)|^2 = (1-K)^2 |x|^2 + 2 K (1-K) x.y + K^2 |y|^2`: the squared length of the levels after the step,
/// without a pass over them. Rounding errors are forgotten like the levels themselves.
fn next_power(power: u32, dot: u32, known: u32, gain: u32) -> u32 {
    let rest = gain.wrapping_neg(); // 1 - K, for K > 0
    if gain == 0 {
        return power;
    }
    let kept = mul_frac(mul_frac(power, rest), rest);
    let cross = mul_frac(mul_frac(dot, rest), gain);
    let new = mul_frac(mul_frac(known << POWER_BITS, gain), gain);
    kept.saturating_add(cross.saturating_mul(2)).saturating_add(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::ExpertSet;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Tokens that want k of the eight experts around `center`.
    fn demand(n: u32, center: u16, k: usize) -> Vec<u16> {
        let mut ids = Vec::new();
        let mut state = n.wrapping_mul(2_654_435_761);
        while ids.len() < k {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let id = center + (state >> 24) as u16 % 8;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    #[test]
    fn a_change_of_context_loses_lock_and_moves_the_levels() {
        let config = TrackerConfig::default();
        let mut tracker = Tracker::<[_; 32]>::new();
        for n in 0..1000 {
            assert!(!tracker.update(&config, &demand(n, 0, 4)).lost_lock, "{n}");
        }
        assert_eq!(tracker.phase().lock(), Lock::Locked);
        let delay =
            (1000..1100).position(|n| tracker.update(&config, &demand(n, 16, 4)).lost_lock).expect("lock is lost");
        assert!(delay < 16, "{delay}");
        for n in 1100..1160 {
            tracker.update(&config, &demand(n, 16, 4));
        }
        assert!(tracker.levels().skip(16).take(8).all(|new| tracker.levels().take(8).all(|old| new.slow > old.slow)));
    }

    #[test]
    fn victim_is_the_resident_wanted_least() {
        let config = TrackerConfig::default();
        let mut tracker = Tracker::<[_; 8]>::new();
        for wanted in [[0, 1], [0, 2], [0, 1], [0, 3]] {
            tracker.update(&config, &wanted);
        }
        let mut resident = ExpertSet::<1>::new();
        assert_eq!(tracker.victim(&resident, &[]), None);
        (0..3).for_each(|expert| assert!(resident.insert(expert)));
        assert_eq!(tracker.victim(&resident, &[]), Some(2));
        assert_eq!(tracker.victim(&resident, &[2]), Some(1));
        assert_eq!(tracker.victim(&resident, &[0, 1, 2]), None);
        resident.insert(7);
        assert_eq!(tracker.victim(&resident, &[0]), Some(7));
    }

    #[test]
    fn what_was_saved_goes_on_as_if_nothing_had_been() {
        let config = TrackerConfig::default();
        let mut tracker = Tracker::<[_; 32]>::new();
        for n in 0..400 {
            if n % 7 == 0 {
                let mut again = Tracker::<[_; 32]>::new();
                assert!(again.restore(&tracker.saved()));
                let levels: Vec<u32> = (0..).map_while(|word| tracker.saved_level(word)).collect();
                assert!(levels.iter().enumerate().all(|(word, &level)| again.restore_level(word, level)));
                assert!(levels.len() == 64 && !again.restore_level(64, 0));
                assert_eq!(again, tracker);
            }
            tracker.update(&config, &demand(n, 16 * (n as u16 / 200), 4));
        }
        // Whatever is put back, a tracker goes on.
        for (word, bad) in [(3, 1 << 30), (4, 1 << 29), (5, 6 << 28), (6, 1 << 31), (7, 3 << 16), (9, u32::MAX)] {
            let mut words = tracker.saved();
            words[word] = bad;
            let before = tracker;
            assert!(!tracker.restore(&words) && tracker == before, "{word}");
        }
        for (word, any) in
            [(0, u32::MAX), (1, u32::MAX), (2, u32::MAX), (8, u32::MAX), (5, 5 << 28), (6, i32::MAX as u32)]
        {
            let mut words = tracker.saved();
            words[word] = any;
            let mut odd = tracker;
            assert!(odd.restore(&words));
            (0..100).for_each(|n| _ = odd.update(&config, &demand(n, 0, 4)));
        }
    }

    #[test]
    fn size_is_what_the_documentation_says() {
        assert_eq!(size_of::<Tracker<[ScaledLevels; 64]>>(), 64 * 8 + 44);
    }

    proptest! {
        #[test]
        fn shared_sums_equal_a_pass_over_the_levels(
            steps in prop::collection::vec(prop::collection::hash_set(0u16..40, 0..=16), 1..200),
            gain in prop_oneof![Just(u32::MAX), 0u32..1 << 30],
        ) {
            let config = TrackerConfig {
                kalman: KalmanConfig::from_gains(Gain::from_bits(gain), Gain::MAX),
                ..TrackerConfig::default()
            };
            let mut tracker = Tracker::<[_; 32]>::new();
            for wanted in steps {
                let wanted: Vec<u16> = wanted.into_iter().collect();
                let x: Vec<f64> = tracker.levels().map(|l| l.slow.to_num()).collect();
                let known: Vec<usize> = wanted.iter().map(|&e| usize::from(e)).filter(|&e| e < 32).collect();
                let (dot, power) = (known.iter().map(|&e| x[e]).sum::<f64>(), x.iter().map(|v| v * v).sum::<f64>());
                let step = tracker.update(&config, &wanted);
                let norm = (power * known.len() as f64).sqrt();
                // The cosine carries the rounding of both sums, the more the smaller they are; the angle near 0 its
                // square root.
                if norm > 0.01 {
                    let cosine = (dot / norm).min(1.0);
                    prop_assert!((step.angle.to_num::<f64>().cos() - cosine).abs() < 1e-4 + 2e-6 / norm, "{} {} {norm}", step.angle, cosine.acos());
                }
                prop_assert!((f64::from(tracker.layer.power) / f64::from(1 << POWER_BITS)
                    - tracker.levels().map(|l| l.slow.to_num::<f64>().powi(2)).sum::<f64>()).abs() < 1e-5);
            }
        }
    }
}
