//! `cptr eval`.

use std::path::{Path, PathBuf};

use cptr_hw_model::Model as Sizes;

use super::run::Machine;
use super::{bundled, table};
use crate::eval::outcome::{Outcome, Row};
use crate::eval::{self, Document, Plan, Precision, Quantised, RowPlan};
use crate::report::frontier;
use cptr_model::model::Model;
use cptr_model::quantize::calibration::Sample;
use cptr_model::quantize::layer::Method;
use cptr_model::quantize::{self, quantise};
use cptr_model::text;
use cptr_sim::run;
use cptr_trace::error::{Error, Result};
use cptr_trace::file;

/// Calibration tokens of the bundled model.
const CALIBRATION_TOKENS: usize = 32_768;

/// Rows where none are asked for: the frontier of cptr and its rivals, and the bounds.
const FRONTIER: [(&str, &str); 42] = [
    ("raw", "tracked"),
    ("raw", "belady"),
    ("smoothing:alpha=0.7", "lru"),
    ("hysteresis:bonus=0.5", "lru"),
    ("hysteresis:bonus=1", "lru"),
    ("max-rank", "lru"),
    ("cumulative", "lru"),
    ("substitute", "lru"),
    ("cache-prior:lambda=0.02", "lru"),
    ("cache-prior:lambda=0.05", "lru"),
    ("cache-prior:lambda=0.075", "lru"),
    ("cache-prior:lambda=0.1", "lru"),
    ("cache-prior:lambda=0.15", "lru"),
    ("cache-prior:lambda=0.2", "lru"),
    ("cache-prior:lambda=0.3", "lru"),
    ("cache-prior:lambda=0.05", "tracked"),
    ("cache-prior:lambda=0.1", "tracked"),
    ("cptr:eps=0.01", "tracked"),
    ("cptr:eps=0.02", "tracked"),
    ("cptr:eps=0.03", "tracked"),
    ("cptr:eps=0.04", "tracked"),
    ("cptr:eps=0.05", "tracked"),
    ("cptr:eps=0.06", "tracked"),
    ("cptr:eps=0.08", "tracked"),
    ("cptr:eps=0.1", "tracked"),
    ("cptr:eps=0.3:error=0.02", "tracked"),
    ("cptr:eps=0.3:error=0.025", "tracked"),
    ("cptr:eps=0.3:error=0.03", "tracked"),
    ("cptr:eps=0.3:error=0.035", "tracked"),
    ("cptr:eps=0.3:error=0.04", "tracked"),
    ("cptr:eps=0.3:error=0.05", "tracked"),
    ("cptr:eps=0.3:error=0.06", "tracked"),
    ("cptr:eps=0.3:error=0.08", "tracked"),
    ("cptr:eps=0.3:error=0.1", "tracked"),
    ("cptr:eps=0.3:error=0.03", "belady"),
    ("cptr:eps=0.3:error=0.04", "belady"),
    ("cptr:eps=0.02", "belady"),
    ("cptr:eps=0.04", "belady"),
    ("cptr:eps=0.06", "belady"),
    ("cptr:eps=0.08", "belady"),
    ("cptr:eps=0.04", "lru"),
    ("cptr:eps=0.04", "lfu"),
];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of a Hugging Face checkpoint (default: the bundled model)
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Text to read: files, each a document, or folders, each a domain with its .txt files (default: the bundled model's held-out text)
    #[arg(long, value_name = "PATH", num_args = 1..)]
    text: Vec<PathBuf>,
    /// Policies with their parameters (default: the frontier of cptr and its rivals)
    #[arg(long, value_name = "NAME[:PARAMETER=VALUE]…", value_delimiter = ',')]
    policy: Vec<String>,
    /// Placements with their parameters (default: the policy's own)
    #[arg(long, visible_alias = "eviction", value_name = "NAME[:PARAMETER=VALUE]…", value_delimiter = ',')]
    placement: Vec<String>,
    /// Experts per layer that fit in fast memory (default: twice the active ones)
    #[arg(long, value_name = "N")]
    cache: Option<usize>,
    /// Tokens of each document that are read
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    length: u32,
    /// Bits per weight of the experts: own, 1 to 4, mean:N (a loss table decides), or behind cold: only for experts that are not in
    /// fast memory, such as own,3,mean:3,cold:2
    #[arg(long = "expert-bits", value_name = "LIST", value_delimiter = ',')]
    precision: Vec<String>,
    /// Folder that cptr quantize wrote (default: the bundled model is quantised as needed)
    #[arg(long, value_name = "FOLDER")]
    replicas: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
    /// Write the rows as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the frontier as a plot (SVG)
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print JSON: a list of rows
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Result<()> {
    let (model, documents) = match &args.model {
        Some(_) if args.text.is_empty() => {
            return Err(Error::new("--text: expected files or folders to read with a model of your own, found none"));
        }
        Some(folder) => {
            let model = Model::load(folder)?;
            let documents = read(&model, &args.text, args.length)?;
            (model, documents)
        }
        None => {
            let model = bundled::model()?;
            let documents = if args.text.is_empty() {
                bundled::held_out()
                    .map(|(domain, text)| document(&model, domain, text, args.length))
                    .collect::<Result<_>>()?
            } else {
                read(&model, &args.text, args.length)?
            };
            (model, documents)
        }
    };
    let config = &model.config;
    let rows = args.rows()?;
    let replicas = args.replicas(&model, &rows)?;
    let machine = run::Plan {
        rows: Vec::new(),
        cache: args.cache.unwrap_or_else(|| (2 * config.k).min(config.experts)),
        system: args.machine.system_or("offload")?,
        model: Some(Sizes::new(config.family, config.hidden as u64, config.expert_inner as u64)),
    };
    let plan = Plan { rows, machine, replicas };
    let outcome = eval::run(&model, &documents, &plan)?;
    if let Some(path) = &args.csv {
        write_csv(path, &outcome)?;
    }
    if let Some(path) = &args.plot {
        let svg = frontier::svg(&outcome).map_err(|error| Error::in_file(path, error))?;
        file::replace(path, |out| out.write_all(svg.as_bytes()))?;
    }
    if args.json { super::print_json(&outcome.rows) } else { super::print(&table::evaluation(&outcome)) }
}

impl Args {
    /// Policies with placements, each at every precision; the raw router with LRU and the model's own weights leads.
    fn rows(&self) -> Result<Vec<RowPlan>> {
        let given = !self.policy.is_empty() || !self.placement.is_empty();
        let runs = match (given, self.precision.is_empty()) {
            (true, _) => run::Plan::rows(&self.policy, &self.placement)?,
            (false, false) => run::Plan::rows(&["raw".into()], &["lru".into()])?,
            (false, true) => {
                let mut rows = run::Plan::rows(&["raw".into()], &["lru".into()])?;
                for (policy, placement) in FRONTIER {
                    rows.extend(run::Plan::rows(&[policy.into()], &[placement.into()])?.into_iter().skip(1));
                }
                rows
            }
        };
        let precisions = self.precision.iter().map(|text| text.parse()).collect::<Result<Vec<Precision>>>()?;
        let first = runs.first().map(|run| RowPlan { run: run.clone(), precision: Precision::OWN });
        let others = match precisions.as_slice() {
            [] => &[Precision::OWN][..],
            some => some,
        };
        let all = runs.iter().flat_map(|run| others.iter().map(|&precision| RowPlan { run: run.clone(), precision }));
        let rest = all.filter(|row| first.as_ref().is_none_or(|first| !row.is(first)));
        Ok(first.iter().cloned().chain(rest).collect())
    }

    /// Replicas, where a row needs them.
    fn replicas(&self, model: &Model, rows: &[RowPlan]) -> Result<Option<Quantised>> {
        if rows.iter().all(|row| row.precision == Precision::OWN) {
            return Ok(None);
        }
        if let Some(folder) = &self.replicas {
            return Quantised::open(folder, &model.config).map(Some);
        }
        if self.model.is_some() {
            return Err(Error::new(
                "--replicas: expected the folder that cptr quantize wrote for this model, found none",
            ));
        }
        let folder = tempfile::tempdir().map_err(|error| Error::new(format!("temporary folder: {error}")))?;
        let texts: Vec<&str> = bundled::calibration().map(|(_, text)| text).collect();
        let sample = Sample::of(model, &texts, CALIBRATION_TOKENS)?;
        let plan = quantize::Plan { bits: vec![1, 2, 3, 4], group: 64, method: Method::Gptq };
        quantise(model, &sample, &plan, folder.path())?;
        Quantised::open(folder.path(), &model.config).map(Some)
    }
}

fn read(model: &Model, paths: &[PathBuf], length: u32) -> Result<Vec<Document>> {
    let texts = text::read(paths)?;
    texts.iter().map(|t| document(model, &t.domain, &t.text, length).map_err(|e| e.or_file(&t.path))).collect()
}

fn document(model: &Model, domain: &str, text: &str, length: u32) -> Result<Document> {
    let mut tokens = model.encode(text)?;
    tokens.truncate(length as usize);
    if tokens.len() < 2 {
        return Err(Error::new(format!("expected a text of at least two tokens, found {}", tokens.len())));
    }
    Ok(Document { domain: domain.into(), tokens })
}

fn write_csv(path: &Path, outcome: &Outcome) -> Result<()> {
    file::replace(path, |out| {
        let mut writer = csv::Writer::from_writer(out);
        outcome.rows.iter().try_for_each(|row| writer.serialize(Line::from(row)))?;
        writer.flush()
    })
}

/// A row without its parts by domain and layer.
#[derive(serde::Serialize)]
struct Line<'a> {
    policy: &'a str,
    placement: &'a str,
    bits: &'a str,
    cache: usize,
    perplexity: f64,
    perplexity_change: f64,
    perplexity_change_low: f64,
    perplexity_change_high: f64,
    divergence_nats: f64,
    switch_rate: Option<f64>,
    miss_rate: f64,
    misses_to_raw: f64,
    mass_loss: f64,
    agreement: f64,
    token_time_us: f64,
}

impl<'a> From<&'a Row> for Line<'a> {
    fn from(row: &'a Row) -> Self {
        let [low, high] = row.perplexity_change_interval;
        Self {
            policy: &row.policy,
            placement: &row.placement,
            bits: &row.bits,
            cache: row.cache,
            perplexity: row.perplexity,
            perplexity_change: row.perplexity_change,
            perplexity_change_low: low,
            perplexity_change_high: high,
            divergence_nats: row.divergence_nats,
            switch_rate: row.switch_rate,
            miss_rate: row.miss_rate,
            misses_to_raw: row.misses_to_raw,
            mass_loss: row.mass_loss,
            agreement: row.agreement,
            token_time_us: row.token_time_us,
        }
    }
}
