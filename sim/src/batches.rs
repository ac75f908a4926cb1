//! Tokens that run together: how many different experts of a layer a batch wants, how many it runs when each token may
//! give up a share of its routing mass, and what of that has to be loaded.
//!
//! Tokens of a batch follow each other in one sequence, as those of a prompt do, or of a draft that is verified. Three
//! ways to choose are compared: *raw* (what the model wants), *in turn* (each token within its bound, what the tokens
//! before it run is near at hand), *joint* ([`cptr_core::select_jointly`]: the same bound for each token, few experts
//! for all of them). Different experts are counted with nothing in memory; loads are those of [`cptr_core::cache`], the
//! cache that engines link.
//!
//! ```
//! use cptr_sim::batches::{self, Options};
//! use cptr_trace::{Shape, Trace};
//!
//! // Each token wants two of eight experts, and the next token one of them again.
//! let ids = (0..200).flat_map(|t| [t % 8, (t + 1) % 8]).collect();
//! let trace = Trace::of_ids(Shape { tokens: 200, layers: 1, experts: 8, k: 2 }, ids);
//! let found = batches::run(&trace, &Options { tokens: vec![4], eps: 0.04, keep: 1, resident: 4 })?;
//! assert_eq!((found.rows[0].choice, found.rows[0].distinct), ("raw", 5.0));
//! // Without logits nobody can say who may stand in.
//! assert_eq!((found.rows.len(), found.notes.len()), (1, 1));
//! # Ok::<(), cptr_trace::Error>(())
//! ```

use cptr_core::cache::{Cache, Config, Layer, Memory, NOTHING, Shape, Step};
use cptr_core::select::{Batch, select_in_turn};
use cptr_core::{Eps, ExpertSet, Level, Logit, Router, ScaledLevels, select_jointly, words_for};
use rayon::prelude::*;
use serde::Serialize;

use crate::replay::Routers;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use cptr_trace::{Knowledge, Trace};

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Tokens of a batch, each of these in turn.
    pub tokens: Vec<usize>,
    /// Share of its routing mass that a token may lose in a layer.
    pub eps: f64,
    /// Best experts of a token that are always chosen.
    pub keep: u16,
    /// Experts of a layer that the cache holds.
    pub resident: usize,
}

/// One way to choose, at one size of a batch. Means over layers and batches that are full.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// Tokens of a batch.
    pub tokens: usize,
    /// `raw`, `in turn` or `joint`.
    pub choice: &'static str,
    /// Batches.
    pub batches: usize,
    /// Different experts of a layer that a batch runs, with nothing in memory.
    pub distinct: f64,
    /// Share of the raw router's that it does not run; `None` for that.
    pub distinct_saved: Option<f64>,
    /// Experts of a layer that a batch has to load with a cache.
    pub loads: f64,
    /// Share of the raw router's that it does not load; `None` for that.
    pub loads_saved: Option<f64>,
    /// Waves that a layer of a batch runs in with that cache.
    pub waves: f64,
    /// Share of the wanted mass that the chosen lack, with that cache; mean over tokens and layers.
    pub mass_loss: f64,
    /// The most that a token lost in a layer.
    pub worst_mass_loss: f64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Study {
    /// By tokens of a batch, then by way to choose.
    pub rows: Vec<Row>,
    /// What could not be asked, and why.
    pub notes: Vec<String>,
}

/// Ways to choose.
const RAW: &str = "raw";
const IN_TURN: &str = "in turn";
const JOINT: &str = "joint";

