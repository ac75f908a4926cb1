//! A matrix to the packed format of [`cptr_core::expert`], and back.

use cptr_core::expert::{Layout, Matrix};
use rayon::prelude::*;

use super::grid::Fit;
use super::hessian::{Factor, Hessian};
use crate::error::{Error, Result};

/// Weights `[R, N]`, row-major.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    /// All values.
    pub(super) values: &'a [f32],
    /// Inputs, N.
    pub(super) columns: usize,
}

/// Width and group length of a packed matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    /// Bits per weight, 1 to 4.
    pub(super) bits: u8,
    /// Columns per scale: 32, 64 or 128.
    pub(super) group: u8,
}

/// Every weight to the nearest level of its group.
///
/// # Errors
/// If a weight is not finite or the format has no such matrix.
pub(super) fn round_to_nearest(weights: Weights<'_>, format: Format) -> Result<Vec<u8>> {
    let grids = Grids::new(weights, format, &vec![1.0; weights.columns])?;
    grids.pack(|row, fits, codes| {
        for ((code, weight), fit) in codes.iter_mut().zip(row).zip(fits.iter().flat_map(|fit| repeat(*fit, format))) {
            *code = fit.code(f64::from(*weight), format.bits);
        }
    })
}

/// GPTQ (Frantar et al., arXiv 2210.17323): column by column, the error of each is made up for by those that are still
/// to come. Columns with large inputs come first; scales are those of the weights before, fitted with the inputs' mean
/// squares as importance. The result has the lesser error on the inputs of `hessian` of GPTQ's and round-to-nearest's:
/// on hardly correlated inputs the second can win.
///
/// # Errors
/// As [`round_to_nearest`], and if the Hessian cannot be factored.
pub(super) fn gptq(weights: Weights<'_>, format: Format, inputs: &Inputs) -> Result<Vec<u8>> {
    let diagonal = inputs.hessian.diagonal();
    // Inputs that never came still need some level near their weight.
    let least = diagonal.iter().sum::<f64>() / diagonal.len().max(1) as f64 * 1e-3;
    let importance: Vec<f64> = diagonal.iter().map(|value| value.max(least).max(f64::MIN_POSITIVE)).collect();
    let grids = Grids::new(weights, format, &importance)?;
    let moved = grids.pack(|row, fits, codes| compensate(row, fits, codes, format, &inputs.factor))?;
    let nearest = round_to_nearest(weights, format)?;
    let error = |packed: &[u8]| -> Result<f64> { Ok(output_error(weights, &dequantise(packed)?, &inputs.hessian)) };
    Ok(if error(&moved)? <= error(&nearest)? { moved } else { nearest })
}

/// The inputs of a matrix as GPTQ needs them; one for all matrices that share their inputs.
#[derive(Debug)]
pub(super) struct Inputs {
    hessian: Hessian,
    factor: Factor,
}

impl Inputs {
    /// Factors the Hessian. Cost: N^3.
    ///
    /// # Errors
    /// If an input was not finite.
    pub(super) fn new(hessian: Hessian) -> Result<Self> {
        let factor = hessian.factor()?;
        Ok(Self { hessian, factor })
    }
}

/// Mean squared error of the outputs of `found` against those of `weights`, summed over the outputs.
pub(super) fn output_error(weights: Weights<'_>, found: &[f32], hessian: &Hessian) -> f64 {
    let rows = weights.values.par_chunks_exact(weights.columns).zip(found.par_chunks_exact(weights.columns));
    let errors: Vec<f64> = rows
        .map(|(row, found)| {
            let delta: Vec<f64> = row.iter().zip(found).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
            hessian.error(&delta)
        })
        .collect();
    errors.iter().sum()
}

/// The weights of a packed matrix `[R, N]`, row-major; exact, since they have 24 bits.
///
/// # Errors
/// If the bytes are no packed matrix.
pub(super) fn dequantise(packed: &[u8]) -> Result<Vec<f32>> {
    let matrix = Matrix::new(packed)?;
    let unit = 2f64.powi(matrix.layout().exponent().into());
    Ok(matrix.rows().flat_map(|row| row.weights().map(|weight| (f64::from(weight) * unit) as f32)).collect())
}

/// The same fit for every column of its group.
fn repeat(fit: Fit, format: Format) -> impl Iterator<Item = Fit> {
    std::iter::repeat_n(fit, format.group.into())
}

/// One row of GPTQ.
fn compensate(row: &[f32], fits: &[Fit], codes: &mut [u8], format: Format, factor: &Factor) {
    let mut rest: Vec<f64> = factor.order.iter().map(|&column| f64::from(row[column])).collect();
    for (t, &column) in factor.order.iter().enumerate() {
        let fit = fits[column / usize::from(format.group)];
        let code = fit.code(rest[t], format.bits);
        codes[column] = code;
        let spread = factor.spread(t);
        let error = (rest[t] - fit.value(code, format.bits)) / spread[0];
        rest[t..].iter_mut().zip(spread).for_each(|(weight, share)| *weight -= error * share);
    }
}

