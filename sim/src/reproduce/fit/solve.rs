//! The fit itself: parameters to figures, by maximum likelihood with profiles. Knows nothing of machines.
//!
//! Errors are relative and independent: a figure p that is published as q with error s adds (ln(p/q)/s)^2 to chi
//! squared; one that is published as a range adds nothing inside it, and outside what its nearer end adds. Parameters
//! with a list of values are enumerated, each combination is a *cell*; in a cell those with a range are found by
//! Levenberg-Marquardt from three starts, held inside their ranges.
//!
//! An interval of 95 % is what a parameter can be while the others are fitted anew and chi squared stays within
//! [`WITHIN`] of its least value. What is predicted of a figure that is left out is found in the same way.

use rayon::prelude::*;

/// How far chi squared may be above its least value: 95 % of one parameter.
pub const WITHIN: f64 = 3.841;
/// A prediction is held to a value by an error of this size.
const STIFF: f64 = 1e-4;
/// Halvings of an interval's end: a ten-thousandth of the range.
const HALVINGS: usize = 14;
/// Steps of a descent, at most.
const STEPS: usize = 60;

/// What a figure is held against, both ends the same where one value is published.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Lower end, above 0.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Relative error, one standard deviation.
    pub error: f64,
    /// Whether it is fitted; else it is only compared.
    pub fitted: bool,
}

impl Target {
    /// How many standard deviations a prediction is off, with its sign.
    #[must_use]
    pub fn off(&self, predicted: f64) -> f64 {
        (predicted / predicted.clamp(self.low, self.high)).ln() / self.error
    }
}

/// What parameters can be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Space {
    /// Values of each parameter that has a list.
    pub listed: Vec<usize>,
    /// Ends of each parameter that has a range.
    pub ranged: Vec<(f64, f64)>,
}

impl Space {
    fn cells(&self) -> usize {
        self.listed.iter().product()
    }

    /// The values of a cell, the last parameter fastest.
    fn cell(&self, mut at: usize) -> Vec<usize> {
        let mut cell = vec![0; self.listed.len()];
        for (value, count) in cell.iter_mut().zip(&self.listed).rev() {
            (*value, at) = (at % count, at / count);
        }
        cell
    }
}

/// What predicts figures.
pub trait Theory: Sync {
    /// All figures, each above 0, at a value of each parameter. In each of the `ranged` a figure rises, falls or stays
    /// throughout.
    fn predict(&self, listed: &[usize], ranged: &[f64], figures: &mut [f64]);
}

/// A parameter by its place in the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// One with a list of values.
    Listed(usize),
    /// One with a range.
    Ranged(usize),
}

/// What is held while the rest is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Hold {
    Ranged(usize, f64),
    Figure(usize, f64),
}

/// A fit in one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Chi squared over what was fitted.
    pub chi2: f64,
    /// Value of each listed parameter, as an index.
    pub listed: Vec<usize>,
    /// Value of each ranged parameter.
    pub ranged: Vec<f64>,
}

/// What a parameter can be.
#[derive(Debug, Clone, PartialEq)]
pub enum Interval {
    /// For each value of the list the best fit with it; those within [`WITHIN`] of the best are possible.
    Listed(Vec<Point>),
    /// Ends.
    Ranged(f64, f64),
}

/// A figure that was left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeftOut {
    /// What the best fit to the others predicts.
    pub predicted: f64,
    /// What fits to the others predict, 95 %.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A fit that can be asked.
pub struct Fit<'a, T> {
    theory: &'a T,
    space: &'a Space,
    targets: &'a [Target],
    /// Best of each cell.
    cells: Vec<Point>,
    best: usize,
}

impl<'a, T: Theory> Fit<'a, T> {
    /// Fits every cell.
    ///
    /// # Panics
    /// If a parameter has no value.
    pub fn new(theory: &'a T, space: &'a Space, targets: &'a [Target]) -> Self {
        assert!(space.cells() > 0, "every parameter has a value");
        let mut fit = Self { theory, space, targets, cells: Vec::new(), best: 0 };
        fit.cells = fit.all();
        fit.best = least(&fit.cells);
        fit
    }

    /// The best fit.
    pub fn best(&self) -> &Point {
        &self.cells[self.best]
    }

    /// All figures at a point.
    pub fn predict(&self, point: &Point) -> Vec<f64> {
        let mut figures = vec![0.0; self.targets.len()];
        self.theory.predict(&point.listed, &point.ranged, &mut figures);
        figures
    }

