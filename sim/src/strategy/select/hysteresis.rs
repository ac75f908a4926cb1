//! A bonus for the experts that ran at the previous token.

use super::{Kind, Make, Select, top};
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter::new("bonus", 0.5, Unit::Nats(0.0, 100.0), "added to the scores of incumbents")],
    needs: Knowledge::Logits,
    ..Kind::new("hysteresis", "scores plus a bonus for the experts of the previous token", Make(make))
};

struct Hysteresis {
    bonus: f32,
    incumbents: Vec<u16>,
    scores: Vec<f32>,
}

fn make(values: &Values) -> Box<dyn Select> {
    Box::new(Hysteresis { bonus: values.get("bonus") as f32, incumbents: Vec::new(), scores: Vec::new() })
}

impl Select for Hysteresis {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        self.scores.clear();
        self.scores.extend_from_slice(token.scores);
        if !token.starts_sequence {
            for &expert in &self.incumbents {
                self.scores[usize::from(expert)] += self.bonus;
            }
        }
        self.incumbents.clear();
        self.incumbents.extend_from_slice(&top(token.wanted.len(), self.scores.iter().copied()));
        chosen.extend_from_slice(&self.incumbents);
    }
}
