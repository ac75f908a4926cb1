//! A row times a vector. Products are summed exactly: 128 products of at most 15 * 127 in `i32`, groups in `i64`.
//!
//! One primitive exists twice with the same results, eight codes times eight activations: on vectors where the
//! processor has them in its baseline (SSE2 on x86-64, NEON on AArch64), word by word elsewhere. Leaving it to the
//! compiler's vectoriser was tried first: the same loop ran between 0.8 and 8 GB/s, depending on optimisation level and
//! target processor.

use super::format::{BLOCK, Layout, ONE_BIT_ZERO, Row};
use super::{ActivationGroup, Activations};

/// Columns whose sum of products is kept apart: the shortest group.
const QUARTER: usize = 32;

/// A row times a vector that fits it, in units of 2 to the sum of both exponents. Exact, and below 2^62 in magnitude:
/// `|code * step - zero| <= 255`, scales below 2^16, activation codes up to 127, at most 2^15 columns.
pub(super) type Kernel = fn(&Row<'_>, &Activations<'_>) -> i64;

/// The kernel for a matrix.
pub(super) fn kernel(layout: &Layout) -> Kernel {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return choose::<vector::Words>(layout);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return choose::<scalar::Words>(layout);
}

fn choose<W: Words>(layout: &Layout) -> Kernel {
    match layout.bits() {
        1 => choose_group::<W, 1>(layout),
        2 => choose_group::<W, 2>(layout),
        3 => choose_group::<W, 3>(layout),
        _ => choose_group::<W, 4>(layout),
    }
}

fn choose_group<W: Words, const BITS: usize>(layout: &Layout) -> Kernel {
    match layout.group() {
        32 => row_times_vector::<W, BITS, 1>,
        64 => row_times_vector::<W, BITS, 2>,
        _ => row_times_vector::<W, BITS, 4>,
    }
}

/// Eight words of packed codes, from which codes are taken at the low end.
trait Words: Copy {
    /// A sum of products, possibly in parts.
    type Sum: Copy + core::ops::Add<Output = Self::Sum>;

    fn load(bytes: &[u8; 16]) -> Self;
    fn zero() -> Self::Sum;
    /// The lowest `bits` of every word times its activation.
    fn times(self, bits: usize, activations: &[i16; 8]) -> Self::Sum;
    #[must_use]
    fn shifted(self, bits: usize) -> Self;
    fn total(sum: Self::Sum) -> i32;
}

/// Word by word.
#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod scalar {
    #[derive(Clone, Copy)]
    pub(super) struct Words([u16; 8]);

    impl super::Words for Words {
        type Sum = i32;

        #[inline(always)]
        fn load(bytes: &[u8; 16]) -> Self {
            let mut words = [0; 8];
            words.iter_mut().zip(bytes.as_chunks().0).for_each(|(word, bytes)| *word = u16::from_le_bytes(*bytes));
            Self(words)
        }

        #[inline(always)]
        fn zero() -> i32 {
            0
        }

        #[inline(always)]
        fn times(self, bits: usize, activations: &[i16; 8]) -> i32 {
            let mask = (1 << bits) - 1;
            self.0.iter().zip(activations).map(|(word, x)| i32::from(word & mask) * i32::from(*x)).sum()
        }

        #[inline(always)]
        fn shifted(self, bits: usize) -> Self {
            Self(self.0.map(|word| word >> bits))
        }

        #[inline(always)]
        fn total(sum: i32) -> i32 {
            sum
        }
    }
}

/// Eight lanes at a time; a sum is four lanes of pairs.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vector {
    use wide::{i16x8, i32x4, u16x8};

    /// Unsigned, so that the last shift needs no mask.
    #[derive(Clone, Copy)]
    pub(super) struct Words(u16x8);

    impl super::Words for Words {
        type Sum = i32x4;

        #[inline(always)]
        fn load(bytes: &[u8; 16]) -> Self {
            let mut words = [0; 8];
            words.iter_mut().zip(bytes.as_chunks().0).for_each(|(word, bytes)| *word = u16::from_le_bytes(*bytes));
            Self(u16x8::new(words))
        }

        #[inline(always)]
        fn zero() -> i32x4 {
            i32x4::ZERO
        }

        #[inline(always)]
        fn times(self, bits: usize, activations: &[i16; 8]) -> i32x4 {
            let codes = self.0 & u16x8::splat((1 << bits) - 1);
            i16x8::new(codes.to_array().map(u16::cast_signed)).dot(i16x8::new(*activations))
        }

        #[inline(always)]
        fn shifted(self, bits: usize) -> Self {
            Self(self.0 >> bits as u32)
        }

        #[inline(always)]
        fn total(sum: i32x4) -> i32 {
            sum.reduce_add()
        }
    }
}

