//! A controller in the loop: real firmware, or the same engine in this process, decides token by token over its wire
//! protocol, and every decision is held to the strategy's.
//!
//! It is an observer of the replay: it sends the logits and the model's own choice of each token and layer, in the
//! order of time, and waits for the answer. Experts, where they run, stand-ins, mixing weights, loads and victims must
//! equal those of `bounded` selection with `tracked` residency bit for bit. With residency `once` the first tokens are
//! the prompt: the controller is told what they chose, says once what is hot, and decides the others.
//!
//! ```
//! use cptr_sim::replay::controller::{self, Controller};
//! use cptr_sim::replay::{Budget, Plan};
//! use cptr_sim::strategy::Strategy;
//! use cptr_trace::array::FloatArray;
//! use cptr_trace::{Shape, Trace};
//!
//! let shape = Shape { tokens: 3, layers: 1, experts: 4, k: 1 };
//! let logits = [[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 0.5, 0.9, 0.0]].concat();
//! let trace = Trace { logits: Some(FloatArray::owned([3, 1, 4], logits)), ..Trace::of_ids(shape, vec![0, 3, 0]) };
//! let strategy = Strategy::parse("bounded:eps=0.1")?;
//! let report = controller::run(&trace, &Plan::new(Budget::Experts(2)), &strategy, Controller::Host, None)?;
//! assert_eq!((report.tokens, report.layers), (3, 1));
//! # Ok::<(), cptr_trace::Error>(())
//! ```

mod device;
mod emulator;
mod host;
mod prompt;
mod rtl;
mod session;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use cptr_core::{Eps, Gate, Logit, Metrics};
use cptr_protocol::wire;
use serde::Serialize;

use super::{Budget, LayerOutcome, Observer, Plan, Routers, Setup, drive, mass};
use crate::memory::Resident;
use crate::source::Streams;
use crate::strategy::{Execution, Place, Strategy};
use cptr_trace::error::{Error, Result};
use cptr_trace::{Knowledge, NO_EXPERT, Shape, Trace};
pub use device::{Device, serve};
use emulator::{Emulator, Machine, machines};
use host::Sizes;
use prompt::Prompt;
use session::{Link, Session};

/// Where the controller runs.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Controller {
    /// In this process.
    Host,
    /// As firmware on an emulated machine.
    Emulated(&'static Machine),
    /// As firmware on the RTL of a core, cycle by cycle.
    Rtl(&'static str),
}

impl Controller {
    /// Lets `use_link` talk to it; in this process it has such sizes.
    fn with<T>(
        self,
        sizes: Sizes,
        image: Option<&Path>,
        use_link: impl FnOnce(&mut dyn Link) -> Result<T>,
    ) -> Result<T> {
        match self {
            Self::Host => host::with(sizes, use_link)?,
            Self::Emulated(machine) => use_link(&mut Emulator::start(machine, image)?),
            Self::Rtl(core) => rtl::with(core, image, use_link),
        }
    }
}

impl FromStr for Controller {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let machine = |name| machines().iter().find(|machine| machine.core == name).map(Self::Emulated);
        let core = |name| rtl::CORES.into_iter().find(|core| *core == name).map(Self::Rtl);
        let found = match text.split_once(':') {
            None if text == "host" => Some(Self::Host),
            Some(("qemu", name)) => machine(name),
            Some(("rtl", name)) => core(name),
            _ => None,
        };
        found.ok_or_else(|| {
            let emulated = machines().iter().map(|machine| format!(", qemu:{}", machine.core));
            let simulated = rtl::CORES.iter().map(|core| format!(", rtl:{core}"));
            let names: String = emulated.chain(simulated).collect();
            Error::new(format!("expected a controller (host{names}), found \"{text}\""))
        })
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Emulated(machine) => write!(f, "qemu:{}", machine.core),
            Self::Rtl(core) => write!(f, "rtl:{core}"),
        }
    }
}

