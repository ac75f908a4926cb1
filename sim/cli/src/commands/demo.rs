//! `cptr demo`: the main job on two bundled real traces.

use std::io::Write;

use cptr_hw_model::{Model, System};
use serde_json::{Value, json};

use super::about::About;
use super::run::{answer, columns::RUN, remarks, rows, section, usual};
use crate::columns::{Page, Section, Table, value};
use cptr_sim::replay::{self, Budget, Machine, Outcome, Plan};
use cptr_sim::strategy::Strategy;
use cptr_trace::error::{Error, Result};
use cptr_trace::{Trace, native};

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// A trace that comes with the program.
struct Bundled {
    name: &'static str,
    bytes: &'static [u8],
}

const TINY_MOE: Bundled = Bundled { name: "tiny-moe-8m", bytes: include_bytes!("../../data/tiny-moe-8m.safetensors") };
const GPT_OSS: Bundled = Bundled { name: "gpt-oss-20b", bytes: include_bytes!("../../data/gpt-oss-20b.safetensors") };

/// One part of the demonstration.
struct Part {
    trace: Bundled,
    title: &'static str,
    introduction: &'static str,
    system: &'static str,
    strategies: &'static str,
    /// Experts in fast memory: this part of all; none: twice the active ones.
    one_in: Option<usize>,
    prefill: usize,
}

const PARTS: [Part; 4] = [
    Part {
        trace: TINY_MOE,
        title: "Selection: a small model with all its router logits",
        introduction: "Nine domains one after the other. A strategy may run other experts than the model wants; mass loss is the price.",
        system: "offload",
        strategies: "raw,lfu,lrfu,tracked,recall,belady,transition,recall-fetch,recall-fetch:gain=off,smoothing:alpha=0.7,\
                     hysteresis:bonus=0.5,max-rank:window=1.5,cumulative:p=0.7,substitute:tau=0.1,\
                     cache-prior:lambda=0.05,cache-prior:lambda=0.1,cache-prior:lambda=0.2,bounded:eps=0.02,\
                     bounded:eps=0.04,bounded:eps=0.08,bounded+recall",
        one_in: None,
        prefill: 0,
    },
    Part {
        trace: GPT_OSS,
        title: "Residency: decoding with gpt-oss-20b, experts copied on demand",
        introduction: "Only the chosen experts are recorded, so that strategies may differ in who stays and what is fetched. Each load is a copy over the link.",
        system: "offload",
        strategies: "raw,lfu,lrfu,tracked,recall,belady,transition,recall-fetch,recall-fetch:gain=off,once,periodic:interval=64+gpu+full",
        one_in: None,
        prefill: 0,
    },
    Part {
        trace: GPT_OSS,
        title: "Residency: decoding with gpt-oss-20b, what is not resident runs near the data",
        introduction: "The same trace with a near-data device. Copies on demand now cost more than the runs they save; experts that are placed once and stay let the device work.",
        system: "ndp",
        strategies: "raw+in-place+uniform:bits=2,lfu+in-place+uniform:bits=2,lrfu+in-place+uniform:bits=2,tracked+in-place+uniform:bits=2,\
                     once+in-place+uniform:bits=2,periodic:interval=64+in-place+uniform:bits=2,belady+in-place+uniform:bits=2",
        one_in: None,
        prefill: 0,
    },
    Part {
        trace: GPT_OSS,
        title: "Systems: decoding with gpt-oss-20b, a quarter of the experts in GPU memory, the others at 4 bits near the data",
        introduction: "Whole systems: what runs where, at how many bits, and what moves.",
        system: "ndp",
        strategies: "raw,hobbit,monde,monde-resident,ctx-aware,ctx-aware-slack,periodic:interval=64,migrate,foresight",
        one_in: Some(4),
        prefill: 512,
    },
];

pub(super) static ABOUT: About = About {
    rows: &[&RUN],
    examples: &[("cptr demo --report demo.html", "what cptr is for, on two bundled recordings")],
};

pub(super) fn main() -> Result<Page> {
    let outcomes = PARTS.iter().map(Part::run).collect::<Result<Vec<_>>>()?;
    let parts = || PARTS.iter().zip(&outcomes);
    let with_title = |(part, outcome): (&Part, &Outcome)| {
        rows(outcome)
            .rows
            .into_iter()
            .map(|row| {
                let mut named = json!({"part": part.title});
                if let (Value::Object(named), Value::Object(row)) = (&mut named, row) {
                    named.extend(row);
                }
                named
            })
            .collect::<Vec<_>>()
    };
    let all: Vec<Value> = parts().flat_map(with_title).collect();
    let brief = |(part, outcome): (&Part, &Outcome)| {
        let said = answer::brief(&rows(outcome).rows)?;
        Some(format!("{} on {}, {said}", part.trace.name, part.system))
    };
    let answer = format!(
        "The fastest of what a system can run, part by part: {}.",
        parts().filter_map(brief).collect::<Vec<_>>().join("; ")
    );
    let described: Vec<Value> = parts().map(|(part, outcome)| described(part, outcome)).collect();
    let sections = parts().map(|(part, outcome)| {
        let section = section(outcome);
        let remarks = section.remarks.iter().cloned().chain(remarks(outcome)).collect();
        let tables = section.tables.into_iter().map(narrow).collect();
        Section { title: part.title.into(), introduction: part.introduction.into(), remarks, tables, ..section }
    });
    let page = Page::new(Table::new(&RUN, &all)).beside("parts", &described).answered(answer).reported("report.html");
    Ok(sections.fold(page, Page::section))
}

/// A table without the bands of its times: it is to fit a page beside its text, and rows differ in what strategies do,
/// not in what is known of the machine. `--json` has them.
fn narrow(mut table: Table) -> Table {
    let bands = ["low_token_time_us", "high_token_time_us", "low_tokens_per_s", "high_tokens_per_s"];
    for row in table.rows.iter_mut().filter_map(Value::as_object_mut) {
        bands.iter().for_each(|key| drop(row.remove(*key)));
    }
    table
}

/// What a part ran, without its rows.
fn described(part: &Part, outcome: &Outcome) -> Value {
    let mut all = value(outcome);
    if let Value::Object(all) = &mut all {
        all.remove("rows");
        all.insert("title".into(), part.title.into());
    }
    all
}

impl Part {
    fn run(&self) -> Result<Outcome> {
        let trace = self.trace.read()?;
        let system = System::find(self.system).ok_or_else(|| Error::new(format!("no system {}", self.system)))?;
        let part = |one_in: usize| Budget::Experts(trace.shape.experts / one_in);
        let resident = self.one_in.map_or_else(|| usual(&trace), part);
        let plan = Plan {
            strategies: Strategy::parse_list(self.strategies)?,
            prefill: self.prefill,
            machine: Some(Machine::new(system, Model::find(&trace.meta.model))),
            ..Plan::new(resident)
        };
        replay::run(&trace, &plan)
    }
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
