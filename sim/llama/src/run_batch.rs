//! `cptr-llama run --batch T`: T tokens of a known text in one pass, as in a prompt or where a draft is verified, with
//! experts in bounded memory. `--sequences N`: a token each of N texts that are read side by side.
//!
//! What a batch runs and loads is decided by [`cptr_core::cache`], the cache that engines have through the C interface:
//! the model's own choice, the choice within a bound token by token, and for all tokens together. All experts of a
//! layer that a batch runs are read before llama.cpp multiplies with them; its node multiplies with all of them at
//! once, so that the cache's waves are not possible here. A batch is therefore cut into pieces whose tokens have room
//! for all of their experts whatever they choose: of so many tokens as `k` goes into the experts that memory holds.
//!
//! A cache remembers one sequence of tokens, and forecasts single tokens only. Who goes for a batch is said by levels,
//! which are those of all texts, so that several sequences need no more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cptr_core::cache::{Cache, Config, Layer, Load, Memory, NOTHING, Shape, Step};
use cptr_core::{Eps, Level, Logit, Router, ScaledLevels};
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use cptr_trace::router::Row;
use serde_json::{Value as Json, json};

use crate::eval::{Quality, finite};
use crate::ffi::{Context, Model, Node, Tap, Token, Untapped};
use crate::moe::Moe;
use crate::offload::{Store, Waits};
use crate::passes::Width;
use crate::run::{Recorded, Turn};
use crate::show::{Page, column};
use crate::steer::{Kind, Script, kind};

/// What runs.
pub(crate) struct Run<'a> {
    pub(crate) moe: &'a Moe,
    pub(crate) model: &'a Model,
    pub(crate) store: &'a Arc<Store>,
    pub(crate) threads: usize,
    pub(crate) width: Width,
    /// Share of its routing mass that a token may lose in a layer.
    pub(crate) eps: f64,
    /// Share of the turns that are not counted, at the beginning.
    pub(crate) warm: f64,
    pub(crate) routing: Option<&'a Trace>,
    pub(crate) turns: &'a [Turn],
    /// Predictions of llama.cpp alone, of each turn.
    pub(crate) reference: Option<&'a [Vec<f32>]>,
}

/// Predictions of llama.cpp alone in the same passes, turn by turn, `[tokens, V]`: before its experts are taken.
///
/// # Errors
/// What llama.cpp refuses.
pub(crate) fn reference(model: &Model, width: Width, threads: usize, turns: &[Turn]) -> Result<Vec<Vec<f32>>> {
    let mut context = Context::untapped(model, width.options(threads, turns), Untapped)?;
    let mut all = Vec::new();
    for round in turns.chunks(width.sequences) {
        context.clear();
        let first = all.len();
        all.resize(first + round.len(), Vec::new());
        for pass in width.passes(round) {
            context.decode_all(&pass)?;
            for (at, token) in pass.iter().enumerate() {
                all[first + token.sequence].extend_from_slice(context.logits(at));
            }
        }
    }
    Ok(all)
}

/// Ways to choose: name, whether the bound holds, whether tokens choose together.
const WAYS: [(&str, bool, bool); 3] = [("raw", false, false), ("in turn", true, false), ("joint", true, true)];

/// Sums over what was counted.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    tokens: u64,
    /// Layers of pieces.
    layers: u64,
    choices: u64,
    distinct: u64,
    loads: u64,
    lost: f64,
}

/// Memory of a cache.
struct Held {
    levels: Vec<ScaledLevels>,
    shares: Vec<Level>,
    lies: Vec<u16>,
    places: Vec<u16>,
    recall: Vec<u32>,
    wanted: Vec<u16>,
    forecasts: Vec<Level>,
    logits: Vec<Logit>,
}