    /// Best of each cell.
    fn all(&self) -> Vec<Point> {
        let one = |at: usize| {
            let listed = self.space.cell(at);
            let start = |share: f64| self.space.ranged.iter().map(move |(low, high)| low + share * (high - low));
            let shares: &[f64] = if self.space.ranged.is_empty() { &[0.5] } else { &[0.05, 0.4, 0.9] };
            let fits = shares.iter().map(|&share| self.descend(&listed, start(share).collect(), None, &[]));
            fits.min_by(|a, b| a.chi2.total_cmp(&b.chi2)).expect("there is a start")
        };
        (0..self.space.cells()).into_par_iter().map(one).collect()
    }

    /// Best of each cell without a figure, from the best with it.
    fn without(&self, figure: usize) -> Vec<Point> {
        let one = |cell: &Point| self.descend(&cell.listed, cell.ranged.clone(), Some(figure), &[]);
        self.cells.par_iter().map(one).collect()
    }

    /// What a parameter can be.
    pub fn interval(&self, which: Which) -> Interval {
        self.interval_of(which, &self.cells, &[])
    }

    fn interval_of(&self, which: Which, cells: &[Point], held: &[Hold]) -> Interval {
        match which {
            Which::Listed(parameter) => {
                let values = 0..self.space.listed[parameter];
                let with = |value| {
                    let of = cells.iter().filter(|cell| cell.listed[parameter] == value);
                    of.min_by(|a, b| a.chi2.total_cmp(&b.chi2)).cloned()
                };
                Interval::Listed(values.filter_map(with).collect())
            }
            Which::Ranged(parameter) => {
                let (low, high) = self.space.ranged[parameter];
                let hold = |value| Hold::Ranged(parameter, value);
                let at = |point: &Point| point.ranged[parameter];
                let end = |sign, bound| self.farthest(cells, sign, (None, held), hold, at, |_| bound);
                Interval::Ranged(end(-1.0, low), end(1.0, high))
            }
        }
    }

    /// Pairs of parameters that trade off: if the first were known, the interval of the second would be less than half
    /// as wide.
    pub fn trades(&self, all: &[Which]) -> Vec<(Which, Which)> {
        let widths: Vec<f64> = all.par_iter().map(|&which| self.width(&self.interval(which))).collect();
        let open: Vec<usize> = (0..all.len()).filter(|&at| widths[at] > 0.0).collect();
        let of = |&known: &usize| {
            let (cells, held) = self.knowing(all[known]);
            let others = open.iter().filter(|&&other| other != known);
            let halved =
                others.filter(|&&other| self.width(&self.interval_of(all[other], &cells, &held)) < widths[other] / 2.0);
            halved.map(|&other| (all[known], all[other])).collect::<Vec<_>>()
        };
        open.par_iter().map(of).collect::<Vec<_>>().concat()
    }

    /// The cells that are possible with a parameter at its best value, and what holds it there.
    fn knowing(&self, which: Which) -> (Vec<Point>, Vec<Hold>) {
        let (best, within) = (self.best(), self.compatible(&self.cells));
        match which {
            Which::Listed(parameter) => {
                let same = |cell: &&&Point| cell.listed[parameter] == best.listed[parameter];
                (within.iter().filter(same).map(|&cell| cell.clone()).collect(), Vec::new())
            }
            Which::Ranged(parameter) => {
                let held = vec![Hold::Ranged(parameter, best.ranged[parameter])];
                let anew = |cell: &&Point| self.descend(&cell.listed, cell.ranged.clone(), None, &held);
                (within.iter().map(anew).collect(), held)
            }
        }
    }

    /// Width of an interval: of a range as it is, of a list the possible values but one.
    fn width(&self, interval: &Interval) -> f64 {
        match interval {
            Interval::Ranged(low, high) => high - low,
            Interval::Listed(values) => {
                let possible = values.iter().filter(|point| point.chi2 <= self.best().chi2 + WITHIN).count();
                possible.saturating_sub(1) as f64
            }
        }
    }

    /// Whether any fitted figure depends on a parameter, at the best fit.
    pub fn matters(&self, which: Which) -> bool {
        let best = self.best();
        let at = |change: &dyn Fn(&mut Point)| {
            let mut point = best.clone();
            change(&mut point);
            self.predict(&point)
        };
        let others: Vec<Vec<f64>> = match which {
            Which::Listed(p) => (0..self.space.listed[p]).map(|v| at(&|point| point.listed[p] = v)).collect(),
            Which::Ranged(p) => {
                let (low, high) = self.space.ranged[p];
                [low, high].iter().map(|&v| at(&|point| point.ranged[p] = v)).collect()
            }
        };
        let first = self.predict(best);
        let differs = |other: &Vec<f64>| {
            let pairs = other.iter().zip(&first).zip(self.targets);
            pairs.filter(|(_, target)| target.fitted).any(|((a, b), _)| (a / b).ln().abs() > 1e-9)
        };
        others.iter().any(differs)
    }

