//! The MoE block: where scores become a choice, a policy may alter it, and the chosen experts run.

use candle_core::{Device, Tensor};
use candle_nn::Linear;

use super::attention::linear;
use super::config::{Activation, Config, ExpertNames};
use super::mixing;
use super::ops::{self, each, few_rows, times_transposed, with_values};
use super::weights::Weights;
use crate::error::{Error, Result};
use cptr_trace::router::{Router, Row};
use cptr_trace::{MAX_EXPERTS, NO_EXPERT};

/// Experts that take no more than this as f32, all together, are converted when the model is loaded; larger ones are
/// converted from the mapped file whenever they run.
const RESIDENT_BYTES: usize = 4 << 30;

/// Bits of an expert that is chosen but does not run: its part of the output is missing, the weights of the others
/// stay.
pub const SKIPPED: u8 = u8::MAX;

/// What the router of one MoE layer says about the T new tokens of a call.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Routing<'a> {
    /// Number of the layer; MoE layers count from 0.
    pub layer: usize,
    /// How scores become a choice and weights.
    pub router: &'a Router,
    /// Experts per token.
    pub k: usize,
    /// Raw scores `[T, E]`.
    pub scores: &'a [f32],
    /// Bias `[E]` for the selection, or empty.
    pub bias: &'a [f32],
    /// The model's own choice `[T, k]`, best first; [`NO_EXPERT`] behind fewer.
    pub wanted: &'a [u16],
}

impl<'a> Routing<'a> {
    /// Number of tokens, T.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.wanted.len() / self.k
    }

    /// The scores of a token, with what the layer adds to them: what [`Router::choose`] takes.
    #[must_use]
    pub fn row(&self, token: usize) -> Row<'a> {
        let experts = self.scores.len() / self.tokens();
        Row { bias: self.bias, ..Row::of(&self.scores[token * experts..(token + 1) * experts]) }
    }

    /// The model's own choice for a token, at most k, best first.
    #[must_use]
    pub fn wanted(&self, token: usize) -> &'a [u16] {
        let row = &self.wanted[token * self.k..(token + 1) * self.k];
        &row[..row.iter().take_while(|&&id| id != NO_EXPERT).count()]
    }

    /// Mixing weights of `chosen` experts of a token as the model computes them, but for the router's factor on all of
    /// them.
    pub fn shares(&self, token: usize, chosen: &[u16], shares: &mut [f32]) {
        mixing::shares(self.router, self.row(token), chosen, shares);
    }
}

/// Sees and steers the MoE blocks of a model. Every method is called once per layer and forward call, for all T new
/// tokens in order, sequence after sequence; `layer` counts MoE layers from 0. A hook that does nothing gives the
/// model's own result to the last bit.
pub trait MoeHook {
    /// The next calls are for the tokens at this position of all sequences that have one; only of
    /// [`Model::read_in_step`](super::Model::read_in_step).
    fn position(&mut self, position: usize) {
        let _ = position;
    }

    /// The block's input, `hidden` `[T, D]` row-major: what the router and the experts see.
    fn input(&mut self, layer: usize, hidden: &[f32]) {
        let _ = (layer, hidden);
    }

    /// For how many MoE layers ahead [`Self::ahead`] is to be called.
    fn looks_ahead(&self) -> usize {
        0
    }

    /// Before a layer: `wanted` `[T, k]`, what the router of the MoE layer `distance` further on would want if its
    /// input were this layer's: its norm is that of the later layer, the stream that of this one. Best first,
    /// [`NO_EXPERT`] behind fewer.
    fn ahead(&mut self, layer: usize, distance: usize, wanted: &[u16]) {
        let _ = (layer, distance, wanted);
    }

    /// May alter the choice: `chosen` `[T, k]` is a copy of the model's own, to be overwritten with distinct ids below
    /// E. Mixing weights follow from the scores of the chosen by the model's router. A row that ends in [`NO_EXPERT`]
    /// runs fewer experts.
    fn route(&mut self, routing: &Routing<'_>, chosen: &mut [u16]) {
        let _ = (routing, chosen);
    }

    /// May have some of the chosen run as replicas: `bits` `[T, k]`, one for each of `chosen`, is all 0, the model's
    /// own weights. [`SKIPPED`] leaves an expert out.
    fn bits(&mut self, layer: usize, chosen: &[u16], bits: &mut [u8]) {
        let _ = (layer, chosen, bits);
    }

