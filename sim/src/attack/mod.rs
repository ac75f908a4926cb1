//! The worst routing for a strategy: a search for the trace on which it does worst beside others that it should not be
//! worse than.
//!
//! Routing is a short [`Program`], so that what is found can be read, made smaller and kept. The search is an
//! evolution: of a small population one program is changed, and the worst is replaced by what hurts more. It depends on
//! its seed alone, not on how many cores there are.
//!
//! ```
//! use cptr_sim::attack::{Hurt, Limits, Plan, attack};
//! use cptr_sim::strategy::Strategy;
//! use cptr_trace::Shape;
//!
//! // A loop over nine experts with room for eight: what is used next is always what LRU has just thrown out.
//! let plan = Plan {
//!     strategy: Strategy::parse("lru")?,
//!     shadows: Strategy::parse_list("once,tracked")?,
//!     limits: Limits { shape: Shape { tokens: 128, layers: 1, experts: 16, k: 1 }, turnover: 1.0 },
//!     resident: 8,
//!     hurt: Hurt::Stalls,
//!     machine: None,
//!     tries: 200,
//!     seed: 1,
//! };
//! let found = attack(&plan)?;
//! assert!(found.own > 1.5 * found.best, "{found:?}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod program;

use std::fmt;
use std::str::FromStr;

use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use rayon::prelude::*;
use serde::Serialize;

use crate::replay::{self, Budget, LayerTally, Machine, OFTEN, Tally, drive};
use crate::strategy::Strategy;
pub use program::{Limits, NEAREST, Part, Program};

/// Programs that are kept.
const POPULATION: usize = 12;
/// Programs that are tried at a time: fixed, so that the result does not depend on the number of cores.
const CHILDREN: usize = 8;
/// Share of what was found that a smaller program must still reach.
const KEPT: f64 = 0.97;
/// What is added to both sides of a ratio, a token: nothing against next to nothing is no attack.
const ALLOWANCE: f64 = 0.25;
/// Tokens below which a trace is not made shorter.
const SHORTEST: usize = 32;

/// What the strategy is to have much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hurt {
    /// Experts that are copied.
    Loads,
    /// Choices that are waited for.
    Stalls,
    /// Time, on a machine.
    Time,
    /// Routing mass given up.
    Mass,
    /// Experts that the token before did not run.
    Switches,
    /// Experts that a placement copies behind decoding.
    Migrations,
    /// Of the expert that is silenced most: the share of the tokens that want it which do not run it.
    Silence,
}

impl Hurt {
    /// All, by name.
    pub const ALL: [Self; 7] =
        [Self::Loads, Self::Stalls, Self::Time, Self::Mass, Self::Switches, Self::Migrations, Self::Silence];

    /// Name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loads => "loads",
            Self::Stalls => "stalls",
            Self::Time => "time",
            Self::Mass => "mass",
            Self::Switches => "switches",
            Self::Migrations => "migrations",
            Self::Silence => "silence",
        }
    }

    /// How much of it, a token: loads, stalls, switches, migrations of all layers, microseconds, mass; of silence as it
    /// is.
    fn of(self, tally: &Tally) -> f64 {
        let sum = |of: &dyn Fn(&LayerTally) -> f64| tally.layers.iter().map(of).sum::<f64>();
        let all = match self {
            Self::Loads => sum(&|layer| layer.loads() as f64),
            Self::Stalls => sum(&|layer| layer.stalls as f64),
            Self::Switches => sum(&|layer| layer.switches as f64),
            Self::Mass => sum(&|layer| layer.mass_lost),
            Self::Migrations => sum(&|layer| layer.migrated as f64),
            Self::Silence => {
                let often = tally.layers.iter().flat_map(|layer| &layer.experts).filter(|sums| sums.wanted >= OFTEN);
                return 1.0 - often.map(|sums| sums.share()).fold(1.0, f64::min);
            }
            Self::Time => tally.steps.iter().map(|step| step.time_ps as f64).sum::<f64>() / 1e6,
        };
        all / tally.steps.len().max(1) as f64
    }
}

impl fmt::Display for Hurt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Hurt {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|hurt| hurt.name() == text);
        found.ok_or_else(|| Error::new(format!("expected one of {}, found \"{text}\"", names())))
    }
}

/// What is searched for.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// The strategy that is to do badly.
    pub strategy: Strategy,
    /// Those beside which; the best of them counts. None: it does badly by itself.
    pub shadows: Vec<Strategy>,
    /// How the router may behave.
    pub limits: Limits,
    /// Experts of each layer that fast memory holds.
    pub resident: usize,
    /// What it is to have much of.
    pub hurt: Hurt,
    /// The machine that times are of.
    pub machine: Option<Machine<'a>>,
    /// Programs that are tried.
    pub tries: usize,
    /// Where the search begins.
    pub seed: u64,
}

