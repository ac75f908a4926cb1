//! Number formats of the token path, and the functions that it needs of them.
//!
//! | type | format | range, step | used for |
//! |---|---|---|---|
//! | [`Logit`] | `I16F16` | ±32768, 1.5e-5 | router scores; selection margins are about 0.06, deep layers reach ±315 |
//! | [`Gate`] | `U1F31` | 0 to 2, 4.7e-10 | routing mass relative to the largest, at most 1 |
//! | [`Level`] | `U1F31` | 0 to 2, 4.7e-10 | how often an expert is wanted, at most 1 |
//! | [`Gain`] | `U0F32` | 0 to 1, 2.3e-10 | filter gains, below 1 |
//! | [`Eps`] | `U0F32` | 0 to 1, 2.3e-10 | share of the routing mass that may be given up |
//! | [`Angle`] | `I4F28` | ±8, 3.7e-9 | radians |
//! | [`Scale`] | `U8F24` | 0 to 256, 6.0e-8 | what mixing weights are multiplied with, and mixing weights after that |
//! | [`LogRatio`] | `I8F24` | ±128, 6.0e-8 | log2 of a power ratio |
//!
//! Operations are wrapping ones where nothing can overflow, as each function's comment or its tests against real
//! numbers show: compilers do not see it, and would link a panic where they check.

use core::num::{NonZeroU16, NonZeroU32};

use fixed::types::{I4F28, I8F24, I16F16, U0F32, U1F31, U8F24};

/// Router score before softmax or sigmoid.
pub type Logit = I16F16;
/// Routing mass of one expert relative to the largest of its token.
pub type Gate = U1F31;
/// Tracked share of tokens that want an expert.
pub type Level = U1F31;
/// Filter gain.
pub type Gain = U0F32;
/// Share of the routing mass that a selection may give up.
pub type Eps = U0F32;
/// Factor of mixing weights, and a mixing weight with it.
pub type Scale = U8F24;
/// Angle in radians.
pub type Angle = I4F28;
/// Base-2 logarithm of a power ratio; 1 is 3.01 dB.
pub type LogRatio = I8F24;

/// High half of the 64-bit product: `a * b` for `b` a fraction with 32 bits, rounded down. One instruction on most
/// cores.
#[inline]
pub(crate) const fn mul_frac(a: u32, b: u32) -> u32 {
    ((a as u64 * b as u64) >> 32) as u32
}

/// Steps of [`POWERS`] to a factor of 2.
const POWER_BITS: u32 = 6;

/// `2^(-i / 64)`, `U1F31`, rounded.
const POWERS: [u32; 1 << POWER_BITS] = {
    const ROOT: u128 = 18_248_035_989_933_441_397; // 2^(-1 / 64), 64 fraction bits
    let mut powers = [0; 1 << POWER_BITS];
    let (mut power, mut i) = (1u128 << 64, 0);
    while i < powers.len() {
        powers[i] = ((power + (1 << 32)) >> 33) as u32;
        power = (power * ROOT) >> 64;
        i += 1;
    }
    powers
};

/// `2^-distance` for a distance with 22 fraction bits, `U1F31`: 64ths from a table, and of the rest the first two terms
/// of its series. Relative error below 2^-20; exact at 64ths; 0 for distances of 32 and more.
#[inline]
pub(crate) fn exp2_neg(distance: u32) -> u32 {
    /// `ln(2) / 2^22`, 37 fraction bits.
    const EACH: u32 = 22_713;
    let power = POWERS[(distance >> 16) as usize % POWERS.len()].checked_shr(distance >> 22).unwrap_or(0);
    // Below 1/92, `U0F32`.
    let rest = (distance & 0xffff).wrapping_mul(EACH) >> 5;
    power.wrapping_sub(mul_frac(power, rest.wrapping_sub(mul_frac(rest, rest) >> 1)))
}

