//! Several near-data devices instead of one: where should the experts lie so that no device waits for another?
//!
//! Every expert has one or more homes. In each layer of each step the wanted experts go to their homes, longest run
//! first, each to the least-loaded of its own; the layer takes as long as the most loaded device. Layouts learn from
//! the prompt, are fixed before decoding, and are compared on what comes after it. A new layout is one file and one
//! line in [`KINDS`].
//!
//! The devices share the GPU's link: a token's activations go to each device that has one of its experts, with a line
//! for each expert, and each device returns one sum of its experts' results for each token. Every switch between adds a
//! round trip of the link ([`Plan::switches`]).
//!
//! ```
//! use cptr_hw_model::{Model, System};
//! use cptr_sim::devices::{self, Plan};
//! use cptr_trace::{Shape, Trace};
//!
//! // Experts 0 and 2 are wanted together: round robin puts both on one of two devices.
//! let trace = Trace::of_ids(Shape { tokens: 40, layers: 1, experts: 4, k: 2 }, [0, 2].repeat(40));
//! let plan = Plan {
//!     layouts: vec![devices::parse("round-robin")?, devices::parse("balanced")?],
//!     devices: 2,
//!     prefill: 20,
//!     batch: 1,
//!     switches: 1,
//!     bits: 2,
//!     system: System::find("ndp").ok_or("no such machine")?,
//!     model: Model::find("Qwen3-30B-A3B").ok_or("no such model")?,
//! };
//! let rows = devices::run(&trace, &plan)?;
//! assert_eq!((rows[0].imbalance, rows[1].imbalance), (2.0, 1.0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod affinity;
mod balanced;
mod overflow;
mod round_robin;

use std::collections::HashMap;

use cptr_hw_model::link::LINE_BYTES;
use cptr_hw_model::{ExpertRun, LayerTimes, Model, System};
use serde::Serialize;

use crate::replay::{self, Budget, LayerOutcome, Machine, Observer, nearest_rank};
use crate::source::Streams;
use crate::strategy::{Kind, Part, Strategy, Values};
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

