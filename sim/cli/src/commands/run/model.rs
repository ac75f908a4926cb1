//! `cptr run` on a model that reads.

use cptr_hw_model::Model as Sizes;

use super::super::bundled;
use super::columns::{MODEL, RUN};
use super::{Args, ModelArgs, answer};
use crate::columns::Format::{Percent, Plain, Text};
use crate::columns::{Column, Page, Section, Table, column, format};
use crate::eval::outcome::Row;
use crate::eval::{self, Document, Plan, Quantised};
use crate::report::frontier;
use cptr_model::quantise::{self, Method, Sample};
use cptr_model::{Model, text};
use cptr_sim::replay::{Budget, Machine};
use cptr_sim::strategy::Strategy;
use cptr_trace::error::{Error, Result};
use cptr_trace::file;

/// Calibration tokens of the bundled model.
const CALIBRATION_TOKENS: usize = 32_768;

/// Strategies where none are asked for: selection under a bound and its rivals at many settings, and what knows the
/// future.
const FRONTIER: &str = "\
raw,tracked,belady,smoothing:alpha=0.7,hysteresis:bonus=0.5,hysteresis:bonus=1,max-rank:window=1.5,cumulative:p=0.7,\
substitute:tau=0.1,cache-prior:lambda=0.02,cache-prior:lambda=0.05,cache-prior:lambda=0.075,cache-prior:lambda=0.1,\
cache-prior:lambda=0.15,cache-prior:lambda=0.2,cache-prior:lambda=0.3,cache-prior:lambda=0.05+tracked,\
cache-prior:lambda=0.1+tracked,bounded:eps=0.01,bounded:eps=0.02,bounded:eps=0.03,bounded:eps=0.04,bounded:eps=0.05,\
bounded:eps=0.06,bounded:eps=0.08,bounded:eps=0.1,bounded:eps=0.3:error=0.02,bounded:eps=0.3:error=0.025,\
bounded:eps=0.3:error=0.03,bounded:eps=0.3:error=0.035,bounded:eps=0.3:error=0.04,bounded:eps=0.3:error=0.05,\
bounded:eps=0.3:error=0.06,bounded:eps=0.3:error=0.08,bounded:eps=0.3:error=0.1,bounded:eps=0.3:error=0.03+belady,\
bounded:eps=0.3:error=0.04+belady,bounded:eps=0.02+belady,bounded:eps=0.04+belady,bounded:eps=0.06+belady,\
bounded:eps=0.08+belady,bounded:eps=0.04+lru,bounded:eps=0.04+lfu";

/// What a controller runs where nothing else is asked for.
const ON_CONTROLLER: &str = "bounded+in-place+uniform:bits=2";

/// What a controller was held to.
const RESULTS: &str = "every result of an expert is that of the kernels in this process, bit for bit";

static VERDICTS: [Column; 7] = [
    column("select", "select", Text, ""),
    column("residency", "residency", Text, ""),
    column("price", "price", Text, ""),
    column("paid", "paid", Plain, ""),
    column("miss_rate", "miss", Percent, ""),
    column("fewer_than_raw", "fewer than raw", Percent, "misses than of the raw router with lru"),
    column("fewer_than_cache_prior", "fewer than cache-prior", Percent, "misses than of cache-prior with lru"),
];

