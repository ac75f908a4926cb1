//! `cptr-llama make`: a model of the sizes of a known one with random weights, for measurements of time. What it writes
//! means nothing; its routing comes from a recording (`cptr-llama run --routing`).

use std::path::PathBuf;

use cptr_trace::error::{Error, Result};
use cptr_trace::file;
use cptr_trace::progress::Progress;
use half::f16;

use crate::show::{Page, column};
use crate::write::{Header, Type, Value};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model whose sizes are taken: qwen3-30b-a3b
    #[arg(long, value_name = "NAME", value_parser = like)]
    like: &'static Like,
    /// Layers (default: the model's)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    layers: Option<u32>,
    /// Routed experts of a layer (default: the model's)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    experts: Option<u32>,
    /// Experts of a token (default: the model's)
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=64))]
    top_k: Option<u32>,
    /// Bits per weight of matrices: 4 (q4_0), 8 (q8_0) or 32 (f32)
    #[arg(long, value_name = "BITS", default_value = "4", value_parser = kind)]
    bits: Type,
    /// GGUF file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Sizes of a model.
#[derive(Debug)]
struct Like {
    name: &'static str,
    layers: u32,
    experts: u32,
    k: u32,
    hidden: u32,
    inner: u32,
    heads: u32,
    key_heads: u32,
    head: u32,
}

/// From the models' `config.json`.
static LIKE: [Like; 1] = [Like {
    name: "qwen3-30b-a3b",
    layers: 48,
    experts: 128,
    k: 8,
    hidden: 2048,
    inner: 768,
    heads: 32,
    key_heads: 4,
    head: 128,
}];

/// Token ids: few, so that the output matrix does not hide the experts.
pub(crate) const VOCABULARY: u32 = 1024;
/// Tensors, and with sizes of whole pages experts, begin at pages: direct reads then share none.
const PAGE: u32 = 4096;

fn like(name: &str) -> std::result::Result<&'static Like, String> {
    let names = || LIKE.iter().map(|like| like.name).collect::<Vec<_>>().join(", ");
    LIKE.iter().find(|like| like.name == name).ok_or_else(|| format!("expected one of {}", names()))
}

fn kind(bits: &str) -> std::result::Result<Type, String> {
    match bits {
        "4" => Ok(Type::Q4_0),
        "8" => Ok(Type::Q8_0),
        "32" => Ok(Type::F32),
        _ => Err("expected 4, 8 or 32".into()),
    }
}

/// How a tensor's values are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// All 1, f32: norms.
    Ones,
    /// Random, so that outputs are about as large as inputs of this many values.
    Random(u32, Type),
}

pub(crate) fn main(args: &Args) -> Result<Page> {
    let like = args.like;
    let (layers, experts, k) =
        (args.layers.unwrap_or(like.layers), args.experts.unwrap_or(like.experts), args.top_k.unwrap_or(like.k));
    if k > experts {
        return Err(Error::usage(format!("--top-k: expected at most {experts}, the experts of a layer, found {k}")));
    }
    let (header, fills) = layout(like, (layers, experts, k), args.bits);
    let lengths = header.lengths();
    let progress = Progress::new(lengths.iter().sum(), "writing");
    let mut random = fastrand::Rng::with_seed(1);
    file::replace(&args.out, |out| {
        header.write(out, |index, out| {
            let (mut left, fill) = (lengths[index], fills[index]);
            let mut piece = Vec::new();
            while left > 0 {
                // Whole blocks of every type.
                let bytes = left.min(18 * 34 * 4096);
                piece.clear();
                fill.piece(bytes as usize, &mut random, &mut piece);
                out.write_all(&piece)?;
                progress.advance(bytes);
                left -= bytes;
            }
            Ok(())
        })
    })?;
    let bytes = std::fs::metadata(&args.out).map_err(|error| Error::io(&args.out, &error))?.len();
    let row = serde_json::json!({
        "file": args.out.to_string_lossy(), "layers": layers, "experts": experts, "k": k, "bytes": bytes,
    });
    let columns = ["file", "layers", "experts", "k", "bytes"].map(|key| column(key, key)).into();
    Ok(Page { columns, rows: vec![row], ..Page::default() })
}

