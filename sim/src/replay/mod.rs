//! The one loop: a strategy goes through a source token by token, all layers of a token before the next one, as in an
//! engine.
//!
//! [`Replay`] is a stepper for one strategy. A trace drives it ([`run`], [`drive`]), or the forward pass of a model,
//! layer by layer:
//!
//! ```
//! use cptr_sim::replay::{Budget, Plan, run};
//! use cptr_sim::strategy::Strategy;
//! use cptr_trace::{Shape, Trace};
//!
//! // Three experts in turn, and room for two of them.
//! let ids = (0..300).map(|token| token % 3).collect();
//! let trace = Trace::of_ids(Shape { tokens: 300, layers: 1, experts: 4, k: 1 }, ids);
//! let plan = Plan { strategies: Strategy::parse_list("lru,belady")?, ..Plan::new(Budget::Experts(2)) };
//! let outcome = run(&trace, &plan)?;
//! assert_eq!(outcome.rows[0].stall_rate, 1.0);
//! assert!(outcome.rows[1].stall_rate < 0.51 && outcome.rows[1].bound);
//! # Ok::<(), cptr_trace::Error>(())
//! ```
//!
//! At layer l of token t a strategy has seen layers 0 to l of t and the tokens before, and nothing else; kinds that
//! know the future are marked. The first tokens may be prompts: they are shown to every strategy alike, neither counted
//! nor charged. [`Observer`]s see every layer as it is decided.

mod budget;
pub mod context;
pub mod controller;
pub mod counts;
mod known;
mod mass;
mod outcome;
mod row;
mod setup;
mod stepper;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use cptr_hw_model::{Model, System};
use cptr_trace::array::FloatArray;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use cptr_trace::{LossTable, NO_EXPERT, Shape, Trace};
use rayon::prelude::*;

use crate::source::{Future, Routed, Streams};
use crate::strategy::{Has, Strategy};
pub use budget::{Budget, Split};
pub use context::{Context, Signal};
pub use mass::Routers;
pub use outcome::LayerOutcome;
pub use row::{
    AfterChange, Components, LayerRow, LeastRun, OFTEN, Outcome, Row, Skipped, TenantRow, TraceSummary, nearest_rank,
};
pub use setup::Setup;
pub use stepper::Replay;
pub use tally::{BINS, ExpertTally, LayerTally, StepTally, Tally, TenantTally};

/// A machine, and the model that runs on it.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// The machine.
    pub system: &'a System,
    /// Sizes of the model; without them there are no times.
    pub model: Option<&'a Model>,
    /// What the time of a step counts.
    pub counted: Counted,
}

impl<'a> Machine<'a> {
    /// Whole tokens, of a text that begins with the source.
    #[must_use]
    pub const fn new(system: &'a System, model: Option<&'a Model>) -> Self {
        Self { system, model, counted: Counted::Token { context: 0 } }
    }
}

/// What the time of a step counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Layers with routed experts, without attention over the tokens before: what the experts' places decide.
    Layers,
    /// All that a token takes: attention over the tokens before, layers without routed experts, the output head. Of a
    /// source that has a part of the model's layers, the same part of what is outside them.
    Token {
        /// Tokens of each sequence before the source begins.
        context: u64,
    },
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// Strategies, one row each; ratios refer to the first.
    pub strategies: Vec<Strategy>,
    /// Fast memory for experts.
    pub resident: Budget,
    /// Tokens of each sequence that are its prompt.
    pub prefill: usize,
    /// Sequences decoded side by side.
    pub batch: usize,
    /// Most migrations, and as many fetches ahead, a step, of which the sequences have equal parts
    /// ([`cptr_core::shares`]); `None`: no limit, and no parts.
    pub fair: Option<f64>,
    /// What they run on; without one there are no times, and background copies arrive at the end of their layer.
    pub machine: Option<Machine<'a>>,
    /// Measured losses of all experts at few bits.
    pub losses: Option<&'a LossTable>,
}

impl<'a> Plan<'a> {
    /// No strategy yet, no prompt, one sequence, no machine.
    #[must_use]
    pub const fn new(resident: Budget) -> Self {
        Self { strategies: Vec::new(), resident, prefill: 0, batch: 1, fair: None, machine: None, losses: None }
    }

