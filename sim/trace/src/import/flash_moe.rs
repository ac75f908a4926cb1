//! Profiles of flash-moe (github.com/mu-hashmi/flash-moe, `profile_experts.py`): JSON with, of each layer, in how many
//! prompts each expert was wanted.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Entry, Importer, Options, Part};
use crate::counts::{CountTable, Counts};
use crate::error::{Error, Result};

/// A profile.
pub(super) struct FlashMoe;

#[derive(Deserialize)]
struct Profile {
    model: String,
    num_prompts: u64,
    num_experts: usize,
    layers: BTreeMap<u32, Layer>,
}

#[derive(Deserialize)]
struct Layer {
    activation_counts: BTreeMap<usize, u64>,
}

impl Importer for FlashMoe {
    fn name(&self) -> &'static str {
        "flash-moe"
    }

    fn about(&self) -> &'static str {
        "JSON profile: in how many prompts each expert was wanted"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        let has = |key: &[u8]| head.windows(key.len()).any(|part| part == key);
        head.trim_ascii_start().starts_with(b"{") && has(b"\"activation_counts\"") && has(b"\"universal\"")
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        const MOST: usize = 1 << 16;
        let path = entry.path().to_owned();
        let parsed = serde_json::from_slice(&entry.bytes()?);
        let Profile { model, num_prompts, num_experts, layers } =
            parsed.map_err(|error| Error::new(format!("expected a profile of flash-moe: {error}")))?;
        if !(1..=MOST).contains(&num_experts) || layers.is_empty() {
            let found = layers.len();
            return Err(Error::new(format!(
                "expected 1 to {MOST} experts and a layer at least, found {num_experts} and {found}"
            )));
        }
        // Experts that nobody wanted are not in the file, and their zeros are.
        let (bytes, budget) = (8 * (layers.len() * num_experts) as u64, options.budget());
        if bytes > budget {
            return Err(Error::new(format!("expected counts of at most {budget} bytes, found {bytes}")));
        }
        let mut counts = Vec::with_capacity(layers.len());
        for (number, layer) in &layers {
            let mut row = vec![0; num_experts];
            for (&expert, &count) in &layer.activation_counts {
                let place = row.get_mut(expert).filter(|_| count <= num_prompts).ok_or_else(|| {
                    Error::new(format!(
                        "expected experts below {num_experts}, at most {num_prompts} prompts, found {expert}, {count}"
                    ))
                    .at(format!("layer {number}"))
                })?;
                *place = count;
            }
            counts.push(row);
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let table = CountTable { name, model, k: 0, layer_ids: layers.into_keys().collect(), counts };
        let note = format!("Counts are prompts, out of {num_prompts}, that wanted an expert, not tokens.");
        let counts = Counts { source: "flash-moe".into(), tables: vec![table], notes: vec![note], ..Counts::default() };
        Ok(Part::counts(path, counts))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, counts};
    use super::*;

    #[test]
    fn profiles() {
        let folder = Folder::new();
        let text = |count: u64, expert: usize| {
            format!(
                r#"{{"model": "m", "num_prompts": 3, "threshold": 0.5, "capacity": 2, "num_experts": 4, "moe_layers": 1,
                    "layers": {{"2": {{"universal": [1], "activation_counts": {{"1": {count}, "{expert}": 1}}}}}}}}"#
            )
        };
        let options = Options::default();
        let found = counts(folder.import("a.json", text(3, 3), &options).unwrap());
        assert_eq!((&found.tables[0].counts, &found.tables[0].layer_ids), (&vec![vec![0, 3, 0, 1]], &vec![2]));
        assert!(folder.refusal("a.json", text(4, 3), &options).contains("layer 2: expected experts below 4"));
        assert!(folder.refusal("a.json", text(3, 4), &options).contains("layer 2: expected experts below 4"));
        let small = Options { memory: Some(16), ..Options::default() };
        let said = folder.refusal("a.json", text(3, 3), &small);
        assert!(said.contains("at most 16 bytes"), "{said}");
    }
}