/// `QUARTERS` is the group length in quarters of a block.
fn row_times_vector<W: Words, const BITS: usize, const QUARTERS: usize>(
    row: &Row<'_>,
    vector: &Activations<'_>,
) -> i64 {
    let (blocks, tail) = vector.codes.as_chunks::<BLOCK>();
    let mut codes = row.codes.chunks_exact(BLOCK / 8 * BITS);
    let mut groups =
        Groups::<BITS> { scales: row.scales.iter(), zeros: row.zeros.iter(), vector: vector.groups.iter() };
    let mut sum = 0;
    for (block, activations) in codes.by_ref().zip(blocks) {
        let sums = block_sums::<W, BITS>(block, activations);
        for quarters in sums.as_chunks::<QUARTERS>().0 {
            let product = quarters.iter().fold(W::zero(), |all, quarter| all + *quarter);
            sum += groups.scaled(W::total(product));
        }
    }
    if !tail.is_empty() {
        let sums = tail_sums::<BITS>(codes.remainder(), tail);
        for quarters in sums.get(..tail.len() / QUARTER).unwrap_or_default().chunks(QUARTERS) {
            sum += groups.scaled(quarters.iter().sum());
        }
    }
    sum
}

/// Scales and zero points of a row and of the vector, in step.
struct Groups<'a, const BITS: usize> {
    scales: core::slice::Iter<'a, [u8; 2]>,
    zeros: core::slice::Iter<'a, u8>,
    vector: core::slice::Iter<'a, ActivationGroup>,
}

impl<const BITS: usize> Groups<'_, BITS> {
    /// The next group's sum of codes times activations, with zero point and both scales.
    #[inline(always)]
    fn scaled(&mut self, product: i32) -> i64 {
        let (Some(scale), Some(vector)) = (self.scales.next(), self.vector.next()) else { return 0 };
        let zero = if BITS == 1 { ONE_BIT_ZERO } else { self.zeros.next().copied().unwrap_or(0) };
        let sum = product * (256 >> BITS) - i32::from(zero) * vector.sum;
        let scale = u32::from(u16::from_le_bytes(*scale)) * u32::from(vector.scale);
        i64::from(sum) * i64::from(scale)
    }
}

/// Sums of products of the four quarters of a full block.
#[inline(always)]
fn block_sums<W: Words, const BITS: usize>(codes: &[u8], activations: &[i16; BLOCK]) -> [W::Sum; 4] {
    let mut sums = [W::zero(); 4];
    let chunks = codes.as_chunks().0;
    if BITS == 3 {
        let (low, high) = chunks.split_at_checked(2).unwrap_or_default();
        // The upper bit weighs 4: its plane is summed first, then four times that.
        add_plane::<W, 1>(high, activations, &mut sums);
        sums = sums.map(|sum| {
            let twice = sum + sum;
            twice + twice
        });
        add_plane::<W, 2>(low, activations, &mut sums);
    } else {
        add_plane::<W, BITS>(chunks, activations, &mut sums);
    }
    sums
}

#[inline(always)]
fn add_plane<W: Words, const BITS: usize>(chunks: &[[u8; 16]], activations: &[i16; BLOCK], sums: &mut [W::Sum; 4]) {
    let (quarters, _) = activations.as_chunks::<QUARTER>();
    let in_chunk = 4 / BITS; // quarters
    for ((chunk, quarters), sums) in chunks.iter().zip(quarters.chunks(in_chunk)).zip(sums.chunks_mut(in_chunk)) {
        let mut words = W::load(chunk);
        for (quarter, sum) in quarters.iter().zip(sums) {
            for activations in quarter.as_chunks().0 {
                *sum = *sum + words.times(BITS, activations);
                words = words.shifted(BITS);
            }
        }
    }
}

/// Sums of products of the quarters after the last full block.
fn tail_sums<const BITS: usize>(codes: &[u8], activations: &[i16]) -> [i32; 3] {
    let mut sums = [0; 3];
    let first = if activations.len() >= 64 { 64 } else { 0 };
    let (codes_64, codes_32) = codes.split_at_checked(first / 8 * BITS).unwrap_or_default();
    let (activations_64, activations_32) = activations.split_at_checked(first).unwrap_or_default();
    let (sums_64, sums_32) = sums.split_at_mut(first / QUARTER);
    for (codes, activations, sums) in [(codes_64, activations_64, sums_64), (codes_32, activations_32, sums_32)] {
        if BITS == 3 {
            let (low, high) = codes.split_at_checked(activations.len() / 4).unwrap_or_default();
            add_short_plane(low, 2, 1, activations, sums);
            add_short_plane(high, 1, 4, activations, sums);
        } else {
            add_short_plane(codes, BITS, 1, activations, sums);
        }
    }
    sums
}