impl Held {
    fn new(shape: Shape) -> Self {
        let (layers, experts, slots) =
            (usize::from(shape.layers), usize::from(shape.experts), usize::from(shape.slots));
        Self {
            levels: vec![ScaledLevels::ZERO; layers * experts],
            shares: vec![Level::ZERO; layers * experts],
            lies: vec![NOTHING; layers * slots],
            places: vec![NOTHING; layers * experts],
            recall: vec![0; shape.recall_words(4)],
            wanted: vec![NOTHING; shape.wanted()],
            forecasts: vec![Level::ZERO; 3 * experts],
            logits: vec![Logit::ZERO; shape.logits()],
        }
    }
}

/// A cache inside llama.cpp's graph.
struct Batched<'a> {
    moe: &'a Moe,
    store: &'a Store,
    config: Config,
    /// Of each layer; of the model's own choice a table, so that llama.cpp's list is what runs.
    routers: &'a [Router<'a>],
    cache: Cache<'a, 4, 64>,
    script: Option<Recorded<'a>>,
    /// Of each token of the piece that is computed its place in the script.
    steps: Vec<usize>,
    /// Of the layer: logits `[T, E]`, the model's choice `[T, k]`, different experts that run.
    logits: Vec<f32>,
    wanted: Vec<u16>,
    runs: Vec<u16>,
    layer: usize,
    part: usize,
    seen: usize,
    counts: Counts,
    waits: Waits,
    error: Option<Error>,
}

impl Batched<'_> {
    fn decide(&mut self, layer: usize, node: &mut Node<'_>) -> Result<()> {
        let (k, experts, tokens) = (self.moe.k, self.moe.experts, self.steps.len());
        let mut own = Vec::new();
        node.read_i32(&mut own);
        if node.sizes() != (k, tokens) {
            let number = self.moe.layers[layer];
            return Err(Error::unsupported(format!("expected the choices of {tokens} tokens in layer {number}")));
        }
        self.wanted.clear();
        if let Some(script) = &mut self.script {
            self.logits.clear();
            self.steps.iter().for_each(|&step| script.routing(step, layer, &mut self.logits, &mut self.wanted));
        } else {
            let known = |&id: &i32| u16::try_from(id).ok().filter(|id| usize::from(*id) < experts);
            self.wanted.extend(own.iter().filter_map(known));
        }
        let scored = !self.logits.is_empty();
        if self.wanted.len() != k * tokens || scored && self.logits.len() != experts * tokens {
            return Err(Error::unsupported("expected logits and choices of all tokens of the batch, found others"));
        }
        let mut ids = self.wanted.clone();
        let (mut slots, mut waves) = (vec![0; ids.len()], vec![0; ids.len()]);
        let mut step =
            Step { layer: layer as u16, tokens: tokens as u16, ids: &mut ids, slots: &mut slots, waves: &mut waves };
        let logits = &self.logits;
        let row = |token: u16, to: &mut [Logit]| {
            let from = logits.chunks_exact(experts).nth(token.into()).unwrap_or(&[]);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = Logit::saturating_from_num(*from));
        };
        let store = self.store;
        // Room first.
        let load = |load: Load| {
            if load.victim != NOTHING {
                store.evict(layer, load.victim);
            }
        };
        let found = self.cache.step(&self.config, &self.routers[layer], &mut step, row, load);
        let found = found.map_err(|error| Error::unsupported(error.to_string()))?;
        if found.waves > 1 {
            return Err(Error::unsupported("expected room for the experts of a batch, found less"));
        }
        self.runs.clear();
        self.runs.extend_from_slice(&ids);
        self.runs.sort_unstable();
        self.runs.dedup();
        self.waits.late += store.demand(layer, &self.runs) as u64;
        for (at, chosen) in ids.chunks_exact(k).enumerate() {
            let new: Vec<i32> = chosen.iter().map(|&id| i32::from(id)).collect();
            if new != own[at * k..(at + 1) * k] {
                node.write_i32(at, &new);
            }
            let wanted = &self.wanted[at * k..(at + 1) * k];
            if let (true, Some(logits)) = (wanted != chosen, logits.chunks_exact(experts).nth(at)) {
                let bias = self.moe.bias.get(layer * experts..(layer + 1) * experts).unwrap_or(&[]);
                let row = Row { bias, ..Row::of(logits) };
                self.counts.lost += self.moe.router.mass_loss(row, wanted, chosen).max(0.0);
            }
        }
        self.counts.tokens += if layer == 0 { tokens as u64 } else { 0 };
        self.counts.layers += 1;
        self.counts.choices += ids.len() as u64;
        self.counts.distinct += self.runs.len() as u64;
        self.counts.loads += found.loads as u64;
        (self.layer, self.part) = (layer, 0);
        self.seen += 1;
        self.waits.time += store.wait(layer, 0, &self.runs)?;
        Ok(())
    }

    /// Reads what is resident once more, into memory that is empty.
    fn restore(&self) -> Result<()> {
        for layer in 0..self.moe.layers.len() {
            let resident = self.cache.layer(layer as u16).map(Layer::resident);
            resident.iter().flat_map(|resident| resident.iter()).for_each(|expert| self.store.fetch(layer, expert));
        }
        self.store.settle()
    }
}

