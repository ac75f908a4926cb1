//! Recording a model's routing while it reads texts: a native trace with all router scores.
//!
//! Texts are cut into sequences, every one read from an empty cache. A finished sequence is kept in a folder beside the
//! trace ([`Parts`]), so that an interrupted capture goes on where it stopped.

mod parts;
mod record;
mod sketch;

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::model::{Cache, Model};
use cptr_trace::import::concatenate;
use cptr_trace::native;
use cptr_trace::progress::Progress;
use cptr_trace::{Phase, Trace};
pub use parts::Parts;
use record::Record;

/// What to record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Longest sequence, generated tokens not counted.
    pub context: usize,
    /// Tokens to generate after each sequence, the most likely one at a time, up to the end of the text.
    pub generate: usize,
    /// Dimensions of the sketch of the router's input, if it is wanted.
    pub sketch: Option<usize>,
    /// Whether floats are recorded as f32 rather than rounded to f16.
    pub wide: bool,
}

/// Tokens of one sequence to run, and the domain that they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Name of the domain.
    pub domain: String,
    /// Token ids.
    pub tokens: Vec<u32>,
}

/// Cuts texts, each with the name of its domain, into sequences.
///
/// # Errors
/// If a text has no tokens.
pub fn sequences(model: &Model, texts: &[(String, String)], context: usize) -> Result<Vec<Sequence>> {
    let mut sequences = Vec::new();
    for (domain, text) in texts {
        let tokens = model.encode(text).map_err(|error| error.at(domain))?;
        if tokens.is_empty() {
            return Err(Error::new("expected text, found none").at(domain));
        }
        let cut = tokens.chunks(context.max(1));
        sequences.extend(cut.map(|tokens| Sequence { domain: domain.clone(), tokens: tokens.into() }));
    }
    Ok(sequences)
}

/// A finished capture.
#[derive(Debug)]
pub struct Captured {
    /// The trace.
    pub trace: Trace,
    /// Tokens that ran in this capture, those of earlier attempts not counted.
    pub tokens: usize,
    /// Time in the model for these.
    pub time: Duration,
    /// Sequences that an earlier attempt had finished.
    pub resumed: usize,
}

/// Runs every sequence that is not among `parts` yet; `name` is the model's name in the trace.
///
/// # Errors
/// If a sequence cannot be run or kept. What is finished stays in `parts`.
pub fn capture(model: &Model, name: &str, sequences: &[Sequence], options: Options, parts: &Parts) -> Result<Captured> {
    let steps = sequences.iter().map(|sequence| sequence.tokens.len() + options.generate).sum::<usize>();
    let progress = Progress::new(steps as u64, "capturing");
    let (mut tokens, mut time, mut resumed) = (0, Duration::ZERO, 0);
    for (number, sequence) in sequences.iter().enumerate() {
        let path = parts.path(number);
        if path.exists() {
            resumed += 1;
        } else {
            let start = Instant::now();
            let trace = run(model, name, sequence, options).map_err(|e| e.at(format!("sequence {number}")))?;
            time += start.elapsed();
            tokens += trace.shape.tokens;
            native::write(&trace, &path)?;
        }
        progress.advance((sequence.tokens.len() + options.generate) as u64);
    }
    let traces =
        (0..sequences.len()).map(|number| native::read(&parts.path(number))).collect::<cptr_trace::Result<Vec<_>>>()?;
    let trace = concatenate(&traces)?;
    Ok(Captured { trace: Trace { notes: notes(model, options), ..trace }, tokens, time, resumed })
}

fn notes(model: &Model, options: Options) -> Vec<String> {
    let mut notes = Vec::new();
    let (hidden, inner) = (model.config.hidden, model.config.expert_inner);
    notes.push(format!("The model's sizes, for token times: --hidden {hidden} --expert-inner {inner}."));
    if model.config.router.scale != 1.0 {
        notes.push(format!(
            "The model multiplies its mixing weights by {}; here they are without.",
            model.config.router.scale
        ));
    }
    if let Some(dims) = options.sketch {
        notes.push(sketch::note(dims, model.config.hidden));
    }
    notes
}

fn run(model: &Model, name: &str, sequence: &Sequence, options: Options) -> Result<Trace> {
    let mut record = Record::new(model, options);
    let mut cache = Cache::new();
    let mut tokens = sequence.tokens.clone();
    let mut logits = model.forward_last(&tokens, &mut cache, &mut record)?;
    for _ in 0..options.generate {
        let next = most_likely(&logits);
        if model.config.end.contains(&next) {
            break;
        }
        tokens.push(next);
        logits = model.forward_last(&[next], &mut cache, &mut record)?;
    }
    let phase = |token| if token < sequence.tokens.len() { Phase::Prefill } else { Phase::Decode };
    let phases = (0..tokens.len()).map(phase).collect();
    record.trace(name, &sequence.domain, tokens, phases)
}

/// The id of the largest logit, the lowest of equal ones.
fn most_likely(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}
