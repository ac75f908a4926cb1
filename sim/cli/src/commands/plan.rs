//! `cptr plan`.

use std::path::{Path, PathBuf};

use cptr_hw_model::{Model, System};
use serde::Serialize;

use super::about::About;
use super::machine::{config, system_name, systems_help};
use super::source::Reading;
use crate::columns::Format::{Count, Flag, Microseconds, Number, Percent, Plain, Text};
use crate::columns::{Column, Page, Section, Table, column, format};
use crate::report;
use crate::report::strips::{Look, Strip, Strips};
use cptr_sim::plan::map::{self, Cell};
use cptr_sim::plan::parallel::Parallel;
use cptr_sim::plan::{Change, Misses, Place, Question, Way, published};
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};
use cptr_trace::file;
use cptr_trace::import::Recording;

/// Options that say nothing of published rates.
const OF_A_MODEL: [&str; 9] =
    ["asked", "trace", "map", "gpu_memory", "dense_bits", "system", "bits", "context", "devices"];

/// Numbers of tokens, so many or more.
pub(super) fn at_least(least: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(least..=1 << 32)
}

#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("Systems:\n{}", systems_help()))]
pub(super) struct Args {
    /// Model: a known name, or its config.json
    #[arg(value_name = "MODEL|config.json", required_unless_present = "published")]
    asked: Option<String>,
    /// Systems by their names, or the TOML files of some, separated by commas (default: all that come with cptr)
    #[arg(long, value_name = "NAME|FILE.toml", value_delimiter = ',', value_parser = system_name)]
    system: Vec<System>,
    /// Bits per weight of the experts, separated by commas
    #[arg(long, value_name = "BITS", value_delimiter = ',', default_value = "4")]
    bits: Vec<f64>,
    /// Bits per weight of attention, shared experts and head (default: the system's, where it names them, else 8, or
    /// those of the experts, if more)
    #[arg(long, value_name = "BITS")]
    dense_bits: Option<f64>,
    /// Tokens before the one that is timed
    #[arg(long, value_name = "TOKENS", default_value_t = 4096, value_parser = at_least(0))]
    context: u64,
    /// GPU memory, where it is not the system's own
    #[arg(long, value_name = "GB")]
    gpu_memory: Option<f64>,
    /// Trace of the model: how often experts are not where they are wanted (default: as the bundled trace of
    /// gpt-oss-20b, with a wider band)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The fastest way over GPU memory, bits and the bandwidth of the device of one system
    #[arg(long)]
    map: bool,
    /// Write the map as a plot (SVG)
    #[arg(long, value_name = "FILE", requires = "map")]
    plot: Option<PathBuf>,
    /// The model over so many of the system's GPUs behind its switch, separated by commas: every matrix over all of
    /// them (tensor parallel), and experts apart (expert parallel)
    #[arg(long, value_name = "N", value_delimiter = ',', conflicts_with_all = ["map", "gpu_memory", "trace"])]
    devices: Vec<u64>,
    /// Sequences that each write a token in a step, over several devices
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65_536),
        requires = "devices")]
    sequences: u64,
    /// Published decode rates of real machines against this model's bands
    #[arg(long, conflicts_with_all = OF_A_MODEL)]
    published: bool,
    #[command(flatten)]
    pub(super) reading: Reading,
}

const PLACES: &str = "all in GPU memory; as many as fit, the others copied when they are wanted; as many layers as \
fit, the others on the host; the hot ones in GPU memory, the others run near the data: in the device, or on the host";

