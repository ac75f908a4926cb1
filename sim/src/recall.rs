//! How much of a routing comes again: which share of what a token will choose is among the best experts of a forecast
//! by remembered trajectories (`cptr_core::recall`), beside the tracked levels.
//!
//! The first half of a trace is learnt from, the second half counted. *Recall at k* is the share of the choices that
//! are among the k experts of a layer with the highest share in the forecast, *at 2k* among the 2k highest; an expert
//! without a share is not among them. Forecasts see what the stepper would have shown: the tokens before, and for the
//! one under way the layers that have run.
//!
//! How much of it is the same text over again is asked with repeated passages barred: places that have, with the last
//! eight tokens, more than 0.7 of all choices in common. The core's search has no such door, so that both answers, with
//! them and without, are those of a plain search in floating point (the module `exact`), which is what signatures of
//! many bits come to.
//!
//! ```
//! use cptr_trace::{Shape, Trace};
//!
//! // A text of 40 tokens over and over: the token says the next one, and so does the one before it.
//! let ids = (0..400).flat_map(|t| [t % 40 % 13, 13 + t % 40 % 11]).collect();
//! let trace = Trace::of_ids(Shape { tokens: 400, layers: 1, experts: 32, k: 2 }, ids);
//! let found = cptr_sim::recall::run(&trace)?;
//! let next = &found.rows[0];
//! assert_eq!((next.by, &*next.at), ("lag", "1"));
//! assert!(next.recall_k > 0.95 && next.levels_k.is_some_and(|levels| levels < 0.5));
//! # Ok::<(), cptr_trace::Error>(())
//! ```

mod eviction;
mod exact;

use cptr_core::{Level, Tracker, TrackerConfig};
use rayon::prelude::*;
use serde::Serialize;

use crate::filter::boxed_tracker;
use crate::replay::{self, Budget, Plan};
use crate::source::Routed;
use crate::strategy::Strategy;
use crate::strategy::forecaster::{Forecaster, Settings};
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use cptr_trace::{Shape, Trace};

/// Tokens that are remembered where nothing else is said.
pub const MEMORY: usize = 2048;
/// Sizes of memories that are tried, as far as a trace is long enough to tell them apart.
const MEMORIES: [usize; 7] = [64, 256, 1024, MEMORY, 4096, 16_384, 65_536];
/// Tokens ahead.
const LAGS: [usize; 4] = [1, 2, 4, 8];
/// Tokens of the forecast that eviction goes by.
const WINDOW: usize = 4;
/// Fewest tokens that say anything: half of them, more than the newest that no search looks at.
const FEWEST: usize = 64;

/// Shares of the choices that a forecast knew.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// What is varied: `lag` (tokens ahead), `window` (the next tokens together), `layer` (the next token), `memory`
    /// (the next token), `passages` (the next token, by the exact search).
    pub by: &'static str,
    /// Its value: tokens, the layer's id, or `all` and `barred`.
    pub at: String,
    /// Choices among the k best of the forecast before the token.
    pub recall_k: f64,
    /// Choices among the 2k best.
    pub recall_2k: f64,
    /// The same by the tracked levels; `None` where that is no other question than in another row.
    pub levels_k: Option<f64>,
    /// See [`Self::levels_k`].
    pub levels_2k: Option<f64>,
    /// The same by recall when all layers before have run; for the next token with the usual memory.
    pub ahead_k: Option<f64>,
    /// See [`Self::ahead_k`].
    pub ahead_2k: Option<f64>,
}

/// Who goes by what, on the raw router with twice the active experts in fast memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Evicted {
    /// `tracked`, `recall` and `belady` are the strategies; `levels`, `all` and `barred` those of the exact search:
    /// levels alone, with the forecast of all places, with that of those not barred.
    pub by: &'static str,
    /// Misses per choice.
    pub miss_rate: f64,
    /// Share of the way to Belady that it goes, from `tracked` or from `levels`; `None` where there is none.
    pub gap: Option<f64>,
}

/// What comes again.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Study {
    /// By lag, window, layer, memory and passages.
    pub rows: Vec<Row>,
    /// Tokens that were counted: the second half.
    pub counted: usize,
    /// Share of the counted tokens whose nearest place is of a repeated passage.
    pub repeated: f64,
    /// What it is worth as eviction.
    pub eviction: Vec<Evicted>,
}

