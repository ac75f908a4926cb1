//! The core's tracker decides who goes: the expert that the tracked context is least likely to want.

use cptr_core::{Gain, KalmanConfig, PhaseConfig, ScaledLevels, Tracker, TrackerConfig};

use super::{Eviction, Kind, Layer, OnDemand, Placement, Resident, Served};
use crate::spec::{Parameter, Values};

pub(super) const KIND: Kind = Kind {
    name: super::TRACKED,
    summary: "on demand, the expert goes that the tracked context wants least",
    parameters: &[
        Parameter { name: "slow", default: 1.0 / 64.0, range: (0.0, 0.8), summary: "steady gain of the context level" },
        Parameter { name: "fast", default: 1.0 / 8.0, range: (0.0, 0.99), summary: "gain of the fast level" },
        Parameter { name: "reopened", default: 1.0 / 20.0, range: (0.0, 0.8), summary: "gain after a loss of lock" },
        Parameter { name: "threshold", default: 10.0, range: (1.0, 255.0), summary: "evidence that loses lock" },
    ],
    oracle: false,
    make,
};

struct Tracked {
    config: TrackerConfig,
    tracker: Box<Tracker>,
}

fn make<'a>(values: &Values, layer: Layer<'a>) -> Box<dyn Placement + 'a> {
    let gain = |name| Gain::from_num(values.get(name));
    let config = TrackerConfig {
        kalman: KalmanConfig::from_gains(gain("slow"), gain("reopened")),
        fast_gain: gain("fast"),
        phase: PhaseConfig { threshold: values.get("threshold") as u8, ..PhaseConfig::default() },
    };
    Box::new(OnDemand { capacity: layer.capacity, eviction: Tracked { config, tracker: boxed(layer.experts) } })
}

/// A tracker for at least `experts` experts; levels beyond stay 0 and are never resident.
pub fn boxed(experts: usize) -> Box<Tracker> {
    fn sized<const E: usize>() -> Box<Tracker> {
        Box::new(Tracker::<[ScaledLevels; E]>::new())
    }
    match experts {
        0..=8 => sized::<8>(),
        9..=16 => sized::<16>(),
        17..=32 => sized::<32>(),
        33..=64 => sized::<64>(),
        65..=128 => sized::<128>(),
        129..=256 => sized::<256>(),
        257..=512 => sized::<512>(),
        _ => sized::<{ cptr_trace::MAX_EXPERTS }>(),
    }
}

impl Eviction for Tracked {
    fn victim(&self, resident: &Resident, keep: &[u16]) -> Option<u16> {
        self.tracker.victim(resident, keep)
    }

    fn observe(&mut self, token: &Served<'_>) {
        self.tracker.update(&self.config, token.wanted);
    }
}
