//! Miss rate and switch rate by layer.

use serde_json::Value;

use super::Run;
use super::lines::{Curve, Panel, whole};
use super::plot::{self, Area, Drawn, Key, Tip};
use super::roles::{Role, few, name, number};

const HEIGHT: u32 = 660;

/// The plot, or nothing for a single layer.
pub(super) fn figure(run: &Run<'_>) -> String {
    let rows = few(run.rows);
    if !rows.iter().any(|&index| layers(run, index).len() > 1) {
        return String::new();
    }
    let misses = panel(run, &rows, "miss_rate");
    let switches = panel(run, &rows, "switch_rate");
    let legend: Vec<Key> = misses.curves.iter().map(Curve::key).collect();
    let caption = "Layers differ: where more experts change from token to token (right), a cache tends to miss more (left). A gap \
        between two rows in all layers speaks for the policy; one in a few layers says which layers deserve a larger cache.";
    plot::figure("Misses and switches by layer", HEIGHT, &legend, caption, |area, tips| {
        draw(area, tips, &misses, &switches)
    })
}

fn layers<'a>(run: &Run<'a>, index: usize) -> &'a [Value] {
    run.rows[index]["by_layer"].as_array().map_or(&[], Vec::as_slice)
}

fn draw(area: &Area<'_>, tips: &mut Vec<Tip>, misses: &Panel<'_>, switches: &Panel<'_>) -> Drawn {
    if switches.curves.iter().all(|curve| curve.points.is_empty()) {
        misses.draw(area, tips)?;
        return Ok(());
    }
    let (left, right) = area.split_horizontally(plot::WIDTH / 2);
    misses.draw(&left, tips)?;
    switches.draw(&right, tips)?;
    Ok(())
}

fn panel<'a>(run: &Run<'_>, rows: &[usize], rate: &'static str) -> Panel<'a> {
    let points = |index: usize| -> Vec<(f64, f64)> {
        let point = |layer: &Value| (number(layer, "layer"), number(layer, rate) * 100.0);
        let mut points: Vec<(f64, f64)> =
            layers(run, index).iter().map(point).filter(|point| point.1.is_finite()).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let curve = |&index: &usize| {
        let row = &run.rows[index];
        Curve::of_role(Role::of(index, row), name(row), points(index))
    };
    Panel {
        x: ("layer", whole),
        y: (if rate == "miss_rate" { "miss rate" } else { "switch rate" }, plot::percent_tick),
        ends: None,
        floor: 0.0,
        room: 0.08,
        curves: rows.iter().map(curve).collect(),
    }
}
