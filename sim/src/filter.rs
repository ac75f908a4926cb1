//! The filter that follows the context: a tracker for each layer, and the detector that pools them. Placement during
//! decoding and the study of changes of context run this one.
//!
//! ```
//! use cptr_sim::filter::{ContextFilter, FilterConfig};
//!
//! let mut filter = ContextFilter::new(&FilterConfig::default(), 2, 8);
//! for _ in 0..100 {
//!     filter.learn(0, &[1, 2]);
//!     filter.learn(1, &[3, 4]);
//!     assert!(!filter.detect());
//! }
//! ```

use cptr_core::context::{self, ChangeConfig, ChangeDetector};
use cptr_core::{Angle, Gain, KalmanConfig, ScaledLevels, Tracker, TrackerConfig};
use cptr_trace::{MAX_EXPERTS, Trace};

/// Constants of a [`ContextFilter`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FilterConfig {
    /// Steady gain of the context level.
    pub gain: f64,
    /// Gain after a change of context.
    pub reopened: f64,
    /// Evidence that is a change, in units of the usual deviation.
    pub threshold: u8,
}

impl FilterConfig {
    /// Usual steady gain.
    pub const GAIN: f64 = 1.0 / 128.0;
    /// Usual gain after a change.
    pub const REOPENED: f64 = 0.25;
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self { gain: Self::GAIN, reopened: Self::REOPENED, threshold: ChangeConfig::default().threshold }
    }
}

/// Follows the context of one sequence, or the mean of a batch.
pub struct ContextFilter {
    config: TrackerConfig,
    reopened: KalmanConfig,
    change: ChangeConfig,
    trackers: Vec<Box<Tracker>>,
    /// What the detector compares tokens with: context and long run, which no alarm moves.
    witness: TrackerConfig,
    witnesses: Vec<Box<Tracker>>,
    detector: ChangeDetector,
    distances: Vec<Angle>,
}

impl ContextFilter {
    /// Before the first token.
    #[must_use]
    pub fn new(config: &FilterConfig, layers: usize, experts: usize) -> Self {
        let gain = Gain::from_num(config.gain);
        Self {
            // Lock of single layers does not open the gain: the pooled detector does.
            config: TrackerConfig { kalman: KalmanConfig::from_gains(gain, Gain::ZERO), ..TrackerConfig::default() },
            reopened: KalmanConfig::from_gains(gain, Gain::from_num(config.reopened)),
            change: ChangeConfig { threshold: config.threshold, ..ChangeConfig::default() },
            trackers: (0..layers).map(|_| boxed_tracker(experts)).collect(),
            witness: context::trackers(),
            witnesses: (0..layers).map(|_| boxed_tracker(experts)).collect(),
            detector: ChangeDetector::new(),
            distances: vec![Angle::ZERO; layers],
        }
    }

    /// Takes what a token wanted in a layer.
    pub fn learn(&mut self, layer: usize, wanted: &[u16]) {
        self.trackers[layer].update(&self.config, wanted);
        self.distances[layer] = context::distance(&self.witnesses[layer], wanted);
        self.witnesses[layer].update(&self.witness, wanted);
    }

    /// After all layers of a token: whether the context has changed, which opens the gain of all layers.
    pub fn detect(&mut self) -> bool {
        let changed = self.detector.step(&self.change, &self.distances);
        if changed {
            self.trackers.iter_mut().for_each(|tracker| tracker.reopen(&self.reopened));
        }
        changed
    }

    /// The layers' trackers.
    #[must_use]
    pub fn trackers(&self) -> &[Box<Tracker>] {
        &self.trackers
    }
}

/// Distances of all tokens of a trace from the context of a layer, as the detector takes them.
#[must_use]
pub fn distances(trace: &Trace, layer: usize) -> Vec<Angle> {
    let (config, mut witness) = (context::trackers(), boxed_tracker(trace.shape.experts));
    let mut distance = |token| {
        let wanted = trace.chosen(token, layer);
        let distance = context::distance(&witness, wanted);
        witness.update(&config, wanted);
        distance
    };
    (0..trace.shape.tokens).map(&mut distance).collect()
}

/// Changes of context that the detector finds in the distances of all layers: the tokens of its alarms.
#[must_use]
pub fn changes(distances: &[Vec<Angle>], threshold: u8) -> Vec<usize> {
    let config = ChangeConfig { threshold, ..ChangeConfig::default() };
    let (mut detector, mut row) = (ChangeDetector::new(), Vec::with_capacity(distances.len()));
    let tokens = distances.first().map_or(0, Vec::len);
    let changed = |&token: &usize| {
        row.clear();
        row.extend(distances.iter().map(|layer| layer[token]));
        detector.step(&config, &row)
    };
    (0..tokens).filter(changed).collect()
}

/// A tracker for at least `experts` experts; levels beyond stay 0 and are never resident.
#[must_use]
pub fn boxed_tracker(experts: usize) -> Box<Tracker> {
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
        _ => sized::<{ MAX_EXPERTS }>(),
    }
}
