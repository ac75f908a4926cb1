//! What a model is made of, in one form for all families.

use cptr_trace::Router;

use super::fields::Fields;
use super::rope::Rope;
use crate::error::{Error, Result};

/// Sizes and conventions of a model, from its `config.json`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Family, as `model_type` says.
    pub family: &'static str,
    /// Decoder layers, dense ones among them.
    pub layers: usize,
    /// The model's own number of each MoE layer, `[L]`. Everywhere else MoE layers count from 0.
    pub moe_layers: Vec<usize>,
    /// Routed experts per MoE layer, E.
    pub experts: usize,
    /// Routed experts per token.
    pub k: usize,
    /// Width of the residual stream, D.
    pub hidden: usize,
    /// Width inside a routed expert, I.
    pub expert_inner: usize,
    /// Number of token ids, V.
    pub vocab: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Token ids that end a text.
    pub end: Vec<u32>,
    /// How scores become a choice and mixing weights. A bias that belongs to the scores themselves is in them already.
    pub router: Router,
    /// Whether a bias belongs to the scores.
    pub(super) router_bias: bool,
    /// Tensor below the router of the bias `[E]` for the selection, if it has one.
    pub(super) selection_bias: Option<&'static str>,
    pub(super) norm_eps: f64,
    pub(super) dense_inner: usize,
    /// Whether the output matrix is the embedding.
    pub(super) tied: bool,
    pub(super) activation: Activation,
    pub(super) names: Names,
    pub(super) shared: Option<Shared>,
    pub(super) rope: Rope,
    pub(super) attention: Attention,
}

/// What happens between the two halves of an expert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Activation {
    /// `silu(gate) · up`.
    Silu,
    /// gpt-oss: `(up + 1) · gate · sigmoid(alpha · gate)`, gate at most `limit`, up within ± `limit`.
    Clamped { alpha: f32, limit: f32 },
}

/// Where the MoE block's tensors lie below `model.layers.N.`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    /// The block.
    pub(super) block: &'static str,
    /// The router below it.
    pub(super) router: &'static str,
    pub(super) experts: ExpertNames,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum ExpertNames {
    /// `experts.E.NAME.weight`, `[I, D]`, `[I, D]` and `[D, I]`.
    Apart { gate: &'static str, up: &'static str, down: &'static str },
    /// gpt-oss: all experts in `experts.gate_up_proj` `[E, D, 2I]`, gate and up in turns, and `experts.down_proj` `[E,
    /// I, D]`, with biases.
    Packed,
}

/// An expert that every token runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    pub(super) name: &'static str,
    pub(super) inner: usize,
    /// Tensor of the sigmoid gate `[1, D]` on its output, if it has one.
    pub(super) gate: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub(super) enum Attention {
    Grouped(Grouped),
    Latent(Latent),
}

/// Grouped-query attention and what the families do beside it.
#[derive(Debug, Clone)]
pub(super) struct Grouped {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) qkv_bias: bool,
    pub(super) out_bias: bool,
    pub(super) norm: QkNorm,
    /// Largest magnitude of queries, keys and values (OLMoE's `clip_qkv`).
    pub(super) clip: Option<f64>,
    /// Tokens that each layer looks back on, itself included; none where it sees all.
    pub(super) window: Vec<Option<usize>>,
    /// Whether each head has a sink: a score that takes its part of the softmax and adds nothing.
    pub(super) sinks: bool,
}

/// What is normalised of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QkNorm {
    None,
    /// All heads together (OLMoE).
    Whole,
    /// Each head alone (Qwen3).
    PerHead,
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).
#[derive(Debug, Clone)]
pub(super) struct Latent {
    pub(super) heads: usize,
    pub(super) q_rank: Option<usize>,
    pub(super) kv_rank: usize,
    /// Dimensions of a query and key without position.
    pub(super) plain_dim: usize,
    /// Dimensions of a query and key that are rotated.
    pub(super) rope_dim: usize,
    pub(super) v_dim: usize,
    pub(super) bias: bool,
}

impl Config {
    /// Checks what the arithmetic relies on, whatever the family.
    pub(super) fn validate(self) -> Result<Self> {
        let most = cptr_trace::MAX_EXPERTS;
        if self.experts > most {
            return Err(Error::new(format!("expected at most {most} experts, found {}", self.experts)));
        }
        let most = cptr_trace::MAX_TOP_K.min(self.experts);
        if self.k > most {
            return Err(Error::new(format!("expected at most {most} experts per token, found {}", self.k)));
        }
        let (groups, kept) = (usize::from(self.router.groups), usize::from(self.router.top_groups));
        if !self.experts.is_multiple_of(groups) || kept > groups || self.experts / groups * kept < self.k {
            return Err(Error::new(format!(
                "expected {} experts in equal groups, and {} of them in topk_group groups, \
                 found {groups} groups and {kept}",
                self.experts, self.k
            ))
            .at("n_group"));
        }
        if self.moe_layers.is_empty() {
            return Err(Error::new("expected at least one MoE layer, found dense layers only"));
        }
        if let Attention::Grouped(Grouped { heads, kv_heads, .. }) = &self.attention
            && heads % kv_heads != 0
        {
            return Err(Error::new(format!("expected heads in groups of equal size, found {heads} for {kv_heads}")));
        }
        Ok(self)
    }

