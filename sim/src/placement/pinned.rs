//! Placed once: after the first tokens the experts that they wanted most stay for good (the single migration of arXiv 2512.04476).

use cptr_core::placement::{Demand, importance, rank};
use cptr_core::{Eps, Gate};

use super::{Kind, Layer, Placement, Resident, Served};
use crate::spec::{Parameter, Values};
use cptr_trace::MAX_TOP_K;

pub(super) const KIND: Kind = Kind {
    name: super::PINNED,
    summary: "the experts that the first tokens wanted most stay for good",
    parameters: &[
        Parameter {
            name: "tokens",
            default: 512.0,
            // What a demand counts exactly.
            range: (1.0, 4_194_303.0),
            summary: "tokens that are watched before the one migration; nothing is resident until then",
        },
        Parameter {
            name: "alpha",
            default: 1.0,
            range: (0.0, 1.0),
            summary: "weight of the share of choices in what is wanted most; the rest is the share of mixing weights, where logits are known",
        },
    ],
    oracle: false,
    make,
};

struct Pinned<'a> {
    tokens: usize,
    alpha: Eps,
    layer: Layer<'a>,
    demand: Vec<Demand>,
}

fn make<'a>(values: &Values, layer: Layer<'a>) -> Box<dyn Placement + 'a> {
    Box::new(Pinned {
        tokens: values.get("tokens") as usize,
        alpha: Eps::saturating_from_num(values.get("alpha")),
        layer,
        demand: vec![Demand::default(); layer.experts],
    })
}

impl Placement for Pinned<'_> {
    fn serve(&mut self, token: &Served<'_>, resident: &mut Resident) -> u32 {
        if token.index >= self.tokens {
            return 0;
        }
        let mut weights = [Gate::ZERO; MAX_TOP_K];
        let weights = &mut weights[..if token.logits.is_empty() { 0 } else { token.wanted.len() }];
        self.layer.router.weights(token.logits, token.wanted, weights);
        Demand::observe(&mut self.demand, token.wanted, weights);
        if token.index + 1 < self.tokens {
            return 0;
        }
        let (_, order) = ranking(&self.demand, self.alpha);
        order.iter().take(self.layer.capacity).filter(|&&expert| resident.insert(expert)).count() as u32
    }
}

/// Importance of every expert of a layer, and the experts by falling importance.
pub fn ranking(demand: &[Demand], alpha: Eps) -> (Vec<Gate>, Vec<u16>) {
    let (mut values, mut order) = (vec![Gate::ZERO; demand.len()], vec![0; demand.len()]);
    importance(demand, alpha, &mut values);
    rank(&values, &mut order);
    (values, order)
}
