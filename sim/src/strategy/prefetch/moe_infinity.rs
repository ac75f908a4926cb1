//! Activation matrices of whole sequences (MoE-Infinity, arXiv 2401.14361) say what the next layer wants.

use super::recall::{AHEAD, GAIN, SURE, WASTE, expected};
use super::{Kind, Make};
use crate::strategy::Parameter;
use crate::strategy::forecaster::Settings;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[super::MOST, Parameter { default: 0.3, ..SURE }, GAIN, AHEAD, WASTE],
    // Every layer takes as long as all strategies by lists together.
    slow: true,
    couples_layers: true,
    ..Kind::new(
        "moe-infinity-fetch",
        "what the activation matrix most like this one wants in the next layer, where that mostly came true",
        Make(|values, setup| expected(Settings::matrices(None), false, values, setup)),
    )
};
