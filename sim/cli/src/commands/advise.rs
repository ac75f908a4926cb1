//! `cptr advise`.

use std::path::PathBuf;

use cptr_hw_model::System;
use serde::Serialize;

use super::machine::{Machine, systems_help};
use super::source::Reading;
use crate::columns::Format::{Flag, Microseconds, Number, Percent, Text};
use crate::columns::{self, Column, Page, Section, Table, column};
use cptr_sim::advise::{self, Advice, Candidate, Kind, PARTS, Plan};
use cptr_sim::replay::Budget;
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};

#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("{}\nSystems:\n{}", columns::help(&COLUMNS), systems_help()))]
pub(super) struct Args {
    /// Trace file, folder or archive of any known format
    #[arg(value_name = "TRACE")]
    source: PathBuf,
    /// Fast memory: experts per layer (16), or bytes for all layers together (8GB) (default: twice the active experts)
    #[arg(long, value_name = "N|BYTES")]
    resident: Option<Budget>,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    pub(super) reading: Reading,
}

static COLUMNS: [Column; 9] = [
    column("advised", "advised", Flag, ""),
    column("kind_name", "what", Text, ""),
    column("strategy", "strategy", Text, "as cptr run takes it"),
    column("tokens_per_s", "tokens/s", Number(1), "three quarters of the recording, behind the first"),
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

pub(super) fn main(args: &Args) -> Result<Page> {
    let trace = args.reading.tokens(&args.source)?;
    let system = args.machine.system_or("offload")?;
    let model = args.machine.known_model(&trace.meta.model)?;
    let resident = args.resident.unwrap_or(Budget::Experts((2 * trace.shape.k).min(trace.shape.experts)));
    let plan = Plan { system: &system, model: &model, resident };
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
    let mut said = vec![sentence(&advice)];
    said.extend(how_sure(&advice));
    said.extend(price(&advice));
    said.extend(otherwise(&trace, &plan, &advice)?);
    let facts = vec![
        format!(
            "{}: {} tokens, {} layers of {} experts, {} a token",
            model.name, trace.shape.tokens, trace.shape.layers, trace.shape.experts, trace.shape.k
        ),
        format!("fast memory: {resident}{}; system {}", in_words(resident), system.name),
    ];
    let mut page = Page::new(Table::new(&COLUMNS, &rows)).notes(trace.notes.clone()).notes(advice.skipped.clone());
    let section = Section { remarks: said.clone(), ..Section::of(facts, Table::new(&COLUMNS, &rows)) };
    page.sections = vec![section];
    Ok(page.beside("advice", &said).beside("sure", &advice.sure))
}

const fn in_words(resident: Budget) -> &'static str {
    match resident {
        Budget::Experts(_) => " experts of each layer",
        Budget::Bytes { .. } => " for all layers",
    }
}

fn sentence(advice: &Advice) -> String {
    let best = advice.best();
    let what = match best.kind {
        Kind::Pin => "Pin the experts that the beginning of a text wants most; nothing that adapts is worth it",
        Kind::Lru => "Keep a cache, the least recently used goes; forecasts are not worth it",
        Kind::Forecast => "Keep a cache whose evictions go by a forecast",
        Kind::FetchAhead => "Keep a cache and fetch ahead",
        Kind::NearData => "Run the cold experts where they lie",
        Kind::Substitute => "Let residents stand in",
    };
    format!("{what}: {}, {:.1} tokens/s.", best.strategy, best.tokens_per_s)
}

fn how_sure(advice: &Advice) -> Vec<String> {
    let (best, fastest) = (advice.best(), &advice.candidates[advice.fastest]);
    let mut lines = Vec::new();
    if advice.advised != advice.fastest {
        lines.push(format!(
            "The fastest, {}, is {:.1} % faster: less than {:.0} % is taken to be the same, and the simpler one is \
             advised.",
            fastest.strategy,
            (best.token_us / fastest.token_us - 1.0) * 100.0,
            advise::SAME * 100.0
        ));
    }
    lines.push(if advice.sure {
        format!("Sure: each of {PARTS} parts of the recording by itself gives this advice.")
    } else {
        format!("Not sure: {PARTS} parts of the recording by themselves give different advice; record more.")
    });
    lines
}

fn price(advice: &Advice) -> Option<String> {
    let one = &advice.candidates[advice.with_loss?];
    Some(format!(
        "If the model may change: {} gives {:.1} tokens/s, at {:.2} % of the routing mass; `cptr run` on the model \
         itself says what that costs in perplexity.",
        one.strategy,
        one.tokens_per_s,
        one.mass_loss * 100.0
    ))
}

/// What would change the answer: half and twice the memory, twice the link.
fn otherwise(trace: &Trace, plan: &Plan<'_>, advice: &Advice) -> Result<Vec<String>> {
    let scaled = |factor: f64| match plan.resident {
        Budget::Experts(experts) => {
            let scaled = (experts as f64 * factor).round() as usize;
            Some(Budget::Experts(scaled)).filter(|_| (trace.shape.k..trace.shape.experts).contains(&scaled))
        }
        Budget::Bytes { bytes, split } => Some(Budget::Bytes { bytes: (bytes as f64 * factor) as u64, split }),
    };
    let faster = plan.system.changed(|parts| parts.link.gt_s *= 2.0).ok();
    let cases: [(&str, Option<Budget>, Option<&System>); 3] = [
        ("half of the memory", scaled(0.5), Some(plan.system)),
        ("twice the memory", scaled(2.0), Some(plan.system)),
        ("twice the link", Some(plan.resident), faster.as_ref()),
    ];
    let mut lines = Vec::new();
    for (what, resident, system) in cases {
        let (Some(resident), Some(system)) = (resident, system) else { continue };
        // Memory that holds too little for a token, in bytes, is found out here.
        let Ok(other) = advise::advise(trace, &Plan { resident, system, ..*plan }) else { continue };
        let (now, then) = (advice.best(), other.best());
        let same = if now.kind == then.kind { "the same".into() } else { then.kind.name().to_string() };
        lines.push(format!("With {what}: {same}, {} at {:.1} tokens/s.", then.strategy, then.tokens_per_s));
    }
    Ok(lines)
}
