//! `cptr dram`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cptr_hw_model::dram::{
    Command, CommandKind, Config, Device, MAX_QUEUE_DEPTH, MappingKind, PagePolicy, Refresh, StreamKind, Until, presets,
};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use super::table;
use crate::format;
use cptr_sim::dram::run::{Outcome, Plan, Source};
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
#[command(after_long_help = list_text())]
pub(super) struct Args {
    /// Device, or a TOML file that describes one
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "DDR5-4800")]
    device: String,
    /// Order of the address bits
    #[arg(long, value_name = "NAME", default_value = "mop4clxor", value_parser = mapping)]
    mapping: MappingKind,
    /// seq, rand, expert, or a file with one request a line: address (0x for hexadecimal), R or W, and the earliest cycle if any
    #[arg(long, value_name = "NAME|FILE", default_value = "expert")]
    stream: String,
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
    /// Print JSON
    #[arg(long)]
    json: bool,
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

pub(super) fn main(args: &Args) -> Result<()> {
    if args.list {
        return if args.json { super::print_json(&list_json()) } else { super::print(&list_text()) };
    }
    let device = device(&args.device)?;
    let outcome = args.run(&device)?;
    let report = args.report(&device, &outcome);
    if args.json {
        return super::print_json(&report);
    }
    let lines = report.lines.iter().map(|(name, value)| vec![(*name).into(), text(value)]);
    let commands = report.commands.iter().map(|(kind, count)| vec![kind.name().into(), whole(*count)]);
    super::print(&table::aligned(&["", "value"], 1, lines.chain(commands)))
}

/// What came out, with the names that people read.
struct Report {
    lines: Vec<(&'static str, Value)>,
    commands: Vec<(CommandKind, u64)>,
}

/// Names in snake case, in their order, and the counts of the commands under `commands`.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let key = |name: &str| name.to_ascii_lowercase().replace([' ', '/'], "_");
        let mut map = serializer.serialize_map(Some(self.lines.len() + 1))?;
        for (name, value) in &self.lines {
            map.serialize_entry(&key(name), value)?;
        }
        let commands: Map<String, Value> =
            self.commands.iter().map(|(kind, count)| (key(kind.name()), json!(count))).collect();
        map.serialize_entry("commands", &commands)?;
        map.end()
    }
}

/// Whole numbers with commas, others with three decimals.
fn text(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(number) => whole(number),
            None => format!("{:.3}", number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn whole(number: u64) -> String {
    usize::try_from(number).map_or_else(|_| number.to_string(), format::count)
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
        if path.exists() {
            return Ok(Source::File(path, self.requests));
        }
        let names = StreamKind::ALL.map(StreamKind::name).join(", ");
        Err(Error::new(format!("--stream: expected one of {names}, or a file, found \"{}\"", self.stream)))
    }

    /// What is printed, in its order.
    fn report(&self, device: &Device, outcome: &Outcome) -> Report {
        let (s, o) = (&outcome.statistics, &device.organisation);
        let bytes = (s.reads_served + s.writes_served) * o.access_bytes();
        let time_ps = outcome.cycles as f64 * f64::from(device.timing.t_ck_ps);
        let gb_s = if time_ps > 0.0 { bytes as f64 / time_ps * 1e3 } else { 0.0 };
        let wall_s = outcome.wall.as_secs_f64();
        let lines = vec![
            ("device", json!(device.name)),
            ("mapping", json!(self.mapping.name())),
            ("stream", json!(self.stream)),
            ("refresh", json!(self.refresh.name())),
            ("page", json!(self.page.name())),
            ("queue", json!(self.queue)),
            ("path", json!(self.path.name())),
            ("until", json!(self.until.name())),
            ("requests", json!(outcome.requests)),
            ("bytes per request", json!(o.access_bytes())),
            ("reads served", json!(s.reads_served)),
            ("writes served", json!(s.writes_served)),
            ("reads forwarded", json!(s.reads_forwarded)),
            ("writes merged", json!(s.writes_merged)),
            ("cycles", json!(outcome.cycles)),
            ("time us", json!(time_ps / 1e6)),
            ("bandwidth GB/s", json!(gb_s)),
            ("peak GB/s", json!(device.peak_gb_s())),
            ("share of peak", json!(gb_s / device.peak_gb_s())),
            ("mean latency clk", json!(s.read_latency.mean())),
            ("P50 latency clk", json!(s.read_latency.quantile(0.5))),
            ("P99 latency clk", json!(s.read_latency.quantile(0.99))),
            ("max latency clk", json!(s.read_latency.max())),
            ("row hits", json!(s.row_hits)),
            ("row misses", json!(s.row_misses)),
            ("row conflicts", json!(s.row_conflicts)),
            ("simulated requests", json!(outcome.simulated)),
            ("wall time s", json!(wall_s)),
            ("requests per s", json!((outcome.requests as f64 / wall_s.max(1e-9)).round() as u64)),
        ];
        Report { lines, commands: s.commands.iter().collect() }
    }
}

fn list_text() -> String {
    let yes = |flag: bool| if flag { "yes" } else { "" };
    let rows = presets::all().into_iter().map(|device| {
        let o = &device.organisation;
        vec![
            device.name.clone(),
            format!("{:.2}", device.peak_gb_s()),
            o.access_bytes().to_string(),
            whole(o.row_bytes()),
            format!("{} x {} x {}", o.ranks * o.stacks, o.groups, o.banks),
            format!("{} GiB", o.capacity_bytes >> 30),
            device.timing.t_ck_ps.to_string(),
            yes(device.bank_refresh.is_some()).into(),
            yes(device.derived).into(),
        ]
    });
    let header = [
        "device",
        "peak GB/s",
        "bytes a request",
        "row bytes",
        "ranks x groups x banks",
        "channel",
        "clock ps",
        "sb",
        "derived",
    ];
    let mut text = format!("Devices (one channel each; or a TOML file):\n{}", table::aligned(&header, 1, rows));
    text += "\nMappings (bits from high to low):\n";
    for kind in MappingKind::ALL {
        text += &format!("  {:<17} {}\n", kind.name(), kind.summary());
    }
    text += "\nStreams:\n";
    for kind in StreamKind::ALL {
        text += &format!("  {:<17} {}\n", kind.name(), kind.summary());
    }
    text
}

fn list_json() -> Value {
    let devices = presets::all().into_iter().map(|device| {
        let (o, bank_refresh) = (device.organisation, device.bank_refresh.is_some());
        json!({
            "name": device.name, "peak_gb_s": device.peak_gb_s(), "bytes_per_request": o.access_bytes(), "row_bytes": o.row_bytes(),
            "banks": o.total_banks(), "capacity_bytes": o.capacity_bytes, "t_ck_ps": device.timing.t_ck_ps,
            "bank_refresh": bank_refresh, "derived": device.derived, "source": device.source,
        })
    });
    let kinds = |kinds: Vec<(&str, &str)>| {
        kinds.into_iter().map(|(name, summary)| json!({"name": name, "summary": summary})).collect::<Vec<_>>()
    };
    json!({
        "devices": devices.collect::<Vec<_>>(),
        "mappings": kinds(MappingKind::ALL.map(|kind| (kind.name(), kind.summary())).to_vec()),
        "streams": kinds(StreamKind::ALL.map(|kind| (kind.name(), kind.summary())).to_vec()),
    })
}
