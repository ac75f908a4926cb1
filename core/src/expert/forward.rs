//! Matrix times vector, and a whole expert.

use super::dot::{FEW, FEW_BLOCKS, Kernel, MANY_BLOCKS, Room};
use super::format::Row;
use super::{ActivationGroup, Activations, ExpertError, Layout, Matrix};
use crate::num::{Logit, sigmoid};

/// Fraction bits of [`Logit`].
const LOGIT_FRACTION: i32 = 16;
/// Magnitude bits of a row's result without those of the number of columns: 127 * 255 * 65535 * 65535 < 2^47.
const BITS_PER_COLUMN: u32 = 47;

/// `matrix * vector`, exactly: output `r` is `out[r] * 2^exponent` with the exponent returned, for the weights and
/// activations as they are stored. No rounding, no saturation: results stay below 2^62.
///
/// Against the product with the vector `x` before quantisation the error of output `r` is at most
/// `sum_i |W[r][i]| * h[i]`, with `h` the half step of [`Activations::quantise`].
///
/// Cost: one pass over the packed bytes.
///
/// # Errors
/// [`ExpertError::Mismatch`] if the vector was quantised for another shape, [`ExpertError::Buffer`] if `out` is not one
/// number a row.
pub fn matvec(matrix: &Matrix<'_>, vector: &Activations<'_>, out: &mut [i64]) -> Result<i32, ExpertError> {
    let layout = matrix.layout();
    if !vector.fits(layout) {
        return Err(ExpertError::Mismatch);
    }
    if out.len() != layout.rows() {
        return Err(ExpertError::Buffer);
    }
    if layout.columns() <= FEW {
        rows_times_vector::<FEW_BLOCKS>(matrix, vector, out);
    } else {
        rows_times_vector::<MANY_BLOCKS>(matrix, vector, out);
    }
    Ok(exponent_of(matrix, vector))
}

/// For matrices of at most so many blocks, where kernels want room for them.
#[inline(never)]
fn rows_times_vector<const BLOCKS: usize>(matrix: &Matrix<'_>, vector: &Activations<'_>, out: &mut [i64]) {
    let mut room = Room::<BLOCKS>::new();
    let kernel = Kernel::new(matrix.layout(), vector, &mut room);
    for (out, (row, next)) in out.iter_mut().zip(with_ahead(matrix)) {
        next.iter().for_each(|row| kernel.fetch(row));
        *out = kernel.run(&row);
    }
}

/// The rows, each with the one to ask for while it is worked on.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn with_ahead<'a>(matrix: &Matrix<'a>) -> impl Iterator<Item = (Row<'a>, Option<Row<'a>>)> {
    let ahead = matrix.rows().skip(super::dot::rows_ahead(matrix.layout())).map(Some);
    matrix.rows().zip(ahead.chain(core::iter::repeat(None)))
}

/// The rows, where nothing is asked for.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn with_ahead<'a>(matrix: &Matrix<'a>) -> impl Iterator<Item = (Row<'a>, Option<Row<'a>>)> {
    matrix.rows().map(|row| (row, None))
}

fn exponent_of(matrix: &Matrix<'_>, vector: &Activations<'_>) -> i32 {
    vector.exponent().saturating_add(i32::from(matrix.layout().exponent()))
}

/// A SwiGLU expert: `down * (silu(gate * x) . (up * x))`.
#[derive(Debug, Clone, Copy)]
pub struct Expert<'a> {
    gate: Matrix<'a>,
    up: Matrix<'a>,
    down: Matrix<'a>,
}

/// Memory that [`Expert::forward`] works in; the caller's, of the lengths that [`Expert::hidden`] gives.
#[derive(Debug)]
pub struct Scratch<'a> {
    /// One number per row of `gate`.
    pub hidden: &'a mut [i64],
    /// [`Layout::padded_columns`] of `down`.
    pub codes: &'a mut [i16],
    /// [`Layout::groups`] of `down`.
    pub groups: &'a mut [ActivationGroup],
}