/// `exp(-distance)` for a distance of at least 0 (negative ones count as 0).
///
/// Format `I16F16` in, `U1F31` out. Absolute error below 2^-25, never rising with the distance, exact at 0. Distances
/// of 22 and more give 0.
#[inline]
pub fn exp_neg(distance: Logit) -> Gate {
    Gate::from_bits(exp_neg_bits(distance.to_bits().max(0).unsigned_abs()))
}

/// [`exp_neg`] of a distance as `U16F16` bits. The power of two that it is comes in three parts: whole, 64ths from a
/// table, and the rest from a polynomial (`2^-r = 1 - C1 r + C2 r^2` for r in [0, 1/64), minimax with the exact value
/// at 0: error below 9e-9).
#[inline]
pub(crate) fn exp_neg_bits(distance: u32) -> u32 {
    const LOG2_E: u32 = 0xB8AA_3B29; // U1F31
    // Of r in 64ths, U0F32.
    const C1: u32 = 46_515_928;
    const C2: u32 = 250_630;
    if distance >= 22 << 16 {
        return 0;
    }
    let exponent = mul_frac(distance << 11, LOG2_E); // U6F26
    let rest = exponent << (6 + POWER_BITS); // of a 64th, U0F32
    let lacking = mul_frac(rest, C1.wrapping_sub(mul_frac(rest, C2)));
    let power = POWERS[(exponent >> (26 - POWER_BITS)) as usize % POWERS.len()];
    // At most 31: the exponent is below 32.
    power.wrapping_sub(mul_frac(power, lacking)).wrapping_shr(exponent >> 26)
}

/// Logistic function `1 / (1 + exp(-logit))`. Format `I16F16` in, `U1F31` out, absolute error below 2^-25. No division.
pub fn sigmoid(logit: Logit) -> Gate {
    Gate::from_bits(sigmoid_relative(logit, Logit::ZERO))
}

/// The logistic function over `exp(anchor)`, for an anchor that is 0, or below 0 and not below the logit: at most 1,
/// absolute error below 2^-25. So scores far below 2^-31 can be compared with each other.
// One copy of it: it is used once per expert at most, where the call hardly counts.
#[inline(never)]
pub(crate) fn sigmoid_relative(logit: Logit, anchor: Logit) -> u32 {
    const ONE: u32 = 1 << 31;
    let exp = exp_neg_bits(logit.to_bits().unsigned_abs());
    // What 1 / (1 + exp) is multiplied with.
    let factor = match () {
        () if !logit.is_negative() => ONE,
        () if anchor == Logit::ZERO => exp,
        () => exp_neg_call(anchor.to_bits().wrapping_sub(logit.to_bits()).cast_unsigned()),
    };
    if exp == 0 || exp == ONE {
        // x would be a half or 1, which the formats below cannot hold or invert.
        return factor >> (exp >> 31);
    }
    // x = (1 + exp) / 2 is in [1/2, 1), U0F32; y = 1 / x in U1F31 by Newton's iteration `y (2 - x y)` from 48/17 -
    // 32/17 x, whose error of at most 1/17 is squared three times.
    let x = ONE.wrapping_add(exp);
    let mut y = 0x6969_6969u32.wrapping_sub(mul_frac(x, 0xF0F0_F0F0));
    for _ in 0..3 {
        y = mul_frac(y, mul_frac(x, y).wrapping_neg()) << 1;
    }
    mul_frac(factor, y)
}

