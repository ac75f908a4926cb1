//! Rows as tables for people.

use std::ops::Range;

use comfy_table::{CellAlignment, Table, presets};

use crate::eval;
use crate::format;
use cptr_sim::run::controller::Report;
use cptr_sim::run::counts::CountRow;
use cptr_sim::run::outcome::{Outcome, Row};

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

/// What a controller in the loop has done, below the table of its rows.
pub(super) fn controller(report: &Report) -> String {
    let after = match report.prompt_tokens {
        0 => String::new(),
        prompt => format!(" after a prompt of {}", format::count(prompt)),
    };
    let mut text = format!(
        "controller {}: {} requests for {} tokens{after} x {} layers, every decision the policy's; {} jobs near the data, {} losses of lock\n",
        report.controller,
        format::count(report.requests as usize),
        format::count(report.tokens),
        report.layers,
        format::count(report.jobs as usize),
        report.lost_locks
    );
    let instructions = |mean: Option<f64>| mean.map(|mean| format::count(mean.round() as usize));
    let counted =
        [report.select_instructions, report.decide_instructions, report.update_instructions].map(instructions);
    if let [Some(select), Some(decide), Some(update)] = counted {
        text += &format!(
            "instructions per token and layer: select {select}, request to answer {decide}, update {update}\n"
        );
    }
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

/// The rows of an evaluation, and below them the curves of policies against each other.
pub(super) fn evaluation(outcome: &eval::outcome::Outcome) -> String {
    let mut text = format!(
        "{}: {} layers x {} experts, top-{}; {} documents, {} tokens; perplexity {:.3}\ncache {} experts a layer; system {}\n",
        outcome.model,
        outcome.layers,
        outcome.experts,
        outcome.k,
        format::count(outcome.documents),
        format::count(outcome.tokens),
        outcome.perplexity,
        outcome.cache,
        outcome.system
    );
    let header = [
        "policy",
        "placement",
        "bits",
        "perplexity",
        "95 %",
        "divergence",
        "switch",
        "miss",
        "to raw",
        "mass loss",
        "token",
    ];
    let change = |change: f64| format!("{:+.2} %", change * 100.0);
    let cells = |row: &eval::outcome::Row| {
        let [low, high] = row.perplexity_change_interval;
        vec![
            row.policy.clone(),
            format!("{}{}", row.placement, if row.oracle { " *" } else { "" }),
            row.bits.clone(),
            change(row.perplexity_change),
            format!("{:+.2} to {:+.2}", low * 100.0, high * 100.0),
            format!("{:.5}", row.divergence_nats),
            format::optional(row.switch_rate, format::percent),
            format::percent(row.miss_rate),
            format::ratio(row.misses_to_raw),
            format::percent(row.mass_loss),
            format::microseconds(row.token_time_us),
        ]
    };
    text += &aligned(&header, 3, outcome.rows.iter().map(cells));
    if outcome.rows.iter().any(|row| row.oracle) {
        text += "* sees the future: a bound on misses, not a policy\n";
    }
    if !outcome.verdicts.is_empty() {
        text += "\nMisses at the same price, between the settings above:\n";
        let header = ["policy", "placement", "price", "miss", "fewer than raw LRU", "fewer than cache-prior LRU"];
        let cells = |verdict: &eval::Verdict| {
            vec![
                verdict.policy.clone(),
                verdict.placement.clone(),
                match verdict.price {
                    eval::Price::PerplexityChange => format!("perplexity {}", change(verdict.paid)),
                    eval::Price::DivergenceNats => format!("divergence {}", verdict.paid),
                },
                format::percent(verdict.miss_rate),
                format::percent(verdict.fewer_than_raw),
                format::optional(verdict.fewer_than_cache_prior, format::percent),
            ]
        };
        text += &aligned(&header, 2, outcome.verdicts.iter().map(cells));
    }
    text
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
