//! A three-dimensional array of floats that may stay in its memory-mapped file.
//!
//! ```
//! use cptr_trace::array::FloatArray;
//!
//! let weights = FloatArray::owned([1, 2, 2], vec![0.75, 0.25, 0.5, 0.5]);
//! let mut row = [0.0; 2];
//! weights.read_row(0, 1, &mut row);
//! assert_eq!(row, [0.5, 0.5]);
//! ```

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use mmap_io::{MemoryMappedFile, MmapMode};

use crate::error::{Error, Result};

/// The bytes of a file: mapped for reading, or in memory. Nobody may shorten a mapped file while the mapping lives.
pub struct Mapping(Bytes);

enum Bytes {
    File(MemoryMappedFile),
    Memory(Box<dyn AsRef<[u8]> + Send + Sync>),
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            Bytes::File(_) => "file",
            Bytes::Memory(_) => "memory",
        };
        f.debug_struct("Mapping").field("of", &name).field("bytes", &self.len()).finish()
    }
}

impl Mapping {
    /// Maps an open file; `path` is for messages.
    ///
    /// # Errors
    /// If the file is empty or cannot be mapped.
    pub fn new(file: &File, path: &Path) -> Result<Self> {
        let file = file.try_clone().map_err(|error| Error::io(path, &error))?;
        let map = MemoryMappedFile::from_file(file, MmapMode::ReadOnly, path);
        map.map(|map| Self(Bytes::File(map)))
            .map_err(|error| Error::in_file(path, format!("cannot be mapped: {error}")))
    }

    /// Bytes that are in memory already: a list, part of the program, or whatever else owns some and always gives the
    /// same ones.
    pub fn memory(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self(Bytes::Memory(Box::new(bytes)))
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            // Only fails for writable mappings and beyond the end.
            Bytes::File(map) => map.as_slice_bytes(0, map.len()).unwrap_or_default(),
            Bytes::Memory(owner) => (**owner).as_ref(),
        }
    }
}

/// Number format of a stored float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary32.
    F32,
}

impl Float {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

#[derive(Debug, Clone)]
enum Data {
    Owned(Arc<[f32]>),
    /// Little-endian values in a mapped file from `start`.
    Mapped {
        map: Arc<Mapping>,
        start: usize,
        float: Float,
    },
}

/// Where the values of an array lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stored<'a> {
    /// In memory.
    Values(&'a [f32]),
    /// In a file or bytes, little-endian.
    Bytes(&'a [u8], Float),
}

/// Floats `[T, L, N]`, row-major; cheap to clone.
#[derive(Debug, Clone)]
pub struct FloatArray {
    shape: [usize; 3],
    data: Data,
}

impl FloatArray {
    /// An array in memory.
    ///
    /// # Panics
    /// If `values` has not the product of `shape` elements.
    pub fn owned(shape: [usize; 3], values: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self { shape, data: Data::Owned(values.into()) }
    }

    /// An array that stays in its file.
    ///
    /// # Errors
    /// If the file ends before the array does.
    pub fn mapped(shape: [usize; 3], map: Arc<Mapping>, start: usize, float: Float) -> Result<Self> {
        let bytes = shape.iter().try_fold(float.bytes(), |product, &n| product.checked_mul(n));
        match bytes.and_then(|bytes| start.checked_add(bytes)) {
            Some(end) if end <= map.len() => Ok(Self { shape, data: Data::Mapped { map, start, float } }),
            _ => Err(Error::new(format!(
                "expected an array of {shape:?} from byte {start}, found {} bytes in all",
                map.len()
            ))),
        }
    }

    /// `[T, L, N]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Format that the array is written in: that of its file, else the narrowest one that holds every value exactly.
    pub fn float(&self) -> Float {
        match &self.data {
            Data::Mapped { float, .. } => *float,
            Data::Owned(values) if values.iter().all(|&v| f16::from_f32(v).to_f32().to_bits() == v.to_bits()) => {
                Float::F16
            }
            Data::Owned(values) if values.iter().all(|&v| bf16::from_f32(v).to_f32().to_bits() == v.to_bits()) => {
                Float::Bf16
            }
            Data::Owned(_) => Float::F32,
        }
    }

    /// All values where they lie.
    #[must_use]
    pub fn stored(&self) -> Stored<'_> {
        match &self.data {
            Data::Owned(values) => Stored::Values(values),
            Data::Mapped { map, start, float } => {
                Stored::Bytes(&map[*start..start + self.len() * float.bytes()], *float)
            }
        }
    }

    /// All values as they are stored: little-endian, in the format that [`Self::float`] says. Borrowed where they lie
    /// in a file.
    pub fn le_bytes(&self) -> Cow<'_, [u8]> {
        match &self.data {
            Data::Owned(values) => match self.float() {
                Float::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
                Float::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
                Float::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            },
            Data::Mapped { map, start, float } => map[*start..start + self.len() * float.bytes()].into(),
        }
    }

    /// One array of the tokens of several, in order; none if they differ in layers or N, or if there are none.
    pub fn concatenate(parts: &[&Self]) -> Option<Self> {
        let [_, layers, n] = parts.first()?.shape;
        if let [only] = parts {
            return Some((*only).clone());
        }
        let mut values = Vec::new();
        for part in parts {
            if part.shape[1..] != [layers, n] {
                return None;
            }
            let first = values.len();
            values.resize(first + part.len(), 0.0);
            for (row, out) in values[first..].chunks_exact_mut(n.max(1)).enumerate() {
                part.read_row(row / layers, row % layers, out);
            }
        }
        Some(Self::owned([parts.iter().map(|part| part.shape[0]).sum(), layers, n], values))
    }

