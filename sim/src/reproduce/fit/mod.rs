//! What a paper does not say, found from every figure that it publishes.
//!
//! A [`Paper`] is a file: what it gives, what it leaves open, its figures with their errors. [`fit`] finds the values
//! of what is open that agree best with all figures together ([`solve`] says how), their intervals, which of them
//! cannot be told apart, and what the fit to all other figures says of each.
//!
//! ```no_run
//! use cptr_sim::reproduce::fit::{Paper, fit};
//!
//! let paper = Paper::find("ctx-aware").ok_or("no such paper")?;
//! let fitted = fit(&paper)?;
//! for parameter in &fitted.parameters {
//!     println!("{}: {} ({})", parameter.name, parameter.best, parameter.verdict.as_str());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod demand;
mod paper;
mod rows;
pub mod solve;
mod theory;

use cptr_trace::error::Result;
use rayon::prelude::*;

pub use paper::{Decoded, Figure, Hypothesis, Meaning, Named, Paper, Parameter, Quantity};
pub use rows::{
    FigureRow, Fitted, HypothesisRow, Known, LayerRow, ParameterRow, Setting, Trade, ValueRow, Verdict, short,
};
use solve::{Fit, Interval, Point, Target, WITHIN, Which};
use theory::Modelled;

/// Standard deviations that a figure may be off and be in: 95 %.
pub const IN: f64 = 1.96;
/// Of the width of what a figure can be at all; one whose prediction without it is wider is not identifiable.
const WHOLE: f64 = 0.9;

/// Fits a paper.
///
/// # Errors
/// Systems that do not run with the memory that they are given.
pub fn fit(paper: &Paper) -> Result<Fitted> {
    let theory = Modelled::new(paper)?;
    let targets = targets(paper, &theory)?;
    let fit = Fit::new(&theory, &theory.space, &targets);
    let (listed, ranged) = theory.shipped(paper)?;
    let shipped = Point { chi2: f64::NAN, listed, ranged };
    let told = Told { paper, theory: &theory, fit: &fit, targets: &targets, shipped };

    let parameters: Vec<ParameterRow> =
        (0..paper.parameters.len()).into_par_iter().map(|at| told.parameter(at)).collect();
    let used: Vec<usize> = (0..parameters.len()).filter(|&at| parameters[at].verdict != Known::NoInfluence).collect();
    let which: Vec<Which> = used.iter().map(|&at| theory.parameters[at].which).collect();
    let name = |which: Which| {
        let at = theory.parameters.iter().position(|placed| placed.which == which).unwrap_or_default();
        paper.parameters[at].name.clone()
    };
    let trades = fit.trades(&which).into_iter().map(|(a, b)| Trade { known: name(a), then: name(b) }).collect();
    let fitted = |single: bool| targets.iter().filter(|t| t.fitted && (t.low == t.high) == single).count();
    Ok(Fitted {
        figures: told.figures()?,
        trades,
        values: (0..paper.parameters.len()).flat_map(|at| told.values(at)).collect(),
        hypotheses: paper.hypotheses.iter().map(|hypothesis| told.hypothesis(hypothesis)).collect(),
        layers: (0..targets.len()).filter_map(|at| told.layer(at)).collect(),
        chi2: fit.best().chi2,
        fitted_values: fitted(true),
        fitted_ranges: fitted(false),
        used_parameters: used.len(),
        degrees_of_freedom: fitted(true) as i64 - used.len() as i64,
        parameters,
    })
}

fn targets(paper: &Paper, theory: &Modelled) -> Result<Vec<Target>> {
    let target = |&at: &usize| {
        let figure = &paper.figures[at];
        let (low, high) = figure.published()?;
        Ok(Target { low, high, error: figure.error.unwrap_or(1.0), fitted: figure.repeats.is_none() })
    };
    theory.expressed.iter().map(target).collect()
}

/// A fit in words.
struct Told<'a> {
    paper: &'a Paper,
    theory: &'a Modelled,
    fit: &'a Fit<'a, Modelled>,
    targets: &'a [Target],
    shipped: Point,
}

