//! `cptr-llama advise`: what to do with experts that do not fit, for a model on this machine: its routing of one's own
//! text, recorded, and the times of computing and loading, measured. With `--check` the answer is held against
//! measured tokens per second of all that it was chosen from.

use std::path::PathBuf;
use std::sync::Arc;

use cptr_sim::advise::{self, Advice, CANDIDATES, Kind, SAME};
use cptr_sim::replay::Machine;
use cptr_sim::strategy::Strategy;
use cptr_trace::error::{Error, Result};
use cptr_trace::{Meta, Trace};
use serde_json::{Value as Json, json};

use crate::capture::{self, Recording};
use crate::common::{ModelArgs, OffloadArgs};
use crate::ffi::Model;
use crate::moe::Moe;
use crate::offload::measure::{Measured, measure};
use crate::offload::{Store, take};
use crate::run::{Compared, compare, error_bar, facts, routing, scripted_turns};
use crate::show::{Page, column};
use crate::steer::Plan;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("memory").args(["offload", "gpu_memory"]).required(true))]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    offload: OffloadArgs,
    #[command(flatten)]
    recording: Recording,
    /// Routing of this trace instead of the model's own, for models of random weights
    #[arg(long, value_name = "TRACE", conflicts_with_all = ["text", "generate"])]
    routing: Option<PathBuf>,
    /// Only this domain of the trace
    #[arg(long, value_name = "NAME", requires = "routing")]
    domain: Option<String>,
    /// Tokens of the trace that the advice is from
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "routing")]
    tokens: usize,
    /// Run so many tokens behind those that the advice is from, with every strategy, and say which is fastest
    #[arg(long, value_name = "N", default_value_t = 0)]
    check: usize,
    /// Tokens of a turn in that run, in which the strategies take turns
    #[arg(long, value_name = "N", default_value_t = 32, requires = "check")]
    block: usize,
}

pub(crate) fn main(args: &Args) -> Result<Page> {
    let memory =
        args.offload.memory()?.ok_or_else(|| Error::usage("expected --offload or --gpu-memory, found none"))?;
    let moe = Moe::read(&args.model.model)?;
    let trace = match &args.routing {
        Some(path) => routing(path, args.domain.as_deref(), args.tokens.saturating_add(args.check), &moe)?,
        None => capture::record(&args.model, &args.recording, true)?.0,
    };
    let model = Model::load(&args.model.model)?;
    let tokens = trace.shape.tokens;
    let known = tokens.checked_sub(args.check).filter(|&known| known > 0).ok_or_else(|| {
        Error::usage(format!(
            "--check: expected fewer than the {tokens} tokens that are recorded, found {}",
            args.check
        ))
    })?;
    let store = Arc::new(take(&model, &moe, &args.model, &args.offload)?);
    let measured = measure(&model, &moe, &store, memory, args.model.threads())?;
    let (system, sizes) = (measured.system(&moe)?, Measured::sizes(&moe));
    // What copies reach was measured with the token.
    let copies = Some([system.link().copy_efficiency; 2]);
    let asked = advise::Plan { system: &system, model: &sizes, resident: memory, copies };
    let first = trace.first(known);
    let first = Trace { meta: Meta { domains: first.meta.domains.clone(), ..moe.meta() }, ..first };
    let advice = advise::advise(&first, &asked)?;
    let mut facts = facts(&moe, memory, &args.offload, &measured);
    facts.push(format!("advice from {known} tokens"));
    facts.extend(advise::sentences(&first, &asked, &advice));
    facts.extend(advice.skipped.iter().cloned());
    let mut rows: Vec<Json> = Vec::new();
    for (index, candidate) in advice.candidates.iter().enumerate() {
        let mut row = serde_json::to_value(candidate).map_err(|error| Error::new(error.to_string()))?;
        row["what"] = candidate.kind.name().into();
        row["advised"] = if index == advice.advised { "yes" } else { "" }.into();
        rows.push(row);
    }
    let mut columns = vec![
        column("strategy", "strategy"),
        column("what", "what"),
        column("advised", "advised"),
        column("tokens_per_s", "tokens/s").decimals(2),
        column("low_tokens_per_s", "from").decimals(2),
        column("high_tokens_per_s", "to").decimals(2),
        column("stall_rate", "stall").percent(),
        column("load_rate", "load").percent(),
        column("mass_loss", "mass loss").percent(),
    ];
    let mut beside = vec![("measured".into(), measured.json(&moe)), ("sure".into(), advice.sure.into())];
    if args.check > 0 {
        let plan = Plan { moe: &moe, resident: memory, machine: Machine::new(&system, Some(&sizes)), tokens };
        let checked = check(args, &plan, &model, &store, &trace, known)?;
        for row in &mut rows {
            let own = checked.iter().find(|checked| checked.strategy == row["strategy"]);
            row["measured_tokens_per_s"] = own.map(|own| own.tokens_per_s).into();
            row["error_bar"] = own.and_then(|own| own.error_bar).into();
        }
        columns.push(column("measured_tokens_per_s", "measured").decimals(2));
        columns.push(column("error_bar", "+/-").percent());
        let (said, verdict) = verdict(&advice, &checked);
        facts.push(said);
        beside.push(("check".into(), verdict));
    }
    Ok(Page { facts, columns, rows, beside })
}

