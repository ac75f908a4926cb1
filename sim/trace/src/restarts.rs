//! Where the context of a recording restarts although nobody wrote it down.
//!
//! llama.cpp evaluates a long text in chunks of fixed length and starts each from an empty context; other tools lay
//! equal sequences end to end. The token after such a seam has no predecessor in the model's eyes, and a switch counted
//! across it is none. Ids alone show the seams: there the overlap with the token before collapses.
//!
//! [`find`] tests a list of usual lengths P. At the multiples of P the share of changed experts (mean over layers) is
//! compared with the rest of the trace by Welch's statistic. The true period wins over its multiples, which see fewer
//! seams, and over its divisors, whose seams are diluted. Three further conditions keep topic changes and loops in the
//! text from passing for seams: the collapse is large, most multiples of P take part in it, and it does not vanish in
//! one half of the trace.
//!
//! ```
//! use cptr_trace::{Shape, Trace, restarts};
//!
//! let mut trace = Trace::of_ids(Shape { tokens: 5, layers: 1, experts: 4, k: 1 }, vec![0; 5]);
//! restarts::cut(&mut trace, 2);
//! assert_eq!(trace.position, [0, 1, 0, 1, 0]);
//! ```

use super::Trace;

/// Lengths that are tried, in tokens.
pub const PERIODS: [usize; 21] =
    [64, 96, 100, 128, 160, 192, 200, 256, 320, 384, 500, 512, 640, 768, 1000, 1024, 1536, 2000, 2048, 4096, 8192];
/// Seams that a trace must have at the least.
const MIN_SEAMS: usize = 3;
/// Standard errors between the switch rate at the seams and elsewhere. Twenty-one periods are tried on one trace: at 5,
/// normal chance would need a hundred thousand traces, and the conditions below stand behind it where tails are
/// heavier.
const MIN_Z: f64 = 5.0;
/// Share of the overlap elsewhere that must be gone at the seams.
const MIN_COLLAPSE: f64 = 0.25;
/// Share of the seams whose switch rate must exceed the mean elsewhere.
const MIN_AGREEMENT: f64 = 0.75;

/// Restarts at regular distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Restarts {
    /// Distance in tokens.
    pub period: usize,
    /// Share of the chosen experts that changed at the seams, 0 to 1, mean over layers.
    pub rate_at_seams: f64,
    /// The same elsewhere.
    pub rate_elsewhere: f64,
    /// Distance between the two in standard errors.
    pub z: f64,
}

/// Looks for restarts in a trace whose tokens are taken as one run, whatever `sequence` says. O(T L k²).
pub fn find(trace: &Trace) -> Option<Restarts> {
    let switches = switch_shares(trace);
    PERIODS.iter().filter_map(|&period| test(&switches, period)).max_by(|a, b| a.z.total_cmp(&b.z))
}

/// Cuts a trace into sequences where [`find`] sees restarts, and notes it.
pub fn find_and_cut(trace: &mut Trace) {
    if let Some(Restarts { period, rate_at_seams, rate_elsewhere, .. }) = find(trace) {
        cut(trace, period);
        trace.notes.push(format!(
            "The context restarts every {period} tokens (switch rate {rate_at_seams:.2} there, {rate_elsewhere:.2} elsewhere): \
             sequences cut there."
        ));
    }
}

/// Cuts every sequence of a trace after each `period` tokens; positions restart, sequences are numbered anew.
///
/// # Panics
/// If `period` is 0.
pub fn cut(trace: &mut Trace, period: usize) {
    assert!(period > 0);
    let (mut number, mut inside) = (0, 0);
    let mut sequence = Vec::with_capacity(trace.shape.tokens);
    for token in 0..trace.shape.tokens {
        if trace.starts_sequence(token) {
            number += u32::from(token > 0);
            inside = 0;
        } else if inside == period {
            number += 1;
            inside = 0;
        }
        sequence.push(number);
        inside += 1;
    }
    trace.sequence = sequence;
    trace.position = super::native::positions(&trace.sequence);
}

/// Share of the experts of each token that the one before did not choose, mean over layers; the first token has none.
fn switch_shares(trace: &Trace) -> Vec<f64> {
    let share = |token: usize| {
        let (mut changed, mut choices) = (0, 0);
        for layer in 0..trace.shape.layers {
            let (before, now) = (trace.chosen(token - 1, layer), trace.chosen(token, layer));
            changed += now.iter().filter(|id| !before.contains(id)).count();
            choices += now.len();
        }
        changed as f64 / choices.max(1) as f64
    };
    (1..trace.shape.tokens).map(share).collect()
}

/// Mean, variance and number.
fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    (mean, values.map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0), n)
}

