//! The few operations that the tensor library lacks or does slowly: activations and the masked softmax, in one pass
//! over memory.

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, Layout, Result, Shape, Tensor, bail};
use candle_nn::Linear;
use rayon::prelude::*;

use super::config::Activation;

/// The values of a contiguous f32 tensor in place.
pub(super) fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { bail!("expected a tensor in main memory") };
    Ok(read(values(storage, layout)?))
}

/// Multiplications below which threads cost more than they save: what a single token needs of a small model.
const FEW: usize = 1 << 18;

/// `run` for 0 to `count`, in order; on all threads if the `work`, in multiplications, is worth it.
pub(super) fn each<T: Send, E: Send>(
    count: usize,
    work: usize,
    run: impl Fn(usize) -> std::result::Result<T, E> + Send + Sync,
) -> std::result::Result<Vec<T>, E> {
    if work < FEW { (0..count).map(run).collect() } else { (0..count).into_par_iter().map(run).collect() }
}

/// Rows up to which dot products beat a matrix product, which first brings the matrix into an order of its own.
pub(super) const FEW_ROWS: usize = 8;

/// Whether a call has few rows: one token of one or a few sequences. Larger calls take matrix products for all that
/// they do, even for an expert that few of their tokens chose, so that their last bits stay what they are.
pub(super) fn few_rows(x: &Tensor) -> bool {
    x.dims()[0] <= FEW_ROWS
}

/// Rows `x` `[R, K]` times the transpose of `matrix` `[N, K]`: `[R, N]`.
pub(super) fn times_transposed(x: &Tensor, matrix: &Tensor, few: bool) -> Result<Tensor> {
    if !few {
        return x.matmul(&matrix.t()?);
    }
    let (rows, width) = x.dims2()?;
    let count = matrix.dim(0)?;
    let mut out = vec![0.0; rows * count];
    with_values(x, |x| {
        with_values(matrix, |matrix| {
            for (out, x) in out.chunks_exact_mut(count).zip(x.chunks_exact(width)) {
                let pairs = out.par_iter_mut().zip(matrix.par_chunks_exact(width));
                pairs.with_min_len(FEW / width + 1).for_each(|(out, row)| *out = dot(x, row));
            }
        })
    })??;
    Tensor::from_vec(out, (rows, count), x.device())
}

/// A linear layer on the rows of `x`.
pub(super) fn linear(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    let out = times_transposed(x, layer.weight(), few_rows(x))?;
    layer.bias().map_or(Ok(out.clone()), |bias| out.broadcast_add(bias))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("expected a contiguous tensor"),
    }
}

/// eˣ, at most e⁸⁸, with a relative error of at most 3·10⁻⁷; 0 below e⁻⁸⁷. Without branches and calls, so that loops
/// over it become vector instructions. Cody and Waite's reduction to |r| ≤ ln 2 / 2, then the Taylor polynomial of
/// degree 7, whose remainder is below r⁸/8! < 6·10⁻⁹.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // 1.5 · 2²³: adding it rounds to a whole number, which then lies in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with zeros at its end.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let inside = x.clamp(-87.0, 88.0);
    let rounded = inside * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = inside - n * LN2_HIGH - n * LN2_LOW;
    let poly = 1.0 / 5040.0;
    let poly = poly * r + 1.0 / 720.0;
    let poly = poly * r + 1.0 / 120.0;
    let poly = poly * r + 1.0 / 24.0;
    let poly = poly * r + 1.0 / 6.0;
    let poly = poly * r + 0.5;
    let poly = poly * r + 1.0;
    let poly = poly * r + 1.0;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.0 { 0.0 } else { poly * power }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Gate and up side by side `[N, 2I]` to the input of the down projection `[N, I]`.
impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let inner = width / 2;
        let mut out = vec![0.0; rows * inner];
        let pairs = values(storage, layout)?.par_chunks(width.max(1));
        out.par_chunks_mut(inner.max(1)).zip(pairs).with_min_len(64).for_each(|(out, pair)| {
            let (gate, up) = pair.split_at(inner);
            let pairs = out.iter_mut().zip(gate.iter().zip(up));
            match *self {
                Self::Silu => pairs.for_each(|(out, (&gate, &up))| *out = gate * sigmoid(gate) * up),
                Self::Clamped { alpha, limit } => pairs.for_each(|(out, (&gate, &up))| {
                    let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
                    *out = (up + 1.0) * gate * sigmoid(alpha * gate);
                }),
            }
        });
        Ok((CpuStorage::F32(out), (rows, inner).into()))
    }
}

