//! A bias for every expert of every layer, from a file: vectors that steer a router, and masks.
//!
//! Either CSV with the columns `layer`, `expert`, `bias`, in any order and with others beside them, which are ignored,
//! where experts without a line have none; or a numpy array of floats `[L, E]`. Layers count from 0 in the order of
//! the source, experts as well. A bias is in units of the logits; `-inf` is a mask.
//!
//! ```
//! use cptr_trace::BiasTable;
//!
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("bias.csv");
//! std::fs::write(&path, "layer,expert,bias\n1,2,0.5\n1,0,-inf\n").unwrap();
//! let table = BiasTable::read(&path)?;
//! table.fits(2, 4, 3)?;
//! assert!(table.layer(0).next().is_none());
//! assert_eq!(table.layer(1).collect::<Vec<_>>(), [(0, f32::NEG_INFINITY), (2, 0.5)]);
//! let error = table.fits(2, 4, 4).unwrap_err().to_string();
//! assert!(error.ends_with("layer 1: expected at least 4 of 4 experts that are not masked, found 3"));
//! # Ok::<(), cptr_trace::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::MAX_EXPERTS;
use crate::error::{Error, Result};
use crate::import::npy;
use crate::loss::bad_line;

/// Most layers of an array.
const MAX_LAYERS: usize = 4096;
/// Most bytes of one in memory: at 64 bits, and again at 32.
const MOST_BYTES: u64 = (MAX_LAYERS * MAX_EXPERTS * 12) as u64;

/// By layer and expert.
type Biases = BTreeMap<(u32, u16), f32>;

/// Biases of experts.
#[derive(Debug, Clone, PartialEq)]
pub struct BiasTable {
    path: PathBuf,
    /// Layers and experts, where the file says how many there are.
    shape: Option<(usize, usize)>,
    /// By layer and expert, those that are not 0.
    biases: Biases,
}

/// One line of the file.
#[derive(Debug, Deserialize)]
struct Line {
    layer: u32,
    expert: u16,
    bias: f32,
}

impl BiasTable {
    /// Reads and checks a table.
    ///
    /// # Errors
    /// If the file cannot be read, is neither form, names an expert twice, or has a bias that is no number.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |error: std::io::Error| Error::io(path, &error);
        let mut reader = BufReader::new(File::open(path).map_err(io)?);
        let read = if reader.fill_buf().map_err(io)?.starts_with(npy::MAGIC) { array(reader) } else { lines(reader) };
        let (shape, biases) = read.map_err(|error| error.or_file(path))?;
        Ok(Self { path: path.into(), shape, biases })
    }

    /// The file that it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is one for `layers` layers of `experts` experts, of which a token wants `k`.
    ///
    /// # Errors
    /// An array of another shape, ids that there are not, a layer with fewer than `k` experts that are not masked.
    pub fn fits(&self, layers: usize, experts: usize, k: usize) -> Result<()> {
        let wrong = |message: String| Err(Error::in_file(&self.path, message));
        if let Some((l, e)) = self.shape
            && (l, e) != (layers, experts)
        {
            return wrong(format!("expected biases for {layers} layers of {experts} experts, found {l} of {e}"));
        }
        let outside = |&&(layer, expert): &&(u32, u16)| layer as usize >= layers || usize::from(expert) >= experts;
        if let Some((layer, expert)) = self.biases.keys().find(outside) {
            return wrong(format!(
                "expected layers below {layers} and experts below {experts}, found layer {layer}, expert {expert}"
            ));
        }
        for layer in 0..layers {
            let left = experts - self.layer(layer).filter(|&(_, bias)| bias == f32::NEG_INFINITY).count();
            if left < k {
                return wrong(format!(
                    "layer {layer}: expected at least {k} of {experts} experts that are not masked, found {left}"
                ));
            }
        }
        Ok(())
    }

    /// The experts of a layer that have a bias, and the bias, in ascending order.
    pub fn layer(&self, layer: usize) -> impl Iterator<Item = (u16, f32)> + '_ {
        let layer = u32::try_from(layer).unwrap_or(u32::MAX);
        self.biases.range((layer, 0)..=(layer, u16::MAX)).map(|(&(_, expert), &bias)| (expert, bias))
    }
}

/// What a file says: layers and experts where it says how many there are, and the biases that are not 0.
type Contents = (Option<(usize, usize)>, Biases);

fn array(reader: impl Read) -> Result<Contents> {
    let mut budget = MOST_BYTES;
    let npy::Array { shape, values } = npy::read(reader, &mut budget)?;
    let (&[layers, experts], npy::Values::Floats(values)) = (&shape[..], values) else {
        return Err(Error::new(format!("expected floats [layers, experts], found another array of shape {shape:?}")));
    };
    if layers > MAX_LAYERS || experts > MAX_EXPERTS {
        return Err(Error::new(format!(
            "expected floats [layers, experts] of at most {MAX_LAYERS} and {MAX_EXPERTS}, found {shape:?}"
        )));
    }
    let mut biases = Biases::new();
    for (index, bias) in values.into_iter().enumerate() {
        let (layer, expert) = (index / experts, index % experts);
        let bias = number(bias).map_err(|error| error.at(format!("layer {layer}, expert {expert}")))?;
        if bias != 0.0 {
            biases.insert((layer as u32, expert as u16), bias);
        }
    }
    Ok((Some((layers, experts)), biases))
}

