//! What a run found, as rows for tables, JSON and plots.

use serde::Serialize;

use super::{BINS, Budget, Context, Counted, LayerTally, Machine, Plan, StepTally, Tally, TenantTally};
use crate::plan::Place;
use crate::plan::band::{self, Band};
use crate::source::Streams;
use crate::strategy::Strategy;
use cptr_hw_model::System;
use cptr_trace::{Shape, Trace};

/// Result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// What was run.
    pub trace: TraceSummary,
    /// Name of the machine; `None`: no machine.
    pub system: Option<String>,
    /// How times were computed.
    pub time_method: &'static str,
    /// Model whose sizes the times are for; `None`: no times.
    pub model: Option<String>,
    /// Fast memory for experts: experts per layer, or bytes of all layers.
    pub resident: String,
    /// Tokens of each prompt, which are neither counted nor charged.
    pub prefill: usize,
    /// Sequences decoded side by side.
    pub batch: usize,
    /// Steps decoded.
    pub steps: usize,
    /// First step after the prompt whose token is of another domain than the one before it, counted from the start of
    /// decoding.
    pub first_change: Option<usize>,
    /// One row per strategy.
    pub rows: Vec<Row>,
    /// Strategies that the trace or the machine does not allow.
    pub skipped: Vec<Skipped>,
    /// What the tracker saw.
    pub context: Context,
}

/// The trace of an [`Outcome`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
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
    /// Of a trace.
    #[must_use]
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

/// Figures of one strategy. Rates are per choice, means over layers; shares are between 0 and 1, those of the routing
/// mass weighted by it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The strategy as it was asked for.
    pub strategy: String,
    /// Its five parts.
    pub select: String,
    /// See [`Self::select`].
    pub residency: String,
    /// See [`Self::select`].
    pub prefetch: String,
    /// See [`Self::select`].
    pub division: String,
    /// See [`Self::select`].
    pub precision: String,
    /// Whether no system that fills its memory on demand waits less often.
    pub bound: bool,
    /// Whether it knows what tokens will want.
    pub sees_future: bool,
    /// Choices that had to be waited for.
    pub stall_rate: f64,
    /// Choices that were not resident when they were wanted.
    pub miss_rate: f64,
    /// Experts copied into fast memory, in any way.
    pub load_rate: f64,
    /// Of them, fetched before they were wanted.
    pub fetch_rate: f64,
    /// Of them, by a placement.
    pub migration_rate: f64,
    /// Choices that the previous token of the sequence did not run; `None` if no token has a predecessor.
    pub switch_rate: Option<f64>,
    /// Share of the wanted routing mass given up by the selection.
    pub mass_loss: f64,
    /// Largest such share of one token in one layer.
    pub worst_mass_loss: f64,
    /// Choices that the model wanted.
    pub agreement: f64,
    /// The expert that is silenced most, of those that are wanted [`OFTEN`] times; `None` where all of them run
    /// whenever they are wanted.
    pub least_run: Option<LeastRun>,
    /// Experts copied into fast memory per token, all layers.
    pub loads_per_token: f64,
    /// Mean time of a step in microseconds, expert layers with attention; `None` without a machine or the model's
    /// sizes.
    pub token_time_us: Option<f64>,
    /// Median.
    pub token_time_p50_us: Option<f64>,
    /// 95th percentile.
    pub token_time_p95_us: Option<f64>,
    /// 99th percentile.
    pub token_time_p99_us: Option<f64>,
    /// The band of [`Self::token_time_us`], by what is not known well of the machine ([`crate::plan::band`]): the
    /// misses are this text's.
    pub low_token_time_us: Option<f64>,
    /// See [`Self::low_token_time_us`].
    pub high_token_time_us: Option<f64>,
    /// Tokens per second of all sequences together.
    pub tokens_per_s: Option<f64>,
    /// The same band of [`Self::tokens_per_s`].
    pub low_tokens_per_s: Option<f64>,
    /// See [`Self::low_tokens_per_s`].
    pub high_tokens_per_s: Option<f64>,
    /// Mean time of a step over that of the first row.
    pub ratio_to_raw: Option<f64>,
    /// Mean busy time of the GPU per step.
    pub gpu_us: Option<f64>,
    /// Mean busy time of the link per step, copies behind decoding included.
    pub link_us: Option<f64>,
    /// Mean busy time of the near-data device per step.
    pub ndp_us: Option<f64>,
    /// Mean busy time of the controller per step: selection and update. 0 on machines without one.
    pub controller_us: Option<f64>,
    /// The same over the time of a step; the update goes on beside the experts' runs, so this is not what the
    /// controller adds.
    pub controller_share: Option<f64>,
    /// Mean energy of a token in microjoules, dynamic energy of all units.
    pub energy_uj: Option<f64>,
    /// The same by component.
    pub energy_by_component_uj: Option<Components>,
    /// Share of the routing mass executed at full precision.
    pub full_precision: f64,
    /// Share of the routing mass whose expert was resident.
    pub coverage: f64,
    /// Mean bits per weight of the routing mass near the data; `None` where nothing ran there.
    pub mean_near_bits: Option<f64>,
    /// Mean loss of the routing mass at the bits that it ran at, by the table given.
    pub quantisation_loss: Option<f64>,
    /// Share of the routing mass that was left out.
    pub skipped_mass: f64,
    /// Time of the copies between prompt and decoding in seconds, not charged.
    pub placement_s: Option<f64>,
    /// Some of the figures from the first change of domain on.
    pub after_change: Option<AfterChange>,
    /// By sequence, where each has its part of the copies behind decoding; else none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<TenantRow>,
    /// How times were computed.
    pub time_method: &'static str,
    /// Figures by layer.
    pub by_layer: Vec<LayerRow>,
    /// Miss rate along the run, at most [`BINS`] equal parts.
    pub miss_rate_timeline: Vec<f64>,
    /// Stall rate, likewise.
    pub stall_rate_timeline: Vec<f64>,
}

