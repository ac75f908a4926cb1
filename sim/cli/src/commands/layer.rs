//! `cptr layer`.

use std::path::PathBuf;

use cptr_hw_model::breakdown::Part;
use cptr_hw_model::events::Unit;
use cptr_hw_model::{Energy, LayerTime, Model, System};
use serde_json::{Map, Value, json};

use super::about::About;
use super::machine::{Machine, systems_help};
use crate::columns::Format::{Microjoules, Microseconds, Number, Percent, Text};
use crate::columns::{Column, Page, Section, Table, column, format};
use crate::report::strips::{Look, Strip, Strips};
use crate::report::{ENERGIES, number};
use cptr_sim::layer::{Counts, Picture};
use cptr_trace::error::{Error, Result};

#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("Systems:\n{}", systems_help()))]
pub(super) struct Args {
    /// Model whose sizes are meant
    #[arg(long, value_name = "NAME", default_value = "Mixtral-8x7B")]
    model: String,
    #[command(flatten)]
    machine: Machine,
    /// Chosen experts that are in GPU memory
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count())]
    resident: u32,
    /// Chosen experts that are not
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count())]
    cold: u32,
    /// Experts copied into GPU memory to stay there
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count())]
    loads: u32,
    /// Experts whose scores the filter goes through to select; 0: the router's choice is taken as it is
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count())]
    scored: u32,
    /// Experts whose levels the filter updates; 0: nothing is tracked
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count())]
    tracked: u32,
    /// Tokens before this one, whose keys and values the attention reads
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    context: u64,
    /// Write a trace for Perfetto (ui.perfetto.dev); 1 us there is one nanosecond
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// Write a waveform for GTKWave
    #[arg(long, value_name = "FILE")]
    vcd: Option<PathBuf>,
    /// Cycles of one memory channel that --timeline and --vcd show command by command
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=4_000_000))]
    timeline_cycles: u64,
}

fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=65_536)
}

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS],
    examples: &[
        ("cptr layer --system ndp --cold 2", "one resident expert, and two near the data"),
        ("cptr layer --timeline layer.json --vcd layer.vcd", "the same for Perfetto and GTKWave"),
    ],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let system = args.machine.system_or("offload")?;
    if args.machine.bits().is_some() && !system.runs_near_data() {
        return Err(Error::new(format!("--bits: expected a system with a near-data device, found {}", system.name)));
    }
    let model = args.machine.model(&args.model)?.ok_or_else(|| unknown(&args.model))?;
    let (resident, cold, loads) = (args.resident, args.cold, args.loads);
    let attended = model.attended(args.context).round() as u64;
    let counts = Counts { resident, cold, loads, scored: args.scored, tracked: args.tracked, attended };
    if args.timeline.is_some() || args.vcd.is_some() {
        let picture = Picture::new(&system, &model, counts, args.timeline_cycles)?;
        if let Some(path) = &args.timeline {
            picture.trace().write(path)?;
        }
        if let Some(path) = &args.vcd {
            picture.waveform().write(path)?;
        }
    }
    Ok(Report::new(&system, &model, counts).page())
}

static COLUMNS: [Column; 11] = [
    column("system", "system", Text, ""),
    column("model", "model", Text, ""),
    column("time_method", "times", Text, "").detail(),
    column("total_us", "total", Microseconds, "time of the layer"),
    column("busy_us.gpu", "GPU", Microseconds, "busy"),
    column("busy_us.link_from_the_gpu", "link from the GPU", Microseconds, "busy"),
    column("busy_us.link_to_the_gpu_results", "link, results", Microseconds, "busy"),
    column("busy_us.link_to_the_gpu_copies", "link, copies", Microseconds, "busy"),
    column("busy_us.near_data_device", "near-data device", Microseconds, "busy"),
    column("busy_us.controller", "controller", Microseconds, "busy"),
    column("energy_uj", "energy", Microjoules, ""),
];

static BUSY: [Column; 3] = [
    column("name", "busy", Text, ""),
    column("us", "time", Microseconds, ""),
    column("share", "of the layer", Percent, ""),
];

