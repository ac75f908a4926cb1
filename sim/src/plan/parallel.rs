//! A model over several GPUs behind a switch, all of it in their memories: split within each matrix (tensor parallel)
//! or expert by expert (expert parallel).
//!
//! - *Tensor parallel*: each of n devices has an nth of every matrix, experts, attention, shared experts and head
//!   alike, and an nth of the keys and values, unless all heads share them. Partial sums are reduced twice a layer,
//!   behind attention and behind the experts; the head's best candidates are gathered.
//! - *Expert parallel*: each device has an nth of the experts, and all that every token reads, for its own part of the
//!   sequences. Each token goes to every other device that has one of its experts, and one sum comes back of each: two
//!   messages to all. A layer waits for the device with the most experts to run.

use cptr_hw_model::{Collective, ExpertRun, LayerWork, Model, Switch, System};
use cptr_trace::error::{Error, Result};
use serde::Serialize;

use super::band::{self, Band};
use super::{Question, RESERVED_GB};

/// How a model is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Every matrix over all devices.
    Tensor,
    /// Experts over the devices, the rest on each.
    Expert,
}

impl Split {
    /// Name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Expert => "expert",
        }
    }
}

/// One split over so many devices.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Parallel {
    /// Devices.
    pub devices: u64,
    /// How.
    pub split: Split,
    /// Bits per weight of experts.
    pub bits: f64,
    /// Sequences that each write a token in a step.
    pub sequences: u64,
    /// Whether it fits the memory of each.
    pub fits: bool,
    /// Memory of a device that it takes, in GB, with [`RESERVED_GB`].
    pub gpu_gb: f64,
    /// Bytes that the busiest port sends in a step: sums of partial results, and tokens to experts and back.
    pub sent_bytes: u64,
    /// Of them, of all-reduces.
    pub reduced_bytes: u64,
    /// Hops that a step waits for.
    pub hops: u64,
    /// Microseconds of a step on the switch.
    pub switch_us: f64,
    /// Experts that the most loaded device runs over the mean of all, expectation.
    pub imbalance: f64,
    /// Microseconds of a step.
    pub token_us: f64,
    /// Tokens per second of all sequences, and the band that holds them.
    pub tokens_per_s: f64,
    /// See [`Self::tokens_per_s`].
    pub low_tokens_per_s: f64,
    /// See [`Self::tokens_per_s`].
    pub high_tokens_per_s: f64,
}

/// Most devices.
pub const MOST_DEVICES: u64 = 64;
/// Bytes of a candidate of the output head: its number, and what speaks for it.
const CANDIDATE_BYTES: u64 = 8;

