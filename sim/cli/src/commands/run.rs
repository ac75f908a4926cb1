//! `cptr run`.

use std::path::PathBuf;

use cptr_hw_model::{Model, System};
use serde::Serialize;

use super::source::Source;
use super::table;
use crate::report::{self, Section};
use cptr_sim::placement;
use cptr_sim::policy;
use cptr_sim::run::controller::{Controller, Report};
use cptr_sim::run::outcome::{Outcome, Row};
use cptr_sim::run::{self, Plan, RowPlan};
use cptr_sim::spec::Parameter;
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};
use cptr_trace::import::Recording;

#[derive(Debug, clap::Args)]
#[command(after_long_help = kinds_help())]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Policies with their parameters, such as raw,cptr:eps=0.02 (default: all that the trace allows)
    #[arg(long, value_name = "NAME[:PARAMETER=VALUE]…", value_delimiter = ',')]
    policy: Vec<String>,
    /// Placements with their parameters, such as lru,tracked (default: the policy's own, and all of them for the raw router)
    #[arg(long, visible_alias = "eviction", value_name = "NAME[:PARAMETER=VALUE]…", value_delimiter = ',')]
    placement: Vec<String>,
    /// Experts per layer that fit in fast memory (default: twice the active ones)
    #[arg(long, value_name = "N")]
    cache: Option<usize>,
    #[command(flatten)]
    machine: Machine,
    /// Hold a controller to the policy cptr, token by token: its engine in this process, or its firmware on an emulated core
    #[arg(long, value_name = "host|qemu:CORE", help_heading = "Controller")]
    controller: Option<Controller>,
    /// The controller's firmware, where it is not where `cargo xtask firmware` leaves it
    #[arg(long, value_name = "FILE", requires = "controller", help_heading = "Controller")]
    image: Option<PathBuf>,
    /// Write an HTML report
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print JSON: a list of rows
    #[arg(long)]
    json: bool,
}

/// The machine and the model that times are for.
#[derive(Debug, clap::Args)]
pub(super) struct Machine {
    /// System by its name, or the TOML file of one (default: offload; of decode: ndp)
    #[arg(long, value_name = "NAME|FILE.toml", value_parser = system_name, help_heading = "Machine")]
    system: Option<System>,
    /// Bits per weight of experts that run near the data (default: the system's)
    #[arg(long, value_name = "BITS", help_heading = "Machine")]
    bits: Option<f64>,
    /// Width of the model's residual stream, where its sizes are not known
    #[arg(long, value_name = "N", requires = "expert_inner", help_heading = "Machine")]
    hidden: Option<u64>,
    /// Width inside an expert, where the model's sizes are not known
    #[arg(long, value_name = "N", requires = "hidden", help_heading = "Machine")]
    expert_inner: Option<u64>,
}

impl Machine {
    /// The system asked for, or the one called `default`.
    pub(super) fn system_or(&self, default: &str) -> Result<System> {
        let found = self.system.as_ref().or_else(|| System::find(default)).cloned();
        let mut system = found.ok_or_else(|| Error::new(format!("--system: expected a name, found {default}")))?;
        if let Some(bits) = self.bits {
            if !(1.0..=16.0).contains(&bits) {
                return Err(Error::new(format!("--bits: expected 1 to 16, found {bits}")));
            }
            system.ndp_bits = bits;
        }
        Ok(system)
    }

    /// Whether bits near the data were asked for.
    pub(super) const fn sets_bits(&self) -> bool {
        self.bits.is_some()
    }

    /// The sizes given, or those of the model called `name`; `None` if it is not known.
    pub(super) fn model(&self, name: &str) -> Result<Option<Model>> {
        let size = 1..=1 << 20;
        match (self.hidden, self.expert_inner) {
            (Some(hidden), Some(inner)) if size.contains(&hidden) && size.contains(&inner) => {
                Ok(Some(Model::new(name, hidden, inner)))
            }
            (Some(hidden), Some(inner)) => Err(Error::new(format!(
                "--hidden and --expert-inner: expected 1 to {}, found {hidden} and {inner}",
                1 << 20
            ))),
            _ => Ok(Model::find(name).cloned()),
        }
    }

    /// As [`Self::model`], for what cannot do without.
    pub(super) fn known_model(&self, name: &str) -> Result<Model> {
        self.model(name)?.ok_or_else(|| {
            Error::new(format!(
                "model: expected one whose sizes are known, or --hidden and --expert-inner, found \"{name}\""
            ))
        })
    }
}

fn system_name(name: &str) -> std::result::Result<System, String> {
    if name.ends_with(".toml") {
        let text = std::fs::read_to_string(name).map_err(|error| error.to_string())?;
        return System::from_toml(&text).map_err(|error| error.to_string());
    }
    let names = || System::all().iter().map(|system| system.name.as_str()).collect::<Vec<_>>().join(", ");
    System::find(name).cloned().ok_or_else(|| format!("expected a file ending in .toml, or one of {}", names()))
}