pub(super) fn run(args: &Args) -> Result<Page> {
    if args.batch != 1 || args.losses.is_some() || args.fair.is_some() {
        return Err(Error::new("--batch, --fair and --losses: expected a trace, found a model"));
    }
    let (model, documents) = read(args)?;
    let config = &model.config;
    let asked = match (&args.strategy[..], args.controller) {
        ([], None) => Strategy::parse_list(FRONTIER)?,
        ([], Some(_)) => Strategy::parse_list(ON_CONTROLLER)?,
        (named, _) => named.to_vec(),
    };
    let system = args.machine.system_or(if args.controller.is_some() { "ndp" } else { "offload" })?;
    let sizes = Sizes::new(config.family, config.hidden as u64, config.expert_inner as u64);
    let asked = super::at_bits(asked, args.machine.bits())?;
    let (strategies, extra) = if args.controller.is_some() { (asked, false) } else { super::with_reference(asked)? };
    let plan = Plan {
        replicas: replicas(&args.model, args.source.is_some(), &model, &strategies)?,
        strategies,
        resident: args.resident.unwrap_or(Budget::Experts((2 * config.k).min(config.experts))),
        prefill: args.prefill,
        machine: Machine { counted: args.counting.counted(), ..Machine::new(&system, Some(&sizes)) },
    };
    if let Some(controller) = args.controller {
        let on = (controller, args.image.as_deref());
        let (row, report) = eval::on_controller(&model, &documents, &plan, on)?;
        let table = Table::new(&RUN, &[row]).viewed(MODEL);
        let answer = answer::sentence(&table.rows);
        let facts = vec![about(&model, &documents), format!("{} in fast memory", plan.resident)];
        let section = Section { facts, tables: vec![table.clone()], ..Section::default() };
        let section = Section { remarks: vec![super::said(&report), RESULTS.into()], ..section };
        return Ok(Page::new(table).section(section).answered(answer).beside("controller", &report));
    }
    let mut rows = eval::run(&model, &documents, &plan)?;
    let verdicts = eval::verdicts(&rows);
    // Of the raw router at full precision, which is the unaltered model.
    let perplexity = rows.first().map_or(f64::NAN, |row| row.perplexity);
    if extra {
        rows.remove(0);
    }
    let table = Table::new(&RUN, &rows).starred("sees_future", super::FUTURE).viewed(MODEL);
    if let Some(path) = &args.model.plot {
        let svg = frontier::svg(&table.rows).map_err(|error| Error::in_file(path, error))?;
        file::replace(path, |out| out.write_all(svg.as_bytes()))?;
    }
    let facts = vec![
        format!("{}; perplexity {perplexity:.3}", about(&model, &documents)),
        format!("{} in fast memory; system {}", plan.resident, system.name),
    ];
    let prices = Table::new(&VERDICTS, &verdicts).titled("Misses at the same price, between the settings above");
    let (answer, figures) = (answer::sentence(&table.rows), vec![frontier::figure(&table.rows)]);
    let section = Section { facts, tables: vec![table.clone(), prices], figures, ..Section::default() };
    let page = Page::new(table)
        .answered(answer)
        .section(section)
        .beside("verdicts", &verdicts)
        .beside("perplexity", &perplexity);
    Ok(page.notes(notes(&documents, &rows)))
}

/// The model, and what it reads.
fn about(model: &Model, documents: &[Document]) -> String {
    let config = &model.config;
    let tokens: usize = documents.iter().map(|document| document.tokens.len()).sum();
    format!(
        "{}: {} layers x {} experts, top-{}; {} documents, {} tokens",
        config.family,
        config.moe_layers.len(),
        config.experts,
        config.k,
        format::count(documents.len()),
        format::count(tokens)
    )
}

fn notes(documents: &[Document], rows: &[Row]) -> Vec<String> {
    let single = documents.len() == 1;
    let single = single.then(|| "One document: the interval of a change of perplexity needs several.".to_owned());
    let skipped = rows.iter().any(|row| row.run.skipped_mass > 0.0);
    let skipped = skipped.then(|| "Experts that are left out give nothing; others keep their weights.".to_owned());
    [single, skipped].into_iter().flatten().collect()
}

/// The model and what it reads.
fn read(args: &Args) -> Result<(Model, Vec<Document>)> {
    let ModelArgs { text, length, .. } = &args.model;
    let model = match &args.source {
        Some(_) if text.is_empty() => {
            return Err(Error::new("--text: expected files or folders to read with a model of your own, found none"));
        }
        Some(folder) => Model::load(folder)?,
        None => bundled::model()?,
    };
    let documents = if text.is_empty() {
        let texts = bundled::held_out();
        texts.map(|(domain, text)| document(&model, domain, text, *length)).collect::<Result<_>>()?
    } else {
        let texts = text::read(text)?;
        texts
            .iter()
            .map(|t| document(&model, &t.domain, &t.text, *length).map_err(|e| e.or_file(&t.path)))
            .collect::<Result<_>>()?
    };
    Ok((model, documents))
}

fn document(model: &Model, domain: &str, text: &str, length: u32) -> Result<Document> {
    let mut tokens = model.encode(text)?;
    tokens.truncate(length as usize);
    if tokens.len() < 2 {
        return Err(Error::new(format!("expected a text of at least two tokens, found {}", tokens.len())));
    }
    Ok(Document { domain: domain.into(), tokens })
}

/// Replicas, where a strategy needs them.
fn replicas(args: &ModelArgs, own: bool, model: &Model, strategies: &[Strategy]) -> Result<Option<Quantised>> {
    if strategies.iter().all(|strategy| strategy.precision.kind.name == "full") {
        return Ok(None);
    }
    if let Some(folder) = &args.replicas {
        return Quantised::open(folder, &model.config).map(Some);
    }
    if own {
        return Err(Error::new("--replicas: expected the folder that cptr quantize wrote for this model, found none"));
    }
    let folder = tempfile::tempdir().map_err(|error| Error::new(format!("temporary folder: {error}")))?;
    let texts: Vec<&str> = bundled::calibration().map(|(_, text)| text).collect();
    let sample = Sample::of(model, &texts, CALIBRATION_TOKENS)?;
    let plan = quantise::Plan { bits: vec![1, 2, 3, 4], group: 64, method: Method::Gptq };
    quantise::run(model, &sample, &plan, folder.path())?;
    Quantised::open(folder.path(), &model.config).map(Some)
}
