//! A row times a vector by products of bytes, where the processor has AVX-512.
//!
//! Codes stay in the bytes in which they lie: a shift and a mask make them the left side of `vpmaddubsw`, which
//! multiplies 64 of them by as many activations of 8 bits. For that the activations are put in the order of the codes,
//! once for a matrix ([`Room`]). A plane of one bit is a mask over activations, but in pairs of blocks of 3 bits,
//! where it is put beside the other plane. What a block gives are 16 partial sums, each of one group; they are
//! multiplied by the scales lane by lane, 16 groups' scales being prepared at a time, and only the end of the row adds
//! lanes.

use core::arch::x86_64::{__m128i, __m512i};

use pulp::x86::V4;
use pulp::{NullaryFnOnce, cast};

use super::Activations;
use super::format::{BLOCK, Layout, ONE_BIT_ZERO, Row};

/// Groups whose scales are prepared at a time.
const SIXTEEN: usize = 16;
/// Three operands bit by bit: where the first one has a 1 the second's, otherwise the third's.
const SELECT: i32 = 0xCA;
/// Bytes of codes in a plane of one bit.
const BIT_PLANE: usize = BLOCK / 8;

/// Activations of a block in the order of the codes: those of a plane in the first half; in the second those of the
/// upper plane of 3 bits, where the block has no partner.
type Block = [[i8; 64]; 4];

/// Room for the activations of a matrix with at most so many full blocks, a multiple of 4, in the order of the codes.
pub(super) struct Room<const BLOCKS: usize> {
    blocks: [Block; BLOCKS],
    /// Scales of the activations' groups, 16 by 16; of the last ones of a row, those that there are, at the end.
    scales: [[i32; 4]; BLOCKS],
    /// Sums of their codes.
    sums: [[i32; 4]; BLOCKS],
}

/// Blocks of at most [`FEW`](super::dot::FEW) columns, the one behind the full ones included.
pub(super) const FEW_BLOCKS: usize = super::dot::FEW / BLOCK;
/// Blocks of as many columns as a matrix can have.
pub(super) const MANY_BLOCKS: usize = 256;

impl<const BLOCKS: usize> Room<BLOCKS> {
    pub(super) const fn new() -> Self {
        Self { blocks: [[[0; 64]; 4]; BLOCKS], scales: [[0; 4]; BLOCKS], sums: [[0; 4]; BLOCKS] }
    }
}

/// A row times a vector.
type Product = fn(&Bytes<'_>, &Row<'_>) -> i64;

/// The kernel, and a vector prepared for a matrix.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a> {
    simd: V4,
    product: Product,
    /// Full blocks, and the columns behind them as another one.
    blocks: &'a [Block],
    scales: &'a [[i32; SIXTEEN]],
    sums: &'a [[i32; SIXTEEN]],
    groups: usize,
    /// Columns behind the full blocks: 0, 32, 64 or 96.
    tail: usize,
}

