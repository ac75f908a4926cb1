//! `cptr-llama run`: tokens per second with experts in bounded memory, read from the drive for real, and beside it what
//! the engine's model predicts.
//!
//! Strategies take turns, block by block of the same tokens, so that what else the machine does meets all of them. What
//! a strategy had in memory is read again before its turn, which is not counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cptr_sim::replay::{self, Budget, LayerTally, Machine, Row, Tally};
use cptr_sim::strategy::Strategy;
use cptr_trace::error::{Error, Result};
use cptr_trace::import::{self, Recording};
use cptr_trace::progress::Progress;
use cptr_trace::{Shape, Trace};
use serde_json::{Value as Json, json};

use crate::common::{ModelArgs, OffloadArgs};
use crate::eval::{Quality, finite};
use crate::ffi::{Context, Model, Options};
use crate::generate::step;
use crate::make::VOCABULARY;
use crate::moe::Moe;
use crate::offload::measure::{Measured, measure};
use crate::offload::{Offload, Store, Waits, take};
use crate::passes::Width;
use crate::run_batch;
use crate::show::{Page, column};
use crate::steer::{Plan, Script, Steering};
use crate::text;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("memory").args(["offload", "gpu_memory", "mapped"]).required(true))]
#[command(group = clap::ArgGroup::new("pass").args(["batch", "sequences"]))]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    offload: OffloadArgs,
    /// llama.cpp's own mapping instead, to be run under a limit of memory: the system decides what stays
    #[arg(long, conflicts_with = "strategy")]
    mapped: bool,
    /// Strategies of cptr, such as lru,bounded:eps=0.04+recall+recall-fetch (`cptr run --help` has them all)
    #[arg(long, value_name = "NAME[:PARAMETER=VALUE]…[+…]", value_delimiter = ',', value_parser = Strategy::parse,
          default_value = "lru")]
    strategy: Vec<Strategy>,
    /// Routing of this trace instead of the model's own, for models of random weights
    #[arg(long, value_name = "TRACE")]
    routing: Option<PathBuf>,
    /// Strategies that are only predicted, on the routing of --routing and what this machine was measured at; also
    /// those that see the future, such as belady+perfect:accuracy=1, which say how much there is to gain
    #[arg(long, value_name = "NAME[:PARAMETER=VALUE]…[+…]", value_delimiter = ',', value_parser = Strategy::parse,
          requires = "routing", conflicts_with_all = ["mapped", "batch", "sequences"])]
    predict: Vec<Strategy>,
    /// Only this domain of the trace
    #[arg(long, value_name = "NAME", requires = "routing")]
    domain: Option<String>,
    /// Tokens of the trace that run
    #[arg(long, value_name = "N", default_value_t = 1024, requires = "routing")]
    tokens: usize,
    /// Tokens of the trace before them that strategies only see, so that they know it
    #[arg(long, value_name = "N", default_value_t = 0, requires = "routing")]
    skip: usize,
    /// Tokens of a turn, with --routing; of texts each is a turn
    #[arg(long, value_name = "N", default_value_t = 64, requires = "routing")]
    block: usize,
    /// Share of the turns that are not counted, at the beginning: memory fills, strategies learn
    #[arg(long, value_name = "SHARE", default_value_t = 0.25)]
    warm: f64,
    /// Instead: so many tokens of the text in one pass, as in a prompt or where a draft is verified, with the cache of
    /// engines: the model's own choice, each token within its bound in turn, and all of them together
    #[arg(long, value_name = "TOKENS", conflicts_with_all = ["mapped", "strategy", "skip"],
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: Option<u16>,
    /// The same with a token each of so many texts that are read side by side
    #[arg(long, value_name = "N", conflicts_with_all = ["mapped", "strategy", "skip"],
          value_parser = clap::value_parser!(u16).range(2..=64))]
    sequences: Option<u16>,
    /// Share of its routing mass that a token may lose in a layer, for --batch and --sequences
    #[arg(long, value_name = "SHARE", default_value_t = 0.04, requires = "pass")]
    eps: f64,
    /// With these also the divergence from llama.cpp alone in the same passes: it first runs with all experts in
    /// memory, and its predictions are kept
    #[arg(long, requires = "pass", conflicts_with = "routing")]
    compare: bool,
    #[command(flatten)]
    text: text::Args,
}

