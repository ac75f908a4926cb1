//! The best of several residencies leads, by what each would have loaded: never much worse than the best of them,
//! whatever the input (`docs/harmless.md`).
//!
//! Each of them runs as a shadow, which holds ids instead of experts. The real memory follows the shadow that leads:
//! an expert goes that the leader does not hold. So nothing is loaded because of a change of leader but what is wanted
//! and was not held before.

use cptr_core::lead::{Lead, LeadConfig};
use cptr_core::placement::Demand;
use cptr_core::{Gain, Level};
use cptr_hw_model::LayerTimes;

use super::{Kind, Make, Residency, Setup, lru, recall, tracked};
use crate::memory::{Resident, without};
use crate::source::Routed;
use crate::strategy::forecaster::{BITS, Forecaster, MEMORY, PLACES, Settings};
use crate::strategy::{Parameter, Served, Unit, Values};

/// `d` of the bound.
pub(super) const EXCESS: Parameter = Parameter::new(
    "excess",
    0.03,
    Unit::Gain(0.5),
    "share by which the cost may be above that of the best of them, apart from a constant",
);
/// Chance.
pub(super) const SEED: Parameter =
    Parameter::new("seed", 1.0, Unit::Count(0, u32::MAX), "of the leaders that are drawn where following fails");

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        EXCESS,
        Parameter::new(
            "load",
            -1.0,
            Unit::CountOrAuto(0, 100),
            "per cent of what a load costs that is waited for, for one that is fetched; auto: by how much of a copy \
             passes behind a layer, or 50 without a machine",
        ),
        SEED,
        MEMORY,
        BITS,
        PLACES,
    ],
    couples_layers: true,
    ..Kind::new("safe", "on demand; recall, tracked or lru decides, whichever is measured to load least", Make(make))
};

/// The residencies that may lead; the first does at the start. Where something is fetched ahead there is one shadow
/// more: the first of them with what is fetched.
const KINDS: [&Kind<Make>; 3] = [&recall::KIND, &tracked::KIND, &lru::KIND];

/// Loss of an expert that is waited for.
const STALL: u32 = 16;

/// `N` shadows.
struct Safe<const N: usize> {
    experts: usize,
    excess: Gain,
    /// Loss of an expert that is fetched.
    fetch: u32,
    /// Most that a step can lose in a layer.
    most: u32,
    settings: Settings,
    residencies: [Box<dyn Residency>; KINDS.len()],
    layers: Vec<Layer<N>>,
    order: Vec<u16>,
}

struct Layer<const N: usize> {
    lead: Lead<N>,
    config: LeadConfig,
    /// What each shadow would hold.
    shadows: [Shadow; N],
    fit: usize,
    /// Loss by what has been fetched since the last step.
    fetched: u32,
}

/// What a residency would hold in a layer.
#[derive(Clone, Copy, Default)]
struct Shadow {
    held: Resident,
    count: usize,
    /// Loss since the last step.
    loss: u32,
}

impl Shadow {
    /// Takes in an expert that is not there, if there is room or `victim` makes it; whether there was.
    fn load(&mut self, expert: u16, fit: usize, victim: impl FnOnce(&Resident) -> Option<u16>) -> bool {
        if self.count >= fit {
            let Some(victim) = victim(&self.held) else { return false };
            self.held.remove(victim);
            self.count -= 1;
        }
        self.held.insert(expert);
        self.count += 1;
        true
    }
}

/// Which of the residencies decides for a shadow.
const fn residency(shadow: usize) -> usize {
    shadow % KINDS.len()
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    if setup.fetches > 0 {
        Box::new(Safe::<{ KINDS.len() + 1 }>::new(values, setup))
    } else {
        Box::new(Safe::<{ KINDS.len() }>::new(values, setup))
    }
}

impl<const N: usize> Safe<N> {
    fn new(values: &Values, setup: &Setup<'_>) -> Self {
        let layer = |layer: usize| Layer {
            // Each layer draws for itself.
            lead: Lead::new((values.get("seed") as u32).wrapping_add(layer as u32)),
            config: LeadConfig::new(Gain::ZERO, 0, 0),
            shadows: [Shadow::default(); N],
            fit: 0,
            fetched: 0,
        };
        let behind = |times: &LayerTimes<'_>| times.estimate_ps(1, 0.0, 0.0) / times.copy_ps(setup.full_bits.into());
        let share = match values.count_or_auto("load") {
            Some(percent) => percent as f64 / 100.0,
            None => setup.times.map_or(0.5, |times| (1.0 - behind(times)).max(0.0)),
        };
        let fetch = (share * f64::from(STALL)).round() as u32;
        Self {
            experts: setup.experts,
            excess: Gain::from_num(values.get("excess")),
            fetch,
            most: STALL * (setup.k * setup.sequences).min(setup.experts) as u32 + fetch * setup.fetches as u32,
            settings: Settings::of(values),
            residencies: KINDS.map(|kind| (kind.make.0)(&Values::defaults(kind.parameters), setup)),
            layers: (0..setup.layers).map(layer).collect(),
            order: Vec::new(),
        }
    }