impl<'a> Bytes<'a> {
    /// Prepares a vector that fits the layout, which has no more columns than there is room for.
    pub(super) fn new<const BLOCKS: usize>(
        simd: V4,
        layout: &Layout,
        vector: &Activations<'_>,
        room: &'a mut Room<BLOCKS>,
    ) -> Self {
        let (product, places) = choose(layout);
        let planes = if layout.bits() == 3 { 2 } else { 1 };
        let pairs = if in_pairs(layout.bits().into()) { vector.codes.len() / (2 * BLOCK) } else { 0 };
        let both = room.blocks.as_chunks_mut::<2>().0.iter_mut().map(|both| both.as_flattened_mut().as_flattened_mut());
        for ((to, codes), pair) in both.zip(vector.codes.chunks(2 * BLOCK)).zip(0..) {
            for (codes, second) in codes.chunks(BLOCK).zip([0, 1]) {
                let [whole, _, _, _] = places;
                let places = if codes.len() == BLOCK { whole } else { places.get(codes.len() / 32).unwrap_or(whole) };
                // In pairs the third bits lie beside the others when they are multiplied.
                for places in places.iter().take(if pair < pairs { 1 } else { planes }) {
                    for (&place, &code) in places.iter().zip(codes) {
                        let place = usize::from(place);
                        let place = match pair < pairs {
                            // The same bytes of both blocks beside each other, shift after shift.
                            true => (place & 0x5F) + 256 * (place / 32 % 2) + 32 * second,
                            false => place + 256 * second,
                        };
                        if let Some(to) = to.get_mut(place) {
                            *to = code as i8;
                        }
                    }
                }
            }
        }
        let scales = room.scales.as_flattened_mut().as_chunks_mut::<SIXTEEN>().0;
        let sums = room.sums.as_flattened_mut().as_chunks_mut::<SIXTEEN>().0;
        for ((scales, sums), from) in scales.iter_mut().zip(&mut *sums).zip(vector.groups.chunks(SIXTEEN)) {
            for ((scale, sum), group) in scales.iter_mut().zip(sums).rev().zip(from.iter().rev()) {
                (*scale, *sum) = (group.scale.into(), group.sum);
            }
        }
        let blocks = room.blocks.get(..vector.codes.len().div_ceil(BLOCK)).unwrap_or_default();
        let (groups, tail) = (vector.groups.len(), vector.codes.len() % BLOCK);
        Self { simd, product, blocks, scales, sums, groups, tail }
    }

    /// Its instructions.
    #[inline]
    pub(super) fn simd(&self) -> V4 {
        self.simd
    }

    /// A row of that matrix times the vector.
    #[inline]
    pub(super) fn run(&self, row: &Row<'_>) -> i64 {
        (self.product)(self, row)
    }
}

/// Where the activations of a block go, of a full one and of 32, 64 and 96 columns: for each plane.
type Places = [[[u8; BLOCK]; 2]; 4];

/// Whether full blocks are multiplied in pairs: where a vector would not be filled by one.
const fn in_pairs(bits: usize) -> bool {
    matches!(bits, 2 | 3)
}

/// The kernel of a format, and its order of activations.
fn choose(layout: &Layout) -> (Product, &'static Places) {
    match layout.bits() {
        1 => choose_group::<1>(layout),
        2 => choose_group::<2>(layout),
        3 => choose_group::<3>(layout),
        _ => choose_group::<4>(layout),
    }
}

fn choose_group<const BITS: usize>(layout: &Layout) -> (Product, &'static Places) {
    match layout.group() {
        32 => (product::<BITS, 4>, &Order::<BITS, 4>::PLACES),
        64 => (product::<BITS, 2>, &Order::<BITS, 2>::PLACES),
        _ => (product::<BITS, 1>, &Order::<BITS, 1>::PLACES),
    }
}

/// The order of activations for a format whose blocks have `GROUPS` groups.
struct Order<const BITS: usize, const GROUPS: usize>;

impl<const BITS: usize, const GROUPS: usize> Order<BITS, GROUPS> {
    const PLACES: Places = {
        let lower = if BITS == 3 { 2 } else { BITS };
        let mut places = [[[0; BLOCK]; 2]; 4];
        let mut tail = 0;
        while tail < 4 {
            places[tail] = [Self::places(lower, 32 * tail, false), Self::places(1, 32 * tail, true)];
            tail += 1;
        }
        places
    };

