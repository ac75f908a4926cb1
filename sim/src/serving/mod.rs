//! Requests that arrive over time, served by continuous batching: what a user waits for the first token, and for each
//! one after it.
//!
//! ```
//! use cptr_hw_model::{Model, System};
//! use cptr_sim::plan::{Misses, Place, Placed};
//! use cptr_sim::serving::{Arrivals, Limits, Load, StepTimes, run};
//!
//! let mut system = System::find("offload").ok_or("no such machine")?.clone();
//! (system.gpu_bits, system.dense_bits) = (4.0, 8.0);
//! let model = Model::find("Qwen3-30B-A3B").ok_or("no such model")?;
//! let steps = StepTimes::new(&system, model, Placed::new(Place::Gpu, 1.0, &Misses::typical()));
//! let load = Load { arrivals: Arrivals::Poisson { per_s: 2.0 }, requests: 200, prompt: 500, output: 100, seed: 1 };
//! let served = run(&steps, &load.requests(), &Limits::default())?;
//! assert_eq!(served.output_tokens, 200 * 100);
//! // The prompt is read before the first token; a hundred others take longer.
//! assert!(served.first_token_us.p50 < 100.0 * served.per_token_us.p50);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A step runs one token of each sequence that is decoding, and a part of the prompts that wait, oldest first, up to
//! [`Limits::step_tokens`] in all. Weights are read once for all tokens of a step ([`StepTimes`]). A request is
//! admitted when a place in the batch is free and the keys and values of its prompt fit; where those of all that is
//! written since fill memory, the youngest makes room ([`Preemption`]).

mod load;
mod steps;
mod together;

use std::collections::VecDeque;

use serde::Serialize;

pub use load::{Arrivals, Load, Request, read};
pub use steps::{Pace, Step, StepTimes};
pub use together::{Texts, Together, TogetherRow};

use cptr_trace::error::{Error, Result};

/// Tokens of all answers together: the time of each is kept for the percentiles.
const MOST_TOKENS: u64 = 50_000_000;

/// What happens when the keys and values of the next step do not fit. The names are those of vLLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Preemption {
    /// It cannot: a request is admitted only where all its tokens fit beside all those of the others.
    Never,
    /// The youngest request loses its keys and values and waits, first in line; then its prompt and what it had written
    /// are read again.
    Recompute,
    /// Its keys and values are copied over the link, and back when there is room; steps wait for both.
    Swap,
}

/// Share of the memory of keys and values that stays free when a request is admitted, so that those in the batch can
/// write on: the watermark of vLLM.
const WATERMARK: f64 = 0.01;

/// What the server allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Requests in the batch.
    pub batch: usize,
    /// Tokens of a step: those that decode, and parts of prompts.
    pub step_tokens: u64,
    /// Tokens whose keys and values fit, of all requests in the batch.
    pub kv_tokens: u64,
    /// What happens when they do not.
    pub preemption: Preemption,
}

impl Default for Limits {
    /// 16 requests, 512 tokens a step, keys and values without limit.
    fn default() -> Self {
        Self { batch: 16, step_tokens: 512, kv_tokens: u64::MAX, preemption: Preemption::Recompute }
    }
}

/// Mean and percentiles, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Times {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Times {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        // Nearest rank.
        let at = |share: f64| {
            let rank = (share * times.len() as f64).ceil() as usize;
            times.get(rank.max(1) - 1).copied().unwrap_or(0.0)
        };
        let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
        Self { mean, p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

/// What came of a load.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Served {
    /// Requests.
    pub requests: usize,
    /// Tokens that were generated.
    pub output_tokens: u64,
    /// From the first arrival to the last token, in seconds.
    pub time_s: f64,
    /// Generated tokens per second.
    pub tokens_per_s: f64,
    /// From arrival to the first token.
    pub first_token_us: Times,
    /// From a token to the next of the same request.
    pub per_token_us: Times,
    /// From arrival to admission.
    pub queue_us: Times,
    /// From arrival to the last token.
    pub request_us: Times,
    /// Steps.
    pub steps: u64,
    /// Requests in the batch, mean over time in which there were any.
    pub mean_batch: f64,
    /// Share of the time in which a step ran.
    pub busy_share: f64,
    /// How often a request had to leave the batch for want of memory.
    pub preemptions: u64,
    /// Tokens whose keys and values were dropped then, and are read again.
    pub recomputed_tokens: u64,
    /// Time in which steps waited for keys and values on the link, in seconds.
    pub swap_s: f64,
}