    /// Those of `free` that the leader of a layer does not hold: who goes is one of them, if there is one.
    fn outside(&self, layer: usize, free: &Resident) -> Option<Resident> {
        let Layer { lead, shadows, .. } = &self.layers[layer];
        let mut outside = Resident::new();
        without(free, &shadows[lead.leader()].held, self.experts, &mut outside);
        (!outside.is_empty()).then_some(outside)
    }

    fn leader(&mut self, layer: usize) -> &mut dyn Residency {
        &mut *self.residencies[residency(self.layers[layer].lead.leader())]
    }
}

impl<const N: usize> Residency for Safe<N> {
    fn on_demand(&self) -> bool {
        true
    }

    fn room(&mut self, layer: usize, fit: usize) {
        let here = &mut self.layers[layer];
        here.fit = fit;
        here.config = LeadConfig::new(self.excess, STALL * fit as u32, self.most);
    }

    fn recalls(&self) -> Option<Settings> {
        Some(self.settings)
    }

    fn expect(&mut self, layer: usize, tokens: &[Routed<'_>], forecaster: &mut Forecaster) {
        self.residencies.iter_mut().for_each(|residency| residency.expect(layer, tokens, forecaster));
    }

    fn serve(&mut self, served: &Served<'_>, resident: &Resident) {
        let (experts, layer) = (self.experts, served.layer);
        let Layer { lead, config, shadows, fit, fetched } = &mut self.layers[layer];
        let mut keep = Resident::new();
        served.choices.iter().for_each(|choice| _ = keep.insert(choice.expert));
        let wanted = served.choices.iter().zip(served.used).filter(|(_, used)| **used).map(|(choice, _)| choice.expert);
        for (index, shadow) in shadows.iter_mut().enumerate() {
            let residency = &mut self.residencies[residency(index)];
            for expert in wanted.clone() {
                if shadow.held.contains(expert) {
                    continue;
                }
                shadow.loss += STALL;
                shadow.load(expert, *fit, |held| {
                    let mut free = Resident::new();
                    without(held, &keep, experts, &mut free);
                    residency.victim(layer, &free)
                });
            }
        }
        // In a prompt nothing is loaded, and all shadows are watched for free.
        let missing = wanted.filter(|&expert| !served.prefill && !resident.contains(expert)).count();
        let ours = STALL * missing as u32 + std::mem::take(fetched);
        lead.learn(config, &shadows.each_mut().map(|shadow| std::mem::take(&mut shadow.loss)), ours);
    }

    fn victim(&mut self, layer: usize, free: &Resident) -> Option<u16> {
        let free = self.outside(layer, free).unwrap_or(*free);
        self.leader(layer).victim(layer, &free)
    }

    fn victim_ahead(&mut self, layer: usize, free: &Resident, expert: u16, next: &[Level]) -> Option<u16> {
        match self.outside(layer, free) {
            // What the leader does not hold goes without regard to what comes.
            Some(outside) => self.leader(layer).victim(layer, &outside),
            None => self.leader(layer).victim_ahead(layer, free, expert, next),
        }
    }

    fn fetches_for(&self, layer: usize) -> Option<&Resident> {
        self.layers[layer].shadows.get(KINDS.len()).map(|fetching| &fetching.held)
    }

    fn gate(&mut self, layer: usize, asks: &mut Vec<u16>, most: usize, next: Option<&[Level]>) {
        let experts = self.experts;
        let Layer { lead, shadows, fit, .. } = &mut self.layers[layer];
        let Some(fetching) = shadows.get_mut(KINDS.len()) else { return };
        let residency = &mut self.residencies[residency(KINDS.len())];
        let mut keep = Resident::new();
        asks.iter().for_each(|&expert| _ = keep.insert(expert));
        let mut left = most;
        asks.retain(|&expert| {
            let loads = left > 0
                && !fetching.held.contains(expert)
                && fetching.load(expert, *fit, |held| {
                    let mut free = Resident::new();
                    without(held, &keep, experts, &mut free);
                    match next {
                        Some(next) => residency.victim_ahead(layer, &free, expert, next),
                        None => residency.victim(layer, &free),
                    }
                });
            left -= usize::from(loads);
            fetching.loss += self.fetch * u32::from(loads);
            loads
        });
        if lead.leader() != KINDS.len() {
            asks.clear();
        }
    }

    fn observe(&mut self, served: &Served<'_>) {
        self.residencies.iter_mut().for_each(|residency| residency.observe(served));
    }

    fn fetched(&mut self, layer: usize, _: u16) {
        self.layers[layer].fetched += self.fetch;
    }

    /// Decoding begins: every shadow holds what it would have been filled with, and the memory what the leader holds.
    fn worth(&mut self, layer: usize, demand: &[Demand], order: &mut Vec<u16>) {
        let Layer { lead, shadows, fit, .. } = &mut self.layers[layer];
        lead.restart();
        for (index, shadow) in shadows.iter_mut().enumerate() {
            self.residencies[residency(index)].worth(layer, demand, &mut self.order);
            *shadow = Shadow::default();
            self.order.iter().take(*fit).for_each(|&expert| _ = shadow.load(expert, *fit, |_| None));
            if index == lead.leader() {
                order.clone_from(&self.order);
            }
        }
    }

    fn tracks(&self) -> bool {
        true
    }
}
