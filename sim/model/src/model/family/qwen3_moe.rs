//! Qwen3-MoE (arXiv 2505.09388): each head's query and key normalised, no shared expert.

use crate::error::Result;
use crate::model::config::{Attention, Common, Config, Grouped, QkNorm, sparse_layers, windows};
use crate::model::fields::Fields;
use crate::model::rope::Rope;

pub(super) fn config(fields: &Fields<'_>, family: &'static str) -> Result<Config> {
    let common = Common::read(fields)?;
    let rope = Rope::read(fields, common.head_dim, 10_000.0, "default")?;
    let slides = fields.flag("use_sliding_window", false)?;
    let window = if slides { windows(fields, common.layers, |_| true)? } else { vec![None; common.layers] };
    let bias = fields.flag("attention_bias", false)?;
    let attention = Attention::Grouped(Grouped {
        qkv_bias: bias,
        out_bias: bias,
        norm: QkNorm::PerHead,
        window,
        ..common.grouped()
    });
    let moe_layers = sparse_layers(fields, common.layers)?;
    Ok(Config { attention, moe_layers, ..common.config(fields, family, rope)? })
}