/// A request that waits, or is in the batch.
#[derive(Clone, Copy)]
struct Running {
    request: Request,
    /// Tokens that are read before it writes: its prompt, and what it had written when its keys and values were
    /// dropped.
    reads: u64,
    /// Of them, those that were.
    read: u64,
    written: u64,
    /// When its last token came.
    last_us: f64,
    /// Whether it was in the batch before.
    preempted: bool,
}

impl Running {
    const fn new(request: Request) -> Self {
        Self { request, reads: request.prompt, read: 0, written: 0, last_us: 0.0, preempted: false }
    }

    /// Tokens whose keys and values its next token attends to, itself among them once it writes.
    const fn context(&self) -> u64 {
        if self.decodes() { self.request.prompt + self.written } else { self.read }
    }

    const fn decodes(&self) -> bool {
        self.read == self.reads
    }

    /// Tokens whose keys and values have room behind its next step: all that it reads, as they are of one prompt.
    const fn needs(&self) -> u64 {
        if self.decodes() { self.context() } else { self.reads }
    }
}

/// Serves `requests`, in the order of their arrival.
///
/// # Errors
/// A request whose keys and values never fit; limits that allow nothing.
pub fn run(steps: &StepTimes<'_>, requests: &[Request], limits: &Limits) -> Result<Served> {
    run_at(steps, requests, limits, Pace::Modelled)
}

/// The same with all steps at an end of their band. Waits grow faster than steps where requests queue: what users wait
/// for at most is found by serving them on the slowest machine that may be meant.
///
/// # Errors
/// As [`run`].
pub fn run_at(steps: &StepTimes<'_>, requests: &[Request], limits: &Limits, pace: Pace) -> Result<Served> {
    let most = requests.iter().map(|request| request.prompt + request.output).max().unwrap_or(0);
    if limits.batch == 0 || limits.step_tokens < limits.batch as u64 {
        return Err(Error::new(format!(
            "a step of {} tokens: expected at least one for each of the {} requests of a batch",
            limits.step_tokens, limits.batch
        )));
    }
    let written: u64 = requests.iter().fold(0, |sum, request| sum.saturating_add(request.output));
    if written > MOST_TOKENS {
        return Err(Error::new(format!("{written} tokens to write: expected at most {MOST_TOKENS} in all requests")));
    }
    if most > limits.kv_tokens {
        return Err(Error::new(format!(
            "a request of {most} tokens: expected at most {}, whose keys and values fit",
            limits.kv_tokens
        )));
    }
    let mut server = Server {
        steps,
        limits,
        pace,
        waiting: requests.iter().copied().map(Running::new).collect(),
        running: Vec::new(),
        now_us: 0.0,
        busy_us: 0.0,
        batch_us: 0.0,
        step_count: 0,
        preemptions: 0,
        recomputed: 0,
        swap_us: 0.0,
        measured: Measured::default(),
    };
    while server.advance() {}
    let first = requests.first().map_or(0.0, |request| request.arrival_us);
    let time_us = (server.now_us - first).max(f64::MIN_POSITIVE);
    let Measured { first_token, per_token, queue, request } = server.measured;
    let output_tokens = requests.iter().map(|request| request.output).sum();
    Ok(Served {
        requests: requests.len(),
        output_tokens,
        time_s: time_us / 1e6,
        tokens_per_s: output_tokens as f64 / time_us * 1e6,
        first_token_us: Times::of(first_token),
        per_token_us: Times::of(per_token),
        queue_us: Times::of(queue),
        request_us: Times::of(request),
        steps: server.step_count,
        mean_batch: server.batch_us / server.busy_us.max(f64::MIN_POSITIVE),
        busy_share: server.busy_us / time_us,
        preemptions: server.preemptions,
        recomputed_tokens: server.recomputed,
        swap_s: server.swap_us / 1e6,
    })
}

#[derive(Default)]
struct Measured {
    first_token: Vec<f64>,
    per_token: Vec<f64>,
    queue: Vec<f64>,
    request: Vec<f64>,
}

struct Server<'a> {
    steps: &'a StepTimes<'a>,
    limits: &'a Limits,
    pace: Pace,
    waiting: VecDeque<Running>,
    running: Vec<Running>,
    now_us: f64,
    busy_us: f64,
    batch_us: f64,
    step_count: u64,
    preemptions: u64,
    recomputed: u64,
    swap_us: f64,
    measured: Measured,
}

