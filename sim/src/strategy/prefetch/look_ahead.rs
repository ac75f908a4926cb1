//! The routing of the next tokens is known before they run, and no more than that: where a router apart from the model
//! has routed them ahead (Read-ME, arXiv 2410.19123), a predictor the whole sequence (ExpertFlow, arXiv 2410.17954), or
//! where the tokens are those of a prompt. A recording cannot run such a router: this one is always right, so it is the
//! most that they can be worth, and sees the future.
//!
//! What the next layer wants is fetched at once; on a machine, when the link has nothing else to do, what is wanted
//! first of all that follows. Of the experts of a layer those make room that the known tokens want last.

use cptr_core::Level;

use super::{Kind, Make, Next, Pick, Prefetch, Setup};
use crate::source::Future;
use crate::strategy::{Parameter, Served, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new(
            "tokens",
            1.0,
            Unit::Count(1, 4096),
            "tokens that are known; 1 is the one on its way, all of it",
        ),
        Parameter { default: 8.0, ..super::MOST },
    ],
    sees_future: true,
    couples_layers: true,
    ..Kind::new("look-ahead", "what the tokens want whose routing is known before they run", Make(make))
};

/// How soon the next layer wants its experts.
const AT_ONCE: Level = Level::from_bits(1 << 31);

struct LookAhead {
    tokens: usize,
    most: usize,
    sequences: usize,
    layers: usize,
    experts: usize,
    timed: bool,
    /// Missing experts after those of the next layer, in the order in which they are wanted, and how soon the known
    /// tokens want each expert of their layer; the first of them are next.
    candidates: Vec<(Pick, Vec<Level>)>,
    /// Of the layer of the last `ask` or pick.
    next: Vec<Level>,
    picked: usize,
}

fn make(values: &Values, setup: &Setup) -> Box<dyn Prefetch> {
    Box::new(LookAhead {
        tokens: values.count("tokens"),
        most: values.count("most"),
        sequences: setup.sequences,
        layers: setup.layers,
        experts: setup.experts,
        timed: setup.timed,
        candidates: Vec::new(),
        next: vec![Level::ZERO; setup.experts],
        picked: 0,
    })
}

impl LookAhead {
    /// How soon the known tokens from a step on want each expert of a layer: 1 at once, 1/2 in the next step, and so
    /// on; 0 not before what is known ends at `until`.
    fn soon(&self, future: &Future<'_>, steps: std::ops::Range<usize>, layer: usize) -> Vec<Level> {
        let mut soon = vec![Level::ZERO; self.experts];
        for (step, distance) in steps.zip(1u32..) {
            for sequence in 0..self.sequences {
                for &expert in future.wanted(step, sequence, layer) {
                    if let Some(soon) = soon.get_mut(usize::from(expert)).filter(|soon| **soon == Level::ZERO) {
                        *soon = Level::from_bits(AT_ONCE.to_bits() / distance);
                    }
                }
            }
        }
        soon
    }

    /// Collects what is missing after the next layer, until there is as much as may be fetched.
    fn collect(&mut self, next: &Next<'_>, future: &Future<'_>, until: usize) {
        let mut at = (next.step, next.layer);
        loop {
            at = if at.1 + 1 == self.layers { (at.0 + 1, 0) } else { (at.0, at.1 + 1) };
            let (step, layer) = at;
            if step >= until || step >= future.steps() || self.candidates.len() >= self.most {
                return;
            }
            let resident = (next.resident)(layer);
            for sequence in 0..self.sequences {
                for &expert in future.wanted(step, sequence, layer) {
                    let known = |(pick, _): &(Pick, _)| (pick.layer, pick.expert) == (layer, expert);
                    if usize::from(expert) < self.experts
                        && !resident.contains(expert)
                        && !self.candidates.iter().any(known)
                    {
                        // From when the layer runs next.
                        let first = next.step + usize::from(layer < next.layer);
                        let soon = self.soon(future, first..until, layer);
                        self.candidates.push((Pick { layer, expert }, soon));
                    }
                }
            }
        }
    }
}

impl Prefetch for LookAhead {
    fn ask(&mut self, served: &Served<'_>, next: Next<'_>, asks: &mut Vec<u16>) {
        self.candidates.clear();
        self.picked = 0;
        let until = served.step + self.tokens;
        let Some(future) = next.future.filter(|_| !served.prefill && next.step < until) else { return };
        self.next = self.soon(future, next.step..until, next.layer);
        let soon = |expert: u16| self.next[usize::from(expert)];
        let mut known: Vec<u16> = (0..self.experts as u16).filter(|&expert| soon(expert) > Level::ZERO).collect();
        known.sort_by_key(|&expert| std::cmp::Reverse(soon(expert)));
        let resident = (next.resident)(next.layer);
        asks.extend(known.iter().filter(|&&expert| soon(expert) == AT_ONCE && !resident.contains(expert)));
        // Of those that are there, as many go as come: those that are wanted last.
        let stay = resident.len().saturating_sub(asks.len());
        asks.extend(known.iter().filter(|&&expert| resident.contains(expert)).take(stay));
        if self.timed {
            self.collect(&next, future, until);
            self.candidates.reverse();
        }
    }

    fn pick(&mut self, _: Level) -> Option<Pick> {
        if self.picked == self.most {
            return None;
        }
        let (pick, soon) = self.candidates.pop()?;
        self.next = soon;
        Some(pick)
    }

    fn fetched(&mut self) {
        self.picked += 1;
    }

    fn next(&self) -> Option<&[Level]> {
        Some(&self.next)
    }

    fn most(&self) -> usize {
        self.most
    }
}
