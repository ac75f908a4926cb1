//! Numpy arrays, `.npy` and `.npz`.
//!
//! | array | meaning |
//! |---|---|
//! | integers of three axes | chosen experts: `[T, L, k]` or `[L, T, k]` |
//! | floats of three axes | logits `[T, L, E]`; weights where the name has "weight" or "prob" beside such ids |
//! | `meta`, JSON text | llama-moe-trace: `model`, `k` or `top_k`, `num_experts`, `n_moe_layers`, `source` |
//! | `layer_0`, … of two axes | the same by layers; a folder of such `.npy` files (`ffn_moe_logits-0.npy`) too |
//! | `prompt_routed_experts`, `routed_experts` | prompt and answer of one request of vLLM |
//! | `routed_experts` with `prompt_token_ids`, `output_token_ids` | one request of vLLM or SGLang, always `[T, L, k]` |
//! | `sequence`, `position`, `phase`, `token`, `domain` | as in the native format |
//!
//! Several arrays of ids or of logits (`seq0`, `seq1`, …) are one sequence each, in the order of the numbers in their
//! names.
//!
//! Which axis is which, for ids: the number of layers in `meta`; else what the caller says; else, of several arrays,
//! the axis that all share is the layers; else the longer axis is the tokens, and a note says so. Of logits, the first
//! axis is the tokens if it is the longer; the second if it is longer than any model has layers; else the caller is
//! asked. Where nothing says how many experts a token gets from logits, one is taken, and a note says so.
//!
//! SGLang and vLLM write all layers and a fixed k: layers of nothing but -1, or (for k above 1) nothing but 0, are
//! dense and dropped, and columns of nothing but -1 are cut off. Other -1 are experts that were not chosen, and tokens
//! of nothing but -1 were not recorded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufReader, Cursor};
use std::path::Path;

use serde::Deserialize;
use zip::ZipArchive;

use super::npy::{self, Array, Values};
use super::{Entry, Importer, Layout, Options, Part, Recording, per_layer};
use crate::array::{FloatArray, Mapping};
use crate::error::{Error, Result};
use crate::native::positions;
use crate::{Evidence, MAX_EXPERTS, MAX_TOP_K, Meta, NO_EXPERT, Phase, Router, Shape, Trace, top_k};

/// Arrays of ids or logits.
pub(super) struct Numpy;

impl Importer for Numpy {
    fn name(&self) -> &'static str {
        "numpy"
    }

    fn about(&self) -> &'static str {
        ".npy, .npz: ids [T,L,k] or [L,T,k], logits [T,L,E]; llama-moe-trace, vLLM routed_experts"
    }

    fn detect(&self, path: &Path, head: &[u8]) -> bool {
        let first_name = head.get(30..).map(|rest| &rest[..rest.len().min(256)]).unwrap_or_default();
        let zip = head.starts_with(b"PK\x03\x04")
            && (path.extension().is_some_and(|ext| ext == "npz") || first_name.windows(4).any(|part| part == b".npy"));
        head.starts_with(npy::MAGIC) || zip
    }

    fn import(&self, entry: Entry<'_>, options: &Options) -> Result<Part> {
        let path = entry.path().to_owned();
        let is_array = entry.head().starts_with(npy::MAGIC);
        let map = Mapping::new(&entry.file()?, &path)?;
        let mut budget = options.budget();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let arrays = if is_array {
            let array = npy::read(&map[..], &mut budget)?;
            // A layer of its own has its number in the file's name.
            let name = if array.shape.len() == 2 && layer_of(&stem).is_some() { &stem } else { "" };
            BTreeMap::from([(NaturalName::new(name), array)])
        } else {
            read_npz(&map, &mut budget)?
        };
        let mut contents = Contents::sort(arrays)?;
        let (trace, experts_known, sequences_known) = contents.trace(options)?;
        Ok(Part { path, recording: Recording::Tokens(trace), experts_known, sequences_known })
    }

    fn assemble(&self, parts: Vec<Part>, _: &Options) -> Result<Vec<Part>> {
        per_layer::assemble(parts)
    }
}

/// The number of the layer that an array is named after, if it is: `layer_3`, `ffn_moe_logits-3`,
/// `layer_3_router_logits`.
fn layer_of(name: &str) -> Option<u32> {
    let words = ["layer", "moe", "logits", "topk", "router", "gate"];
    let name = name.to_ascii_lowercase();
    let digits = name.rfind(|c: char| c.is_ascii_digit()).map(|last| {
        let start = name[..=last].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |before| before + 1);
        &name[start..=last]
    })?;
    words.iter().any(|word| name.contains(word)).then(|| digits.parse().ok())?
}

