//! Ours: placed after prefill, and placed anew, expert by expert, as the tracked context moves.
//!
//! - **Who is hot** is the tracker's slow level in every layer (`cptr_core::tracker`). A change of context, seen by the detector that pools all
//!   layers (`cptr_core::context`), opens its gain, so that levels follow within tokens.
//! - **Whether a copy pays** is the rule of `cptr_core::replace`: what the expert's uses would cost the device over the horizon, against what decoding
//!   loses while the copy is under way.
//! - **Copies are hidden**: they take what decoding leaves of the link, the most useful one first, a few at a time, so that a plan is never
//!   older than a few tokens.
//! - **A hard rate limit** holds whatever the input.
//! - **Bounded loss**: where all logits are known, residents may stand in for wanted experts within `eps` of the gate mass.

use cptr_core::context::{ChangeConfig, ChangeDetector};
use cptr_core::replace::{Allowance, ReplaceConfig, swap};
use cptr_core::{Angle, Gain, KalmanConfig, Level, Tracker, TrackerConfig};

use super::dispatch::{ALPHA, Dispatch, Ranking, SLACK};
use super::{ControllerWork, Execution, Kind, Scheme, Setup, Step};
use crate::decode::costs::Costs;
use crate::decode::queue::Queue;
use crate::placement::{Resident, boxed_tracker};
use crate::spec::{Parameter, Values};
use cptr_trace::error::Result;
use cptr_trace::{Knowledge, Trace};

/// Copies that wait or are under way at a time; a few, so that plans are fresh, and enough to keep the link busy over a token.
pub(super) const OUTSTANDING: usize = 8;

pub(super) const KIND: Kind = Kind {
    name: "cptr",
    summary: "placed anew as the tracked context moves, where that pays; copies behind decoding, rate-limited",
    parameters: &[
        Parameter {
            name: "horizon",
            default: 64.0,
            range: (1.0, 1e6),
            summary: "tokens over which a copy must pay: how long a context lasts at the least",
        },
        Parameter {
            name: "rate",
            default: 4.0,
            range: (0.0, 1e4),
            summary: "copies per token that are allowed on average",
        },
        Parameter {
            name: "burst",
            default: 0.5,
            range: (0.0, 10.0),
            summary: "copies that may be saved up, as a share of all experts in GPU memory",
        },
        Parameter {
            name: "gain",
            default: 1.0 / 128.0,
            range: (1e-4, 0.8),
            summary: "steady gain of the context level",
        },
        Parameter { name: "reopened", default: 0.25, range: (0.0, 0.8), summary: "gain after a change of context" },
        Parameter {
            name: "eps",
            default: 0.0,
            range: (0.0, 1.0),
            summary: "gate mass that stand-ins may cost, with all logits",
        },
        SLACK,
        ALPHA,
    ],
    needs: Knowledge::Ids,
    oracle: false,
    make,
};

struct Cptr<'a> {
    trace: &'a Trace,
    dispatch: Dispatch<'a>,
    bits: u8,
    eps: f64,
    placed: Vec<Resident>,
    config: TrackerConfig,
    reopened: KalmanConfig,
    trackers: Vec<Box<Tracker>>,
    detector: ChangeDetector,
    angles: Vec<Angle>,
    margin: Option<Level>,
    allowance: Allowance,
}

