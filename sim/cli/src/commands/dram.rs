//! `cptr dram`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cptr_hw_model::dram::constraints::Constraint;
use cptr_hw_model::dram::{
    self, Command, CommandEnergy, CommandKind, Config, Device, Energy, MAX_QUEUE_DEPTH, MappingKind, PagePolicy,
    Refresh, StreamKind, Until, presets,
};
use serde_json::{Map, Value, json};

use super::about::About;
use crate::columns::Format::{Count, Flag, Microseconds, Number, Percent, Plain, Text};
use crate::columns::{Column, Page, Section, Table, column, format};
use crate::report::number;
use crate::report::strips::{Look, Strip, Strips};
use cptr_sim::dram::run::{Outcome, Plan, Source};
use cptr_sim::dram::stream_file::STANDARD_INPUT;
use cptr_sim::dram::timeline::{Recording, Timeline};
use cptr_trace::error::{Error, Result};

/// Requests of a generated stream, where nothing is said.
const REQUESTS: u64 = 1_000_000;
/// Most requests: at a billion a second, more than a week.
const MOST_REQUESTS: u64 = 1_000_000_000_000_000;
/// Most cycles of a timeline: some 500 MB of trace.
const MOST_TIMELINE_CYCLES: u64 = 4_000_000;
/// Largest device file in bytes.
const LARGEST_DEVICE_FILE: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
#[command(after_long_help = list().text())]
pub(super) struct Args {
    /// Device, or a TOML file that describes one
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "DDR5-4800")]
    device: String,
    /// Order of the address bits
    #[arg(long, value_name = "NAME", default_value = "mop4clxor", value_parser = mapping)]
    mapping: MappingKind,
    /// seq, rand, expert, or a file: text with one request a line, a CSV, or a binary trace, gzip or not; - is standard
    /// input
    #[arg(long, value_name = "NAME|FILE", default_value = "expert")]
    stream: String,
    /// Round addresses of a file down to one access, and wrap them at the capacity
    #[arg(long)]
    wrap: bool,
    /// Requests to serve (default: 1000000; of a file, all)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_REQUESTS))]
    requests: Option<u64>,
    /// Refresh: none, ab (all banks) or sb (bank by bank)
    #[arg(long, value_name = "KIND", default_value = "ab", value_parser = refresh)]
    refresh: Refresh,
    /// Page policy: open or closed
    #[arg(long, value_name = "POLICY", default_value = "open", value_parser = page)]
    page: PagePolicy,
    /// Places in the read queue, and as many in the write queue
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_QUEUE_DEPTH)))]
    queue: u16,
    /// exact: every request; fast: the same figures, jumping over what repeats in long contiguous reads
    #[arg(long, value_name = "PATH", default_value = "exact")]
    path: Way,
    /// When to stop: last request accepted (as Ramulator counts cycles) or served
    #[arg(long, value_name = "WHEN", default_value = "accepted", value_parser = until)]
    until: Until,
    /// Write the first commands as a trace for Perfetto (ui.perfetto.dev); 1 us there is one cycle
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// Write the first commands as a waveform for GTKWave
    #[arg(long, value_name = "FILE")]
    vcd: Option<PathBuf>,
    /// Cycles that --timeline and --vcd show
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=MOST_TIMELINE_CYCLES))]
    timeline_cycles: u64,
    /// Print devices, mappings and streams instead
    #[arg(long)]
    list: bool,
    /// Print the constraints between commands of the device instead
    #[arg(long)]
    constraints: bool,
}

/// How the figures are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    Exact,
    Fast,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        }
    }
}

