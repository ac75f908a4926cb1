//! DeepSeek-V2 (arXiv 2405.04434): latent attention, shared experts, dense first layers, routing limited to the best
//! groups.

use crate::error::{Error, Result};
use crate::model::config::{Attention, Common, Config, Latent, Shared};
use crate::model::fields::Fields;
use crate::model::rope::Rope;
use crate::model::router::{Groups, Router};

pub(super) fn config(fields: &Fields<'_>, family: &'static str) -> Result<Config> {
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
    let router = router(fields, config.experts)?;
    let shared = match fields.size_if_any("n_shared_experts")?.unwrap_or(0) {
        0 => None,
        count => Some(Shared { name: "shared_experts", inner: count * config.expert_inner, gate: None }),
    };
    Ok(Config { attention, moe_layers, router, shared, ..config })
}

fn router(fields: &Fields<'_>, experts: usize) -> Result<Router> {
    if fields.flag("norm_topk_prob", false)? {
        return Err(Error::new("expected false as in every published DeepSeek-V2, found true").at("norm_topk_prob"));
    }
    let groups = match fields.text("topk_method")?.unwrap_or("greedy") {
        "greedy" => None,
        "group_limited_greedy" => {
            let groups = Groups { count: fields.size("n_group")?, kept: fields.size("topk_group")? };
            if !experts.is_multiple_of(groups.count) || groups.kept > groups.count {
                return Err(Error::new(format!(
                    "expected {experts} experts in equal groups and topk_group of them, found {} groups and {}",
                    groups.count, groups.kept
                ))
                .at("n_group"));
            }
            Some(groups)
        }
        other => {
            return Err(
                Error::new(format!("expected greedy or group_limited_greedy, found \"{other}\"")).at("topk_method")
            );
        }
    };
    let scale = fields.number("routed_scaling_factor", 1.0)? as f32;
    Ok(Router { scale, groups, ..Router::softmax(false) })
}
