//! Cache-prior of "Cache-conditional experts" (arXiv 2412.00099): a bonus for resident experts in proportion to the
//! spread of the layer's scores. The strongest published rival that needs no training.

use super::{Kind, Make, Select, top};
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("lambda", 0.1, Unit::Factor(0.0, 1.0), "bonus in units of the mean spread"),
        Parameter::new("keep", 1.0, Unit::Count(0, 64), "best experts that get the bonus too").off_at(0.0),
    ],
    needs: Knowledge::Logits,
    ..Kind::new(
        "cache-prior",
        "scores plus lambda times their mean spread for resident experts and the best J (arXiv 2412.00099)",
        Make(make),
    )
};

struct CachePrior {
    lambda: f32,
    keep: usize,
    tokens: f32,
    /// Running mean of the largest minus the smallest score.
    spread: f32,
    scores: Vec<f32>,
}

fn make(values: &Values) -> Box<dyn Select> {
    Box::new(CachePrior {
        lambda: values.get("lambda") as f32,
        keep: values.count("keep"),
        tokens: 0.0,
        spread: 0.0,
        scores: Vec::new(),
    })
}

impl Select for CachePrior {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let bounds = token.scores.iter().fold((f32::MAX, f32::MIN), |(low, high), &z| (low.min(z), high.max(z)));
        self.tokens += 1.0;
        self.spread += (bounds.1 - bounds.0 - self.spread) / self.tokens;
        self.scores.clear();
        self.scores.extend_from_slice(token.scores);
        let kept = &token.wanted[..self.keep.min(token.wanted.len())];
        let absent = kept.iter().copied().filter(|&expert| !token.resident.contains(expert));
        for expert in token.resident.iter().take_while(|&e| usize::from(e) < token.scores.len()).chain(absent) {
            self.scores[usize::from(expert)] += self.lambda * self.spread;
        }
        chosen.extend_from_slice(&top(token.wanted.len(), self.scores.iter().copied()));
    }
}
