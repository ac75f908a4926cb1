//! Placed once: after the first tokens the experts that they wanted most stay for good (the single migration of arXiv 2512.04476).

use super::{Kind, Layer, Placement, Resident, Served};
use crate::spec::{Parameter, Values};

pub(super) const KIND: Kind = Kind {
    name: "pinned",
    summary: "the experts that the first tokens wanted most stay for good",
    parameters: &[Parameter {
        name: "tokens",
        default: 512.0,
        range: (1.0, 1e9),
        summary: "tokens that are watched before the one migration; nothing is resident until then",
    }],
    oracle: false,
    make,
};

struct Pinned {
    tokens: usize,
    capacity: usize,
    counts: Vec<u32>,
}

fn make<'a>(values: &Values, layer: Layer<'a>) -> Box<dyn Placement + 'a> {
    Box::new(Pinned { tokens: values.get("tokens") as usize, capacity: layer.capacity, counts: vec![0; layer.experts] })
}

impl Placement for Pinned {
    fn serve(&mut self, token: &Served<'_>, resident: &mut Resident) -> u32 {
        if token.index >= self.tokens {
            return 0;
        }
        for &expert in token.wanted {
            self.counts[usize::from(expert)] += 1;
        }
        if token.index + 1 < self.tokens {
            return 0;
        }
        let mut order: Vec<u16> = (0..self.counts.len() as u16).collect();
        order.sort_by_key(|&expert| std::cmp::Reverse(self.counts[usize::from(expert)]));
        order.iter().take(self.capacity).filter(|&&expert| resident.insert(expert)).count() as u32
    }
}