/// Makes the homes of every layer, `[L]`.
#[derive(Debug, Clone, Copy)]
pub struct Make(fn(&Values, &Setup<'_>) -> Vec<Homes>);

/// Every layout, in the order of tables.
pub const KINDS: &[&Kind<Make>] = &[&round_robin::KIND, &balanced::KIND, &affinity::KIND, &overflow::KIND];

/// A layout with its parameters.
pub type Named = Part<Make>;

/// Reads `name[:parameter=value]…` as a layout.
///
/// # Errors
/// A layout or parameter that there is not, a value that does not fit.
pub fn parse(text: &str) -> Result<Named> {
    Part::of_list("a layout", KINDS, text)
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
    /// Switches between the GPU and each device.
    pub switches: u32,
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
    /// Mean time from dispatch to the last result, in microseconds: the way there and back, launch and the most loaded
    /// device.
    pub away_us: f64,
    /// Bytes on the GPU's link in a layer, both ways, mean.
    pub link_bytes: f64,
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
    if plan.prefill == 0 {
        return Err(Error::new("--prefill: expected at least 1 token, which layouts learn from, found 0"));
    }
    let streams = Streams::new(trace.shape.tokens, plan.batch, plan.prefill)?;
    let setup = Setup { trace, streams: &streams, devices: plan.devices };
    let times = LayerTimes::new(plan.system, plan.model);
    let mut loads: Vec<Loads<'_>> =
        plan.layouts.iter().map(|layout| Loads::new(layout, &setup, plan, &times)).collect();
    // Everything runs near the data: what is compared is where.
    let replayed = replay::Plan {
        prefill: plan.prefill,
        batch: plan.batch,
        machine: Some(Machine::new(plan.system, None)),
        ..replay::Plan::new(Budget::Experts(1))
    };
    let mut observers: Vec<&mut dyn Observer> = loads.iter_mut().map(|loads| loads as &mut dyn Observer).collect();
    replay::drive(trace, &replayed, &Strategy::parse("near-only")?, &mut observers)?;
    Ok(loads.into_iter().map(|loads| loads.row(trace)).collect())
}

/// How loaded the devices of one layout are in each layer that is decided.
struct Loads<'a> {
    layout: String,
    homes: Vec<Homes>,
    devices: usize,
    switches: u32,
    bits: u8,
    times: &'a LayerTimes<'a>,
    known: HashMap<u32, u64>,
    /// Time of the most loaded device, layer by layer.
    longest: Vec<u64>,
    away_ps: u64,
    link_bytes: u64,
    imbalance: f64,
    stayed: u64,
    moved: u64,
    /// Devices at which each token was in the layer before, one bit each.
    before: Vec<u64>,
    wanted: Vec<(u16, u64)>,
}

impl<'a> Loads<'a> {
    fn new(layout: &Named, setup: &Setup<'_>, plan: &Plan<'_>, times: &'a LayerTimes<'a>) -> Self {
        Self {
            layout: layout.to_string(),
            homes: (layout.kind.make.0)(&layout.values, setup),
            devices: plan.devices,
            switches: plan.switches,
            bits: plan.bits,
            times,
            known: HashMap::new(),
            longest: Vec::new(),
            away_ps: 0,
            link_bytes: 0,
            imbalance: 0.0,
            stayed: 0,
            moved: 0,
            before: vec![0; plan.batch],
            wanted: Vec::new(),
        }
    }

    fn row(mut self, trace: &Trace) -> Row {
        let calls = self.longest.len().max(1) as f64;
        let mean = self.longest.iter().sum::<u64>() as f64 / calls;
        self.longest.sort_unstable();
        let stored: usize = self.homes.iter().flatten().map(Vec::len).sum();
        Row {
            layout: self.layout,
            layer_us: mean / 1e6,
            layer_p95_us: nearest_rank(&self.longest, 0.95) as f64 / 1e6,
            away_us: self.away_ps as f64 / calls / 1e6,
            link_bytes: self.link_bytes as f64 / calls,
            imbalance: self.imbalance / calls,
            stays: self.stayed as f64 / (self.stayed + self.moved).max(1) as f64,
            stored: stored as f64 / (trace.shape.layers * trace.shape.experts) as f64,
        }
    }
}

impl Loads<'_> {
    /// Counts the way to the devices and back, of a layer whose devices have so many tokens and so much work.
    fn trip(&mut self, tokens: &[u64], load: &[u64]) {
        let (link, model) = (self.times.system().link(), self.times.model());
        let activation = (model.activation_bytes() as u64).next_multiple_of(LINE_BYTES);
        let sent: u64 = tokens.iter().sum::<u64>() * activation + self.wanted.len() as u64 * LINE_BYTES;
        let there_ps = link.send(sent).serial_ps;
        let (last, longest) = load.iter().copied().enumerate().max_by_key(|&(_, load)| load).unwrap_or((0, 0));
        // Results of those that are done before pass meanwhile.
        let results_ps = link.send(tokens[last] * activation).serial_ps;
        let switches_ps = 2 * link.one_way_ps() * u64::from(self.switches);
        let ways_ps = link.one_way_ps() + link.back_ps() + switches_ps + link.launch_ps();
        self.away_ps += there_ps + ways_ps + longest + results_ps;
        self.link_bytes += link.wire_bytes(sent) + link.wire_bytes(tokens.iter().sum::<u64>() * activation);
    }
}

impl Observer for Loads<'_> {
    fn layer(&mut self, seen: &LayerOutcome<'_>) -> Result<()> {
        if seen.prefill {
            return Ok(());
        }
        let (bits, times) = (f64::from(self.bits), self.times);
        self.wanted.clear();
        for choice in seen.choices {
            let run = ExpertRun { bits, tokens: choice.tokens };
            let time = *self.known.entry(choice.tokens).or_insert_with(|| times.near_run_ps(run).round() as u64);
            self.wanted.push((choice.expert, time));
        }
        self.wanted.sort_by_key(|&(expert, time)| (std::cmp::Reverse(time), expert));
        let (at, load) = dispatched(&self.wanted, &self.homes[seen.layer], self.devices);
        let longest = load.iter().copied().max().unwrap_or(0);
        self.longest.push(longest);
        self.imbalance += longest as f64 * self.devices as f64 / load.iter().sum::<u64>().max(1) as f64;
        let mut tokens = vec![0_u64; self.devices];
        for (sequence, before) in self.before.iter_mut().enumerate() {
            let mut here = 0_u64;
            // What is left out runs on no device.
            for device in seen.chosen(sequence).iter().filter_map(|expert| at.get(expert)) {
                let device = 1_u64 << device;
                here |= device;
                self.stayed += u64::from(seen.layer > 0 && *before & device != 0);
                self.moved += u64::from(seen.layer > 0 && *before & device == 0);
            }
            (0..self.devices).for_each(|device| tokens[device] += here >> device & 1);
            *before = here;
        }
        self.trip(&tokens, &load);
        Ok(())
    }
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
