//! Substitution of low-weight misses, as engines with expert caches do it: a missed expert whose gate is below a threshold gives way to
//! the best resident one.

use super::{Kind, Layer, Policy, Token};
use crate::spec::{Parameter, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind = Kind {
    name: "substitute",
    summary: "a missed expert whose share of the chosen softmax mass is below tau gives way to the best resident one",
    parameters: &[Parameter {
        name: "tau",
        default: 0.1,
        range: (0.0, 1.0),
        summary: "largest share of the wanted mass that is replaced",
    }],
    needs: Knowledge::Logits,
    placement: "lru",
    make,
};

struct Substitute {
    tau: f32,
}

fn make<'a>(values: &Values, _: Layer<'a>) -> Box<dyn Policy + 'a> {
    Box::new(Substitute { tau: values.get("tau") as f32 })
}

impl Policy for Substitute {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let score = |expert: u16| token.scores[usize::from(expert)];
        let largest = token.wanted.iter().map(|&expert| score(expert)).fold(f32::MIN, f32::max);
        let mass = |expert: u16| (score(expert) - largest).exp();
        let all: f32 = token.wanted.iter().map(|&expert| mass(expert)).sum();
        chosen.extend_from_slice(token.wanted);
        for place in 0..chosen.len() {
            let expert = chosen[place];
            if token.resident.contains(expert) || mass(expert) >= self.tau * all {
                continue;
            }
            let absent = |&other: &u16| usize::from(other) < token.scores.len() && !chosen.contains(&other);
            let stand_in = token.resident.iter().filter(absent).max_by(|&a, &b| score(a).total_cmp(&score(b)));
            if let Some(stand_in) = stand_in {
                chosen[place] = stand_in;
            }
        }
    }
}
