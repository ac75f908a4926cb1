//! The loss table `L[layer][expert][bits]`: what it costs to run an expert at fewer bits (Algorithm 1 of arXiv
//! 2512.04476).
//!
//! A CSV file with the columns `layer`, `expert`, `bits`, `loss`, in any order and with others beside them, which are
//! ignored. Layers and experts count from 0 without gaps, every expert has the same bits, losses are finite, not
//! negative, and do not grow with the bits. A column `tokens`, where there is one, says how many tokens chose the
//! expert, which is how much its loss counts.
//!
//! ```
//! use cptr_trace::LossTable;
//!
//! let table = LossTable::new(1, 2, &[2, 4], vec![0.5, 0.1, 0.8, 0.2]).unwrap();
//! assert_eq!(table.get(0, 1, 2), Some(0.8));
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::file;

/// Losses of all experts at all bits.
#[derive(Debug, Clone, PartialEq)]
pub struct LossTable {
    layers: usize,
    experts: usize,
    /// Ascending.
    bits: Vec<u8>,
    /// `[L, E, B]`.
    losses: Vec<f64>,
    /// Tokens that chose each expert `[L, E]`; all 1 where the file does not say.
    usage: Vec<f64>,
    /// Experts whose losses grew with the bits in the file.
    repaired: usize,
}

/// Share of the experts whose losses may grow with the bits before a file counts as something else: measured losses are
/// noisy, and MC-MoE's published table has 5 of 256.
const MOST_REPAIRED: f64 = 0.1;

/// One line of the file.
#[derive(Debug, Deserialize)]
struct Line {
    layer: u32,
    expert: u16,
    bits: u8,
    loss: f64,
    tokens: Option<f64>,
}

/// Further columns of a table's file: their names, and their values for layer, expert and bits.
pub type Columns<'a> = (&'a [&'a str], &'a dyn Fn(usize, usize, u8) -> Vec<String>);

impl LossTable {
    /// A table from losses `[L, E, B]`, with `bits` ascending.
    ///
    /// # Errors
    /// If the losses are not as many, not finite, negative, or grow with the bits.
    pub fn new(layers: usize, experts: usize, bits: &[u8], losses: Vec<f64>) -> Result<Self> {
        let expected = layers.checked_mul(experts).and_then(|n| n.checked_mul(bits.len()));
        if expected != Some(losses.len()) || losses.is_empty() || !bits.is_sorted_by(|a, b| a < b) {
            return Err(Error::new(format!(
                "expected losses for {layers} layers, {experts} experts and ascending bits {bits:?}, found {}",
                losses.len()
            )));
        }
        let table =
            Self { layers, experts, bits: bits.into(), losses, usage: vec![1.0; layers * experts], repaired: 0 };
        for (index, losses) in table.losses.chunks_exact(bits.len()).enumerate() {
            let place = |error: Error| error.at(format!("layer {}, expert {}", index / experts, index % experts));
            table.check(losses).map_err(place)?;
        }
        Ok(table)
    }

    fn check(&self, losses: &[f64]) -> Result<()> {
        if let Some((bits, loss)) = self.bits.iter().zip(losses).find(|(_, loss)| !loss.is_finite() || **loss < 0.0) {
            return Err(Error::new(format!("expected a loss of at least 0, found {loss} at {bits} bits")));
        }
        match losses.windows(2).position(|pair| pair[1] > pair[0]) {
            Some(i) => Err(Error::new(format!(
                "expected losses that do not grow with the bits, found {} at {} bits and {} at {} bits",
                losses[i],
                self.bits[i],
                losses[i + 1],
                self.bits[i + 1]
            ))),
            None => Ok(()),
        }
    }

