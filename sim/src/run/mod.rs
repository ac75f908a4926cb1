//! A trace through policies, placements and a system: [`run`] is what `cptr run` and `cptr demo` do.
//!
//! All rows see the same trace, the same cache size and the same cost model. Layers are independent of one another and run in
//! parallel; results do not depend on the number of threads.

pub mod context;
pub mod controller;
pub mod counts;
#[allow(missing_docs)]
pub mod layer;
#[allow(missing_docs)]
pub mod outcome;
#[allow(missing_docs)]
pub mod runner;

use std::sync::atomic::{AtomicU64, Ordering};

use cptr_hw_model::{Model, System};
use rayon::prelude::*;

use crate::placement;
use crate::policy;
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use outcome::{Outcome, Row, Skipped};

/// Largest number of points of a curve over the length of the trace.
pub const BINS: usize = 120;

/// One row of the result: a policy with a placement.
#[derive(Debug, Clone)]
pub struct RowPlan {
    /// Which experts run.
    pub policy: policy::Choice,
    /// Which experts are in fast memory.
    pub placement: placement::Choice,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Rows, the reference for ratios first.
    pub rows: Vec<RowPlan>,
    /// Experts per layer that fit in fast memory.
    pub cache: usize,
    /// The machine.
    pub system: System,
    /// Sizes of the model; without them there are no times.
    pub model: Option<Model>,
}

impl Plan {
    /// The rows for lists of policies and placements: every policy with every placement if placements are given, else with its own;
    /// every policy if none is given, and the raw router with every placement. The raw router with LRU always leads: ratios refer to it.
    ///
    /// # Errors
    /// Unknown names and values out of range.
    pub fn rows(policies: &[String], placements: &[String]) -> Result<Vec<RowPlan>> {
        let parse_policies =
            |names: &[String]| names.iter().map(|text| policy::Choice::parse(text)).collect::<Result<Vec<_>>>();
        let parse_placements =
            |names: &[String]| names.iter().map(|text| placement::Choice::parse(text)).collect::<Result<Vec<_>>>();
        let all_policies: Vec<String> = policy::KINDS.iter().map(|kind| kind.name.into()).collect();
        let all_placements: Vec<String> = placement::KINDS.iter().map(|kind| kind.name.into()).collect();
        let chosen = parse_policies(if policies.is_empty() { &all_policies } else { policies })?;
        let given = parse_placements(placements)?;
        let mut rows =
            vec![RowPlan { policy: policy::Choice::parse("raw")?, placement: placement::Choice::parse("lru")? }];
        for policy in chosen {
            let with = match () {
                () if !given.is_empty() => given.clone(),
                () if policies.is_empty() && policy.kind.name == policy::RAW => parse_placements(&all_placements)?,
                () => vec![placement::Choice::parse(policy.kind.placement)?],
            };
            rows.extend(with.into_iter().map(|placement| RowPlan { policy: policy.clone(), placement }));
        }
        let mut seen = std::collections::HashSet::new();
        rows.retain(|row| seen.insert((row.policy.to_string(), row.placement.to_string())));
        Ok(rows)
    }
}

/// Runs a trace through the rows of a plan. Rows whose policy needs more than the trace recorded are left out, with the reason.
///
/// # Errors
/// A cache of no or of more experts than a layer has, or a trace too long for 32-bit token indices.
pub fn run(trace: &Trace, plan: &Plan) -> Result<Outcome> {
    let shape = trace.shape;
    if plan.cache == 0 || plan.cache > shape.experts {
        return Err(Error::new(format!(
            "--cache: expected 1 to {} experts per layer, found {}",
            shape.experts, plan.cache
        )));
    }
    if shape.tokens >= u32::MAX as usize {
        return Err(Error::new(format!("expected fewer than {} tokens, found {}", u32::MAX, shape.tokens)));
    }
    let known = trace.knowledge();
    let (rows, skipped): (Vec<&RowPlan>, Vec<&RowPlan>) =
        plan.rows.iter().partition(|row| row.policy.kind.needs <= known);
    let token_ps: Vec<Vec<AtomicU64>> =
        rows.iter().map(|_| (0..shape.tokens).map(|_| AtomicU64::new(0)).collect()).collect();
    let progress = Progress::new((shape.layers * shape.tokens) as u64, "running");
    let layers: Vec<layer::LayerResult> = (0..shape.layers)
        .into_par_iter()
        .map(|index| layer::run(trace, plan, &rows, index, &token_ps, &progress))
        .collect();
    drop(progress);
    let mut outcome = Outcome {
        trace: outcome::TraceSummary::new(trace),
        system: plan.system.name.clone(),
        time_method: System::METHOD,
        model: plan.model.as_ref().map(|model| model.name.clone()),
        cache: plan.cache,
        rows: Vec::with_capacity(rows.len()),
        skipped: skipped.iter().map(|row| Skipped::new(row, known)).collect(),
        context: context::Context::new(trace, layers.iter().map(|layer| &layer.context)),
    };
    for (index, (row, times)) in rows.iter().zip(token_ps).enumerate() {
        let times = times.into_iter().map(AtomicU64::into_inner).collect();
        let parts: Vec<&runner::RowLayer> = layers.iter().map(|layer| &layer.rows[index]).collect();
        let reference = outcome.rows.first().and_then(|row| row.token_time_us);
        outcome.rows.push(Row::new(trace, plan, row, &parts, times, reference));
    }
    Ok(outcome)
}

/// Adds to a shared sum whose order of additions does not matter.
fn add(sum: &AtomicU64, value: u64) {
    sum.fetch_add(value, Ordering::Relaxed);
}