    /// The replica of an expert that [`Self::bits`] asked for; called once per layer, expert and number of bits in a
    /// forward call.
    ///
    /// # Errors
    /// If there is none.
    fn replica(&mut self, layer: usize, expert: u16, bits: u8) -> Result<Expert> {
        Err(Error::new(format!("expected a replica of layer {layer}, expert {expert} at {bits} bits, found none")))
    }

    /// What runs elsewhere: for each expert that does its place in `[T, k]` and its part of the block's output `[D]`,
    /// times its mixing weight but for the router's factor on all of them. The others run here.
    ///
    /// # Errors
    /// If it cannot be had.
    fn elsewhere(&mut self, layer: usize) -> Result<Vec<(usize, Vec<f32>)>> {
        let _ = layer;
        Ok(Vec::new())
    }
}

/// Leaves everything as the model wants it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unaltered;

impl MoeHook for Unaltered {}

/// The matrices of one expert in f32; biases, where a model has them, are not part of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Expert {
    /// Gate, then up `[2I, D]`.
    gate_up: Tensor,
    /// `[D, I]`.
    down: Tensor,
}

impl Expert {
    /// From row-major matrices: `gate` and `up` `[I, D]`, `down` `[D, I]`, with D = `hidden`.
    ///
    /// # Errors
    /// If a length is not that of the others and D.
    pub fn new(hidden: usize, gate: &[f32], up: &[f32], down: &[f32]) -> Result<Self> {
        let inner = gate.len() / hidden.max(1);
        let expected = hidden * inner;
        if expected == 0 || [gate, up, down].iter().any(|matrix| matrix.len() != expected) {
            return Err(Error::new(format!(
                "expected three expert matrices of one size, a multiple of {hidden}, found {}, {} and {} values",
                gate.len(),
                up.len(),
                down.len()
            )));
        }
        Self::of(hidden, inner, [gate, up].concat(), down.into())
    }

    fn of(hidden: usize, inner: usize, gate_up: Vec<f32>, down: Vec<f32>) -> Result<Self> {
        Ok(Self {
            gate_up: Tensor::from_vec(gate_up, (2 * inner, hidden), &Device::Cpu)?,
            down: Tensor::from_vec(down, (hidden, inner), &Device::Cpu)?,
        })
    }

    /// Gate matrix `[I, D]`, row-major.
    #[must_use]
    pub fn gate(&self) -> Vec<f32> {
        let mut values = flat(&self.gate_up);
        values.truncate(values.len() / 2);
        values
    }

    /// Up matrix `[I, D]`, row-major.
    #[must_use]
    pub fn up(&self) -> Vec<f32> {
        let mut values = flat(&self.gate_up);
        values.split_off(values.len() / 2)
    }

    /// Down matrix `[D, I]`, row-major.
    #[must_use]
    pub fn down(&self) -> Vec<f32> {
        flat(&self.down)
    }

    /// The expert's output `[N, D]` for inputs `x` `[N, D]`; `few` if they are of a call with few rows.
    fn run(
        &self,
        x: &Tensor,
        few: bool,
        activation: Activation,
        biases: Option<&Biases>,
    ) -> candle_core::Result<Tensor> {
        self.out(&self.inner(x, few, activation, biases)?, few, biases)
    }

    /// What comes to the down matrix `[N, I]`.
    fn inner(
        &self,
        x: &Tensor,
        few: bool,
        activation: Activation,
        biases: Option<&Biases>,
    ) -> candle_core::Result<Tensor> {
        let mut pair = times_transposed(x, &self.gate_up, few)?;
        if let Some(biases) = biases {
            pair = pair.broadcast_add(&biases.gate_up)?;
        }
        pair.apply_op1_no_bwd(&activation)
    }

    fn out(&self, inner: &Tensor, few: bool, biases: Option<&Biases>) -> candle_core::Result<Tensor> {
        let out = times_transposed(inner, &self.down, few)?;
        biases.map_or(Ok(out.clone()), |biases| out.broadcast_add(&biases.down))
    }
}

/// Only matrices of this module come here: contiguous, f32, in main memory.
fn flat(tensor: &Tensor) -> Vec<f32> {
    with_values(tensor, <[f32]>::to_vec).unwrap_or_default()
}

struct Biases {
    gate_up: Tensor,
    down: Tensor,
}

