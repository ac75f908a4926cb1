//! The folder of replicas: written layer by layer, and read as experts.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use cptr_core::expert::{ExpertError, Layout, Replicas as Memory};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::layer::{ExpertRecord, Method, Packed, digest, expert_of};
use crate::error::{Error, Result};
use crate::{Config, Expert, MoeHook};
use cptr_trace::native::{Out, Tensors, write_tensors};

/// The loss table in the folder.
pub const LOSS_TABLE: &str = "loss.csv";

const MATRICES: [&str; 3] = ["gate", "up", "down"];

/// What replicas were made from and how; a folder holds those of one set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Bits per weight, ascending.
    pub(super) bits: Vec<u8>,
    /// Columns per scale.
    pub(super) group: u8,
    /// How weights became codes.
    pub(super) method: Method,
    /// Calibration tokens, held-out ones among them.
    pub(super) tokens: usize,
    /// Digest of the calibration tokens.
    pub(super) calibration: String,
    /// The model's [fingerprint](crate::Model::fingerprint).
    pub(super) model: String,
}

/// File of a layer.
pub(super) fn layer_file(folder: &Path, layer: usize) -> PathBuf {
    folder.join(format!("layer-{layer:03}.safetensors"))
}

/// Writes one layer: per expert its record and per number of bits its matrices.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write_layer(
    folder: &Path,
    layer: usize,
    settings: &Settings,
    experts: &[(ExpertRecord, Vec<Packed>)],
) -> Result<()> {
    let path = layer_file(folder, layer);
    let records: Vec<&ExpertRecord> = experts.iter().map(|(record, _)| record).collect();
    let info = BTreeMap::from([("settings", json(settings, &path)?), ("experts", json(&records, &path)?)]);
    let mut tensors = Vec::new();
    for (expert, (_, replicas)) in experts.iter().enumerate() {
        for (bits, packed) in settings.bits.iter().zip(replicas) {
            for (matrix, bytes) in MATRICES.iter().zip(packed) {
                tensors.push(Out::new(&name(expert, matrix, *bits), Dtype::U8, &[bytes.len()], &bytes[..]));
            }
        }
    }
    Ok(write_tensors(tensors, &info, &path)?)
}

fn json(value: &impl Serialize, path: &Path) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::in_file(path, error.to_string()))
}

fn name(expert: usize, matrix: &str, bits: u8) -> String {
    format!("{expert}.{matrix}.{bits}")
}

/// One layer's file, opened and checked but for its matrices.
struct LayerFile {
    tensors: Tensors,
    settings: Settings,
    experts: Vec<ExpertRecord>,
}

impl LayerFile {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, &error))?;
        let tensors = Tensors::open(&file, path)?;
        let settings: Settings = metadata(&tensors, "settings")?;
        let experts: Vec<ExpertRecord> = metadata(&tensors, "experts")?;
        if settings.bits.is_empty() || !settings.bits.is_sorted_by(|a, b| a < b) {
            return Err(Error::new(format!("metadata settings: expected ascending bits, found {:?}", settings.bits)));
        }
        let expected = settings.bits.len();
        for (expert, record) in experts.iter().enumerate() {
            let (losses, digests) = (record.losses.len(), record.digests.len());
            if losses != expected || digests != 0 && digests != expected {
                let found = format!("{losses} losses and {digests} digests");
                return Err(Error::new(format!("metadata experts: expected {expected} each, found {found}"))
                    .at(format!("expert {expert}")));
            }
        }
        Ok(Self { tensors, settings, experts })
    }

    fn packed(&self, expert: usize, bits: u8) -> Result<Packed> {
        let [gate, up, down] = MATRICES.map(|matrix| {
            let name = name(expert, matrix, bits);
            match self.tensors.tensor(&name) {
                Some((_, bytes)) => Ok(bytes.to_vec()),
                None => Err(Error::new(format!("expected a tensor \"{name}\", found none"))),
            }
        });
        let packed = [gate?, up?, down?];
        let digests = self.experts.get(expert).map_or(&[][..], |record| &record.digests);
        let at = self.settings.bits.iter().position(|of| *of == bits);
        if let Some(expected) = at.and_then(|at| digests.get(at)).filter(|expected| **expected != digest(&packed)) {
            return Err(Error::new(format!(
                "expected matrices of digest {expected}, found others: the file is damaged"
            ))
            .at(format!("expert {expert} at {bits} bits")));
        }
        Ok(packed)
    }
}