impl<'a> Expert<'a> {
    /// Puts an expert together; its matrices may have different bits.
    ///
    /// # Errors
    /// [`ExpertError::Mismatch`] if `gate` and `up` differ in shape or group length, or `down` does not take what they
    /// give.
    pub fn new(gate: Matrix<'a>, up: Matrix<'a>, down: Matrix<'a>) -> Result<Self, ExpertError> {
        let shape = |matrix: &Matrix<'_>| (matrix.layout().rows(), matrix.layout().columns(), matrix.layout().group());
        if shape(&gate) != shape(&up) || down.layout().columns() != gate.layout().rows() {
            return Err(ExpertError::Mismatch);
        }
        Ok(Self { gate, up, down })
    }

    /// The layout that the input is quantised for.
    pub const fn input(&self) -> &Layout {
        self.gate.layout()
    }

    /// The layout that the hidden vector is quantised for; its columns, padded columns and groups are the lengths of
    /// [`Scratch`].
    pub const fn hidden(&self) -> &Layout {
        self.down.layout()
    }

    /// Runs the expert: output `r` is `out[r] * 2^exponent` with the exponent returned.
    ///
    /// Per row of `gate` and `up`, with exact products `g` and `u`: both are rounded to 31 bits by a shift that depends
    /// on the shape only (`2^-31` of the largest result that the shape allows); `s = g * sigmoid(g)` is rounded to the
    /// unit of `g`, the sigmoid being that of [`sigmoid`] at `g` rounded to `I16F16`; `h = s * u` is exact. Then `h` is
    /// quantised ([`Activations::quantise`]), and the product with `down` is exact. All rounding is to nearest, halves
    /// up, except in `quantise`.
    ///
    /// **Error** against exact arithmetic on the stored weights and the input `x` before quantisation. With `a[j]` the
    /// half step of the input's group, `d_g`, `d_u` the units to which `g` and `u` are rounded, `c[i]` the half step of
    /// the hidden vector's group:
    ///
    /// - `|dg| <= sum_j |G[i][j]| a[j] + d_g / 2`, and `du` likewise;
    /// - `|ds| <= 1.1 |dg| + (|g| + |dg|) * 2^-18 + d_g / 2`: the slope of `silu` is at most 1.0998; its sigmoid is off
    ///   by 2^-25 and by a quarter of the 2^-17 to which its argument is rounded;
    /// - `|dh| <= |ds| (|u| + |du|) + |s| |du|`;
    /// - `|dy[r]| <= sum_i |D[r][i]| (|dh[i]| + c[i])`.
    ///
    /// In practice the half steps `a` and `c` are all of it: 8-bit activations.
    ///
    /// # Errors
    /// [`ExpertError::Mismatch`] if the vector was quantised for another shape, [`ExpertError::Buffer`] for wrong
    /// buffers.
    pub fn forward(&self, x: &Activations<'_>, scratch: Scratch<'_>, out: &mut [i64]) -> Result<i32, ExpertError> {
        let layout = self.input();
        if !x.fits(layout) {
            return Err(ExpertError::Mismatch);
        }
        if scratch.hidden.len() != layout.rows() {
            return Err(ExpertError::Buffer);
        }
        if layout.columns() <= FEW {
            self.fill_hidden::<FEW_BLOCKS>(x, scratch.hidden);
        } else {
            self.fill_hidden::<MANY_BLOCKS>(x, scratch.hidden);
        }
        let exponents = exponent_of(&self.gate, x).saturating_add(exponent_of(&self.up, x));
        let exponent = exponents.saturating_add(shift_to_31_bits(layout).wrapping_mul(2) as i32);
        let hidden = Activations::quantise(scratch.hidden, exponent, self.hidden(), scratch.codes, scratch.groups)?;
        matvec(&self.down, &hidden, out)
    }