/// `sqrt(ln(1 + exp(logit)))`, over `exp(anchor / 2)` for an anchor that is 0, or below 0 and not below the logit. 31
/// fraction bits, at most 182. Below 0 the absolute error is below 2^-25, from there on the relative one below 2^-23.
///
/// Below 0 it is `exp(logit / 2) sqrt(g(exp(logit)))` with `g(x) = ln(1 + x) / x`, and else `sqrt(logit + exp(-logit)
/// g(exp(-logit)))`. So no square root is taken of a small number, which would magnify its error. g by a polynomial of
/// the ninth degree, minimax, error below 4.1e-9.
#[inline(never)]
pub(crate) fn sqrt_softplus(logit: Logit, anchor: Logit) -> u64 {
    // Magnitudes with 31 fraction bits, highest degree first; the signs alternate. A loop, which need not be fast:
    // unrolled it takes 0.5 kB.
    static G: [u32; 10] = [
        7_169_968,
        43_546_618,
        124_037_631,
        229_449_502,
        329_709_604,
        422_892_409,
        535_954_980,
        715_762_223,
        1_073_739_981,
        2_147_483_639,
    ];
    let x = exp_neg_call(logit.to_bits().unsigned_abs());
    // With 32 fraction bits, a step below 1 instead of 1.
    let fraction = (x << 1).wrapping_sub(x >> 31);
    let mut g = 0u32;
    let mut rest = core::hint::black_box(&G[..]);
    while let [coefficient, others @ ..] = rest {
        g = coefficient.wrapping_sub(mul_frac(g, fraction));
        rest = others;
    }
    // Below 0 the number under the root is g; its square root has 31 fraction bits, too.
    let (number, factor, down) = if logit.is_negative() {
        let distance = anchor.to_bits().wrapping_sub(logit.to_bits()).cast_unsigned();
        // Half of the distance, whose last bit is worth exp(-2^-17) = 1 - 2^-17.
        let half = exp_neg_call(distance >> 1);
        (u64::from(g) << 31, half.wrapping_sub((half >> 17) & (distance & 1).wrapping_neg()), 31)
    } else {
        let sum = (u64::from(logit.to_bits().cast_unsigned()) << 15).wrapping_add(u64::from(mul_frac(x, g) << 1));
        // At most 2^47, so that its root over 2^24 is within 2^-24 of it.
        (sum << 17, 1 << 7, 0)
    };
    u64::from(sqrt_call(number)).wrapping_mul(factor.into()) >> down
}

/// [`exp_neg_bits`] where a call hardly counts.
#[inline(never)]
pub(crate) fn exp_neg_call(distance: u32) -> u32 {
    exp_neg_bits(distance)
}

/// Bits by which roots of softplus are shifted down so that that of `largest` is at most 1: 0 below 0.
pub(crate) fn sqrt_softplus_shift(largest: Logit) -> u32 {
    if largest.is_negative() {
        return 0;
    }
    // sqrt(largest + ln 2) < sqrt(n) for the next whole number but one, n.
    33u32.wrapping_sub((largest.to_bits() >> 16).cast_unsigned().wrapping_add(1).leading_zeros()) / 2
}

/// [`sqrt_softplus`] of a logit that is at most `largest`, in a unit that makes that of `largest` at most 1.
pub(crate) fn sqrt_softplus_relative(logit: Logit, largest: Logit) -> u32 {
    (sqrt_softplus(logit, largest.min(Logit::ZERO)) >> sqrt_softplus_shift(largest)) as u32
}

/// `arccos(cosine)` for a cosine in [0, 1] (above 1 counts as 1). Format `U1F31` in, `I4F28` out, absolute error below
/// 3e-8: Abramowitz and Stegun 4.4.46, `sqrt(1 - x)` times a polynomial of the seventh degree. One 64-bit integer
/// square root.
#[inline]
pub fn acos(cosine: Gate) -> Angle {
    let rest = (1u32 << 31).saturating_sub(cosine.to_bits());
    let root = sqrt(u64::from(rest) << 31); // 31 fraction bits
    // 32 fraction bits; what 1 becomes there does not matter, as the root is 0.
    let x = cosine.to_bits() << 1;
    // Magnitudes a7 .. a0 with 31 fraction bits; the signs alternate.
    let next = |sum: u32, coefficient: u32| coefficient.wrapping_sub(mul_frac(sum, x));
    let sum = next(next(next(next(2_711_179, 14_323_909), 36_696_470), 66_339_809), 107_748_499);
    let sum = next(next(next(sum, 191_080_920), 460_847_417), 3_373_259_379);
    Angle::from_bits((mul_frac(root, sum) >> 2) as i32)
}

