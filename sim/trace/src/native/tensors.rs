//! A safetensors file: its tensors by name and type when read, its bytes when written.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::array::{Float, FloatArray, Mapping};
use crate::error::{Error, Result};
use crate::file;

/// A mapped safetensors file with its checked header.
pub struct Tensors {
    /// The file.
    pub path: PathBuf,
    map: Arc<Mapping>,
    /// First byte after the header.
    start: usize,
    pub(super) header: Metadata,
    /// Its metadata.
    pub info: HashMap<String, String>,
}

impl Tensors {
    /// Maps an open file and reads its header.
    ///
    /// # Errors
    /// If it is no safetensors file.
    pub fn open(file: &fs::File, path: &Path) -> Result<Self> {
        let about = file.metadata().map_err(|error| Error::io(path, &error))?;
        if !about.is_file() {
            return Err(Error::new("expected a safetensors file, found a folder or a device"));
        }
        if about.len() < 8 {
            return Err(short(about.len()));
        }
        Self::new(Mapping::new(file, path)?, path)
    }

    /// Checks the header of a file; `path` is for messages and names.
    pub fn new(map: Mapping, path: &Path) -> Result<Self> {
        let length = map.len() as u64;
        let claimed = u64::from_le_bytes(*map.first_chunk().ok_or_else(|| short(length))?);
        if claimed > length - 8 {
            return Err(Error::new(format!(
                "expected a safetensors header within the {length} bytes of the file, found one that claims {claimed} bytes"
            ))
            .at("byte 0"));
        }
        let (header_len, header) = SafeTensors::read_metadata(&map).map_err(|error| describe(&error))?;
        let info = header.metadata().clone().unwrap_or_default();
        Ok(Self { path: path.into(), map: Arc::new(map), start: 8 + header_len, header, info })
    }

    /// Type, shape and bytes of a tensor.
    pub fn tensor(&self, name: &str) -> Option<(&TensorInfo, &[u8])> {
        let info = self.header.info(name)?;
        let (from, to) = info.data_offsets;
        // The header was checked against the length of the file.
        Some((info, &self.map[self.start + from..self.start + to]))
    }

    /// The header and all bytes after it.
    pub fn bytes(&self) -> (&[u8], &[u8]) {
        self.map.split_at(self.start)
    }

    /// Expert ids of any integer type; -1, which says that there is none, as [`u32::MAX`].
    pub(super) fn ids(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<u32>)>> {
        let Some((info, bytes)) = self.tensor(name) else { return Ok(None) };
        let values = match info.dtype {
            Dtype::I8 => ids(bytes, |b| i8::from_le_bytes(b).into()),
            Dtype::I16 => ids(bytes, |b| i16::from_le_bytes(b).into()),
            Dtype::I32 => ids(bytes, |b| i32::from_le_bytes(b).into()),
            Dtype::I64 => ids(bytes, i64::from_le_bytes),
            _ => return self.integers(name),
        };
        values.map(|values| Some((info.shape.clone(), values))).map_err(|error| error.at(format!("tensor {name}")))
    }

    /// Integers of any type, as `u32`.
    pub(super) fn integers(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<u32>)>> {
        let Some((info, bytes)) = self.tensor(name) else { return Ok(None) };
        let values = match info.dtype {
            Dtype::U8 => Ok(bytes.iter().map(|&b| b.into()).collect()),
            Dtype::I8 => integers(bytes, |b| i8::from_le_bytes(b).into()),
            Dtype::U16 => integers(bytes, |b| u16::from_le_bytes(b).into()),
            Dtype::I16 => integers(bytes, |b| i16::from_le_bytes(b).into()),
            Dtype::U32 => integers(bytes, |b| u32::from_le_bytes(b).into()),
            Dtype::I32 => integers(bytes, |b| i32::from_le_bytes(b).into()),
            Dtype::I64 => integers(bytes, i64::from_le_bytes),
            other => Err(Error::new(format!("expected integers, found type {other:?}"))),
        };
        values.map(|values| Some((info.shape.clone(), values))).map_err(|error| error.at(format!("tensor {name}")))
    }

    /// Integers `[T]`.
    pub(super) fn per_token(&self, name: &str, tokens: usize) -> Result<Option<Vec<u32>>> {
        let Some((shape, values)) = self.integers(name)? else { return Ok(None) };
        if shape != [tokens] {
            return Err(expected_shape(name, &format!("[{tokens}] as for the other tensors"), &shape));
        }
        Ok(Some(values))
    }

