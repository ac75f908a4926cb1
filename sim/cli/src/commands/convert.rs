//! `cptr convert`, and the row of a trace that was written.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::about::About;
use super::source::Reading;
use crate::columns::Format::{Count, Plain, Text};
use crate::columns::{Column, Page, Table, column, format};
use cptr_trace::Trace;
use cptr_trace::error::Result;
use cptr_trace::export::{self, EXPORTERS};
use cptr_trace::import::Recording;

#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("Formats that are written:\n{}", formats_help()))]
pub(super) struct Args {
    /// Trace file, folder or archive (.tar, .gz, .zst) of any known format; - is the standard input
    #[arg(value_name = "TRACE")]
    source: PathBuf,
    #[command(flatten)]
    reading: Reading,
    /// File to write; replaced only once the whole of it is written
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Format to write
    #[arg(long, value_name = "NAME", value_parser = format_name, default_value = "native")]
    to: String,
    /// Experts of each layer that fast memory holds, for formats that say which they are
    #[arg(long, value_name = "N")]
    resident: Option<usize>,
    /// Share of the sequences that want an expert from which on it is for all of them (flash-moe)
    #[arg(long, value_name = "SHARE", default_value_t = export::Options::default().threshold)]
    threshold: f64,
}

pub(super) static WRITTEN: [Column; 9] = [
    column("out", "written", Text, ""),
    column("model", "model", Text, ""),
    column("tokens", "tokens", Count, "").if_any(),
    column("sequences", "sequences", Count, "").if_any(),
    column("layers", "layers", Plain, "").if_any(),
    column("experts", "experts", Plain, "").if_any(),
    column("k", "k", Plain, "").if_any(),
    column("tables", "tables of counts", Count, "").if_any(),
    column("tokens_per_s", "tokens/s", Count, "").if_any(),
];

/// What a trace is, for those who had it written.
pub(super) fn row(out: &Path, trace: &Trace) -> serde_json::Value {
    let shape = trace.shape;
    let sequences = trace.sequence.last().map_or(0, |last| last + 1);
    json!({
        "out": out, "model": trace.meta.model, "tokens": shape.tokens, "sequences": sequences, "layers": shape.layers,
        "experts": shape.experts, "k": shape.k,
    })
}

/// Its page.
pub(super) fn page(row: serde_json::Value, notes: Vec<String>) -> Page {
    let answer = match row["tokens"].as_u64() {
        Some(tokens) => format!(
            "{}: {} tokens, {} layers of {} experts, {} a token.",
            row["out"].as_str().unwrap_or_default(),
            format::count(tokens as usize),
            row["layers"],
            row["experts"],
            row["k"]
        ),
        None => format!("{}: {} tables of counts.", row["out"].as_str().unwrap_or_default(), row["tables"]),
    };
    Page::new(Table::new(&WRITTEN, &[row])).answered(answer).notes(notes)
}

pub(super) fn written(out: &Path, trace: &Trace) -> Page {
    page(row(out, trace), trace.notes.clone())
}

fn format_name(name: &str) -> std::result::Result<String, String> {
    let names: Vec<_> = EXPORTERS.iter().map(|exporter| exporter.name()).collect();
    if names.contains(&name) { Ok(name.into()) } else { Err(format!("expected one of {}", names.join(", "))) }
}

fn formats_help() -> String {
    EXPORTERS.iter().map(|exporter| format!("  {:<15} {}\n", exporter.name(), exporter.about())).collect()
}

pub(super) static ABOUT: About = About {
    rows: &[&WRITTEN],
    examples: &[
        ("cptr convert tiny-moe-8m.safetensors rust.safetensors --domain rust", "one domain of a recording"),
        ("cptr convert gpt-oss-20b.safetensors counts.json --to eplb", "counts for engines that place experts by them"),
    ],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let recording = args.reading.read(&args.source)?;
    let options = export::Options { resident: args.resident, threshold: args.threshold };
    export::write(&args.to, &recording, &options, &args.out)?;
    Ok(match recording {
        Recording::Tokens(trace) => written(&args.out, &trace),
        Recording::Counts(counts) => {
            let model = counts.tables.first().map_or("", |table| &table.model);
            let row = json!({"out": args.out, "model": model, "tables": counts.tables.len()});
            page(row, counts.notes)
        }
    })
}
