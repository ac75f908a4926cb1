//! The native trace format: a [safetensors](https://github.com/huggingface/safetensors) file.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `experts` | u16 | `[T, L, k]` | chosen experts, best first where the source says so |
//! | `logits` | f16, bf16, f32 | `[T, L, E]` | raw router scores |
//! | `weights` | f16, bf16, f32 | `[T, L, k]` | mixing weights, in the order of `experts` |
//! | `hidden` | f16, bf16, f32 | `[T, L, D]`, `[T, 1, D]` | router input |
//! | `bias` | f32 | `[L, E]` | selection bias |
//! | `token`, `sequence`, `position` | u32 | `[T]` | token id, sequence number, position in the sequence |
//! | `phase` | u8 | `[T]` | 0 prefill, 1 decode |
//! | `domain` | u8 | `[T]` | index into the metadata `domains` |
//!
//! One of `experts` and `logits` must be there, everything else may be absent. Defaults: `experts` the top `top_k` of `logits`
//! (of equal logits the lower id), one sequence, positions from 0 in each sequence, phase prefill, one domain named after the file.
//! Any integer type is read where the table says u8, u16 or u32: several writers have no unsigned ones.
//!
//! Metadata, all of it text: `model`, `router` (see [`Convention`]), `experts`, `top_k`, `layers`, `source`, `domains` and `layer_ids`
//! (both comma-separated), `notes` (one a line). `experts` is the number E; where it is absent it is taken from `logits`, else it is one
//! more than the highest id.
//!
//! Counts ([`Counts`]) are a safetensors file too: u64 tensors `counts.<i>` `[L, E]` and `pairs.<i>` `[E, E]`; the metadata `counts` is
//! JSON with the names.
//!
//! Float arrays stay in the mapped file: reading a trace costs its ids and no more. Nobody may shorten the file meanwhile.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};
use vmap::Map;

use super::array::{Float, FloatArray};
use super::counts::{CountTable, Counts, PairTable};
use super::{Convention, MAX_EXPERTS, MAX_TOP_K, Meta, Phase, Shape, Trace, top_k};
use crate::error::{Error, Result};

/// Reads a trace; see the module for the format.
///
/// # Errors
/// If the file cannot be read or is no valid trace.
pub fn read(path: &Path) -> Result<Trace> {
    let file = fs::File::open(path).map_err(|error| Error::io(path, &error))?;
    let loaded = load(&file, path)?;
    loaded.trace.validate().map_err(|error| error.or_file(path))?;
    Ok(loaded.trace)
}

/// Reads counts; see the module for the format.
///
/// # Errors
/// If the file cannot be read or holds no counts.
pub fn read_counts(path: &Path) -> Result<Counts> {
    let file = fs::File::open(path).map_err(|error| Error::io(path, &error))?;
    load_counts(&file, path)
}

/// A trace as it lies in a file, not validated yet.
pub(super) struct Loaded {
    pub(super) trace: Trace,
    /// Whether the file says how many experts there are; otherwise it is one more than the highest id.
    pub(super) experts_known: bool,
    /// Whether the file says where sequences begin.
    pub(super) sequences_known: bool,
}

/// Reads a trace from an open file; `path` is for messages and names.
pub(super) fn load(file: &fs::File, path: &Path) -> Result<Loaded> {
    Tensors::open(file, path).and_then(|tensors| tensors.trace()).map_err(|error| error.or_file(path))
}

/// Reads counts from an open file; `path` is for messages.
pub(super) fn load_counts(file: &fs::File, path: &Path) -> Result<Counts> {
    Tensors::open(file, path).and_then(|tensors| tensors.counts()).map_err(|error| error.or_file(path))
}

/// Whether an open file holds counts rather than a trace.
pub(super) fn holds_counts(file: &fs::File, path: &Path) -> Result<bool> {
    Tensors::open(file, path).map(|tensors| tensors.info.contains_key("counts")).map_err(|error| error.or_file(path))
}

/// A mapped safetensors file with its checked header.
struct Tensors {
    path: PathBuf,
    map: Arc<Map>,
    /// First byte after the header.
    start: usize,
    header: Metadata,
    info: HashMap<String, String>,
}

