//! Misses against what they cost in quality: an evaluation as one plot, of the report and in a file of its own.
//!
//! The price is the divergence of the predictions, not the change of perplexity: it never comes out on the wrong side
//! of 0, so settings of one policy lie on one line.

use plotters::prelude::*;
use serde_json::Value;

use super::plot::{self, Key, Swatch, WIDTH, palette};
use super::price::{self, MISSES, Mark, Scatter, by_importance};
use super::roles::{Role, name, number};
use crate::columns::format;

const HEIGHT: u32 = 1100;

/// The plot as a whole SVG file: down is gain, right is price.
///
/// # Errors
/// If the library that draws fails, as a sentence.
pub(crate) fn svg(rows: &[Value]) -> Result<String, String> {
    let scatter = scatter(rows);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| scatter.draw(&area, &mut Vec::new()));
        drawn.and_then(|()| area.present().map_err(Into::into)).map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

/// The same as a figure of the report.
pub(crate) fn figure(rows: &[Value]) -> String {
    let scatter = scatter(rows);
    if scatter.marks.is_empty() {
        return String::new();
    }
    let mut legend = price::legend(&scatter.marks, "reference: the unaltered model", scatter.bound.is_some());
    if scatter.bound.is_some() {
        legend.push(Key::new(Swatch::Line, palette::BOUND, "Belady bound of the unaltered model"));
    }
    let caption = "Down is gain, right is price: how far the predictions are from those of the unaltered model. A line \
                   goes through the settings of one strategy; one that lies below another is better at every price.";
    plot::figure("Misses against what they cost the model", HEIGHT, &legend, caption, |area, tips| {
        scatter.draw(area, tips)
    })
}

fn scatter(rows: &[Value]) -> Scatter<'static> {
    let rows: Vec<&Value> = rows.iter().filter(|row| number(row, "full_precision") == 1.0).collect();
    let curves = curves(&rows);
    let mark = |(index, row): (usize, &&Value)| Mark {
        x: number(row, "divergence"),
        y: number(row, "miss_rate") * 100.0,
        role: Role::of(index, row),
        name: if curves.iter().any(|curve| curve.passes(row)) { String::new() } else { plot::short(name(row), 40) },
        said: format!(
            "{}: misses {}, divergence {:.4}, perplexity {}",
            name(row),
            format::percent(number(row, "miss_rate")),
            number(row, "divergence"),
            format::change(number(row, "perplexity_change"))
        ),
    };
    Scatter {
        marks: by_importance(rows.iter().enumerate().map(mark).collect()),
        bound: rows.iter().filter(|row| row["bound"] == true).map(|row| number(row, "miss_rate") * 100.0).next(),
        curves: curves.into_iter().map(|curve| (curve.role, curve.points)).collect(),
        price: "divergence from the unaltered model, nats per token",
        gain: MISSES,
        tick: |value| format!("{value:.3}"),
        gain_tick: plot::percent_tick,
    }
}

/// The settings of a selection with one residency, cheapest first.
struct Curve {
    /// Selection without its numbers, and residency.
    of: (String, String),
    role: Role,
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// Whether the row lies on the curve and not at its end: the label at the end speaks for all.
    fn passes(&self, row: &Value) -> bool {
        self.of == family(row) && self.points.last().is_some_and(|last| last.0 > number(row, "divergence"))
    }
}

fn family(row: &Value) -> (String, String) {
    let part = |key: &str| row[key].as_str().unwrap_or_default();
    let select = part("select").chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect();
    (select, part("residency").into())
}

/// Every selection that has several settings with one residency.
fn curves(rows: &[&Value]) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| row["select"] != "raw") {
        let point = (number(row, "divergence"), number(row, "miss_rate") * 100.0);
        match curves.iter_mut().find(|curve| curve.of == family(row)) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve { of: family(row), role: Role::of(index, row), points: vec![point] }),
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    curves.retain(|curve| curve.points.len() > 1);
    curves
}
