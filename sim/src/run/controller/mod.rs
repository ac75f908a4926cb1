//! A controller in the loop: real firmware, or the same engine in this process, decides token by token over its wire protocol, and every
//! decision is held to the policy's.
//!
//! The host side sends the logits and the model's own choice of each token and layer, in the order of time, and waits for the answer.
//! Experts, where they run, stand-ins, mixing weights, loads and victims must equal those of policy `cptr` with placement `tracked` bit for bit.

mod emulator;
mod host;
mod session;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use cptr_core::{Gate, Logit, Metrics, Router};
use cptr_protocol::wire;
use serde::Serialize;

use super::runner::{Routed, RowLayer, Runner, Scores, Sizes};
use super::{Plan, RowPlan, layer};
use crate::error::{Error, Result};
use crate::placement::{self, Resident};
use crate::progress::Progress;
use crate::trace::{Knowledge, Shape, Trace};
use emulator::{Emulator, MACHINES, Machine};
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
        let machine = |name| MACHINES.iter().find(|machine| machine.core == name);
        match (text, text.strip_prefix("qemu:").and_then(machine)) {
            ("host", _) => Ok(Self::Host),
            (_, Some(machine)) => Ok(Self::Emulated(machine)),
            _ => {
                let names = MACHINES.iter().map(|machine| format!(", qemu:{}", machine.core)).collect::<String>();
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
/// A row that is not `cptr` with `tracked`, a trace without logits or larger than the controller's memory; an emulator or image that is
/// missing, ends early or does not answer; a decision that is not the policy's, with its token and layer.
pub fn run(trace: &Trace, plan: &Plan, row: &RowPlan, controller: Controller, image: Option<&Path>) -> Result<Report> {
    if row.policy.kind.name != "cptr" || row.placement.kind.name != placement::TRACKED {
        return Err(Error::new(format!(
            "--controller: expected policy cptr with placement tracked, which the firmware runs, found {} with {}",
            row.policy, row.placement
        )));
    }
    if trace.knowledge() < Knowledge::Logits {
        return Err(Error::new(format!(
            "--controller: expected a trace with all router logits, found {}",
            trace.knowledge()
        )));
    }
    let in_loop = |link: &mut dyn Link| Loop::new(trace, plan, row, Session::new(link)).run();
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
}

impl<'a> Loop<'a> {
    fn new(trace: &'a Trace, plan: &'a Plan, row: &'a RowPlan, session: Session<'a>) -> Self {
        let Shape { tokens, layers, experts, .. } = trace.shape;
        // The bias of a router's selection is in the recorded choice already.
        let router = layer::router(trace, &[]);
        let sizes = Sizes {
            layer: placement::Layer { experts, capacity: plan.cache, next_use: &[] },
            router,
            convention: trace.meta.router,
            tokens,
        };
        let runners = (0..layers).map(|_| Runner::new(row, sizes)).collect();
        Self { trace, plan, row, session, router, runners, resident: vec![Resident::new(); layers] }
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
                self.step(token, index, &scores).map_err(|error| {
                    error.at(format!("layer {}", self.trace.meta.layer_ids[index])).at(format!("token {token}"))
                })?;
            }
            progress.advance(layers as u64);
        }
        drop(progress);
        self.report()
    }

    /// One token in one layer: the controller's decision against the policy's.
    fn step(&mut self, token: usize, index: usize, scores: &Scores) -> Result<()> {
        let (wanted, starts_sequence) = (self.trace.chosen(token, index), self.trace.starts_sequence(token));
        let found = self.session.token(index, scores.fixed(), wanted, starts_sequence)?;
        let runner = &mut self.runners[index];
        let work = runner.step(Routed { index: token, wanted, scores, starts_sequence });
        let expected = expected(&self.router, scores.fixed(), wanted, runner, near_bits(self.plan));
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
            let list = |set: &Resident| set.iter().map(|expert| expert.to_string()).collect::<Vec<_>>().join(" ");
            return Err(Error::new(format!(
                "the controller keeps experts {}, the policy {}",
                list(resident),
                list(runner.resident())
            )));
        }
        Ok(())
    }

    fn report(mut self) -> Result<Report> {
        let Shape { tokens, layers, .. } = self.trace.shape;
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

/// What the policy has just decided, as a controller says it.
fn expected(router: &Router<'_>, logits: &[Logit], wanted: &[u16], runner: &Runner<'_>, bits: u8) -> Vec<wire::Run> {
    let chosen = runner.last_run();
    let mut weights = vec![Gate::ZERO; chosen.len()];
    router.weights(logits, chosen, &mut weights);
    let run = |(&expert, weight): (&u16, Gate)| wire::Run {
        expert: expert.into(),
        bits: if runner.missed().contains(&expert) { bits } else { 0 },
        stand_in: u8::from(!wanted.contains(&expert)),
        weight: weight.to_bits().into(),
    };
    chosen.iter().zip(weights).map(run).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_protocol::wire::{Frame, Status, Writer};
    use zerocopy::{FromBytes, IntoBytes};

    use crate::policy;
    use crate::trace::array::FloatArray;
    use crate::trace::{Convention, Meta};

    /// Three tokens, two layers, top-2 of four experts.
    fn trace() -> Trace {
        let logits = [[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 0.5, 0.9, 0.0]];
        let ids = [[0, 2], [3, 2], [0, 2]];
        let (logits, ids) = (logits.map(|row| [row, row]), ids.map(|row| [row, row]));
        Trace {
            meta: Meta {
                router: Convention::SoftmaxSelected,
                domains: vec![String::new()],
                layer_ids: vec![5, 6],
                ..Meta::default()
            },
            logits: Some(FloatArray::owned([3, 2, 4], logits.into_iter().flatten().flatten().collect())),
            ..Trace::of_ids(
                Shape { tokens: 3, layers: 2, experts: 4, k: 2 },
                ids.into_iter().flatten().flatten().collect(),
            )
        }
    }

    /// Alters the answer to one request.
    struct Liar<'a> {
        link: &'a mut dyn Link,
        request: usize,
        lie: &'a dyn Fn(&mut Vec<u8>),
    }

    impl Link for Liar<'_> {
        fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>> {
            let answer = self.link.exchange(request)?;
            let (at, now) = (self.request, self.request.wrapping_sub(1));
            self.request = now;
            if at != 0 {
                return Ok(answer);
            }
            let Frame { header, body } = Frame::open(&answer).unwrap();
            let mut bytes = body.rest().to_vec();
            (self.lie)(&mut bytes);
            let mut buffer = vec![0; bytes.len() + wire::OVERHEAD];
            let mut writer = Writer::new(&mut buffer);
            writer.put(&bytes[..]);
            Ok(writer.finish(header.kind, header.sequence.get(), Status::Done).to_vec())
        }
    }

    /// The loop with a lie in the answer to a request, counted from 0.
    fn with_lie(request: usize, lie: &dyn Fn(&mut Vec<u8>)) -> Result<Report> {
        let trace = trace();
        let row = RowPlan {
            policy: policy::Choice::parse("cptr:eps=0.1").unwrap(),
            placement: placement::Choice::parse("tracked").unwrap(),
        };
        let system = cptr_hw_model::System::find("offload").unwrap().clone();
        let plan = Plan { rows: vec![row.clone()], cache: 2, system, model: None };
        host::with(2, |link| {
            let mut liar = Liar { link, request, lie };
            Loop::new(&trace, &plan, &row, Session::new(&mut liar)).run()
        })
        .unwrap()
    }

    #[test]
    fn the_truth_passes() {
        let report = with_lie(0, &|_| ()).unwrap();
        assert_eq!((report.tokens, report.layers, report.requests), (3, 2, 9));
    }

    #[test]
    fn every_lie_is_noticed() {
        // Requests 3 to 8 are the tokens, two layers each.
        let decides = with_lie(6, &|bytes| bytes[20] ^= 1).unwrap_err().to_string();
        assert!(decides.starts_with("token 1, layer 6: the controller decides 3 ("), "{decides}");
        for byte in 16..32 {
            // The first of two runs and the second: expert, bits, stand-in, weight.
            assert!(with_lie(5, &|bytes| bytes[byte] ^= 1).is_err(), "byte {byte}");
        }
        let keeps = with_lie(5, &|bytes| {
            let (load, _) = wire::Load::mut_from_prefix(&mut bytes[32..]).unwrap();
            load.expert = 1.into();
        });
        let keeps = keeps.unwrap_err().to_string();
        assert_eq!(keeps, "token 1, layer 5: the controller keeps experts 1 2, the policy 2 3");
        let counts = with_lie(9, &|bytes| {
            let mut counters = wire::Counters::read_from_bytes(bytes).unwrap();
            counters.switches = 99.into();
            *bytes = counters.as_bytes().to_vec();
        });
        assert!(counts.unwrap_err().to_string().starts_with("the controller counts 99 switches, the policy "));
    }

    #[test]
    fn answers_that_are_no_answers() {
        let error = |request, lie: &dyn Fn(&mut Vec<u8>)| with_lie(request, lie).unwrap_err().to_string();
        assert_eq!(
            error(0, &|bytes| bytes[0] = 1),
            "--controller: expected at most 1 layers of 512 experts and 16 experts per token, found 2, 4 and 2"
        );
        assert_eq!(error(0, &|bytes| bytes.push(0)), "the controller's answer has another length than its descriptor");
        let too_short = "token 0, layer 5: the controller's answer is too short";
        assert_eq!(error(3, &|bytes| bytes.truncate(10)), too_short);
        // More runs, more loads than there are.
        assert_eq!(error(3, &|bytes| bytes[2] = 9), too_short);
        assert_eq!(error(3, &|bytes| bytes[4] = 9), too_short);
        let wrong = "token 0, layer 5: the controller's answer is not of its request's layer, or too long";
        assert_eq!(error(3, &|bytes| bytes.push(0)), wrong);
        assert_eq!(error(3, &|bytes| bytes[0] = 1), wrong);
    }
}