fn test(switches: &[f64], period: usize) -> Option<Restarts> {
    // Entry i is the step from token i to token i + 1.
    let seams = switches.iter().skip(period - 1).step_by(period).copied();
    if seams.clone().count() < MIN_SEAMS {
        return None;
    }
    let elsewhere = switches.iter().enumerate().filter(|(i, _)| (i + 1) % period != 0).map(|(_, &share)| share);
    let (at, at_variance, at_n) = moments(seams.clone());
    let (rest, rest_variance, rest_n) = moments(elsewhere);
    // Few seams may agree by chance to the last digit: their spread is taken to be at least that of the others.
    let error = (at_variance.max(rest_variance) / at_n + rest_variance / rest_n).sqrt();
    let z = if error > 0.0 {
        (at - rest) / error
    } else if at > rest {
        f64::INFINITY
    } else {
        0.0
    };
    let both_halves = {
        let half = at_n as usize / 2;
        let excess = |(mean, ..): (f64, f64, f64)| mean - rest >= (at - rest) / 2.0;
        excess(moments(seams.clone().take(half))) && excess(moments(seams.clone().skip(half)))
    };
    let agreement = seams.filter(|&share| share > rest).count() as f64 / at_n;
    let found = z >= MIN_Z && both_halves && at - rest >= MIN_COLLAPSE * (1.0 - rest) && agreement >= MIN_AGREEMENT;
    found.then_some(Restarts { period, rate_at_seams: at, rate_elsewhere: rest, z })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Phase, Shape};

    /// Numbers from a linear congruential generator (Knuth's MMIX constants).
    fn random(state: &mut u64, below: usize) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*state >> 33) as usize) % below
    }

    /// A trace whose tokens keep each expert with probability `keep` percent, but `keep_at_seams` at multiples of
    /// `period`.
    fn trace(tokens: usize, seed: u64, keep: usize, period: usize, keep_at_seams: usize) -> Trace {
        let shape = Shape { tokens, layers: 6, experts: 32, k: 4 };
        let mut state = seed;
        let mut ids: Vec<u16> = Vec::new();
        for token in 0..tokens {
            let keep = if token % period == 0 { keep_at_seams } else { keep };
            for layer in 0..shape.layers {
                let mut chosen: Vec<u16> = Vec::new();
                for i in 0..shape.k {
                    let before = token.checked_sub(1).map(|before| ids[(before * shape.layers + layer) * shape.k + i]);
                    let mut id = before.filter(|_| random(&mut state, 100) < keep);
                    while id.is_none_or(|id| chosen.contains(&id)) {
                        id = Some(random(&mut state, shape.experts) as u16);
                    }
                    chosen.extend(id);
                }
                ids.extend(chosen);
            }
        }
        Trace { phase: vec![Phase::Prefill; tokens], ..Trace::of_ids(shape, ids) }
    }

    #[test]
    fn finds_the_period_and_no_multiple_or_divisor() {
        for period in [64, 192, 512, 1000, 1024, 2048] {
            let mut trace = trace(9000, period as u64, 50, period, 5);
            let found = find(&trace).expect("restarts");
            assert_eq!(found.period, period);
            assert!(found.rate_at_seams > 0.75 && found.rate_elsewhere < 0.55, "{found:?}");
            find_and_cut(&mut trace);
            assert!((0..9000).all(|token| trace.starts_sequence(token) == (token % period == 0)));
            assert_eq!(trace.position[period], 0);
            assert!(trace.notes[0].starts_with(&format!("The context restarts every {period} tokens (switch rate 0.")));
            trace.validate().unwrap();
        }
    }

    #[test]
    fn raises_no_false_alarm() {
        for seed in 0..100 {
            let plain = trace(4000, seed, 30 + seed as usize % 60, usize::MAX, 0);
            assert_eq!(find(&plain), None, "seed {seed}");
        }
        // Too short, all the same, one layer of one expert.
        assert_eq!(find(&trace(100, 1, 50, 64, 0)), None);
        let mut same = trace(3000, 1, 50, 64, 0);
        same.ids = [0, 1, 2, 3].repeat(3000 * 6);
        assert_eq!(find(&same), None);
    }

    #[test]
    fn irregular_seams_are_no_period() {
        let parts: Vec<u16> = [300, 711, 450, 923, 377, 811, 640, 505]
            .iter()
            .enumerate()
            .flat_map(|(seed, &n)| trace(n, seed as u64, 60, usize::MAX, 0).ids)
            .collect();
        let mut joined = trace(parts.len() / 24, 0, 50, usize::MAX, 0);
        joined.ids = parts;
        assert_eq!(find(&joined), None);
    }

    #[test]
    fn a_period_of_one_half_is_none_of_the_whole() {
        let mut joined = trace(6000, 3, 50, 512, 0);
        joined.ids.extend(trace(6000, 4, 50, 700, 0).ids);
        joined.shape.tokens = 12_000;
        assert_eq!(find(&joined), None);
    }

    #[test]
    fn cutting_respects_sequences() {
        let mut trace = trace(10, 0, 50, 64, 0);
        trace.sequence = vec![3, 3, 3, 3, 3, 8, 8, 8, 8, 8];
        cut(&mut trace, 4);
        assert_eq!(trace.sequence, [0, 0, 0, 0, 1, 2, 2, 2, 2, 3]);
        assert_eq!(trace.position, [0, 1, 2, 3, 0, 0, 1, 2, 3, 0]);
    }
}
