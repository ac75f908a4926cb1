//! `cptr sweep` and `cptr merge`: many points of `cptr run`, on all cores, or on the machines of a cluster.

mod digest;
pub(super) mod merge;
mod points;
mod run;
mod table;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::about::About;
use crate::columns::{Page, Section};
use cptr_sim::sweep::{Header, Joined, Journal, Method, Shard, Sweep};
use cptr_trace::error::{Error, Result};
use cptr_trace::file;
use cptr_trace::lock::Lock;
use points::Points;

/// Bytes that the file of a sweep may have.
const MOST_FILE: u64 = 1 << 20;

/// What Slurm runs.
const JOB: &str = include_str!("job.sh");

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Points to run: options of cptr run with holes, and what goes into them (docs/sweep.md)
    #[arg(value_name = "FILE.toml", required_unless_present = "job_script")]
    file: Option<PathBuf>,
    /// Where results go: NAME.parquet and NAME.csv, and NAME.journal, with which a sweep that was stopped goes on
    /// (default: the name of the file without .toml)
    #[arg(long, value_name = "NAME")]
    out: Option<PathBuf>,
    /// Run part I of N only, into NAME.I-of-N.journal, for cptr merge (default: the task's of an array of Slurm jobs,
    /// or all)
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Print the job script with which Slurm runs a sweep as an array
    #[arg(long, conflicts_with_all = ["file", "out", "shard"])]
    job_script: bool,
}

pub(super) static ABOUT: About = About {
    rows: &[],
    examples: &[
        ("cptr sweep bound.toml", "the points of a file on all cores: bound.parquet and bound.csv"),
        ("cptr sweep bound.toml --out parts --shard 1/2", "half of them, into parts.1-of-2.journal"),
        ("cptr sweep bound.toml --out parts --shard 2/2", "the other half"),
        ("cptr sweep --job-script > sweep.sh", "for sbatch --array=1-8 sweep.sh bound.toml"),
    ],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let Some(path) = args.file.as_ref().filter(|_| !args.job_script) else {
        let facts = JOB.lines().map(str::to_owned).collect();
        return Ok(Page::default().section(Section { facts, ..Section::default() }));
    };
    let of_slurm = || Shard::of_slurm(|name| std::env::var(name).ok());
    let shard = args.shard.map_or_else(of_slurm, |shard| Ok(Some(shard)))?.unwrap_or(Shard::WHOLE);
    let sweep = Sweep::parse(&file::text(path, MOST_FILE)?).map_err(|error| error.or_file(path))?;
    let points = Points::of(&sweep).map_err(|error| error.or_file(path))?;
    let named = || path.file_stem().map_or_else(|| "sweep".into(), PathBuf::from);
    let out = args.out.as_deref().map_or_else(named, base);
    folder(&out)?;
    let part =
        if shard == Shard::WHOLE { out.clone() } else { with(&out, &format!(".{}-of-{}", shard.number, shard.of)) };
    let journal = with(&part, ".journal");
    let lock = Lock::take(with(&part, ".lock"), &journal)?;
    let header = Header::new(
        digest::version(),
        points.digest.clone(),
        shard,
        points.len(),
        points.columns.clone(),
        sweep.objectives.clone(),
    );
    let busy = run::run(&sweep, &points, shard, || Journal::open(&journal, &header))?;
    let about = format!("{} of {}, {}", counted(points.len()), path.display(), method(&sweep));
    let page = if shard == Shard::WHOLE {
        finish(&mut Joined::open(&[journal])?, &out, about)?
    } else {
        let share = counted(shard.share(points.len()));
        let merge = format!("cptr merge {}.*-of-{}.journal --out {}", out.display(), shard.of, out.display());
        let facts =
            vec![about, format!("part {shard}, {share}: {}", journal.display()), format!("with all parts: {merge}")];
        Page::default().section(Section { facts, ..Section::default() })
    };
    lock.remove()?;
    Ok(page.notes(busy))
}

/// Writes the results of all points, and says what they are.
fn finish(joined: &mut Joined, out: &Path, about: String) -> Result<Page> {
    let results = table::Results::of(joined)?;
    let (parquet, csv) = (with(out, ".parquet"), with(out, ".csv"));
    results.write(joined, &parquet, &csv)?;
    let files = format!("{}, {}", parquet.display(), csv.display());
    let facts = [Some(about), results.refused(), Some(files)];
    let table = results.front();
    let section = Section { remarks: results.remarks(), ..Section::of(facts.into_iter().flatten(), table.0) };
    Ok(Page::new(table.1).section(section))
}

fn counted(points: usize) -> String {
    let count = crate::columns::format::count(points);
    if points == 1 { "1 point".into() } else { format!("{count} points") }
}

/// How points were chosen.
fn method(sweep: &Sweep) -> String {
    let way = match sweep.method {
        Method::Grid => "a grid",
        Method::Random => "random",
        Method::LatinHypercube => "a Latin hypercube",
    };
    format!("{way} of {}", crate::columns::format::count(sweep.draws()))
}

/// The name without an ending that is added anyway.
fn base(out: &Path) -> PathBuf {
    let known =
        out.extension().is_some_and(|extension| ["parquet", "csv", "journal"].iter().any(|known| extension == *known));
    if known { out.with_extension("") } else { out.into() }
}

/// The name with an ending.
fn with(name: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(name);
    name.push(ending);
    name.into()
}

/// Refuses to write where nothing can be.
fn folder(out: &Path) -> Result<()> {
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match parent.is_dir() && out.file_name().is_some() {
        true => Ok(()),
        false => Err(Error::in_file(out, "expected a name in a folder that there is")),
    }
}
