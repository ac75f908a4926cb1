//! A controller in the loop: real firmware, or the same engine in this process, decides token by token over its wire protocol, and every
//! decision is held to the policy's.
//!
//! The host side sends the logits and the model's own choice of each token and layer, in the order of time, and waits for the answer.
//! Experts, where they run, stand-ins, mixing weights, loads and victims must equal those of policy `cptr` with placement `tracked` bit for bit.
//! With placement `pinned` the first tokens are the prompt: the controller is told what they chose, says once what is hot, and decides the others.

mod emulator;
mod host;
mod prompt;
mod session;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use cptr_core::{Gate, Logit, Metrics, Router};
use cptr_protocol::wire;
use serde::Serialize;

use super::runner::{Routed, RowLayer, Runner, Scores, Sizes};
use super::{Plan, RowPlan, layer};
use crate::placement::{self, Resident};
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use cptr_trace::{Knowledge, Shape, Trace};
use emulator::{Emulator, Machine, machines};
use prompt::Prompt;
use session::{Link, Session};

/// Where the controller runs.
#[derive(Debug, Clone, Copy)]
pub enum Controller {
    /// In this process.
    Host,
    /// As firmware on an emulated machine.
    Emulated(&'static Machine),
}

impl FromStr for Controller {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let machine = |name| machines().iter().find(|machine| machine.core == name);
        match (text, text.strip_prefix("qemu:").and_then(machine)) {
            ("host", _) => Ok(Self::Host),
            (_, Some(machine)) => Ok(Self::Emulated(machine)),
            _ => {
                let names = machines().iter().map(|machine| format!(", qemu:{}", machine.core)).collect::<String>();
                Err(Error::new(format!("expected a controller (host{names}), found \"{text}\"")))
            }
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Emulated(machine) => write!(f, "qemu:{}", machine.core),
        }
    }
}

/// What a controller has done. All its decisions were the policy's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Where it ran.
    pub controller: String,
    /// Tokens decided.
    pub tokens: usize,
    /// Tokens before them, from which it has placed the experts; 0 where they are loaded on demand.
    pub prompt_tokens: usize,
    /// Layers of each.
    pub layers: usize,
    /// Requests answered.
    pub requests: u64,
    /// Experts that its execution units have run.
    pub jobs: u64,
    /// Losses of lock that its trackers saw.
    pub lost_locks: u64,
    /// Mean instructions of a choice, per token and layer; `None` where they are not counted.
    pub select_instructions: Option<f64>,
    /// Mean instructions from a checked request to its answer, with the choice.
    pub decide_instructions: Option<f64>,
    /// Mean instructions of an update, after the answer.
    pub update_instructions: Option<f64>,
}

/// Runs a row of a plan on a controller; `image` is its firmware where that is not in its usual place.
///
/// # Errors
/// A row that is not `cptr` with `tracked` or `pinned`, a prompt as long as the trace, a trace without logits or larger than the controller's
/// memory; an emulator or image that is missing, ends early or does not answer; a decision that is not the policy's, with its token and layer.
pub fn run(trace: &Trace, plan: &Plan, row: &RowPlan, controller: Controller, image: Option<&Path>) -> Result<Report> {
    if row.policy.kind.name != "cptr" || ![placement::TRACKED, placement::PINNED].contains(&row.placement.kind.name) {
        return Err(Error::new(format!(
            "--controller: expected policy cptr with placement tracked or pinned, which the firmware runs, found {} with {}",
            row.policy, row.placement
        )));
    }
    if trace.knowledge() < Knowledge::Logits {
        return Err(Error::new(format!(
            "--controller: expected a trace with all router logits, found {}",
            trace.knowledge()
        )));
    }
    let prompt = Prompt::new(row, trace.shape)?;
    let in_loop = |link: &mut dyn Link| Loop::new(trace, plan, row, prompt, Session::new(link)).run();
    let mut report = match controller {
        Controller::Host => host::with(trace.shape.layers, in_loop)?,
        Controller::Emulated(machine) => {
            let mut emulator = Emulator::start(machine, image)?;
            in_loop(&mut emulator)
        }
    }?;
    report.controller = controller.to_string();
    Ok(report)
}

