//! How much of a routing comes again: by tokens ahead, by layer, by memory.

use serde_json::Value;

use super::lines::{Curve, Panel, whole};
use super::plot::{self, Key};
use super::roles::number;

const HEIGHT: u32 = 660;

/// Forecasts, and the keys of their shares at k and 2k.
const FORECASTS: [(&str, [&str; 2]); 3] = [
    ("remembered trajectories, before the token", ["recall_k", "recall_2k"]),
    ("the same when all layers before have run", ["ahead_k", "ahead_2k"]),
    ("tracked levels", ["levels_k", "levels_2k"]),
];

/// The plots of the rows of `cptr inspect --recall`; nothing where there is a single point.
pub(crate) fn figures(rows: &[Value]) -> Vec<String> {
    let layers = "Layers that the text decides come again more than those that the token decides.";
    let memory = "Where the curve still rises, longer memories would know more.";
    let lags = "What is known only one token ahead serves fetching; what is known several ahead serves eviction.";
    let power = |value: f64| if value.fract() == 0.0 { format!("{:.0}", value.exp2()) } else { String::new() };
    vec![
        figure(
            rows,
            &Kind {
                by: "lag",
                title: "Choices that were forecast, by tokens ahead",
                x: "tokens ahead",
                of: |x| x,
                tick: whole,
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
                tick: whole,
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

fn points(rows: &[Value], kind: &Kind, key: &str) -> Vec<(f64, f64)> {
    let of = rows.iter().filter(|row| row["by"] == kind.by);
    let point = |row: &Value| Some(((kind.of)(row["at"].as_str()?.parse().ok()?), number(row, key) * 100.0));
    of.filter_map(point).filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
}

fn figure(rows: &[Value], kind: &Kind) -> String {
    let panel = |which: usize, name: &'static str| {
        let curve = |(index, (text, keys)): (usize, &(&str, [&str; 2]))| {
            Curve::at(index, *text, points(rows, kind, keys[which]))
        };
        // A single point is in the table.
        let curves = FORECASTS.iter().enumerate().map(curve).filter(|curve| curve.points.len() > 1).collect();
        Panel { x: (kind.x, kind.tick), y: (name, plot::percent_tick), ends: None, floor: 0.0, room: 0.08, curves }
    };
    let panels = [panel(0, "among the k best"), panel(1, "among the 2k best")];
    if panels[0].curves.is_empty() {
        return String::new();
    }
    let legend: Vec<Key> = panels[0].curves.iter().map(Curve::key).collect();
    plot::figure(kind.title, HEIGHT, &legend, kind.caption, |area, tips| {
        let (left, right) = area.split_horizontally(plot::WIDTH / 2);
        panels[0].draw(&left, tips)?;
        panels[1].draw(&right, tips)?;
        Ok(())
    })
}
