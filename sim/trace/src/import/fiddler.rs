//! fiddler's expert popularity: JSON `{"total_input_tokens": n, "expert_popularity": [L][E]}`, or an object of several
//! such by name.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Entry, Importer, Options, Part};
use crate::MAX_EXPERTS;
use crate::counts::{CountTable, Counts};
use crate::error::{Error, Result};

/// Popularity tables.
pub(super) struct Fiddler;

#[derive(Deserialize)]
struct Popularity {
    total_input_tokens: u64,
    expert_popularity: Vec<Vec<u64>>,
}

impl Importer for Fiddler {
    fn name(&self) -> &'static str {
        "fiddler"
    }

    fn about(&self) -> &'static str {
        "fiddler expert popularity: JSON with expert_popularity [L][E]"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        let key = b"\"expert_popularity\"";
        head.trim_ascii_start().starts_with(b"{") && head.windows(key.len()).any(|part| part == key)
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let bytes = entry.bytes()?;
        let one = || serde_json::from_slice(&bytes).map(|table| BTreeMap::from([(String::new(), table)]));
        let parsed: BTreeMap<String, Popularity> = serde_json::from_slice(&bytes)
            .or_else(|error| one().map_err(|_| error))
            .map_err(|error| Error::new(format!("expected JSON with expert_popularity: {error}")))?;
        let mut counts = Counts { source: "fiddler expert popularity".into(), ..Counts::default() };
        let mut ratios: Vec<f64> = Vec::new();
        for (key, table) in parsed {
            check(&table.expert_popularity).map_err(|error| if key.is_empty() { error } else { error.at(&key) })?;
            let row: u64 = table.expert_popularity[0].iter().fold(0, |sum, &count| sum.saturating_add(count));
            ratios.push(row as f64 / table.total_input_tokens.max(1) as f64);
            let file = path.file_stem().unwrap_or_default().to_string_lossy();
            counts.tables.push(CountTable {
                name: if key.is_empty() { file.into_owned() } else { short(&key) },
                model: options
                    .model
                    .clone()
                    .unwrap_or_else(|| key.split_once('/').map_or("", |(model, _)| model).into()),
                k: options.top_k.unwrap_or(0),
                layer_ids: (0..table.expert_popularity.len() as u32).collect(),
                counts: table.expert_popularity,
            });
        }
        let (low, high) = ratios.iter().fold((f64::MAX, 0.0_f64), |(low, high), &r| (low.min(r), high.max(r)));
        if ratios.iter().any(|ratio| (ratio - ratio.round()).abs() > 0.01) {
            counts.notes.push(format!(
                "The counts of a layer sum to {low:.2} to {high:.2} times the stated number of tokens, not to a whole number of experts \
                 per token: use them as shares only."
            ));
        }
        Ok(Part::counts(path, counts))
    }
}

/// `MODEL/expert_popularity_SUBJECT.json` without the parts that are always there.
fn short(key: &str) -> String {
    key.replace("expert_popularity_", "").trim_end_matches(".json").into()
}

fn check(rows: &[Vec<u64>]) -> Result<()> {
    let experts = rows.first().map_or(0, Vec::len);
    if !(1..=MAX_EXPERTS).contains(&experts) {
        return Err(Error::new(format!("expected 1 to {MAX_EXPERTS} experts in layer 0, found {experts}")));
    }
    match rows.iter().position(|row| row.len() != experts) {
        Some(layer) => {
            Err(Error::new(format!("expected {experts} counts, found {}", rows[layer].len()))
                .at(format!("layer {layer}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, counts};
    use super::*;

    #[test]
    fn reads_one_table_or_several() {
        let folder = Folder::new();
        let one = r#"{"total_input_tokens": 5, "expert_popularity": [[4, 6], [3, 7]]}"#;
        let counts_of = |name: &str, text: &str| counts(folder.import(name, text, &Options::default()).unwrap());
        let read = counts_of("law.json", one);
        assert_eq!((read.tables[0].name.as_str(), read.notes.len()), ("law", 0));
        assert_eq!(read.tables[0].counts, [[4, 6], [3, 7]]);
        let several = counts_of(
            "all.json",
            r#"{"mix/expert_popularity_law.json": {"total_input_tokens": 4, "expert_popularity": [[4, 6]]}}"#,
        );
        assert_eq!((several.tables[0].name.as_str(), several.tables[0].model.as_str()), ("mix/law", "mix"));
        assert!(several.notes[0].contains("2.50 to 2.50 times"), "{:?}", several.notes);
    }

    #[test]
    fn refuses_what_cannot_be() {
        let folder = Folder::new();
        let refusal = |text: &str| folder.refusal("a.json", text, &Options::default());
        let rows = |rows: &str| refusal(&format!(r#"{{"total_input_tokens": 5, "expert_popularity": {rows}}}"#));
        assert_eq!(rows("[[1, 2], [3]]"), "a.json: layer 1: expected 2 counts, found 1");
        assert!(rows("[]").contains("1 to 1024 experts"));
        assert!(rows("[[1, -2]]").contains("expected JSON"));
        assert!(rows("[[1, 2]").contains("expected JSON"));
        assert!(rows("[[1, 2.5]]").contains("expected JSON"));
    }
}