/// Base-2 logarithm of `numerator / denominator`, both in the same format. 0/0 counts as 1/1, other zeros saturate at
/// ±32.
///
/// Absolute error below 2^-16. No division: the difference of two logarithms, each from the position of the leading one
/// and a polynomial.
#[inline]
pub fn log2_ratio(numerator: u32, denominator: u32) -> LogRatio {
    match (numerator, denominator) {
        (0, 0) => LogRatio::ZERO,
        (0, _) => LogRatio::from_bits(-32 << 24),
        (_, 0) => LogRatio::from_bits(32 << 24),
        (a, b) => LogRatio::from_bits(log2_bits(a).wrapping_sub(log2_bits(b))),
    }
}

/// `log2(x)` for `x > 0` as an integer, with 24 fraction bits: `log2(1 + t) = t P(t)`, absolute error below 2^-18.8
/// (minimax polynomial of the fifth degree; exact for powers of two).
#[inline]
fn log2_bits(x: u32) -> i32 {
    let shift = x.leading_zeros();
    let t = x.wrapping_shl(shift) << 1; // 32 fraction bits
    // Magnitudes with 30 fraction bits, highest degree first; the signs alternate.
    let next = |sum: u32, coefficient: u32| coefficient.wrapping_sub(mul_frac(sum, t));
    let sum = next(next(next(28_408_453, 132_554_975), 300_151_736), 492_064_504);
    let sum = next(next(sum, 771_249_332), 1_548_929_645);
    (31u32.wrapping_sub(shift) << 24).wrapping_add(mul_frac(sum, t) >> 6).cast_signed()
}

/// A [`Logit`] from the bits of an `f32`, by integers: to nearest, halves to even; saturates, infinities too. `None`
/// for what is no number.
#[must_use]
pub fn logit_of_f32(bits: u32) -> Option<Logit> {
    let (exponent, fraction) = ((bits >> 23) & 0xff, bits & 0x7f_ffff);
    let magnitude = match exponent {
        0xff if fraction > 0 => return None,
        // 2^15 and more.
        142.. => u32::MAX,
        134.. => (fraction | 1 << 23) << (exponent - 134),
        109.. => {
            let (whole, down) = (fraction | 1 << 23, 134 - exponent);
            let (below, rest) = (whole >> down, whole & ((1 << down) - 1));
            below + u32::from(rest + (below & 1) > 1 << (down - 1))
        }
        _ => 0,
    };
    let most = if bits >> 31 == 0 { u32::MAX >> 1 } else { 1 << 31 };
    let magnitude = magnitude.min(most).cast_signed();
    Some(Logit::from_bits(if bits >> 31 == 0 { magnitude } else { magnitude.wrapping_neg() }))
}

/// `floor(2^32 numerator / denominator)` for a numerator below the denominator; saturates otherwise. One 32-bit
/// division, where the general 64-bit division of a 32-bit core is a loop: an inverse of 14 bits, and with it 14 bits
/// of the quotient at a time from what is left of the numerator.
#[inline]
pub(crate) fn div_frac(numerator: u32, denominator: u32) -> u32 {
    if numerator >= denominator {
        return u32::MAX;
    }
    let shift = denominator.leading_zeros();
    let (numerator, denominator) = (numerator.wrapping_shl(shift), denominator.wrapping_shl(shift));
    // 2^63 / denominator, at most 2^-14.4 of it too small; everything below is from below, too.
    let inverse = (u32::MAX / (denominator >> 16).wrapping_add(1)) << 15;
    let first = mul_frac(numerator, inverse) << 1;
    let times = |part: u32| u64::from(part).wrapping_mul(denominator.into());
    let rest = (u64::from(numerator) << 32).wrapping_sub(times(first)); // below 2^50
    let second = mul_frac((rest >> 18) as u32, inverse) >> 13;
    let rest = rest.wrapping_sub(times(second)); // below 2^36
    let third = mul_frac((rest >> 4) as u32, inverse) >> 27;
    let rest = rest.wrapping_sub(times(third));
    first.wrapping_add(second).wrapping_add(third).wrapping_add(u32::from(rest >= u64::from(denominator)))
}

/// [`div_frac`] where a call hardly counts.
#[inline(never)]
pub(crate) fn div_frac_call(numerator: u32, denominator: u32) -> u32 {
    div_frac(numerator, denominator)
}

