//! The level filter: how often each expert is wanted, tracked by scalar Kalman filters that share one gain.
//!
//! The observation of expert e is 1 if the token wants it and 0 otherwise; its level x follows a random walk,
//! `x_t = x_{t-1} + w` with variance Q, `y_t = x_t + v` with variance R. As Q and R are shared and every expert is
//! observed at every token, the error variance P and the gain K do not depend on the data: one division per layer and
//! token serves all experts (Kalman 1960; Anderson and Moore, Optimal Filtering, chapter 3), and none once P has
//! converged.
//!
//! Why wanted-or-not and not the logits: token-specific swings of the logits are information for the token, not about
//! the next one. Measured as a forecast for eviction, it is at least as good as softmax weights on every trace
//! (docs/filter.md), costs no exponential, and works where a trace or an interface knows ids only.
//!
//! A step costs nothing for experts that are not wanted: `x += K (y - x)` with a shared K makes every level smaller by
//! the same factor `1 - K`, so that the layer keeps the product of these factors, its scale, and stores levels divided
//! by it. Being wanted adds `K / scale`. Only when a scale falls below 1/16, every 21 tokens at a gain of 1/8 and every
//! 176 at 1/64, there is a pass over the stored levels, which shifts them.

use crate::num::{Gain, Level, div_frac, mul_frac};

/// Levels of one expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Levels {
    /// Tracked with the Kalman gain: the context.
    pub slow: Level,
    /// Tracked with a constant gain: the last few tokens.
    pub fast: Level,
}

/// Levels of one expert as a tracker stores them, 8 bytes: divided by the scales of their layer, `U4F28` bits. Zero
/// before the first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScaledLevels {
    pub(crate) slow: u32,
    pub(crate) fast: u32,
}

impl ScaledLevels {
    /// No token has wanted the expert.
    pub const ZERO: Self = Self { slow: 0, fast: 0 };
}

/// What the stored levels of a layer are multiplied with: below 1 and at least 1/16, so that a level of at most 1 is
/// stored as less than 16.
///
/// Held as what it lacks to 1 - 2^-32, in steps of that, so that a new one is 0 and new layers take no flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scale(u32);

/// What a step asks of the stored levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScaleStep {
    /// Bits to shift all of them down first, 0 to 32.
    pub(crate) shift: u32,
    /// What being wanted adds then, `U4F28` bits.
    pub(crate) raise: u32,
}

impl Scale {
    /// Before the first token.
    pub(crate) const START: Self = Self(0);
    const SMALLEST: u32 = 1 << 28;

    /// Itself in a word.
    pub(crate) const fn word(self) -> u32 {
        self.0
    }

    /// From a [`word`](Self::word); `None` if it is below the smallest scale there is.
    pub(crate) const fn from_word(word: u32) -> Option<Self> {
        if !word >= Self::SMALLEST { Some(Self(word)) } else { None }
    }

    /// Itself, `U0F32` bits.
    #[inline]
    const fn bits(self) -> u32 {
        !self.0
    }

    /// A level, `U4F28` bits, rounded down.
    #[inline]
    pub(crate) const fn coarse(self, stored: u32) -> u32 {
        mul_frac(stored, self.bits())
    }

    /// A level, rounded down.
    pub(crate) fn level(self, stored: u32) -> Level {
        Level::from_bits(((u64::from(stored) * u64::from(self.bits())) >> 29).min(1 << 31) as u32)
    }

    /// One token: every level becomes smaller by the factor `1 - gain`, rounded down, and those wanted larger by
    /// `gain`.
    #[inline]
    pub(crate) fn step(&mut self, gain: Gain) -> ScaleStep {
        let kept = match gain.to_bits() {
            0 => self.bits(),
            gain => mul_frac(self.bits(), gain.wrapping_neg()),
        };
        let shift = if kept < Self::SMALLEST { kept.leading_zeros() } else { 0 };
        *self = kept.checked_shl(shift).map_or(Self::START, |bits| Self(!bits));
        ScaleStep { shift, raise: div_frac(gain.to_bits() >> 4, self.bits()) }
    }
}

/// Fraction bits of variances (`U4F28`, in units of the observation variance R).
const VARIANCE_BITS: u32 = 28;
/// Largest Q, and P at the start and after reopening: two of them still fit the format.
const LARGEST_VARIANCE: u32 = 7 << VARIANCE_BITS;

/// Constants of the Kalman gain: everything in units of the observation variance R, so that R = 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KalmanConfig {
    /// Q / R, `U4F28` bits.
    process: u32,
    /// Error variance that a loss of lock opens to, in R, `U4F28` bits.
    reopened: u32,
}

impl KalmanConfig {
    /// A filter whose gain converges to `steady` (Q = R K^2 / (1 - K), rounded to 2^-28 R), starts at 7/8 (P = 7 R) and
    /// reopens to `reopened` after a loss of lock (P = R K / (1 - K)). Q and P are limited to 7 R, which limits both
    /// gains to about 7/8; a `steady` of 0 never forgets.
    pub const fn from_gains(steady: Gain, reopened: Gain) -> Self {
        // K^2 / (1 - K) = K / (1 - K) - K.
        let process = odds(steady).saturating_sub(steady.to_bits() >> (32 - VARIANCE_BITS));
        Self { process: limit(process), reopened: limit(odds(reopened)) }
    }