fn layout(like: &Like, (layers, experts, k): (u32, u32, u32), kind: Type) -> (Header, Vec<Fill>) {
    let mut header = Header::new("qwen3moe", PAGE);
    let name = format!("{} ({layers} layers, {experts} experts, random weights)", like.name);
    header.key("general.name", Value::Text(name));
    for (key, value) in [
        ("context_length", 32_768),
        ("embedding_length", like.hidden),
        ("block_count", layers),
        ("feed_forward_length", like.inner * k),
        ("expert_feed_forward_length", like.inner),
        ("attention.head_count", like.heads),
        ("attention.head_count_kv", like.key_heads),
        ("attention.key_length", like.head),
        ("attention.value_length", like.head),
        ("expert_count", experts),
        ("expert_used_count", k),
        ("vocab_size", VOCABULARY),
    ] {
        header.key(&format!("qwen3moe.{key}"), Value::U32(value));
    }
    header.key("qwen3moe.rope.freq_base", Value::F32(1e6));
    header.key("qwen3moe.attention.layer_norm_rms_epsilon", Value::F32(1e-6));
    header.key("tokenizer.ggml.model", Value::Text("none".into()));
    let mut fills = Vec::new();
    let mut add = |name: String, sizes: &[u32]| {
        let sizes: Vec<u64> = sizes.iter().map(|&size| size.into()).collect();
        let (fill, kind) = match sizes.len() {
            1 => (Fill::Ones, Type::F32),
            _ if name.contains("ffn_gate_inp") => (Fill::Random(sizes[0] as u32, Type::F32), Type::F32),
            _ => (Fill::Random(sizes[0] as u32, kind), kind),
        };
        header.tensor(name, &sizes, kind);
        fills.push(fill);
    };
    let &Like { hidden, inner, heads, key_heads, head, .. } = like;
    add("token_embd.weight".into(), &[hidden, VOCABULARY]);
    add("output_norm.weight".into(), &[hidden]);
    add("output.weight".into(), &[hidden, VOCABULARY]);
    for layer in 0..layers {
        for (name, sizes) in [
            ("attn_norm", &[hidden][..]),
            ("attn_q", &[hidden, heads * head]),
            ("attn_k", &[hidden, key_heads * head]),
            ("attn_v", &[hidden, key_heads * head]),
            ("attn_output", &[heads * head, hidden]),
            ("attn_q_norm", &[head]),
            ("attn_k_norm", &[head]),
            ("ffn_norm", &[hidden]),
            ("ffn_gate_inp", &[hidden, experts]),
            ("ffn_gate_exps", &[hidden, inner, experts]),
            ("ffn_down_exps", &[inner, hidden, experts]),
            ("ffn_up_exps", &[hidden, inner, experts]),
        ] {
            add(format!("blk.{layer}.{name}.weight"), sizes);
        }
    }
    (header, fills)
}

impl Fill {
    fn piece(self, bytes: usize, random: &mut fastrand::Rng, piece: &mut Vec<u8>) {
        match self {
            Self::Ones => piece.extend(1_f32.to_le_bytes().into_iter().cycle().take(bytes)),
            Self::Random(width, Type::F32) => {
                let scale = (3.0 / width as f32).sqrt();
                let value = |_| ((random.f32() - 0.5) * 2.0 * scale).to_le_bytes();
                piece.extend((0..bytes / 4).flat_map(value));
            }
            Self::Random(width, kind) => {
                // Numbers from -8 to 7, or -128 to 127, equally often, times a scale.
                let (values, deviation) = if kind == Type::Q4_0 { (16, 4.6) } else { (32, 73.9) };
                let scale = f16::from_f32(1.0 / deviation / (width as f32).sqrt()).to_le_bytes();
                for _ in 0..bytes / (2 + values) {
                    piece.extend_from_slice(&scale);
                    for _ in 0..values / 8 {
                        piece.extend_from_slice(&random.u64(..).to_le_bytes());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_as_long_as_they_should_be() {
        let mut random = fastrand::Rng::with_seed(1);
        for (fill, bytes) in [
            (Fill::Ones, 16),
            (Fill::Random(64, Type::F32), 16),
            (Fill::Random(64, Type::Q4_0), 36),
            (Fill::Random(64, Type::Q8_0), 68),
        ] {
            let mut piece = Vec::new();
            fill.piece(bytes, &mut random, &mut piece);
            assert_eq!(piece.len(), bytes, "{fill:?}");
        }
    }
}