static WAYS: [Column; 17] = [
    column("system", "system", Text, ""),
    column("place_name", "experts", Text, PLACES),
    column("bits", "bits", Plain, "per weight of experts"),
    column("near_bits", "near", Plain, "bits of experts that run where they lie: in the device, or on the host"),
    column("fits", "fits", Flag, ""),
    column("gpu_gb", "GPU GB", Number(1), "memory of the GPU that it takes, 10^9 bytes, with 1 GB for buffers"),
    column("far_gb", "other GB", Number(1), "memory beside it").detail(),
    column("short_of", "short of", Text, "").detail(),
    column("resident_share", "resident", Percent, "experts in GPU memory"),
    column("miss_rate", "misses", Percent, "choices that are not there"),
    column("strategy", "strategy", Text, "what keeps them there, or chose them").detail(),
    column("tokens_per_s", "tokens/s", Number(1), ""),
    column("low_tokens_per_s", "from", Number(1), "band of tokens/s"),
    column("high_tokens_per_s", "to", Number(1), ""),
    column("bound", "bound by", Text, "what is busy for most of a token"),
    column("busy.head_us", "head", Microseconds, "output head of a token").detail(),
    column("busy.attention_us", "attention", Microseconds, "keys and values of a token").detail(),
];

static CELLS: [Column; 9] = [
    column("bits", "bits", Plain, "per weight of experts"),
    column("gpu_gb", "GPU GB", Plain, "memory of the GPU"),
    column("device_gb_s", "device GB/s", Number(0), "peak bandwidth of the device"),
    column("experts", "experts", Text, "the fastest way that fits"),
    column("tokens_per_s", "tokens/s", Number(1), ""),
    column("low_tokens_per_s", "from", Number(1), "band"),
    column("high_tokens_per_s", "to", Number(1), ""),
    column(
        "without_device_tokens_per_s",
        "without device",
        Number(1),
        "tokens/s of the fastest way without the device",
    ),
    column(
        "all_at_4_bits_tokens_per_s",
        "all at 4 bits",
        Number(1),
        "tokens/s with all experts in GPU memory, if they fit",
    ),
];

static RATES: [Column; 9] = [
    column("name", "what was run", Text, ""),
    column("published_tokens_per_s", "published", Number(1), "tokens/s"),
    column("tokens_per_s", "here", Number(1), "tokens/s"),
    column("low_tokens_per_s", "from", Number(1), "band"),
    column("high_tokens_per_s", "to", Number(1), ""),
    column("holds", "in", Flag, "the band holds what was published"),
    column("chosen", "chosen on", Flag, "bands were chosen on it"),
    column("own", "own", Flag, "measured with this project's own engine").detail(),
    column("source", "source", Text, "").detail(),
];

static PARALLEL: [Column; 15] = [
    column("devices", "devices", Count, "GPUs behind the switch"),
    column("split_name", "split", Text, "tensor: every matrix over all; expert: experts apart, the rest on each"),
    column("bits", "bits", Plain, "per weight of experts"),
    column("fits", "fits", Flag, ""),
    column("gpu_gb", "GPU GB", Number(1), "memory of each that it takes, 10^9 bytes, with 1 GB for buffers"),
    column("tokens_per_s", "tokens/s", Number(1), "all sequences together"),
    column("low_tokens_per_s", "from", Number(1), "band of tokens/s"),
    column("high_tokens_per_s", "to", Number(1), ""),
    column("token_us", "step", Microseconds, "a token of each sequence"),
    column("switch_us", "switch", Microseconds, "of a step, waiting for the switch"),
    column("sent_bytes", "bytes", Count, "out of the busiest port in a step"),
    column("hops", "hops", Count, "from device to device that a step waits for"),
    column("imbalance", "most", Number(2), "experts of the most loaded device over the mean"),
    column("reduced_bytes", "reduced", Count, "of the bytes, all-reduces").detail(),
    column("sequences", "sequences", Count, "").detail(),
];

#[derive(Serialize)]
struct ParallelRow<'a> {
    #[serde(flatten)]
    parallel: &'a Parallel,
    split_name: &'static str,
}

/// A way with what people read of it.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    way: &'a Way,
    place_name: &'static str,
    bound: &'static str,
}

