//! The most wanted experts lie on every device, and what overflows one runs on the least loaded: LLEP (arXiv
//! 2601.17111).
//!
//! Its authors move an overflowing expert's weights when they are needed. Over a CXL link that takes a hundred times as
//! long as running the expert, so replicas are made before decoding and paid for in memory.

use super::{Homes, Kind, Make, Setup, balanced};
use crate::strategy::{Parameter, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter::new("replicated", 0.25, Unit::Share, "share of the experts that lie on every device")],
    ..Kind::new(
        "overflow",
        "dealt out by count, and the most wanted on every device: each run goes to the least loaded",
        Make(make),
    )
};

fn make(values: &Values, setup: &Setup<'_>) -> Vec<Homes> {
    let replicated = (values.get("replicated") * setup.trace.shape.experts as f64).round() as usize;
    let layer = |layer: usize| {
        let counts = setup.counts(layer);
        let devices = balanced::dealt(&counts, setup);
        let mut homes: Homes = devices.into_iter().map(|device| vec![device]).collect();
        let mut order: Vec<usize> = (0..counts.len()).collect();
        order.sort_by_key(|&expert| std::cmp::Reverse(counts[expert]));
        for &expert in &order[..replicated] {
            homes[expert] = (0..setup.devices as u8).collect();
        }
        homes
    };
    (0..setup.trace.shape.layers).map(layer).collect()
}