/// A recording in the place of the model's routing: its layers at equal distances.
pub(crate) struct Recorded<'a> {
    pub(crate) trace: &'a Trace,
}

impl Script for Recorded<'_> {
    fn routing(&mut self, step: usize, layer: usize, logits: &mut Vec<f32>, wanted: &mut Vec<u16>) {
        wanted.extend_from_slice(self.trace.chosen(step, layer));
        if let Some(recorded) = &self.trace.logits {
            let first = logits.len();
            logits.resize(first + self.trace.scored(), 0.0);
            recorded.read_row(step, layer, &mut logits[first..]);
        }
    }
}

/// A strategy with its context, and what it took.
struct Runner<'m, 'a> {
    strategy: &'a Strategy,
    context: Context<'m, Steering<'a, Offload>>,
    time: Duration,
    tokens: usize,
    /// Seconds of a token, of each turn that is counted.
    turns: Vec<f64>,
    bytes: u64,
    most_held: u64,
    quality: Quality,
    /// At the end of the turns that are not counted.
    warm_waits: Waits,
    warm_steps: usize,
    warm_counts: Counts,
}

/// What the engine has counted in all layers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counts {
    choices: u64,
    stalls: u64,
    misses: u64,
    loads: u64,
    /// Sum over tokens and layers of the share of the wanted mass given up.
    lost: f64,
    tokens: u64,
}

impl Counts {
    fn of(tally: &Tally) -> Self {
        let sum = |of: fn(&LayerTally) -> u64| tally.layers.iter().map(of).sum();
        Self {
            choices: sum(|layer| layer.choices),
            stalls: sum(|layer| layer.stalls),
            misses: sum(|layer| layer.misses),
            loads: sum(LayerTally::loads),
            lost: tally.layers.iter().map(|layer| layer.mass_lost).sum(),
            tokens: sum(|layer| layer.tokens),
        }
    }
}

/// Tokens of a turn, and for each whether a sequence begins with it.
pub(crate) type Turn = Vec<(u32, bool)>;

pub(crate) fn main(args: &Args) -> Result<Page> {
    if !(0.0..1.0).contains(&args.warm) {
        return Err(Error::usage(format!("--warm: expected a share below 1, found {}", args.warm)));
    }
    let memory = args.offload.memory()?;
    let path = &args.model.model;
    let moe = Moe::read(path)?;
    let model = Model::load(path)?;
    let tokens = args.tokens.saturating_add(args.skip);
    let domain = args.domain.as_deref();
    let routing = args.routing.as_deref().map(|trace| routing(trace, domain, tokens, &moe)).transpose()?;
    let turns = turns(args, &model, routing.as_ref())?;
    let Some(memory) = memory else { return mapped(args, &moe, &model, routing.as_ref(), &turns) };
    let width = match (args.batch, args.sequences) {
        (None, None) => None,
        (batch, sequences) => {
            let [sequences, batch] = [sequences, batch].map(|count| count.map_or(1, usize::from));
            Some(Width::new(&moe, memory, sequences, batch, &turns)?)
        }
    };
    let threads = args.model.threads();
    let compared = width.filter(|_| args.compare);
    let reference = compared.map(|width| run_batch::reference(&model, width, threads, &turns)).transpose()?;
    let store = Arc::new(take(&model, &moe, &args.model, &args.offload)?);
    if let Some(width) = width {
        return run_batch::run(&run_batch::Run {
            moe: &moe,
            model: &model,
            store: &store,
            threads,
            width,
            eps: args.eps,
            warm: args.warm,
            routing: routing.as_ref(),
            turns: &turns,
            reference: reference.as_deref(),
        });
    }
    let measured = measure(&model, &moe, &store, memory, threads)?;
    let system = measured.system(&moe)?;
    let sizes = Measured::sizes(&moe);
    let tokens = turns.iter().map(Vec::len).sum::<usize>() + args.skip;
    let plan = Plan { moe: &moe, resident: memory, machine: Machine::new(&system, Some(&sizes)), tokens };
    let compared = Compared { strategies: &args.strategy, threads, skip: args.skip, warm: args.warm };
    // What is refused is refused before anything runs.
    let predicted = match routing.as_ref().filter(|_| !args.predict.is_empty()) {
        Some(trace) => predict(args, trace, &plan, args.skip + counted_from(&turns, args.warm))?,
        None => Vec::new(),
    };
    let mut rows = compare(&compared, &model, &plan, &store, routing.as_ref(), &turns)?;
    rows.extend(predicted);
    let facts = facts(&moe, memory, &args.offload, &measured);
    let columns = vec![
        column("strategy", "strategy"),
        column("tokens_per_s", "tokens/s").decimals(2),
        column("error_bar", "+/-").percent(),
        column("predicted_tokens_per_s", "predicted").decimals(2),
        column("prediction_error", "off by").change(),
        column("to_first", "to first").decimals(2),
        column("waited", "waited").percent(),
        column("late_rate", "late").percent(),
        column("counted_stall_rate", "stall").percent(),
        column("counted_load_rate", "load").percent(),
        column("mb_per_token", "MB/token").decimals(1),
        column("held_mb", "held MB").decimals(0),
        column("counted_mass_loss", "mass loss").percent(),
        column("perplexity", "perplexity").decimals(4),
    ];
    let beside = vec![("measured".into(), measured.json(&moe))];
    Ok(Page { facts, columns, rows, beside })
}