impl Told<'_> {
    /// The value of a parameter at a point.
    fn value(&self, at: usize, point: &Point) -> Setting {
        let placed = &self.theory.parameters[at];
        match placed.which {
            Which::Listed(place) => Setting::of(&placed.values[point.listed[place]]),
            Which::Ranged(place) => Setting::Number(point.ranged[place]),
        }
    }

    fn parameter(&self, at: usize) -> ParameterRow {
        let (parameter, placed) = (&self.paper.parameters[at], &self.theory.parameters[at]);
        let interval = self.fit.interval(placed.which);
        let (interval, range, mut verdict) = match (&interval, placed.which) {
            (Interval::Ranged(low, high), Which::Ranged(place)) => {
                let (from, to) = self.theory.space.ranged[place];
                let near = |a: f64, b: f64| (a - b).abs() <= 1e-3 * (to - from);
                let open = [near(*low, from), near(*high, to)].into_iter().filter(|&open| open).count();
                let verdict = [Known::Identified, Known::Partly, Known::WholeRange][open];
                ([*low, *high].map(Setting::Number).to_vec(), [from, to].map(Setting::Number).to_vec(), verdict)
            }
            (Interval::Listed(points), Which::Listed(place)) => {
                let limit = self.fit.best().chi2 + WITHIN;
                let possible = points.iter().filter(|point| point.chi2 <= limit);
                let possible: Vec<Setting> =
                    possible.map(|point| Setting::of(&placed.values[point.listed[place]])).collect();
                let verdict = match possible.len() {
                    1 => Known::Identified,
                    all if all == placed.values.len() => Known::WholeRange,
                    _ => Known::Partly,
                };
                (possible, placed.values.iter().map(Setting::of).collect(), verdict)
            }
            _ => unreachable!("an interval is of the kind of its parameter"),
        };
        if !self.fit.matters(placed.which) {
            verdict = Known::NoInfluence;
        }
        ParameterRow {
            name: parameter.name.clone(),
            unit: parameter.unit.clone(),
            best: self.value(at, self.fit.best()),
            interval,
            range,
            listed: matches!(placed.which, Which::Listed(_)),
            verdict,
            why: parameter.why.clone(),
        }
    }

    fn values(&self, at: usize) -> Vec<ValueRow> {
        let Interval::Listed(points) = self.fit.interval(self.theory.parameters[at].which) else { return Vec::new() };
        let others = |point: &Point| {
            let others = (0..self.paper.parameters.len()).filter(|&other| other != at);
            others.map(|other| (self.paper.parameters[other].name.clone(), self.value(other, point))).collect()
        };
        let row = |point: &Point| ValueRow {
            name: self.paper.parameters[at].name.clone(),
            value: self.value(at, point),
            chi2: point.chi2,
            possible: point.chi2 <= self.fit.best().chi2 + WITHIN,
            others: others(point),
        };
        points.iter().map(row).collect()
    }

    fn hypothesis(&self, hypothesis: &Hypothesis) -> HypothesisRow {
        let at = self.paper.parameters.iter().position(|parameter| parameter.name == hypothesis.parameter);
        let values = at.map_or(Vec::new(), |at| self.values(at));
        let least = |with: bool| {
            let of =
                values.iter().filter(|row| (row.value.to_string() == hypothesis.value) == with).map(|row| row.chi2);
            of.fold(f64::INFINITY, f64::min)
        };
        let (chi2, chi2_without) = (least(true), least(false));
        let limit = self.fit.best().chi2 + WITHIN;
        HypothesisRow {
            hypothesis: hypothesis.clone(),
            chi2,
            chi2_without,
            possible: chi2 <= limit,
            only: chi2 <= limit && chi2_without > limit,
        }
    }

    fn layer(&self, at: usize) -> Option<LayerRow> {
        let figure = &self.paper.figures[self.theory.expressed[at]];
        let best = self.fit.best();
        let [machine_us, dispatch_us, copies_us, constant_us] = self.theory.layer(at, &best.listed, &best.ranged)?;
        let target = self.targets[at];
        let published_us = self.theory.layer_of_rate(at, &best.listed, f64::midpoint(target.low, target.high))?;
        let shipped = self.theory.layer(at, &self.shipped.listed, &self.shipped.ranged)?;
        Some(LayerRow {
            figure: figure.name.clone(),
            bits: figure.bits,
            published_us,
            unfitted_us: shipped.iter().sum(),
            fitted_us: machine_us + dispatch_us + copies_us + constant_us,
            machine_us,
            dispatch_us,
            copies_us,
            constant_us,
        })
    }

    fn figures(&self) -> Result<Vec<FigureRow>> {
        let (best, shipped) = (self.fit.predict(self.fit.best()), self.fit.predict(&self.shipped));
        let one = |(index, figure): (usize, &Figure)| {
            let (low, high) = figure.published()?;
            let mut row = FigureRow {
                figure: figure.name.clone(),
                unit: figure.unit.clone(),
                published_low: low,
                published_high: high,
                error: figure.error,
                unfitted: None,
                fitted: None,
                off: None,
                off_sigma: None,
                left_out: None,
                left_out_low: None,
                left_out_high: None,
                reachable_low: None,
                reachable_high: None,
                verdict: Verdict::NotIdentifiable,
                counted: false,
                reason: figure.cannot.clone().unwrap_or_default(),
                source: figure.source.clone(),
            };
            if let Some(at) = self.theory.expressed.iter().position(|&expressed| expressed == index) {
                self.judge(at, &mut row, best[at], shipped[at]);
                if let Some(of) = &figure.repeats {
                    row.reason = format!("follows from \"{of}\"");
                }
            }
            Ok(row)
        };
        self.paper.figures.par_iter().enumerate().map(one).collect()
    }

    fn judge(&self, at: usize, row: &mut FigureRow, fitted: f64, shipped: f64) {
        let target = self.targets[at];
        let (low, high) = self.fit.reachable(at);
        let left_out = self.fit.left_out(at);
        let off_sigma = target.off(fitted);
        row.counted = target.fitted;
        row.unfitted = Some(shipped);
        row.fitted = Some(fitted);
        row.off = Some((off_sigma * target.error).exp_m1());
        row.off_sigma = Some(off_sigma);
        row.left_out = Some(left_out.predicted);
        (row.left_out_low, row.left_out_high) = (Some(left_out.low), Some(left_out.high));
        (row.reachable_low, row.reachable_high) = (Some(low), Some(high));
        let inside = off_sigma.abs() <= IN;
        row.verdict = if inside { Verdict::In } else { Verdict::Out };
        let width = |low: f64, high: f64| (high / low).ln();
        // What has one value whatever the parameters is predicted, not fitted.
        let alone = width(low, high) > 1e-6 && width(left_out.low, left_out.high) > WHOLE * width(low, high);
        if inside && alone {
            row.verdict = Verdict::NotIdentifiable;
            row.reason = "no other figure says what the model should have for it".into();
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
