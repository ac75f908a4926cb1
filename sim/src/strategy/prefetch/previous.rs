//! What the token before ran in the next layer will be wanted there again.

use super::{Kind, Make, Next, Prefetch, Setup};
use crate::strategy::{Parameter, Served, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter { default: 4.0, ..super::MOST }],
    couples_layers: true,
    ..Kind::new("previous", "what the token before ran in the next layer", Make(make))
};

struct Previous {
    most: usize,
    /// What the last step ran in each layer.
    layers: Vec<Vec<u16>>,
}

fn make(values: &Values, setup: &Setup) -> Box<dyn Prefetch> {
    Box::new(Previous { most: values.count("most"), layers: vec![Vec::new(); setup.layers] })
}

impl Prefetch for Previous {
    fn ask(&mut self, served: &Served<'_>, next: Next<'_>, asks: &mut Vec<u16>) {
        let ran = &mut self.layers[served.layer];
        ran.clear();
        ran.extend(served.choices.iter().map(|choice| choice.expert));
        asks.extend_from_slice(&self.layers[next.layer]);
    }

    fn most(&self) -> usize {
        self.most
    }
}
