//! What a GGUF file says about its mixture of experts: sizes, which layers have one, how the router chooses.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cptr_trace::error::{Error, Result};
use cptr_trace::router::{Router, Score};
use cptr_trace::{MAX_EXPERTS, MAX_TOP_K, Meta, Shape};

use crate::ffi::{Gguf, Info};

/// The mixture of experts of a model.
#[derive(Debug, Clone)]
pub(crate) struct Moe {
    /// Name of the model, or of its file.
    pub(crate) name: String,
    /// Name of the architecture.
    pub(crate) architecture: String,
    /// The model's own number of each MoE layer.
    pub(crate) layers: Vec<usize>,
    /// Routed experts of a layer.
    pub(crate) experts: usize,
    /// Experts of a token.
    pub(crate) k: usize,
    /// Width of the residual stream.
    pub(crate) hidden: u64,
    /// Width inside an expert.
    pub(crate) inner: u64,
    /// How the router chooses.
    pub(crate) router: Router,
    /// Its bias for the selection `[L, E]`, or empty.
    pub(crate) bias: Vec<f32>,
    /// The stacked matrices of experts, with the index of their MoE layer.
    pub(crate) matrices: Vec<(usize, Info)>,
    /// Bytes of all other tensors.
    pub(crate) dense_bytes: u64,
}

impl Moe {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// A file that is no GGUF file, or has no experts.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        Self::of(&gguf, path).map_err(|error| error.or_file(path))
    }

    fn of(gguf: &Gguf, path: &Path) -> Result<Self> {
        let architecture = gguf.text("general.architecture");
        let architecture = architecture.ok_or_else(|| Error::new("expected general.architecture, found none"))?;
        let key = |name: &str| format!("{architecture}.{name}");
        let number = |name: &str| gguf.number(&key(name)).unwrap_or(0) as usize;
        let (experts, k) = (number("expert_count"), number("expert_used_count"));
        if !(1..=MAX_EXPERTS).contains(&experts) || !(1..=MAX_TOP_K.min(experts)).contains(&k) {
            return Err(Error::new(format!(
                "expected a model with experts, found {architecture} with {experts}, {k} of them for a token"
            )));
        }
        let tensors = gguf.tensors();
        let mut layers: Vec<usize> = tensors.iter().filter_map(|tensor| expert_layer(&tensor.name)).collect();
        layers.sort_unstable();
        layers.dedup();
        if layers.is_empty() {
            return Err(Error::new(
                "expected tensors blk.N.ffn_*_exps.weight, found none: its experts are not stacked",
            ));
        }
        let mut matrices = Vec::new();
        let mut dense_bytes = 0;
        for tensor in &tensors {
            match expert_layer(&tensor.name).and_then(|number| layers.binary_search(&number).ok()) {
                Some(layer) => matrices.push((layer, tensor.clone())),
                None => dense_bytes += tensor.bytes,
            }
        }
        let down = matrices.iter().find(|(_, tensor)| tensor.name.contains("ffn_down_exps"));
        let (inner, hidden) = down.map_or((0, 0), |(_, tensor)| (tensor.sizes[0] as u64, tensor.sizes[1] as u64));
        let name = gguf
            .text("general.name")
            .unwrap_or_else(|| path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        let bias = bias(&tensors, &layers, experts, path)?;
        let router = router(gguf, &architecture);
        Ok(Self { name, architecture, layers, experts, k, hidden, inner, router, bias, matrices, dense_bytes })
    }

    /// Sizes of a trace of so many tokens.
    pub(crate) fn shape(&self, tokens: usize) -> Shape {
        Shape { tokens, layers: self.layers.len(), experts: self.experts, k: self.k }
    }

    /// What a trace says about the model.
    pub(crate) fn meta(&self) -> Meta {
        Meta {
            model: self.name.clone(),
            router: self.router,
            source: "cptr-llama capture".into(),
            layer_ids: self.layers.iter().map(|&layer| layer as u32).collect(),
            ..Meta::default()
        }
    }

    /// Bytes of one expert of a layer, all of its matrices.
    pub(crate) fn expert_bytes(&self, layer: usize) -> u64 {
        let of_layer = self.matrices.iter().filter(|(of, _)| *of == layer);
        of_layer.map(|(_, tensor)| tensor.bytes / self.experts as u64).sum()
    }

    /// Index of the MoE layer with this number of the model's.
    pub(crate) fn index(&self, number: usize) -> Option<usize> {
        // Nearly always all layers, or all from some first one on.
        let first = *self.layers.first()?;
        let guess = number.checked_sub(first)?;
        match self.layers.get(guess) {
            Some(&found) if found == number => Some(guess),
            _ => self.layers.binary_search(&number).ok(),
        }
    }
}

