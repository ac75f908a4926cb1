//! One MoE layer: every expert at every number of bits, and what that costs.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::calibration::{Calibration, LayerTokens};
use super::hessian::Hessian;
use super::hexadecimal;
use super::matrix::{Format, Inputs, Weights, dequantise, gptq, round_to_nearest};
use crate::error::Result;
use crate::{Expert, Model};

/// How weights become codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Method {
    /// Errors made up for by the weights that are still to come (arXiv 2210.17323); needs calibration.
    Gptq,
    /// Round-to-nearest.
    Rtn,
}

/// Fewer calibration tokens than this are called few.
pub(super) const FEW: usize = 32;
/// Tokens of the whole layer that stand in where an expert has few of its own, and how much they weigh in all, in
/// tokens.
const SHARED: usize = 512;
const SHARED_WEIGHT: f64 = 32.0;

/// What one expert lost, and on what that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpertRecord {
    /// Calibration tokens that chose the expert, held-out ones apart.
    pub tokens: usize,
    /// Held-out tokens that chose it; where there were none the losses are of all held-out tokens of the layer.
    pub held_out: usize,
    /// Per number of bits.
    pub losses: Vec<Loss>,
    /// Per number of bits the digest of the packed matrices, to which they are held when they are read; none in folders
    /// that earlier versions wrote.
    #[serde(default)]
    pub digests: Vec<String>,
}

/// Error of an expert's output over held-out tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Mean squared error of an output value.
    pub mse: f64,
    /// The same by the mean square of the output values.
    pub relative: f64,
    /// Mean squared error of round-to-nearest, for comparison.
    pub rtn_mse: f64,
}

/// Packed gate, up and down.
pub type Packed = [Vec<u8>; 3];

/// Quantises the experts of one layer; the result is per expert, then per number of bits.
///
/// GPTQ's Hessian of an expert is that of the tokens that chose it, and of up to 512 tokens of the whole layer that
/// weigh as much as 32 of its own: so an expert that saw few tokens or none falls back on what the layer sees. Gate and
/// up are quantised first; down then sees what the quantised ones give. The losses are those of the dequantised weights
/// with activations in f32.
///
/// # Errors
/// If an expert cannot be read or has weights that are not finite.
pub(super) fn quantise_layer(
    model: &Model,
    calibration: &Calibration,
    layer: usize,
    (formats, method): (&[Format], Method),
    done: &(dyn Fn() + Sync),
) -> Result<Vec<(ExpertRecord, Vec<Packed>)>> {
    let tokens = Tokens { layer: &calibration.layers[layer], held_out: &calibration.held_out, model };
    let shared = tokens.shared();
    let experts = 0..model.config.experts;
    let run = |expert: usize| -> Result<_> {
        let result = Work { model, layer, expert, tokens: &tokens, shared: &shared, method }
            .run(formats)
            .map_err(|error| error.at(format!("layer {layer}, expert {expert}")));
        done();
        result
    };
    experts.into_par_iter().map(run).collect()
}

/// The tokens of a layer by expert.
struct Tokens<'a> {
    layer: &'a LayerTokens,
    held_out: &'a [bool],
    model: &'a Model,
}

impl Tokens<'_> {
    /// Inputs `[N, D]` of tokens.
    fn inputs(&self, tokens: impl Iterator<Item = usize>) -> Vec<f32> {
        let hidden = self.model.config.hidden;
        tokens.flat_map(|token| &self.layer.inputs[token * hidden..(token + 1) * hidden]).copied().collect()
    }

    fn all(&self, held_out: bool) -> impl Iterator<Item = usize> {
        self.held_out.iter().enumerate().filter(move |(_, held)| **held == held_out).map(|(token, _)| token)
    }

    fn of_expert(&self, expert: usize, held_out: bool) -> Vec<f32> {
        let k = self.model.config.k;
        let chose =
            |token: &usize| self.layer.chosen[token * k..(token + 1) * k].iter().any(|&e| usize::from(e) == expert);
        self.inputs(self.all(held_out).filter(chose))
    }

    /// Some tokens of the whole layer, evenly spaced, none of them held out.
    fn shared(&self) -> Vec<f32> {
        let step = self.all(false).count().div_ceil(SHARED).max(1);
        self.inputs(self.all(false).step_by(step))
    }
}

/// One expert to be quantised.
struct Work<'a> {
    model: &'a Model,
    layer: usize,
    expert: usize,
    tokens: &'a Tokens<'a>,
    shared: &'a [f32],
    method: Method,
}

