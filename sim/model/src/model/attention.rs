//! Attention: grouped-query and multi-head latent, over the keys and values of the whole sequence so far.

use candle_core::{D, Module, Tensor};
use candle_nn::kv_cache::KvCache;
use candle_nn::rotary_emb::{rope, rope_i};
use candle_nn::{Linear, RmsNorm};

use super::config::{self, Config, Grouped, Latent, QkNorm};
use super::ops::{self, FEW_ROWS, MaskedSoftmax, each, times_transposed, with_values};
use super::rope::Rotation;
use super::weights::Weights;
use crate::error::Result;

/// Queries per piece of work: few enough that the scores stay in the cache and little is computed that the mask takes
/// away.
const BLOCK: usize = 64;

/// The attention of one layer.
pub(super) struct Attention {
    kind: Kind,
    out: Linear,
    view: View,
}

enum Kind {
    Grouped { qkv: [Linear; 3], norms: Option<(RmsNorm, RmsNorm)>, sizes: Grouped },
    Latent { q: Query, kv_a: Linear, kv_norm: RmsNorm, kv_b: Linear, sizes: Latent },
}

enum Query {
    Direct(Linear),
    LowRank(Linear, RmsNorm, Linear),
}

/// What a query sees, and how its scores are weighed.
struct View {
    scale: f32,
    window: usize,
    /// Score of each head's sink.
    sinks: Option<Vec<f32>>,
}

impl Attention {
    pub(super) fn read(weights: &Weights, config: &Config, layer: usize) -> Result<Self> {
        let name = |tensor: &str| format!("model.layers.{layer}.self_attn.{tensor}");
        let linear =
            |tensor: &str, out: usize, inputs: usize, bias: bool| linear(weights, &name(tensor), out, inputs, bias);
        let norm = |tensor: &str, width: usize, eps: f64| -> Result<RmsNorm> {
            Ok(RmsNorm::new(weights.tensor(&name(&format!("{tensor}.weight")), &[width])?, eps))
        };
        let hidden = config.hidden;
        match &config.attention {
            config::Attention::Grouped(sizes) => {
                let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
                let norms = match sizes.norm {
                    QkNorm::None => None,
                    QkNorm::Whole => Some((queries, keys)),
                    QkNorm::PerHead => Some((sizes.head_dim, sizes.head_dim)),
                };
                let norms = norms.map(|(queries, keys)| -> Result<_> {
                    Ok((norm("q_norm", queries, config.norm_eps)?, norm("k_norm", keys, config.norm_eps)?))
                });
                let sinks = sizes.sinks.then(|| weights.values(&name("sinks"), &[sizes.heads])).transpose()?;
                let window = sizes.window[layer].unwrap_or(usize::MAX);
                let kind = Kind::Grouped {
                    qkv: [
                        linear("q_proj", queries, hidden, sizes.qkv_bias)?,
                        linear("k_proj", keys, hidden, sizes.qkv_bias)?,
                        linear("v_proj", keys, hidden, sizes.qkv_bias)?,
                    ],
                    norms: norms.transpose()?,
                    sizes: sizes.clone(),
                };
                let view = View { scale: (sizes.head_dim as f32).sqrt().recip(), window, sinks };
                Ok(Self { kind, out: linear("o_proj", hidden, queries, sizes.out_bias)?, view })
            }
            config::Attention::Latent(sizes) => {
                // The norms of the low-rank parts have an epsilon of their own, which no configuration states.
                let norm = |tensor: &str, width: usize| norm(tensor, width, 1e-6);
                let Latent { heads, kv_rank, plain_dim, rope_dim, v_dim, bias, .. } = *sizes;
                let (key, queries) = (plain_dim + rope_dim, heads * (plain_dim + rope_dim));
                let q = match sizes.q_rank {
                    None => Query::Direct(linear("q_proj", queries, hidden, false)?),
                    Some(rank) => Query::LowRank(
                        linear("q_a_proj", rank, hidden, bias)?,
                        norm("q_a_layernorm", rank)?,
                        linear("q_b_proj", queries, rank, false)?,
                    ),
                };
                let kind = Kind::Latent {
                    q,
                    kv_a: linear("kv_a_proj_with_mqa", kv_rank + rope_dim, hidden, bias)?,
                    kv_norm: norm("kv_a_layernorm", kv_rank)?,
                    kv_b: linear("kv_b_proj", heads * (plain_dim + v_dim), kv_rank, false)?,
                    sizes: sizes.clone(),
                };
                let scale = (config.rope.score_factor / (key as f64).sqrt()) as f32;
                let view = View { scale, window: usize::MAX, sinks: None };
                Ok(Self { kind, out: linear("o_proj", hidden, heads * v_dim, bias)?, view })
            }
        }
    }

    /// `x` `[T, D]`, the rows of one or several sequences, at the positions of `rotation`; `caches` says how many rows
    /// are of which, and they follow those in its cache.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        rotation: &Rotation,
        caches: &mut [(usize, &mut KvCache)],
    ) -> Result<Tensor> {
        let (q, k, v) = match &self.kind {
            Kind::Grouped { qkv, norms, sizes } => grouped(x, qkv, norms.as_ref(), sizes, rotation)?,
            Kind::Latent { q, kv_a, kv_norm, kv_b, sizes } => latent(x, q, (kv_a, kv_norm, kv_b), sizes, rotation)?,
        };
        let mut first = 0;
        let mut mixed = Vec::with_capacity(caches.len());
        for (count, cache) in caches {
            let rows = |x: &Tensor| x.narrow(1, first, *count)?.contiguous();
            let (keys, values) = cache.append(&rows(&k)?, &rows(&v)?)?;
            mixed.push(self.view.attend(&rows(&q)?, &keys, &values)?);
            first += *count;
        }
        Ok(ops::linear(&self.out, &Tensor::cat(&mixed, 0)?)?)
    }
}

