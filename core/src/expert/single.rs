//! Vectors of IEEE 754 single precision in and out, by integers alone: the same bits on every machine, with and without
//! a floating-point unit.

use super::{ActivationGroup, Activations, Expert, ExpertError, Scratch};
use crate::num::Gate;

/// Bits below those of the largest value that are kept, beside its own 24.
const BELOW: i32 = 38;
/// Exponent of the last place of a number whose exponent field is 0.
const LAST_PLACE: i32 = -150;
/// The exponent field of infinity.
const NOT_FINITE: u32 = 255;
const INFINITY: u32 = NOT_FINITE << 23;

/// Memory that [`Expert::run`] works in, the caller's. It may be longer than an expert needs, so that one serves all.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// As many as the expert's inputs, and as its outputs.
    pub values: &'a mut [i64],
    /// The [padded columns](super::Layout::padded_columns) of `gate`.
    pub codes: &'a mut [i16],
    /// The [groups](super::Layout::groups) of `gate`.
    pub groups: &'a mut [ActivationGroup],
    /// For the hidden vector.
    pub scratch: Scratch<'a>,
}

/// What an expert gives for one input, before it is weighted.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    values: &'a [i64],
    exponent: i32,
}

impl<'a> Output<'a> {
    /// The values times a weight, little-endian numbers of single precision: to nearest, halves to even, rounded once.
    /// Subnormal numbers are kept; from `2^128 - 2^103` on it is infinity, and zero is positive.
    pub fn weighted(self, weight: Gate) -> impl ExactSizeIterator<Item = [u8; 4]> + use<'a> {
        self.values.iter().map(move |&value| weighted(value, self.exponent, weight).to_le_bytes())
    }
}

impl Expert<'_> {
    /// Runs the expert on one input of numbers of single precision, little-endian. The input is taken as it is (what is
    /// less than `2^-61` of the largest is cut off) and quantised for the matrices; from there on it is
    /// [`forward`](Self::forward). Every machine gives the same bits, floating-point unit or not.
    ///
    /// # Errors
    /// [`ExpertError::Mismatch`] for another number of inputs than the matrices have, [`ExpertError::NotFinite`],
    /// [`ExpertError::Buffer`] if the workspace is too short.
    pub fn run<'w>(&self, x: &[[u8; 4]], workspace: &'w mut Workspace<'_>) -> Result<Output<'w>, ExpertError> {
        let (input, hidden) = (self.input(), self.hidden());
        if x.len() != input.columns() {
            return Err(ExpertError::Mismatch);
        }
        let values = workspace.values.get_mut(..x.len()).ok_or(ExpertError::Buffer)?;
        let exponent = to_integers(x, values)?;
        let codes = workspace.codes.get_mut(..input.padded_columns()).ok_or(ExpertError::Buffer)?;
        let groups = workspace.groups.get_mut(..input.groups()).ok_or(ExpertError::Buffer)?;
        let x = Activations::quantise(values, exponent, input, codes, groups)?;
        let Scratch { hidden: rows, codes, groups } = &mut workspace.scratch;
        let scratch = Scratch {
            hidden: rows.get_mut(..input.rows()).ok_or(ExpertError::Buffer)?,
            codes: codes.get_mut(..hidden.padded_columns()).ok_or(ExpertError::Buffer)?,
            groups: groups.get_mut(..hidden.groups()).ok_or(ExpertError::Buffer)?,
        };
        let values = workspace.values.get_mut(..hidden.rows()).ok_or(ExpertError::Buffer)?;
        let exponent = self.forward(&x, scratch, values)?;
        Ok(Output { values, exponent })
    }
}

/// Numbers (little-endian) as integers: value `i` is `out[i] * 2^exponent` with the exponent returned. Magnitudes stay
/// below 2^62; what is less than `2^-61` of the largest is cut off.
///
/// # Errors
/// [`ExpertError::NotFinite`]; `out` is as before.
pub(super) fn to_integers(values: &[[u8; 4]], out: &mut [i64]) -> Result<i32, ExpertError> {
    let fields = |value: &[u8; 4]| u32::from_le_bytes(*value) << 1 >> 24;
    let largest = values.iter().map(fields).max().unwrap_or(0);
    if largest == NOT_FINITE {
        return Err(ExpertError::NotFinite);
    }
    let base = largest.max(1);
    for (out, value) in out.iter_mut().zip(values) {
        let (bits, field) = (u32::from_le_bytes(*value), fields(value));
        // Without its leading one where the field is 0.
        let mantissa = i64::from(bits & 0x7F_FFFF) | if field > 0 { 1 << 23 } else { 0 };
        let down = base.saturating_sub(field.max(1));
        let magnitude = (mantissa << BELOW).wrapping_shr(down.min(63));
        *out = if bits >> 31 == 0 { magnitude } else { magnitude.wrapping_neg() };
    }
    Ok((base as i32).wrapping_add(LAST_PLACE - BELOW))
}