    /// What the fit to all figures but one says of it.
    pub fn left_out(&self, figure: usize) -> LeftOut {
        let anew;
        let cells = if self.targets[figure].fitted {
            anew = self.without(figure);
            &anew
        } else {
            &self.cells
        };
        let of = |point: &Point| self.predict(point)[figure];
        let best = &cells[least(cells)];
        let hold = |value: f64| Hold::Figure(figure, value.exp());
        let at = |point: &Point| of(point).ln();
        let end = |sign: f64| {
            let bound = |cell: &Point| self.reach(cell, figure, sign > 0.0);
            self.farthest(cells, sign, (Some(figure), &[]), hold, at, bound).exp()
        };
        LeftOut { predicted: of(best), low: end(-1.0), high: end(1.0) }
    }

    /// Least and greatest of what a figure can be, whatever the parameters.
    pub fn reachable(&self, figure: usize) -> (f64, f64) {
        let ends = |upper| self.cells.par_iter().map(move |cell| self.reach(cell, figure, upper));
        let low = ends(false).reduce(|| f64::INFINITY, f64::min);
        (low.exp(), ends(true).reduce(|| f64::NEG_INFINITY, f64::max).exp())
    }

    /// Logarithm of the least or greatest value of a figure in a cell: at a corner, as it rises or falls throughout.
    fn reach(&self, cell: &Point, figure: usize, upper: bool) -> f64 {
        let mut point = cell.clone();
        let corners = 0..1_usize << self.space.ranged.len();
        let at = |corner: usize| {
            for (i, (value, (low, high))) in point.ranged.iter_mut().zip(&self.space.ranged).enumerate() {
                *value = if corner >> i & 1 == 1 { *high } else { *low };
            }
            self.predict(&point)[figure].ln()
        };
        let values = corners.map(at);
        if upper { values.fold(f64::NEG_INFINITY, f64::max) } else { values.fold(f64::INFINITY, f64::min) }
    }