    /// Where the activation of each column goes in a [`Block`]: column `W s + w` of a chunk of W words is at bit `plane
    /// s` of word `w`, that is, in one of its two bytes, which are shifted by `t` codes. A block of 64 and then one of
    /// 32 columns, or one of them, where there is no full one.
    const fn places(plane: usize, tail: usize, upper: bool) -> [u8; BLOCK] {
        let mut places = [0; BLOCK];
        let mut column = 0;
        while column < BLOCK {
            // The block of 64 or 32 that it is in, where that is no full one.
            let first = if tail >= 64 && column >= 64 { 64 } else { 0 };
            let size = if tail == 0 {
                BLOCK
            } else if tail >= 64 && column < 64 {
                64
            } else {
                32
            };
            let words = if size * plane / 16 < 8 { size * plane / 16 } else { 8 };
            let in_block = column - first;
            let in_chunk = words * 16 / plane;
            let (step, word) = (in_block % in_chunk / words, in_block % words);
            let (in_byte, before) = (8 / plane, first / 8 * BITS);
            let byte = before + in_block / in_chunk * 2 * words + 2 * word + step / in_byte;
            let t = step % in_byte;
            let place = match plane {
                // Both nibbles of 64 bytes.
                4 => 64 * t + byte,
                // 32 bytes, and beside them the same two codes further: codes 0 and 2, then 1 and 3.
                2 => 64 * (t % 2) + 32 * (t / 2) + if GROUPS < 4 { byte } else { apart(byte) },
                // Bit by bit; blocks of 64 and of 32 columns apart.
                _ => 16 * word + step + if first > 0 || tail == 32 { 64 } else { 0 },
            };
            places[column] = (place + if upper { BLOCK } else { 0 }) as u8;
            column += 1;
        }
        places
    }

    /// The group in the block of each lane of a block's sums.
    const LANES: [i32; 16] = {
        let mut lanes = [0; 16];
        let mut i = 0;
        while i < 16 {
            lanes[i] = match BITS {
                4 => i / 4 * GROUPS / 4,
                1 => i % 4 * GROUPS / 4,
                _ => i % 8 * GROUPS / 8,
            } as i32;
            i += 1;
        }
        lanes
    };

    /// The group in two blocks of each lane of their sums.
    const PAIRS: [i32; 16] = {
        let mut lanes = [0; 16];
        let mut i = 0;
        while i < 16 {
            lanes[i] = (i / 8 * GROUPS + i % 8 * GROUPS / 8) as i32;
            i += 1;
        }
        lanes
    };

    /// The lanes of the upper plane's sums in the order of the lower one's.
    const UPPER: [i32; 16] = {
        let mut lanes = [0; 16];
        let mut i = 0;
        while i < 16 {
            let (lane, within) = (i / 4, i % 4);
            lanes[i] = match GROUPS {
                1 => i,
                2 => 4 * (within / 2 + lane / 2 * 2) + lane % 2 * 2 + within % 2,
                _ => 4 * (i % 2 + i / 8 * 2) + i / 2 % 4,
            } as i32;
            i += 1;
        }
        lanes
    };
}

fn product<const BITS: usize, const GROUPS: usize>(bytes: &Bytes<'_>, row: &Row<'_>) -> i64 {
    struct Run<'a, const BITS: usize, const GROUPS: usize>(&'a Bytes<'a>, &'a Row<'a>);
    impl<const BITS: usize, const GROUPS: usize> NullaryFnOnce for Run<'_, BITS, GROUPS> {
        type Output = i64;

        #[inline(always)]
        fn call(self) -> i64 {
            row_times_vector::<BITS, GROUPS>(self.0, self.1)
        }
    }
    bytes.simd.vectorize(Run::<BITS, GROUPS>(bytes, row))
}

