//! The same bits for all experts near the data, or for all experts.

use super::{Choice, Kind, Make, Parameter, Precision, Setup, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("bits", 4.0, Unit::Bits(1, 16), "bits per weight near the data"),
        Parameter::new("everywhere", 0.0, Unit::Switch, "those bits on the GPU too").off_at(0.0),
    ],
    ..Kind::new("uniform", "the same bits for all experts near the data", Make(make))
};

struct Uniform {
    gpu: u8,
    near: u8,
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Precision> {
    let near = (values.count("bits") as u8).min(setup.full_bits);
    Box::new(Uniform { gpu: if values.on("everywhere") { near } else { setup.full_bits }, near })
}

impl Precision for Uniform {
    fn on_gpu(&mut self, choices: &[Choice], bits: &mut Vec<u8>) {
        bits.resize(choices.len(), self.gpu);
    }

    fn near(&self, _: usize, _: u16) -> u8 {
        self.near
    }

    fn near_bits(&self) -> u8 {
        self.near
    }

    fn load_bits(&self) -> u8 {
        self.gpu
    }
}
