//! `cptr inspect`.

use super::source::Source;
use crate::inspect::{print, print_counts};
use cptr_trace::error::Result;
use cptr_trace::import::Recording;
use cptr_trace::progress::Progress;
use cptr_trace::statistics::{Options, inspect, inspect_counts};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Cache sizes for the hit rates, experts per layer (default: eight from k to E)
    #[arg(long, value_name = "N", value_delimiter = ',')]
    cache: Vec<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Result<()> {
    match args.source.read()? {
        Recording::Tokens(trace) => {
            let working = Progress::unknown("inspecting");
            let report = inspect(&trace, &Options { cache_sizes: args.cache.clone() });
            drop(working);
            if args.json { super::print_json(&report) } else { super::print(&print(&report)) }
        }
        Recording::Counts(counts) => {
            let report = inspect_counts(&counts);
            if args.json { super::print_json(&report) } else { super::print(&print_counts(&report)) }
        }
    }
}