impl Server<'_> {
    /// One step; whether there is anything left.
    fn advance(&mut self) -> bool {
        if self.running.is_empty() {
            let Some(next) = self.waiting.front() else { return false };
            self.now_us = self.now_us.max(next.request.arrival_us);
        }
        if !self.preempt() {
            self.admit();
        }
        let decoding = self.running.iter().filter(|running| running.decodes()).count() as u64;
        let mut room = self.limits.step_tokens - decoding;
        let mut step = Step::decode(decoding);
        let (mut attended, mut read) = (0.0, Vec::with_capacity(self.running.len()));
        for running in &self.running {
            let part = if running.decodes() { 0 } else { room.min(running.reads - running.read) };
            room -= part;
            step.read += part;
            step.parts += u64::from(part > 0);
            if part > 0 || running.decodes() {
                attended += self.steps.attended(running.context());
            }
            read.push(part);
        }
        let step_us = self.steps.paced_us(step, attended, self.pace);
        self.spend(step_us);
        self.step_count += 1;
        for (running, part) in self.running.iter_mut().zip(read) {
            let decoded = running.decodes();
            running.read += part;
            // The end of the prompt gives the first token.
            if !decoded && !running.decodes() {
                continue;
            }
            running.written += 1;
            let (since, list) = if running.written == 1 {
                (running.request.arrival_us, &mut self.measured.first_token)
            } else {
                (running.last_us, &mut self.measured.per_token)
            };
            list.push(self.now_us - since);
            running.last_us = self.now_us;
            if running.written == running.request.output {
                self.measured.request.push(self.now_us - running.request.arrival_us);
            }
        }
        self.running.retain(|running| running.written < running.request.output);
        true
    }

    /// Time in which the batch waits.
    fn spend(&mut self, us: f64) {
        self.now_us += us;
        self.busy_us += us;
        self.batch_us += us * self.running.len() as f64;
    }

    /// The youngest leave until what the next step needs fits; whether one did. The oldest always fits alone.
    fn preempt(&mut self) -> bool {
        let mut needs: u64 = self.running.iter().map(Running::needs).sum();
        let before = self.preemptions;
        while needs > self.limits.kv_tokens && self.running.len() > 1 {
            let Some(mut youngest) = self.running.pop() else { break };
            needs -= youngest.needs();
            self.preemptions += 1;
            youngest.preempted = true;
            if self.limits.preemption == Preemption::Swap {
                self.swap(&youngest);
            } else {
                // The keys and values of the token that comes next were not there yet.
                self.recomputed += if youngest.decodes() { youngest.context() - 1 } else { youngest.read };
                (youngest.reads, youngest.read) = (youngest.request.prompt + youngest.written, 0);
            }
            self.waiting.push_front(youngest);
        }
        self.preemptions > before
    }

    /// Keys and values of a request pass the link, one way.
    fn swap(&mut self, request: &Running) {
        let us = self.steps.paced_swap_us(request.context(), self.pace);
        self.swap_us += us;
        self.spend(us);
    }

    /// Takes in what has arrived and fits.
    fn admit(&mut self) {
        let never = self.limits.preemption == Preemption::Never;
        let whole = |running: &Running| running.request.prompt + running.request.output;
        let room = |running: &Running| if never { whole(running) } else { running.needs() };
        let mut kv: u64 = self.running.iter().map(room).sum();
        let kept = if never { 0 } else { (self.limits.kv_tokens as f64 * WATERMARK) as u64 };
        while let Some(next) = self.waiting.front().copied() {
            // Alone it has all of the memory.
            let kept = if self.running.is_empty() { 0 } else { kept };
            let fits = kv.saturating_add(room(&next)).saturating_add(kept) <= self.limits.kv_tokens;
            if next.request.arrival_us > self.now_us || self.running.len() == self.limits.batch || !fits {
                break;
            }
            self.waiting.pop_front();
            kv += room(&next);
            if !next.preempted {
                self.measured.queue.push(self.now_us - next.request.arrival_us);
            } else if self.limits.preemption == Preemption::Swap {
                self.swap(&next);
            }
            self.running.push(next);
        }
    }
}

#[cfg(test)]
mod tests;
