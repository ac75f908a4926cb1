//! Knows the future: as `migrate`, but levels are the true demand of the next tokens, and no rate limit but the link.
//! It pays for the same copies over the same link, so it is what a perfect forecast would give that rule, and no bound.

use cptr_core::Level;
use cptr_core::placement::Demand;

use super::migrate::{margin, request};
use super::{EndOfStep, Kind, Make, Ranking, Residency, Setup};
use crate::source::Future;
use crate::strategy::{Parameter, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("horizon", 256.0, Unit::Count(1, 1_000_000), "tokens over which a copy must pay"),
        Parameter::new("window", 256.0, Unit::Count(1, 1_000_000), "tokens of the future that it looks at"),
        super::ALPHA,
    ],
    sees_future: true,
    times: true,
    couples_layers: true,
    ..Kind::new(
        "foresight",
        "as migrate, with the true demand of the next tokens and no limit but the link",
        Make(make),
    )
};

struct Foresight {
    alpha: f64,
    window: usize,
    sequences: usize,
    /// Choices in the window, `[L][E]`.
    counts: Vec<Vec<u32>>,
    margin: Option<Level>,
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    let mut foresight = Foresight {
        alpha: values.get("alpha"),
        window: values.count("window"),
        sequences: setup.sequences,
        counts: vec![vec![0; setup.experts]; setup.layers],
        margin: margin(setup, values.count("horizon")),
    };
    if let Some(future) = setup.future {
        let last = (setup.prefill + foresight.window).min(future.steps());
        (setup.prefill..last).for_each(|step| foresight.count(future, step, 1));
    }
    Box::new(foresight)
}

impl Foresight {
    /// Adds the demand of a step of all sequences, `by` times; steps beyond the end have none.
    fn count(&mut self, future: &Future<'_>, step: usize, by: i32) {
        for sequence in 0..self.sequences {
            for (layer, counts) in self.counts.iter_mut().enumerate() {
                for &expert in future.wanted(step, sequence, layer) {
                    let count = &mut counts[usize::from(expert)];
                    *count = count.saturating_add_signed(by);
                }
            }
        }
    }
}

impl Residency for Foresight {
    fn worth(&mut self, _: usize, demand: &[Demand], order: &mut Vec<u16>) {
        order.clone_from(&Ranking::of(demand, self.alpha).order);
    }

    fn end_step(&mut self, end: &mut EndOfStep<'_, '_>) {
        let Some(future) = end.future.filter(|_| !end.prefill) else { return };
        self.count(future, end.step, -1);
        self.count(future, end.step + self.window, 1);
        let Some(margin) = self.margin else { return };
        let ahead = (self.window.min(future.steps() - end.step) * self.sequences).max(1) as u64;
        let level = |&count: &u32| Level::from_bits(((u64::from(count) << 31) / ahead).min(1 << 31) as u32);
        request(end.fast, margin, |layer| self.counts[layer].iter().map(level), || true);
    }

    fn alpha(&self) -> f64 {
        self.alpha
    }
}
