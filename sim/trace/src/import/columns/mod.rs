//! Logs as tables: CSV with a line of names, or JSON lines, of which a description says what each column is. Some are
//! known (`known.toml` beside this file); anyone can describe one's own.
//!
//! ```
//! use cptr_trace::import::{Columns, Options, Recording, read};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("log.csv");
//! std::fs::write(&path, "step,block,chosen\n0,3,7 6\n0,4,2 1\n1,3,5 6\n1,4,0 1\n").unwrap();
//! let columns = Columns::parse("name = 'mine'\nlayer = 'block'\nexperts = 'chosen'\nposition = 'step'\n").unwrap();
//! let options = Options { columns: Some(columns), ..Options::default() };
//! let Recording::Tokens(trace) = read(&path, &options).unwrap() else { panic!("counts") };
//! assert_eq!((trace.chosen(1, 0), &trace.meta.layer_ids[..]), (&[5, 6][..], &[3, 4][..]));
//! ```

mod cells;

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;

use super::rows::{self, Row};
use super::{Entry, Importer, Options, Part, Recording};
use crate::error::{Error, Result};
use crate::{Meta, Phase};
use cells::Record;

/// What the columns of a log are. A column is named by its head in CSV, by its key in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// What the log is called in notes.
    name: String,
    /// The layer: a number, or a text with one number in it.
    layer: String,
    /// The chosen experts: one column with a list of them, or a column for each. A list of lists is several tokens.
    experts: Names,
    /// Their weights, in the same form and order.
    weights: Option<Names>,
    /// What tells sequences apart, all of it together; none: one sequence.
    #[serde(default)]
    sequence: Vec<String>,
    /// The token's position in its sequence; where it does not grow, another sequence begins. None: the n-th row of a
    /// layer in a sequence is token n.
    position: Option<String>,
    /// The token's id.
    token: Option<String>,
    /// Whether a token is of the prompt; none: all are.
    phase: Option<Phases>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Phases {
    column: String,
    prefill: Vec<String>,
    decode: Vec<String>,
}

#[derive(Deserialize)]
struct Known {
    log: Vec<Columns>,
}

/// Logs that are known by their columns.
static KNOWN: LazyLock<Vec<Columns>> = LazyLock::new(|| {
    // A test reads it.
    toml::from_str::<Known>(include_str!("known.toml")).map(|known| known.log).unwrap_or_default()
});

impl Columns {
    /// Reads a description (TOML).
    ///
    /// # Errors
    /// Unknown keys, missing ones.
    pub fn parse(text: &str) -> Result<Self> {
        let columns: Self = toml::from_str(text).map_err(|error| {
            let message = error.message().trim_end().replace('\n', " ");
            Error::new(format!("expected name, layer, experts and what else columns may be: {message}"))
        })?;
        let lists = [Some(&columns.experts), columns.weights.as_ref()];
        if lists.into_iter().flatten().any(|names| names.list().is_empty()) {
            return Err(Error::new("expected a column of experts at least, found an empty list"));
        }
        Ok(columns)
    }

    /// All columns that are read.
    fn needed(&self) -> impl Iterator<Item = &str> {
        let lists = self.experts.list().iter().chain(self.weights.iter().flat_map(Names::list));
        let single = [self.position.as_ref(), self.token.as_ref(), self.phase.as_ref().map(|phase| &phase.column)];
        let single = single.into_iter().flatten().chain([&self.layer]).chain(&self.sequence);
        lists.chain(single).map(String::as_str)
    }

    /// Whether a log with these columns is of this kind.
    fn fits(&self, found: &[String]) -> bool {
        self.needed().all(|name| found.iter().any(|found| found == name))
    }
}