impl<'a> Row<'a> {
    fn new(way: &'a Way) -> Self {
        let busy = &way.busy;
        let parts = [(busy.gpu_us, "GPU"), (busy.link_us, "link"), (busy.near_us, "near data")];
        let bound = parts.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |(_, name)| name);
        Self { way, place_name: way.place.name(), bound }
    }
}

pub(super) static ABOUT: About = About {
    rows: &[&WAYS, &PARALLEL, &CELLS, &RATES],
    examples: &[
        ("cptr plan gpt-oss-120b", "every machine that there is, every way that fits"),
        (
            "cptr plan gpt-oss-20b --system workstation --gpu-memory 8 --bits 3,4",
            "one machine with less memory, at two precisions",
        ),
    ],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let Some(name) = args.asked.as_deref().filter(|_| !args.published) else { return rates() };
    at_most("--bits", args.bits.len(), 16)?;
    let model = model(name)?;
    let misses = match &args.trace {
        Some(path) => Misses::of(&own_trace(path, &model, &args.reading)?)?,
        None => Misses::typical(),
    };
    let question = Question {
        context: args.context,
        bits: args.bits.clone(),
        dense_bits: args.dense_bits,
        sequences: args.sequences,
        ..Question::new(&model, misses)
    };
    let systems = systems(args)?;
    if !args.devices.is_empty() {
        return over_devices(args, &question, &systems);
    }
    if args.map {
        return on_map(args, &question, &systems);
    }
    let ways: Vec<Vec<Way>> = systems.iter().map(|system| question.ways(system)).collect::<Result<_>>()?;
    let rows: Vec<Row<'_>> = ways.iter().flatten().map(Row::new).collect();
    let mut page = Page::new(Table::new(&WAYS, &rows));
    let verdict = verdict(&question, &systems, &ways)?;
    let section = Section {
        facts: facts(&model, &question),
        tables: vec![Table::new(&WAYS, &rows)],
        remarks: verdict.clone(),
        figures: vec![bands(&rows)],
        ..Section::default()
    };
    page.sections = vec![section];
    Ok(page.answered(verdict.first().cloned()).beside("model", &model.name).beside("verdict", &verdict))
}

/// Refuses lists that would take for ever.
pub(super) fn at_most(option: &str, found: usize, most: usize) -> Result<()> {
    if found > most {
        Err(Error::new(format!("{option}: expected at most {most} values, found {found}")))
    } else {
        Ok(())
    }
}

/// A known model, or one by its config.json.
pub(super) fn model(name: &str) -> Result<Model> {
    if name.ends_with(".json") {
        let path = Path::new(name);
        // Checkpoints are folders with a file of always the same name.
        let stem = path.file_stem().filter(|stem| *stem != "config");
        let name = stem.or_else(|| path.parent().and_then(Path::file_name)).unwrap_or("model".as_ref());
        return config(&name.to_string_lossy(), path);
    }
    Model::find(name).cloned().ok_or_else(|| {
        let known = Model::all().iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
        Error::new(format!("MODEL: expected a config.json, or one of {known}, found \"{name}\""))
    })
}

/// A trace that is one of `model`, as far as its experts tell.
pub(super) fn own_trace(path: &Path, model: &Model, reading: &Reading) -> Result<Trace> {
    let Recording::Tokens(trace) = reading.read(path)? else {
        return Err(Error::in_file(path, "--trace: expected a trace of tokens, found counts"));
    };
    let (found, wanted) =
        ((trace.shape.experts as u64, trace.shape.k as u64), (model.experts, model.experts_per_token));
    if found != wanted {
        let (experts, k) = found;
        return Err(Error::in_file(
            path,
            format!(
                "--trace: expected {} of {} experts a token, as {} has them, found {k} of {experts}",
                wanted.1, wanted.0, model.name
            ),
        ));
    }
    Ok(trace)
}

fn systems(args: &Args) -> Result<Vec<System>> {
    let named = if args.system.is_empty() { System::all() } else { &args.system };
    named
        .iter()
        .map(|system| match args.gpu_memory {
            Some(gb) => system.changed(|parts| parts.gpu.memory_gb = gb).map_err(|error| Error::new(error.to_string())),
            None => Ok(system.clone()),
        })
        .collect()
}

