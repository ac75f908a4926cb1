//! A checkpoint as a model that runs: [`Model::load`] takes a folder with `config.json`, `tokenizer.json` and
//! safetensors files.

mod attention;
mod config;
mod family;
mod fields;
mod mixing;
mod moe;
mod ops;
mod rope;
mod tokenizer;
mod weights;

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Module, Tensor};
use candle_nn::kv_cache::KvCache;
use candle_nn::{Linear, RmsNorm};
use sha2::Digest;

use crate::error::{Error, Result};
use attention::Attention;
pub use config::Config;
use moe::{Block, Mlp};
pub use moe::{Expert, MoeHook, Routing, SKIPPED, Unaltered};
use tokenizer::Tokenizer;
use weights::Weights;

/// A model ready to run.
pub struct Model {
    /// Sizes and conventions.
    pub config: Config,
    weights: Weights,
    fingerprint: [u8; 32],
    tokenizer: Tokenizer,
    /// `[V, D]`.
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// `[V, D]`.
    output: Linear,
}

struct Layer {
    attention_norm: RmsNorm,
    attention: Attention,
    block_norm: RmsNorm,
    block: Ffn,
}

enum Ffn {
    Dense(Mlp),
    Moe { index: usize, routed: Block, shared: Option<Mlp> },
}

/// Keys and values of the tokens of one sequence so far. After an error in [`Model::forward`] it is of no more use.
#[derive(Debug, Default)]
pub struct Cache {
    layers: Vec<KvCache>,
    tokens: usize,
}

impl Cache {
    /// The beginning of a sequence.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens of the sequence so far.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// The residual stream after the last layer, a row for each token: [`Model::logits`] makes predictions of it, some rows
/// at a time.
#[derive(Debug, Clone)]
pub struct Hidden(Tensor);

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Model {
    /// Loads a checkpoint from its folder. Cost: one pass over all weights, or over all but the experts where those are
    /// larger than 4 GiB.
    ///
    /// # Errors
    /// If a file is missing or no model of a known family, if a tensor is missing, has another shape or holds a number
    /// that is not finite, or if the tokenizer has ids that the model does not.
    pub fn load(folder: &Path) -> Result<Self> {
        let read = |name: &str| crate::text::file(&folder.join(name));
        let (config, tokenizer) = (read("config.json")?, read("tokenizer.json")?);
        Self::new(folder, &config, &tokenizer, || Weights::open(folder))
    }

    /// A model whose files are in memory: the texts of `config.json` and `tokenizer.json`, and the bytes of one
    /// safetensors file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_parts(config_json: &str, weights: impl Into<Cow<'static, [u8]>>, tokenizer_json: &str) -> Result<Self> {
        Self::new(Path::new(""), config_json, tokenizer_json, || Weights::memory(weights.into()))
    }

    /// `folder` is for messages.
    fn new(
        folder: &Path,
        config_json: &str,
        tokenizer_json: &str,
        weights: impl FnOnce() -> Result<Weights>,
    ) -> Result<Self> {
        let config = family::read(config_json).map_err(|error| error.or_file(&folder.join("config.json")))?;
        let tokenizer = Tokenizer::read(tokenizer_json.as_bytes(), config.vocab)
            .map_err(|error| error.or_file(&folder.join("tokenizer.json")))?;
        let weights = weights()?;
        let fingerprint = weights.digest().chain_update(config_json).chain_update(tokenizer_json).finalize().into();
        let (vocab, hidden) = (config.vocab, config.hidden);
        let norm = |name: &str| -> Result<RmsNorm> {
            Ok(RmsNorm::new(weights.tensor(&format!("{name}.weight"), &[hidden])?, config.norm_eps))
        };
        let embedding = weights.tensor("model.embed_tokens.weight", &[vocab, hidden])?;
        let output = match config.tied && !weights.contains("lm_head.weight") {
            true => Linear::new(embedding.clone(), None),
            false => attention::linear(&weights, "lm_head", vocab, hidden, false)?,
        };
        let mut layers = Vec::new();
        for layer in 0..config.layers {
            let name = format!("model.layers.{layer}");
            layers.push(Layer {
                attention_norm: norm(&format!("{name}.input_layernorm"))?,
                attention: Attention::read(&weights, &config, layer)?,
                block_norm: norm(&format!("{name}.post_attention_layernorm"))?,
                block: Ffn::read(&weights, &config, layer)?,
            });
        }
        Ok(Self { norm: norm("model.norm")?, fingerprint, tokenizer, embedding, layers, output, config, weights })
    }

