//! All near the data.

use super::{Division, Kind, Layer, Make, Site};

pub(super) const KIND: Kind<Make> =
    Kind { device: true, ..Kind::new("near", "all near the data", Make(|_, _| Box::new(Near))) };

struct Near;

impl Division for Near {
    fn divide(&mut self, _: &Layer<'_>, sites: &mut [Site]) {
        sites.fill(Site::Near);
    }
}