impl Tap for Batched<'_> {
    fn wants(&mut self, node: &Node<'_>) -> bool {
        if self.error.is_some() {
            return false;
        }
        if node.multiplies_experts() {
            self.part += 1;
            let more = self.part < self.store.parts(self.layer);
            return more && !self.store.there(self.layer, self.part, &self.runs);
        }
        kind(self.moe, node).is_some_and(|(kind, _)| self.script.is_none() || matches!(kind, Kind::Choice))
    }

    fn see(&mut self, node: &mut Node<'_>) -> bool {
        let done = match kind(self.moe, node) {
            Some((Kind::Logits, _)) => {
                self.logits.clear();
                node.read_f32(&mut self.logits);
                Ok(())
            }
            Some((Kind::Choice, layer)) => self.decide(layer, node),
            None => {
                let waited = self.store.wait(self.layer, self.part, &self.runs);
                waited.map(|time| self.waits.time += time)
            }
        };
        if let Err(error) = done {
            self.error = Some(error);
        }
        self.error.is_none()
    }
}

/// A way to choose with its context, and what it took.
struct Runner<'m, 'a> {
    name: &'static str,
    context: Context<'m, Batched<'a>>,
    time: Duration,
    bytes: u64,
    most_held: u64,
    quality: Quality,
    /// At the end of the turns that are not counted.
    warm: (Counts, Waits),
}

impl Runner<'_, '_> {
    /// Turns side by side, or one, in passes; `first` are the places in the script of their first tokens, `reads` says
    /// whether predictions mean anything, `reference` what llama.cpp alone predicts.
    fn round(
        &mut self,
        (round, passes, first): (&[Turn], &[Vec<Token>], &[usize]),
        counted: bool,
        reads: bool,
        reference: Option<&[Vec<f32>]>,
    ) -> Result<()> {
        self.context.clear();
        for pass in passes {
            let start = Instant::now();
            let tap = self.context.tap();
            tap.steps.clear();
            tap.steps.extend(pass.iter().map(|token| first[token.sequence] + token.position));
            tap.seen = 0;
            let decoded = self.context.decode_all(pass);
            let tap = self.context.tap();
            // What the cache or a read says comes first: it may be why the rest was not computed.
            if let Some(error) = tap.error.take() {
                return Err(error);
            }
            decoded?;
            let tap = self.context.tap();
            if tap.seen != tap.moe.layers.len() {
                let (layers, seen) = (tap.moe.layers.len(), tap.seen);
                return Err(Error::unsupported(format!("expected {layers} layers that choose experts, found {seen}")));
            }
            if counted {
                self.time += start.elapsed();
            }
            for (at, token) in if reads { &pass[..] } else { &[] }.iter().enumerate() {
                let Some(&(next, _)) = round[token.sequence].get(token.position + 1) else { continue };
                let logits = self.context.logits(at);
                finite(logits)?;
                let own = token.position * logits.len();
                let unaltered = reference.and_then(|all| all[token.sequence].get(own..own + logits.len()));
                self.quality.add(logits, unaltered.unwrap_or(logits), next);
            }
        }
        Ok(())
    }

