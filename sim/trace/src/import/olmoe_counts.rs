//! OLMoE's routing analysis as JSON: `{"MODEL/KIND/DOMAIN": [one object per layer or pair of layers]}`, each object
//! `{"EXPERT": count}` or `{"A,B": count}` (expert in the first layer, in the second).
//!
//! Kinds: `expert_counts`, `expert_counts_top1`, `expert_counts_crosslayer`, `expert_counts_crosslayer_top1`. Three
//! layers were traced, 0, 7 and 15 (upstream `scripts/run_routing_analysis.py`); other numbers of entries are numbered
//! from 0.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;

use super::{Entry, Importer, Options, Part};
use crate::MAX_EXPERTS;
use crate::counts::{CountTable, Counts, PairTable};
use crate::error::{Error, Result};

/// Layers that upstream traced.
const LAYERS: [u32; 3] = [0, 7, 15];

/// Cells that tables may have beyond sixteen per byte of the file: the largest table that a tiny file may name.
const FREE_CELLS: usize = MAX_EXPERTS * MAX_EXPERTS;

/// Domain tables of OLMoE and Mixtral.
pub(super) struct OlmoeCounts;

#[derive(Deserialize)]
#[serde(transparent)]
struct Tables(BTreeMap<String, Vec<HashMap<String, u64>>>);

impl Importer for OlmoeCounts {
    fn name(&self) -> &'static str {
        "olmoe-counts"
    }

    fn about(&self) -> &'static str {
        "OLMoE routing analysis: JSON {model/expert_counts/domain: [{expert: count}]}"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        let key = b"/expert_counts";
        head.trim_ascii_start().starts_with(b"{") && head.windows(key.len()).any(|part| part == key)
    }

    fn import(&self, entry: Entry<'_>, _: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let bytes = entry.bytes()?;
        let Tables(tables) = serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(format!("expected JSON tables MODEL/KIND/DOMAIN: {error}")))?;
        let experts = experts_of_models(&tables)?;
        let cells = cells(&tables, &experts);
        if cells > bytes.len().saturating_mul(16).saturating_add(FREE_CELLS) {
            return Err(Error::new(format!(
                "expected tables that the file can fill, found {cells} cells in {} bytes",
                bytes.len()
            )));
        }
        let mut counts = Counts { source: "OLMoE routing analysis".into(), ..Counts::default() };
        for (key, entries) in &tables {
            add(&mut counts, key, entries, &experts).map_err(|error| error.at(key))?;
        }
        if counts.pairs.iter().any(|pair| !pair.name.ends_with("top-1")) {
            counts.notes.push("Pairs of layers count equal ranks only (first choice with first choice, second with second), not all k x k.".into());
        }
        Ok(Part::counts(path, counts))
    }
}

fn split(key: &str) -> Result<[&str; 3]> {
    let parts: Vec<&str> = key.splitn(3, '/').collect();
    parts.try_into().map_err(|_| Error::new(format!("expected a key MODEL/KIND/DOMAIN, found \"{key}\"")))
}

/// The one or two experts of a key.
fn experts_of(key: &str) -> Result<(usize, Option<usize>)> {
    let number = |text: &str| text.parse().ok().filter(|&expert: &usize| expert < MAX_EXPERTS);
    let parsed = match key.split_once(',') {
        Some((a, b)) => number(a).zip(number(b)).map(|(a, b)| (a, Some(b))),
        None => number(key).map(|expert| (expert, None)),
    };
    parsed.ok_or_else(|| Error::new(format!("expected an expert below {MAX_EXPERTS} or two, found \"{key}\"")))
}

/// One more than the highest expert in any table of each model.
fn experts_of_models(tables: &BTreeMap<String, Vec<HashMap<String, u64>>>) -> Result<HashMap<&str, usize>> {
    let mut experts: HashMap<&str, usize> = HashMap::new();
    for (key, entries) in tables {
        let [model, ..] = split(key)?;
        let most = experts.entry(model).or_default();
        for pair in entries.iter().flat_map(HashMap::keys) {
            let (a, b) = experts_of(pair).map_err(|error| error.at(key))?;
            *most = (*most).max(a + 1).max(b.map_or(0, |b| b + 1));
        }
    }
    Ok(experts)
}

/// Cells of all tables together.
fn cells(tables: &BTreeMap<String, Vec<HashMap<String, u64>>>, experts: &HashMap<&str, usize>) -> usize {
    let cells = |(key, entries): (&String, &Vec<_>)| {
        let experts = split(key).map_or(0, |[model, ..]| experts[model]);
        entries.len() * if key.contains("crosslayer") { experts * experts } else { experts }
    };
    tables.iter().map(cells).sum()
}

