//! `cptr run`: strategies on a trace, on counts, or on a model that reads.

mod ablation;
pub(super) mod answer;
pub(super) mod columns;
mod help;
#[cfg(feature = "model")]
mod model;

use std::path::PathBuf;

use cptr_hw_model::Model;
use serde_json::Value;

use super::about::About;
use super::machine::{Counting, Machine};
use super::source::Reading;
use crate::columns::{Page, Section, Table, value};
use crate::report;
use columns::{COUNTS, RUN, SELECTION, SYSTEMS, TENANTS};
use cptr_sim::replay::controller::{self, Controller, Report};
use cptr_sim::replay::{self, Budget, Outcome, Plan};
use cptr_sim::strategy::precision::repaired;
use cptr_sim::strategy::{PRESETS, Strategy};
use cptr_trace::error::{Error, Result};
use cptr_trace::import::Recording;
use cptr_trace::{LossTable, Trace};

#[derive(Debug, clap::Args)]
#[command(after_long_help = help::text())]
pub(super) struct Args {
    /// Trace or counts of any known format, or the folder of a Hugging Face checkpoint (default: the bundled model)
    #[arg(value_name = "SOURCE")]
    source: Option<PathBuf>,
    /// Strategies, such as lru,bounded:eps=0.02,bounded+lru,migrate:rate=0.5 (default: all presets that the source
    /// allows)
    #[arg(long, value_name = "NAME[:PARAMETER=VALUE]…[+…]", value_delimiter = ',', value_parser = Strategy::parse)]
    strategy: Vec<Strategy>,
    /// Fast memory: experts per layer (16), or bytes for all layers together (8GB, 512MiB, 8GB:split=global) (default:
    /// twice the active experts)
    #[arg(long, value_name = "N|BYTES")]
    resident: Option<Budget>,
    /// Tokens at the start of each sequence that are its prompt: shown to every strategy alike, neither counted nor
    /// charged
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    prefill: usize,
    /// Sequences decoded side by side: equal parts of the trace
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Most migrations, and as many fetches ahead, a token; the sequences of --batch have equal parts of them, so that
    /// none takes them all
    #[arg(long, value_name = "COPIES")]
    fair: Option<f64>,
    /// What each expert loses at 1 to 4 bits, as `cptr quantize` writes it
    #[arg(long, value_name = "CSV")]
    losses: Option<PathBuf>,
    /// Take the strategies apart: what each part, and each mechanism inside one, is worth alone (added to
    /// raw+lru+none+gpu+full) and last (added to all the others)
    #[arg(long, requires = "strategy", conflicts_with = "controller")]
    ablate: bool,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    counting: Counting,
    #[command(flatten)]
    model: ModelArgs,
    /// Hold a controller to the strategy, token by token: its engine in this process, its firmware on an emulated core,
    /// or on the RTL of a core with the hardware unit, cycle by cycle
    #[arg(long, value_name = "host|qemu:CORE|rtl:CORE", help_heading = "Controller")]
    controller: Option<Controller>,
    /// The controller's firmware, where it is not where `cargo xtask firmware` leaves it
    #[arg(long, value_name = "FILE", requires = "controller", help_heading = "Controller")]
    image: Option<PathBuf>,
    #[command(flatten)]
    pub(super) reading: Reading,
}

impl Args {
    /// How many strategies were named.
    pub(super) const fn strategies(&self) -> usize {
        self.strategy.len()
    }
}

/// What a model reads, where the source is one.
#[derive(Debug, clap::Args)]
struct ModelArgs {
    /// Text to read: files, each a document, or folders, each a domain with its .txt files (default: the bundled
    /// model's held-out text)
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Models")]
    text: Vec<PathBuf>,
    /// Tokens of each document that are read
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=1 << 20), help_heading = "Models")]
    length: u32,
    /// Folder that cptr quantize wrote, for strategies with fewer bits (default: the bundled model is quantised as
    /// needed)
    #[arg(long, value_name = "FOLDER", help_heading = "Models")]
    replicas: Option<PathBuf>,
    /// Write misses over what they cost as a plot (SVG)
    #[arg(long, value_name = "FILE", help_heading = "Models")]
    plot: Option<PathBuf>,
}

