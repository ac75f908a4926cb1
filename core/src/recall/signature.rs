//! Signatures: what the choices of all layers of a token say about where in the text it is, in a few words.
//!
//! Every expert of every layer has a random sign word, a hash of layer and id, so that there is no matrix to store.
//! The choices of a token add up their sign words, bit by bit; a bit of the signature says whether its sum is above
//! its usual value. Two tokens whose choices are alike differ in few bits (Charikar, STOC 2002): the share of bits
//! that differ is the angle between their choices over pi.
//!
//! The projections are sparse (Li, Hastie and Church, KDD 2006): where there are layers enough, each word of the
//! signature sees every second, fourth or eighth of them, at least four. That costs as much less and says as much:
//! 31.4 instead of 31.5 % of the gap closed on Qwen3-30B-A3B, code.
//!
//! Sums are kept bit-sliced: word p of the counters holds bit p of 32 sums, and a full adder takes two sign words at
//! a time (Knuth, TAOCP 4A, 7.1.3; Harley and Seal's population count).

use super::memory::{MAX_CHOICES, Memory, Shape};

/// Bits of a sum of all choices.
const PLANES: usize = MAX_CHOICES.count_ones() as usize;
/// Smallest gain of the usual sums, as a shift: means of about the last 512 tokens, of all of them at the start.
const MEAN_SHIFT: u32 = 9;