impl Question<'_> {
    /// Both splits over so many of the machine's GPUs at each of the bits, experts wanted alike.
    ///
    /// # Errors
    /// A machine without a switch, a number of devices that there is not, a model of which not all sizes are known.
    pub fn parallel(&self, system: &System, devices: &[u64]) -> Result<Vec<Parallel>> {
        self.all_known()?;
        let Some(switch) = system.switch() else {
            return Err(Error::new(format!("--devices: expected a system with a switch, found {}", system.name)));
        };
        let most = MOST_DEVICES.min(self.model.experts);
        if let Some(wrong) = devices.iter().find(|devices| !(1..=most).contains(*devices)) {
            return Err(Error::new(format!("--devices: expected 1 to {most}, found {wrong}")));
        }
        let mut found = Vec::new();
        for &bits in &self.bits {
            let system = self.at_bits(system, bits, None)?;
            // How fast the switch is belongs to what is not known well.
            let mut ends = band::ends(&system, None)?;
            for times in band::SWITCH_LATENCY {
                let slower = |parts: &mut cptr_hw_model::Parts| {
                    if let Some(Switch { device_ns, switch_ns, start_ns, .. }) = &mut parts.switch {
                        [device_ns, switch_ns, start_ns].into_iter().for_each(|ns| *ns *= times);
                    }
                };
                ends.push(system.changed(slower).map_err(|error| Error::new(error.to_string()))?);
            }
            for &devices in devices {
                for split in [Split::Tensor, Split::Expert] {
                    let (token_us, sent, imbalance) = self.step(&system, switch, split, devices);
                    let mut spread = band::Spread::default();
                    for end in &ends {
                        let end_us = self.step(end, end.switch().unwrap_or(switch), split, devices).0;
                        spread.add(end_us / token_us);
                    }
                    let Band { low, high } = spread.band();
                    let gpu_gb = self.memory_gb(&system, split, devices);
                    let tokens_per_s = self.sequences as f64 * 1e6 / token_us;
                    found.push(Parallel {
                        devices,
                        split,
                        bits,
                        sequences: self.sequences,
                        fits: gpu_gb <= system.gpu().memory_gb,
                        gpu_gb,
                        sent_bytes: sent.bytes,
                        reduced_bytes: if split == Split::Tensor { sent.reduced } else { 0 },
                        hops: sent.hops,
                        switch_us: sent.ps as f64 / 1e6,
                        imbalance,
                        token_us,
                        tokens_per_s,
                        low_tokens_per_s: tokens_per_s * low,
                        high_tokens_per_s: tokens_per_s * high,
                    });
                }
            }
        }
        Ok(found)
    }

    /// Microseconds of a step, what passes the switch, and how unequally experts are spread.
    fn step(&self, system: &System, switch: &Switch, split: Split, devices: u64) -> (f64, Sent, f64) {
        match split {
            Split::Tensor => self.tensor(system, switch, devices),
            Split::Expert => self.experts_apart(system, switch, devices),
        }
    }

    fn tensor(&self, system: &System, switch: &Switch, devices: u64) -> (f64, Sent, f64) {
        let (part, tokens) = (part_of(self.model, devices), self.sequences);
        let different = different(self.model, tokens);
        let each = tokens as f64 * self.model.experts_per_token as f64 / different;
        let attended = (self.model.attended(self.context) * tokens as f64).round() as u64;
        let layer_ps = self.layer_ps(system, &part, tokens, attended, different, each);
        let outside = system.outside_layers(&part, tokens as u32, attended);
        let mut sent = Sent::default();
        let sums = switch.all_reduce(devices, tokens * self.model.activation_bytes() as u64);
        sent.add(sums, 2 * self.model.all_layers());
        sent.reduced = sent.bytes;
        sent.add(switch.all_gather(devices, tokens * CANDIDATE_BYTES), 1);
        let step_ps = layer_ps * self.model.layers as f64 + (outside.total_ps + sent.ps) as f64;
        (step_ps / 1e6, sent, 1.0)
    }

    fn experts_apart(&self, system: &System, switch: &Switch, devices: u64) -> (f64, Sent, f64) {
        let (model, tokens) = (self.model, self.sequences);
        // The sequences of the device that has the most of them.
        let own = tokens.div_ceil(devices);
        let different = different(model, tokens);
        let most = most_loaded(model.experts, devices, different);
        let each = tokens as f64 * model.experts_per_token as f64 / different;
        let attended = (model.attended(self.context) * own as f64).round() as u64;
        let layer_ps = self.layer_ps(system, model, own, attended, most, each);
        let outside = system.outside_layers(model, own as u32, attended);
        // A token goes to each other device that has one of its experts.
        let others = (devices - 1) as f64 * reached(model, devices);
        let bytes = (own as f64 * others * model.activation_bytes()).round() as u64;
        let mut sent = Sent::default();
        sent.add(switch.all_to_all(devices, bytes), 2 * model.layers);
        let step_ps = layer_ps * model.layers as f64 + (outside.total_ps + sent.ps) as f64;
        (step_ps / 1e6, sent, most * devices as f64 / different)
    }

    /// A layer that runs `experts` of `each` tokens, between the whole numbers of experts.
    fn layer_ps(&self, system: &System, model: &Model, tokens: u64, attended: u64, experts: f64, each: f64) -> f64 {
        let at = |experts: f64| {
            let gpu = vec![ExpertRun { bits: system.gpu_bits, tokens: each.ceil() as u32 }; experts as usize];
            let work = LayerWork { tokens: tokens as u32, attended, gpu: &gpu, ..LayerWork::default() };
            system.layer_time(model, &work).total_ps as f64
        };
        let (low, part) = (experts.floor(), experts.fract());
        at(low) + part * (at(experts.ceil()) - at(low))
    }

    fn memory_gb(&self, system: &System, split: Split, devices: u64) -> f64 {
        let model = self.model;
        let gb = |parameters: u64, bits: f64| parameters as f64 * bits / 8e9;
        let kv = |model: &Model, sequences: u64| {
            model.attended(self.context) * sequences as f64 * model.kv_bytes(1) * model.all_layers() as f64 / 1e9
        };
        let dense = |model: &Model| gb(model.always_read() + model.head_parameters(), system.dense_bits);
        let experts = gb(model.routed_parameters(), system.gpu_bits);
        let per_device = model.experts.div_ceil(devices) as f64 / model.experts as f64;
        RESERVED_GB
            + match split {
                Split::Tensor => {
                    let part = part_of(model, devices);
                    experts / devices as f64 + dense(&part) + kv(&part, self.sequences)
                }
                Split::Expert => experts * per_device + dense(model) + kv(model, self.sequences.div_ceil(devices)),
            }
    }
}