/// Energy of a token by component, in microjoules.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Components {
    /// GPU memory: reads of weights.
    pub gpu_memory: f64,
    /// GPU chip.
    pub gpu_compute: f64,
    /// Wires of the link.
    pub link: f64,
    /// Memory behind the link.
    pub far_memory: f64,
    /// Arrays of the near-data device.
    pub ndp_compute: f64,
}

/// Tokens that must want an expert for [`LeastRun`] to look at it: fewer say nothing.
pub const OFTEN: u64 = 32;

/// The expert that the fewest of the tokens run that want it: a selection that saves loads may silence an expert, which
/// what it is good for does not survive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LeastRun {
    /// Share of the tokens that want it which run it.
    pub share: f64,
    /// The model's number of its layer.
    pub layer: u32,
    /// The expert.
    pub expert: u16,
    /// Tokens that want it.
    pub wanted: u64,
    /// Experts of all layers of which less than half of the tokens that want them run them.
    pub below_half: usize,
}

impl LeastRun {
    fn of(layers: &[LayerTally], layer_ids: &[u32]) -> Option<Self> {
        let mut least = None::<Self>;
        let mut below_half = 0;
        for (sums, &layer) in layers.iter().zip(layer_ids) {
            let often = (0..).zip(&sums.experts).filter(|(_, sums)| sums.wanted >= OFTEN);
            for (expert, sums) in often {
                let share = sums.share();
                below_half += usize::from(share < 0.5);
                if share < least.map_or(1.0, |least| least.share) {
                    least = Some(Self { share, layer, expert, wanted: sums.wanted, below_half: 0 });
                }
            }
        }
        least.map(|least| Self { below_half, ..least })
    }
}

/// Figures from the first change of domain on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AfterChange {
    /// See [`Row::tokens_per_s`].
    pub tokens_per_s: Option<f64>,
    /// See [`Row::full_precision`].
    pub full_precision: f64,
    /// See [`Row::coverage`].
    pub coverage: f64,
}

