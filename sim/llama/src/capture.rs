//! `cptr-llama capture`: what the routers do while llama.cpp reads text and goes on from it, as a trace of cptr.
//!
//! llama.cpp leaves out tokens without predictions before the last layer, so predictions of all tokens are asked for.

use std::path::PathBuf;

use cptr_trace::array::FloatArray;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use cptr_trace::{Phase, Trace, native};
use half::f16;

use crate::common::ModelArgs;
use crate::eval::finite;
use crate::ffi::{Context, Model, Node, Options, Tap};
use crate::generate::best;
use crate::moe::Moe;
use crate::show::{Page, column};
use crate::steer::{Kind, kind};
use crate::text::{self, Document};

/// Tokens that are read at a time.
const CHUNK: usize = 128;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    recording: Recording,
    /// Trace to write; replaced only once the whole of it is there
    #[arg(long, value_name = "FILE", default_value = "trace.safetensors")]
    out: PathBuf,
    /// Record logits as f32 (default: rounded to f16)
    #[arg(long)]
    f32: bool,
}

/// What is recorded.
#[derive(Debug, clap::Args)]
pub(crate) struct Recording {
    #[command(flatten)]
    text: text::Args,
    /// Generate this many tokens after each document, the most likely one at a time
    #[arg(long, value_name = "TOKENS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    generate: u32,
}

/// Sees logits and choices of all layers.
struct Recorder<'a> {
    moe: &'a Moe,
    /// Of the batch under way, by layer: logits `[T, E]`, ids `[T, k]`.
    logits: Vec<Vec<f32>>,
    ids: Vec<Vec<i32>>,
}

impl Tap for Recorder<'_> {
    fn wants(&mut self, node: &Node<'_>) -> bool {
        kind(self.moe, node).is_some()
    }

    fn see(&mut self, node: &mut Node<'_>) -> bool {
        match kind(self.moe, node) {
            Some((Kind::Logits, layer)) => {
                self.logits[layer].clear();
                node.read_f32(&mut self.logits[layer]);
            }
            Some((Kind::Choice, layer)) => {
                self.ids[layer].clear();
                node.read_i32(&mut self.ids[layer]);
            }
            None => {}
        }
        true
    }
}

/// What has been recorded so far, token by token.
struct Record {
    ids: Vec<u16>,
    logits: Vec<f32>,
    token: Vec<u32>,
    phase: Vec<Phase>,
    sequence: Vec<u32>,
    position: Vec<u32>,
    domain: Vec<u8>,
}

pub(crate) fn main(args: &Args) -> Result<Page> {
    let (trace, _) = record(&args.model, &args.recording, args.f32)?;
    native::write(&trace, &args.out)?;
    let shape = trace.shape;
    let decoded = trace.phase.iter().filter(|phase| **phase == Phase::Decode).count();
    let row = serde_json::json!({
        "file": args.out.to_string_lossy(), "model": trace.meta.model, "router": trace.meta.router.to_string(),
        "tokens": shape.tokens, "generated": decoded, "layers": shape.layers, "experts": shape.experts, "k": shape.k,
    });
    let keys = ["file", "model", "router", "tokens", "generated", "layers", "experts", "k"];
    Ok(Page { columns: keys.map(|key| column(key, key)).into(), rows: vec![row], ..Page::default() })
}