impl Work<'_> {
    fn run(&self, formats: &[Format]) -> Result<(ExpertRecord, Vec<Packed>)> {
        let hidden = self.model.config.hidden;
        let exact = self.model.expert(self.layer, self.expert)?;
        let own = self.tokens.of_expert(self.expert, false);
        let mut judged = self.tokens.of_expert(self.expert, true);
        let held_out = judged.len() / hidden;
        if held_out == 0 {
            judged = self.tokens.inputs(self.tokens.all(true));
        }
        let expected = self.outputs(&exact, &judged)?.1;
        let inputs = match self.method {
            Method::Gptq => Some(Inputs::new(self.hessian(hidden, &own, self.shared))?),
            Method::Rtn => None,
        };
        let mut record = ExpertRecord { tokens: own.len() / hidden, held_out, losses: Vec::new(), digests: Vec::new() };
        let mut all = Vec::new();
        for &format in formats {
            let rtn = self.round(&exact, format)?;
            let (rtn_mse, _) = self.loss(&rtn, &judged, &expected)?;
            let packed = match &inputs {
                Some(inputs) => self.gptq(&exact, format, inputs, &own)?,
                None => rtn,
            };
            let (mse, relative) = self.loss(&packed, &judged, &expected)?;
            record.losses.push(Loss { mse, relative, rtn_mse });
            record.digests.push(digest(&packed));
            all.push(packed);
        }
        Ok((record, all))
    }

    /// What goes into the down matrix, and the output, of some matrices in the place of the expert.
    fn outputs(&self, expert: &Expert, inputs: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        self.model.run_expert(self.layer, self.expert, expert, inputs)
    }

    fn hessian(&self, columns: usize, own: &[f32], shared: &[f32]) -> Hessian {
        let mut hessian = Hessian::new(columns);
        hessian.add(own, (own.len() / columns) as f64);
        hessian.add(shared, SHARED_WEIGHT);
        hessian
    }

    fn round(&self, exact: &Expert, format: Format) -> Result<Packed> {
        let (hidden, inner) = (self.model.config.hidden, self.model.config.expert_inner);
        let round = |values: Vec<f32>, columns| round_to_nearest(Weights { values: &values, columns }, format);
        Ok([round(exact.gate(), hidden)?, round(exact.up(), hidden)?, round(exact.down(), inner)?])
    }

    fn gptq(&self, exact: &Expert, format: Format, inputs: &Inputs, own: &[f32]) -> Result<Packed> {
        let (hidden, inner) = (self.model.config.hidden, self.model.config.expert_inner);
        let gate = gptq(Weights { values: &exact.gate(), columns: hidden }, format, inputs)?;
        let up = gptq(Weights { values: &exact.up(), columns: hidden }, format, inputs)?;
        let down = exact.down();
        let halfway = Expert::new(hidden, &dequantise(&gate)?, &dequantise(&up)?, &down)?;
        let (own, shared) = (self.outputs(&halfway, own)?.0, self.outputs(&halfway, self.shared)?.0);
        let inputs = Inputs::new(self.hessian(inner, &own, &shared))?;
        Ok([gate, up, gptq(Weights { values: &down, columns: inner }, format, &inputs)?])
    }

    /// Mean squared error, absolute and relative.
    fn loss(&self, packed: &Packed, inputs: &[f32], expected: &[f32]) -> Result<(f64, f64)> {
        let found = self.outputs(&expert_of(self.model.config.hidden, packed)?, inputs)?.1;
        let pairs = expected.iter().zip(&found);
        let error: f64 = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        let size: f64 = expected.iter().map(|a| f64::from(*a).powi(2)).sum();
        Ok((error / expected.len().max(1) as f64, if size > 0.0 { error / size } else { 0.0 }))
    }
}

/// Of packed matrices, their lengths included.
pub(super) fn digest(packed: &Packed) -> String {
    let mut digest = Sha256::new();
    for matrix in packed {
        digest.update((matrix.len() as u64).to_le_bytes());
        digest.update(matrix);
    }
    hexadecimal(&digest.finalize())
}

/// Packed matrices as an expert in f32.
///
/// # Errors
/// If they are no packed matrices, or not of one expert.
pub(super) fn expert_of(hidden: usize, [gate, up, down]: &Packed) -> Result<Expert> {
    Expert::new(hidden, &dequantise(gate)?, &dequantise(up)?, &dequantise(down)?)
}
