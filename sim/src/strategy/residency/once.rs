//! Placed once: the experts that the prompt wanted most stay for good (the single migration of arXiv 2512.04476).

use cptr_core::Gate;
use cptr_core::placement::Demand;

use super::{Kind, Make, Ranking, Residency, Setup};
use crate::strategy::{Parameter, Served, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new(
            "tokens",
            512.0,
            // What a demand counts exactly.
            Unit::Count(1, 4_194_303),
            "tokens of each sequence that are watched before the one migration, where there is no prompt; nothing is resident until then",
        ),
        Parameter { default: 1.0, ..super::ALPHA },
    ],
    ..Kind::new("once", "the experts that the prompt, or the first tokens, wanted most stay for good", Make(make))
};

struct Once {
    alpha: f64,
    /// Steps that are watched; none after a prompt.
    tokens: usize,
    demand: Vec<Vec<Demand>>,
    weights: Vec<Gate>,
    /// Layers that are due.
    due: Vec<bool>,
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    let tokens = if setup.prefill > 0 { 0 } else { values.count("tokens") };
    Box::new(Once {
        alpha: values.get("alpha"),
        tokens,
        demand: vec![vec![Demand::default(); if tokens > 0 { setup.experts } else { 0 }]; setup.layers],
        weights: Vec::new(),
        due: vec![false; setup.layers],
    })
}

impl Residency for Once {
    fn observe(&mut self, served: &Served<'_>) {
        if served.step >= self.tokens {
            return;
        }
        for token in 0..served.tokens {
            let token = (served.token)(token);
            self.weights.clear();
            self.weights.extend(token.shares.iter().map(|&share| Gate::saturating_from_num(share)));
            Demand::observe(&mut self.demand[served.layer], token.wanted, &self.weights);
        }
        self.due[served.layer] = served.step + 1 == self.tokens;
    }

    fn worth(&mut self, _: usize, demand: &[Demand], order: &mut Vec<u16>) {
        order.clone_from(&Ranking::of(demand, self.alpha).order);
    }

    fn place(&mut self, layer: usize) -> Option<Ranking> {
        std::mem::take(&mut self.due[layer]).then(|| Ranking::of(&self.demand[layer], self.alpha))
    }

    fn alpha(&self) -> f64 {
        self.alpha
    }
}
