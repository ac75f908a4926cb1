//! What each part of a strategy is worth: alone, added to the baseline, and last, added to all the others.
//!
//! The baseline is the router's choice, the least recently used expert goes, nothing is fetched, all on the GPU at full
//! precision. Parts that help each other are worth more last than alone, parts that do the same work less; what a part
//! is worth lies between the two, and neither is to be had from the strategy as a whole.
//!
//! Parts have mechanisms inside: parameters that name a neutral value
//! ([`Parameter::neutral`](crate::strategy::Parameter::neutral)). One is worth *last* what the strategy loses without
//! it, and *alone* what it adds to its bare part, all mechanisms of which are switched off, on the baseline.
//!
//! ```
//! use cptr_sim::ablation;
//! use cptr_sim::replay::{Budget, Plan};
//! use cptr_sim::strategy::Strategy;
//! use cptr_trace::{Shape, Trace};
//!
//! // Three experts in turn, and room for two of them.
//! let ids = (0..300).map(|token| token % 3).collect();
//! let trace = Trace::of_ids(Shape { tokens: 300, layers: 1, experts: 4, k: 1 }, ids);
//! let plan = Plan { strategies: Strategy::parse_list("belady")?, ..Plan::new(Budget::Experts(2)) };
//! let found = ablation::run(&trace, &plan)?;
//! let whole = found.rows.last().and_then(|row| row.last.clone()).ok_or("no row")?;
//! assert!(whole.stall_rate < -0.49 && found.rows[0].part == "belady");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use serde::Serialize;

use crate::replay::{self, Outcome, Plan, Row as Run};
use crate::strategy::{AXES, Strategy};
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};

/// What one part changes, with and without it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Worth {
    /// With it.
    pub with: String,
    /// Without it.
    pub without: String,
    /// Stalls per choice with it less those without it.
    pub stall_rate: f64,
    /// Loads per choice, likewise.
    pub load_rate: f64,
    /// Share of the wanted routing mass given up, likewise.
    pub mass_loss: f64,
    /// Share of the routing mass that ran at full precision, likewise.
    pub full_precision: f64,
    /// Time of a token with it over that without it, less 1; `None` where there are no times.
    pub token_time: Option<f64>,
}

/// One part or mechanism of a strategy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The strategy that is taken apart.
    pub strategy: String,
    /// Axis of the part; `all`: all parts together.
    pub axis: &'static str,
    /// The part, or the mechanism as `kind:parameter=value`.
    pub part: String,
    /// What takes its place.
    pub instead: String,
    /// Alone; `None` where that cannot run.
    pub alone: Option<Worth>,
    /// Last; `None` where the strategy cannot run without it.
    pub last: Option<Worth>,
    /// Why one of them cannot run.
    pub reason: Option<String>,
}

/// Parts of strategies, and the runs that say what they are worth.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Ablation {
    /// Part by part, each strategy's mechanisms behind their part, all together at the end.
    pub rows: Vec<Row>,
    /// The baseline, and every strategy that something was compared with, each once.
    pub outcome: Outcome,
}

/// A row before anything has run: pairs of strategies with and without it.
struct Question {
    axis: &'static str,
    part: String,
    instead: String,
    alone: [Strategy; 2],
    last: [Strategy; 2],
}

/// What there is to ask of a strategy; nothing of the baseline.
fn questions(whole: &Strategy) -> Vec<Question> {
    let baseline = Strategy::baseline();
    let mut questions = Vec::new();
    for (axis, name) in AXES.into_iter().enumerate() {
        let (part, usual) = (whole.texts()[axis].clone(), baseline.texts()[axis].clone());
        if part == usual {
            continue;
        }
        let alone = baseline.with_part(axis, whole);
        let last = [whole.clone(), whole.with_part(axis, &baseline)];
        questions.push(Question { axis: name, part, instead: usual, alone: [alone.clone(), baseline.clone()], last });
        let values = whole.values(axis);
        let kind = whole.texts()[axis].split(':').next().unwrap_or_default().to_owned();
        for mechanism in values.mechanisms() {
            let off = values.without(|parameter| parameter.name == mechanism.name);
            let only = values.without(|parameter| parameter.name != mechanism.name);
            let bare = values.without(|_| true);
            questions.push(Question {
                axis: name,
                part: format!("{kind}:{}", values.pair(mechanism)),
                instead: off.pair(mechanism),
                alone: [alone.with_values(axis, only), alone.with_values(axis, bare)],
                last: [whole.clone(), whole.with_values(axis, off)],
            });
        }
    }
    if !questions.is_empty() {
        let all = [whole.clone(), baseline.clone()];
        let (part, instead) = (whole.to_string(), baseline.to_string());
        questions.push(Question { axis: "all", part, instead, alone: all.clone(), last: all });
    }
    questions
}

