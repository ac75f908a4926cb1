//! Placed anew at fixed intervals from the demand of the last one, whether the context has changed or not. Copies go on
//! behind decoding.

use cptr_core::placement::Demand;

use super::{EndOfStep, Kind, Make, Ranking, Residency, Setup};
use crate::strategy::{Parameter, Served, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("interval", 64.0, Unit::Count(1, 1_000_000_000), "tokens between placements"),
        super::ALPHA,
    ],
    couples_layers: true,
    ..Kind::new("periodic", "placed anew every so many tokens, from the demand of the last ones", Make(make))
};

struct Periodic {
    interval: usize,
    alpha: f64,
    demand: Vec<Vec<Demand>>,
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    Box::new(Periodic {
        interval: values.count("interval"),
        alpha: values.get("alpha"),
        demand: vec![vec![Demand::default(); setup.experts]; setup.layers],
    })
}

impl Residency for Periodic {
    fn observe(&mut self, served: &Served<'_>) {
        if served.prefill {
            return;
        }
        for choice in served.choices {
            let score = (f64::from(choice.mass) * f64::from(1u32 << 20)).round() as u64;
            self.demand[served.layer][usize::from(choice.expert)].add(choice.tokens, score);
        }
    }

    fn worth(&mut self, _: usize, demand: &[Demand], order: &mut Vec<u16>) {
        order.clone_from(&Ranking::of(demand, self.alpha).order);
    }

    fn end_step(&mut self, end: &mut EndOfStep<'_, '_>) {
        if end.prefill || !(end.step + 1).is_multiple_of(self.interval) {
            return;
        }
        end.fast.queue.clear();
        let mut swaps = Vec::new();
        for (layer, demand) in self.demand.iter_mut().enumerate() {
            let Ranking { order, importance } = Ranking::of(demand, self.alpha);
            demand.fill(Demand::default());
            let fit = end.fast.fit(layer);
            let kept = end.fast.queue.resident(layer, end.fast.memories[layer].resident());
            let (wanted, others) = order.split_at(fit.min(order.len()));
            let leaves = others.iter().rev().filter(|&&expert| kept.contains(expert)).map(|&expert| Some(expert));
            let room = fit.saturating_sub(kept.len());
            let comes = wanted.iter().filter(|&&expert| !kept.contains(expert));
            let goes = std::iter::repeat_n(None, room).chain(leaves);
            swaps.extend(comes.zip(goes).map(|(&load, evict)| (importance[usize::from(load)], layer, load, evict)));
        }
        swaps.sort_by(|a, b| b.cmp(a));
        swaps.iter().for_each(|&(_, layer, load, evict)| end.fast.queue.migrate(layer, load, evict));
    }

    fn alpha(&self) -> f64 {
        self.alpha
    }
}
