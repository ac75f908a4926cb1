//! Perplexity against misses: what an evaluation found, as one plot in a file of its own.

use plotters::prelude::*;

use super::plot::{self, WIDTH};
use super::price::{Mark, Scatter, by_importance};
use super::rows::Role;
use crate::eval::outcome::{Outcome, Row};

const HEIGHT: u32 = 1100;
/// Rows that cost more than this change of perplexity are left out: nobody would pay it, and they would squeeze the rest.
const DEAREST: f64 = 0.05;

/// The plot as a whole SVG file: down is gain, right is price.
///
/// # Errors
/// If the library that draws fails, as a sentence.
pub fn svg(outcome: &Outcome) -> Result<String, String> {
    let rows: Vec<&Row> = outcome.rows.iter().filter(|row| row.perplexity_change <= DEAREST).collect();
    let mark = |(index, row): (usize, &&Row)| Mark {
        x: row.perplexity_change * 100.0,
        y: row.miss_rate * 100.0,
        role: role(index, row),
        name: plot::short(&name(row), 40),
    };
    let scatter = Scatter {
        marks: by_importance(rows.iter().enumerate().map(mark).collect()),
        curves: curves(&rows),
        bound: rows.iter().filter(|row| row.oracle && row.agreement == 1.0).map(|row| row.miss_rate * 100.0).next(),
        price: "change of perplexity",
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

/// The policy, with the placement where it is not the one that policies of its kind come with.
fn name(row: &Row) -> String {
    match row.policy.as_str() {
        "raw" => format!("raw, {}", row.placement),
        policy => policy.into(),
    }
}

/// A line through the settings of every policy that has several with one placement.
fn curves(rows: &[&Row]) -> Vec<(Role, Vec<(f64, f64)>)> {
    let family = |row: &Row| (row.policy.split(':').next().map(str::to_owned), row.placement.clone());
    let mut curves: Vec<(_, Role, Vec<(f64, f64)>)> = Vec::new();
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| row.policy != "raw") {
        let point = (row.perplexity_change * 100.0, row.miss_rate * 100.0);
        match curves.iter_mut().find(|(of, ..)| *of == family(row)) {
            Some((.., points)) => points.push(point),
            None => curves.push((family(row), role(index, row), vec![point])),
        }
    }
    for (.., points) in &mut curves {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    curves.into_iter().filter(|(.., points)| points.len() > 1).map(|(_, role, points)| (role, points)).collect()
}
