//! DeepSeek-V2 (arXiv 2405.04434): latent attention, shared experts, dense first layers, routing limited to the best
//! groups.

use cptr_trace::Router;

use crate::error::{Error, Result};
use crate::model::config::{Attention, Common, Config, Latent, Shared};
use crate::model::fields::Fields;
use crate::model::rope::Rope;

pub(super) fn config(fields: &Fields<'_>, family: &'static str) -> Result<Config> {
    latent(fields, family, router)
}

/// What DeepSeek-V2 and V3 share: all but the router.
pub(super) fn latent(
    fields: &Fields<'_>,
    family: &'static str,
    router: fn(&Fields<'_>) -> Result<Router>,
) -> Result<Config> {
    let common = Common::read(fields)?;
    let rope_dim = fields.size("qk_rope_head_dim")?;
    let rope = Rope::read(fields, rope_dim, 10_000.0, "default")?;
    let attention = Attention::Latent(Latent {
        heads: common.heads,
        q_rank: fields.size_if_any("q_lora_rank")?.filter(|&rank| rank > 0),
        kv_rank: fields.size("kv_lora_rank")?,
        plain_dim: fields.size("qk_nope_head_dim")?,
        rope_dim,
        v_dim: fields.size("v_head_dim")?,
        bias: fields.flag("attention_bias", false)?,
    });
    let first = fields.size_if_any("first_k_dense_replace")?.unwrap_or(0);
    let step = fields.size_if_any("moe_layer_freq")?.unwrap_or(1).max(1);
    let moe_layers = (first..common.layers).filter(|layer| layer % step == 0).collect();
    let config = common.config(fields, family, rope)?;
    let shared = match fields.size_if_any("n_shared_experts")?.unwrap_or(0) {
        0 => None,
        count => Some(Shared { name: "shared_experts", inner: count * config.expert_inner, gate: None }),
    };
    Ok(Config { attention, moe_layers, router: router(fields)?, shared, ..config })
}

fn router(fields: &Fields<'_>) -> Result<Router> {
    if fields.flag("norm_topk_prob", false)? {
        return Err(Error::new("expected false as in every published DeepSeek-V2, found true").at("norm_topk_prob"));
    }
    let router = match fields.text("topk_method")?.unwrap_or("greedy") {
        "greedy" => Router::SOFTMAX_ALL,
        "group_limited_greedy" => grouped(Router::SOFTMAX_ALL, fields)?,
        other => {
            return Err(
                Error::new(format!("expected greedy or group_limited_greedy, found \"{other}\"")).at("topk_method")
            );
        }
    };
    scaled(router, fields)
}

/// With the groups of the configuration.
pub(super) fn grouped(router: Router, fields: &Fields<'_>) -> Result<Router> {
    let number = |name: &str| {
        u16::try_from(fields.size(name)?).map_err(|_| Error::new("expected a number of groups of experts").at(name))
    };
    Ok(router.grouped(number("n_group")?, number("topk_group")?))
}

/// With the factor of the configuration on all weights.
pub(super) fn scaled(router: Router, fields: &Fields<'_>) -> Result<Router> {
    Ok(Router { scale: fields.number("routed_scaling_factor", 1.0)? as f32, ..router })
}
