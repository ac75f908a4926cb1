//! When requests arrive, and how long they are.

use std::path::Path;

use cptr_trace::error::{Error, Result};

/// One request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// When it arrives, in microseconds from the beginning.
    pub arrival_us: f64,
    /// Tokens that are read, at least 1.
    pub prompt: u64,
    /// Tokens that are written, at least 1.
    pub output: u64,
}

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// Independently of each other, so many a second on the mean.
    Poisson {
        /// Requests per second.
        per_s: f64,
    },
    /// All at once.
    AtOnce,
}

/// Requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// How they come.
    pub arrivals: Arrivals,
    /// How many.
    pub requests: usize,
    /// Mean tokens of a prompt.
    pub prompt: u64,
    /// Mean tokens of an answer.
    pub output: u64,
    /// Of the draws.
    pub seed: u64,
}

impl Load {
    /// The requests. Lengths are as given, the same for all.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut arrival_us = 0.0;
        let next = |_| {
            if let Arrivals::Poisson { per_s } = self.arrivals {
                // The logarithm of a number of (0, 1].
                arrival_us -= (1.0 - random.f64()).ln() / per_s * 1e6;
            }
            Request { arrival_us, prompt: self.prompt.max(1), output: self.output.max(1) }
        };
        (0..self.requests).map(next).collect()
    }
}

/// Most requests of a file: their percentiles stay in memory.
const MOST: usize = 10_000_000;
/// Most tokens of a request.
const MOST_TOKENS: u64 = 1 << 32;

/// Requests of a CSV file: lines of seconds from the beginning, tokens of the prompt, tokens of the answer; a first
/// line may name them.
///
/// # Errors
/// What is no such file, by its line; a request before the one above it.
pub fn read(path: &Path) -> Result<Vec<Request>> {
    let text = cptr_trace::file::text(path, 1 << 30)?;
    let mut requests: Vec<Request> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let names = number == 0 && fields.len() == 3 && fields.iter().all(|field| field.parse::<f64>().is_err());
        if line.trim().is_empty() || names {
            continue;
        }
        let request = match fields.as_slice() {
            [arrival, prompt, output] => arrival.parse().ok().zip(prompt.parse().ok()).zip(output.parse().ok()),
            _ => None,
        };
        let request = request.map(|((arrival_s, prompt), output): ((f64, u64), u64)| Request {
            arrival_us: arrival_s * 1e6,
            prompt,
            output,
        });
        let tokens = 1..=MOST_TOKENS;
        let right = request.filter(|request| {
            (0.0..=1e15).contains(&request.arrival_us)
                && tokens.contains(&request.prompt)
                && tokens.contains(&request.output)
        });
        let Some(request) = right else {
            let wanted = "expected seconds, tokens of the prompt (1 or more), tokens of the answer (1 or more)";
            return Err(Error::in_file(path, format!("line {}: {wanted}", number + 1)));
        };
        if requests.last().is_some_and(|last| last.arrival_us > request.arrival_us) {
            return Err(Error::in_file(path, format!("line {}: expected no earlier than the one before", number + 1)));
        }
        if requests.len() == MOST {
            return Err(Error::in_file(path, format!("line {}: expected at most {MOST} requests", number + 1)));
        }
        requests.push(request);
    }
    if requests.is_empty() { Err(Error::in_file(path, "expected requests, found none")) } else { Ok(requests) }
}