/// Scales and zero points of a whole matrix, as they are stored.
struct Grids<'a> {
    weights: Weights<'a>,
    layout: Layout,
    /// `[R, G]`, with scales as the mantissas give them.
    fits: Vec<Fit>,
}

impl<'a> Grids<'a> {
    fn new(weights: Weights<'a>, format: Format, importance: &[f64]) -> Result<Self> {
        let Weights { values, columns } = weights;
        if columns == 0 || values.is_empty() || !values.len().is_multiple_of(columns) {
            let found = values.len();
            return Err(Error::new(format!("expected rows of {columns} weights, found {found} values")));
        }
        if let Some(bad) = values.par_iter().position_first(|value| !value.is_finite()) {
            let place = format!("row {}, column {}", bad / columns, bad % columns);
            return Err(Error::new(format!("expected finite weights, found {}", values[bad])).at(place));
        }
        let group = usize::from(format.group).max(1);
        let fits: Vec<Fit> = values
            .par_chunks_exact(columns)
            .flat_map_iter(|row| {
                row.chunks(group).zip(importance.chunks(group)).map(|(weights, importance)| {
                    let weights: Vec<f64> = weights.iter().map(|&weight| weight.into()).collect();
                    Fit::of(&weights, importance, format.bits)
                })
            })
            .collect();
        let largest = fits.iter().map(|fit| fit.scale).fold(0.0, f64::max);
        let exponent = exponent_for(largest)?;
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let layout = Layout::new(format.bits, format.group, exponent, size(values.len() / columns), size(columns))?;
        let unit = 2f64.powi(exponent.into());
        let stored = |fit: Fit| Fit { scale: (fit.scale / unit).round().min(65_535.0) * unit, ..fit };
        Ok(Self { weights, layout, fits: fits.into_iter().map(stored).collect() })
    }

    /// Packs the rows, whose codes `quantise` finds from weights and fits of the row.
    fn pack(&self, quantise: impl Fn(&[f32], &[Fit], &mut [u8]) + Sync) -> Result<Vec<u8>> {
        let (layout, columns) = (&self.layout, self.weights.columns);
        let mut bytes = vec![
            0;
            usize::try_from(layout.byte_len())
                .map_err(|_| Error::new("a matrix of more bytes than memory has"))?
        ];
        layout.write(&mut bytes)?;
        let header = bytes.len() - layout.rows() * layout.row_bytes();
        let unit = 2f64.powi(layout.exponent().into());
        let rows = self.weights.values.par_chunks_exact(columns).zip(self.fits.par_chunks_exact(layout.groups()));
        bytes[header..].par_chunks_exact_mut(layout.row_bytes()).zip(rows).try_for_each(|(bytes, (row, fits))| {
            let mut codes = vec![0; columns];
            quantise(row, fits, &mut codes);
            let scales: Vec<u16> = fits.iter().map(|fit| (fit.scale / unit) as u16).collect();
            let zeros: Vec<u8> = fits.iter().map(|fit| fit.zero).collect();
            layout.pack_row(&codes, &scales, &zeros, bytes)
        })?;
        Ok(bytes)
    }
}

