//! What to do with the experts of a model that does not fit: pin them, keep a cache, forecast, fetch ahead, let
//! residents stand in, or run the cold ones where they lie. Measured on a recording of one's own, on a machine.
//!
//! The first quarter of the recording is shown to every strategy, the rest is timed in three parts. The advice is the
//! simplest strategy that loses nothing and is within [`SAME`] of the fastest; it is sure if it would be the advice in
//! each part by itself.
//!
//! ```
//! use cptr_hw_model::{Model, System};
//! use cptr_sim::advise::{Plan, advise};
//! use cptr_sim::replay::Budget;
//! use cptr_trace::{Shape, Trace};
//!
//! // The same two of eight experts for ever: what the prompt wanted is all that is needed, and to pin it is enough.
//! let trace = Trace::of_ids(Shape { tokens: 400, layers: 1, experts: 8, k: 2 }, [0, 3].repeat(400));
//! let system = System::find("offload").ok_or("no such machine")?;
//! let model = Model::find("OLMoE").ok_or("no such model")?;
//! let advice = advise(&trace, &Plan { system, model, resident: Budget::Experts(2), copies: None })?;
//! assert_eq!((advice.best().strategy, advice.sure), ("once", true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod say;

use cptr_hw_model::{Model, System};
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use rayon::prelude::*;
use serde::Serialize;

use crate::plan::Place;
use crate::plan::band::{self, Band};
use crate::replay::{self, Budget, LayerTally, Machine, StepTally, Tally, drive};
use crate::strategy::Strategy;
pub use say::sentences;

/// Strategies whose times are within this share of the fastest are taken to be equally fast: real machines differ more
/// from one run to the next.
pub const SAME: f64 = 0.02;
/// A loss of routing mass is advised only where it saves at least this share of the time.
pub const WORTH_A_LOSS: f64 = 0.1;
/// Parts of the time that is measured.
pub const PARTS: usize = 3;

/// What kind of answer a strategy is, the simplest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Experts stay that the beginning wanted most.
    Pin,
    /// The least recently used goes.
    Lru,
    /// A forecast says who goes.
    Forecast,
    /// Experts are fetched before they are wanted.
    FetchAhead,
    /// Cold experts run where they lie, at as many bits.
    NearData,
    /// Residents stand in for missing experts: the model changes, within a bound.
    Substitute,
}

impl Kind {
    /// In a word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Lru => "LRU",
            Self::Forecast => "forecast",
            Self::FetchAhead => "fetch ahead",
            Self::NearData => "near data",
            Self::Substitute => "substitute",
        }
    }
}

/// All that are tried, the simplest first.
pub const CANDIDATES: [(&str, Kind); 8] = [
    ("once", Kind::Pin),
    ("lru", Kind::Lru),
    ("tracked", Kind::Forecast),
    ("recall", Kind::Forecast),
    ("safe", Kind::Forecast),
    ("recall-fetch", Kind::FetchAhead),
    ("best-split", Kind::NearData),
    ("bounded:eps=0.02+recall", Kind::Substitute),
];

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The machine.
    pub system: &'a System,
    /// Sizes of the model.
    pub model: &'a Model,
    /// Fast memory for experts.
    pub resident: Budget,
    /// The least and the greatest share of the link that copies reach, where that was measured.
    pub copies: Option<[f64; 2]>,
}

/// What a strategy does on the recording.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Candidate {
    /// The strategy.
    pub strategy: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Mean microseconds of a token.
    pub token_us: f64,
    /// The same of each part.
    pub parts_us: [f64; PARTS],
    /// Tokens per second, and the band that holds them ([`band`]).
    pub tokens_per_s: f64,
    /// See [`Self::tokens_per_s`].
    pub low_tokens_per_s: f64,
    /// See [`Self::tokens_per_s`].
    pub high_tokens_per_s: f64,
    /// Choices that were waited for.
    pub stall_rate: f64,
    /// Experts that were copied, per choice.
    pub load_rate: f64,
    /// Share of the routing mass that is given up.
    pub mass_loss: f64,
}