fn read_npz(bytes: &[u8], budget: &mut u64) -> Result<BTreeMap<NaturalName, Array>> {
    let broken = |error: zip::result::ZipError| Error::new(format!("expected a whole zip archive: {error}"));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let files = archive.file_names().map(|file| file.map(Cow::into_owned)).collect::<std::result::Result<Vec<_>, _>>();
    let mut arrays = BTreeMap::new();
    for file in files.map_err(broken)? {
        let Some(name) = file.strip_suffix(".npy") else { continue };
        let entry = archive.by_name(&file).map_err(broken)?;
        // Nothing that a router does compresses so well.
        let mut allowed = (*budget).min(entry.compressed_size().saturating_mul(MAX_RATIO).max(SMALL));
        let before = allowed;
        let array =
            npy::read(BufReader::new(entry), &mut allowed).map_err(|error| error.at(format!("array {name}")))?;
        *budget -= before - allowed;
        arrays.insert(NaturalName::new(name), array);
    }
    Ok(arrays)
}

/// Bytes that a compressed byte may become.
const MAX_RATIO: u64 = 256;
/// Bytes from which that is asked.
const SMALL: u64 = 1 << 24;

/// A name that sorts by the number at its end, so that `seq10` follows `seq9`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct NaturalName {
    stem: String,
    number: Option<u64>,
    name: String,
}

impl NaturalName {
    fn new(name: &str) -> Self {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        Self { stem: stem.into(), number: name[stem.len()..].parse().ok(), name: name.into() }
    }
}

/// Values of three axes, row-major.
pub(super) struct Cube<T> {
    pub(super) name: String,
    pub(super) shape: [usize; 3],
    pub(super) values: Vec<T>,
}

impl<T: Copy> Cube<T> {
    /// The same with the first two axes swapped.
    pub(super) fn swapped(self) -> Self {
        let [a, b, n] = self.shape;
        let mut values = Vec::with_capacity(self.values.len());
        for j in 0..b {
            for i in 0..a {
                values.extend_from_slice(&self.values[(i * b + j) * n..(i * b + j + 1) * n]);
            }
        }
        Self { name: self.name, shape: [b, a, n], values }
    }

    fn in_layout(self, layout: Layout) -> Self {
        if layout == Layout::TokenLayer { self } else { self.swapped() }
    }
}

/// What llama-moe-trace says about itself.
#[derive(Deserialize, Default)]
struct About {
    model: Option<String>,
    source: Option<String>,
    k: Option<usize>,
    top_k: Option<usize>,
    num_experts: Option<usize>,
    n_moe_layers: Option<usize>,
}

/// The arrays of one file by their meaning.
#[derive(Default)]
struct Contents {
    ids: Vec<Cube<i32>>,
    logits: Vec<Cube<f32>>,
    weights: Option<Cube<f32>>,
    /// Arrays of one axis.
    rows: BTreeMap<String, Vec<i32>>,
    about: About,
    notes: Vec<String>,
    /// Numbers of the layers, where each came in an array of its own.
    layer_ids: Vec<u32>,
    /// Tokens of the prompt, where it came in an array of its own.
    prompt: Option<usize>,
}

/// Most layers that a model has.
const MAX_LAYERS: usize = 128;