/// Softmax in place of attention scores `[Q, K]` of queries and keys that lie behind each other; keys that a query must
/// not see get 0.
pub(super) struct MaskedSoftmax {
    /// Factor on the scores.
    pub(super) scale: f32,
    /// Position of the first query.
    pub(super) query: usize,
    /// Position of the first key.
    pub(super) key: usize,
    /// Keys that a query sees, up to its own position.
    pub(super) window: usize,
    /// Score of the sink, which takes its part of the sum.
    pub(super) sink: Option<f32>,
}

impl InplaceOp1 for MaskedSoftmax {
    fn name(&self) -> &'static str {
        "masked softmax"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (_, keys) = layout.shape().dims2()?;
        let CpuStorage::F32(values) = storage else { bail!("expected f32") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
        for (row, scores) in values[start..end].chunks_exact_mut(keys).enumerate() {
            let position = self.query + row;
            let first = (position + 1).saturating_sub(self.window).max(self.key) - self.key;
            let last = position + 1 - self.key;
            scores[..first].fill(0.0);
            scores[last..].fill(0.0);
            softmax(&mut scores[first..last], self.scale, self.sink);
        }
        Ok(())
    }
}

/// Lanes of the running maximum and sum: as many as fit the vector registers of most machines.
const LANES: usize = 8;

fn softmax(scores: &mut [f32], scale: f32, sink: Option<f32>) {
    let mut largest = [sink.unwrap_or(f32::NEG_INFINITY); LANES];
    for chunk in scores.chunks_mut(LANES) {
        for (score, largest) in chunk.iter_mut().zip(&mut largest) {
            *score *= scale;
            *largest = if *score > *largest { *score } else { *largest };
        }
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    for chunk in scores.chunks_mut(LANES) {
        for (score, sum) in chunk.iter_mut().zip(&mut sums) {
            *score = exp(*score - largest);
            *sum += *score;
        }
    }
    let total = sums.iter().sum::<f32>() + sink.map_or(0.0, |sink| exp(sink - largest));
    scores.iter_mut().for_each(|score| *score /= total);
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn exp_is_within_its_error() {
        for i in -870_000..=880_000 {
            let x = i as f32 / 10_000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "{x}");
        }
        assert_eq!((exp(-1000.0), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(1000.0).is_finite());
    }

    #[test]
    fn queries_see_their_window_only() {
        let scores = Tensor::new(&[[1.0f32, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 9.0]], &Device::Cpu).unwrap();
        let softmax = MaskedSoftmax { scale: 2.0, query: 11, key: 10, window: 2, sink: None };
        scores.inplace_op1(&softmax).unwrap();
        let rows = scores.to_vec2::<f32>().unwrap();
        let e2 = 1.0 / (1.0 + 2f32.exp());
        assert!((rows[0][0] - e2).abs() < 1e-6 && (rows[0][1] - (1.0 - e2)).abs() < 1e-6);
        assert_eq!((rows[0][2], rows[0][3]), (0.0, 0.0));
        assert_eq!(rows[1], [0.0, 0.5, 0.5, 0.0]);
    }

    #[test]
    fn few_rows_are_multiplied_alike() {
        let numbers = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let x = Tensor::from_vec(numbers(3 * 37, 0.7), (3, 37), &Device::Cpu).unwrap();
        let matrix = Tensor::from_vec(numbers(21 * 37, 0.3), (21, 37), &Device::Cpu).unwrap();
        let [dots, product] =
            [true, false].map(|few| times_transposed(&x, &matrix, few).unwrap().to_vec2::<f32>().unwrap().concat());
        assert_eq!(dots.len(), 63);
        assert!(dots.iter().zip(&product).all(|(a, b)| (a - b).abs() < 1e-5), "{dots:?} {product:?}");
    }

    #[test]
    fn a_sink_takes_its_part() {
        let mut scores = [0.0; 3];
        softmax(&mut scores, 1.0, Some(0.0));
        assert_eq!(scores, [0.25; 3]);
    }
}
