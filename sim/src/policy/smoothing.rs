//! Exponential smoothing of the scores over tokens: what "filter the router" means at first sight.

use super::{Kind, Layer, Policy, Token, top};
use crate::spec::{Parameter, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind = Kind {
    name: "smoothing",
    summary: "top-k of exponentially smoothed scores",
    parameters: &[Parameter {
        name: "alpha",
        default: 0.7,
        range: (0.0, 1.0),
        summary: "weight of the newest token; 1 is the raw router",
    }],
    needs: Knowledge::Logits,
    placement: "lru",
    make,
};

struct Smoothing {
    alpha: f32,
    level: Vec<f32>,
}

fn make<'a>(values: &Values, _: Layer<'a>) -> Box<dyn Policy + 'a> {
    Box::new(Smoothing { alpha: values.get("alpha") as f32, level: Vec::new() })
}

impl Policy for Smoothing {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        if token.starts_sequence || self.level.is_empty() {
            self.level = token.scores.to_vec();
        } else {
            for (level, score) in self.level.iter_mut().zip(token.scores) {
                *level += self.alpha * (score - *level);
            }
        }
        chosen.extend_from_slice(&top(token.wanted.len(), self.level.iter().copied()));
    }
}
