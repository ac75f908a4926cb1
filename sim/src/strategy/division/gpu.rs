//! All on the GPU; what is missing is copied first: offloading as engines without a near-data device do it.

use super::{Division, Kind, Layer, Make, Site};

pub(super) const KIND: Kind<Make> =
    Kind::new("gpu", "all on the GPU; missing experts are copied first", Make(|_, _| Box::new(Gpu)));

struct Gpu;

impl Division for Gpu {
    fn divide(&mut self, _: &Layer<'_>, _: &mut [Site]) {}
}
