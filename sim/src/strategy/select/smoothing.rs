//! Exponential smoothing of the scores over tokens: what "filter the router" means at first sight.

use super::{Kind, Make, Select, top};
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter::new("alpha", 0.7, Unit::Share, "weight of the newest token; 1 is the raw router")],
    needs: Knowledge::Logits,
    ..Kind::new("smoothing", "the best of exponentially smoothed scores", Make(make))
};

struct Smoothing {
    alpha: f32,
    level: Vec<f32>,
}

fn make(values: &Values) -> Box<dyn Select> {
    Box::new(Smoothing { alpha: values.get("alpha") as f32, level: Vec::new() })
}

impl Select for Smoothing {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        if token.starts_sequence || self.level.is_empty() {
            self.level.clear();
            self.level.extend_from_slice(token.scores);
        } else {
            for (level, score) in self.level.iter_mut().zip(token.scores) {
                *level += self.alpha * (score - *level);
            }
        }
        chosen.extend_from_slice(&top(token.wanted.len(), self.level.iter().copied()));
    }
}
