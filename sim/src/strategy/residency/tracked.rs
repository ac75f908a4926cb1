//! The core's tracker decides who goes: the expert that the tracked context is least likely to want.

use cptr_core::placement::Demand;
use cptr_core::{Gain, KalmanConfig, Level, Levels, PhaseConfig, Tracker, TrackerConfig};

use super::{Kind, Make, Residency, Setup, by_falling};
use crate::filter::boxed_tracker;
use crate::memory::Resident;
use crate::strategy::{Parameter, Served, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("slow", 1.0 / 64.0, Unit::Gain(0.8), "steady gain of the context level"),
        Parameter::new("fast", 1.0 / 8.0, Unit::Gain(0.99), "gain of the fast level").off_at(0.0),
        Parameter::new("reopened", 1.0 / 20.0, Unit::Gain(0.8), "gain after a loss of lock").off_at(0.0),
        Parameter::new("threshold", 10.0, Unit::Count(1, 255), "evidence that loses lock"),
    ],
    ..Kind::new("tracked", "on demand; the expert goes that the tracked context wants least", Make(make))
};

struct Tracked {
    config: TrackerConfig,
    experts: usize,
    layers: Vec<Box<Tracker>>,
}

/// Constants of a tracker as a user gives them.
pub(crate) struct Gains {
    pub(crate) slow: f64,
    pub(crate) fast: f64,
    pub(crate) reopened: f64,
    pub(crate) threshold: u8,
}

impl Gains {
    /// As the values say; the usual ones where there are none.
    pub(crate) fn of(values: Option<&Values>) -> Self {
        let usual = Values::defaults(KIND.parameters);
        let values = values.unwrap_or(&usual);
        Self {
            slow: values.get("slow"),
            fast: values.get("fast"),
            reopened: values.get("reopened"),
            threshold: values.count("threshold") as u8,
        }
    }

    fn config(&self) -> TrackerConfig {
        TrackerConfig {
            kalman: KalmanConfig::from_gains(Gain::from_num(self.slow), Gain::from_num(self.reopened)),
            fast_gain: Gain::from_num(self.fast),
            phase: PhaseConfig { threshold: self.threshold, ..PhaseConfig::default() },
        }
    }
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    let layers = (0..setup.layers).map(|_| boxed_tracker(setup.experts)).collect();
    Box::new(Tracked { config: Gains::of(Some(values)).config(), experts: setup.experts, layers })
}

impl Residency for Tracked {
    fn on_demand(&self) -> bool {
        true
    }

    fn shares(&self, layer: usize, shares: &mut Vec<Level>) {
        shares.clear();
        // Levels of all experts add up to 5/4 k.
        let share = |level: Levels| (u64::from(level.slow.to_bits()) + u64::from(level.fast.to_bits() >> 2)) * 4 / 5;
        shares.extend(self.layers[layer].levels().map(|level| Level::from_bits(share(level) as u32)));
    }

    fn victim(&mut self, layer: usize, free: &Resident) -> Option<u16> {
        self.layers[layer].victim(free, &[])
    }

    fn observe(&mut self, served: &Served<'_>) {
        for token in 0..served.tokens {
            self.layers[served.layer].update(&self.config, (served.token)(token).wanted);
        }
    }

    fn worth(&mut self, layer: usize, _: &[Demand], order: &mut Vec<u16>) {
        // A tracker may have room for more experts than there are.
        let levels = self.layers[layer].levels().take(self.experts);
        let levels: Vec<_> = levels.map(|level| level.slow.to_bits() + (level.fast.to_bits() >> 2)).collect();
        by_falling(levels.len(), order, |expert| levels[usize::from(expert)]);
    }

    fn tracks(&self) -> bool {
        true
    }
}
