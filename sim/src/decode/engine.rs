//! One scheme through a trace, step by step, layer by layer.

use cptr_core::{Eps, Logit, select};
use cptr_hw_model::{CopiedRun, ExpertRun};

use super::Plan;
use super::costs::{Costs, Work};
use super::queue::Queue;
use super::streams::{Streams, mass};
use super::sums::{StepSums, Sums};
use crate::placement::Resident;
use crate::run::layer::{fixed_bias, router};
use crate::run::runner::mass_loss;
use crate::scheme::{Choice, Execution, FULL_BITS, Named, Place, Scheme, Setup, Step};
use cptr_trace::LossTable;
use cptr_trace::error::Result;
use cptr_trace::progress::Progress;
use cptr_trace::{MAX_TOP_K, Trace};

pub(super) fn run(
    trace: &Trace,
    plan: &Plan<'_>,
    streams: &Streams,
    scheme: &Named,
    progress: &Progress,
) -> Result<Sums> {
    let costs = Costs::new(plan.system, plan.model, trace.shape.experts, streams.sequences());
    let setup = Setup { trace, streams, hot: plan.hot, bits: plan.bits, losses: plan.losses, costs: &costs };
    let mut scheme = (scheme.kind.make)(&scheme.values, &setup)?;
    let resident = scheme.place();
    let launch_bytes = plan.system.link().copy_launch_ns * plan.system.link().copy_gb_s();
    let placed = resident.iter().map(Resident::len).sum::<usize>() as f64 * scheme.placed_bits() / f64::from(FULL_BITS);
    let mut engine = Engine {
        trace,
        costs: &costs,
        losses: plan.losses,
        resident,
        queue: Queue::new(trace.shape.layers, costs.expert_bytes() + launch_bytes),
        selection: Selection::new(trace, scheme.eps()),
        sums: Sums { placement_ps: plan.system.link().copy_ps(placed * costs.expert_bytes()), ..Sums::default() },
        choices: Vec::new(),
        executions: Vec::new(),
        work: Work::default(),
    };
    for index in streams.prefill..streams.length {
        let tokens: Vec<usize> = streams.tokens(index).collect();
        engine.step(scheme.as_mut(), index, &tokens);
        progress.advance(1);
    }
    engine.sums.hidden = engine.queue.done;
    let bytes = engine.queue.done as f64 * costs.expert_bytes();
    engine.sums.energy_pj += plan.system.migration_energy(bytes).total_pj() as f64;
    Ok(engine.sums)
}

struct Engine<'a> {
    trace: &'a Trace,
    costs: &'a Costs<'a>,
    losses: Option<&'a LossTable>,
    resident: Vec<Resident>,
    queue: Queue,
    selection: Option<Selection>,
    sums: Sums,
    choices: Vec<Choice>,
    executions: Vec<Execution>,
    work: Work,
}

