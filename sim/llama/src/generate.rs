//! `cptr-llama generate`: text with a strategy in the loop, and how far it drifts from the unaltered model's.
//!
//! Figures of text that is read hide drift: every token is followed by the one that was written. Here each strategy
//! goes on from what it has said itself. The unaltered model reads the same tokens beside it, so that at each of them
//! the two predictions can be compared.

use cptr_sim::replay::{Machine, Row};
use cptr_sim::strategy::Strategy;
use cptr_trace::error::{Error, Result};
use serde_json::{Value as Json, json};

use crate::common::{ModelArgs, OffloadArgs, StrategyArgs};
use crate::eval::{Quality, finite};
use crate::ffi::{Context, Model, Options, Untapped};
use crate::moe::Moe;
use crate::show::{Page, column};
use crate::steer::{Plan, Steering, Watch, sizes};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("memory").args(["resident", "offload", "gpu_memory"]))]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    strategies: StrategyArgs,
    /// What the text begins with
    #[arg(long, value_name = "TEXT", default_value = "Once upon a time")]
    prompt: String,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    tokens: u32,
    /// 0: the most likely token; above: drawn, the higher the more evenly
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    #[command(flatten)]
    offload: OffloadArgs,
    /// Of the draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// How the next token is found.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    temperature: f64,
    random: fastrand::Rng,
}

impl Sampler {
    /// The most likely token at 0, else drawn.
    pub(crate) fn new(temperature: f64, seed: u64) -> Self {
        Self { temperature, random: fastrand::Rng::with_seed(seed) }
    }

    /// The next token. The same draw for the same place of a text, whoever asks, so that texts can be compared.
    pub(crate) fn next(&mut self, logits: &[f32]) -> u32 {
        if self.temperature <= 0.0 {
            return best(logits);
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |&logit: &f32| (f64::from(logit - largest) / self.temperature).exp();
        let mut left = self.random.f64() * logits.iter().map(weight).sum::<f64>();
        let drawn = logits.iter().position(|logit| {
            left -= weight(logit);
            left <= 0.0
        });
        drawn.map_or_else(|| best(logits), |at| at as u32)
    }
}

/// The most likely token; of equal ones the lower id.
pub(crate) fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (at, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = at;
        }
    }
    best as u32
}

pub(crate) fn main(args: &Args) -> Result<Page> {
    if !(0.0..=100.0).contains(&args.temperature) {
        return Err(Error::usage(format!("--temperature: expected 0 to 100, found {}", args.temperature)));
    }
    let memory = args.offload.memory()?;
    let moe = Moe::read(&args.model.model)?;
    let model = Model::load(&args.model.model)?;
    let prompt = model.tokenize(&args.prompt)?;
    if prompt.is_empty() {
        return Err(Error::usage("--prompt: expected a text of at least one token, found none"));
    }
    let count = args.tokens as usize;
    let options =
        Options { tokens: prompt.len() + count, batch: prompt.len(), sequences: 1, threads: args.model.threads() };
    let mut plain = Context::untapped(&model, options, Untapped)?;
    let mut sampler = Sampler::new(args.temperature, args.seed);
    plain.decode(&prompt, 0)?;
    let mut own = Vec::new();
    let mut at = prompt.len() - 1;
    while own.len() < count {
        finite(plain.logits(at))?;
        let token = sampler.next(plain.logits(at));
        own.push(token);
        if model.ends(token) || own.len() == count {
            break;
        }
        plain.decode(&[token], prompt.len() + own.len() - 1)?;
        at = 0;
    }
    let sizes = sizes(&moe);
    let plan = Plan {
        moe: &moe,
        resident: memory.unwrap_or_else(|| args.strategies.resident(moe.k, moe.experts)),
        machine: Machine::new(&args.strategies.system, Some(&sizes)),
        tokens: prompt.len() + count,
    };
    args.strategies.strategy.iter().try_for_each(|strategy| plan.check(strategy))?;
    let mut rows = vec![json!({"strategy": "llama.cpp", "text": text(&model, &own), "tokens": own.len()})];
    if memory.is_some() {
        drop(plain);
        offloaded(args, &model, &plan, &prompt, &own, options, &mut rows)?;
    } else {
        for strategy in &args.strategies.strategy {
            let context = Context::new(&model, options, Steering::new(&plan, strategy, ())?)?;
            let sampler = Sampler::new(args.temperature, args.seed);
            let mut writer = Writer { context, beside: Some(&mut plain), sampler };
            let written = writer.write(&model, &prompt, count)?;
            rows.push(writer.row(strategy, &moe, &model, &own, &written));
        }
    }
    let columns = vec![
        column("strategy", "strategy"),
        column("tokens", "tokens"),
        column("same_tokens", "as llama.cpp"),
        column("same_best", "same best").percent(),
        column("divergence", "divergence").decimals(5),
        column("miss_rate", "miss").percent(),
        column("mass_loss", "mass loss").percent(),
        column("measured_tokens_per_s", "tokens/s").decimals(2),
        column("read_mb", "read MB").decimals(1),
        column("held_mb", "held MB").decimals(1),
        column("text", "text"),
    ];
    let facts = vec![format!("{} ({}); prompt of {} tokens", moe.name, moe.architecture, prompt.len())];
    Ok(Page { facts, columns, rows, beside: Vec::new() })
}