/// What a controller has done. All its decisions were the strategy's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
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
    /// Decisions, of a token in a layer, that a hardware unit has made.
    pub in_hardware: u64,
    /// Experts that its execution units have run.
    pub jobs: u64,
    /// Mean time of a token, all layers together, in which units near the data that take the device model's times were
    /// busy; `None` where they are not timed.
    pub near_us: Option<f64>,
    /// Losses of lock that its trackers saw.
    pub lost_locks: u64,
    /// Mean instructions of a choice, per token and layer; `None` where they are not counted.
    pub select_instructions: Option<f64>,
    /// Mean instructions from a checked request to its answer, with the choice.
    pub decide_instructions: Option<f64>,
    /// Mean instructions of an update, after the answer.
    pub update_instructions: Option<f64>,
}

/// Runs a strategy on a controller; `image` is its firmware where that is not in its usual place.
///
/// # Errors
/// A strategy that is not `bounded` with `tracked` or `once`, a batch, memory in bytes, a prompt as long as the trace,
/// a trace without logits or larger than the controller's memory; an emulator or image that is missing, ends early or
/// does not answer; a decision that is not the strategy's, with its token and layer.
pub fn run(
    trace: &Trace,
    plan: &Plan<'_>,
    strategy: &Strategy,
    controller: Controller,
    image: Option<&Path>,
) -> Result<Report> {
    check(trace, plan, strategy)?;
    let sizes = Sizes { layers: trace.shape.layers, ..Sizes::default() };
    let mut report = controller.with(sizes, image, |link| replay(trace, plan, strategy, link))?;
    report.controller = controller.to_string();
    Ok(report)
}

fn check(trace: &Trace, plan: &Plan<'_>, strategy: &Strategy) -> Result<()> {
    check_strategy(strategy, plan.resident)?;
    if trace.knowledge() < Knowledge::Logits {
        return Err(Error::new(format!(
            "--controller: expected a trace with all router logits, found {}",
            trace.knowledge()
        )));
    }
    // A token has k experts on the wire, and each of them is one of the layer's.
    let (router, padded) = (&trace.meta.router, trace.ids.contains(&NO_EXPERT));
    if padded || router.null_experts > 0 || router.table_layers > 0 {
        return Err(Error::unsupported(format!(
            "--controller: expected {} experts for every token, found a trace with fewer, null experts or tables",
            trace.shape.k
        )));
    }
    if plan.batch != 1 {
        return Err(Error::new(format!("--controller: expected one sequence (--batch 1), found {}", plan.batch)));
    }
    if plan.prefill > 0 && strategy.residency.kind.name == "tracked" {
        return Err(Error::new(format!(
            "--controller: expected no prompt (--prefill 0) with tracked residency, which the firmware learns as it decides, found {}",
            plan.prefill
        )));
    }
    Ok(())
}

/// Whether the firmware has a strategy and such a memory.
fn check_strategy(strategy: &Strategy, resident: Budget) -> Result<()> {
    let (select, residency) = (strategy.select.kind.name, strategy.residency.kind.name);
    let others = [strategy.prefetch.kind.name, strategy.division.kind.name, strategy.precision.kind.name];
    let runs =
        others[0] == "none" && ["gpu", "in-place"].contains(&others[1]) && !["graded", "nested"].contains(&others[2]);
    if select != "bounded" || !["tracked", "once"].contains(&residency) || !runs {
        return Err(Error::new(format!(
            "--controller: expected bounded with tracked or once, gpu or in-place, which the firmware runs, found {strategy}"
        )));
    }
    if strategy.select.values.get("pair") < 1.0 {
        return Err(Error::new(format!(
            "--controller: expected bounds on tokens, which a controller is sent, found one on pairs: {strategy}"
        )));
    }
    match resident {
        Budget::Experts(_) => Ok(()),
        Budget::Bytes { .. } => {
            Err(Error::new(format!("--controller: expected experts per layer (--resident 16), found {resident}")))
        }
    }
}

fn replay(trace: &Trace, plan: &Plan<'_>, strategy: &Strategy, link: &mut dyn Link) -> Result<Report> {
    let mut session = Session::new(link);
    session.begin()?;
    let setup = plan.setup(trace, &Streams::new(trace.shape.tokens, plan.batch, plan.prefill)?)?;
    let mut host = Loop::new(&setup, trace.meta.layer_ids.clone(), strategy, session)?;
    drive(trace, plan, strategy, &mut [&mut host])?;
    host.report()
}