/// The same as [`add_plane`] for a block of 64 or 32, whose chunks may have fewer words; `weight` multiplies the codes.
fn add_short_plane(codes: &[u8], bits: usize, weight: i32, activations: &[i16], sums: &mut [i32]) {
    let words_per_chunk = (activations.len() * bits / 16).clamp(1, 8);
    let quarters_per_chunk = (words_per_chunk / (2 * bits).max(1)).max(1);
    let (words, _) = codes.as_chunks::<2>();
    let quarters = activations.as_chunks::<QUARTER>().0.chunks(quarters_per_chunk);
    for ((chunk, quarters), sums) in
        words.chunks(words_per_chunk).zip(quarters).zip(sums.chunks_mut(quarters_per_chunk))
    {
        let mut words = [0u16; 8];
        words.iter_mut().zip(chunk).for_each(|(word, bytes)| *word = u16::from_le_bytes(*bytes));
        for (quarter, sum) in quarters.iter().zip(sums) {
            for activations in quarter.chunks(words_per_chunk) {
                for (word, x) in words.iter_mut().zip(activations) {
                    *sum += weight * i32::from(*word & ((1 << bits) - 1)) * i32::from(*x);
                    *word >>= bits;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expert::Matrix;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    proptest! {
        /// Both sets of inner loops against the sum that the format's description gives, in 128 bits.
        #[test]
        fn every_kernel_is_exact(
            bits in 1u8..=4,
            group in prop::sample::select(vec![32u8, 64, 128]),
            columns in 1u32..700,
            seed: u64,
            extreme: bool,
        ) {
            let layout = Layout::new(bits, group, -20, 2, columns).unwrap();
            let mut random = seed;
            let mut next = move || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 40) as u16
            };
            let mut bytes = vec![0; layout.byte_len() as usize];
            bytes.iter_mut().for_each(|byte| *byte = if extreme { 0xFF } else { next() as u8 });
            layout.write(&mut bytes).unwrap();
            let values: Vec<i64> = (0..columns).map(|_| if extreme { -1 } else { i64::from(next()) - 32_768 }).collect();
            let (mut codes, mut groups) = (vec![0; layout.padded_columns()], vec![ActivationGroup::default(); layout.groups()]);
            let vector = Activations::quantise(&values, 0, &layout, &mut codes, &mut groups).unwrap();
            for row in Matrix::new(&bytes).unwrap().rows() {
                let exact: i128 = row.weights().zip(vector.values()).map(|(w, x)| i128::from(w) * i128::from(x)).sum();
                prop_assert_eq!(i128::from(kernel(&layout)(&row, &vector)), exact);
                prop_assert_eq!(i128::from(choose::<scalar::Words>(&layout)(&row, &vector)), exact);
            }
        }
    }

    #[test]
    fn the_longest_row_of_the_largest_numbers_does_not_overflow() {
        let layout = Layout::new(4, 128, 0, 1, 1 << 15).unwrap();
        let mut bytes = vec![0; layout.byte_len() as usize];
        layout.write(&mut bytes).unwrap();
        let codes = vec![0; layout.columns()];
        let (scales, zeros) = (vec![u16::MAX; layout.groups()], vec![u8::MAX; layout.groups()]);
        let header = bytes.len() - layout.row_bytes();
        layout.pack_row(&codes, &scales, &zeros, &mut bytes[header..]).unwrap();
        let values = vec![i64::MAX; layout.columns()];
        let (mut codes, mut groups) =
            (vec![0; layout.padded_columns()], vec![ActivationGroup::default(); layout.groups()]);
        let vector = Activations::quantise(&values, 0, &layout, &mut codes, &mut groups).unwrap();
        let row = Matrix::new(&bytes).unwrap().rows().next().unwrap();
        let scale = i64::from(vector.groups[0].scale);
        let exact = -255 * 65_535 * scale * 127 * (1 << 15);
        assert!(exact < -(1 << 60));
        assert_eq!(kernel(&layout)(&row, &vector), exact);
        assert_eq!(choose::<scalar::Words>(&layout)(&row, &vector), exact);
    }
}