/// The worst that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Found {
    /// The routing, made as small as it can be.
    pub program: Program,
    /// Tokens of it.
    pub tokens: usize,
    /// What the strategy has of what hurts, a token, in all layers.
    pub own: f64,
    /// What the best of the shadows has; 0 without any.
    pub best: f64,
    /// Which that is.
    pub best_strategy: Option<String>,
    /// Programs that were tried.
    pub tries: usize,
}

impl Found {
    /// What the best of the shadows has over what the strategy has: 1 is as good as the best, less is worse. Without
    /// shadows 0.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.own > 0.0 { self.best / self.own } else { 1.0 }
    }

    /// What is searched for: the ratio to the best, or the amount where there is nothing to compare with.
    fn score(&self) -> f64 {
        match &self.best_strategy {
            Some(_) => (self.own + ALLOWANCE) / (self.best + ALLOWANCE),
            None => self.own,
        }
    }
}

/// What a program does to a strategy.
///
/// # Errors
/// A program or a strategy that does not fit the limits.
pub fn judge(plan: &Plan<'_>, program: &Program, tokens: usize) -> Result<Found> {
    let mut limits = plan.limits;
    limits.shape.tokens = tokens;
    let trace = program.trace(&limits)?;
    let replayed = replay::Plan { machine: plan.machine, ..replay::Plan::new(Budget::Experts(plan.resident)) };
    let cost = |strategy: &Strategy| Ok(plan.hurt.of(&drive(&trace, &replayed, strategy, &mut [])?));
    let own = cost(&plan.strategy)?;
    let mut best: Option<(f64, String)> = None;
    for shadow in &plan.shadows {
        let found = cost(shadow)?;
        if best.as_ref().is_none_or(|(least, _)| found < *least) {
            best = Some((found, shadow.to_string()));
        }
    }
    let (least, name) = best.map_or((0.0, None), |(least, name)| (least, Some(name)));
    Ok(Found { program: program.clone(), tokens, own, best: least, best_strategy: name, tries: 1 })
}

/// Searches.
///
/// # Errors
/// A strategy that cannot run under the limits; times without a machine; no tries.
pub fn attack(plan: &Plan<'_>) -> Result<Found> {
    if plan.hurt == Hurt::Time && plan.machine.is_none() {
        return Err(Error::new("expected a machine for times, found none"));
    }
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let tokens = plan.limits.shape.tokens;
    let progress = Progress::new(plan.tries as u64, "attacking");
    let mut kept: Vec<Found> = Vec::new();
    let mut tries = 0;
    while tries < plan.tries {
        let next = |_| {
            // A new one now and then: the others grow alike.
            if kept.len() < POPULATION || random.usize(0..CHILDREN) == 0 {
                return Program::random(&plan.limits, &mut random);
            }
            // Better ones more often: the better of two.
            let parent = random.usize(0..kept.len()).min(random.usize(0..kept.len()));
            kept[parent].program.changed(&plan.limits, &mut random)
        };
        let children: Vec<Program> = (0..CHILDREN.min(plan.tries - tries)).map(next).collect();
        tries += children.len();
        let judged: Vec<Result<Found>> = children.par_iter().map(|program| judge(plan, program, tokens)).collect();
        for found in judged {
            let found = found?;
            progress.advance(1);
            if kept.iter().all(|other| other.program != found.program) {
                kept.push(found);
            }
        }
        kept.sort_by(|a, b| b.score().total_cmp(&a.score()));
        kept.truncate(POPULATION);
    }
    let worst = kept.into_iter().next().ok_or_else(|| Error::new("expected a try at least, found none"))?;
    let small = smallest(plan, worst)?;
    Ok(Found { tries, ..small })
}

/// The smallest program, and the fewest tokens, that still do nearly the same.
fn smallest(plan: &Plan<'_>, found: Found) -> Result<Found> {
    // Of a ratio 1 is nothing.
    let nothing = if found.best_strategy.is_some() { 1.0 } else { 0.0 };
    let least = nothing + (found.score() - nothing) * KEPT;
    let mut now = found;
    loop {
        let shorter = (now.tokens > SHORTEST).then(|| judge(plan, &now.program, now.tokens / 2)).transpose()?;
        let smaller = || now.program.smaller().into_iter().map(|program| judge(plan, &program, now.tokens));
        let mut tried = shorter.map(Ok).into_iter().chain(smaller());
        match tried.find_map(|other: Result<Found>| other.ok().filter(|other| other.score() >= least)) {
            Some(next) => now = next,
            None => return Ok(now),
        }
    }
}

#[cfg(test)]
mod tests;