impl Tensors {
    fn open(file: &fs::File, path: &Path) -> Result<Self> {
        let about = file.metadata().map_err(|error| Error::io(path, &error))?;
        if !about.is_file() {
            return Err(Error::new("expected a safetensors file, found a folder or a device"));
        }
        if about.len() < 8 {
            return Err(Error::new(format!("expected a safetensors file, found {} bytes in all", about.len())));
        }
        let map: Map = Map::with_options().map(file).map_err(|error| Error::in_file(path, error.to_string()))?;
        let claimed = u64::from_le_bytes(*map.first_chunk().expect("at least 8 bytes"));
        if claimed > about.len() - 8 {
            return Err(Error::new(format!(
                "expected a safetensors header within the {} bytes of the file, found one that claims {claimed} bytes",
                about.len()
            ))
            .at("byte 0"));
        }
        let (header_len, header) = SafeTensors::read_metadata(&map).map_err(|error| describe(&error))?;
        let info = header.metadata().clone().unwrap_or_default();
        Ok(Self { path: path.into(), map: Arc::new(map), start: 8 + header_len, header, info })
    }

    /// Type, shape and bytes of a tensor.
    fn tensor(&self, name: &str) -> Option<(&TensorInfo, &[u8])> {
        let info = self.header.info(name)?;
        let (from, to) = info.data_offsets;
        // The header was checked against the length of the file.
        Some((info, &self.map[self.start + from..self.start + to]))
    }