/// `NAME.weight` `[out, inputs]`, and `NAME.bias`.
pub(super) fn linear(weights: &Weights, name: &str, out: usize, inputs: usize, bias: bool) -> Result<Linear> {
    let bias = bias.then(|| weights.tensor(&format!("{name}.bias"), &[out])).transpose()?;
    Ok(Linear::new(weights.tensor(&format!("{name}.weight"), &[out, inputs])?, bias))
}

/// `[T, H·d]` to `[H, T, d]`.
fn heads(x: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    x.reshape((tokens, heads, width / heads))?.transpose(0, 1)?.contiguous()
}

type Parts = (Tensor, Tensor, Tensor);

/// Queries, keys and values `[H, T, d]` of new tokens.
fn grouped(
    x: &Tensor,
    [q, k, v]: &[Linear; 3],
    norms: Option<&(RmsNorm, RmsNorm)>,
    sizes: &Grouped,
    rotation: &Rotation,
) -> Result<Parts> {
    let (mut q, mut k, mut v) = (ops::linear(q, x)?, ops::linear(k, x)?, ops::linear(v, x)?);
    if let (QkNorm::Whole, Some((q_norm, k_norm))) = (sizes.norm, norms) {
        (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
    }
    if let Some(clip) = sizes.clip {
        (q, k, v) = (q.clamp(-clip, clip)?, k.clamp(-clip, clip)?, v.clamp(-clip, clip)?);
    }
    (q, k, v) = (heads(&q, sizes.heads)?, heads(&k, sizes.kv_heads)?, heads(&v, sizes.kv_heads)?);
    if let (QkNorm::PerHead, Some((q_norm, k_norm))) = (sizes.norm, norms) {
        (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
    }
    let rotate = |x: &Tensor| rope(&x.unsqueeze(0)?, &rotation.cos, &rotation.sin)?.squeeze(0);
    Ok((rotate(&q)?, rotate(&k)?, v))
}

/// The same by way of the latent: keys and values are expanded before they go to the cache, which costs memory and
/// saves time.
fn latent(
    x: &Tensor,
    q: &Query,
    (kv_a, kv_norm, kv_b): (&Linear, &RmsNorm, &Linear),
    sizes: &Latent,
    rotation: &Rotation,
) -> Result<Parts> {
    let Latent { heads: count, kv_rank, plain_dim, rope_dim, v_dim, .. } = *sizes;
    let rotate = |x: &Tensor| rope_i(&x.contiguous()?.unsqueeze(0)?, &rotation.cos, &rotation.sin)?.squeeze(0);
    let q = match q {
        Query::Direct(q) => ops::linear(q, x)?,
        Query::LowRank(a, norm, b) => ops::linear(b, &norm.forward(&ops::linear(a, x)?)?)?,
    };
    let q = heads(&q, count)?;
    let rotated = rotate(&q.narrow(D::Minus1, plain_dim, rope_dim)?)?;
    let q = Tensor::cat(&[&q.narrow(D::Minus1, 0, plain_dim)?, &rotated], 2)?.contiguous()?;
    let compressed = ops::linear(kv_a, x)?;
    let rotated = rotate(&compressed.narrow(1, kv_rank, rope_dim)?.unsqueeze(0)?)?;
    let expanded = ops::linear(kv_b, &kv_norm.forward(&compressed.narrow(1, 0, kv_rank)?.contiguous()?)?)?;
    let expanded = heads(&expanded, count)?;
    let tokens = expanded.dim(1)?;
    let rotated = rotated.broadcast_as((count, tokens, rope_dim))?;
    let k = Tensor::cat(&[&expanded.narrow(2, 0, plain_dim)?, &rotated], 2)?.contiguous()?;
    Ok((q, k, expanded.narrow(2, plain_dim, v_dim)?.contiguous()?))
}

impl View {
    /// `q` `[H, T, d]`, the last T positions of `keys` `[Hkv, S, d]` and `values` `[Hkv, S, dv]`, to `[T, H·dv]`.
    fn attend(&self, q: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        let (heads, tokens, _) = q.dims3()?;
        let (kv_heads, total, width) = values.dims3()?;
        let past = total - tokens;
        let blocks = tokens.div_ceil(BLOCK);
        let piece = |piece: usize| {
            let (head, first) = (piece / blocks, piece % blocks * BLOCK);
            let count = BLOCK.min(tokens - first);
            let end = past + first + count;
            let start = (past + first + 1).saturating_sub(self.window);
            let part = |x: &Tensor| x.get(head * kv_heads / heads)?.narrow(0, start, end - start);
            let scores = times_transposed(&q.get(head)?.narrow(0, first, count)?, &part(keys)?, tokens <= FEW_ROWS)?;
            scores.inplace_op1(&MaskedSoftmax {
                scale: self.scale,
                query: past + first,
                key: start,
                window: self.window,
                sink: self.sinks.as_ref().map(|sinks| sinks[head]),
            })?;
            scores.matmul(&part(values)?)
        };
        let pieces = each(heads * blocks, 2 * heads * tokens * total.min(self.window) * width, piece)?;
        let mut out = vec![0.0; tokens * heads * width];
        for (piece, rows) in pieces.iter().enumerate() {
            let (head, first) = (piece / blocks, piece % blocks * BLOCK);
            with_values(rows, |rows| {
                for (row, values) in rows.chunks_exact(width).enumerate() {
                    let at = ((first + row) * heads + head) * width;
                    out[at..at + width].copy_from_slice(values);
                }
            })?;
        }
        Ok(Tensor::from_vec(out, (tokens, heads * width), q.device())?)
    }
}