/// Asks all of that of a trace.
///
/// # Errors
/// Fewer than 64 tokens; more layers, experts or choices than recall remembers.
pub fn run(trace: &Trace) -> Result<Study> {
    let Shape { tokens, layers, .. } = trace.shape;
    if tokens < FEWEST {
        return Err(Error::new(format!("--recall: expected at least {FEWEST} tokens, found {tokens}")));
    }
    let from = tokens / 2;
    let sizes = MEMORIES.iter().enumerate();
    let sizes: Vec<usize> = sizes
        .filter(|&(at, &size)| size == MEMORY || at == 0 || MEMORIES[at - 1] < tokens)
        .map(|(_, &size)| size)
        .collect();
    let progress = Progress::new((tokens * (sizes.len() + 1)) as u64, "recalling");
    let (found, passages) = rayon::join(
        || sizes.par_iter().map(|&size| follow(trace, from, size, &progress)).collect::<Result<Vec<Found>>>(),
        || exact::run(trace, from, &progress),
    );
    let found = found?;
    let Some(usual) = sizes.iter().position(|&size| size == MEMORY).map(|at| &found[at]) else {
        return Err(Error::new("the usual memory is among those tried"));
    };
    let mut rows = Vec::new();
    for (at, lag) in LAGS.iter().enumerate() {
        let ahead = (*lag == 1).then(|| usual.ahead.iter().fold(Hits::default(), Hits::add));
        rows.push(Row::new("lag", lag.to_string(), usual.lags[at], Some(usual.levels[at]), ahead));
    }
    rows.push(Row::new("window", WINDOW.to_string(), usual.window, Some(usual.levels_window), None));
    for layer in 0..layers {
        let id = trace.meta.layer_ids.get(layer).map_or_else(|| layer.to_string(), ToString::to_string);
        let (levels, ahead) = (usual.levels_by_layer[layer], usual.ahead[layer]);
        rows.push(Row::new("layer", id, usual.by_layer[layer], Some(levels), Some(ahead)));
    }
    let next = |found: &Found| found.by_layer.iter().fold(Hits::default(), Hits::add);
    rows.extend(
        sizes.iter().zip(&found).map(|(size, found)| Row::new("memory", size.to_string(), next(found), None, None)),
    );
    let [all, barred] = passages.hits;
    rows.push(Row::new("passages", "all".into(), all, None, None));
    rows.push(Row::new("passages", "barred".into(), barred, None, None));
    let counted = tokens - from;
    let eviction = evicted(trace, from, all.choices, passages.misses)?;
    Ok(Study { rows, counted, repeated: passages.repeated as f64 / counted as f64, eviction })
}

/// Misses of strategies, and of the exact search beside them.
fn evicted(trace: &Trace, from: usize, choices: u64, exact: (u64, [u64; 2])) -> Result<Vec<Evicted>> {
    let names = ["tracked", "recall", "belady"];
    let resident = Budget::Experts((2 * trace.shape.k).min(trace.shape.experts));
    let plan = Plan { strategies: Strategy::parse_list(&names.join(","))?, prefill: from, ..Plan::new(resident) };
    let outcome = replay::run(trace, &plan)?;
    let rate = |name: &str| outcome.rows.iter().find(|row| row.strategy == name).map_or(f64::NAN, |row| row.miss_rate);
    let belady = rate("belady");
    let row = |by, start: f64, miss_rate: f64| {
        let gap = (start > belady && miss_rate != start).then(|| (start - miss_rate) / (start - belady));
        Evicted { by, miss_rate, gap }
    };
    let (levels, [all, barred]) = exact;
    let share = |misses: u64| misses as f64 / choices.max(1) as f64;
    let tracked = rate("tracked");
    let strategies = names.map(|name| row(name, tracked, rate(name)));
    let exact = [("levels", levels), ("all", all), ("barred", barred)];
    let exact = exact.map(|(by, misses)| row(by, share(levels), share(misses)));
    Ok(strategies.into_iter().chain(exact).collect())
}

/// How many choices were among the best of forecasts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Hits {
    choices: u64,
    k: u64,
    twice: u64,
}

impl Hits {
    fn add(self, other: &Self) -> Self {
        Self { choices: self.choices + other.choices, k: self.k + other.k, twice: self.twice + other.twice }
    }

    /// Counts the choices of a token in a layer that are among the `k` and `2k` highest `shares`; of equal ones the
    /// lower id.
    fn count<T: PartialOrd + Default>(&mut self, shares: &[T], wanted: &[u16], k: usize) {
        for &expert in wanted {
            self.choices += 1;
            let Some(own) = shares.get(usize::from(expert)).filter(|&own| *own > T::default()) else { continue };
            let better = |(share, other): (&T, u16)| share > own || (share == own && other < expert);
            let rank = shares.iter().zip(0u16..).filter(|&(share, other)| better((share, other))).count();
            self.k += u64::from(rank < k);
            self.twice += u64::from(rank < 2 * k);
        }
    }

    fn shares(self) -> [f64; 2] {
        [self.k, self.twice].map(|hits| if self.choices > 0 { hits as f64 / self.choices as f64 } else { 0.0 })
    }
}

