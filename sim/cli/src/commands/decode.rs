//! `cptr decode`.

use std::path::PathBuf;

use cptr_hw_model::System;

use super::run::{Machine, parameters};
use super::source::Source;
use super::table;
use crate::format;
use cptr_sim::decode::outcome::{Outcome, Row};
use cptr_sim::decode::{self, Plan};
use cptr_sim::scheme::{KINDS, Named};
use cptr_trace::LossTable;
use cptr_trace::error::{Error, Result};
use cptr_trace::import::Recording;

#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Schemes with their parameters, such as ctx-aware,cptr:rate=0.5 (default: all)
    #[arg(long, value_name = "NAME[:PARAMETER=VALUE]…", value_delimiter = ',')]
    scheme: Vec<String>,
    /// Experts per layer that fit in GPU memory (default: a quarter of them)
    #[arg(long, value_name = "N")]
    hot: Option<usize>,
    /// Tokens at the start that are the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    prefill: usize,
    /// Sequences decoded side by side: equal parts of the trace
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// What each expert loses at 1 to 4 bits, as `cptr quantize` writes it: for the bit selector, and for the column "loss"
    #[arg(long, value_name = "CSV")]
    losses: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Result<()> {
    let Recording::Tokens(trace) = args.source.read()? else {
        return Err(Error::new("expected a trace of tokens, found counts, which have no order"));
    };
    let system = args.machine.system_or("ndp")?;
    let model = args.machine.known_model(&trace.meta.model)?;
    let losses = args.losses.as_deref().map(LossTable::read).transpose()?;
    let plan = Plan {
        schemes: schemes(&args.scheme)?,
        hot: args.hot.unwrap_or(trace.shape.experts / 4).max(usize::from(args.hot.is_none())),
        prefill: args.prefill,
        batch: args.batch,
        bits: bits(&system)?,
        system: &system,
        model: &model,
        losses: losses.as_ref(),
    };
    let outcome = decode::run(&trace, &plan)?;
    super::remark(&trace.notes);
    super::remark(&outcome.skipped.iter().map(|(scheme, why)| format!("Not run: {scheme} {why}.")).collect::<Vec<_>>());
    if args.json { super::print_json(&outcome) } else { super::print(&text(&outcome)) }
}

fn schemes(names: &[String]) -> Result<Vec<Named>> {
    let all: Vec<String> = KINDS.iter().map(|kind| kind.name.into()).collect();
    (if names.is_empty() { &all } else { names }).iter().map(|name| Named::parse(name)).collect()
}

/// Whole bits per weight near the data.
pub(super) fn bits(system: &System) -> Result<u8> {
    match system.ndp_bits {
        bits if bits.fract() == 0.0 && (1.0..=16.0).contains(&bits) => Ok(bits as u8),
        bits => Err(Error::new(format!("--bits: expected 1 to 4, or 16, found {bits}"))),
    }
}

/// The table of an outcome, with one line above that says what was run.
pub(super) fn text(outcome: &Outcome) -> String {
    let trace = &outcome.trace;
    let mut text = format!(
        "{}: {} layers x {} experts, top-{}; {} of {} experts a layer in GPU memory; {} tokens of prompt, {} steps decoded, batch {}\n\
         cold experts at {} bits; system {}; times {}\n",
        outcome.model,
        trace.layers,
        trace.experts,
        trace.k,
        outcome.hot,
        trace.experts,
        outcome.prefill,
        format::count(outcome.steps),
        outcome.batch,
        outcome.bits,
        outcome.system,
        outcome.time_method
    );
    let changes = outcome.rows.iter().any(|row| row.after_change.is_some());
    let mut header = vec![
        "scheme",
        "tokens/s",
        "to single",
        "P50",
        "P95",
        "P99",
        "full precision",
        "hit",
        "waited",
        "hidden",
        "link",
    ];
    let losses = outcome.rows.iter().any(|row| row.loss.is_some());
    if losses {
        header.push("loss");
    }
    if changes {
        header.extend(["tokens/s after", "full after"]);
    }
    text += &table::aligned(&header, 1, outcome.rows.iter().map(|row| cells(row, losses, changes)));
    if outcome.rows.iter().any(|row| row.oracle) {
        text += "* sees the future: a bound, not a system\n";
    }
    if let Some(step) = outcome.first_change {
        text += &format!("after: from the first change of domain on, {} steps into decoding\n", format::count(step));
    }
    text
}

fn cells(row: &Row, losses: bool, changes: bool) -> Vec<String> {
    let time = format::microseconds;
    let mut cells = vec![
        format!("{}{}", row.scheme, if row.oracle { " *" } else { "" }),
        format!("{:.1}", row.tokens_per_s),
        format::optional(row.ratio_to_single, format::ratio),
        time(row.token_time_p50_us),
        time(row.token_time_p95_us),
        time(row.token_time_p99_us),
        format::percent(row.full_precision),
        format::percent(row.coverage),
        format!("{:.2}", row.awaited_copies),
        format!("{:.2}", row.hidden_copies),
        format::percent(row.link_busy),
    ];
    if losses {
        cells.push(format::optional(row.loss, |loss| format!("{loss:.5}")));
    }
    if changes {
        cells.push(format::optional(row.after_change.map(|after| after.tokens_per_s), |rate| format!("{rate:.1}")));
        cells.push(format::optional(row.after_change.map(|after| after.full_precision), format::percent));
    }
    cells
}

fn help() -> String {
    let mut text = String::from("Schemes:\n");
    for kind in KINDS {
        text +=
            &format!("  {:<12} {} [needs {}]\n{}", kind.name, kind.summary, kind.needs, parameters(kind.parameters));
    }
    text
}
