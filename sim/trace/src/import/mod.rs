//! Everybody else's routing recordings.
//!
//! [`read`] takes a file, a folder or an archive (tar, gzip, zstd), or `-`, the standard input, recognises the format
//! of each file inside by its contents, and joins what it finds: several traces of one shape become one trace with a
//! domain each. Files of no known format in a folder (notes, configurations, metrics) are passed over, and a note names
//! them.
//!
//! A new format is one file with an [`Importer`] and one line in [`IMPORTERS`].
//!
//! ```
//! use cptr_trace::import::{Options, Recording, read};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("experts.csv");
//! std::fs::write(&path, "layer_id,expert_ids\n0,7 6\n1,2 1\n0,5 6\n1,0 1\n").unwrap();
//! let Recording::Tokens(trace) = read(&path, &Options::default()).unwrap() else { panic!("counts") };
//! assert_eq!((trace.shape.tokens, trace.chosen(1, 0)), (2, &[5, 6][..]));
//! ```

mod coli_usage;
mod columns;
mod dynande;
mod esft;
mod fiddler;
mod flash_moe;
mod gpt_oss;
mod imatrix;
mod join;
mod llama_csv;
mod moe_cache_lab;
mod moe_infinity;
mod moe_sim;
mod moe_trace;
mod native;
pub(crate) mod npy;
mod numpy;
mod olmoe_counts;
mod per_layer;
mod response;
mod rows;
mod sglang;
mod source;
#[cfg(test)]
mod testing;
mod torch;
mod vllm_log;

pub use columns::Columns;
pub use join::concatenate;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::counts::Counts;
use super::{NO_EXPERT, Phase, Router, Trace, gate, restarts};
use crate::error::{Error, Result};
pub use source::{Entry, HEAD, MAX_INFLATED};

/// All importers; where two recognise a file, the first has it.
pub const IMPORTERS: &[&dyn Importer] = &[
    &native::Native,
    // A file of torch.save is a zip archive too.
    &sglang::Sglang,
    &numpy::Numpy,
    &moe_infinity::MoeInfinity,
    &gpt_oss::GptOss,
    &esft::Esft,
    &fiddler::Fiddler,
    &flash_moe::FlashMoe,
    &olmoe_counts::OlmoeCounts,
    &moe_sim::MoeSim,
    &moe_cache_lab::MoeCacheLab,
    &vllm_log::VllmLog,
    &response::Response,
    &llama_csv::LlamaCsv,
    &dynande::DynaNde,
    &columns::Log,
    &imatrix::Imatrix,
    &coli_usage::ColiUsage,
    // Anything binary that begins with small numbers.
    &moe_trace::MoeTrace,
];

/// What a source recorded.
#[expect(clippy::large_enum_variant, reason = "one is made per command")]
#[derive(Debug, Clone)]
pub enum Recording {
    /// The experts of every token, in order.
    Tokens(Trace),
    /// Sums without order.
    Counts(Counts),
}

/// Which of the two outer axes of an array are the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[T, L, …]`.
    TokenLayer,
    /// `[L, T, …]`.
    LayerToken,
}

impl FromStr for Layout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "token-layer" => Ok(Self::TokenLayer),
            "layer-token" => Ok(Self::LayerToken),
            _ => Err(Error::new(format!("expected layout token-layer or layer-token, found \"{text}\""))),
        }
    }
}

/// What the caller knows about a source beyond what it says itself. What both say must agree, but for `router`, `model`
/// and `phase`, which override.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Routed experts per layer.
    pub experts: Option<usize>,
    /// Experts per token.
    pub top_k: Option<usize>,
    /// Order of the axes of an array.
    pub layout: Option<Layout>,
    /// Tokens after which the context restarts; 0 says that it does not. `None`: looked for where the source has no
    /// sequences ([`restarts`]).
    pub chunk: Option<usize>,
    /// Name of the importer ([`Importer::name`]); `None`: recognised by content.
    pub format: Option<String>,
    /// What the columns of a log are; the format is `columns` then, where none is named.
    pub columns: Option<Columns>,
    /// Router convention.
    pub router: Option<Router>,
    /// Model name.
    pub model: Option<String>,
    /// Phase of all tokens.
    pub phase: Option<Phase>,
    /// Whether identical rows at the beginning, which servers leave there when they try out their memory, are kept.
    pub keep_startup: bool,
    /// Most bytes that the arrays of a reading may become; `None`: [`default_memory`].
    pub memory: Option<u64>,
}

/// A quarter of the machine's memory, at least 1 GiB and at most 8.
#[must_use]
pub fn default_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    (kib.unwrap_or(0_u64) * 1024 / 4).clamp(1 << 30, 8 << 30)
}

impl Options {
    fn budget(&self) -> u64 {
        self.memory.unwrap_or_else(default_memory)
    }
}