fn facts(model: &Model, question: &Question<'_>) -> Vec<String> {
    let billions = |parameters: u64| parameters as f64 / 1e9;
    let active = model.always_read() + model.layers * model.experts_per_token * model.expert_parameters();
    let all = model.always_read() + model.routed_parameters() + model.head_parameters();
    let of =
        if question.misses.own() { "of the trace" } else { "as those of gpt-oss-20b at the same share of experts" };
    vec![
        format!(
            "{}: {:.1} billion weights, {:.1} of them for a token, {:.0} % in experts; {} layers of {}, {} a token",
            model.name,
            billions(all),
            billions(active),
            model.routed_parameters() as f64 / all as f64 * 100.0,
            model.layers,
            model.experts,
            model.experts_per_token
        ),
        format!("one sequence, {} tokens before; misses {of}", question.context),
    ]
}

/// The band of every way that fits.
fn bands(rows: &[Row<'_>]) -> String {
    let fastest = rows.iter().filter(|row| row.way.fits).map(|row| row.way.tokens_per_s).fold(0.0, f64::max);
    let strip = |row: &Row<'_>| {
        let way = row.way;
        let bits = way.near_bits.map_or_else(|| way.bits.to_string(), |near| format!("{}/{near}", way.bits));
        Strip {
            name: format!("{}, {} at {bits}", way.system, row.place_name),
            values: vec![way.low_tokens_per_s, way.high_tokens_per_s, way.tokens_per_s],
            label: format!("{} tokens/s", format::short(way.tokens_per_s)),
            strong: way.tokens_per_s == fastest,
        }
    };
    Strips {
        title: "Tokens per second of what fits",
        caption: "Ways whose bands overlap cannot be told apart by this model of the hardware. In bold: the fastest.",
        series: &["low end of the band", "high end", "tokens per second"],
        look: Look::Marks,
        tick: format::short,
        rows: rows.iter().filter(|row| row.way.fits).map(strip).collect(),
    }
    .figure()
}

/// What a reader should do with the table, in sentences.
fn verdict(question: &Question<'_>, systems: &[System], ways: &[Vec<Way>]) -> Result<Vec<String>> {
    let all = || ways.iter().flatten();
    let fastest = |of: &dyn Fn(&Way) -> bool| {
        // Of equally fast ones the first.
        all().filter(|way| way.fits && of(way)).min_by(|a, b| b.tokens_per_s.total_cmp(&a.tokens_per_s))
    };
    let said = |way: &Way| {
        format!(
            "{}, {}, {} bits: {:.1} tokens/s ({:.1} to {:.1})",
            way.system,
            way.place.name(),
            way.near_bits.map_or_else(|| way.bits.to_string(), |near| format!("{} and {near}", way.bits)),
            way.tokens_per_s,
            way.low_tokens_per_s,
            way.high_tokens_per_s
        )
    };
    let mut lines = Vec::new();
    match fastest(&|_| true) {
        Some(best) => lines.push(format!("Fastest of what fits: {}.", said(best))),
        None => lines.push("Nothing fits.".into()),
    }
    // The rival of everything else is the same GPU with all experts in it.
    let least = question.bits.iter().copied().fold(f64::INFINITY, f64::min);
    if let Some(gb) = all().find(|way| way.place == Place::Gpu && way.bits == least).map(|way| way.gpu_gb) {
        lines.push(format!("With all experts at {least} bits in GPU memory it takes {gb:.1} GB there."));
    }
    for (system, of_system) in systems.iter().zip(ways) {
        let Some(best) = of_system.iter().find(|way| way.fits) else { continue };
        lines.push(format!(
            "{}: {:.1} tokens/s ({:.1} to {:.1}), {}.",
            system.name,
            best.tokens_per_s,
            best.low_tokens_per_s,
            best.high_tokens_per_s,
            best.place.name()
        ));
        // The same bits on both sides: fewer bits are another model.
        let near = of_system.iter().find(|way| way.fits && way.near_bits == Some(way.bits));
        let other =
            |near: &Way| of_system.iter().find(|way| way.fits && way.near_bits.is_none() && way.bits == near.bits);
        if let Some((near, other)) = near.and_then(|near| Some((near, other(near)?))) {
            let overlap =
                near.low_tokens_per_s <= other.high_tokens_per_s && other.low_tokens_per_s <= near.high_tokens_per_s;
            lines.push(format!(
                "  {} is {:.2} times as fast as {}, at {} bits{}.",
                near.place.name(),
                near.tokens_per_s / other.tokens_per_s,
                other.place.name(),
                near.bits,
                if overlap { "; the bands overlap" } else { "" }
            ));
        }
        let changes = question.changes(system)?;
        let said = |change: &Change| {
            let Change { twice, tokens_per_s, low_tokens_per_s, high_tokens_per_s, .. } = change;
            format!(
                "  Twice the {twice}: {tokens_per_s:.1} tokens/s ({low_tokens_per_s:.1} to {high_tokens_per_s:.1})."
            )
        };
        lines.extend(changes.iter().map(said));
    }
    Ok(lines)
}

