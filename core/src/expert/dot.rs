//! A row times a vector. Products are summed exactly: 128 products of at most 15 * 127 in `i32`, groups in `i64`.
//!
//! One primitive exists once for each set of instructions, with the same results ([`Lanes`]): 32 codes times their
//! activations. AVX-512 has products of bytes, with a shape of its own ([`super::bytes`]). Leaving it to the compiler's
//! vectoriser was tried first: the same loop ran between 0.8 and 8 GB/s, depending on optimisation level and target
//! processor.

#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
use pulp::NullaryFnOnce;
#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
use pulp::x86::{V3, V4};

#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
use super::bytes::Bytes;
#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
pub(super) use super::bytes::{FEW_BLOCKS, MANY_BLOCKS, Room};
use super::format::{BLOCK, Layout, ONE_BIT_ZERO, Row};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::lanes::Baseline;
use super::lanes::Lanes;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use super::lanes::Scalar as Baseline;
use super::{ActivationGroup, Activations};

/// Columns whose sum of products is kept apart: the shortest group.
pub(super) const QUARTER: usize = 32;
/// Columns of most matrices: room for the activations of all that there can be would take longer to clear than a small
/// matrix to multiply.
pub(super) const FEW: usize = 4096;

/// Where no kernel wants activations in another order, there is no room for it.
#[cfg(not(all(target_arch = "x86_64", not(target_os = "none"))))]
mod no_room {
    pub(in super::super) const FEW_BLOCKS: usize = 0;
    pub(in super::super) const MANY_BLOCKS: usize = 0;
    pub(in super::super) struct Room<const BLOCKS: usize>;

    impl<const BLOCKS: usize> Room<BLOCKS> {
        pub(in super::super) const fn new() -> Self {
            Self
        }
    }
}
#[cfg(not(all(target_arch = "x86_64", not(target_os = "none"))))]
pub(super) use no_room::{FEW_BLOCKS, MANY_BLOCKS, Room};

/// A row times a vector that fits it, with the instructions `L`.
type Product<L> = fn(L, &Row<'_>, &Activations<'_>) -> i64;

/// The kernel for a matrix and a vector on this processor.
#[derive(Clone, Copy)]
pub(super) struct Kernel<'a> {
    vector: &'a Activations<'a>,
    set: Set<'a>,
}

#[derive(Clone, Copy)]
enum Set<'a> {
    Baseline(Product<Baseline>, core::marker::PhantomData<&'a ()>),
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    V3(V3, Product<V3>),
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    V4(Bytes<'a>),
}

impl<'a> Kernel<'a> {
    /// The fastest that this processor has: found out once for a matrix, not for a row. The vector fits the layout,
    /// which has at most [`FEW`] columns where there is room for [`FEW_BLOCKS`].
    pub(super) fn new<const BLOCKS: usize>(
        layout: &Layout,
        vector: &'a Activations<'a>,
        room: &'a mut Room<BLOCKS>,
    ) -> Self {
        #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
        {
            if let Some(simd) = V4::try_new() {
                return Self { vector, set: Set::V4(Bytes::new(simd, layout, vector, room)) };
            }
            if let Some(simd) = V3::try_new() {
                return Self { vector, set: Set::V3(simd, choose::<V3, Wider>(layout)) };
            }
        }
        let _ = room;
        Self { vector, set: Set::Baseline(choose::<Baseline, Plain>(layout), core::marker::PhantomData) }
    }

    /// A row times the vector, in units of 2 to the sum of both exponents. Exact, and below 2^62 in magnitude:
    /// `|code * step - zero| <= 255`, scales below 2^16, activation codes up to 127, at most 2^15 columns.
    #[inline]
    pub(super) fn run(&self, row: &Row<'_>) -> i64 {
        match &self.set {
            Set::Baseline(product, _) => product(Baseline, row, self.vector),
            #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
            Set::V3(simd, product) => product(*simd, row, self.vector),
            #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
            Set::V4(bytes) => bytes.run(row),
        }
    }
}

/// How a function is called whose instructions are `L`.
trait Call<L> {
    fn product<const BITS: usize, const QUARTERS: usize, const GROUPS: usize>(
        lanes: L,
        row: &Row<'_>,
        vector: &Activations<'_>,
    ) -> i64;
}

/// With the instructions that the program is compiled for.
struct Plain;

impl<L: Lanes> Call<L> for Plain {
    fn product<const BITS: usize, const QUARTERS: usize, const GROUPS: usize>(
        lanes: L,
        row: &Row<'_>,
        vector: &Activations<'_>,
    ) -> i64 {
        row_times_vector::<L, BITS, QUARTERS, GROUPS>(lanes, row, vector)
    }
}

/// With more: everything is compiled once more for them.
#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
struct Wider;

#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
impl Call<V3> for Wider {
    fn product<const BITS: usize, const QUARTERS: usize, const GROUPS: usize>(
        simd: V3,
        row: &Row<'_>,
        vector: &Activations<'_>,
    ) -> i64 {
        struct Run<'a, const BITS: usize, const QUARTERS: usize, const GROUPS: usize>(
            V3,
            &'a Row<'a>,
            &'a Activations<'a>,
        );
        impl<const BITS: usize, const QUARTERS: usize, const GROUPS: usize> NullaryFnOnce for Run<'_, BITS, QUARTERS, GROUPS> {
            type Output = i64;

            #[inline(always)]
            fn call(self) -> i64 {
                row_times_vector::<V3, BITS, QUARTERS, GROUPS>(self.0, self.1, self.2)
            }
        }
        simd.vectorize(Run::<BITS, QUARTERS, GROUPS>(simd, row, vector))
    }
}