    /// What a replay of a trace is made for.
    fn setup(&self, trace: &Trace, streams: &Streams) -> Result<Setup<'a>> {
        Ok(Setup {
            shape: Shape { tokens: streams.length, ..trace.shape },
            sequences: streams.sequences(),
            fair: self.fair,
            prefill: streams.prefill,
            resident: self.resident,
            routers: Arc::new(Routers::of(trace)?),
            machine: self.machine,
            losses: self.losses,
        })
    }

    fn validate(&self, trace: &Trace) -> Result<()> {
        let shape = trace.shape;
        if let Budget::Experts(experts) = self.resident
            && !(1..=shape.experts).contains(&experts)
        {
            return Err(Error::new(format!(
                "--resident: expected 1 to {} experts per layer, found {experts}",
                shape.experts
            )));
        }
        if let Some(fair) = self.fair
            && !(0.0..=10_000.0).contains(&fair)
        {
            return Err(Error::new(format!("--fair: expected 0 to 10000 copies a step, found {fair}")));
        }
        if shape.tokens >= u32::MAX as usize {
            return Err(Error::new(format!("expected fewer than {} tokens, found {}", u32::MAX, shape.tokens)));
        }
        if let Budget::Bytes { split: Split::Global, .. } = self.resident
            && self.prefill == 0
        {
            return Err(Error::new(
                "--resident: expected a prompt (--prefill) for split=global, which shares memory by what the prompt wanted, found none",
            ));
        }
        self.losses.map_or(Ok(()), |losses| fits(losses, shape))
    }
}

fn fits(losses: &LossTable, shape: Shape) -> Result<()> {
    if (losses.layers(), losses.experts()) == (shape.layers, shape.experts) {
        return Ok(());
    }
    Err(Error::new(format!(
        "--losses: expected {} layers of {} experts as in the trace, found {} layers of {}",
        shape.layers,
        shape.experts,
        losses.layers(),
        losses.experts()
    )))
}