/// Sums of collectives.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    bytes: u64,
    reduced: u64,
    hops: u64,
    ps: u64,
}

impl Sent {
    fn add(&mut self, one: Collective, times: u64) {
        self.bytes += one.bytes * times;
        self.hops += one.hops * times;
        self.ps += one.ps * times;
    }
}

/// What a device has of a model whose matrices are split; a latent vector, which all heads share, is on each.
fn part_of(model: &Model, devices: u64) -> Model {
    let mut part = model.clone();
    for split in [
        &mut part.expert_inner,
        &mut part.attention_parameters,
        &mut part.shared_parameters,
        &mut part.dense_inner,
        &mut part.vocabulary,
    ] {
        *split = split.div_ceil(devices);
    }
    if !part.kv_shared {
        part.kv_values = part.kv_values.div_ceil(devices);
    }
    part
}

/// Different experts of a layer that so many tokens run which choose independently, all experts alike.
fn different(model: &Model, tokens: u64) -> f64 {
    let all = model.experts as f64;
    all * (1.0 - (1.0 - model.experts_per_token as f64 / all).powf(tokens as f64))
}

/// Probability that a device has one of a token's experts at least.
fn reached(model: &Model, devices: u64) -> f64 {
    let own = model.experts / devices;
    let none = (0..model.experts_per_token)
        .map(|taken| (model.experts - own).saturating_sub(taken) as f64 / (model.experts - taken) as f64);
    1.0 - none.product::<f64>()
}

/// Expected number of experts on the device that has the most of `wanted` experts, which are drawn from all.
fn most_loaded(experts: u64, devices: u64, wanted: f64) -> f64 {
    let at = |wanted: usize| expected_most(experts as usize, devices as usize, wanted);
    let (low, part) = (wanted.floor(), wanted.fract());
    if part == 0.0 { at(low as usize) } else { at(low as usize) * (1.0 - part) + at(wanted.ceil() as usize) * part }
}

/// The same of a whole number: the sum over m of the probability that a device has more than m. Ways to draw the
/// experts of which no device has more than m are counted device by device, in shares of all.
fn expected_most(experts: usize, devices: usize, wanted: usize) -> f64 {
    // Devices have the same number of experts, or one more.
    let sizes: Vec<usize> = (0..devices).map(|device| (experts + device) / devices).collect();
    let within = |most: usize| -> f64 {
        // Probability by experts drawn so far, of those that are drawn in all.
        let mut ways = vec![0.0; wanted + 1];
        ways[0] = 1.0;
        let mut left = experts;
        for &size in &sizes {
            let mut next = vec![0.0; wanted + 1];
            for (drawn, way) in ways.iter().enumerate().filter(|(_, way)| **way > 0.0) {
                for here in 0..=size.min(most).min(wanted - drawn) {
                    next[drawn + here] += way * drawn_here(left, size, wanted - drawn, here);
                }
            }
            ways = next;
            left -= size;
        }
        ways[wanted]
    };
    let largest = sizes.iter().copied().max().unwrap_or(0).min(wanted);
    (0..largest).map(|most| 1.0 - within(most)).sum()
}

/// Probability that `here` of `wanted` experts drawn from `left` are among `size` of them.
fn drawn_here(left: usize, size: usize, wanted: usize, here: usize) -> f64 {
    if wanted > left || wanted - here > left - size {
        return 0.0;
    }
    // C(size, here) C(left - size, wanted - here) / C(left, wanted), factor by factor.
    let choose_ln = |n: usize, k: usize| (0..k).map(|i| ((n - i) as f64 / (i + 1) as f64).ln()).sum::<f64>();
    (choose_ln(size, here) + choose_ln(left - size, wanted - here) - choose_ln(left, wanted)).exp()
}

#[cfg(test)]
#[path = "parallel_tests.rs"]
mod tests;
