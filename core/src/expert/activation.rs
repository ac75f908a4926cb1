//! Activations as 8-bit integers with a scale per group.

use core::num::NonZeroU32;

use crate::num::quotient_up;

use super::{ExpertError, Layout};

/// Scale and sum of one group of activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActivationGroup {
    /// Mantissa of the scale.
    pub(super) scale: u16,
    /// Sum of the codes, which multiplies the zero points.
    pub(super) sum: i32,
}

impl ActivationGroup {
    /// Of no activations: what an unused buffer holds.
    pub const NONE: Self = Self { scale: 0, sum: 0 };
}

/// A quantised vector: value `i` is `code[i] * scale[i / group] * 2^exponent`, codes from -127 to 127.
///
/// Codes lie widened to 16 bits, as the multiplications take them (`pmaddwd`, `SMLAD`, `vwmacc`), padded with zeros to
/// a multiple of 32.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'a> {
    pub(super) codes: &'a [i16],
    pub(super) groups: &'a [ActivationGroup],
    pub(super) exponent: i32,
    columns: usize,
    pub(super) group: usize,
}

impl<'a> Activations<'a> {
    /// Quantises `values * 2^exponent` for a matrix of the given layout into the caller's buffers: `codes` of
    /// [`Layout::padded_columns`], `groups` of [`Layout::groups`] entries.
    ///
    /// The largest magnitude `M` of the vector sets the common power of two `2^k`, the smallest with
    /// `ceil(M / 127) < 65536 * 2^k`; a group with largest magnitude `m` has the scale `ceil(m / (127 * 2^k))`; codes
    /// are rounded to nearest, ties away from zero. So no code saturates, and the error of a value is at most half a
    /// step, `(m / 127 + 2^k) / 2` with `2^k <= ceil(M / 127) / 32768`. Exact for every input: no number format is
    /// assumed, values may use all 64 bits. Cost: one 32-bit division per value, a 64-bit one per group.
    ///
    /// # Errors
    /// [`ExpertError::Mismatch`] if `values` are not as many as the columns, [`ExpertError::Buffer`] for wrong buffers.
    pub fn quantise<T: Copy + Into<i64>>(
        values: &[T],
        exponent: i32,
        layout: &Layout,
        codes: &'a mut [i16],
        groups: &'a mut [ActivationGroup],
    ) -> Result<Self, ExpertError> {
        if values.len() != layout.columns() {
            return Err(ExpertError::Mismatch);
        }
        if codes.len() != layout.padded_columns() || groups.len() != layout.groups() {
            return Err(ExpertError::Buffer);
        }
        let zeros = quotient_up(largest(values), 127).leading_zeros();
        // At most one is above 0.
        let (up, down) = (zeros.saturating_sub(48), 48u32.saturating_sub(zeros));
        let shift = 48i32.wrapping_sub_unsigned(zeros);
        codes.fill(0);
        let length = layout.group();
        // Chunks would divide by their length, of which compilers for small code do not see that it is not 0.
        let (mut values_left, mut codes_left) = (values, &mut *codes);
        for group in groups.iter_mut() {
            let (values, others) = values_left.split_at_checked(length).unwrap_or((values_left, &[]));
            let own = length.min(codes_left.len());
            let (codes, rest) = core::mem::take(&mut codes_left).split_at_mut_checked(own).unwrap_or_default();
            (values_left, codes_left) = (others, rest);
            // The minimum matters for 65,536 only: 127 such steps are 127.002 of 65,535, still 127 after rounding.
            let scale = quotient_up(largest(values).wrapping_shl(up), 127)
                .wrapping_add(1u64.wrapping_shl(down).wrapping_sub(1));
            let scale = scale.wrapping_shr(down).min(u64::from(u16::MAX));
            group.scale = scale as u16;
            group.sum = 0;
            let Some(divisor) = NonZeroU32::new(scale as u32) else { continue };
            let half = scale.wrapping_shl(down) / 2;
            for (code, value) in codes.iter_mut().zip(values) {
                let value: i64 = (*value).into();
                // Rounded down twice is rounded down once; at most 127.5 * 65,536 is left to be divided.
                let magnitude = value.unsigned_abs().wrapping_shl(up).wrapping_add(half).wrapping_shr(down) as u32;
                let magnitude = (magnitude / divisor).min(127) as i16;
                *code = if value < 0 { magnitude.wrapping_neg() } else { magnitude };
                group.sum = group.sum.wrapping_add(i32::from(*code));
            }
        }
        let (codes, groups) = (&*codes, &*groups);
        let exponent = exponent.saturating_add(shift);
        Ok(Self { codes, groups, exponent, columns: layout.columns(), group: length })
    }

    /// Whether a matrix of this layout takes the vector.
    pub(super) fn fits(&self, layout: &Layout) -> bool {
        self.columns == layout.columns() && self.group == layout.group()
    }

    /// The power of two of the scales.
    pub const fn exponent(&self) -> i32 {
        self.exponent
    }

