//! Recording a model's routing while it reads texts: a native trace with all router scores, and the whole description
//! of its router.
//!
//! Texts are cut into sequences, every one read from an empty cache. Until the trace is whole, finished sequences are
//! kept in the folder `OUT.part`, so that an interrupted capture goes on where it stopped. A trace has one writer at a
//! time.
//!
//! ```
//! use cptr_model::{Model, capture};
//!
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/deepseek_v2_groups");
//! let model = Model::load(folder.as_ref())?;
//! let texts = [("tales".to_owned(), "Once upon a time".to_owned())];
//! let options = capture::Options { context: 10, generate: 3, sketch: None, wide: true };
//! let sequences = capture::sequences(&model, &texts, options.context)?;
//! let folder = tempfile::tempdir()?;
//! let outcome = capture::run(&model, "tiny", &sequences, options, &folder.path().join("trace.safetensors"))?;
//! assert_eq!(outcome.trace.meta.router.to_string(), "softmax-all:4:2:scale=2");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod parts;
mod record;
mod sketch;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::{Cache, Model};
use cptr_trace::import::concatenate;
use cptr_trace::native;
use cptr_trace::progress::Progress;
use cptr_trace::{Phase, Trace};
use parts::Parts;
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
#[non_exhaustive]
pub struct Outcome {
    /// The trace.
    pub trace: Trace,
    /// Tokens that ran in this capture, those of earlier attempts not counted.
    pub tokens: usize,
    /// Time in the model for these.
    pub time: Duration,
    /// Sequences that an earlier attempt had finished.
    pub resumed: usize,
    /// Whether an earlier attempt with another model, other texts or other options was thrown away.
    pub replaced: bool,
}