fn lines(text: impl Read) -> Result<Contents> {
    let mut biases = Biases::new();
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    for line in reader.deserialize() {
        let Line { layer, expert, bias } = line.map_err(|error| bad_line(&error, "layer, expert and bias"))?;
        let place = |error: Error| error.at(format!("layer {layer}, expert {expert}"));
        if biases.insert((layer, expert), number(bias).map_err(place)?).is_some() {
            return Err(place(Error::new("expected one line, found two")));
        }
    }
    if biases.is_empty() {
        return Err(Error::new("expected lines with layer, expert and bias, or a numpy array, found neither"));
    }
    biases.retain(|_, bias| *bias != 0.0);
    Ok((None, biases))
}

/// A bias, which may be infinite.
fn number(bias: f32) -> Result<f32> {
    if bias.is_nan() { Err(Error::new("expected a bias, found NaN")) } else { Ok(bias) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Result<BiasTable> {
        let (shape, biases) = lines(text.as_bytes())?;
        Ok(BiasTable { path: "b.csv".into(), shape, biases })
    }

    /// A file of numpy's first version.
    fn npy(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        bytes.extend(values);
        bytes
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn both_forms_say_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (csv, array) = (folder.path().join("b.csv"), folder.path().join("b.npy"));
        std::fs::write(&csv, "bias, note, layer, expert\n-inf, x, 1, 2\n0.25, y, 0, 1\n0, z, 0, 0\n").unwrap();
        let values = floats(&[0.0, 0.25, 0.0, 0.0, 0.0, f32::NEG_INFINITY]);
        std::fs::write(&array, npy("<f4", "(2, 3)", &values)).unwrap();
        let (csv, array) = (BiasTable::read(&csv).unwrap(), BiasTable::read(&array).unwrap());
        assert_eq!(csv.biases, array.biases);
        assert_eq!((csv.shape, array.shape), (None, Some((2, 3))));
        assert!(csv.fits(2, 3, 2).is_ok() && csv.fits(5, 9, 2).is_ok() && array.fits(2, 3, 2).is_ok());
        assert_eq!(csv.layer(0).collect::<Vec<_>>(), [(1, 0.25)]);
        assert!(csv.layer(7).next().is_none());
        let other = array.fits(2, 4, 1).unwrap_err().to_string();
        assert!(other.ends_with("b.npy: expected biases for 2 layers of 4 experts, found 2 of 3"), "{other}");
    }

    #[test]
    fn refuses_with_the_place() {
        let head = "layer,expert,bias\n";
        for (lines, part) in [
            ("", "expected lines with layer, expert and bias, or a numpy array, found neither"),
            ("0,1,NaN\n", "layer 0, expert 1: expected a bias, found NaN"),
            ("0,1,2\n0,1,3\n", "layer 0, expert 1: expected one line, found two"),
            ("0,1,0\n0,1,0\n", "expected one line, found two"),
            ("0,-1,2\n", "line 2: expected layer, expert and bias: "),
            ("0,x,2\n", "line 2: expected layer, expert and bias: "),
            ("0,1\n", "line 2: expected 3 columns, found 2"),
        ] {
            let error = text(&format!("{head}{lines}")).unwrap_err().to_string();
            assert!(error.contains(part), "{lines}: {error}");
        }
        assert!(text("layer,expert\n0,1\n").unwrap_err().to_string().contains("missing field `bias`"));
        for (layers, experts, k, part) in [
            (1, 2, 1, "b.csv: expected layers below 1 and experts below 2, found layer 0, expert 3"),
            (1, 4, 4, "b.csv: layer 0: expected at least 4 of 4 experts that are not masked, found 3"),
        ] {
            let error = text(&format!("{head}0,3,-inf\n")).unwrap().fits(layers, experts, k).unwrap_err();
            assert_eq!(error.to_string(), part);
        }
        let table = text(&format!("{head}3,0,1\n")).unwrap();
        assert!(table.fits(3, 4, 1).unwrap_err().to_string().contains("found layer 3, expert 0"));
        assert!(BiasTable::read(Path::new("no/such.csv")).unwrap_err().to_string().starts_with("no/such.csv: "));
    }

    #[test]
    fn refuses_arrays_of_other_kinds() {
        let nan = floats(&[0.0, f32::NAN]);
        for (bytes, part) in [
            (npy("<f4", "(2,)", &floats(&[0.0, 1.0])), "expected floats [layers, experts], found another array"),
            (npy("<i4", "(1, 2)", &[0; 8]), "expected floats [layers, experts], found another array"),
            (npy("<f4", "(1, 2)", &nan), "layer 0, expert 1: expected a bias, found NaN"),
            (npy("<f4", "(1, 2)", &nan[..6]), "expected 8 bytes of values"),
            (npy("<f4", "(4096, 1024, 99)", &[]), "expected arrays that become at most"),
            (npy("<f4", "(1, 2000)", &[0; 8000]), "of at most 4096 and 1024, found [1, 2000]"),
        ] {
            let error = array(&bytes[..]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
