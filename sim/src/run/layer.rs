//! One layer of a trace through all rows, token by token; memory does not grow with the length of the trace, but for oracles.

use std::sync::atomic::AtomicU64;

use cptr_core::{Logit, Router};
use cptr_hw_model::{LayerTime, LayerTimes};

use super::context::LayerContext;
use super::runner::{Routed, RowLayer, Runner, Scores, Sizes};
use super::{Plan, RowPlan, add};
use crate::layer::Counts;
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
    let Shape { tokens, experts, .. } = trace.shape;
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
    let times = TimeTable::new(plan);
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
            let counts = runner.step(routed);
            if let Some(time) = times.get(counts) {
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

/// Times by numbers of experts; none where the sizes of the model are not known.
pub struct TimeTable<'a>(Option<LayerTimes<'a>>);

impl<'a> TimeTable<'a> {
    pub fn new(plan: &'a Plan) -> Self {
        Self(plan.model.as_ref().map(|model| LayerTimes::new(&plan.system, model)))
    }

    pub fn get(&self, counts: Counts) -> Option<LayerTime> {
        self.0.as_ref().map(|times| counts.on(times.system(), |work| times.get(work)))
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
