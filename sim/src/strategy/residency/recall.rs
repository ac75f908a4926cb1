//! Remembered trajectories decide who goes, beside the levels: the expert that neither the last tokens wanted nor
//! what followed places like this one.

use cptr_core::placement::Demand;
use cptr_core::recall::Skill;
use cptr_core::{Gain, KalmanConfig, Level, Levels, Tracker, TrackerConfig};

use super::{Kind, Make, Residency, Setup, by_falling, least};
use crate::filter::boxed_tracker;
use crate::memory::Resident;
use crate::source::{Routed, real};
use crate::strategy::forecaster::{BITS, Forecaster, MEMORY, PLACES, SIGNATURE, Settings};
use crate::strategy::{Parameter, Served, Unit, Values};

/// Parameters of whoever joins a forecast with levels.
pub(super) const WINDOW: Parameter =
    Parameter::new("window", 4.0, Unit::Count(1, 12), "tokens ahead that count for who stays");
pub(super) const WEIGHT: Parameter =
    Parameter::new("weight", 4.0, Unit::Factor(0.0, 64.0), "weight of the forecast beside the levels").off_at(0.0);
/// For who may be at full strength without a judge.
pub(super) const JUDGED: Parameter = Parameter::new(
    "judged",
    1.0,
    Unit::Switch,
    "whether the forecast counts only as far as it has known more than levels",
);
pub(super) const SLOW: Parameter =
    Parameter::new("slow", 1.0 / 64.0, Unit::Gain(0.8), "steady gain of the context level");
pub(super) const FAST: Parameter =
    Parameter::new("fast", 1.0 / 8.0, Unit::Gain(0.99), "gain of the fast level").off_at(0.0);

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[MEMORY, BITS, PLACES, WINDOW, WEIGHT, SLOW, FAST, SIGNATURE],
    couples_layers: true,
    ..Kind::new(
        "recall",
        "on demand; the expert goes that remembered trajectories and levels expect least",
        Make(|values, setup| expected(Settings::of(values), true, values, setup)),
    )
};

/// Weight of the next token against levels, where an expert makes room for one that is fetched.
const NEXT: u64 = 10;

struct Recalled {
    settings: Settings,
    config: TrackerConfig,
    window: usize,
    /// `U16F16`.
    weight: u64,
    /// Whether forecasts count only as far as they have known more than levels.
    judged: bool,
    layers: Vec<Layer>,
    /// Shares of the layer ahead for which something is fetched: they know the layers of the token that is on its way,
    /// and so are no judge of forecasts before the token.
    ahead: Vec<Level>,
}

/// What is known of a layer.
struct Layer {
    levels: Box<Tracker>,
    skill: Skill,
    /// Share of the next tokens that will want each expert.
    shares: Vec<Level>,
}

/// Who goes by what a memory expects, and by levels; the values have [`WINDOW`], [`WEIGHT`], [`SLOW`] and [`FAST`].
pub(super) fn expected(settings: Settings, judged: bool, values: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    let gain = |name| Gain::from_num(values.get(name));
    let layer = |_| Layer {
        levels: boxed_tracker(setup.experts),
        skill: Skill::new(),
        shares: vec![Level::ZERO; setup.experts],
    };
    Box::new(Recalled {
        settings,
        config: TrackerConfig {
            kalman: KalmanConfig::from_gains(gain("slow"), Gain::ZERO),
            fast_gain: gain("fast"),
            ..TrackerConfig::default()
        },
        window: values.count("window"),
        weight: (values.get("weight") * 65536.0) as u64,
        judged,
        layers: (0..setup.layers).map(layer).collect(),
        ahead: Vec::new(),
    })
}

/// `slow + fast / 4`, `U1F31` bits.
fn level(levels: Levels) -> u64 {
    u64::from(levels.slow.to_bits()) + u64::from(levels.fast.to_bits() >> 2)
}

