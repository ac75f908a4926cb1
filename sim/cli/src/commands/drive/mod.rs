//! `cptr drive`: how fast a drive is, by reads in flight, and the `[store.drive]` that says so.

mod experts;
mod reads;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cptr_hw_model::{Drive, System};
use cptr_sim::plan::band;
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use serde::Serialize;

use super::about::About;
use super::machine::system_name;
use crate::columns::Format::{Flag, Number, Plain};
use crate::columns::{Column, Page, Section, Table, column};
use crate::report::strips::{Look, Strip, Strips};
pub(super) use experts::{Measured, measure};
use reads::{Buffer, PAGE, open, places, read_exact_at, spread, weights};

/// Most memory that reads in flight take together.
const MOST_KIB: u32 = 1 << 20;
/// Below this a drive may have the whole file in a memory of its own.
const SMALL_BYTES: u64 = 1 << 30;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File that is read, or a folder whose largest file is: weights, or anything of a GB or more
    #[arg(value_name = "FILE|FOLDER")]
    file: PathBuf,
    /// Reads under way at a time, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8,16,32", value_parser = depth())]
    in_flight: Vec<u32>,
    /// Size of a read, in whole pages
    #[arg(long, value_name = "KIB", default_value_t = 128, value_parser = clap::value_parser!(u32).range(4..=16384))]
    read_kib: u32,
    /// The two of --in-flight from which the drive's latency and its bandwidth are taken; the others are predicted
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,16")]
    fit: Vec<u32>,
    /// Turns in which all of them are measured, one after the other; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    turns: u32,
    /// How long each is measured in a turn
    #[arg(long, value_name = "SECONDS", default_value_t = 0.6)]
    seconds: f64,
    /// Machine that the drive is put into, by its name or its TOML file: its link may be slower than the drive
    #[arg(long, value_name = "NAME|FILE.toml[:FIELD=VALUE]…", value_parser = system_name, default_value = "laptop")]
    system: System,
    /// Read through the system's cache instead of past it
    #[arg(long)]
    cached: bool,
}

fn depth() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=256)
}

/// What a number of reads in flight gives.
#[derive(Debug, Serialize)]
struct Row {
    reads_in_flight: u32,
    /// Median of the turns, the slowest and the fastest one, in 10^9 bytes per second.
    gb_s: f64,
    low_gb_s: f64,
    high_gb_s: f64,
    /// What the machine's file says, with its band.
    model_gb_s: f64,
    model_low_gb_s: f64,
    model_high_gb_s: f64,
    /// Whether the drive's latency or bandwidth was taken from it.
    fitted: bool,
}

static COLUMNS: [Column; 8] = [
    column("reads_in_flight", "reads in flight", Plain, ""),
    column("gb_s", "GB/s", Number(3), "median of the turns, 10^9 bytes per second"),
    column("low_gb_s", "slowest", Number(3), "turn"),
    column("high_gb_s", "fastest", Number(3), "turn"),
    column("model_gb_s", "here", Number(3), "what copies of the machine reach with this drive"),
    column("model_low_gb_s", "from", Number(3), "band of that"),
    column("model_high_gb_s", "to", Number(3), "band of that"),
    column("fitted", "fitted", Flag, "the drive's latency or its bandwidth is taken from this row"),
];

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS],
    examples: &[(
        "cptr drive model --cached --in-flight 1,2 --fit 1,2 --turns 1 --seconds 0.1",
        "what the system's cache gives of the weights in a folder; without --cached, the drive",
    )],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let [shallow, deep] = args.fit[..] else { return Err(Error::usage("--fit: expected two numbers")) };
    if shallow >= deep || !args.fit.iter().all(|depth| args.in_flight.contains(depth)) {
        let message = format!("--fit: expected two of --in-flight, the lower one first, found {shallow},{deep}");
        return Err(Error::usage(message));
    }
    if !args.read_kib.is_multiple_of(4) {
        return Err(Error::usage(format!("--read-kib: expected a multiple of 4, found {}", args.read_kib)));
    }
    let deepest = args.in_flight.iter().copied().max().unwrap_or(0);
    if deepest * args.read_kib > MOST_KIB {
        let found = format!("{deepest} of {} KiB", args.read_kib);
        return Err(Error::usage(format!("--in-flight: expected reads of 1 GiB together at most, found {found}")));
    }
    if !(0.001..=3600.0).contains(&args.seconds) {
        return Err(Error::usage(format!("--seconds: expected 0.001 to 3600, found {}", args.seconds)));
    }
    // Before anything is read.
    band::drive(&args.system, &Drive::fitted(args.read_kib.into(), (shallow, 1.0), 1.0))?;
    let path = weights(&args.file)?;
    let file = Reads::new(&path, args)?;
    let measured = file.rates(args)?;
    let at = |depth| measured.iter().find(|(known, _)| *known == depth).map_or(0.0, |(_, rates)| median(rates));
    let drive = Drive::fitted(args.read_kib.into(), (shallow, at(shallow)), at(deep));
    let rows: Vec<Row> =
        measured.iter().map(|(depth, rates)| row(args, &drive, *depth, rates)).collect::<Result<_>>()?;
    let table = Table::new(&COLUMNS, &rows);
    let of = if args.cached { "the system's cache of" } else { "the drive of" };
    let fact = format!(
        "{of} {}: {:.0} µs to the first byte of a read, {:.3} GB/s",
        path.display(),
        drive.latency_ns / 1e3,
        drive.gb_s
    );
    let remark = format!(
        "A machine with this drive: --system {}:store.drive.latency_ns={:.0}:store.drive.read_kib={}:\
         store.drive.reads_in_flight={deep}:store.drive.gb_s={:.3}",
        args.system.name, drive.latency_ns, args.read_kib, drive.gb_s
    );
    let small = file.bytes < SMALL_BYTES && !args.cached;
    let note = small.then(|| {
        format!("{} has {} MB: a drive may hold that in a memory of its own", path.display(), file.bytes / 1_000_000)
    });
    let section = Section {
        facts: vec![fact.clone()],
        tables: vec![table.clone()],
        remarks: vec![remark],
        figures: vec![figure(&rows)],
        ..Section::default()
    };
    let drive = Found { file: &path, latency_ns: drive.latency_ns, read_kib: args.read_kib, gb_s: drive.gb_s };
    Ok(Page::new(table).section(section).answered(format!("{fact}.")).beside("drive", &drive).notes(note))
}