/// A machine of a map with what people read of its fastest way.
#[derive(Serialize)]
struct CellRow<'a> {
    #[serde(flatten)]
    cell: &'a Cell,
    experts: &'static str,
    tokens_per_s: Option<f64>,
    low_tokens_per_s: Option<f64>,
    high_tokens_per_s: Option<f64>,
    without_device_tokens_per_s: Option<f64>,
}

impl<'a> CellRow<'a> {
    fn new(cell: &'a Cell) -> Self {
        let best = cell.best.as_ref();
        Self {
            cell,
            experts: best.map_or("nothing fits", |way| way.place.name()),
            tokens_per_s: best.map(|way| way.tokens_per_s),
            low_tokens_per_s: best.map(|way| way.low_tokens_per_s),
            high_tokens_per_s: best.map(|way| way.high_tokens_per_s),
            without_device_tokens_per_s: cell.without_device.as_ref().map(|way| way.tokens_per_s),
        }
    }
}

/// The model over several devices of one system.
fn over_devices(args: &Args, question: &Question<'_>, systems: &[System]) -> Result<Page> {
    at_most("--devices", args.devices.len(), 16)?;
    let [system] = systems else {
        return Err(Error::new(format!("--devices: expected one --system, found {}", systems.len())));
    };
    let found = question.parallel(system, &args.devices)?;
    let rows: Vec<ParallelRow<'_>> =
        found.iter().map(|parallel| ParallelRow { parallel, split_name: parallel.split.name() }).collect();
    let mut facts = facts(question.model, question);
    facts.truncate(1);
    facts.extend(system.switch().map(|switch| {
        format!(
            "{}, {} tokens before; {}: {}, {}: {} GB/s a port, {} ns a hop",
            match question.sequences {
                1 => "one sequence".into(),
                many => format!("{many} sequences"),
            },
            question.context,
            system.name,
            system.gpu().name,
            switch.name,
            switch.gb_s,
            switch.hop_ps() / 1000
        )
    }));
    let strip = |row: &ParallelRow<'_>| Strip {
        name: format!("{} devices, {} parallel at {}", row.parallel.devices, row.split_name, row.parallel.bits),
        values: vec![row.parallel.low_tokens_per_s, row.parallel.high_tokens_per_s, row.parallel.tokens_per_s],
        label: format!("{} tokens/s", format::short(row.parallel.tokens_per_s)),
        strong: false,
    };
    let figure = Strips {
        title: "Tokens per second over several devices",
        caption: "All sequences together.",
        series: &["low end of the band", "high end", "tokens per second"],
        look: Look::Marks,
        tick: format::short,
        rows: rows.iter().map(strip).collect(),
    };
    let best = found.iter().filter(|one| one.fits).max_by(|a, b| a.tokens_per_s.total_cmp(&b.tokens_per_s));
    let answer = best.map_or_else(
        || "It fits none of them.".into(),
        |best| {
            format!(
                "Fastest of what fits: {} devices, {} parallel: {:.1} tokens/s ({:.1} to {:.1}).",
                best.devices,
                best.split.name(),
                best.tokens_per_s,
                best.low_tokens_per_s,
                best.high_tokens_per_s
            )
        },
    );
    let table = Table::new(&PARALLEL, &rows);
    let section = Section {
        facts,
        tables: vec![table.clone()],
        remarks: vec![answer.clone()],
        figures: vec![figure.figure()],
        ..Section::default()
    };
    let mut page = Page::new(table).answered(answer);
    page.sections = vec![section];
    Ok(page)
}

