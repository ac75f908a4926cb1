//! Expert maps (fMoE, arXiv 2502.05370) decide who goes, beside the levels.

use super::recall::{FAST, JUDGED, SLOW, WEIGHT, WINDOW, expected};
use super::{Kind, Make};
use crate::strategy::forecaster::{MAPS, MEMORY, Settings};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[MEMORY, MAPS[0], MAPS[1], MAPS[2], MAPS[3], WINDOW, WEIGHT, JUDGED, SLOW, FAST],
    // Every layer goes through the whole store.
    slow: true,
    couples_layers: true,
    ..Kind::new(
        "finemoe",
        "on demand; the expert goes that levels and the expert maps most like this token's expect least",
        Make(|values, setup| expected(Settings::maps(Some(values)), values.on("judged"), values, setup)),
    )
};
