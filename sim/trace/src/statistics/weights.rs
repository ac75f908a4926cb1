//! What the recorded mixing weights sum to, and whether they agree with the order of the ids.

use serde::Serialize;

use crate::array::FloatArray;

/// Sums that differ from 1 by no more count as 1: four bf16 values round by up to 0.004 together.
const SUM_TOLERANCE: f64 = 0.01;

/// Statistics of the recorded weights over all tokens and layers ("rows" of k weights).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WeightStatistics {
    /// Mean sum of a row.
    pub sum_mean: f64,
    /// Smallest sum.
    pub sum_min: f64,
    /// Largest sum.
    pub sum_max: f64,
    /// Share of rows that sum to 1 within 0.01.
    pub sums_to_one: f64,
    /// Share of rows whose ids are not in the order of their weights.
    pub not_in_order: f64,
    /// Share of tokens whose weights are all the same number in every layer.
    pub equal_in_all_layers: f64,
}

/// Cost: `O(T L k)`.
pub(super) fn weight_statistics(weights: &FloatArray) -> WeightStatistics {
    let [tokens, layers, k] = weights.shape();
    let mut row = vec![0.0_f32; k];
    let (mut total, mut smallest, mut largest) = (0.0, f64::INFINITY, 0.0_f64);
    let (mut ones, mut unsorted, mut equal_tokens) = (0_u64, 0_u64, 0_u64);
    for token in 0..tokens {
        let mut equal = true;
        for layer in 0..layers {
            weights.read_row(token, layer, &mut row);
            let sum: f64 = row.iter().map(|&w| f64::from(w)).sum();
            total += sum;
            smallest = smallest.min(sum);
            largest = largest.max(sum);
            ones += u64::from((sum - 1.0).abs() <= SUM_TOLERANCE);
            unsorted += u64::from(!row.is_sorted_by(|a, b| a >= b));
            equal &= row.iter().all(|&w| w == row[0]);
        }
        equal_tokens += u64::from(equal);
    }
    let rows = (tokens * layers) as f64;
    WeightStatistics {
        sum_mean: total / rows,
        sum_min: smallest,
        sum_max: largest,
        sums_to_one: ones as f64 / rows,
        not_in_order: unsorted as f64 / rows,
        equal_in_all_layers: equal_tokens as f64 / tokens as f64,
    }
}