/// What one file holds.
pub struct Part {
    /// The file, see [`Entry::path`].
    pub path: PathBuf,
    /// Its contents. A trace whose only domain has an empty name gets the file's.
    pub recording: Recording,
    /// Whether the number of experts is recorded; otherwise it is one more than the highest id.
    pub experts_known: bool,
    /// Whether the beginnings of sequences are recorded.
    pub sequences_known: bool,
}

impl Part {
    /// A trace that says all about itself.
    pub fn tokens(path: PathBuf, trace: Trace) -> Self {
        Self { path, recording: Recording::Tokens(trace), experts_known: true, sequences_known: true }
    }

    /// Counts.
    pub fn counts(path: PathBuf, counts: Counts) -> Self {
        Self { path, recording: Recording::Counts(counts), experts_known: true, sequences_known: true }
    }
}

/// A file format.
pub trait Importer: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;

    /// One line for the help text.
    fn about(&self) -> &'static str;

    /// Whether a file is of this format, by its path and its first [`HEAD`] bytes.
    fn detect(&self, path: &Path, head: &[u8]) -> bool;

    /// Whether its files look like those of another format, so that it must be asked for by name.
    fn ambiguous(&self) -> bool {
        false
    }

    /// Whether its files are logs of a server, which may begin with the rows of a trial run.
    fn serves(&self) -> bool {
        false
    }

    /// Reads one file. [`read`] validates the result.
    ///
    /// # Errors
    /// If the file is damaged or says something impossible.
    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part>;

    /// Puts files together that hold pieces of one trace; by default each is a trace of its own.
    ///
    /// # Errors
    /// If the pieces do not fit.
    fn assemble(&self, parts: Vec<Part>, _options: &Options) -> Result<Vec<Part>> {
        Ok(parts)
    }
}

/// Reads a file, a folder or an archive.
///
/// # Errors
/// If nothing of a known format is there, files of several formats or shapes are, or a file is damaged.
pub fn read(path: &Path, options: &Options) -> Result<Recording> {
    read_limited(path, options, MAX_INFLATED.min(options.budget()))
}

/// As [`read`], with the bytes that an archive may inflate to.
fn read_limited(path: &Path, options: &Options, max_inflated: u64) -> Result<Recording> {
    let found = collect(path, options, max_inflated)?;
    let Some(importer) = found.importer else { return Err(nothing_known(path, &found.ignored)) };
    let mut parts = importer.assemble(found.parts, options).map_err(|error| error.or_file(path))?;
    for part in &mut parts {
        let file = part.path.clone();
        complete(part, options, importer.serves()).map_err(|error| error.or_file(&file))?;
    }
    let mut recording = join::join(parts).map_err(|error| error.or_file(path))?;
    if let Recording::Counts(counts) = &mut recording {
        gate::pass_counts(counts).map_err(|error| error.or_file(path))?;
    }
    if !found.ignored.is_empty() {
        let note = format!("Passed over, not of a known format: {}.", list(&found.ignored));
        match &mut recording {
            Recording::Tokens(trace) => trace.notes.push(note),
            Recording::Counts(counts) => counts.notes.push(note),
        }
    }
    Ok(recording)
}

#[derive(Default)]
struct Found {
    importer: Option<&'static dyn Importer>,
    parts: Vec<Part>,
    ignored: Vec<PathBuf>,
}

fn collect(path: &Path, options: &Options, max_inflated: u64) -> Result<Found> {
    let described: Option<&'static dyn Importer> = options.columns.as_ref().map(|_| &columns::Log as _);
    let asked = options.format.as_deref().map(by_name).transpose()?.or(described);
    // A file of its own is what the caller says it is; in a folder the caller means those that look so.
    let alone = source::is_standard_input(path) || path.is_file() && !source::is_packed(path);
    // Nothing looks like a log that the caller describes.
    let forced = asked.filter(|_| alone || described.is_some());
    let mut found = Found::default();
    source::visit(path, max_inflated, &mut |entry| {
        let detected = |importer: &&&'static dyn Importer| importer.detect(entry.path(), entry.head());
        let importer = forced.or_else(|| match &asked {
            Some(importer) => Some(importer).filter(detected).copied(),
            None => IMPORTERS.iter().filter(|importer| !importer.ambiguous()).find(detected).copied(),
        });
        let Some(importer) = importer else {
            found.ignored.push(entry.path().into());
            return Ok(());
        };
        let name = entry.path().to_owned();
        if let Some(other) = found.importer.replace(importer).filter(|other| other.name() != importer.name()) {
            let before = found.parts.first().map_or_else(String::new, |part| format!(" ({})", part.path.display()));
            return Err(Error::in_file(
                path,
                format!(
                    "expected files of one format, found {}{before} and {} ({}): name one of them or the format",
                    other.name(),
                    importer.name(),
                    name.display()
                ),
            ));
        }
        found.parts.push(importer.import(entry, options).map_err(|error| error.or_file(&name))?);
        Ok(())
    })?;
    Ok(found)
}

