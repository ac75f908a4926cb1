//! What schemes with a near-data device share: the prefill's demand, the hot sets that follow from it, and who runs where.

use cptr_core::placement::Demand;
use cptr_core::{Eps, Gate};

use super::{Choice, Execution, Setup};
use crate::decode::costs::Costs;
use crate::decode::streams::mass;
use crate::placement::{self, Resident};
use crate::spec::Parameter;

/// Weight of counts against score sums in the importance.
pub(super) const ALPHA: Parameter = Parameter {
    name: "alpha",
    default: 0.5,
    range: (0.0, 1.0),
    summary: "weight of the share of choices in the importance; the rest is the share of routing scores",
};

/// Time that may be given up for precision.
pub(super) const SLACK: Parameter = Parameter {
    name: "slack",
    default: 0.15,
    range: (0.0, 100.0),
    summary: "share of a layer's least possible time that it may take longer, with cold experts at 2 bits, for more experts at full precision; \
              half of it for each bit more",
};

/// Experts of every layer by falling importance in the prefill, `[L][E]`, and the importance itself.
pub(super) struct Ranking {
    pub(super) order: Vec<Vec<u16>>,
    pub(super) importance: Vec<Vec<Gate>>,
}

impl Ranking {
    /// From the prefill of all sequences of the batch.
    pub(super) fn of_prefill(setup: &Setup<'_>, alpha: f64) -> Self {
        let steps = 0..setup.streams.prefill;
        let tokens: Vec<usize> = steps.flat_map(|step| setup.streams.tokens(step)).collect();
        let layers = 0..setup.trace.shape.layers;
        let demand = layers.map(|layer| {
            let mut demand = vec![Demand::default(); setup.trace.shape.experts];
            let mut weights = Vec::new();
            for &token in &tokens {
                weights.clear();
                weights.extend(mass(setup.trace, token, layer).map(Gate::saturating_from_num));
                Demand::observe(&mut demand, setup.trace.chosen(token, layer), &weights);
            }
            demand
        });
        Self::of_demand(demand, alpha)
    }

    /// From what was asked of the experts, layer by layer.
    pub(super) fn of_demand(demand: impl Iterator<Item = Vec<Demand>>, alpha: f64) -> Self {
        let alpha = Eps::saturating_from_num(alpha);
        let mut ranking = Self { order: Vec::new(), importance: Vec::new() };
        for demand in demand {
            let (importance, order) = placement::ranking(&demand, alpha);
            ranking.order.push(order);
            ranking.importance.push(importance);
        }
        ranking
    }

    /// The first `hot` experts of every layer.
    pub(super) fn hot(&self, hot: usize) -> Vec<Resident> {
        let set = |order: &Vec<u16>| {
            let mut set = Resident::new();
            order.iter().take(hot).for_each(|&expert| {
                set.insert(expert);
            });
            set
        };
        self.order.iter().map(set).collect()
    }
}

/// Who runs where among resident and cold experts.
pub(super) struct Dispatch<'a> {
    costs: &'a Costs<'a>,
    /// Share of the least possible time that a layer may take longer; infinite: residents always run on the GPU.
    slack: f64,
}

impl<'a> Dispatch<'a> {
    /// With [`SLACK`] as the user gave it. Precision is worth less where less is lost without it: the error of quantisation, and with it the time
    /// that is given up, halves with each bit.
    pub(super) fn new(setup: &Setup<'a>, slack: f64) -> Self {
        Self { costs: setup.costs, slack: slack * 2.0_f64.powi(2 - i32::from(setup.bits)) }
    }

    /// Where an expert lies, it runs.
    pub(super) const fn in_place(setup: &Setup<'a>) -> Self {
        Self { costs: setup.costs, slack: f64::INFINITY }
    }

    /// Residents run on the GPU, the most wanted first, as long as the layer takes at most `1 + slack` times what the fastest division would;
    /// all others near the data at `bits(expert)`, where replicas of all experts lie. Tries every division: one pass over the choices.
    pub(super) fn decide(
        &self,
        choices: &[Choice],
        resident: &Resident,
        bits: impl Fn(u16) -> u8,
        executions: &mut Vec<Execution>,
    ) {
        let start = executions.len();
        executions.extend(choices.iter().map(|choice| match resident.contains(choice.expert) {
            true => Execution::RESIDENT,
            false => Execution::near(bits(choice.expert)),
        }));
        let executions = &mut executions[start..];
        if self.slack.is_infinite() {
            return;
        }
        let near_ps = |choice: &Choice| self.costs.near_run_ps(bits(choice.expert), choice.tokens);
        let gpu_ps = |choice: &Choice| self.costs.gpu_run_ps(super::FULL_BITS, choice.tokens);
        let mut candidates = super::by_demand(choices);
        candidates.retain(|&index| executions[index] == Execution::RESIDENT);
        let mut near: f64 =
            choices.iter().zip(&*executions).filter(|(_, e)| **e != Execution::RESIDENT).map(|(c, _)| near_ps(c)).sum();
        let mut gpu: f64 = candidates.iter().map(|&index| gpu_ps(&choices[index])).sum();
        // From all residents on the GPU to none, the least wanted going first.
        let mut times = vec![self.costs.layer_ps(gpu, near)];
        for &index in candidates.iter().rev() {
            gpu -= gpu_ps(&choices[index]);
            near += near_ps(&choices[index]);
            times.push(self.costs.layer_ps(gpu, near));
        }
        let fastest = times.iter().copied().fold(f64::INFINITY, f64::min);
        let moved = times.iter().position(|&time| time <= fastest * (1.0 + self.slack)).unwrap_or(0);
        for &index in candidates.iter().rev().take(moved) {
            executions[index] = Execution::near(bits(choices[index].expert));
        }
    }
}