/// The advice.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Advice {
    /// All that could be tried, the simplest first.
    pub candidates: Vec<Candidate>,
    /// Index of what is advised.
    pub advised: usize,
    /// Index of the fastest that loses nothing.
    pub fastest: usize,
    /// Whether each part by itself gives the same kind of advice.
    pub sure: bool,
    /// Index of a strategy that gives up routing mass and saves [`WORTH_A_LOSS`] or more.
    pub with_loss: Option<usize>,
    /// Strategies that the recording or the machine does not allow, with the reason.
    pub skipped: Vec<String>,
}

impl Advice {
    /// What is advised.
    #[must_use]
    pub fn best(&self) -> &Candidate {
        &self.candidates[self.advised]
    }
}

/// Tries all on a recording.
///
/// # Errors
/// A recording that is too short, memory that does not fit it.
pub fn advise(trace: &Trace, plan: &Plan<'_>) -> Result<Advice> {
    const LEAST: usize = 16;
    if trace.shape.tokens < LEAST {
        return Err(Error::new(format!("expected {LEAST} tokens at least, found {}", trace.shape.tokens)));
    }
    let replayed = replay::Plan {
        prefill: trace.shape.tokens / 4,
        machine: Some(Machine::new(plan.system, Some(plan.model))),
        ..replay::Plan::new(plan.resident)
    };
    let progress = Progress::new(CANDIDATES.len() as u64, "trying");
    let one = |&(name, kind): &(&'static str, Kind)| {
        let tally = Strategy::parse(name).and_then(|strategy| drive(trace, &replayed, &strategy, &mut []));
        progress.advance(1);
        tally.and_then(|tally| Candidate::new(name, kind, &tally, trace, plan)).map_err(|error| error.to_string())
    };
    let tried: Vec<std::result::Result<Candidate, String>> = CANDIDATES.par_iter().map(one).collect();
    let mut skipped = Vec::new();
    let candidates = tried.into_iter().filter_map(|one| one.map_err(|reason| skipped.push(reason)).ok()).collect();
    decide(candidates, skipped)
}

impl Candidate {
    fn new(strategy: &'static str, kind: Kind, tally: &Tally, trace: &Trace, plan: &Plan<'_>) -> Result<Self> {
        let steps = &tally.steps;
        let mean = |steps: &[StepTally]| {
            steps.iter().map(|step| step.time_ps as f64).sum::<f64>() / steps.len().max(1) as f64 / 1e6
        };
        let part = |part: usize| mean(&steps[part * steps.len() / PARTS..(part + 1) * steps.len() / PARTS]);
        let sum = |of: &dyn Fn(&LayerTally) -> f64| tally.layers.iter().map(of).sum::<f64>();
        let choices = sum(&|layer| layer.choices as f64).max(1.0);
        let load_rate = sum(&|layer| layer.loads() as f64) / choices;
        let placed = match kind {
            Kind::NearData => (Place::NearData, sum(&|layer| layer.misses as f64) / choices),
            _ => (Place::Copied, load_rate),
        };
        let band = band(strategy, placed, trace, plan)?;
        let tokens_per_s = 1e6 / mean(steps);
        Ok(Self {
            strategy,
            kind,
            token_us: mean(steps),
            parts_us: std::array::from_fn(part),
            tokens_per_s,
            low_tokens_per_s: tokens_per_s * band.low,
            high_tokens_per_s: tokens_per_s * band.high,
            stall_rate: sum(&|layer| layer.stalls as f64) / choices,
            load_rate,
            mass_loss: sum(&|layer| layer.mass_lost) / sum(&|layer| layer.tokens as f64).max(1.0),
        })
    }
}