/// Sees a replay as it goes on.
pub trait Observer {
    /// A layer of a step has been decided; steps of prompts come first.
    ///
    /// # Errors
    /// Whatever the observer does not accept: the replay ends with it.
    fn layer(&mut self, outcome: &LayerOutcome<'_>) -> Result<()>;

    /// All layers of a step have.
    ///
    /// # Errors
    /// As [`Self::layer`].
    fn end_step(&mut self, _step: usize) -> Result<()> {
        Ok(())
    }
}

/// Runs a trace through every strategy of a plan, side by side; results do not depend on the number of threads.
/// Strategies that the trace or the machine does not allow are left out, with the reason.
///
/// # Errors
/// Memory, prompts or batches that do not fit the trace, a loss table that is none of it.
pub fn run(trace: &Trace, plan: &Plan<'_>) -> Result<Outcome> {
    plan.validate(trace)?;
    let streams = Streams::new(trace.shape.tokens, plan.batch, plan.prefill)?;
    let setup = plan.setup(trace, &streams)?;
    setup.capacity()?;
    let has = Has {
        knowledge: trace.knowledge(),
        bound: trace.bound_promised(),
        routers: false,
        future: true,
        system: plan.machine.map(|machine| machine.system),
        sizes: plan.machine.is_some_and(|machine| machine.model.is_some()),
        numbers: [&trace.logits, &trace.hidden].map(numbers),
    };
    let mut outcome = Outcome::new(trace, plan, &streams);
    let mut strategies = Vec::new();
    for strategy in &plan.strategies {
        setup.accepts(strategy)?;
        match strategy.refusal(&has).or_else(|| setup.refusal(strategy)) {
            Some(reason) => outcome.skipped.push(Skipped { strategy: strategy.to_string(), reason }),
            None => strategies.push(strategy),
        }
    }
    let needs_future = strategies.iter().any(|strategy| strategy.sees_future());
    let future = needs_future.then(|| Arc::new(Future::of(trace, &streams)));
    let progress = Progress::new((strategies.len() * streams.length) as u64, "running");
    let (context, rows) = rayon::join(
        || Context::of(trace),
        || {
            let one = |strategy: &&Strategy| {
                let tally = drive_with(trace, &setup, &streams, strategy, future.clone(), &mut [], Some(&progress))?;
                Ok(Row::new(trace, plan, &streams, strategy, &tally))
            };
            strategies.par_iter().map(one).collect::<Result<Vec<Row>>>()
        },
    );
    drop(progress);
    outcome.context = context;
    outcome.set_rows(rows?);
    Ok(outcome)
}

/// Runs a trace through one strategy of a plan, with observers.
///
/// # Errors
/// As [`run`]; a strategy that the trace or the machine does not allow; what an observer does not accept.
pub fn drive(
    trace: &Trace,
    plan: &Plan<'_>,
    strategy: &Strategy,
    observers: &mut [&mut dyn Observer],
) -> Result<Tally> {
    plan.validate(trace)?;
    let streams = Streams::new(trace.shape.tokens, plan.batch, plan.prefill)?;
    let setup = plan.setup(trace, &streams)?;
    let has = Has {
        knowledge: trace.knowledge(),
        bound: trace.bound_promised(),
        routers: false,
        future: true,
        system: plan.machine.map(|machine| machine.system),
        sizes: plan.machine.is_some_and(|machine| machine.model.is_some()),
        numbers: [&trace.logits, &trace.hidden].map(numbers),
    };
    if let Some(reason) = strategy.refusal(&has).or_else(|| setup.refusal(strategy)) {
        return Err(Error::new(format!("{strategy}: {reason}")));
    }
    let future = strategy.sees_future().then(|| Arc::new(Future::of(trace, &streams)));
    let progress = Progress::new(streams.length as u64, "running");
    drive_with(trace, &setup, &streams, strategy, future, observers, Some(&progress))
}

/// Numbers of a token.
fn numbers(array: &Option<FloatArray>) -> usize {
    array.as_ref().map_or(0, |array| array.shape()[1] * array.shape()[2])
}

/// Steps between two signs of life.
const SIGNS: usize = 1024;

fn drive_with<'a>(
    trace: &'a Trace,
    setup: &Setup<'a>,
    streams: &Streams,
    strategy: &Strategy,
    future: Option<Arc<Future<'a>>>,
    observers: &mut [&mut dyn Observer],
    progress: Option<&Progress>,
) -> Result<Tally> {
    let mut replay = Replay::new(strategy, setup, future)?;
    let Shape { layers, k, .. } = trace.shape;
    let scored = trace.scored();
    let sequences = streams.sequences();
    let weights = trace.weights.as_ref();
    // Where there are no weights, logits say what an expert's share of the mass is.
    let logits = trace.logits.as_ref();
    let logits = logits.filter(|_| weights.is_none() || replay.uses_logits() || !observers.is_empty());
    let hidden = trace.hidden.as_ref().filter(|_| strategy.sketches());
    let [_, inputs, size] = hidden.map_or([0; 3], FloatArray::shape);
    let mut hidden_rows = vec![0.0; size * sequences];
    let mut logit_rows = vec![0.0; if logits.is_some() { scored * sequences } else { 0 }];
    let mut weight_rows = vec![0.0; if weights.is_some() { k * sequences } else { 0 }];
    for step in 0..streams.length {
        for layer in 0..layers {
            for sequence in 0..sequences {
                let token = streams.token(step, sequence);
                if let Some(logits) = logits {
                    logits.read_row(token, layer, &mut logit_rows[sequence * scored..(sequence + 1) * scored]);
                }
                if let Some(weights) = weights {
                    weights.read_row(token, layer, &mut weight_rows[sequence * k..(sequence + 1) * k]);
                }
            }
            let of = |sequence: usize| {
                let token = streams.token(step, sequence);
                let row = trace.recorded(token, layer);
                let wanted = &row[..row.iter().position(|&id| id == NO_EXPERT).unwrap_or(k)];
                Routed {
                    wanted,
                    weights: weight_rows.get(sequence * k..sequence * k + wanted.len()).unwrap_or(&[]),
                    logits: logit_rows.get(sequence * scored..(sequence + 1) * scored).unwrap_or(&[]),
                    ahead: &[],
                    starts_sequence: step == 0 || trace.starts_sequence(token),
                }
            };
            // One sequence is the rule, and needs no room of its own.
            let (one, many);
            let routed: &[Routed<'_>] = if sequences == 1 {
                one = [of(0)];
                &one
            } else {
                many = (0..sequences).map(of).collect::<Vec<_>>();
                &many
            };
            if let Some(hidden) = hidden.filter(|_| layer < inputs) {
                for (row, token) in hidden_rows.chunks_exact_mut(size).zip(streams.tokens(step)) {
                    hidden.read_row(token, layer, row);
                }
                replay.sketch(&hidden_rows);
            }
            let outcome = replay.layer(step, layer, routed)?;
            for observer in observers.iter_mut() {
                observer.layer(&outcome)?;
            }
        }
        replay.end_step(step)?;
        for observer in observers.iter_mut() {
            observer.end_step(step)?;
        }
        if let Some(progress) = progress.filter(|_| step % SIGNS == SIGNS - 1) {
            progress.advance(SIGNS as u64);
        }
    }
    if let Some(progress) = progress {
        progress.advance((streams.length % SIGNS) as u64);
    }
    Ok(replay.finish())
}