/// With `p` the sum of products of a group, `z` its zero point, `s` the sum of its activations and `m` the product of
/// scales: the sum of `(256 / 2^b p - z s) m` over the groups. `m` has 32 bits and is taken as `m' + 2^31` with a
/// signed `m'`, for which there is an instruction.
#[inline(always)]
fn row_times_vector<const BITS: usize, const GROUPS: usize>(bytes: &Bytes<'_>, row: &Row<'_>) -> i64 {
    let simd = bytes.simd;
    let f = simd.avx512f;
    let (mut products, mut zeros) = (Scaled::new(simd), Scaled::new(simd));
    let (code_bytes, in_sixteen) = (BLOCK / 8 * BITS, SIXTEEN / GROUPS);
    let mut codes = row.codes().chunks(code_bytes * in_sixteen);
    let mut blocks = bytes.blocks.chunks(in_sixteen);
    for (before, (group_scales, group_sums)) in
        (0..bytes.groups).step_by(SIXTEEN).zip(bytes.scales.iter().zip(bytes.sums))
    {
        let end = bytes.groups.min(before + SIXTEEN);
        let mantissas = f._mm512_cvtepu16_epi32(cast(row.scales_before::<32>(end)));
        let scales = f._mm512_mullo_epi32(mantissas, cast(*group_scales));
        let scales = f._mm512_xor_si512(scales, cast([i32::MIN; 16]));
        let points = match BITS {
            1 => cast([i32::from(ONE_BIT_ZERO); 16]),
            _ => f._mm512_cvtepu8_epi32(cast::<_, __m128i>(row.zeros_before::<16>(end))),
        };
        zeros.add_each(f._mm512_mullo_epi32(points, cast(*group_sums)), scales);

        let first = cast([(before + SIXTEEN - end) as i32; 16]);
        let mut lanes = f._mm512_add_epi32(cast(Order::<BITS, GROUPS>::LANES), first);
        let (mut codes, mut blocks) = (codes.next().unwrap_or_default(), blocks.next().unwrap_or_default());
        if in_pairs(BITS) {
            let (pairs, others) = blocks.as_chunks::<2>();
            let mut lanes_of_pairs = f._mm512_add_epi32(cast(Order::<BITS, GROUPS>::PAIRS), first);
            let mut done = 0;
            for (codes, pair) in codes.chunks_exact(2 * code_bytes).zip(pairs) {
                let scales = f._mm512_permutexvar_epi32(lanes_of_pairs, scales);
                products.add_pairs(pair_sums::<BITS, GROUPS>(simd, codes, pair), scales);
                lanes_of_pairs = f._mm512_add_epi32(lanes_of_pairs, cast([2 * GROUPS as i32; 16]));
                done += 2;
            }
            lanes = f._mm512_add_epi32(lanes, cast([(done * GROUPS) as i32; 16]));
            codes = codes.get(done * code_bytes..).unwrap_or_default();
            // A pair of which the second one is not full is none.
            blocks = if done < 2 * pairs.len() { blocks.get(done..).unwrap_or_default() } else { others };
        }
        for (codes, block) in codes.chunks_exact(code_bytes).zip(blocks) {
            let sums = block_sums::<BITS, GROUPS>(simd, codes, block);
            let scales = f._mm512_permutexvar_epi32(lanes, scales);
            lanes = f._mm512_add_epi32(lanes, cast([GROUPS as i32; 16]));
            if BITS == 1 && GROUPS == 4 {
                products.add_each(sums, scales);
            } else {
                products.add_pairs(sums, scales);
            }
        }
        if bytes.tail > 0
            && end == bytes.groups
            && let Some(block) = bytes.blocks.last()
        {
            let before_tail = (bytes.blocks.len() - 1) * GROUPS;
            let first = (before_tail + SIXTEEN - end) as i32;
            let codes = row.codes_from::<64>((bytes.blocks.len() - 1) * code_bytes);
            add_tail::<BITS, GROUPS>(simd, bytes.tail, &codes, block, (scales, first), &mut products);
        }
    }
    (products.total() * (256 >> BITS)).wrapping_sub(zeros.total())
}

/// A sum of sums of groups times their products of scales less `2^31`, and the sum of the sums alone.
#[derive(Clone, Copy)]
struct Scaled {
    simd: V4,
    sums: __m512i,
    scaled: __m512i,
}

impl Scaled {
    #[inline(always)]
    fn new(simd: V4) -> Self {
        Self { simd, sums: cast([0i32; 16]), scaled: cast([0i64; 8]) }
    }

    /// Lane by lane.
    #[inline(always)]
    fn add_each(&mut self, sums: __m512i, scales: __m512i) {
        let f = self.simd.avx512f;
        let odd = f._mm512_mul_epi32(f._mm512_srli_epi64::<32>(sums), f._mm512_srli_epi64::<32>(scales));
        self.sums = f._mm512_add_epi32(self.sums, sums);
        self.scaled = f._mm512_add_epi64(self.scaled, f._mm512_add_epi64(f._mm512_mul_epi32(sums, scales), odd));
    }

