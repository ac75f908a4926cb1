//! DeepSeek-V3 (arXiv 2412.19437): V2 with sigmoid scores, a bias for the selection, and groups rated by their two best
//! experts.

use cptr_trace::Router;

use super::deepseek_v2::{grouped, latent, scaled};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::fields::Fields;

pub(super) fn config(fields: &Fields<'_>, family: &'static str) -> Result<Config> {
    if !fields.flag("rope_interleave", true)? {
        return Err(Error::new("expected true as in every published DeepSeek-V3, found false").at("rope_interleave"));
    }
    Ok(Config { selection_bias: Some("e_score_correction_bias"), ..latent(fields, family, router)? })
}

fn router(fields: &Fields<'_>) -> Result<Router> {
    let router = Router { renormalise: fields.flag("norm_topk_prob", true)?, ..Router::SIGMOID };
    scaled(grouped(router, fields)?, fields)
}
