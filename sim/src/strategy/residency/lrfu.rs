//! Between recency and frequency (Lee et al., IEEE Transactions on Computers 2001): every use counts, and counts for
//! less with time.

use cptr_core::placement::Demand;

use super::{Kind, Make, Residency, Setup, least};
use crate::memory::Resident;
use crate::strategy::{Parameter, Served, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter::new(
        "gain",
        1.0 / 32.0,
        Unit::Gain(0.99),
        "share of its weight that a use loses with each token",
    )],
    ..Kind::new("lrfu", "on demand; the expert goes whose uses, fading with time, weigh least", Make(make))
};

struct Lrfu {
    /// Loss of the logarithm of a weight with each step.
    fading: f64,
    /// Logarithm of each expert's weight plus what it would have lost since the first step: it only changes with a use.
    layers: Vec<Vec<f64>>,
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    let fading = -(1.0 - values.get("gain")).ln();
    Box::new(Lrfu { fading, layers: vec![vec![f64::NEG_INFINITY; setup.experts]; setup.layers] })
}

impl Residency for Lrfu {
    fn on_demand(&self) -> bool {
        true
    }

    fn victim(&mut self, layer: usize, free: &Resident) -> Option<u16> {
        let weights = &self.layers[layer];
        least(free, |expert| weights[expert])
    }

    fn observe(&mut self, served: &Served<'_>) {
        let now = served.step as f64 * self.fading;
        let weights = &mut self.layers[served.layer];
        for (choice, _) in served.choices.iter().zip(served.used).filter(|(_, used)| **used) {
            let weight = &mut weights[usize::from(choice.expert)];
            *weight = ((*weight - now).exp() + f64::from(choice.tokens)).ln() + now;
        }
    }

    fn worth(&mut self, layer: usize, _: &[Demand], order: &mut Vec<u16>) {
        let weights = &self.layers[layer];
        order.clear();
        order.extend(0..weights.len() as u16);
        order.sort_by(|&a, &b| weights[usize::from(b)].total_cmp(&weights[usize::from(a)]));
    }
}