    fn compatible<'c>(&self, cells: &'c [Point]) -> Vec<&'c Point> {
        let limit = cells[least(cells)].chi2 + WITHIN;
        cells.iter().filter(|cell| cell.chi2 <= limit).collect()
    }

    /// The greatest of what `at` can be, or the least with `sign` -1, up to the bound of each cell.
    fn farthest(
        &self,
        cells: &[Point],
        sign: f64,
        held: (Option<usize>, &[Hold]),
        hold: impl Fn(f64) -> Hold,
        at: impl Fn(&Point) -> f64,
        bound: impl Fn(&Point) -> f64,
    ) -> f64 {
        let limit = cells[least(cells)].chi2 + WITHIN;
        let possible = |cell: &Point, value: f64| {
            let all: Vec<Hold> = held.1.iter().copied().chain([hold(sign * value)]).collect();
            self.descend(&cell.listed, cell.ranged.clone(), held.0, &all).chi2 <= limit
        };
        // What has been found already spares the cells that do not reach as far. One after the other, so that nothing
        // depends on the number of threads.
        let widen = |found: f64, cell: &Point| {
            let (own, bound) = (sign * at(cell), sign * bound(cell));
            let start = own.max(found);
            if bound <= start || (start > own && !possible(cell, start)) {
                return start;
            }
            if possible(cell, bound) {
                return bound;
            }
            let (mut inside, mut outside) = (start, bound);
            for _ in 0..HALVINGS {
                let middle = f64::midpoint(inside, outside);
                *(if possible(cell, middle) { &mut inside } else { &mut outside }) = middle;
            }
            inside
        };
        let mut compatible = self.compatible(cells);
        compatible.sort_by(|a, b| a.chi2.total_cmp(&b.chi2));
        sign * compatible.into_iter().fold(f64::NEG_INFINITY, widen)
    }

    /// Least chi squared in a cell, from a start, with some things held; infinite where that cannot be.
    fn descend(&self, listed: &[usize], start: Vec<f64>, left_out: Option<usize>, held: &[Hold]) -> Point {
        let ranges = &self.space.ranged;
        let (mut ranged, mut free) = (start, vec![true; ranges.len()]);
        for hold in held {
            if let Hold::Ranged(parameter, value) = *hold {
                (ranged[parameter], free[parameter]) = (value, false);
            }
        }
        let mut figures = vec![0.0; self.targets.len()];
        let mut residuals = |ranged: &[f64]| {
            self.theory.predict(listed, ranged, &mut figures);
            let all = figures.iter().zip(self.targets).enumerate();
            let off = all.map(
                |(i, (&figure, target))| {
                    if target.fitted && left_out != Some(i) { target.off(figure) } else { 0.0 }
                },
            );
            let mut residuals: Vec<f64> = off.collect();
            for hold in held {
                if let Hold::Figure(figure, value) = *hold {
                    residuals.push((figures[figure] / value).ln() / STIFF);
                }
            }
            residuals
        };
        let square = |residuals: &[f64]| residuals.iter().map(|r| r * r).sum::<f64>();
        let mut now = residuals(&ranged);
        let mut damping = 1e-3;
        for _ in 0..STEPS {
            let moving: Vec<usize> = (0..ranges.len()).filter(|&p| free[p] && ranges[p].1 > ranges[p].0).collect();
            if moving.is_empty() {
                break;
            }
            let columns: Vec<Vec<f64>> = moving
                .iter()
                .map(|&p| {
                    let width = ranges[p].1 - ranges[p].0;
                    let step = if ranged[p] + 1e-6 * width <= ranges[p].1 { 1e-6 * width } else { -1e-6 * width };
                    let mut beside = ranged.clone();
                    beside[p] += step;
                    // In units of the range, so that parameters of all sizes are alike.
                    residuals(&beside).iter().zip(&now).map(|(a, b)| (a - b) / step * width).collect()
                })
                .collect();
            let slope: Vec<f64> = columns.iter().map(|column| dot(column, &now)).collect();
            // What would leave its range stays at the end of it.
            let inward = |&(i, &p): &(usize, &usize)| {
                let (low, high) = ranges[p];
                !(ranged[p] <= low && slope[i] >= 0.0 || ranged[p] >= high && slope[i] <= 0.0)
            };
            let active: Vec<usize> = moving.iter().enumerate().filter(inward).map(|(i, _)| i).collect();
            let before = square(&now);
            let mut better = false;
            while !active.is_empty() && damping < 1e10 {
                let matrix = active.iter().map(|&i| {
                    let row = active.iter().map(|&j| {
                        let product = dot(&columns[i], &columns[j]);
                        if i == j { product * (1.0 + damping) + 1e-12 } else { product }
                    });
                    row.chain([-slope[i]]).collect()
                });
                let step = solve(matrix.collect());
                let mut next = ranged.clone();
                for (&i, step) in active.iter().zip(step) {
                    let (low, high) = ranges[moving[i]];
                    next[moving[i]] = (ranged[moving[i]] + step * (high - low)).clamp(low, high);
                }
                let then = residuals(&next);
                if square(&then) < before {
                    (ranged, now, better) = (next, then, true);
                    damping = (damping / 10.0).max(1e-12);
                    break;
                }
                damping *= 10.0;
            }
            if !better || before - square(&now) < 1e-9 * (before + 1e-6) {
                break;
            }
        }
        let (fitted, stiff) = now.split_at(self.targets.len());
        let reached = stiff.iter().all(|off| off.abs() < 10.0);
        let chi2 = if reached { square(fitted) } else { f64::INFINITY };
        Point { chi2, listed: listed.to_vec(), ranged }
    }
}

fn least(cells: &[Point]) -> usize {
    (0..cells.len()).min_by(|&a, &b| cells[a].chi2.total_cmp(&cells[b].chi2)).unwrap_or(0)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves linear equations, each row with its right side last, by elimination with the largest pivot. What no equation
/// says is 0.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|&a, &b| rows[a][i].abs().total_cmp(&rows[b][i].abs())).unwrap_or(i);
        rows.swap(i, pivot);
        if rows[i][i] == 0.0 {
            continue;
        }
        let (above, below) = rows.split_at_mut(i + 1);
        for row in below {
            let factor = row[i] / above[i][i];
            row.iter_mut().zip(&above[i]).for_each(|(value, top)| *value -= factor * top);
        }
    }
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let rest: f64 = (i + 1..n).map(|j| rows[i][j] * x[j]).sum();
        x[i] = if rows[i][i] == 0.0 { 0.0 } else { (rows[i][n] - rest) / rows[i][i] };
    }
    x
}

#[cfg(test)]
#[path = "solve_tests.rs"]
mod tests;
