//! `cptr reproduce`.

use crate::columns::Format::{Flag, Number, Plain, Text};
use crate::columns::{Column, Page, Section, Table, column, value};
use cptr_sim::reproduce::{self, Figure};
use cptr_trace::error::Result;
use cptr_trace::progress::Progress;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to reproduce
    #[arg(value_name = "WHAT")]
    what: What,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// Context-aware placement on a CXL near-data device (arXiv 2512.04476)
    CtxAware,
}

static FIGURES: [Column; 11] = [
    column("model", "model", Text, ""),
    column("bits", "bits", Plain, ""),
    column("figure", "figure", Text, ""),
    column("published.0", "published", Number(2), ""),
    column("published.1", "to", Number(2), ""),
    column(
        "moves",
        "baseline copies",
        Number(2),
        "its most wanted expert of each token runs on the GPU, copied if it is not there",
    ),
    column("moves_holds", "in", Flag, ""),
    column("stays", "baseline stays", Number(2), "nothing is worth a copy"),
    column("stays_holds", "in", Flag, ""),
    column("moves_fixed_rate", "copies, fixed rate", Number(2), "arrays that do not multiply faster at fewer bits"),
    column("moves_fixed_rate_holds", "in", Flag, ""),
];

static SHARES: [Column; 7] = [
    column("model", "tokens/s", Text, ""),
    column("bits", "bits", Plain, ""),
    column("neither", "neither", Number(1), ""),
    column("placement", "placement only", Number(1), ""),
    column("precision", "precision only", Number(1), ""),
    column("both", "both", Number(1), ""),
    column("without_selector", "without selector", Number(1), ""),
];

pub(super) fn main(args: &Args) -> Result<Page> {
    let What::CtxAware = args.what;
    let working = Progress::unknown("reproducing");
    let found = reproduce::context_aware()?;
    drop(working);
    let judged = |figure: &Figure| {
        let mut row = value(figure);
        for (key, number) in
            [("moves", figure.moves), ("stays", figure.stays), ("moves_fixed_rate", figure.moves_fixed_rate)]
        {
            row[format!("{key}_holds")] = figure.holds(number).into();
        }
        row
    };
    let rows: Vec<_> = found.figures.iter().map(judged).collect();
    let figures = Table::new(&FIGURES, &rows);
    let remark = "in: within the published range, or within 15 % of a single figure. 128 tokens of prompt, 2,048 decoded, traces imitated.";
    let tables = vec![figures.clone(), Table::new(&SHARES, &found.shares)];
    let section = Section { tables, remarks: vec![remark.into()], ..Section::default() };
    Ok(Page::new(figures).section(section).beside("shares", &found.shares))
}
