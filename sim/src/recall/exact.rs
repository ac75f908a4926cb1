//! The search for like places in floating point, on whole choices instead of signatures, and with a bar on repeated
//! passages.
//!
//! Signatures of many bits differ in a share `angle / pi` of them, where the angle is that between the choices as
//! vectors, centred by their running mean. So this is what the core's search comes to with ever more bits, and all
//! that it leaves out is rounding: weights of the tokens before, the newest 12 tokens that are no places, 64 places,
//! exponents of their weights are the same. Within a token it does not look.

use std::ops::Range;

use super::eviction::Eviction;
use super::{Hits, MEMORY, WINDOW, sign};
use cptr_trace::progress::Progress;
use cptr_trace::{Shape, Trace};

/// Weights of this token and the three before it.
const WEIGHTS: [f64; 4] = [1.0, 45.0 / 64.0, 32.0 / 64.0, 22.0 / 64.0];
/// Tokens at the end of the memory that are no places.
const NEWEST: usize = 12;
/// Places that make a forecast.
const PLACES: usize = 64;
/// Exponent of a place by its similarity to all four tokens.
const SHARPNESS: f64 = 4.0;
/// Tokens over which a passage is compared.
const PASSAGE: usize = 8;
/// Share of choices in common from which a passage is a repeated one.
const REPEATED: f64 = 0.7;
/// Tokens that the mean remembers.
const MEAN: f64 = 512.0;

/// What was found.
pub(super) struct Passages {
    /// With all places, and with those of repeated passages barred.
    pub(super) hits: [Hits; 2],
    /// Counted tokens whose nearest place was barred.
    pub(super) repeated: usize,
    /// Misses of counted tokens by levels alone, and with the forecasts of all places and of those not barred.
    pub(super) misses: (u64, [u64; 2]),
}

/// A remembered token.
#[derive(Clone, Default)]
struct Seen {
    /// Its choices, a bit for each layer and expert.
    chosen: Vec<u64>,
    choices: f64,
    /// Its product with the mean of its time.
    mean: f64,
    /// Length of the centred vector.
    length: f64,
}

/// How alike this token was to the one of an age, and those before it.
#[derive(Clone, Copy, Default)]
struct Pair {
    /// Similarities -1 to 1, the newest first; 0 where there was no such token.
    alike: [f32; WEIGHTS.len()],
    /// Shares of choices in common, likewise.
    common: [f32; PASSAGE],
}

/// A place that may say what comes next.
#[derive(Clone, Copy)]
struct Place {
    token: usize,
    score: f64,
    barred: bool,
}

/// Asks the next token, from token `from` on.
pub(super) fn run(trace: &Trace, from: usize, progress: &Progress) -> Passages {
    let Shape { tokens, layers, experts, k } = trace.shape;
    let words = experts.div_ceil(64);
    let mut mean = vec![0.0; layers * experts];
    let mut seen = vec![Seen::default(); MEMORY];
    let mut pairs = vec![Pair::default(); MEMORY];
    let mut places: Vec<Place> = Vec::new();
    let (mut hits, mut repeated) = ([Hits::default(); 2], 0);
    let mut shares = vec![0.0; layers * experts];
    let mut later = [shares.clone(), shares.clone()];
    let mut eviction = Eviction::new(trace.shape);
    for token in 0..tokens {
        for (later, barring) in later.iter_mut().zip([false, true]) {
            // What goes for this token is decided by the ones after it.
            forecast(trace, &places, barring, 2..2 + WINDOW, later);
        }
        eviction.token(trace, token, later.each_ref().map(Vec::as_slice), token >= from);
        if token >= from {
            repeated += usize::from(places.first().is_some_and(|place| place.barred));
            for (hits, barring) in hits.iter_mut().zip([false, true]) {
                forecast(trace, &places, barring, 1..2, &mut shares);
                for layer in 0..layers {
                    let shares = &shares[layer * experts..(layer + 1) * experts];
                    hits.count(shares, trace.chosen(token, layer), k);
                }
            }
        }
        let mut now = Seen { chosen: vec![0; layers * words], ..Seen::default() };
        for layer in 0..layers {
            for expert in trace.chosen(token, layer).iter().map(|&id| usize::from(id)) {
                now.chosen[layer * words + expert / 64] |= 1 << (expert % 64);
                now.choices += 1.0;
                now.mean += mean[layer * experts + expert];
            }
        }
        let squares: f64 = mean.iter().map(|mean| mean * mean).sum();
        now.length = (now.choices - 2.0 * now.mean + squares).max(0.0).sqrt();
        places.clear();
        for age in 1..=token.min(MEMORY - 1) {
            let then = &seen[(token - age) % MEMORY];
            let pair = &mut pairs[age];
            pair.alike.rotate_right(1);
            pair.common.rotate_right(1);
            let common: u32 = now.chosen.iter().zip(&then.chosen).map(|(a, b)| (a & b).count_ones()).sum();
            let common = f64::from(common);
            let cosine = (common - now.mean - then.mean + squares) / (now.length * then.length);
            pair.alike[0] = if cosine.is_finite() { similarity(cosine.clamp(-1.0, 1.0)) } else { 0.0 };
            pair.common[0] = (common / now.choices.max(1.0)) as f32;
            if age > NEWEST {
                let score = pair.alike.iter().zip(WEIGHTS).map(|(&alike, weight)| f64::from(alike) * weight).sum();
                let common: f64 = pair.common.iter().map(|&common| f64::from(common)).sum();
                places.push(Place { token: token - age, score, barred: common > REPEATED * PASSAGE as f64 });
            }
        }
        places.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(b.token.cmp(&a.token)));
        let gain = f64::max(1.0 / (token + 1) as f64, 1.0 / MEAN);
        mean.iter_mut().for_each(|mean| *mean *= 1.0 - gain);
        for layer in 0..layers {
            for &expert in trace.chosen(token, layer) {
                mean[layer * experts + usize::from(expert)] += gain;
            }
        }
        seen[token % MEMORY] = now;
        sign(progress, token, tokens);
    }
    Passages { hits, repeated, misses: eviction.misses() }
}

