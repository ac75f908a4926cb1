//! Importance matrices of llama.cpp in GGUF: of a mixture of experts they count the tokens that each expert got, a file
//! that many have already.
//!
//! For each weight there are `NAME.in_sum2` and `NAME.counts`, both F32; those of
//! `blk.N.ffn_{gate,up,down}_exps.weight` have an entry for each expert. The older `.dat` form does not keep the counts
//! apart and is refused by not being recognised.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Entry, Importer, Options, Part};
use crate::counts::{CountTable, Counts};
use crate::error::{Error, Result};

/// Importance matrices.
pub(super) struct Imatrix;

const MAGIC: &[u8] = b"GGUF";
/// Entries that a file may claim to have.
const MAX_ENTRIES: u64 = 1 << 20;
/// GGUF's type number of F32.
const F32: u32 = 0;

impl Importer for Imatrix {
    fn name(&self) -> &'static str {
        "imatrix"
    }

    fn about(&self) -> &'static str {
        "llama.cpp importance matrix (GGUF): tokens per expert"
    }

    fn detect(&self, _: &Path, head: &[u8]) -> bool {
        head.starts_with(MAGIC)
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let bytes = entry.bytes()?;
        let counts = Reader { bytes: &bytes, at: 0 }.counts(options)?;
        Ok(Part::counts(path, counts))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// What the header says that matters here.
#[derive(Default)]
struct About {
    kind: String,
    source: String,
    alignment: usize,
}

impl Reader<'_> {
    fn counts(mut self, options: &Options) -> Result<Counts> {
        self.take(4)?;
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Error::unsupported(format!("expected GGUF version 2 or 3, found {version}")));
        }
        let (tensors, keys) = (self.count("tensors")?, self.count("keys")?);
        let mut about = About { alignment: 32, ..About::default() };
        for _ in 0..keys {
            let key = self.text()?;
            let value = self.value()?;
            match (key.as_str(), value) {
                ("general.type", Some(text)) => about.kind = text,
                ("imatrix.datasets", Some(text)) => about.source = text,
                ("general.alignment", Some(text)) => {
                    about.alignment = text.parse().ok().filter(|n: &usize| n.is_power_of_two()).unwrap_or(32);
                }
                _ => {}
            }
        }
        if about.kind != "imatrix" {
            return Err(Error::new(format!(
                "expected an importance matrix, found a GGUF file of type \"{}\": models hold no recording",
                about.kind
            )));
        }
        let mut found: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
        for _ in 0..tensors {
            let name = self.text()?;
            let axes = self.u32()?;
            let sizes = (0..axes.min(8)).map(|_| self.u64()).collect::<Result<Vec<u64>>>()?;
            let (kind, offset) = (self.u32()?, self.u64()?);
            let product = sizes.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
            let length = product.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            if let (Some(layer), F32, true) = (experts_of(&name), kind, length > 1) {
                found.entry(layer).or_default().push((usize::try_from(offset).unwrap_or(usize::MAX), length));
            }
        }
        let start = self.at.next_multiple_of(about.alignment);
        let mut layers = Vec::new();
        let mut notes = Vec::new();
        for (&layer, arrays) in &found {
            let counts =
                arrays.iter().map(|&(offset, length)| self.floats(start, offset, length)).collect::<Result<Vec<_>>>();
            let counts = counts.map_err(|error| error.at(format!("layer {layer}")))?;
            if counts.iter().any(|other| *other != counts[0]) {
                notes.push(format!(
                    "The matrices of layer {layer} differ in their counts: those of the first are taken."
                ));
            }
            layers.push((layer, counts.into_iter().next().unwrap_or_default()));
        }
        if layers.is_empty() {
            return Err(Error::new(
                "expected counts of ffn_gate_exps, ffn_up_exps or ffn_down_exps, found none: no mixture of experts",
            ));
        }
        let table = CountTable {
            name: String::new(),
            model: String::new(),
            k: options.top_k.unwrap_or(0),
            layer_ids: layers.iter().map(|(layer, _)| *layer).collect(),
            counts: layers.into_iter().map(|(_, counts)| counts).collect(),
        };
        let source = if about.source.is_empty() {
            "llama.cpp imatrix".into()
        } else {
            format!("llama.cpp imatrix, {}", about.source)
        };
        Ok(Counts { source, tables: vec![table], pairs: Vec::new(), notes })
    }

    fn floats(&self, start: usize, offset: usize, length: usize) -> Result<Vec<u64>> {
        let from = start.checked_add(offset);
        let range = from.zip(length.checked_mul(4)).and_then(|(from, bytes)| Some(from..from.checked_add(bytes)?));
        let bytes = range
            .and_then(|range| self.bytes.get(range))
            .ok_or_else(|| Error::new("expected the counts within the file"))?;
        let count = |&raw: &[u8; 4]| {
            let value = f32::from_le_bytes(raw);
            let fits = value >= 0.0 && value.fract() == 0.0 && value < 1e15;
            if fits { Ok(value as u64) } else { Err(Error::new(format!("expected whole counts, found {value}"))) }
        };
        bytes.as_chunks().0.iter().map(count).collect()
    }

    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| Error::new("expected a whole GGUF header, found its end"))?;
        let start = std::mem::replace(&mut self.at, end);
        Ok(&self.bytes[start..end])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.take(4)?.first_chunk().map_or(0, |&raw| u32::from_le_bytes(raw)))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(self.take(8)?.first_chunk().map_or(0, |&raw| u64::from_le_bytes(raw)))
    }

    fn count(&mut self, what: &str) -> Result<u64> {
        let count = self.u64()?;
        if count <= MAX_ENTRIES {
            Ok(count)
        } else {
            Err(Error::new(format!("expected at most {MAX_ENTRIES} {what}, found {count}")))
        }
    }

    fn text(&mut self) -> Result<String> {
        let length = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// A value, as text where it is text or a small number; of a list of texts the first.
    fn value(&mut self) -> Result<Option<String>> {
        let kind = self.u32()?;
        self.value_of(kind)
    }

    fn value_of(&mut self, kind: u32) -> Result<Option<String>> {
        match kind {
            0 | 1 | 7 => self.take(1).map(|_| None),
            2 | 3 => self.take(2).map(|_| None),
            4 => self.u32().map(|value| Some(value.to_string())),
            5 | 6 => self.take(4).map(|_| None),
            8 => self.text().map(Some),
            9 => {
                let (kind, count) = (self.u32()?, self.count("values")?);
                if kind == 9 {
                    return Err(Error::new("expected no lists inside lists, found one"));
                }
                let mut first = None;
                for _ in 0..count {
                    let value = self.value_of(kind)?;
                    first = first.or(value);
                }
                Ok(first)
            }
            10..=12 => self.take(8).map(|_| None),
            other => Err(Error::new(format!("expected a known type of value, found {other}"))),
        }
    }
}

