//! The families of models. A new one is a file that turns its `config.json` into a [`Config`], and one line in
//! [`FAMILIES`].

mod deepseek_v2;
mod deepseek_v3;
mod gpt_oss;
mod mixtral;
mod olmoe;
mod qwen2_moe;
mod qwen3_moe;

use super::config::Config;
use super::fields::Fields;
use crate::error::{Error, Result};

/// A family of models.
pub(super) struct Family {
    /// Its `model_type`.
    name: &'static str,
    config: fn(&Fields<'_>, &'static str) -> Result<Config>,
}

/// Every family, by name.
const FAMILIES: &[Family] = &[
    Family { name: "deepseek_v2", config: deepseek_v2::config },
    Family { name: "deepseek_v3", config: deepseek_v3::config },
    Family { name: "gpt_oss", config: gpt_oss::config },
    Family { name: "mixtral", config: mixtral::config },
    Family { name: "olmoe", config: olmoe::config },
    Family { name: "qwen2_moe", config: qwen2_moe::config },
    Family { name: "qwen3_moe", config: qwen3_moe::config },
];

/// Reads the text of a `config.json`.
pub(super) fn read(text: &str) -> Result<Config> {
    let json: serde_json::Value = serde_json::from_str(text).map_err(|error| Error::new(error.to_string()))?;
    let fields = Fields::new(&json)?;
    let names = || FAMILIES.iter().map(|family| family.name).collect::<Vec<_>>().join(", ");
    let found = fields.text("model_type")?;
    let Some(family) = FAMILIES.iter().find(|family| Some(family.name) == found) else {
        let found = found.map_or("none".into(), |found| format!("\"{found}\""));
        return Err(Error::new(format!("expected a model_type of {}, found {found}", names())));
    };
    (family.config)(&fields, family.name)?.validate()
}
