//! Several near-data devices instead of one: where should the experts lie so that no device waits for another?
//!
//! Every expert has one or more homes. In each layer of each step the wanted experts go to their homes, longest run first, each to the
//! least-loaded of its own; the layer takes as long as the most loaded device. Layouts learn from the prompt, are fixed before decoding, and
//! are compared on what comes after it. A new layout is one file and one line in [`KINDS`].

mod affinity;
mod balanced;
mod overflow;
mod round_robin;

use std::collections::HashMap;

use cptr_hw_model::{Model, System};
use rayon::prelude::*;
use serde::Serialize;

use crate::decode::costs::Costs;
use crate::decode::streams::Streams;
use crate::run::outcome::nearest_rank;
use crate::spec::{self, Parameter, Values};
use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};

/// The devices that hold each expert of a layer, `[E]`, each list ascending and not empty.
pub type Homes = Vec<Vec<u8>>;

/// Most devices.
pub const MAX_DEVICES: usize = 64;

/// What a layout is made for.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The trace.
    pub trace: &'a Trace,
    /// Its sequences and prompts.
    pub streams: &'a Streams,
    /// Devices, at least one.
    pub devices: usize,
}

impl Setup<'_> {
    /// The experts that the prompts' tokens chose in a layer, token by token.
    fn prompt(&self, layer: usize) -> impl Iterator<Item = &[u16]> {
        let tokens = (0..self.streams.prefill).flat_map(|step| self.streams.tokens(step));
        tokens.map(move |token| self.trace.chosen(token, layer))
    }

    /// How often the prompts chose each expert of a layer.
    fn counts(&self, layer: usize) -> Vec<u32> {
        let mut counts = vec![0; self.trace.shape.experts];
        self.prompt(layer).flatten().for_each(|&expert| counts[usize::from(expert)] += 1);
        counts
    }

    /// Experts that a device holds when all hold the same number, rounded up.
    const fn capacity(&self) -> usize {
        self.trace.shape.experts.div_ceil(self.devices)
    }
}

/// A layout as the command line knows it.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for help.
    pub summary: &'static str,
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// Homes of every layer, `[L]`.
    pub make: fn(&Values, &Setup<'_>) -> Vec<Homes>,
}

/// Every layout, in the order of tables.
pub const KINDS: &[&Kind] = &[&round_robin::KIND, &balanced::KIND, &affinity::KIND, &overflow::KIND];

/// A layout with its parameters.
pub type Named = spec::Choice<Kind>;

impl spec::Kind for Kind {
    const WHAT: &'static str = "a layout";
    const SHOWS_FIRST: bool = false;

    fn all() -> &'static [&'static Self] {
        KINDS
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn parameters(&self) -> &'static [Parameter] {
        self.parameters
    }
}

/// What to compare.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// Layouts, one row each.
    pub layouts: Vec<Named>,
    /// Devices.
    pub devices: usize,
    /// Tokens of each sequence that are its prompt.
    pub prefill: usize,
    /// Sequences decoded side by side.
    pub batch: usize,
    /// Bits per weight of the experts, 1 to 4 or 16.
    pub bits: u8,
    /// The machine whose device each of them is.
    pub system: &'a System,
    /// Sizes of the model.
    pub model: &'a Model,
}

/// Figures of one layout.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Layout with its parameters.
    pub layout: String,
    /// Mean time of the most loaded device in a layer, in microseconds.
    pub layer_us: f64,
    /// 95th percentile.
    pub layer_p95_us: f64,
    /// Time of the most loaded device over the mean of all devices: 1 is perfect balance.
    pub imbalance: f64,
    /// Share of the choices that run on the device on which one of the same token's choices ran in the layer before.
    pub stays: f64,
    /// Experts stored, over the experts that there are: 1 without replicas.
    pub stored: f64,
}

