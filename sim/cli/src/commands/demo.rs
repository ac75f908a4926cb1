//! `cptr demo`: the main job on two bundled real traces.

use std::io::Write;
use std::path::PathBuf;

use cptr_hw_model::{Model, System};

use super::{decode, run::remarks, table};
use crate::report::{self, Section};
use cptr_sim::decode as systems;
use cptr_sim::policy;
use cptr_sim::run::outcome::Outcome;
use cptr_sim::run::{self, Plan, RowPlan};
use cptr_trace::error::{Error, Result};
use cptr_trace::{Trace, native};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write the HTML report
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    report: PathBuf,
    /// Print JSON: one entry per part, each with its rows
    #[arg(long)]
    json: bool,
}

/// A trace that comes with the program.
struct Bundled {
    name: &'static str,
    bytes: &'static [u8],
}

const TINY_MOE: Bundled =
    Bundled { name: "tiny-moe-8m", bytes: include_bytes!("../../../data/tiny-moe-8m.safetensors") };
const GPT_OSS: Bundled =
    Bundled { name: "gpt-oss-20b", bytes: include_bytes!("../../../data/gpt-oss-20b.safetensors") };

/// One part of the demonstration.
struct Part {
    trace: Bundled,
    title: &'static str,
    introduction: &'static str,
    system: &'static str,
    /// Policies beside all of them with their defaults: other points of the same frontier.
    more_policies: &'static [&'static str],
}

const PARTS: [Part; 3] = [
    Part {
        trace: TINY_MOE,
        title: "Selection: a small model with all its router logits",
        introduction: "Nine domains one after the other. Every policy may choose other experts than the model wants; mass loss is the price.",
        system: "offload",
        more_policies: &["cache-prior:lambda=0.05", "cache-prior:lambda=0.2", "cptr:eps=0.02", "cptr:eps=0.08"],
    },
    Part {
        trace: GPT_OSS,
        title: "Eviction: decoding with gpt-oss-20b, experts copied on demand",
        introduction: "Only the chosen experts are recorded, so nothing but the choice of resident experts may differ; \"tracked\" is CPTR's. Each miss is a copy over the link.",
        system: "offload",
        more_policies: &[],
    },
    Part {
        trace: GPT_OSS,
        title: "Placement: decoding with gpt-oss-20b, cold experts run near the data",
        introduction: "The same trace with a near-data device. Copies on demand now cost more than the runs they save; experts that are placed once and stay let the device work.",
        system: "ndp",
        more_policies: &[],
    },
];

/// Schemes of the comparison of whole systems.
const SCHEMES: [&str; 7] = ["on-demand", "hobbit", "monde", "ctx-aware", "periodic", "cptr", "oracle"];
const SYSTEMS_TITLE: &str =
    "Systems: decoding with gpt-oss-20b, a quarter of the experts in GPU memory, the others at 4 bits near the data";

/// The comparison of whole systems in JSON.
#[derive(serde::Serialize)]
struct JsonSystems<'a> {
    title: &'a str,
    systems: &'a systems::outcome::Outcome,
}

/// An element of the JSON.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Json<'a> {
    Part(JsonPart<'a>),
    Systems(JsonSystems<'a>),
}

/// A part in JSON.
#[derive(serde::Serialize)]
struct JsonPart<'a> {
    title: &'a str,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

pub(super) fn main(args: &Args) -> Result<()> {
    let outcomes = PARTS.iter().map(run_part).collect::<Result<Vec<_>>>()?;
    let parts = || PARTS.iter().zip(&outcomes);
    let sections: Vec<Section<'_>> = parts()
        .map(|(part, outcome)| Section { title: part.title.into(), introduction: part.introduction.into(), outcome })
        .collect();
    report::write(&args.report, "cptr demo", &sections)?;
    let systems = run_systems()?;
    if args.json {
        let parts = parts().map(|(part, outcome)| Json::Part(JsonPart { title: part.title, outcome }));
        let last = Json::Systems(JsonSystems { title: SYSTEMS_TITLE, systems: &systems });
        return super::print_json(&parts.chain([last]).collect::<Vec<_>>());
    }
    let mut text = String::new();
    for (part, outcome) in parts() {
        text += &format!("{}\n{}\n\n{}", part.title, part.introduction, table::outcome(outcome));
        text += &remarks(outcome).iter().map(|sentence| format!("{sentence}\n")).collect::<String>();
        text.push('\n');
    }
    text += &format!("{SYSTEMS_TITLE}\n\n{}\n", decode::text(&systems));
    text += &format!("Report with plots: {}\n", args.report.display());
    super::print(&text)
}

fn run_part(part: &Part) -> Result<Outcome> {
    let trace = part.trace.read()?;
    let system = System::find(part.system).ok_or_else(|| Error::new(format!("no system {}", part.system)))?;
    let mut rows = Plan::rows(&[], &[])?;
    let more: Vec<String> = part.more_policies.iter().map(ToString::to_string).collect();
    if !more.is_empty() {
        // Without the reference row, which is there.
        rows.extend(Plan::rows(&more, &[])?.into_iter().skip(1));
    }
    let order = |row: &RowPlan| policy::KINDS.iter().position(|kind| kind.name == row.policy.kind.name);
    rows.sort_by(|a, b| order(a).cmp(&order(b)).then(a.policy.values.first().total_cmp(&b.policy.values.first())));
    let plan =
        Plan { rows, cache: 2 * trace.shape.k, system: system.clone(), model: Model::find(&trace.meta.model).cloned() };
    run::run(&trace, &plan)
}

fn run_systems() -> Result<systems::outcome::Outcome> {
    let trace = GPT_OSS.read()?;
    let missing = || Error::new("no sizes of gpt-oss-20b, or no system ndp");
    let plan = systems::Plan {
        schemes: SCHEMES.iter().map(|name| cptr_sim::scheme::Named::parse(name)).collect::<Result<_>>()?,
        hot: trace.shape.experts / 4,
        prefill: 512,
        batch: 1,
        bits: 4,
        system: System::find("ndp").ok_or_else(missing)?,
        model: Model::find(&trace.meta.model).ok_or_else(missing)?,
        losses: None,
    };
    systems::run(&trace, &plan)
}

impl Bundled {
    /// Goes through a file, like every other trace: the native format is mapped, not copied.
    fn read(&self) -> Result<Trace> {
        let fail = |error: std::io::Error| Error::new(format!("temporary file for {}: {error}", self.name));
        let mut file = tempfile::NamedTempFile::new().map_err(fail)?;
        file.write_all(self.bytes).map_err(fail)?;
        native::read(file.path())
    }
}
