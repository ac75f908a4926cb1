//! The filter as it was first thought out, on the benchmark that it was thought out on: contexts that stand still for a
//! while, and noise ([`cptr_trace::generate::piecewise`]).
//!
//! The measures are its own: how often experts are switched, how often they are in fast memory, how soon a change of
//! context is seen. Beside them stands what it did not ask for: the routing mass that is given up.
//!
//! ```no_run
//! let found = cptr_sim::reproduce::filter::run()?;
//! assert!(found.choices.iter().any(|row| row.strategy == "rotate+lru"));
//! # Ok::<(), cptr_trace::Error>(())
//! ```

use rayon::prelude::*;
use serde::Serialize;

use crate::detect;
use crate::replay::{self, Budget, Plan};
use crate::strategy::Strategy;
use cptr_core::context::ChangeConfig;
use cptr_trace::error::{Error, Result};
use cptr_trace::generate::piecewise::{Piecewise, generate};

/// Signal-to-noise ratios in dB.
pub const RATIOS_DB: [f64; 5] = [-10.0, -5.0, 0.0, 5.0, 10.0];

/// The choices that are compared: the router's own, the filters of the scores, and a bound on what is lost.
const STRATEGIES: [&str; 8] = [
    "lru",
    "smoothing:alpha=0.3+lru",
    "hysteresis+lru",
    "rotate+lru",
    "bounded:eps=0.04+lru",
    "bounded:eps=0.04+tracked",
    "recall",
    "belady",
];

/// What one strategy did at one ratio.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Choice {
    /// Power of the context over that of the noise.
    pub snr_db: f64,
    /// The strategy.
    pub strategy: String,
    /// Choices that the token before did not run.
    pub switch_rate: f64,
    /// Choices that were in fast memory, which holds twice as many experts as a token wants.
    pub hit_rate: f64,
    /// Choices that the router made too.
    pub agreement: f64,
    /// Share of the router's own routing mass that is given up.
    pub mass_loss: f64,
}

/// What one detector did at one ratio.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Detection {
    /// Power of the context over that of the noise.
    pub snr_db: f64,
    /// What it did.
    #[serde(flatten)]
    pub row: detect::Row,
}

/// The whole benchmark.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Filter {
    /// Strategies, ratio by ratio.
    pub choices: Vec<Choice>,
    /// Detectors, ratio by ratio.
    pub detections: Vec<Detection>,
}

/// Runs it at every one of [`RATIOS_DB`].
///
/// # Errors
/// None with what comes with the program.
pub fn run() -> Result<Filter> {
    let parts: Vec<Filter> = RATIOS_DB
        .par_iter()
        .map(|&ratio| at(&Piecewise { snr_db: ratio, ..Piecewise::default() }))
        .collect::<Result<_>>()?;
    Ok(parts.into_iter().fold(Filter::default(), |mut all, part| {
        all.choices.extend(part.choices);
        all.detections.extend(part.detections);
        all
    }))
}

fn at(what: &Piecewise) -> Result<Filter> {
    let (trace, snr_db) = (generate(what)?, what.snr_db);
    let strategies = STRATEGIES.iter().map(|text| Strategy::parse(text)).collect::<Result<_>>()?;
    let outcome = replay::run(&trace, &Plan { strategies, ..Plan::new(Budget::Experts(2 * what.k)) })?;
    if let Some(skipped) = outcome.skipped.first() {
        return Err(Error::new(format!("{} was not run: {}", skipped.strategy, skipped.reason)));
    }
    let choice = |row: replay::Row| Choice {
        snr_db,
        switch_rate: row.switch_rate.unwrap_or_default(),
        hit_rate: 1.0 - row.miss_rate,
        agreement: row.agreement,
        mass_loss: row.mass_loss,
        strategy: row.strategy,
    };
    let detected = detect::run(&trace, &[ChangeConfig::default().threshold]);
    Ok(Filter {
        choices: outcome.rows.into_iter().map(choice).collect(),
        detections: detected.into_iter().map(|row| Detection { snr_db, row }).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the signal is strong, contexts are all there is: the filters lose little, changes are seen. In noise
    /// smoothing takes most of the switches away, and with them most of what the router asked for.
    #[test]
    fn filters_do_what_they_were_thought_out_for_where_contexts_stand_still() {
        let small = |snr_db| at(&Piecewise { tokens: 1536, layers: 4, snr_db, ..Piecewise::default() }).unwrap();
        let (loud, quiet) = (small(10.0), small(-5.0));
        let find = |from: &Filter, name: &str| {
            from.choices.iter().find(|row| row.strategy.starts_with(name)).cloned().unwrap()
        };
        assert_eq!(loud.choices.len(), STRATEGIES.len());
        let seen = &loud.detections[0].row;
        assert_eq!((seen.changes, seen.missed, seen.false_alarms_per_10k), (5, 0, 0.0), "{seen:?}");
        for noise in [&loud, &quiet] {
            let raw = find(noise, "lru");
            assert!(raw.mass_loss == 0.0 && raw.agreement == 1.0);
            for name in ["smoothing", "rotate"] {
                let filtered = find(noise, name);
                assert!(filtered.switch_rate < raw.switch_rate && filtered.hit_rate > raw.hit_rate, "{filtered:?}");
            }
            assert!(find(noise, "bounded").mass_loss <= 0.04);
            assert!(find(noise, "belady").hit_rate >= raw.hit_rate);
        }
        assert!(find(&quiet, "smoothing").mass_loss > 2.0 * find(&loud, "smoothing").mass_loss);
    }
}
