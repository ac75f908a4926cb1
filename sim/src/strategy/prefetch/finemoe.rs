//! Expert maps (fMoE, arXiv 2502.05370) say what the next layer wants. The paper fetches the more the less alike a map
//! is; here `most` and `sure` say how much.

use super::recall::{AHEAD, GAIN, SURE, WASTE, expected};
use super::{Kind, Make};
use crate::strategy::forecaster::Settings;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[super::MOST, SURE, GAIN, AHEAD, WASTE],
    // Every layer goes through the whole store.
    slow: true,
    couples_layers: true,
    ..Kind::new(
        "finemoe-fetch",
        "what the expert maps most like this token want in the next layer, where that mostly came true",
        Make(|values, setup| expected(Settings::maps(None), false, values, setup)),
    )
};