/// Captures sequences into the trace `out`; `name` is the model's name in it.
///
/// # Errors
/// If a sequence cannot be run or kept, or another process captures into `out`. What is finished stays in `OUT.part`.
pub fn run(model: &Model, name: &str, sequences: &[Sequence], options: Options, out: &Path) -> Result<Outcome> {
    let parts = Parts::open(out, model, name, sequences, options)?;
    let steps = sequences.iter().map(|sequence| sequence.tokens.len() + options.generate).sum::<usize>();
    let progress = Progress::new(steps as u64, "capturing");
    let (mut tokens, mut time, mut resumed) = (0, Duration::ZERO, 0);
    for (number, sequence) in sequences.iter().enumerate() {
        if parts.has(number) {
            resumed += 1;
        } else {
            let start = Instant::now();
            let trace = read(model, name, sequence, options).map_err(|e| e.at(format!("sequence {number}")))?;
            time += start.elapsed();
            tokens += trace.shape.tokens;
            parts.keep(number, trace)?;
        }
        progress.advance((sequence.tokens.len() + options.generate) as u64);
    }
    let traces = (0..sequences.len()).map(|number| parts.read(number)).collect::<Result<Vec<_>>>()?;
    let trace = Trace { notes: notes(model, options), ..concatenate(&traces)? };
    native::write(&trace, out)?;
    let replaced = parts.replaced;
    parts.remove()?;
    Ok(Outcome { trace, tokens, time, resumed, replaced })
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

fn read(model: &Model, name: &str, sequence: &Sequence, options: Options) -> Result<Trace> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    const OPTIONS: Options = Options { context: 12, generate: 2, sketch: None, wide: true };

    fn model(name: &str) -> Model {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        Model::load(&golden.join(name)).unwrap()
    }

    fn tales(model: &Model, text: &str) -> Vec<Sequence> {
        sequences(model, &[("tales".to_owned(), text.repeat(4))], OPTIONS.context).unwrap()
    }

    /// What a trace says about its router is enough to make its choice again.
    #[test]
    fn the_trace_describes_the_router() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("trace.safetensors");
        for (name, router) in [
            ("deepseek_v2", "softmax-all:scale=1.5"),
            ("deepseek_v2_groups", "softmax-all:4:2:scale=2"),
            ("deepseek_v3", "sigmoid:4:2:scale=2.5"),
            ("gpt_oss", "softmax-selected"),
            ("olmoe", "softmax-all"),
        ] {
            let model = model(name);
            run(&model, name, &tales(&model, "Once upon a time"), OPTIONS, &out).unwrap();
            let trace = native::read(&out).unwrap();
            assert_eq!(trace.meta.router.to_string(), router);
            assert_eq!(trace.bias.is_some(), name == "deepseek_v3");
            let (logits, weights) = (trace.logits.as_ref().unwrap(), trace.weights.as_ref().unwrap());
            let (mut row, mut found) = (vec![0.0; trace.shape.experts], vec![0.0; trace.shape.k]);
            for token in 0..trace.shape.tokens {
                for layer in 0..trace.shape.layers {
                    logits.read_row(token, layer, &mut row);
                    weights.read_row(token, layer, &mut found);
                    let choice = trace.meta.router.choose(trace.row(&row, layer), trace.shape.k);
                    assert_eq!(choice.ids, trace.chosen(token, layer), "{name}");
                    for (found, expected) in found.iter().zip(&choice.weights) {
                        let expected = expected / f64::from(trace.meta.router.scale);
                        assert!((f64::from(*found) - expected).abs() < 1e-6, "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn two_captures_into_one_file_do_not_mix() {
        let model = model("olmoe");
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("trace.safetensors");
        let texts = ["It was the best of times. ", "It was the age of wisdom. "].map(|text| tales(&model, text));
        let held = Parts::open(&out, &model, "tiny", &texts[0], OPTIONS).unwrap();
        let refused = run(&model, "tiny", &texts[1], OPTIONS, &out).unwrap_err().to_string();
        let sentence = "another process writes it: wait for it to end, or name another output";
        assert_eq!(refused, format!("{}: {sentence}", out.display()));
        drop(held);
        // The lock is gone with its holder, though the folder is not.
        assert!(run(&model, "tiny", &texts[1], OPTIONS, &out).unwrap().replaced);

        for _ in 0..10 {
            let barrier = Barrier::new(4);
            let results: Vec<(usize, Result<Outcome>)> = std::thread::scope(|scope| {
                let capture = |writer: usize| {
                    let (barrier, model, texts, out) = (&barrier, &model, &texts, &out);
                    scope.spawn(move || {
                        barrier.wait();
                        (writer % 2, run(model, "tiny", &texts[writer % 2], OPTIONS, out))
                    })
                };
                let threads: Vec<_> = (0..4).map(capture).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let tokens = |text: usize| -> Vec<u32> { texts[text].iter().flat_map(|s| s.tokens.clone()).collect() };
            let trace = native::read(&out).unwrap();
            let prompt = |(token, phase): (&u32, &Phase)| (*phase == Phase::Prefill).then_some(*token);
            let found: Vec<u32> = trace.token.unwrap().iter().zip(&trace.phase).filter_map(prompt).collect();
            let written: Vec<usize> = results.iter().filter(|(_, r)| r.is_ok()).map(|(text, _)| *text).collect();
            assert!(written.iter().any(|&text| tokens(text) == found), "{} of 4 wrote", written.len());
            for (_, result) in &results {
                let message = result.as_ref().map_or_else(ToString::to_string, |_| sentence.into());
                assert!(message.ends_with(sentence), "{message}");
            }
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn an_interrupted_capture_goes_on_with_its_own_parts_only() {
        let model = model("olmoe");
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("trace.safetensors");
        let sequences = tales(&model, "It was the season of light. ");
        let parts = Parts::open(&out, &model, "tiny", &sequences, OPTIONS).unwrap();
        parts.keep(0, read(&model, "tiny", &sequences[0], OPTIONS).unwrap()).unwrap();
        drop(parts);
        let whole = run(&model, "tiny", &sequences, OPTIONS, &out).unwrap();
        assert_eq!((whole.resumed, whole.replaced), (1, false));
        assert!(!folder.path().join("trace.safetensors.part").exists());

        let parts = Parts::open(&out, &model, "tiny", &sequences, OPTIONS).unwrap();
        parts.keep(1, read(&model, "tiny", &sequences[1], OPTIONS).unwrap()).unwrap();
        let place = |number| folder.path().join(format!("trace.safetensors.part/{number}.safetensors"));
        std::fs::rename(place(1), place(0)).unwrap();
        drop(parts);
        let error = run(&model, "tiny", &sequences, OPTIONS, &out).unwrap_err().to_string();
        assert!(error.contains("0.safetensors: expected a part of this capture, found one of another"), "{error}");

        let mine = folder.path().join("mine.part");
        std::fs::create_dir(&mine).unwrap();
        std::fs::write(mine.join("letter.txt"), "mine").unwrap();
        let error = run(&model, "tiny", &sequences, OPTIONS, &folder.path().join("mine")).unwrap_err().to_string();
        assert!(error.contains("expected the folder of an interrupted capture, found no capture.key in it"), "{error}");
        assert_eq!(std::fs::read_dir(&mine).unwrap().count(), 1);
    }
}