/// What runs, and how fast this machine is at it.
pub(crate) fn facts(moe: &Moe, memory: Budget, offload: &OffloadArgs, measured: &Measured) -> Vec<String> {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let others = match (offload.host(), offload.link()) {
        (false, _) => String::new(),
        (true, None) => ", the others in host memory".into(),
        (true, Some(link)) => format!(", the others in host memory behind a link of {} GB/s", link / 1e9),
    };
    let (layers, experts, k) = (moe.layers.len(), moe.experts, moe.k);
    vec![
        format!(
            "{} ({}): {layers} layers x {experts} experts of {:.2} MB, top-{k}; {memory} for experts{others}",
            moe.name,
            moe.architecture,
            moe.expert_bytes(0) as f64 / 1e6,
        ),
        format!(
            "measured before: a token with all experts there {:.2} ms, {:.2} GB/s; an expert {} {:.2} ms, {:.2} GB/s",
            ms(measured.token),
            measured.computing(moe) / 1e9,
            if offload.host() { "copied" } else { "read" },
            ms(measured.read),
            measured.bytes_per_s / 1e9
        ),
    ]
}

/// llama.cpp with its own mapping of the file.
fn mapped(args: &Args, moe: &Moe, model: &Model, routing: Option<&Trace>, turns: &[Turn]) -> Result<Page> {
    let (system, sizes) = (crate::steer::system("offload").map_err(Error::usage)?, crate::steer::sizes(moe));
    let plan = Plan {
        moe,
        resident: Budget::Experts(moe.k),
        machine: Machine::new(&system, Some(&sizes)),
        tokens: turns.iter().map(Vec::len).sum::<usize>() + args.skip,
    };
    let mut steering = Steering::new(&plan, &Strategy::parse("raw")?, ())?;
    if let Some(trace) = routing {
        steering = steering.scripted(Box::new(Recorded { trace }));
        steering.skip(args.skip, |step| trace.starts_sequence(step))?;
    }
    let longest = turns.iter().map(Vec::len).max().unwrap_or(1);
    let options = Options { tokens: longest, batch: 1, sequences: 1, threads: args.model.threads() };
    let mut context = Context::new(model, options, steering)?;
    let warm = first_counted(turns, args.warm);
    let (mut time, mut tokens) = (Duration::ZERO, 0);
    for (index, turn) in turns.iter().enumerate() {
        context.clear();
        let start = Instant::now();
        for (position, &(token, starts)) in turn.iter().enumerate() {
            step(&mut context, token, position, starts)?;
        }
        if index >= warm {
            time += start.elapsed();
            tokens += turn.len();
        }
    }
    let per_s = tokens as f64 / time.as_secs_f64();
    let row = json!({"strategy": "llama.cpp, mapped", "tokens_per_s": per_s, "tokens": tokens});
    let columns = vec![column("strategy", "strategy"), column("tokens_per_s", "tokens/s").decimals(2)];
    Ok(Page { columns, rows: vec![row], ..Page::default() })
}

