//! What an evaluation found, as rows for tables, CSV, JSON and plots.

use serde::Serialize;

use super::frontier::{Verdict, verdicts};
use super::quality::Quality;
use super::steer::Steering;
use super::{Document, Plan, RowPlan};
use cptr_model::model::Model;
use cptr_sim::run::outcome::LayerRow;

/// Result of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Family of the model.
    pub model: String,
    /// Documents read.
    pub documents: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Perplexity of the unaltered model.
    pub perplexity: f64,
    /// MoE layers L.
    pub layers: usize,
    /// Experts per layer E.
    pub experts: usize,
    /// Experts per token k.
    pub k: usize,
    /// Experts per layer in fast memory.
    pub cache: usize,
    /// Name of the system.
    pub system: String,
    /// One row per policy and placement.
    pub rows: Vec<Row>,
    /// Misses of the frontiers at the same price.
    pub verdicts: Vec<Verdict>,
}

/// Figures of one policy and placement. Shares and changes are relative: 0.01 is one per cent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Policy with its parameters.
    pub policy: String,
    /// Placement with its parameters.
    pub placement: String,
    /// Bits of the experts, as given to `--bits`.
    pub bits: String,
    /// Their mean over all experts, 0 where they run the model's own weights.
    pub mean_bits: f64,
    /// Whether the placement sees the future.
    pub oracle: bool,
    /// Experts per layer in fast memory.
    pub cache: usize,
    /// Perplexity over all predicted tokens.
    pub perplexity: f64,
    /// Its change from the unaltered model's.
    pub perplexity_change: f64,
    /// Interval of 95 % for it, by bootstrap over documents.
    pub perplexity_change_interval: [f64; 2],
    /// Mean Kullback-Leibler divergence of the predictions from the unaltered model's, in nats per token.
    pub divergence_nats: f64,
    /// Share of the experts run that the previous token of the document did not run.
    pub switch_rate: Option<f64>,
    /// Share of the experts run that were not in fast memory.
    pub miss_rate: f64,
    /// Misses over those of the raw router with LRU.
    pub misses_to_raw: f64,
    /// Share of the wanted routing mass given up, by the altered model's own scores.
    pub mass_loss: f64,
    /// Share of the experts run that the model wanted.
    pub agreement: f64,
    /// Mean time of a token on the modelled system, in microseconds.
    pub token_time_us: f64,
    /// Tokens per second on the modelled system.
    pub tokens_per_s: f64,
    /// Figures by domain.
    pub by_domain: Vec<DomainRow>,
    /// Figures by layer.
    pub by_layer: Vec<LayerRow>,
}

/// Figures of one domain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DomainRow {
    /// Name.
    pub domain: String,
    /// Predicted tokens.
    pub tokens: usize,
    /// See [`Row::perplexity`].
    pub perplexity: f64,
    /// See [`Row::perplexity_change`].
    pub perplexity_change: f64,
    /// See [`Row::perplexity_change_interval`].
    pub perplexity_change_interval: [f64; 2],
}

impl Outcome {
    pub(super) fn new(model: &Model, documents: &[Document], plan: &Plan, rows: Vec<Row>) -> Self {
        let config = &model.config;
        Self {
            model: config.family.into(),
            documents: documents.len(),
            tokens: documents.iter().map(|document| document.tokens.len()).sum(),
            perplexity: rows.first().map_or(f64::NAN, |row| row.perplexity),
            layers: config.moe_layers.len(),
            experts: config.experts,
            k: config.k,
            cache: plan.machine.cache,
            system: plan.machine.system.name.clone(),
            verdicts: verdicts(&rows),
            rows,
        }
    }
}

impl Row {
    pub(super) fn new(
        plan: &Plan,
        row: &RowPlan,
        documents: &[Document],
        steering: Steering<'_>,
        quality: Quality,
    ) -> Self {
        let layers = &steering.layers;
        let by_layer: Vec<LayerRow> = layers.iter().zip(0..).map(|(sums, layer)| LayerRow::new(sums, layer)).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / layers.len() as f64;
        let switches: Option<Vec<f64>> = by_layer.iter().map(|layer| layer.switch_rate).collect();
        let tokens = steering.token_ps.len() as f64;
        let token_time_us = steering.token_ps.iter().map(|&ps| ps as f64).sum::<f64>() / tokens / 1e6;
        let (perplexity_change, perplexity_change_interval) = quality.change(|_| true);
        Self {
            policy: row.run.policy.to_string(),
            placement: row.run.placement.to_string(),
            bits: row.precision.to_string(),
            mean_bits: steering.mean_bits(),
            oracle: row.run.placement.kind.oracle,
            cache: plan.machine.cache,
            perplexity: quality.perplexity(|_| true),
            perplexity_change,
            perplexity_change_interval,
            divergence_nats: quality.divergence(),
            switch_rate: switches.map(|rates| mean(&mut rates.into_iter())),
            miss_rate: mean(&mut by_layer.iter().map(|layer| layer.miss_rate)),
            misses_to_raw: 1.0,
            mass_loss: mean(&mut by_layer.iter().map(|layer| layer.mass_loss)),
            agreement: mean(&mut layers.iter().map(|sums| sums.agreed as f64 / sums.metrics.runs as f64)),
            token_time_us,
            tokens_per_s: 1e6 / token_time_us,
            by_domain: by_domain(documents, &quality),
            by_layer,
        }
    }
}

/// Sets what each row is to the first.
pub(super) fn relate(rows: &mut [Row]) {
    let Some(raw) = rows.first().map(|row| row.miss_rate) else { return };
    rows.iter_mut().for_each(|row| row.misses_to_raw = row.miss_rate / raw);
}

fn by_domain(documents: &[Document], quality: &Quality) -> Vec<DomainRow> {
    let mut domains: Vec<&str> = documents.iter().map(|document| document.domain.as_str()).collect();
    domains.sort_unstable();
    domains.dedup();
    let row = |domain: &str| {
        let of = |document: usize| documents[document].domain == domain;
        let (perplexity_change, perplexity_change_interval) = quality.change(of);
        DomainRow {
            domain: domain.into(),
            tokens: (0..documents.len()).filter(|&document| of(document)).map(|d| quality.tokens[d]).sum(),
            perplexity: quality.perplexity(of),
            perplexity_change,
            perplexity_change_interval,
        }
    };
    domains.into_iter().map(row).collect()
}
