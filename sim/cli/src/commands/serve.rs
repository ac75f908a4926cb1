//! `cptr serve`.

use std::path::PathBuf;

use cptr_hw_model::System;
use serde::Serialize;

use super::about::About;
use super::machine::{system_name, systems_help};
use super::plan::{at_least, at_most, model, own_trace};
use super::source::Reading;
use crate::columns::Format::{Change, Count, Microseconds, Number, Percent, Plain};
use crate::columns::{self, Column, Page, Section, Table, column};
use crate::report::strips::{Look, Strip, Strips};
use cptr_sim::plan::{Misses, Place, Question, RESERVED_GB, Way, band};
use cptr_sim::serving::{
    self, Arrivals, Limits, Load, Pace, Preemption, Served, StepTimes, Texts, Together, TogetherRow,
};
use cptr_trace::error::{Error, Result};

#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("Systems:\n{}", systems_help()))]
pub(super) struct Args {
    /// Model: a known name, or its config.json
    #[arg(value_name = "MODEL|config.json")]
    asked: String,
    /// System by its name, or the TOML file of one
    #[arg(long, value_name = "NAME|FILE.toml", value_parser = system_name, default_value = "offload")]
    system: System,
    /// Bits per weight of the experts
    #[arg(long, value_name = "BITS", default_value_t = 4.0)]
    bits: f64,
    /// Bits per weight of attention, shared experts and head (default: the system's, where it names them, else 8, or
    /// those of the experts, if more)
    #[arg(long, value_name = "BITS")]
    dense_bits: Option<f64>,
    /// Where experts lie, at the same bits everywhere (default: as one sequence is the fastest)
    #[arg(long, value_name = "WHERE")]
    experts: Option<Where>,
    /// Trace of the model, in a format that its contents tell: how unequally its experts are wanted, what tokens that
    /// run together have in common, and how often experts are not where they are wanted (default: all alike, nothing,
    /// and misses as of the bundled trace of gpt-oss-20b)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Which texts of --trace are served side by side
    #[arg(long, value_name = "WHICH", default_value = "all-kinds", requires = "trace")]
    texts: Kinds,
    /// Requests per second, independent of each other; several rates separated by commas
    #[arg(long, value_name = "PER SECOND", value_delimiter = ',', default_value = "1")]
    rate: Vec<f64>,
    /// All requests at once
    #[arg(long, conflicts_with_all = ["rate", "arrivals"])]
    at_once: bool,
    /// Requests of a CSV file: seconds, tokens of the prompt, tokens of the answer
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "requests", "prompt", "output"])]
    arrivals: Option<PathBuf>,
    /// Requests
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    requests: u64,
    /// Tokens of a prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = at_least(1))]
    prompt: u64,
    /// Tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = at_least(1))]
    output: u64,
    /// Requests in a batch
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// Tokens of a step: those that decode, and parts of prompts
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    step_tokens: u64,
    /// What happens where the keys and values of a batch outgrow their memory
    #[arg(long, value_name = "HOW", default_value = "recompute")]
    preempt: Preempt,
    /// Memory for keys and values in GB (10^9 bytes), at most what is free (default: all of that)
    #[arg(long, value_name = "GB")]
    kv_memory: Option<f64>,
    /// Seed of the arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Where {
    /// All in GPU memory
    Gpu,
    /// Copied when they are wanted
    Copied,
    /// Those of whole layers on the host
    Layers,
    /// Cold ones run on the host, or in the device
    NearData,
}