/// How far the rate of a strategy may be off that was counted token by token: the band that `cptr plan` gives a mean
/// token of the same machine with as many experts elsewhere ([`band::counted`]).
fn band(strategy: &'static str, (place, miss_rate): (Place, f64), trace: &Trace, plan: &Plan<'_>) -> Result<Band> {
    band::counted(&band::Counted {
        system: plan.system,
        model: plan.model,
        shape: trace.shape,
        resident: plan.resident,
        place,
        miss_rate,
        // The middle of the three quarters that are timed.
        context: trace.shape.tokens as u64 * 5 / 8,
        sequences: 1,
        strategy: Some(strategy),
        copies: plan.copies,
    })
}

/// The advice from what was measured.
fn decide(candidates: Vec<Candidate>, skipped: Vec<String>) -> Result<Advice> {
    let lossless = |one: &&(usize, &Candidate)| one.1.kind != Kind::Substitute;
    let all: Vec<(usize, &Candidate)> = candidates.iter().enumerate().collect();
    let of = |time: &dyn Fn(&Candidate) -> f64| {
        let fastest = all.iter().filter(lossless).min_by(|a, b| time(a.1).total_cmp(&time(b.1)))?;
        let simplest = all.iter().filter(lossless).find(|one| time(one.1) <= time(fastest.1) * (1.0 + SAME))?;
        Some((fastest.0, simplest.0))
    };
    let (fastest, advised) = of(&|one| one.token_us).ok_or_else(|| {
        Error::new(format!("nothing can be tried: {}", skipped.first().map_or("no strategies", String::as_str)))
    })?;
    let same = |part: usize| of(&|one| one.parts_us[part]).is_some_and(|(_, of)| all[of].1.kind == all[advised].1.kind);
    let sure = (0..PARTS).all(same);
    let with_loss = all.iter().find(|one| {
        one.1.kind == Kind::Substitute && one.1.token_us <= candidates[fastest].token_us * (1.0 - WORTH_A_LOSS)
    });
    let with_loss = with_loss.map(|one| one.0);
    Ok(Advice { advised, fastest, sure, with_loss, skipped, candidates })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(kind: Kind, parts_us: [f64; PARTS]) -> Candidate {
        let token_us = parts_us.iter().sum::<f64>() / PARTS as f64;
        Candidate {
            strategy: kind.name(),
            kind,
            token_us,
            parts_us,
            tokens_per_s: 1e6 / token_us,
            low_tokens_per_s: 0.0,
            high_tokens_per_s: 0.0,
            stall_rate: 0.1,
            load_rate: 0.1,
            mass_loss: 0.0,
        }
    }

    #[test]
    fn the_simplest_of_the_equally_fast_is_advised() {
        let found = |candidates: Vec<Candidate>| decide(candidates, Vec::new()).unwrap();
        let close = found(vec![
            candidate(Kind::Pin, [130.0; 3]),
            candidate(Kind::Lru, [101.5; 3]),
            candidate(Kind::Forecast, [100.0; 3]),
            candidate(Kind::Substitute, [95.0; 3]),
        ]);
        assert_eq!((close.best().kind, close.fastest, close.sure, close.with_loss), (Kind::Lru, 2, true, None));
        let apart = found(vec![
            candidate(Kind::Lru, [120.0, 100.0, 120.0]),
            candidate(Kind::Forecast, [100.0, 110.0, 100.0]),
            candidate(Kind::Substitute, [80.0; 3]),
        ]);
        // LRU would be the advice in the second part.
        assert_eq!((apart.best().kind, apart.sure, apart.with_loss), (Kind::Forecast, false, Some(2)));
        assert!(decide(Vec::new(), vec!["all: too large".into()]).unwrap_err().to_string().contains("too large"));
    }

    #[test]
    fn a_short_recording_is_refused() {
        let trace = Trace::of_ids(cptr_trace::Shape { tokens: 8, layers: 1, experts: 4, k: 1 }, vec![0; 8]);
        let (system, model) = (System::find("offload").unwrap(), Model::find("OLMoE").unwrap());
        let error = advise(&trace, &Plan { system, model, resident: Budget::Experts(2), copies: None }).unwrap_err();
        assert!(error.to_string().contains("expected 16 tokens at least, found 8"));
    }
}