/// One trace on one controller, with the policy beside it.
struct Loop<'a> {
    trace: &'a Trace,
    plan: &'a Plan,
    row: &'a RowPlan,
    session: Session<'a>,
    router: Router<'a>,
    /// The policy, layer by layer.
    runners: Vec<Runner<'a>>,
    /// What is resident by the controller's answers, layer by layer.
    resident: Vec<Resident>,
    /// The tokens before those that are decided, where they place the experts.
    prompt: Option<Prompt>,
    /// Bits near the data of every expert, layer by layer.
    bits: Vec<Vec<u8>>,
}

impl<'a> Loop<'a> {
    fn new(trace: &'a Trace, plan: &'a Plan, row: &'a RowPlan, prompt: Option<Prompt>, session: Session<'a>) -> Self {
        let Shape { tokens, layers, experts, .. } = trace.shape;
        // The bias of a router's selection is in the recorded choice already.
        let router = layer::router(trace, &[]);
        let sizes = Sizes {
            layer: placement::Layer { experts, capacity: plan.cache, next_use: &[], router },
            convention: trace.meta.router,
            tokens,
        };
        let runners = (0..layers).map(|_| Runner::new(row, sizes)).collect();
        let (resident, bits) = (vec![Resident::new(); layers], vec![vec![near_bits(plan); experts]; layers]);
        Self { trace, plan, row, session, router, runners, resident, prompt, bits }
    }

    fn run(mut self) -> Result<Report> {
        let Shape { tokens, layers, experts, .. } = self.trace.shape;
        self.session.configure(self.trace, self.plan, self.row)?;
        let progress = Progress::new((tokens * layers) as u64, "deciding");
        let (mut scores, mut raw) = (Scores::default(), vec![0.0; experts]);
        for token in 0..tokens {
            for index in 0..layers {
                if let Some(logits) = &self.trace.logits {
                    logits.read_row(token, index, &mut raw);
                    scores.set(&raw, self.trace.meta.router, &[]);
                }
                let step = if token < self.prompt_tokens() { Self::prefill } else { Self::step };
                step(&mut self, token, index, &scores).map_err(|error| {
                    error.at(format!("layer {}", self.trace.meta.layer_ids[index])).at(format!("token {token}"))
                })?;
            }
            progress.advance(layers as u64);
        }
        drop(progress);
        self.report()
    }

    /// Tokens that are not decided.
    fn prompt_tokens(&self) -> usize {
        self.prompt.as_ref().map_or(0, |prompt| prompt.tokens)
    }

    /// One token of the prompt in one layer; after the last one the placement, the controller's against the policy's.
    fn prefill(&mut self, token: usize, index: usize, scores: &Scores) -> Result<()> {
        let Some(prompt) = &mut self.prompt else { return Ok(()) };
        let (wanted, starts_sequence) = (self.trace.chosen(token, index), self.trace.starts_sequence(token));
        let weights = weights(&self.router, scores.fixed(), wanted);
        self.session.prefill(index, wanted, &weights)?;
        prompt.observe(index, wanted, &weights);
        let runner = &mut self.runners[index];
        runner.step(Routed { index: token, wanted, scores, starts_sequence });
        if token + 1 < prompt.tokens {
            return Ok(());
        }
        let placed = prompt.place(index, self.plan.cache, near_bits(self.plan))?;
        let hot = self.session.place(index, placed.hot.len(), prompt.alpha, placed.split)?;
        let resident = &mut self.resident[index];
        hot.iter().for_each(|&expert| _ = resident.insert(expert));
        if hot != placed.hot || resident != runner.resident() {
            return Err(Error::new(format!(
                "the controller places experts {}, the policy {}",
                list(&hot),
                list(&placed.hot)
            )));
        }
        self.bits[index] = placed.bits;
        // From here on the controller counts.
        runner.sums().metrics = Metrics::default();
        Ok(())
    }

