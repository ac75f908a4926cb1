//! Stalls over loads: what is waited for, and what that takes of the link.

use serde_json::Value;

use super::Run;
use super::plot::{self, Key, Swatch, palette};
use super::price::{self, Mark, Scatter, by_importance};
use super::roles::{Role, name, number};
use crate::columns::format::percent;

const HEIGHT: u32 = 1000;

/// The settings of one strategy.
struct Curve {
    family: String,
    role: Role,
    /// Loads and stalls, by rising loads.
    points: Vec<(f64, f64)>,
}

/// The plot, or nothing where no row fetches: the others load what they wait for.
pub(super) fn figure(run: &Run<'_>) -> String {
    if !run.rows.iter().any(|row| number(row, "fetch_rate") > 0.0) {
        return String::new();
    }
    let mut curves: Vec<Curve> = Vec::new();
    for (index, row) in run.rows.iter().enumerate() {
        match curves.iter_mut().find(|curve| curve.family == family(row)) {
            Some(curve) => curve.points.push(point(row)),
            None => {
                curves.push(Curve { family: family(row), role: Role::of(index, row), points: vec![point(row)] });
            }
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    // The last setting of a curve is named for all of them.
    let last = |row: &Value| {
        let here = curves.iter().find(|curve| curve.family == family(row));
        here.is_some_and(|curve| curve.points.last() == Some(&point(row)))
    };
    let mark = |(index, row): (usize, &Value)| Mark {
        x: point(row).0,
        y: point(row).1,
        role: Role::of(index, row),
        name: if last(row) { plot::short(name(row), 40) } else { String::new() },
        said: format!(
            "{}: stalls {}, loads {}",
            name(row),
            percent(number(row, "stall_rate")),
            percent(number(row, "load_rate"))
        ),
    };
    let marks = run.rows.iter().enumerate().map(mark).filter(|mark| mark.x.is_finite() && mark.y.is_finite());
    let bound = run.rows.iter().filter(|row| row["bound"] == true).map(|row| number(row, "stall_rate") * 100.0);
    let bound = bound.min_by(f64::total_cmp);
    let marks: Vec<Mark> = marks.collect();
    let mut legend = price::legend(&marks, "reference: the first strategy", false);
    let mut caption = "Down is less to wait for, left is less on the link. A line goes through the settings of one \
        strategy. Who fetches nothing waits for all that is loaded."
        .to_owned();
    if bound.is_some() {
        let text = "Belady bound of loading on demand";
        legend.push(Key::new(Swatch::Line, palette::BOUND, text));
        caption.push_str(" Below the dashed line is only who fetches what the model will want.");
    }
    let scatter = Scatter {
        marks: by_importance(marks),
        curves: curves.into_iter().map(|curve| (curve.role, curve.points)).collect(),
        bound,
        price: "load rate: experts copied per choice",
        gain: "stall rate: copies waited for per choice",
        tick: plot::percent_tick,
        gain_tick: plot::percent_tick,
    };
    plot::figure("Stalls over loads", HEIGHT, &legend, &caption, |area, tips| scatter.draw(area, tips))
}

/// Loads and stalls per choice, in percent.
fn point(row: &Value) -> (f64, f64) {
    (number(row, "load_rate") * 100.0, number(row, "stall_rate") * 100.0)
}

/// What the settings of one strategy have in common: its parts without their numbers.
fn family(row: &Value) -> String {
    let part = |key: &str| row[key].as_str().unwrap_or_default();
    let text = ["select", "residency", "prefetch", "division", "precision"].map(part).join("+");
    text.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect()
}
