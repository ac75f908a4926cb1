//! `cptr devices`.

use super::run::{Machine, parameters};
use super::source::Source;
use super::table;
use crate::format::{percent, ratio};
use cptr_sim::devices::{self, KINDS, Named, Plan, Row};
use cptr_trace::error::{Error, Result};
use cptr_trace::import::Recording;

#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Layouts with their parameters, such as balanced,overflow:replicated=0.5 (default: all)
    #[arg(long, value_name = "NAME[:PARAMETER=VALUE]…", value_delimiter = ',')]
    homes: Vec<String>,
    /// Near-data devices
    #[arg(long, value_name = "N", default_value_t = 4)]
    devices: usize,
    /// Tokens at the start of each sequence that are its prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    prefill: usize,
    /// Sequences decoded side by side: equal parts of the trace
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
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
    let all: Vec<String> = KINDS.iter().map(|kind| kind.name.into()).collect();
    let names = if args.homes.is_empty() { &all } else { &args.homes };
    let plan = Plan {
        layouts: names.iter().map(|name| Named::parse(name)).collect::<Result<_>>()?,
        devices: args.devices,
        prefill: args.prefill,
        batch: args.batch,
        bits: super::decode::bits(&system)?,
        system: &system,
        model: &model,
    };
    let rows = devices::run(&trace, &plan)?;
    super::remark(&trace.notes);
    if args.json {
        return super::print_json(&rows);
    }
    let first = rows.first().map_or(0.0, |row| row.layer_us);
    let cells = |row: &Row| {
        vec![
            row.layout.clone(),
            format!("{:.2}", row.layer_us),
            format!("{:.2}", row.layer_p95_us),
            ratio(first / row.layer_us),
            format!("{:.2}", row.imbalance),
            percent(row.stays),
            format!("{:.2}", row.stored),
        ]
    };
    let header = ["layout", "layer us", "P95 us", "speed", "imbalance", "stays", "stored"];
    super::print(&table::aligned(&header, 1, rows.iter().map(cells)))
}

fn help() -> String {
    let mut text = String::from("Layouts:\n");
    for kind in KINDS {
        text += &format!("  {:<12} {}\n{}", kind.name, kind.summary, parameters(kind.parameters));
    }
    text
}
