//! Sizes of a model from its `config.json`, as published with weights for the library `transformers`.

use std::fmt;

use serde_json::{Map, Value};

use super::Model;

/// Why a `config.json` gives no sizes: one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelError(String);

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ModelError {}

type Result<T> = std::result::Result<T, ModelError>;

fn error<T>(message: impl Into<String>) -> Result<T> {
    Err(ModelError(message.into()))
}

/// Greatest width, and number of layers, heads or experts: so products stay within 64 bits.
const MOST: u64 = 1 << 20;
const MOST_LAYERS: u64 = 1 << 12;
const MOST_EXPERTS: u64 = 1 << 16;

impl Model {
    /// The sizes in the text of a `config.json`, for a model called `name`.
    ///
    /// One form for all families: what they call a size differs, what it is does not. Where sizes of a part are given
    /// below `text_config`, those count.
    ///
    /// # Errors
    /// What is no such file, has no routed experts, lacks a size, or has layers that this does not know.
    ///
    /// ```
    /// use cptr_hw_model::Model;
    ///
    /// let text = r#"{"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16, "vocab_size": 50304,
    ///     "num_experts": 64, "num_experts_per_tok": 8, "intermediate_size": 1024}"#;
    /// let (read, table) = (Model::from_config("OLMoE", text)?, Model::find("OLMoE").ok_or("no such model")?);
    /// assert_eq!(read.always_read(), table.always_read());
    /// assert!(Model::from_config("dense", r#"{"hidden_size": 2048}"#).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_config(name: &str, text: &str) -> Result<Self> {
        // As some editors write it.
        let text = text.trim_start_matches('\u{feff}');
        let value: Value = serde_json::from_str(text).or_else(|wrong| error(format!("no JSON: {wrong}")))?;
        let Value::Object(outer) = &value else { return error("expected a JSON object") };
        let inner = outer.get("text_config").and_then(Value::as_object);
        Config { fields: inner.unwrap_or(outer) }.model(name)
    }
}

/// The object that has the sizes.
struct Config<'a> {
    fields: &'a Map<String, Value>,
}

/// Fields of layers that this does not know: state spaces, linear attention, experts in some layers only, dense
/// networks beside the experts.
const OTHER_LAYERS: [&str; 14] = [
    "hybrid_override_pattern",
    "expert_layer_period",
    "attn_layer_period",
    "attn_type_list",
    "layers_block_type",
    "linear_attn_config",
    "full_attention_interval",
    "mamba_d_state",
    "ssm_state_size",
    "linear_num_key_heads",
    "residual_moe",
    "use_residual",
    "moe_residual",
    "cla_share_factor",
];

