//! `cptr-llama convert`: the bundled model, or another OLMoE checkpoint of a folder, as a GGUF file in f32.
//!
//! What llama.cpp has under which name is said by its `gguf-py/gguf/tensor_mapping.py`; other families are converted by
//! its own `convert_hf_to_gguf.py`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use cptr_trace::error::{Error, Result};
use cptr_trace::file;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::show::{Page, column};
use crate::write::{Header, Type, Value};

const CONFIG: &str = include_str!("../../data/model/config.json");
const TOKENIZER: &str = include_str!("../../data/model/tokenizer.json");
const WEIGHTS: &[u8] = include_bytes!("../../data/model/model.safetensors");

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of an OLMoE checkpoint: config.json, tokenizer.json, model.safetensors (default: the bundled model)
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// GGUF file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    vocab_size: u64,
    hidden_size: u64,
    intermediate_size: u64,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: u32,
    num_experts: u64,
    num_experts_per_tok: u32,
    #[serde(default)]
    norm_topk_prob: bool,
    max_position_embeddings: u32,
    rms_norm_eps: f32,
    rope_theta: f32,
    #[serde(default)]
    rope_scaling: Json,
    #[serde(default)]
    clip_qkv: Json,
    #[serde(default)]
    tie_word_embeddings: bool,
    eos_token_id: Option<u32>,
}

/// Where the values of a tensor of the GGUF file come from: these tensors of the checkpoint, one after the other.
type Sources = Vec<String>;

/// Writes the file.
///
/// # Errors
/// Files that are missing, no OLMoE checkpoint, tensors that are missing or of another shape.
pub(crate) fn main(args: &Args) -> Result<Page> {
    let read = |folder: &Path, name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|error| Error::io(&path, &error))
    };
    let (config, tokenizer, weights): (Cow<'_, str>, Cow<'_, str>, Cow<'_, [u8]>) = match &args.folder {
        None => (CONFIG.into(), TOKENIZER.into(), WEIGHTS.into()),
        Some(folder) => (
            String::from_utf8_lossy(&read(folder, "config.json")?).into_owned().into(),
            String::from_utf8_lossy(&read(folder, "tokenizer.json")?).into_owned().into(),
            read(folder, "model.safetensors")?.into(),
        ),
    };
    let folder = args.folder.clone().unwrap_or_default();
    let wrong = |name: &str, text: String| Error::in_file(&folder.join(name), text);
    let config: Config = serde_json::from_str(&config).map_err(|error| wrong("config.json", error.to_string()))?;
    check(&config).map_err(|error| error.or_file(&folder.join("config.json")))?;
    let tensors = SafeTensors::deserialize(&weights).map_err(|error| wrong("model.safetensors", error.to_string()))?;
    let (mut header, sources) = layout(&config);
    vocabulary(&mut header, &config, &tokenizer).map_err(|error| error.or_file(&folder.join("tokenizer.json")))?;
    // Everything is found before anything is written.
    for (names, bytes) in sources.iter().zip(header.lengths()) {
        let per = bytes / names.len() as u64 / 4;
        for name in names {
            let found = tensors.tensor(name).map_err(|error| wrong("model.safetensors", error.to_string()))?;
            let values = found.shape().iter().product::<usize>() as u64;
            let known = matches!(found.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16);
            if values != per || !known {
                let found = format!("expected {per} values in f32, f16 or bf16, found {values}");
                return Err(wrong("model.safetensors", found).at(format!("tensor {name}")));
            }
        }
    }
    file::replace(&args.out, |out| {
        header.write(out, |index, out| {
            for name in &sources[index] {
                let tensor = tensors.tensor(name).map_err(std::io::Error::other)?;
                out.write_all(&widened(tensor.dtype(), tensor.data()))?;
            }
            Ok(())
        })
    })?;
    let bytes = std::fs::metadata(&args.out).map_err(|error| Error::io(&args.out, &error))?.len();
    let sizes = (config.num_hidden_layers, config.num_experts, config.num_experts_per_tok);
    let row = serde_json::json!({
        "file": args.out.to_string_lossy(), "layers": sizes.0, "experts": sizes.1, "k": sizes.2, "bytes": bytes,
    });
    let columns = ["file", "layers", "experts", "k", "bytes"].map(|key| column(key, key)).into();
    Ok(Page { columns, rows: vec![row], ..Page::default() })
}

/// What llama.cpp's graph of OLMoE does not do.
fn check(config: &Config) -> Result<()> {
    let expect = |ok: bool, what: &str| match ok {
        true => Ok(()),
        false => Err(Error::new(format!("expected {what}: others are for llama.cpp's convert_hf_to_gguf.py"))),
    };
    expect(config.model_type == "olmoe", "model_type olmoe")?;
    expect(!config.norm_topk_prob, "norm_topk_prob false")?;
    expect(config.rope_scaling.is_null() && config.clip_qkv.is_null(), "no rope_scaling and no clip_qkv")?;
    expect(!config.tie_word_embeddings, "an output matrix of its own")?;
    expect(
        config.num_attention_heads > 0 && config.hidden_size.is_multiple_of(config.num_attention_heads.into()),
        "heads that divide the hidden size",
    )
}

