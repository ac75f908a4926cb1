//! `cptr attack`.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::about::About;
use super::machine::{Machine, systems_help};
use crate::columns::Format::{Count, Number, Percent, Text};
use crate::columns::{Column, Page, Section, Table, column};
use cptr_hw_model::Model;
use cptr_sim::attack::{self, Found, Hurt, Limits, Plan, Program};
use cptr_sim::replay;
use cptr_sim::strategy::Strategy;
use cptr_trace::error::{Error, Result};
use cptr_trace::{MAX_EXPERTS, MAX_TOP_K, Shape, file, native};

#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("Systems:\n{}", systems_help()))]
pub(super) struct Args {
    /// Strategy that is to do badly
    #[arg(value_name = "STRATEGY", value_parser = Strategy::parse)]
    strategy: Strategy,
    /// Those beside which: the best of them counts. For mass, switches and silence there are none by default
    #[arg(long, value_name = "STRATEGY", value_delimiter = ',', value_parser = Strategy::parse)]
    against: Option<Vec<Strategy>>,
    /// What it is to have much of: loads, stalls, time (on --system), mass, switches, migrations or silence
    #[arg(long, value_name = "WHAT", default_value_t = Hurt::Stalls)]
    hurt: Hurt,
    /// Programs that are tried
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    tries: u32,
    /// Where the search begins: the same seed finds the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Tokens of the trace
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    tokens: u32,
    /// Layers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    layers: u32,
    /// Experts of a layer
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(2..=MAX_EXPERTS as i64))]
    experts: u32,
    /// Experts of a token
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=MAX_TOP_K as i64))]
    top_k: u32,
    /// Experts of each layer that fast memory holds (default: twice those of a token)
    #[arg(long, value_name = "N")]
    resident: Option<usize>,
    /// Share of a token's experts that may be others than those of the token before
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    turnover: f64,
    #[command(flatten)]
    machine: Machine,
    /// Keep the trace that was found (safetensors)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep the program that makes it (JSON)
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Do not search: judge a program that was kept
    #[arg(long, value_name = "FILE", conflicts_with = "keep")]
    replay: Option<PathBuf>,
}

static COLUMNS: [Column; 6] = [
    column("strategy", "strategy", Text, ""),
    column(
        "own",
        "a token",
        Number(3),
        "what hurts, in all layers; of silence: share of the tokens that want an expert and do not run it",
    ),
    column("best_strategy", "best of the others", Text, "").if_any(),
    column("best", "a token", Number(3), "of the best of the others").if_any(),
    column("share", "of the best", Percent, "the best over the strategy: less than 100 % is worse than it").if_any(),
    column("tries", "tried", Count, ""),
];

/// Bytes that a kept program may have.
const MOST: u64 = 1 << 20;

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS],
    examples: &[("cptr attack tracked --against lru --tries 50", "the routing on which it stalls most, beside LRU")],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let (experts, k) = (args.experts as usize, args.top_k as usize);
    let resident = args.resident.unwrap_or((2 * k).min(experts));
    if k > experts || !(1..=experts).contains(&resident) {
        return Err(Error::usage(format!(
            "expected at most {experts} experts of a token and 1 to {experts} resident, found {k} and {resident}"
        )));
    }
    if !(0.0..=1.0).contains(&args.turnover) {
        return Err(Error::usage(format!("--turnover: expected 0 to 1, found {}", args.turnover)));
    }
    let shape = Shape { tokens: args.tokens as usize, layers: args.layers as usize, experts, k };
    let against = match (&args.against, args.hurt) {
        (Some(asked), _) => asked.clone(),
        (None, Hurt::Mass | Hurt::Switches | Hurt::Silence) => Vec::new(),
        (None, _) => Strategy::parse_list("lru,once,tracked,recall")?,
    };
    let shadows: Vec<Strategy> = against.into_iter().filter(|other| !other.is(&args.strategy)).collect();
    let (system, model) = (args.machine.system_or("offload")?, args.machine.model("")?);
    // Without sizes: those of a small model. Ratios of times hang on the machine more than on them.
    let model = model.or_else(|| Model::find("olmoe").cloned());
    let timed = (args.hurt == Hurt::Time).then(|| replay::Machine::new(&system, model.as_ref()));
    let plan = Plan {
        strategy: args.strategy.clone(),
        shadows,
        limits: Limits { shape, turnover: args.turnover },
        resident,
        hurt: args.hurt,
        machine: timed,
        tries: args.tries as usize,
        seed: args.seed,
    };
    let found = match &args.replay {
        None => attack::attack(&plan)?,
        Some(path) => {
            attack::judge(&plan, &kept(path)?, shape.tokens).map_err(|e| Error::in_file(path, e.to_string()))?
        }
    };
    if let Some(path) = &args.keep {
        let program = serde_json::to_string_pretty(&found.program).map_err(|e| Error::in_file(path, e.to_string()))?;
        file::replace(path, |out| writeln!(out, "{program}"))?;
    }
    if let Some(path) = &args.out {
        let limits = Limits { shape: Shape { tokens: found.tokens, ..shape }, ..plan.limits };
        let mut trace = found.program.trace(&limits)?;
        trace.meta.source = "cptr attack".into();
        native::write(&trace, path)?;
    }
    Ok(page(&plan, &found))
}

fn kept(path: &std::path::Path) -> Result<Program> {
    let text = file::text(path, MOST)?;
    serde_json::from_str(&text).map_err(|error| Error::in_file(path, format!("expected a kept program: {error}")))
}

fn page(plan: &Plan<'_>, found: &Found) -> Page {
    let compared = found.best_strategy.is_some();
    let row = json!({
        "strategy": plan.strategy.to_string(), "own": found.own, "best_strategy": found.best_strategy,
        "best": compared.then_some(found.best), "share": compared.then(|| found.share()), "tries": found.tries,
    });
    let Shape { layers, experts, k, .. } = plan.limits.shape;
    let facts = vec![format!(
        "{} of {layers} layers of {experts} experts, {k} a token, {} resident; {} tokens",
        plan.hurt, plan.resident, found.tokens
    )];
    let sets: Vec<Value> = found.program.sets.iter().map(|set| set.len().into()).collect();
    let parts = found.program.parts.iter().map(|part| {
        let (set, tokens, stride) = (part.set, part.tokens, part.stride);
        format!("{tokens} tokens of set {set} ({} experts), {stride} places on with each", sets[set])
    });
    let mut remarks: Vec<String> = vec!["The routing, again and again:".into()];
    remarks.extend(parts);
    let answer = match &found.best_strategy {
        Some(best) => format!(
            "On the routing that was found {} has {:.3} {} a token, and {best} {:.3}: {:.2} times as much.",
            plan.strategy,
            found.own,
            plan.hurt,
            found.best,
            found.own / found.best
        ),
        None => format!("On the routing that was found {} has {:.3} {} a token.", plan.strategy, found.own, plan.hurt),
    };
    let rows = [row];
    let mut page = Page::new(Table::new(&COLUMNS, &rows));
    page.sections = vec![Section { remarks, ..Section::of(facts, Table::new(&COLUMNS, &rows)) }];
    page.answered(answer).beside("program", &found.program).beside("tokens", &found.tokens)
}
