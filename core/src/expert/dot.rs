//! A row times a vector. Products are summed exactly: 128 products of at most 15 * 127 in `i32`, groups in `i64`.
//!
//! There are three ways, with the same results: word by word ([`super::plain`]), vectors of words ([`super::words`]),
//! vectors of bytes ([`super::bytes`]). Leaving it to the compiler's vectoriser was tried first: the same loop ran
//! between 0.8 and 8 GB/s, depending on optimisation level and target processor.

#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
use core::arch::x86_64::_MM_HINT_T0;
use core::marker::PhantomData;

#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
use pulp::x86::{V3, V4};

use super::Activations;
#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
use super::bytes::Bytes;
#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
pub(super) use super::bytes::{FEW_BLOCKS, MANY_BLOCKS, Room};
use super::format::{Layout, Row};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::lanes::Baseline;
#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
use super::plain;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::words;

/// Columns of most matrices: room for the activations of all that there can be would take longer to clear than a small
/// matrix to multiply.
pub(super) const FEW: usize = 4096;

/// How many rows ahead of the one at hand are asked for.
#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
pub(super) fn rows_ahead(layout: &Layout) -> usize {
    /// Bytes between the two: 2, 4 and 8 KiB were alike on an EPYC with AVX-512.
    const AHEAD: usize = 4096;
    AHEAD.div_ceil(layout.row_bytes().max(1))
}
#[cfg(any(target_arch = "aarch64", all(target_arch = "x86_64", target_os = "none")))]
pub(super) fn rows_ahead(_: &Layout) -> usize {
    1
}

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

/// The kernel for a matrix and a vector on this processor.
#[derive(Clone, Copy)]
pub(super) struct Kernel<'a> {
    vector: &'a Activations<'a>,
    set: Set<'a>,
}

#[derive(Clone, Copy)]
enum Set<'a> {
    /// Word by word.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Plain(PhantomData<&'a ()>),
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    Baseline(words::Product<Baseline>, PhantomData<&'a ()>),
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    V3(V3, words::Product<V3>),
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
                return Self { vector, set: Set::V3(simd, words::wider(layout)) };
            }
        }
        let _ = (room, layout);
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        return Self { vector, set: Set::Baseline(words::baseline(layout), PhantomData) };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Self { vector, set: Set::Plain(PhantomData) }
    }

    /// Asks for a row, so that its cache lines come from memory side by side while rows before it are worked on. Where
    /// there is an instruction for that, nothing waits for it; elsewhere a byte of every line is read, which holds up
    /// what comes behind it until they are there.
    #[inline]
    pub(super) fn fetch(&self, row: &Row<'_>) {
        match &self.set {
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            Set::Plain(_) => {
                let _ = row;
            }
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            Set::Baseline(..) => row.touch(),
            #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
            Set::V3(simd, _) => row.lines().for_each(|line| simd.sse._mm_prefetch::<_MM_HINT_T0>(line)),
            #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
            Set::V4(bytes) => row.lines().for_each(|line| bytes.simd().sse._mm_prefetch::<_MM_HINT_T0>(line)),
        }
    }

    /// A row times the vector, in units of 2 to the sum of both exponents. Exact, and below 2^62 in magnitude:
    /// `|code * step - zero| <= 255`, scales below 2^16, activation codes up to 127, at most 2^15 columns.
    #[inline]
    pub(super) fn run(&self, row: &Row<'_>) -> i64 {
        match &self.set {
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            Set::Plain(_) => plain::row_times_vector(row, self.vector, 0),
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            Set::Baseline(product, _) => product(Baseline, row, self.vector),
            #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
            Set::V3(simd, product) => product(*simd, row, self.vector),
            #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
            Set::V4(bytes) => bytes.run(row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expert::{ActivationGroup, Matrix};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// What all kernels that this processor has give for a row.
    fn all(layout: &Layout, row: &Row<'_>, vector: &Activations<'_>) -> Vec<i64> {
        let mut all = vec![plain::row_times_vector(row, vector, 0)];
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        all.push(words::baseline(layout)(Baseline, row, vector));
        #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
        all.extend(V3::try_new().map(|simd| words::wider(layout)(simd, row, vector)));
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
                for (kernel, found) in all(&layout, &row, &vector).into_iter().enumerate() {
                    prop_assert_eq!(i128::from(found), exact, "kernel {}", kernel);
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
