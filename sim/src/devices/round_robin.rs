//! Expert e lies on device e modulo their number: what is done where nothing is known.

use super::{Homes, Kind, Make, Setup, single};
use crate::strategy::Values;

pub(super) const KIND: Kind<Make> = Kind::new("round-robin", "expert e on device e modulo their number", Make(make));

fn make(_: &Values, setup: &Setup<'_>) -> Vec<Homes> {
    let layer = single((0..setup.trace.shape.experts).map(|expert| (expert % setup.devices) as u8).collect());
    vec![layer; setup.trace.shape.layers]
}