static ENERGY: [Column; 3] = [
    column("name", "energy", Text, ""),
    column("uj", "of all", Microjoules, ""),
    column("share", "of the layer", Percent, ""),
];

static PARTS: [Column; 3] = [
    column("name", "one expert near the data", Text, ""),
    column("us", "us", Number(3), ""),
    column("why", "why", Text, ""),
];

fn unknown(name: &str) -> Error {
    let known = Model::all().iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
    Error::new(format!("--model: expected one of {known}, or --hidden and --expert-inner, found \"{name}\""))
}

/// All figures of a layer.
struct Report<'a> {
    system: &'a System,
    model: &'a Model,
    counts: Counts,
    time: LayerTime,
    /// Time of each unit that is not the sum of others.
    busy: Vec<(&'static str, u64)>,
    parts: Vec<Part>,
}

impl<'a> Report<'a> {
    fn new(system: &'a System, model: &'a Model, counts: Counts) -> Self {
        let events = counts.on(system, |work| system.layer_events(model, work));
        let of = |unit: Unit| {
            events.iter().filter(|event| event.unit == unit).map(|event| event.end_ps - event.start_ps).sum()
        };
        let time = counts.on(system, |work| system.layer_time(model, work));
        let busy = vec![
            ("GPU", time.gpu_ps),
            ("link from the GPU", of(Unit::LinkFromGpu)),
            ("link to the GPU, results", of(Unit::LinkToGpu)),
            ("link to the GPU, copies", of(Unit::Copies)),
            ("near-data device", time.ndp_ps),
            ("controller", time.controller_ps),
        ];
        Self { system, model, counts, time, busy, parts: system.cold_expert_parts(model) }
    }

    /// Rates of the machine that the times rest on.
    fn rates(&self) -> Vec<(&'static str, f64)> {
        let link = self.system.link();
        let mut rates = vec![
            ("GPU memory GB/s", self.system.gpu().memory_gb_s * self.system.gpu().memory_share),
            ("link GB/s", link.coded_gb_s()),
            ("copies GB/s", self.system.copy_gb_s()),
        ];
        if let Some(peak) = self.system.ndp().and_then(|ndp| ndp.memory.peak_gb_s().ok()) {
            rates.push(("device peak GB/s", peak));
            rates.push(("lone read over the link ns", link.lone_read_ps() as f64 / 1e3));
        }
        rates
    }

    fn page(&self) -> Page {
        let (system, model, counts) = (self.system, self.model, self.counts);
        let facts = [
            format!("{}: {}", system.name, system.summary),
            format!(
                "{}: {} parameters an expert; {} bits in GPU memory{}",
                model.name,
                format::count(usize::try_from(model.expert_parameters()).unwrap_or(usize::MAX)),
                system.gpu_bits,
                system.ndp().map_or(String::new(), |_| format!(", {} near the data", system.ndp_bits)),
            ),
            format!(
                "one token, one layer: {} resident, {} near the data or copied, {} copied to stay, {} scored, {} tracked",
                counts.resident, counts.cold, counts.loads, counts.scored, counts.tracked,
            ),
        ];
        let us = |ps: u64| ps as f64 / 1e6;
        let share = |part: u64, total: u64| part as f64 / total.max(1) as f64;
        let time = self.time.total_ps;
        let busy = self.busy.iter().copied().chain([("total", time)]);
        let busy: Vec<Value> =
            busy.map(|(name, ps)| json!({"name": name, "us": us(ps), "share": share(ps, time)})).collect();
        let all = self.time.energy.total_pj();
        let energy = energies(&self.time.energy).into_iter().chain([("total", all)]);
        let energy: Vec<Value> =
            energy.map(|(name, pj)| json!({"name": name, "uj": us(pj), "share": share(pj, all)})).collect();
        let mut parts = self.parts();
        parts.push(
            json!({"name": "total", "us": self.parts.iter().map(|part| part.ps).sum::<i64>() as f64 / 1e6, "why": ""}),
        );
        let rates: Vec<String> = self.rates().iter().map(|(name, rate)| format!("{name} {rate:.2}")).collect();
        let tables = vec![Table::new(&BUSY, &busy), Table::new(&ENERGY, &energy), Table::new(&PARTS, &parts)];
        let figures = vec![busy_figure(&busy), energy_figure(&self.time.energy)];
        let remarks = vec![rates.join("; ")];
        let section = Section { facts: facts.into(), tables, remarks, figures, ..Section::default() };
        Page::new(Table::new(&COLUMNS, &[self.row()])).section(section).answered(self.answer())
    }