/// Takes every strategy of a plan apart and runs all that has to be compared, each strategy once, side by side.
///
/// # Errors
/// What [`replay::run`] refuses; a strategy that cannot run, or that is the baseline.
pub fn run(trace: &Trace, plan: &Plan<'_>) -> Result<Ablation> {
    let baseline = Strategy::baseline();
    let asked: Vec<Vec<Question>> = plan.strategies.iter().map(questions).collect();
    if let Some((strategy, _)) = plan.strategies.iter().zip(&asked).find(|(_, questions)| questions.is_empty()) {
        let usual = baseline.texts().join("+");
        return Err(Error::new(format!("expected a strategy that differs from {usual} in a part, found {strategy}")));
    }
    let mut strategies = vec![baseline];
    let needed = asked.iter().flatten().flat_map(|question| question.alone.iter().chain(&question.last));
    for strategy in plan.strategies.iter().chain(needed) {
        if !strategies.iter().any(|other| other.is(strategy)) {
            strategies.push(strategy.clone());
        }
    }
    let outcome = replay::run(trace, &Plan { strategies: strategies.clone(), ..plan.clone() })?;
    // What ran in the place of a strategy that means the same.
    let run = |strategy: &Strategy| -> std::result::Result<&Run, String> {
        let name = strategies.iter().find(|other| other.is(strategy)).unwrap_or(strategy).to_string();
        let skipped = || outcome.skipped.iter().find(|skipped| skipped.strategy == name);
        let reason = || skipped().map_or_else(String::new, |skipped| format!("{name}: {}", skipped.reason));
        outcome.rows.iter().find(|row| row.strategy == name).ok_or_else(reason)
    };
    let worth = |[with, without]: &[Strategy; 2]| Ok(Worth::new(run(with)?, run(without)?));
    let mut rows = Vec::new();
    for (strategy, questions) in plan.strategies.iter().zip(&asked) {
        run(strategy).map_err(Error::new)?;
        for Question { axis, part, instead, alone, last } in questions {
            let (alone, last): (std::result::Result<_, String>, std::result::Result<_, String>) =
                (worth(alone), worth(last));
            rows.push(Row {
                strategy: strategy.to_string(),
                axis,
                part: part.clone(),
                instead: instead.clone(),
                reason: alone.as_ref().err().or(last.as_ref().err()).cloned(),
                alone: alone.ok(),
                last: last.ok(),
            });
        }
    }
    Ok(Ablation { rows, outcome })
}