impl Names {
    fn list(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

/// Tables with described columns.
pub(super) struct Log;

impl Importer for Log {
    fn name(&self) -> &'static str {
        "columns"
    }

    fn about(&self) -> &'static str {
        "CSV or JSON lines with described columns (--columns); MoE-Beyond, speculative-moe, moe-balance by themselves"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        cells::names(head).is_some_and(|found| KNOWN.iter().any(|columns| columns.fits(&found)))
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let bytes = entry.bytes()?;
        let Some(found) = cells::names(&bytes) else {
            return Err(Error::new("expected CSV with a line of names, or JSON lines, found something else"));
        };
        let columns = match &options.columns {
            Some(asked) => {
                if let Some(missing) = asked.needed().find(|name| !found.iter().any(|found| found == name)) {
                    let found = found.join(", ");
                    return Err(Error::new(format!("expected a column \"{missing}\", found {found}")));
                }
                asked
            }
            None => KNOWN.iter().find(|columns| columns.fits(&found)).ok_or_else(|| {
                let found = found.join(", ");
                Error::new(format!("expected columns of a known log, or a description (--columns), found {found}"))
            })?,
        };
        let mut reader = Reader { columns, sequences: HashMap::new(), numbers: 0, rows: Vec::new() };
        cells::records(&bytes, |record| reader.take(record))?;
        let meta = Meta { source: columns.name.clone(), domains: vec![String::new()], ..Meta::default() };
        let recording = Recording::Tokens(rows::trace(reader.rows, meta)?);
        Ok(Part { path, recording, experts_known: false, sequences_known: !columns.sequence.is_empty() })
    }
}

/// Where a layer of a sequence is.
struct Place {
    /// How often positions of the layer have begun anew.
    restarts: usize,
    /// The next position, where none is recorded, or one more than the last.
    next: u32,
}

struct Reader<'a> {
    columns: &'a Columns,
    /// By its name: the number of each of its runs of growing positions, and the place of each layer.
    sequences: HashMap<String, (Vec<u32>, HashMap<u32, Place>)>,
    numbers: u32,
    rows: Vec<Row>,
}

impl Reader<'_> {
    /// Adds the tokens of a record.
    fn take(&mut self, record: &Record<'_>) -> Result<()> {
        let columns = self.columns;
        let layer = record.number_in(&columns.layer)?;
        let experts = record.lists::<u16>(columns.experts.list(), "an expert's number")?;
        let weights: Vec<Option<Vec<f32>>> = match &columns.weights {
            Some(names) => record.lists::<f32>(names.list(), "a weight")?.into_iter().map(Some).collect(),
            None => vec![None; experts.len()],
        };
        if weights.len() != experts.len() {
            return Err(Error::new(format!(
                "expected weights of as many tokens as experts, found {} and {}",
                weights.len(),
                experts.len()
            )));
        }
        let phase = match &columns.phase {
            None => Phase::Prefill,
            Some(phases) => {
                let found = record.text(&phases.column)?;
                match (phases.prefill.contains(&found), phases.decode.contains(&found)) {
                    (true, _) => Phase::Prefill,
                    (false, true) => Phase::Decode,
                    (false, false) => {
                        return Err(Error::new(format!(
                            "{}: expected a named phase, found \"{found}\"",
                            phases.column
                        )));
                    }
                }
            }
        };
        let name = columns.sequence.iter().map(|name| record.text(name)).collect::<Result<Vec<_>>>()?.join("\u{1f}");
        let (runs, places) = self.sequences.entry(name).or_default();
        let place = places.entry(layer).or_insert(Place { restarts: 0, next: 0 });
        for (index, (ids, weights)) in experts.into_iter().zip(weights).enumerate() {
            let position = match &columns.position {
                Some(name) => record.number(name, index)?,
                None => place.next,
            };
            place.restarts += usize::from(position < place.next);
            place.next = position.saturating_add(1);
            if place.restarts == runs.len() {
                runs.push(self.numbers);
                self.numbers += 1;
            }
            let sequence = runs[place.restarts];
            let token = columns.token.as_ref().map(|name| record.number(name, index)).transpose()?;
            self.rows.push(Row { sequence, position, phase, token, layer, ids, weights });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