/// One replay on one controller, beside the strategy.
struct Loop<'a> {
    session: Session<'a>,
    shape: Shape,
    /// The model's own numbers of the layers.
    layer_ids: Vec<u32>,
    routers: Arc<Routers>,
    capacity: usize,
    /// Bits of the configuration.
    bits: u8,
    /// What is resident by the controller's answers, layer by layer.
    resident: Vec<Resident>,
    /// What each layer has asked to be loaded: it is there before the layer's next token.
    loading: Vec<Vec<u16>>,
    /// The tokens before those that are decided, where they place the experts.
    prompt: Option<Prompt>,
    /// Counts of what the strategy decided.
    metrics: Metrics,
    /// What the token before ran, layer by layer.
    previous: Vec<Vec<u16>>,
    logits: Vec<Logit>,
    gates: Vec<Gate>,
}

impl<'a> Loop<'a> {
    /// A session that has begun is told the model and the policy.
    fn new(setup: &Setup<'_>, layer_ids: Vec<u32>, strategy: &Strategy, mut session: Session<'a>) -> Result<Self> {
        let (shape, routers) = (setup.shape, Arc::clone(&setup.routers));
        let capacity = if let Budget::Experts(experts) = setup.resident { experts } else { 0 };
        let bits = setup.missing_bits(strategy);
        let prompt = Prompt::new(strategy, setup.prefill, shape)?;
        session.configure(shape, &routers, strategy, capacity, bits)?;
        Ok(Self {
            session,
            shape,
            layer_ids,
            routers,
            capacity,
            bits,
            resident: vec![Resident::new(); shape.layers],
            loading: vec![Vec::new(); shape.layers],
            prompt,
            metrics: Metrics::default(),
            previous: vec![Vec::new(); shape.layers],
            logits: Vec::new(),
            gates: Vec::new(),
        })
    }

    /// Tokens that are not decided.
    fn prompt_tokens(&self) -> usize {
        self.prompt.as_ref().map_or(0, |prompt| prompt.tokens)
    }

    /// One token of the prompt.
    fn prefill(&mut self, seen: &LayerOutcome<'_>) -> Result<()> {
        let Some(prompt) = &mut self.prompt else { return Ok(()) };
        let wanted = seen.tokens[0].wanted;
        mass::gates(seen.shares, &mut self.gates);
        self.session.prefill(seen.layer, wanted, &self.gates)?;
        prompt.observe(seen.layer, wanted, &self.gates);
        Ok(())
    }

    /// The placement behind the prompt: the controller's against the strategy's, which is resident when the first token
    /// comes.
    fn place(&mut self, seen: &LayerOutcome<'_>) -> Result<()> {
        let Some(prompt) = &self.prompt else { return Ok(()) };
        let placed = prompt.place(seen.layer, self.capacity, self.bits)?;
        let alpha = Eps::saturating_from_num(prompt.alpha);
        let hot = self.session.place(seen.layer, placed.hot.len(), alpha, placed.split)?;
        let resident = &mut self.resident[seen.layer];
        hot.iter().for_each(|&expert| _ = resident.insert(expert));
        if hot != placed.hot || *resident != *seen.before {
            return Err(Error::new(format!(
                "the controller places experts {}, the strategy {}",
                list(&hot),
                list(&placed.hot)
            )));
        }
        Ok(())
    }

    /// One token: the controller's decision against the strategy's. Returns what runs.
    fn token(&mut self, seen: &LayerOutcome<'_>) -> Result<Vec<wire::Run>> {
        let (token, layer) = (&seen.tokens[0], seen.layer);
        // The controller has not seen what the prompt's last token ran.
        let starts_sequence = token.starts_sequence || seen.step == self.prompt_tokens();
        self.logits.clear();
        self.logits.extend(token.logits.iter().map(|&logit| Logit::saturating_from_num(logit)));
        let loading = &mut self.loading[layer];
        let found = self.session.token(layer, &self.logits, token.wanted, starts_sequence, loading)?;
        loading.clear();
        loading.extend(found.loads.iter().map(|load| load.expert.get()));
        let chosen = seen.chosen(0);
        let substituted = chosen.iter().filter(|expert| !token.wanted.contains(expert)).count();
        let previous = &mut self.previous[layer];
        let follows = !starts_sequence && !previous.is_empty();
        let switches = follows.then(|| chosen.iter().filter(|expert| !previous.contains(expert)).count());
        let misses = chosen.iter().filter(|&&expert| !seen.before.contains(expert)).count();
        self.metrics.count(chosen.len(), switches, misses, substituted, false);
        previous.clear();
        previous.extend_from_slice(chosen);
        let expected = self.expected(seen);
        if found.runs != expected {
            return Err(Error::new(format!(
                "the controller decides {}, the strategy {}",
                runs(&found.runs),
                runs(&expected)
            )));
        }
        let resident = &mut self.resident[layer];
        for load in &found.loads {
            resident.remove(load.victim.get());
            resident.insert(load.expert.get());
        }
        if found.loads.len() != seen.loads.len() || *resident != *seen.resident {
            let [found, expected] = [&*resident, seen.resident].map(|set| list(&set.iter().collect::<Vec<_>>()));
            return Err(Error::new(format!("the controller keeps experts {found}, the strategy {expected}")));
        }
        Ok(found.runs)
    }