    /// Variance Q that a token adds to a level, in units of the observation variance R: `U4F28` bits, at most 7 R. What
    /// a hardware unit has in a register.
    pub const fn process(&self) -> u32 {
        self.process
    }

    /// Error variance P that a loss of lock opens to, in units of R: `U4F28` bits, at most 7 R.
    pub const fn reopened(&self) -> u32 {
        self.reopened
    }
}

/// The gain of a level that forgets half of what it holds in so many tokens, `1 - 2^(-1 / tokens)`: an observation
/// counts half as much after them. Error below 2^-28; 0 tokens give the largest gain.
///
/// ```
/// use cptr_core::{KalmanConfig, half_life};
/// // The default's gains are half-lives of 44, 13.5 and 5.2 tokens.
/// assert!((half_life(44).to_num::<f64>() * 64.0 - 1.0).abs() < 0.01);
/// let slow = KalmanConfig::from_gains(half_life(44), half_life(14));
/// ```
pub const fn half_life(tokens: u32) -> Gain {
    /// `ln 2`, `U0F32`.
    const LN_2: u32 = 2_977_044_472;
    if tokens == 0 {
        return Gain::MAX;
    }
    // x - x^2 / 2 + x^3 / 6 - ... for x = ln(2) / tokens, from the innermost term; x^13 / 13! is below 2^-39.
    let x = LN_2 / tokens;
    let (mut inner, mut term) = (0, 12);
    while term >= 2 {
        inner = mul_frac(x / term, !inner);
        term -= 1;
    }
    Gain::from_bits(mul_frac(x, !inner))
}

const fn limit(variance: u32) -> u32 {
    if variance < LARGEST_VARIANCE { variance } else { LARGEST_VARIANCE }
}

/// `K / (1 - K)`, `U4F28` bits, rounded down, saturating: bit by bit, as it is needed twice in a controller's life.
const fn odds(gain: Gain) -> u32 {
    let (mut rest, rest_of_one) = (gain.to_bits() as u64, (1 << 32) - gain.to_bits() as u64);
    if rest / 16 >= rest_of_one {
        return u32::MAX;
    }
    let (mut odds, mut bit) = (0, 0);
    // The whole bits: subtractions of 8, 4, 2 and 1 times the rest of one; then the fraction.
    while bit < u32::BITS {
        let times = if bit < 4 { rest_of_one << (3 - bit) } else { rest_of_one };
        if bit >= 4 {
            rest <<= 1;
        }
        odds <<= 1;
        if rest >= times {
            rest -= times;
            odds |= 1;
        }
        bit += 1;
    }
    odds
}

/// Error variance and gain shared by all experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kalman {
    /// P after the last update, `U4F28` bits. Before the first, the largest there is takes its place.
    variance: u32,
    /// P before it, `U4F28` bits; 0 before the first only, as a P of 2^-14 no longer falls.
    predicted: u32,
    /// The gain that led to it.
    gain: Gain,
}

impl Kalman {
    /// Before the first token.
    pub const fn new() -> Self {
        Self { variance: 0, predicted: 0, gain: Gain::ZERO }
    }

    /// The gain of the last step.
    pub const fn gain(&self) -> Gain {
        self.gain
    }

    /// Itself in words: P after and before the last update, gain.
    pub(crate) const fn words(&self) -> [u32; 3] {
        [self.variance, self.predicted, self.gain.to_bits()]
    }

    /// From [`words`](Self::words); whatever they are, steps stay within their formats.
    pub(crate) const fn from_words([variance, predicted, gain]: [u32; 3]) -> Self {
        Self { variance, predicted, gain: Gain::from_bits(gain) }
    }

    /// The Riccati step: `P' = P + Q, K = P' / (P' + 1), P = (1 - K) P'`; returns K, rounded down. Two 32-bit
    /// divisions, none once P has converged.
    #[inline]
    pub fn step(&mut self, config: &KalmanConfig) -> Gain {
        let variance = if self.predicted == 0 { LARGEST_VARIANCE } else { self.variance };
        // At most 14, and 15 below: both fit the format.
        let predicted = variance.saturating_add(config.process);
        if predicted != self.predicted {
            self.predicted = predicted;
            self.gain = Gain::from_bits(div_frac(predicted, predicted.saturating_add(1 << VARIANCE_BITS)));
        }
        self.variance = predicted.wrapping_sub(mul_frac(predicted, self.gain.to_bits()));
        self.gain
    }

    /// Opens the gain: what was learnt is worth no more than a few tokens. Never closes it.
    #[inline]
    pub fn reopen(&mut self, config: &KalmanConfig) {
        self.variance = self.variance.max(config.reopened);
    }
}

impl Default for Kalman {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn gain(value: f64) -> Gain {
        Gain::from_num(value)
    }