/// The first tokens of a trace, or of one of its domains, in the layers of the model.
///
/// # Errors
/// A file that is no trace, or one of a model of other sizes; a domain that it does not have.
pub(crate) fn routing(path: &Path, domain: Option<&str>, tokens: usize, moe: &Moe) -> Result<Trace> {
    let Recording::Tokens(trace) = import::read(path, &import::Options::default())? else {
        return Err(Error::in_file(path, "expected a trace of tokens, found counts"));
    };
    let trace = match domain {
        None => trace,
        Some(name) => {
            let index = trace.meta.domains.iter().position(|known| known == name).ok_or_else(|| {
                let known = trace.meta.domains.join(", ");
                Error::in_file(path, format!("expected a domain ({known}), found \"{name}\""))
            })?;
            trace.part(|domain| domain == index, usize::MAX)?
        }
    };
    let trace = trace.first(tokens.clamp(1, trace.shape.tokens));
    let Shape { tokens, layers, experts, k } = trace.shape;
    if (experts, k) != (moe.experts, moe.k) || layers < moe.layers.len() {
        return Err(Error::in_file(
            path,
            format!(
                "expected {} experts, {} of them for a token, and at least {} layers, found {experts}, {k} and {layers}",
                moe.experts,
                moe.k,
                moe.layers.len()
            ),
        ));
    }
    // Layers at equal distances: neighbours at the beginning would be no sample of the model.
    let taken: Vec<usize> = (0..moe.layers.len()).map(|layer| layer * layers / moe.layers.len()).collect();
    let mut ids = Vec::new();
    let mut logits = trace.logits.as_ref().map(|_| Vec::new());
    for token in 0..tokens {
        for &layer in &taken {
            let chosen = trace.chosen(token, layer);
            if chosen.len() != k {
                return Err(Error::in_file(path, format!("expected {k} experts of every token, found fewer")));
            }
            ids.extend_from_slice(chosen);
            if let (Some(logits), Some(recorded)) = (&mut logits, &trace.logits) {
                let first = logits.len();
                logits.resize(first + experts, 0.0);
                recorded.read_row(token, layer, &mut logits[first..]);
            }
        }
    }
    let shape = moe.shape(tokens);
    let logits = logits.map(|logits| cptr_trace::array::FloatArray::owned([tokens, shape.layers, experts], logits));
    Ok(Trace { logits, sequence: trace.sequence.clone(), ..Trace::of_ids(shape, ids) })
}

fn turns(args: &Args, model: &Model, routing: Option<&Trace>) -> Result<Vec<Turn>> {
    let Some(trace) = routing else {
        let documents = args.text.read(model)?;
        let turn = |tokens: &[u32]| tokens.iter().enumerate().map(|(at, &token)| (token, at == 0)).collect();
        return Ok(documents.iter().map(|document| turn(&document.tokens)).collect());
    };
    if args.skip >= trace.shape.tokens {
        let tokens = trace.shape.tokens;
        return Err(Error::usage(format!(
            "--skip: expected fewer than the trace's {tokens} tokens, found {}",
            args.skip
        )));
    }
    Ok(scripted_turns(trace, args.skip, args.block, model))
}

/// Turns of a recording, from a token on: what is read does not matter.
pub(crate) fn scripted_turns(trace: &Trace, skip: usize, block: usize, model: &Model) -> Vec<Turn> {
    let most = (model.vocabulary() as u32).clamp(1, VOCABULARY);
    let one = |token: usize| (token as u32 * 7919 % most, trace.starts_sequence(token));
    let all: Turn = (skip..trace.shape.tokens).map(one).collect();
    all.chunks(block.max(1)).map(<[_]>::to_vec).collect()
}

