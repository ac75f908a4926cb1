//! `cptr predict`.

use super::source::Source;
use super::table;
use crate::format::percent;
use cptr_sim::predict::{self, Row};
use cptr_trace::error::{Error, Result};
use cptr_trace::import::Recording;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Tokens of the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    prefill: usize,
    /// Experts per layer that are placed (default: a quarter of them)
    #[arg(long, value_name = "N")]
    hot: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Result<()> {
    let Recording::Tokens(trace) = args.source.read()? else {
        return Err(Error::new("expected a trace of tokens, found counts, which have no order"));
    };
    let hot = args.hot.unwrap_or_else(|| (trace.shape.experts / 4).max(1));
    let rows = predict::run(&trace, args.prefill, hot)?;
    super::remark(&trace.notes);
    if args.json {
        return super::print_json(&rows);
    }
    let cells = |row: &Row| {
        vec![
            row.prompt.clone(),
            row.answer.clone(),
            format!("{:.3}", row.cosine),
            format!("{:.3}", row.lowest_cosine),
            percent(row.coverage),
            percent(row.best_coverage),
            percent(row.chance),
        ]
    };
    let header = ["prompt", "answer", "cosine", "lowest layer", "covered", "best fixed set", "chance"];
    super::print(&table::aligned(&header, 2, rows.iter().map(cells)))
}