pub(super) static ABOUT: About = About {
    rows: &[&RUN, &COUNTS, &ablation::ABLATION],
    examples: &[
        (
            "cptr run tiny-moe-8m.safetensors --strategy lru,recall,bounded:eps=0.04 --resident 8",
            "three strategies, 8 of the 32 experts of each layer in fast memory",
        ),
        (
            "cptr run gpt-oss-20b.safetensors --strategy ctx-aware,monde --system ndp --prefill 512",
            "whole systems with a near-data device, after a prompt of 512 tokens",
        ),
        (
            "cptr run gpt-oss-20b.safetensors --strategy lru,recall --resident 8 --json > a.json",
            "the same for programs, and for cptr report",
        ),
        (
            "cptr run gpt-oss-20b.safetensors --strategy lru,recall --resident 12 --json > b.json",
            "with more memory, to compare",
        ),
    ],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let path = match &args.source {
        Some(path) if !path.join("config.json").exists() && args.model.text.is_empty() => path,
        _ if args.ablate => return Err(Error::new("--ablate: expected a trace of tokens, found a model")),
        _ => return on_model(args),
    };
    match args.reading.read(path)? {
        Recording::Tokens(trace) => tokens(args, &trace),
        Recording::Counts(_) if args.controller.is_some() || args.ablate => {
            let option = if args.ablate { "--ablate" } else { "--controller" };
            Err(Error::in_file(path, format!("{option}: expected a trace of tokens, found counts")))
        }
        Recording::Counts(counts) => {
            let resident = match args.resident {
                Some(Budget::Bytes { .. }) => {
                    return Err(Error::in_file(path, "--resident: expected experts per layer for counts, found bytes"));
                }
                Some(Budget::Experts(experts)) => Some(experts),
                None => None,
            };
            let rows = replay::counts::run(&counts, resident)?;
            let note = "counts have no token order: switches, token times and other strategies cannot be had from them";
            let table = Table::new(&COUNTS, &rows);
            let answer = answer::of_counts(&table.rows);
            Ok(Page::new(table).answered(answer).notes(counts.notes).notes([note.into()]))
        }
    }
}

#[cfg(feature = "model")]
fn on_model(args: &Args) -> Result<Page> {
    model::run(args)
}

#[cfg(not(feature = "model"))]
fn on_model(_: &Args) -> Result<Page> {
    Err(super::without_models::missing())
}

/// All presets that are not slow by nature, each mix of five choices once.
fn presets() -> Result<Vec<Strategy>> {
    let mut all: Vec<Strategy> = Vec::new();
    for preset in PRESETS {
        let strategy = Strategy::parse(preset.name)?;
        if !strategy.slow() && !all.iter().any(|other| other.is(&strategy)) {
            all.push(strategy);
        }
    }
    Ok(all)
}

/// What the star of a row means.
pub(super) const FUTURE: &str = "sees the future: no system can do that";

/// The raw router with lru first, which ratios refer to, and whether it had to be added.
fn with_reference(asked: Vec<Strategy>) -> Result<(Vec<Strategy>, bool)> {
    let raw = Strategy::parse("raw")?;
    let extra = asked.first().is_none_or(|first| !first.is(&raw));
    Ok((extra.then_some(raw).into_iter().chain(asked).collect(), extra))
}

/// Strategies that run experts near the data at bits that they do not name themselves, at these.
fn at_bits(strategies: Vec<Strategy>, bits: Option<f64>) -> Result<Vec<Strategy>> {
    let Some(bits) = bits else { return Ok(strategies) };
    let set = |strategy: Strategy| {
        let (text, kind) = (strategy.to_string(), strategy.precision.kind.name);
        let named = text.contains("bits=") || text.split('+').any(|part| part.split(':').next() == Some(kind));
        match kind {
            "uniform" | "mean" if !named => Strategy::parse(&format!("{text}+{kind}:bits={bits}")),
            _ => Ok(strategy),
        }
    };
    strategies.into_iter().map(set).collect()
}

