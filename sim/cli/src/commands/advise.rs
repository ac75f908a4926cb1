//! `cptr advise`.

use std::path::PathBuf;

use serde::Serialize;

use super::about::About;
use super::capture;
use super::drive::{self, Measured};
use super::machine::{self, Machine, systems_help};
use super::source::Reading;
use crate::columns::Format::{Flag, Microseconds, Number, Percent, Text};
use crate::columns::{Column, Page, Section, Table, column, format};
use crate::report::strips::{Look, Strip, Strips};
use cptr_sim::advise::{self, Candidate, Plan};
use cptr_sim::replay::Budget;
use cptr_trace::error::{Error, Result};

#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("Systems:\n{}", systems_help()))]
pub(super) struct Args {
    /// Trace file, folder or archive of any known format; or the folder of a Hugging Face checkpoint, which is run on
    /// --text (of a GGUF, and on this machine as measured: cptr-llama advise)
    #[arg(value_name = "TRACE|CHECKPOINT")]
    source: PathBuf,
    /// What a checkpoint reads: text files, or folders of them
    #[arg(long, value_name = "FILE", num_args = 1..)]
    text: Vec<PathBuf>,
    /// Longest sequence that a checkpoint reads (default: what the model was made for, at most 1024)
    #[arg(long, value_name = "TOKENS", requires = "text")]
    context: Option<usize>,
    /// Fast memory: experts per layer (16), or bytes for all layers together (8GB) (default: twice the active experts)
    #[arg(long, value_name = "N|BYTES")]
    resident: Option<Budget>,
    /// Experts come from a drive, as fast as direct reads of this file of weights turn out to be, or of the largest
    /// file of this folder (default: the checkpoint); without it they come over the link of the system
    #[arg(long, value_name = "FILE|FOLDER", num_args = 0..=1)]
    measure: Option<Option<PathBuf>>,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    pub(super) reading: Reading,
}

static COLUMNS: [Column; 11] = [
    column("advised", "advised", Flag, ""),
    column("kind_name", "what", Text, ""),
    column("strategy", "strategy", Text, "as cptr run takes it"),
    column("tokens_per_s", "tokens/s", Number(1), "three quarters of the recording, behind the first"),
    column("low_tokens_per_s", "from", Number(1), "band of tokens/s, as of cptr plan"),
    column("high_tokens_per_s", "to", Number(1), ""),
    column("token_us", "token", Microseconds, ""),
    column("spread", "parts", Percent, "the slowest of three parts over the fastest"),
    column("stall_rate", "stalls", Percent, "choices that were waited for"),
    column("load_rate", "loads", Percent, "experts copied per choice"),
    column("mass_loss", "mass loss", Percent, "routing mass that is given up: the model changes"),
];

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    candidate: &'a Candidate,
    kind_name: &'static str,
    advised: bool,
    spread: f64,
}

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS],
    examples: &[(
        "cptr advise gpt-oss-20b.safetensors --resident 8 --system offload",
        "what to do with experts of which a quarter fits",
    )],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let sizes = args.source.join("config.json");
    let checkpoint = sizes.exists();
    if checkpoint == args.text.is_empty() {
        let (expected, found) = if checkpoint { ("--text", "none") } else { ("no --text", "some") };
        let what = if checkpoint { "a checkpoint" } else { "a recording" };
        return Err(Error::in_file(&args.source, format!("expected {expected} for {what}, found {found}")));
    }
    let trace = match checkpoint {
        true => capture::record(&args.source, &args.text, args.context)?,
        false => args.reading.tokens(&args.source)?,
    };
    let system = args.machine.system_or("offload")?;
    let model = match (args.machine.model(&trace.meta.model)?, checkpoint) {
        (None, true) => machine::config(&trace.meta.model, &sizes)?,
        (Some(model), _) => model,
        (None, false) => args.machine.known_model(&trace.meta.model)?,
    };
    let resident = args.resident.unwrap_or(Budget::Experts((2 * trace.shape.k).min(trace.shape.experts)));
    let weights = match &args.measure {
        Some(Some(path)) => Some(path),
        Some(None) if checkpoint => Some(&args.source),
        Some(None) => {
            let why = "--measure: expected a file of weights beside a recording, found none";
            return Err(Error::in_file(&args.source, why));
        }
        None => None,
    };
    let drive = match weights {
        Some(path) => Some(drive::measure(path, &system, &model)?),
        None => None,
    };
    let (system, copies) = match &drive {
        Some(drive) => drive.system(&system).map(|(system, copies)| (system, Some(copies)))?,
        None => (system, None),
    };
    let plan = Plan { system: &system, model: &model, resident, copies };
    let advice = advise::advise(&trace, &plan).map_err(|error| Error::in_file(&args.source, error.to_string()))?;
    let rows: Vec<Row<'_>> = advice
        .candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let ends = candidate
                .parts_us
                .iter()
                .fold((f64::INFINITY, 0.0_f64), |(least, most), &part| (least.min(part), most.max(part)));
            Row {
                candidate,
                kind_name: candidate.kind.name(),
                advised: index == advice.advised,
                spread: ends.1 / ends.0 - 1.0,
            }
        })
        .collect();
    let said = advise::sentences(&trace, &plan, &advice);
    let mut facts = vec![
        format!(
            "{}: {} tokens, {} layers of {} experts, {} a token",
            model.name, trace.shape.tokens, trace.shape.layers, trace.shape.experts, trace.shape.k
        ),
        format!("fast memory: {resident}{}; system {}", in_words(resident), system.name),
    ];
    facts.extend(drive.as_ref().map(Measured::said));
    let mut page = Page::new(Table::new(&COLUMNS, &rows)).notes(trace.notes.clone()).notes(advice.skipped.clone());
    let figures = vec![figure(&rows)];
    let section = Section { remarks: said.clone(), figures, ..Section::of(facts, Table::new(&COLUMNS, &rows)) };
    page.sections = vec![section];
    if let Some(drive) = &drive {
        page = page.beside("drive", drive);
    }
    Ok(page.answered(said.first().cloned()).beside("advice", &said).beside("sure", &advice.sure))
}

/// The times of the parts of the recording, candidate by candidate.
fn figure(rows: &[Row<'_>]) -> String {
    let strip = |row: &Row<'_>| {
        let candidate = row.candidate;
        Strip {
            name: format!("{} ({})", candidate.strategy, row.kind_name),
            values: candidate.parts_us.iter().copied().chain([candidate.token_us]).collect(),
            label: format!("{} tokens/s", format::short(candidate.tokens_per_s)),
            strong: row.advised,
        }
    };
    Strips {
        title: "Time of a token, by candidate",
        caption: "Three parts of the recording by themselves, and their mean: where the parts of two candidates \
                  overlap, the recording does not tell which is faster. In bold: what is advised.",
        series: &["first part", "second part", "third part", "mean"],
        look: Look::Marks,
        tick: format::microseconds,
        rows: rows.iter().map(strip).collect(),
    }
    .figure()
}

const fn in_words(resident: Budget) -> &'static str {
    match resident {
        Budget::Experts(_) => " experts of each layer",
        Budget::Bytes { .. } => " for all layers",
    }
}
