//! A bonus for the experts that ran at the previous token.

use super::{Kind, Layer, Policy, Token, top};
use crate::spec::{Parameter, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind = Kind {
    name: "hysteresis",
    summary: "scores plus a bonus for the experts of the previous token",
    parameters: &[Parameter {
        name: "bonus",
        default: 0.5,
        range: (0.0, 100.0),
        summary: "added to the scores of incumbents",
    }],
    needs: Knowledge::Logits,
    placement: "lru",
    make,
};

struct Hysteresis {
    bonus: f32,
    incumbents: Vec<u16>,
    scores: Vec<f32>,
}

fn make<'a>(values: &Values, _: Layer<'a>) -> Box<dyn Policy + 'a> {
    Box::new(Hysteresis { bonus: values.get("bonus") as f32, incumbents: Vec::new(), scores: Vec::new() })
}

impl Policy for Hysteresis {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        self.scores.clear();
        self.scores.extend_from_slice(token.scores);
        if !token.starts_sequence {
            for &expert in &self.incumbents {
                self.scores[usize::from(expert)] += self.bonus;
            }
        }
        chosen.extend_from_slice(&top(token.wanted.len(), self.scores.iter().copied()));
        self.incumbents.clone_from(chosen);
    }
}
