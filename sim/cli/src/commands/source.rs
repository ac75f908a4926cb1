//! What the user of a trace may know about it, shared by all commands that read one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cptr_sim::replay::Budget;
use cptr_trace::error::{Error, Result};
use cptr_trace::file;
use cptr_trace::import::{self, Columns, IMPORTERS, Layout, Options, Recording};
use cptr_trace::progress::Progress;
use cptr_trace::{Router, Trace};

/// Bytes that the description of a log's columns may have.
const MOST_COLUMNS: u64 = 1 << 16;

#[derive(Debug, Default, clap::Args)]
pub(super) struct Reading {
    /// Format, where the contents do not tell
    #[arg(long, value_name = "NAME", help_heading = "Reading", value_parser = format_name)]
    format: Option<String>,
    /// What the columns of a log are: a TOML file with layer, experts and what else there is (docs/traces.md)
    #[arg(long, value_name = "FILE.toml", help_heading = "Reading")]
    columns: Option<PathBuf>,
    /// Routed experts per layer, where the trace does not tell
    #[arg(long, value_name = "N", help_heading = "Reading")]
    experts: Option<usize>,
    /// Experts per token, where the trace does not tell
    #[arg(long, value_name = "K", help_heading = "Reading")]
    top_k: Option<usize>,
    /// Order of the axes of an array: token-layer or layer-token
    #[arg(long, value_name = "ORDER", help_heading = "Reading")]
    layout: Option<Layout>,
    /// Tokens after which the context restarts; 0: never (default: looked for)
    #[arg(long, value_name = "TOKENS", help_heading = "Reading")]
    chunk: Option<usize>,
    /// Router: softmax-all, softmax-selected, sigmoid, sqrt-softplus or sparse-mixer, then :GROUPS:TOP_GROUPS and what
    /// else departs from the usual, such as :scale=2.5, :renormalise=off, :bias=logits, :null=16, :top-p=0.9 or
    /// :table=3 (docs/traces.md)
    #[arg(long, value_name = "ROUTER", help_heading = "Reading")]
    router: Option<Router>,
    /// Keep the identical rows with which a server warms up, which are left out otherwise
    #[arg(long, help_heading = "Reading")]
    keep_startup: bool,
    /// Most memory that the arrays of a file may take once they are read, such as 8GB (default: a quarter of this
    /// computer's, 1 to 8 GB)
    #[arg(long, value_name = "BYTES", help_heading = "Reading", value_parser = bytes)]
    memory: Option<u64>,
    /// Name of the model, where the trace does not tell
    #[arg(long, value_name = "NAME", help_heading = "Reading")]
    model: Option<String>,
    /// Only these domains
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Reading")]
    domain: Vec<String>,
    /// At most this many tokens of each domain, whole sequences only
    #[arg(long, value_name = "TOKENS", help_heading = "Reading")]
    domain_tokens: Option<usize>,
    /// Only the first tokens
    #[arg(long, value_name = "TOKENS", help_heading = "Reading")]
    tokens: Option<usize>,
    /// What is worked on instead of what a path says
    #[arg(skip)]
    given: Option<Arc<Recording>>,
}

fn bytes(text: &str) -> std::result::Result<u64, String> {
    match text.parse::<Budget>() {
        Ok(Budget::Bytes { bytes, .. }) => Ok(bytes),
        _ => Err("expected bytes, such as 8GB or 512MiB".into()),
    }
}

fn format_name(name: &str) -> std::result::Result<String, String> {
    let names: Vec<_> = IMPORTERS.iter().map(|importer| importer.name()).collect();
    if names.contains(&name) { Ok(name.into()) } else { Err(format!("expected one of {}", names.join(", "))) }
}

