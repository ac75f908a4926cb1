//! Colibri's `.coli_usage`: text lines `LAYER EXPERT COUNT`, sparse, optionally after the header lines `-1 LAYERS
//! EXPERTS` and `-2 VERSION ENGINE` (version 1).

use std::collections::BTreeMap;
use std::path::Path;

use super::{Entry, Importer, Options, Part};
use crate::MAX_EXPERTS;
use crate::counts::{CountTable, Counts};
use crate::error::{Error, Result};

/// Layers that are believed.
const MAX_LAYERS: usize = 1024;

/// Usage profiles.
pub(super) struct ColiUsage;

impl Importer for ColiUsage {
    fn name(&self) -> &'static str {
        "coli-usage"
    }

    fn about(&self) -> &'static str {
        "Colibri usage profile: text lines of layer, expert, count"
    }

    fn detect(&self, path: &Path, head: &[u8]) -> bool {
        // The last line may be cut off by the end of the head.
        let named = path.to_string_lossy().ends_with(".coli_usage");
        let mut lines = head.split(|&b| b == b'\n').take(3).filter(|line| !line.is_empty()).peekable();
        lines.peek().is_some()
            && (named || lines.all(|line| std::str::from_utf8(line).is_ok_and(|line| triple(line).is_some())))
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let bytes = entry.bytes()?;
        let text = std::str::from_utf8(&bytes).map_err(|error| Error::new(format!("expected text: {error}")))?;
        let mut profile = Profile::default();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            profile.line(line).map_err(|error| error.at(format!("line {}", i + 1)))?;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let table = profile.table(name, options)?;
        Ok(Part::counts(
            path,
            Counts { source: "Colibri usage profile".into(), tables: vec![table], ..Counts::default() },
        ))
    }
}

fn triple(line: &str) -> Option<[i64; 3]> {
    let numbers: Vec<i64> =
        line.split_ascii_whitespace().map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
    numbers.try_into().ok()
}

#[derive(Default)]
struct Profile {
    /// What the header says.
    stated: Option<[usize; 2]>,
    layers: BTreeMap<u32, BTreeMap<usize, u64>>,
}

impl Profile {
    fn line(&mut self, line: &str) -> Result<()> {
        let Some(numbers) = triple(line) else {
            return Err(Error::new(format!("expected layer, expert and count, found \"{line:.60}\"")));
        };
        match numbers {
            [-1, layers @ 0..=1024, experts @ 0..=1024] => self.stated = Some([layers as usize, experts as usize]),
            [-2, 1, _] => {}
            [-2, version, _] => return Err(Error::new(format!("expected format version 1, found {version}"))),
            [layer @ 0..=0xFFFF_FFFF, expert @ 0..1024, count @ 0..=i64::MAX] => {
                let slot = self.layers.entry(layer as u32).or_default().entry(expert as usize).or_default();
                *slot = slot
                    .checked_add(count as u64)
                    .ok_or_else(|| Error::new("expected counts below 2^64, found more"))?;
                if self.layers.len() > MAX_LAYERS {
                    return Err(Error::new(format!("expected at most {MAX_LAYERS} layers, found more")));
                }
            }
            _ => {
                return Err(Error::new(format!(
                    "expected a layer from 0, an expert below {MAX_EXPERTS} and a count from 0, found \"{line:.60}\""
                )));
            }
        }
        Ok(())
    }

    fn table(self, name: String, options: &Options) -> Result<CountTable> {
        let highest = self.layers.values().filter_map(|row| row.last_key_value()).map(|(&expert, _)| expert + 1).max();
        let Some(found) = highest else { return Err(Error::new("expected counts, found none")) };
        let stated = self.stated.map(|[_, experts]| experts).or(options.experts);
        let experts = stated.unwrap_or(found);
        let layers = self.stated.map_or(usize::MAX, |[layers, _]| layers);
        let last = self.layers.keys().last().map_or(0, |&layer| layer as usize + 1);
        if found > experts || last > layers {
            return Err(Error::new(format!(
                "expected at most {layers} layers x {experts} experts as stated, found {last} x {found}"
            )));
        }
        let row =
            |row: &BTreeMap<usize, u64>| (0..experts).map(|expert| row.get(&expert).copied().unwrap_or(0)).collect();
        Ok(CountTable {
            name,
            model: options.model.clone().unwrap_or_default(),
            k: options.top_k.unwrap_or(0),
            layer_ids: self.layers.keys().copied().collect(),
            counts: self.layers.values().map(row).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, counts};
    use super::*;

    #[test]
    fn reads_sparse_lines_with_and_without_header() {
        let folder = Folder::new();
        let plain = counts(folder.import("olmoe.coli_usage", "0 0 5\n0 2 7\n3 1 9\n", &Options::default()).unwrap());
        assert_eq!(plain.tables[0].counts, [[5, 0, 7], [0, 9, 0]]);
        assert_eq!((plain.tables[0].layer_ids.as_slice(), plain.tables[0].name.as_str()), (&[0, 3][..], "olmoe"));
        let text = "-1 4 4\n-2 1 123456\n0 0 5\n0 2 7\n3 1 9\n";
        let stated = counts(folder.import("usage.txt", text, &Options::default()).unwrap());
        assert_eq!(stated.tables[0].counts, [[5, 0, 7, 0], [0, 9, 0, 0]]);
    }

    #[test]
    fn refuses_what_cannot_be() {
        let folder = Folder::new();
        let refusal = |text: &str| folder.refusal("a.coli_usage", text, &Options::default());
        assert_eq!(
            refusal("0 0 5\n0 x 7\n"),
            "a.coli_usage: line 2: expected layer, expert and count, found \"0 x 7\""
        );
        assert!(refusal("0 1024 5\n").contains("line 1: expected a layer from 0, an expert below 1024"));
        assert!(refusal("0 0 -5\n").contains("line 1"));
        assert!(refusal("-2 9 0\n").contains("format version 1, found 9"));
        assert!(refusal("-1 2 2\n0 3 1\n").contains("at most 2 layers x 2 experts"));
        assert!(refusal("0 0 9223372036854775807\n0 0 9223372036854775807\n0 0 9\n").contains("below 2^64"));
        assert!(refusal("-2 1 0\n").contains("found none"));
        let many: String = (0..2000).map(|layer| format!("{layer} 0 1\n")).collect();
        assert!(refusal(&many).contains("at most 1024 layers"));
    }
}
