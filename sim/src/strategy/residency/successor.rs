//! What followed each expert in its layer, learned on line, decides who goes, beside the levels: a table of E x E
//! counts a layer. History of the token before, as the affinity of experts to their successors in many systems.

use super::recall::{FAST, JUDGED, SLOW, WEIGHT, WINDOW, expected};
use super::{Kind, Make};
use crate::strategy::Parameter;
use crate::strategy::forecaster::Settings;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter { default: 2.0, ..WINDOW },
        Parameter { default: 2.0, ..WEIGHT },
        Parameter { default: 0.0, ..JUDGED },
        SLOW,
        FAST,
    ],
    // Every layer takes as long as all strategies by lists together.
    slow: true,
    couples_layers: true,
    ..Kind::new(
        "successor",
        "on demand; the expert goes that levels and what followed this token's experts expect least",
        Make(|values, setup| {
            expected(Settings::Successors(values.count("window")), values.on("judged"), values, setup)
        }),
    )
};
