//! `cptr-llama eval`: what strategies cost in quality, and what they load, while llama.cpp reads text.
//!
//! The unaltered model and one context for each strategy read the same tokens side by side. What is resident goes on
//! from one document to the next. Strategies in which no layer depends on what another one's strategy did take many
//! tokens at a time, others one by one, so that all layers of a token come before the next one.

use cptr_hw_model::Model as Sizes;
use cptr_sim::replay::{Machine, Row};
use cptr_sim::strategy::Strategy;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use serde::Serialize;
use serde_json::Value as Json;

use crate::common::{ModelArgs, StrategyArgs};
use crate::ffi::{Context, Model, Options, Tap, Untapped};
use crate::moe::Moe;
use crate::show::{Page, column};
use crate::steer::{Plan, Steering, sizes};
use crate::text::{self, Document};

/// Tokens that are read at a time where layers do not depend on each other.
const CHUNK: usize = 128;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    strategies: StrategyArgs,
    #[command(flatten)]
    text: text::Args,
}

/// Figures of one strategy. Shares and changes are relative: 0.01 is one per cent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Found {
    /// As `cptr run` has them.
    #[serde(flatten)]
    pub(crate) run: Row,
    /// Perplexity over all predicted tokens.
    pub(crate) perplexity: f64,
    /// Its change from the unaltered model's.
    pub(crate) perplexity_change: f64,
    /// Mean Kullback-Leibler divergence of the predictions from the unaltered model's, in nats per token.
    pub(crate) divergence: f64,
}

/// What a model makes of the tokens that it predicts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quality {
    nats: f64,
    divergence: f64,
    tokens: usize,
}

impl Quality {
    /// One more token: predictions, those of the unaltered model, and what came.
    pub(crate) fn add(&mut self, altered: &[f32], unaltered: &[f32], next: u32) {
        let (total, reference) = (log_sum_exp(altered), log_sum_exp(unaltered));
        self.tokens += 1;
        self.nats += total - f64::from(altered[next as usize]);
        self.divergence += divergence(altered, total, unaltered, reference);
    }

    /// Perplexity.
    pub(crate) fn perplexity(&self) -> f64 {
        (self.nats / self.tokens as f64).exp()
    }

    /// Sum of the divergences in nats.
    pub(crate) fn divergence(&self) -> f64 {
        self.divergence
    }

    /// Mean divergence in nats per token.
    pub(crate) fn mean_divergence(&self) -> f64 {
        self.divergence / self.tokens as f64
    }
}

/// Kullback-Leibler divergence of predictions from the unaltered model's in nats, with the logarithms of both totals.
fn divergence(altered: &[f32], total: f64, unaltered: &[f32], reference: f64) -> f64 {
    let surprise = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (f64::from(p) - reference, f64::from(q) - total);
        p.exp() * (p - q)
    };
    unaltered.iter().zip(altered).map(surprise).sum()
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum::<f64>().ln()
}

/// Refuses predictions that mean nothing, as of a damaged file.
///
/// # Errors
/// Predictions that are not finite.
pub(crate) fn finite(logits: &[f32]) -> Result<()> {
    match logits.iter().all(|logit| logit.is_finite()) && !logits.is_empty() {
        true => Ok(()),
        false => Err(Error::new("expected finite predictions of the model, found others: its weights are damaged")),
    }
}

/// A strategy with its context.
struct Reader<'m, 'a> {
    strategy: &'a Strategy,
    context: Context<'m, Steering<'a, ()>>,
    /// Tokens at a time.
    chunk: usize,
    quality: Quality,
}

pub(crate) fn main(args: &Args) -> Result<Page> {
    let moe = Moe::read(&args.model.model)?;
    let model = Model::load(&args.model.model)?;
    let documents = args.text.read(&model)?;
    let sizes = sizes(&moe);
    let rows = run(&model, &moe, &documents, args, &sizes).map_err(|error| error.or_file(&args.model.model))?;
    let tokens: usize = documents.iter().map(|document| document.tokens.len()).sum();
    let resident = args.strategies.resident(moe.k, moe.experts);
    let facts = format!(
        "{} ({}): {} layers x {} experts, top-{}; {} documents, {tokens} tokens; {resident} in fast memory; llama.cpp",
        moe.name,
        moe.architecture,
        moe.layers.len(),
        moe.experts,
        moe.k,
        documents.len()
    );
    let columns = vec![
        column("strategy", "strategy"),
        column("perplexity", "perplexity").decimals(5),
        column("perplexity_change", "change").change(),
        column("divergence", "divergence").decimals(5),
        column("stall_rate", "stall").percent(),
        column("miss_rate", "miss").percent(),
        column("load_rate", "load").percent(),
        column("mass_loss", "mass loss").percent(),
    ];
    Ok(Page { facts: vec![facts], columns, rows: rows.iter().map(Json::of).collect(), beside: Vec::new() })
}

