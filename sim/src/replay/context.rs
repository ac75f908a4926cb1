//! What the core's tracker sees of a trace: signal-to-noise ratio, lock, and changes of context, beside any strategy.
//!
//! ```
//! use cptr_trace::{Shape, Trace};
//!
//! let trace = Trace::of_ids(Shape { tokens: 100, layers: 1, experts: 4, k: 1 }, vec![2; 100]);
//! let context = cptr_sim::replay::Context::of(&trace);
//! assert!(context.changes.is_empty() && context.snr_db > 0.0);
//! ```

use cptr_core::{Lock, TrackerConfig};
use rayon::prelude::*;
use serde::Serialize;

use crate::filter::boxed_tracker;
use cptr_trace::Trace;

/// Losses of lock within this many tokens count as one event.
const COINCIDENCE_TOKENS: usize = 16;
/// Share of the layers, and at least two of several, that must lose lock together for a change of context.
const COINCIDENCE_SHARE: f64 = 0.25;

/// What one layer's tracker saw.
#[derive(Debug, Default)]
struct LayerContext {
    /// Tokens at which lock was lost.
    lost_locks: Vec<u32>,
    locked: u64,
    /// Sum of the signal-to-noise ratios, in units of log2.
    snr: f64,
    tokens: u64,
}

impl LayerContext {
    fn of(trace: &Trace, layer: usize) -> Self {
        let (config, mut tracker) = (TrackerConfig::default(), boxed_tracker(trace.shape.experts));
        let mut context = Self::default();
        for token in 0..trace.shape.tokens {
            let step = tracker.update(&config, trace.chosen(token, layer));
            if step.lost_lock {
                context.lost_locks.push(token as u32);
            }
            context.locked += u64::from(step.lock == Lock::Locked);
            // The first token has no context to compare with.
            if token > 0 {
                context.snr += step.snr.to_num::<f64>();
                context.tokens += 1;
            }
        }
        context
    }
}

/// What the trackers of all layers saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
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
    /// Of a whole trace, layers in parallel.
    #[must_use]
    pub fn of(trace: &Trace) -> Self {
        let layers: Vec<LayerContext> =
            (0..trace.shape.layers).into_par_iter().map(|layer| LayerContext::of(trace, layer)).collect();
        let (tokens, count) = (trace.shape.tokens as f64, trace.shape.layers as f64);
        let sum = |value: fn(&LayerContext) -> f64| layers.iter().map(value).sum::<f64>();
        let seen = sum(|layer| layer.tokens as f64).max(1.0);
        let mut events: Vec<u32> = layers.iter().flat_map(|layer| layer.lost_locks.iter().copied()).collect();
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

/// Tokens at which a quarter of the layers (and at least two of several) have lost lock together; `events` are the
/// tokens of all losses, sorted.
pub(crate) fn coincident(events: &[u32], layers: usize) -> Vec<usize> {
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
