//! One layer of a trace through all rows, token by token; memory does not grow with the length of the trace, but for oracles.

use std::sync::atomic::AtomicU64;

use cptr_core::{Logit, Router};
use cptr_hw_model::{LayerTime, LayerWork};

use super::context::LayerContext;
use super::runner::{Routed, RowLayer, Runner, Scores, Sizes};
use super::{Plan, RowPlan, add};
use crate::placement;
use cptr_trace::progress::Progress;
use cptr_trace::{Convention, Shape, Trace};

/// All rows of one layer.
#[derive(Debug)]
pub(super) struct LayerResult {
    pub(super) rows: Vec<RowLayer>,
    pub(super) context: LayerContext,
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
    let fixed_bias = fixed_bias(trace, layer);
    let router = router(trace, &fixed_bias);
    let next_use = next_use(trace, rows, layer);
    let sizes = Sizes {
        layer: placement::Layer { experts, capacity: plan.cache, next_use: &next_use, router },
        convention: trace.meta.router,
        tokens,
    };
    let mut runners: Vec<Runner<'_>> = rows.iter().map(|row| Runner::new(row, sizes)).collect();
    let mut context = LayerContext::new(experts);
    let mut scores = Scores::default();
    let mut raw = Vec::new();
    let bias = trace.bias.as_deref().map_or(&[][..], |bias| &bias[layer * experts..(layer + 1) * experts]);
    let mut times = TimeTable::new(plan, k);
    for index in 0..tokens {
        if let Some(logits) = &trace.logits {
            raw.resize(experts, 0.0);
            logits.read_row(index, layer, &mut raw);
            scores.set(&raw, trace.meta.router, bias);
        }
        let wanted = trace.chosen(index, layer);
        let routed = Routed { index, wanted, scores: &scores, starts_sequence: trace.starts_sequence(index) };
        context.step(index, wanted);
        for (runner, token_ps) in runners.iter_mut().zip(token_ps) {
            let work = runner.step(routed);
            if let Some(time) = times.get(work) {
                add(&token_ps[index], time.total_ps);
                runner.sums().add_time(&time);
            }
        }
        if index % 1024 == 1023 {
            progress.advance(1024);
        }
    }
    progress.advance((tokens % 1024) as u64);
    LayerResult { rows: runners.into_iter().map(Runner::into_sums).collect(), context }
}

/// Times by work: a layer has few different amounts of it.
pub struct TimeTable<'a> {
    plan: &'a Plan,
    k: usize,
    /// By cold runs, loads, and whether the controller selects and tracks.
    known: Vec<Option<LayerTime>>,
}

impl<'a> TimeTable<'a> {
    /// Loads beyond k, as at the one migration of a pinned placement, are not kept in the table.
    pub fn new(plan: &'a Plan, k: usize) -> Self {
        Self { plan, k, known: vec![None; 4 * (k + 1) * (k + 1)] }
    }

    pub fn get(&mut self, work: LayerWork) -> Option<LayerTime> {
        let model = self.plan.model.as_ref()?;
        let compute = || self.plan.system.layer_time(model, work);
        let (cold, loads) = (work.cold_runs as usize, work.loads as usize);
        if cold > self.k || loads > self.k {
            return Some(compute());
        }
        let controller = usize::from(work.scored_experts > 0) * 2 + usize::from(work.tracked_experts > 0);
        Some(*self.known[(cold * (self.k + 1) + loads) * 4 + controller].get_or_insert_with(compute))
    }
}

pub fn fixed_bias(trace: &Trace, layer: usize) -> Vec<Logit> {
    let experts = trace.shape.experts;
    let bias = trace.bias.as_deref().map_or(&[][..], |bias| &bias[layer * experts..(layer + 1) * experts]);
    bias.iter().map(|&bias| Logit::saturating_from_num(bias)).collect()
}

pub fn router<'a>(trace: &Trace, bias: &'a [Logit]) -> Router<'a> {
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
