//! Miss rate along the trace, with the domains of the trace and the changes that the tracker saw.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use serde_json::Value;

use super::Run;
use super::plot::{self, Area, Axis, Chart, Drawn, Key, Swatch, palette};
use super::roles::{Role, few, name, number};
use crate::columns::format;

const HEIGHT: u32 = 760;
/// More starts of domains than this would cover the curves.
const MOST_STARTS: usize = 60;

/// The plot, or nothing where there is no curve.
pub(super) fn figure(run: &Run<'_>) -> String {
    let curves = few(run.rows);
    if curves.iter().all(|&index| points(run, index).is_empty()) {
        return String::new();
    }
    let mut legend: Vec<Key> = curves
        .iter()
        .map(|&index| {
            let row = &run.rows[index];
            let text = format!("{} (mass loss {})", name(row), format::percent(number(row, "mass_loss")));
            Key { swatch: Swatch::Line, color: Role::of(index, row).color(), text }
        })
        .collect();
    if draws_starts(run) {
        legend.push(Key { swatch: Swatch::Line, color: palette::EVENT, text: "another domain begins".into() });
    }
    if !run.context.changes.is_empty() {
        legend.push(Key {
            swatch: Swatch::Tick,
            color: palette::INK,
            text: "the tracker sees a change of context".into(),
        });
    }
    plot::figure("Miss rate along the trace", HEIGHT, &legend, &caption(run), |area| draw(area, run, &curves))
}

fn draws_starts(run: &Run<'_>) -> bool {
    (1..=MOST_STARTS).contains(&run.context.domain_starts.len())
}

fn caption(run: &Run<'_>) -> String {
    let context = run.context;
    let (starts, changes) = (context.domain_starts.len(), context.changes.len());
    let mut caption = String::new();
    if starts > 0 {
        caption.push_str(
            "Misses after a change of domain are the price of learning a new context: the sooner a curve falls back, the better. ",
        );
    }
    caption.push_str(&format!(
        "The tracker holds its lock on the context in {} of all tokens and layers, at a mean signal-to-noise ratio of {}, and sees {} \
         of context.",
        format::percent(context.locked_share),
        format::decibels(context.snr_db),
        if changes == 1 { "1 change".into() } else { format!("{} changes", format::count(changes)) },
    ));
    if starts > 0 {
        let names: Vec<String> = run.domains.iter().take(12).map(|name| plot::short(name, 40)).collect();
        let more = if run.domains.len() > names.len() { ", …" } else { "" };
        caption.push_str(&format!(" Domains of the trace: {}{more}.", names.join(", ")));
    }
    if starts > MOST_STARTS {
        caption.push_str(&format!(" The domain changes {} times, too often to draw.", format::count(starts)));
    }
    caption
}

/// Through the middle of each part of the trace, and level to both ends.
fn points(run: &Run<'_>, index: usize) -> Vec<(f64, f64)> {
    let tokens = run.tokens as f64;
    let values = run.rows[index]["miss_rate_timeline"].as_array().map_or(&[][..], Vec::as_slice);
    let width = tokens / values.len() as f64;
    let value = |value: &Value| value.as_f64().unwrap_or(f64::NAN) * 100.0;
    let middle = |(index, rate): (usize, &Value)| ((index as f64 + 0.5) * width, value(rate));
    let mut points: Vec<(f64, f64)> = values.iter().enumerate().map(middle).collect();
    if let (Some(&first), Some(&last)) = (points.first(), points.last()) {
        points.insert(0, (0.0, first.1));
        points.push((tokens, last.1));
    }
    points.retain(|point| point.1.is_finite());
    points
}

fn draw(area: &Area<'_>, run: &Run<'_>, curves: &[usize]) -> Drawn {
    let tokens = run.tokens.max(1) as f64;
    let lines: Vec<(Role, Vec<(f64, f64)>)> =
        curves.iter().map(|&index| (Role::of(index, &run.rows[index]), points(run, index))).collect();
    // Room above the curves for the names of domains.
    let y = plot::padded(lines.iter().flat_map(|line| &line.1).map(|point| point.1).chain([0.0]), 0.14, 0.0);
    let token_tick = |value: f64| format::count(value.max(0.0).round() as usize);
    let mut chart = plot::axes(
        area,
        Axis { range: 0.0..tokens, name: "token of the trace", tick: token_tick },
        Axis { range: y.clone(), name: "miss rate", tick: plot::percent_tick },
    )?;
    if draws_starts(run) {
        for &start in &run.context.domain_starts {
            let line = [(start as f64, y.start), (start as f64, y.end)];
            chart.draw_series(LineSeries::new(line, palette::EVENT.stroke_width(4)))?;
        }
    }
    domain_names(area, run, &chart, y.end)?;
    for (role, points) in lines {
        let width = if role == Role::Bounded { 6 } else { 4 };
        chart.draw_series(LineSeries::new(points, role.color().stroke_width(width)))?;
    }
    let mut changes: Vec<(i32, i32)> =
        run.context.changes.iter().map(|&token| chart.backend_coord(&(token as f64, y.start))).collect();
    // Ticks closer than their width are one.
    changes.dedup_by_key(|point| point.0 / 3);
    for (x, y) in changes {
        area.draw(&PathElement::new([(x, y), (x, y - 24)], palette::INK.stroke_width(3)))?;
    }
    Ok(())
}

/// The name of each part of the trace above the curves, where there are several and it fits between its lines.
fn domain_names(area: &Area<'_>, run: &Run<'_>, chart: &Chart<'_, '_>, top: f64) -> Drawn {
    let context = run.context;
    if !draws_starts(run) {
        return Ok(());
    }
    let starts = [0].into_iter().chain(context.domain_starts.iter().copied());
    let ends = context.domain_starts.iter().copied().chain([run.tokens]);
    for ((start, end), &domain) in starts.zip(ends).zip(&context.domain_order) {
        let (left, y) = chart.backend_coord(&(start as f64, top));
        let (right, _) = chart.backend_coord(&(end as f64, top));
        let name = plot::short(run.domains.get(domain).map_or("", String::as_str), 24);
        if plot::text_width(&name) <= right - left - 8 {
            let style = plot::text_style(palette::SOFT, HPos::Center, VPos::Top);
            area.draw(&Text::new(name, ((left + right) / 2, y + 4), style))?;
        }
    }
    Ok(())
}
