//! What followed in the next layer the experts that the token before wanted there, learned on line.

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
        "successor-fetch",
        "what followed the experts of the token before in the next layer, where that mostly came true",
        Make(|values, setup| expected(Settings::Successors(1), false, values, setup)),
    )
};
