//! Max-rank of "Cache-conditional experts" (arXiv 2412.00099): resident experts may be promoted from within the first M
//! ranks.

use super::{Kind, Make, Select, promote, rank};
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("window", 1.5, Unit::Factor(1.0, 1024.0), "ranks that take part, in multiples of k"),
        Parameter::new("keep", 1.0, Unit::Count(0, 64), "best experts that are always chosen").off_at(0.0),
    ],
    needs: Knowledge::Logits,
    ..Kind::new(
        "max-rank",
        "resident experts out of the first M ranks, the best J always (arXiv 2412.00099)",
        Make(make),
    )
};

struct MaxRank {
    window: f64,
    keep: usize,
    order: Vec<u16>,
}

fn make(values: &Values) -> Box<dyn Select> {
    Box::new(MaxRank { window: values.get("window"), keep: values.count("keep"), order: Vec::new() })
}

impl Select for MaxRank {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let k = token.wanted.len();
        let window = (self.window * k as f64).round() as usize;
        rank(token.scores, &mut self.order);
        promote(&self.order, k, self.keep, window, token.resident, chosen);
    }
}
