//! `cptr detect`.

use super::source::Source;
use super::table;
use crate::format::optional;
use cptr_sim::detect;
use cptr_trace::error::{Error, Result};
use cptr_trace::import::Recording;
use cptr_trace::progress::Progress;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Thresholds of the detectors, in usual deviations
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "12,16,20,24")]
    threshold: Vec<u8>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Result<()> {
    let Recording::Tokens(trace) = args.source.read()? else {
        return Err(Error::new("expected a trace of tokens, found counts, which have no order"));
    };
    let working = Progress::unknown("detecting");
    let rows = detect::run(&trace, &args.threshold);
    drop(working);
    super::remark(&trace.notes);
    if args.json {
        return super::print_json(&rows);
    }
    let cells = |row: &detect::Row| {
        vec![
            row.detector.clone(),
            row.alarms.to_string(),
            format!("{:.1}", row.false_alarms_per_10k),
            row.changes.to_string(),
            row.missed.to_string(),
            optional(row.median_delay, |delay| delay.to_string()),
            optional(row.longest_delay.map(|delay| delay as f64), |delay| delay.to_string()),
        ]
    };
    let header = ["detector", "alarms", "false per 10k", "changes", "missed", "median delay", "longest"];
    super::print(&table::aligned(&header, 1, rows.iter().map(cells)))
}
