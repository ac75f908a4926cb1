//! Cumulative threshold of "Cache-conditional experts" (arXiv 2412.00099): like max-rank, with a window per token.

use super::{Kind, Make, Select, promote, rank};
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("p", 0.7, Unit::Share, "softmax mass of the window"),
        Parameter::new("keep", 1.0, Unit::Count(0, 64), "best experts that are always chosen").off_at(0.0),
    ],
    needs: Knowledge::Logits,
    ..Kind::new(
        "cumulative",
        "resident experts out of the smallest set with probability p, the best J always (arXiv 2412.00099)",
        Make(make),
    )
};

struct Cumulative {
    p: f32,
    keep: usize,
    order: Vec<u16>,
}

fn make(values: &Values) -> Box<dyn Select> {
    Box::new(Cumulative { p: values.get("p") as f32, keep: values.count("keep"), order: Vec::new() })
}

impl Select for Cumulative {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        rank(token.scores, &mut self.order);
        let largest = self.order.first().map_or(0.0, |&expert| token.scores[usize::from(expert)]);
        let mass = |expert: u16| (token.scores[usize::from(expert)] - largest).exp();
        let all: f32 = self.order.iter().map(|&expert| mass(expert)).sum();
        let mut left = self.p * all;
        let open = |&&expert: &&u16| {
            let open = left > 0.0;
            left -= mass(expert);
            open
        };
        let window = self.order.iter().take_while(open).count();
        promote(&self.order, token.wanted.len(), self.keep, window, token.resident, chosen);
    }
}