impl Row {
    fn new(by: &'static str, at: String, recall: Hits, levels: Option<Hits>, ahead: Option<Hits>) -> Self {
        let [recall_k, recall_2k] = recall.shares();
        let part = |of: Option<Hits>, at: usize| of.map(|hits| hits.shares()[at]);
        Self {
            by,
            at,
            recall_k,
            recall_2k,
            levels_k: part(levels, 0),
            levels_2k: part(levels, 1),
            ahead_k: part(ahead, 0),
            ahead_2k: part(ahead, 1),
        }
    }
}

/// What one memory knew. All but `by_layer` is of the usual size only.
struct Found {
    /// The next token, layer by layer.
    by_layer: Vec<Hits>,
    lags: [Hits; LAGS.len()],
    window: Hits,
    /// The token that is on its way, when all layers before have run.
    ahead: Vec<Hits>,
    /// What levels knew, likewise.
    levels_by_layer: Vec<Hits>,
    levels: [Hits; LAGS.len()],
    levels_window: Hits,
}

/// Tokens between two signs of life.
const SIGNS: usize = 256;

fn follow(trace: &Trace, from: usize, memory: usize, progress: &Progress) -> Result<Found> {
    let Shape { tokens, layers, experts, k } = trace.shape;
    let usual = memory == MEMORY;
    let mut forecaster = Forecaster::new(Settings::remembering(memory), layers, experts, k, 1)?;
    let mut levels: Vec<Box<Tracker>> = (0..layers).map(|_| boxed_tracker(experts)).collect();
    let mut found = Found::new(layers);
    let mut shares = Shares::default();
    for token in 0..tokens {
        let counted = token >= from;
        for (layer, tracker) in levels.iter().enumerate().filter(|_| counted) {
            let wanted = trace.chosen(token, layer);
            forecaster.share(layer, 1, &mut shares.next);
            found.by_layer[layer].count(&shares.next, wanted, k);
            if !usual {
                continue;
            }
            shares.set_levels(tracker, experts);
            found.levels_by_layer[layer].count(&shares.levels, wanted, k);
            let later = |ahead: usize| (token + ahead < tokens).then(|| trace.chosen(token + ahead, layer));
            for (at, &lag) in LAGS.iter().enumerate() {
                let Some(wanted) = later(lag - 1) else { continue };
                shares.set_lag(&mut forecaster, layer, lag);
                found.lags[at].count(&shares.lag, wanted, k);
                found.levels[at].count(&shares.levels, wanted, k);
            }
            forecaster.share(layer, WINDOW, &mut shares.next);
            for wanted in (0..WINDOW).filter_map(later) {
                found.window.count(&shares.next, wanted, k);
                found.levels_window.count(&shares.levels, wanted, k);
            }
        }
        for (layer, tracker) in levels.iter_mut().enumerate() {
            let wanted = trace.chosen(token, layer);
            if counted && usual {
                forecaster.share(layer, 1, &mut shares.next);
                found.ahead[layer].count(&shares.next, wanted, k);
            }
            forecaster.see(layer, &[Routed { wanted, weights: &[], logits: &[], starts_sequence: false, ahead: &[] }]);
            if usual {
                tracker.update(&TrackerConfig::default(), wanted);
            }
        }
        forecaster.end_token();
        sign(progress, token, tokens);
    }
    Ok(found)
}

/// Says now and then how far the work is.
fn sign(progress: &Progress, token: usize, tokens: usize) {
    if (token + 1).is_multiple_of(SIGNS) {
        progress.advance(SIGNS as u64);
    } else if token + 1 == tokens {
        progress.advance((tokens % SIGNS) as u64);
    }
}

impl Found {
    fn new(layers: usize) -> Self {
        let none = || vec![Hits::default(); layers];
        Self {
            by_layer: none(),
            lags: Default::default(),
            window: Hits::default(),
            ahead: none(),
            levels_by_layer: none(),
            levels: Default::default(),
            levels_window: Hits::default(),
        }
    }
}

/// Room for forecasts of a layer.
#[derive(Default)]
struct Shares {
    next: Vec<Level>,
    before: Vec<Level>,
    lag: Vec<u64>,
    levels: Vec<u64>,
}

impl Shares {
    /// What `tracked` eviction goes by: slow + fast / 4.
    fn set_levels(&mut self, tracker: &Tracker, experts: usize) {
        let level = |level: cptr_core::Levels| u64::from(level.slow.to_bits()) + u64::from(level.fast.to_bits() >> 2);
        self.levels.clear();
        self.levels.extend(tracker.levels().take(experts).map(level));
    }

