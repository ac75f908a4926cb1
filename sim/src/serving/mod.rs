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
//! admitted when a place in the batch is free and its keys and values fit.

mod load;
mod steps;

use std::collections::VecDeque;

use serde::Serialize;

pub use load::{Arrivals, Load, Request, read};
pub use steps::StepTimes;

use cptr_trace::error::{Error, Result};

/// Tokens of all answers together: the time of each is kept for the percentiles.
const MOST_TOKENS: u64 = 50_000_000;

/// What the server allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Requests in the batch.
    pub batch: usize,
    /// Tokens of a step: those that decode, and parts of prompts.
    pub step_tokens: u64,
    /// Tokens whose keys and values fit, of all requests in the batch.
    pub kv_tokens: u64,
}

impl Default for Limits {
    /// 16 requests, 512 tokens a step, keys and values without limit.
    fn default() -> Self {
        Self { batch: 16, step_tokens: 512, kv_tokens: u64::MAX }
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
}

/// A request in the batch.
struct Running {
    request: Request,
    /// Tokens of the prompt that were read.
    read: u64,
    written: u64,
    /// When its last token came.
    last_us: f64,
}

impl Running {
    const fn context(&self) -> u64 {
        self.read + self.written
    }

    const fn decodes(&self) -> bool {
        self.read == self.request.prompt
    }
}

/// Serves `requests`, in the order of their arrival.
///
/// # Errors
/// A request whose keys and values never fit; limits that allow nothing.
pub fn run(steps: &StepTimes<'_>, requests: &[Request], limits: &Limits) -> Result<Served> {
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
        waiting: requests.iter().copied().collect(),
        running: Vec::new(),
        now_us: 0.0,
        busy_us: 0.0,
        batch_us: 0.0,
        step_count: 0,
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
    waiting: VecDeque<Request>,
    running: Vec<Running>,
    now_us: f64,
    busy_us: f64,
    batch_us: f64,
    step_count: u64,
    measured: Measured,
}

impl Server<'_> {
    /// One step; whether there is anything left.
    fn advance(&mut self) -> bool {
        if self.running.is_empty() {
            let Some(next) = self.waiting.front() else { return false };
            self.now_us = self.now_us.max(next.arrival_us);
        }
        self.admit();
        let decoding = self.running.iter().filter(|running| running.decodes()).count() as u64;
        let mut room = self.limits.step_tokens - decoding;
        let (mut attended, mut tokens, mut read) = (0.0, decoding, Vec::with_capacity(self.running.len()));
        for running in &self.running {
            let part = if running.decodes() { 0 } else { room.min(running.request.prompt - running.read) };
            room -= part;
            tokens += part;
            if part > 0 || running.decodes() {
                attended += self.steps.attended(running.context());
            }
            read.push(part);
        }
        let step_us = self.steps.step_us(tokens, attended);
        self.now_us += step_us;
        self.busy_us += step_us;
        self.batch_us += step_us * self.running.len() as f64;
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

    /// Takes in what has arrived and fits.
    fn admit(&mut self) {
        let whole = |request: &Request| request.prompt + request.output;
        let mut kv: u64 = self.running.iter().map(|running| whole(&running.request)).sum();
        while let Some(next) = self.waiting.front().copied() {
            let fits = kv + whole(&next) <= self.limits.kv_tokens;
            if next.arrival_us > self.now_us || self.running.len() == self.limits.batch || !fits {
                break;
            }
            self.waiting.pop_front();
            kv += whole(&next);
            self.measured.queue.push(self.now_us - next.arrival_us);
            self.running.push(Running { request: next, read: 0, written: 0, last_us: 0.0 });
        }
    }
}

#[cfg(test)]
mod tests;