impl Where {
    const fn place(self) -> Place {
        match self {
            Self::Gpu => Place::Gpu,
            Self::Copied => Place::Copied,
            Self::Layers => Place::Layers,
            Self::NearData => Place::NearData,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kinds {
    /// Those of one domain, the mean over all
    OneKind,
    /// Those of all domains, as the trace has them
    AllKinds,
}

impl Kinds {
    const fn texts(self) -> Texts {
        match self {
            Self::OneKind => Texts::OneKind,
            Self::AllKinds => Texts::AllKinds,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Preempt {
    /// Requests are admitted only where all of their tokens fit
    Never,
    /// The youngest request loses them, and reads its tokens again
    Recompute,
    /// Those of the youngest request are copied over the link and back
    Swap,
}

impl Preempt {
    const fn preemption(self) -> Preemption {
        match self {
            Self::Never => Preemption::Never,
            Self::Recompute => Preemption::Recompute,
            Self::Swap => Preemption::Swap,
        }
    }
}

static COLUMNS: [Column; 18] = [
    column("rate_per_s", "rate", Plain, "requests per second; none: as given, or at once"),
    column("served.tokens_per_s", "tokens/s", Number(1), "generated, all requests"),
    column("served.first_token_us.p50", "first P50", Microseconds, "from arrival to the first token: median"),
    column("served.first_token_us.p95", "P95", Microseconds, "95th percentile"),
    column("served.first_token_us.p99", "P99", Microseconds, "99th percentile"),
    column("served.per_token_us.p50", "next P50", Microseconds, "from a token to the next of a request: median"),
    column("served.per_token_us.p95", "P95", Microseconds, "95th percentile"),
    column("served.per_token_us.p99", "P99", Microseconds, "99th percentile"),
    column("served.queue_us.mean", "queue", Microseconds, "from arrival to admission: mean"),
    column("served.mean_batch", "batch", Number(1), "requests in it, mean over time in which there are any"),
    column("served.busy_share", "busy", Percent, "time in which a step runs"),
    column("served.preemptions", "preempted", Count, "requests that left the batch for want of memory").unless(0.0),
    column("served.recomputed_tokens", "again", Count, "tokens that are read again because of that").detail(),
    column("served.swap_s", "swap", Number(3), "seconds in which steps wait for keys and values on the link").detail(),
    column("served.requests", "requests", Count, "").detail(),
    column("served.output_tokens", "tokens", Count, "generated").detail(),
    column("served.request_us.p50", "whole P50", Microseconds, "from arrival to the last token: median").detail(),
    column("served.steps", "steps", Count, "").detail(),
];

static TOGETHER: [Column; 8] = [
    column("tokens", "tokens", Count, "that run together"),
    column("one_text", "one text", Number(1), "different experts of a layer: tokens that follow each other"),
    column("one_text_off", "off", Change, "of the independent from those"),
    column("one_kind", "one kind", Number(1), "tokens of different texts of one domain"),
    column("one_kind_off", "off", Change, "of the independent from those"),
    column("all_kinds", "all kinds", Number(1), "tokens of different texts of all domains"),
    column("all_kinds_off", "off", Change, "of the independent from those"),
    column("independent", "independent", Number(1), "if tokens chose independently, each expert as often"),
];

#[derive(Serialize)]
struct Row {
    rate_per_s: Option<f64>,
    served: Served,
    /// The same at both ends of the band.
    slowest: Served,
    fastest: Served,
}

static BANDS: [Column; 13] = [
    column("rate_per_s", "rate", Plain, "with the band of the table above: from, to"),
    column("slowest.tokens_per_s", "tokens/s", Number(1), "generated, all requests"),
    column("fastest.tokens_per_s", "to", Number(1), ""),
    column("fastest.first_token_us.p50", "first P50", Microseconds, "from arrival to the first token: median"),
    column("slowest.first_token_us.p50", "to", Microseconds, ""),
    column("fastest.first_token_us.p99", "P99", Microseconds, "99th percentile"),
    column("slowest.first_token_us.p99", "to", Microseconds, ""),
    column("fastest.per_token_us.p50", "next P50", Microseconds, "from a token to the next: median"),
    column("slowest.per_token_us.p50", "to", Microseconds, ""),
    column("fastest.per_token_us.p99", "P99", Microseconds, "99th percentile"),
    column("slowest.per_token_us.p99", "to", Microseconds, ""),
    column("slowest.busy_share", "busy at most", Percent, "time in which a step runs").detail(),
    column("slowest.preemptions", "preempted at most", Count, "").detail(),
];

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS, &BANDS, &TOGETHER],
    examples: &[(
        "cptr serve gpt-oss-120b --rate 1,4 --requests 200",
        "what users wait for at one and four requests a second",
    )],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    at_most("--rate", args.rate.len(), 64)?;
    let model = model(&args.asked)?;
    let trace = args.trace.as_deref().map(|path| own_trace(path, &model, &Reading::default())).transpose()?;
    let misses = trace.as_ref().map_or_else(|| Ok(Misses::typical()), Misses::of)?;
    if let Some(wrong) = args.rate.iter().find(|rate| !(1e-6..=1e9).contains(*rate)) {
        return Err(Error::new(format!("--rate: expected 0.000001 to 1000000000 requests per second, found {wrong}")));
    }
    let question = Question {
        bits: vec![args.bits],
        dense_bits: args.dense_bits,
        context: args.prompt + args.output,
        sequences: args.batch,
        fewer_bits_near: false,
        ..Question::new(&model, misses)
    };
    let ways = question.ways(&args.system)?;
    let wanted = |way: &&Way| args.experts.is_none_or(|wanted| wanted.place() == way.place);
    let way = ways.iter().find(wanted).ok_or_else(|| {
        let can: Vec<&str> = ways.iter().map(|way| way.place.name()).collect();
        Error::new(format!("--experts: expected what {} can do with this model: {}", args.system.name, can.join(", ")))
    })?;
    if let Some(short) = &way.short_of {
        return Err(Error::new(format!(
            "{} of {} at {} bits takes {:.0} GB there and {:.0} elsewhere: {short}",
            way.place.name(),
            model.name,
            way.bits,
            way.gpu_gb,
            way.far_gb
        )));
    }
    let (system, placed) = question.machine(&args.system, way)?;
    // Room for a batch of this length is left by the placement; what else is free holds more. Layers with a window keep
    // no more than it.
    let request = args.prompt + args.output;
    let token_gb = model.kv_bytes(1) * model.all_layers() as f64 / 1e9 * model.attended(request) / request as f64;
    let kv_gb = (system.gpu().memory_gb - way.gpu_gb).max(0.0) + token_gb * (request * args.batch) as f64;
    let kv_gb = match args.kv_memory {
        Some(gb) if gb > 0.0 && gb <= kv_gb => gb,
        Some(gb) => {
            return Err(Error::new(format!("--kv-memory: expected at most the {kv_gb:.1} GB free, found {gb}")));
        }
        None => kv_gb,
    };
    let kv_tokens = (kv_gb / token_gb) as u64;
    let preemption = args.preempt.preemption();
    let limits = Limits { batch: args.batch as usize, step_tokens: args.step_tokens, kv_tokens, preemption };
    let ends = band::ends(&system, None)?;
    let steps = StepTimes::new(&system, &model, placed).banded(&ends, &question.misses);
    let together = trace.as_ref().map(Together::of);
    let steps = match &together {
        Some(together) => steps.like(together, args.texts.texts()),
        None => steps,
    };
    let serve = |rate_per_s: Option<f64>, requests: Vec<serving::Request>| {
        let at = |pace| serving::run_at(&steps, &requests, &limits, pace);
        Ok(Row { rate_per_s, served: at(Pace::Modelled)?, slowest: at(Pace::Slowest)?, fastest: at(Pace::Fastest)? })
    };
    let rows = match &args.arrivals {
        Some(path) => vec![serve(None, serving::read(path)?)?],
        None if args.at_once => vec![serve(None, args.load(Arrivals::AtOnce).requests())?],
        None => {
            // One after the other: of many requests only one list is in memory.
            let at = |&per_s: &f64| serve(Some(per_s), args.load(Arrivals::Poisson { per_s }).requests());
            args.rate.iter().map(at).collect::<Result<Vec<_>>>()?
        }
    };
    let facts = vec![
        format!(
            "{} on {}, {} at {} bits; one sequence: {:.1} tokens/s ({:.1} to {:.1})",
            model.name,
            system.name,
            way.place.name(),
            way.bits,
            way.tokens_per_s,
            way.low_tokens_per_s,
            way.high_tokens_per_s
        ),
        format!(
            "at most {} requests in a batch, {} tokens a step, {} tokens of keys and values in {:.1} GB",
            limits.batch,
            limits.step_tokens,
            columns::format::count(kv_tokens as usize),
            kv_gb
        ),
    ];
    let overrun = rows.iter().filter(|row| !keeps_up(row, args.output)).map(|row| {
        format!(
            "{} requests a second are more than it serves, {:.3}: waits grow with --requests",
            row.rate_per_s.unwrap_or_default(),
            row.served.tokens_per_s / args.output as f64
        )
    });
    let overrun: Vec<String> = overrun.collect();
    let mut page =
        Page::new(Table::new(&COLUMNS, &rows)).notes(overrun).notes([format!("{RESERVED_GB} GB is left to buffers")]);
    let (answer, figures) = (answer(&rows, args.output), vec![figure(&rows)]);
    let mut tables = vec![Table::new(&COLUMNS, &rows), Table::new(&BANDS, &rows)];
    let counted = together.as_ref().map(Together::rows);
    if let Some(counted) = &counted {
        tables.push(Table::new(&TOGETHER, counted));
    }
    let remarks = counted.iter().filter_map(|counted| off(counted, args)).collect();
    page.sections = vec![Section { facts, tables, remarks, figures, ..Section::default() }];
    Ok(page.answered(answer).beside("together", &counted))
}

/// How far off independent tokens would be for a batch, the largest that was counted of those in it.
fn off(counted: &[TogetherRow], args: &Args) -> Option<String> {
    let of = |row: &TogetherRow| match args.texts {
        Kinds::OneKind => row.one_kind.zip(row.one_kind_off),
        Kinds::AllKinds => row.all_kinds.zip(row.all_kinds_off),
    };
    let within = counted.iter().rev().find(|row| row.tokens <= args.batch && of(row).is_some())?;
    let (experts, off) = of(within)?;
    Some(format!(
        "{} texts side by side run {experts:.1} different experts of a layer; if they chose independently: {:.1}, {} \
         off.",
        within.tokens,
        within.independent,
        columns::format::change(off)
    ))
}

/// Whether all that arrives is served, of answers of so many tokens.
fn keeps_up(row: &Row, output: u64) -> bool {
    let asked = row.rate_per_s.map_or(0.0, |rate| rate * output as f64);
    // The last answers are written when nothing more arrives.
    row.served.tokens_per_s >= 0.9 * asked || row.served.busy_share <= 0.99
}

/// What users wait for at the highest rate that is served.
fn answer(rows: &[Row], output: u64) -> Option<String> {
    let rate = |row: &&Row| row.rate_per_s.unwrap_or_default();
    let kept = rows.iter().filter(|row| keeps_up(row, output)).max_by(|a, b| rate(a).total_cmp(&rate(b)));
    let row = kept.or(rows.first())?;
    let at = match (row.rate_per_s, kept) {
        (Some(rate), Some(_)) => {
            format!("At {rate} requests a second, the most of those asked for that it keeps up with,")
        }
        (Some(rate), None) => format!("Even {rate} requests a second are more than it serves: then"),
        (None, _) => "With these requests".into(),
    };
    let us = columns::format::microseconds;
    Some(format!(
        "{at} half of the users wait at most {} for the first token and one in a hundred more than {}; {:.1} tokens a \
         second are generated.",
        us(row.served.first_token_us.p50),
        us(row.served.first_token_us.p99),
        row.served.tokens_per_s
    ))
}

/// Waits, rate by rate.
fn figure(rows: &[Row]) -> String {
    let strips = |of: fn(&Served) -> [f64; 3]| -> Vec<Strip> {
        let strip = |row: &Row| Strip {
            name: row.rate_per_s.map_or_else(|| "all".into(), |rate| format!("{rate} a second")),
            values: of(&row.served).into(),
            label: format!("{} tokens/s", columns::format::short(row.served.tokens_per_s)),
            strong: false,
        };
        rows.iter().map(strip).collect()
    };
    let plot = |title, caption, rows| Strips {
        title,
        caption,
        series: &["P50", "P95", "P99"],
        look: Look::Marks,
        tick: columns::format::microseconds,
        rows,
    };
    let first = strips(|served| [served.first_token_us.p50, served.first_token_us.p95, served.first_token_us.p99]);
    let next = strips(|served| [served.per_token_us.p50, served.per_token_us.p95, served.per_token_us.p99]);
    let first = plot(
        "Wait for the first token, by requests a second",
        "Where the marks leave each other, requests begin to wait for others.",
        first,
    );
    let next = plot("Time from a token to the next, by requests a second", "What a reader of an answer sees.", next);
    first.figure() + &next.figure() + &bands(rows)
}

/// The tail of waits with its band, rate by rate.
fn bands(rows: &[Row]) -> String {
    let strips = |of: fn(&Served) -> f64| -> Vec<Strip> {
        let strip = |row: &Row| Strip {
            name: row.rate_per_s.map_or_else(|| "all".into(), |rate| format!("{rate} a second")),
            values: [&row.fastest, &row.slowest, &row.served].map(of).into(),
            label: columns::format::microseconds(of(&row.served)),
            strong: false,
        };
        rows.iter().map(strip).collect()
    };
    let plot = |title, rows| Strips {
        title,
        caption: "What the machine's numbers that are not known well make of it, as cptr plan takes them.",
        series: &["low end of the band", "high end", "as modelled"],
        look: Look::Marks,
        tick: columns::format::microseconds,
        rows,
    };
    plot("Wait for the first token: P99 and its band", strips(|served| served.first_token_us.p99)).figure()
        + &plot("From a token to the next: P99 and its band", strips(|served| served.per_token_us.p99)).figure()
}

impl Args {
    const fn load(&self, arrivals: Arrivals) -> Load {
        let requests = self.requests as usize;
        Load { arrivals, requests, prompt: self.prompt, output: self.output, seed: self.seed }
    }
}