    /// Reads and checks a table.
    ///
    /// # Errors
    /// If the file cannot be read or is no such table; the message names the line, or layer and expert.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, &error))?;
        Self::parse(file).map_err(|error| error.or_file(path))
    }

    fn parse(text: impl Read) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let mut usage = BTreeMap::new();
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
        for (index, line) in reader.deserialize().enumerate() {
            let Line { layer, expert, bits, loss, tokens } =
                line.map_err(|error| bad_line(&error, "layer, expert, bits and loss"))?;
            if entries.insert((layer, expert, bits), loss).is_some() {
                let twice = format!("expected one line for layer {layer}, expert {expert}, {bits} bits, found two");
                return Err(Error::new(twice).at(format!("line {}", index + 2)));
            }
            if let Some(tokens) = tokens {
                if !(tokens.is_finite() && tokens >= 0.0) {
                    let wrong = format!("expected a number of tokens of at least 0, found {tokens}");
                    return Err(Error::new(wrong).at(format!("line {}", index + 2)));
                }
                usage.insert((layer as usize, usize::from(expert)), tokens);
            }
        }
        let Some((&(last, ..), _)) = entries.last_key_value() else {
            return Err(Error::new("expected lines with layer, expert, bits and loss, found none"));
        };
        let experts = entries.keys().map(|(_, expert, _)| usize::from(*expert) + 1).max().unwrap_or(0);
        let mut bits: Vec<u8> = entries.keys().map(|(_, _, bits)| *bits).collect();
        bits.sort_unstable();
        bits.dedup();
        let layers = last as usize + 1;
        // The first gap ends this loop, so it takes no more steps than there are lines.
        for index in 0..layers.saturating_mul(experts).saturating_mul(bits.len()) {
            let bit = bits[index % bits.len()];
            let (layer, expert) = (index / bits.len() / experts, index / bits.len() % experts);
            if !entries.contains_key(&(layer as u32, expert as u16, bit)) {
                return Err(Error::new(format!(
                    "expected a loss for every one of {layers} layers, {experts} experts and {bits:?} bits, found none for \
                     layer {layer}, expert {expert}, {bit} bits"
                )));
            }
        }
        let mut losses: Vec<f64> = entries.into_values().collect();
        let repaired = repair(&mut losses, bits.len());
        let mut table = Self::new(layers, experts, &bits, losses)?;
        table.repaired = repaired;
        for ((layer, expert), tokens) in usage {
            table.usage[layer * experts + expert] = tokens;
        }
        Ok(table)
    }

    /// Writes the table; the file appears whole or not at all. `extra` gives further columns, their names and the
    /// values of `(layer, expert, bits)`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path, extra: Columns<'_>) -> Result<()> {
        file::replace(path, |out| {
            let names = ["layer", "expert", "bits", "loss"].iter().chain(extra.0);
            writeln!(out, "{}", names.copied().collect::<Vec<_>>().join(","))?;
            for (layer, expert, bits, loss) in self.iter() {
                write!(out, "{layer},{expert},{bits},{loss}")?;
                extra.1(layer, expert, bits).iter().try_for_each(|value| write!(out, ",{value}"))?;
                writeln!(out)?;
            }
            Ok(())
        })
    }

    /// Experts whose losses grew with the bits in the file: there the loss at fewer bits was raised to that at more.
    /// Who prints results from the table should say so.
    #[must_use]
    pub fn repaired(&self) -> usize {
        self.repaired
    }

    /// Number of MoE layers.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Experts per layer.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// The bits that there are losses for, ascending.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// Losses of one expert, in the order of [`Self::bits`]; empty where there is no such expert.
    pub fn expert(&self, layer: usize, expert: usize) -> &[f64] {
        if layer >= self.layers || expert >= self.experts {
            return &[];
        }
        let first = (layer * self.experts + expert) * self.bits.len();
        &self.losses[first..first + self.bits.len()]
    }

    /// The loss of one expert at some bits.
    pub fn get(&self, layer: usize, expert: usize, bits: u8) -> Option<f64> {
        let index = self.bits.iter().position(|&b| b == bits)?;
        self.expert(layer, expert).get(index).copied()
    }

    /// How much an expert counts: the calibration tokens that chose it, or 1 where the table does not say; 0 where
    /// there is no such expert.
    pub fn usage(&self, layer: usize, expert: usize) -> f64 {
        if expert >= self.experts {
            return 0.0;
        }
        self.usage.get(layer * self.experts + expert).copied().unwrap_or(0.0)
    }

    /// `(layer, expert, bits, loss)` of all, in this order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize, u8, f64)> {
        self.losses.iter().enumerate().map(|(index, &loss)| {
            let (expert, bit) = (index / self.bits.len(), index % self.bits.len());
            (expert / self.experts, expert % self.experts, self.bits[bit], loss)
        })
    }
}

/// Raises losses at fewer bits to those at more, where few experts need it; how many did.
fn repair(losses: &mut [f64], bits: usize) -> usize {
    let grows = |losses: &&[f64]| losses.iter().all(|loss| loss.is_finite()) && !losses.is_sorted_by(|a, b| a >= b);
    let wrong = losses.chunks_exact(bits.max(1)).filter(grows).count();
    if wrong as f64 > MOST_REPAIRED * (losses.len() / bits.max(1)) as f64 {
        return 0;
    }
    for losses in losses.chunks_exact_mut(bits.max(1)).filter(|losses| grows(&&losses[..])) {
        for i in (1..bits).rev() {
            losses[i - 1] = losses[i - 1].max(losses[i]);
        }
    }
    wrong
}

