//! A row times a vector word by word: for processors without vectors, and for what is behind the full blocks elsewhere.
//! One function for all formats, so that controllers hold it once.

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
    let groups = first >> group.trailing_zeros();
    let mut zeros = behind(row.zeros(), groups).iter().copied().chain(core::iter::repeat(ONE_BIT_ZERO));
    let mut scales = behind(row.scales(), groups).iter().zip(behind(vector.groups, groups));
    let (mut codes, mut activations) = (behind(row.codes(), first / 8 * bits), behind(vector.codes, first));
    // Blocks of 64 and 32 columns may be of one group.
    let (mut total, mut of_group, mut column) = (0, 0, first);
    while !activations.is_empty() {
        let size = match activations.len() {
            BLOCK.. => BLOCK,
            64.. => 64,
            _ => QUARTER,
        };
        let (own, others) = codes.split_at_checked(size / 8 * bits).unwrap_or_default();
        let (x, rest) = activations.split_at_checked(size).unwrap_or_default();
        (codes, activations) = (others, rest);
        let (low, high) = own.split_at_checked(size / 8 * lower).unwrap_or_default();
        let mut sums = [0; 4];
        if bits == 3 {
            // The upper bit weighs 4.
            add_plane(high, 1, x, &mut sums);
            sums = sums.map(|sum| 4 * sum);
        }
        add_plane(low, lower, x, &mut sums);
        for (sum, end) in sums.into_iter().zip((QUARTER..=size).step_by(QUARTER)) {
            (of_group, column) = (of_group + sum, column + QUARTER);
            if column & (group - 1) == 0 || (rest.is_empty() && end == size) {
                let Some((scale, vector)) = scales.next() else { return total };
                total += scaled(of_group, bits, *scale, zeros.next().unwrap_or(0), vector);
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
    let sum = product * (256 >> bits) - i32::from(zero) * vector.sum;
    let scale = u32::from(u16::from_le_bytes(scale)) * u32::from(vector.scale);
    i64::from(sum) * i64::from(scale)
}

/// Adds a plane of a block to the sums of its quarters.
fn add_plane(codes: &[u8], bits: usize, activations: &[i16], sums: &mut [i32; 4]) {
    if activations.len() < BLOCK {
        return add_short_plane(codes, bits, activations, sums);
    }
    let mask = (1 << bits) - 1;
    // Quarters of a chunk of eight words: 4, 2 or 1.
    let in_chunk = 4 >> (bits / 2);
    let mut quarters = activations.as_chunks::<QUARTER>().0.iter().zip(sums);
    for chunk in codes.as_chunks::<16>().0 {
        let mut words = [0u32; 8];
        words.iter_mut().zip(chunk.as_chunks().0).for_each(|(word, bytes)| *word = u16::from_le_bytes(*bytes).into());
        for (x, sum) in quarters.by_ref().take(in_chunk) {
            for w in 0..8 {
                let word = words[w];
                let product = |step: usize| (word >> (step * bits) & mask).cast_signed() * i32::from(x[8 * step + w]);
                *sum += product(0) + product(1) + product(2) + product(3);
                words[w] = word >> (4 * bits);
            }
        }
    }
}

/// The same for a block of 64 or 32 columns, whose chunks may have fewer words.
fn add_short_plane(codes: &[u8], bits: usize, activations: &[i16], sums: &mut [i32; 4]) {
    // All sizes are powers of two. Words of a chunk, at most 8; columns of it.
    let words = (activations.len() / 16 * bits).min(8);
    let (word_bits, steps) = (words.trailing_zeros(), 16 >> bits.trailing_zeros());
    for (index, bytes) in codes.as_chunks().0.iter().enumerate() {
        let mut word = u16::from_le_bytes(*bytes);
        let mut column = (index >> word_bits) * words * steps + (index & words.wrapping_sub(1));
        for _ in 0..steps {
            let x = activations.get(column).copied().unwrap_or(0);
            if let Some(sum) = sums.get_mut(column / QUARTER) {
                *sum += i32::from(word & ((1 << bits) - 1)) * i32::from(x);
            }
            word >>= bits;
            column += words;
        }
    }
}
