//! Residents run on the GPU, the most wanted first, as long as that costs little time; the others near the data.

use super::{Division, Kind, Layer, Make, SLACK, Site, by_demand, in_place, slack_at};
use crate::strategy::Values;
use cptr_hw_model::ExpertRun;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[SLACK],
    times: true,
    ..Kind::new(
        "slack",
        "residents on the GPU as long as the layer takes at most 1 + slack of the least time, the others near the data",
        Make(make),
    )
};

struct Slack {
    slack: f64,
    order: Vec<u16>,
    /// Times of the layer, from all residents on the GPU to none.
    times: Vec<f64>,
}

fn make(values: &Values, near_bits: u8) -> Box<dyn Division> {
    Box::new(Slack { slack: slack_at(values.get("slack"), near_bits), order: Vec::new(), times: Vec::new() })
}

impl Division for Slack {
    /// Tries every division: one pass over the choices.
    fn divide(&mut self, layer: &Layer<'_>, sites: &mut [Site]) {
        in_place(layer, sites);
        let Some(times) = layer.times else { return };
        let run = |bits: u8, at: usize| ExpertRun { bits: f64::from(bits), tokens: layer.choices[at].tokens };
        let near_ps = |at: usize| times.near_run_ps(run(layer.near_bits[at], at));
        let gpu_ps = |at: usize| times.gpu_run_ps(run(layer.gpu_bits[at], at));
        by_demand(layer.choices, &mut self.order);
        self.order.retain(|&at| sites[usize::from(at)] == Site::Gpu);
        let mut near: f64 = (0..sites.len()).filter(|&at| sites[at] == Site::Near).map(near_ps).sum();
        let mut gpu: f64 = self.order.iter().map(|&at| gpu_ps(at.into())).sum();
        self.times.clear();
        self.times.push(times.estimate_ps(layer.sequences, gpu, near));
        for &at in self.order.iter().rev() {
            gpu -= gpu_ps(at.into());
            near += near_ps(at.into());
            self.times.push(times.estimate_ps(layer.sequences, gpu, near));
        }
        let fastest = self.times.iter().copied().fold(f64::INFINITY, f64::min);
        let moved = self.times.iter().position(|&time| time <= fastest * (1.0 + self.slack)).unwrap_or(0);
        for &at in self.order.iter().rev().take(moved) {
            sites[usize::from(at)] = Site::Near;
        }
    }

    fn loads_beside(&self) -> bool {
        true
    }
}
