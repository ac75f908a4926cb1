//! `cptr gen`.

use std::path::PathBuf;

use super::source::read_parts;
use super::table;
use crate::format::percent;
use cptr_trace::error::Result;
use cptr_trace::generate::join::join;
use cptr_trace::generate::mixtral::{self, Check, LIKE, Like};
use cptr_trace::native;

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["join", "like"])))]
pub(super) struct Args {
    /// Traces to join, in this order; FILE#DOMAIN is one domain of a trace, FILE all of its domains one by one
    #[arg(long, value_name = "TRACE[#DOMAIN]", value_delimiter = ',')]
    join: Vec<String>,
    /// Tokens of a segment before the next trace has its turn
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
    /// Tokens of the answer
    #[arg(long, value_name = "TOKENS", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tokens: u32,
    /// Seed: the same seed gives the same trace
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// File to write in the native format (safetensors); replaced only once the whole of it is written
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Print JSON: the check against what is published
    #[arg(long, requires = "like")]
    json: bool,
}

fn like(name: &str) -> std::result::Result<Like, String> {
    let names = || LIKE.map(|like| like.name).join(", ");
    LIKE.into_iter().find(|like| like.name == name).ok_or_else(|| format!("expected one of {}", names()))
}

pub(super) fn main(args: &Args) -> Result<()> {
    let Some(like) = args.like else {
        let mut parts = Vec::new();
        for name in &args.join {
            parts.extend(read_parts(name)?);
        }
        let joined =
            join(&parts, args.segment as usize, args.segments.map_or(usize::MAX, |segments| segments as usize))?;
        native::write(&joined, &args.out)?;
        super::remark(&joined.notes);
        return Ok(());
    };
    let (trace, checks) = mixtral::generate(like, args.prefill as usize, args.tokens as usize, args.seed);
    native::write(&trace, &args.out)?;
    if args.json { super::print_json(&checks) } else { super::print(&text(&checks)) }
}

fn text(checks: &[Check]) -> String {
    let row = |check: &Check| {
        vec![
            check.layer.to_string(),
            percent(check.same_first),
            percent(check.same_first_published),
            percent(check.shared),
            percent(check.shared_published),
        ]
    };
    let header = ["layer", "same first", "published", "first or second", "published"];
    table::aligned(&header, 0, checks.iter().map(row))
}
