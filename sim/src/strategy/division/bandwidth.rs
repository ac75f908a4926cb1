//! MoNDE (DAC'24): the most wanted experts run on the GPU, after a copy if they are not there (parameter movement), the
//! others near the data (activation movement).
//!
//! How many follows from the bandwidths of the two ways, as DynaNDE describes the rule: what is not in GPU memory is
//! divided in the ratio of copies over the link to reads of the device's memory; what is there runs there. The paper's
//! formula is not published; `hot` gives the number instead, residents or not.

use super::{Division, Kind, Layer, Make, Site, by_demand, in_place};
use crate::strategy::{Parameter, Unit, Values};
use cptr_hw_model::ExpertRun;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter::new(
        "hot",
        -1.0,
        Unit::CountOrAuto(0, 1024),
        "experts of a step and layer that run on the GPU; auto: residents, and a share of the others by the ratio of bandwidths",
    )],
    times: true,
    ..Kind::new(
        "bandwidth",
        "the most wanted on the GPU, in the ratio of bandwidths; the others near the data",
        Make(make),
    )
};

struct Bandwidth {
    /// `None`: by the ratio of bandwidths.
    hot: Option<usize>,
    order: Vec<u16>,
}

fn make(values: &Values, _: u8) -> Box<dyn Division> {
    Box::new(Bandwidth { hot: values.count_or_auto("hot"), order: Vec::new() })
}

impl Division for Bandwidth {
    fn divide(&mut self, layer: &Layer<'_>, sites: &mut [Site]) {
        by_demand(layer.choices, &mut self.order);
        let hot = if let Some(hot) = self.hot {
            sites.fill(Site::Near);
            hot
        } else {
            in_place(layer, sites);
            self.order.retain(|&at| sites[usize::from(at)] == Site::Near);
            let Some(&first) = self.order.first() else { return };
            let bits = |of: &[u8]| f64::from(of[usize::from(first)]);
            let near = |times: &cptr_hw_model::LayerTimes<'_>| {
                times.near_run_ps(ExpertRun { bits: bits(layer.near_bits), tokens: 1 })
            };
            let share =
                layer.times.map_or(0.0, |times| near(times) / (near(times) + times.copy_ps(bits(layer.gpu_bits))));
            (self.order.len() as f64 * share).round() as usize
        };
        for &at in self.order.iter().take(hot) {
            sites[usize::from(at)] = Site::Gpu;
        }
    }
}