/// Records the routing of a model; logits are rounded to f16, or kept as they are (`wide`).
///
/// # Errors
/// Models and texts that cannot be read; logits beyond f16.
pub(crate) fn record(args: &ModelArgs, recording: &Recording, wide: bool) -> Result<(Trace, Moe)> {
    let moe = Moe::read(&args.model)?;
    let model = Model::load(&args.model)?;
    let documents = recording.text.read(&model)?;
    let longest = documents.iter().map(|document| document.tokens.len()).max().unwrap_or(0);
    let generate = recording.generate as usize;
    let options = Options { tokens: longest + generate, batch: CHUNK, sequences: 1, threads: args.threads() };
    let layers = moe.layers.len();
    let recorder = Recorder { moe: &moe, logits: vec![Vec::new(); layers], ids: vec![Vec::new(); layers] };
    let mut context = Context::new(&model, options, recorder)?;
    let mut record = Record {
        ids: Vec::new(),
        logits: Vec::new(),
        token: Vec::new(),
        phase: Vec::new(),
        sequence: Vec::new(),
        position: Vec::new(),
        domain: Vec::new(),
    };
    let mut domains: Vec<String> = Vec::new();
    let all: usize = documents.iter().map(|document| document.tokens.len() + generate).sum();
    let progress = Progress::new(all as u64, "recording");
    for (sequence, Document { domain, tokens }) in (0..).zip(&documents) {
        let index = domains.iter().position(|known| known == domain).unwrap_or_else(|| {
            domains.push(domain.clone());
            domains.len() - 1
        });
        let domain = u8::try_from(index).map_err(|_| Error::new("expected at most 256 domains, found more"))?;
        context.clear();
        let mut next = 0;
        for (chunk, first) in tokens.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
            context.decode(chunk, first)?;
            finite(context.logits(chunk.len() - 1))?;
            next = best(context.logits(chunk.len() - 1));
            record.add(context.tap(), chunk, first, Phase::Prefill, (sequence, domain))?;
            progress.advance(chunk.len() as u64);
        }
        for position in tokens.len()..tokens.len() + generate {
            let token = next;
            if model.ends(token) {
                break;
            }
            context.decode(&[token], position)?;
            next = best(context.logits(0));
            record.add(context.tap(), &[token], position, Phase::Decode, (sequence, domain))?;
            progress.advance(1);
        }
    }
    drop(context);
    let trace = record.trace(&moe, domains, wide)?;
    Ok((trace, moe))
}

impl Record {
    fn add(
        &mut self,
        recorder: &Recorder<'_>,
        tokens: &[u32],
        first: usize,
        phase: Phase,
        (sequence, domain): (u32, u8),
    ) -> Result<()> {
        let Recorder { moe, logits, ids } = recorder;
        let (experts, k) = (moe.experts, moe.k);
        for (at, &token) in tokens.iter().enumerate() {
            for layer in 0..moe.layers.len() {
                let (Some(logits), Some(ids)) =
                    (logits[layer].get(at * experts..(at + 1) * experts), ids[layer].get(at * k..(at + 1) * k))
                else {
                    return Err(Error::unsupported(format!(
                        "expected logits and choices of all tokens in layer {} of {}, found fewer",
                        moe.layers[layer], moe.architecture
                    )));
                };
                self.logits.extend_from_slice(logits);
                self.ids.extend(ids.iter().map(|&id| u16::try_from(id).unwrap_or(u16::MAX)));
            }
            self.token.push(token);
            self.phase.push(phase);
            self.sequence.push(sequence);
            self.position.push((first + at) as u32);
            self.domain.push(domain);
        }
        Ok(())
    }

    fn trace(mut self, moe: &Moe, domains: Vec<String>, wide: bool) -> Result<Trace> {
        let shape = moe.shape(self.token.len());
        if !wide {
            for logit in &mut self.logits {
                let rounded = f16::from_f32(*logit).to_f32();
                if !rounded.is_finite() {
                    return Err(Error::new(format!("expected logits that f16 can hold, found {logit}: record --f32")));
                }
                *logit = rounded;
            }
        }
        let trace = Trace {
            meta: cptr_trace::Meta { domains, ..moe.meta() },
            logits: Some(FloatArray::owned([shape.tokens, shape.layers, shape.experts], self.logits)),
            bias: (!moe.bias.is_empty()).then(|| moe.bias.clone()),
            token: Some(self.token),
            phase: self.phase,
            sequence: self.sequence,
            position: self.position,
            domain: self.domain,
            ..Trace::of_ids(shape, self.ids)
        };
        trace.validate()?;
        Ok(trace)
    }
}
