//! Misses against what they cost in quality: an evaluation as one plot in a file of its own.
//!
//! The price is the divergence of the predictions, not the change of perplexity: it never comes out on the wrong side of 0, so settings of
//! one policy lie on one line.

use plotters::prelude::*;

use super::plot::{self, WIDTH};
use super::price::{Mark, Scatter, by_importance};
use super::rows::Role;
use crate::eval::outcome::{Outcome, Row};

const HEIGHT: u32 = 1100;

/// The plot as a whole SVG file: down is gain, right is price.
///
/// # Errors
/// If the library that draws fails, as a sentence.
pub fn svg(outcome: &Outcome) -> Result<String, String> {
    let rows: Vec<&Row> = outcome.rows.iter().filter(|row| row.mean_bits == 0.0).collect();
    let curves = curves(&rows);
    let mark = |(index, row): (usize, &&Row)| Mark {
        x: row.divergence_nats,
        y: row.miss_rate * 100.0,
        role: role(index, row),
        name: if curves.iter().any(|curve| curve.passes(row)) { String::new() } else { plot::short(&name(row), 40) },
    };
    let scatter = Scatter {
        marks: by_importance(rows.iter().enumerate().map(mark).collect()),
        curves: curves.iter().map(|curve| (curve.role, curve.points.clone())).collect(),
        bound: rows.iter().filter(|row| row.oracle && row.agreement == 1.0).map(|row| row.miss_rate * 100.0).next(),
        price: "divergence from the unaltered model, nats per token",
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

fn role(index: usize, row: &Row) -> Role {
    match () {
        () if row.oracle => Role::Bound,
        () if index == 0 => Role::Reference,
        () if row.policy.starts_with("cptr") => Role::Cptr,
        () => Role::Other,
    }
}

/// The policy, with the placement where it is not the one that it comes with.
fn name(row: &Row) -> String {
    match row.policy.as_str() {
        "raw" => format!("raw, {}", row.placement),
        policy if (row.placement == "tracked") == policy.starts_with("cptr") && !row.oracle => policy.into(),
        policy => format!("{policy}, {}", row.placement),
    }
}

/// The settings of a policy with one placement, cheapest first.
struct Curve {
    /// Policy without its numbers, and placement.
    of: (String, String),
    role: Role,
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// Whether the row lies on the curve and not at its end: the label at the end speaks for all.
    fn passes(&self, row: &Row) -> bool {
        self.of == family(row) && self.points.last().is_some_and(|last| last.0 > row.divergence_nats)
    }
}

fn family(row: &Row) -> (String, String) {
    (row.policy.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect(), row.placement.clone())
}

/// Every policy that has several settings with one placement.
fn curves(rows: &[&Row]) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| row.policy != "raw") {
        let point = (row.divergence_nats, row.miss_rate * 100.0);
        match curves.iter_mut().find(|curve| curve.of == family(row)) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve { of: family(row), role: role(index, row), points: vec![point] }),
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    curves.retain(|curve| curve.points.len() > 1);
    curves
}