    /// Integers of any type, as `u32`.
    fn integers(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<u32>)>> {
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
    fn per_token(&self, name: &str, tokens: usize) -> Result<Option<Vec<u32>>> {
        let Some((shape, values)) = self.integers(name)? else { return Ok(None) };
        if shape != [tokens] {
            return Err(expected_shape(name, &format!("[{tokens}] as for the other tensors"), &shape));
        }
        Ok(Some(values))
    }

    /// Floats of three dimensions, left in the file.
    fn floats(&self, name: &str) -> Result<Option<FloatArray>> {
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
    fn number(&self, key: &str) -> Result<Option<usize>> {
        let Some(text) = self.info.get(key) else { return Ok(None) };
        text.trim()
            .parse()
            .map(Some)
            .map_err(|_| Error::new(format!("metadata {key}: expected a whole number, found \"{text}\"")))
    }

    fn text(&self, key: &str) -> String {
        self.info.get(key).cloned().unwrap_or_default()
    }

    fn trace(&self) -> Result<Loaded> {
        let (logits, weights) = (self.floats("logits")?, self.floats("weights")?);
        let ([tokens, layers, k], ids) = self.chosen(logits.as_ref())?;
        let recorded = logits.as_ref().map(|logits| logits.shape()[2]);
        let known = agree("experts", self.number("experts")?, recorded)?;
        let highest = ids.iter().max().map_or(0, |&id| usize::from(id));
        agree("layers", self.number("layers")?, Some(layers))?;
        agree("top_k", self.number("top_k")?, Some(k))?;
        for (name, array) in [("logits", &logits), ("weights", &weights)] {
            if let Some(array) = array.as_ref().filter(|array| array.shape()[..2] != [tokens, layers]) {
                return Err(expected_shape(name, &format!("[{tokens}, {layers}, …]"), &array.shape()));
            }
        }
        if let Some(weights) = weights.as_ref().filter(|weights| weights.shape()[2] != k) {
            return Err(expected_shape("weights", &format!("[{tokens}, {layers}, {k}]"), &weights.shape()));
        }
        let hidden = self.floats("hidden")?;
        if let Some([t, l, _]) =
            hidden.as_ref().map(FloatArray::shape).filter(|s| s[0] != tokens || s[1] != 1 && s[1] != layers)
        {
            return Err(expected_shape("hidden", &format!("[{tokens}, {layers} or 1, …]"), &[t, l]));
        }
        let shape = Shape { tokens, layers, experts: known.unwrap_or(highest + 1), k };
        let sequence = self.per_token("sequence", tokens)?;
        let sequences_known = sequence.is_some();
        let sequence = sequence.unwrap_or_else(|| vec![0; tokens]);
        let trace = Trace {
            shape,
            meta: self.meta(shape)?,
            ids,
            weights,
            bias: self.bias(shape)?,
            hidden,
            position: self.per_token("position", tokens)?.unwrap_or_else(|| positions(&sequence)),
            sequence,
            phase: self.phases(tokens)?,
            token: self.per_token("token", tokens)?,
            domain: self.domains(tokens)?,
            notes: self.info.get("notes").map_or(Vec::new(), |text| text.lines().map(str::to_owned).collect()),
            logits,
        };
        Ok(Loaded { trace, experts_known: known.is_some(), sequences_known })
    }

    /// Shape `[T, L, k]` and ids, from `experts` or from the logits.
    fn chosen(&self, logits: Option<&FloatArray>) -> Result<([usize; 3], Vec<u16>)> {
        let Some((shape, ids)) = self.integers("experts")? else {
            let Some(logits) = logits else {
                let mut names = self.header.offset_keys();
                names.truncate(8);
                return Err(Error::new(format!(
                    "expected a tensor \"experts\" or \"logits\", found {}",
                    if names.is_empty() { "none at all".into() } else { names.join(", ") }
                )));
            };
            return self.derived(logits);
        };
        let shape: [usize; 3] =
            shape[..].try_into().map_err(|_| expected_shape("experts", "[tokens, layers, k]", &shape))?;
        let [_, layers, k] = shape;
        let ids = ids.into_iter().enumerate().map(|(i, id)| {
            u16::try_from(id).map_err(|_| {
                let row = i / k;
                Error::new(format!("expected expert ids below {MAX_EXPERTS}, found {id}"))
                    .at(format!("layer {}", row % layers))
                    .at(format!("token {}", row / layers))
            })
        });
        Ok((shape, ids.collect::<Result<_>>()?))
    }

    fn derived(&self, logits: &FloatArray) -> Result<([usize; 3], Vec<u16>)> {
        let [tokens, layers, experts] = logits.shape();
        if matches!(self.router()?, Convention::Sigmoid { .. }) {
            return Err(Error::new(
                "expected a tensor \"experts\" beside the logits of a sigmoid router: its choice is no plain top-k",
            ));
        }
        let Some(k) = self.number("top_k")? else {
            return Err(Error::new("expected a tensor \"experts\" or metadata top_k beside the logits, found neither"));
        };
        if experts > MAX_EXPERTS || !(1..=MAX_TOP_K.min(experts)).contains(&k) {
            return Err(Error::new(format!(
                "expected 1 to {MAX_EXPERTS} experts and top_k 1 to {MAX_TOP_K} of them, found {experts} and {k}"
            )));
        }
        Ok(([tokens, layers, k], top_k::of_logits(logits, k)))
    }

    fn router(&self) -> Result<Convention> {
        let text = self.info.get("router");
        text.map_or(Ok(Convention::Unknown), |text| text.parse().map_err(|e: Error| e.at("metadata router")))
    }

    fn meta(&self, shape: Shape) -> Result<Meta> {
        let layer_ids = match self.info.get("layer_ids") {
            None => (0..shape.layers as u32).collect(),
            Some(text) => text
                .split(',')
                .map(|part| part.trim().parse())
                .collect::<std::result::Result<Vec<u32>, _>>()
                .ok()
                .filter(|ids| ids.len() == shape.layers)
                .ok_or_else(|| {
                    Error::new(format!("metadata layer_ids: expected {} numbers, found \"{text}\"", shape.layers))
                })?,
        };
        let name = self.path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let domains = self.info.get("domains").map_or(vec![name], |text| text.split(',').map(str::to_owned).collect());
        Ok(Meta { model: self.text("model"), router: self.router()?, source: self.text("source"), domains, layer_ids })
    }

    fn bias(&self, shape: Shape) -> Result<Option<Vec<f32>>> {
        let Some((info, bytes)) = self.tensor("bias") else { return Ok(None) };
        if info.dtype != Dtype::F32 || info.shape != [shape.layers, shape.experts] {
            let found = format!("{:?} {:?}", info.dtype, info.shape);
            return Err(Error::new(format!("expected F32 [{}, {}], found {found}", shape.layers, shape.experts))
                .at("tensor bias"));
        }
        Ok(Some(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()))
    }

    fn phases(&self, tokens: usize) -> Result<Vec<Phase>> {
        let Some(values) = self.per_token("phase", tokens)? else { return Ok(vec![Phase::Prefill; tokens]) };
        let phase = |(token, value)| match value {
            0 => Ok(Phase::Prefill),
            1 => Ok(Phase::Decode),
            other => Err(Error::new(format!("expected phase 0 (prefill) or 1 (decode), found {other}"))
                .at(format!("token {token}"))),
        };
        values.into_iter().enumerate().map(phase).collect()
    }

    fn domains(&self, tokens: usize) -> Result<Vec<u8>> {
        let Some(values) = self.per_token("domain", tokens)? else { return Ok(vec![0; tokens]) };
        let domain =
            |value| u8::try_from(value).map_err(|_| Error::new(format!("domain: expected at most 255, found {value}")));
        values.into_iter().map(domain).collect()
    }

    fn counts(&self) -> Result<Counts> {
        let about: CountsAbout = serde_json::from_str(&self.text("counts")).map_err(|error| {
            Error::new(format!("metadata counts: expected JSON with the names of the tables: {error}"))
        })?;
        let mut counts = Counts { source: self.text("source"), notes: about.notes, ..Counts::default() };
        for (i, about) in about.tables.into_iter().enumerate() {
            let table = self.table(&format!("counts.{i}"))?;
            if table.len() != about.layer_ids.len() {
                return Err(Error::new(format!(
                    "counts.{i}: expected {} layers, found {}",
                    about.layer_ids.len(),
                    table.len()
                )));
            }
            let TableAbout { name, model, k, layer_ids } = about;
            counts.tables.push(CountTable { name, model, k, layer_ids, counts: table });
        }
        for (i, PairAbout { name, layers }) in about.pairs.into_iter().enumerate() {
            counts.pairs.push(PairTable { name, layers, counts: self.table(&format!("pairs.{i}"))? });
        }
        Ok(counts)
    }

    fn table(&self, name: &str) -> Result<Vec<Vec<u64>>> {
        let found = self.tensor(name).filter(|(info, _)| info.dtype == Dtype::U64 && info.shape.len() == 2);
        let Some((info, bytes)) = found else {
            return Err(Error::new(format!("expected a tensor {name} of U64 with two dimensions")));
        };
        let values: Vec<u64> = bytes.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b)).collect();
        Ok(values.chunks(info.shape[1].max(1)).map(<[u64]>::to_vec).collect())
    }
}

