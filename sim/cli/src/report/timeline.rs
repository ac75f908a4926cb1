//! Misses, and stalls where they are others, along the trace, with its domains and the changes that the tracker saw.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use serde_json::Value;

use super::Run;
use super::lines::{Curve, Panel};
use super::plot::{self, Area, Chart, Drawn, Key, Swatch, Tip, palette};
use super::roles::{Role, few, name, number};
use crate::columns::format;

const HEIGHT: u32 = 760;
/// More starts of domains than this would cover the curves.
const MOST_STARTS: usize = 60;

/// The plot of misses; nothing where there is no curve.
pub(super) fn misses(run: &Run<'_>) -> String {
    figure(run, "miss_rate", "Miss rate along the trace", &caption(run))
}

/// The plot of stalls; nothing where they are the misses, as of all that is loaded on demand, or none.
pub(super) fn stalls(run: &Run<'_>) -> String {
    let differs = |&index: &usize| run.rows[index]["stall_rate_timeline"] != run.rows[index]["miss_rate_timeline"];
    let waits = |&index: &usize| number(&run.rows[index], "stall_rate") > 0.0;
    let rows = few(run.rows);
    if !rows.iter().any(differs) || !rows.iter().any(waits) {
        return String::new();
    }
    let caption = "What is waited for: a miss whose copy was asked for in time, or that runs near the data, is none.";
    figure(run, "stall_rate", "Stall rate along the trace", caption)
}

fn figure(run: &Run<'_>, rate: &str, title: &str, caption: &str) -> String {
    let tokens = run.tokens.max(1) as f64;
    let curve = |&index: &usize| {
        let row = &run.rows[index];
        Curve::of_role(Role::of(index, row), name(row), points(run, index, rate))
    };
    let panel = Panel {
        x: ("token of the trace", |value| format::count(value.max(0.0).round() as usize)),
        y: (if rate == "miss_rate" { "miss rate" } else { "stall rate" }, plot::percent_tick),
        ends: Some(0.0..tokens),
        floor: 0.0,
        // For the names of domains.
        room: 0.14,
        curves: few(run.rows).iter().map(curve).collect(),
    };
    if panel.curves.iter().all(|curve| curve.points.is_empty()) {
        return String::new();
    }
    let mut legend: Vec<Key> = panel.curves.iter().map(Curve::key).collect();
    for (key, row) in legend.iter_mut().zip(few(run.rows)) {
        key.text += &format!(" (mass loss {})", format::percent(number(&run.rows[row], "mass_loss")));
    }
    if draws_starts(run) {
        legend.push(Key::new(Swatch::Line, palette::EVENT, "another domain begins"));
    }
    if !run.context.changes.is_empty() {
        legend.push(Key::new(Swatch::Tick, palette::INK, "the tracker sees a change of context"));
    }
    plot::figure(title, HEIGHT, &legend, caption, |area, tips| draw(area, tips, run, &panel))
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

/// Through the middle of each part of the trace.
fn points(run: &Run<'_>, index: usize, rate: &str) -> Vec<(f64, f64)> {
    let values = run.rows[index][format!("{rate}_timeline")].as_array().map_or(&[][..], Vec::as_slice);
    let width = run.tokens as f64 / values.len() as f64;
    let value = |value: &Value| value.as_f64().unwrap_or(f64::NAN) * 100.0;
    let middle = |(index, rate): (usize, &Value)| ((index as f64 + 0.5) * width, value(rate));
    values.iter().enumerate().map(middle).filter(|point| point.1.is_finite()).collect()
}

fn draw(area: &Area<'_>, tips: &mut Vec<Tip>, run: &Run<'_>, panel: &Panel<'_>) -> Drawn {
    let chart = panel.draw(area, tips)?;
    let (_, ys) = chart.plotting_area().get_pixel_range();
    if draws_starts(run) {
        for &start in &run.context.domain_starts {
            let (x, _) = chart.backend_coord(&(start as f64, 0.0));
            area.draw(&PathElement::new([(x, ys.start), (x, ys.end)], palette::EVENT.stroke_width(4)))?;
        }
    }
    domain_names(area, run, &chart, ys.start)?;
    let place = |&token: &usize| chart.backend_coord(&(token as f64, 0.0)).0;
    let mut changes: Vec<i32> = run.context.changes.iter().map(place).collect();
    // Ticks closer than their width are one.
    changes.dedup_by_key(|x| *x / 3);
    for x in changes {
        area.draw(&PathElement::new([(x, ys.end), (x, ys.end - 24)], palette::INK.stroke_width(3)))?;
    }
    Ok(())
}

/// The name of each part of the trace above the curves, where there are several and it fits between its lines.
fn domain_names(area: &Area<'_>, run: &Run<'_>, chart: &Chart<'_, '_>, top: i32) -> Drawn {
    let context = run.context;
    if !draws_starts(run) {
        return Ok(());
    }
    let starts = [0].into_iter().chain(context.domain_starts.iter().copied());
    let ends = context.domain_starts.iter().copied().chain([run.tokens]);
    for ((start, end), &domain) in starts.zip(ends).zip(&context.domain_order) {
        let [left, right] = [start, end].map(|token| chart.backend_coord(&(token as f64, 0.0)).0);
        let name = plot::short(run.domains.get(domain).map_or("", String::as_str), 24);
        if plot::text_width(&name) <= right - left - 8 {
            let style = plot::text_style(palette::SOFT, HPos::Center, VPos::Top);
            area.draw(&Text::new(name, ((left + right) / 2, top + 4), style))?;
        }
    }
    Ok(())
}