/// Strategies that take turns.
pub(crate) struct Compared<'a> {
    pub(crate) strategies: &'a [Strategy],
    pub(crate) threads: usize,
    /// Tokens of the recording that strategies only see.
    pub(crate) skip: usize,
    /// Share of the turns that are not counted.
    pub(crate) warm: f64,
}

/// A row for each strategy.
///
/// # Errors
/// Strategies that llama.cpp cannot run, reads that fail.
pub(crate) fn compare<'a>(
    args: &Compared<'a>,
    model: &Model,
    plan: &Plan<'a>,
    store: &Arc<Store>,
    routing: Option<&'a Trace>,
    turns: &[Turn],
) -> Result<Vec<Json>> {
    let layers = plan.moe.layers.len();
    let longest = turns.iter().map(Vec::len).max().unwrap_or(1);
    let options = Options { tokens: longest, batch: 1, sequences: 1, threads: args.threads };
    let knows = routing.map(|trace| trace.logits.is_some());
    let mut runners = Vec::new();
    for strategy in args.strategies {
        plan.check(strategy)?;
        if knows == Some(false) && strategy.select.kind.name != "raw" {
            return Err(Error::usage(format!("{strategy}: expected a trace with logits, found one of ids only")));
        }
        let mut steering = Steering::new(plan, strategy, Offload::new(store.clone(), layers))?;
        if let Some(trace) = routing {
            steering = steering.scripted(Box::new(Recorded { trace }));
            steering.skip(args.skip, |step| trace.starts_sequence(step))?;
        }
        runners.push(Runner {
            strategy,
            context: Context::new(model, options, steering)?,
            time: Duration::ZERO,
            tokens: 0,
            turns: Vec::new(),
            bytes: 0,
            most_held: 0,
            quality: Quality::default(),
            warm_waits: Waits::default(),
            warm_steps: 0,
            warm_counts: Counts::default(),
        });
    }
    let warm = first_counted(turns, args.warm);
    let all: usize = turns.iter().map(Vec::len).sum();
    let progress = Progress::new((all * runners.len()) as u64, "running");
    for (index, turn) in turns.iter().enumerate() {
        for runner in &mut runners {
            store.clear()?;
            runner.context.tap().watch().restore()?;
            let before = store.traffic().bytes;
            if index == warm {
                runner.warm_waits = runner.context.tap().watch().waits();
                runner.warm_steps = turns[..warm].iter().map(Vec::len).sum::<usize>() + args.skip;
                runner.warm_counts = Counts::of(runner.context.tap().tally());
            }
            runner.turn(turn, index >= warm, routing.is_none())?;
            if index >= warm {
                let traffic = store.traffic();
                runner.bytes += traffic.bytes - before;
                runner.most_held = runner.most_held.max(traffic.most_held);
            }
            progress.advance(turn.len() as u64);
        }
    }
    let mut rows: Vec<Json> = runners.into_iter().map(|runner| runner.row(plan)).collect();
    let first = rows.first().and_then(|row| row["tokens_per_s"].as_f64());
    for row in &mut rows {
        row["to_first"] = row["tokens_per_s"].as_f64().zip(first).map(|(own, first)| own / first).into();
    }
    Ok(rows)
}

/// The first token that is counted, of all turns.
fn counted_from(turns: &[Turn], warm: f64) -> usize {
    turns[..first_counted(turns, warm)].iter().map(Vec::len).sum()
}

/// The first turn that is counted.
fn first_counted(turns: &[Turn], warm: f64) -> usize {
    ((turns.len() as f64 * warm) as usize).min(turns.len().saturating_sub(1))
}