/// The power of two that brings the largest scale below 2^16, and no further.
fn exponent_for(largest: f64) -> Result<i8> {
    if largest == 0.0 {
        return Ok(0);
    }
    let exponent = (largest / 65_535.0).log2().ceil();
    // Weights that small are zeros.
    i8::try_from(exponent.max(-128.0) as i64)
        .map_err(|_| Error::new(format!("expected weights below 2^150, found scales of {largest:e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantise::testing::Numbers;

    const COLUMNS: usize = 96;
    const ROWS: usize = 24;

    /// Inputs `[T, N]` that live near a subspace, as those of real layers do, and have some large columns.
    fn correlated(numbers: &mut Numbers, tokens: usize) -> Vec<f32> {
        let mut basis_numbers = Numbers::new(99);
        let basis: Vec<f64> = (0..12 * COLUMNS).map(|_| basis_numbers.normal()).collect();
        let mut inputs = Vec::new();
        for _ in 0..tokens {
            let parts: Vec<f64> = (0..12).map(|_| numbers.normal()).collect();
            inputs.extend((0..COLUMNS).map(|column| {
                let sum: f64 = parts.iter().enumerate().map(|(i, part)| part * basis[i * COLUMNS + column]).sum();
                let large = if column % 31 == 0 { 4.0 } else { 1.0 };
                (large * (sum + 0.5 * numbers.normal())) as f32
            }));
        }
        inputs
    }

    fn weights(numbers: &mut Numbers) -> Vec<f32> {
        (0..ROWS * COLUMNS).map(|_| (0.05 * numbers.normal()) as f32).collect()
    }

    fn hessian(inputs: &[f32]) -> Hessian {
        let mut hessian = Hessian::new(COLUMNS);
        hessian.add(inputs, 1.0);
        hessian
    }

    #[test]
    fn rounding_errors_are_within_half_a_level_unless_clipped() {
        let values = weights(&mut Numbers::new(5));
        let weights = Weights { values: &values, columns: COLUMNS };
        for group in [32, 64, 128] {
            let mut last = f64::INFINITY;
            for bits in 1..=4 {
                let packed = round_to_nearest(weights, Format { bits, group }).unwrap();
                let found = dequantise(&packed).unwrap();
                assert_eq!(found.len(), values.len());
                let error: f64 = values.iter().zip(&found).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let size: f64 = values.iter().map(|a| f64::from(*a).powi(2)).sum();
                // The best 1-bit grid of a normal distribution leaves 1 - 2/pi of its variance.
                assert!(error < last && error < size * 0.37, "{bits} bits: {error} of {size}");
                last = error;
            }
            assert!(last < 0.015 * values.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>());
        }
    }

    #[test]
    fn gptq_beats_rounding_on_inputs_that_it_has_not_seen() {
        let mut numbers = Numbers::new(7);
        for bits in 1..=4 {
            let (mut ratio, mut experts) = (0.0, 0);
            for _ in 0..6 {
                let values = weights(&mut numbers);
                let weights = Weights { values: &values, columns: COLUMNS };
                let (seen, held_out) =
                    (hessian(&correlated(&mut numbers, 400)), hessian(&correlated(&mut numbers, 400)));
                let format = Format { bits, group: 32 };
                let inputs = Inputs::new(seen).unwrap();
                let error = |packed: Vec<u8>| output_error(weights, &dequantise(&packed).unwrap(), &held_out);
                let (gptq, rtn) =
                    (error(gptq(weights, format, &inputs).unwrap()), error(round_to_nearest(weights, format).unwrap()));
                assert!(gptq <= rtn, "{bits} bits: {gptq} > {rtn}");
                ratio += gptq / rtn;
                experts += 1;
            }
            assert!(ratio / f64::from(experts) < 0.6, "{bits} bits: mean ratio {}", ratio / f64::from(experts));
        }
    }

    #[test]
    fn gptq_never_loses_on_its_own_inputs() {
        let mut numbers = Numbers::new(11);
        for tokens in [0, 1, 5, 50] {
            let values = weights(&mut numbers);
            let weights = Weights { values: &values, columns: COLUMNS };
            let format = Format { bits: 2, group: 64 };
            let inputs = Inputs::new(hessian(&correlated(&mut numbers, tokens))).unwrap();
            let error = |packed: Vec<u8>| output_error(weights, &dequantise(&packed).unwrap(), &inputs.hessian);
            assert!(
                error(gptq(weights, format, &inputs).unwrap()) <= error(round_to_nearest(weights, format).unwrap())
            );
        }
    }

    #[test]
    fn extreme_scales_and_zeros() {
        for scale in [0.0, 1e-30, 1e-20, 1e30] {
            let values: Vec<f32> = (0..64).map(|i| (i as f32 - 31.5) * scale).collect();
            let packed =
                round_to_nearest(Weights { values: &values, columns: 64 }, Format { bits: 4, group: 32 }).unwrap();
            for (value, found) in values.iter().zip(dequantise(&packed).unwrap()) {
                assert!((value - found).abs() <= 2.0 * scale, "{found} for {value}");
            }
        }
    }

    #[test]
    fn weights_below_the_smallest_scale_are_zeros() {
        let packed =
            round_to_nearest(Weights { values: &[1e-42; 32], columns: 32 }, Format { bits: 4, group: 32 }).unwrap();
        assert_eq!(dequantise(&packed).unwrap(), [0.0; 32]);
    }

    #[test]
    fn refuses_bad_weights_and_formats() {
        let refusal = |values: &[f32], columns, bits, group| {
            round_to_nearest(Weights { values, columns }, Format { bits, group }).unwrap_err().to_string()
        };
        let mut values = vec![1.0; 64];
        assert_eq!(refusal(&values, 33, 4, 32), "expected rows of 33 weights, found 64 values");
        assert_eq!(refusal(&values, 32, 5, 32), "bits per weight are not 1, 2, 3 or 4");
        assert_eq!(refusal(&values, 32, 4, 16), "group length is not 32, 64 or 128");
        assert_eq!(refusal(&[], 32, 4, 32), "expected rows of 32 weights, found 0 values");
        values[40] = f32::NAN;
        assert_eq!(refusal(&values, 32, 4, 32), "row 1, column 8: expected finite weights, found NaN");
    }
}