/// `numerator / denominator`, rounded down; 0 where the denominator is 0. Instead of the compiler's routine for 32-bit
/// cores, which takes a kilobyte: three 32-bit divisions where the denominator is below 2^16, as nearly all are, else
/// bit by bit, about 700 instructions.
#[inline]
pub(crate) fn quotient(numerator: u64, denominator: u64) -> u64 {
    if cfg!(target_pointer_width = "64") {
        return numerator.checked_div(denominator).unwrap_or(0);
    }
    quotient_32(numerator, denominator)
}

/// [`quotient`] on a 32-bit core.
#[inline(never)]
fn quotient_32(numerator: u64, denominator: u64) -> u64 {
    let (high, low) = ((numerator >> 32) as u32, numerator as u32);
    match u16::try_from(denominator).map(NonZeroU16::new) {
        Ok(None) => 0,
        Ok(Some(denominator)) => {
            // Digits of 16 bits, the upper two at once; each rest is below the denominator.
            let denominator = NonZeroU32::from(denominator);
            let middle = (high % denominator) << 16 | low >> 16;
            let last = (middle % denominator) << 16 | low & 0xffff;
            // The lower two have 16 bits at most, as the rests are below the denominator.
            u64::from(high / denominator) << 32 | u64::from(middle / denominator) << 16 | u64::from(last / denominator)
        }
        Err(_) => {
            let (mut rest, mut bits) = (0u64, numerator);
            for _ in 0..u64::BITS {
                // A rest is below the denominator: doubled, it has at most one bit more than fits.
                let carried = rest >> 63;
                rest = rest << 1 | bits >> 63;
                bits <<= 1;
                if carried != 0 || rest >= denominator {
                    rest = rest.wrapping_sub(denominator);
                    bits |= 1;
                }
            }
            bits
        }
    }
}

/// [`quotient`], rounded up.
pub(crate) fn quotient_up(numerator: u64, denominator: u64) -> u64 {
    let quotient = quotient(numerator, denominator);
    quotient.wrapping_add(u64::from(quotient.wrapping_mul(denominator) != numerator))
}

/// `whole * share`, `share` a fraction with 32 bits, rounded down, for any number of masses that a layer can have.
pub(crate) fn part_of(whole: u64, share: u32) -> u64 {
    (whole >> 32).wrapping_mul(share.into()).wrapping_add(mul_frac(whole as u32, share).into())
}

/// Shares of one whole, without a 64-bit division: the whole is brought to 32 bits once, and its parts by the same
/// shift, and what they are multiplied with instead of divided is worked out once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// The whole with its upper bit set, rounded up; 0 where there is nothing.
    whole: u32,
    /// `floor((2^64 - 1) / whole) - 2^32`.
    inverse: u32,
    /// Bits that it was shifted down; up if negative.
    down: i32,
}

impl Share {
    /// Shares of `whole`.
    #[inline(never)]
    pub(crate) fn of(whole: u64) -> Self {
        let down = 32i32.wrapping_sub(whole.leading_zeros().cast_signed());
        let whole = if down <= 0 {
            (whole as u32).wrapping_shl(down.wrapping_neg().cast_unsigned())
        } else {
            let rounded = whole.wrapping_shr(down.cast_unsigned()) as u32;
            let exact = u64::from(rounded).wrapping_shl(down.cast_unsigned()) == whole;
            if exact { rounded } else { rounded.saturating_add(1) }
        };
        // `2^32 (2^32 - 1 - whole) / whole`, and what the 2^32 - 1 that are missing there add: at most 2.
        let mut inverse = div_frac(!whole, whole);
        let mut rest = u64::MAX.wrapping_sub((u64::from(inverse) | 1 << 32).wrapping_mul(whole.into()));
        while whole > 0 && rest >= u64::from(whole) {
            rest = rest.wrapping_sub(whole.into());
            inverse = inverse.wrapping_add(1);
        }
        Self { whole, inverse, down }
    }

