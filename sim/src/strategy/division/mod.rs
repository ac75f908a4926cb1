//! Which of a layer's experts run on the GPU, and which near the data.
//!
//! ```
//! let kinds = cptr_sim::strategy::division::KINDS;
//! assert!(kinds.iter().any(|kind| kind.name == "in-place" && kind.device));
//! ```

mod bandwidth;
mod fastest;
mod gpu;
mod in_place;
mod near;
mod slack;

use super::{Kind, Layer, Parameter, Site, Unit, Values, by_demand};

/// Every kind, in the order of tables.
pub const KINDS: &[&Kind<Make>] =
    &[&gpu::KIND, &in_place::KIND, &slack::KIND, &bandwidth::KIND, &fastest::KIND, &near::KIND];

/// Makes its state; the number is that of bits near the data, on average.
#[derive(Debug, Clone, Copy)]
pub struct Make(pub(crate) fn(&Values, u8) -> Box<dyn Division>);

/// Divides a layer.
pub(crate) trait Division: Send {
    /// Says where each of the layer's choices runs: `sites` has one for each, and is [`Site::Gpu`] throughout.
    fn divide(&mut self, layer: &Layer<'_>, sites: &mut [Site]);

    /// Whether an expert that runs near the data may be loaded beside that.
    fn loads_beside(&self) -> bool {
        false
    }
}

/// Time that may be given up for precision.
const SLACK: Parameter = Parameter::new(
    "slack",
    0.15,
    Unit::Factor(0.0, 1000.0),
    "share of a layer's least possible time that it may take longer, with cold experts at 2 bits, for more experts on the GPU; half of it \
     for each bit more",
)
.off_at(0.0);

/// Precision is worth less where less is lost without it: the error of quantisation, and with it the time that is given
/// up, halves with each bit.
fn slack_at(slack: f64, near_bits: u8) -> f64 {
    slack * 2.0_f64.powi(2 - i32::from(near_bits))
}

/// Sends to the device what is not in fast memory.
fn in_place(layer: &Layer<'_>, sites: &mut [Site]) {
    for (site, choice) in sites.iter_mut().zip(layer.choices) {
        *site = if layer.resident.contains(choice.expert) { Site::Gpu } else { Site::Near };
    }
}
