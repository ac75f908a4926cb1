//! `cptr reproduce`.

use super::table;
use cptr_sim::reproduce::{self, Figure, Reproduction, Shares};
use cptr_trace::error::Result;
use cptr_trace::progress::Progress;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to reproduce
    #[arg(value_name = "WHAT")]
    what: What,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// Context-aware placement on a CXL near-data device (arXiv 2512.04476)
    CtxAware,
}

pub(super) fn main(args: &Args) -> Result<()> {
    let What::CtxAware = args.what;
    let working = Progress::unknown("reproducing");
    let found = reproduce::context_aware()?;
    drop(working);
    if args.json { super::print_json(&found) } else { super::print(&text(&found)) }
}

fn text(found: &Reproduction) -> String {
    let figure = |figure: &Figure| {
        let (low, high) = figure.published;
        let range = if low == high { format!("{low}") } else { format!("{low} to {high}") };
        let value = |value: f64| format!("{value:.2} {}", if figure.holds(value) { "in " } else { "out" });
        vec![
            format!("{}, {} bits", figure.model, figure.bits),
            figure.figure.into(),
            range,
            value(figure.moves),
            value(figure.stays),
            value(figure.moves_fixed_rate),
        ]
    };
    let header = ["model", "figure", "published", "baseline copies", "baseline stays", "copies, fixed rate"];
    let mut text = table::aligned(&header, 2, found.figures.iter().map(figure));
    text += "in: within the published range, or within 15 % of a single figure. 128 tokens of prompt, 2,048 decoded, traces imitated.\n\
             baseline copies: its most wanted expert of each token runs on the GPU, copied if it is not there; stays: nothing is worth a copy.\n\
             fixed rate: arrays that do not multiply faster at fewer bits.\n\n";
    let shares = |shares: &Shares| {
        let rate = |rate: f64| format!("{rate:.1}");
        vec![
            format!("{}, {} bits", shares.model, shares.bits),
            rate(shares.neither),
            rate(shares.placement),
            rate(shares.precision),
            rate(shares.both),
            rate(shares.without_selector),
        ]
    };
    let header = ["tokens/s", "neither", "placement only", "precision only", "both", "without selector"];
    text + &table::aligned(&header, 1, found.shares.iter().map(shares))
}