    /// The share of `part`, which is at most the whole: `U1F31`, rounded down, error below 2^-29; 0 where there is
    /// nothing.
    pub(crate) fn share(self, part: u64) -> u32 {
        let (down, up) = (self.down.cast_unsigned(), self.down.wrapping_neg().cast_unsigned());
        let part = if self.down < 0 { part.wrapping_shl(up) } else { part.wrapping_shr(down) };
        self.share_of_shifted(part as u32)
    }

    /// The share of a part that has been shifted like the whole. A quotient by an inverse (Moeller and Granlund,
    /// "Improved division by invariant integers", IEEE Transactions on Computers 60, 2011, algorithm 4).
    #[inline(always)]
    fn share_of_shifted(self, part: u32) -> u32 {
        let whole = self.whole;
        if part >= whole {
            return if whole == 0 { 0 } else { 1 << 31 };
        }
        let product = u64::from(self.inverse).wrapping_mul(part.into()).wrapping_add(u64::from(part) << 32);
        let mut quotient = ((product >> 32) as u32).wrapping_add(1);
        let mut rest = quotient.wrapping_mul(whole).wrapping_neg();
        if rest > product as u32 {
            quotient = quotient.wrapping_sub(1);
            rest = rest.wrapping_add(whole);
        }
        quotient.wrapping_add(u32::from(rest >= whole)) >> 1
    }

    /// Puts the shares of masses in their places, where the whole is below 2^63; a mass above it counts as the whole.
    #[inline(never)]
    pub(crate) fn of_masses(self, masses: &mut [Gate]) {
        let (down, up) = (self.down.max(0).cast_unsigned(), self.down.wrapping_neg().cast_unsigned());
        let shift_up = |mass: Gate| u32::try_from(u64::from(mass.to_bits()).wrapping_shl(up)).unwrap_or(u32::MAX);
        if self.down < 0 {
            masses.iter_mut().for_each(|mass| *mass = Gate::from_bits(shift_up(*mass)));
        }
        for mass in masses {
            let part = mass.to_bits().wrapping_shr(down);
            *mass = Gate::from_bits(self.share_of_shifted(part));
        }
    }
}

/// [`sqrt`] where a call hardly counts.
#[inline(never)]
pub(crate) fn sqrt_call(x: u64) -> u32 {
    sqrt(x)
}

