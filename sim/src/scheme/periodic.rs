//! Placed anew at fixed intervals from the demand of the last one, whether the context has changed or not. Copies go on behind decoding.

use cptr_core::placement::Demand;

use super::dispatch::{ALPHA, Dispatch, Ranking, SLACK};
use super::{Execution, Kind, Scheme, Setup, Step};
use crate::decode::queue::Queue;
use crate::placement::Resident;
use crate::spec::{Parameter, Values};
use cptr_trace::Knowledge;
use cptr_trace::error::Result;

pub(super) const KIND: Kind = Kind {
    name: "periodic",
    summary: "placed anew every so many tokens, from the demand of the last ones",
    parameters: &[
        Parameter { name: "interval", default: 256.0, range: (1.0, 1e9), summary: "steps between placements" },
        ALPHA,
        SLACK,
    ],
    needs: Knowledge::Ids,
    oracle: false,
    make,
};

struct Periodic<'a> {
    dispatch: Dispatch<'a>,
    bits: u8,
    hot: usize,
    interval: usize,
    alpha: f64,
    placed: Vec<Resident>,
    demand: Vec<Vec<Demand>>,
}

fn make<'a>(values: &Values, setup: &Setup<'a>) -> Result<Box<dyn Scheme + 'a>> {
    let shape = setup.trace.shape;
    Ok(Box::new(Periodic {
        dispatch: Dispatch::new(setup, values.get("slack")),
        bits: setup.bits,
        hot: setup.hot,
        interval: values.get("interval") as usize,
        alpha: values.get("alpha"),
        placed: Ranking::of_prefill(setup, values.get("alpha")).hot(setup.hot),
        demand: vec![vec![Demand::default(); shape.experts]; shape.layers],
    }))
}

impl Scheme for Periodic<'_> {
    fn place(&mut self) -> Vec<Resident> {
        std::mem::take(&mut self.placed)
    }

    fn dispatch(&mut self, step: &Step<'_>, resident: &mut Resident, executions: &mut Vec<Execution>) {
        self.dispatch.decide(step.choices, resident, |_| self.bits, executions);
    }

    fn observe(&mut self, step: &Step<'_>) {
        for choice in step.choices {
            let score = (f64::from(choice.mass) * f64::from(1u32 << 20)).round() as u64;
            self.demand[step.layer][usize::from(choice.expert)].add(choice.tokens, score);
        }
    }

    fn migrate(&mut self, index: usize, resident: &[Resident], queue: &mut Queue) {
        if !(index + 1).is_multiple_of(self.interval) {
            return;
        }
        let experts = self.demand.first().map_or(0, Vec::len);
        let fresh = self.demand.iter_mut().map(|layer| std::mem::replace(layer, vec![Demand::default(); experts]));
        let ranking = Ranking::of_demand(fresh, self.alpha);
        queue.clear();
        let mut swaps = Vec::new();
        for (layer, ((wanted, order), resident)) in
            ranking.hot(self.hot).iter().zip(&ranking.order).zip(resident).enumerate()
        {
            let kept = queue.resident(layer, resident);
            let leaves = order.iter().rev().filter(|&&expert| kept.contains(expert) && !wanted.contains(expert));
            let comes = order.iter().filter(|&&expert| wanted.contains(expert) && !kept.contains(expert));
            let importance = &ranking.importance[layer];
            swaps.extend(comes.zip(leaves).map(|(&load, &evict)| (importance[usize::from(load)], layer, load, evict)));
        }
        swaps.sort_by(|a, b| b.cmp(a));
        swaps.iter().for_each(|&(_, layer, load, evict)| queue.request(layer, load, evict));
    }
}
