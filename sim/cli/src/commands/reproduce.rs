//! `cptr reproduce`: published evaluations done again, and what papers do not say, fitted to what they do.

mod fit;

use super::about::About;
use crate::columns::Format::{Count, Flag, Number, Percent, Plain, Text};
use crate::columns::{Column, Page, Section, Table, column, format, value};
use crate::report::number;
use crate::report::strips::{Look, Strip, Strips};
use cptr_sim::reproduce::fit::Paper;
use cptr_sim::reproduce::{self, Figure, filter};
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to reproduce: ctx-aware (context-aware placement on a CXL near-data device, arXiv 2512.04476) or cptr (the
    /// contextual phase-tracking filter on contexts that stand still, in noise); with --fit ctx-aware, monde, dynande,
    /// cxl-pnm, or the file of a paper
    #[arg(value_name = "WHAT|FILE.toml")]
    what: String,
    /// Fit what the paper does not say to every figure that it publishes
    #[arg(long)]
    fit: bool,
}

static CHOICES: [Column; 6] = [
    column("snr_db", "context/noise, dB", Number(0), ""),
    column("strategy", "strategy", Text, ""),
    column("switch_rate", "switches", Percent, "choices that the token before did not run"),
    column("hit_rate", "hits", Percent, "choices in a fast memory of twice as many experts as a token wants"),
    column("agreement", "agreement", Percent, "choices that the router made too"),
    column("mass_loss", "mass loss", Percent, "share of the router's own routing mass that is given up"),
];

static DETECTIONS: [Column; 6] = [
    column("snr_db", "context/noise, dB", Number(0), ""),
    column("detector", "detector", Text, ""),
    column("changes", "changes", Count, "of context"),
    column("missed", "missed", Count, ""),
    column("false_alarms_per_10k", "false per 10k", Number(1), "alarms where the context stays, in 10,000 tokens"),
    column("median_delay", "median delay", Plain, "tokens from the change to the alarm"),
];

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

pub(super) static ABOUT: About = About {
    rows: &[&CHOICES, &FIGURES, &fit::ROWS],
    examples: &[("cptr reproduce cptr", "the filter, on contexts that stand still, in noise")],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    match (args.what.as_str(), args.fit) {
        (what, true) => fit::main(what),
        ("ctx-aware", false) => context_aware(),
        ("cptr", false) => cptr(),
        (what, false) if what.ends_with(".toml") || Paper::names().any(|name| name == what) => {
            Err(Error::usage(format!("{what}: expected --fit, as only that is known of it")))
        }
        (what, false) => Err(Error::usage(format!("expected ctx-aware or cptr, found \"{what}\""))),
    }
}

fn cptr() -> Result<Page> {
    let working = Progress::unknown("reproducing");
    let found = filter::run()?;
    drop(working);
    let choices = Table::new(&CHOICES, &found.choices);
    let tables = vec![choices.clone(), Table::new(&DETECTIONS, &found.detections).titled("Changes of context")];
    let remark = "Contexts are drawn at random and stand still for 256 tokens; made as `cptr gen --piecewise --tokens 4096 --segment 256 --snr DB`.";
    let section = Section { tables, remarks: vec![remark.into()], ..Section::default() };
    let named = |row: &&Value| row["strategy"].as_str().is_some_and(|name| name.starts_with("bounded"));
    let best = choices.rows.iter().filter(named).max_by(|a, b| number(a, "hit_rate").total_cmp(&number(b, "hit_rate")));
    let answer = best.map(|row| {
        format!(
            "Selection under a bound hits at most {} of its choices, at {} dB of context over noise, for {} of the \
             routing mass.",
            format::percent(number(row, "hit_rate")),
            row["snr_db"],
            format::percent(number(row, "mass_loss"))
        )
    });
    Ok(Page::new(choices).section(section).answered(answer).beside("detections", &found.detections))
}

/// Published figures beside those of this model.
fn figure(rows: &[Value]) -> String {
    let strip = |row: &Value| Strip {
        name: format!(
            "{}, {} bits: {}",
            row["model"].as_str().unwrap_or_default(),
            row["bits"],
            row["figure"].as_str().unwrap_or_default()
        ),
        values: vec![
            number(&row["published"], "0"),
            number(&row["published"], "1"),
            number(row, "moves"),
            number(row, "stays"),
        ],
        label: if row["moves_holds"] == true || row["stays_holds"] == true { "in".into() } else { "out".into() },
        strong: false,
    };
    let mut rows = rows.to_vec();
    for row in &mut rows {
        row["published"] = json!({"0": row["published"][0], "1": row["published"][1]});
    }
    Strips {
        title: "Published figures, and what comes out here",
        caption: "In: within the published range, or within 15 % of a single figure, with one of the two baselines.",
        series: &["published, from", "to", "baseline copies", "baseline stays"],
        look: Look::Marks,
        tick: format::short,
        rows: rows.iter().map(strip).collect(),
    }
    .figure()
}

fn context_aware() -> Result<Page> {
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
    let holds = figures.rows.iter().filter(|row| row["moves_holds"] == true || row["stays_holds"] == true).count();
    let answer = format!(
        "{holds} of {} published figures come out with one of the two baselines that the paper may mean.",
        figures.rows.len()
    );
    let section = Section { tables, remarks: vec![remark.into()], figures: vec![figure(&rows)], ..Section::default() };
    Ok(Page::new(figures).section(section).answered(answer).beside("shares", &found.shares))
}
