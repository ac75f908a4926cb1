//! A row times a vector word by word: for processors without vectors, and for what is behind the full blocks elsewhere.
//! One function for all formats, so that controllers hold it once.
//!
//! Sums stay far below their types' ends ([the module](super)); they are written as wrapping ones, which no check for
//! overflow can stop.

use super::format::{BLOCK, ONE_BIT_ZERO, Row};
use super::{ActivationGroup, Activations};

/// Columns whose sum of products is kept apart: the shortest group.
pub(super) const QUARTER: usize = 32;

/// The columns from `first` on, a multiple of a full block's, times the vector.
///
/// Cost: on an Arm of 32 bits 5 instructions a column of a full block, and 30 a group.
#[inline(never)]
pub(super) fn row_times_vector(row: &Row<'_>, vector: &Activations<'_>, first: usize) -> i64 {
    let (bits, group) = (usize::from(row.layout().bits()), row.layout().group());
    let lower = if bits == 3 { 2 } else { bits };
    // Groups are powers of two: a shift instead of a division, and a mask.
    let groups = first.wrapping_shr(group.trailing_zeros());
    let mut zeros = behind(row.zeros(), groups).iter().copied().chain(core::iter::repeat(ONE_BIT_ZERO));
    let mut scales = behind(row.scales(), groups).iter().zip(behind(vector.groups, groups));
    let (mut codes, mut activations) =
        (behind(row.codes(), (first / 8).wrapping_mul(bits)), behind(vector.codes, first));
    // Blocks of 64 and 32 columns may be of one group.
    let (mut total, mut of_group, mut column) = (0, 0, first);
    while !activations.is_empty() {
        let size = match activations.len() {
            BLOCK.. => BLOCK,
            64.. => 64,
            _ => QUARTER,
        };
        let (own, others) = codes.split_at_checked((size / 8).wrapping_mul(bits)).unwrap_or_default();
        let (x, rest) = activations.split_at_checked(size).unwrap_or_default();
        (codes, activations) = (others, rest);
        let (low, high) = own.split_at_checked((size / 8).wrapping_mul(lower)).unwrap_or_default();
        let mut sums = [0i32; 4];
        if bits == 3 {
            // The upper bit weighs 4.
            add_plane(high, 1, x, &mut sums);
            sums = sums.map(|sum| sum.wrapping_mul(4));
        }
        add_plane(low, lower, x, &mut sums);
        let mut left = size;
        for sum in sums.into_iter().take(size / QUARTER) {
            left = left.wrapping_sub(QUARTER);
            (of_group, column) = (sum.wrapping_add(of_group), column.wrapping_add(QUARTER));
            if column & group.wrapping_sub(1) == 0 || (rest.is_empty() && left == 0) {
                let Some((scale, vector)) = scales.next() else { return total };
                total = scaled(of_group, bits, *scale, zeros.next().unwrap_or(0), vector).wrapping_add(total);
                of_group = 0;
            }
        }
    }
    total
}

/// What is behind the first `count` of them.
fn behind<T>(all: &[T], count: usize) -> &[T] {
    all.get(count..).unwrap_or_default()
}

/// A group's sum of codes times activations, with zero point and both scales.
#[inline(always)]
pub(super) fn scaled(product: i32, bits: usize, scale: [u8; 2], zero: u8, vector: &ActivationGroup) -> i64 {
    let step = 256i32.wrapping_shr(bits as u32);
    let sum = product.wrapping_mul(step).wrapping_sub(i32::from(zero).wrapping_mul(vector.sum));
    let scale = u32::from(u16::from_le_bytes(scale)).wrapping_mul(u32::from(vector.scale));
    i64::from(sum).wrapping_mul(i64::from(scale))
}

/// Adds a plane of a block to the sums of its quarters.
fn add_plane(codes: &[u8], bits: usize, activations: &[i16], sums: &mut [i32; 4]) {
    if activations.len() < BLOCK {
        return add_short_plane(codes, bits, activations, sums);
    }
    let bits = bits as u32;
    let mask = 1u32.wrapping_shl(bits).wrapping_sub(1);
    // Quarters of a chunk of eight words: 4, 2 or 1.
    let in_chunk = 4usize.wrapping_shr(bits / 2);
    let mut quarters = activations.as_chunks::<QUARTER>().0.iter().zip(sums);
    for chunk in codes.as_chunks::<16>().0 {
        let mut words = [0u32; 8];
        words.iter_mut().zip(chunk.as_chunks().0).for_each(|(word, bytes)| *word = u16::from_le_bytes(*bytes).into());
        for (x, sum) in quarters.by_ref().take(in_chunk) {
            for w in 0..8 {
                let word = words[w];
                let product = |step: usize| {
                    let code = word.wrapping_shr(bits.wrapping_mul(step as u32)) & mask;
                    code.cast_signed().wrapping_mul(x[8 * step + w].into())
                };
                let steps = [product(0), product(1), product(2), product(3)];
                *sum = steps.into_iter().fold(*sum, i32::wrapping_add);
                words[w] = word.wrapping_shr(bits.wrapping_mul(4));
            }
        }
    }
}

/// The same for a block of 64 or 32 columns, whose chunks may have fewer words.
fn add_short_plane(codes: &[u8], bits: usize, activations: &[i16], sums: &mut [i32; 4]) {
    // All sizes are powers of two. Words of a chunk, at most 8; columns of it.
    let words = (activations.len() / 16).wrapping_mul(bits).min(8);
    let (word_bits, steps) = (words.trailing_zeros(), 16u32.wrapping_shr(bits.trailing_zeros()));
    let (bits, in_chunk) = (bits as u32, words.wrapping_mul(steps as usize));
    let mask = 1u16.wrapping_shl(bits).wrapping_sub(1);
    for (index, bytes) in codes.as_chunks().0.iter().enumerate() {
        let mut word = u16::from_le_bytes(*bytes);
        let chunk = index.wrapping_shr(word_bits).wrapping_mul(in_chunk);
        let mut column = chunk.wrapping_add(index & words.wrapping_sub(1));
        for _ in 0..steps {
            let x = activations.get(column).copied().unwrap_or(0);
            if let Some(sum) = sums.get_mut(column / QUARTER) {
                *sum = sum.wrapping_add(i32::from(word & mask).wrapping_mul(x.into()));
            }
            word = word.wrapping_shr(bits);
            column = column.wrapping_add(words);
        }
    }
}