fn on_map(args: &Args, question: &Question<'_>, systems: &[System]) -> Result<Page> {
    let [system] = systems else {
        return Err(Error::new(format!("--map: expected one --system, found {}", systems.len())));
    };
    let cells = map::cells(question, system)?;
    let rows: Vec<CellRow<'_>> = cells.iter().map(CellRow::new).collect();
    if let Some(path) = &args.plot {
        let svg = report::map::svg(&cells).map_err(|error| Error::in_file(path, error))?;
        file::replace(path, |out| out.write_all(svg.as_bytes()))?;
    }
    let section = Section {
        facts: facts(question.model, question),
        tables: vec![Table::new(&CELLS, &rows)],
        remarks: vec![format!(
            "Around {}: its GPU with other memories of the same bandwidth, its device with other numbers of channels and \
             arrays.",
            system.name
        )],
        figures: report::map::figures(&cells),
        ..Section::default()
    };
    let best = |a: &&Way, b: &&Way| a.tokens_per_s.total_cmp(&b.tokens_per_s);
    let fastest = cells.iter().filter_map(|cell| cell.best.as_ref()).max_by(best);
    let gains = cells.iter().filter(|cell| cell.best.as_ref().is_some_and(|way| way.place == Place::NearData)).count();
    let answer = match fastest {
        Some(way) => format!(
            "Running cold experts near the data is the fastest that fits in {gains} of {} fields of the map; the fastest \
             of all is {} at {} tokens/s.",
            cells.len(),
            way.place.name(),
            format::short(way.tokens_per_s)
        ),
        None => "Nothing fits anywhere on the map.".into(),
    };
    let mut page = Page::new(Table::new(&CELLS, &rows)).answered(answer);
    page.sections = vec![section];
    Ok(page)
}

fn rates() -> Result<Page> {
    let held = published::all()?;
    let others: Vec<_> = held.iter().filter(|rate| !rate.chosen && !rate.own).collect();
    let note = format!(
        "{} of {} published rates that the bands were not chosen on are inside",
        others.iter().filter(|rate| rate.holds).count(),
        others.len()
    );
    let strip = |rate: &published::Held| Strip {
        name: rate.name.clone(),
        values: vec![rate.low_tokens_per_s, rate.high_tokens_per_s, rate.tokens_per_s, rate.published_tokens_per_s],
        label: if rate.holds { "in".into() } else { "out".into() },
        strong: false,
    };
    let figure = Strips {
        title: "Published rates against this model's bands",
        caption: "Tokens per second. A square between circle and triangle is a rate that the band holds.",
        series: &["low end of the band", "high end", "here", "published"],
        look: Look::Marks,
        tick: format::short,
        rows: held.iter().map(strip).collect(),
    };
    let table = Table::new(&RATES, &held);
    let section = Section { figures: vec![figure.figure()], ..Section::of([], table.clone()) };
    Ok(Page::new(table).section(section).answered(format!("{note}.")).notes([note]))
}