/// The same with experts in bounded memory.
#[cfg(target_os = "linux")]
fn offloaded(
    args: &Args,
    model: &Model,
    plan: &Plan<'_>,
    prompt: &[u32],
    own: &[u32],
    options: Options,
    rows: &mut Vec<Json>,
) -> Result<()> {
    use crate::offload::{Offload, take};

    let store = std::sync::Arc::new(take(model, plan.moe, &args.model, &args.offload)?);
    for strategy in &args.strategies.strategy {
        store.clear()?;
        let watch = Offload::new(store.clone(), plan.moe.layers.len());
        let context = Context::new(model, options, Steering::new(plan, strategy, watch)?)?;
        let sampler = Sampler::new(args.temperature, args.seed);
        let mut writer = Writer { context, beside: None, sampler };
        let start = std::time::Instant::now();
        let written = writer.write(model, prompt, args.tokens as usize)?;
        let seconds = start.elapsed().as_secs_f64();
        let mut row = writer.row(strategy, plan.moe, model, own, &written);
        let traffic = store.traffic();
        row["measured_tokens_per_s"] = ((prompt.len() + written.tokens.len()) as f64 / seconds).into();
        row["read_mb"] = (traffic.bytes as f64 / 1e6).into();
        row["held_mb"] = (traffic.most_held as f64 / 1e6).into();
        rows.push(row);
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn offloaded(_: &Args, _: &Model, _: &Plan<'_>, _: &[u32], _: &[u32], _: Options, _: &mut Vec<Json>) -> Result<()> {
    Err(Error::unsupported(
        "bounded memory: expected Linux, which can give back pages of a mapping, found another system",
    ))
}

/// The text of tokens.
pub(crate) fn text(model: &Model, tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|&token| model.piece(token)).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What was written, and how far from the unaltered model.
struct Written {
    tokens: Vec<u32>,
    drift: Quality,
    agreed: usize,
    /// Divergence at each token in nats.
    along: Vec<f64>,
}

/// A strategy that writes, with the unaltered model beside it where there is one.
struct Writer<'m, 'a, 'p, W: Watch> {
    context: Context<'m, Steering<'a, W>>,
    beside: Option<&'p mut Context<'m, Untapped>>,
    sampler: Sampler,
}

impl<W: Watch> Writer<'_, '_, '_, W> {
    fn write(&mut self, model: &Model, prompt: &[u32], count: usize) -> Result<Written> {
        let mut written = Written { tokens: Vec::new(), drift: Quality::default(), agreed: 0, along: Vec::new() };
        if let Some(beside) = &mut self.beside {
            beside.clear();
            beside.decode(prompt, 0)?;
        }
        // Token by token, so that all layers of one come before the next one.
        for (position, token) in prompt.iter().enumerate() {
            step(&mut self.context, *token, position, position == 0)?;
        }
        let mut at = prompt.len() - 1;
        loop {
            let altered = self.context.logits(0);
            finite(altered)?;
            let token = self.sampler.next(altered);
            if let Some(beside) = &self.beside {
                let unaltered = beside.logits(at);
                let before = written.drift.divergence();
                written.drift.add(altered, unaltered, token);
                written.along.push(written.drift.divergence() - before);
                written.agreed += usize::from(best(altered) == best(unaltered));
            }
            written.tokens.push(token);
            if model.ends(token) || written.tokens.len() == count {
                return Ok(written);
            }
            let position = prompt.len() + written.tokens.len() - 1;
            step(&mut self.context, token, position, false)?;
            if let Some(beside) = &mut self.beside {
                beside.decode(&[token], position)?;
            }
            at = 0;
        }
    }

    fn row(&mut self, strategy: &Strategy, moe: &Moe, model: &Model, own: &[u32], written: &Written) -> Json {
        let layers = moe.layers.iter().map(|&layer| layer as u32).collect::<Vec<_>>();
        let run = Row::of(strategy, self.context.tap().tally(), &layers, true, None);
        let mut row = serde_json::to_value(run).unwrap_or_default();
        let same = own.iter().zip(&written.tokens).take_while(|(a, b)| a == b).count();
        let text = text(model, &written.tokens);
        row["text"] = text.into();
        row["tokens"] = written.tokens.len().into();
        row["same_tokens"] = same.into();
        row["identical"] = (own == written.tokens).into();
        if self.beside.is_some() {
            row["same_best"] = (written.agreed as f64 / written.tokens.len() as f64).into();
            row["divergence"] = written.drift.mean_divergence().into();
            row["divergence_along"] = written.along.clone().into();
        }
        row
    }
}

/// One token through a context with a strategy; `starts` where a text begins with it.
///
/// # Errors
/// What the strategy or llama.cpp refuses.
pub(crate) fn step<W: Watch>(
    context: &mut Context<'_, Steering<'_, W>>,
    token: u32,
    position: usize,
    starts: bool,
) -> Result<()> {
    context.tap().begin(1, starts);
    let decoded = context.decode(&[token], position);
    // What the strategy says comes first: it may be why the rest was not computed.
    context.tap().end()?;
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_and_draws() {
        assert_eq!(best(&[0.0, 2.0, 2.0, 1.0]), 1);
        let logits = [1.0_f32.ln(), 3.0_f32.ln()];
        let mut sampler = Sampler::new(1.0, 7);
        let ones = (0..4000).filter(|_| sampler.next(&logits) == 1).count();
        assert!((2850..3150).contains(&ones), "{ones}");
        assert_eq!(Sampler::new(0.0, 1).next(&logits), 1);
    }
}
