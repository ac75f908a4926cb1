//! What a matrix is multiplied with: second moments of its inputs, and the factor that GPTQ works with.

use nalgebra::{Cholesky, DMatrix, DMatrixView};

use crate::error::{Error, Result};

/// Share of the mean diagonal that is added to the diagonal, as GPTQ does.
const DAMPENING: f64 = 0.01;

/// Weighted mean of `x x^T` over inputs `x`: the Hessian of the squared error of a matrix's outputs, but for a factor
/// of two.
#[derive(Debug, Clone)]
pub(super) struct Hessian {
    /// `[N, N]`, symmetric.
    sum: DMatrix<f64>,
    weight: f64,
}

impl Hessian {
    /// Of no inputs, for matrices with `columns` inputs.
    pub(super) fn new(columns: usize) -> Self {
        Self { sum: DMatrix::zeros(columns, columns), weight: 0.0 }
    }

    /// Adds inputs `[T, N]`, row-major, that weigh `weight` all together.
    pub(super) fn add(&mut self, inputs: &[f32], weight: f64) {
        let columns = self.sum.nrows();
        let rows = inputs.len() / columns.max(1);
        if rows == 0 {
            return;
        }
        // Blocks bound the memory of the copy in f64.
        for block in inputs.chunks(1024 * columns) {
            let block: Vec<f64> = block.iter().map(|&x| f64::from(x)).collect();
            // Row-major [T, N] is column-major [N, T].
            let x = DMatrixView::from_slice(&block, columns, block.len() / columns);
            self.sum.gemm(weight / rows as f64, &x, &x.transpose(), 1.0);
        }
        self.weight += weight;
    }

    /// Inputs of the matrix.
    pub(super) fn columns(&self) -> usize {
        self.sum.nrows()
    }

    /// Mean square of each input, `[N]`.
    pub(super) fn diagonal(&self) -> Vec<f64> {
        self.sum.diagonal().iter().map(|value| value / self.weight.max(f64::MIN_POSITIVE)).collect()
    }

    /// Mean squared error of one output whose weights are off by `delta`.
    pub(super) fn error(&self, delta: &[f64]) -> f64 {
        let products = self
            .sum
            .column_iter()
            .zip(delta)
            .map(|(column, d)| d * column.as_slice().iter().zip(delta).map(|(h, d)| h * d).sum::<f64>());
        products.sum::<f64>() / self.weight.max(f64::MIN_POSITIVE)
    }

    /// The factor, dampened; with more dampening where the arithmetic needs it.
    ///
    /// # Errors
    /// If an input was not finite.
    pub(super) fn factor(&self) -> Result<Factor> {
        let n = self.columns();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| self.sum[(b, b)].total_cmp(&self.sum[(a, a)]).then(a.cmp(&b)));
        let mean = self.sum.trace() / n as f64;
        if !mean.is_finite() {
            return Err(Error::new("expected finite inputs of an expert, found one that is not"));
        }
        // Without any inputs all directions weigh the same.
        let mean = if mean > 0.0 { mean } else { 1.0 };
        let ordered = DMatrix::from_fn(n, n, |row, column| self.sum[(order[row], order[column])]);
        let mut dampening = DAMPENING;
        while dampening < 100.0 {
            let mut dampened = ordered.clone();
            (0..n).for_each(|i| dampened[(i, i)] += dampening * mean);
            let lower = Cholesky::new(dampened).and_then(|factor| Cholesky::new(factor.inverse()));
            if let Some(lower) = lower {
                return Ok(Factor { order, lower: lower.unpack() });
            }
            dampening *= 10.0;
        }
        Err(Error::new("expected inputs of an expert whose second moments can be factored, found none"))
    }
}

/// The inverse Hessian as `L L^T`, its columns in the order in which GPTQ takes them.
#[derive(Debug)]
pub(super) struct Factor {
    /// Columns of the matrix, the one with the largest input first (act-order).
    pub(super) order: Vec<usize>,
    lower: DMatrix<f64>,
}

impl Factor {
    /// How the error of the `t`-th column is spread over the columns from `t` on, itself first.
    pub(super) fn spread(&self, t: usize) -> &[f64] {
        let n = self.order.len();
        &self.lower.as_slice()[t * n + t..(t + 1) * n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantise::testing::Numbers;

    #[test]
    fn second_moments_of_weighted_inputs() {
        let mut hessian = Hessian::new(2);
        hessian.add(&[1.0, 2.0, 3.0, 4.0], 3.0);
        hessian.add(&[10.0, 0.0], 1.0);
        hessian.add(&[], 7.0);
        assert_eq!(hessian.diagonal(), [(1.5 + 13.5 + 100.0) / 4.0, (6.0 + 24.0) / 4.0]);
        // (1*1 + 2*-1)^2, (3 - 4)^2 and 10^2, weighted.
        assert!((hessian.error(&[1.0, -1.0]) - (1.5 + 1.5 + 100.0) / 4.0).abs() < 1e-12);
    }

    #[test]
    fn the_factor_gives_the_inverse() {
        let mut numbers = Numbers::new(3);
        let inputs: Vec<f32> = (0..40 * 6).map(|_| numbers.normal() as f32).collect();
        let mut hessian = Hessian::new(6);
        hessian.add(&inputs, 1.0);
        let factor = hessian.factor().unwrap();
        let n = 6;
        let mut lower = DMatrix::zeros(n, n);
        (0..n).for_each(|t| (t..n).for_each(|row| lower[(row, t)] = factor.spread(t)[row - t]));
        let mean = hessian.sum.trace() / n as f64;
        let dampened = DMatrix::from_fn(n, n, |r, c| {
            hessian.sum[(factor.order[r], factor.order[c])] + if r == c { DAMPENING * mean } else { 0.0 }
        });
        let identity = dampened * &lower * lower.transpose();
        assert!((identity - DMatrix::identity(n, n)).amax() < 1e-9);
    }

    #[test]
    fn no_inputs_and_repeated_inputs_can_be_factored() {
        assert!(Hessian::new(3).factor().is_ok());
        let mut same = Hessian::new(3);
        same.add(&[1.0, 1.0, 1.0], 1.0);
        assert!(same.factor().is_ok());
        let mut bad = Hessian::new(1);
        bad.add(&[f32::NAN], 1.0);
        assert!(bad.factor().unwrap_err().to_string().contains("finite"));
    }
}
