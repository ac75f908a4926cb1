//! What a run found, as rows for tables, JSON and plots.

use serde::Serialize;

use super::context::Context;
use super::runner::RowLayer;
use super::{BINS, Plan, RowPlan};
use cptr_trace::{Knowledge, Trace};

/// Result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// What was run.
    pub trace: TraceSummary,
    /// Name of the system.
    pub system: String,
    /// How times were computed.
    pub time_method: &'static str,
    /// Model whose sizes the times are for; `None`: no times.
    pub model: Option<String>,
    /// Experts per layer in fast memory.
    pub cache: usize,
    /// One row per policy and placement.
    pub rows: Vec<Row>,
    /// Rows that the trace does not allow.
    pub skipped: Vec<Skipped>,
    /// What the tracker saw.
    pub context: Context,
}

/// The trace of an [`Outcome`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceSummary {
    /// Model name as the trace gives it.
    pub model: String,
    /// Tokens T.
    pub tokens: usize,
    /// Layers L.
    pub layers: usize,
    /// Experts per layer E.
    pub experts: usize,
    /// Experts per token k.
    pub k: usize,
    /// What the trace recorded.
    pub recorded: String,
    /// Domain names.
    pub domains: Vec<String>,
}

impl TraceSummary {
    pub fn new(trace: &Trace) -> Self {
        let shape = trace.shape;
        Self {
            model: trace.meta.model.clone(),
            tokens: shape.tokens,
            layers: shape.layers,
            experts: shape.experts,
            k: shape.k,
            recorded: trace.knowledge().to_string(),
            domains: trace.meta.domains.clone(),
        }
    }
}

/// Figures of one policy and placement. Rates are means over tokens, then over layers; shares are between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Policy with its parameters.
    pub policy: String,
    /// Placement with its parameters.
    pub placement: String,
    /// Whether the placement sees the future.
    pub oracle: bool,
    /// Experts per layer in fast memory.
    pub cache: usize,
    /// Share of the experts run that the previous token of the sequence did not run; `None` if no token has a predecessor.
    pub switch_rate: Option<f64>,
    /// Share of the experts run that were not in fast memory.
    pub miss_rate: f64,
    /// Share of the wanted routing mass given up.
    pub mass_loss: f64,
    /// Share of the experts run that the model wanted.
    pub agreement: f64,
    /// Experts copied into fast memory per token, all layers.
    pub loads_per_token: f64,
    /// Mean time of a token in microseconds, expert layers with attention; `None` if the model's sizes are unknown.
    pub token_time_us: Option<f64>,
    /// Median.
    pub token_time_p50_us: Option<f64>,
    /// 95th percentile.
    pub token_time_p95_us: Option<f64>,
    /// 99th percentile.
    pub token_time_p99_us: Option<f64>,
    /// Mean busy time of the GPU per token.
    pub gpu_us: Option<f64>,
    /// Mean busy time of the link per token.
    pub link_us: Option<f64>,
    /// Mean busy time of the near-data device per token.
    pub ndp_us: Option<f64>,
    /// Mean busy time of the controller per token: selection and update. 0 on systems without one.
    pub controller_us: Option<f64>,
    /// The same over the mean time of a token; the update goes on beside the experts' runs, so this is not what the controller adds.
    pub controller_share: Option<f64>,
    /// Mean energy of a token in microjoules, dynamic energy of all units.
    pub energy_uj_per_token: Option<f64>,
    /// Token time over that of the first row, the raw router with LRU.
    pub ratio_to_raw: Option<f64>,
    /// How times were computed.
    pub time_method: &'static str,
    /// Figures by layer.
    pub by_layer: Vec<LayerRow>,
    /// Miss rate along the trace, at most [`BINS`] equal parts.
    pub miss_rate_timeline: Vec<f64>,
}

/// Figures of one layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerRow {
    /// The model's number of the layer.
    pub layer: u32,
    /// See [`Row::switch_rate`].
    pub switch_rate: Option<f64>,
    /// See [`Row::miss_rate`].
    pub miss_rate: f64,
    /// See [`Row::mass_loss`].
    pub mass_loss: f64,
}

/// A row that the trace does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Policy with its parameters.
    pub policy: String,
    /// Placement with its parameters.
    pub placement: String,
    /// Why.
    pub reason: String,
}

impl Skipped {
    pub(super) fn new(row: &RowPlan, known: Knowledge) -> Self {
        Self {
            policy: row.policy.to_string(),
            placement: row.placement.to_string(),
            reason: format!("this needs {}, and the trace has {known}", row.policy.kind.needs),
        }
    }
}