fn add(counts: &mut Counts, key: &str, entries: &[HashMap<String, u64>], experts: &HashMap<&str, usize>) -> Result<()> {
    let [model, kind, domain] = split(key)?;
    let experts = experts[model];
    let top_1 = kind.ends_with("_top1");
    let name = format!("{model}/{domain}{}", if top_1 { "/top-1" } else { "" });
    let layer = |i: usize, layers: usize| if layers == LAYERS.len() { LAYERS[i] } else { i as u32 };
    if kind.contains("crosslayer") {
        for (i, entry) in entries.iter().enumerate() {
            let mut table = vec![vec![0; experts]; experts];
            for (pair, &count) in entry {
                let (a, Some(b)) = experts_of(pair)? else {
                    return Err(Error::new(format!("expected \"a,b\", found \"{pair}\"")));
                };
                table[a][b] = count;
            }
            let layers = (layer(i, entries.len() + 1), layer(i + 1, entries.len() + 1));
            counts.pairs.push(PairTable { name: name.clone(), layers, counts: table });
        }
        return Ok(());
    }
    let mut table = vec![vec![0; experts]; entries.len()];
    for (row, entry) in table.iter_mut().zip(entries) {
        for (expert, &count) in entry {
            row[experts_of(expert)?.0] = count;
        }
    }
    // Experts per token of the two models, from their configurations.
    let (full_name, k) = match model {
        "mistral" => ("Mixtral-8x7B", 2),
        _ if model.starts_with("olmoe") => ("OLMoE-1B-7B", 8),
        other => (other, 0),
    };
    counts.tables.push(CountTable {
        name,
        model: full_name.into(),
        k: if top_1 { 1 } else { k },
        layer_ids: (0..entries.len()).map(|i| layer(i, entries.len())).collect(),
        counts: table,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, counts, zstd};
    use super::*;

    const TEXT: &str = r#"{
        "olmoe/expert_counts/arxiv": [{"0": 8, "3": 2}, {"1": 10}, {"2": 10}],
        "olmoe/expert_counts_top1/arxiv": [{"0": 1}, {"1": 1}, {"2": 1}],
        "olmoe/expert_counts_crosslayer/arxiv": [{"0,3": 8, "1,1": 2}, {"2,0": 10}]
    }"#;

    #[test]
    fn reads_layers_and_pairs() {
        let folder = Folder::new();
        for bytes in [TEXT.as_bytes().to_vec(), zstd(TEXT.as_bytes())] {
            let read = counts(folder.import("counts.json", bytes, &Options::default()).unwrap());
            let table = &read.tables[0];
            assert_eq!((table.name.as_str(), table.k, &table.layer_ids[..]), ("olmoe/arxiv", 8, &LAYERS[..]));
            assert_eq!(table.counts, [[8, 0, 0, 2], [0, 10, 0, 0], [0, 0, 10, 0]]);
            assert_eq!((read.tables[1].name.as_str(), read.tables[1].k), ("olmoe/arxiv/top-1", 1));
            assert_eq!(read.pairs.iter().map(|pair| pair.layers).collect::<Vec<_>>(), [(0, 7), (7, 15)]);
            assert_eq!((read.pairs[0].counts[0][3], read.pairs[1].counts[2][0]), (8, 10));
            assert!(read.notes[0].contains("equal ranks only"));
        }
    }

    #[test]
    fn refuses_what_cannot_be() {
        let folder = Folder::new();
        let refusal = |text: &str| folder.refusal("a.json", text, &Options::default());
        assert!(
            refusal(r#"{"m/expert_counts/d": [{"1024": 1}]}"#)
                .contains("m/expert_counts/d: expected an expert below 1024")
        );
        assert!(refusal(r#"{"m/expert_counts/d": [{"a": 1}]}"#).contains("found \"a\""));
        assert!(refusal(r#"{"m/expert_counts": [{"1": 1}]}"#).contains("MODEL/KIND/DOMAIN"));
        assert!(refusal(r#"{"m/expert_counts_crosslayer/d": [{"1": 1}]}"#).contains("\"a,b\""));
        let bomb = format!(r#"{{"m/expert_counts_crosslayer/d": [{{"1023,0": 1}}{}]}}"#, ",{}".repeat(5000));
        assert!(refusal(&bomb).contains("expected tables that the file can fill"));
        assert!(refusal(&TEXT[..TEXT.len() / 2]).contains("expected JSON"));
    }
}
