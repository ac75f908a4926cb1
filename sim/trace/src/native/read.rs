//! From tensors to a trace.

use safetensors::Dtype;

use super::tensors::{Tensors, expected_shape};
use crate::array::FloatArray;
use crate::error::{Error, Result};
use crate::{Evidence, MAX_EXPERTS, MAX_TOP_K, Meta, NO_EXPERT, Phase, Router, Shape, Trace, top_k};

/// A trace as it lies in a file, not validated yet.
pub(crate) struct Loaded {
    pub(crate) trace: Trace,
    /// Whether the file says how many experts there are; otherwise it is one more than the highest id.
    pub(crate) experts_known: bool,
    /// Whether the file says where sequences begin.
    pub(crate) sequences_known: bool,
}

impl Tensors {
    pub(super) fn trace(&self) -> Result<Loaded> {
        self.check_sizes()?;
        let (logits, weights) = (self.floats("logits")?, self.floats("weights")?);
        let router = self.router()?;
        let null = usize::from(router.null_experts);
        let derived = self.tensor("experts").is_none().then(|| Evidence::derived(router));
        let ([tokens, layers, k], ids) = self.chosen(logits.as_ref())?;
        let recorded = logits.as_ref().map(|logits| logits.shape()[2].saturating_sub(null));
        let known = agree("experts", self.number("experts")?, recorded)?;
        let highest = ids.iter().filter(|&&id| id != NO_EXPERT).max().map_or(0, |&id| usize::from(id));
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
            bias: self.per_expert("bias", shape, null)?,
            expert_scale: self.per_expert("expert_scale", shape, null)?,
            evidence: derived,
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

    /// Refuses axes of length 0: beside them the other axes may claim any length in no bytes at all.
    fn check_sizes(&self) -> Result<()> {
        for name in ["experts", "logits", "weights", "hidden"] {
            if let Some((info, _)) = self.tensor(name).filter(|(info, _)| info.shape.contains(&0)) {
                return Err(expected_shape(name, "at least one token, layer and expert", &info.shape));
            }
        }
        Ok(())
    }

    /// Shape `[T, L, k]` and ids, from `experts` or from the logits.
    fn chosen(&self, logits: Option<&FloatArray>) -> Result<([usize; 3], Vec<u16>)> {
        let Some((shape, ids)) = self.ids("experts")? else {
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
            u16::try_from(id).or(if id == u32::MAX { Ok(NO_EXPERT) } else { Err(()) }).map_err(|()| {
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

    fn router(&self) -> Result<Router> {
        let text = self.info.get("router");
        text.map_or(Ok(Router::UNKNOWN), |text| text.parse().map_err(|e: Error| e.at("metadata router")))
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

    /// A number for each expert of each layer.
    fn per_expert(&self, name: &str, shape: Shape, null: usize) -> Result<Option<Vec<f32>>> {
        let Some((info, bytes)) = self.tensor(name) else { return Ok(None) };
        let expected = [shape.layers, shape.experts + null];
        if info.dtype != Dtype::F32 || info.shape != expected {
            let found = format!("{:?} {:?}", info.dtype, info.shape);
            return Err(Error::new(format!("expected F32 {expected:?}, found {found}")).at(format!("tensor {name}")));
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

/// Positions that count from 0 in each sequence.
pub(crate) fn positions(sequence: &[u32]) -> Vec<u32> {
    let mut position = 0;
    (0..sequence.len())
        .map(|token| {
            position = if token > 0 && sequence[token] == sequence[token - 1] { position + 1 } else { 0 };
            position
        })
        .collect()
}
