//! Expert e lies on device e modulo their number: what is done where nothing is known.

use super::{Homes, Kind, Setup, single};
use crate::spec::Values;

pub(super) const KIND: Kind =
    Kind { name: "round-robin", summary: "expert e on device e modulo their number", parameters: &[], make };

fn make(_: &Values, setup: &Setup<'_>) -> Vec<Homes> {
    let layer = single((0..setup.trace.shape.experts).map(|expert| (expert % setup.devices) as u8).collect());
    vec![layer; setup.trace.shape.layers]
}
