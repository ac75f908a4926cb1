//! `cptr attack`: routing, or with a model in the loop a prompt, on which a strategy does worst.

#[cfg(feature = "model")]
mod prompt;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

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
    /// What it is to have much of: loads, stalls, time (on --system), mass, switches, migrations or silence; with
    /// --prompt mass, silence, divergence (of what is predicted) or changed (most probable next tokens)
    #[arg(long, value_name = "WHAT", default_value_t = Wanted::Routing(Hurt::Stalls))]
    hurt: Wanted,
    /// Search for a prompt that a model reads, instead of routing: the bundled model, or the folder of a checkpoint
    /// with --text
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, require_equals = true, help_heading = "Models")]
    prompt: Option<Option<PathBuf>>,
    /// Tokens of ordinary text that follow the prompt, and are judged instead of it
    #[arg(long, value_name = "N", default_value_t = 0, requires = "prompt", help_heading = "Models")]
    then: usize,
    /// Ordinary text, to begin with, to follow, and to compare with: files, or folders with .txt files (default: the
    /// bundled model's)
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "prompt", help_heading = "Models")]
    text: Vec<PathBuf>,
    /// Programs, or prompts, that are tried
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    tries: u32,
    /// Where the search begins: the same seed finds the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Tokens of the trace, or of the prompt (default: 1024, or 256)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    tokens: Option<u32>,
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
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    out: Option<PathBuf>,
    /// Keep the program that makes it, or the prompt (JSON)
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Do not search: judge a program, or a prompt, that was kept
    #[arg(long, value_name = "FILE", conflicts_with = "keep")]
    replay: Option<PathBuf>,
}

/// What is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Of routing, by itself or beside others.
    Routing(Hurt),
    /// Of what a model predicts: divergence from the unaltered model's predictions.
    Divergence,
    /// The same: most probable next tokens that are others.
    Changed,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Routing(hurt) => hurt.fmt(f),
            Self::Divergence => f.write_str("divergence"),
            Self::Changed => f.write_str("changed"),
        }
    }
}

impl FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "divergence" => Ok(Self::Divergence),
            "changed" => Ok(Self::Changed),
            _ => text.parse().map(Self::Routing),
        }
    }
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

/// Rows of a prompt, and of ordinary text beside it.
static PROMPT: [Column; 8] = [
    column("what", "", Text, "the prompt that was found, or ordinary text of as many tokens as were asked for"),
    column("strategy", "strategy", Text, "").detail(),
    column("tokens", "tokens", Count, "of the prompt"),
    column("judged", "judged", Count, "tokens that the figures are of"),
    column("mass_loss", "mass loss", Percent, "wanted routing mass given up"),
    column("least_run", "least run", Percent, "of the tokens that want the expert silenced most, those that run it"),
    column("divergence", "divergence", Number(5), "of the predictions from the unaltered model's, nats per token"),
    column("changed", "changed", Percent, "most probable next tokens that are others than the unaltered model's"),
];

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS, &PROMPT],
    examples: &[("cptr attack tracked --against lru --tries 50", "the routing on which it stalls most, beside LRU")],
};

#[cfg(not(feature = "model"))]
mod prompt {
    pub(super) fn main(_: &super::Args) -> super::Result<super::Page> {
        Err(crate::commands::without_models::missing())
    }
}

pub(super) fn main(args: &Args) -> Result<Page> {
    if args.prompt.is_some() {
        return prompt::main(args);
    }
    let Wanted::Routing(hurt) = args.hurt else {
        return Err(Error::usage(format!("--hurt {}: expected a model that reads (--prompt), found none", args.hurt)));
    };
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
    let shape = Shape { tokens: args.tokens.unwrap_or(1024) as usize, layers: args.layers as usize, experts, k };
    let against = match (&args.against, hurt) {
        (Some(asked), _) => asked.clone(),
        (None, Hurt::Mass | Hurt::Switches | Hurt::Silence) => Vec::new(),
        (None, _) => Strategy::parse_list("lru,once,tracked,recall")?,
    };
    let shadows: Vec<Strategy> = against.into_iter().filter(|other| !other.is(&args.strategy)).collect();
    let (system, model) = (args.machine.system_or("offload")?, args.machine.model("")?);
    // Without sizes: those of a small model. Ratios of times hang on the machine more than on them.
    let model = model.or_else(|| Model::find("olmoe").cloned());
    let timed = (hurt == Hurt::Time).then(|| replay::Machine::new(&system, model.as_ref()));
    let plan = Plan {
        strategy: args.strategy.clone(),
        shadows,
        limits: Limits { shape, turnover: args.turnover },
        resident,
        hurt,
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