/// 1 less twice the share of sign bits in which vectors of this cosine differ.
fn similarity(cosine: f64) -> f32 {
    (1.0 - 2.0 * cosine.acos() / std::f64::consts::PI) as f32
}

/// The weighted mean of what followed the best places so many tokens later, mean over those, `[layers][experts]`.
fn forecast(trace: &Trace, places: &[Place], barring: bool, ahead: Range<usize>, shares: &mut [f64]) {
    shares.fill(0.0);
    let best: Vec<&Place> = places.iter().filter(|place| !(barring && place.barred)).take(PLACES).collect();
    let Some(first) = best.first().map(|place| place.score) else { return };
    let weights: Vec<f64> = best.iter().map(|place| (SHARPNESS * (place.score - first)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let tokens = ahead.len() as f64;
    for (place, weight) in best.iter().zip(&weights) {
        for later in ahead.clone().map(|ahead| place.token + ahead) {
            for layer in 0..trace.shape.layers {
                for &expert in trace.chosen(later, layer) {
                    shares[layer * trace.shape.experts + usize::from(expert)] += weight / sum / tokens;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarities_are_those_of_signs() {
        let near = |cosine: f64, expected: f32| (similarity(cosine) - expected).abs() < 1e-6;
        assert!(near(1.0, 1.0) && near(0.0, 0.0) && near(-1.0, -1.0) && near(0.5, 1.0 / 3.0));
    }

    /// The places before the last three tokens of a text that says `a b c d` once, and `x b c d` once.
    #[test]
    fn a_bar_leaves_the_next_best() {
        let place = |token: usize, score: f64, barred: bool| Place { token, score, barred };
        let trace = Trace::of_ids(Shape { tokens: 4, layers: 1, experts: 4, k: 1 }, vec![0, 1, 2, 3]);
        let places = [place(0, 2.0, true), place(1, 2.0, false), place(2, 1.0, false)];
        let mut shares = [0.0; 4];
        forecast(&trace, &places, false, 1..2, &mut shares);
        let last = (-SHARPNESS).exp();
        for (share, expected) in shares.iter().zip([0.0, 1.0, 1.0, last]) {
            assert!((share - expected / (2.0 + last)).abs() < 1e-12);
        }
        forecast(&trace, &places, true, 1..2, &mut shares);
        assert!(shares[1] == 0.0 && shares[2] > 0.98);
        forecast(&trace, &places[..1], true, 1..2, &mut shares);
        assert_eq!(shares, [0.0; 4]);
        forecast(&trace, &places[..1], false, 2..4, &mut shares);
        assert_eq!(shares, [0.0, 0.0, 0.5, 0.5]);
    }
}
