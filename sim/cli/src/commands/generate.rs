//! `cptr gen`.

use std::path::PathBuf;

use super::about::About;
use super::convert::{WRITTEN, written};
use super::source::read_parts;
use crate::columns::Format::{Percent, Plain};
use crate::columns::{Column, Page, Table, column, format};
use crate::report::number;
use cptr_trace::error::Result;
use cptr_trace::generate::join::join;
use cptr_trace::generate::mixtral::{self, LIKE, Like};
use cptr_trace::generate::piecewise::{Piecewise, generate};
use cptr_trace::native;

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["join", "like", "piecewise"])))]
pub(super) struct Args {
    /// Traces to join, in this order; FILE#DOMAIN is one domain of a trace, FILE all of its domains one by one
    #[arg(long, value_name = "TRACE[#DOMAIN]", value_delimiter = ',')]
    join: Vec<String>,
    /// A router whose context stands still over a segment and then is another, in noise; with all logits
    #[arg(long)]
    piecewise: bool,
    /// Tokens of a segment before the next trace, or another context, has its turn
    #[arg(long, value_name = "TOKENS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    segment: u32,
    /// Segments in all (default: until a trace has no whole one left)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    segments: Option<u32>,
    /// A model whose traces are not public: mixtral-8x7b or mixtral-8x22b
    #[arg(long, value_name = "MODEL", value_parser = like)]
    like: Option<Like>,
    /// Tokens of the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    prefill: u32,
    /// Tokens of the answer, or of all contexts
    #[arg(long, value_name = "TOKENS", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tokens: u32,
    /// MoE layers, for --piecewise
    #[arg(long, value_name = "N", default_value_t = 8)]
    layers: usize,
    /// Experts of a layer, for --piecewise
    #[arg(long, value_name = "N", default_value_t = 64)]
    experts: usize,
    /// Experts of a token, for --piecewise
    #[arg(long, value_name = "N", default_value_t = 8)]
    top_k: usize,
    /// Different contexts, for --piecewise
    #[arg(long, value_name = "N", default_value_t = 8)]
    contexts: usize,
    /// Power of the context over that of the noise in dB, for --piecewise
    #[arg(long, value_name = "DB", default_value_t = 0.0, allow_negative_numbers = true)]
    snr: f64,
    /// Seed: the same seed gives the same trace
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// File to write in the native format (safetensors); replaced only once the whole of it is written
    #[arg(value_name = "OUT")]
    out: PathBuf,
}

/// What is published of a model whose traces are not, beside the same of what was made.
static CHECKS: [Column; 5] = [
    column("layer", "layer", Plain, ""),
    column("same_first", "same first", Percent, "tokens whose first choice is that of the token before"),
    column("same_first_published", "published", Percent, ""),
    column("shared", "first or second", Percent, "tokens that share a choice with the one before"),
    column("shared_published", "published", Percent, ""),
];

fn like(name: &str) -> std::result::Result<Like, String> {
    let names = || LIKE.map(|like| like.name).join(", ");
    LIKE.into_iter().find(|like| like.name == name).ok_or_else(|| format!("expected one of {}", names()))
}

pub(super) static ABOUT: About = About {
    rows: &[&CHECKS, &WRITTEN],
    examples: &[
        ("cptr gen like.safetensors --like mixtral-8x7b", "a trace like those that are not public"),
        (
            "cptr gen joined.safetensors --segment 200 --join tiny-moe-8m.safetensors",
            "its domains in turn, 200 tokens each",
        ),
    ],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    if args.piecewise {
        let trace = generate(&Piecewise {
            tokens: args.tokens as usize,
            layers: args.layers,
            experts: args.experts,
            k: args.top_k,
            segment: args.segment as usize,
            contexts: args.contexts,
            snr_db: args.snr,
            seed: args.seed,
        })?;
        native::write(&trace, &args.out)?;
        return Ok(written(&args.out, &trace));
    }
    let Some(like) = args.like else {
        let mut parts = Vec::new();
        for name in &args.join {
            parts.extend(read_parts(name)?);
        }
        let joined =
            join(&parts, args.segment as usize, args.segments.map_or(usize::MAX, |segments| segments as usize))?;
        native::write(&joined, &args.out)?;
        return Ok(written(&args.out, &joined));
    };
    let (trace, checks) = mixtral::generate(like, args.prefill as usize, args.tokens as usize, args.seed);
    native::write(&trace, &args.out)?;
    let table = Table::new(&CHECKS, &checks);
    let off = |row: &serde_json::Value| (number(row, "same_first") - number(row, "same_first_published")).abs();
    let worst = table.rows.iter().map(off).filter(|off| off.is_finite()).fold(0.0, f64::max);
    let answer = format!(
        "{}: {} tokens; first choices that stay from token to token are within {} of the published share in every layer \
         for which there is one.",
        args.out.display(),
        format::count(trace.shape.tokens),
        format::percent(worst)
    );
    Ok(Page::new(table).answered(answer))
}