impl Contents {
    fn sort(arrays: BTreeMap<NaturalName, Array>) -> Result<Self> {
        let mut contents = Self::default();
        let mut unused = Vec::new();
        let (mut logits, mut ids) = (Vec::new(), Vec::new());
        for (NaturalName { name, .. }, Array { shape, values }) in arrays {
            match (values, &shape[..]) {
                (Values::Integers(values), &[a, b, n]) => contents.ids.push(Cube { name, shape: [a, b, n], values }),
                (Values::Integers(values), &[_, _]) if layer_of(&name).is_some() => {
                    ids.push(Layer { number: layer_of(&name).unwrap_or(0), shape: [shape[0], shape[1]], values });
                }
                (Values::Floats(values), &[a, b]) => {
                    let number = layer_of(&name).unwrap_or(0);
                    logits.push(Layer { number, shape: [a, b], values });
                }
                (Values::Integers(values), &[a, b]) if name.is_empty() || name.contains("expert") => {
                    contents.ids.push(Cube { name, shape: [a, b, 1], values });
                }
                (Values::Floats(values), &[a, b, n]) => {
                    let cube = Cube { name, shape: [a, b, n], values };
                    if cube.name.contains("weight") || cube.name.contains("prob") {
                        contents.weights = Some(cube);
                    } else {
                        contents.logits.push(cube);
                    }
                }
                (Values::Integers(values), &[_]) => {
                    contents.rows.insert(name, values);
                }
                (Values::Text(text), _) if name == "meta" && text.len() == 1 => {
                    contents.about = serde_json::from_str(&text[0])
                        .map_err(|error| Error::new(format!("expected JSON text: {error}")).at("array meta"))?;
                }
                _ => unused.push(format!("{name} {shape:?}")),
            }
        }
        if contents.logits.is_empty() && contents.ids.is_empty() {
            contents.logits.extend(stack_layers(logits, &mut contents.layer_ids)?);
            contents.ids.extend(stack_layers(ids, &mut contents.layer_ids)?);
        }
        if contents.ids.is_empty() && contents.logits.is_empty() {
            unused.extend(contents.weights.iter().map(|cube| format!("{} {:?}", cube.name, cube.shape)));
            return Err(Error::new(format!(
                "expected an array of three axes, integers [tokens, layers, k] or floats [tokens, layers, experts], found {}",
                if unused.is_empty() { "none".into() } else { unused.join(", ") }
            )));
        }
        if !unused.is_empty() {
            contents.notes.push(format!("Arrays of no known meaning are passed over: {}.", unused.join(", ")));
        }
        Ok(contents)
    }

    /// The trace, whether the number of experts is known, and whether the sequences are.
    fn trace(&mut self, options: &Options) -> Result<(Trace, bool, bool)> {
        let (mut ids, logits) = (std::mem::take(&mut self.ids), std::mem::take(&mut self.logits));
        let request = !ids.is_empty() && ids.iter().all(|cube| cube.name.ends_with("routed_experts")) && ids.len() <= 2;
        // The prompt comes first.
        ids.sort_by_key(|cube| !cube.name.starts_with("prompt_"));
        let mut lengths = Vec::new();
        let logits =
            if logits.is_empty() { None } else { Some(stack(self.arrange_logits(logits, options)?, &mut lengths)?) };
        let mut id_lengths = Vec::new();
        let chosen = if ids.is_empty() { None } else { Some(stack(self.arrange_ids(ids, options)?, &mut id_lengths)?) };
        if let (true, &[prompt, answer]) = (request, &id_lengths[..]) {
            self.prompt = Some(prompt);
            id_lengths = vec![prompt + answer];
        }
        if !id_lengths.is_empty() && !lengths.is_empty() && id_lengths != lengths {
            return Err(Error::new(format!(
                "expected as many tokens of ids as of logits, found {id_lengths:?} and {lengths:?}"
            )));
        }
        let lengths = if lengths.is_empty() { id_lengths } else { lengths };
        let recorded = logits.as_ref().map(|cube| cube.shape[2]);
        if let (Some(told), Some(found)) = (self.about.num_experts, recorded)
            && told != found
        {
            return Err(Error::new(format!("expected {told} experts as meta says, found logits of {found}")));
        }
        let logits = logits.map(|cube| FloatArray::owned(cube.shape, cube.values));
        let derived = chosen.is_none().then_some(Evidence::derived(Router::UNKNOWN));
        let choice = match (chosen, &logits) {
            (Some(cube), _) => {
                let told = self.about.k.or(self.about.top_k);
                clean(cube, logits.is_some(), told, &mut self.notes)?
            }
            (None, Some(logits)) => self.derive(logits, options)?,
            (None, None) => return Err(Error::new("expected ids or logits, found neither")),
        };
        let Choice { shape: [tokens, layers, k], ids, mut layer_ids } = choice;
        if self.layer_ids.len() == layers {
            layer_ids.clone_from(&self.layer_ids);
        }
        let highest = ids.iter().filter(|&&id| id != NO_EXPERT).max().map_or(0, |&id| usize::from(id));
        let known = recorded.or(self.about.num_experts);
        let sequences_known = request || lengths.len() > 1 || self.rows.contains_key("sequence");
        let numbered =
            lengths.iter().zip(0..).flat_map(|(&length, number)| std::iter::repeat_n(number, length)).collect();
        let sequence: Vec<u32> = self.row("sequence", tokens)?.unwrap_or(numbered);
        let trace = Trace {
            shape: Shape { tokens, layers, experts: known.unwrap_or(highest + 1), k },
            meta: Meta {
                model: self.about.model.take().unwrap_or_default(),
                router: Router::UNKNOWN,
                source: self.about.source.take().unwrap_or_default(),
                domains: self.domain_names()?,
                layer_ids,
            },
            weights: self.take_weights([tokens, layers, k])?,
            ids,
            logits,
            bias: None,
            expert_scale: None,
            hidden: None,
            position: self.row("position", tokens)?.unwrap_or_else(|| positions(&sequence)),
            sequence,
            phase: self.phases(tokens)?,
            token: self.tokens(tokens)?,
            domain: self
                .row("domain", tokens)?
                .unwrap_or_else(|| vec![0; tokens])
                .into_iter()
                .map(|d| d as u8)
                .collect(),
            notes: std::mem::take(&mut self.notes),
            evidence: derived,
        };
        Ok((trace, known.is_some(), sequences_known))
    }