fn choose<L: Lanes, C: Call<L>>(layout: &Layout) -> Product<L> {
    match layout.bits() {
        1 => choose_group::<L, C, 1>(layout),
        2 => choose_group::<L, C, 2>(layout),
        3 => choose_group::<L, C, 3>(layout),
        _ => choose_group::<L, C, 4>(layout),
    }
}

fn choose_group<L: Lanes, C: Call<L>, const BITS: usize>(layout: &Layout) -> Product<L> {
    match layout.group() {
        32 => C::product::<BITS, 1, 4>,
        64 => C::product::<BITS, 2, 2>,
        _ => C::product::<BITS, 4, 1>,
    }
}

/// A group has `QUARTERS` quarters of a block, a block `GROUPS` groups.
#[inline(always)]
fn row_times_vector<L: Lanes, const BITS: usize, const QUARTERS: usize, const GROUPS: usize>(
    lanes: L,
    row: &Row<'_>,
    vector: &Activations<'_>,
) -> i64 {
    let (blocks, tail) = vector.codes.as_chunks::<BLOCK>();
    let codes = row.codes().chunks_exact(BLOCK / 8 * BITS);
    let (scales, zeros, groups) = (row.scales().as_chunks().0, row.zeros().as_chunks().0, vector.groups.as_chunks().0);
    let parts = codes.zip(blocks).zip(scales.iter().zip(groups));
    let block = |codes, activations, scales: &[[u8; 2]; GROUPS], zeros: &[u8; GROUPS], groups: &[_; GROUPS]| {
        let sums = block_sums::<L, BITS>(lanes, codes, activations);
        let sums = core::array::from_fn(|i| {
            let group = sums.get(i * QUARTERS..(i + 1) * QUARTERS).unwrap_or(&[]);
            group.iter().fold(lanes.zero(), |all, quarter| lanes.add(all, *quarter))
        });
        let totals: [i32; GROUPS] = lanes.totals(sums);
        let of = |i: usize| scaled::<BITS>(totals[i], scales[i], zeros[i], &groups[i]);
        (0..GROUPS).map(of).sum::<i64>()
    };
    let sum: i64 = if BITS == 1 {
        let zeros = &[ONE_BIT_ZERO; GROUPS];
        parts.map(|((codes, activations), (scales, groups))| block(codes, activations, scales, zeros, groups)).sum()
    } else {
        let parts = parts.zip(zeros);
        parts.map(|(((codes, activations), (scales, groups)), z)| block(codes, activations, scales, z, groups)).sum()
    };
    if tail.is_empty() { sum } else { sum + tail_times_vector::<BITS>(row, vector) }
}

