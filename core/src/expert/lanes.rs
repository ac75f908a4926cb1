//! Codes times activations, both as words of 16 bits, on vectors of the processor's baseline and on those of AVX2.
//!
//! Eight words hold the codes of 32 columns and more, the lowest bits those of the first eight columns. A wider vector
//! holds the words again, shifted by one code, and so takes 16 columns in one step without any shuffle.

use super::plain::QUARTER;

/// A set of instructions.
pub(super) trait Lanes: Copy {
    /// Eight words of packed codes, from which codes are taken at the low end.
    type Words: Copy;
    /// A sum of products, possibly in parts.
    type Sum: Copy;

    fn load<const BITS: usize>(self, bytes: &[u8; 16]) -> Self::Words;
    fn zero(self) -> Self::Sum;
    fn add(self, a: Self::Sum, b: Self::Sum) -> Self::Sum;
    /// The next 32 columns times their activations; `words` go on to the columns behind.
    fn quarter<const BITS: usize>(self, words: &mut Self::Words, activations: &[i16; QUARTER]) -> Self::Sum;
    fn total(self, sum: Self::Sum) -> i32;

    /// Several sums at once.
    #[inline(always)]
    fn totals<const N: usize>(self, sums: [Self::Sum; N]) -> [i32; N] {
        sums.map(|sum| self.total(sum))
    }
}

/// The lowest bits of a word that are one code.
const fn mask(bits: usize) -> i16 {
    (1 << bits) - 1
}

/// Vectors of the baseline: SSE2 on x86-64, NEON on AArch64. A sum is four lanes of pairs.
pub(super) use baseline::Baseline;

mod baseline {
    use super::{Lanes, QUARTER, mask};
    use wide::{i16x8, i32x4, u16x8};

    #[derive(Clone, Copy)]
    pub(in super::super) struct Baseline;

    impl Lanes for Baseline {
        /// Unsigned, so that the last shift needs no mask.
        type Words = u16x8;
        type Sum = i32x4;

        #[inline(always)]
        fn load<const BITS: usize>(self, bytes: &[u8; 16]) -> u16x8 {
            let mut words = [0; 8];
            words.iter_mut().zip(bytes.as_chunks().0).for_each(|(word, bytes)| *word = u16::from_le_bytes(*bytes));
            u16x8::new(words)
        }

        #[inline(always)]
        fn zero(self) -> i32x4 {
            i32x4::ZERO
        }

        #[inline(always)]
        fn add(self, a: i32x4, b: i32x4) -> i32x4 {
            a + b
        }

        #[inline(always)]
        fn quarter<const BITS: usize>(self, words: &mut u16x8, activations: &[i16; QUARTER]) -> i32x4 {
            let mut sum = i32x4::ZERO;
            for activations in activations.as_chunks().0 {
                let codes = *words & u16x8::splat(mask(BITS).cast_unsigned());
                sum += i16x8::new(codes.to_array().map(u16::cast_signed)).dot(i16x8::new(*activations));
                *words >>= BITS as u32;
            }
            sum
        }

        #[inline(always)]
        fn total(self, sum: i32x4) -> i32 {
            sum.reduce_add()
        }
    }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
mod wider {
    use core::arch::x86_64::{__m128i, __m256i};
    use pulp::cast;
    use pulp::x86::V3;

    use super::{Lanes, QUARTER, mask};

    /// The words and, in the upper half, the words shifted by one code: 16 columns in a step.
    impl Lanes for V3 {
        type Words = __m256i;
        type Sum = __m256i;

        #[inline(always)]
        fn load<const BITS: usize>(self, bytes: &[u8; 16]) -> __m256i {
            let words: __m128i = cast(*bytes);
            let next = self.sse2._mm_srl_epi16(words, cast([BITS as u64, 0]));
            self.avx._mm256_set_m128i(next, words)
        }

        #[inline(always)]
        fn zero(self) -> __m256i {
            cast([0i32; 8])
        }

        #[inline(always)]
        fn add(self, a: __m256i, b: __m256i) -> __m256i {
            self.avx2._mm256_add_epi32(a, b)
        }

        #[inline(always)]
        fn quarter<const BITS: usize>(self, words: &mut __m256i, activations: &[i16; QUARTER]) -> __m256i {
            let mut sum = self.zero();
            for activations in activations.as_chunks::<16>().0 {
                let codes = self.avx2._mm256_and_si256(*words, cast([mask(BITS); 16]));
                sum = self.add(sum, self.avx2._mm256_madd_epi16(codes, cast(*activations)));
                *words = self.avx2._mm256_srl_epi16(*words, cast([2 * BITS as u64, 0]));
            }
            sum
        }

        #[inline(always)]
        fn total(self, sum: __m256i) -> i32 {
            let [low, high]: [__m128i; 2] = cast(sum);
            total(self, self.sse2._mm_add_epi32(low, high))
        }

        #[inline(always)]
        fn totals<const N: usize>(self, sums: [__m256i; N]) -> [i32; N] {
            totals(
                self,
                sums.map(|sum| {
                    let [low, high]: [__m128i; 2] = cast(sum);
                    self.sse2._mm_add_epi32(low, high)
                }),
            )
        }
    }

    /// Sums of the lanes of several vectors: neighbours are added in turn.
    #[inline(always)]
    fn totals<const N: usize>(simd: V3, sums: [__m128i; N]) -> [i32; N] {
        let add = |a, b| {
            let (low, high) = (simd.sse2._mm_unpacklo_epi32(a, b), simd.sse2._mm_unpackhi_epi32(a, b));
            simd.sse2._mm_add_epi32(low, high)
        };
        let mut totals = [0; N];
        match *sums.as_slice() {
            [a, b] => {
                let both = add(a, b);
                let both = simd.sse2._mm_add_epi32(both, simd.sse2._mm_shuffle_epi32::<0b01_00_11_10>(both));
                let [a, b, ..]: [i32; 4] = cast(both);
                totals.copy_from_slice(&[a, b]);
            }
            [a, b, c, d] => {
                // Lane by lane a, b, a, b and c, d, c, d.
                let (first, second) = (add(a, b), add(c, d));
                let low = simd.sse2._mm_unpacklo_epi64(first, second);
                let high = simd.sse2._mm_unpackhi_epi64(first, second);
                totals.copy_from_slice(&cast::<_, [i32; 4]>(simd.sse2._mm_add_epi32(low, high)));
            }
            _ => totals = sums.map(|sum| total(simd, sum)),
        }
        totals
    }

    #[inline(always)]
    fn total(simd: V3, sum: __m128i) -> i32 {
        let pairs = simd.sse2._mm_add_epi32(sum, simd.sse2._mm_shuffle_epi32::<0b01_00_11_10>(sum));
        let all = simd.sse2._mm_add_epi32(pairs, simd.sse2._mm_shuffle_epi32::<0b10_11_00_01>(pairs));
        simd.sse2._mm_cvtsi128_si32(all)
    }
}
