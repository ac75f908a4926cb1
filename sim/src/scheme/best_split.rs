//! The best division of each layer by trying all of them (DynaNDE's rule, arXiv 2609.00407): the n most wanted experts on the GPU, copied first if
//! they are not there, the others near the data at 16 bits; n from 0 to all, the one whose slower side is fastest.
//!
//! What is in GPU memory is placed once after prefill. Experts that the division copies do not stay.

use super::dispatch::{ALPHA, Ranking};
use super::{Execution, FULL_BITS, Kind, Scheme, Setup, Step};
use crate::decode::costs::Costs;
use crate::placement::Resident;
use crate::spec::Values;
use cptr_trace::Knowledge;
use cptr_trace::error::Result;

pub(super) const KIND: Kind = Kind {
    name: "best-split",
    summary: "placed once; each layer divided between GPU and device in the fastest way, all at 16 bits",
    parameters: &[ALPHA],
    needs: Knowledge::Ids,
    oracle: false,
    make,
};

struct BestSplit<'a> {
    costs: &'a Costs<'a>,
    hot: Vec<Resident>,
}

fn make<'a>(values: &Values, setup: &Setup<'a>) -> Result<Box<dyn Scheme + 'a>> {
    let hot = Ranking::of_prefill(setup, values.get("alpha")).hot(setup.hot);
    Ok(Box::new(BestSplit { costs: setup.costs, hot }))
}

impl Scheme for BestSplit<'_> {
    fn place(&mut self) -> Vec<Resident> {
        std::mem::take(&mut self.hot)
    }

    fn dispatch(&mut self, step: &Step<'_>, resident: &mut Resident, executions: &mut Vec<Execution>) {
        let mut order = super::by_demand(step.choices);
        // Of two equally wanted experts the one that is there goes first: a stable sort.
        order.sort_by_key(|&index| !resident.contains(step.choices[index].expert));
        let mut near: f64 = step.choices.iter().map(|choice| self.costs.near_run_ps(FULL_BITS, choice.tokens)).sum();
        let (mut gpu, mut copies) = (0.0, 0.0);
        let mut best = (self.costs.layer_ps(gpu, near), 0);
        for (count, &index) in (1..).zip(&order) {
            let choice = &step.choices[index];
            near -= self.costs.near_run_ps(FULL_BITS, choice.tokens);
            gpu += self.costs.gpu_run_ps(FULL_BITS, choice.tokens);
            if !resident.contains(choice.expert) {
                copies += self.costs.copy_ps(FULL_BITS);
            }
            let time = self.costs.layer_ps(gpu.max(copies), near);
            if time < best.0 {
                best = (time, count);
            }
        }
        let first = executions.len();
        executions.resize(first + step.choices.len(), Execution::near(FULL_BITS));
        for &index in order.iter().take(best.1) {
            executions[first + index] = match resident.contains(step.choices[index].expert) {
                true => Execution::RESIDENT,
                false => Execution::COPIED,
            };
        }
    }
}