    #[test]
    fn odds_are_a_quotient() {
        for bits in
            [0, 1, 77, 1 << 16, 1 << 26, u32::MAX / 20, 1 << 31, 0xE000_0000, 0xF000_0000, 0xF0F0_F0F0, u32::MAX]
        {
            let exact = (u64::from(bits) << VARIANCE_BITS) / ((1 << 32) - u64::from(bits));
            assert_eq!(u64::from(odds(Gain::from_bits(bits))), exact.min(u32::MAX.into()), "{bits}");
        }
    }

    #[test]
    fn gain_starts_open_and_converges_to_the_configured_one() {
        for steady in [1.0 / 512.0, 1.0 / 64.0, 1.0 / 8.0, 0.5, 0.8] {
            let config = KalmanConfig::from_gains(gain(steady), gain(0.05));
            let mut kalman = Kalman::new();
            assert!(kalman.step(&config) > gain(0.87));
            for _ in 0..10_000 {
                kalman.step(&config);
            }
            let found: f64 = kalman.gain().to_num();
            assert!((found / steady - 1.0).abs() < 2e-3, "{steady}: {found}");
        }
    }

    #[test]
    fn early_gains_average_the_tokens_seen() {
        // With Q = 0 and a wide prior the filter is the running mean: K_n = 1 / (n + 1/P).
        let config = KalmanConfig::from_gains(Gain::ZERO, Gain::ZERO);
        let mut kalman = Kalman::new();
        for n in 1..=1000 {
            let expected = 1.0 / (f64::from(n) + 1.0 / 7.0);
            assert!((kalman.step(&config).to_num::<f64>() - expected).abs() < 1e-5, "{n}");
        }
    }

    #[test]
    fn reopening_sets_the_gain_and_never_closes_it() {
        let config = KalmanConfig::from_gains(gain(1.0 / 64.0), gain(0.25));
        let mut kalman = Kalman::new();
        kalman.reopen(&config);
        assert!(kalman.step(&config) > gain(0.87));
        for _ in 0..1000 {
            kalman.step(&config);
        }
        kalman.reopen(&config);
        let found: f64 = kalman.step(&config).to_num();
        assert!((found - 0.25).abs() < 1e-3, "{found}");
    }

    #[test]
    fn largest_gains_do_not_overflow() {
        let config = KalmanConfig::from_gains(Gain::MAX, Gain::MAX);
        let mut kalman = Kalman::new();
        for _ in 0..100 {
            kalman.reopen(&config);
            assert!(kalman.step(&config) > gain(0.8));
        }
    }

    #[test]
    fn scales_fall_to_a_sixteenth_and_begin_again() {
        let mut scale = Scale::START;
        let shifts: Vec<_> = (0..60).map(|_| scale.step(gain(0.125)).shift).collect();
        let found: Vec<_> = (0..60).filter(|&n| shifts[n] > 0).collect();
        // (7/8)^21 < 1/16.
        assert_eq!(found, [20, 41]);
        assert!(shifts.iter().all(|&shift| shift == 0 || shift == 4));
        assert_eq!((scale.step(Gain::MAX).shift, scale), (32, Scale::START));
    }

    #[test]
    fn half_lives_halve() {
        assert_eq!(half_life(0), Gain::MAX);
        for tokens in (1..200).chain([1_000, 10_000, 1 << 20, u32::MAX]) {
            let exact = 1.0 - 2f64.powf(-1.0 / f64::from(tokens));
            assert!((half_life(tokens).to_num::<f64>() - exact).abs() < 2f64.powi(-28), "{tokens}");
        }
    }

    proptest! {
        #[test]
        fn levels_stay_between_zero_and_one(
            gains in prop::collection::vec(
                prop_oneof![any::<u32>(), Just(u32::MAX), Just(0), Just(1 << 26), Just(1 << 29), 0u32..1 << 20],
                1..100,
            ),
            wanted in prop::collection::vec(any::<bool>(), 100),
        ) {
            let (mut scale, mut stored, mut float, mut bound) = (Scale::START, 0u32, 0.0f64, 0.0f64);
            for (gain, wanted) in gains.into_iter().zip(wanted) {
                let gain = Gain::from_bits(gain);
                let step = scale.step(gain);
                stored = stored.checked_shr(step.shift).unwrap_or(0);
                let k: f64 = gain.to_num();
                float *= 1.0 - k;
                bound = bound * (1.0 - k) + 3.0 * 2f64.powi(-28);
                if wanted {
                    stored = stored.checked_add(step.raise).expect("a level is stored as less than 16");
                    float += k;
                }
                // A token rounds scale, gain and shift by at most a unit each, and forgets what was rounded before it.
                let error = scale.level(stored).to_num::<f64>() - float;
                prop_assert!((-bound..=2f64.powi(-40)).contains(&error), "{error}");
                prop_assert!(scale.bits() >= Scale::SMALLEST && scale.level(stored) <= Level::ONE);
                prop_assert_eq!(scale.coarse(stored), scale.level(stored).to_bits() >> 3);
            }
        }
    }
}