fn metadata<T: for<'a> Deserialize<'a>>(tensors: &Tensors, key: &str) -> Result<T> {
    let text = tensors.info.get(key).ok_or_else(|| Error::new(format!("expected metadata {key}, found none")))?;
    serde_json::from_str(text).map_err(|error| Error::new(format!("metadata {key}: {error}")))
}

/// The records of a layer that is there already.
///
/// # Errors
/// If the file is damaged, or was made with other settings.
pub(super) fn finished_layer(folder: &Path, layer: usize, settings: &Settings) -> Result<Option<Vec<ExpertRecord>>> {
    let path = layer_file(folder, layer);
    if !path.exists() {
        return Ok(None);
    }
    let file = LayerFile::open(&path).map_err(|error| error.or_file(&path))?;
    if file.settings != *settings {
        return Err(Error::in_file(&path, different(&file.settings, settings)));
    }
    Ok(Some(file.experts))
}

/// Says what differs.
fn different(found: &Settings, expected: &Settings) -> String {
    let pairs = [
        ("bits", format!("{:?}", expected.bits), format!("{:?}", found.bits)),
        ("groups of", expected.group.to_string(), found.group.to_string()),
        ("method", format!("{:?}", expected.method), format!("{:?}", found.method)),
        ("calibration tokens", expected.tokens.to_string(), found.tokens.to_string()),
        ("calibration text", expected.calibration.clone(), found.calibration.clone()),
        ("model", expected.model.clone(), found.model.clone()),
    ];
    let changed = pairs.iter().filter(|(_, expected, found)| expected != found);
    let list: Vec<String> =
        changed.map(|(what, expected, found)| format!("{what} {found} instead of {expected}")).collect();
    format!(
        "expected replicas of this run to go on with, found {}: name another folder with --out, or remove this one",
        list.join(", ")
    )
}

/// Replicas in a folder, dequantised when they are first asked for and kept from then on.
pub struct Replicas {
    folder: PathBuf,
    layers: Vec<LayerFile>,
    config: Config,
    ready: HashMap<(usize, u16, u8), Expert>,
}

impl std::fmt::Debug for Replicas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replicas")
            .field("folder", &self.folder)
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}

impl Replicas {
    /// Opens the replicas of a model. Reads headers only.
    ///
    /// # Errors
    /// If a layer is missing or damaged, or if they are those of another model.
    pub fn open(folder: &Path, config: &Config) -> Result<Self> {
        let mut layers: Vec<LayerFile> = Vec::new();
        for layer in 0..config.moe_layers.len() {
            let path = layer_file(folder, layer);
            let file = LayerFile::open(&path).map_err(|error| error.or_file(&path))?;
            let wrong = |message: String| Err(Error::in_file(&path, message));
            if file.experts.len() != config.experts {
                return wrong(format!(
                    "expected {} experts as the model has, found {}",
                    config.experts,
                    file.experts.len()
                ));
            }
            if let Some(first) = layers.first().filter(|first| first.settings != file.settings) {
                return wrong(different(&file.settings, &first.settings));
            }
            layers.push(file);
        }
        Ok(Self { folder: folder.into(), layers, config: config.clone(), ready: HashMap::new() })
    }

    /// The bits that there are replicas for, ascending.
    #[must_use]
    pub fn bits(&self) -> &[u8] {
        self.layers.first().map_or(&[], |layer| &layer.settings.bits)
    }

