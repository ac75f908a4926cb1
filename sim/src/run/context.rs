//! What the core's tracker sees of a trace: signal-to-noise ratio, lock, and changes of context, beside any policy.

use cptr_core::{Lock, Tracker, TrackerConfig};
use serde::Serialize;

use crate::placement::boxed_tracker;
use cptr_trace::Trace;

/// Losses of lock within this many tokens count as one event.
const COINCIDENCE_TOKENS: usize = 16;
/// Share of the layers, and at least two of several, that must lose lock together for a change of context.
const COINCIDENCE_SHARE: f64 = 0.25;

/// What one layer's tracker saw.
#[derive(Debug)]
pub(super) struct LayerContext {
    config: TrackerConfig,
    tracker: Box<Tracker>,
    /// Tokens at which lock was lost.
    lost_locks: Vec<u32>,
    locked: u64,
    /// Sum of the signal-to-noise ratios, in units of log2.
    snr: f64,
    tokens: u64,
}

impl LayerContext {
    pub(super) fn new(experts: usize) -> Self {
        let (config, tracker) = (TrackerConfig::default(), boxed_tracker(experts));
        Self { config, tracker, lost_locks: Vec::new(), locked: 0, snr: 0.0, tokens: 0 }
    }

    pub(super) fn step(&mut self, index: usize, wanted: &[u16]) {
        let step = self.tracker.update(&self.config, wanted);
        if step.lost_lock {
            self.lost_locks.push(index as u32);
        }
        self.locked += u64::from(step.lock == Lock::Locked);
        // The first tokens have no context to compare with.
        if index > 0 {
            self.snr += step.snr.to_num::<f64>();
            self.tokens += 1;
        }
    }
}

/// What the trackers of all layers saw.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Context {
    /// Mean power of the tracked context over the power of the innovation, in dB.
    pub snr_db: f64,
    /// Share of tokens and layers in which the context is locked.
    pub locked_share: f64,
    /// Losses of lock per layer and 10,000 tokens.
    pub lost_locks_per_10k: f64,
    /// Changes of context: tokens at which a quarter of the layers have lost lock within 16 tokens.
    pub changes: Vec<usize>,
    /// Tokens at which the trace itself says that another domain begins.
    pub domain_starts: Vec<usize>,
    /// Domain of the first token, then of every one of `domain_starts`: indices into the trace's domain names.
    pub domain_order: Vec<usize>,
}

impl Context {
    pub(super) fn new<'a>(trace: &Trace, layers: impl Iterator<Item = &'a LayerContext> + Clone) -> Self {
        let (tokens, count) = (trace.shape.tokens as f64, trace.shape.layers as f64);
        let sum = |value: fn(&LayerContext) -> f64| layers.clone().map(value).sum::<f64>();
        let seen = sum(|layer| layer.tokens as f64).max(1.0);
        let mut events: Vec<u32> = layers.clone().flat_map(|layer| layer.lost_locks.iter().copied()).collect();
        events.sort_unstable();
        let domain_starts: Vec<usize> =
            (1..trace.shape.tokens).filter(|&t| trace.domain[t] != trace.domain[t - 1]).collect();
        Self {
            snr_db: sum(|layer| layer.snr) / seen * 10.0 * std::f64::consts::LOG10_2,
            locked_share: sum(|layer| layer.locked as f64) / (tokens * count),
            lost_locks_per_10k: events.len() as f64 / count / tokens * 1e4,
            changes: coincident(&events, trace.shape.layers),
            domain_order: [0].iter().chain(&domain_starts).map(|&t| trace.domain[t].into()).collect(),
            domain_starts,
        }
    }
}

/// Tokens at which a quarter of the layers (and at least two of several) have lost lock together; `events` are the tokens of all losses, sorted.
pub fn coincident(events: &[u32], layers: usize) -> Vec<usize> {
    let layers = layers as f64;
    coincidences(events, (layers * COINCIDENCE_SHARE).ceil().max(2.0).min(layers) as usize)
}

/// Tokens at which `needed` events lie within the last [`COINCIDENCE_TOKENS`]; events already used do not count again.
fn coincidences(events: &[u32], needed: usize) -> Vec<usize> {
    let mut found = Vec::new();
    let mut first = 0;
    for (last, &token) in events.iter().enumerate() {
        while (token - events[first]) as usize >= COINCIDENCE_TOKENS {
            first += 1;
        }
        if last + 1 - first >= needed {
            found.push(token as usize);
            first = last + 1;
            if first == events.len() {
                break;
            }
        }
    }
    found.dedup_by(|later, earlier| *later - *earlier < COINCIDENCE_TOKENS);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_several_layers_must_coincide() {
        assert_eq!(coincidences(&[10, 100, 105, 110, 300, 330], 3), [110]);
        assert_eq!(coincidences(&[10, 26, 42], 2), [0usize; 0]);
        assert_eq!(coincidences(&[5], 1), [5]);
        assert_eq!(coincidences(&[5, 6, 40], 1), [5, 40]);
        assert!(coincidences(&[], 1).is_empty());
    }
}