/// `value * 2^exponent * weight`, to nearest, halves to even, as IEEE 754 has it: with subnormal numbers, and infinity
/// from `2^128 - 2^103` on. Zero is positive.
pub(super) fn weighted(value: i64, exponent: i32, weight: Gate) -> u32 {
    let (magnitude, weight) = (value.unsigned_abs(), u64::from(weight.to_bits()));
    let low = (magnitude & 0xFFFF_FFFF).wrapping_mul(weight);
    // At most (2^31 + 1) * 2^32.
    let high = (magnitude >> 32).wrapping_mul(weight).wrapping_add(low >> 32);
    let low = low & 0xFFFF_FFFF;
    // The product's 64 highest bits; what is below them is one bit that says whether it is 0.
    let up = high.leading_zeros();
    let (mantissa, scale) = if up < 32 {
        let moved = low.wrapping_shl(up);
        (high.wrapping_shl(up) | moved >> 32 | u64::from(moved & 0xFFFF_FFFF != 0), 32i32.wrapping_sub_unsigned(up))
    } else {
        let product = high << 32 | low;
        if product == 0 {
            return 0;
        }
        let up = product.leading_zeros();
        (product.wrapping_shl(up), 0i32.wrapping_sub_unsigned(up))
    };
    // Of the leading bit. A weight has 31 fraction bits.
    let leading = exponent.saturating_add(scale).saturating_add(63 - 31);
    if leading > 127 {
        return sign(value) | INFINITY;
    }
    let below_normal = (-126i32).saturating_sub(leading).max(0) as u32;
    let mantissa = match below_normal {
        0..64 => {
            let lost = mantissa & 1u64.wrapping_shl(below_normal).wrapping_sub(1);
            mantissa.wrapping_shr(below_normal) | u64::from(lost != 0)
        }
        _ => 1,
    };
    let (kept, rest) = ((mantissa >> 40) as u32, mantissa & ((1 << 40) - 1));
    let rounded = kept.wrapping_add(u32::from(rest > 1 << 39 || rest == 1 << 39 && kept & 1 == 1));
    // The leading one adds 1 to the exponent field, and so does one that rounding carries out.
    let field = leading.saturating_add(126).max(0) as u32;
    sign(value) | (field << 23).wrapping_add(rounded)
}