/// Figures of one sequence of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TenantRow {
    /// Its place in the batch.
    pub sequence: usize,
    /// Choices that were not resident when they were wanted.
    pub miss_rate: f64,
    /// Migrations on its account, per token.
    pub migrations_per_token: f64,
    /// Fetches ahead on its account, per token.
    pub fetches_per_token: f64,
    /// Copies per token that were refused because its part was used up; one that is asked for again counts again.
    pub refused_per_token: f64,
}

impl TenantRow {
    fn new(sequence: usize, sums: &TenantTally, steps: f64) -> Self {
        Self {
            sequence,
            miss_rate: sums.misses as f64 / sums.choices.max(1) as f64,
            migrations_per_token: sums.migrations as f64 / steps,
            fetches_per_token: sums.fetches as f64 / steps,
            refused_per_token: sums.refused as f64 / steps,
        }
    }
}

/// Figures of one layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LayerRow {
    /// The model's number of the layer.
    pub layer: u32,
    /// See [`Row::stall_rate`].
    pub stall_rate: f64,
    /// See [`Row::miss_rate`].
    pub miss_rate: f64,
    /// See [`Row::load_rate`].
    pub load_rate: f64,
    /// See [`Row::switch_rate`].
    pub switch_rate: Option<f64>,
    /// See [`Row::mass_loss`].
    pub mass_loss: f64,
}

impl LayerRow {
    /// From the sums of a layer.
    #[must_use]
    pub fn new(sums: &LayerTally, layer: u32) -> Self {
        let per_choice = |count: u64| count as f64 / sums.choices as f64;
        Self {
            layer,
            stall_rate: per_choice(sums.stalls),
            miss_rate: per_choice(sums.misses),
            load_rate: per_choice(sums.loads()),
            switch_rate: (sums.with_predecessor > 0).then(|| sums.switches as f64 / sums.with_predecessor as f64),
            mass_loss: sums.mass_lost / sums.tokens as f64,
        }
    }
}

/// A strategy that could not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Skipped {
    /// The strategy as it was asked for.
    pub strategy: String,
    /// Why.
    pub reason: String,
}

impl Outcome {
    pub(super) fn new(trace: &Trace, plan: &Plan<'_>, streams: &Streams) -> Self {
        Self {
            trace: TraceSummary::new(trace),
            system: plan.machine.map(|machine| machine.system.name.clone()),
            time_method: System::METHOD,
            model: plan.machine.and_then(|machine| machine.model).map(|model| model.name.clone()),
            resident: plan.resident.to_string(),
            prefill: plan.prefill,
            batch: plan.batch,
            steps: streams.length - streams.prefill,
            first_change: first_change(trace, streams),
            rows: Vec::new(),
            skipped: Vec::new(),
            context: Context::default(),
        }
    }

    pub(super) fn set_rows(&mut self, rows: Vec<Row>) {
        self.rows = rows;
        relate(&mut self.rows);
    }
}

/// Sets what the time of each row is to the first.
pub(super) fn relate(rows: &mut [Row]) {
    let Some(reference) = rows.first().and_then(|row| row.token_time_us) else { return };
    rows.iter_mut().for_each(|row| row.ratio_to_raw = row.token_time_us.map(|time| time / reference));
}

