//! Plots of what a trace says about itself, and the answers of `cptr inspect` in one sentence each.

use serde_json::Value;

use crate::columns::format;
use crate::report::lines::{Curve, Panel, whole};
use crate::report::number;
use crate::report::plot::{self, Key};
use crate::report::strips::{Look, Strip, Strips};

const HEIGHT: u32 = 760;

fn list<'a>(row: &'a Value, key: &str) -> &'a [Value] {
    row[key].as_array().map_or(&[], Vec::as_slice)
}

/// Hit rates over fast memory, or nothing where there is a single size.
pub(super) fn hits(row: &Value) -> String {
    let sizes = list(row, "cache");
    let points = |key: &str| -> Vec<(f64, f64)> {
        let point = |size: &Value| (number(size, "size"), number(size, key) * 100.0);
        sizes.iter().map(point).filter(|point| point.1.is_finite()).collect()
    };
    let curves = [("Belady: knows the future", "belady"), ("LRU", "lru"), ("LFU", "lfu")];
    let curve = |(index, (name, key)): (usize, (&str, &str))| Curve::at(index, name, points(key));
    let panel = Panel {
        x: ("experts of a layer in fast memory", whole),
        y: ("hit rate", plot::percent_tick),
        ends: None,
        floor: 0.0,
        room: 0.08,
        curves: curves.into_iter().enumerate().map(curve).collect(),
    };
    if sizes.len() < 2 || panel.curves.iter().all(|curve| curve.points.is_empty()) {
        return String::new();
    }
    let legend: Vec<Key> = panel.curves.iter().map(Curve::key).collect();
    let caption =
        "Where a curve is steep, memory pays; where it lies far below Belady's, a better rule of eviction does.";
    plot::figure("Hits over memory", HEIGHT, &legend, caption, |area, tips| panel.draw(area, tips).map(|_| ()))
}

/// How long experts stay away.
pub(super) fn reuse(row: &Value) -> String {
    let bins = row["reuse"]["histogram"].as_array().map_or(&[][..], Vec::as_slice);
    let strip = |bin: &Value| {
        let name = match (&bin["from"], &bin["to"]) {
            (from, to) if from == to => format!("{from} tokens"),
            (from, Value::Null) => format!("{from} tokens or more"),
            (from, to) => format!("{from} to {to} tokens"),
        };
        let share = number(bin, "share");
        Strip { name, values: vec![share], label: format::percent(share), strong: false }
    };
    Strips {
        title: "How soon experts are wanted again",
        caption: "Share of the choices by tokens since the last time: a long tail asks for memory, or for a forecast.",
        series: &[""],
        look: Look::Stacked,
        tick: format::percent,
        rows: bins.iter().map(strip).collect(),
    }
    .figure()
}

/// What changes from token to token, and what caches make of it.
pub(super) fn answer(row: &Value) -> Option<String> {
    let sizes = list(row, "cache");
    let cache = sizes.get(sizes.len() / 2).map(|size| {
        format!(
            "; with {} of {} experts a layer in fast memory LRU hits {} of them and Belady, who knows the future, {}",
            size["size"],
            row["experts"],
            format::percent(number(size, "lru")),
            format::percent(number(size, "belady"))
        )
    });
    Some(format!(
        "{} of the choices change from token to token ({} if tokens were independent){}.",
        format::percent(number(row, "switch_rate")),
        format::percent(number(row, "switch_rate_memoryless")),
        cache.unwrap_or_default()
    ))
}

/// The detector that misses fewest changes, then the one that is wrong least often.
pub(super) fn of_changes(rows: &[Value]) -> Option<String> {
    let rank = |row: &&Value| (number(row, "missed"), number(row, "false_alarms_per_10k"));
    let best = rows.iter().min_by(|a, b| {
        let (a, b) = (rank(a), rank(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    })?;
    Some(format!(
        "Of {} detectors, {} misses fewest: {} of {} changes of domain, with {} false alarms in 10,000 tokens.",
        rows.len(),
        best["detector"].as_str().unwrap_or_default(),
        best["missed"],
        best["changes"],
        format::decimals(number(best, "false_alarms_per_10k"), 1)
    ))
}

/// Whether a prompt predicts its own answer better than another's.
pub(super) fn of_forecast(rows: &[Value], resident: usize) -> Option<String> {
    let mean = |own: bool, key: &str| {
        let of = rows.iter().filter(|row| (row["prompt"] == row["answer"]) == own).map(|row| number(row, key));
        let all: Vec<f64> = of.filter(|value| value.is_finite()).collect();
        all.iter().sum::<f64>() / all.len() as f64
    };
    let others = match mean(false, "coverage") {
        other if other.is_finite() => format!(", those of another domain's prompt {}", format::percent(other)),
        _ => String::new(),
    };
    (!rows.is_empty()).then(|| {
        format!(
            "The {resident} experts that a prompt wants most are {} of the choices of its own domain's answer{others}; \
             chance is {}.",
            format::percent(mean(true, "coverage")),
            format::percent(mean(true, "chance"))
        )
    })
}

/// The largest batch that all of its tokens choose for together.
pub(super) fn of_batches(rows: &[Value]) -> Option<String> {
    let saved = rows.iter().filter(|row| row["distinct_saved"].is_number());
    let best = saved.max_by(|a, b| number(a, "distinct_saved").total_cmp(&number(b, "distinct_saved")))?;
    Some(format!(
        "In batches of {} tokens the choice \"{}\" runs {} fewer different experts of a layer, at {} of the routing mass.",
        best["tokens"],
        best["choice"].as_str().unwrap_or_default(),
        format::percent(number(best, "distinct_saved")),
        format::percent(number(best, "mass_loss"))
    ))
}

/// How much of the next token is foreseen.
pub(super) fn of_recall(rows: &[Value]) -> Option<String> {
    let next = rows.iter().find(|row| row["by"] == "lag" && row["at"] == "1")?;
    let levels = number(next, "levels_k");
    let levels = match levels.is_finite() {
        true => format!(", by tracked levels {}", format::percent(levels)),
        false => String::new(),
    };
    Some(format!(
        "Remembered trajectories foresee {} of the choices of the next token among as many experts as it wants, {} among \
         twice as many{levels}.",
        format::percent(number(next, "recall_k")),
        format::percent(number(next, "recall_2k"))
    ))
}

/// How unequally experts are wanted.
pub(super) fn of_counts(rows: &[Value]) -> Option<String> {
    let most = rows.iter().max_by(|a, b| number(a, "coverage_quarter").total_cmp(&number(b, "coverage_quarter")))?;
    Some(format!(
        "Of {} tables of counts, {} is the most unequal: a quarter of its experts has {} of the choices, and the most \
         wanted one {} times the mean.",
        rows.len(),
        most["name"].as_str().unwrap_or_default(),
        format::percent(number(most, "coverage_quarter")),
        format::decimals(number(most, "max_over_mean_load"), 1)
    ))
}
