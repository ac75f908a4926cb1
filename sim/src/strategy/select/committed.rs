//! What was fetched ahead runs, whatever the router says when its turn comes: the prediction is committed, as engines
//! do it that route a layer ahead (Pre-gated MoE, arXiv 2308.12066, with trained gates). Nothing that was fetched is in
//! vain, and what it costs is routing mass. What was not predicted is filled up by the router.

use super::{Kind, Make, Select};
use crate::source::real;
use crate::strategy::{Token, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind<Make> = Kind {
    needs: Knowledge::Logits,
    couples_layers: true,
    ..Kind::new("committed", "what the prefetch has predicted runs, whatever the router says", Make(make))
};

struct Committed;

fn make(_: &Values) -> Box<dyn Select> {
    Box::new(Committed)
}

impl Select for Committed {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let first = chosen.len();
        chosen.extend_from_slice(token.wanted);
        let wanted = real(token.wanted, token.experts);
        let committed = &token.committed[..token.committed.len().min(wanted.len())];
        // In the places of the least that were not predicted.
        let mut absent = committed.iter().filter(|expert| !wanted.contains(expert));
        for place in (0..wanted.len()).rev().filter(|&place| !committed.contains(&wanted[place])) {
            let Some(&expert) = absent.next() else { return };
            chosen[first + place] = expert;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_core::{ExpertSet, Router};

    #[test]
    fn the_prediction_takes_the_places_of_the_least() {
        let router = Router::softmax_selected(4);
        let chosen = |wanted: &[u16], committed: &[u16]| {
            let token = Token {
                layer: 0,
                scores: &[],
                logits: &[],
                wanted,
                shares: &[],
                experts: 8,
                resident: &ExpertSet::<1>::new(),
                starts_sequence: false,
                router: &router,
                expected: &[],
                committed,
            };
            let mut chosen = vec![7];
            Committed.select(&token, &mut chosen);
            chosen.split_off(1)
        };
        assert_eq!(chosen(&[1, 2, 3, 4], &[]), [1, 2, 3, 4]);
        assert_eq!(chosen(&[1, 2, 3, 4], &[4, 3, 2, 1]), [1, 2, 3, 4]);
        assert_eq!(chosen(&[1, 2, 3, 4], &[6, 1]), [1, 2, 3, 6]);
        assert_eq!(chosen(&[1, 2, 3, 4], &[6, 3, 5, 0]), [0, 5, 3, 6]);
        // Null experts stay, and no more are predicted than there are places.
        assert_eq!(chosen(&[1, 2, 8, 9], &[6, 1, 5]), [1, 6, 8, 9]);
    }
}