impl Row {
    /// Figures of a strategy from its sums. `layer_ids` are the model's numbers of the layers, `has_times` says whether
    /// steps have times, and `first_change` is the step from which [`Self::after_change`] counts.
    #[must_use]
    pub fn of(
        strategy: &Strategy,
        tally: &Tally,
        layer_ids: &[u32],
        has_times: bool,
        first_change: Option<usize>,
    ) -> Self {
        let steps = tally.steps.len() as f64;
        let by_layer: Vec<LayerRow> =
            tally.layers.iter().zip(layer_ids).map(|(sums, &layer)| LayerRow::new(sums, layer)).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / by_layer.len() as f64;
        let per_choice = |count: fn(&LayerTally) -> u64| {
            mean(&mut tally.layers.iter().map(|sums| count(sums) as f64 / sums.choices as f64))
        };
        let switches: Option<Vec<f64>> = by_layer.iter().map(|layer| layer.switch_rate).collect();
        let tokens = tally.layers.first().map_or(0, |sums| sums.tokens) as f64;
        let microseconds = |ps: f64| has_times.then_some(ps / 1e6);
        let time_ps: f64 = tally.steps.iter().map(|step| step.time_ps as f64).sum();
        let mut sorted: Vec<u64> = tally.steps.iter().map(|step| step.time_ps).collect();
        sorted.sort_unstable();
        let percentile = |share: f64| microseconds(nearest_rank(&sorted, share) as f64);
        let busy = |part: usize| microseconds(tally.busy_ps[part] / steps);
        let (token_time_us, controller_us) = (microseconds(time_ps / steps), busy(3));
        let mass: f64 = tally.steps.iter().map(|step| step.mass).sum();
        let share = |part: f64| if mass > 0.0 { part / mass } else { 0.0 };
        let part = |value: fn(&StepTally) -> f64| share(tally.steps.iter().map(value).sum());
        let loads: u64 = tally.layers.iter().map(LayerTally::loads).sum();
        let tokens_per_step = tokens / steps;
        Self {
            strategy: strategy.to_string(),
            select: strategy.select.to_string(),
            residency: strategy.residency.to_string(),
            prefetch: strategy.prefetch.to_string(),
            division: strategy.division.to_string(),
            precision: strategy.precision.to_string(),
            bound: strategy.is_bound(),
            sees_future: strategy.sees_future(),
            stall_rate: per_choice(|sums| sums.stalls),
            miss_rate: per_choice(|sums| sums.misses),
            load_rate: per_choice(LayerTally::loads),
            fetch_rate: per_choice(|sums| sums.fetched),
            migration_rate: per_choice(|sums| sums.migrated),
            switch_rate: switches.map(|rates| mean(&mut rates.into_iter())),
            mass_loss: mean(&mut by_layer.iter().map(|layer| layer.mass_loss)),
            worst_mass_loss: tally.layers.iter().map(|sums| sums.worst_mass_loss).fold(0.0, f64::max),
            agreement: per_choice(|sums| sums.agreed),
            least_run: LeastRun::of(&tally.layers, layer_ids),
            loads_per_token: loads as f64 / tokens,
            token_time_us,
            token_time_p50_us: percentile(0.5),
            token_time_p95_us: percentile(0.95),
            token_time_p99_us: percentile(0.99),
            low_token_time_us: None,
            high_token_time_us: None,
            tokens_per_s: has_times.then(|| rate(time_ps, tokens)),
            low_tokens_per_s: None,
            high_tokens_per_s: None,
            ratio_to_raw: None,
            gpu_us: busy(0),
            link_us: busy(1),
            ndp_us: busy(2),
            controller_us,
            controller_share: controller_us.zip(token_time_us).map(|(controller, token)| controller / token),
            // Picojoules to microjoules likewise.
            energy_uj: microseconds(tally.energy_pj.iter().sum::<f64>() / tokens),
            energy_by_component_uj: has_times.then(|| {
                let [gpu_memory, gpu_compute, link, far_memory, ndp_compute] =
                    tally.energy_pj.map(|pj| pj / tokens / 1e6);
                Components { gpu_memory, gpu_compute, link, far_memory, ndp_compute }
            }),
            full_precision: part(|step| step.full),
            coverage: part(|step| step.covered),
            mean_near_bits: (tally.near_mass > 0.0).then(|| tally.near_bits / tally.near_mass),
            quantisation_loss: None,
            skipped_mass: share(tally.skipped),
            placement_s: has_times.then(|| tally.placement_ps as f64 / 1e12),
            after_change: first_change.map(|first| AfterChange::new(&tally.steps[first..], tokens_per_step, has_times)),
            tenants: (0..).zip(&tally.tenants).map(|(at, sums)| TenantRow::new(at, sums, steps)).collect(),
            time_method: System::METHOD,
            miss_rate_timeline: timeline(tally, &tally.miss_bins),
            stall_rate_timeline: timeline(tally, &tally.stall_bins),
            by_layer,
        }
    }