    /// What a layer takes, and what is busy for most of it.
    fn answer(&self) -> Option<String> {
        let &(name, ps) = self.busy.iter().max_by_key(|(_, ps)| *ps)?;
        Some(format!(
            "A layer of {} on {} takes {}; busy for most of it is the {name}, {} ({}).",
            self.model.name,
            self.system.name,
            format::microseconds(self.time.total_ps as f64 / 1e6),
            format::microseconds(ps as f64 / 1e6),
            format::percent(ps as f64 / self.time.total_ps.max(1) as f64)
        ))
    }

    fn parts(&self) -> Vec<Value> {
        let part = |part: &Part| json!({"name": part.name, "us": part.ps as f64 / 1e6, "why": part.why});
        self.parts.iter().map(part).collect()
    }

    fn row(&self) -> Value {
        let key = |name: &str| name.to_ascii_lowercase().replace(',', "").replace([' ', '-', '/'], "_");
        let us = |ps: u64| ps as f64 / 1e6;
        let busy: Map<String, Value> = self.busy.iter().map(|(name, ps)| (key(name), json!(us(*ps)))).collect();
        let energy: Map<String, Value> =
            energies(&self.time.energy).iter().map(|(name, pj)| (key(name), json!(us(*pj)))).collect();
        let rates: Map<String, Value> = self.rates().into_iter().map(|(name, rate)| (key(name), json!(rate))).collect();
        json!({
            "system": self.system.name, "model": self.model.name, "time_method": System::METHOD,
            "gpu_bits": self.system.gpu_bits, "ndp_bits": self.system.ndp().map(|_| self.system.ndp_bits),
            "resident": self.counts.resident, "cold": self.counts.cold, "loads": self.counts.loads,
            "scored": self.counts.scored, "tracked": self.counts.tracked,
            "total_us": us(self.time.total_ps), "busy_us": busy,
            "energy_uj": us(self.time.energy.total_pj()), "energy_by_component_uj": energy,
            "cold_expert": self.parts(), "rates": rates,
        })
    }
}

fn busy_figure(busy: &[Value]) -> String {
    let strip = |row: &Value| Strip {
        name: row["name"].as_str().unwrap_or_default().into(),
        values: vec![number(row, "us")],
        label: format::percent(number(row, "share")),
        strong: row["name"] == "total",
    };
    Strips {
        title: "Busy times of a layer",
        caption: "The parts work side by side where they can, so that they need not add up to the total.",
        series: &[""],
        look: Look::Stacked,
        tick: format::microseconds,
        rows: busy.iter().filter(|row| number(row, "us") > 0.0).map(strip).collect(),
    }
    .figure()
}

fn energy_figure(energy: &Energy) -> String {
    let strip = Strip {
        name: "one layer".into(),
        values: energies(energy).iter().map(|(_, pj)| *pj as f64 / 1e6).collect(),
        label: format::microjoules(energy.total_pj() as f64 / 1e6),
        strong: false,
    };
    Strips {
        title: "Energy of a layer by component",
        caption: "Dynamic energy of all units.",
        series: &ENERGIES,
        look: Look::Stacked,
        tick: format::microjoules,
        rows: vec![strip],
    }
    .figure()
}

fn energies(energy: &Energy) -> [(&'static str, u64); 5] {
    let parts =
        [energy.gpu_memory_pj, energy.gpu_compute_pj, energy.link_pj, energy.far_memory_pj, energy.ndp_compute_pj];
    std::array::from_fn(|part| (ENERGIES[part], parts[part]))
}
