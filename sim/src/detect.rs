//! Changes of context as a benchmark: how soon a detector sees them, and how often it sees one where there is none.
//!
//! True changes are the tokens at which the trace says that another domain begins. A change is seen if an alarm comes
//! within [`SEEN_WITHIN`] tokens; the delay counts from its first token. False alarms are all that come neither after a
//! change nor within [`BOUNDARY_TOKENS`] after a known restart (the first token of a sequence), where the context does
//! change, if to a piece of the same domain.
//!
//! ```
//! use cptr_trace::{Shape, Trace};
//!
//! let trace = Trace::of_ids(Shape { tokens: 200, layers: 2, experts: 4, k: 1 }, vec![1; 400]);
//! let rows = cptr_sim::detect::run(&trace, &[20]);
//! assert!(rows.iter().all(|row| row.alarms == 0 && row.changes == 0));
//! ```

use cptr_core::{Angle, TrackerConfig};
use rayon::prelude::*;
use serde::Serialize;

use crate::filter::{boxed_tracker, changes, distances};
use crate::replay::context::matches;
use cptr_trace::Trace;

/// Tokens within which an alarm belongs to the change before it.
pub const SEEN_WITHIN: usize = 64;
/// Tokens after a known restart in which alarms are not counted.
pub const BOUNDARY_TOKENS: usize = 16;

/// What one detector did on one trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Detector with its threshold.
    pub detector: String,
    /// Alarms in all.
    pub alarms: usize,
    /// Alarms after no change and no restart, per 10,000 tokens.
    pub false_alarms_per_10k: f64,
    /// Changes that the trace says.
    pub changes: usize,
    /// Of them, without an alarm in time.
    pub missed: usize,
    /// Median delay of those seen, in tokens.
    pub median_delay: Option<f64>,
    /// Longest delay of those seen.
    pub longest_delay: Option<usize>,
}

/// Runs all detectors: the core's at each of the `thresholds`; and the yardstick at each of them, a plain CUSUM, on the
/// mean cosine of demand and tracked level, and on the margin of the best remembered match over the crowd: the change
/// of context as loss of match.
pub fn run(trace: &Trace, thresholds: &[u8]) -> Vec<Row> {
    let layers: Vec<Vec<Angle>> =
        (0..trace.shape.layers).into_par_iter().map(|layer| distances(trace, layer)).collect();
    let margins: Vec<f64> = matches(trace).iter().map(|found| found.snr).collect();
    let cosine = cosine(trace);
    let each = |name: &str, alarms: &dyn Fn(u8) -> Vec<usize>| -> Vec<Row> {
        let row = |&threshold: &u8| Row::new(trace, format!("{name}, threshold {threshold}"), &alarms(threshold));
        thresholds.iter().map(row).collect()
    };
    [
        each("context and long run", &|threshold| changes(&layers, threshold)),
        each("CUSUM of the mean cosine", &|threshold| plain_cusum(&cosine, f64::from(threshold))),
        each("CUSUM of the match", &|threshold| plain_cusum(&margins, f64::from(threshold))),
    ]
    .concat()
}

/// Mean over layers of the cosine between demand and level, of trackers with their default settings.
fn cosine(trace: &Trace) -> Vec<f64> {
    let config = TrackerConfig::default();
    let mut cosine = vec![0.0; trace.shape.tokens];
    for layer in 0..trace.shape.layers {
        let mut tracker = boxed_tracker(trace.shape.experts);
        for (token, cosine) in cosine.iter_mut().enumerate() {
            let angle = tracker.update(&config, trace.chosen(token, layer)).angle;
            *cosine += angle.to_num::<f64>().cos() / trace.shape.layers as f64;
        }
    }
    cosine
}

/// Page's CUSUM in floating point: usual value and deviation learnt over 64 tokens and after each alarm, slack of 1.5
/// deviations.
fn plain_cusum(cosine: &[f64], threshold: f64) -> Vec<usize> {
    const LEARN: usize = 64;
    const GAIN: f64 = 1.0 / 256.0;
    let (mut usual, mut deviation, mut evidence, mut learnt) = (0.0, 0.0, 0.0, 0usize);
    let mut alarms = Vec::new();
    for (token, &value) in cosine.iter().enumerate() {
        let fall = usual - value;
        if learnt < LEARN {
            learnt += 1;
            let gain = if learnt == 1 { 1.0 } else { 1.0 / (learnt / 2 + 1) as f64 };
            usual -= fall * gain;
            if learnt > 1 {
                deviation += (fall.abs() - deviation) * gain;
            }
            continue;
        }
        evidence = f64::max(0.0, evidence + fall - 1.5 * deviation);
        if evidence > threshold * deviation {
            alarms.push(token);
            (usual, deviation, evidence, learnt) = (0.0, 0.0, 0.0, 0);
            continue;
        }
        usual -= fall * GAIN;
        deviation += (fall.abs() - deviation) * GAIN;
    }
    alarms
}