/// Asks all of that of a trace.
///
/// # Errors
/// Options out of range; a trace with more layers, experts or choices than a cache has.
pub fn run(trace: &Trace, options: &Options) -> Result<Study> {
    let &Options { ref tokens, eps, resident, .. } = options;
    if !(0.0..1.0).contains(&eps) {
        return Err(Error::usage(format!("--eps: expected a share from 0 to 1, found {eps}")));
    }
    if let Some(wrong) = tokens.iter().find(|&&tokens| !(1..=4096).contains(&tokens)) {
        return Err(Error::usage(format!("--batches: expected 1 to 4096 tokens, found {wrong}")));
    }
    if !(1..=trace.shape.experts).contains(&resident) {
        let experts = trace.shape.experts;
        return Err(Error::usage(format!("--resident: expected 1 to {experts} experts per layer, found {resident}")));
    }
    let reason = match trace.knowledge() {
        Knowledge::Logits if trace.bound_promised() => None,
        Knowledge::Logits => Some("the router's convention does not explain the recorded choice"),
        _ => Some("the trace has no logits of all experts"),
    };
    let ways = if reason.is_none() { &[RAW, IN_TURN, JOINT][..] } else { &[RAW] };
    let mut notes: Vec<String> =
        reason.iter().map(|reason| format!("bounded choices are left out: {reason}")).collect();
    let sequences = sequences(trace);
    let longest = sequences.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
    let too_long = |tokens: &&usize| **tokens > longest;
    notes
        .extend(tokens.iter().filter(too_long).map(|tokens| format!("no sequence has the {tokens} tokens of a batch")));
    let routers = Routers::of(trace)?;
    let asked = tokens.iter().filter(|tokens| !too_long(tokens));
    let asked: Vec<(usize, &'static str)> =
        asked.flat_map(|&tokens| ways.iter().map(move |&way| (tokens, way))).collect();
    let progress = Progress::new((trace.shape.tokens * asked.len()) as u64, "choosing");
    let follow = |&(tokens, way): &(usize, &'static str)| {
        Follow { trace, routers: &routers, options, sequences: &sequences, tokens, way, progress: &progress }.run()
    };
    let found = asked.par_iter().map(follow).collect::<Result<Vec<Counts>>>()?;
    let raw = |tokens: usize| asked.iter().zip(&found).find(|((of, way), _)| *of == tokens && *way == RAW);
    let row = |(&(tokens, choice), counts): (&(usize, &'static str), &Counts)| {
        let mean = |sum: u64, of: usize| if of > 0 { sum as f64 / of as f64 } else { 0.0 };
        let saved = |of: fn(&Counts) -> u64| {
            let (_, raw) = raw(tokens).filter(|_| choice != RAW)?;
            (of(raw) > 0).then(|| 1.0 - of(counts) as f64 / of(raw) as f64)
        };
        let layers = counts.batches * trace.shape.layers;
        Row {
            tokens,
            choice,
            batches: counts.batches,
            distinct: mean(counts.distinct, layers),
            distinct_saved: saved(|counts| counts.distinct),
            loads: mean(counts.loads, layers),
            loads_saved: saved(|counts| counts.loads),
            waves: mean(counts.waves, layers),
            mass_loss: counts.lost / (layers * tokens).max(1) as f64,
            worst_mass_loss: counts.worst,
        }
    };
    Ok(Study { rows: asked.iter().zip(&found).map(row).collect(), notes })
}

/// Tokens of each sequence.
fn sequences(trace: &Trace) -> Vec<std::ops::Range<usize>> {
    let starts: Vec<usize> = (0..trace.shape.tokens).filter(|&token| trace.starts_sequence(token)).collect();
    let ends = starts.iter().skip(1).copied().chain([trace.shape.tokens]);
    starts.iter().zip(ends).map(|(&start, end)| start..end).collect()
}

/// Sums over full batches and layers.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    batches: usize,
    distinct: u64,
    loads: u64,
    waves: u64,
    lost: f64,
    worst: f64,
}

/// One way to choose, over a whole trace.
struct Follow<'a> {
    trace: &'a Trace,
    routers: &'a Routers,
    options: &'a Options,
    sequences: &'a [std::ops::Range<usize>],
    tokens: usize,
    way: &'static str,
    progress: &'a Progress,
}