fn one_of<T>(found: Option<T>, names: &[&str]) -> std::result::Result<T, String> {
    found.ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

fn mapping(name: &str) -> std::result::Result<MappingKind, String> {
    one_of(MappingKind::by_name(name), &MappingKind::ALL.map(MappingKind::name))
}

fn refresh(name: &str) -> std::result::Result<Refresh, String> {
    one_of(Refresh::by_name(name), &["none", "ab", "sb"])
}

fn page(name: &str) -> std::result::Result<PagePolicy, String> {
    one_of(PagePolicy::by_name(name), &["open", "closed"])
}

fn until(name: &str) -> std::result::Result<Until, String> {
    one_of(Until::by_name(name), &["accepted", "served"])
}

/// The figures of a stream; the counts of the commands follow.
static COLUMNS: [Column; 36] = [
    column("device", "device", Text, ""),
    column("mapping", "mapping", Text, ""),
    column("stream", "stream", Text, ""),
    column("refresh", "refresh", Text, ""),
    column("page", "page", Text, ""),
    column("queue", "queue", Plain, "places for reads, and as many for writes"),
    column("path", "path", Text, ""),
    column("until", "until", Text, ""),
    column("requests", "requests", Count, ""),
    column("bytes_per_request", "bytes per request", Count, ""),
    column("reads_served", "reads served", Count, ""),
    column("writes_served", "writes served", Count, ""),
    column("reads_forwarded", "reads forwarded", Count, ""),
    column("writes_merged", "writes merged", Count, ""),
    column("cycles", "cycles", Count, ""),
    column("time_us", "time", Microseconds, ""),
    column("bandwidth_gb_s", "bandwidth GB/s", Number(3), ""),
    column("peak_gb_s", "peak GB/s", Number(3), ""),
    column("share_of_peak", "share of peak", Percent, ""),
    column("mean_latency_clk", "mean latency clk", Number(3), ""),
    column("p50_latency_clk", "P50 latency clk", Count, ""),
    column("p99_latency_clk", "P99 latency clk", Count, ""),
    column("max_latency_clk", "max latency clk", Count, ""),
    column("row_hits", "row hits", Count, ""),
    column("row_misses", "row misses", Count, ""),
    column("row_conflicts", "row conflicts", Count, ""),
    column("energy_uj", "energy uJ", Number(3), "without data wires, physical layer and controller"),
    column("activate_uj", "of activates uJ", Number(3), ""),
    column("read_uj", "of reads uJ", Number(3), ""),
    column("write_uj", "of writes uJ", Number(3), ""),
    column("refresh_uj", "of refreshes uJ", Number(3), ""),
    column("standby_uj", "of standby uJ", Number(3), ""),
    column("pj_per_bit", "pJ a bit", Number(3), ""),
    column("simulated_requests", "simulated requests", Count, ""),
    column("wall_time_s", "wall time s", Number(3), ""),
    column("requests_per_s", "requests per s", Count, ""),
];

static COMMANDS: [Column; 2] = [column("command", "command", Text, ""), column("count", "count", Count, "")];

static DEVICES: [Column; 11] = [
    column("name", "device", Text, "one channel each"),
    column("peak_gb_s", "peak GB/s", Number(2), ""),
    column("bytes_per_request", "bytes a request", Plain, ""),
    column("row_bytes", "row bytes", Count, ""),
    column("ranks", "ranks", Plain, ""),
    column("groups", "groups", Plain, ""),
    column("banks_per_group", "banks", Plain, ""),
    column("capacity_bytes", "bytes", Count, ""),
    column("t_ck_ps", "clock ps", Plain, ""),
    column("bank_refresh", "sb", Flag, "refreshes bank by bank"),
    column("derived", "derived", Flag, ""),
];

static CONSTRAINTS: [Column; 7] = [
    column("name", "name", Text, "what `distances` of a device file calls it"),
    column("level", "level", Text, ""),
    column("first", "first", Text, ""),
    column("then", "then", Text, ""),
    column("cycles", "cycles", Count, "from first cycle to first cycle"),
    column("formula", "formula", Text, "from last cycle to last cycle"),
    column("source", "source", Text, ""),
];

static KINDS: [Column; 2] = [column("name", "name", Text, ""), column("summary", "what it is", Text, "")];

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS, &DEVICES, &CONSTRAINTS],
    examples: &[
        ("cptr dram --requests 100000", "an expert, read out of DDR5-4800"),
        ("cptr dram --device HBM3-6400 --stream rand --requests 100000", "random accesses on another device"),
        ("cptr dram --list", "the devices, mappings and streams that there are"),
    ],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    if args.list {
        return Ok(list());
    }
    let device = device(&args.device)?;
    if args.constraints {
        return Ok(constraints(&device));
    }
    let outcome = args.run(&device)?;
    let row = args.row(&device, &outcome);
    let commands = outcome.statistics.commands.iter();
    let commands: Vec<Value> = commands.map(|(kind, count)| json!({"command": kind.name(), "count": count})).collect();
    let tables = vec![Table::upright(&COLUMNS, &row), Table::new(&COMMANDS, &commands)];
    let (figures, answer) = (vec![mix(&commands), energies(&row)], answer(&row));
    let section = Section { tables, figures, ..Section::default() };
    Ok(Page::new(Table::new(&COLUMNS, &[row])).section(section).answered(answer))
}

/// How fast the channel was, and how its rows were met.
fn answer(row: &Value) -> String {
    let met = ["row_hits", "row_misses", "row_conflicts"].map(|key| number(row, key));
    let hits = met[0] / met.iter().sum::<f64>();
    let hits = if hits.is_finite() {
        format!("; {} of its requests find their row open", format::percent(hits))
    } else {
        String::new()
    };
    format!(
        "{} serves {} requests of the stream {} at {:.2} GB/s, {} of its peak, with a read waiting {:.1} clocks on \
         average{hits}.",
        row["device"].as_str().unwrap_or_default(),
        format::count(row["requests"].as_u64().unwrap_or_default() as usize),
        row["stream"].as_str().unwrap_or_default(),
        number(row, "bandwidth_gb_s"),
        format::percent(number(row, "share_of_peak")),
        number(row, "mean_latency_clk")
    )
}

