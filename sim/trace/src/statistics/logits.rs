//! The router's raw scores as a signal: spread, memory, and how narrow the choice is.

use serde::Serialize;

use super::view::{View, mean};
use crate::array::FloatArray;

/// Distances in tokens at which the autocorrelation is reported.
pub(super) const LAGS: [usize; 5] = [1, 2, 4, 8, 16];

/// Statistics of the recorded logits, in logit units (natural logarithm).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogitStatistics {
    /// Standard deviation over the experts of one token and layer, mean over tokens and layers: the scale to compare
    /// the gaps with.
    pub standard_deviation: f64,
    /// Autocorrelation of an expert's logit over time: deviations from its mean over the trace, pairs within sequences
    /// only, divided by its variance over the trace; mean over experts (those that never change left out) and layers.
    pub autocorrelation: Vec<LagCorrelation>,
    /// Median over tokens and layers of the gap between the k-th and the next logit; `None` where k = E, as below.
    /// Selection bias and groups do not enter: the gap is of the logits alone.
    pub gap_median: Option<f64>,
    /// Its 10 % quantile: a tenth of all choices would change if one score moved by so much.
    pub gap_quantile_10: Option<f64>,
}

/// Autocorrelation at one distance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LagCorrelation {
    /// Distance in tokens.
    pub lag: usize,
    /// Correlation, -1..=1 up to the effect of the ends.
    pub correlation: f64,
}

/// Cost: `O(T L E)` reads, twice, on one thread; memory `8 T L` bytes for the gaps.
pub(super) fn logit_statistics(view: &View, logits: &FloatArray) -> LogitStatistics {
    let layers: Vec<LayerStatistics> =
        (0..view.shape.layers).map(|layer| LayerStatistics::new(view, logits, layer)).collect();
    let autocorrelation = LAGS.iter().enumerate().filter_map(|(i, &lag)| {
        let correlation = mean(layers.iter().flat_map(|layer| layer.correlations[i].iter().copied()))?;
        Some(LagCorrelation { lag, correlation })
    });
    let mut gaps: Vec<f32> = layers.iter().flat_map(|layer| layer.gaps.iter().copied()).collect();
    LogitStatistics {
        standard_deviation: mean(layers.iter().map(|layer| layer.standard_deviation)).unwrap_or(0.0),
        autocorrelation: autocorrelation.collect(),
        gap_median: quantile(&mut gaps, 0.5),
        gap_quantile_10: quantile(&mut gaps, 0.1),
    }
}

/// The value that the share `q` of the values does not exceed (nearest rank).
fn quantile(values: &mut [f32], q: f64) -> Option<f64> {
    let rank = ((values.len() as f64 * q).ceil() as usize).max(1) - 1;
    (rank < values.len()).then(|| f64::from(*values.select_nth_unstable_by(rank, f32::total_cmp).1))
}

/// Reads a row; a masked expert counts as the least of those that are not.
fn read(logits: &FloatArray, token: usize, layer: usize, row: &mut [f32]) {
    logits.read_row(token, layer, row);
    if row.contains(&f32::NEG_INFINITY) {
        let least = row.iter().copied().filter(|z| z.is_finite()).fold(f32::INFINITY, f32::min);
        row.iter_mut().filter(|z| **z == f32::NEG_INFINITY).for_each(|z| *z = least);
    }
}

struct LayerStatistics {
    standard_deviation: f64,
    /// `[LAGS]`, each per expert.
    correlations: Vec<Vec<f64>>,
    gaps: Vec<f32>,
}

impl LayerStatistics {
    fn new(view: &View, logits: &FloatArray, layer: usize) -> Self {
        let (tokens, experts) = (view.shape.tokens, logits.shape()[2]);
        let mut row = vec![0.0_f32; experts];
        let mut moments = vec![(0.0_f64, 0.0_f64); experts];
        let (mut gaps, mut deviations) = (Vec::new(), 0.0);
        for token in 0..tokens {
            read(logits, token, layer, &mut row);
            for ((sum, squares), &z) in moments.iter_mut().zip(&row) {
                *sum += f64::from(z);
                *squares += f64::from(z) * f64::from(z);
            }
            deviations += standard_deviation(&row);
            gaps.extend(gap(&mut row, view.shape.k));
        }
        let n = tokens as f64;
        let means: Vec<f64> = moments.iter().map(|m| m.0 / n).collect();
        let variances: Vec<f64> = moments.iter().zip(&means).map(|(m, mean)| m.1 / n - mean * mean).collect();
        let covariances = covariances(view, logits, layer, &means);
        let correlations = covariances.iter().map(|lag| {
            // A constant leaves rounding errors of its square behind.
            let varies = |e: usize| variances[e] > 1e-12 * (1.0 + means[e] * means[e]);
            lag.iter().enumerate().filter(|&(e, _)| varies(e)).map(|(e, c)| c / variances[e]).collect()
        });
        Self { standard_deviation: deviations / n, correlations: correlations.collect(), gaps }
    }
}

