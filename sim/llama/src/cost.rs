//! `cptr-llama cost`: what a strategy in the loop adds to the time of a token.
//!
//! Tokens one by one, on one thread, whose own processor time is counted: what else the machine does hardly matters
//! then. llama.cpp alone, with nodes that are only looked at, and with each strategy take turns on the same tokens; the
//! median of the turns' ratios is what is said.

use std::time::Duration;

use cptr_sim::replay::Machine;
use cptr_trace::error::{Error, Result};
use serde_json::json;

use crate::common::{ModelArgs, StrategyArgs};
use crate::ffi::{Context, Model, Node, Options, Tap, Untapped, processor_time};
use crate::generate::step;
use crate::moe::Moe;
use crate::show::{Page, column};
use crate::steer::{Kind, Plan, Steering, kind, sizes};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    strategies: StrategyArgs,
    /// Tokens of a turn
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    tokens: u32,
    /// Turns of each
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    turns: u32,
}

/// Looks at what a strategy looks at, and does nothing.
struct Looking<'a> {
    moe: &'a Moe,
    logits: Vec<f32>,
    ids: Vec<i32>,
}

impl Tap for Looking<'_> {
    fn wants(&mut self, node: &Node<'_>) -> bool {
        kind(self.moe, node).is_some()
    }

    fn see(&mut self, node: &mut Node<'_>) -> bool {
        match kind(self.moe, node) {
            Some((Kind::Logits, _)) => {
                self.logits.clear();
                node.read_f32(&mut self.logits);
            }
            _ => {
                self.ids.clear();
                node.read_i32(&mut self.ids);
            }
        }
        true
    }
}

pub(crate) fn main(args: &Args) -> Result<Page> {
    let moe = Moe::read(&args.model.model)?;
    let model = Model::load(&args.model.model)?;
    let sizes = sizes(&moe);
    let (tokens, turns) = (args.tokens as usize, args.turns as usize);
    let plan = Plan {
        moe: &moe,
        resident: args.strategies.resident(moe.k, moe.experts),
        machine: Machine::new(&args.strategies.system, Some(&sizes)),
        tokens: tokens * turns,
    };
    let options = Options { tokens, batch: 1, sequences: 1, threads: 1 };
    let mut alone = Context::untapped(&model, options, Untapped)?;
    let looking = Looking { moe: &moe, logits: Vec::new(), ids: Vec::new() };
    let mut looking = Context::new(&model, options, looking)?;
    let mut steered = Vec::new();
    for strategy in &args.strategies.strategy {
        plan.check(strategy)?;
        steered.push(Context::new(&model, options, Steering::new(&plan, strategy, ())?)?);
    }
    let vocabulary = model.vocabulary().max(1);
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); steered.len() + 2];
    for turn in 0..turns {
        let token = |position: usize| ((turn * tokens + position) * 7919 % vocabulary) as u32;
        times[0].push(turn_of(&mut alone, tokens, |context, at| context.decode(&[token(at)], at))?);
        times[1].push(turn_of(&mut looking, tokens, |context, at| context.decode(&[token(at)], at))?);
        for (context, times) in steered.iter_mut().zip(&mut times[2..]) {
            times.push(turn_of(context, tokens, |context, at| step(context, token(at), at, at == 0))?);
        }
    }
    let alone = times[0].clone();
    let names = ["llama.cpp alone".to_owned(), "nodes looked at".to_owned()];
    let names = names.into_iter().chain(args.strategies.strategy.iter().map(ToString::to_string));
    let row = |(name, mut times): (String, Vec<Duration>)| {
        let mut ratios: Vec<f64> =
            times.iter().zip(&alone).map(|(own, alone)| own.as_secs_f64() / alone.as_secs_f64() - 1.0).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        times.sort_unstable();
        let us = times[times.len() / 2].as_secs_f64() * 1e6 / tokens as f64;
        let quartile = |quarter: usize| ratios[(ratios.len() - 1) * quarter / 4];
        json!({"strategy": name, "token_us": us, "added": quartile(2), "from": quartile(1), "to": quartile(3)})
    };
    let rows = names.zip(times).map(row).collect();
    let columns = vec![
        column("strategy", "strategy"),
        column("token_us", "token µs").decimals(1),
        column("added", "added").change(),
        column("from", "quartiles").change(),
        column("to", "").change(),
    ];
    let facts = vec![format!(
        "{} ({}): processor time of a token on one thread, median of {turns} turns of {tokens} tokens",
        moe.name, moe.architecture
    )];
    Ok(Page { facts, columns, rows, beside: Vec::new() })
}

/// Processor time of a turn from an empty context.
fn turn_of<T: Tap>(
    context: &mut Context<'_, T>,
    tokens: usize,
    mut token: impl FnMut(&mut Context<'_, T>, usize) -> Result<()>,
) -> Result<Duration> {
    context.clear();
    let start = processor_time();
    (0..tokens).try_for_each(|at| token(context, at))?;
    let end = processor_time();
    end.zip(start)
        .and_then(|(end, start)| end.checked_sub(start))
        .filter(|time| !time.is_zero())
        .ok_or_else(|| Error::unsupported("expected a system that counts the processor time of threads, found none"))
}