/// The mix of commands.
fn mix(commands: &[Value]) -> String {
    let all: f64 = commands.iter().map(|row| number(row, "count")).sum();
    let strip = |row: &Value| Strip {
        name: row["command"].as_str().unwrap_or_default().into(),
        values: vec![number(row, "count")],
        label: format::percent(number(row, "count") / all),
        strong: false,
    };
    Strips {
        title: "Mix of commands",
        caption: "Activates and precharges beside reads and writes say how often a row is opened for how much; beside \
                  each command its share of all.",
        series: &[""],
        look: Look::Stacked,
        tick: format::short,
        rows: commands.iter().filter(|row| number(row, "count") > 0.0).map(strip).collect(),
    }
    .figure()
}

/// Energy by commands, of devices whose currents are known.
fn energies(row: &Value) -> String {
    let parts = ["activate_uj", "read_uj", "write_uj", "refresh_uj", "standby_uj"];
    let strip = Strip {
        name: row["device"].as_str().unwrap_or_default().into(),
        values: parts.map(|key| number(row, key)).into(),
        label: format::microjoules(number(row, "energy_uj")),
        strong: false,
    };
    Strips {
        title: "Energy by commands",
        caption: "Without data wires, physical layer and controller.",
        series: &["activates", "reads", "writes", "refreshes", "standby"],
        look: Look::Stacked,
        tick: format::microjoules,
        rows: vec![strip],
    }
    .figure()
}

/// The built-in device of this name, or the one that a file describes.
fn device(name: &str) -> Result<Device> {
    if let Some(device) = presets::by_name(name) {
        return Ok(device);
    }
    let path = Path::new(name);
    if !path.exists() {
        let names = presets::NAMES.join(", ");
        return Err(Error::new(format!("--device: expected one of {names}, or a TOML file, found \"{name}\"")));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(|error| Error::io(path, &error))?;
    file.take(LARGEST_DEVICE_FILE).read_to_string(&mut text).map_err(|error| Error::io(path, &error))?;
    Device::from_toml(&text).map_err(|error| Error::in_file(path, error.to_string()))
}

impl Args {
    fn run(&self, device: &Device) -> Result<Outcome> {
        let config =
            Config { page_policy: self.page, queue_depth: self.queue, ..Config::new(self.mapping, self.refresh) };
        let plan = Plan { device, config, source: self.source()?, until: self.until };
        let draws = self.timeline.is_some() || self.vcd.is_some();
        match self.path {
            Way::Fast if draws => {
                Err(Error::new("--timeline and --vcd: expected --path exact, found fast, which jumps over commands"))
            }
            Way::Fast => plan.fast(),
            Way::Exact if draws => self.draw(&plan),
            Way::Exact => plan.exact(()),
        }
    }

    /// The exact path with its first commands written to files.
    fn draw(&self, plan: &Plan<'_>) -> Result<Outcome> {
        let mut recording = Recording::new(self.timeline_cycles);
        let outcome = plan.exact(|cycle: u64, command: Command| recording.see(cycle, command))?;
        let timeline = Timeline::new(plan.device, &recording);
        if let Some(path) = &self.timeline {
            timeline.trace().write(path)?;
        }
        if let Some(path) = &self.vcd {
            timeline.waveform().write(path)?;
        }
        Ok(outcome)
    }

    fn source(&self) -> Result<Source<'_>> {
        if let Some(kind) = StreamKind::by_name(&self.stream) {
            return Ok(Source::Generated(kind, self.requests.unwrap_or(REQUESTS)));
        }
        let path = Path::new(&self.stream);
        if path.exists() || self.stream == STANDARD_INPUT {
            return Ok(Source::File { path, most: self.requests, wrap: self.wrap });
        }
        let names = StreamKind::ALL.map(StreamKind::name).join(", ");
        Err(Error::new(format!("--stream: expected one of {names}, or a file, found \"{}\"", self.stream)))
    }

    /// What came out.
    fn row(&self, device: &Device, outcome: &Outcome) -> Value {
        let (s, o) = (&outcome.statistics, &device.organisation);
        let bytes = (s.reads_served + s.writes_served) * o.access_bytes();
        let per_clock = u64::from(device.cycles_per_clock());
        let clocks = |cycles: u64| if per_clock == 1 { json!(cycles) } else { json!(cycles as f64 / per_clock as f64) };
        let time_ps = outcome.cycles as f64 * f64::from(device.timing.t_ck_ps) / per_clock as f64;
        let gb_s = if time_ps > 0.0 { bytes as f64 / time_ps * 1e3 } else { 0.0 };
        let wall_s = outcome.wall.as_secs_f64();
        let key = |name: &str| name.to_ascii_lowercase().replace([' ', '/'], "_");
        let commands: Map<String, Value> =
            s.commands.iter().map(|(kind, count)| (key(kind.name()), count.into())).collect();
        let spent = CommandEnergy::of(device).map(|of| of.total(s, outcome.cycles * u64::from(o.ranks)));
        let uj = |part: fn(&Energy) -> f64| spent.as_ref().map(|energy| part(energy) / 1e6);
        let pj_per_bit = spent.filter(|_| bytes > 0).map(|energy| energy.total_pj() / (8 * bytes) as f64);
        json!({
            "device": device.name, "mapping": self.mapping.name(), "stream": self.stream, "refresh": self.refresh.name(),
            "page": self.page.name(), "queue": self.queue, "path": self.path.name(), "until": self.until.name(),
            "requests": outcome.requests, "bytes_per_request": o.access_bytes(), "reads_served": s.reads_served,
            "writes_served": s.writes_served, "reads_forwarded": s.reads_forwarded, "writes_merged": s.writes_merged,
            "cycles": outcome.cycles, "time_us": time_ps / 1e6, "bandwidth_gb_s": gb_s, "peak_gb_s": device.peak_gb_s(),
            "share_of_peak": gb_s / device.peak_gb_s(), "mean_latency_clk": s.read_latency.mean() / per_clock as f64,
            "p50_latency_clk": clocks(s.read_latency.quantile(0.5)),
            "p99_latency_clk": clocks(s.read_latency.quantile(0.99)),
            "max_latency_clk": clocks(s.read_latency.max()), "row_hits": s.row_hits, "row_misses": s.row_misses,
            "row_conflicts": s.row_conflicts, "energy_uj": uj(Energy::total_pj), "activate_uj": uj(|of| of.activate_pj),
            "read_uj": uj(|of| of.read_pj), "write_uj": uj(|of| of.write_pj), "refresh_uj": uj(|of| of.refresh_pj),
            "standby_uj": uj(|of| of.standby_pj), "pj_per_bit": pj_per_bit,
            "simulated_requests": outcome.simulated, "wall_time_s": wall_s,
            "requests_per_s": (outcome.requests as f64 / wall_s.max(1e-9)).round() as u64, "commands": commands,
        })
    }
}

