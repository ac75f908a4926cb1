//! Bounded-loss selection of the core: the fixed-point code that a controller links, bit for bit.

use cptr_core::select::{Floor, Pairs, select_by_pairs};
use cptr_core::{Bounds, Eps, Level};

use super::{Kind, Make, Select};
use crate::memory::Resident;
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new(
            "eps",
            0.04,
            Unit::Share,
            "share of the routing mass that a token may lose in a layer; 0 is the raw router",
        ),
        Parameter::new(
            "error",
            1.0,
            Unit::Factor(0.0, 1.0),
            "estimated error of the layer's output that is allowed, in units of an expert's output; 1 is no bound",
        )
        .off_at(1.0),
        Parameter::new("keep", 1.0, Unit::Count(0, 64), "best experts that are always chosen").off_at(0.0),
        Parameter::new(
            "pair",
            1.0,
            Unit::Factor(0.0, 1.0),
            "estimated error of a single stand-in that is allowed; 1 is no bound",
        )
        .off_at(1.0),
        Parameter::new(
            "spare",
            0.0,
            Unit::Factor(0.0, 64.0),
            "how much less is allowed for an expert that the next tokens are expected to want, times their share",
        )
        .off_at(0.0),
        Parameter::new(
            "floor",
            0.0,
            Unit::Share,
            "least share of the tokens that want an expert in which it runs; 0 is no floor",
        )
        .off_at(0.0),
    ],
    needs: Knowledge::Logits,
    promises: true,
    ..Kind::new(
        "bounded",
        "resident experts stand in while at least 1 - eps of the wanted routing mass is kept",
        Make(make),
    )
};

/// What the values allow.
pub(crate) fn bounds(values: &Values) -> Bounds {
    let error = values.get("error");
    Bounds {
        mass: Eps::saturating_from_num(values.get("eps")),
        error: (error < 1.0).then(|| Eps::saturating_from_num(error)),
    }
}

struct Bounded {
    bounds: Bounds,
    keep: usize,
    /// Bound on each stand-in.
    pair: Option<Eps>,
    spare: f64,
    /// Shares of the next tokens, times `spare`.
    shares: Vec<Level>,
    floor: Eps,
    /// Of the floor, by expert.
    credits: Vec<u32>,
}

fn make(values: &Values) -> Box<dyn Select> {
    let pair = values.get("pair");
    Box::new(Bounded {
        bounds: bounds(values),
        keep: values.count("keep"),
        pair: (pair < 1.0).then(|| Eps::saturating_from_num(pair)),
        spare: values.get("spare"),
        shares: Vec::new(),
        floor: Eps::saturating_from_num(values.get("floor")),
        credits: Vec::new(),
    })
}

impl Select for Bounded {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let first = chosen.len();
        chosen.extend_from_slice(token.wanted);
        let &Token { router, logits, resident, expected, .. } = token;
        self.shares.clear();
        self.shares.extend(expected.iter().map(|share| Level::saturating_from_num(share.to_num::<f64>() * self.spare)));
        let pairs = Pairs { error: self.pair, shares: &self.shares };
        // Sources are validated when they are read: a wanted list that the core refuses cannot get here, and would stay
        // as it is.
        let (bounds, keep, list) = (self.bounds, self.keep, &mut chosen[first..]);
        if self.floor > Eps::ZERO {
            self.credits.resize(token.experts, 0);
            let mut floor = Floor::new(self.floor, &mut self.credits);
            let mut guarded = Resident::new();
            resident.iter().for_each(|expert| _ = guarded.insert(expert));
            floor.guard(token.wanted, &mut guarded);
            _ = select_by_pairs(router, bounds, keep, logits, list, &guarded, pairs);
            floor.learn(token.wanted, list);
        } else {
            _ = select_by_pairs(router, bounds, keep, logits, list, resident, pairs);
        }
    }

    fn expects(&self) -> bool {
        self.spare > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Part;
    use cptr_core::{ExpertSet, Logit, Router};

    /// Of the missing 1 and 2 the lesser is replaced, unless it is expected.
    #[test]
    fn who_is_expected_is_loaded_rather_than_replaced() {
        let mut resident = ExpertSet::<1>::new();
        [0, 3].into_iter().for_each(|expert| assert!(resident.insert(expert)));
        let (scores, router) = ([2.0, 0.1, 0.0, -0.5], Router::softmax_all(3));
        let logits = scores.map(Logit::from_num);
        let chosen = |spare: &str, expected: &[f64]| {
            let mut part = Part::new(&KIND);
            ["eps=1", "pair=0.1", spare].iter().for_each(|value| part.values.set("bounded", value).unwrap());
            let expected: Vec<Level> = expected.iter().map(|&share| Level::from_num(share)).collect();
            let token = Token {
                layer: 0,
                scores: &scores,
                logits: &logits,
                wanted: &[0, 1, 2],
                shares: &[],
                experts: 4,
                resident: &resident,
                starts_sequence: false,
                router: &router,
                expected: &expected,
                committed: &[],
            };
            let mut chosen = Vec::new();
            make(&part.values).select(&token, &mut chosen);
            chosen
        };
        assert_eq!(chosen("spare=1", &[]), [0, 1, 3]);
        assert_eq!(chosen("spare=0", &[0.0, 0.0, 0.9]), [0, 1, 3]);
        assert_eq!(chosen("spare=1", &[0.0, 0.0, 0.9]), [0, 3, 2]);
        assert_eq!(chosen("spare=2", &[0.0, 0.5, 0.5]), [0, 1, 2]);
    }
}