fn sign(value: i64) -> u32 {
    if value < 0 { 1 << 31 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expert::{Layout, Matrix};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn power(exponent: i32) -> f64 {
        2f64.powi(exponent / 2) * 2f64.powi(exponent - exponent / 2)
    }

    /// Rounds `magnitude * 2^exponent`: to 24 bits by the language, or to a multiple of 2^-149 by division.
    fn oracle(magnitude: u128, exponent: i32) -> f32 {
        let leading = 127 - magnitude.leading_zeros() as i32 + exponent;
        if magnitude == 0 || leading > 300 {
            return if magnitude == 0 { 0.0 } else { f32::INFINITY };
        }
        if leading >= -126 {
            return (f64::from(magnitude as f32) * power(exponent)) as f32;
        }
        let down = (-149 - exponent) as u32;
        if down >= 128 {
            return 0.0;
        }
        let (kept, rest, half) = (magnitude >> down, magnitude & ((1 << down) - 1), 1u128 << down >> 1);
        f32::from_bits((kept + u128::from(rest > half || rest == half && down > 0 && kept & 1 == 1)) as u32)
    }

    #[test]
    fn a_run_is_the_forward_pass_between_two_conversions() {
        let mut numbers = 1u32;
        let mut next = || {
            numbers = numbers.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            numbers >> 8
        };
        let packed = [(2, 48, 80), (2, 48, 80), (4, 80, 48)].map(|(bits, rows, columns)| {
            let layout = Layout::new(bits, 32, -10, rows, columns).unwrap();
            let mut bytes = vec![0; layout.byte_len() as usize];
            layout.write(&mut bytes).unwrap();
            for row in bytes[16..].chunks_exact_mut(layout.row_bytes()) {
                let codes: Vec<u8> = (0..columns).map(|_| next() as u8 & ((1 << bits) - 1)).collect();
                layout.pack_row(&codes, &vec![900; layout.groups()], &vec![100; layout.groups()], row).unwrap();
            }
            bytes
        });
        let [gate, up, down] = packed.each_ref().map(|bytes| Matrix::new(bytes).unwrap());
        let expert = Expert::new(gate, up, down).unwrap();
        let x: Vec<f32> = (0..80).map(|_| next() as f32 / 16_777_216.0 - 0.5).collect();
        let bytes: Vec<[u8; 4]> = x.iter().map(|x| x.to_le_bytes()).collect();

        let (mut codes, mut groups) = (vec![0; 96], vec![ActivationGroup::default(); 3]);
        let (mut hidden, mut hidden_codes, mut hidden_groups) =
            (vec![0; 48], vec![0; 64], vec![ActivationGroup::default(); 2]);
        let mut out = vec![0; 80];
        // Of 2^-26: exact for numbers of 24 bits between 2^-3 and 1/2 only.
        let fixed: Vec<i64> = x.iter().map(|x| (f64::from(*x) * 67_108_864.0) as i64).collect();
        assert!(fixed.iter().zip(&x).all(|(v, x)| *v as f64 == f64::from(*x) * 67_108_864.0));
        let vector = Activations::quantise(&fixed, -26, expert.input(), &mut codes, &mut groups).unwrap();
        let scratch = Scratch { hidden: &mut hidden, codes: &mut hidden_codes, groups: &mut hidden_groups };
        let exponent = expert.forward(&vector, scratch, &mut out).unwrap();

        let (mut values, mut codes, mut groups) = (vec![7; 90], vec![7; 100], vec![ActivationGroup::default(); 9]);
        let mut workspace = Workspace {
            values: &mut values,
            codes: &mut codes,
            groups: &mut groups,
            scratch: Scratch {
                hidden: &mut [0; 50],
                codes: &mut [0; 70],
                groups: &mut [ActivationGroup::default(); 4],
            },
        };
        let weight = Gate::from_num(0.3);
        let found: Vec<f32> =
            expert.run(&bytes, &mut workspace).unwrap().weighted(weight).map(f32::from_le_bytes).collect();
        let expected: Vec<f32> =
            out.iter().map(|&value| (value as f64 * power(exponent) * weight.to_num::<f64>()) as f32).collect();
        // Rounded in two steps there.
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() * f32::EPSILON;
        assert!(found.len() == 80 && found.iter().zip(&expected).all(close), "{found:?} {expected:?}");
        assert!(found.iter().any(|value| value.abs() > 1e-4));
        assert_eq!(expert.run(&bytes[1..], &mut workspace).unwrap_err(), ExpertError::Mismatch);
        workspace.values = &mut [];
        assert_eq!(expert.run(&bytes, &mut workspace).unwrap_err(), ExpertError::Buffer);
    }

    #[test]
    fn corners() {
        let one = Gate::ONE;
        assert_eq!(weighted(0, 0, one), 0);
        assert_eq!(f32::from_bits(weighted(-3, -1, one)), -1.5);
        assert_eq!(f32::from_bits(weighted(i64::MIN, 0, one)), -2f32.powi(63));
        assert_eq!(f32::from_bits(weighted(1, -149, one)), f32::from_bits(1));
        // Half of the least number is even 0, a little more is not.
        assert_eq!((weighted(1, -150, one), weighted((1 << 40) + 1, -190, one)), (0, 1));
        assert_eq!(f32::from_bits(weighted((1 << 24) - 1, 104, one)), f32::MAX);
        assert_eq!(f32::from_bits(weighted((1 << 25) - 1, 103, one)), f32::INFINITY);
        assert_eq!(weighted(1, i32::MIN, one), 0);
        assert_eq!(f32::from_bits(weighted(-1, i32::MAX, one)), f32::NEG_INFINITY);
        let mut out = [7; 2];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(to_integers(&[1f32.to_le_bytes(), bad.to_le_bytes()], &mut out), Err(ExpertError::NotFinite));
        }
        assert_eq!(out, [7; 2]);
        assert_eq!(to_integers(&[[0; 4]; 2], &mut out).map(|_| out), Ok([0; 2]));
    }

    proptest! {
        #[test]
        fn products_are_rounded_once(
            value: i64,
            shift in 0u32..64,
            exponent in prop_oneof![-260i32..140, -20..20i32],
            weight in prop_oneof![any::<u32>(), Just(1 << 31)],
        ) {
            let value = value >> shift;
            let product = u128::from(value.unsigned_abs()) * u128::from(weight);
            let expected = oracle(product, exponent - 31).copysign(if value < 0 && product > 0 { -1.0 } else { 1.0 });
            prop_assert_eq!(f32::from_bits(weighted(value, exponent, Gate::from_bits(weight))), expected);
        }

        #[test]
        fn numbers_survive(bits in prop::collection::vec(any::<u32>(), 1..20)) {
            let values: Vec<f32> =
                bits.into_iter().map(f32::from_bits).map(|x| if x.is_finite() { x } else { 1.0 }).collect();
            let bytes: Vec<[u8; 4]> = values.iter().map(|x| x.to_le_bytes()).collect();
            let mut out = vec![0; values.len()];
            let exponent = to_integers(&bytes, &mut out).unwrap();
            let largest = values.iter().fold(0f64, |most, x| most.max(f64::from(x.abs())));
            for (&x, &value) in values.iter().zip(&out) {
                prop_assert!(value.unsigned_abs() < 1 << 62);
                let lost = (f64::from(x) - value as f64 * power(exponent)).abs();
                prop_assert!(lost <= largest * power(-61), "{x} {value} {exponent}");
                prop_assert!(lost == 0.0 || f64::from(x.abs()) < largest * power(-37));
            }
        }
    }
}
