//! Missing experts of low mass are left out, as engines with expert caches do it: nothing stands in for them.

use super::{Kind, Make, Select};
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_trace::{Knowledge, NO_EXPERT};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter::new(
        "eps",
        0.04,
        Unit::Share,
        "share of the wanted mass that a token may lose in a layer",
    )],
    needs: Knowledge::Weights,
    ..Kind::new(
        "drop",
        "missing experts are left out, those of the least mass first, together at most eps of it; the best one runs",
        Make(make),
    )
};

struct Drop {
    eps: f32,
    /// Places among the wanted of those that are missing.
    missing: Vec<usize>,
}

fn make(values: &Values) -> Box<dyn Select> {
    Box::new(Drop { eps: values.get("eps") as f32, missing: Vec::new() })
}

impl Select for Drop {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let (first, shares) = (chosen.len(), token.shares);
        chosen.extend_from_slice(token.wanted);
        let best = (0..shares.len()).max_by(|&a, &b| shares[a].total_cmp(&shares[b]).then(b.cmp(&a)));
        let missing = |at: &usize| {
            let expert = token.wanted[*at];
            usize::from(expert) < token.experts && !token.resident.contains(expert) && Some(*at) != best
        };
        self.missing.clear();
        self.missing.extend((0..token.wanted.len()).filter(missing));
        self.missing.sort_by(|&a, &b| shares[a].total_cmp(&shares[b]));
        let mut lost = 0.0;
        for &at in &self.missing {
            lost += shares[at];
            if lost > self.eps {
                break;
            }
            chosen[first + at] = NO_EXPERT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Part;
    use cptr_core::{ExpertSet, Router};

    #[test]
    fn the_least_go_within_the_budget() {
        let mut resident = ExpertSet::<1>::new();
        resident.insert(4);
        let router = Router::softmax_selected(4);
        let chosen = |wanted: &[u16], shares: &[f32], eps: f64| {
            let mut values = Part::new(&KIND).values;
            values.set("drop", &format!("eps={eps}")).unwrap();
            let (mut chosen, resident) = (vec![9], &resident);
            let token = Token {
                layer: 0,
                scores: &[],
                logits: &[],
                wanted,
                shares,
                experts: 8,
                resident,
                starts_sequence: false,
                router: &router,
                expected: &[],
                committed: &[],
            };
            make(&values).select(&token, &mut chosen);
            chosen.split_off(1)
        };
        let (wanted, shares) = ([1, 4, 2, 3], [0.5, 0.05, 0.25, 0.2]);
        assert_eq!(chosen(&wanted, &shares, 0.19), wanted);
        assert_eq!(chosen(&wanted, &shares, 0.3), [1, 4, 2, NO_EXPERT]);
        assert_eq!(chosen(&wanted, &shares, 0.5), [1, 4, NO_EXPERT, NO_EXPERT]);
        // Whatever may be lost, the best one runs; null experts are nothing to leave out.
        assert_eq!(chosen(&[1, 2, 8, 9], &[0.3, 0.4, 0.2, 0.1], 1.0), [NO_EXPERT, 2, 8, 9]);
    }
}
