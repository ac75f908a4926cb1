//! Sizes of models: a table (`data/models.toml`), or the `config.json` that is published with a model's weights.
//!
//! ```
//! use cptr_hw_model::Model;
//!
//! let qwen = Model::find("Qwen3-30B-A3B-Q4_K_M").ok_or("no such model")?;
//! // Output head: 151,936 rows of 2,048 weights.
//! assert_eq!(qwen.head_parameters(), 311_164_928);
//! // Keys and values of four heads of 128, at 16 bits: 2 KiB a token and layer.
//! assert_eq!(qwen.kv_bytes(1), 2048.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;

use std::sync::LazyLock;

use serde::Deserialize;

pub use config::ModelError;

/// Sizes of one model, as far as the time of a token depends on them. Field meanings and sources: `data/models.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name as printed.
    pub name: String,
    #[serde(rename = "match", default)]
    pub(crate) patterns: Vec<String>,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Layers with routed experts; 0: not known.
    pub layers: u64,
    /// Routed experts of such a layer; 0: not known.
    pub experts: u64,
    /// Routed experts that a token takes; 0: not known.
    pub experts_per_token: u64,
    /// Width inside a routed expert.
    pub expert_inner: u64,
    /// Weight matrices per expert.
    pub expert_matrices: u64,
    /// Parameters of the attention of one layer.
    pub attention_parameters: u64,
    /// Parameters of the shared experts of one layer with routed experts.
    #[serde(default)]
    pub shared_parameters: u64,
    /// Layers without routed experts.
    #[serde(default)]
    pub dense_layers: u64,
    /// Width inside their feed-forward network, which has as many matrices as an expert.
    #[serde(default)]
    pub dense_inner: u64,
    /// Rows of the output head, which is as wide as the residual stream; 0: not known.
    pub vocabulary: u64,
    /// Numbers per token and layer that attention keeps: keys and values, or a latent vector.
    pub kv_values: u64,
    /// Whether all heads share them, as they do a latent vector: devices that split the heads each need all of it.
    #[serde(default)]
    pub kv_shared: bool,
    /// Layers whose attention reads only the last [`Self::window`] tokens.
    #[serde(default)]
    pub windowed_layers: u64,
    /// Tokens that those layers read.
    #[serde(default)]
    pub window: u64,
    /// Whether its router goes by sigmoid scores, which takes a controller longer than a softmax.
    #[serde(default)]
    pub sigmoid: bool,
    /// Where the sizes come from.
    #[serde(default)]
    pub source: String,
}

/// Bytes of a number of keys and values.
const KV_BYTES: f64 = 2.0;

#[derive(Deserialize)]
struct File {
    model: Vec<Model>,
}

static MODELS: LazyLock<Vec<Model>> = LazyLock::new(|| {
    toml::from_str::<File>(include_str!("../../data/models.toml"))
        .expect("the shipped table parses: a unit test reads it")
        .model
});

impl Model {
    /// A model of which little is known: gated experts of `hidden` x `expert_inner`, attention of four square matrices
    /// that keeps as many keys and values as the residual stream is wide, no output head.
    pub fn new(name: &str, hidden: u64, expert_inner: u64) -> Self {
        Self {
            name: name.into(),
            patterns: Vec::new(),
            hidden,
            layers: 0,
            experts: 0,
            experts_per_token: 0,
            expert_inner,
            expert_matrices: 3,
            attention_parameters: 4 * hidden * hidden,
            shared_parameters: 0,
            dense_layers: 0,
            dense_inner: 0,
            vocabulary: 0,
            kv_values: 2 * hidden,
            kv_shared: false,
            windowed_layers: 0,
            window: 0,
            sigmoid: false,
            source: "given on the command line".into(),
        }
    }