/// Keys and tensors, and where the tensors' values come from.
fn layout(config: &Config) -> (Header, Vec<Sources>) {
    let mut header = Header::new("olmoe", 32);
    header.key("general.name", Value::Text("tiny-moe-8m".into()));
    let (hidden, inner, experts) = (config.hidden_size, config.intermediate_size, config.num_experts);
    for (key, value) in [
        ("context_length", config.max_position_embeddings),
        ("embedding_length", hidden as u32),
        ("feed_forward_length", inner as u32),
        ("block_count", config.num_hidden_layers),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("expert_count", experts as u32),
        ("expert_used_count", config.num_experts_per_tok),
    ] {
        header.key(&format!("olmoe.{key}"), Value::U32(value));
    }
    header.key("olmoe.rope.freq_base", Value::F32(config.rope_theta));
    header.key("olmoe.attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps));
    let mut sources = Vec::new();
    let mut add = |name: String, sizes: &[u64], from: Sources| {
        header.tensor(name, sizes, Type::F32);
        sources.push(from);
    };
    let one = |name: &str| vec![name.to_owned()];
    add("token_embd.weight".into(), &[hidden, config.vocab_size], one("model.embed_tokens.weight"));
    add("output_norm.weight".into(), &[hidden], one("model.norm.weight"));
    add("output.weight".into(), &[hidden, config.vocab_size], one("lm_head.weight"));
    let keys = hidden / u64::from(config.num_attention_heads) * u64::from(config.num_key_value_heads);
    for layer in 0..config.num_hidden_layers {
        let from = |name: &str| vec![format!("model.layers.{layer}.{name}.weight")];
        for (name, sizes, source) in [
            ("attn_norm", &[hidden][..], "input_layernorm"),
            ("attn_q", &[hidden, hidden], "self_attn.q_proj"),
            ("attn_k", &[hidden, keys], "self_attn.k_proj"),
            ("attn_v", &[hidden, keys], "self_attn.v_proj"),
            ("attn_output", &[hidden, hidden], "self_attn.o_proj"),
            ("attn_q_norm", &[hidden], "self_attn.q_norm"),
            ("attn_k_norm", &[keys], "self_attn.k_norm"),
            ("ffn_norm", &[hidden], "post_attention_layernorm"),
            ("ffn_gate_inp", &[hidden, experts], "mlp.gate"),
        ] {
            add(format!("blk.{layer}.{name}.weight"), sizes, from(source));
        }
        for (name, sizes, source) in [
            ("ffn_gate_exps", [hidden, inner, experts], "gate_proj"),
            ("ffn_down_exps", [inner, hidden, experts], "down_proj"),
            ("ffn_up_exps", [hidden, inner, experts], "up_proj"),
        ] {
            let of = |expert| format!("model.layers.{layer}.mlp.experts.{expert}.{source}.weight");
            add(format!("blk.{layer}.{name}.weight"), &sizes, (0..experts).map(of).collect());
        }
    }
    (header, sources)
}

#[derive(Debug, Deserialize)]
struct Tokenizer {
    model: Merges,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Debug, Deserialize)]
struct Merges {
    vocab: std::collections::HashMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair([String; 2]),
    Text(String),
}

#[derive(Debug, Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// The tokenizer: pairs of bytes that are merged, words cut as GPT-2 does.
fn vocabulary(header: &mut Header, config: &Config, text: &str) -> Result<()> {
    let tokenizer: Tokenizer = serde_json::from_str(text).map_err(|error| Error::new(error.to_string()))?;
    let size = config.vocab_size as usize;
    let mut tokens: Vec<String> = (0..size).map(|id| format!("<unused {id}>")).collect();
    // 1: text, 3: control, 5: unused.
    let mut kinds = vec![5; size];
    let added = tokenizer.added_tokens.iter().map(|added| (&added.content, added.id, 3));
    for (token, id, kind) in tokenizer.model.vocab.iter().map(|(token, &id)| (token, id, 1)).chain(added) {
        if id as usize >= size {
            return Err(Error::new(format!("expected token ids below {size}, found {id}")));
        }
        tokens[id as usize].clone_from(token);
        kinds[id as usize] = kind;
    }
    let merge = |merge: &Merge| match merge {
        Merge::Pair([left, right]) => format!("{left} {right}"),
        Merge::Text(text) => text.clone(),
    };
    header.key("tokenizer.ggml.model", Value::Text("gpt2".into()));
    header.key("tokenizer.ggml.pre", Value::Text("gpt-2".into()));
    header.key("tokenizer.ggml.tokens", Value::Texts(tokens));
    header.key("tokenizer.ggml.token_type", Value::I32s(kinds));
    header.key("tokenizer.ggml.merges", Value::Texts(tokenizer.model.merges.iter().map(merge).collect()));
    if let Some(id) = config.eos_token_id {
        header.key("tokenizer.ggml.eos_token_id", Value::U32(id));
        // The checkpoint's tokenizer puts it before every text.
        header.key("tokenizer.ggml.bos_token_id", Value::U32(id));
        header.key("tokenizer.ggml.add_bos_token", Value::Bool(true));
    }
    Ok(())
}

/// The values in f32, little-endian.
fn widened(kind: Dtype, bytes: &[u8]) -> Cow<'_, [u8]> {
    let widen = |of: fn([u8; 2]) -> f32| {
        let (halves, _) = bytes.as_chunks();
        halves.iter().flat_map(|&raw| of(raw).to_le_bytes()).collect::<Vec<u8>>().into()
    };
    match kind {
        Dtype::F16 => widen(|raw| f16::from_le_bytes(raw).to_f32()),
        Dtype::BF16 => widen(|raw| bf16::from_le_bytes(raw).to_f32()),
        _ => bytes.into(),
    }
}