fn make<'a>(values: &Values, setup: &Setup<'a>) -> Result<Box<dyn Scheme + 'a>> {
    let shape = setup.trace.shape;
    let gain = |name| Gain::from_num(values.get(name));
    let kalman = KalmanConfig::from_gains(gain("gain"), Gain::ZERO);
    let burst = values.get("burst") * (setup.hot * shape.layers) as f64;
    let mut scheme = Cptr {
        trace: setup.trace,
        dispatch: Dispatch::new(setup, values.get("slack")),
        bits: setup.bits,
        eps: values.get("eps"),
        placed: Ranking::of_prefill(setup, values.get("alpha")).hot(setup.hot),
        // Lock of single layers does not open the gain: the pooled detector does.
        config: TrackerConfig { kalman, ..TrackerConfig::default() },
        reopened: KalmanConfig::from_gains(gain("gain"), gain("reopened")),
        trackers: (0..shape.layers).map(|_| boxed_tracker(shape.experts)).collect(),
        detector: ChangeDetector::new(),
        angles: vec![Angle::ZERO; shape.layers],
        margin: rule(setup.costs, setup.bits, values.get("horizon")).margin(),
        allowance: Allowance::new((values.get("rate") * 65536.0) as u32, burst as u32),
    };
    for step in 0..setup.streams.prefill {
        let tokens: Vec<usize> = setup.streams.tokens(step).collect();
        (0..shape.layers).for_each(|layer| scheme.learn(layer, &tokens));
        scheme.detect(tokens.len());
    }
    Ok(Box::new(scheme))
}

/// A use near the data occupies the device for its run; a copy takes its share of the device's memory for as long as it lasts.
pub(super) fn rule(costs: &Costs<'_>, bits: u8, horizon: f64) -> ReplaceConfig {
    let nanoseconds = |ps: f64| (ps / 1e3).round() as u32;
    ReplaceConfig {
        saving: nanoseconds(costs.near_run_ps(bits, 1)),
        copy: nanoseconds(costs.copy_ps(super::FULL_BITS) * costs.migration_share(bits)),
        horizon_tokens: horizon as u32,
    }
}

impl Cptr<'_> {
    fn learn(&mut self, layer: usize, tokens: &[usize]) {
        for &token in tokens {
            let step = self.trackers[layer].update(&self.config, self.trace.chosen(token, layer));
            self.angles[layer] = step.angle;
        }
    }

    /// A sequence has one context at a time; the contexts of a batch change one by one, and levels follow at their steady gain.
    fn detect(&mut self, sequences: usize) {
        if sequences == 1 && self.detector.step(&ChangeConfig::default(), &mut self.angles) {
            self.trackers.iter_mut().for_each(|tracker| tracker.reopen(&self.reopened));
        }
    }
}

impl Scheme for Cptr<'_> {
    fn place(&mut self) -> Vec<Resident> {
        std::mem::take(&mut self.placed)
    }

    fn dispatch(&mut self, step: &Step<'_>, resident: &mut Resident, executions: &mut Vec<Execution>) {
        self.dispatch.decide(step.choices, resident, |_| self.bits, executions);
    }

    fn observe(&mut self, step: &Step<'_>) {
        self.learn(step.layer, step.tokens);
        if step.layer + 1 == self.trackers.len() {
            self.detect(step.tokens.len());
        }
    }

    fn migrate(&mut self, _: usize, resident: &[Resident], queue: &mut Queue) {
        self.allowance.token();
        let Some(margin) = self.margin else { return };
        let levels = |layer: usize| self.trackers[layer].levels().map(|levels| levels.slow);
        request(
            queue,
            resident,
            |layer, busy| swap(levels(layer), &resident[layer], busy, margin),
            || self.allowance.take(),
        );
    }

    fn eps(&self) -> f64 {
        self.eps
    }

    fn controller(&self) -> ControllerWork {
        ControllerWork { selects: self.eps > 0.0, updates: true }
    }
}

/// Asks for the best swaps over all layers, one a layer, as far as there is room and `allowed`.
pub(super) fn request(
    queue: &mut Queue,
    resident: &[Resident],
    swap: impl Fn(usize, &Resident) -> Option<cptr_core::replace::Swap>,
    mut allowed: impl FnMut() -> bool,
) {
    let room = OUTSTANDING.saturating_sub(queue.len());
    if room == 0 {
        return;
    }
    let mut swaps: Vec<_> = (0..resident.len())
        .filter_map(|layer| swap(layer, queue.busy(layer)).map(|swap| (swap.gain, layer, swap)))
        .collect();
    swaps.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, layer, swap) in swaps.into_iter().take(room) {
        if !allowed() {
            break;
        }
        queue.request(layer, swap.load, swap.evict);
    }
}
