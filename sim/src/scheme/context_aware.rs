//! Placed once by the prefill, cold experts near the data at few bits: the system of arXiv 2512.04476 (Algorithm 1).
//!
//! After prefill the most important experts of each layer move to GPU memory and stay; the others run where they lie. With the bit
//! selector each cold expert has its own number of bits, the average being that of the run; without it all have the same.

use cptr_core::Gate;
use cptr_core::bits::{Losses, scratch_for, split};

use super::dispatch::{ALPHA, Dispatch, Ranking};
use super::{Execution, Kind, Scheme, Setup, Step};
use crate::error::{Error, Result};
use crate::placement::Resident;
use crate::spec::{Parameter, Values};
use crate::trace::Knowledge;

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
        true => selected(setup, &ranking, layer),
        false => Ok(vec![setup.bits; setup.trace.shape.experts]),
    };
    let bits = (0..setup.trace.shape.layers).map(layer).collect::<Result<_>>()?;
    // Where an expert lies, it runs.
    let dispatch = Dispatch { costs: setup.costs, slack: f64::INFINITY };
    Ok(Box::new(ContextAware { dispatch, hot: ranking.hot(setup.hot), bits }))
}

/// Bits of every expert of a layer; hot ones have the average, should they ever be cold.
fn selected(setup: &Setup<'_>, ranking: &Ranking, layer: usize) -> Result<Vec<u8>> {
    let mut bits = vec![setup.bits; setup.trace.shape.experts];
    let cold = &ranking.order[layer][setup.hot.min(bits.len())..];
    let losses: Vec<Losses> = cold.iter().map(|&expert| losses(setup, ranking, layer, expert)).collect();
    let mut scratch = vec![0; scratch_for(cold.len())];
    let increments = cold.len() as u32 * u32::from(setup.bits - 1);
    let split = split(&losses, increments, &mut scratch)
        .map_err(|error| Error::new(error.to_string()).at(format!("layer {layer}")))?;
    for (rank, &expert) in cold.iter().enumerate() {
        bits[usize::from(expert)] = split.bits(rank).unwrap_or(setup.bits);
    }
    Ok(bits)
}

/// The measured losses, or without them what quantisation noise costs on average: a quarter for each bit more, as often as the expert is wanted.
fn losses(setup: &Setup<'_>, ranking: &Ranking, layer: usize, expert: u16) -> Losses {
    match setup.losses {
        Some(losses) => losses[layer][usize::from(expert)],
        None => {
            let importance: Gate = ranking.importance[layer][usize::from(expert)];
            [0, 2, 4, 6].map(|shift| (importance.to_bits() >> (1 + shift)) as i32)
        }
    }
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