    /// A digest that tells checkpoints apart: of the configuration, the tokenizer, and the sizes, headers and samples
    /// of the weights.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Token ids of a text, with the special tokens that the tokenizer puts around one.
    ///
    /// # Errors
    /// If the tokenizer cannot take the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text)
    }

    /// The text of token ids.
    ///
    /// # Errors
    /// If the tokenizer cannot take the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids)
    }

    /// The matrices of an expert; `layer` counts MoE layers.
    ///
    /// # Errors
    /// If there is no such expert, or if it is read from its file only now and is damaged.
    pub fn expert(&self, layer: usize, expert: usize) -> Result<Expert> {
        self.expert_block(layer, expert)?.expert(&self.weights, &self.config, expert)
    }

    /// Runs matrices in the place of an expert, with its biases where it has any, on inputs `[N, D]`: what comes to the
    /// down matrix `[N, I]`, and the output `[N, D]`.
    ///
    /// # Errors
    /// If there is no such expert, or the inputs are no rows of D values.
    pub(crate) fn run_expert(
        &self,
        layer: usize,
        expert: usize,
        matrices: &Expert,
        inputs: &[f32],
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        self.expert_block(layer, expert)?.run_expert(expert, matrices, inputs, &self.config)
    }

    /// The bias of every MoE layer's router for the selection, `[L, E]`; none where the model has no such bias.
    #[must_use]
    pub fn router_bias(&self) -> Option<Vec<f32>> {
        let bias: Vec<f32> = self.blocks().flat_map(Block::bias).copied().collect();
        (!bias.is_empty()).then_some(bias)
    }

    /// The MoE blocks in order.
    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.layers.iter().filter_map(|layer| match &layer.block {
            Ffn::Moe { routed, .. } => Some(routed),
            Ffn::Dense(_) => None,
        })
    }

    fn expert_block(&self, layer: usize, expert: usize) -> Result<&Block> {
        match self.blocks().nth(layer) {
            Some(block) if expert < self.config.experts => Ok(block),
            _ => Err(Error::new(format!("expected an expert of the model, found layer {layer}, expert {expert}"))),
        }
    }

    /// Logits `[T, V]`, row-major, of the next token after each of `tokens`, which follow those in the cache.
    ///
    /// # Errors
    /// If an id is not below V or there are no tokens; what the hook returns; if router scores are not finite.
    pub fn forward(&self, tokens: &[u32], cache: &mut Cache, hook: &mut dyn MoeHook) -> Result<Vec<f32>> {
        let hidden = self.hidden(&mut [(tokens, cache)], hook)?;
        self.predict(&hidden, ops::few_rows(&hidden))
    }

    /// The same, but only the logits `[V]` after the last token.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_last(&self, tokens: &[u32], cache: &mut Cache, hook: &mut dyn MoeHook) -> Result<Vec<f32>> {
        let hidden = self.hidden(&mut [(tokens, cache)], hook)?;
        self.predict(&hidden.narrow(0, tokens.len() - 1, 1)?, true)
    }

    /// Logits `[S, V]` after one more token of each of S sequences, each with a cache of its own. The hook sees a row
    /// for each sequence, in their order. Faster than a call for each sequence.
    ///
    /// # Errors
    /// As [`Self::forward`], and if there are not as many caches as tokens.
    pub fn step(&self, tokens: &[u32], caches: &mut [Cache], hook: &mut dyn MoeHook) -> Result<Vec<f32>> {
        if tokens.len() != caches.len() {
            let (expected, found) = (tokens.len(), caches.len());
            return Err(Error::new(format!("expected a cache for each of {expected} tokens, found {found}")));
        }
        let mut parts: Vec<(&[u32], &mut Cache)> = tokens.chunks(1).zip(caches).collect();
        let hidden = self.hidden(&mut parts, hook)?;
        self.predict(&hidden, ops::few_rows(&hidden))
    }

    /// The residual stream after the last layer of N tokens of whole sequences, one after the other. The hook sees each
    /// layer once, with the tokens of all of them. Memory: that of a few `[N, D]` tensors, and all keys and values.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn read(&self, sequences: &[Vec<u32>], hook: &mut dyn MoeHook) -> Result<Hidden> {
        let mut caches: Vec<Cache> = sequences.iter().map(|_| Cache::new()).collect();
        let mut parts: Vec<(&[u32], &mut Cache)> = sequences.iter().map(Vec::as_slice).zip(&mut caches).collect();
        self.hidden(&mut parts, hook).map(Hidden)
    }

    /// The same, token by token: all sequences side by side, so that a hook sees all layers of a token before the next
    /// one. Slower, and equal to [`Self::read`] but for the rounding of other matrix products.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn read_in_step(&self, sequences: &[Vec<u32>], hook: &mut dyn MoeHook) -> Result<Hidden> {
        let width = self.config.hidden;
        let starts = sequences.iter().scan(0, |next, sequence| {
            *next += sequence.len();
            Some(*next - sequence.len())
        });
        let starts: Vec<usize> = starts.collect();
        let total: usize = sequences.iter().map(Vec::len).sum();
        let mut caches: Vec<Cache> = sequences.iter().map(|_| Cache::new()).collect();
        let mut rows = vec![0.0; total * width];
        for position in 0..sequences.iter().map(Vec::len).max().unwrap_or(0) {
            hook.position(position);
            let there = sequences.iter().zip(&mut caches).filter(|(sequence, _)| sequence.len() > position);
            let mut parts: Vec<(&[u32], &mut Cache)> =
                there.map(|(sequence, cache)| (&sequence[position..=position], cache)).collect();
            let hidden = self.hidden(&mut parts, hook)?;
            let longer = starts.iter().zip(sequences).filter(|(_, sequence)| sequence.len() > position);
            ops::with_values(&hidden, |values| {
                for ((start, _), row) in longer.zip(values.chunks_exact(width)) {
                    rows[(start + position) * width..(start + position + 1) * width].copy_from_slice(row);
                }
            })?;
        }
        Ok(Hidden(Tensor::from_vec(rows, (total, width), &Device::Cpu)?))
    }

    /// The same for a hook that goes on from one sequence to the next: token by token, a sequence after the other.
    /// Slower still.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn read_in_turn(&self, sequences: &[Vec<u32>], hook: &mut dyn MoeHook) -> Result<Hidden> {
        let read = |sequence| Ok(self.read_in_step(std::slice::from_ref(sequence), hook)?.0);
        let parts = sequences.iter().map(read).collect::<Result<Vec<_>>>()?;
        Ok(Hidden(Tensor::cat(&parts, 0)?))
    }

    /// Logits `[N, V]`, row-major, after N of the tokens of [`Self::read`].
    ///
    /// # Errors
    /// If there are no such tokens, or they were read by a model of another width.
    pub fn logits(&self, hidden: &Hidden, tokens: Range<usize>) -> Result<Vec<f32>> {
        self.predict(&hidden.0.narrow(0, tokens.start, tokens.len())?, false)
    }

    fn predict(&self, hidden: &Tensor, few: bool) -> Result<Vec<f32>> {
        let normed = self.norm.forward(&hidden.contiguous()?)?;
        let logits = ops::times_transposed(&normed, self.output.weight(), few)?;
        Ok(ops::with_values(&logits, <[f32]>::to_vec)?)
    }

    /// The residual stream `[N, D]` after the last layer, of new tokens of one or several sequences.
    fn hidden(&self, sequences: &mut [(&[u32], &mut Cache)], hook: &mut dyn MoeHook) -> Result<Tensor> {
        let tokens = sequences.iter().map(|(tokens, _)| *tokens).collect::<Vec<_>>().concat();
        if tokens.is_empty() {
            return Err(Error::new("expected at least one token, found none"));
        }
        if let Some(at) = tokens.iter().position(|&id| id as usize >= self.config.vocab) {
            let error = format!("expected token ids below {}, found {}", self.config.vocab, tokens[at]);
            return Err(Error::new(error).at(format!("token {at}")));
        }
        for (tokens, cache) in sequences.iter_mut() {
            if cache.layers.is_empty() {
                let room = tokens.len().max(256);
                cache.layers = (0..self.config.layers).map(|_| KvCache::new(1, room)).collect();
            }
        }
        // Where each sequence has one row, all go through the projections together; longer ones alone, so that how a
        // text is read does not depend on the others to the last bit.
        let together = sequences.iter().all(|(tokens, _)| tokens.len() == 1);
        let pieces = if together { sequences.len() } else { 1 };
        let at = |piece: &[(&[u32], &mut Cache)]| {
            self.config.rope.at(piece.iter().flat_map(|(tokens, cache)| cache.tokens..cache.tokens + tokens.len()))
        };
        let rotations = sequences.chunks(pieces).map(at).collect::<Result<Vec<_>>>()?;
        let mut x = self.embedding.index_select(&Tensor::new(tokens.as_slice(), &Device::Cpu)?, 0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = layer.attention_norm.forward(&x)?;
            let mut first = 0;
            let mut mixed = Vec::with_capacity(rotations.len());
            for (piece, rotation) in sequences.chunks_mut(pieces).zip(&rotations) {
                let parts = piece.iter_mut().map(|(tokens, cache)| (tokens.len(), &mut cache.layers[index]));
                let mut parts: Vec<_> = parts.collect();
                let count = parts.iter().map(|(count, _)| count).sum();
                mixed.push(layer.attention.forward(&normed.narrow(0, first, count)?, rotation, &mut parts)?);
                first += count;
            }
            x = (&x + Tensor::cat(&mixed, 0)?)?;
            self.look_ahead(&layer.block, &x, hook)?;
            x = (&x + layer.block.forward(&layer.block_norm.forward(&x)?, self, hook)?)?;
        }
        sequences.iter_mut().for_each(|(tokens, cache)| cache.tokens += tokens.len());
        Ok(x)
    }

    /// Tells a hook that asks for it what the routers of the next MoE layers make of the stream `x` before `block`.
    fn look_ahead(&self, block: &Ffn, x: &Tensor, hook: &mut dyn MoeHook) -> Result<()> {
        let Ffn::Moe { index: here, .. } = block else { return Ok(()) };
        for layer in &self.layers {
            match &layer.block {
                Ffn::Moe { index, routed, .. } if (here + 1..=here + hook.looks_ahead()).contains(index) => {
                    let wanted = routed.wanted(&layer.block_norm.forward(x)?, &self.config)?;
                    hook.ahead(*here, index - here, &wanted);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Ffn {
    fn read(weights: &Weights, config: &Config, layer: usize) -> Result<Self> {
        let name = format!("model.layers.{layer}.{}", config.names.block);
        let Some(index) = config.moe_layers.iter().position(|&moe| moe == layer) else {
            return Mlp::read(weights, config.hidden, config.dense_inner, &name).map(Self::Dense);
        };
        let shared = config.shared.map(|shared| -> Result<Mlp> {
            let gate =
                shared.gate.map(|gate| attention::linear(weights, &format!("{name}.{gate}"), 1, config.hidden, false));
            let mlp = Mlp::read(weights, config.hidden, shared.inner, &format!("{name}.{}", shared.name))?;
            Ok(mlp.gated(gate.transpose()?))
        });
        Ok(Self::Moe { index, routed: Block::read(weights, config, layer)?, shared: shared.transpose()? })
    }

    fn forward(&self, x: &Tensor, model: &Model, hook: &mut dyn MoeHook) -> Result<Tensor> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Moe { index, routed, shared } => {
                let routed = routed.forward(x, *index, (&model.weights, &model.config), hook)?;
                match shared {
                    None => Ok(routed),
                    Some(shared) => Ok((routed + shared.forward(x)?)?),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