    /// Values of all routed experts together, which are most of the model.
    pub(super) fn expert_values(&self) -> usize {
        let one = 3usize.saturating_mul(self.hidden).saturating_mul(self.expert_inner);
        one.saturating_mul(self.experts).saturating_mul(self.moe_layers.len())
    }
}

/// What most families spell the same way.
pub(super) struct Common {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) vocab: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) k: usize,
    pub(super) norm_eps: f64,
}

impl Common {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self> {
        let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        let act = fields.text("hidden_act")?.unwrap_or("silu");
        if act != "silu" {
            return Err(Error::new(format!("expected silu, found \"{act}\"")).at("hidden_act"));
        }
        Ok(Self {
            layers: fields.size("num_hidden_layers")?,
            hidden,
            vocab: fields.size("vocab_size")?,
            heads,
            kv_heads: fields.size_if_any("num_key_value_heads")?.filter(|&heads| heads > 0).unwrap_or(heads),
            head_dim: fields.size_if_any("head_dim")?.filter(|&dim| dim > 0).unwrap_or(hidden / heads),
            k: fields.size("num_experts_per_tok")?,
            norm_eps: fields.number("rms_norm_eps", 1e-6)?,
        })
    }

    /// A model with MoE blocks in every layer, Llama's attention and the names of OLMoE; the families say what they do
    /// otherwise.
    pub(super) fn config(self, fields: &Fields<'_>, family: &'static str, rope: Rope) -> Result<Config> {
        Ok(Config {
            family,
            layers: self.layers,
            moe_layers: (0..self.layers).collect(),
            experts: fields.size_of(&["num_experts", "num_local_experts", "n_routed_experts"])?,
            k: self.k,
            hidden: self.hidden,
            expert_inner: fields.size_of(&["moe_intermediate_size", "intermediate_size"])?,
            vocab: self.vocab,
            context: fields.size("max_position_embeddings")?,
            end: fields.numbers("eos_token_id")?,
            router: match fields.flag("norm_topk_prob", false)? {
                true => Router::SOFTMAX_SELECTED,
                false => Router::SOFTMAX_ALL,
            },
            router_bias: false,
            selection_bias: None,
            norm_eps: self.norm_eps,
            dense_inner: fields.size("intermediate_size")?,
            tied: fields.flag("tie_word_embeddings", false)?,
            activation: Activation::Silu,
            names: Names {
                block: "mlp",
                router: "gate",
                experts: ExpertNames::Apart { gate: "gate_proj", up: "up_proj", down: "down_proj" },
            },
            shared: None,
            rope,
            attention: Attention::Grouped(self.grouped()),
        })
    }

    /// Llama's attention.
    pub(super) fn grouped(&self) -> Grouped {
        Grouped {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            qkv_bias: false,
            out_bias: false,
            norm: QkNorm::None,
            clip: None,
            window: vec![None; self.layers],
            sinks: false,
        }
    }
}

/// MoE layers of the Qwen families: every `decoder_sparse_step`-th one that `mlp_only_layers` does not name.
pub(super) fn sparse_layers(fields: &Fields<'_>, layers: usize) -> Result<Vec<usize>> {
    let step = fields.size_if_any("decoder_sparse_step")?.unwrap_or(1).max(1);
    let dense = fields.numbers("mlp_only_layers")?;
    Ok((0..layers).filter(|&layer| (layer + 1) % step == 0 && !dense.contains(&(layer as u32))).collect())
}

/// Windows by `layer_types`; `otherwise` where the configuration has none.
pub(super) fn windows(
    fields: &Fields<'_>,
    layers: usize,
    otherwise: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>> {
    let window = fields.size_if_any("sliding_window")?.filter(|&window| window > 0);
    let Some(kinds) = fields.texts("layer_types")? else {
        return Ok((0..layers).map(|layer| window.filter(|_| otherwise(layer))).collect());
    };
    if kinds.len() != layers {
        return Err(Error::new(format!("expected {layers} kinds, found {}", kinds.len())).at("layer_types"));
    }
    let kind = |kind: &&str| match (*kind, window) {
        ("full_attention", _) => Ok(None),
        ("sliding_attention", Some(window)) => Ok(Some(window)),
        ("sliding_attention", None) => {
            Err(Error::new("expected a sliding_window beside sliding_attention, found none"))
        }
        (other, _) => Err(Error::new(format!("expected full_attention or sliding_attention, found \"{other}\""))),
    };
    kinds.iter().map(kind).collect::<Result<_>>().map_err(|error| error.at("layer_types"))
}