impl Engine<'_> {
    fn step(&mut self, scheme: &mut dyn Scheme, index: usize, tokens: &[usize]) {
        let mut sums = StepSums::default();
        let controller = scheme.controller();
        for layer in 0..self.trace.shape.layers {
            self.choose(tokens, layer);
            let choices = std::mem::take(&mut self.choices);
            let step = Step { index, layer, tokens, choices: &choices };
            self.executions.clear();
            let before = self.resident[layer];
            scheme.dispatch(&step, &mut self.resident[layer], &mut self.executions);
            debug_assert_eq!(self.executions.len(), choices.len());
            self.account(layer, &choices, &before, &mut sums);
            self.queue.start(&mut self.resident);
            self.fill_work(&choices);
            self.work.migrating = !self.queue.is_empty();
            self.work.selects = controller.selects && self.selection.is_some();
            self.work.updates = controller.updates;
            self.time(&mut sums);
            scheme.observe(&step);
            self.choices = choices;
        }
        scheme.migrate(index, &self.resident, &mut self.queue);
        self.sums.steps.push(sums);
    }

    /// What the tokens of a step want in a layer, each expert once.
    fn choose(&mut self, tokens: &[usize], layer: usize) {
        self.choices.clear();
        for &token in tokens {
            let wanted = self.trace.chosen(token, layer);
            let chosen = match &mut self.selection {
                Some(selection) => {
                    let lost = selection.select(self.trace, token, layer, &self.resident[layer]);
                    self.sums.mass_lost += lost;
                    self.sums.worst_mass_loss = self.sums.worst_mass_loss.max(lost);
                    &selection.chosen
                }
                None => wanted,
            };
            self.sums.tokens_in_layers += 1;
            // A stand-in takes the share of the expert that it stands in for.
            for (&expert, mass) in chosen.iter().zip(mass(self.trace, token, layer)) {
                match self.choices.iter_mut().find(|choice| choice.expert == expert) {
                    Some(choice) => (choice.tokens, choice.mass) = (choice.tokens + 1, choice.mass + mass),
                    None => self.choices.push(Choice { expert, tokens: 1, mass }),
                }
            }
        }
    }

    fn account(&mut self, layer: usize, choices: &[Choice], resident: &Resident, step: &mut StepSums) {
        for (choice, execution) in choices.iter().zip(&self.executions) {
            let mass = f64::from(choice.mass);
            step.mass += mass;
            if resident.contains(choice.expert) {
                step.covered += mass;
            }
            match execution.place {
                Place::Skipped => self.sums.skipped += mass,
                _ if execution.bits == FULL_BITS => step.full += mass,
                _ => {}
            }
            if execution.place == Place::NearData {
                self.sums.near_mass += mass;
                self.sums.near_bits += mass * f64::from(execution.bits);
            }
            let loss = self.losses.and_then(|table| table.get(layer, usize::from(choice.expert), execution.bits));
            self.sums.loss += mass * loss.unwrap_or(0.0);
        }
    }

    fn fill_work(&mut self, choices: &[Choice]) {
        let Work { gpu, copied, near, .. } = &mut self.work;
        gpu.clear();
        near.clear();
        copied.clear();
        for (choice, execution) in choices.iter().zip(&self.executions) {
            let run = ExpertRun { bits: f64::from(execution.bits), tokens: choice.tokens };
            match execution.place {
                Place::Gpu => gpu.push(run),
                Place::Copied { bits } => copied.push(CopiedRun { run, bits: f64::from(bits) }),
                Place::NearData => near.push(run),
                Place::Skipped => {}
            }
        }
        self.sums.awaited += copied.len() as u64;
    }

    fn time(&mut self, step: &mut StepSums) {
        let time = self.costs.layer(&self.work);
        step.time_ps += time.total_ps;
        self.sums.gpu_ps += time.gpu_ps as f64;
        self.sums.ndp_ps += time.ndp_ps as f64;
        self.sums.energy_pj += time.energy.total_pj() as f64;
        let migrated_ps = time.migrated_bytes / self.costs.system().link().copy_gb_s() * 1e3;
        self.sums.link_ps += time.link_ps as f64 + migrated_ps;
        self.queue.advance(time.migrated_bytes, &mut self.resident);
    }
}

/// Bounded-loss selection by the core.
struct Selection {
    eps: Eps,
    biases: Vec<Vec<Logit>>,
    raw: Vec<f32>,
    fixed: Vec<Logit>,
    chosen: Vec<u16>,
}

impl Selection {
    /// `None` where nobody may stand in, or where logits are not known.
    fn new(trace: &Trace, eps: f64) -> Option<Self> {
        (eps > 0.0 && trace.logits.is_some()).then(|| Self {
            eps: Eps::saturating_from_num(eps),
            biases: (0..trace.shape.layers).map(|layer| fixed_bias(trace, layer)).collect(),
            raw: vec![0.0; trace.shape.experts],
            fixed: Vec::new(),
            chosen: Vec::new(),
        })
    }

    /// Fills `chosen`; returns the share of the wanted mass that it lacks.
    fn select(&mut self, trace: &Trace, token: usize, layer: usize, resident: &Resident) -> f64 {
        let wanted = trace.chosen(token, layer);
        self.chosen.clear();
        let Some(logits) = &trace.logits else {
            self.chosen.extend_from_slice(wanted);
            return 0.0;
        };
        logits.read_row(token, layer, &mut self.raw);
        self.fixed.clear();
        self.fixed.extend(self.raw.iter().map(|&logit| Logit::saturating_from_num(logit)));
        let router = router(trace, &self.biases[layer]);
        match select::<MAX_TOP_K>(&router, self.eps, 1, &self.fixed, wanted, resident) {
            Ok(selection) => self.chosen.extend_from_slice(&selection.experts),
            // Traces are validated when they are read: a wanted list that the core refuses cannot get here.
            Err(_) => self.chosen.extend_from_slice(wanted),
        }
        mass_loss(trace.meta.router, &self.raw, wanted, &self.chosen)
    }
}