    /// Floats of three dimensions, left in the file.
    pub(super) fn floats(&self, name: &str) -> Result<Option<FloatArray>> {
        let Some((info, _)) = self.tensor(name) else { return Ok(None) };
        let float = match info.dtype {
            Dtype::F16 => Float::F16,
            Dtype::BF16 => Float::Bf16,
            Dtype::F32 => Float::F32,
            other => {
                return Err(
                    Error::new(format!("expected f16, bf16 or f32, found type {other:?}")).at(format!("tensor {name}"))
                );
            }
        };
        let shape: [usize; 3] =
            info.shape[..].try_into().map_err(|_| expected_shape(name, "three dimensions", &info.shape))?;
        FloatArray::mapped(shape, self.map.clone(), self.start + info.data_offsets.0, float).map(Some)
    }

    /// A number in the metadata.
    pub(super) fn number(&self, key: &str) -> Result<Option<usize>> {
        let Some(text) = self.info.get(key) else { return Ok(None) };
        text.trim()
            .parse()
            .map(Some)
            .map_err(|_| Error::new(format!("metadata {key}: expected a whole number, found \"{text}\"")))
    }

    pub(super) fn text(&self, key: &str) -> String {
        self.info.get(key).cloned().unwrap_or_default()
    }
}

fn short(bytes: u64) -> Error {
    Error::new(format!("expected a safetensors file, found {bytes} bytes in all"))
}

fn integers<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> i64) -> Result<Vec<u32>> {
    let convert = |(i, &raw): (usize, &[u8; N])| {
        let value = value(raw);
        u32::try_from(value).map_err(|_| Error::new(format!("value {i}: expected 0 to {}, found {value}", u32::MAX)))
    };
    bytes.as_chunks().0.iter().enumerate().map(convert).collect()
}

fn ids<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> i64) -> Result<Vec<u32>> {
    integers(bytes, |raw| if value(raw) == -1 { u32::MAX.into() } else { value(raw) })
}

pub(super) fn expected_shape(name: &str, expected: &str, found: &[usize]) -> Error {
    Error::new(format!("expected shape {expected}, found {found:?}")).at(format!("tensor {name}"))
}

fn describe(error: &SafeTensorError) -> Error {
    Error::new(match error {
        SafeTensorError::HeaderTooLarge => "expected a safetensors header of at most 100 MB, found a larger one".into(),
        SafeTensorError::InvalidOffset(name) => {
            format!(
                "tensor {name}: expected its bytes right after those of the tensor before it, found a gap or an overlap"
            )
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            "expected the tensors to fill the file, found too few or too many bytes after the header".into()
        }
        SafeTensorError::TensorInvalidInfo => {
            "expected as many bytes as type and shape of a tensor need, found others".into()
        }
        other => format!("expected a safetensors header: {other}"),
    })
}

/// A tensor about to be written.
pub struct Out<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Out<'a> {
    /// A tensor of `shape` from little-endian bytes.
    pub fn new(name: &str, dtype: Dtype, shape: &[usize], bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into(), bytes: bytes.into() }
    }

    pub(super) fn floats(name: &str, array: &'a FloatArray) -> Self {
        let dtype = match array.float() {
            Float::F16 => Dtype::F16,
            Float::Bf16 => Dtype::BF16,
            Float::F32 => Dtype::F32,
        };
        Self::new(name, dtype, &array.shape(), array.le_bytes())
    }

    pub(super) fn u32(name: &str, values: &[u32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(name, Dtype::U32, &[values.len()], bytes)
    }
}

/// The wire format: length of the header, header, tensors. Written here rather than by the library so that equal traces
/// give equal bytes (its metadata have no order) and so that the file gets the usual permissions.
pub fn write_tensors(mut tensors: Vec<Out<'_>>, info: &BTreeMap<&str, String>, path: &Path) -> Result<()> {
    // Widest first keeps every tensor aligned.
    tensors.sort_by(|a, b| b.dtype.bitsize().cmp(&a.dtype.bitsize()).then_with(|| a.name.cmp(&b.name)));
    let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), serde_json::json!(info))]);
    let mut end = 0;
    for Out { name, dtype, shape, bytes } in &tensors {
        let data_offsets = (end, end + bytes.len());
        end = data_offsets.1;
        let entry = serde_json::to_value(TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets });
        header.insert(name.clone(), entry.map_err(|error| Error::in_file(path, error.to_string()))?);
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    file::replace(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| out.write_all(&tensor.bytes))
    })
}
