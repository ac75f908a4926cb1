//! The tensors of a checkpoint: one safetensors file or shards with an index, mapped into memory and read as f32.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use cptr_trace::array::Mapping;
use cptr_trace::native::Tensors;

/// File of a checkpoint in one piece.
const WHOLE: &str = "model.safetensors";
/// File that says which shard holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// The mapped files of a checkpoint.
pub(super) struct Weights {
    shards: Vec<Tensors>,
    /// Shard of each tensor as the index says; empty for a checkpoint in one file.
    index: HashMap<String, usize>,
    /// The file that should name every tensor.
    list: PathBuf,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let (whole, list) = (folder.join(WHOLE), folder.join(INDEX));
        if whole.exists() {
            return Ok(Self { shards: vec![shard(&whole)?], index: HashMap::new(), list: whole });
        }
        if !list.exists() {
            return Err(Error::in_file(folder, format!("expected {WHOLE} or {INDEX} in the folder, found neither")));
        }
        let names = read_index(&list).map_err(|error| error.or_file(&list))?;
        let mut files: Vec<&str> = names.values().map(String::as_str).collect();
        files.sort_unstable();
        files.dedup();
        let shards = files.iter().map(|file| shard(&folder.join(file))).collect::<Result<_>>()?;
        let place = |file: &str| files.binary_search(&file).unwrap_or_default();
        let index = names.iter().map(|(tensor, file)| (tensor.clone(), place(file))).collect();
        Ok(Self { shards, index, list })
    }

    /// A checkpoint in one piece that is in memory already.
    pub(super) fn memory(bytes: Cow<'static, [u8]>) -> Result<Self> {
        let path = Path::new(WHOLE);
        let tensors = Tensors::new(Mapping::memory(bytes), path).map_err(|error| error.or_file(path))?;
        Ok(Self { shards: vec![tensors], index: HashMap::new(), list: path.into() })
    }

    /// A digest of the sizes, the headers and samples of the files: cheap, and another training run changes it.
    pub(super) fn digest(&self) -> Sha256 {
        const SAMPLES: usize = 64;
        const BYTES: usize = 4096;
        let mut digest = Sha256::new();
        for shard in &self.shards {
            let (header, bytes) = shard.bytes();
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(header);
            let step = (bytes.len() / SAMPLES).max(BYTES);
            bytes.chunks(step).for_each(|chunk| digest.update(&chunk[..chunk.len().min(BYTES)]));
        }
        digest
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name) || self.shards[0].tensor(name).is_some()
    }

    /// A tensor as f32 with the shape that the configuration asks for.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.values(name, shape)?, shape, &Device::Cpu)?)
    }

    /// The values of a tensor as f32, row-major; every one is finite.
    pub(super) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.read(name, shape, None)
    }

    /// The values of one of the matrices that lie behind each other in a tensor `[N, …]`; `shape` is the whole
    /// tensor's.
    pub(super) fn slice(&self, name: &str, shape: &[usize], index: usize) -> Result<Vec<f32>> {
        self.read(name, shape, Some(index))
    }

    fn read(&self, name: &str, shape: &[usize], index: Option<usize>) -> Result<Vec<f32>> {
        let missing = |file: &Path| Error::in_file(file, format!("expected a tensor \"{name}\", found none"));
        let shard = match self.index.get(name) {
            Some(&shard) => &self.shards[shard],
            None if self.index.is_empty() => &self.shards[0],
            None => return Err(missing(&self.list)),
        };
        let (info, bytes) = shard.tensor(name).ok_or_else(|| missing(&shard.path))?;
        let wrong = |what: String| Error::in_file(&shard.path, what).at(format!("tensor {name}"));
        if info.shape != shape {
            return Err(wrong(format!("expected shape {shape:?} as config.json says, found {:?}", info.shape)));
        }
        // The shape is that of a tensor in the file: its product is no larger than the file.
        let size = |shape: &[usize]| shape.iter().product::<usize>();
        let (first, count) = match index {
            Some(index) => (index * size(&shape[1..]), size(&shape[1..])),
            None => (0, size(shape)),
        };
        let values = match info.dtype {
            Dtype::F32 => numbers(&bytes[4 * first..4 * (first + count)]),
            Dtype::F16 => halves(&bytes[2 * first..2 * (first + count)], f16::from_le_bytes, |from, to| {
                from.convert_to_f32_slice(to);
            }),
            Dtype::BF16 => halves(&bytes[2 * first..2 * (first + count)], bf16::from_le_bytes, |from, to| {
                from.convert_to_f32_slice(to);
            }),
            other => return Err(wrong(format!("expected f32, f16 or bf16, found type {other:?}"))),
        };
        if let Some(bad) = values.par_iter().position_first(|value| !value.is_finite()) {
            return Err(wrong(format!("value {}: expected a finite number, found {}", first + bad, values[bad])));
        }
        Ok(values)
    }
}

fn shard(path: &Path) -> Result<Tensors> {
    let file = File::open(path).map_err(|error| Error::io(path, &error))?;
    Ok(Tensors::open(&file, path).map_err(|error| error.or_file(path))?)
}

/// File of each tensor.
fn read_index(path: &Path) -> Result<HashMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
    let Index { weight_map } = serde_json::from_str(&text).map_err(|error| Error::new(error.to_string()))?;
    if weight_map.is_empty() {
        return Err(Error::new("expected tensors in weight_map, found none").at("weight_map"));
    }
    // A name of a file and nothing else: the index must not lead out of its folder.
    match weight_map.values().find(|file| Path::new(file).file_name() != Some(file.as_ref())) {
        Some(file) => Err(Error::new(format!("expected names of files, found \"{file}\"")).at("weight_map")),
        None => Ok(weight_map),
    }
}

/// Values converted per piece of work.
const PIECE: usize = 1 << 14;

fn numbers(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks();
    values.par_iter().with_min_len(PIECE).map(|&raw| f32::from_le_bytes(raw)).collect()
}

fn halves<H: Copy + Default + Send + Sync>(
    bytes: &[u8],
    half: impl Fn([u8; 2]) -> H + Sync,
    widen: impl Fn(&[H], &mut [f32]) + Sync,
) -> Vec<f32> {
    let (raw, _) = bytes.as_chunks::<2>();
    let mut values = vec![0.0; raw.len()];
    values.par_chunks_mut(PIECE).zip(raw.par_chunks(PIECE)).for_each(|(values, raw)| {
        let mut buffer = [H::default(); 256];
        for (values, raw) in values.chunks_mut(buffer.len()).zip(raw.chunks(buffer.len())) {
            let buffer = &mut buffer[..raw.len()];
            buffer.iter_mut().zip(raw).for_each(|(value, &raw)| *value = half(raw));
            widen(buffer, values);
        }
    });
    values
}