/// Number of the layer of `blk.N.ffn_*_exps.weight`.
fn expert_layer(name: &str) -> Option<usize> {
    let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    (rest.starts_with("ffn_") && rest.ends_with("_exps.weight")).then(|| number.parse().ok())?
}

/// The bias of every layer, where the file has one.
fn bias(tensors: &[Info], layers: &[usize], experts: usize, path: &Path) -> Result<Vec<f32>> {
    let of = |layer: usize| tensors.iter().find(|tensor| tensor.name == format!("blk.{layer}.exp_probs_b.bias"));
    let found: Vec<&Info> = layers.iter().filter_map(|&layer| of(layer)).collect();
    if found.is_empty() {
        return Ok(Vec::new());
    }
    if found.len() < layers.len() || found.iter().any(|t| t.kind != "f32" || t.bytes != 4 * experts as u64) {
        return Err(Error::new("expected exp_probs_b.bias in f32 in all MoE layers or in none, found others"));
    }
    let file = File::open(path).map_err(|error| Error::io(path, &error))?;
    let mut bias = Vec::new();
    for tensor in found {
        let mut bytes = vec![0; 4 * experts];
        file.read_exact_at(&mut bytes, tensor.offset).map_err(|error| Error::io(path, &error))?;
        bias.extend(bytes.as_chunks().0.iter().map(|&raw| f32::from_le_bytes(raw)));
    }
    Ok(bias)
}

/// How the router chooses, as llama.cpp's graphs have it (`src/models/*.cpp`): from the keys of the file, and for
/// architectures whose graphs have it built in, from their names.
fn router(gguf: &Gguf, architecture: &str) -> Router {
    let key = |name: &str| format!("{architecture}.{name}");
    // Score, and whether the weights of the chosen are divided by their sum.
    let built_in = match architecture {
        "olmoe" | "qwen2moe" => Some((Score::SoftmaxAll, false)),
        // The softmax over all, divided by the sum of the chosen, is the softmax over the chosen.
        "llama" | "qwen3moe" | "qwen3vlmoe" | "dbrx" | "granitemoe" | "gpt-oss" => Some((Score::SoftmaxSelected, true)),
        _ => None,
    };
    let score = match gguf.number(&key("expert_gating_func")) {
        Some(1) => Some(Score::SoftmaxAll),
        Some(2) => Some(Score::Sigmoid),
        Some(3) => Some(Score::SoftmaxSelected),
        Some(4) => Some(Score::SqrtSoftplus),
        _ => built_in.map(|(score, _)| score),
    };
    let Some(score) = score else { return Router::UNKNOWN };
    let usual = Router::new(score);
    let divided = gguf.flag(&key("expert_weights_norm")).or(built_in.map(|(_, divided)| divided));
    let groups = gguf.number(&key("expert_group_count")).and_then(|count| u16::try_from(count).ok());
    let open = gguf.number(&key("expert_group_used_count")).and_then(|count| u16::try_from(count).ok());
    let scale = gguf.float(&key("expert_weights_scale")).filter(|scale| *scale > 0.0);
    let router =
        Router { renormalise: divided.unwrap_or(usual.renormalise), scale: scale.unwrap_or(usual.scale), ..usual };
    match (groups, open) {
        // llama.cpp rates every group by its two best.
        (Some(groups @ 2..), Some(open @ 1..)) => {
            Router { rating: cptr_trace::router::Rating::TwoBest, ..router.grouped(groups, open) }
        }
        _ => router,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_experts() {
        assert_eq!(expert_layer("blk.12.ffn_gate_exps.weight"), Some(12));
        assert_eq!(expert_layer("blk.12.ffn_gate_up_exps.weight"), Some(12));
        for name in ["blk.12.ffn_gate.weight", "blk.x.ffn_up_exps.weight", "output.weight", "blk.1.ffn_up_exps.bias"] {
            assert_eq!(expert_layer(name), None, "{name}");
        }
    }
}
