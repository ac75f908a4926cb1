//! `cptr inspect`: what a trace says about itself.

mod columns;
mod figures;

use std::path::PathBuf;

use serde_json::Value;

use super::about::About;
use super::source::Reading;
use crate::columns::{Column, Format, Page, Section, Table, value};
use crate::report;
use columns::*;
use cptr_sim::replay::Context;
use cptr_sim::{batches, detect, predict, recall};
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};
use cptr_trace::import::Recording;
use cptr_trace::progress::Progress;
use cptr_trace::statistics::{Inspection, Options, PROFILE_TOKENS, inspect, inspect_counts};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Trace file, folder or archive (.tar, .tar.zst, .zst) of any known format
    #[arg(value_name = "TRACE")]
    source: PathBuf,
    #[command(flatten)]
    pub(super) reading: Reading,
    /// Cache sizes for the hit rates, experts per layer (default: eight from k to E)
    #[arg(long, value_name = "N", value_delimiter = ',')]
    cache: Vec<usize>,
    /// Parts of the trace for the series of the signal-to-noise ratio, at most one a token
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    parts: u32,
    /// Instead: how soon detectors see changes of domain, and how often they see one where there is none
    #[arg(long, conflicts_with_all = ["forecast", "recall", "batches"])]
    changes: bool,
    /// Thresholds of the detectors, in usual deviations
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "12,16,20,24")]
    threshold: Vec<u8>,
    /// Instead: whether the prompt predicts the answer, domain against domain
    #[arg(long, conflicts_with_all = ["recall", "batches"])]
    forecast: bool,
    /// Instead: how much of the routing comes again: choices among the best of a forecast by remembered trajectories,
    /// by tokens ahead, layer and memory, and with repeated passages barred; the second half of the tokens is counted
    #[arg(long, conflicts_with = "batches")]
    recall: bool,
    /// Instead: how many different experts of a layer batches of so many tokens of a sequence run (default: 2,4,8,16),
    /// and what they load: what the model wants, each token within its bound in turn, and all of them together
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', num_args = 0..=1, require_equals = true,
          default_missing_value = "2,4,8,16")]
    batches: Option<Vec<usize>>,
    /// Share of its routing mass that a token may lose in a layer, for --batches
    #[arg(long, value_name = "SHARE", default_value_t = 0.04)]
    eps: f64,
    /// Tokens of the prompt, for --forecast
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    prefill: usize,
    /// Experts per layer that are placed, for --forecast, or that a cache holds, for --batches (default: a quarter)
    #[arg(long, value_name = "N")]
    resident: Option<usize>,
}

pub(super) static ABOUT: About = About {
    rows: &[&WHOLE, &CHANGES, &FORECAST, &RECALL, &BATCHES, &LOADS],
    examples: &[
        ("cptr inspect tiny-moe-8m.safetensors", "everything that a recording says of itself"),
        (
            "cptr inspect tiny-moe-8m.safetensors --recall --report recall.html",
            "how much of its routing comes again, with plots",
        ),
        ("cptr inspect tiny-moe-8m.safetensors --changes", "how soon a change of domain is seen"),
    ],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let recording = args.reading.read(&args.source)?;
    let counts = match recording {
        Recording::Tokens(trace) if args.changes => return Ok(changes(&trace, &args.threshold)),
        Recording::Tokens(trace) if args.forecast => return forecast(&trace, args.prefill, args.resident),
        Recording::Tokens(trace) if args.recall => return again(&trace),
        Recording::Tokens(trace) if args.batches.is_some() => return together(&trace, args),
        Recording::Tokens(trace) => return Ok(whole(&trace, &args.cache, args.parts)),
        Recording::Counts(_) if args.changes || args.forecast || args.recall || args.batches.is_some() => {
            return Err(Error::new("expected a trace of tokens, found counts, which have no order"));
        }
        Recording::Counts(counts) => inspect_counts(&counts),
    };
    let report = value(&counts);
    let mut section =
        Section::of([], Table::of("Load of the experts, mean over layers", &LOADS[..], &report["tables"]));
    for model in &counts.models {
        let title = match model.model.as_str() {
            "" => "Cosine of the counts".to_owned(),
            name => format!("Cosine of the counts, {name}"),
        };
        section.tables.push(matrix(&title, &model.names, &model.cosine));
    }
    section.tables.push(Table::of("What one layer says about a later one", &PAIRS[..], &report["pairs"]));
    section.remarks = sentences(&counts.notes, &counts.warnings);
    let rows = Table::of("", &LOADS[..], &report["tables"]);
    let answer = figures::of_counts(&rows.rows);
    let page = Page::new(rows).section(section).answered(answer);
    Ok(["source", "models", "pairs", "warnings"].into_iter().fold(page, |page, key| page.beside(key, &report[key])))
}