    /// Where neighbours are of the same group.
    #[inline(always)]
    fn add_pairs(&mut self, sums: __m512i, scales: __m512i) {
        let f = self.simd.avx512f;
        let pairs = f._mm512_add_epi32(sums, f._mm512_srli_epi64::<32>(sums));
        self.sums = f._mm512_add_epi32(self.sums, sums);
        self.scaled = f._mm512_add_epi64(self.scaled, f._mm512_mul_epi32(pairs, scales));
    }

    #[inline(always)]
    fn total(self) -> i64 {
        let f = self.simd.avx512f;
        let sum = i64::from(f._mm512_reduce_add_epi32(self.sums));
        f._mm512_reduce_add_epi64(self.scaled).wrapping_add(sum << 31)
    }
}

/// The columns behind the full blocks: what of `codes` is no code has activations of 0. `first` is the lane of their
/// first scale.
#[inline(always)]
fn add_tail<const BITS: usize, const GROUPS: usize>(
    simd: V4,
    tail: usize,
    codes: &[u8; 64],
    block: &Block,
    (scales, first): (__m512i, i32),
    products: &mut Scaled,
) {
    let mut add = |sums: __m512i, quarters: [usize; 16]| {
        let lanes = quarters.map(|quarter| (quarter * GROUPS / 4) as i32 + first);
        let sums = simd.avx512bw._mm512_madd_epi16(sums, cast([1i16; 32]));
        products.add_pairs(sums, simd.avx512f._mm512_permutexvar_epi32(cast(lanes), scales));
    };
    // In a block of 32 columns, the even bytes and the odd ones are of one quarter.
    let last = if tail == 96 { 2 } else { 0 };
    let lanes: [usize; 16] = core::array::from_fn(|i| i / 4);
    if BITS == 4 {
        add(nibbles(simd, codes, block), lanes);
    } else if BITS > 1
        && let Some(codes) = codes.first_chunk()
    {
        let second = if tail >= 64 { 1 } else { 0 };
        let quarters = core::array::from_fn(|i| [0, second, last, last][i / 2 % 4]);
        let quarters = if GROUPS < 4 { lanes.map(|lane| lane % 2 * 2) } else { quarters };
        add(pairs::<GROUPS>(simd, codes, block), quarters);
    }
    if BITS == 1 || BITS == 3 {
        // Blocks of 64 and of 32 columns: behind their lower planes, if they have any.
        let (lower, weight, [wide, narrow]) = match BITS {
            1 => (0, 1, [&block[0], &block[1]]),
            _ => (2, 4, [&block[2], &block[3]]),
        };
        let plane = |from: usize, activations: &[i8; 64]| {
            let word = codes.get(from..).and_then(|codes| codes.first_chunk()).copied().unwrap_or_default();
            bit_word(simd, u64::from_le_bytes(word), cast([weight as u8; 64]), activations)
        };
        if tail >= 64 {
            add(plane(8 * lower, wide), core::array::from_fn(|i| i % 4 / 2));
        }
        if tail != 64 {
            let before = if tail == 96 { 8 * BITS } else { 0 };
            add(plane(before + 4 * lower, narrow), [last; 16]);
        }
    }
}

