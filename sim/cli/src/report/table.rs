//! The numbers of a section: one line on the trace, the rows, and what was left out.

use super::markup::escape;
use super::rows::Role;
use crate::format;
use cptr_sim::run::outcome::{Outcome, Row};

/// One line on what was run.
pub(super) fn facts(outcome: &Outcome) -> String {
    let trace = &outcome.trace;
    let plural =
        |number: usize, what: &str| format!("{} {what}{}", format::count(number), if number == 1 { "" } else { "s" });
    let cached = format::percent(outcome.cache as f64 / trace.experts as f64);
    let times = match &outcome.model {
        Some(model) => format!("times for {model} ({})", outcome.time_method),
        None => "no times: the sizes of the model are unknown".into(),
    };
    let facts = [
        if trace.model.trim().is_empty() { "model not named".into() } else { trace.model.clone() },
        plural(trace.tokens, "token"),
        format!("{} × {}", plural(trace.layers, "layer"), plural(trace.experts, "expert")),
        format!("top-{}", trace.k),
        trace.recorded.clone(),
        format!("cache {} per layer ({cached})", plural(outcome.cache, "expert")),
        outcome.system.clone(),
        times,
    ];
    let spans: String = facts.iter().map(|fact| format!("<span>{}</span>", escape(fact))).collect();
    format!("<p class=\"facts\">{spans}</p>\n")
}

type Column = (&'static str, fn(&Row) -> String);

const RATES: &[Column] = &[
    ("Switch rate", |row| format::optional(row.switch_rate, format::percent)),
    ("Miss rate", |row| format::percent(row.miss_rate)),
    ("Mass loss", |row| format::percent(row.mass_loss)),
    ("Agreement", |row| format::percent(row.agreement)),
];

const TIMES: &[Column] = &[
    ("Token time", |row| format::optional(row.token_time_us, format::microseconds)),
    ("P95", |row| format::optional(row.token_time_p95_us, format::microseconds)),
    ("P99", |row| format::optional(row.token_time_p99_us, format::microseconds)),
    ("Energy", |row| format::optional(row.energy_uj_per_token, format::microjoules)),
    ("Ratio to raw", |row| format::optional(row.ratio_to_raw, format::ratio)),
];

/// The rows as a table; columns of times only where there are times.
pub(super) fn rows(outcome: &Outcome) -> String {
    if outcome.rows.is_empty() {
        return "<p class=\"note\">No row was run.</p>\n".into();
    }
    let has_times = outcome.rows.iter().any(|row| row.token_time_us.is_some());
    let columns: Vec<&Column> = RATES.iter().chain(if has_times { TIMES } else { &[] }).collect();
    let head: String = columns.iter().map(|(name, _)| format!("<th scope=\"col\">{name}</th>")).collect();
    let body: String = outcome.rows.iter().enumerate().map(|(index, row)| table_row(index, row, &columns)).collect();
    let bounds = if outcome.rows.iter().any(|row| row.oracle) {
        " Rows marked “bound” see the future: no real placement can do what they do."
    } else {
        ""
    };
    format!(
        "<div class=\"wide\">\n<table>\n<thead><tr><th scope=\"col\" class=\"name\">Policy</th>\
         <th scope=\"col\" class=\"name\">Placement</th>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n\
         <p class=\"note\">Switch rate: experts run that the previous token did not run. Miss rate: experts run that were not in \
         fast memory. Mass loss: wanted routing mass given up. Agreement: experts run that the model wanted.{bounds}</p>\n"
    )
}

fn table_row(index: usize, row: &Row, columns: &[&Column]) -> String {
    let (class, mark) = match Role::of(index, row) {
        Role::Bound => (" class=\"bound\"", " (bound)"),
        Role::Cptr => (" class=\"cptr\"", ""),
        _ => ("", ""),
    };
    let cells: String = columns.iter().map(|(_, cell)| format!("<td>{}</td>", escape(&cell(row)))).collect();
    let (policy, placement) = (escape(&row.policy), escape(&row.placement));
    format!(
        "<tr{class}><th scope=\"row\" class=\"name\">{policy}</th><th class=\"name\">{placement}{mark}</th>{cells}</tr>\n"
    )
}

/// Rows that were left out, with the reason; nothing if there are none.
pub(super) fn skipped(outcome: &Outcome) -> String {
    if outcome.skipped.is_empty() {
        return String::new();
    }
    let item = |row: &cptr_sim::run::outcome::Skipped| {
        let text = format!("{} with {}: {}", row.policy, row.placement, row.reason);
        format!("<li>{}</li>\n", escape(&text))
    };
    let items: String = outcome.skipped.iter().map(item).collect();
    format!("<div class=\"skipped\">Not run:\n<ul>\n{items}</ul>\n</div>\n")
}