    /// The packed matrices of an expert.
    ///
    /// # Errors
    /// If there are none, or if they are damaged or not of the model's shape.
    pub fn packed(&self, layer: usize, expert: u16, bits: u8) -> Result<Packed> {
        let Some(file) = self.layers.get(layer) else {
            return Err(Error::in_file(&self.folder, format!("expected replicas of layer {layer}, found none")));
        };
        let path = layer_file(&self.folder, layer);
        let packed = file.packed(expert.into(), bits).map_err(|error| error.or_file(&path))?;
        let (hidden, inner) = (self.config.hidden, self.config.expert_inner);
        for ((matrix, bytes), shape) in
            MATRICES.iter().zip(&packed).zip([[inner, hidden], [inner, hidden], [hidden, inner]])
        {
            let place = |error: Error| error.at(format!("tensor {}", name(expert.into(), matrix, bits))).or_file(&path);
            let layout = Layout::read(bytes).map_err(|error| place(error.into()))?;
            let found = [layout.rows(), layout.columns()];
            if found != shape {
                return Err(place(Error::new(format!("expected shape {shape:?} as the model has, found {found:?}"))));
            }
        }
        Ok(packed)
    }

    /// All experts at some bits in one memory, as a controller runs them ([`cptr_core::expert::Replicas`]).
    ///
    /// # Errors
    /// As [`Self::packed`]; more than such a memory holds.
    pub fn memory(&self, bits: &[u8]) -> Result<Vec<u8>> {
        const LINE: usize = Memory::LINE;
        let (layers, experts) = (self.layers.len() as u16, self.config.experts as u16);
        let first = Memory::first_line(layers, experts).ok_or(ExpertError::Length)?;
        let mut memory = vec![0; first as usize * LINE];
        let mut lines = Vec::new();
        for layer in 0..layers {
            for (expert, &bits) in (0..experts).flat_map(|expert| bits.iter().map(move |bits| (expert, bits))) {
                lines.push((layer, expert, bits, memory.len() / LINE));
                self.packed(layer.into(), expert, bits)?.iter().for_each(|matrix| memory.extend(matrix));
                memory.resize(memory.len().next_multiple_of(LINE), 0);
            }
        }
        let all = u32::try_from(memory.len() / LINE).map_err(|_| ExpertError::Length)?;
        Memory::write_header(&mut memory, layers, experts, all)?;
        for (layer, expert, bits, line) in lines {
            let entry = Memory::entry(experts, layer, expert, bits).ok_or(ExpertError::Bits)?;
            memory[entry..entry + 4].copy_from_slice(&(line as u32).to_le_bytes());
        }
        Ok(memory)
    }

    /// An expert at some bits, in f32. Cheap from the second time on; memory grows to that of the replicas asked for,
    /// in f32.
    ///
    /// # Errors
    /// As [`Self::packed`].
    pub fn expert(&mut self, layer: usize, expert: u16, bits: u8) -> Result<Expert> {
        if let Some(ready) = self.ready.get(&(layer, expert, bits)) {
            return Ok(ready.clone());
        }
        let place = |error: Error| {
            error.at(format!("expert {expert} at {bits} bits")).or_file(&layer_file(&self.folder, layer))
        };
        let made = expert_of(self.config.hidden, &self.packed(layer, expert, bits)?).map_err(place)?;
        self.ready.insert((layer, expert, bits), made.clone());
        Ok(made)
    }
}

/// Runs every expert of a model at the same number of bits.
#[derive(Debug)]
pub struct Uniform<'a> {
    /// Where they come from.
    pub replicas: &'a mut Replicas,
    /// Bits of all.
    pub bits: u8,
}

impl MoeHook for Uniform<'_> {
    fn bits(&mut self, _layer: usize, _chosen: &[u16], bits: &mut [u8]) {
        bits.fill(self.bits);
    }

    fn replica(&mut self, layer: usize, expert: u16, bits: u8) -> Result<Expert> {
        self.replicas.expert(layer, expert, bits)
    }
}