    /// The hidden vector, for matrices of at most so many blocks, where kernels want room for them.
    #[inline(never)]
    fn fill_hidden<const BLOCKS: usize>(&self, x: &Activations<'_>, hidden: &mut [i64]) {
        let (shift, gate_exponent) = (shift_to_31_bits(self.input()), exponent_of(&self.gate, x));
        let (mut gate_room, mut up_room) = (Room::<BLOCKS>::new(), Room::<BLOCKS>::new());
        let gate = Kernel::new(self.gate.layout(), x, &mut gate_room);
        let up = Kernel::new(self.up.layout(), x, &mut up_room);
        let rows = with_ahead(&self.gate).zip(with_ahead(&self.up));
        for (hidden, ((gate_row, gate_next), (up_row, up_next))) in hidden.iter_mut().zip(rows) {
            gate_next.iter().for_each(|row| gate.fetch(row));
            up_next.iter().for_each(|row| up.fetch(row));
            let g = gate.run(&gate_row);
            let u = rounded_shift(up.run(&up_row), shift);
            let silu = rounded_product(rounded_shift(g, shift), sigmoid(to_logit(g, gate_exponent)).to_bits());
            // Both are below 2^31.
            *hidden = silu.wrapping_mul(u);
        }
    }
}

/// The shift that brings every result of a row to less than 2^30.
fn shift_to_31_bits(layout: &Layout) -> u32 {
    let column_bits = usize::BITS.wrapping_sub(layout.padded_columns().leading_zeros());
    column_bits.wrapping_add(BITS_PER_COLUMN - 30)
}

/// `value / 2^shift`, to nearest, halves up; `shift` from 1 to 62.
fn rounded_shift(value: i64, shift: u32) -> i64 {
    value.wrapping_shr(shift.wrapping_sub(1)).wrapping_add(1) >> 1
}

/// `value * factor` with the factor in `U1F31`, to nearest, halves up. `value` below 2^31.
fn rounded_product(value: i64, factor: u32) -> i64 {
    rounded_shift(value.wrapping_mul(factor.into()), 31)
}

