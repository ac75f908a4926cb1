//! How much of a routing comes again: by tokens ahead, by layer, by memory.

use plotters::prelude::*;
use serde_json::Value;

use super::plot::{self, Area, Axis, Drawn, Key, Swatch, palette};
use super::roles::number;

const HEIGHT: u32 = 660;

/// Forecasts, the keys of their shares at k and 2k, and their colours.
const FORECASTS: [(&str, [&str; 2], RGBColor); 3] = [
    ("remembered trajectories, before the token", ["recall_k", "recall_2k"], palette::CPTR),
    ("the same when all layers before have run", ["ahead_k", "ahead_2k"], palette::OTHER),
    ("tracked levels", ["levels_k", "levels_2k"], palette::REFERENCE),
];

/// The plots of the rows of `cptr inspect --recall`; nothing where there is a single point.
pub(crate) fn figures(rows: &[Value]) -> Vec<String> {
    let layers = "Layers that the text decides come again more than those that the token decides.";
    let memory = "Where the curve still rises, longer memories would know more.";
    let lags = "What is known only one token ahead serves fetching; what is known several ahead serves eviction.";
    let count = |value: f64| if value.fract() == 0.0 { format!("{value:.0}") } else { String::new() };
    let power = |value: f64| if value.fract() == 0.0 { format!("{:.0}", value.exp2()) } else { String::new() };
    vec![
        figure(
            rows,
            &Kind {
                by: "lag",
                title: "Choices that were forecast, by tokens ahead",
                x: "tokens ahead",
                of: |x| x,
                tick: count,
                caption: lags,
            },
        ),
        figure(
            rows,
            &Kind {
                by: "layer",
                title: "Choices that were forecast, by layer",
                x: "layer",
                of: |x| x,
                tick: count,
                caption: layers,
            },
        ),
        figure(
            rows,
            &Kind {
                by: "memory",
                title: "Choices that were forecast, by memory",
                x: "tokens remembered",
                of: f64::log2,
                tick: power,
                caption: memory,
            },
        ),
    ]
}

/// What one plot shows.
struct Kind {
    by: &'static str,
    title: &'static str,
    x: &'static str,
    /// Where a value of the rows lies on the axis.
    of: fn(f64) -> f64,
    tick: fn(f64) -> String,
    caption: &'static str,
}

/// A curve.
type Points = Vec<(f64, f64)>;

fn points(rows: &[Value], kind: &Kind, key: &str) -> Points {
    let of = rows.iter().filter(|row| row["by"] == kind.by);
    let point = |row: &Value| Some(((kind.of)(row["at"].as_str()?.parse().ok()?), number(row, key) * 100.0));
    of.filter_map(point).filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
}

fn figure(rows: &[Value], kind: &Kind) -> String {
    let curves = FORECASTS.map(|(_, keys, color)| (keys.map(|key| points(rows, kind, key)), color));
    // A single point is in the table.
    let drawn = |curve: &&([Points; 2], RGBColor)| curve.0[0].len() > 1;
    if !curves.iter().any(|curve| drawn(&curve)) {
        return String::new();
    }
    let keys = FORECASTS.iter().zip(&curves).filter(|(_, curve)| drawn(curve));
    let legend: Vec<Key> =
        keys.map(|((text, _, color), _)| Key { swatch: Swatch::Line, color: *color, text: (*text).into() }).collect();
    plot::figure(kind.title, HEIGHT, &legend, kind.caption, |area| {
        let (left, right) = area.split_horizontally(plot::WIDTH / 2);
        let half = |at: usize| {
            curves.iter().filter(drawn).map(move |(points, color)| (&points[at], *color)).collect::<Vec<_>>()
        };
        panel(&left, kind, &half(0), "among the k best")?;
        panel(&right, kind, &half(1), "among the 2k best")
    })
}

fn panel(area: &Area<'_>, kind: &Kind, curves: &[(&Points, RGBColor)], name: &str) -> Drawn {
    let all = || curves.iter().flat_map(|(points, _)| points.iter());
    let x = plot::padded(all().map(|point| point.0), 0.02, f64::NEG_INFINITY);
    let y = plot::padded(all().map(|point| point.1).chain([0.0]), 0.08, 0.0);
    let mut chart = plot::axes(
        area,
        Axis { range: x, name: kind.x, tick: kind.tick },
        Axis { range: y, name, tick: plot::percent_tick },
    )?;
    for (points, color) in curves {
        if points.len() <= 64 {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 6, color.filled())))?;
        }
        chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(4)))?;
    }
    Ok(())
}