    fn arrange_logits(&mut self, cubes: Vec<Cube<f32>>, options: &Options) -> Result<Vec<Cube<f32>>> {
        let shared = |axis: usize| cubes.iter().all(|cube| cube.shape[axis] == cubes[0].shape[axis]);
        let [a, b, experts] = cubes[0].shape;
        let layout = match (options.layout, self.about.n_moe_layers) {
            _ if !self.layer_ids.is_empty() => Layout::TokenLayer,
            (Some(layout), _) => layout,
            (None, Some(layers)) if a == layers && b != layers => Layout::LayerToken,
            (None, Some(layers)) if b == layers => Layout::TokenLayer,
            _ if cubes.len() > 1 && shared(0) && !shared(1) => Layout::LayerToken,
            _ if cubes.len() > 1 || a > b || a <= 1 => Layout::TokenLayer,
            // No model has so many layers: these are tokens.
            _ if b > MAX_LAYERS && a <= MAX_LAYERS => {
                self.notes.push(format!(
                    "Logits {:?} are read as [layers, tokens, experts]: {b} tokens, {a} layers.",
                    cubes[0].shape
                ));
                Layout::LayerToken
            }
            _ => {
                return Err(Error::new(format!(
                    "expected to see which axis of [{a}, {b}, {experts}] holds the tokens, found that both could: say it with \
                     --layout token-layer or layer-token"
                )));
            }
        };
        Ok(cubes.into_iter().map(|cube| cube.in_layout(layout)).collect())
    }

    fn arrange_ids(&mut self, cubes: Vec<Cube<i32>>, options: &Options) -> Result<Vec<Cube<i32>>> {
        let layout = self.layout(&cubes, options)?;
        Ok(cubes.into_iter().map(|cube| cube.in_layout(layout)).collect())
    }

    fn layout(&mut self, cubes: &[Cube<i32>], options: &Options) -> Result<Layout> {
        let [a, b, k] = cubes[0].shape;
        let told = match self.about.n_moe_layers {
            // With as many tokens as layers the format of llama-moe-trace decides.
            Some(layers) if a == layers => Some(Layout::LayerToken),
            Some(layers) if b == layers => Some(Layout::TokenLayer),
            Some(layers) => {
                return Err(Error::new(format!(
                    "expected {layers} layers as meta says, found an array [{a}, {b}, {k}]"
                ))
                .at(format!("array {}", cubes[0].name)));
            }
            None if cubes[0].name.ends_with("routed_experts") || !self.layer_ids.is_empty() => Some(Layout::TokenLayer),
            None => None,
        };
        if let (Some(told), Some(asked)) = (told, options.layout)
            && told != asked
            && a != b
        {
            return Err(Error::new(format!(
                "expected layout {told:?} as the file says, found that {asked:?} is asked for"
            )));
        }
        let shared = |axis: usize| cubes.iter().all(|cube| cube.shape[axis] == cubes[0].shape[axis]);
        match options.layout.or(told) {
            Some(layout) => Ok(layout),
            None if cubes.len() > 1 && shared(1) != shared(0) => {
                Ok(if shared(1) { Layout::TokenLayer } else { Layout::LayerToken })
            }
            None if a == b => Err(Error::new(format!(
                "expected to see which axis of [{a}, {b}, {k}] holds the tokens, found two of one length: say it with --layout"
            ))),
            None => {
                let (layout, tokens, layers) =
                    if a > b { (Layout::TokenLayer, a, b) } else { (Layout::LayerToken, b, a) };
                self.notes
                    .push(format!("The longer axis is taken to be the tokens: {tokens} tokens, {layers} layers."));
                Ok(layout)
            }
        }
    }