impl Config<'_> {
    fn model(&self, name: &str) -> Result<Model> {
        let on = |value: &Value| !matches!(value, Value::Bool(false) | Value::Null);
        if let Some(field) = OTHER_LAYERS.iter().find(|field| self.fields.get(**field).is_some_and(on)) {
            return error(format!("{field}: layers of this kind are not known here"));
        }
        let experts = ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"];
        let Some(experts) = self.first(&experts)?.filter(|&experts| experts > 1) else {
            return error(
                "no routed experts: expected num_experts, num_local_experts, n_routed_experts or moe_num_experts",
            );
        };
        let k = ["num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k"];
        let experts_per_token = self.needed(&k)?;
        if experts_per_token > experts {
            return error(format!("{experts_per_token} of {experts} experts a token: expected at most all"));
        }
        let hidden = self.needed(&["hidden_size"])?;
        let expert_inner = self.needed(&["moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size"])?;
        let all_layers = self.needed(&["num_hidden_layers"])?;
        if experts > MOST_EXPERTS || all_layers > MOST_LAYERS {
            return error(format!(
                "{all_layers} layers of {experts} experts: expected at most {MOST_LAYERS} of {MOST_EXPERTS}"
            ));
        }
        let dense_layers = self.dense_layers(all_layers)?;
        let dense_inner =
            if dense_layers > 0 { self.needed(&["intermediate_size_mlp", "intermediate_size"])? } else { 0 };
        let (attention_parameters, kv_values) = self.attention(hidden)?;
        let (windowed_layers, window) = self.windows(all_layers)?;
        Ok(Model {
            name: name.into(),
            patterns: Vec::new(),
            hidden,
            layers: all_layers - dense_layers,
            experts,
            experts_per_token,
            expert_inner,
            expert_matrices: 3,
            attention_parameters,
            shared_parameters: 3 * hidden * self.shared_inner(expert_inner)?,
            dense_layers,
            dense_inner,
            vocabulary: self.needed(&["vocab_size"])?,
            kv_values,
            kv_shared: self.first(&["kv_lora_rank"])?.is_some(),
            windowed_layers,
            window,
            sigmoid: self.given("scoring_func").and_then(Value::as_str) == Some("sigmoid"),
            source: "its config.json".into(),
        })
    }

    /// The first of `names` that is there and not null; a list of one number for every layer is that number.
    fn first(&self, names: &[&str]) -> Result<Option<u64>> {
        let Some((name, value)) = names.iter().find_map(|&name| self.given(name).map(|value| (name, value))) else {
            return Ok(None);
        };
        let value = match value.as_array().map(Vec::as_slice) {
            Some([first, rest @ ..]) if rest.iter().all(|other| other == first) => first,
            Some(_) => return error(format!("{name}: expected the same number for every layer")),
            None => value,
        };
        match value.as_u64() {
            Some(size) if size <= MOST => Ok(Some(size)),
            _ => error(format!("{name}: expected a whole number up to {MOST}, found {value}")),
        }
    }

    fn given(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// As [`Self::first`], for a size that may be left out and is not 0.
    fn positive(&self, name: &str) -> Result<Option<u64>> {
        match self.first(&[name])? {
            Some(0) => error(format!("{name}: expected more than 0")),
            size => Ok(size),
        }
    }

    /// As [`Self::first`], for sizes that must be there and are not 0.
    fn needed(&self, names: &[&str]) -> Result<u64> {
        match self.first(names)? {
            Some(size) if size > 0 => Ok(size),
            Some(_) => error(format!("{}: expected more than 0", names.join(" or "))),
            None => error(format!("expected {}, found none", names.join(" or "))),
        }
    }

    /// Layers without routed experts: the first ones, those named, or all but every n-th.
    fn dense_layers(&self, all_layers: u64) -> Result<u64> {
        let first = self.first(&["first_k_dense_replace", "moe_layer_start_index"])?.unwrap_or(0);
        let step = self.first(&["decoder_sparse_step", "interleave_moe_layer_step"])?.unwrap_or(1).max(1);
        let named = match self.given("mlp_only_layers") {
            None => Vec::new(),
            Some(value) => match value.as_array() {
                Some(list) => list.iter().filter_map(Value::as_u64).collect(),
                None => return error(format!("mlp_only_layers: expected a list, found {value}")),
            },
        };
        let dense = |layer: &u64| *layer < first || !(layer + 1).is_multiple_of(step) || named.contains(layer);
        let dense_layers = (0..all_layers).filter(dense).count() as u64;
        if dense_layers == all_layers { error("no layer with routed experts") } else { Ok(dense_layers) }
    }

    /// Width of the shared experts together.
    fn shared_inner(&self, expert_inner: u64) -> Result<u64> {
        if let Some(inner) = self.first(&["shared_expert_intermediate_size", "shared_intermediate_size"])? {
            return Ok(inner);
        }
        let names = ["n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts"];
        // Llama 4 has one in every layer with experts and does not say so.
        let llama_4 = self.given("model_type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("llama4"));
        let inner = self.first(&names)?.unwrap_or(u64::from(llama_4)) * expert_inner;
        if inner > MOST {
            error(format!("shared experts: expected a width up to {MOST}, found {inner}"))
        } else {
            Ok(inner)
        }
    }

    /// Parameters of a layer's attention, and the numbers that it keeps of a token.
    fn attention(&self, hidden: u64) -> Result<(u64, u64)> {
        let heads = self.needed(&["num_attention_heads"])?;
        let kv_heads = self.positive("num_key_value_heads")?.unwrap_or(heads);
        if heads.max(kv_heads) > MOST_LAYERS {
            return error(format!("{heads} heads: expected at most {MOST_LAYERS}"));
        }
        if let Some(latent) = self.first(&["kv_lora_rank"])? {
            // Latent attention (arXiv 2405.04434): queries from a latent vector or straight from the stream.
            let rotated = self.needed(&["qk_rope_head_dim"])?;
            let query = self.needed(&["qk_nope_head_dim"])? + rotated;
            let value = self.needed(&["v_head_dim"])?;
            let queries = match self.first(&["q_lora_rank"])? {
                Some(rank) => hidden * rank + rank * heads * query,
                None => hidden * heads * query,
            };
            let keys = hidden * (latent + rotated) + latent * heads * (query - rotated + value);
            return Ok((queries + keys + heads * value * hidden, latent + rotated));
        }
        let width = match self.positive("head_dim")? {
            Some(width) => width,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return error(format!("head_dim: expected where {heads} heads do not divide {hidden}")),
        };
        Ok((2 * hidden * width * (heads + kv_heads), 2 * kv_heads * width))
    }

    /// Layers whose attention has a window, and its tokens.
    fn windows(&self, all_layers: u64) -> Result<(u64, u64)> {
        let kinds = self.given("layer_types").and_then(Value::as_array);
        let kinds: Vec<&str> = kinds.into_iter().flatten().filter_map(Value::as_str).collect();
        let known = ["full_attention", "sliding_attention", "chunked_attention"];
        if let Some(other) = kinds.iter().find(|kind| !known.contains(kind)) {
            return error(format!("layer_types: expected {}, found {other}", known.join(", ")));
        }
        let off = self.given("use_sliding_window").and_then(Value::as_bool) == Some(false);
        let window = self.first(&["sliding_window", "attention_chunk_size"])?.filter(|_| !off);
        Ok(match window {
            Some(window) if kinds.is_empty() => (all_layers, window),
            Some(window) => (kinds.iter().filter(|&&kind| kind != known[0]).count() as u64, window),
            None => (0, 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// As published, what does not matter here left out.
    fn published() -> Vec<(&'static str, Value)> {
        let windows = ["sliding_attention", "full_attention"].repeat(12);
        vec![
            (
                "Mixtral-8x7B",
                json!({"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
                    "num_key_value_heads": 8, "num_hidden_layers": 32, "num_local_experts": 8,
                    "num_experts_per_tok": 2, "sliding_window": null, "vocab_size": 32000}),
            ),
            (
                "Qwen3-30B-A3B",
                json!({"hidden_size": 2048, "head_dim": 128, "intermediate_size": 6144, "decoder_sparse_step": 1,
                    "mlp_only_layers": [], "moe_intermediate_size": 768, "num_attention_heads": 32,
                    "num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
                    "sliding_window": 4096, "use_sliding_window": false, "vocab_size": 151936}),
            ),
            (
                "gpt-oss-20b",
                json!({"hidden_size": 2880, "head_dim": 64, "intermediate_size": 2880, "layer_types": windows,
                    "num_attention_heads": 64, "num_key_value_heads": 8, "num_local_experts": 32,
                    "num_experts_per_tok": 4, "experts_per_token": 4, "num_hidden_layers": 24, "sliding_window": 128,
                    "vocab_size": 201088}),
            ),
            (
                "DeepSeek-V3",
                json!({"hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
                    "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
                    "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1,
                    "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
                    "vocab_size": 129280, "scoring_func": "sigmoid"}),
            ),
            (
                "DeepSeek-V2-Lite",
                json!({"hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
                    "first_k_dense_replace": 1, "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128,
                    "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2,
                    "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27,
                    "vocab_size": 102400}),
            ),
        ]
    }

    #[test]
    fn published_files_give_the_table() {
        for (name, config) in published() {
            let table = Model::find(name).unwrap();
            let read = Model::from_config(name, &config.to_string()).unwrap();
            let expected = Model { patterns: Vec::new(), source: read.source.clone(), ..table.clone() };
            assert_eq!(read, expected, "{name}");
            // As multimodal models have it.
            let nested = json!({"model_type": "with pictures", "hidden_size": 1, "text_config": config});
            assert_eq!(Model::from_config(name, &nested.to_string()).unwrap(), read);
        }
    }

    #[test]
    fn what_gives_no_sizes_is_refused_by_name() {
        let qwen = &published()[1].1;
        let without = |field: &str, value: Value| {
            let mut config = qwen.clone();
            config[field] = value;
            Model::from_config("changed", &config.to_string()).unwrap_err().to_string()
        };
        assert!(without("num_experts", Value::Null).starts_with("no routed experts"));
        assert!(without("num_experts", json!(1)).starts_with("no routed experts"));
        assert!(without("num_experts_per_tok", json!(129)).starts_with("129 of 128 experts"));
        assert_eq!(without("vocab_size", Value::Null), "expected vocab_size, found none");
        assert_eq!(without("hidden_size", json!(0)), "hidden_size: expected more than 0");
        assert!(without("hidden_size", json!(-3)).starts_with("hidden_size: expected a whole number"));
        assert!(without("hidden_size", json!(1_u64 << 40)).starts_with("hidden_size: expected a whole number"));
        assert!(without("decoder_sparse_step", json!(100)).starts_with("no layer with routed experts"));
        assert!(without("layer_types", json!(["linear_attention"])).contains("found linear_attention"));
        assert_eq!(without("attn_layer_period", json!(8)), "attn_layer_period: layers of this kind are not known here");
        assert_eq!(without("head_dim", json!(0)), "head_dim: expected more than 0");
        assert!(without("num_experts_per_tok", json!([8, 4])).contains("the same number for every layer"));
        assert!(Model::from_config("x", "[]").unwrap_err().to_string().starts_with("expected a JSON object"));
        assert!(Model::from_config("x", "{").unwrap_err().to_string().starts_with("no JSON"));
    }

    proptest! {
        /// Whatever sizes a file names: an error or a model whose parameters can be counted.
        #[test]
        fn any_sizes_are_read_or_refused(sizes in prop::collection::vec(any::<u64>(), 12), small: bool) {
            let limit = if small { 64 } else { u64::MAX };
            let names = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
                "num_experts", "num_experts_per_tok", "intermediate_size", "first_k_dense_replace", "n_shared_experts",
                "moe_intermediate_size", "sliding_window"];
            let fields = names.iter().zip(&sizes).map(|(name, size)| (name.to_string(), json!(size % limit)));
            let text = Value::Object(fields.collect()).to_string();
            if let Ok(model) = Model::from_config("any", &text) {
                prop_assert!(model.always_read() > 0 && model.attended(1000) <= 1000.0);
            }
        }
    }
}
