//! Placed once by the prefill, cold experts near the data at few bits: the system of arXiv 2512.04476 (Algorithm 1).
//!
//! After prefill the most important experts of each layer move to GPU memory and stay; the others run where they lie. With the bit
//! selector each cold expert has its own number of bits, the average being that of the run; without it all have the same.

use cptr_core::Gate;
use cptr_core::bits::MAX_BITS;

use super::dispatch::{ALPHA, Dispatch, Ranking};
use super::selector::{self, USUAL};
use super::{Execution, Kind, Scheme, Setup, Step};
use crate::placement::Resident;
use crate::spec::{Parameter, Values};
use cptr_trace::Knowledge;
use cptr_trace::error::Result;

pub(super) const KIND: Kind = Kind {
    name: "ctx-aware",
    summary: "placed once after prefill; cold experts near the data at few bits",
    parameters: &[
        Parameter {
            name: "selector",
            default: 1.0,
            range: (0.0, 1.0),
            summary: "1: bits for each cold expert by loss; 0: the same for all",
        },
        Parameter {
            name: "noise",
            default: 0.0,
            range: (0.0, 3.0),
            summary: "error of the losses that the selector sees: standard deviation of their logarithm, each expert its own",
        },
        ALPHA,
    ],
    needs: Knowledge::Ids,
    oracle: false,
    make,
};

struct ContextAware<'a> {
    dispatch: Dispatch<'a>,
    hot: Vec<Resident>,
    /// Bits of every expert near the data, `[L][E]`.
    bits: Vec<Vec<u8>>,
}

fn make<'a>(values: &Values, setup: &Setup<'a>) -> Result<Box<dyn Scheme + 'a>> {
    let ranking = Ranking::of_prefill(setup, values.get("alpha"));
    let selects = values.get("selector") > 0.5 && (1..=4).contains(&setup.bits);
    let layer = |layer: usize| match selects {
        true => selected(setup, &ranking, layer, values.get("noise")),
        false => Ok(vec![setup.bits; setup.trace.shape.experts]),
    };
    let bits = (0..setup.trace.shape.layers).map(layer).collect::<Result<_>>()?;
    Ok(Box::new(ContextAware { dispatch: Dispatch::in_place(setup), hot: ranking.hot(setup.hot), bits }))
}

/// Bits of every expert of a layer; hot ones have the average, should they ever be cold.
fn selected(setup: &Setup<'_>, ranking: &Ranking, layer: usize, noise: f64) -> Result<Vec<u8>> {
    let mut bits = vec![setup.bits; setup.trace.shape.experts];
    let cold = &ranking.order[layer][setup.hot.min(bits.len())..];
    let losses = losses(setup, &ranking.importance[layer], layer, cold, noise);
    let split = selector::split(&losses, setup.bits).map_err(|error| error.at(format!("layer {layer}")))?;
    for (rank, &expert) in cold.iter().enumerate() {
        bits[usize::from(expert)] = split.bits(rank).unwrap_or(setup.bits);
    }
    Ok(bits)
}

/// What the experts of a layer lose at 1 to 4 bits, each as often as it is wanted. `noise` is as the parameter says.
fn losses(setup: &Setup<'_>, importance: &[Gate], layer: usize, cold: &[u16], noise: f64) -> Vec<[f64; MAX_BITS]> {
    let mut random = fastrand::Rng::with_seed(layer as u64);
    // Twelve uniform numbers add up to nearly a normal one.
    let mut normal = || (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
    let weighted = |&expert: &u16| {
        let usual = |bits: usize| {
            setup.losses.map_or(Some(USUAL[bits]), |table| table.get(layer, usize::from(expert), bits as u8 + 1))
        };
        let weight = f64::from(importance[usize::from(expert)]) * (noise * normal()).exp();
        std::array::from_fn(|bits| usual(bits).unwrap_or(0.0) * weight)
    };
    cold.iter().map(weighted).collect()
}

impl Scheme for ContextAware<'_> {
    fn place(&mut self) -> Vec<Resident> {
        std::mem::take(&mut self.hot)
    }

    fn dispatch(&mut self, step: &Step<'_>, resident: &mut Resident, executions: &mut Vec<Execution>) {
        let bits = &self.bits[step.layer];
        self.dispatch.decide(step.choices, resident, |expert| bits[usize::from(expert)], executions);
    }
}
