//! `cptr convert`.

use std::path::PathBuf;

use super::source::Source;
use cptr_trace::error::Result;
use cptr_trace::import::Recording;
use cptr_trace::native;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// File to write in the native format (safetensors); replaced only once the whole of it is written
    #[arg(value_name = "OUT")]
    out: PathBuf,
}

pub(super) fn main(args: &Args) -> Result<()> {
    match args.source.read()? {
        Recording::Tokens(trace) => {
            native::write(&trace, &args.out)?;
            super::remark(&trace.notes);
        }
        Recording::Counts(counts) => {
            native::write_counts(&counts, &args.out)?;
            super::remark(&counts.notes);
        }
    }
    Ok(())
}