fn changes(trace: &Trace, thresholds: &[u8]) -> Page {
    let working = Progress::unknown("detecting");
    let rows = detect::run(trace, thresholds);
    drop(working);
    let table = Table::new(&CHANGES, &rows);
    let answer = figures::of_changes(&table.rows);
    Page::new(table).answered(answer).notes(trace.notes.clone())
}

fn forecast(trace: &Trace, prefill: usize, resident: Option<usize>) -> Result<Page> {
    let resident = resident.unwrap_or_else(|| (trace.shape.experts / 4).max(1));
    let found = predict::run(trace, prefill, resident)?;
    let notes = trace.notes.iter().chain(&found.notes).cloned();
    let table = Table::new(&FORECAST, &found.rows);
    let answer = figures::of_forecast(&table.rows, resident);
    Ok(Page::new(table).answered(answer).notes(notes))
}

/// Tokens that run together.
fn together(trace: &Trace, args: &Args) -> Result<Page> {
    let resident = args.resident.unwrap_or_else(|| (trace.shape.experts / 4).max(1));
    let tokens = args.batches.clone().unwrap_or_default();
    let found = batches::run(trace, &batches::Options { tokens, eps: args.eps, keep: 1, resident })?;
    let notes = trace.notes.iter().chain(&found.notes).cloned();
    let table = Table::new(&BATCHES, &found.rows);
    let answer = figures::of_batches(&table.rows);
    let page = Page::new(table).answered(answer).notes(notes);
    Ok(page.beside("eps", &args.eps).beside("resident", &resident))
}

/// What comes again.
fn again(trace: &Trace) -> Result<Page> {
    let study = recall::run(trace)?;
    let rows = Table::new(&RECALL, &study.rows);
    let part = |title: &str, by: &[&str], head: &'static str| {
        let mut columns = RECALL.to_vec();
        columns.remove(0);
        columns[0].name = head.into();
        let rows: Vec<Value> = rows.rows.iter().filter(|row| by.iter().any(|by| row["by"] == *by)).cloned().collect();
        Table::of(title, columns, &Value::Array(rows))
    };
    let mut next: Vec<Value> = part("", &["lag", "window"], "").rows;
    next.iter_mut().filter(|row| row["by"] == "window").for_each(|row| {
        let tokens = row["at"].as_str().unwrap_or_default();
        row["at"] = format!("1 to {tokens}").into();
    });
    let mut tables = vec![
        part("By tokens ahead", &["lag"], "ahead"),
        part("The next token by layer", &["layer"], "layer"),
        part("The next token by tokens remembered", &["memory"], "memory"),
        part("The next token, by an exact search of the last 2,048 tokens", &["passages"], "passages"),
        Table::new(&EVICTED, &study.eviction).titled("As eviction, twice the active experts in fast memory"),
    ];
    tables[0].rows = next;
    let shape = trace.shape;
    let counted = Format::Count.text(&value(&study.counted));
    let facts = vec![
        format!(
            "{} of {} tokens counted, {} layers x {} experts, top-{}",
            counted, shape.tokens, shape.layers, shape.experts, shape.k
        ),
        "share of the choices that are among the k and 2k experts of their layer that a forecast expects most".into(),
    ];
    let repeated = Format::Percent.text(&value(&study.repeated));
    let remark = format!(
        "Barred: no place counts whose last eight tokens have more than 0.7 of their choices in common with the last eight. \
         The nearest place of {repeated} of the tokens is one."
    );
    let figures = report::recall::figures(&rows.rows);
    let section = Section { facts, tables, remarks: vec![remark], figures, ..Section::default() };
    let answer = figures::of_recall(&rows.rows);
    let page = Page::new(rows).section(section).answered(answer).notes(trace.notes.clone());
    Ok(page.beside("counted", &study.counted).beside("repeated", &study.repeated).beside("eviction", &study.eviction))
}

fn whole(trace: &Trace, cache: &[usize], parts: u32) -> Page {
    let working = Progress::unknown("inspecting");
    let found = inspect(trace, &Options { cache_sizes: cache.to_vec() });
    let context = Context::in_parts(trace, parts as usize);
    drop(working);
    let row = value(&found);
    let mut tables = tables(&found, &row);
    tables.push(Table::new(&SIGNAL, &context.signal).titled("Signal-to-noise ratio along the trace"));
    let mut figures = vec![figures::hits(&row), report::signal::figure(trace.shape.tokens, &context)];
    figures.extend(report::heat::figures(trace));
    figures.push(figures::reuse(&row));
    let section = Section { tables, remarks: remarks(&found), figures, ..Section::default() };
    let answer = figures::answer(&row);
    Page::new(Table::new(&WHOLE, &[row])).section(section).answered(answer).beside("context", &context)
}