/// `TRACE#DOMAIN`: one domain of a trace; `TRACE`: all of its domains, one by one.
pub(super) fn read_parts(name: &str) -> Result<Vec<Trace>> {
    let (path, domain) = match name.rsplit_once('#') {
        Some((path, domain)) if !Path::new(name).exists() => (path, Some(domain)),
        _ => (name, None),
    };
    let path = PathBuf::from(path);
    let reading = Progress::unknown("reading");
    let recording = import::read(&path, &Options::default())?;
    drop(reading);
    let Recording::Tokens(trace) = recording else {
        return Err(Error::in_file(&path, "expected a trace of tokens, found counts"));
    };
    let domains = &trace.meta.domains;
    if let Some(unknown) = domain.filter(|name| !domains.iter().any(|known| known == name)) {
        return Err(Error::in_file(&path, format!("expected a domain ({}), found \"{unknown}\"", domains.join(", "))));
    }
    let wanted = (0..domains.len()).filter(|&index| domain.is_none_or(|name| domains[index] == name));
    wanted.map(|index| trace.part(|other| other == index, usize::MAX).map_err(|e| e.or_file(&path))).collect()
}

impl Reading {
    /// Has a recording worked on instead of a file.
    pub(super) fn give(&mut self, recording: Option<Arc<Recording>>) {
        self.given = recording;
    }

    pub(super) fn read(&self, path: &Path) -> Result<Recording> {
        match &self.given {
            Some(_) if self.says_what_a_file_is() => Err(Error::usage(
                "expected no option of reading but --domain, --domain-tokens and --tokens for a recording in memory",
            )),
            Some(recording) => self.select(Recording::clone(recording), path),
            None => self.select(self.open(path)?, path),
        }
    }

    /// Whether an option says what is in a file.
    fn says_what_a_file_is(&self) -> bool {
        let Self { format, experts, top_k, layout, chunk, router, keep_startup, memory, model, columns, .. } = self;
        let numbers = [experts, top_k, chunk].iter().any(|number| number.is_some()) || memory.is_some();
        let texts = format.is_some() || layout.is_some() || router.is_some() || model.is_some();
        numbers || texts || columns.is_some() || *keep_startup
    }

    fn open(&self, path: &Path) -> Result<Recording> {
        let columns = self.columns.as_deref().map(|file| {
            Columns::parse(&file::text(file, MOST_COLUMNS)?).map_err(|error| Error::in_file(file, error.to_string()))
        });
        let options = Options {
            columns: columns.transpose()?,
            experts: self.experts,
            top_k: self.top_k,
            layout: self.layout,
            chunk: self.chunk,
            format: self.format.clone(),
            router: self.router,
            model: self.model.clone(),
            keep_startup: self.keep_startup,
            memory: self.memory,
            ..Options::default()
        };
        let reading = Progress::unknown("reading");
        let recording = import::read(path, &options);
        drop(reading);
        recording
    }

    /// The domains and tokens asked for.
    fn select(&self, recording: Recording, path: &Path) -> Result<Recording> {
        match recording {
            Recording::Tokens(trace) => Ok(Recording::Tokens(self.part(trace).map_err(|e| e.or_file(path))?)),
            counts @ Recording::Counts(_)
                if self.domain.is_empty() && self.domain_tokens.is_none() && self.tokens.is_none() =>
            {
                Ok(counts)
            }
            Recording::Counts(_) => Err(Error::in_file(
                path,
                "expected a trace of tokens for --domain, --domain-tokens and --tokens, found counts",
            )),
        }
    }

    /// A trace of tokens, for commands that need their order.
    pub(super) fn tokens(&self, path: &Path) -> Result<Trace> {
        match self.read(path)? {
            Recording::Tokens(trace) => Ok(trace),
            Recording::Counts(_) => {
                Err(Error::in_file(path, "expected a trace of tokens, found counts, which have no order"))
            }
        }
    }

    fn part(&self, trace: Trace) -> Result<Trace> {
        let trace = self.domains(trace)?;
        match self.tokens {
            Some(0) => Err(Error::new("--tokens: expected at least 1, found 0")),
            Some(count) if count < trace.shape.tokens => Ok(trace.first(count)),
            _ => Ok(trace),
        }
    }

    fn domains(&self, trace: Trace) -> Result<Trace> {
        if self.domain.is_empty() && self.domain_tokens.is_none() {
            return Ok(trace);
        }
        let known = &trace.meta.domains;
        if let Some(unknown) = self.domain.iter().find(|name| !known.contains(name)) {
            return Err(Error::new(format!("expected a domain ({}), found \"{unknown}\"", known.join(", "))));
        }
        let wanted = |domain: usize| self.domain.is_empty() || self.domain.contains(&known[domain]);
        trace.part(wanted, self.domain_tokens.unwrap_or(usize::MAX))
    }
}
