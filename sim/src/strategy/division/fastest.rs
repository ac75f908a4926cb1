//! The best division of each layer by trying all of them (DynaNDE's rule, arXiv 2609.00407): the n most wanted experts
//! on the GPU, copied first if they are not there, the others near the data; n from 0 to all, the one whose slower side
//! is fastest.

use super::{Division, Kind, Layer, Make, SLACK, Site, by_demand, slack_at};
use crate::strategy::{Parameter, Values};
use cptr_hw_model::ExpertRun;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter { default: 0.0, ..SLACK }],
    times: true,
    ..Kind::new("fastest", "divided in the fastest way, experts copied for it included", Make(make))
};

struct Fastest {
    slack: f64,
    order: Vec<u16>,
    times: Vec<f64>,
}

fn make(values: &Values, near_bits: u8) -> Box<dyn Division> {
    Box::new(Fastest { slack: slack_at(values.get("slack"), near_bits), order: Vec::new(), times: Vec::new() })
}

impl Division for Fastest {
    fn divide(&mut self, layer: &Layer<'_>, sites: &mut [Site]) {
        let Some(times) = layer.times else { return };
        by_demand(layer.choices, &mut self.order);
        // What is there goes first; of the others the more wanted one: a stable sort.
        self.order.sort_by_key(|&at| !layer.resident.contains(layer.choices[usize::from(at)].expert));
        let run = |bits: u8, at: usize| ExpertRun { bits: f64::from(bits), tokens: layer.choices[at].tokens };
        let near_ps = |at: usize| times.near_run_ps(run(layer.near_bits[at], at));
        let mut near: f64 = (0..sites.len()).map(near_ps).sum();
        let (mut gpu, mut copies) = (0.0, 0.0);
        self.times.clear();
        self.times.push(times.estimate_ps(layer.sequences, gpu, near));
        for &at in &self.order {
            let at = usize::from(at);
            near -= near_ps(at);
            gpu += times.gpu_run_ps(run(layer.gpu_bits[at], at));
            if !layer.resident.contains(layer.choices[at].expert) {
                copies += times.copy_ps(layer.gpu_bits[at].into());
            }
            self.times.push(times.estimate_ps(layer.sequences, f64::max(gpu, copies), near));
        }
        let fastest = self.times.iter().copied().fold(f64::INFINITY, f64::min);
        let good = |time: &f64| *time <= fastest * (1.0 + self.slack);
        // As many on the GPU as the slack allows; without slack the fewest of equally fast ones, as copies are traffic.
        let found = if self.slack > 0.0 { self.times.iter().rposition(good) } else { self.times.iter().position(good) };
        sites.fill(Site::Near);
        for &at in self.order.iter().take(found.unwrap_or(0)) {
            sites[usize::from(at)] = Site::Gpu;
        }
    }
}