trait Of {
    fn of(row: &impl Serialize) -> Self;
}

impl Of for Json {
    fn of(row: &impl Serialize) -> Self {
        // Rows are structures with names; nothing of them can fail to be JSON.
        serde_json::to_value(row).unwrap_or_default()
    }
}

fn run(model: &Model, moe: &Moe, documents: &[Document], args: &Args, sizes: &Sizes) -> Result<Vec<Found>> {
    let tokens: usize = documents.iter().map(|document| document.tokens.len()).sum();
    let longest = documents.iter().map(|document| document.tokens.len()).max().unwrap_or(0);
    let plan = Plan {
        moe,
        resident: args.strategies.resident(moe.k, moe.experts),
        machine: Machine::new(&args.strategies.system, Some(sizes)),
        tokens,
    };
    let options = |batch: usize| Options { tokens: longest, batch, sequences: 1, threads: args.model.threads() };
    let mut readers = Vec::new();
    for strategy in &args.strategies.strategy {
        plan.check(strategy)?;
        let chunk = if strategy.couples_layers() { 1 } else { CHUNK };
        let steering = Steering::new(&plan, strategy, ())?;
        let context = Context::new(model, options(chunk), steering)?;
        readers.push(Reader { strategy, context, chunk, quality: Quality::default() });
    }
    let mut unaltered = Context::untapped(model, options(CHUNK), Untapped)?;
    let mut reference = Quality::default();
    let progress = Progress::new((tokens * (readers.len() + 1)) as u64, "evaluating");
    for Document { tokens, .. } in documents {
        unaltered.clear();
        readers.iter_mut().for_each(|reader| reader.context.clear());
        for (chunk, first) in tokens.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
            unaltered.decode(chunk, first)?;
            progress.advance(chunk.len() as u64);
            for at in 0..chunk.len() {
                finite(unaltered.logits(at))?;
                if let Some(&next) = tokens.get(first + at + 1) {
                    reference.add(unaltered.logits(at), unaltered.logits(at), next);
                }
            }
            for reader in &mut readers {
                reader.read(tokens, first..first + chunk.len(), &unaltered)?;
                progress.advance(chunk.len() as u64);
            }
        }
    }
    let layers = moe.layers.iter().map(|&layer| layer as u32).collect::<Vec<_>>();
    let found = |mut reader: Reader<'_, '_>| Found {
        run: Row::of(reader.strategy, reader.context.tap().tally(), &layers, true, None),
        perplexity: reader.quality.perplexity(),
        perplexity_change: reader.quality.perplexity() / reference.perplexity() - 1.0,
        divergence: reader.quality.mean_divergence(),
    };
    Ok(readers.into_iter().map(found).collect())
}

impl Reader<'_, '_> {
    /// Reads part of a document, which the unaltered model has just read.
    fn read<T: Tap>(&mut self, tokens: &[u32], part: std::ops::Range<usize>, unaltered: &Context<'_, T>) -> Result<()> {
        let from = part.start;
        for first in part.clone().step_by(self.chunk) {
            let chunk = &tokens[first..(first + self.chunk).min(part.end)];
            self.context.tap().begin(chunk.len(), first == 0);
            let decoded = self.context.decode(chunk, first);
            // What the strategy says comes first: it may be why the rest was not computed.
            self.context.tap().end()?;
            decoded?;
            for at in 0..chunk.len() {
                if let Some(&next) = tokens.get(first + at + 1) {
                    let altered = self.context.logits(at);
                    finite(altered)?;
                    self.quality.add(altered, unaltered.logits(first + at - from), next);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_guess() {
        let mut quality = Quality::default();
        (0..3).for_each(|next| quality.add(&[1.0; 16], &[1.0; 16], next));
        assert!((quality.perplexity() - 16.0).abs() < 1e-9);
        assert!(quality.mean_divergence().abs() < 1e-12);
        quality.add(&[2.0, 0.0], &[0.0, 0.0], 0);
        let expected = ((2f64.exp() + 1.0) / 2.0).ln() - 1.0;
        assert!((quality.mean_divergence() - expected / 4.0).abs() < 1e-9);
    }

    #[test]
    fn damaged_predictions_are_refused() {
        assert!(finite(&[0.0, 1.0]).is_ok());
        assert!(finite(&[0.0, f32::NAN]).is_err() && finite(&[]).is_err());
    }
}