/// What is behind the full blocks.
fn tail_times_vector<const BITS: usize>(row: &Row<'_>, vector: &Activations<'_>) -> i64 {
    let (blocks, tail) = vector.codes.as_chunks::<BLOCK>();
    // At least one, which compilers for small code do not see here and below.
    let whole = blocks.len() * BLOCK / vector.group.max(1);
    fn behind<T>(all: &[T], whole: usize) -> &[T] {
        all.get(whole..).unwrap_or_default()
    }
    let sums = tail_sums::<BITS>(behind(row.codes(), blocks.len() * BLOCK / 8 * BITS), tail);
    let mut zeros = behind(row.zeros(), whole).iter().copied().chain(core::iter::repeat(ONE_BIT_ZERO));
    let quarters = sums.get(..tail.len() / QUARTER).unwrap_or_default().chunks((vector.group / QUARTER).max(1));
    let groups = behind(row.scales(), whole).iter().zip(behind(vector.groups, whole));
    let products = quarters.zip(groups).map(|(quarters, (scale, group))| {
        scaled::<BITS>(quarters.iter().sum(), *scale, zeros.next().unwrap_or(0), group)
    });
    products.sum()
}

/// A group's sum of codes times activations, with zero point and both scales.
#[inline(always)]
fn scaled<const BITS: usize>(product: i32, scale: [u8; 2], zero: u8, vector: &ActivationGroup) -> i64 {
    let sum = product * (256 >> BITS) - i32::from(zero) * vector.sum;
    let scale = u32::from(u16::from_le_bytes(scale)) * u32::from(vector.scale);
    i64::from(sum) * i64::from(scale)
}

/// Sums of products of the four quarters of a full block.
#[inline(always)]
fn block_sums<L: Lanes, const BITS: usize>(lanes: L, codes: &[u8], activations: &[i16; BLOCK]) -> [L::Sum; 4] {
    let mut sums = [lanes.zero(); 4];
    let chunks = codes.as_chunks().0;
    if BITS == 3 {
        let (low, high) = chunks.split_at_checked(2).unwrap_or_default();
        // The upper bit weighs 4: its plane is summed first, then four times that.
        add_plane::<L, 1>(lanes, high, activations, &mut sums);
        sums = sums.map(|sum| {
            let twice = lanes.add(sum, sum);
            lanes.add(twice, twice)
        });
        add_plane::<L, 2>(lanes, low, activations, &mut sums);
    } else {
        add_plane::<L, BITS>(lanes, chunks, activations, &mut sums);
    }
    sums
}

#[inline(always)]
fn add_plane<L: Lanes, const BITS: usize>(
    lanes: L,
    chunks: &[[u8; 16]],
    activations: &[i16; BLOCK],
    sums: &mut [L::Sum; 4],
) {
    let (quarters, _) = activations.as_chunks::<QUARTER>();
    let in_chunk = 4 / BITS; // quarters
    for ((chunk, quarters), sums) in chunks.iter().zip(quarters.chunks(in_chunk)).zip(sums.chunks_mut(in_chunk)) {
        let mut words = lanes.load::<BITS>(chunk);
        for (quarter, sum) in quarters.iter().zip(sums) {
            *sum = lanes.add(*sum, lanes.quarter::<BITS>(&mut words, quarter));
        }
    }
}

/// Sums of products of the quarters after the last full block.
fn tail_sums<const BITS: usize>(codes: &[u8], activations: &[i16]) -> [i32; 3] {
    let mut sums = [0; 3];
    match activations.first_chunk::<64>() {
        Some(wide) => {
            let [first, second, third] = &mut sums;
            let (codes, rest) = codes.split_at_checked(8 * BITS).unwrap_or_default();
            add_short::<BITS, 64>(codes, wide, [first, second]);
            if let Some(narrow) = activations.get(64..).and_then(|rest| rest.first_chunk::<32>()) {
                add_short::<BITS, 32>(rest, narrow, [third, &mut 0]);
            }
        }
        None => {
            let [first, second, _] = &mut sums;
            if let Some(narrow) = activations.first_chunk::<32>() {
                add_short::<BITS, 32>(codes, narrow, [first, second]);
            }
        }
    }
    sums
}

/// Products of a block of 64 or 32 columns, added to the sums of its two quarters, or its one.
fn add_short<const BITS: usize, const COLUMNS: usize>(
    codes: &[u8],
    activations: &[i16; COLUMNS],
    mut sums: [&mut i32; 2],
) {
    if BITS == 3 {
        let (low, high) = codes.split_at_checked(COLUMNS / 4).unwrap_or_default();
        add_short_plane::<2, COLUMNS>(low, 1, activations, &mut sums);
        add_short_plane::<1, COLUMNS>(high, 4, activations, &mut sums);
    } else {
        add_short_plane::<BITS, COLUMNS>(codes, 1, activations, &mut sums);
    }
}