    /// The forecast for one token ahead: forecasts are means over the next tokens, so that it is the difference of two
    /// sums.
    fn set_lag(&mut self, forecaster: &mut Forecaster, layer: usize, lag: usize) {
        forecaster.share(layer, lag, &mut self.next);
        self.before.clear();
        if lag > 1 {
            forecaster.share(layer, lag - 1, &mut self.before);
        }
        self.before.resize(self.next.len(), Level::ZERO);
        let sum = |share: &Level, tokens: usize| u64::from(share.to_bits()) * tokens as u64;
        // Each mean is rounded down by less than a bit a place and token: what is less than that is none.
        let least = (128 * lag * lag) as u64;
        let pairs = self.next.iter().zip(&self.before);
        self.lag.clear();
        self.lag.extend(pairs.map(|(next, before)| sum(next, lag).saturating_sub(sum(before, lag - 1))));
        self.lag.iter_mut().filter(|share| **share < least).for_each(|share| *share = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_by_hand() {
        let mut hits = Hits::default();
        hits.count(&[0.1, 0.4, 0.0, 0.4, 0.1], &[1, 2, 4], 1);
        // Expert 1 is first, expert 2 has no share, expert 4 is fourth.
        assert_eq!(hits, Hits { choices: 3, k: 1, twice: 1 });
        hits.count(&[0.1, 0.4, 0.0, 0.4, 0.1], &[3, 4], 2);
        assert_eq!(hits, Hits { choices: 5, k: 2, twice: 3 });
        assert_eq!(Hits::default().shares(), [0.0; 2]);
    }

    /// A text of `length` tokens that repeats itself, without an order in it.
    fn text(length: usize, tokens: usize, layers: usize) -> Trace {
        let mut random = fastrand::Rng::with_seed(3);
        let once: Vec<u16> = (0..length * layers).flat_map(|_| [random.u16(0..16), 16 + random.u16(0..16)]).collect();
        let ids = once.iter().copied().cycle().take(tokens * layers * 2).collect();
        Trace::of_ids(Shape { tokens, layers, experts: 32, k: 2 }, ids)
    }

    fn of<'a>(study: &'a Study, by: &str, at: &str) -> &'a Row {
        study.rows.iter().find(|row| row.by == by && row.at == at).unwrap()
    }

    #[test]
    fn what_repeats_is_known_and_what_is_barred_is_not() {
        let found = run(&text(100, 600, 3)).unwrap();
        assert_eq!(found.counted, 300);
        for (by, at) in
            [("lag", "1"), ("lag", "8"), ("window", "4"), ("layer", "2"), ("memory", "2048"), ("passages", "all")]
        {
            let row = of(&found, by, at);
            // Four tokens choose up to four times k.
            let most = if by == "window" { 0.25 } else { 1.0 };
            assert!(row.recall_k > 0.9 * most && row.recall_2k >= row.recall_k, "{row:?}");
        }
        // A memory that is shorter than the text has never seen the place.
        assert!(of(&found, "memory", "64").recall_k < 0.5);
        let barred = of(&found, "passages", "barred");
        assert!(barred.recall_k < 0.5 && found.repeated > 0.95, "{barred:?} {}", found.repeated);
        let next = of(&found, "lag", "1");
        assert!(next.levels_k.unwrap() < 0.4 && next.ahead_k.unwrap() > 0.9);
        // Memories beyond the first that holds the whole trace would say the same.
        let sizes: Vec<&str> = found.rows.iter().filter(|row| row.by == "memory").map(|row| &*row.at).collect();
        assert_eq!(sizes, ["64", "256", "1024", "2048"]);
    }

    /// Whatever comes later, counted tokens before it are known as well as without it.
    #[test]
    fn forecasts_do_not_see_what_they_are_asked_for() {
        // No order at all: no forecast knows more than the experts' shares, 1 of 16 for each half.
        let found = run(&text(900, 900, 2)).unwrap();
        for row in &found.rows {
            let known = [Some(row.recall_k), row.levels_k, row.ahead_k].into_iter().flatten();
            assert!(known.clone().all(|share| share < 0.12), "{row:?}");
        }
        assert!(found.repeated < 0.01);
    }

    #[test]
    fn refuses_what_is_too_short() {
        let short = Trace::of_ids(Shape { tokens: 63, layers: 1, experts: 4, k: 1 }, vec![0; 63]);
        assert!(run(&short).unwrap_err().to_string().contains("at least 64 tokens, found 63"));
        let same = Trace::of_ids(Shape { tokens: 64, layers: 1, experts: 4, k: 1 }, vec![3; 64]);
        assert!(run(&same).unwrap().rows.iter().all(|row| (0.0..=1.0).contains(&row.recall_k)));
    }
}