impl Layer {
    fn level(&self, expert: usize) -> u64 {
        self.levels.level(expert as u16).map_or(0, level)
    }

    /// How much an expert is expected, `U1F31` bits: `weight` is `U16F16`.
    fn worth(&self, expert: usize, share: Level, weight: u64) -> u64 {
        self.level(expert) + ((u64::from(share.to_bits()) * weight) >> 16)
    }

    /// Weight of the forecast, less where it has not known more than levels.
    fn weight(&self, weight: u64) -> u64 {
        (weight * u64::from(self.skill.weight().to_bits())) >> 31
    }

    /// Judges forecast and levels by what a token wants.
    fn judge(&mut self, wanted: &[u16]) {
        // Null experts come last, and are always there.
        let wanted = real(wanted, self.shares.len());
        let Some(k) = u64::try_from(wanted.len()).ok().filter(|&k| k > 0) else { return };
        let mean = |of: &dyn Fn(usize) -> u64| {
            let sum: u64 = wanted.iter().map(|&expert| of(usize::from(expert))).sum();
            Level::from_bits((sum / k) as u32)
        };
        let recall = mean(&|expert| u64::from(self.shares[expert].to_bits()));
        // Levels of all experts add up to 5/4 k.
        let levels = mean(&|expert| self.level(expert) * 4 / 5);
        self.skill.learn(recall, levels);
    }
}

impl Residency for Recalled {
    fn on_demand(&self) -> bool {
        true
    }

    fn recalls(&self) -> Option<Settings> {
        Some(self.settings)
    }

    fn expect(&mut self, layer: usize, tokens: &[Routed<'_>], forecaster: &mut Forecaster) {
        if tokens.is_empty() {
            forecaster.share(layer, self.window, &mut self.ahead);
            return;
        }
        let here = &mut self.layers[layer];
        tokens.iter().for_each(|token| here.judge(token.wanted));
        forecaster.share(layer, self.window, &mut here.shares);
    }

    /// The mean of levels and forecast, each as much as it counts for eviction.
    fn shares(&self, layer: usize, shares: &mut Vec<Level>) {
        let here = &self.layers[layer];
        let weight = here.weight(self.weight);
        // Levels of all experts add up to 5/4 k.
        let all = (5 << 14) + weight;
        let share = |expert: usize| {
            let share = (here.worth(expert, here.shares[expert], weight) << 16) / all;
            Level::from_bits(share as u32)
        };
        shares.clear();
        shares.extend((0..here.shares.len()).map(share));
    }

    fn victim(&mut self, layer: usize, free: &Resident) -> Option<u16> {
        let here = &self.layers[layer];
        let weight = if self.judged { here.weight(self.weight) } else { self.weight };
        least(free, |expert| here.worth(expert, here.shares[expert], weight))
    }

    fn victim_ahead(&mut self, layer: usize, free: &Resident, expert: u16, next: &[Level]) -> Option<u16> {
        let here = &self.layers[layer];
        let weight = if self.judged { here.weight(self.weight) } else { self.weight };
        let worth =
            |expert: usize| here.worth(expert, self.ahead[expert], weight) + NEXT * u64::from(next[expert].to_bits());
        least(free, worth).filter(|&victim| next[usize::from(victim)] < next[usize::from(expert)])
    }

    fn observe(&mut self, served: &Served<'_>) {
        for token in 0..served.tokens {
            self.layers[served.layer].levels.update(&self.config, (served.token)(token).wanted);
        }
    }

    fn worth(&mut self, layer: usize, _: &[Demand], order: &mut Vec<u16>) {
        let here = &self.layers[layer];
        let weight = if self.judged { here.weight(self.weight) } else { self.weight };
        let worth = |expert: usize| here.worth(expert, here.shares[expert], weight);
        by_falling(here.shares.len(), order, |expert| worth(usize::from(expert)));
    }

    fn tracks(&self) -> bool {
        true
    }
}
