//! Max-rank of "Cache-conditional experts" (arXiv 2412.00099): resident experts may be promoted from within the first M ranks.

use super::{Kind, Layer, Policy, Token, promote, ranking};
use crate::spec::{Parameter, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind = Kind {
    name: "max-rank",
    summary: "resident experts out of the first M ranks, the best J always (arXiv 2412.00099)",
    parameters: &[
        Parameter {
            name: "window",
            default: 1.5,
            range: (1.0, 1024.0),
            summary: "ranks that take part, in multiples of k",
        },
        Parameter { name: "keep", default: 1.0, range: (0.0, 16.0), summary: "best experts that are always chosen" },
    ],
    needs: Knowledge::Logits,
    placement: "lru",
    make,
};

struct MaxRank {
    window: f64,
    keep: usize,
}

fn make<'a>(values: &Values, _: Layer<'a>) -> Box<dyn Policy + 'a> {
    Box::new(MaxRank { window: values.get("window"), keep: values.get("keep") as usize })
}

impl Policy for MaxRank {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let k = token.wanted.len();
        let window = (self.window * k as f64).round() as usize;
        promote(&ranking(token.scores), k, self.keep, window, token.resident, chosen);
    }
}
