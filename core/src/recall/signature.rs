//! Signatures: what the choices of all layers of a token say about where in the text it is, in a few words.
//!
//! Every expert of every layer has a random sign word, a hash of layer and id, so that there is no matrix to store.
//! The choices of a token add up their sign words, bit by bit; a bit of the signature says whether its sum is above
//! its usual value. Two tokens whose choices are alike differ in few bits (Charikar, STOC 2002): the share of bits
//! that differ is the angle between their choices over pi.
//!
//! Sums are kept bit-sliced: word p of the counters holds bit p of 32 sums, and a full adder takes two sign words at
//! a time (Knuth, TAOCP 4A, 7.1.3; Harley and Seal's population count).

/// Largest number of choices of one token, all layers together.
pub const MAX_CHOICES: usize = (1 << PLANES) - 1;

/// Bits of a sum.
const PLANES: usize = 12;
/// Fraction bits of the usual sums, `U12F20`.
const MEAN_BITS: u32 = 20;
/// Smallest gain of the usual sums, as a shift: means of about the last 512 tokens, of all of them at the start.
const MEAN_SHIFT: u32 = 9;

/// The signs of an expert in a layer, 32 of them: a hash that mixes well (Wellons' `lowbias32`), no table.
#[inline]
const fn signs(layer: u16, expert: u16, word: u32) -> u32 {
    let mut x = (((layer as u32) << 16) | expert as u32) ^ word.wrapping_mul(0x9e37_79b9);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Sum and carry of three bits, 32 times.
#[inline]
const fn full_add(a: u32, b: u32, c: u32) -> (u32, u32) {
    let half = a ^ b;
    (half ^ c, (a & b) | (half & c))
}

/// Builds the signature of the token that is on its way, `32 * W` bits.
///
/// Memory: `176 * W` bytes. Cost: per four choices and word 4 hashes of 7 instructions and about 60 for the adders;
/// at the end of a token about 50 per bit.
#[derive(Debug, Clone)]
pub(super) struct Signature<const W: usize> {
    /// Sums of this token, bit-sliced: `sums[w][p]` holds bit p of 32 sums.
    sums: [[u32; PLANES]; W],
    /// Usual sums, `U12F20` bits.
    means: [[u32; 32]; W],
    /// Tokens in them, up to where it makes no difference.
    tokens: u32,
}

impl<const W: usize> Signature<W> {
    pub(super) const fn new() -> Self {
        Self { sums: [[0; PLANES]; W], means: [[0; 32]; W], tokens: 0 }
    }

    /// Adds the choices of a layer; at most [`MAX_CHOICES`] in all layers of a token, which the caller sees to: more
    /// wrap around.
    pub(super) fn add(&mut self, layer: u16, experts: &[u16]) {
        for (planes, word) in self.sums.iter_mut().zip(0u32..) {
            let of = |expert: &u16| signs(layer, *expert, word);
            let (fours, rest) = experts.as_chunks::<4>();
            for [a, b, c, d] in fours {
                let (ones, first) = full_add(planes[0], of(a), of(b));
                let (ones, second) = full_add(ones, of(c), of(d));
                let (twos, third) = full_add(planes[1], first, second);
                (planes[0], planes[1]) = (ones, twos);
                carry(&mut planes[2..], third);
            }
            rest.iter().for_each(|expert| carry(planes, of(expert)));
        }
    }

    /// The signature of the token, which ends: sums above their means are ones. Means move by `2^-s` of the
    /// difference, rounded down, `s = 1, 2, 2, 3, 3, 3, 3, …` up to 9; they never leave the range of the sums.
    pub(super) fn end_token(&mut self) -> [u32; W] {
        let shift = (u32::BITS - self.tokens.leading_zeros()).min(MEAN_SHIFT);
        self.tokens = self.tokens.saturating_add(1);
        let mut bits = [0; W];
        for ((bits, planes), means) in bits.iter_mut().zip(&mut self.sums).zip(&mut self.means) {
            for (mean, bit) in means.iter_mut().zip(0u32..) {
                let sum = planes.iter().rev().fold(0, |sum, plane| (sum << 1) | ((plane >> bit) & 1));
                let sum = sum << MEAN_BITS;
                *bits |= u32::from(sum > *mean) << bit;
                let step = (i64::from(sum) - i64::from(*mean)) >> shift;
                *mean = mean.wrapping_add(step as u32);
            }
            *planes = [0; PLANES];
        }
        bits
    }
}

/// Adds a word of bits to sums; stops where nothing is carried.
#[inline]
fn carry(planes: &mut [u32], mut bits: u32) {
    for plane in planes {
        if bits == 0 {
            return;
        }
        (*plane, bits) = (*plane ^ bits, *plane & bits);
    }
}

/// Bits that differ.
#[inline]
pub(super) fn distance<const W: usize>(a: &[u32; W], b: &[u32; W]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn sign_words_are_balanced_and_differ() {
        let words: Vec<u32> = (0..4096u32).map(|n| signs((n >> 9) as u16, (n >> 2) as u16 & 127, n & 3)).collect();
        let ones: u32 = words.iter().map(|word| word.count_ones()).sum();
        // 131,072 fair coins: a standard deviation is 181.
        assert!(ones.abs_diff(65_536) < 724, "{ones}");
        for bit in 0..32 {
            let ones = words.iter().filter(|&&word| (word >> bit) & 1 == 1).count();
            assert!(ones.abs_diff(2048) < 128, "{bit}: {ones}");
        }
        let together: u32 = words.windows(2).map(|pair| (pair[0] ^ pair[1]).count_ones()).sum();
        assert!(together.abs_diff(65_520) < 900, "{together}");
    }

    #[test]
    fn alike_tokens_have_near_signatures() {
        let mut signature = Signature::<4>::new();
        let token = |signature: &mut Signature<4>, seed: u16| {
            for layer in 0..12 {
                let first = (seed.wrapping_mul(31).wrapping_add(layer * 7)) % 25 * 4;
                signature.add(layer, &[first, first + 1, first + 2, first + 3]);
            }
            signature.end_token()
        };
        let warm: Vec<_> = (0..400).map(|seed| token(&mut signature, seed * 17 % 97)).collect();
        let (same, other) = (token(&mut signature, 17), token(&mut signature, 50));
        let earlier = warm[398 - (398 % 97) + 1];
        assert!(distance(&same, &earlier) < 12, "{}", distance(&same, &earlier));
        assert!(distance(&same, &other) > 40, "{}", distance(&same, &other));
        let ones: u32 = warm[200..].iter().flatten().map(|word| word.count_ones()).sum();
        assert!(ones.abs_diff(200 * 64) < 1600, "centred: {ones}");
    }

    proptest! {
        #[test]
        fn is_what_plain_sums_say(
            tokens in prop::collection::vec(
                prop::collection::vec((0u16..6, prop::collection::vec(0u16..300, 0..11)), 0..6),
                1..40,
            ),
        ) {
            let (mut signature, mut means) = (Signature::<2>::new(), [0.0f64; 64]);
            for (n, layers) in tokens.iter().enumerate() {
                let mut sums = [0.0f64; 64];
                for (layer, experts) in layers {
                    signature.add(*layer, experts);
                    for expert in experts {
                        for (bit, sum) in sums.iter_mut().enumerate() {
                            *sum += f64::from((signs(*layer, *expert, bit as u32 / 32) >> (bit % 32)) & 1);
                        }
                    }
                }
                let found = signature.end_token();
                let shift = (u32::BITS - (n as u32).leading_zeros()).min(MEAN_SHIFT);
                for bit in 0..64 {
                    let one = (found[bit / 32] >> (bit % 32)) & 1 == 1;
                    if (sums[bit] - means[bit]).abs() > 1e-3 {
                        prop_assert_eq!(one, sums[bit] > means[bit], "token {} bit {}", n, bit);
                    }
                    means[bit] += (sums[bit] - means[bit]) / f64::from(1u32 << shift);
                }
            }
        }
    }
}
