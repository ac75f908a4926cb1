//! Mixtral (arXiv 2401.04088): the weights of the chosen experts sum to 1; older checkpoints have a sliding window.

use cptr_trace::Router;

use crate::error::Result;
use crate::model::config::{Attention, Common, Config, ExpertNames, Grouped, Names, windows};
use crate::model::fields::Fields;
use crate::model::rope::Rope;

pub(super) fn config(fields: &Fields<'_>, family: &'static str) -> Result<Config> {
    let common = Common::read(fields)?;
    let rope = Rope::read(fields, common.head_dim, 1e6, "default")?;
    let window = windows(fields, common.layers, |_| true)?;
    Ok(Config {
        attention: Attention::Grouped(Grouped { window, ..common.grouped() }),
        router: Router::SOFTMAX_SELECTED,
        names: Names {
            block: "block_sparse_moe",
            router: "gate",
            experts: ExpertNames::Apart { gate: "w1", up: "w3", down: "w2" },
        },
        ..common.config(fields, family, rope)?
    })
}
