//! What a decode run found, as rows for tables and JSON.

use serde::Serialize;

use super::sums::Sums;
use super::{Plan, streams::Streams};
use crate::run::outcome::{TraceSummary, nearest_rank};
use crate::scheme;
use cptr_trace::Trace;

/// Result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// What was run.
    pub trace: TraceSummary,
    /// Name of the machine.
    pub system: String,
    /// How times were computed.
    pub time_method: &'static str,
    /// Model whose sizes the times are for.
    pub model: String,
    /// Experts per layer in GPU memory.
    pub hot: usize,
    /// Tokens of each prompt.
    pub prefill: usize,
    /// Sequences decoded side by side.
    pub batch: usize,
    /// Average bits per weight of cold experts near the data.
    pub bits: u8,
    /// Steps decoded.
    pub steps: usize,
    /// First step after the prompt whose token is of another domain than the one before it, counted from the start of decoding.
    pub first_change: Option<usize>,
    /// One row per scheme.
    pub rows: Vec<Row>,
    /// Schemes that the trace does not allow, with the reason.
    pub skipped: Vec<(String, String)>,
}

/// Figures of one scheme. Shares are between 0 and 1, weighted by gate mass where the trace has weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Scheme with its parameters.
    pub scheme: String,
    /// Whether it sees the future.
    pub oracle: bool,
    /// Tokens per second of all sequences together, decoding only.
    pub tokens_per_s: f64,
    /// Its ratio to the single migration of the same run; `None` where that is not in the run.
    pub ratio_to_single: Option<f64>,
    /// Median time of a step in microseconds.
    pub token_time_p50_us: f64,
    /// 95th percentile.
    pub token_time_p95_us: f64,
    /// 99th percentile.
    pub token_time_p99_us: f64,
    /// Share of the gate mass executed at full precision.
    pub full_precision: f64,
    /// Share of the gate mass whose expert was in GPU memory.
    pub coverage: f64,
    /// Mean bits per weight of the gate mass near the data, 16 where nothing ran there.
    pub mean_near_bits: f64,
    /// Mean loss of the gate mass at the bits that it ran at, by the table given; 0 at full precision.
    pub loss: Option<f64>,
    /// Share of the gate mass that was left out.
    pub skipped_mass: f64,
    /// Share of the wanted gate mass that stand-ins cost.
    pub mass_loss: f64,
    /// Largest such share of one token in one layer.
    pub worst_mass_loss: f64,
    /// Copies per step that decoding waited for.
    pub awaited_copies: f64,
    /// Copies per step that ended behind decoding.
    pub hidden_copies: f64,
    /// Share of the time in which the link is busy with copies or messages.
    pub link_busy: f64,
    /// Share of the time in which the device is busy.
    pub ndp_busy: f64,
    /// Share of the time in which the GPU is busy.
    pub gpu_busy: f64,
    /// Microjoules per token.
    pub energy_uj: f64,
    /// Time of the copies between prefill and decoding, in seconds.
    pub placement_s: f64,
    /// The same figures from the first change of domain on.
    pub after_change: Option<AfterChange>,
    /// How times were computed.
    pub time_method: &'static str,
}

/// Figures from the first change of domain on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AfterChange {
    /// See [`Row::tokens_per_s`].
    pub tokens_per_s: f64,
    /// See [`Row::full_precision`].
    pub full_precision: f64,
    /// See [`Row::coverage`].
    pub coverage: f64,
}

impl Row {
    pub(super) fn new(
        plan: &Plan<'_>,
        streams: &Streams,
        scheme: &scheme::Named,
        sums: &Sums,
        first: Option<usize>,
    ) -> Self {
        let sequences = streams.sequences() as f64;
        let steps = sums.steps.len() as f64;
        let time_ps: f64 = sums.steps.iter().map(|step| step.time_ps as f64).sum();
        let mut sorted: Vec<u64> = sums.steps.iter().map(|step| step.time_ps).collect();
        sorted.sort_unstable();
        let percentile = |share: f64| nearest_rank(&sorted, share) as f64 / 1e6;
        let mass: f64 = sums.steps.iter().map(|step| step.mass).sum();
        let share = |part: f64| if mass > 0.0 { part / mass } else { 0.0 };
        let part = |value: fn(&super::sums::StepSums) -> f64| share(sums.steps.iter().map(value).sum());
        let layers = sums.tokens_in_layers.max(1) as f64;
        Self {
            scheme: scheme.to_string(),
            oracle: scheme.kind.oracle,
            tokens_per_s: rate(time_ps, steps * sequences),
            ratio_to_single: None,
            token_time_p50_us: percentile(0.5),
            token_time_p95_us: percentile(0.95),
            token_time_p99_us: percentile(0.99),
            full_precision: part(|step| step.full),
            coverage: part(|step| step.covered),
            mean_near_bits: if sums.near_mass > 0.0 { sums.near_bits / sums.near_mass } else { 16.0 },
            loss: plan.losses.map(|_| share(sums.loss)),
            skipped_mass: share(sums.skipped),
            mass_loss: sums.mass_lost / layers,
            worst_mass_loss: sums.worst_mass_loss,
            awaited_copies: sums.awaited as f64 / steps,
            hidden_copies: sums.hidden as f64 / steps,
            link_busy: (sums.link_ps / time_ps).min(1.0),
            ndp_busy: sums.ndp_ps / time_ps,
            gpu_busy: sums.gpu_ps / time_ps,
            energy_uj: sums.energy_pj / 1e6 / (steps * sequences),
            placement_s: sums.placement_ps as f64 / 1e12,
            after_change: first.map(|first| AfterChange::new(&sums.steps[first..], sequences)),
            time_method: cptr_hw_model::System::METHOD,
        }
        .checked(plan)
    }

    /// Guards against a machine whose times are all zero, which no file can describe.
    fn checked(self, plan: &Plan<'_>) -> Self {
        debug_assert!(self.tokens_per_s.is_finite(), "{}", plan.system.name);
        self
    }
}

impl AfterChange {
    fn new(steps: &[super::sums::StepSums], sequences: f64) -> Self {
        let sum = |value: fn(&super::sums::StepSums) -> f64| steps.iter().map(value).sum::<f64>();
        let mass = sum(|step| step.mass);
        Self {
            tokens_per_s: rate(sum(|step| step.time_ps as f64), steps.len() as f64 * sequences),
            full_precision: sum(|step| step.full) / mass,
            coverage: sum(|step| step.covered) / mass,
        }
    }
}

fn rate(time_ps: f64, tokens: f64) -> f64 {
    tokens / (time_ps / 1e12)
}

/// First step after the prompt, counted from the start of decoding, whose token is of another domain than its predecessor; only for one
/// sequence.
pub(super) fn first_change(trace: &Trace, streams: &Streams) -> Option<usize> {
    if streams.sequences() != 1 {
        return None;
    }
    (streams.prefill.max(1)..streams.length)
        .find(|&step| trace.domain[step] != trace.domain[step - 1])
        .map(|step| step - streams.prefill)
}
