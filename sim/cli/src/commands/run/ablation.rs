//! `cptr run --ablate`: what each part of a strategy is worth, alone and last.

use super::{rows, section};
use crate::columns::Format::{Change, Text};
use crate::columns::{Column, Page, Section, Table, column, format, value};
use crate::report::number;
use crate::report::strips::{Look, Strip, Strips};
use cptr_sim::ablation;
use cptr_sim::replay::Plan;
use cptr_trace::Trace;
use cptr_trace::error::Result;
use serde_json::Value;

pub(super) static ABLATION: [Column; 17] = [
    column("strategy", "strategy", Text, "").detail(),
    column("axis", "axis", Text, ""),
    column("part", "part", Text, "a part of the strategy, or a mechanism inside one; all: all parts together"),
    column("instead", "instead", Text, "what takes its place"),
    column("alone.stall_rate", "stall alone", Change, "stalls per choice that it adds to the baseline"),
    column("last.stall_rate", "last", Change, "stalls per choice that it adds to all the others"),
    column("alone.load_rate", "load alone", Change, "loads per choice, likewise"),
    column("last.load_rate", "last", Change, ""),
    column("alone.mass_loss", "mass loss alone", Change, "wanted routing mass given up, likewise").unless(0.0),
    column("last.mass_loss", "last", Change, "").unless(0.0),
    column("alone.full_precision", "full alone", Change, "routing mass at full precision, likewise").unless(0.0),
    column("last.full_precision", "last", Change, "").unless(0.0),
    column("alone.token_time", "token alone", Change, "time of a token with it over that without it, less 1").if_any(),
    column("last.token_time", "last", Change, "").if_any(),
    column("last.with", "with", Text, "the strategy that it is part of").detail(),
    column("last.without", "without", Text, "the strategy without it").detail(),
    column("reason", "not run", Text, "why one of the two cannot be had").if_any(),
];

/// What the table cannot say for itself.
const READ: &str = "Alone: added to raw+lru+none+gpu+full (a mechanism: to its bare part on that). Last: added to all the \
                    others. Differences of shares are in points, those of times relative; below zero is less.";

/// A table for each strategy, and all that ran for it.
pub(super) fn page(trace: &Trace, plan: &Plan<'_>) -> Result<Page> {
    let found = ablation::run(trace, plan)?;
    let all = Table::new(&ABLATION, &found.rows);
    let runs = section(&found.outcome);
    let of = |name: String| {
        let rows: Vec<_> = found.rows.iter().filter(|row| row.strategy == name).collect();
        Table::new(&ABLATION, &rows).titled(format!("What the parts of {name} are worth"))
    };
    let mut tables: Vec<Table> = plan.strategies.iter().map(|strategy| of(strategy.to_string())).collect();
    tables.push(rows(&found.outcome).titled("All that ran"));
    let figures = plan.strategies.iter().map(|strategy| figure(&strategy.to_string(), &all.rows)).collect();
    let section = Section { tables, remarks: vec![READ.into()], figures, ..runs };
    let answer = answer(&all.rows);
    let page = Page::new(all).section(section).answered(answer);
    let runs = value(&found.outcome.rows);
    Ok(page.beside("trace", &found.outcome.trace).beside("runs", &runs).beside("skipped", &found.outcome.skipped))
}

/// What is attributed: time where there is one, else stalls.
fn of(rows: &[Value]) -> (&'static str, &'static str) {
    if rows.iter().any(|row| row["last"]["token_time"].is_number()) {
        ("token_time", "the time of a token")
    } else {
        ("stall_rate", "stalls per choice")
    }
}

/// The part that is worth most beside all the others.
fn answer(rows: &[Value]) -> Option<String> {
    let (key, name) = of(rows);
    let worth = |row: &&Value| number(&row["last"], key);
    let parts = rows.iter().filter(|row| row["axis"] != "all" && worth(row).is_finite());
    let best = parts.min_by(|a, b| worth(a).total_cmp(&worth(b)))?;
    let text = |key: &str| best[key].as_str().unwrap_or_default();
    Some(format!(
        "Of the parts of {}, the {} {} in place of {} is worth most beside all the others: it changes {name} by {} ({} \
         alone).",
        text("strategy"),
        text("axis"),
        text("part"),
        text("instead"),
        format::change(worth(&best)),
        format::change(number(&best["alone"], key))
    ))
}

/// What each part of a strategy is worth, alone and last.
fn figure(strategy: &str, rows: &[Value]) -> String {
    let (key, name) = of(rows);
    let strip = |row: &Value| Strip {
        name: row["part"].as_str().unwrap_or_default().into(),
        values: ["alone", "last"].map(|when| number(&row[when], key)).into(),
        label: String::new(),
        strong: row["axis"] == "all",
    };
    Strips {
        title: &format!("What the parts of {strategy} change of {name}"),
        caption: "To the left of zero is a gain. Marks that are far apart: the part does what another does too, or \
                  only works with another.",
        series: &["alone", "last, beside all the others"],
        look: Look::Marks,
        tick: format::change,
        rows: rows.iter().filter(|row| row["strategy"] == strategy).map(strip).collect(),
    }
    .figure()
}
