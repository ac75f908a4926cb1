//! Where an expert lies, it runs.

use super::{Division, Kind, Layer, Make, Site, in_place};

pub(super) const KIND: Kind<Make> = Kind {
    device: true,
    ..Kind::new("in-place", "residents on the GPU, the others near the data", Make(|_, _| Box::new(InPlace)))
};

struct InPlace;

impl Division for InPlace {
    fn divide(&mut self, layer: &Layer<'_>, sites: &mut [Site]) {
        in_place(layer, sites);
    }

    fn loads_beside(&self) -> bool {
        true
    }
}
