//! Knows what the next layer will want, each expert with a given accuracy: in place of the trained or stacked gates of
//! rivals, which a recording of choices cannot run. It sees the future.

use super::{Kind, Make, Next, Prefetch, Setup};
use crate::strategy::{Parameter, Served, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("accuracy", 0.9, Unit::Share, "share of the experts named that will be wanted"),
        Parameter { default: 8.0, ..super::MOST },
    ],
    sees_future: true,
    couples_layers: true,
    ..Kind::new("perfect", "what the next layer will want, each expert with a given accuracy", Make(make))
};

struct Perfect {
    accuracy: f64,
    most: usize,
    experts: u64,
    sequences: usize,
}

fn make(values: &Values, setup: &Setup) -> Box<dyn Prefetch> {
    Box::new(Perfect {
        accuracy: values.get("accuracy"),
        most: values.count("most"),
        experts: setup.experts as u64,
        sequences: setup.sequences,
    })
}

/// A number that depends on nothing but the place (Steele's SplitMix64).
fn mixed(place: u64) -> u64 {
    let mut z = place.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl Prefetch for Perfect {
    fn ask(&mut self, _: &Served<'_>, next: Next<'_>, asks: &mut Vec<u16>) {
        let Some(future) = next.future else { return };
        for sequence in 0..self.sequences {
            for (rank, &expert) in future.wanted(next.step, sequence, next.layer).iter().enumerate() {
                let place = ((next.step * 4096 + next.layer) * 4096 + sequence) * 64 + rank;
                let draw = mixed(place as u64);
                let right = ((draw >> 11) as f64) < self.accuracy * (1u64 << 53) as f64;
                let named = if right { expert } else { (mixed(draw) % self.experts) as u16 };
                if !asks.contains(&named) {
                    asks.push(named);
                }
            }
        }
    }

    fn most(&self) -> usize {
        self.most
    }
}