/// What was found, as `[store.drive]` has it.
#[derive(Debug, Serialize)]
struct Found<'a> {
    file: &'a Path,
    latency_ns: f64,
    read_kib: u32,
    gb_s: f64,
}

/// A row of the table; `rates` in their order.
fn row(args: &Args, drive: &Drive, reads_in_flight: u32, rates: &[f64]) -> Result<Row> {
    let (model_gb_s, band) = band::drive(&args.system, &Drive { reads_in_flight, ..drive.clone() })?;
    Ok(Row {
        reads_in_flight,
        gb_s: median(rates),
        low_gb_s: rates.first().copied().unwrap_or(0.0),
        high_gb_s: rates.last().copied().unwrap_or(0.0),
        model_gb_s,
        model_low_gb_s: model_gb_s * band.low,
        model_high_gb_s: model_gb_s * band.high,
        fitted: args.fit.contains(&reads_in_flight),
    })
}

/// Of numbers in their order.
fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// A file that is read at many places.
struct Reads<'a> {
    path: &'a Path,
    file: File,
    bytes: u64,
    /// Size of a read.
    read_bytes: usize,
    places: u64,
    /// Reads so far.
    begun: AtomicU64,
}

impl<'a> Reads<'a> {
    fn new(path: &'a Path, args: &Args) -> Result<Self> {
        let read_bytes = args.read_kib as usize * 1024;
        let file = open(path, args.cached)?;
        let places = places(path, &file, read_bytes)?;
        let bytes = places * PAGE as u64 + read_bytes as u64 - PAGE as u64;
        Ok(Self { path, file, bytes, read_bytes, places, begun: AtomicU64::new(0) })
    }

    /// Rates of each number of reads in flight, 10^9 bytes per second, in their order; all are measured in each turn.
    fn rates(&self, args: &Args) -> Result<Vec<(u32, Vec<f64>)>> {
        let time = Duration::from_secs_f64(args.seconds);
        let mut measured: Vec<_> = args.in_flight.iter().map(|&depth| (depth, Vec::new())).collect();
        let progress = Progress::new(u64::from(args.turns) * measured.len() as u64, "reading");
        for _ in 0..args.turns {
            for (depth, rates) in &mut measured {
                let rate = self.rate(*depth as usize, time).map_err(|error| Error::io(self.path, &error))?;
                rates.push(rate);
                progress.advance(1);
            }
        }
        measured.iter_mut().for_each(|(_, rates)| rates.sort_by(f64::total_cmp));
        Ok(measured)
    }

    /// So many threads read one after the other until the time is over.
    fn rate(&self, threads: usize, time: Duration) -> std::io::Result<f64> {
        let start = Instant::now();
        let one = || {
            let (mut buffer, mut reads) = (Buffer::new(self.read_bytes), 0u64);
            // Once at least, however late a thread begins.
            loop {
                let place = spread(self.begun.fetch_add(1, Ordering::Relaxed), self.places);
                read_exact_at(&self.file, buffer.first(self.read_bytes), place)?;
                reads += 1;
                if start.elapsed() >= time {
                    return Ok(reads);
                }
            }
        };
        let reads: std::io::Result<Vec<u64>> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            let ended = all.into_iter().map(std::thread::ScopedJoinHandle::join);
            ended.map(|one| one.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let bytes = reads?.iter().sum::<u64>() as f64 * self.read_bytes as f64;
        Ok(bytes / start.elapsed().as_secs_f64() / 1e9)
    }
}

/// What was measured beside what the machine's file says.
fn figure(rows: &[Row]) -> String {
    let strip = |row: &Row| Strip {
        name: format!("{} in flight", row.reads_in_flight),
        values: vec![row.gb_s, row.model_gb_s, row.model_low_gb_s, row.model_high_gb_s],
        label: format!("{:.3} GB/s", row.gb_s),
        strong: row.fitted,
    };
    Strips {
        title: "What the drive gives, by reads in flight",
        caption: "In bold what its latency and its bandwidth are taken from; the others are predicted.",
        series: &["measured", "here", "from", "to"],
        look: Look::Marks,
        tick: |gb_s| format!("{gb_s:.2}"),
        rows: rows.iter().map(strip).collect(),
    }
    .figure()
}