/// Names beside the tensors of a counts file.
#[derive(Serialize, Deserialize)]
struct CountsAbout {
    tables: Vec<TableAbout>,
    pairs: Vec<PairAbout>,
    notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct TableAbout {
    name: String,
    model: String,
    k: usize,
    layer_ids: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct PairAbout {
    name: String,
    layers: (u32, u32),
}

fn integers<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> i64) -> Result<Vec<u32>> {
    let convert = |(i, &raw): (usize, &[u8; N])| {
        let value = value(raw);
        u32::try_from(value).map_err(|_| Error::new(format!("value {i}: expected 0 to {}, found {value}", u32::MAX)))
    };
    bytes.as_chunks().0.iter().enumerate().map(convert).collect()
}

fn expected_shape(name: &str, expected: &str, found: &[usize]) -> Error {
    Error::new(format!("expected shape {expected}, found {found:?}")).at(format!("tensor {name}"))
}

/// The one of two statements that is there; an error if both are and differ.
fn agree(name: &str, stated: Option<usize>, found: Option<usize>) -> Result<Option<usize>> {
    match (stated, found) {
        (Some(stated), Some(found)) if stated != found => {
            Err(Error::new(format!("metadata {name}: expected {found} as in the tensors, found {stated}")))
        }
        _ => Ok(found.or(stated)),
    }
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

/// Positions that count from 0 in each sequence.
pub(super) fn positions(sequence: &[u32]) -> Vec<u32> {
    let mut position = 0;
    (0..sequence.len())
        .map(|token| {
            position = if token > 0 && sequence[token] == sequence[token - 1] { position + 1 } else { 0 };
            position
        })
        .collect()
}

/// A tensor about to be written.
struct Out<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Out<'a> {
    fn new(name: &str, dtype: Dtype, shape: &[usize], bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into(), bytes: bytes.into() }
    }

    fn floats(name: &str, array: &'a FloatArray) -> Self {
        let dtype = match array.float() {
            Float::F16 => Dtype::F16,
            Float::Bf16 => Dtype::BF16,
            Float::F32 => Dtype::F32,
        };
        Self::new(name, dtype, &array.shape(), array.le_bytes())
    }