/// What is wrong with a line of a file with `columns`.
pub(crate) fn bad_line(error: &csv::Error, columns: &str) -> Error {
    let line = error.position().map(csv::Position::line);
    let message = match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => format!("expected {columns}: {}", err.kind()),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("expected {expected_len} columns, found {len}")
        }
        _ => format!("expected CSV with {columns}: {error}"),
    };
    match line {
        Some(line) => Error::new(message).at(format!("line {line}")),
        None => Error::new(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> LossTable {
        LossTable::new(2, 2, &[2, 4], vec![4.0, 1.0, 3.0, 0.5, 2.0, 2.0, 9.0, 0.0]).unwrap()
    }

    #[test]
    fn writes_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.csv");
        table().write(&path, (&["tokens"], &|layer, _, _| vec![layer.to_string()])).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("layer,expert,bits,loss,tokens\n0,0,2,4,0\n0,0,4,1,0\n"), "{text}");
        let read = LossTable::read(&path).unwrap();
        assert_eq!(read, LossTable { usage: vec![0.0, 0.0, 1.0, 1.0], ..table() });
        assert_eq!((read.layers(), read.experts(), read.bits()), (2, 2, &[2, 4][..]));
        assert_eq!(
            (read.get(1, 1, 2), read.get(0, 1, 4), read.get(0, 0, 3), read.get(2, 0, 2)),
            (Some(9.0), Some(0.5), None, None)
        );
        assert_eq!(read.expert(0, 2), [] as [f64; 0]);
    }

    #[test]
    fn takes_tables_from_elsewhere() {
        let text = "bits, expert, note, loss, layer\n4, 0, x, 1e-3, 0\n1, 0, y, 2, 0\n";
        let read = LossTable::parse(text.as_bytes()).unwrap();
        assert_eq!((read.get(0, 0, 4), read.get(0, 0, 1)), (Some(1e-3), Some(2.0)));
    }

    #[test]
    fn a_few_noisy_experts_are_repaired() {
        let line = |expert: usize, bits: usize| {
            let loss = if (expert, bits) == (3, 2) { 9.0 } else { 4.0 - bits as f64 };
            format!("0,{expert},{bits},{loss}\n")
        };
        let lines: String = (0..16).flat_map(|expert| (1..=3).map(move |bits| line(expert, bits))).collect();
        let table = LossTable::parse(format!("layer,expert,bits,loss\n{lines}").as_bytes()).unwrap();
        assert_eq!(
            (table.repaired(), table.expert(0, 3), table.expert(0, 4)),
            (1, &[9.0, 9.0, 1.0][..], &[3.0, 2.0, 1.0][..])
        );
    }

    #[test]
    fn refuses_with_the_numbers() {
        let head = "layer,expert,bits,loss\n";
        for (lines, part) in [
            ("", "found none"),
            ("0,0,2,-1\n", "layer 0, expert 0: expected a loss of at least 0, found -1 at 2 bits"),
            ("0,0,2,NaN\n", "found NaN at 2 bits"),
            ("0,0,2,inf\n", "found inf"),
            ("0,0,2,1\n0,0,3,2\n", "do not grow with the bits, found 1 at 2 bits and 2 at 3 bits"),
            ("0,0,2,1\n0,0,2,1\n", "line 3: expected one line for layer 0, expert 0, 2 bits, found two"),
            ("0,0,2,1\n1,0,2,1\n1,1,2,1\n", "found none for layer 0, expert 1, 2 bits"),
            ("0,0,2,1\n4000000000,65535,2,1\n", "found none for layer 0, expert 1, 2 bits"),
            ("0,0,x,1\n", "line 2: expected layer, expert, bits and loss: "),
            ("0,0,2\n", "line 2: expected 4 columns, found 3"),
        ] {
            let error = LossTable::parse(format!("{head}{lines}").as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = LossTable::parse("layer,expert,loss\n0,0,1\n".as_bytes()).unwrap_err().to_string();
        assert!(error.contains("missing field `bits`"), "{error}");
        let error = LossTable::read(Path::new("no/such.csv")).unwrap_err().to_string();
        assert!(error.starts_with("no/such.csv: "), "{error}");
        assert!(LossTable::new(1, 1, &[4, 2], vec![1.0, 1.0]).is_err());
    }
}
