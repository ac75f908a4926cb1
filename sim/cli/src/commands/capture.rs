//! `cptr capture`.

use std::path::{Path, PathBuf};

use super::about::About;
use super::convert::{self, WRITTEN};
use crate::columns::Page;
use cptr_model::capture::{self, Options, Outcome, sequences};
use cptr_model::{Model, text};
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;

/// Longest sequence where none is asked for.
const CONTEXT: usize = 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of a Hugging Face checkpoint: config.json, tokenizer.json, safetensors (OLMoE, Mixtral, Qwen2-MoE,
    /// Qwen3-MoE, DeepSeek-V2, DeepSeek-V3, gpt-oss)
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Text files, each a domain of the trace, or folders whose .txt files each belong to the domain of the folder that
    /// they lie in
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    text: Vec<PathBuf>,
    /// Trace to write; replaced only once the whole of it is there. Until then finished sequences are kept in
    /// FILE.part, and a second call goes on from there
    #[arg(long, value_name = "FILE", default_value = "trace.safetensors")]
    out: PathBuf,
    /// Cut texts into sequences of at most this many tokens, each read from an empty cache (default: what the model was
    /// made for, at most 1024)
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Generate this many tokens after each sequence, the most likely one at a time
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    generate: usize,
    /// Record the router's input too, projected to this many dimensions by fixed random signs
    #[arg(long, value_name = "DIMENSIONS")]
    sketch: Option<usize>,
    /// Record floats as f32 (default: rounded to f16)
    #[arg(long)]
    f32: bool,
}

/// What was recorded, and of how many sequences.
fn captured(args: &Args) -> Result<(Outcome, usize)> {
    check(args)?;
    let texts: Vec<(String, String)> = text::read(&args.text)?.into_iter().map(|t| (t.domain, t.text)).collect();
    let loading = Progress::unknown("loading");
    let model = Model::load(&args.model)?;
    drop(loading);
    let options = Options {
        context: args.context.unwrap_or_else(|| model.config.context.saturating_sub(args.generate).clamp(1, CONTEXT)),
        generate: args.generate,
        sketch: args.sketch,
        wide: args.f32,
    };
    if options.sketch.is_some_and(|dims| dims > model.config.hidden) {
        return Err(Error::new(format!("--sketch: expected at most the model's {} dimensions", model.config.hidden)));
    }
    let name = name(&args.model);
    let sequences = sequences(&model, &texts, options.context)?;
    Ok((capture::run(&model, &name, &sequences, options, &args.out)?, sequences.len()))
}

pub(super) static ABOUT: About = About {
    rows: &[&WRITTEN],
    examples: &[(
        "cptr capture model --text held-out/rust --context 256 --out mine.safetensors",
        "what the bundled model's routers say to a text",
    )],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let (captured, all) = captured(args)?;
    let mut remarks = captured.trace.notes.clone();
    if captured.replaced {
        remarks.push("an interrupted capture of another model, other texts or other options was thrown away".into());
    }
    if captured.resumed > 0 {
        remarks.push(format!("{} of {all} sequences were there from an interrupted capture", captured.resumed));
    }
    let seconds = captured.time.as_secs_f64();
    let mut row = convert::row(&args.out, &captured.trace);
    row["resumed_sequences"] = captured.resumed.into();
    row["run_tokens"] = captured.tokens.into();
    row["seconds"] = seconds.into();
    row["tokens_per_s"] =
        (if captured.tokens > 0 { (captured.tokens as f64 / seconds).round() as u64 } else { 0 }).into();
    Ok(convert::page(row, remarks))
}

/// The routing of a checkpoint that reads texts, cut into sequences of `context` tokens (default: what the model was
/// made for, at most 1024); nothing is kept.
pub(super) fn record(folder: &Path, texts: &[PathBuf], context: Option<usize>) -> Result<Trace> {
    let scratch = tempfile::tempdir().map_err(|error| Error::new(format!("a folder for the recording: {error}")))?;
    let args = Args {
        model: folder.into(),
        text: texts.to_vec(),
        out: scratch.path().join("trace.safetensors"),
        context,
        generate: 0,
        sketch: None,
        f32: false,
    };
    Ok(captured(&args)?.0.trace)
}

fn check(args: &Args) -> Result<()> {
    let most = 1 << 20;
    for (option, value) in [("--context", args.context), ("--sketch", args.sketch)] {
        if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
            return Err(Error::new(format!("{option}: expected 1 to {most}, found {value}")));
        }
    }
    if args.generate > most {
        return Err(Error::new(format!("--generate: expected at most {most}, found {}", args.generate)));
    }
    Ok(())
}

/// Name of a model: that of its folder.
fn name(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
