//! `cptr eval`.

use std::path::{Path, PathBuf};

use cptr_hw_model::Model as Sizes;

use super::run::Machine;
use super::{bundled, table};
use crate::error::{Error, Result};
use crate::eval::outcome::Outcome;
use crate::eval::{self, Document};
use crate::file;
use crate::model::{Model, read_text};
use crate::report::frontier;
use crate::run::Plan;

/// Rows where none are asked for: the frontier of cptr and its rivals, and the bounds.
const FRONTIER: [(&str, &str); 30] = [
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
    /// Text to read: files, each a document, or folders, each a domain with its files (default: the bundled model's held-out text)
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
    let plan = Plan {
        rows: args.rows()?,
        cache: args.cache.unwrap_or_else(|| (2 * config.k).min(config.experts)),
        system: args.machine.system_or("offload")?,
        model: Some(Sizes::new(config.family, config.hidden as u64, config.expert_inner as u64)),
    };
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
    fn rows(&self) -> Result<Vec<crate::run::RowPlan>> {
        if !self.policy.is_empty() || !self.placement.is_empty() {
            return Plan::rows(&self.policy, &self.placement);
        }
        let mut rows = Plan::rows(&["raw".into()], &["lru".into()])?;
        for (policy, placement) in FRONTIER {
            rows.extend(Plan::rows(&[policy.into()], &[placement.into()])?.into_iter().skip(1));
        }
        Ok(rows)
    }
}

/// Every file as a document of its domain: the folder that was given, or the file's own name.
fn read(model: &Model, paths: &[PathBuf], length: u32) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for path in paths {
        let name = |path: &Path| path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        for file in files(path)? {
            let domain = file.parent().filter(|_| path.is_dir()).map_or_else(|| name(&file), name);
            documents.push(document(model, &domain, &read_text(&file)?, length).map_err(|error| error.or_file(&file))?);
        }
    }
    Ok(documents)
}

/// A file, or all files below a folder in the order of their paths.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries: Vec<PathBuf> =
        entries.map_err(|error| Error::io(path, &error))?.into_iter().map(|entry| entry.path()).collect();
    entries.sort_unstable();
    let files = entries.iter().map(|entry| files(entry)).collect::<Result<Vec<_>>>()?.concat();
    if files.is_empty() {
        return Err(Error::in_file(path, "expected text files in the folder, found none"));
    }
    Ok(files)
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
        writeln!(
            out,
            "policy,placement,cache,perplexity,perplexity_change,low,high,divergence_nats,switch_rate,miss_rate,misses_to_raw,mass_loss,agreement,token_time_us"
        )?;
        outcome.rows.iter().try_for_each(|row| {
            writeln!(
                out,
                "{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
                row.policy,
                row.placement,
                row.cache,
                row.perplexity,
                row.perplexity_change,
                row.perplexity_change_interval[0],
                row.perplexity_change_interval[1],
                row.divergence_nats,
                row.switch_rate.map_or(String::new(), |rate| rate.to_string()),
                row.miss_rate,
                row.misses_to_raw,
                row.mass_loss,
                row.agreement,
                row.token_time_us
            )
        })
    })
}
