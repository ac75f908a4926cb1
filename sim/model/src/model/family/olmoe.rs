//! OLMoE (arXiv 2409.02060): queries and keys normalised over all heads.

use crate::error::Result;
use crate::model::config::{Attention, Common, Config, Grouped, QkNorm};
use crate::model::fields::Fields;
use crate::model::rope::Rope;

pub(super) fn config(fields: &Fields<'_>, family: &'static str) -> Result<Config> {
    let common = Common::read(fields)?;
    let rope = Rope::read(fields, common.head_dim, 10_000.0, "default")?;
    let bias = fields.flag("attention_bias", false)?;
    let attention = Attention::Grouped(Grouped {
        qkv_bias: bias,
        out_bias: bias,
        norm: QkNorm::Whole,
        clip: fields.number_if_any("clip_qkv")?,
        ..common.grouped()
    });
    Ok(Config { attention, ..common.config(fields, family, rope)? })
}
