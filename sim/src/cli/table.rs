//! Rows as tables for people.

use std::ops::Range;

use comfy_table::{CellAlignment, Table, presets};

use crate::format;
use crate::run::counts::CountRow;
use crate::run::outcome::{Outcome, Row};

/// The rows of a run, with one line above that says what was run.
pub(super) fn outcome(outcome: &Outcome) -> String {
    let trace = &outcome.trace;
    let model = if trace.model.is_empty() { "unknown model" } else { &trace.model };
    let mut text = format!(
        "{model}: {} tokens, {} layers x {} experts, top-{}; {}\ncache {} experts a layer; system {}; times {}\n",
        trace.tokens,
        trace.layers,
        trace.experts,
        trace.k,
        trace.recorded,
        outcome.cache,
        outcome.system,
        outcome.time_method
    );
    let header = ["policy", "placement", "switch", "miss", "mass loss", "agree", "token", "P99", "to raw"];
    text += &aligned(&header, 2, outcome.rows.iter().map(cells));
    if outcome.rows.iter().any(|row| row.oracle) {
        text += "* sees the future: a bound on misses, not a policy\n";
    }
    let context = &outcome.context;
    text += &format!(
        "context: {:.1} dB over the innovation, locked {} of the time, {} changes\n",
        context.snr_db,
        format::percent(context.locked_share),
        context.changes.len()
    );
    text
}

fn cells(row: &Row) -> Vec<String> {
    let time = |time| format::optional(time, format::microseconds);
    vec![
        row.policy.clone(),
        format!("{}{}", row.placement, if row.oracle { " *" } else { "" }),
        format::optional(row.switch_rate, format::percent),
        format::percent(row.miss_rate),
        format::percent(row.mass_loss),
        format::percent(row.agreement),
        time(row.token_time_us),
        time(row.token_time_p99_us),
        format::optional(row.ratio_to_raw, format::ratio),
    ]
}

/// The rows of count tables.
pub(super) fn counts(rows: &[CountRow]) -> String {
    let header = ["table", "policy", "placement", "cache", "miss", "if uniform"];
    let cells = |row: &CountRow| {
        vec![
            row.table.clone(),
            row.policy.into(),
            row.placement.into(),
            row.cache.to_string(),
            format::percent(row.miss_rate),
            format::percent(row.miss_rate_uniform),
        ]
    };
    aligned(&header, 3, rows.iter().map(cells))
}

/// A table whose columns from `numbers` on are aligned to the right.
pub(super) fn aligned(header: &[&str], numbers: usize, rows: impl Iterator<Item = Vec<String>>) -> String {
    with_numbers(header, numbers..header.len(), rows)
}

/// A table whose columns `numbers` are aligned to the right.
pub(super) fn with_numbers(header: &[&str], numbers: Range<usize>, rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header.to_vec()).add_rows(rows);
    for column in table.column_iter_mut().take(numbers.end).skip(numbers.start) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}
