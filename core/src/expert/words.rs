//! A row times a vector by products of words of 16 bits: one primitive for each set of instructions ([`Lanes`]), 32
//! codes times their activations.

#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
use pulp::{NullaryFnOnce, x86::V3};

use super::Activations;
use super::format::{BLOCK, Layout, ONE_BIT_ZERO, Row};
use super::lanes::{Baseline, Lanes};
use super::plain::{self, QUARTER, scaled};

/// A row times a vector that fits it, with the instructions `L`.
pub(super) type Product<L> = fn(L, &Row<'_>, &Activations<'_>) -> i64;

/// With the instructions that the program is compiled for.
pub(super) fn baseline(layout: &Layout) -> Product<Baseline> {
    choose::<Baseline, Plain>(layout)
}

/// With those of AVX2.
#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
pub(super) fn wider(layout: &Layout) -> Product<V3> {
    choose::<V3, Wider>(layout)
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
        let of = |i: usize| scaled(totals[i], BITS, scales[i], zeros[i], &groups[i]);
        (0..GROUPS).map(of).sum::<i64>()
    };
    let sum: i64 = if BITS == 1 {
        let zeros = &[ONE_BIT_ZERO; GROUPS];
        parts.map(|((codes, activations), (scales, groups))| block(codes, activations, scales, zeros, groups)).sum()
    } else {
        let parts = parts.zip(zeros);
        parts.map(|(((codes, activations), (scales, groups)), z)| block(codes, activations, scales, z, groups)).sum()
    };
    if tail.is_empty() { sum } else { sum + plain::row_times_vector(row, vector, blocks.len() * BLOCK) }
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