    /// All models of the table.
    pub fn all() -> &'static [Self] {
        &MODELS
    }

    /// The model that a trace's model name means, such as `Qwen3-30B-A3B-Q4_K_M`.
    pub fn find(name: &str) -> Option<&'static Self> {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        MODELS.iter().find(|model| model.patterns.iter().any(|pattern| plain.contains(pattern)))
    }

    /// Layers, with routed experts and without.
    pub const fn all_layers(&self) -> u64 {
        self.layers + self.dense_layers
    }

    /// Parameters of a layer with routed experts that every token reads beside them: attention and shared experts;
    /// norms and router left out.
    pub const fn dense_parameters(&self) -> u64 {
        self.attention_parameters + self.shared_parameters
    }

    /// Parameters of a layer without routed experts.
    pub const fn dense_layer_parameters(&self) -> u64 {
        self.attention_parameters + self.expert_matrices * self.hidden * self.dense_inner
    }

    /// Parameters of the output head.
    pub const fn head_parameters(&self) -> u64 {
        self.vocabulary * self.hidden
    }

    /// Parameters that every token reads whatever the router chooses: of all layers and the output head.
    pub const fn always_read(&self) -> u64 {
        self.layers * self.dense_parameters()
            + self.dense_layers * self.dense_layer_parameters()
            + self.head_parameters()
    }

    /// Parameters of all routed experts.
    pub const fn routed_parameters(&self) -> u64 {
        (self.layers * self.experts).saturating_mul(self.expert_parameters())
    }

    /// Tokens that the attention of one layer reads, of a sequence of `context` tokens: the mean over all layers, as
    /// some of them may have a window.
    pub fn attended(&self, context: u64) -> f64 {
        let context_f64 = context as f64;
        let windowed = self.windowed_layers as f64 / self.all_layers().max(1) as f64;
        context_f64 - windowed * (context_f64 - context.min(self.window) as f64)
    }

    /// Bytes of the keys and values of `tokens` tokens in one layer, 16 bits each.
    pub fn kv_bytes(&self, tokens: u64) -> f64 {
        tokens as f64 * self.kv_values as f64 * KV_BYTES
    }

    /// Parameters of one expert.
    pub const fn expert_parameters(&self) -> u64 {
        self.expert_matrices * self.hidden * self.expert_inner
    }

    /// Bytes of one expert's weights at `bits` per weight, scales and zero points left out.
    pub fn expert_bytes(&self, bits: f64) -> f64 {
        self.expert_parameters() as f64 * bits / 8.0
    }

    /// Bytes of one token's activation, 16 bits per value.
    pub fn activation_bytes(&self) -> f64 {
        self.hidden as f64 * 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_traces_give_them() {
        for (name, expected) in [
            ("Qwen3-30B-A3B-Q4_K_M", Some("Qwen3-30B-A3B")),
            ("openai/gpt-oss-20b", Some("gpt-oss-20b")),
            ("mistralai/Mixtral-8x7B-v0.1", Some("Mixtral-8x7B")),
            ("mixtral-8x22b", Some("Mixtral-8x22B")),
            ("deepseek-ai/ESFT-vanilla-lite", Some("DeepSeek-V2-Lite")),
            ("google/switch-base-32", Some("Switch-base-32")),
            ("sticky-moe", None),
            ("", None),
        ] {
            assert_eq!(Model::find(name).map(|m| m.name.as_str()), expected, "{name}");
        }
    }

    /// Expert sizes against the published times of one expert at 2 bits and 512 GB/s (design figures, two digits).
    #[test]
    fn expert_sizes_match_published_times() {
        for (name, microseconds) in [
            ("Mixtral-8x7B", 86.0),
            ("Mixtral-8x22B", 147.0),
            ("gpt-oss-20b", 12.0),
            ("DeepSeek-V3", 21.5),
            ("DeepSeek-V2-Lite", 4.2),
            ("OLMoE", 3.1),
            ("Qwen3-30B-A3B", 2.3),
        ] {
            let found = Model::find(name).unwrap().expert_bytes(2.0) / 512e9 * 1e6;
            assert!((found / microseconds - 1.0).abs() < 0.02, "{name}: {found}");
        }
        assert_eq!(Model::find("Mixtral-8x7B").unwrap().expert_parameters(), 176_160_768);
        assert_eq!(Model::find("Mixtral-8x22B").unwrap().expert_parameters(), 301_989_888);
    }

    #[test]
    fn every_model_has_a_source_and_sizes() {
        for model in Model::all() {
            assert!(!model.source.is_empty() && !model.patterns.is_empty(), "{}", model.name);
            assert!(model.hidden > 0 && model.expert_inner > 0 && model.dense_parameters() > 0);
            assert!((2..=3).contains(&model.expert_matrices));
            assert!(model.layers > 0 && model.experts_per_token <= model.experts && model.vocabulary > 0);
            assert_eq!(model.dense_layers == 0, model.dense_inner == 0, "{}", model.name);
            assert!(model.windowed_layers <= model.all_layers());
        }
    }

    /// Weights in all, against what the models' authors say, 10^9: embedding and head, tied or not.
    #[test]
    fn the_parameters_add_up() {
        for (name, billions, embeddings) in [
            ("Mixtral-8x22B", 140.6, 2),
            ("Mixtral-8x7B", 46.7, 2),
            ("Qwen3-30B-A3B", 30.5, 2),
            ("gpt-oss-120b", 116.8, 2),
            ("gpt-oss-20b", 20.9, 2),
            ("DeepSeek-V3", 671.0, 2),
            ("DeepSeek-V2-Lite", 15.7, 2),
            ("OLMoE-1B-7B", 6.92, 2),
        ] {
            let model = Model::find(name).unwrap();
            let found = model.always_read() + model.routed_parameters() + (embeddings - 1) * model.head_parameters();
            assert!((found as f64 / 1e9 / billions - 1.0).abs() < 0.01, "{name}: {found}");
        }
    }

    #[test]
    fn windows_and_latent_vectors_keep_attention_small() {
        let at = |name, context| Model::find(name).unwrap().attended(context);
        assert_eq!((at("Qwen3-30B-A3B", 4096), at("gpt-oss-20b", 100)), (4096.0, 100.0));
        // Every other layer reads 128 tokens.
        assert_eq!(at("gpt-oss-20b", 4096), (4096.0 + 128.0) / 2.0);
        assert_eq!(Model::find("DeepSeek-V3").unwrap().kv_bytes(1), 1152.0);
    }
}
