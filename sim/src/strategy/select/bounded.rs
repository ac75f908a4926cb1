//! Bounded-loss selection of the core: the fixed-point code that a controller links, bit for bit.

use cptr_core::{Bounds, Eps, select};

use super::{Kind, Make, Select};
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_trace::{Knowledge, MAX_TOP_K};

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
}

fn make(values: &Values) -> Box<dyn Select> {
    Box::new(Bounded { bounds: bounds(values), keep: values.count("keep") })
}

impl Select for Bounded {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let selection =
            select::<MAX_TOP_K>(token.router, self.bounds, self.keep, token.logits, token.wanted, token.resident);
        match selection {
            Ok(selection) => chosen.extend_from_slice(&selection.experts),
            // Sources are validated when they are read: a wanted list that the core refuses cannot get here.
            Err(_) => chosen.extend_from_slice(token.wanted),
        }
    }
}