    pub(super) fn new(trace: &Trace, plan: &Plan<'_>, streams: &Streams, strategy: &Strategy, tally: &Tally) -> Self {
        let has_times = plan.machine.is_some_and(|machine| machine.model.is_some());
        let mut row = Self::of(strategy, tally, &trace.meta.layer_ids, has_times, first_change(trace, streams));
        let mass: f64 = tally.steps.iter().map(|step| step.mass).sum();
        row.quantisation_loss = plan.losses.map(|_| tally.loss / mass);
        if let Some(machine) = &plan.machine {
            let middle = streams.prefill + (streams.length - streams.prefill) / 2;
            row.set_band(machine, trace.shape, plan.resident, (middle, streams.sequences()), tally);
        }
        row
    }

    /// Sets the band of the times of a run whose middle is at token `middle.0` of `middle.1` sequences. A machine
    /// without a band, as one of its ends is none, leaves it out.
    pub fn set_band(
        &mut self,
        machine: &Machine<'_>,
        shape: Shape,
        resident: Budget,
        (middle, sequences): (usize, usize),
        tally: &Tally,
    ) {
        let Some(model) = machine.model else { return };
        let (mut model, mut before) = (model.clone(), middle as u64);
        match machine.counted {
            Counted::Token { context } => before += context,
            // What is not counted has no part in the band.
            Counted::Layers => (model.vocabulary, model.dense_layers, model.dense_inner, before) = (0, 0, 0, 0),
        }
        let (place, miss_rate) = match tally.near_mass > 0.0 {
            true => (Place::NearData, self.miss_rate),
            false => (Place::Copied, self.load_rate),
        };
        let counted = band::Counted {
            system: machine.system,
            model: &model,
            shape,
            resident,
            place,
            miss_rate,
            context: before,
            sequences,
            strategy: None,
            copies: None,
        };
        let Ok(Band { low, high }) = band::counted(&counted) else { return };
        self.low_token_time_us = self.token_time_us.map(|time| time / high);
        self.high_token_time_us = self.token_time_us.map(|time| time / low);
        self.low_tokens_per_s = self.tokens_per_s.map(|rate| rate * low);
        self.high_tokens_per_s = self.tokens_per_s.map(|rate| rate * high);
    }
}

impl AfterChange {
    fn new(steps: &[StepTally], tokens_per_step: f64, has_times: bool) -> Self {
        let sum = |value: fn(&StepTally) -> f64| steps.iter().map(value).sum::<f64>();
        let (mass, tokens) = (sum(|step| step.mass), steps.len() as f64 * tokens_per_step);
        Self {
            tokens_per_s: has_times.then(|| rate(sum(|step| step.time_ps as f64), tokens)),
            full_precision: sum(|step| step.full) / mass,
            coverage: sum(|step| step.covered) / mass,
        }
    }
}

fn rate(time_ps: f64, tokens: f64) -> f64 {
    tokens / (time_ps / 1e12)
}

/// Misses, or stalls, per choice in each part of the run.
fn timeline(tally: &Tally, counts: &[u32]) -> Vec<f64> {
    let (steps, bins) = (tally.steps.len(), BINS.min(tally.steps.len()));
    let mut length = vec![0u32; bins];
    (0..steps).for_each(|step| length[step * bins / steps] += 1);
    let choices = tally.layers.iter().map(|sums| sums.choices as f64).sum::<f64>() / steps as f64;
    counts.iter().zip(length).map(|(&count, length)| f64::from(count) / choices / f64::from(length)).collect()
}

/// First step after the prompt, counted from the start of decoding, whose token is of another domain than its
/// predecessor; only for one sequence.
fn first_change(trace: &Trace, streams: &Streams) -> Option<usize> {
    if streams.sequences() != 1 {
        return None;
    }
    (streams.prefill.max(1)..streams.length)
        .find(|&step| trace.domain[step] != trace.domain[step - 1])
        .map(|step| step - streams.prefill)
}

/// The smallest value that at least `share` of the sorted values do not exceed.
#[must_use]
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
