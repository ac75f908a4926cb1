//! Placed after the prompt, and placed anew, expert by expert, as the tracked context moves.
//!
//! - **Who is hot** is the slow level of the context's filter in every layer ([`crate::filter`]). A change of
//!   context, seen by the detector that pools all layers, opens its gain, so that levels follow within tokens.
//! - **Whether a copy pays** is the rule of `cptr_core::replace`: what the expert's uses would cost the device over the
//!   horizon, against what decoding loses while the copy is under way.
//! - **Copies are hidden**: they take what decoding leaves of the link, the most useful one first, a few at a time, so
//!   that a plan is never older than a few tokens.
//! - **A hard rate limit** holds whatever the input.

use cptr_core::Level;
use cptr_core::placement::Demand;
use cptr_core::replace::{Allowance, ReplaceConfig, Swap, swap};
use cptr_hw_model::ExpertRun;

use super::{EndOfStep, Kind, Make, Ranking, Residency, Setup};
use crate::filter::{ContextFilter, FilterConfig};
use crate::memory::tenants::What;
use crate::memory::{Fast, Resident};
use crate::strategy::{Parameter, Served, Unit, Values};

/// Copies that wait or are under way at a time; a few, so that plans are fresh, and enough to keep the link busy over a
/// token.
pub(super) const OUTSTANDING: usize = 8;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new(
            "horizon",
            64.0,
            Unit::Count(1, 1_000_000),
            "tokens over which a copy must pay: how long a context lasts at the least",
        ),
        Parameter::new("rate", 4.0, Unit::Factor(0.0, 1e4), "copies per token that are allowed on average").off_at(1e4),
        Parameter::new(
            "burst",
            0.5,
            Unit::Factor(0.0, 10.0),
            "copies that may be saved up, as a share of all experts in fast memory",
        ),
        Parameter::new("gain", FilterConfig::GAIN, Unit::Gain(0.8), "steady gain of the context level"),
        Parameter::new("reopened", FilterConfig::REOPENED, Unit::Gain(0.8), "gain after a change of context")
            .off_at(0.0),
        super::ALPHA,
    ],
    times: true,
    couples_layers: true,
    ..Kind::new(
        "migrate",
        "placed anew as the tracked context moves, where that pays; copies behind decoding, rate-limited",
        Make(make),
    )
};

struct Migrate {
    alpha: f64,
    filter: ContextFilter,
    margin: Option<Level>,
    allowance: Allowance,
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    let burst = values.get("burst") * setup.fit as f64;
    let config = FilterConfig { gain: values.get("gain"), reopened: values.get("reopened"), ..FilterConfig::default() };
    Box::new(Migrate {
        alpha: values.get("alpha"),
        filter: ContextFilter::new(&config, setup.layers, setup.experts),
        margin: margin(setup, values.count("horizon")),
        allowance: Allowance::new((values.get("rate") * 65536.0) as u32, burst as u32),
    })
}

/// Difference of levels from which a copy pays. A use near the data occupies the device for its run; a copy takes its
/// share of the device's memory for as long as it lasts.
pub(super) fn margin(setup: &Setup<'_>, horizon: usize) -> Option<Level> {
    let times = setup.times?;
    let (full, near) = (f64::from(setup.full_bits), f64::from(setup.near_bits));
    let nanoseconds = |ps: f64| (ps / 1e3).round() as u32;
    ReplaceConfig {
        saving: nanoseconds(times.near_run_ps(ExpertRun { bits: near, tokens: 1 })),
        copy: nanoseconds(times.copy_ps(full) * times.migration_share(near)),
        horizon_tokens: horizon as u32,
    }
    .margin()
}

impl Residency for Migrate {
    fn observe(&mut self, served: &Served<'_>) {
        for token in 0..served.tokens {
            self.filter.learn(served.layer, (served.token)(token).wanted);
        }
        if served.layer + 1 == self.filter.trackers().len() {
            // A sequence has one context at a time; the contexts of a batch change one by one, and levels follow at
            // their steady gain.
            if served.tokens == 1 {
                self.filter.detect();
            }
        }
    }

    fn worth(&mut self, _: usize, demand: &[Demand], order: &mut Vec<u16>) {
        order.clone_from(&Ranking::of(demand, self.alpha).order);
    }

    fn end_step(&mut self, end: &mut EndOfStep<'_, '_>) {
        if end.prefill {
            return;
        }
        self.allowance.token();
        let Some(margin) = self.margin else { return };
        let trackers = self.filter.trackers();
        let levels = |layer: usize| trackers[layer].levels().map(|levels| levels.slow);
        request(end.fast, margin, levels, || self.allowance.take());
    }

    fn tracks(&self) -> bool {
        true
    }

    fn alpha(&self) -> f64 {
        self.alpha
    }
}

/// Asks for the best swaps over all layers, one a layer, as far as there is room in the queue and `allowed`.
pub(super) fn request<I: Iterator<Item = Level>>(
    fast: &mut Fast<'_>,
    margin: Level,
    levels: impl Fn(usize) -> I,
    mut allowed: impl FnMut() -> bool,
) {
    let room = OUTSTANDING.saturating_sub(fast.queue.len());
    if room == 0 {
        return;
    }
    let mut swaps: Vec<(Level, usize, u16, Option<u16>)> = Vec::new();
    for layer in 0..fast.memories.len() {
        swaps.extend(best(fast, layer, margin, &levels));
    }
    swaps.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut left = room;
    for (_, layer, load, evict) in swaps {
        if left == 0 {
            break;
        }
        // Whose part those before it have taken makes way for the next best of the layer.
        let still = fast.queue.admits(What::Migration, layer, load);
        let next =
            if still { Some((load, evict)) } else { best(fast, layer, margin, &levels).map(|best| (best.2, best.3)) };
        let Some((load, evict)) = next else { continue };
        if !allowed() {
            break;
        }
        left -= 1;
        fast.queue.migrate(layer, load, evict);
    }
}

/// The best swap of a layer whose copy somebody who wants it may have: its gain, layer, who comes and who goes.
fn best<I: Iterator<Item = Level>>(
    fast: &mut Fast<'_>,
    layer: usize,
    margin: Level,
    levels: &impl Fn(usize) -> I,
) -> Option<(Level, usize, u16, Option<u16>)> {
    let resident = fast.memories[layer].resident();
    let full = fast.queue.resident(layer, resident).len() >= fast.fit(layer);
    let mut busy = *fast.queue.busy(layer);
    loop {
        let (gain, load, evict) = if full {
            swap(levels(layer), resident, &busy, margin).map(|Swap { load, evict, gain }| (gain, load, Some(evict)))
        } else {
            outside(levels(layer), resident, &busy, margin).map(|(gain, load)| (gain, load, None))
        }?;
        if fast.queue.admits(What::Migration, layer, load) {
            return Some((gain, layer, load, evict));
        }
        busy.insert(load);
    }
}

/// The expert outside with the highest level, if that is above `margin`: where there is room, nobody has to go.
fn outside(
    levels: impl Iterator<Item = Level>,
    resident: &Resident,
    busy: &Resident,
    margin: Level,
) -> Option<(Level, u16)> {
    let outside = levels.zip(0u16..).filter(|&(_, expert)| !resident.contains(expert) && !busy.contains(expert));
    outside.max_by_key(|&(level, expert)| (level, std::cmp::Reverse(expert))).filter(|&(level, _)| level > margin)
}