impl Follow<'_> {
    fn run(&self) -> Result<Counts> {
        let (trace, k) = (self.trace, self.trace.shape.k);
        let (layers, experts, slots) = (trace.shape.layers, trace.scored(), self.options.resident);
        let narrow = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        let shape = Shape {
            layers: narrow(layers),
            experts: narrow(experts),
            k: narrow(k),
            slots: narrow(slots),
            tokens: narrow(self.tokens),
            remembered: 2048,
        };
        let eps = if self.way == RAW { Eps::ZERO } else { Eps::saturating_from_num(self.options.eps) };
        let config = Config {
            bounds: eps.into(),
            keep_top: self.options.keep,
            joint: self.way == JOINT,
            fetches: 0,
            ..Config::default()
        };
        let (mut levels, mut shares) =
            (vec![ScaledLevels::ZERO; layers * experts], vec![Level::ZERO; layers * experts]);
        let (mut lies, mut places) = (vec![NOTHING; layers * slots], vec![NOTHING; layers * experts]);
        let states = levels.chunks_mut(experts).zip(lies.chunks_mut(slots));
        let states = states.zip(places.chunks_mut(experts).zip(shares.chunks_mut(experts)));
        let mut states: Vec<Layer<'_>> =
            states.map(|((levels, slots), (places, shares))| Layer::new(levels, slots, places, shares)).collect();
        let valid = shape.is_valid();
        let memory = Memory {
            layers: &mut states,
            recall: &mut vec![0; if valid { shape.recall_words(4) } else { 0 }],
            companions: &mut [],
            wanted: &mut vec![0; if valid { shape.wanted() } else { 0 }],
            forecasts: &mut vec![Level::ZERO; 3 * experts],
            logits: &mut vec![Logit::ZERO; if valid { shape.logits() } else { 0 }],
        };
        let mut cache = Cache::<4, 64>::new(&config, shape, memory).map_err(|error| Error::new(error.to_string()))?;
        let mut counts = Counts::default();
        let mut row = vec![0.0; experts];
        for sequence in self.sequences {
            for first in sequence.clone().step_by(self.tokens) {
                let batch = first..(first + self.tokens).min(sequence.end);
                let full = batch.len() == self.tokens;
                counts.batches += usize::from(full);
                for layer in 0..layers {
                    let router = self.routers.layer(layer);
                    let router = Router { table: router.table || self.trace.logits.is_none(), ..router };
                    let mut logits = Vec::with_capacity(batch.len() * experts);
                    let mut wanted = Vec::with_capacity(batch.len() * k);
                    for token in batch.clone() {
                        wanted.extend_from_slice(trace.recorded(token, layer));
                        if let Some(recorded) = &trace.logits {
                            recorded.read_row(token, layer, &mut row);
                            logits.extend(row.iter().map(|&logit| Logit::saturating_from_num(logit)));
                        }
                    }
                    let mut ids = wanted.clone();
                    let (mut slots, mut waves) = (vec![0; ids.len()], vec![0; ids.len()]);
                    let tokens = narrow(batch.len());
                    let layer_id = narrow(layer);
                    let mut step =
                        Step { layer: layer_id, tokens, ids: &mut ids, slots: &mut slots, waves: &mut waves };
                    let fill = |token: u16, to: &mut [Logit]| {
                        let from = logits.chunks_exact(experts).nth(token.into()).unwrap_or(&[]);
                        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                    };
                    let found = cache.step(&config, &router, &mut step, fill, |_| ());
                    let found = found.map_err(|error| Error::new(error.to_string()))?;
                    if !full {
                        continue;
                    }
                    counts.loads += found.loads as u64;
                    counts.waves += found.waves as u64;
                    counts.distinct += self.distinct(&config, &router, &logits, &wanted);
                    for (at, token) in batch.clone().enumerate().filter(|_| self.way != RAW) {
                        let list = &ids[at * k..(at + 1) * k];
                        let chosen = &list[..list.iter().position(|&id| id == NOTHING).unwrap_or(k)];
                        if let Some(recorded) = &trace.logits {
                            recorded.read_row(token, layer, &mut row);
                        }
                        let wanted = trace.recorded(token, layer);
                        let wanted = &wanted[..wanted.iter().position(|&id| id == NOTHING).unwrap_or(k)];
                        let lost = self.routers.loss(layer, &row, wanted, chosen);
                        counts.lost += lost;
                        counts.worst = counts.worst.max(lost);
                    }
                }
                self.progress.advance(batch.len() as u64);
            }
        }
        Ok(counts)
    }

    /// Different experts that the tokens of a batch run with nothing in memory.
    fn distinct(&self, config: &Config, router: &Router<'_>, logits: &[Logit], wanted: &[u16]) -> u64 {
        const WORDS: usize = words_for(cptr_core::cache::MAX_EXPERTS);
        let (k, experts, nothing) = (self.trace.shape.k, self.trace.scored(), ExpertSet::<WORDS>::new());
        let (mut ids, mut choices, mut worth) = (wanted.to_vec(), wanted.to_vec(), vec![Level::ZERO; experts]);
        let mut batch = Batch { logits, experts: &mut ids, k, choices: &mut choices, worth: &mut worth };
        if self.way != RAW {
            let (bounds, keep) = (config.bounds, config.keep_top.into());
            // What the cache has taken is right for these, too.
            _ = match self.way {
                JOINT => select_jointly(router, bounds, keep, &mut batch, &nothing),
                _ => select_in_turn(router, bounds, keep, &mut batch, &nothing),
            };
        }
        let mut runs = nothing;
        let runs_something = |id: &&u16| **id != NOTHING && !router.is_null(**id, experts);
        ids.iter().filter(runs_something).filter(|&&id| runs.insert(id)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_trace::array::FloatArray;

    /// Random logits, and the two best.
    fn trace() -> Trace {
        let (tokens, experts, mut state) = (240, 16, 5u64);
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0
        };
        let rows: Vec<Vec<f32>> = (0..tokens).map(|_| (0..experts).map(|_| draw()).collect()).collect();
        let best = |row: &Vec<f32>| {
            let mut ids: Vec<u16> = (0..experts as u16).collect();
            ids.sort_by(|&a, &b| row[usize::from(b)].total_cmp(&row[usize::from(a)]));
            [ids[0], ids[1]]
        };
        let ids = rows.iter().flat_map(best).collect();
        let shape = cptr_trace::Shape { tokens, layers: 1, experts, k: 2 };
        let mut trace = Trace::of_ids(shape, ids);
        trace.logits = Some(FloatArray::owned([tokens, 1, experts], rows.concat()));
        trace.sequence = (0..tokens).map(|token| (token / 50) as u32).collect();
        trace.position = (0..tokens).map(|token| (token % 50) as u32).collect();
        trace
    }

    fn options() -> Options {
        Options { tokens: vec![1, 4, 64], eps: 0.3, keep: 1, resident: 3 }
    }

    #[test]
    fn tokens_together_run_fewer_experts_each_within_its_bound() {
        let found = run(&trace(), &options()).unwrap();
        assert_eq!(found.notes, ["no sequence has the 64 tokens of a batch"]);
        let row = |tokens, choice| found.rows.iter().find(|row| (row.tokens, row.choice) == (tokens, choice)).unwrap();
        assert_eq!(found.rows.len(), 6);
        assert_eq!((row(1, RAW).batches, row(1, RAW).distinct), (240, 2.0));
        // Four sequences of 50 tokens and one of 40.
        assert_eq!(row(4, RAW).batches, 4 * 12 + 10);
        for tokens in [1, 4] {
            let (raw, in_turn, joint) = (row(tokens, RAW), row(tokens, IN_TURN), row(tokens, JOINT));
            assert_eq!((raw.mass_loss, raw.distinct_saved), (0.0, None));
            assert!(in_turn.distinct <= raw.distinct && joint.distinct <= in_turn.distinct);
            assert!(joint.mass_loss > 0.0 && joint.worst_mass_loss <= 0.3 + 1e-6);
        }
        assert_eq!(row(1, IN_TURN).loads, row(1, JOINT).loads);
        assert!(row(4, JOINT).distinct < row(4, IN_TURN).distinct && row(4, JOINT).loads < row(4, RAW).loads);
        let saved = 1.0 - row(4, JOINT).distinct / row(4, RAW).distinct;
        assert!((row(4, JOINT).distinct_saved.unwrap() - saved).abs() < 1e-12);
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for (options, part) in [
            (Options { eps: 1.0, ..options() }, "--eps"),
            (Options { eps: f64::NAN, ..options() }, "--eps"),
            (Options { tokens: vec![2, 0], ..options() }, "--batches"),
            (Options { resident: 0, ..options() }, "--resident"),
            (Options { resident: 17, ..options() }, "--resident"),
        ] {
            assert!(run(&trace(), &options).unwrap_err().to_string().contains(part), "{part}");
        }
    }
}
