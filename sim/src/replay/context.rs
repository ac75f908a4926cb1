//! What the core sees of a trace beside any strategy: signal-to-noise ratio and lock of the tracked context and of the
//! remembered match, and changes of context.
//!
//! ```
//! use cptr_trace::{Shape, Trace};
//!
//! let trace = Trace::of_ids(Shape { tokens: 100, layers: 1, experts: 4, k: 1 }, vec![2; 100]);
//! let context = cptr_sim::replay::Context::of(&trace);
//! assert!(context.changes.is_empty() && context.snr_db > 0.0);
//! assert_eq!(context.signal.len(), 100);
//! ```

use cptr_core::context::ChangeConfig;
use cptr_core::recall::{Config, Recall, Shape as Remembered};
use cptr_core::{Angle, Lock, TrackerConfig};
use rayon::prelude::*;
use serde::Serialize;

use super::BINS;
use crate::filter::{boxed_tracker, changes, distances};
use cptr_trace::Trace;

/// Tokens that are remembered for the match, and words of 32 bits of their signatures.
const MEMORY: usize = 2048;
const WORDS: usize = 4;

/// Decibels of a base-2 logarithm of powers.
const DECIBELS: f64 = 10.0 * std::f64::consts::LOG10_2;

/// What one layer's tracker saw, by token.
struct LayerContext {
    /// Losses of lock.
    lost_locks: usize,
    locked: Vec<bool>,
    /// Signal-to-noise ratios, in units of log2.
    snr: Vec<f32>,
    distances: Vec<Angle>,
}

impl LayerContext {
    fn of(trace: &Trace, layer: usize) -> Self {
        let (config, mut tracker) = (TrackerConfig::default(), boxed_tracker(trace.shape.experts));
        let tokens = trace.shape.tokens;
        let (mut snr, mut locked) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let mut lost_locks = 0;
        for token in 0..tokens {
            let step = tracker.update(&config, trace.chosen(token, layer));
            lost_locks += usize::from(step.lost_lock);
            locked.push(step.lock == Lock::Locked);
            snr.push(step.snr.to_num());
        }
        Self { lost_locks, locked, snr, distances: distances(trace, layer) }
    }
}

/// The best match of a token among the tokens that are remembered.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Match {
    /// Margin over the crowd, in units of log2.
    pub(crate) snr: f64,
    /// Whether matches move along with the text.
    pub(crate) locked: bool,
}

/// The match of every token, in one memory for the whole trace; none where layers have more choices or experts than a
/// memory takes.
pub(crate) fn matches(trace: &Trace) -> Vec<Match> {
    let cptr_trace::Shape { tokens, layers, experts, k } = trace.shape;
    let shape = Remembered { layers: layers as u16, experts: experts as u16, k: k as u16 };
    // The place itself does not matter here, so that none has to be followed through the layers.
    let config = Config { candidates: 1, ..Config::default() };
    let words = vec![0u32; shape.words(MEMORY, WORDS)];
    let Ok(mut recall) = Recall::<_, WORDS, 1>::new(&config, shape, MEMORY, words) else { return Vec::new() };
    let mut one = |token| {
        for layer in 0..layers {
            recall.observe(&config, layer as u16, trace.chosen(token, layer)).ok()?;
        }
        recall.end_token(&config).ok()?;
        Some(Match { snr: recall.snr().to_num(), locked: recall.lock() == Lock::Locked })
    };
    (0..tokens).map_while(&mut one).collect()
}