/// Sums of products of a full block: each lane is of one group, as [`Order::LANES`] says.
#[inline(always)]
fn block_sums<const BITS: usize, const GROUPS: usize>(simd: V4, codes: &[u8], block: &Block) -> __m512i {
    let none = cast([0i16; 32]);
    let mut sums = match BITS {
        4 => codes.first_chunk().map(|codes| nibbles(simd, codes, block)),
        1 => codes.first_chunk().map(|codes| bit_plane::<1>(simd, codes, &block[0], &block[1])),
        _ => codes.first_chunk().map(|codes| pairs::<GROUPS>(simd, codes, block)),
    }
    .unwrap_or(none);
    if BITS == 3 {
        let upper = codes.last_chunk().map_or(none, |codes| bit_plane::<4>(simd, codes, &block[2], &block[3]));
        // Neighbours in 32 bits are of one quarter in both planes.
        let upper = simd.avx512f._mm512_permutexvar_epi32(cast(Order::<BITS, GROUPS>::UPPER), upper);
        sums = simd.avx512bw._mm512_add_epi16(sums, upper);
    }
    // At most 4 products of 15 * 127, or 4 of 3 * 127 and 4 of 4 * 127, have been added in 16 bits.
    simd.avx512bw._mm512_madd_epi16(sums, cast([1i16; 32]))
}

/// 4 bits.
#[inline(always)]
fn nibbles(simd: V4, codes: &[u8; 64], block: &Block) -> __m512i {
    let (words, mask) = (cast(*codes), cast([0x0F_u8; 64]));
    let low = simd.avx512f._mm512_and_si512(words, mask);
    let high = simd.avx512f._mm512_and_si512(simd.avx512bw._mm512_srli_epi16::<4>(words), mask);
    let low = simd.avx512bw._mm512_maddubs_epi16(low, cast(block[0]));
    simd.avx512bw._mm512_add_epi16(low, simd.avx512bw._mm512_maddubs_epi16(high, cast(block[1])))
}

/// Where the even bytes of the words of a lane of 16 bytes are before the odd ones, the place of a byte.
const fn apart(byte: usize) -> usize {
    byte / 16 * 16 + byte % 2 * 8 + byte % 16 / 2
}

/// The two bytes of a word of 2 bits are of different groups where groups have 32 columns: moved apart, the bytes that
/// one instruction adds are of one group.
#[inline(always)]
fn bytes_of_groups<const GROUPS: usize>(simd: V4, words: __m512i) -> __m512i {
    const EVEN_THEN_ODD: [u8; 64] = {
        let mut from = [0; 64];
        let mut byte = 0;
        while byte < 64 {
            from[apart(byte)] = (byte % 16) as u8;
            byte += 1;
        }
        from
    };
    if GROUPS < 4 { words } else { simd.avx512bw._mm512_shuffle_epi8(words, cast(EVEN_THEN_ODD)) }
}

/// Sums of products of two full blocks of 2 or 3 bits.
#[inline(always)]
fn pair_sums<const BITS: usize, const GROUPS: usize>(simd: V4, codes: &[u8], [a, b]: &[Block; 2]) -> __m512i {
    let (f, bw) = (simd.avx512f, simd.avx512bw);
    let of = |from: usize| codes.get(from..).and_then(|codes| codes.first_chunk::<32>()).copied().unwrap_or([0; 32]);
    let words = bytes_of_groups::<GROUPS>(simd, cast([of(0), of(BIT_PLANE * BITS)]));
    let by_two =
        [words, bw._mm512_srli_epi16::<2>(words), bw._mm512_srli_epi16::<4>(words), bw._mm512_srli_epi16::<6>(words)];
    let codes = if BITS == 2 {
        by_two.map(|words| f._mm512_and_si512(words, cast([3_u8; 64])))
    } else {
        let upper = upper_bits::<GROUPS>(simd, codes);
        let [first, second, third, fourth] = by_two;
        // The two lowest bits of one, the third of the other.
        [
            (first, bw._mm512_slli_epi16::<2>(upper)),
            (second, bw._mm512_slli_epi16::<1>(upper)),
            (third, upper),
            (fourth, bw._mm512_srli_epi16::<1>(upper)),
        ]
        .map(|(lower, upper)| {
            let both = f._mm512_ternarylogic_epi32::<SELECT>(cast([3_u8; 64]), lower, upper);
            f._mm512_and_si512(both, cast([7_u8; 64]))
        })
    };
    let [first, second, third, fourth] = codes;
    let product = |codes, activations: &[i8; 64]| bw._mm512_maddubs_epi16(codes, cast(*activations));
    let first = bw._mm512_add_epi16(product(first, &a[0]), product(second, &a[1]));
    let last = bw._mm512_add_epi16(product(third, &b[0]), product(fourth, &b[1]));
    // 8 products of at most 7 * 127 have been added in 16 bits.
    bw._mm512_madd_epi16(bw._mm512_add_epi16(first, last), cast([1i16; 32]))
}

