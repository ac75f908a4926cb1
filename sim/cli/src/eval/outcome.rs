//! What an evaluation found, as rows.

use serde::Serialize;

use super::quality::Quality;
use super::{Document, Plan};
use cptr_model::Model;
use cptr_sim::replay::{self, Tally};
use cptr_sim::strategy::Strategy;
use cptr_trace::Shape;

/// Figures of one strategy: those of a trace, and the quality. Shares and changes are relative: 0.01 is one per cent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    /// As of a trace.
    #[serde(flatten)]
    pub(crate) run: replay::Row,
    /// Perplexity over all predicted tokens.
    pub(crate) perplexity: f64,
    /// Its change from the unaltered model's.
    pub(crate) perplexity_change: f64,
    /// Interval of 95 % for it, by bootstrap over documents; `None` for a single one.
    pub(crate) perplexity_change_low: Option<f64>,
    /// See [`Self::perplexity_change_low`].
    pub(crate) perplexity_change_high: Option<f64>,
    /// Mean Kullback-Leibler divergence of the predictions from the unaltered model's, in nats per token.
    pub(crate) divergence: f64,
    /// Misses over those of the first row.
    pub(crate) misses_to_raw: f64,
    /// Figures by domain.
    pub(crate) by_domain: Vec<DomainRow>,
}

/// Figures of one domain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DomainRow {
    /// Name.
    domain: String,
    /// Predicted tokens.
    tokens: usize,
    /// See [`Row::perplexity`].
    perplexity: f64,
    /// See [`Row::perplexity_change`].
    perplexity_change: f64,
    /// See [`Row::perplexity_change_low`].
    perplexity_change_low: Option<f64>,
    /// See [`Row::perplexity_change_low`].
    perplexity_change_high: Option<f64>,
}

impl Row {
    pub(super) fn new(
        model: &Model,
        plan: &Plan<'_>,
        strategy: &Strategy,
        documents: &[Document],
        tally: &Tally,
        quality: &Quality,
    ) -> Self {
        let config = &model.config;
        let layers: Vec<u32> = config.moe_layers.iter().map(|&layer| layer as u32).collect();
        let (perplexity_change, interval) = quality.change(|_| true);
        let mut run = replay::Row::of(strategy, tally, &layers, plan.machine.model.is_some(), None);
        let tokens = documents.iter().map(|document| document.tokens.len()).sum();
        let shape = Shape { tokens, layers: layers.len(), experts: config.experts, k: config.k };
        run.set_band(&plan.machine, shape, plan.resident, (middle(documents, plan.prefill), 1), tally);
        Self {
            run,
            perplexity: quality.perplexity(|_| true),
            perplexity_change,
            perplexity_change_low: interval.map(|[low, _]| low),
            perplexity_change_high: interval.map(|[_, high]| high),
            divergence: quality.divergence(),
            misses_to_raw: 1.0,
            by_domain: by_domain(documents, quality),
        }
    }
}

/// Mean place in its text of a token that is timed.
fn middle(documents: &[Document], prefill: usize) -> usize {
    let timed = |document: &Document| document.tokens.len().saturating_sub(prefill);
    let sum: usize = documents.iter().map(|document| timed(document) * (prefill + timed(document) / 2)).sum();
    sum / documents.iter().map(timed).sum::<usize>().max(1)
}

/// Sets what each row is to the first.
pub(super) fn relate(rows: &mut [Row]) {
    let Some(first) = rows.first() else { return };
    let (misses, time) = (first.run.miss_rate, first.run.token_time_us);
    for row in rows {
        row.misses_to_raw = row.run.miss_rate / misses;
        row.run.ratio_to_raw = row.run.token_time_us.zip(time).map(|(time, first)| time / first);
    }
}

fn by_domain(documents: &[Document], quality: &Quality) -> Vec<DomainRow> {
    let mut domains: Vec<&str> = documents.iter().map(|document| document.domain.as_str()).collect();
    domains.sort_unstable();
    domains.dedup();
    let row = |domain: &str| {
        let of = |document: usize| documents[document].domain == domain;
        let (perplexity_change, interval) = quality.change(of);
        DomainRow {
            domain: domain.into(),
            tokens: (0..documents.len()).filter(|&document| of(document)).map(|d| quality.tokens[d]).sum(),
            perplexity: quality.perplexity(of),
            perplexity_change,
            perplexity_change_low: interval.map(|[low, _]| low),
            perplexity_change_high: interval.map(|[_, high]| high),
        }
    };
    domains.into_iter().map(row).collect()
}