/// The same as [`add_plane`] for a block of 64 or 32, whose chunks may have fewer words; `weight` multiplies the codes.
fn add_short_plane<const BITS: usize, const COLUMNS: usize>(
    codes: &[u8],
    weight: i32,
    activations: &[i16; COLUMNS],
    sums: &mut [&mut i32; 2],
) {
    // Words of a chunk, and quarters.
    let in_chunk = const { if COLUMNS * BITS / 16 < 8 { COLUMNS * BITS / 16 } else { 8 } };
    let quarters_in_chunk = const { if COLUMNS * BITS / 16 < 8 { COLUMNS / QUARTER } else { 4 / BITS } };
    let (words, _) = codes.as_chunks::<2>();
    let quarters = activations.as_chunks::<QUARTER>().0.chunks(quarters_in_chunk);
    for ((chunk, quarters), sums) in words.chunks(in_chunk).zip(quarters).zip(sums.chunks_mut(quarters_in_chunk)) {
        let mut words = [0u16; 8];
        words.iter_mut().zip(chunk).for_each(|(word, bytes)| *word = u16::from_le_bytes(*bytes));
        for (quarter, sum) in quarters.iter().zip(sums) {
            for activations in quarter.chunks(in_chunk) {
                for (word, x) in words.iter_mut().zip(activations) {
                    **sum += weight * i32::from(*word & ((1 << BITS) - 1)) * i32::from(*x);
                    *word >>= BITS;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expert::Matrix;
    use crate::expert::lanes::Scalar;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// What all kernels that this processor has give for a row.
    fn all(layout: &Layout, row: &Row<'_>, vector: &Activations<'_>) -> Vec<i64> {
        let mut all = vec![choose::<Baseline, Plain>(layout)(Baseline, row, vector)];
        all.push(choose::<Scalar, Plain>(layout)(Scalar, row, vector));
        #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
        all.extend(V3::try_new().map(|simd| choose::<V3, Wider>(layout)(simd, row, vector)));
        all.push(Kernel::new(layout, vector, &mut Room::<MANY_BLOCKS>::new()).run(row));
        if layout.columns() <= FEW {
            all.push(Kernel::new(layout, vector, &mut Room::<FEW_BLOCKS>::new()).run(row));
        }
        all
    }

    proptest! {
        /// All sets of inner loops against the sum that the format's description gives, in 128 bits.
        #[test]
        fn every_kernel_is_exact(
            bits in 1u8..=4,
            group in prop::sample::select(vec![32u8, 64, 128]),
            columns in prop_oneof![8 => 1u32..700, 1 => 700u32..5000],
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
                for found in all(&layout, &row, &vector) {
                    prop_assert_eq!(i128::from(found), exact);
                }
            }
        }
    }

    /// The ends of every range, in the longest rows: what is added in 16 and 32 bits on the way does not overflow.
    #[test]
    fn the_longest_rows_of_the_largest_numbers_do_not_overflow() {
        for (bits, group, code, zero, value) in (1u8..=4).flat_map(|bits| {
            let groups = [32u8, 64, 128];
            let ends = [(0, u8::MAX), (15, 0), (15, u8::MAX)];
            groups.into_iter().flat_map(move |group| {
                ends.into_iter()
                    .flat_map(move |(code, zero)| [i64::MAX, i64::MIN].map(|value| (bits, group, code, zero, value)))
            })
        }) {
            let layout = Layout::new(bits, group, 0, 1, 1 << 15).unwrap();
            let mut bytes = vec![0; layout.byte_len() as usize];
            layout.write(&mut bytes).unwrap();
            let codes = vec![code; layout.columns()];
            let (scales, zeros) = (vec![u16::MAX; layout.groups()], vec![zero; layout.groups()]);
            let header = bytes.len() - layout.row_bytes();
            layout.pack_row(&codes, &scales, &zeros, &mut bytes[header..]).unwrap();
            let values = vec![value; layout.columns()];
            let (mut codes, mut groups) =
                (vec![0; layout.padded_columns()], vec![ActivationGroup::default(); layout.groups()]);
            let vector = Activations::quantise(&values, 0, &layout, &mut codes, &mut groups).unwrap();
            let row = Matrix::new(&bytes).unwrap().rows().next().unwrap();
            let weight = row.weights().next().unwrap();
            let x = vector.values().next().unwrap();
            let exact = i64::from(weight) * i64::from(x) * (1 << 15);
            assert!(all(&layout, &row, &vector).iter().all(|&found| found == exact), "{bits} {group} {code} {zero}");
        }
    }
}