/// The MoE block of one layer.
pub(super) struct Block {
    /// The model's own number of the layer.
    layer: usize,
    router: Linear,
    /// Bias `[E]` for the selection, or empty.
    bias: Vec<f32>,
    /// Matrices of the experts `[E]`; empty where they are converted when they run.
    experts: Vec<Expert>,
    /// Biases of the experts `[E]`, for the families that have them.
    biases: Vec<Biases>,
}

impl Block {
    pub(super) fn read(weights: &Weights, config: &Config, layer: usize) -> Result<Self> {
        let name = format!("model.layers.{layer}.{}", config.names.block);
        let router = format!("{name}.{}", config.names.router);
        let bias = config.selection_bias.map(|bias| weights.values(&format!("{router}.{bias}"), &[config.experts]));
        let router = linear(weights, &router, config.experts, config.hidden, config.router_bias)?;
        let resident = config.expert_values().saturating_mul(size_of::<f32>()) <= RESIDENT_BYTES;
        let count = if resident { config.experts } else { 0 };
        let experts = (0..count).map(|expert| read_expert(weights, config, layer, expert)).collect::<Result<_>>()?;
        let biases = match config.names.experts {
            ExpertNames::Apart { .. } => Vec::new(),
            ExpertNames::Packed => read_biases(weights, config, &name)?,
        };
        Ok(Self { layer, router, bias: bias.transpose()?.unwrap_or_default(), experts, biases })
    }

    /// The bias for the selection, `[E]` or empty.
    pub(super) fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// Drops the converted experts, as if they were too large to keep.
    #[cfg(test)]
    pub(super) fn read_when_run(&mut self) {
        self.experts.clear();
    }

    /// The matrices of one expert.
    pub(super) fn expert(&self, weights: &Weights, config: &Config, expert: usize) -> Result<Expert> {
        match self.experts.get(expert) {
            Some(expert) => Ok(expert.clone()),
            None => read_expert(weights, config, self.layer, expert),
        }
    }

    /// See [`super::Model::run_expert`].
    pub(super) fn run_expert(
        &self,
        expert: usize,
        matrices: &Expert,
        inputs: &[f32],
        config: &Config,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let width = config.hidden;
        if !inputs.len().is_multiple_of(width) {
            return Err(Error::new(format!("expected rows of {width} values, found {} in all", inputs.len())));
        }
        if inputs.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let x = Tensor::from_slice(inputs, (inputs.len() / width, width), &Device::Cpu)?;
        let biases = self.biases.get(expert);
        let inner = matrices.inner(&x, false, config.activation, biases)?;
        let out = matrices.out(&inner, false, biases)?;
        Ok((flat(&inner), flat(&out)))
    }