fn by_name(name: &str) -> Result<&'static dyn Importer> {
    let names = || IMPORTERS.iter().map(|importer| importer.name()).collect::<Vec<_>>().join(", ");
    IMPORTERS
        .iter()
        .find(|importer| importer.name() == name)
        .copied()
        .ok_or_else(|| Error::new(format!("expected a format ({}), found \"{name}\"", names())))
}

fn nothing_known(path: &Path, ignored: &[PathBuf]) -> Error {
    let names: Vec<_> = IMPORTERS.iter().map(|importer| importer.name()).collect();
    let found = match ignored {
        [] => "no file at all".to_owned(),
        [only] if only == path => "something else".to_owned(),
        several => list(several),
    };
    Error::in_file(
        path,
        format!(
            "expected a routing trace of a known format ({}), or a log and its --columns, found {found}",
            names.join(", ")
        ),
    )
}

/// Up to eight file names, each once.
fn list(paths: &[PathBuf]) -> String {
    let name = |path: &PathBuf| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let names: BTreeSet<String> = paths.iter().map(name).collect();
    let rest = names.len().saturating_sub(8);
    let mut shown: Vec<String> = names.into_iter().take(8).collect();
    if rest > 0 {
        shown.push(format!("{rest} more"));
    }
    shown.join(", ")
}

/// Adds what the caller and the file name say, lets it through the gate, and looks for restarts.
fn complete(part: &mut Part, options: &Options, served: bool) -> Result<()> {
    let Recording::Tokens(trace) = &mut part.recording else { return Ok(()) };
    if let Some(router) = options.router {
        // Of the scores in the file, the last belong to null experts.
        let change = usize::from(trace.meta.router.null_experts) as isize - usize::from(router.null_experts) as isize;
        if part.experts_known {
            trace.shape.experts = trace.shape.experts.saturating_add_signed(change);
        }
        trace.meta.router = router;
    }
    if let Some(experts) = options.experts {
        null_experts(part.experts_known, trace, experts);
        if part.experts_known && trace.shape.experts != experts {
            return Err(Error::new(format!(
                "expected {experts} experts as asked, found that the file says {}",
                trace.shape.experts
            )));
        }
        trace.shape.experts = experts;
        part.experts_known = true;
    }
    if let Some(k) = options.top_k.filter(|&k| k != trace.shape.k) {
        return Err(Error::new(format!("expected {k} experts per token as asked, found {}", trace.shape.k)));
    }
    if let Some(model) = &options.model {
        trace.meta.model.clone_from(model);
    }
    if let Some(phase) = options.phase {
        trace.phase.fill(phase);
    }
    if let [name] = &mut trace.meta.domains[..]
        && name.is_empty()
    {
        *name = part.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    }
    gate::pass(trace)?;
    if served && !options.keep_startup {
        gate::drop_start_up(trace);
    }
    match options.chunk {
        Some(0) => {}
        Some(period) => {
            restarts::cut(trace, period);
            trace.notes.push(format!("Sequences cut every {period} tokens as asked."));
        }
        None if part.sequences_known => {}
        None => restarts::find_and_cut(trace),
    }
    Ok(())
}

/// Ids from the asked number of experts on mean "no expert" (LongCat), if they are the smaller part of all.
fn null_experts(known: bool, trace: &mut Trace, experts: usize) {
    let real = trace.ids.iter().filter(|&&id| usize::from(id) < experts).count();
    let null = trace.ids.iter().filter(|&&id| usize::from(id) >= experts && id != NO_EXPERT).count();
    let highest = trace.ids.iter().filter(|&&id| id != NO_EXPERT).max().map_or(0, |&id| usize::from(id));
    if known || null == 0 || 2 * null >= real || trace.meta.router.null_experts > 0 {
        return;
    }
    trace.meta.router.null_experts = (highest + 1 - experts) as u16;
    let share = 100.0 * null as f64 / (real + null) as f64;
    trace.notes.push(format!(
        "Ids from {experts} to {highest}, {share:.1} % of the choices, are taken for null experts: they run nothing."
    ));
}

/// Shape and values of a tensor in a file of `torch.save`, for the tests of what writes such files.
#[cfg(test)]
pub(crate) fn torch_tensor(bytes: &[u8], key: &str) -> Result<(Vec<usize>, Vec<f64>)> {
    let mut budget = u64::MAX;
    let mut file = torch::File::open(bytes, &mut budget)?;
    let id = file.get(file.root(), key).ok_or_else(|| Error::new(format!("expected {key}")))?;
    let tensor = file.tensor(id, &mut budget)?;
    Ok((tensor.shape, tensor.values))
}

#[cfg(test)]
mod tests;
