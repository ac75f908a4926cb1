//! Bounded-loss selection of the core: the fixed-point code that a controller links, bit for bit.

use cptr_core::{Bounds, Eps, select};

use super::{Kind, Layer, Policy, Token};
use crate::spec::{Parameter, Values};
use cptr_trace::{Knowledge, MAX_TOP_K};

pub(super) const KIND: Kind = Kind {
    name: "cptr",
    summary: "resident experts stand in while at least 1 - eps of the wanted mass is kept; tracked eviction",
    parameters: &[
        Parameter {
            name: "eps",
            default: 0.04,
            range: (0.0, 1.0),
            summary: "share of the routing mass that a token may lose in a layer; 0 is the raw router",
        },
        Parameter {
            name: "error",
            default: 1.0,
            range: (0.0, 1.0),
            summary: "estimated error of the layer's output that is allowed, in units of an expert's output; 1 is no bound",
        },
        Parameter { name: "keep", default: 1.0, range: (0.0, 16.0), summary: "best experts that are always chosen" },
    ],
    needs: Knowledge::Logits,
    placement: "tracked",
    make,
};

struct Cptr<'a> {
    bounds: Bounds,
    keep: usize,
    layer: Layer<'a>,
}

fn make<'a>(values: &Values, layer: Layer<'a>) -> Box<dyn Policy + 'a> {
    let error = values.get("error");
    let bounds = Bounds {
        mass: Eps::saturating_from_num(values.get("eps")),
        error: (error < 1.0).then(|| Eps::saturating_from_num(error)),
    };
    Box::new(Cptr { bounds, keep: values.get("keep") as usize, layer })
}

impl Policy for Cptr<'_> {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let selection =
            select::<MAX_TOP_K>(&self.layer.router, self.bounds, self.keep, token.logits, token.wanted, token.resident);
        match selection {
            Ok(selection) => chosen.extend_from_slice(&selection.experts),
            // Traces are validated when they are read: a wanted list that the core refuses cannot get here.
            Err(_) => chosen.extend_from_slice(token.wanted),
        }
    }
}
