//! Qwen2-MoE and Qwen1.5-MoE (arXiv 2407.10671): biases on queries, keys and values, and a shared expert with a gate of
//! its own.

use crate::error::{Error, Result};
use crate::model::config::{Attention, Common, Config, Grouped, Shared, sparse_layers, windows};
use crate::model::fields::Fields;
use crate::model::rope::Rope;

pub(super) fn config(fields: &Fields<'_>, family: &'static str) -> Result<Config> {
    let common = Common::read(fields)?;
    let rope = Rope::read(fields, common.head_dim, 10_000.0, "default")?;
    let slides = fields.flag("use_sliding_window", false)?;
    if slides && fields.texts("layer_types")?.is_none() {
        // Which layers slide without it changed between versions of transformers.
        return Err(Error::new("expected layer_types beside use_sliding_window, found none"));
    }
    let window = if slides { windows(fields, common.layers, |_| false)? } else { vec![None; common.layers] };
    let qkv_bias = fields.flag("qkv_bias", true)?;
    let inner = fields.size("shared_expert_intermediate_size")?;
    Ok(Config {
        attention: Attention::Grouped(Grouped { window, qkv_bias, ..common.grouped() }),
        moe_layers: sparse_layers(fields, common.layers)?,
        shared: Some(Shared { name: "shared_expert", inner, gate: Some("shared_expert_gate") }),
        ..common.config(fields, family, rope)?
    })
}
