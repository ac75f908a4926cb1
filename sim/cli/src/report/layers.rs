//! Miss rate and switch rate by layer.

use plotters::prelude::*;
use serde_json::Value;

use super::Run;
use super::plot::{self, Area, Axis, Drawn, Key, Swatch};
use super::roles::{Role, few, name, number};

const HEIGHT: u32 = 660;

/// The plot, or nothing for a single layer.
pub(super) fn figure(run: &Run<'_>) -> String {
    let curves = few(run.rows);
    if !curves.iter().any(|&index| layers(run, index).len() > 1) {
        return String::new();
    }
    let key = |&index: &usize| {
        let color = Role::of(index, &run.rows[index]).color();
        Key { swatch: Swatch::Line, color, text: name(&run.rows[index]).into() }
    };
    let legend: Vec<Key> = curves.iter().map(key).collect();
    let caption = "Layers differ: where more experts change from token to token (right), a cache tends to miss more (left). A gap \
        between two rows in all layers speaks for the policy; one in a few layers says which layers deserve a larger cache.";
    plot::figure("Misses and switches by layer", HEIGHT, &legend, caption, |area| draw(area, run, &curves))
}

fn layers<'a>(run: &Run<'a>, index: usize) -> &'a [Value] {
    run.rows[index]["by_layer"].as_array().map_or(&[], Vec::as_slice)
}

fn draw(area: &Area<'_>, run: &Run<'_>, curves: &[usize]) -> Drawn {
    let has_switches = curves.iter().any(|&index| layers(run, index).iter().any(|l| !l["switch_rate"].is_null()));
    if !has_switches {
        return panel(area, run, curves, "miss_rate");
    }
    let (left, right) = area.split_horizontally(plot::WIDTH / 2);
    panel(&left, run, curves, "miss_rate")?;
    panel(&right, run, curves, "switch_rate")
}

fn panel(area: &Area<'_>, run: &Run<'_>, curves: &[usize], rate: &str) -> Drawn {
    let points = |index: usize| -> Vec<(f64, f64)> {
        let point = |layer: &Value| (number(layer, "layer"), number(layer, rate) * 100.0);
        let mut points: Vec<(f64, f64)> =
            layers(run, index).iter().map(point).filter(|point| point.1.is_finite()).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let lines: Vec<(Role, Vec<(f64, f64)>)> =
        curves.iter().map(|&index| (Role::of(index, &run.rows[index]), points(index))).collect();
    let all = || lines.iter().flat_map(|line| &line.1);
    let x = plot::padded(all().map(|point| point.0), 0.02, f64::NEG_INFINITY);
    let y = plot::padded(all().map(|point| point.1).chain([0.0]), 0.08, 0.0);
    // Layers are whole numbers: no tick between two.
    let layer_tick = |value: f64| if value.fract() == 0.0 { format!("{value:.0}") } else { String::new() };
    let mut chart = plot::axes(
        area,
        Axis { range: x, name: "layer", tick: layer_tick },
        Axis { range: y, name: &rate.replace('_', " "), tick: plot::percent_tick },
    )?;
    for (role, points) in lines {
        let width = if role == Role::Bounded { 6 } else { 4 };
        if points.len() <= 64 {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 6, role.color().filled())))?;
        }
        chart.draw_series(LineSeries::new(points, role.color().stroke_width(width)))?;
    }
    Ok(())
}