/// `value * 2^exponent` in `I16F16`, to nearest, halves up, saturating.
fn to_logit(value: i64, exponent: i32) -> Logit {
    let shift = exponent.saturating_add(LOGIT_FRACTION);
    let bits = match shift {
        ..-62 => 0,
        -62..0 => rounded_shift(value, shift.unsigned_abs()),
        0 => value,
        1.. => value
            .saturating_mul(1i64.checked_shl(shift.unsigned_abs()).filter(|&factor| factor > 0).unwrap_or(i64::MAX)),
    };
    Logit::from_bits(bits.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{oracle, strategies};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// A packed matrix of random codes, scales near `scale * 2^exponent`, and its weights in `f64`.
    struct Random {
        bytes: Vec<u8>,
        weights: Vec<Vec<f64>>,
    }

    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as u32
        }
    }

    impl Random {
        fn new(layout: &Layout, numbers: &mut Numbers) -> Self {
            let mut bytes = vec![0; layout.byte_len() as usize];
            layout.write(&mut bytes).unwrap();
            for row in bytes[16..].chunks_exact_mut(layout.row_bytes()) {
                let codes: Vec<u8> =
                    (0..layout.columns()).map(|_| numbers.next() as u8 & ((1 << layout.bits()) - 1)).collect();
                let scales: Vec<u16> = (0..layout.groups()).map(|_| 8_192 + (numbers.next() as u16 & 0x7FFF)).collect();
                let zeros: Vec<u8> = (0..layout.groups()).map(|_| 96 + (numbers.next() as u8 & 63)).collect();
                layout.pack_row(&codes, &scales, &zeros, row).unwrap();
            }
            let unit = 2f64.powi(i32::from(layout.exponent()));
            let rows =
                Matrix::new(&bytes).unwrap().rows().map(|row| row.weights().map(|w| f64::from(w) * unit).collect());
            let weights = rows.collect();
            Self { bytes, weights }
        }
    }

    fn half_steps(vector: &Activations<'_>) -> Vec<f64> {
        let unit = 2f64.powi(vector.exponent());
        let steps = vector
            .groups
            .iter()
            .flat_map(|group| core::iter::repeat_n(f64::from(group.scale) * unit / 2.0, vector.group));
        steps.collect()
    }

    fn sum_abs(row: &[f64], errors: &[f64]) -> f64 {
        row.iter().zip(errors).map(|(w, e)| w.abs() * e).sum()
    }

    fn product(row: &[f64], x: &[f64]) -> f64 {
        row.iter().zip(x).map(|(w, x)| w * x).sum()
    }

    /// Runs one expert both ways and checks every output against the bound of the documentation.
    fn check(bits: [u8; 3], group: u8, columns: u32, inner: u32, exponent: i8, seed: u64) {
        let mut numbers = Numbers(seed);
        let gate_layout = Layout::new(bits[0], group, exponent, inner, columns).unwrap();
        let up_layout = Layout::new(bits[1], group, exponent, inner, columns).unwrap();
        let down_layout = Layout::new(bits[2], 32, exponent, columns, inner).unwrap();
        let [gate, up, down] = [gate_layout, up_layout, down_layout].map(|layout| Random::new(&layout, &mut numbers));
        let input: Vec<i32> = (0..columns).map(|_| (numbers.next() as i32 >> 13) - (1 << 17)).collect(); // I16F16, -2 to 2
        let x: Vec<f64> = input.iter().map(|&x| f64::from(x) / 65_536.0).collect();

        let matrix = |random: &'_ Random| -> Matrix<'static> { Matrix::new(random.bytes.clone().leak()).unwrap() };
        let expert = Expert::new(matrix(&gate), matrix(&up), matrix(&down)).unwrap();
        let (mut codes, mut groups) =
            (vec![0; gate_layout.padded_columns()], vec![ActivationGroup::default(); gate_layout.groups()]);
        let vector = Activations::quantise(&input, -16, &gate_layout, &mut codes, &mut groups).unwrap();
        let (mut hidden, mut out) = (vec![0; inner as usize], vec![0; columns as usize]);
        let (mut codes, mut groups) =
            (vec![0; down_layout.padded_columns()], vec![ActivationGroup::default(); down_layout.groups()]);
        let scratch = Scratch { hidden: &mut hidden, codes: &mut codes, groups: &mut groups };
        let out_exponent = expert.forward(&vector, scratch, &mut out).unwrap();

        let a = half_steps(&vector);
        let shift = shift_to_31_bits(&gate_layout) as i32;
        let unit = 2f64.powi(vector.exponent() + i32::from(exponent) + shift);
        let (mut h, mut dh) = (Vec::new(), Vec::new());
        for (gate, up) in gate.weights.iter().zip(&up.weights) {
            let (g, u) = (product(gate, &x), product(up, &x));
            let (dg, du) = (sum_abs(gate, &a) + unit / 2.0, sum_abs(up, &a) + unit / 2.0);
            let s = g / (1.0 + (-g).exp());
            let ds = 1.1 * dg + (g.abs() + dg) * 2f64.powi(-18) + unit / 2.0;
            h.push(s * u);
            dh.push(ds * (u.abs() + du) + s.abs() * du);
        }
        // The hidden vector's steps as they were: the exponent of the hidden values is twice that of the rounded
        // products.
        let hidden = Activations::quantise(
            &hidden,
            2 * (vector.exponent() + i32::from(exponent) + shift),
            &down_layout,
            &mut codes,
            &mut groups,
        )
        .unwrap();
        let c = half_steps(&hidden);
        let error: Vec<f64> = dh.iter().zip(&c).map(|(dh, c)| dh + c).collect();
        for (row, out) in down.weights.iter().zip(&out) {
            let (exact, found) = (product(row, &h), *out as f64 * 2f64.powi(out_exponent));
            let bound = sum_abs(row, &error) * (1.0 + 1e-9);
            assert!((exact - found).abs() <= bound, "{found} for {exact}, bound {bound}");
            assert!(bound.is_finite());
        }
        // The bound is no excuse: on random numbers the errors average out far below it.
        let (error, size) = down.weights.iter().zip(&out).fold((0.0, 0.0), |(error, size), (row, out)| {
            let exact = product(row, &h);
            (error + (exact - *out as f64 * 2f64.powi(out_exponent)).powi(2), size + exact * exact)
        });
        assert!(error <= 0.05f64.powi(2) * size, "relative error {}", (error / size).sqrt());
    }

    #[test]
    fn a_small_expert_of_every_width_meets_the_bound() {
        for bits in 1..=4 {
            check([bits; 3], 64, 192, 96, -22, u64::from(bits));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn products_are_those_of_one_weight_after_the_other(
            bytes in strategies::matrix(), values in prop::collection::vec(any::<i32>(), 700),
        ) {
            let matrix = Matrix::new(&bytes).unwrap();
            let layout = matrix.layout();
            let mut codes = vec![0; layout.padded_columns()];
            let mut groups = vec![ActivationGroup::default(); layout.groups()];
            let values = &values[..layout.columns()];
            let vector = Activations::quantise(values, 0, layout, &mut codes, &mut groups).unwrap();
            let mut out = vec![0; layout.rows()];
            matvec(&matrix, &vector, &mut out).unwrap();
            prop_assert!(out.iter().map(|&sum| i128::from(sum)).eq(oracle::matvec(&matrix, &vector)));
        }

        #[test]
        fn every_expert_meets_the_bound(
            bits in prop::array::uniform3(1u8..=4),
            group in prop::sample::select(vec![32u8, 64, 128]),
            columns in 16u32..300,
            inner in 16u32..300,
            exponent in -30i8..-12,
            seed: u64,
        ) {
            check(bits, group, columns, inner, exponent, seed);
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let bytes = |layout: &Layout| -> &'static [u8] {
            let mut bytes = vec![0; layout.byte_len() as usize];
            layout.write(&mut bytes).unwrap();
            bytes.leak()
        };
        let layout = Layout::new(4, 32, 0, 8, 40).unwrap();
        let (wide, down) = (Layout::new(4, 64, 0, 8, 40).unwrap(), Layout::new(2, 32, 0, 40, 8).unwrap());
        let [matrix, other_group, down] = [layout, wide, down].map(|layout| Matrix::new(bytes(&layout)).unwrap());
        assert_eq!(Expert::new(matrix, other_group, down).unwrap_err(), ExpertError::Mismatch);
        assert_eq!(Expert::new(matrix, matrix, matrix).unwrap_err(), ExpertError::Mismatch);
        let expert = Expert::new(matrix, matrix, down).unwrap();

        let (mut codes, mut groups) = ([0; 64], [ActivationGroup::default(); 2]);
        let vector = Activations::quantise(&[1; 40], 0, &layout, &mut codes, &mut groups).unwrap();
        assert_eq!(matvec(&matrix, &vector, &mut [0; 7]), Err(ExpertError::Buffer));
        assert_eq!(matvec(&other_group, &vector, &mut [0; 8]), Err(ExpertError::Mismatch));
        assert_eq!(matvec(&down, &vector, &mut [0; 40]), Err(ExpertError::Mismatch));
        let run = |hidden: usize, codes: usize, groups: usize| {
            let mut hidden = vec![0; hidden];
            let (mut codes, mut groups) = (vec![0; codes], vec![ActivationGroup::default(); groups]);
            let scratch = Scratch { hidden: &mut hidden, codes: &mut codes, groups: &mut groups };
            expert.forward(&vector, scratch, &mut [0; 40]).map(|_| ())
        };
        assert_eq!(run(8, 32, 1), Ok(()));
        for (hidden, codes, groups) in [(7, 32, 1), (8, 31, 1), (8, 32, 2)] {
            assert_eq!(run(hidden, codes, groups), Err(ExpertError::Buffer));
        }
    }

    #[test]
    fn logits_round_and_saturate() {
        assert_eq!(to_logit(3, -17).to_bits(), 2); // 1.5 / 65536, halves up
        assert_eq!(to_logit(-3, -17).to_bits(), -1);
        assert_eq!(to_logit(5, -16).to_bits(), 5);
        assert_eq!(to_logit(5, 0), Logit::from_num(5));
        assert_eq!(to_logit(-(1 << 40), 0), Logit::MIN);
        assert_eq!(to_logit(1 << 61, 100), Logit::MAX);
        assert_eq!(to_logit(0, 100), Logit::ZERO);
        assert_eq!(to_logit(1 << 61, -1000), Logit::ZERO);
    }
}
