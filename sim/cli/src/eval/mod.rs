//! What a policy costs in quality: a model reads text while policies alter its choice of experts.
//!
//! The altered choice changes what later layers and tokens see, so perplexity is that of the whole loop. Text is read, not generated: every
//! row predicts the same tokens. Rows differ from the unaltered model only by their policy, their placement and the bits of their
//! experts; the first row is the raw router with LRU, whose perplexity is the model's own to the last bit.

mod bootstrap;
mod frontier;
pub mod outcome;
mod precision;
mod quality;
mod steer;

use rayon::prelude::*;

use cptr_model::model::Model;
use cptr_sim::run;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
pub use frontier::{Price, Verdict};
use outcome::{Outcome, Row};
use precision::Widths;
pub use precision::{Precision, Quantised};
use quality::Reference;
use steer::Steering;

/// A text that the model reads from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What kind of text it is; perplexities are given for each.
    pub domain: String,
    /// Token ids, at least two.
    pub tokens: Vec<u32>,
}

/// One row: a policy with a placement, and the bits of the experts.
#[derive(Debug, Clone)]
pub struct RowPlan {
    /// Which experts run, and which are in fast memory.
    pub run: run::RowPlan,
    /// At how many bits they run.
    pub precision: Precision,
}

impl RowPlan {
    /// Whether two rows are the same.
    pub fn is(&self, other: &Self) -> bool {
        let name = |row: &Self| (row.run.policy.to_string(), row.run.placement.to_string());
        self.precision == other.precision && name(self) == name(other)
    }
}

/// What to evaluate.
#[derive(Debug)]
pub struct Plan {
    /// Rows, the reference for ratios first.
    pub rows: Vec<RowPlan>,
    /// Cache, machine and sizes of the model; its rows are not looked at.
    pub machine: run::Plan,
    /// Where rows of fewer bits take their experts from.
    pub replicas: Option<Quantised>,
}

/// Runs every row of the plan over the documents, one after the other: what is resident at the end of one is so at the beginning of the
/// next.
///
/// # Errors
/// A cache of no or of more experts than a layer has, no document of two tokens, and what the model refuses.
pub fn run(model: &Model, documents: &[Document], plan: &Plan) -> Result<Outcome> {
    let experts = model.config.experts;
    if plan.machine.cache == 0 || plan.machine.cache > experts {
        return Err(Error::new(format!(
            "--cache: expected 1 to {experts} experts per layer, found {}",
            plan.machine.cache
        )));
    }
    if documents.iter().all(|document| document.tokens.len() < 2) {
        return Err(Error::new("expected a document of at least two tokens, found none"));
    }
    let widths = plan
        .rows
        .iter()
        .map(|row| Widths::new(row.precision, plan.replicas.as_ref(), &model.config))
        .collect::<Result<Vec<_>>>()?;
    let tokens: usize = documents.iter().map(|document| document.tokens.len()).sum();
    let progress = Progress::new((model.config.moe_layers.len() * tokens * (plan.rows.len() + 1)) as u64, "evaluating");
    let reference = Reference::new(model, documents, &progress)?;
    let row = |(row, widths)| {
        let mut steering = Steering::new(model, documents, plan, (row, widths), &progress);
        let quality = reference.compare(model, &mut steering)?;
        Ok(Row::new(plan, row, documents, steering, quality))
    };
    let mut rows = plan.rows.par_iter().zip(widths).map(row).collect::<Result<Vec<Row>>>()?;
    outcome::relate(&mut rows);
    Ok(Outcome::new(model, documents, plan, rows))
}
