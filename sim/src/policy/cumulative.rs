//! Cumulative threshold of "Cache-conditional experts" (arXiv 2412.00099): like max-rank, with a window per token.

use super::{Kind, Layer, Policy, Token, promote, ranking};
use crate::spec::{Parameter, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind = Kind {
    name: "cumulative",
    summary: "resident experts out of the smallest set with probability p, the best J always (arXiv 2412.00099)",
    parameters: &[
        Parameter { name: "p", default: 0.7, range: (0.0, 1.0), summary: "softmax mass of the window" },
        Parameter { name: "keep", default: 1.0, range: (0.0, 16.0), summary: "best experts that are always chosen" },
    ],
    needs: Knowledge::Logits,
    placement: "lru",
    make,
};

struct Cumulative {
    p: f32,
    keep: usize,
}

fn make<'a>(values: &Values, _: Layer<'a>) -> Box<dyn Policy + 'a> {
    Box::new(Cumulative { p: values.get("p") as f32, keep: values.get("keep") as usize })
}

impl Policy for Cumulative {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let ranked = ranking(token.scores);
        let largest = ranked.first().map_or(0.0, |&expert| token.scores[usize::from(expert)]);
        let mass = |expert: u16| (token.scores[usize::from(expert)] - largest).exp();
        let all: f32 = ranked.iter().map(|&expert| mass(expert)).sum();
        let mut left = self.p * all;
        let window = ranked
            .iter()
            .take_while(|&&expert| {
                let open = left > 0.0;
                left -= mass(expert);
                open
            })
            .count();
        promote(&ranked, token.wanted.len(), self.keep, window, token.resident, chosen);
    }
}
