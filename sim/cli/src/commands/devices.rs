//! `cptr devices`.

use std::path::PathBuf;

use super::about::About;
use super::machine::{Machine, whole_bits};
use super::source::Reading;
use crate::columns::Format::{Microseconds, Number, Percent, Ratio, Text};
use crate::columns::{Column, Page, Section, Table, column, format, value};
use crate::report::number;
use crate::report::strips::{Look, Strip, Strips};
use cptr_sim::devices::{self, KINDS, Plan};
use cptr_trace::error::Result;
use serde_json::Value;

#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub(super) struct Args {
    /// Trace file, folder or archive of any known format
    #[arg(value_name = "TRACE")]
    source: PathBuf,
    #[command(flatten)]
    pub(super) reading: Reading,
    /// Layouts with their parameters, such as balanced,overflow:replicated=0.5 (default: all)
    #[arg(long, value_name = "NAME[:PARAMETER=VALUE]…", value_delimiter = ',')]
    homes: Vec<String>,
    /// Near-data devices
    #[arg(long, value_name = "N", default_value_t = 4)]
    devices: usize,
    /// Switches between the GPU and each device (default: one where there are several devices)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=16))]
    switches: Option<u32>,
    /// Tokens at the start of each sequence that are its prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    prefill: usize,
    /// Sequences decoded side by side: equal parts of the trace
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    #[command(flatten)]
    machine: Machine,
}

static COLUMNS: [Column; 9] = [
    column("layout", "layout", Text, ""),
    column("layer_us", "layer", Microseconds, "mean time of the most loaded device in a layer"),
    column("layer_p95_us", "P95", Microseconds, ""),
    column("away_us", "away", Microseconds, "mean time from dispatch to the last result"),
    column("link_bytes", "link bytes", Number(0), "on the GPU's link in a layer, both ways, mean"),
    column("ratio_to_first", "to first", Ratio, "time of a layer over that of the first layout"),
    column("imbalance", "imbalance", Number(2), "the most loaded device over the mean of all"),
    column("stays", "stays", Percent, "choices on a device on which the token was in the layer before"),
    column("stored", "stored", Number(2), "experts stored over the experts that there are"),
];

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS],
    examples: &[("cptr devices gpt-oss-20b.safetensors --devices 4", "where the experts should lie on four devices")],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let trace = args.reading.tokens(&args.source)?;
    let system = args.machine.system_or("ndp")?;
    let model = args.machine.known_model(&trace.meta.model)?;
    let all: Vec<String> = KINDS.iter().map(|kind| kind.name.into()).collect();
    let names = if args.homes.is_empty() { &all } else { &args.homes };
    let plan = Plan {
        layouts: names.iter().map(|name| devices::parse(name)).collect::<Result<_>>()?,
        devices: args.devices,
        switches: args.switches.unwrap_or(u32::from(args.devices > 1)),
        prefill: args.prefill,
        batch: args.batch,
        bits: whole_bits(&system)?,
        system: &system,
        model: &model,
    };
    let rows = devices::run(&trace, &plan)?;
    let first = rows.first().map_or(f64::NAN, |row| row.layer_us);
    let with_ratio = |row: &devices::Row| {
        let mut all = value(row);
        all["ratio_to_first"] = value(&(row.layer_us / first));
        all
    };
    let rows: Vec<_> = rows.iter().map(with_ratio).collect();
    let table = Table::new(&COLUMNS, &rows);
    let section = Section { figures: vec![figure(&rows)], ..Section::of([], table.clone()) };
    Ok(Page::new(table).section(section).answered(answer(&rows)).notes(trace.notes))
}

/// The layout with the shortest layer.
fn answer(rows: &[Value]) -> Option<String> {
    let best = rows.iter().min_by(|a, b| number(a, "layer_us").total_cmp(&number(b, "layer_us")))?;
    let name = |row: &Value| row["layout"].as_str().unwrap_or_default().to_owned();
    Some(format!(
        "Of {} layouts {} is the fastest: {} a layer, {} of {}'s, with {} of the experts stored once more.",
        rows.len(),
        name(best),
        format::microseconds(number(best, "layer_us")),
        format::ratio(number(best, "ratio_to_first")),
        name(&rows[0]),
        format::percent(number(best, "stored") - 1.0)
    ))
}

fn figure(rows: &[Value]) -> String {
    let strip = |row: &Value| Strip {
        name: row["layout"].as_str().unwrap_or_default().into(),
        values: ["layer_us", "layer_p95_us"].map(|key| number(row, key)).into(),
        label: format!("imbalance {}", format::decimals(number(row, "imbalance"), 2)),
        strong: false,
    };
    Strips {
        title: "Time of a layer, by layout",
        caption: "Of the most loaded device: the mean over layers and tokens, and the tail that a token waits for.",
        series: &["mean", "P95"],
        look: Look::Marks,
        tick: format::microseconds,
        rows: rows.iter().map(strip).collect(),
    }
    .figure()
}

fn help() -> String {
    let mut text = String::from("Layouts:\n");
    for kind in KINDS {
        text += &format!("  {:<12} {}\n", kind.name, kind.summary);
        for p in kind.parameters {
            text += &format!("      {} = {} ({}): {}\n", p.name, p.default_text(), p.unit, p.summary);
        }
    }
    text
}