    /// The choice that follows from logits.
    fn derive(&mut self, logits: &FloatArray, options: &Options) -> Result<Choice> {
        let [tokens, layers, experts] = logits.shape();
        let told = options.top_k.or(self.about.k).or(self.about.top_k);
        let k = told.unwrap_or_else(|| {
            self.notes
                .push("The number of experts per token is not recorded: taken as 1 (--top-k says otherwise).".into());
            1
        });
        if experts > MAX_EXPERTS || !(1..=MAX_TOP_K.min(experts)).contains(&k) {
            return Err(Error::new(format!(
                "expected 1 to {MAX_EXPERTS} experts of which a token gets 1 to {MAX_TOP_K}, found {experts} and {k}"
            )));
        }
        let layer_ids = (0..layers as u32).collect();
        Ok(Choice { shape: [tokens, layers, k], ids: top_k::of_logits(logits, k), layer_ids })
    }

    fn take_weights(&mut self, shape: [usize; 3]) -> Result<Option<FloatArray>> {
        let Some(cube) = self.weights.take() else { return Ok(None) };
        let [tokens, layers, k] = shape;
        let cube = if cube.shape == shape {
            cube
        } else if cube.shape == [layers, tokens, k] {
            cube.swapped()
        } else {
            let (name, found) = (&cube.name, cube.shape);
            self.notes.push(format!("Array {name} {found:?} does not fit ids {shape:?} and is passed over."));
            return Ok(None);
        };
        Ok(Some(FloatArray::owned(cube.shape, cube.values)))
    }

    fn row(&self, name: &str, tokens: usize) -> Result<Option<Vec<u32>>> {
        let Some(values) = self.rows.get(name) else { return Ok(None) };
        let fail = |message: String| Error::new(message).at(format!("array {name}"));
        if values.len() != tokens {
            return Err(fail(format!("expected {tokens} values, found {}", values.len())));
        }
        let convert =
            |&value: &i32| u32::try_from(value).map_err(|_| fail(format!("expected no negative value, found {value}")));
        values.iter().map(convert).collect::<Result<_>>().map(Some)
    }

    /// One name for each domain number; that of the only domain is the file's.
    fn domain_names(&self) -> Result<Vec<String>> {
        let highest = self.rows.get("domain").and_then(|values| values.iter().max().copied()).unwrap_or(0);
        match highest {
            0 => Ok(vec![String::new()]),
            1..=255 => Ok((0..=highest).map(|number| number.to_string()).collect()),
            other => Err(Error::new(format!("expected domain numbers of 0 to 255, found {other}")).at("array domain")),
        }
    }

    fn phases(&self, tokens: usize) -> Result<Vec<Phase>> {
        if let Some(values) = self.row("phase", tokens)? {
            let phase = |value| if value == 0 { Phase::Prefill } else { Phase::Decode };
            return Ok(values.into_iter().map(phase).collect());
        }
        let prompt = self.prompt.or(self.rows.get("prompt_token_ids").map(Vec::len)).unwrap_or(tokens);
        Ok((0..tokens).map(|token| if token < prompt { Phase::Prefill } else { Phase::Decode }).collect())
    }

    fn tokens(&self, tokens: usize) -> Result<Option<Vec<u32>>> {
        let parts = ["prompt_token_ids", "output_token_ids"].map(|name| self.rows.get(name));
        let [Some(prompt), Some(output)] = parts else { return self.row("token", tokens) };
        // The last token of a request is never an input, so there may be one more than rows.
        let ids: Option<Vec<u32>> = prompt.iter().chain(output).take(tokens).map(|&id| id.try_into().ok()).collect();
        Ok(ids.filter(|ids| ids.len() == tokens))
    }
}