fn tokens(args: &Args, trace: &Trace) -> Result<Page> {
    let system = args.machine.system_or("offload")?;
    let model = args.machine.model(&trace.meta.model)?;
    let losses = args.losses.as_deref().map(LossTable::read).transpose()?;
    let asked = match (args.strategy.as_slice(), args.controller) {
        ([], None) => presets()?,
        ([], Some(_)) => vec![Strategy::parse("bounded")?],
        (named, _) => named.to_vec(),
    };
    if let (Some(controller), 2..) = (args.controller, asked.len()) {
        return Err(Error::new(format!("--controller {controller}: expected one strategy, found {}", asked.len())));
    }
    let asked = at_bits(asked, args.machine.bits())?;
    let (strategies, extra) = if args.ablate { (asked, false) } else { with_reference(asked)? };
    let plan = Plan {
        strategies,
        prefill: args.prefill,
        batch: args.batch,
        fair: args.fair,
        machine: Some(replay::Machine {
            counted: args.counting.counted(),
            ..replay::Machine::new(&system, model.as_ref())
        }),
        losses: losses.as_ref(),
        ..Plan::new(args.resident.unwrap_or_else(|| usual(trace)))
    };
    if args.ablate {
        return Ok(ablation::page(trace, &plan)?.notes(trace.notes.clone()));
    }
    let mut outcome = replay::run(trace, &plan)?;
    if extra {
        outcome.rows.remove(0);
    }
    if let (Some(skipped), false) = (outcome.skipped.first(), args.strategy.is_empty()) {
        return Err(Error::new(format!("{}: {}", skipped.strategy, skipped.reason)));
    }
    let report = match (args.controller, plan.strategies.last()) {
        (Some(on), Some(strategy)) => Some(controller::run(trace, &plan, strategy, on, args.image.as_deref())?),
        _ => None,
    };
    let mut section = section(&outcome);
    section.remarks.extend(report.as_ref().map(said));
    section.figures.extend(report::heat::figures(trace));
    section.tables.extend(tenants(&outcome));
    let repaired = losses.as_ref().and_then(repaired);
    // A doubtful router is among the notes of the trace already.
    let evidence = trace.evidence.as_ref().map(ToString::to_string).filter(|said| !trace.notes.contains(said));
    let notes = trace.notes.iter().cloned().chain(evidence).chain(remarks(&outcome)).chain(repaired);
    let rows = rows(&outcome);
    let answer = answer::sentence(&rows.rows);
    let page = Page::new(rows).section(section).notes(notes).answered(answer);
    let page =
        page.beside("trace", &outcome.trace).beside("skipped", &outcome.skipped).beside("context", &outcome.context);
    Ok(match report {
        None => page,
        Some(report) => page.beside("controller", &report),
    })
}

/// What each sequence has of the copies, where they have parts.
fn tenants(outcome: &Outcome) -> Option<Table> {
    let of = |row: &replay::Row| {
        let strategy = row.strategy.clone();
        let with = move |tenant: &replay::TenantRow| {
            let mut value = value(tenant);
            value["strategy"] = strategy.clone().into();
            value
        };
        row.tenants.iter().map(with).collect::<Vec<_>>()
    };
    let rows: Vec<Value> = outcome.rows.iter().flat_map(of).collect();
    (!rows.is_empty()).then(|| Table::new(&TENANTS, &rows).titled("By sequence, with equal parts of the copies"))
}

/// Twice the active experts.
pub(super) fn usual(trace: &Trace) -> Budget {
    Budget::Experts((2 * trace.shape.k).min(trace.shape.experts))
}

/// The rows as people and machines read them.
pub(super) fn rows(outcome: &Outcome) -> Table {
    let on_gpu = |row: &Value| row["division"] == "gpu";
    let table = Table::new(&RUN, &outcome.rows).starred("sees_future", FUTURE);
    let view = if table.rows.iter().all(on_gpu) { SELECTION } else { SYSTEMS };
    table.viewed(view)
}