    /// One token in one layer: the controller's decision against the policy's.
    fn step(&mut self, token: usize, index: usize, scores: &Scores) -> Result<()> {
        // The controller has not seen what the prompt's last token ran.
        let starts_sequence = self.trace.starts_sequence(token) || token == self.prompt_tokens();
        let wanted = self.trace.chosen(token, index);
        let found = self.session.token(index, scores.fixed(), wanted, starts_sequence)?;
        let runner = &mut self.runners[index];
        let work = runner.step(Routed { index: token, wanted, scores, starts_sequence });
        let expected = expected(&self.router, scores.fixed(), wanted, runner, &self.bits[index]);
        if found.runs != expected {
            return Err(Error::new(format!(
                "the controller decides {}, the policy {}",
                runs(&found.runs),
                runs(&expected)
            )));
        }
        let resident = &mut self.resident[index];
        for load in &found.loads {
            resident.remove(load.victim.get());
            resident.insert(load.expert.get());
        }
        if found.loads.len() != work.loads as usize || resident != runner.resident() {
            let [found, expected] = [&*resident, runner.resident()].map(|set| list(&set.iter().collect::<Vec<_>>()));
            return Err(Error::new(format!("the controller keeps experts {found}, the policy {expected}")));
        }
        Ok(())
    }

    fn report(mut self) -> Result<Report> {
        let Shape { tokens, layers, .. } = self.trace.shape;
        let prompt_tokens = self.prompt_tokens();
        let tokens = tokens - prompt_tokens;
        let requests = self.session.requests();
        let counters = self.session.counters()?;
        let sums: Vec<RowLayer> = self.runners.into_iter().map(Runner::into_sums).collect();
        let sum = |value: fn(&Metrics) -> u64| sums.iter().map(|layer| value(&layer.metrics)).sum::<u64>();
        let pairs = [
            ("tokens", counters.tokens.get(), sum(|m| m.tokens)),
            ("runs", counters.runs.get(), sum(|m| m.runs)),
            ("misses", counters.misses.get(), sum(|m| m.misses)),
            ("stand-ins", counters.substituted.get(), sum(|m| m.substituted)),
            ("switches", counters.switches.get(), sum(|m| m.switches)),
            ("finished jobs", counters.jobs.get(), sum(|m| m.misses)),
        ];
        if let Some((name, found, expected)) = pairs.into_iter().find(|(_, found, expected)| found != expected) {
            return Err(Error::new(format!("the controller counts {found} {name}, the policy {expected}")));
        }
        let mean = |sum: u64| self.session.counts().then_some(sum as f64 / (tokens * layers) as f64);
        Ok(Report {
            controller: String::new(),
            tokens,
            prompt_tokens,
            layers,
            requests,
            jobs: counters.jobs.get(),
            lost_locks: counters.lost_locks.get(),
            select_instructions: mean(counters.select_instructions.get()),
            decide_instructions: mean(counters.decide_instructions.get()),
            update_instructions: mean(counters.update_instructions.get()),
        })
    }
}

/// Bits of experts near the data: whole ones, as replicas have.
fn near_bits(plan: &Plan) -> u8 {
    plan.system.ndp_bits.ceil().clamp(1.0, 16.0) as u8
}

/// Mixing weights of the chosen experts.
fn weights(router: &Router<'_>, logits: &[Logit], chosen: &[u16]) -> Vec<Gate> {
    let mut weights = vec![Gate::ZERO; chosen.len()];
    router.weights(logits, chosen, &mut weights);
    weights
}

/// What the policy has just decided, as a controller says it.
fn expected(router: &Router<'_>, logits: &[Logit], wanted: &[u16], runner: &Runner<'_>, bits: &[u8]) -> Vec<wire::Run> {
    let chosen = runner.last_run();
    let weights = weights(router, logits, chosen);
    let run = |(&expert, weight): (&u16, Gate)| wire::Run {
        expert: expert.into(),
        bits: if runner.missed().contains(&expert) { bits[usize::from(expert)] } else { 0 },
        stand_in: u8::from(!wanted.contains(&expert)),
        weight: weight.to_bits().into(),
    };
    chosen.iter().zip(weights).map(run).collect()
}

/// Ids for a sentence.
fn list(experts: &[u16]) -> String {
    experts.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")
}

/// Runs for a sentence: id, bits near the data, weight.
fn runs(runs: &[wire::Run]) -> String {
    let run = |run: &wire::Run| {
        let site = if run.bits == 0 { "GPU".to_owned() } else { format!("{} bits", run.bits) };
        let stand_in = if run.stand_in == 0 { "" } else { ", stand-in" };
        format!("{} ({site}, {:#010x}{stand_in})", run.expert, run.weight)
    };
    runs.iter().map(run).collect::<Vec<_>>().join(" ")
}