/// What the signs of all experts of a layer begin with: a hash that mixes well (Wellons' `lowbias32`).
#[inline]
pub(crate) const fn signs_from(layer: u16, word: u32) -> u32 {
    let mut x = (layer as u32).wrapping_add(1) ^ word.wrapping_mul(0x9e37_79b9);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The signs of an expert, 32 of them: the same hash, less its first step, which what it begins with has done. No
/// table.
#[inline]
pub(crate) const fn signs(from: u32, expert: u32) -> u32 {
    let mut x = from.wrapping_add(expert).wrapping_mul(0x7feb_352d);
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

/// Every how many layers a word of `words` sees one: a power of two.
pub(crate) const fn every(words: usize, layers: u16) -> usize {
    let mut every = 1;
    while usize::wrapping_mul(every, 2) <= words && usize::wrapping_mul(every, 8) <= layers as usize {
        every = every.wrapping_mul(2);
    }
    every
}

/// What the signatures of a sequence are centred by.
///
/// Memory: `128 * W + 4` bytes.
#[derive(Debug, Clone)]
pub(super) struct Signature<const W: usize> {
    /// Usual sums; as a part of what a signed word holds, so that differences are signed words.
    means: [[u32; 32]; W],
    /// Tokens in them, up to where it makes no difference.
    tokens: u32,
}

impl<const W: usize> Signature<W> {
    pub(super) const fn new() -> Self {
        Self { means: [[0; 32]; W], tokens: 0 }
    }

    /// Means to move by a token that has another sort of sums, all of them from 0 to below 2^31, and the gain, as a
    /// shift.
    pub(super) fn next(&mut self) -> (&mut [[u32; 32]; W], u32) {
        let shift = u32::BITS.wrapping_sub(self.tokens.leading_zeros()).min(MEAN_SHIFT);
        self.tokens = self.tokens.saturating_add(1);
        (&mut self.means, shift)
    }

    /// The words that say what this is, to be saved: the means, and the tokens in them.
    pub(super) fn state(&self) -> (&[[u32; 32]; W], u32) {
        (&self.means, self.tokens)
    }

    /// As it was saved.
    pub(super) fn restore(means: [[u32; 32]; W], tokens: u32) -> Self {
        // Any mean that is not negative is possible, so that nothing overflows.
        Self { means: means.map(|word| word.map(|mean| mean & (u32::MAX >> 1))), tokens }
    }

    /// The signature of a remembered token, which ends: sums above their means are ones. Means move by `2^-s` of the
    /// difference, rounded to the nearest, `s = 0, 1, 2, 2, 3, 3, 3, 3, …` up to 9; they never leave the range of the
    /// sums.
    ///
    /// Cost: with k = 8, per layer that a word sees, 8 hashes of 10 instructions and 110 for the adders; then 20 a bit.
    pub(super) fn end_token<B: AsRef<[u32]> + AsMut<[u32]>>(&mut self, memory: &Memory<B, W>, slot: u32) -> [u32; W] {
        let shift = u32::BITS.wrapping_sub(self.tokens.leading_zeros()).min(MEAN_SHIFT);
        self.tokens = self.tokens.saturating_add(1);
        let shape = memory.shape();
        // At least one, which compilers for small code do not see here and below.
        let every = every(W, shape.layers).max(1);
        let most = usize::from(shape.layers).div_ceil(every).wrapping_mul(shape.k.into());
        let used = usize::BITS.wrapping_sub(most.leading_zeros());
        // What is left of a signed word: sums have 12 bits at most.
        let fraction = (u32::BITS - 1).wrapping_sub(used);
        let mut bits = [0; W];
        for ((bits, means), word) in bits.iter_mut().zip(&mut self.means).zip(0u32..) {
            let planes = sums(memory, slot, word, every);
            let (low, high) = planes.split_at(8);
            let low = transposed(low);
            // The upper bits of sums, where there are any.
            let high = if used > 8 { transposed(high) } else { [0; 8] };
            let (bytes, _) = means.as_chunks_mut::<8>();
            let [first, second, third, fourth] = bytes else { continue };
            let means = first.iter_mut().zip(second).zip(third.iter_mut().zip(fourth));
            for (((((a, b), (c, d)), low), high), bit) in means.zip(low).zip(high).zip(0u32..) {
                let sum = |byte: u32| ((low >> (8 * byte)) & 0xff) | ((high >> (8 * byte)) & 0xff) << 8;
                let mut above = u32::from(follow(a, sum(0).wrapping_shl(fraction), shift));
                above |= u32::from(follow(b, sum(1).wrapping_shl(fraction), shift)) << 8;
                above |= u32::from(follow(c, sum(2).wrapping_shl(fraction), shift)) << 16;
                above |= u32::from(follow(d, sum(3).wrapping_shl(fraction), shift)) << 24;
                *bits |= above << bit;
            }
        }
        bits
    }
}

/// Upper bits of pairs in one word change places with lower ones in another.
#[inline(always)]
const fn change_places(low: &mut u32, high: &mut u32, shift: u32, lower: u32) {
    let differ = ((*low >> shift) ^ *high) & lower;
    *high ^= differ;
    *low ^= differ << shift;
}

/// Bit p of byte c of word i is bit `8 c + i` of word p, for up to eight words: three rounds of changing places (Knuth,
/// TAOCP 4A, 7.1.3).
fn transposed(words: &[u32]) -> [u32; 8] {
    let mut rows = [0; 8];
    rows.iter_mut().zip(words).for_each(|(row, word)| *row = *word);
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = rows;
    for (low, high) in [(&mut a, &mut b), (&mut c, &mut d), (&mut e, &mut f), (&mut g, &mut h)] {
        change_places(low, high, 1, 0x5555_5555);
    }
    for (low, high) in [(&mut a, &mut c), (&mut b, &mut d), (&mut e, &mut g), (&mut f, &mut h)] {
        change_places(low, high, 2, 0x3333_3333);
    }
    for (low, high) in [(&mut a, &mut e), (&mut b, &mut f), (&mut c, &mut g), (&mut d, &mut h)] {
        change_places(low, high, 4, 0x0f0f_0f0f);
    }
    [a, b, c, d, e, f, g, h]
}

/// Moves a mean towards a sum; whether the sum was above it. Both are below 2^31, so that nothing overflows: a sum is
/// also 2^19 or more away from there.
#[inline]
fn follow(mean: &mut u32, sum: u32, shift: u32) -> bool {
    let step = sum.wrapping_sub(*mean).cast_signed();
    *mean = mean.wrapping_add_signed(step.wrapping_add((1 << shift) >> 1) >> shift);
    step > 0
}

/// Sums of the sign words of a slot's choices in the layers that a word sees, bit-sliced: bit p of 32 sums is word p.
fn sums<B: AsRef<[u32]> + AsMut<[u32]>, const W: usize>(
    memory: &Memory<B, W>,
    slot: u32,
    word: u32,
    every: usize,
) -> [u32; PLANES] {
    match memory.whole_words() {
        words @ 1..=2 => sums_of_words(memory.rows(), words as usize, memory.shape(), slot, word, every),
        _ => {
            let mut planes = [0; PLANES];
            for layer in (word as u16 % (every as u16).max(1)..memory.shape().layers).step_by(every.max(1)) {
                let from = signs_from(layer, word);
                memory.choices(memory.row(slot), layer, |id| carry(&mut planes, signs(from, id.into())));
            }
            planes
        }
    }
}

/// The same where choices of a layer are `words` words of four bytes, one or two: one copy for both, as little of the
/// time goes by here.
fn sums_of_words(rows: &[u32], words: usize, shape: Shape, slot: u32, word: u32, every: usize) -> [u32; PLANES] {
    let mut planes = [0; PLANES];
    let [ones_plane, twos_plane, fours_plane, higher @ ..] = &mut planes;
    let (mut ones, mut twos, mut fours) = (0, 0, 0);
    let first = (slot as usize).wrapping_mul(shape.layers.into());
    for layer in (word as usize % every.max(1)..shape.layers.into()).step_by(every.max(1)) {
        let Some(ids) = rows.get(first.wrapping_add(layer).wrapping_mul(words)..).and_then(|rows| rows.get(..words))
        else {
            break;
        };
        let from = signs_from(layer as u16, word);
        let of = |id: u32| if id & 0xff == 0xff { 0 } else { signs(from, id & 0xff) };
        let (mut carried, mut before) = (0, 0);
        for &ids in ids {
            let (first, second);
            before = carried;
            (ones, first) = full_add(ones, of(ids), of(ids >> 8));
            (ones, second) = full_add(ones, of(ids >> 16), of(ids >> 24));
            (twos, carried) = full_add(twos, first, second);
        }
        let eights;
        (fours, eights) = full_add(fours, carried, before);
        carry(higher, eights);
    }
    (*ones_plane, *twos_plane, *fours_plane) = (ones, twos, fours);
    planes
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

/// Bits that differ: a population count an instruction where there is one, else of two words at a time.
#[inline(never)]
pub(super) fn distance<const W: usize>(a: &[u32; W], b: &[u32; W]) -> u32 {
    if cfg!(any(target_feature = "zbb", target_feature = "popcnt", target_arch = "aarch64")) {
        return a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).fold(0, u32::wrapping_add);
    }
    // Counts of four bits each, at most 4; then of a byte, at most 16.
    let fours = |x: u32| {
        let twos = x.wrapping_sub((x >> 1) & 0x5555_5555);
        (twos & 0x3333_3333).wrapping_add((twos >> 2) & 0x3333_3333)
    };
    let pair = |a: u32, b: u32| {
        let both = u32::wrapping_add(fours(a), fours(b));
        (both & 0x0f0f_0f0f).wrapping_add((both >> 4) & 0x0f0f_0f0f)
    };
    // Four pairs at most, so that all of them fit a byte. Loops are not unrolled where code is to be small.
    let mut bytes = 0;
    let (fours_of_a, rest_of_a) = a.as_chunks::<4>();
    let (fours_of_b, rest_of_b) = b.as_chunks::<4>();
    for (a, b) in fours_of_a.iter().zip(fours_of_b) {
        bytes = u32::wrapping_add(bytes, pair(a[0] ^ b[0], a[1] ^ b[1])).wrapping_add(pair(a[2] ^ b[2], a[3] ^ b[3]));
    }
    if let ([a, c], [b, d]) = (rest_of_a, rest_of_b) {
        bytes = bytes.wrapping_add(pair(a ^ b, c ^ d));
    }
    bytes.wrapping_mul(0x0101_0101) >> 24
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::Shape;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn sign_words_are_balanced_and_differ() {
        let words: Vec<u32> = (0..4096u32).map(|n| signs(signs_from((n >> 9) as u16, n & 3), (n >> 2) & 127)).collect();
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
    fn words_share_layers_where_there_are_enough() {
        assert_eq!([0, 4, 7, 8, 15, 16, 48].map(|layers| every(4, layers)), [1, 1, 1, 2, 2, 4, 4]);
        assert_eq!((every(2, 48), every(8, 48)), (2, 8));
    }

    /// A memory whose first token has chosen these.
    fn chosen<const W: usize>(shape: Shape, layers: &[Vec<u16>]) -> Memory<Vec<u32>, W> {
        let mut memory = Memory::new(shape, 64, vec![0; shape.words(64, W)]).unwrap();
        (0..).zip(layers).for_each(|(layer, ids)| memory.set_choices(0, layer, ids));
        memory
    }

    #[test]
    fn alike_tokens_have_near_signatures() {
        let shape = Shape { layers: 12, experts: 128, k: 4 };
        let mut signature = Signature::<4>::new();
        let token = |signature: &mut Signature<4>, seed: u16| {
            let layers: Vec<Vec<u16>> = (0..12)
                .map(|layer| {
                    let first = (seed.wrapping_mul(31).wrapping_add(layer * 7)) % 25 * 4;
                    (first..first + 4).collect()
                })
                .collect();
            signature.end_token(&chosen(shape, &layers), 0)
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
            layers in 1u16..20,
            (experts, k) in prop::sample::select(vec![(255u16, 8u16), (200, 4), (255, 6), (300, 8), (16, 2)]),
            seed: u64,
        ) {
            let shape = Shape { layers, experts, k };
            let (mut signature, mut means) = (Signature::<2>::new(), [0.0f64; 64]);
            let mut state = seed | 1;
            let mut draw = |below: u16| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 33) % u64::from(below)) as u16
            };
            for n in 0..20u32 {
                let token: Vec<Vec<u16>> =
                    (0..layers).map(|_| (0..draw(k + 1)).map(|_| draw(experts)).collect()).collect();
                let (mut sums, every) = ([0.0f64; 64], every(2, layers));
                for (layer, ids) in token.iter().enumerate() {
                    for (bit, sum) in sums.iter_mut().enumerate().filter(|(bit, _)| bit / 32 % every == layer % every) {
                        let word = bit as u32 / 32;
                        let from = signs_from(layer as u16, word);
                        let one = |&id: &u16| f64::from((signs(from, id.into()) >> (bit % 32)) & 1);
                        *sum += ids.iter().map(one).sum::<f64>();
                    }
                }
                let found = signature.end_token(&chosen(shape, &token), 0);
                let shift = (u32::BITS - n.leading_zeros()).min(MEAN_SHIFT);
                for bit in 0..64 {
                    let one = (found[bit / 32] >> (bit % 32)) & 1 == 1;
                    if (sums[bit] - means[bit]).abs() > 1e-3 {
                        prop_assert_eq!(one, sums[bit] > means[bit], "token {} bit {}", n, bit);
                    }
                    means[bit] += (sums[bit] - means[bit]) / f64::from(1u32 << shift);
                }
            }
        }

        #[test]
        fn distances_count_bits(a: [u32; 8], b: [u32; 8]) {
            let expected: u32 = a.iter().zip(&b).map(|(a, b)| (a ^ b).count_ones()).sum();
            prop_assert_eq!(distance(&a, &b), expected);
        }
    }
}