    /// What the strategy has just decided, as a controller says it.
    fn expected(&self, seen: &LayerOutcome<'_>) -> Vec<wire::Run> {
        let chosen = seen.chosen(0);
        let mut weights = vec![Gate::ZERO; chosen.len()];
        self.routers.layer(0).weights(&self.logits, chosen, &mut weights);
        let run = |((&expert, execution), weight): ((&u16, &Execution), Gate)| wire::Run {
            expert: expert.into(),
            bits: if execution.place == Place::Gpu { 0 } else { execution.bits },
            stand_in: u8::from(!seen.tokens[0].wanted.contains(&expert)),
            weight: weight.to_bits().into(),
        };
        chosen.iter().zip(seen.executions).zip(weights).map(run).collect()
    }

    fn report(mut self) -> Result<Report> {
        let Shape { tokens, layers, .. } = self.shape;
        let prompt_tokens = self.prompt_tokens();
        let tokens = tokens - prompt_tokens;
        let (requests, busy_ns) = (self.session.requests(), self.session.busy_ns());
        let in_hardware = self.session.in_hardware();
        let counters = self.session.counters()?;
        let expected = &self.metrics;
        let pairs = [
            ("tokens", counters.tokens.get(), expected.tokens),
            ("runs", counters.runs.get(), expected.runs),
            ("misses", counters.misses.get(), expected.misses),
            ("stand-ins", counters.substituted.get(), expected.substituted),
            ("switches", counters.switches.get(), expected.switches),
            ("finished jobs", counters.jobs.get(), expected.misses),
        ];
        if let Some((name, found, expected)) = pairs.into_iter().find(|(_, found, expected)| found != expected) {
            return Err(Error::new(format!("the controller counts {found} {name}, the strategy {expected}")));
        }
        let mean = |sum: u64| self.session.counts().then_some(sum as f64 / (tokens * layers) as f64);
        Ok(Report {
            controller: String::new(),
            tokens,
            prompt_tokens,
            layers,
            requests,
            in_hardware,
            jobs: counters.jobs.get(),
            near_us: busy_ns.filter(|&ns| ns > 0).map(|ns| ns as f64 / 1e3 / tokens as f64),
            lost_locks: counters.lost_locks.get(),
            select_instructions: mean(counters.select_instructions.get()),
            decide_instructions: mean(counters.decide_instructions.get()),
            update_instructions: mean(counters.update_instructions.get()),
        })
    }

    /// A layer of a step: returns what runs, nothing in a prompt.
    fn layer(&mut self, seen: &LayerOutcome<'_>) -> Result<Vec<wire::Run>> {
        let prompt = self.prompt_tokens();
        let decided = match seen.step.cmp(&prompt) {
            Ordering::Less => self.prefill(seen).map(|()| Vec::new()),
            Ordering::Equal => self.place(seen).and_then(|()| self.token(seen)),
            Ordering::Greater => self.token(seen),
        };
        let layer = self.layer_ids[seen.layer];
        decided.map_err(|error| error.at(format!("layer {layer}")).at(format!("token {}", seen.step)))
    }
}

impl Observer for Loop<'_> {
    fn layer(&mut self, seen: &LayerOutcome<'_>) -> Result<()> {
        Loop::layer(self, seen).map(|_| ())
    }
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