/// Ids without the columns and layers that a recorder allocated and never filled; -1 elsewhere becomes [`NO_EXPERT`].
pub(super) fn clean(
    cube: Cube<i32>,
    keep_layers: bool,
    told: Option<usize>,
    notes: &mut Vec<String>,
) -> Result<Choice> {
    let [tokens, layers, width] = cube.shape;
    let row = |token: usize, layer: usize| &cube.values[(token * layers + layer) * width..][..width];
    let token_row = |token: usize| &cube.values[token * layers * width..][..layers * width];
    let recorded: Vec<usize> = (0..tokens).filter(|&token| token_row(token).iter().any(|&id| id != -1)).collect();
    let all = |layer: usize, value: i32| recorded.iter().all(|&token| row(token, layer).iter().all(|&id| id == value));
    let dense = |layer| all(layer, -1) || width > 1 && all(layer, 0);
    let kept: Vec<usize> = (0..layers).filter(|&layer| keep_layers || !dense(layer)).collect();
    let filled = |column: &usize| recorded.iter().any(|&t| kept.iter().any(|&layer| row(t, layer)[*column] != -1));
    let k = (0..width).rev().find(filled).map_or(0, |last| last + 1);
    if kept.len() < layers && !kept.is_empty() {
        let dropped: Vec<_> =
            (0..layers).filter(|layer| !kept.contains(layer)).map(|layer| layer.to_string()).collect();
        notes.push(format!("Layers without experts are dropped: {}.", dropped.join(", ")));
    }
    if k < width && k > 0 {
        notes.push(format!("Of {width} columns of ids {k} are in use."));
    }
    if let Some(told) = told.filter(|&told| told != k && k > 0) {
        return Err(Error::new(format!("expected {told} experts per token as meta says, found {k}")));
    }
    let mut ids = Vec::with_capacity(tokens * kept.len() * k);
    for token in 0..tokens {
        for &layer in &kept {
            for &id in &row(token, layer)[..k] {
                let checked = u16::try_from(id).or(if id == -1 { Ok(NO_EXPERT) } else { Err(()) }).map_err(|()| {
                    Error::new(format!("expected expert ids of 0 to {}, found {id}", MAX_EXPERTS - 1))
                        .at(format!("layer {layer}"))
                        .at(format!("token {token}"))
                });
                ids.push(checked?);
            }
        }
    }
    let layer_ids = kept.iter().map(|&layer| layer as u32).collect();
    Ok(Choice { shape: [tokens, kept.len(), k], ids, layer_ids })
}

/// The array of one layer.
struct Layer<T> {
    number: u32,
    /// `[T, n]`.
    shape: [usize; 2],
    values: Vec<T>,
}

/// Arrays of one layer each become one `[T, L, n]`; their numbers are the layers'.
fn stack_layers<T: Copy>(mut layers: Vec<Layer<T>>, numbers: &mut Vec<u32>) -> Result<Option<Cube<T>>> {
    let Some(&Layer { shape: [tokens, n], .. }) = layers.first() else { return Ok(None) };
    layers.sort_by_key(|layer| layer.number);
    if let Some(other) = layers.iter().find(|layer| layer.shape != [tokens, n]) {
        return Err(Error::new(format!(
            "expected layers of one shape, found [{tokens}, {n}] and {:?} in layer {}",
            other.shape, other.number
        )));
    }
    let found: Vec<u32> = layers.iter().map(|layer| layer.number).collect();
    if let Some(pair) = found.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::new(format!("expected one array for each layer, found two of layer {}", pair[0])));
    }
    if !numbers.is_empty() && *numbers != found {
        return Err(Error::new("expected ids and logits of the same layers, found others"));
    }
    *numbers = found;
    let mut values = Vec::with_capacity(tokens * layers.len() * n);
    for token in 0..tokens {
        for layer in &layers {
            values.extend_from_slice(&layer.values[token * n..(token + 1) * n]);
        }
    }
    Ok(Some(Cube { name: String::new(), shape: [tokens, layers.len(), n], values }))
}

/// Ids with their shape `[T, L, k]`.
pub(super) struct Choice {
    pub(super) shape: [usize; 3],
    pub(super) ids: Vec<u16>,
    pub(super) layer_ids: Vec<u32>,
}

/// Lays arrays `[T, L, n]` end to end and pushes their lengths.
fn stack<T>(cubes: Vec<Cube<T>>, lengths: &mut Vec<usize>) -> Result<Cube<T>> {
    let mut cubes = cubes.into_iter();
    let mut all = cubes.next().ok_or_else(|| Error::new("expected an array, found none"))?;
    lengths.push(all.shape[0]);
    for cube in cubes {
        if cube.shape[1..] != all.shape[1..] {
            return Err(Error::new(format!(
                "expected arrays that differ in their tokens only, found {} {:?} and {} {:?}",
                all.name, all.shape, cube.name, cube.shape
            )));
        }
        lengths.push(cube.shape[0]);
        all.shape[0] += cube.shape[0];
        all.values.extend(cube.values);
    }
    Ok(all)
}

#[cfg(test)]
#[path = "numpy_tests.rs"]
mod tests;