impl Row {
    pub(super) fn new(
        trace: &Trace,
        plan: &Plan,
        row: &RowPlan,
        layers: &[&RowLayer],
        mut token_ps: Vec<u64>,
        reference_us: Option<f64>,
    ) -> Self {
        let tokens = trace.shape.tokens as f64;
        let by_layer: Vec<LayerRow> =
            layers.iter().zip(&trace.meta.layer_ids).map(|(sums, &layer)| LayerRow::new(sums, layer)).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / layers.len() as f64;
        let switches: Option<Vec<f64>> = by_layer.iter().map(|layer| layer.switch_rate).collect();
        let has_times = plan.model.is_some();
        let microseconds = |ps: f64| has_times.then_some(ps / 1e6);
        let busy =
            |part: usize| microseconds(layers.iter().map(|sums| sums.busy_ps[part] as f64).sum::<f64>() / tokens);
        let token_time_us = microseconds(token_ps.iter().map(|&ps| ps as f64).sum::<f64>() / tokens);
        let mean_of = |sum: fn(&RowLayer) -> u64| layers.iter().map(|sums| sum(sums) as f64).sum::<f64>() / tokens;
        let controller_us = microseconds(mean_of(|sums| sums.controller_ps));
        token_ps.sort_unstable();
        let percentile = |share: f64| microseconds(nearest_rank(&token_ps, share) as f64);
        Self {
            policy: row.policy.to_string(),
            placement: row.placement.to_string(),
            oracle: row.placement.kind.oracle,
            cache: plan.cache,
            switch_rate: switches.map(|rates| mean(&mut rates.into_iter())),
            miss_rate: mean(&mut by_layer.iter().map(|layer| layer.miss_rate)),
            mass_loss: mean(&mut by_layer.iter().map(|layer| layer.mass_loss)),
            agreement: mean(&mut layers.iter().map(|sums| sums.agreed as f64 / sums.metrics.runs as f64)),
            loads_per_token: layers.iter().map(|sums| sums.loads as f64).sum::<f64>() / tokens,
            token_time_us,
            token_time_p50_us: percentile(0.5),
            token_time_p95_us: percentile(0.95),
            token_time_p99_us: percentile(0.99),
            gpu_us: busy(0),
            link_us: busy(1),
            ndp_us: busy(2),
            controller_us,
            controller_share: controller_us.zip(token_time_us).map(|(controller, token)| controller / token),
            energy_uj_per_token: microseconds(mean_of(|sums| sums.energy_pj)), // Picojoules to microjoules likewise.
            ratio_to_raw: token_time_us.map(|time| time / reference_us.unwrap_or(time)),
            time_method: cptr_hw_model::System::METHOD,
            by_layer,
            miss_rate_timeline: timeline(trace, layers),
        }
    }
}

impl LayerRow {
    pub fn new(sums: &RowLayer, layer: u32) -> Self {
        let metrics = &sums.metrics;
        let with_predecessor = metrics.runs_with_predecessor;
        Self {
            layer,
            switch_rate: (with_predecessor > 0).then(|| metrics.switches as f64 / with_predecessor as f64),
            miss_rate: metrics.misses as f64 / metrics.runs as f64,
            mass_loss: sums.mass_lost / metrics.tokens as f64,
        }
    }
}

/// Misses per expert run in each part of the trace.
fn timeline(trace: &Trace, layers: &[&RowLayer]) -> Vec<f64> {
    let tokens = trace.shape.tokens;
    let bins = BINS.min(tokens);
    let mut length = vec![0u32; bins];
    (0..tokens).for_each(|token| length[token * bins / tokens] += 1);
    let runs = (trace.shape.k * layers.len()) as f64;
    (0..bins)
        .map(|bin| {
            layers.iter().map(|sums| f64::from(sums.miss_bins[bin])).sum::<f64>() / runs / f64::from(length[bin])
        })
        .collect()
}

/// The smallest value that at least `share` of the sorted values do not exceed.
pub fn nearest_rank(sorted: &[u64], share: f64) -> u64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!([0.0, 0.5, 0.95, 0.99, 1.0].map(|share| nearest_rank(&values, share)), [1, 50, 95, 99, 100]);
        assert_eq!(nearest_rank(&[7], 0.99), 7);
        assert_eq!(nearest_rank(&[], 0.5), 0);
    }
}
