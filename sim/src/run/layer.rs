//! One layer of a trace through all rows, token by token; memory does not grow with the length of the trace, but for oracles.

use std::sync::atomic::AtomicU64;

use cptr_core::{Logit, Metrics, Router};
use cptr_hw_model::LayerWork;

use super::context::LayerContext;
use super::{BINS, Plan, RowPlan, add};
use crate::placement::{self, Placement, Resident, Served};
use crate::policy::{self, Policy, Token};
use crate::progress::Progress;
use crate::trace::{Convention, Shape, Trace};

/// Sums of one row over one layer.
#[derive(Debug, Default)]
pub(super) struct RowLayer {
    /// Switches, misses, substitutions.
    pub(super) metrics: Metrics,
    /// Sum over tokens of the share of the wanted mass given up.
    pub(super) mass_lost: f64,
    /// Chosen experts that the model wanted.
    pub(super) agreed: u64,
    /// Experts copied into fast memory.
    pub(super) loads: u64,
    /// Busy time of GPU, link and near-data device.
    pub(super) busy_ps: [u64; 3],
    /// Misses by part of the trace.
    pub(super) miss_bins: Vec<u32>,
}

/// All rows of one layer.
#[derive(Debug)]
pub(super) struct LayerResult {
    pub(super) rows: Vec<RowLayer>,
    pub(super) context: LayerContext,
}

struct Runner<'a> {
    policy: Box<dyn Policy + 'a>,
    placement: Box<dyn Placement + 'a>,
    resident: Resident,
    /// Whether the controller goes through the scores; the raw router's choice it takes as it is.
    selects: bool,
    chosen: Vec<u16>,
    previous: Vec<u16>,
    sums: RowLayer,
}

/// Scores of one token in the forms that policies take.
struct Scores {
    /// As recorded.
    raw: Vec<f32>,
    /// What the router ranks by.
    ranked: Vec<f32>,
    /// In the controller's format.
    fixed: Vec<Logit>,
}

pub(super) fn run(
    trace: &Trace,
    plan: &Plan,
    rows: &[&RowPlan],
    layer: usize,
    token_ps: &[Vec<AtomicU64>],
    progress: &Progress,
) -> LayerResult {
    let Shape { tokens, experts, k, .. } = trace.shape;
    let bias = fixed_bias(trace, layer);
    let router = router(trace, &bias);
    let next_use = next_use(trace, rows, layer);
    let sizes = placement::Layer { experts, capacity: plan.cache, next_use: &next_use };
    let mut runners: Vec<Runner<'_>> = rows.iter().map(|row| Runner::new(row, router, sizes, tokens)).collect();
    let mut context = LayerContext::new(experts);
    let mut scores = Scores { raw: Vec::new(), ranked: Vec::new(), fixed: Vec::new() };
    let mut times = TimeTable::new(plan, k);
    for index in 0..tokens {
        scores.read(trace, index, layer);
        let wanted = trace.chosen(index, layer);
        context.step(index, wanted);
        for (runner, token_ps) in runners.iter_mut().zip(token_ps) {
            let work = runner.step(trace, index, wanted, &scores, tokens);
            if let Some(time) = times.get(work) {
                add(&token_ps[index], time[3]);
                for (busy, time) in runner.sums.busy_ps.iter_mut().zip(time) {
                    *busy += time;
                }
            }
        }
        if index % 1024 == 1023 {
            progress.advance(1024);
        }
    }
    progress.advance((tokens % 1024) as u64);
    LayerResult { rows: runners.into_iter().map(|runner| runner.sums).collect(), context }
}

impl<'a> Runner<'a> {
    fn new(row: &RowPlan, router: Router<'a>, sizes: placement::Layer<'a>, tokens: usize) -> Self {
        Self {
            policy: row.policy.make(policy::Layer { experts: sizes.experts, router }),
            placement: row.placement.make(sizes),
            resident: Resident::new(),
            selects: row.policy.kind.name != policy::RAW,
            chosen: Vec::new(),
            previous: Vec::new(),
            sums: RowLayer { miss_bins: vec![0; BINS.min(tokens)], ..RowLayer::default() },
        }
    }

    fn step(&mut self, trace: &Trace, index: usize, wanted: &[u16], scores: &Scores, tokens: usize) -> LayerWork {
        let starts_sequence = trace.starts_sequence(index);
        self.chosen.clear();
        let token =
            Token { scores: &scores.ranked, logits: &scores.fixed, wanted, resident: &self.resident, starts_sequence };
        self.policy.select(&token, &mut self.chosen);
        let agreed = self.chosen.iter().filter(|expert| wanted.contains(expert)).count();
        let cold = self.chosen.iter().filter(|&&expert| !self.resident.contains(expert)).count();
        let previous = if starts_sequence { &[][..] } else { &self.previous };
        self.sums.metrics.count(&self.chosen, previous, &self.resident, self.chosen.len() - agreed, false);
        self.sums.agreed += agreed as u64;
        if agreed < wanted.len() {
            self.sums.mass_lost += mass_loss(trace.meta.router, &scores.raw, wanted, &self.chosen);
        }
        let bins = self.sums.miss_bins.len();
        self.sums.miss_bins[index * bins / tokens] += cold as u32;
        let loads = self.placement.serve(&Served { index, wanted, chosen: &self.chosen }, &mut self.resident);
        self.sums.loads += u64::from(loads);
        std::mem::swap(&mut self.chosen, &mut self.previous);
        LayerWork {
            resident_runs: (self.previous.len() - cold) as u32,
            cold_runs: cold as u32,
            loads,
            scored_experts: if self.selects { trace.shape.experts as u32 } else { 0 },
        }
    }
}