    fn row(mut self, piece: usize, layers: usize) -> Json {
        let tap = self.context.tap();
        let ((before, waits), all) = (self.warm, tap.counts);
        let waited = tap.waits.time.saturating_sub(waits.time).as_secs_f64();
        let late = (tap.waits.late - waits.late) as f64;
        let (tokens, seconds) = ((all.tokens - before.tokens) as f64, self.time.as_secs_f64());
        let (choices, parts) = ((all.choices - before.choices) as f64, (all.layers - before.layers) as f64);
        let perplexity = self.quality.perplexity();
        json!({
            "choice": self.name,
            "piece": piece,
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_s": tokens / seconds,
            "waited": waited / seconds,
            "distinct": (all.distinct - before.distinct) as f64 / parts,
            "loads": all.loads,
            "loads_per_layer": (all.loads - before.loads) as f64 / parts,
            "load_rate": (all.loads - before.loads) as f64 / choices,
            "late_rate": late / choices,
            "mb_per_token": self.bytes as f64 / tokens / 1e6,
            "held_mb": self.most_held as f64 / 1e6,
            "mass_loss": (all.lost - before.lost) / (tokens * layers as f64),
            "divergence": self.quality.mean_divergence(),
            "perplexity": if perplexity.is_finite() { perplexity.into() } else { Json::Null },
        })
    }
}