/// The third bits of two blocks of 3 bits, where the lower two are: four codes of a byte of the lower plane have theirs
/// in half a byte of the upper one. In each byte bit `t` is that of code `t`; what is above bit 3 is of others.
#[inline(always)]
fn upper_bits<const GROUPS: usize>(simd: V4, codes: &[u8]) -> __m512i {
    struct UpperBits<const GROUPS: usize>;
    impl<const GROUPS: usize> UpperBits<GROUPS> {
        /// The byte of the upper plane, and whether it is its upper half.
        const PLACES: ([u8; 64], [u8; 64]) = {
            let (mut from, mut halves) = ([0; 64], [0; 64]);
            let mut byte = 0;
            while byte < 64 {
                let to = if GROUPS < 4 { byte } else { apart(byte) };
                from[to] = (byte % 16 / 2 * 2 + byte / 16 % 2) as u8;
                halves[to] = if byte % 2 == 0 { 0 } else { 0xFF };
                byte += 1;
            }
            (from, halves)
        };
    }
    let of = |from: usize| codes.get(from..).and_then(|codes| codes.first_chunk()).copied().unwrap_or([0; BIT_PLANE]);
    let (a, b) = (of(2 * BIT_PLANE), of(5 * BIT_PLANE));
    let (from, halves) = UpperBits::<GROUPS>::PLACES;
    let bytes = simd.avx512bw._mm512_shuffle_epi8(cast([a, a, b, b]), cast(from));
    simd.avx512f._mm512_ternarylogic_epi32::<SELECT>(cast(halves), simd.avx512bw._mm512_srli_epi16::<4>(bytes), bytes)
}

/// Sums of products of a block of 2 bits.
#[inline(always)]
fn pairs<const GROUPS: usize>(simd: V4, codes: &[u8; 32], block: &Block) -> __m512i {
    let mask = cast([3_u8; 64]);
    let by: [u16; 32] = core::array::from_fn(|i| (i / 16 * 4) as u16);
    let words = simd.avx512bw._mm512_srlv_epi16(simd.avx512f._mm512_broadcast_i64x4(cast(*codes)), cast(by));
    let words = bytes_of_groups::<GROUPS>(simd, words);
    let low = simd.avx512f._mm512_and_si512(words, mask);
    let high = simd.avx512f._mm512_and_si512(simd.avx512bw._mm512_srli_epi16::<2>(words), mask);
    let low = simd.avx512bw._mm512_maddubs_epi16(low, cast(block[0]));
    simd.avx512bw._mm512_add_epi16(low, simd.avx512bw._mm512_maddubs_epi16(high, cast(block[1])))
}

/// A plane of one bit, `WEIGHT` each.
#[inline(always)]
fn bit_plane<const WEIGHT: u8>(simd: V4, codes: &[u8; BIT_PLANE], low: &[i8; 64], high: &[i8; 64]) -> __m512i {
    let [low_codes, high_codes]: [u64; 2] = cast(*codes);
    let weight = cast([WEIGHT; 64]);
    simd.avx512bw._mm512_add_epi16(bit_word(simd, low_codes, weight, low), bit_word(simd, high_codes, weight, high))
}

/// 64 bits of one.
#[inline(always)]
fn bit_word(simd: V4, codes: u64, weight: __m512i, activations: &[i8; 64]) -> __m512i {
    simd.avx512bw._mm512_maddubs_epi16(weight, simd.avx512bw._mm512_maskz_mov_epi8(codes, cast(*activations)))
}
