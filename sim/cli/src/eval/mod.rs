//! What a strategy costs in quality: a model reads text while the strategy decides which of its experts run, and at how
//! many bits.
//!
//! The altered choice changes what later layers and tokens see, so perplexity is that of the whole loop. Text is read,
//! not generated: every row predicts the same tokens. The loop is the replay's, driven by the model's forward pass.
//! Where no layer depends on what another one's strategy did, all documents go through a layer at once, one after the
//! other: what is resident at the end of one is so at the beginning of the next. Other strategies go token by token in
//! the same order. With a prompt the documents go side by side, each with a fast memory of its own.

mod bootstrap;
mod frontier;
pub(crate) mod outcome;
pub(crate) mod prompt;
mod quality;
mod quantised;
mod steer;

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use cptr_model::{Hidden, Model, MoeHook};
use cptr_sim::replay::controller::{self, Controller, Report};
use cptr_sim::replay::{Budget, Machine, Routers, Setup};
use cptr_sim::strategy::{Has, Strategy};
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use cptr_trace::{Knowledge, Meta, Shape};
pub(crate) use frontier::verdicts;
use outcome::Row;
use quality::Reference;
pub(crate) use quantised::Quantised;
use steer::Steering;

/// A text that the model reads from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// What kind of text it is; perplexities are given for each.
    pub(crate) domain: String,
    /// Token ids, at least two.
    pub(crate) tokens: Vec<u32>,
}

/// What to evaluate.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// One row each; misses and times are related to the first.
    pub(crate) strategies: Vec<Strategy>,
    pub(crate) resident: Budget,
    /// Tokens of each document that are its prompt.
    pub(crate) prefill: usize,
    pub(crate) machine: Machine<'a>,
    /// Where strategies of fewer bits take their experts from.
    pub(crate) replicas: Option<Quantised>,
}

impl<'a> Plan<'a> {
    /// What a replay of so many tokens is made for.
    fn setup(&'a self, model: &Model, tokens: usize) -> Result<Setup<'a>> {
        let config = &model.config;
        let (layers, experts, k) = (config.moe_layers.len(), config.experts, config.k);
        let shape = Shape { tokens, layers, experts, k };
        let layer_ids = config.moe_layers.iter().map(|&id| id as u32).collect();
        let meta = Meta { router: config.router, layer_ids, ..Meta::default() };
        let bias = model.router_bias().unwrap_or_default();
        Ok(Setup {
            shape,
            sequences: 1,
            fair: None,
            prefill: self.prefill,
            resident: self.resident,
            routers: Arc::new(Routers::new(&meta, shape, &bias, &[])?),
            machine: Some(self.machine),
            losses: self.replicas.as_ref().map(Quantised::losses),
        })
    }

    /// How the documents are read under a strategy.
    fn order(&self, strategy: &Strategy) -> Order {
        match strategy.couples_layers() {
            _ if self.prefill > 0 => Order::SideBySide,
            true => Order::InTurn,
            false => Order::Layers,
        }
    }
}

/// In which order the tokens of all documents and the layers come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// All tokens, one after the other, layer by layer.
    Layers,
    /// All layers, token by token, one document after the other.
    InTurn,
    /// All layers, token by token of all documents at once.
    SideBySide,
}

impl Order {
    /// Has a model read the documents in this order.
    fn read(self, model: &Model, sequences: &[Vec<u32>], hook: &mut dyn MoeHook) -> cptr_model::Result<Hidden> {
        match self {
            Self::Layers => model.read(sequences, hook),
            Self::InTurn => model.read_in_turn(sequences, hook),
            Self::SideBySide => model.read_in_step(sequences, hook),
        }
    }
}

/// Runs every strategy of the plan over the documents.
///
/// # Errors
/// Memory that does not fit the model, a document that is not longer than its prompt, a strategy that the model or the
/// machine does not allow, and what the model refuses.
pub(crate) fn run(model: &Model, documents: &[Document], plan: &Plan<'_>) -> Result<Vec<Row>> {
    check(model, documents, plan)?;
    let tokens: usize = documents.iter().map(|document| document.tokens.len()).sum();
    let all = model.config.moe_layers.len() * tokens * (plan.strategies.len() + 1);
    let progress = Progress::new(all as u64, "evaluating");
    let reference = Reference::new(model, documents, &progress)?;
    let row = |strategy: &Strategy| {
        let mut steering = Steering::new(model, documents, plan, strategy, plan.order(strategy), &progress)?;
        let quality = reference.compare(model, &mut steering, plan.order(strategy))?;
        Ok(Row::new(model, plan, strategy, documents, &steering.finish()?, &quality))
    };
    let mut rows = plan.strategies.par_iter().map(row).collect::<Result<Vec<Row>>>()?;
    outcome::relate(&mut rows);
    Ok(rows)
}

