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
use crate::strategy::remembers::Remembers;
use crate::strategy::rivals::Successors;
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

const SUCCESSORS: Parameter = Parameter::new(
    "successors",
    0.0,
    Unit::Switch,
    "whether a table of what followed each expert counts, too: for memories of half the experts",
)
.off_at(0.0);

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[MEMORY, BITS, PLACES, WINDOW, WEIGHT, SLOW, FAST, SIGNATURE, SUCCESSORS],
    couples_layers: true,
    ..Kind::new(
        "recall",
        "on demand; the expert goes that remembered trajectories and levels expect least",
        Make(|values, setup| recalled(Settings::of(values), true, values.on("successors"), values, setup)),
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
    /// Tables of each sequence; none where they do not count.
    successors: Vec<Successors>,
    /// What one sequence's say.
    one: Vec<Level>,
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
    /// How often each followed this token's experts, `U1F31` bits; zero without tables.
    followed: Vec<u64>,
}

/// Who goes by what a memory expects, and by levels; the values have [`WINDOW`], [`WEIGHT`], [`SLOW`] and [`FAST`].
pub(super) fn expected(settings: Settings, judged: bool, values: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    recalled(settings, judged, false, values, setup)
}

/// The same, with or without tables of successors: for each sequence two of `[L, E, E]` counts of 16 bits, of the
/// window and of one token, of which the first is asked (Qwen3-30B-A3B: 1.5 MiB).
fn recalled(
    settings: Settings,
    judged: bool,
    successors: bool,
    values: &Values,
    setup: &Setup<'_>,
) -> Box<dyn Residency> {
    let gain = |name| Gain::from_num(values.get(name));
    let layer = |_| Layer {
        levels: boxed_tracker(setup.experts),
        skill: Skill::new(),
        shares: vec![Level::ZERO; setup.experts],
        followed: vec![0; setup.experts],
    };
    let window = values.count("window");
    let tables = if successors { setup.sequences } else { 0 };
    Box::new(Recalled {
        settings,
        config: TrackerConfig {
            kalman: KalmanConfig::from_gains(gain("slow"), Gain::ZERO),
            fast_gain: gain("fast"),
            ..TrackerConfig::default()
        },
        window,
        weight: (values.get("weight") * 65536.0) as u64,
        judged,
        layers: (0..setup.layers).map(layer).collect(),
        successors: (0..tables).map(|_| Successors::new(window, setup.layers, setup.experts)).collect(),
        one: vec![Level::ZERO; setup.experts],
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
        self.level(expert) + ((u64::from(share.to_bits()) * weight) >> 16) + self.followed[expert]
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
        let sequences = self.successors.len() as u64;
        here.followed.fill(0);
        for (successors, token) in self.successors.iter_mut().zip(tokens) {
            let wanted = real(token.wanted, here.shares.len());
            successors.observe(layer, &Routed { wanted, ..*token });
            successors.forecast(layer, self.window, &mut self.one);
            let add = |(sum, share): (&mut u64, &Level)| *sum += u64::from(share.to_bits()) / sequences;
            here.followed.iter_mut().zip(&self.one).for_each(add);
        }
    }

    /// The mean of levels and forecast, each as much as it counts for eviction.
    fn shares(&self, layer: usize, shares: &mut Vec<Level>) {
        let here = &self.layers[layer];
        let weight = here.weight(self.weight);
        // Levels of all experts add up to 5/4 k.
        let all = (5 << 14) + weight + if self.successors.is_empty() { 0 } else { 1 << 16 };
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