fn tables(report: &Inspection, row: &Value) -> Vec<Table> {
    let reuse = "Reuse distance: share of the choices by tokens since the last";
    let mut tables = vec![
        Table::upright(&WHOLE, row),
        Table::of("Switch rate by layer", &LAYERS[..], &row["switch_rate_by_layer"]),
        Table::of("Overlap of the choices by distance", &OVERLAP[..], &row["overlap_by_lag"]),
        Table::of(reuse, &REUSE[..], &row["reuse"]["histogram"]),
        Table::of("Hit rate, one cache per layer", &CACHE[..], &row["cache"]),
        locality(row),
    ];
    if report.switching.switch_rate_by_domain.len() > 1 {
        tables.insert(2, Table::of("Switch rate by domain", &DOMAINS[..], &row["switch_rate_by_domain"]));
    }
    if let Some(domains) = &report.phases.domains {
        tables.push(matrix("Cosine of the domains", &domains.names, &domains.cosine));
        let title = format!(
            "Coverage of the later choices of a domain (column) by the top {} experts of the first {PROFILE_TOKENS} tokens of another (row)",
            domains.hot_experts
        );
        tables.push(matrix(&title, &domains.names, &domains.coverage));
    }
    let title = "Autocorrelation of the logits by distance";
    tables.push(Table::of(title, &CORRELATION[..], &row["logits"]["autocorrelation"]));
    tables
}

/// One row for each segment length and number of slots.
fn locality(row: &Value) -> Table {
    let points = row["locality"].as_array().into_iter().flatten();
    let rows = points.flat_map(|point| {
        point["sch"].as_array().into_iter().flatten().map(|slots| {
            let mut row = point.clone();
            row["sch"] = slots.clone();
            row
        })
    });
    let title = "Segment routing (SRP) and segment caches (SCH) of arXiv 2505.16056, by version of the paper";
    Table::of(title, &LOCALITY[..], &rows.collect())
}

fn remarks(report: &Inspection) -> Vec<String> {
    let mut remarks: Vec<String> = report
        .phases
        .prefill_decode_missing
        .iter()
        .map(|reason| format!("Cosine of prefill and decode: none, {reason}."))
        .collect();
    let evidence = report.evidence.as_ref().map(|evidence| evidence.sentence.clone());
    remarks.extend(evidence.filter(|said| !report.notes.contains(said)));
    remarks.extend(sentences(&report.notes, &report.warnings));
    remarks
}

fn sentences(notes: &[String], warnings: &[String]) -> Vec<String> {
    let notes = notes.iter().map(|sentence| ("Note", sentence));
    let all = notes.chain(warnings.iter().map(|sentence| ("Warning", sentence)));
    all.map(|(kind, sentence)| format!("{kind}: {}.", sentence.trim_end_matches('.'))).collect()
}

/// A square matrix; the columns carry the numbers of the rows, since names may be long.
fn matrix(title: &str, names: &[String], cells: &[Vec<Option<f64>>]) -> Table {
    let row = |(index, (name, cells)): (usize, (&String, &Vec<Option<f64>>))| {
        let cells = cells.iter().map(value);
        Value::Array(cells.chain([format!("{} {name}", index + 1).into()]).collect())
    };
    let count = names.len();
    let head = Column::at(count, String::new(), Format::Text);
    let others = (0..count).map(|index| Column::at(index, (index + 1).to_string(), Format::Number(3)));
    let columns = [head].into_iter().chain(others);
    Table::of(title, columns.collect::<Vec<_>>(), &names.iter().zip(cells).enumerate().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_trace::{Phase, Shape};

    #[test]
    fn every_figure_of_a_trace_is_printed() {
        let shape = Shape { tokens: 1200, layers: 2, experts: 16, k: 2 };
        // Experts stay for three tokens and come again.
        let ids = (0..2400u16).flat_map(|i| [i / 6 % 16, (i / 6 + 3 + i % 2) % 16]).collect();
        let mut trace = Trace { phase: vec![Phase::Prefill; 1200], ..Trace::of_ids(shape, ids) };
        trace.sequence = [vec![0; 600], vec![1; 600]].concat();
        trace.position = (0..600).chain(0..600).collect();
        trace.meta.domains = vec!["prose".into(), "code".into()];
        trace.domain = [vec![0; 600], vec![1; 600]].concat();
        trace.notes.push("a remark of the importer.".into());
        let report = inspect(&trace, &Options { cache_sizes: vec![1, 4] });
        let row = value(&report);
        let text: String = tables(&report, &row).iter().map(Table::text).chain(remarks(&report)).collect();
        for part in [
            "1,200",
            &Format::Percent.text(&row["switch_rate"]),
            &Format::Percent.text(&row["cache"][0]["belady"]),
            &Format::Percent.text(&row["locality"][0]["srp"]),
            "none, the trace has prefill tokens only",
            "Coverage of the later choices",
            "| 2 code",
            "Note: a remark of the importer.",
            "Warning: cache sizes 1 are left out: expected 2 (the experts of one token) to 16 slots per layer.",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        for table in tables(&report, &row).iter().filter(|table| !table.rows.is_empty()) {
            for column in &*table.columns {
                assert!(
                    table.rows.iter().any(|row| !column.of(row).is_null() || column.is_optional()),
                    "{}",
                    column.key
                );
            }
        }
    }
}