/// Runs the one strategy of the plan on a controller, which decides every token and runs every expert that is not in
/// fast memory; `image` is its firmware where that is not in its usual place.
///
/// # Errors
/// As [`run`] and [`controller::run`]; experts that run at other bits than 1 to 4.
pub(crate) fn on_controller(
    model: &Model,
    documents: &[Document],
    plan: &Plan<'_>,
    (on, image): (Controller, Option<&Path>),
) -> Result<(Row, Report)> {
    check(model, documents, plan)?;
    let [strategy] = &plan.strategies[..] else {
        let found = plan.strategies.len();
        return Err(Error::new(format!("--controller {on}: expected one strategy, found {found}")));
    };
    if plan.prefill > 0 {
        let found = plan.prefill;
        return Err(Error::new(format!("--controller: expected no prompt (--prefill 0) for a model, found {found}")));
    }
    let tokens: usize = documents.iter().map(|document| document.tokens.len()).sum();
    let setup = plan.setup(model, tokens)?;
    let (bits, near) = (setup.missing_bits(strategy), strategy.division.kind.name != "gpu");
    let replicas = match &plan.replicas {
        Some(replicas) if (1..=4).contains(&bits) && near => replicas.memory(bits)?,
        _ => {
            return Err(Error::new(format!(
                "--controller: expected experts that run near the data at 1 to 4 bits (in-place+uniform:bits=2), found {strategy}"
            )));
        }
    };
    let progress = Progress::new((2 * model.config.moe_layers.len() * tokens) as u64, "evaluating");
    let reference = Reference::new(model, documents, &progress)?;
    let layer_ids = model.config.moe_layers.iter().map(|&id| id as u32).collect();
    controller::serve((&setup, layer_ids), strategy, (on, image), (model.config.hidden, &replicas), |device| {
        let steering = Steering::new(model, documents, plan, strategy, Order::InTurn, &progress)?;
        let mut steering = steering.with_device(device);
        let quality = reference.compare(model, &mut steering, Order::InTurn)?;
        Ok(Row::new(model, plan, strategy, documents, &steering.finish()?, &quality))
    })
}

/// Whether the plan can be run.
fn check(model: &Model, documents: &[Document], plan: &Plan<'_>) -> Result<()> {
    let experts = model.config.experts;
    if let Budget::Experts(resident) = plan.resident
        && !(1..=experts).contains(&resident)
    {
        return Err(Error::new(format!("--resident: expected 1 to {experts} experts per layer, found {resident}")));
    }
    let shortest = documents.iter().map(|document| document.tokens.len()).min().unwrap_or(0);
    if plan.prefill + 1 >= shortest {
        return Err(Error::new(format!(
            "--prefill: expected documents that are two tokens longer than their prompt of {}, found one of {shortest}",
            plan.prefill
        )));
    }
    let tokens: usize = documents.iter().map(|document| document.tokens.len()).sum();
    let setup = plan.setup(model, tokens)?;
    let logits = model.config.moe_layers.len() * model.config.experts;
    for strategy in &plan.strategies {
        setup.accepts(strategy)?;
        // A model that is altered wants what nobody knows; a layer that is read as a whole knows what it wants.
        let future = plan.order(strategy) == Order::Layers;
        let Machine { system, model, .. } = plan.machine;
        let has = Has {
            knowledge: Knowledge::Logits,
            bound: true,
            routers: true,
            future,
            system: Some(system),
            sizes: model.is_some(),
            numbers: [logits, 0],
        };
        if let Some(reason) = strategy.refusal(&has).or_else(|| setup.refusal(strategy)) {
            return Err(Error::new(format!("{strategy}: {reason}")));
        }
    }
    Ok(())
}
