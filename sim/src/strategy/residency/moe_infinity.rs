//! Activation matrices of whole sequences (MoE-Infinity, arXiv 2401.14361) decide who goes, beside the levels.

use super::recall::{FAST, JUDGED, SLOW, WEIGHT, WINDOW, expected};
use super::{Kind, Make};
use crate::strategy::forecaster::{MATRICES, Settings};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[MATRICES[0], MATRICES[1], MATRICES[2], WINDOW, WEIGHT, JUDGED, SLOW, FAST],
    // Every layer takes as long as all strategies by lists together.
    slow: true,
    couples_layers: true,
    ..Kind::new(
        "moe-infinity",
        "on demand; the expert goes that levels and the activation matrix most like this one expect least",
        Make(|values, setup| expected(Settings::matrices(Some(values)), values.on("judged"), values, setup)),
    )
};