impl Worth {
    fn new(with: &Run, without: &Run) -> Self {
        Self {
            with: with.strategy.clone(),
            without: without.strategy.clone(),
            stall_rate: with.stall_rate - without.stall_rate,
            load_rate: with.load_rate - without.load_rate,
            mass_loss: with.mass_loss - without.mass_loss,
            full_precision: with.full_precision - without.full_precision,
            token_time: with.token_time_us.zip(without.token_time_us).map(|(with, without)| with / without - 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Budget;
    use cptr_trace::Shape;

    fn names(text: &str) -> Vec<[String; 6]> {
        let whole = Strategy::parse(text).unwrap();
        let row = |question: &Question| {
            let [alone, bare] = question.alone.each_ref().map(ToString::to_string);
            let [_, without] = question.last.each_ref().map(ToString::to_string);
            [question.axis.into(), question.part.clone(), question.instead.clone(), alone, bare, without]
        };
        questions(&whole).iter().map(row).collect()
    }

    /// Parts in order, mechanisms behind their part, pairs as they should be.
    #[test]
    fn questions_by_hand() {
        let expected = [
            ["select", "bounded", "raw", "bounded+lru", "raw", "tracked"],
            ["select", "bounded:keep=1", "keep=0", "bounded+lru", "bounded:keep=0+lru", "bounded:keep=0"],
            ["residency", "tracked", "lru", "tracked", "raw", "bounded+lru"],
            ["residency", "tracked:fast=0.125", "fast=0", "tracked:reopened=0", "tracked:fast=0:reopened=0", ""],
            ["residency", "tracked:reopened=0.05", "reopened=0", "tracked:fast=0", "tracked:fast=0:reopened=0", ""],
            ["all", "bounded", "raw", "bounded", "raw", "raw"],
        ];
        let found = names("bounded");
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            for (found, expected) in found.iter().zip(expected).filter(|(_, expected)| !expected.is_empty()) {
                let same = |text: &str| Strategy::parse(text);
                let is = found == expected || same(found).is_ok_and(|a| same(expected).is_ok_and(|b| a.is(&b)));
                assert!(is, "{found} {expected}");
            }
        }
        assert!(names("lru").is_empty() && names("raw+full").is_empty());
        assert!(names("tracked:fast=0:reopened=0").len() == 2);
    }

    fn trace() -> Trace {
        // Two of sixteen experts, drawn by a fixed rule without much of an order.
        let ids = (0..400u32).flat_map(|t| [(t * t / 7 % 8) as u16, 8 + ((t * 5 + t * t / 11) % 8) as u16]).collect();
        Trace::of_ids(Shape { tokens: 400, layers: 1, experts: 16, k: 2 }, ids)
    }

    /// With one part alone and last are the same, and differences are those of the runs.
    #[test]
    fn one_part_is_worth_the_whole() {
        let plan =
            Plan { strategies: Strategy::parse_list("lfu,lru+transition").unwrap(), ..Plan::new(Budget::Experts(4)) };
        let found = run(&trace(), &plan).unwrap();
        let runs: Vec<&str> = found.outcome.rows.iter().map(|row| row.strategy.as_str()).collect();
        assert_eq!(runs, ["raw", "lfu", "lru+transition", "transition:sure=0"]);
        let stalls = |at: usize| found.outcome.rows[at].stall_rate;
        let parts: Vec<&str> = found.rows.iter().map(|row| row.part.as_str()).collect();
        assert_eq!(parts, ["lfu", "lfu", "transition", "transition:sure=0.3", "lru+transition"]);
        for (row, change) in found.rows.iter().zip([1, 1, 2, 3, 2].map(|at| stalls(at) - stalls(0))) {
            let change = if row.part == "transition:sure=0.3" { stalls(2) - stalls(3) } else { change };
            assert_eq!(row.alone.as_ref().unwrap().stall_rate, change, "{}", row.part);
            assert_eq!(row.alone, row.last);
            assert_eq!(row.last.as_ref().unwrap().token_time, None);
        }
    }

    /// What needs another part has a reason in place of figures; what cannot run at all is an error.
    #[test]
    fn couplings_are_said() {
        let of = |text: &str| {
            let strategies = Strategy::parse_list(text).unwrap();
            run(&trace(), &Plan { strategies, ..Plan::new(Budget::Experts(4)) })
        };
        // All sixteen fit in the place of four at 4 bits of 16, and only at those.
        let rows = of("all-4bit").unwrap().rows;
        assert_eq!((rows[0].part.as_str(), &rows[0].alone), ("all", &None));
        let reason = rows[0].reason.as_deref().unwrap();
        assert_eq!(reason, "all: residency all needs memory for 16 experts a layer, and there is memory for 4");
        let had: Vec<_> = rows.iter().map(|row| (row.alone.is_some(), row.last.is_some())).collect();
        assert_eq!(had, [(false, true), (true, false), (true, false), (true, true)], "{rows:#?}");
        assert!(of("migrate").unwrap_err().to_string().contains("migrate needs a machine"));
        assert!(of("raw+lru").unwrap_err().to_string().contains("found raw+lru"));
    }
}