/// `[LAGS][E]` mean products of deviations; empty for a lag without pairs. Keeps the last rows in a ring.
fn covariances(view: &View, logits: &FloatArray, layer: usize, means: &[f64]) -> Vec<Vec<f64>> {
    let (experts, depth) = (means.len(), LAGS[LAGS.len() - 1] + 1);
    let mut row = vec![0.0_f32; experts];
    let mut ring = vec![vec![0.0_f64; experts]; depth];
    let mut sums = vec![vec![0.0_f64; experts]; LAGS.len()];
    let mut pairs = [0_u64; LAGS.len()];
    for sequence in &view.sequences {
        for token in sequence.clone() {
            read(logits, token, layer, &mut row);
            let now = &mut ring[token % depth];
            for ((deviation, &z), mean) in now.iter_mut().zip(&row).zip(means) {
                *deviation = f64::from(z) - mean;
            }
            for (i, &lag) in LAGS.iter().enumerate().filter(|&(_, &lag)| token >= sequence.start + lag) {
                let (now, before) = (&ring[token % depth], &ring[(token - lag) % depth]);
                for ((sum, a), b) in sums[i].iter_mut().zip(now).zip(before) {
                    *sum += a * b;
                }
                pairs[i] += 1;
            }
        }
    }
    for (sums, &pairs) in sums.iter_mut().zip(&pairs) {
        sums.iter_mut().for_each(|sum| *sum /= pairs as f64);
        if pairs == 0 {
            sums.clear();
        }
    }
    sums
}

fn standard_deviation(row: &[f32]) -> f64 {
    let n = row.len() as f64;
    let mean = row.iter().map(|&z| f64::from(z)).sum::<f64>() / n;
    (row.iter().map(|&z| (f64::from(z) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Gap between the k-th and the next value; reorders `row`.
fn gap(row: &mut [f32], k: usize) -> Option<f32> {
    if k >= row.len() {
        return None;
    }
    let (larger, next, _) = row.select_nth_unstable_by(k, |a, b| b.total_cmp(a));
    let next = *next;
    larger.iter().copied().min_by(f32::total_cmp).map(|kth| kth - next)
}

#[cfg(test)]
mod tests {
    use super::super::test_traces::{random, trace, uniform, view};
    use super::*;

    fn of(lengths: &[usize], experts: usize, k: usize, z: impl Fn(usize, usize) -> f32) -> LogitStatistics {
        let trace = trace(experts, 1, lengths, |_, _| (0..k as u16).collect());
        let tokens = trace.shape.tokens;
        let values = (0..tokens * experts).map(|i| z(i / experts, i % experts)).collect();
        logit_statistics(&view(&trace), &FloatArray::owned([tokens, 1, experts], values))
    }

    #[test]
    fn an_alternating_signal() {
        // +1 and -1 in turn, shifted by expert; a constant expert does not count.
        let found = of(
            &[40],
            3,
            1,
            |token, e| if e == 2 { 5.0 } else { (1 - 2 * (token as i32 % 2)) as f32 + 10.0 * e as f32 },
        );
        let at = |i: usize| found.autocorrelation[i];
        assert_eq!((at(0).lag, at(1).lag), (1, 2));
        assert!((at(0).correlation + 1.0).abs() < 1e-9 && (at(1).correlation - 1.0).abs() < 1e-9);
        // Values 1, 11, 5 and -1, 9, 5: gaps 6 and 4.
        assert_eq!((found.gap_median, found.gap_quantile_10), (Some(4.0), Some(4.0)));
        let sigma = |a: f64, b: f64, c: f64| {
            let mean = (a + b + c) / 3.0;
            (((a - mean).powi(2) + (b - mean).powi(2) + (c - mean).powi(2)) / 3.0).sqrt()
        };
        assert!((found.standard_deviation - (sigma(1.0, 11.0, 5.0) + sigma(-1.0, 9.0, 5.0)) / 2.0).abs() < 1e-9);
    }

    #[test]
    fn pairs_do_not_cross_sequences() {
        // Two sequences, each constant: perfect correlation inside; across it would be broken.
        let found = of(&[6, 6], 2, 1, |token, _| if token < 6 { 1.0 } else { -1.0 });
        assert_eq!(found.autocorrelation.iter().map(|point| point.lag).collect::<Vec<_>>(), [1, 2, 4]);
        assert!(found.autocorrelation.iter().all(|point| (point.correlation - 1.0).abs() < 1e-9));
    }

    #[test]
    fn a_first_order_process_has_its_powers() {
        let mut random = random();
        let mut state = 0.0_f64;
        let values: Vec<f32> = (0..40_000)
            .map(|_| {
                state = 0.8 * state + uniform(&mut random) - 0.5;
                state as f32
            })
            .collect();
        let found = of(&[40_000], 1, 1, |token, _| values[token]);
        for point in &found.autocorrelation {
            let expected = 0.8_f64.powi(point.lag as i32);
            assert!((point.correlation - expected).abs() < 0.04, "{point:?}, expected {expected}");
        }
        assert_eq!(found.gap_median, None);
    }

    #[test]
    fn quantiles_by_nearest_rank() {
        let mut values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&mut values, 0.5), Some(2.0));
        assert_eq!(quantile(&mut values, 0.1), Some(1.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