    /// The array with `change` made to every value, in memory.
    #[must_use]
    pub fn map(&self, change: impl Fn(f32) -> f32) -> Self {
        let [tokens, layers, n] = self.shape;
        let mut values = vec![0.0; self.len()];
        if n > 0 {
            for (at, row) in values.chunks_exact_mut(n).enumerate() {
                self.read_row(at / layers, at % layers, row);
                row.iter_mut().for_each(|value| *value = change(*value));
            }
        }
        Self::owned([tokens, layers, n], values)
    }

    /// The rows of some tokens, in the order of `kept`.
    ///
    /// # Panics
    /// If a token is out of range.
    pub fn tokens(&self, kept: &[usize]) -> Self {
        let [_, layers, n] = self.shape;
        let mut values = vec![0.0; kept.len() * layers * n];
        for (row, out) in values.chunks_exact_mut(n.max(1)).enumerate() {
            self.read_row(kept[row / layers], row % layers, out);
        }
        Self::owned([kept.len(), layers, n], values)
    }

    /// Copies the N values of one token and layer.
    ///
    /// # Panics
    /// If the indices or the length of `out` do not fit the shape.
    pub fn read_row(&self, token: usize, layer: usize, out: &mut [f32]) {
        let [tokens, layers, n] = self.shape;
        assert!(token < tokens && layer < layers && out.len() == n);
        let first = (token * layers + layer) * n;
        match &self.data {
            Data::Owned(values) => out.copy_from_slice(&values[first..first + n]),
            Data::Mapped { map, start, float } => {
                let bytes = &map[start + first * float.bytes()..start + (first + n) * float.bytes()];
                match float {
                    Float::F16 => {
                        for (value, raw) in out.iter_mut().zip(bytes.as_chunks().0) {
                            *value = f16::from_le_bytes(*raw).to_f32();
                        }
                    }
                    Float::Bf16 => {
                        for (value, raw) in out.iter_mut().zip(bytes.as_chunks().0) {
                            *value = bf16::from_le_bytes(*raw).to_f32();
                        }
                    }
                    Float::F32 => {
                        for (value, raw) in out.iter_mut().zip(bytes.as_chunks().0) {
                            *value = f32::from_le_bytes(*raw);
                        }
                    }
                }
            }
        }
    }

    /// Checks every value; `rule` is what `ok` demands, in words.
    ///
    /// # Errors
    /// The first value that is not `ok`, with its token and layer.
    pub fn check(&self, name: &str, ok: impl Fn(f32) -> bool, rule: &str) -> Result<()> {
        let [tokens, layers, n] = self.shape;
        let mut row = vec![0.0; n];
        for token in 0..tokens {
            for layer in 0..layers {
                self.read_row(token, layer, &mut row);
                if let Some(i) = row.iter().position(|&value| !ok(value)) {
                    return Err(Error::new(format!("{name} {i}: expected {rule}, found {}", row[i]))
                        .at(format!("layer {layer}"))
                        .at(format!("token {token}")));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_values_equal_owned_ones() {
        let values: Vec<f32> = (0..24).map(|i| i as f32 * 0.25 - 2.0).collect();
        let owned = FloatArray::owned([2, 3, 4], values.clone());
        for float in [Float::F16, Float::Bf16, Float::F32] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let bytes: Vec<u8> = std::iter::once(vec![0xAA])
                .chain(values.iter().map(|&v| match float {
                    Float::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
                    Float::Bf16 => bf16::from_f32(v).to_le_bytes().to_vec(),
                    Float::F32 => v.to_le_bytes().to_vec(),
                }))
                .flatten()
                .collect();
            std::io::Write::write_all(&mut file, &bytes).unwrap();
            let map = Arc::new(Mapping::new(file.as_file(), file.path()).unwrap());
            let mapped = FloatArray::mapped([2, 3, 4], map.clone(), 1, float).unwrap();
            let (mut a, mut b) = ([0.0; 4], [0.0; 4]);
            for token in 0..2 {
                for layer in 0..3 {
                    owned.read_row(token, layer, &mut a);
                    mapped.read_row(token, layer, &mut b);
                    assert_eq!(a, b);
                }
            }
            assert_eq!(mapped.le_bytes()[..], bytes[1..]);
            let twice = FloatArray::concatenate(&[&owned, &mapped]).unwrap();
            assert_eq!(twice.shape(), [4, 3, 4]);
            assert_eq!(twice.le_bytes()[..], [owned.le_bytes(), owned.le_bytes()].concat());
            assert!(FloatArray::concatenate(&[&owned, &FloatArray::owned([2, 4, 3], vec![0.0; 24])]).is_none());
            assert!(FloatArray::mapped([2, 3, 5], map.clone(), 1, float).is_err());
            assert!(FloatArray::mapped([usize::MAX, 3, 4], map, 1, float).is_err());
        }
    }

    #[test]
    fn owned_values_are_written_in_the_narrowest_exact_format() {
        for (value, float) in
            [(0.5, Float::F16), (1e30f32, Float::F32), (bf16::from_f32(1e30).to_f32(), Float::Bf16), (0.1, Float::F32)]
        {
            let array = FloatArray::owned([1, 1, 2], vec![1.0, value]);
            assert_eq!(array.float(), float, "{value}");
            assert_eq!(array.le_bytes().len(), 2 * float.bytes());
        }
    }

    #[test]
    fn check_names_the_place() {
        let array = FloatArray::owned([1, 2, 2], vec![0.0, 1.0, f32::NAN, 3.0]);
        let error = array.check("logit", f32::is_finite, "finite").unwrap_err();
        assert_eq!(error.to_string(), "token 0, layer 1: logit 0: expected finite, found NaN");
    }
}