/// Compares layouts on what follows the prompts.
///
/// # Errors
/// No near-data device, a number of devices, bits or a prompt that is out of range.
pub fn run(trace: &Trace, plan: &Plan<'_>) -> Result<Vec<Row>> {
    let most = MAX_DEVICES.min(trace.shape.experts);
    if !(1..=most).contains(&plan.devices) {
        return Err(Error::new(format!("--devices: expected 1 to {most}, found {}", plan.devices)));
    }
    if plan.system.ndp().is_none() {
        let name = &plan.system.name;
        return Err(Error::new(format!("--system: expected a machine with a near-data device, found {name}")));
    }
    let streams = Streams::new(trace.shape.tokens, plan.batch, plan.prefill)?;
    let setup = Setup { trace, streams: &streams, devices: plan.devices };
    let row = |layout: &Named| {
        let homes = (layout.kind.make)(&layout.values, &setup);
        let costs = Costs::new(plan.system, plan.model, trace.shape.experts, plan.batch);
        measured(layout.to_string(), &setup, &homes, |tokens| costs.near_run_ps(plan.bits, tokens))
    };
    Ok(plan.layouts.par_iter().map(row).collect())
}

fn measured(layout: String, setup: &Setup<'_>, homes: &[Homes], run_ps: impl Fn(u32) -> f64) -> Row {
    let shape = setup.trace.shape;
    let mut known: HashMap<u32, u64> = HashMap::new();
    let mut times = Vec::new();
    let (mut imbalance, mut stayed, mut moved) = (0.0, 0_u64, 0_u64);
    for step in setup.streams.prefill..setup.streams.length {
        let tokens: Vec<usize> = setup.streams.tokens(step).collect();
        // Devices at which each token was in the layer before, one bit each.
        let mut before = vec![0_u64; tokens.len()];
        for (layer, homes) in homes.iter().enumerate() {
            let mut wanted: Vec<(u16, u64)> = tokens_by_expert(setup.trace, &tokens, layer)
                .map(|(expert, tokens)| (expert, *known.entry(tokens).or_insert_with(|| run_ps(tokens).round() as u64)))
                .collect();
            wanted.sort_by_key(|&(expert, time)| (std::cmp::Reverse(time), expert));
            let (at, load) = dispatched(&wanted, homes, setup.devices);
            let longest = load.iter().copied().max().unwrap_or(0);
            times.push(longest);
            imbalance += longest as f64 * setup.devices as f64 / load.iter().sum::<u64>().max(1) as f64;
            for (before, &token) in before.iter_mut().zip(&tokens) {
                let devices = setup.trace.chosen(token, layer).iter().map(|&expert| 1_u64 << at[&expert]);
                let mut here = 0;
                for device in devices {
                    here |= device;
                    stayed += u64::from(layer > 0 && *before & device != 0);
                    moved += u64::from(layer > 0 && *before & device == 0);
                }
                *before = here;
            }
        }
    }
    let calls = times.len().max(1) as f64;
    let mean = times.iter().sum::<u64>() as f64 / calls;
    times.sort_unstable();
    let stored: usize = homes.iter().flatten().map(Vec::len).sum();
    Row {
        layout,
        layer_us: mean / 1e6,
        layer_p95_us: nearest_rank(&times, 0.95) as f64 / 1e6,
        imbalance: imbalance / calls,
        stays: stayed as f64 / (stayed + moved).max(1) as f64,
        stored: stored as f64 / (shape.layers * shape.experts) as f64,
    }
}

/// Experts that the tokens want in a layer, ascending, with the number of tokens that want them.
fn tokens_by_expert(trace: &Trace, tokens: &[usize], layer: usize) -> impl Iterator<Item = (u16, u32)> {
    let mut counts = std::collections::BTreeMap::new();
    for &token in tokens {
        trace.chosen(token, layer).iter().for_each(|&expert| *counts.entry(expert).or_insert(0) += 1);
    }
    counts.into_iter()
}

/// The device of every wanted expert, and the time of every device.
fn dispatched(wanted: &[(u16, u64)], homes: &Homes, devices: usize) -> (HashMap<u16, u8>, Vec<u64>) {
    let mut load = vec![0; devices];
    let mut at = HashMap::new();
    for &(expert, time) in wanted {
        // Homes are never empty; device 0 stands for what cannot be.
        let device =
            homes[usize::from(expert)].iter().copied().min_by_key(|&device| load[usize::from(device)]).unwrap_or(0);
        load[usize::from(device)] += time;
        at.insert(expert, device);
    }
    (at, load)
}

/// One home for every expert, from `device[expert]`.
fn single(devices: Vec<u8>) -> Homes {
    devices.into_iter().map(|device| vec![device]).collect()
}

#[cfg(test)]
mod tests;
