//! Sizes of models (`data/models.toml`).

use std::sync::LazyLock;

use serde::Deserialize;

/// Sizes of one model, as far as the time of a token depends on them. Field meanings and sources: `data/models.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name as printed.
    pub name: String,
    #[serde(rename = "match", default)]
    patterns: Vec<String>,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width inside an expert.
    pub expert_inner: u64,
    /// Weight matrices per expert.
    pub expert_matrices: u64,
    /// Parameters per layer that every token reads beside the routed experts.
    pub dense_parameters: u64,
    /// Where the sizes come from.
    #[serde(default)]
    pub source: String,
}

#[derive(Deserialize)]
struct File {
    model: Vec<Model>,
}

static MODELS: LazyLock<Vec<Model>> = LazyLock::new(|| {
    toml::from_str::<File>(include_str!("../data/models.toml"))
        .expect("the shipped table parses: a unit test reads it")
        .model
});

impl Model {
    /// A model that is not in the table: gated experts of `hidden` x `expert_inner`, attention of four square matrices.
    pub fn new(name: &str, hidden: u64, expert_inner: u64) -> Self {
        Self {
            name: name.into(),
            patterns: Vec::new(),
            hidden,
            expert_inner,
            expert_matrices: 3,
            dense_parameters: 4 * hidden * hidden,
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

    /// Parameters of one expert.
    pub fn expert_parameters(&self) -> u64 {
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
            assert!(model.hidden > 0 && model.expert_inner > 0 && model.dense_parameters > 0);
            assert!((2..=3).contains(&model.expert_matrices));
        }
    }
}