/// What a strategy was measured at.
struct Checked {
    strategy: &'static str,
    kind: Kind,
    tokens_per_s: f64,
    /// Two standard errors, as a share.
    error_bar: Option<f64>,
    /// Seconds of a token in each turn.
    turns: Vec<f64>,
}

/// All candidates that llama.cpp can run, in turns.
fn check(
    args: &Args,
    plan: &Plan<'_>,
    model: &Model,
    store: &Arc<Store>,
    trace: &Trace,
    known: usize,
) -> Result<Vec<Checked>> {
    let parsed = CANDIDATES.iter().map(|&(name, kind)| Ok((name, kind, Strategy::parse(name)?)));
    let scored = trace.logits.is_some();
    let can = |strategy: &Strategy| plan.check(strategy).is_ok() && (scored || strategy.select.kind.name == "raw");
    let candidates: Vec<_> =
        parsed.collect::<Result<Vec<_>>>()?.into_iter().filter(|(_, _, strategy)| can(strategy)).collect();
    let strategies: Vec<Strategy> = candidates.iter().map(|(_, _, strategy)| strategy.clone()).collect();
    let turns = scripted_turns(trace, known, args.block, model);
    let compared = Compared { strategies: &strategies, threads: args.model.threads(), skip: known, warm: 0.25 };
    let rows = compare(&compared, model, plan, store, Some(trace), &turns)?;
    let checked = candidates.iter().zip(rows).map(|(&(strategy, kind, _), row)| Checked {
        strategy,
        kind,
        tokens_per_s: row["tokens_per_s"].as_f64().unwrap_or(f64::NAN),
        error_bar: row["error_bar"].as_f64(),
        turns: row["turn_s"].as_array().into_iter().flatten().filter_map(Json::as_f64).collect(),
    });
    Ok(checked.collect())
}

/// Whether the advice was right: the fastest as measured, or within [`SAME`] of it; or whether that cannot be told.
fn verdict(advice: &Advice, checked: &[Checked]) -> (String, Json) {
    let name = advice.best().strategy;
    let lossless = || checked.iter().filter(|one| one.kind != Kind::Substitute);
    let others = lossless().filter(|one| one.strategy != name);
    let best_other = others.max_by(|a, b| a.tokens_per_s.total_cmp(&b.tokens_per_s));
    let advised = lossless().find(|one| one.strategy == name);
    let (Some(other), Some(advised)) = (best_other, advised) else {
        return ("Not checked: llama.cpp cannot run what is advised.".into(), Json::Null);
    };
    // Strategies take turns, so that what else the machine does is in both times of a pair.
    let pairs: Vec<f64> = other.turns.iter().zip(&advised.turns).map(|(other, advised)| other / advised).collect();
    let ratio = advised.tokens_per_s / other.tokens_per_s;
    let bar = error_bar(&pairs);
    let verdict = match bar {
        _ if ratio * (1.0 + SAME) >= 1.0 => "right",
        Some(bar) if ratio * (1.0 + SAME) * (1.0 + bar) >= 1.0 => "not told apart",
        _ => "wrong",
    };
    let said = format!(
        "Checked: {verdict}. As measured {name} has {:.2} tokens/s, the best of the others, {}, {:.2}: {:.3} times as \
         many{}.",
        advised.tokens_per_s,
        other.strategy,
        other.tokens_per_s,
        ratio,
        bar.map_or_else(String::new, |bar| format!(", +/- {:.1} %", bar * 100.0))
    );
    let page = json!({
        "verdict": verdict, "advised": name, "best_other": other.strategy, "ratio": ratio, "error_bar": bar,
    });
    (said, page)
}