/// Runs all three ways side by side, turn by turn.
///
/// # Errors
/// Memory for fewer experts than a token needs; what [`Batched`] refuses.
pub(crate) fn run(run: &Run<'_>) -> Result<Page> {
    let &Run { moe, model, store, width, eps, routing, turns, .. } = run;
    if !(0.0..1.0).contains(&eps) {
        return Err(Error::usage(format!("--eps: expected a share from 0 to 1, found {eps}")));
    }
    let Width { slots, sequences, asked, piece } = width;
    let bounded = eps > 0.0 && routing.is_none_or(|trace| trace.logits.is_some());
    let ways = &WAYS[..if bounded { WAYS.len() } else { 1 }];
    let small = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let shape = Shape {
        layers: small(moe.layers.len()),
        experts: small(moe.experts),
        k: small(moe.k),
        slots: small(slots),
        tokens: small(piece),
        remembered: 2048,
    };
    if !shape.is_valid() {
        return Err(Error::unsupported("expected at most 1024 experts of a layer and 4095 choices of a token"));
    }
    let bias: Vec<Logit> = moe.bias.iter().map(|&bias| Logit::saturating_from_num(bias)).collect();
    let router = |table: bool| -> Result<Vec<Router<'_>>> {
        let of_layer = |layer: usize| bias.get(layer * moe.experts..(layer + 1) * moe.experts).unwrap_or(&[]);
        let router = |layer: usize| Ok(Router { table, ..moe.router.to_core(moe.k, of_layer(layer))? });
        (0..moe.layers.len()).map(router).collect()
    };
    let routers = [router(true)?, router(false)?];
    let mut held: Vec<Held> = ways.iter().map(|_| Held::new(shape)).collect();
    let mut states = Vec::new();
    let mut rest = Vec::new();
    for Held { levels, shares, lies, places, recall, wanted, forecasts, logits } in &mut held {
        let parts = levels.chunks_mut(moe.experts).zip(lies.chunks_mut(slots));
        let parts = parts.zip(places.chunks_mut(moe.experts).zip(shares.chunks_mut(moe.experts)));
        let layer = |((levels, slots), (places, shares))| Layer::new(levels, slots, places, shares);
        states.push(parts.map(layer).collect::<Vec<Layer<'_>>>());
        rest.push((recall, wanted, forecasts, logits));
    }
    let mut runners = Vec::new();
    let options = width.options(run.threads, turns);
    for ((&(name, bounded, joint), layers), (recall, wanted, forecasts, logits)) in
        ways.iter().zip(&mut states).zip(rest)
    {
        let eps = if bounded { Eps::saturating_from_num(eps) } else { Eps::ZERO };
        let config = Config { bounds: eps.into(), joint, fetches: 0, ..Config::default() };
        let memory = Memory { layers, recall, companions: &mut [], wanted, forecasts, logits };
        let cache = Cache::new(&config, shape, memory).map_err(|error| Error::unsupported(error.to_string()))?;
        let tap = Batched {
            moe,
            store,
            config,
            routers: &routers[usize::from(bounded)],
            cache,
            script: routing.map(|trace| Recorded { trace }),
            steps: Vec::new(),
            logits: Vec::new(),
            wanted: Vec::new(),
            runs: Vec::new(),
            layer: 0,
            part: 0,
            seen: 0,
            counts: Counts::default(),
            waits: Waits::default(),
            error: None,
        };
        runners.push(Runner {
            name,
            context: Context::new(model, options, tap)?,
            time: Duration::ZERO,
            bytes: 0,
            most_held: 0,
            quality: Quality::default(),
            warm: Default::default(),
        });
    }
    let rounds: Vec<&[Turn]> = turns.chunks(sequences).collect();
    let warm = ((rounds.len() as f64 * run.warm) as usize).min(rounds.len().saturating_sub(1));
    let all: usize = turns.iter().map(Vec::len).sum();
    let progress = Progress::new((all * runners.len()) as u64, "running");
    let mut next = 0;
    for (index, round) in rounds.into_iter().enumerate() {
        let passes = width.passes(round);
        let mut first = Vec::new();
        for turn in round {
            first.push(next);
            next += turn.len();
        }
        for runner in &mut runners {
            store.clear()?;
            runner.context.tap().restore()?;
            let before = store.traffic().bytes;
            if index == warm {
                let tap = runner.context.tap();
                runner.warm = (tap.counts, tap.waits);
            }
            let reference = run.reference.and_then(|all| all.get(index * sequences..index * sequences + round.len()));
            runner.round((round, &passes, &first), index >= warm, routing.is_none(), reference)?;
            if index >= warm {
                let traffic = store.traffic();
                runner.bytes += traffic.bytes - before;
                runner.most_held = runner.most_held.max(traffic.most_held);
            }
            progress.advance(passes.iter().map(Vec::len).sum::<usize>() as u64);
        }
    }
    let mut rows: Vec<Json> = runners.into_iter().map(|runner| runner.row(piece, moe.layers.len())).collect();
    if run.reference.is_none() {
        rows.iter_mut().for_each(|row| row["divergence"] = Json::Null);
    }
    let raw = rows.first().and_then(|row| row["tokens_per_s"].as_f64());
    for row in &mut rows {
        row["to_first"] = row["tokens_per_s"].as_f64().zip(raw).map(|(own, raw)| own / raw).into();
    }
    let mut facts = vec![format!(
        "{} ({}): {} layers x {} experts, top-{}; memory for {slots} experts of a layer; passes of {piece} tokens{}",
        moe.name,
        moe.architecture,
        moe.layers.len(),
        moe.experts,
        moe.k,
        if sequences > 1 { format!(", of {sequences} texts side by side") } else { String::new() }
    )];
    if piece < asked {
        facts.push(format!(
            "{asked} tokens were asked for; {slots} experts have room for all that {piece} tokens may choose"
        ));
    }
    let columns = vec![
        column("choice", "choice"),
        column("tokens_per_s", "tokens/s").decimals(2),
        column("to_first", "to first").decimals(2),
        column("waited", "waited").percent(),
        column("distinct", "distinct").decimals(2),
        column("loads_per_layer", "loads").decimals(2),
        column("load_rate", "load").percent(),
        column("late_rate", "late").percent(),
        column("mb_per_token", "MB/token").decimals(2),
        column("held_mb", "held MB").decimals(0),
        column("mass_loss", "mass loss").percent(),
        column("perplexity", "perplexity").decimals(4),
        column("divergence", "divergence").decimals(5),
    ];
    Ok(Page { facts, columns, rows, ..Page::default() })
}