    /// `x` `[T, D]` to the routed experts' part of the block's output; `index` counts MoE layers.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        index: usize,
        (weights, config): (&Weights, &Config),
        hook: &mut dyn MoeHook,
    ) -> Result<Tensor> {
        let scores = flat(&ops::linear(&self.router, x)?);
        with_values(x, |hidden| hook.input(index, hidden))?;
        let mut routes = self.route(&scores, index, config, hook)?;
        let elsewhere = hook.elsewhere(index)?;
        for (slot, row) in &elsewhere {
            match routes.bits.get_mut(*slot) {
                Some(bits) if row.len() == config.hidden => *bits = SKIPPED,
                _ => return Err(Error::new(format!("expected a row of {} values for place {slot}", config.hidden))),
            }
        }
        // In the order of the experts, whatever the order of the choice: so the sum over a token's experts depends on
        // the set alone.
        let mut groups: Vec<Group> = Vec::new();
        let runs = |slot: &usize| routes.chosen[*slot] != NO_EXPERT && routes.bits[*slot] != SKIPPED;
        let mut order: Vec<usize> = (0..routes.chosen.len()).filter(runs).collect();
        order.sort_by_key(|&slot| (routes.chosen[slot], routes.bits[slot]));
        for slot in order {
            let key = (routes.chosen[slot], routes.bits[slot]);
            if groups.last().is_none_or(|group| group.key != key) {
                let (expert, bits) = key;
                let matrices = match bits {
                    0 if self.experts.is_empty() => None,
                    0 => Some(self.experts[usize::from(expert)].clone()),
                    _ => Some(hook.replica(index, expert, bits)?),
                };
                groups.push(Group { key, matrices, slots: Vec::new() });
            }
            if let Some(group) = groups.last_mut() {
                group.slots.push(slot);
            }
        }
        let outputs = with_values(x, |hidden| {
            let work = 3 * config.hidden * config.expert_inner * routes.chosen.len();
            each(groups.len(), work, |group| self.run(&groups[group], hidden, few_rows(x), (weights, config)))
        })??;
        let mut sum = vec![0.0; x.elem_count()];
        for (group, output) in groups.iter().zip(&outputs) {
            with_values(output, |output| {
                for (&slot, row) in group.slots.iter().zip(output.chunks_exact(config.hidden)) {
                    let token = slot / config.k;
                    let sum = &mut sum[token * config.hidden..(token + 1) * config.hidden];
                    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += routes.mixing[slot] * value);
                }
            })?;
        }
        for (slot, row) in elsewhere {
            let sum = &mut sum[slot / config.k * config.hidden..][..config.hidden];
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += config.router.scale * value);
        }
        Ok(Tensor::from_vec(sum, x.shape(), x.device())?)
    }

    /// One expert, or one replica of it, on all tokens that chose it.
    fn run(&self, group: &Group, hidden: &[f32], few: bool, (weights, config): (&Weights, &Config)) -> Result<Tensor> {
        let width = config.hidden;
        let mut rows = Vec::with_capacity(group.slots.len() * width);
        for slot in &group.slots {
            let token = slot / config.k;
            rows.extend_from_slice(&hidden[token * width..(token + 1) * width]);
        }
        let expert = usize::from(group.key.0);
        let matrices = match &group.matrices {
            Some(matrices) => matrices.clone(),
            None => read_expert(weights, config, self.layer, expert)?,
        };
        let x = Tensor::from_vec(rows, (group.slots.len(), width), &Device::Cpu)?;
        Ok(matrices.run(&x, few, config.activation, self.biases.get(expert))?)
    }

    /// What the router wants of inputs `x` `[T, D]`: `[T, k]`.
    pub(super) fn wanted(&self, x: &Tensor, config: &Config) -> Result<Vec<u16>> {
        self.choose(&flat(&ops::linear(&self.router, x)?), config)
    }

    /// The model's own choice `[T, k]` by scores `[T, E]`.
    fn choose(&self, scores: &[f32], config: &Config) -> Result<Vec<u16>> {
        let (experts, k) = (config.experts, config.k);
        if let Some(bad) = scores.iter().position(|score| !score.is_finite()) {
            return Err(Error::new(format!("expected finite router scores, found {}", scores[bad]))
                .at(format!("token {}", bad / experts))
                .at(format!("layer {}", self.layer)));
        }
        let mut wanted = vec![0; scores.len() / experts * k];
        let row = |scores| Row { bias: &self.bias, ..Row::of(scores) };
        for (scores, wanted) in scores.chunks_exact(experts).zip(wanted.chunks_exact_mut(k)) {
            mixing::choose(&config.router, row(scores), wanted);
        }
        Ok(wanted)
    }

    fn route(&self, scores: &[f32], index: usize, config: &Config, hook: &mut dyn MoeHook) -> Result<Routes> {
        let (experts, k) = (config.experts, config.k);
        let row = |scores| Row { bias: &self.bias, ..Row::of(scores) };
        let wanted = self.choose(scores, config)?;
        let mut chosen = wanted.clone();
        let (router, bias, wanted) = (&config.router, &self.bias[..], &wanted[..]);
        hook.route(&Routing { layer: index, router, k, scores, bias, wanted }, &mut chosen);
        let mut bits = vec![0; chosen.len()];
        hook.bits(index, &chosen, &mut bits);
        let mut mixing = vec![0.0; chosen.len()];
        let rows = scores.chunks_exact(experts).zip(chosen.chunks_exact(k)).zip(mixing.chunks_exact_mut(k));
        for ((scores, chosen), mixing) in rows {
            let count = distinct(chosen, experts)?;
            mixing::shares(router, row(scores), &chosen[..count], &mut mixing[..count]);
            if router.scale != 1.0 {
                mixing.iter_mut().for_each(|weight| *weight *= router.scale);
            }
        }
        Ok(Routes { chosen, bits, mixing })
    }
}

/// What the tokens run, `[T, k]` each.
struct Routes {
    chosen: Vec<u16>,
    bits: Vec<u8>,
    /// Factors on the experts' outputs.
    mixing: Vec<f32>,
}

/// The tokens that run one expert at one number of bits.
struct Group {
    key: (u16, u8),
    /// None for experts that are converted when they run.
    matrices: Option<Expert>,
    /// Places in `[T, k]`.
    slots: Vec<usize>,
}