impl Scores {
    fn read(&mut self, trace: &Trace, token: usize, layer: usize) {
        let Some(logits) = &trace.logits else { return };
        let experts = trace.shape.experts;
        self.raw.resize(experts, 0.0);
        logits.read_row(token, layer, &mut self.raw);
        self.fixed.clear();
        self.fixed.extend(self.raw.iter().map(|&logit| Logit::saturating_from_num(logit)));
        self.ranked.clear();
        match trace.meta.router {
            Convention::Sigmoid { .. } => {
                let bias = trace.bias.as_deref().map(|bias| &bias[layer * experts..(layer + 1) * experts]);
                let bias = |expert: usize| bias.map_or(0.0, |bias| bias[expert]);
                self.ranked.extend(self.raw.iter().enumerate().map(|(e, &z)| 1.0 / (1.0 + (-z).exp()) + bias(e)));
            }
            _ => self.ranked.extend_from_slice(&self.raw),
        }
    }
}

/// Times by work: a layer has few different amounts of it.
struct TimeTable<'a> {
    plan: &'a Plan,
    k: usize,
    /// GPU, link, near-data device and total, in picoseconds, by cold runs, loads and whether the controller selects.
    known: Vec<Option<[u64; 4]>>,
}

impl<'a> TimeTable<'a> {
    /// Loads beyond k, as at the one migration of a pinned placement, are not kept in the table.
    fn new(plan: &'a Plan, k: usize) -> Self {
        Self { plan, k, known: vec![None; 2 * (k + 1) * (k + 1)] }
    }

    fn get(&mut self, work: LayerWork) -> Option<[u64; 4]> {
        let model = self.plan.model.as_ref()?;
        let compute = || {
            let time = self.plan.system.layer_time(model, work);
            [time.gpu_ps, time.link_ps, time.ndp_ps, time.total_ps]
        };
        let (cold, loads) = (work.cold_runs as usize, work.loads as usize);
        if cold > self.k || loads > self.k {
            return Some(compute());
        }
        let selects = usize::from(work.scored_experts > 0);
        Some(*self.known[(cold * (self.k + 1) + loads) * 2 + selects].get_or_insert_with(compute))
    }
}

/// Share of the wanted routing mass that the chosen experts lack; negative where they have more (a selection bias was overruled).
pub(crate) fn mass_loss(router: Convention, logits: &[f32], wanted: &[u16], chosen: &[u16]) -> f64 {
    let logit = |expert: u16| f64::from(logits[usize::from(expert)]);
    let largest = wanted.iter().map(|&expert| logit(expert)).fold(f64::MIN, f64::max);
    let mass = |expert: &u16| match router {
        Convention::Sigmoid { .. } => 1.0 / (1.0 + (-logit(*expert)).exp()),
        _ => (logit(*expert) - largest).exp(),
    };
    1.0 - chosen.iter().map(mass).sum::<f64>() / wanted.iter().map(mass).sum::<f64>()
}

pub(crate) fn fixed_bias(trace: &Trace, layer: usize) -> Vec<Logit> {
    let experts = trace.shape.experts;
    let bias = trace.bias.as_deref().map_or(&[][..], |bias| &bias[layer * experts..(layer + 1) * experts]);
    bias.iter().map(|&bias| Logit::saturating_from_num(bias)).collect()
}

pub(crate) fn router<'a>(trace: &Trace, bias: &'a [Logit]) -> Router<'a> {
    let k = trace.shape.k;
    match trace.meta.router {
        Convention::SoftmaxAll => Router::softmax_all(k),
        Convention::SoftmaxSelected | Convention::Unknown => Router::softmax_selected(k),
        Convention::Sigmoid { groups, top_groups } => {
            Router::sigmoid_grouped(k, groups.into(), top_groups.into(), bias)
        }
    }
}

fn next_use(trace: &Trace, rows: &[&RowPlan], layer: usize) -> Vec<u32> {
    if !rows.iter().any(|row| row.placement.kind.oracle) {
        return Vec::new();
    }
    let Shape { tokens, experts, k, .. } = trace.shape;
    let ids: Vec<u16> = (0..tokens).flat_map(|token| trace.chosen(token, layer).iter().copied()).collect();
    placement::next_use(&ids, k, experts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mass_loss_by_hand() {
        let logits = [2.0, 1.0, 0.0, -1.0];
        let e = |z: f64| z.exp();
        let expected = 1.0 - (e(2.0) + e(0.0)) / (e(2.0) + e(1.0));
        for router in [Convention::SoftmaxAll, Convention::SoftmaxSelected, Convention::Unknown] {
            assert!((mass_loss(router, &logits, &[0, 1], &[0, 2]) - expected).abs() < 1e-12);
        }
        let s = |z: f64| 1.0 / (1.0 + (-z).exp());
        let router = Convention::Sigmoid { groups: 1, top_groups: 1 };
        let expected = 1.0 - (s(2.0) + s(0.0)) / (s(2.0) + s(1.0));
        assert!((mass_loss(router, &logits, &[0, 1], &[0, 2]) - expected).abs() < 1e-12);
    }
}