/// A row for each strategy that is only predicted, on the tokens that are counted; those before are its prompt.
fn predict(args: &Args, trace: &Trace, plan: &Plan<'_>, counted_from: usize) -> Result<Vec<Json>> {
    let predicted = replay::Plan {
        strategies: args.predict.clone(),
        prefill: counted_from,
        machine: Some(plan.machine),
        ..replay::Plan::new(plan.resident)
    };
    let outcome = replay::run(trace, &predicted)?;
    if let Some(skipped) = outcome.skipped.first() {
        return Err(Error::usage(format!("--predict: {}: {}", skipped.strategy, skipped.reason)));
    }
    let time = |row: &Row| row.token_time_us.unwrap_or(f64::NAN);
    let first = outcome.rows.first().map_or(f64::NAN, time);
    let row = |row: &Row| {
        json!({
            "strategy": row.strategy,
            "predicted_tokens_per_s": 1e6 / time(row),
            "to_first": first / time(row),
            "counted_stall_rate": row.stall_rate,
            "counted_load_rate": row.load_rate,
            "counted_mass_loss": row.mass_loss,
        })
    };
    Ok(outcome.rows.iter().map(row).collect())
}

/// Two standard errors of the mean of some times, as a share of it; none of a single one.
pub(crate) fn error_bar(times: &[f64]) -> Option<f64> {
    let n = times.len() as f64;
    let mean = times.iter().sum::<f64>() / n;
    let spread = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (times.len() > 1).then(|| 2.0 * (spread / n).sqrt() / mean)
}

impl Runner<'_, '_> {
    fn turn(&mut self, turn: &Turn, counted: bool, reads: bool) -> Result<()> {
        self.context.clear();
        let before = self.time;
        for (position, &(token, starts)) in turn.iter().enumerate() {
            let start = Instant::now();
            step(&mut self.context, token, position, starts)?;
            if counted {
                self.time += start.elapsed();
                self.tokens += 1;
            }
            if let (true, Some(&(next, _))) = (reads, turn.get(position + 1)) {
                let logits = self.context.logits(0);
                finite(logits)?;
                self.quality.add(logits, logits, next);
            }
        }
        if counted {
            self.turns.push((self.time - before).as_secs_f64() / turn.len().max(1) as f64);
        }
        Ok(())
    }

    fn row(mut self, plan: &Plan<'_>) -> Json {
        let moe = plan.moe;
        let numbers = moe.layers.iter().map(|&layer| layer as u32).collect::<Vec<_>>();
        let waits = self.context.tap().watch().waits();
        let tally = self.context.tap().tally();
        let run = Row::of(self.strategy, tally, &numbers, true, None);
        let counted = &tally.steps[self.warm_steps.min(tally.steps.len())..];
        let predicted = counted.iter().map(|step| step.time_ps as f64).sum::<f64>() / 1e12;
        let (tokens, seconds) = (self.tokens as f64, self.time.as_secs_f64());
        let waited = waits.time.saturating_sub(self.warm_waits.time).as_secs_f64();
        let (before, all) = (self.warm_counts, Counts::of(tally));
        let choices = (all.choices - before.choices) as f64;
        let counted_stalls = (all.stalls - before.stalls) as f64 / choices;
        let counted_loads = (all.loads - before.loads) as f64 / choices;
        let counted_loss = (all.lost - before.lost) / (all.tokens - before.tokens) as f64;
        let mut row = serde_json::to_value(run).unwrap_or_default();
        row["predicted_tokens_per_s"] = (counted.len() as f64 / predicted).into();
        row["tokens_per_s"] = (tokens / seconds).into();
        row["prediction_error"] = (counted.len() as f64 / predicted / (tokens / seconds) - 1.0).into();
        row["tokens"] = self.tokens.into();
        row["seconds"] = seconds.into();
        row["error_bar"] = error_bar(&self.turns).into();
        row["turn_s"] = self.turns.into();
        row["waited"] = (waited / seconds).into();
        row["late_rate"] = ((waits.late - self.warm_waits.late) as f64 / choices).into();
        row["mb_per_token"] = (self.bytes as f64 / tokens / 1e6).into();
        row["held_mb"] = (self.most_held as f64 / 1e6).into();
        row["stalls"] = all.stalls.into();
        row["misses"] = all.misses.into();
        row["loads"] = all.loads.into();
        row["counted_stall_rate"] = counted_stalls.into();
        row["counted_load_rate"] = counted_loads.into();
        row["counted_mass_loss"] = counted_loss.into();
        row["perplexity"] =
            if self.quality.perplexity().is_finite() { self.quality.perplexity().into() } else { Json::Null };
        row
    }
}
