//! Misses against what they cost in quality: an evaluation as one plot in a file of its own.
//!
//! The price is the divergence of the predictions, not the change of perplexity: it never comes out on the wrong side
//! of 0, so settings of one policy lie on one line.

use plotters::prelude::*;
use serde_json::Value;

use super::plot::{self, WIDTH};
use super::price::{MISSES, Mark, Scatter, by_importance};
use super::roles::{Role, name, number};

const HEIGHT: u32 = 1100;

/// The plot as a whole SVG file: down is gain, right is price.
///
/// # Errors
/// If the library that draws fails, as a sentence.
pub(crate) fn svg(rows: &[Value]) -> Result<String, String> {
    let rows: Vec<&Value> = rows.iter().filter(|row| number(row, "full_precision") == 1.0).collect();
    let curves = curves(&rows);
    let mark = |(index, row): (usize, &&Value)| Mark {
        x: number(row, "divergence"),
        y: number(row, "miss_rate") * 100.0,
        role: Role::of(index, row),
        name: if curves.iter().any(|curve| curve.passes(row)) { String::new() } else { plot::short(name(row), 40) },
    };
    let scatter = Scatter {
        marks: by_importance(rows.iter().enumerate().map(mark).collect()),
        curves: curves.iter().map(|curve| (curve.role, curve.points.clone())).collect(),
        bound: rows.iter().filter(|row| row["bound"] == true).map(|row| number(row, "miss_rate") * 100.0).next(),
        price: "divergence from the unaltered model, nats per token",
        gain: MISSES,
        tick: |value| format!("{value:.3}"),
    };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| scatter.draw(&area));
        drawn.and_then(|()| area.present().map_err(Into::into)).map_err(|error| error.to_string())?;
    }
    Ok(svg)
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