/// `floor(sqrt(x))`, without a division: the inverse root of the upper half from a polynomial and two steps of Newton's
/// iteration `y (3 - x y^2) / 2`, the root from it, and what that leaves.
#[inline]
pub(crate) fn sqrt(x: u64) -> u32 {
    if x == 0 {
        return 0;
    }
    let shift = x.leading_zeros() & !1;
    let x = x.wrapping_shl(shift); // at least 2^62
    let high = (x >> 32) as u32; // as a fraction with 32 bits, at least 1/4
    // 2.67084 - 3.28538 x + 1.63858 x^2 with 30 fraction bits, 2.5 % off at most; then 2^-10.2 and 2^-19.8 of it.
    let mut inverse = mul_frac(high, 1_759_413_618);
    inverse = 2_867_797_446u32.wrapping_sub(mul_frac(high, 3_527_650_430u32.wrapping_sub(inverse)));
    for _ in 0..2 {
        let near_one = mul_frac(high, mul_frac(inverse, inverse)); // 28 fraction bits
        inverse = mul_frac(inverse, (3u32 << 28).wrapping_sub(near_one) << 2) << 1;
    }
    let square = |root: u32| u64::from(root).wrapping_mul(root.into());
    let root = mul_frac(high, inverse).min((1 << 30) - 1) << 2;
    let rest = x.cast_signed().wrapping_sub(square(root).cast_signed()); // below 2^46 in magnitude
    // A little too small rather than too large.
    let missing = (rest >> 16).wrapping_mul(inverse.into()).wrapping_sub(1 << 41) >> 47;
    let root = root.wrapping_add(missing as u32);
    let rest = x.wrapping_sub(square(root));
    let root = root.wrapping_add(u32::from(rest > u64::from(root) << 1));
    root.wrapping_shr(shift / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn end_values() {
        assert_eq!(exp_neg(Logit::ZERO), Gate::ONE);
        assert_eq!(exp_neg(Logit::MIN), Gate::ONE);
        assert_eq!(exp_neg(Logit::MAX), Gate::ZERO);
        assert_eq!(sigmoid(Logit::ZERO).to_num::<f64>(), 0.5);
        assert_eq!(sigmoid(Logit::MAX), Gate::ONE);
        assert_eq!(sigmoid(Logit::MIN), Gate::ZERO);
        assert_eq!(acos(Gate::ONE), Angle::ZERO);
        assert_eq!(acos(Gate::MAX), Angle::ZERO);
        assert!((acos(Gate::ZERO).to_num::<f64>() - core::f64::consts::FRAC_PI_2).abs() < 3e-8);
        assert_eq!(log2_ratio(0, 0), LogRatio::ZERO);
        assert_eq!(log2_ratio(8, 1), LogRatio::from_num(3));
        assert_eq!(log2_ratio(1, u32::MAX), -log2_ratio(u32::MAX, 1));
        assert_eq!(log2_ratio(0, 1), LogRatio::from_num(-32));
        assert_eq!(log2_ratio(1, 0), LogRatio::from_num(32));
    }

    #[test]
    fn division_and_root_at_the_ends() {
        let ends = [
            1,
            2,
            0xFFFE,
            0xFFFF,
            0x1_0000,
            0x7FFF_FFFF,
            0x8000_0000,
            0x8000_FFFF,
            0xFFFF_0000,
            u32::MAX - 1,
            u32::MAX,
        ];
        for a in ends {
            for b in ends.into_iter().filter(|&b| a < b) {
                assert_eq!(u64::from(div_frac(a, b)), (u64::from(a) << 32) / u64::from(b), "{a} / {b}");
            }
            assert_eq!(div_frac(a, a), u32::MAX);
            for x in [
                u64::from(a),
                u64::from(a) << 32,
                u64::MAX - u64::from(a),
                (1 << 62) + u64::from(a),
                (1 << 63) - u64::from(a),
            ] {
                assert_eq!(u64::from(sqrt(x)), x.isqrt(), "{x}");
            }
        }
        assert_eq!((div_frac(0, 0), div_frac(0, 1), sqrt(0), sqrt(u64::MAX)), (u32::MAX, 0, 0, u32::MAX));
    }

    #[test]
    fn powers_are_what_they_say() {
        for (i, power) in (0..).zip(POWERS) {
            assert_eq!(f64::from(power), (2f64.powf(31.0 - f64::from(i) / 64.0)).round(), "2^(-{i} / 64)");
        }
    }

    #[test]
    fn exp_neg_and_sigmoid_meet_their_bounds_and_never_turn_at_every_step() {
        let mut last = [u32::MAX, 0, u32::MAX];
        for bits in 0..23 << 16 {
            let x = Logit::from_bits(bits);
            let exp = (-x.to_num::<f64>()).exp();
            let found = [exp_neg(x), sigmoid(x), sigmoid(-x)];
            for (found, exact) in found.iter().zip([exp, 1.0 / (1.0 + exp), exp / (1.0 + exp)]) {
                let error = found.to_num::<f64>() - exact;
                assert!(error.abs() < 2f64.powi(-25), "{bits}: {error}");
            }
            let found = found.map(Gate::to_bits);
            assert!(found[0] <= last[0] && found[1] >= last[1] && found[2] <= last[2], "at {bits}");
            last = found;
        }
    }

    #[test]
    fn exp2_neg_meets_its_bound_and_never_rises() {
        let mut last = u32::MAX;
        for distance in (0..34 << 22).step_by(997) {
            let found = exp2_neg(distance);
            let exact = 2f64.powf(31.0 - f64::from(distance) / 4_194_304.0);
            assert!((f64::from(found) - exact).abs() <= exact * 2f64.powi(-20) + 2.0, "{distance}: {found} {exact}");
            assert!(found <= last, "{distance}");
            last = found;
        }
        assert_eq!(exp2_neg(u32::MAX), 0);
    }

    proptest! {
        #[test]
        fn quotients_are_exact(
            numerator: u64,
            denominator: u64,
            (down, smaller) in (0u32..64, prop::sample::select(std::vec![0u32, 1, 16, 31, 32, 48, 49, 62, 63])),
        ) {
            for (n, d) in [(numerator >> down, denominator >> smaller), (u64::MAX, denominator >> smaller)] {
                prop_assert_eq!(quotient_32(n, d), n.checked_div(d).unwrap_or(0), "{} / {}", n, d);
                if d > 0 {
                    prop_assert_eq!(quotient_up(n, d), n.div_ceil(d));
                }
            }
        }

        #[test]
        fn mul_frac_rounds_down(a: u32, b: u32) {
            let exact = u128::from(a) * u128::from(b);
            prop_assert_eq!(u128::from(mul_frac(a, b)), exact / (1 << 32));
        }

        #[test]
        fn logits_of_f32_are_those_of_the_library(bits: u32, near in -40000.0f32..40000.0, down in 0u32..40) {
            for bits in [bits, near.to_bits(), (near / 2f32.powi(down as i32)).to_bits()] {
                let value = f32::from_bits(bits);
                prop_assert_eq!(logit_of_f32(bits), (!value.is_nan()).then(|| Logit::saturating_from_num(value)));
            }
        }

        #[test]
        fn acos_meets_its_bound(bits in 0u32..=1 << 31) {
            let x = Gate::from_bits(bits);
            let error = acos(x).to_num::<f64>() - x.to_num::<f64>().acos();
            prop_assert!(error.abs() < 3e-8, "{error}");
        }

        #[test]
        fn div_frac_rounds_down(a: u32, b: u32, (shift_a, shift_b) in (0u32..32, 0u32..32)) {
            let (a, b) = (a >> shift_a, b >> shift_b);
            let exact = if a < b { (u64::from(a) << 32) / u64::from(b) } else { u64::from(u32::MAX) };
            prop_assert_eq!(u64::from(div_frac(a, b)), exact, "{} / {}", a, b);
        }

        #[test]
        fn shares_are_parts_of_the_whole(whole: u64, part: u64, shift in 0u32..64) {
            let whole = whole >> shift;
            let part = part.checked_rem(whole).unwrap_or(0);
            let error = part as f64 / (whole as f64).max(1.0) - f64::from(Share::of(whole).share(part)) / 2f64.powi(31);
            prop_assert!((-1e-15..2f64.powi(-29)).contains(&error), "{error}");
        }

        #[test]
        fn shares_of_less_than_32_bits_are_rounded_down(whole in 1u32.., part: u32, shift in 0u32..32) {
            let whole = (whole >> shift).max(1);
            let exact = |part: u32| (u64::from(part) << 31) / u64::from(whole);
            let mut parts = [part, part % whole, whole - 1, whole, 0, u32::MAX].map(Gate::from_bits);
            let expected = parts.map(|part| exact(part.to_bits().min(whole)) as u32);
            let single = parts.map(|part| Share::of(whole.into()).share(part.to_bits().min(whole).into()));
            Share::of(whole.into()).of_masses(&mut parts);
            prop_assert_eq!((single, parts.map(Gate::to_bits)), (expected, expected));
        }

        #[test]
        fn sqrt_rounds_down(x: u64, shift in 0u32..64, offset in -2i64..=2) {
            let x = x >> shift;
            prop_assert_eq!(u64::from(sqrt(x)), x.isqrt());
            // Around squares.
            let square = (x & 0xFFFF_FFFF).pow(2).saturating_add_signed(offset);
            prop_assert_eq!(u64::from(sqrt(square)), square.isqrt());
        }

        #[test]
        fn log2_meets_its_bound(a in 1u32.., b in 1u32..) {
            let error = log2_ratio(a, b).to_num::<f64>() - (f64::from(a) / f64::from(b)).log2();
            prop_assert!(error.abs() < 2f64.powi(-16), "{error}");
        }
    }
}
