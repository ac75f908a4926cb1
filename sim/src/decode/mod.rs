//! Decoding of a trace through whole systems: [`run`] is what `cptr decode` does.
//!
//! All schemes see the same trace, the same GPU memory and the same machine. The first tokens are the prompt: schemes learn from them and pay
//! nothing for them; then steps are timed, layer by layer. Schemes run side by side; results do not depend on the number of threads.

pub mod costs;
mod engine;
pub mod outcome;
pub mod queue;
pub mod streams;
mod sums;

use cptr_hw_model::{Model, System};
use rayon::prelude::*;

use crate::run::outcome::TraceSummary;
use crate::scheme;
use cptr_trace::LossTable;
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use outcome::{Outcome, Row, first_change};
use streams::Streams;

/// Name of the scheme that rows are compared with: the single migration.
const SINGLE: &str = "ctx-aware";

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// Schemes, one row each.
    pub schemes: Vec<scheme::Named>,
    /// Experts per layer that fit in GPU memory.
    pub hot: usize,
    /// Tokens of each sequence that are its prompt.
    pub prefill: usize,
    /// Sequences decoded side by side.
    pub batch: usize,
    /// Average bits per weight of cold experts near the data: 1 to 4, or 16.
    pub bits: u8,
    /// The machine.
    pub system: &'a System,
    /// Sizes of the model.
    pub model: &'a Model,
    /// Measured losses of all experts at 1 to 4 bits.
    pub losses: Option<&'a LossTable>,
}

impl Plan<'_> {
    fn validate(&self, trace: &Trace) -> Result<()> {
        let shape = trace.shape;
        if self.hot == 0 || self.hot >= shape.experts {
            return Err(Error::new(format!(
                "--hot: expected 1 to {} experts per layer, found {}",
                shape.experts - 1,
                self.hot
            )));
        }
        if !matches!(self.bits, 1..=4 | 16) {
            return Err(Error::new(format!("--bits: expected 1 to 4, or 16, found {}", self.bits)));
        }
        let Some(ndp) = self.system.ndp() else {
            return Err(Error::new(format!(
                "--system: expected a machine with a near-data device, found {}",
                self.system.name
            )));
        };
        let gb = |bytes: f64| bytes / 1e9;
        let layers = shape.layers as f64;
        let in_gpu =
            gb((self.hot as f64 * self.model.expert_bytes(16.0) + self.model.dense_parameters as f64 * 2.0) * layers);
        if in_gpu > self.system.gpu().memory_gb {
            return Err(Error::new(format!(
                "--hot: expected experts and dense layers that fit the {:.0} GB of {}, found {in_gpu:.1} GB for {} of {} experts a layer",
                self.system.gpu().memory_gb,
                self.system.gpu().name,
                self.hot,
                shape.experts
            )));
        }
        // Replicas at 1 to 4 bits beside full precision, which copies come from.
        let near = gb(shape.experts as f64 * layers * self.model.expert_bytes(16.0 + 10.0));
        if near > ndp.capacity_gb {
            return Err(Error::new(format!(
                "--system: expected a device for {near:.1} GB (all experts at 16, 4, 3, 2 and 1 bits), found {:.1} GB in {}",
                ndp.capacity_gb, ndp.name
            )));
        }
        self.losses.map_or(Ok(()), |losses| fits(losses, trace))
    }
}

fn fits(losses: &LossTable, trace: &Trace) -> Result<()> {
    let shape = trace.shape;
    if (losses.layers(), losses.experts()) != (shape.layers, shape.experts) {
        return Err(Error::new(format!(
            "--losses: expected {} layers of {} experts as in the trace, found {} layers of {}",
            shape.layers,
            shape.experts,
            losses.layers(),
            losses.experts()
        )));
    }
    match (1..=4).all(|bits| losses.bits().contains(&bits)) {
        true => Ok(()),
        false => Err(Error::new(format!("--losses: expected losses at 1, 2, 3 and 4 bits, found {:?}", losses.bits()))),
    }
}

/// Decodes a trace with every scheme of the plan. Schemes that need more than the trace recorded are left out, with the reason.
///
/// # Errors
/// Sizes that do not fit the machine or the trace, with the numbers; a loss table that is none.
pub fn run(trace: &Trace, plan: &Plan<'_>) -> Result<Outcome> {
    plan.validate(trace)?;
    let streams = Streams::new(trace.shape.tokens, plan.batch, plan.prefill)?;
    let known = trace.knowledge();
    let (schemes, skipped): (Vec<_>, Vec<_>) = plan.schemes.iter().partition(|scheme| scheme.kind.needs <= known);
    let steps = streams.length - streams.prefill;
    let progress = Progress::new((schemes.len() * steps) as u64, "decoding");
    let first = first_change(trace, &streams);
    let mut rows: Vec<Row> = schemes
        .par_iter()
        .map(|scheme| {
            let sums = engine::run(trace, plan, &streams, scheme, &progress)?;
            Ok(Row::new(plan, &streams, scheme, &sums, first))
        })
        .collect::<Result<_>>()?;
    drop(progress);
    let single = schemes.iter().position(|scheme| scheme.kind.name == SINGLE).map(|index| rows[index].tokens_per_s);
    for row in &mut rows {
        row.ratio_to_single = single.map(|single| row.tokens_per_s / single);
    }
    let reason = |scheme: &scheme::Named| format!("needs {}, and the trace has {known}", scheme.kind.needs);
    Ok(Outcome {
        trace: TraceSummary::new(trace),
        system: plan.system.name.clone(),
        time_method: System::METHOD,
        model: plan.model.name.clone(),
        hot: plan.hot,
        prefill: plan.prefill,
        batch: plan.batch,
        bits: plan.bits,
        steps,
        first_change: first,
        rows,
        skipped: skipped.into_iter().map(|scheme| (scheme.to_string(), reason(scheme))).collect(),
    })
}

#[cfg(test)]
mod tests;
