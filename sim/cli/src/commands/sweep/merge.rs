//! `cptr merge`: the parts of a sweep, joined.

use std::path::PathBuf;

use super::super::about::About;
use super::{base, counted, finish, folder, with};
use crate::columns::Page;
use cptr_sim::sweep::Joined;
use cptr_trace::error::Result;
use cptr_trace::lock::Lock;

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    /// The journals of all parts of one sweep
    #[arg(value_name = "SHARD", required = true)]
    shards: Vec<PathBuf>,
    /// Where results go: NAME.parquet and NAME.csv
    #[arg(long, value_name = "NAME")]
    out: PathBuf,
}

pub(in super::super) static ABOUT: About = About {
    rows: &[],
    examples: &[(
        "cptr merge parts.1-of-2.journal parts.2-of-2.journal --out parts",
        "parts.parquet and parts.csv, of all points",
    )],
};

pub(in super::super) fn main(args: &Args) -> Result<Page> {
    let mut joined = Joined::open(&args.shards)?;
    let out = base(&args.out);
    folder(&out)?;
    let lock = Lock::take(with(&out, ".lock"), &out)?;
    let parts = joined.header.shard.of;
    let about = format!("{} of {parts} parts", counted(joined.points()));
    let page = finish(&mut joined, &out, about)?;
    lock.remove()?;
    Ok(page)
}