/// How many experts a row of the choice has before its padding.
fn distinct(row: &[u16], experts: usize) -> Result<usize> {
    const { assert!(MAX_EXPERTS <= NO_EXPERT as usize) };
    let count = row.iter().take_while(|&&id| id != NO_EXPERT).count();
    let (chosen, rest) = row.split_at(count);
    let wrong = |(i, id): (usize, &u16)| usize::from(*id) >= experts || chosen[..i].contains(id);
    if chosen.iter().enumerate().any(wrong) || rest.iter().any(|&id| id != NO_EXPERT) {
        return Err(Error::new(format!("expected a choice of distinct experts below {experts}, found {row:?}")));
    }
    Ok(count)
}

fn read_expert(weights: &Weights, config: &Config, layer: usize, expert: usize) -> Result<Expert> {
    let Config { hidden, expert_inner: inner, experts, .. } = *config;
    let block = format!("model.layers.{layer}.{}.experts", config.names.block);
    match config.names.experts {
        ExpertNames::Apart { gate, up, down } => {
            let name = |matrix: &str| format!("{block}.{expert}.{matrix}.weight");
            let mut gate_up = weights.values(&name(gate), &[inner, hidden])?;
            gate_up.extend(weights.values(&name(up), &[inner, hidden])?);
            Expert::of(hidden, inner, gate_up, weights.values(&name(down), &[hidden, inner])?)
        }
        ExpertNames::Packed => {
            let pair = weights.slice(&format!("{block}.gate_up_proj"), &[experts, hidden, 2 * inner], expert)?;
            let down = weights.slice(&format!("{block}.down_proj"), &[experts, inner, hidden], expert)?;
            // Column 2i of the file is row i of the gate, column 2i + 1 row i of up.
            let column = |row: usize| if row < inner { 2 * row } else { 2 * (row - inner) + 1 };
            let gate_up = transposed(&pair, 2 * inner, column);
            Expert::of(hidden, inner, gate_up, transposed(&down, hidden, |row| row))
        }
    }
}

/// The transpose of a matrix with `columns` columns, its row r being the column `of(r)`.
fn transposed(matrix: &[f32], columns: usize, of: impl Fn(usize) -> usize) -> Vec<f32> {
    (0..columns).flat_map(|row| matrix.iter().skip(of(row)).step_by(columns).copied()).collect()
}

fn read_biases(weights: &Weights, config: &Config, block: &str) -> Result<Vec<Biases>> {
    let Config { hidden, expert_inner: inner, experts, .. } = *config;
    let pair = weights.values(&format!("{block}.experts.gate_up_proj_bias"), &[experts, 2 * inner])?;
    let down = weights.values(&format!("{block}.experts.down_proj_bias"), &[experts, hidden])?;
    let biases = pair.chunks_exact(2 * inner).zip(down.chunks_exact(hidden)).map(|(pair, down)| {
        let gate_up: Vec<f32> = pair.iter().step_by(2).chain(pair.iter().skip(1).step_by(2)).copied().collect();
        Ok(Biases {
            gate_up: Tensor::from_vec(gate_up, 2 * inner, &Device::Cpu)?,
            down: Tensor::new(down, &Device::Cpu)?,
        })
    });
    biases.collect()
}

/// A gated MLP that every token runs: a dense layer, or a shared expert.
pub(super) struct Mlp {
    matrices: Expert,
    /// Sigmoid gate on the output.
    gate: Option<Linear>,
}

impl Mlp {
    pub(super) fn read(weights: &Weights, hidden: usize, inner: usize, name: &str) -> Result<Self> {
        let read = |matrix: &str, shape: [usize; 2]| weights.values(&format!("{name}.{matrix}.weight"), &shape);
        let mut gate_up = read("gate_proj", [inner, hidden])?;
        gate_up.extend(read("up_proj", [inner, hidden])?);
        let matrices = Expert::of(hidden, inner, gate_up, read("down_proj", [hidden, inner])?)?;
        Ok(Self { matrices, gate: None })
    }

    pub(super) fn gated(self, gate: Option<Linear>) -> Self {
        Self { gate, ..self }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let out = self.matrices.run(x, few_rows(x), Activation::Silu, None)?;
        match &self.gate {
            None => Ok(out),
            Some(gate) => Ok(out.broadcast_mul(&candle_nn::ops::sigmoid(&ops::linear(gate, x)?)?)?),
        }
    }
}
