//! `cptr convert`, and the row of a trace that was written.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::source::Reading;
use crate::columns::Format::{Count, Plain, Text};
use crate::columns::{Column, Page, Table, column};
use cptr_trace::Trace;
use cptr_trace::error::Result;
use cptr_trace::import::Recording;
use cptr_trace::native;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Trace file, folder or archive (.tar, .tar.zst, .zst) of any known format
    #[arg(value_name = "TRACE")]
    source: PathBuf,
    #[command(flatten)]
    reading: Reading,
    /// File to write in the native format (safetensors); replaced only once the whole of it is written
    #[arg(value_name = "OUT")]
    out: PathBuf,
}

static WRITTEN: [Column; 9] = [
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
    Page::new(Table::new(&WRITTEN, &[row])).notes(notes)
}

pub(super) fn written(out: &Path, trace: &Trace) -> Page {
    page(row(out, trace), trace.notes.clone())
}

pub(super) fn main(args: &Args) -> Result<Page> {
    match args.reading.read(&args.source)? {
        Recording::Tokens(trace) => {
            native::write(&trace, &args.out)?;
            Ok(written(&args.out, &trace))
        }
        Recording::Counts(counts) => {
            native::write_counts(&counts, &args.out)?;
            let model = counts.tables.first().map_or("", |table| &table.model);
            let row = json!({"out": args.out, "model": model, "tables": counts.tables.len()});
            Ok(page(row, counts.notes))
        }
    }
}