impl Row {
    fn new(trace: &Trace, detector: String, alarms: &[usize]) -> Self {
        let tokens = trace.shape.tokens;
        let changes: Vec<usize> = (1..tokens).filter(|&t| trace.domain[t] != trace.domain[t - 1]).collect();
        let restarts: Vec<usize> = (0..tokens).filter(|&t| trace.starts_sequence(t)).collect();
        let within = |starts: &[usize], alarm: usize, reach: usize| {
            let before = starts.partition_point(|&start| start <= alarm);
            before > 0 && alarm - starts[before - 1] < reach
        };
        let excused = |alarm: usize| within(&changes, alarm, SEEN_WITHIN) || within(&restarts, alarm, BOUNDARY_TOKENS);
        let false_alarms = alarms.iter().filter(|&&alarm| !excused(alarm)).count();
        let delay = |&change: &usize| {
            let first = alarms.partition_point(|&alarm| alarm < change);
            alarms.get(first).map(|alarm| alarm - change).filter(|&delay| delay < SEEN_WITHIN)
        };
        let mut delays: Vec<usize> = changes.iter().filter_map(delay).collect();
        delays.sort_unstable();
        let median =
            (!delays.is_empty()).then(|| (delays[(delays.len() - 1) / 2] + delays[delays.len() / 2]) as f64 / 2.0);
        Self {
            detector,
            alarms: alarms.len(),
            false_alarms_per_10k: false_alarms as f64 / tokens as f64 * 1e4,
            changes: changes.len(),
            missed: changes.len() - delays.len(),
            median_delay: median,
            longest_delay: delays.last().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_trace::{Meta, Shape};

    /// Four layers of 32 experts, top-4: eight experts in use, another eight after every change.
    fn trace(tokens: usize, segment: usize) -> Trace {
        let mut state = 1u32;
        let mut ids = Vec::new();
        for token in 0..tokens {
            let base = (token / segment % 4 * 8) as u16;
            for _ in 0..4 {
                let mut chosen = Vec::new();
                while chosen.len() < 4 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let id = base + (state >> 24) as u16 % 8;
                    if !chosen.contains(&id) {
                        chosen.push(id);
                    }
                }
                ids.extend(chosen);
            }
        }
        Trace {
            meta: Meta {
                domains: ["a", "b", "c", "d"].map(String::from).into(),
                layer_ids: vec![0; 4],
                ..Meta::default()
            },
            domain: (0..tokens).map(|token| (token / segment % 4) as u8).collect(),
            ..Trace::of_ids(Shape { tokens, layers: 4, experts: 32, k: 4 }, ids)
        }
    }

    #[test]
    fn plain_changes_are_seen_at_once_and_nothing_else() {
        let rows = run(&trace(2000, 500), &[20]);
        // Choices without any order have no match that could be lost.
        let (matches, others): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.detector.contains("match"));
        assert_eq!((matches.len(), matches[0].missed), (1, 3));
        for row in others {
            assert_eq!((row.changes, row.missed, row.false_alarms_per_10k), (3, 0, 0.0), "{row:?}");
            assert!(row.median_delay.unwrap() <= 12.0, "{row:?}");
        }
        let pooled = &run(&trace(2000, 500), &[20])[0];
        assert!(pooled.longest_delay.unwrap() <= 8, "{pooled:?}");
    }

    #[test]
    fn one_context_raises_no_alarm() {
        for row in run(&trace(3000, 3000), &[20]) {
            assert_eq!((row.alarms, row.changes, row.median_delay), (0, 0, None), "{row:?}");
        }
    }

    #[test]
    fn delays_and_false_alarms_by_hand() {
        let mut trace = trace(1000, 250);
        trace.sequence = (0..1000).map(|token| u32::from(token >= 100)).collect();
        // After a restart, false, after a change in time, after a change too late (and false).
        let row = Row::new(&trace, String::new(), &[105, 200, 253, 270, 600]);
        assert_eq!((row.alarms, row.changes, row.missed), (5, 3, 2));
        assert_eq!((row.median_delay, row.longest_delay), (Some(3.0), Some(3)));
        assert_eq!(row.false_alarms_per_10k, 20.0);
    }
}