    fn u32(name: &str, values: &[u32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(name, Dtype::U32, &[values.len()], bytes)
    }
}

/// Writes a trace, floats in the width that they came in. The file appears whole or not at all. A comma in a domain name becomes a
/// semicolon, a line break in a note a space.
///
/// # Errors
/// If the trace is not valid or the file cannot be written.
pub fn write(trace: &Trace, path: &Path) -> Result<()> {
    trace.validate()?;
    let Trace { shape: Shape { tokens, layers, experts, k }, meta, .. } = trace;
    let ids: Vec<u8> = trace.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut tensors = vec![
        Out::new("experts", Dtype::U16, &[*tokens, *layers, *k], ids),
        Out::u32("sequence", &trace.sequence),
        Out::u32("position", &trace.position),
        Out::new("phase", Dtype::U8, &[*tokens], trace.phase.iter().map(|&p| p as u8).collect::<Vec<u8>>()),
        Out::new("domain", Dtype::U8, &[*tokens], &trace.domain),
    ];
    tensors.extend(trace.token.as_ref().map(|token| Out::u32("token", token)));
    for (name, array) in [("logits", &trace.logits), ("weights", &trace.weights), ("hidden", &trace.hidden)] {
        tensors.extend(array.as_ref().map(|array| Out::floats(name, array)));
    }
    if let Some(bias) = &trace.bias {
        let bytes: Vec<u8> = bias.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.push(Out::new("bias", Dtype::F32, &[*layers, *experts], bytes));
    }
    let domains: Vec<String> = meta.domains.iter().map(|name| name.replace(',', ";")).collect();
    let layer_ids: Vec<String> = meta.layer_ids.iter().map(u32::to_string).collect();
    let notes: Vec<String> = trace.notes.iter().map(|note| note.replace(['\n', '\r'], " ")).collect();
    let info = [
        ("model", meta.model.clone()),
        ("router", meta.router.to_string()),
        ("experts", experts.to_string()),
        ("top_k", k.to_string()),
        ("layers", layers.to_string()),
        ("source", meta.source.clone()),
        ("domains", domains.join(",")),
        ("layer_ids", layer_ids.join(",")),
        ("notes", notes.join("\n")),
    ];
    write_tensors(tensors, &BTreeMap::from(info), path)
}

/// Writes counts. The file appears whole or not at all.
///
/// # Errors
/// If rows of a table differ in length or the file cannot be written.
pub fn write_counts(counts: &Counts, path: &Path) -> Result<()> {
    let table = |name: String, rows: &[Vec<u64>]| {
        let experts = rows.first().map_or(0, Vec::len);
        if rows.iter().any(|row| row.len() != experts) {
            return Err(Error::new(format!("{name}: expected {experts} counts in every row")));
        }
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|count| count.to_le_bytes()).collect();
        Ok(Out::new(&name, Dtype::U64, &[rows.len(), experts], bytes))
    };
    let mut tensors = Vec::new();
    for (i, part) in counts.tables.iter().enumerate() {
        tensors.push(table(format!("counts.{i}"), &part.counts)?);
    }
    for (i, part) in counts.pairs.iter().enumerate() {
        tensors.push(table(format!("pairs.{i}"), &part.counts)?);
    }
    let tables = counts.tables.iter().map(|CountTable { name, model, k, layer_ids, .. }| TableAbout {
        name: name.clone(),
        model: model.clone(),
        k: *k,
        layer_ids: layer_ids.clone(),
    });
    let pairs =
        counts.pairs.iter().map(|PairTable { name, layers, .. }| PairAbout { name: name.clone(), layers: *layers });
    let about = CountsAbout { tables: tables.collect(), pairs: pairs.collect(), notes: counts.notes.clone() };
    let about = serde_json::to_string(&about).map_err(|error| Error::in_file(path, error.to_string()))?;
    write_tensors(tensors, &BTreeMap::from([("counts", about), ("source", counts.source.clone())]), path)
}

/// The wire format: length of the header, header, tensors. Written here rather than by the library so that equal traces give equal bytes
/// (its metadata have no order) and so that the file gets the usual permissions.
fn write_tensors(mut tensors: Vec<Out<'_>>, info: &BTreeMap<&str, String>, path: &Path) -> Result<()> {
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
    replace_file(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| out.write_all(&tensor.bytes))
    })
}

/// Writes a temporary file beside `path` and renames it.
fn replace_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".cptr-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let write = || {
        let mut file = builder.tempfile_in(folder)?;
        let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        write(&mut out)?;
        out.flush()?;
        drop(out);
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| Error::io(path, &error))
}
