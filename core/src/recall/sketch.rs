//! Signatures of a sketch that the host sends of a token: the routers' inputs, or their logits, in a scale of its own.
//!
//! Every number has a random sign word by its place, a hash, and a bit of the signature says whether the signed sum of
//! all is above its usual value: signs of random projections (Charikar, STOC 2002). Each word sees every second, fourth
//! or eighth number, at least 64 of them where there are as many.

use super::signature::Signature;

/// Most numbers of a sketch.
pub const MAX_SKETCH: usize = 1 << 15;
/// Numbers that a word sees at least, where there are as many.
const MIN_SEEN: usize = 64;

/// The signs of a number, 32 of them: a hash that mixes well (Wellons' `lowbias32`).
#[inline]
const fn signs(place: u32, word: u32) -> u32 {
    let mut x = place ^ word.wrapping_mul(0x9e37_79b9);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Every how many numbers of a sketch of `length` a word of `words` sees one: a power of two.
const fn every(words: usize, length: usize) -> usize {
    let mut every = 1;
    while 2 * every <= words && 2 * every * MIN_SEEN <= length {
        every *= 2;
    }
    every
}

/// The signature of a token that ends with a sketch of at most [`MAX_SKETCH`] numbers: signed sums above their means
/// are ones. Only ratios of the numbers count. Means move as those of choices.
///
/// Cost: per number that a word sees, a hash of 8 instructions and 3 a bit; then 8 a bit.
pub(super) fn end_token<const W: usize>(signature: &mut Signature<W>, sketch: &[i16]) -> [u32; W] {
    let (means, shift) = signature.next();
    let mask = every(W, sketch.len()) as u32 - 1;
    // Fewer than 2^n numbers are seen: sums of 2^(n + 15) at most, and of 2^29 with fraction bits. Of 2^15 numbers a
    // word sees 2^14, as it has at least every second.
    let seen = sketch.len() as u32 / (mask + 1);
    let fraction = seen.leading_zeros().saturating_sub(18);
    let mut bits = [0; W];
    for ((bits, means), word) in bits.iter_mut().zip(means).zip(0u32..) {
        let mut sums = [0i32; 32];
        for (&number, place) in sketch.iter().zip(0u32..).filter(|(_, place)| (place ^ word) & mask == 0) {
            let mut signs = signs(place, word);
            for sum in &mut sums {
                // The number, or its negative: a sign of all ones turns it over.
                let sign = (signs & 1).wrapping_neg().cast_signed();
                *sum = sum.wrapping_add((i32::from(number) ^ sign).wrapping_sub(sign));
                signs >>= 1;
            }
        }
        for ((sum, mean), bit) in sums.iter().zip(means).zip(0u32..) {
            let target = (sum << fraction).wrapping_add(1 << 30);
            let step = target.wrapping_sub(mean.cast_signed());
            *mean = mean.wrapping_add_signed(step >> shift);
            *bits |= u32::from(step > 0) << bit;
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn sketches_of_all_lengths_and_sizes_stay_in_range() {
        for length in [1, 64, 127, 128, 129, 1 << 14, MAX_SKETCH - 1, MAX_SKETCH] {
            let (mut signature, mut ones) = (Signature::<2>::new(), 0);
            for turn in 0..8 {
                // With the signs of a bit, and against them.
                let number =
                    |place: u32| if (signs(place, 0) & 1 == 1) == (turn % 2 == 0) { i16::MIN } else { i16::MAX };
                let sketch: Vec<i16> = (0..length as u32).map(number).collect();
                let bits = end_token(&mut signature, &sketch);
                assert_eq!(bits[0] & 1, u32::from(turn % 2 == 0), "{length} {turn}");
                ones += bits.iter().map(|word| word.count_ones()).sum::<u32>();
            }
            assert!(ones > 8, "{length}");
        }
    }

    proptest! {
        #[test]
        fn is_what_plain_sums_say(length in 1usize..700, seed: u64, loud: bool) {
            let (mut signature, mut means, mut state) = (Signature::<4>::new(), [0.0f64; 128], seed | 1);
            let every = every(4, length);
            prop_assert!(every == 1 || length / every >= MIN_SEEN);
            for n in 0..30u32 {
                let sketch: Vec<i16> = (0..length)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let number = (state >> 48) as i16;
                        if loud { if number < 0 { i16::MIN } else { i16::MAX } } else { number >> 6 }
                    })
                    .collect();
                let found = end_token(&mut signature, &sketch);
                let shift = (u32::BITS - n.leading_zeros()).min(9);
                for (bit, mean) in means.iter_mut().enumerate() {
                    let seen = sketch.iter().enumerate().filter(|(place, _)| place % every == bit / 32 % every);
                    let sum: f64 = seen
                        .map(|(place, &number)| {
                            let minus = (signs(place as u32, bit as u32 / 32) >> (bit % 32)) & 1 == 1;
                            if minus { -f64::from(number) } else { f64::from(number) }
                        })
                        .sum();
                    let one = (found[bit / 32] >> (bit % 32)) & 1 == 1;
                    if n > 0 && (sum - *mean).abs() > 2.0 {
                        prop_assert_eq!(one, sum > *mean, "token {} bit {}", n, bit);
                    }
                    *mean += (sum - *mean) / f64::from(1u32 << shift);
                }
            }
        }
    }
}