    /// What was stored, as integers; a value is this times `2^exponent`. Below 2^23 in magnitude.
    pub fn values(&self) -> impl Iterator<Item = i32> + use<'a> {
        let groups = self.codes.chunks(self.group.max(1)).zip(self.groups);
        groups
            .flat_map(|(codes, group)| codes.iter().map(|&code| i32::from(code) * i32::from(group.scale)))
            .take(self.columns)
    }
}

/// Largest magnitude, 0 of nothing.
fn largest<T: Copy + Into<i64>>(values: &[T]) -> u64 {
    values.iter().map(|&value| value.into().unsigned_abs()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn quantised(values: &[i64], group: u8, check: impl FnOnce(&Activations<'_>)) {
        let layout = Layout::new(4, group, 0, 1, values.len() as u32).unwrap();
        let (mut codes, mut groups) =
            (vec![7; layout.padded_columns()], vec![ActivationGroup::default(); layout.groups()]);
        check(&Activations::quantise(values, -16, &layout, &mut codes, &mut groups).unwrap());
    }

    #[test]
    fn zeros_and_extremes() {
        quantised(&[0; 40], 32, |vector| assert!(vector.values().all(|value| value == 0)));
        quantised(&[i64::MIN, i64::MAX, 0, 1], 32, |vector| {
            assert_eq!(vector.codes[..4], [-127, 127, 0, 0]);
            assert!(vector.codes[4..].iter().all(|&code| code == 0));
        });
        quantised(&[3, -127], 32, |vector| {
            // A step of 1 = 2^15 * 2^-15: exact.
            assert_eq!((&vector.codes[..2], vector.exponent), (&[3, -127][..], -16 - 15));
            assert_eq!(vector.groups[0], ActivationGroup { scale: 1 << 15, sum: -124 });
        });
    }

    #[test]
    fn refuses_wrong_lengths() {
        let layout = Layout::new(4, 32, 0, 1, 40).unwrap();
        let mut groups = [ActivationGroup::default(); 2];
        let refusal = |values: &[i32], codes: &mut [i16], groups: &mut [ActivationGroup]| {
            Activations::quantise(values, 0, &layout, codes, groups).unwrap_err()
        };
        assert_eq!(refusal(&[0; 39], &mut [0; 64], &mut groups), ExpertError::Mismatch);
        assert_eq!(refusal(&[0; 40], &mut [0; 40], &mut groups), ExpertError::Buffer);
        assert_eq!(refusal(&[0; 40], &mut [0; 64], &mut groups[..1]), ExpertError::Buffer);
    }

    proptest! {
        /// By the words of the documentation, in 128 bits.
        #[test]
        fn codes_are_rounded_to_nearest(
            values in prop::collection::vec((any::<i64>(), 0u32..64).prop_map(|(value, shift)| value >> shift), 1..100),
            shift in 0u32..64,
        ) {
            let values: Vec<i64> = values.iter().map(|value| value >> shift).collect();
            quantised(&values, 32, |vector| {
                let power = vector.exponent + 16;
                let (up, down) = ((-power).max(0) as u32, power.max(0) as u32);
                for (values, (codes, group)) in values.chunks(32).zip(vector.codes.chunks(32).zip(vector.groups)) {
                    let largest = u128::from(largest(values)) << up;
                    assert_eq!(u128::from(group.scale), largest.div_ceil(127 << down).min(65_535));
                    let step = u128::from(group.scale) << down;
                    for (value, code) in values.iter().zip(codes) {
                        let magnitude = u128::from(value.unsigned_abs()) << up;
                        let nearest = (2 * magnitude + step).checked_div(2 * step).unwrap_or(0).min(127);
                        assert_eq!(i128::from(*code), if *value < 0 { -(nearest as i128) } else { nearest as i128 });
                    }
                }
            });
        }

        #[test]
        fn error_is_within_half_a_step(
            values in prop::collection::vec((any::<i64>(), 0u32..64).prop_map(|(value, shift)| value >> shift), 1..300),
            shift in 0u32..64,
            group in prop::sample::select(vec![32u8, 64, 128]),
        ) {
            let values: Vec<i64> = values.iter().map(|value| value >> shift).collect();
            quantised(&values, group, |vector| {
                let unit = 2f64.powi(vector.exponent + 16);
                let largest_of_all = largest(&values).div_ceil(127) as f64;
                assert!(largest_of_all == 0.0 || unit <= largest_of_all / 32_768.0, "{unit} {largest_of_all}");
                let stored: Vec<f64> = vector.values().map(|value| f64::from(value) * unit).collect();
                for (values, stored) in values.chunks(group.into()).zip(stored.chunks(group.into())) {
                    let half_step = (largest(values) as f64 / 127.0 + unit) / 2.0;
                    for (value, stored) in values.iter().zip(stored) {
                        let error = (*value as f64 - stored).abs();
                        assert!(error <= half_step * 1.000_001, "{value}: {error} > {half_step}");
                    }
                }
                for (codes, group) in vector.codes.chunks(group.into()).zip(vector.groups) {
                    assert_eq!(group.sum, codes.iter().map(|&code| i32::from(code)).sum::<i32>());
                    assert!(codes.iter().all(|code| code.abs() <= 127));
                }
            });
        }
    }
}