pub(super) fn main(args: &Args) -> Result<()> {
    match args.source.read()? {
        Recording::Tokens(trace) => tokens(args, &trace),
        Recording::Counts(_) if args.controller.is_some() => {
            Err(Error::new("--controller: expected a trace of tokens, found counts"))
        }
        Recording::Counts(counts) => {
            let rows = run::counts::run(&counts, args.cache)?;
            super::remark(&counts.notes);
            super::remark(&[
                "counts have no token order: switches, token times and policies cannot be had from them".into()
            ]);
            if args.json { super::print_json(&rows) } else { super::print(&table::counts(&rows)) }
        }
    }
}

/// The rows: with a controller the one that it runs, behind the one that ratios refer to.
fn rows(args: &Args) -> Result<Vec<RowPlan>> {
    let Some(controller) = args.controller else { return Plan::rows(&args.policy, &args.placement) };
    let policies = if args.policy.is_empty() { &["cptr".to_owned()] } else { &args.policy[..] };
    let rows = Plan::rows(policies, &args.placement)?;
    if rows.len() <= 2 {
        return Ok(rows);
    }
    Err(Error::new(format!(
        "--controller {controller}: expected one policy with one placement, found {}",
        rows.len() - 1
    )))
}

fn tokens(args: &Args, trace: &Trace) -> Result<()> {
    let plan = Plan {
        rows: rows(args)?,
        cache: args.cache.unwrap_or_else(|| (2 * trace.shape.k).min(trace.shape.experts)),
        system: args.machine.system_or("offload")?,
        model: args.machine.model(&trace.meta.model)?,
    };
    let outcome = run::run(trace, &plan)?;
    let report = match (args.controller, plan.rows.last()) {
        (Some(controller), Some(row)) => {
            Some(run::controller::run(trace, &plan, row, controller, args.image.as_deref())?)
        }
        _ => None,
    };
    super::remark(&trace.notes);
    super::remark(&remarks(&outcome));
    if let Some(path) = &args.report {
        let section = Section { title: "Run".into(), introduction: plan.system.summary.clone(), outcome: &outcome };
        report::write(path, "cptr run", &[section])?;
    }
    match (args.json, report) {
        (false, None) => super::print(&table::outcome(&outcome)),
        (false, Some(report)) => super::print(&(table::outcome(&outcome) + &table::controller(&report))),
        (true, report) => {
            // The report belongs to the last row.
            let mut rows = outcome.rows.iter().map(|row| WithController { row, controller: None }).collect::<Vec<_>>();
            if let Some(last) = rows.last_mut() {
                last.controller = report.as_ref();
            }
            super::print_json(&rows)
        }
    }
}

/// A row, and what the controller that ran it has to say.
#[derive(Serialize)]
struct WithController<'a> {
    #[serde(flatten)]
    row: &'a Row,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<&'a Report>,
}

/// What a reader of the table should know beside it.
pub(super) fn remarks(outcome: &Outcome) -> Vec<String> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in &outcome.skipped {
        match reasons.iter_mut().find(|(reason, _)| *reason == row.reason) {
            Some((_, policies)) => policies.push(&row.policy),
            None => reasons.push((&row.reason, vec![&row.policy])),
        }
    }
    let skipped = reasons.iter().map(|(reason, policies)| format!("Not run: {}; {reason}.", policies.join(", ")));
    let no_times = outcome.model.is_none().then(|| {
        let known = Model::all().iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
        let model = &outcome.trace.model;
        format!("No token times: the sizes of model \"{model}\" are not known; give --model ({known}), or --hidden and --expert-inner.")
    });
    skipped.chain(no_times).collect()
}

/// A line for each parameter.
pub(super) fn parameters(parameters: &[Parameter]) -> String {
    let line =
        |p: &Parameter| format!("      {} = {} ({} to {}): {}\n", p.name, p.default, p.range.0, p.range.1, p.summary);
    parameters.iter().map(line).collect()
}

fn kinds_help() -> String {
    let mut text = String::from("Policies:\n");
    for kind in policy::KINDS {
        text +=
            &format!("  {:<12} {} [needs {}]\n{}", kind.name, kind.summary, kind.needs, parameters(kind.parameters));
    }
    text += "\nPlacements:\n";
    for kind in placement::KINDS {
        text += &format!("  {:<12} {}\n{}", kind.name, kind.summary, parameters(kind.parameters));
    }
    text += "\nSystems:\n";
    for system in System::all() {
        text += &format!("  {:<12} {}\n", system.name, system.summary);
    }
    text
}