/// The rows, above them what was run, and plots.
pub(super) fn section(outcome: &Outcome) -> Section {
    let table = rows(outcome);
    let figures = report::figures(&report::Run {
        rows: &table.rows,
        tokens: outcome.trace.tokens,
        domains: &outcome.trace.domains,
        context: &outcome.context,
        time_method: outcome.time_method,
    });
    let trace = &outcome.trace;
    let model = if trace.model.is_empty() { "unknown model" } else { &trace.model };
    let shape = format!(
        "{model}: {} tokens, {} layers x {} experts, top-{}; {}",
        trace.tokens, trace.layers, trace.experts, trace.k, trace.recorded
    );
    let mut facts = vec![shape, memory(outcome)];
    let timed = outcome.rows.iter().any(|row| row.token_time_us.is_some());
    facts.extend(timed.then(|| format!("times {}", outcome.time_method)));
    facts.extend(prompts(outcome));
    let context = &outcome.context;
    let seen = format!(
        "context: {:.1} dB over the innovation, locked {} of the time, {} changes",
        context.snr_db,
        crate::columns::format::percent(context.locked_share),
        context.changes.len()
    );
    Section { facts, tables: vec![table], remarks: vec![seen], figures, ..Section::default() }
}

/// Fast memory and machine.
fn memory(outcome: &Outcome) -> String {
    let experts = format!("of {} experts a layer", outcome.trace.experts);
    let unit = if outcome.resident.parse::<usize>().is_ok() { &experts } else { "of experts" };
    let system = outcome.system.as_deref().unwrap_or("none");
    format!("{} {unit} in fast memory; system {system}", outcome.resident)
}

/// What is prompt, and how many sequences there are, where there is something to say.
fn prompts(outcome: &Outcome) -> Option<String> {
    let prompt = (outcome.prefill > 0).then(|| {
        let tokens = crate::columns::format::count(outcome.prefill);
        format!("{tokens} tokens of prompt, shown to every strategy alike, neither counted nor charged")
    });
    let batch = (outcome.batch > 1).then(|| format!("{} sequences side by side", outcome.batch));
    let all: Vec<String> = [prompt, batch].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// What a reader of the table should know beside it.
pub(super) fn remarks(outcome: &Outcome) -> Vec<String> {
    // Many strategies lack the same.
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for row in &outcome.skipped {
        let needs = row.reason.split_once(" needs ").map(|(_, needs)| format!("this needs {needs}"));
        let reason = needs.unwrap_or_else(|| row.reason.clone());
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, strategies)) => strategies.push(&row.strategy),
            None => reasons.push((reason, vec![&row.strategy])),
        }
    }
    let skipped = reasons.iter().map(|(reason, strategies)| format!("Not run: {}; {reason}.", strategies.join(", ")));
    let no_times = outcome.model.is_none().then(|| {
        let known = Model::all().iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
        let model = &outcome.trace.model;
        format!("No token times: the sizes of model \"{model}\" are not known; give --model ({known}), or --hidden and --expert-inner.")
    });
    skipped.chain(no_times).collect()
}

/// What a controller in the loop has done.
fn said(report: &Report) -> String {
    use crate::columns::format::count;
    let after = match report.prompt_tokens {
        0 => String::new(),
        prompt => format!(" after a prompt of {}", count(prompt)),
    };
    let mut text = format!(
        "controller {}: {} requests for {} tokens{after} x {} layers, every decision the strategy's; {} jobs near the data, {} losses of lock",
        report.controller,
        count(report.requests as usize),
        count(report.tokens),
        report.layers,
        count(report.jobs as usize),
        report.lost_locks
    );
    if report.in_hardware > 0 {
        text += &format!("\nthe hardware unit has made {} of the decisions", count(report.in_hardware as usize));
    }
    if let Some(near_us) = report.near_us {
        text += &format!("\nunits near the data are busy for {near_us:.2} us of a token, by the device's model");
    }
    let instructions = |mean: Option<f64>| mean.map(|mean| count(mean.round() as usize));
    let counted =
        [report.select_instructions, report.decide_instructions, report.update_instructions].map(instructions);
    if let [Some(select), Some(decide), Some(update)] = counted {
        text += &format!(
            "\ninstructions per token and layer: select {select}, request to answer {decide}, update {update}"
        );
    }
    text
}
