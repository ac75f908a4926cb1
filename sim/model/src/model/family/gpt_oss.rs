//! gpt-oss (arXiv 2508.10925): attention sinks, every other layer with a sliding window, biases everywhere, a clamped
//! activation.

use cptr_trace::Router;

use crate::error::{Error, Result};
use crate::model::config::{Activation, Attention, Common, Config, ExpertNames, Grouped, Names, windows};
use crate::model::fields::Fields;
use crate::model::rope::Rope;

pub(super) fn config(fields: &Fields<'_>, family: &'static str) -> Result<Config> {
    let common = Common::read(fields)?;
    let rope = Rope::read(fields, common.head_dim, 150_000.0, "yarn")?;
    let window = windows(fields, common.layers, |layer| layer % 2 == 0)?;
    let bias = fields.flag("attention_bias", true)?;
    if let Some(method) = fields.object("quantization_config")? {
        let method = method.text("quant_method")?.unwrap_or("unknown");
        return Err(Error::new(format!(
            "expected unquantised experts (bf16), found quantisation \"{method}\"; save the model with \
             dequantised experts in transformers first"
        ))
        .at("quantization_config"));
    }
    Ok(Config {
        attention: Attention::Grouped(Grouped {
            qkv_bias: bias,
            out_bias: bias,
            window,
            sinks: true,
            ..common.grouped()
        }),
        router: Router::SOFTMAX_SELECTED,
        router_bias: true,
        activation: Activation::Clamped {
            alpha: fields.number("swiglu_alpha", 1.702)? as f32,
            limit: fields.number("swiglu_limit", 7.0)? as f32,
        },
        names: Names { block: "mlp", router: "router", experts: ExpertNames::Packed },
        ..common.config(fields, family, rope)?
    })
}