/// The layer whose experts a tensor counts.
fn experts_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("blk.")?.strip_suffix("_exps.weight.counts")?;
    let (layer, what) = rest.split_once('.')?;
    ["ffn_gate", "ffn_up", "ffn_down", "ffn_gate_up"].contains(&what).then(|| layer.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{Folder, counts};
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn file(kind: &str, values: &[f32]) -> Vec<u8> {
        let header = [
            MAGIC.to_vec(),
            3_u32.to_le_bytes().to_vec(),
            1_u64.to_le_bytes().to_vec(),
            1_u64.to_le_bytes().to_vec(),
            text("general.type"),
            8_u32.to_le_bytes().to_vec(),
            text(kind),
            text("blk.5.ffn_up_exps.weight.counts"),
            2_u32.to_le_bytes().to_vec(),
            1_u64.to_le_bytes().to_vec(),
            (values.len() as u64).to_le_bytes().to_vec(),
            [0; 12].to_vec(),
        ];
        let mut bytes = header.concat();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    #[test]
    fn counts_of_experts() {
        let folder = Folder::new();
        let read = |bytes: &[u8]| folder.import("a.gguf", bytes, &Options::default());
        let table = counts(read(&file("imatrix", &[3.0, 0.0, 5.0])).unwrap()).tables.remove(0);
        assert_eq!((table.layer_ids, table.counts), (vec![5], vec![vec![3, 0, 5]]));
        let refusal = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(refusal(&file("model", &[1.0, 2.0])).contains("a GGUF file of type \"model\""));
        assert!(refusal(&file("imatrix", &[1.0, 0.5])).contains("layer 5: expected whole counts, found 0.5"));
        assert!(refusal(&file("imatrix", &[1.0])).contains("no mixture of experts"));
        let whole = file("imatrix", &[1.0, 2.0]);
        assert!(refusal(&whole[..whole.len() - 1]).contains("within the file"));
        assert!(refusal(&whole[..30]).contains("whole GGUF header"));
    }

    proptest! {
        #[test]
        fn no_header_brings_it_down(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut bytes = file("imatrix", &[1.0, 2.0]);
            for (index, value) in changes {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            let _ = Reader { bytes: &bytes, at: 0 }.counts(&Options::default());
        }
    }
}