/// Signal and noise in a part of the trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Signal {
    /// First token of the part.
    pub token: usize,
    /// Mean power of the tracked context over the power of the innovation, in dB.
    pub snr_db: f64,
    /// Share of tokens and layers in which the context is locked.
    pub locked: f64,
    /// Mean margin of the best remembered place over the crowd of all remembered places, in dB.
    pub match_snr_db: f64,
    /// Share of tokens whose best match moves along with the text.
    pub match_locked: f64,
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
    /// Mean margin of the best remembered place over the crowd, in dB.
    pub match_snr_db: f64,
    /// Share of tokens whose best match moves along with the text.
    pub match_locked_share: f64,
    /// By part of the trace: at most [`BINS`] of equal length.
    pub signal: Vec<Signal>,
    /// Tokens at which the detector sees a change of context ([`cptr_core::context`]).
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
        Self::in_parts(trace, BINS)
    }

    /// Of a whole trace, with the series in at most so many parts.
    #[must_use]
    pub fn in_parts(trace: &Trace, parts: usize) -> Self {
        let (matches, layers): (_, Vec<LayerContext>) = rayon::join(
            || matches(trace),
            || (0..trace.shape.layers).into_par_iter().map(|layer| LayerContext::of(trace, layer)).collect(),
        );
        let tokens = trace.shape.tokens;
        let lost: usize = layers.iter().map(|layer| layer.lost_locks).sum();
        let domain_starts: Vec<usize> = (1..tokens).filter(|&t| trace.domain[t] != trace.domain[t - 1]).collect();
        let whole = signal(&layers, &matches, 0, tokens);
        let parts = parts.clamp(1, tokens.max(1));
        let bounds = |part: usize| (part * tokens / parts, (part + 1) * tokens / parts);
        let part = |part: usize| signal(&layers, &matches, bounds(part).0, bounds(part).1);
        let signal = (0..parts).map(part).collect();
        let distances: Vec<Vec<Angle>> = layers.into_iter().map(|layer| layer.distances).collect();
        Self {
            snr_db: whole.snr_db,
            locked_share: whole.locked,
            lost_locks_per_10k: lost as f64 / distances.len() as f64 / tokens as f64 * 1e4,
            match_snr_db: whole.match_snr_db,
            match_locked_share: whole.match_locked,
            signal,
            changes: changes(&distances, ChangeConfig::default().threshold),
            domain_order: [0].iter().chain(&domain_starts).map(|&t| trace.domain[t].into()).collect(),
            domain_starts,
        }
    }
}

/// Means over the tokens from `start` to `end`; 0 where there is nothing. The first token has no context to compare
/// with.
fn signal(layers: &[LayerContext], matches: &[Match], start: usize, end: usize) -> Signal {
    let mean = |sum: f64, count: usize| if count > 0 { sum / count as f64 } else { 0.0 };
    let known = start.max(1)..end.max(1);
    let count = (end - start) * layers.len();
    let snr: f64 = layers.iter().flat_map(|layer| &layer.snr[known.clone()]).map(|&snr| f64::from(snr)).sum();
    let locked = layers.iter().flat_map(|layer| &layer.locked[start..end]).filter(|&&locked| locked).count();
    let matches = &matches[start.min(matches.len())..end.min(matches.len())];
    let match_snr: f64 = matches.iter().map(|found| found.snr).sum();
    let match_locked = matches.iter().filter(|found| found.locked).count();
    Signal {
        token: start,
        snr_db: mean(snr, known.len() * layers.len()) * DECIBELS,
        locked: mean(locked as f64, count),
        match_snr_db: mean(match_snr, matches.len()) * DECIBELS,
        match_locked: mean(match_locked as f64, matches.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_trace::Shape;

    /// Words of ten tokens that repeat, then tokens in no order at all.
    #[test]
    fn a_text_that_repeats_itself_has_a_match_and_noise_has_none() {
        let mut state = 7u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 20) as u16 % 16
        };
        let ids = (0..2000usize)
            .flat_map(|token| {
                let layer =
                    |layer: usize| if token < 1000 { ((token % 10 * 7 + layer * 3) % 16) as u16 } else { noise() };
                [0, 1, 2, 3, 4, 5, 6, 7].map(layer)
            })
            .collect();
        let trace = Trace::of_ids(Shape { tokens: 2000, layers: 8, experts: 16, k: 1 }, ids);
        let context = Context::in_parts(&trace, 10);
        assert_eq!(
            context.signal.iter().map(|part| part.token).collect::<Vec<_>>(),
            [0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 1800]
        );
        let (text, noise) = (context.signal[4], context.signal[9]);
        assert!(text.match_locked == 1.0 && noise.match_locked == 0.0, "{text:?} {noise:?}");
        assert!(text.match_snr_db > 2.0 && text.match_locked > context.match_locked_share, "{text:?} {noise:?}");
        let mean = |of: fn(&Signal) -> f64| context.signal.iter().map(of).sum::<f64>() / 10.0;
        assert!((mean(|part| part.locked) - context.locked_share).abs() < 1e-9);
        assert!((mean(|part| part.match_snr_db) - context.match_snr_db).abs() < 1e-9);
    }

    #[test]
    fn no_part_is_empty() {
        let trace = Trace::of_ids(Shape { tokens: 7, layers: 1, experts: 4, k: 1 }, vec![1; 7]);
        assert_eq!(Context::of(&trace).signal.len(), 7);
        assert!(Context::of(&trace).signal.iter().all(|part| part.snr_db.is_finite()));
    }
}
