//! Full precision.

use super::{Choice, Kind, Make, Precision};

pub(super) const KIND: Kind<Make> =
    Kind::new("full", "full precision, near the data too", Make(|_, setup| Box::new(Full { bits: setup.full_bits })));

struct Full {
    bits: u8,
}

impl Precision for Full {
    fn on_gpu(&mut self, choices: &[Choice], bits: &mut Vec<u8>) {
        bits.resize(choices.len(), self.bits);
    }

    fn near(&self, _: usize, _: u16) -> u8 {
        self.bits
    }

    fn near_bits(&self) -> u8 {
        self.bits
    }

    fn load_bits(&self) -> u8 {
        self.bits
    }
}
