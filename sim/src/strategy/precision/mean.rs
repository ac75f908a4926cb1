//! The bit selector: each expert near the data at its own number of bits, the average being given (arXiv 2512.04476,
//! Algorithm 1).
//!
//! What an expert loses at few bits counts as often as the prompt wanted it, without a prompt as often as the
//! calibration of the table did; without a table of measured losses all experts lose what is usual.

use cptr_core::Gate;
use cptr_core::bits::MAX_BITS;
use cptr_trace::LossTable;
use cptr_trace::error::Result;

use super::{Choice, Kind, Make, Parameter, Precision, Setup, USUAL, Unit, Values, losses_of, split};
use crate::memory::Resident;
use crate::strategy::residency::Ranking;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("bits", 3.0, Unit::Bits(1, 4), "bits per weight near the data, on average"),
        Parameter::new(
            "noise",
            0.0,
            Unit::Factor(0.0, 3.0),
            "error of the losses that it sees: standard deviation of their logarithm, each expert its own",
        ),
    ],
    ..Kind::new("mean", "bits of each expert near the data by what it loses, the average being given", Make(make))
};

struct Mean {
    average: u8,
    noise: f64,
    full: u8,
    losses: Option<LossTable>,
    /// Bits of every expert near the data, `[L][E]`.
    bits: Vec<Vec<u8>>,
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Precision> {
    let average = (values.count("bits") as u8).min(setup.full_bits);
    Box::new(Mean {
        average,
        noise: values.get("noise"),
        full: setup.full_bits,
        losses: setup.losses.cloned(),
        bits: vec![vec![average; setup.experts]; setup.layers],
    })
}

impl Mean {
    /// What cold experts lose at 1 to 4 bits, each as often as it is wanted.
    fn losses(&self, layer: usize, importance: &[Gate], cold: &[u16]) -> Vec<[f64; MAX_BITS]> {
        let mut random = fastrand::Rng::with_seed(layer as u64);
        // Twelve uniform numbers add up to nearly a normal one.
        let mut normal = || (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
        let weighted = |&expert: &u16| {
            let expert = usize::from(expert);
            let losses = self.losses.as_ref().map_or(USUAL, |table| losses_of(table, layer, expert));
            let usage = || self.losses.as_ref().map_or(1.0, |table| table.usage(layer, expert));
            let importance = importance.get(expert).map_or_else(usage, |&importance| f64::from(importance));
            let weight = importance * (self.noise * normal()).exp();
            losses.map(|loss| loss * weight)
        };
        cold.iter().map(weighted).collect()
    }
}

impl Precision for Mean {
    fn on_gpu(&mut self, choices: &[Choice], bits: &mut Vec<u8>) {
        bits.resize(choices.len(), self.full);
    }

    fn near(&self, layer: usize, expert: u16) -> u8 {
        self.bits[layer][usize::from(expert)]
    }

    fn near_bits(&self) -> u8 {
        self.average
    }

    fn load_bits(&self) -> u8 {
        self.full
    }

    /// Hot experts have the average, should they ever be cold.
    fn placed(&mut self, layer: usize, ranking: &Ranking, resident: &Resident) -> Result<()> {
        let mut cold: Vec<u16> = ranking.order.iter().copied().filter(|&expert| !resident.contains(expert)).collect();
        let mut losses = self.losses(layer, &ranking.importance, &cold);
        if ranking.importance.is_empty() {
            // No prompt has ranked them: those come first that gain most by more bits.
            let gain = |losses: &[f64; MAX_BITS]| losses[0] - losses[MAX_BITS - 1];
            let mut ranked: Vec<(u16, [f64; MAX_BITS])> = cold.into_iter().zip(losses).collect();
            ranked.sort_by(|(_, a), (_, b)| gain(b).total_cmp(&gain(a)));
            (cold, losses) = ranked.into_iter().unzip();
        }
        let split = split(&losses, self.average).map_err(|error| error.at(format!("layer {layer}")))?;
        let bits = &mut self.bits[layer];
        bits.fill(self.average);
        for (rank, &expert) in cold.iter().enumerate() {
            bits[usize::from(expert)] = split.bits(rank).unwrap_or(self.average);
        }
        Ok(())
    }

    fn ranks(&self) -> bool {
        true
    }
}
