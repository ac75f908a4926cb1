//! Knows the future: as `cptr`, but levels are the true demand of the next tokens, and no rate limit but the link. It pays for the same copies over
//! the same link, so it is what a perfect forecast would give, and no more.

use cptr_core::Level;
use cptr_core::replace::swap;

use super::cptr::{request, rule};
use super::dispatch::{ALPHA, Dispatch, Ranking, SLACK};
use super::{Execution, Kind, Scheme, Setup, Step};
use crate::decode::queue::Queue;
use crate::decode::streams::Streams;
use crate::placement::Resident;
use crate::spec::{Parameter, Values};
use cptr_trace::error::Result;
use cptr_trace::{Knowledge, Trace};

pub(super) const KIND: Kind = Kind {
    name: "oracle",
    summary: "as cptr, with the true demand of the next tokens and no rate limit but the link",
    parameters: &[
        Parameter { name: "horizon", default: 256.0, range: (1.0, 1e6), summary: "tokens over which a copy must pay" },
        Parameter {
            name: "window",
            default: 256.0,
            range: (1.0, 1e6),
            summary: "tokens of the future that it looks at",
        },
        SLACK,
        ALPHA,
    ],
    needs: Knowledge::Ids,
    oracle: true,
    make,
};

struct Oracle<'a> {
    trace: &'a Trace,
    streams: &'a Streams,
    dispatch: Dispatch<'a>,
    bits: u8,
    window: usize,
    placed: Vec<Resident>,
    /// Choices in the window, `[L][E]`.
    counts: Vec<Vec<u32>>,
    margin: Option<Level>,
}

fn make<'a>(values: &Values, setup: &Setup<'a>) -> Result<Box<dyn Scheme + 'a>> {
    let shape = setup.trace.shape;
    let mut oracle = Oracle {
        trace: setup.trace,
        streams: setup.streams,
        dispatch: Dispatch::new(setup, values.get("slack")),
        bits: setup.bits,
        window: values.get("window") as usize,
        placed: Ranking::of_prefill(setup, values.get("alpha")).hot(setup.hot),
        counts: vec![vec![0; shape.experts]; shape.layers],
        margin: rule(setup.costs, setup.bits, values.get("horizon")).margin(),
    };
    let first = setup.streams.prefill;
    (first..first + oracle.window).for_each(|step| oracle.count(step, 1));
    Ok(Box::new(oracle))
}

impl Oracle<'_> {
    /// Adds the demand of a step of all sequences, `by` times; steps beyond the end have none.
    fn count(&mut self, step: usize, by: i32) {
        if step >= self.streams.length {
            return;
        }
        for token in self.streams.tokens(step) {
            for (layer, counts) in self.counts.iter_mut().enumerate() {
                for &expert in self.trace.chosen(token, layer) {
                    let count = &mut counts[usize::from(expert)];
                    *count = count.saturating_add_signed(by);
                }
            }
        }
    }
}

impl Scheme for Oracle<'_> {
    fn place(&mut self) -> Vec<Resident> {
        std::mem::take(&mut self.placed)
    }

    fn dispatch(&mut self, step: &Step<'_>, resident: &mut Resident, executions: &mut Vec<Execution>) {
        self.dispatch.decide(step.choices, resident, |_| self.bits, executions);
    }

    fn migrate(&mut self, index: usize, resident: &[Resident], queue: &mut Queue) {
        self.count(index, -1);
        self.count(index + self.window, 1);
        let Some(margin) = self.margin else { return };
        let ahead = (self.window.min(self.streams.length - index) * self.streams.sequences()).max(1) as u64;
        let levels = |layer: usize| {
            let level = |&count: &u32| Level::from_bits(((u64::from(count) << 31) / ahead).min(1 << 31) as u32);
            self.counts[layer].iter().map(level)
        };
        request(queue, resident, |layer, busy| swap(levels(layer), &resident[layer], busy, margin), || true);
    }
}