/// The table of constraints, resolved for a device.
fn constraints(device: &Device) -> Page {
    let names = |kinds: &[CommandKind]| kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    let row = |row: &Constraint| {
        let first = names(&row.before);
        let first = if row.window > 1 { format!("{} {first}", row.window) } else { first };
        json!({
            "name": row.name, "level": row.level.to_string(), "first": first, "then": names(&row.after),
            "cycles": row.cycles, "formula": row.formula, "source": row.source,
        })
    };
    let rows: Vec<Value> = dram::constraints::constraints(device).iter().map(row).collect();
    let table = Table::new(&CONSTRAINTS, &rows);
    let answer = format!("{} has {} constraints between commands.", device.name, rows.len());
    let section = Section { tables: vec![table.clone().titled(&device.name)], ..Section::default() };
    Page::new(table).section(section).answered(answer)
}

fn list() -> Page {
    let device = |device: Device| {
        let (o, bank_refresh) = (device.organisation, device.bank_refresh.is_some());
        json!({
            "name": device.name, "peak_gb_s": device.peak_gb_s(),
            "bytes_per_request": o.access_bytes(), "row_bytes": o.row_bytes(),
            "ranks": o.ranks * o.stacks, "groups": o.groups, "banks_per_group": o.banks, "banks": o.total_banks(),
            "capacity_bytes": o.capacity_bytes, "t_ck_ps": device.timing.t_ck_ps, "bank_refresh": bank_refresh,
            "derived": device.derived, "source": device.source,
        })
    };
    let kind = |(name, summary): (&str, &str)| json!({"name": name, "summary": summary});
    let devices: Vec<Value> = presets::all().into_iter().map(device).collect();
    let mappings = MappingKind::ALL.map(|of| kind((of.name(), of.summary())));
    let streams = StreamKind::ALL.map(|of| kind((of.name(), of.summary())));
    let devices = Table::new(&DEVICES, &devices);
    let tables = vec![
        devices.clone(),
        Table::new(&KINDS, &mappings).titled("Mappings, bits from high to low"),
        Table::new(&KINDS, &streams).titled("Streams"),
    ];
    let answer = format!(
        "{} devices, {} mappings and {} streams come with cptr.",
        devices.rows.len(),
        mappings.len(),
        streams.len()
    );
    let page = Page::new(devices).section(Section { tables, ..Section::default() }).answered(answer);
    page.beside("mappings", &mappings).beside("streams", &streams)
}
