//! The engine: requests in, answers out.
//!
//! [`Controller::handle`] is the critical path: check, choose, say who goes, hand cold experts to the execution units.
//! [`Controller::idle`] is what comes after the answer: the update of the layer's tracker, and the units' queue. What a
//! request finds does not depend on how much idle time there was: `handle` does what `idle` has left over first.

mod configuration;
mod layer;
mod log;
#[cfg(test)]
mod tests;
mod token;

use cptr_core::dispatch::{Busy, ExecutionUnits, Job, Queue};
use cptr_core::{Gate, Logit, Metrics, Router};
use heapless::Vec;
use zerocopy::little_endian::{I32, U16, U32};

use crate::wire::{self, ALL_LAYERS, ANSWER, Body, Command, Frame, MAX_K, OVERHEAD, Status, Writer};
use configuration::Configuration;
pub use layer::Layer;
use log::{Event, Log};
use token::Turn;

/// Jobs that may wait for the execution units.
pub const QUEUE: usize = 64;

/// A counter of the instructions that the processor has executed.
pub trait InstructionCounter {
    /// Bits after which it wraps, at most 63; 0: nothing is counted.
    const BITS: u32;

    /// Its value.
    fn ticks(&self) -> u64;

    /// Instructions in a number of ticks.
    fn instructions(ticks: u64) -> u64;
}

/// No counter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uncounted;

impl InstructionCounter for Uncounted {
    const BITS: u32 = 0;

    fn ticks(&self) -> u64 {
        0
    }

    fn instructions(_: u64) -> u64 {
        0
    }
}

/// Execution units in place of a device's: done with every job when they are asked for the next time.
#[derive(Debug, Clone, Default)]
pub struct Untimed {
    running: Vec<Job, MAX_K>,
}

impl ExecutionUnits for Untimed {
    fn submit(&mut self, job: &Job) -> Result<(), Busy> {
        self.running.push(*job).map_err(|_| Busy)
    }

    fn poll(&mut self) -> Option<Job> {
        self.running.pop()
    }
}

/// Ticks of each part of the work; sums saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ticks {
    select: u64,
    decide: u64,
    update: u64,
}

/// What is left to do for the last token.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pending {
    /// `None`: nothing.
    layer: Option<usize>,
    wanted: Vec<u16, MAX_K>,
}

/// The controller: layers in the caller's memory, a driver of the execution units, a counter of instructions.
#[derive(Debug)]
pub struct Controller<'a, U, C, const E: usize, const W: usize> {
    layers: &'a mut [Layer<E, W>],
    /// Biases of the routers, layer by layer.
    bias: &'a mut [Logit],
    units: U,
    counter: C,
    configuration: Option<Configuration>,
    /// Sequence number that the next request must have; `None` after the start.
    next: Option<u32>,
    pending: Pending,
    queue: Queue<[Job; QUEUE]>,
    ticks: Ticks,
    jobs: u64,
    refused: u32,
    log: Log,
    /// Logits of the last token.
    logits: [Logit; E],
}

impl<'a, U: ExecutionUnits, C: InstructionCounter, const E: usize, const W: usize> Controller<'a, U, C, E, W> {
    /// A controller for as many layers as there is memory for, of at most E experts ([`wire::MAX_EXPERTS`] count).
    pub const fn new(layers: &'a mut [Layer<E, W>], units: U, counter: C) -> Self {
        Self {
            layers,
            bias: &mut [],
            units,
            counter,
            configuration: None,
            next: None,
            pending: Pending { layer: None, wanted: Vec::new() },
            queue: Queue::new(),
            ticks: Ticks { select: 0, decide: 0, update: 0 },
            jobs: 0,
            refused: 0,
            log: Log::new(),
            logits: [Logit::ZERO; E],
        }
    }

    /// With memory for the biases of routers, one entry for each expert of each layer that has one; without,
    /// configurations with a bias are refused.
    #[must_use]
    pub const fn with_bias(mut self, memory: &'a mut [Logit]) -> Self {
        self.bias = memory;
        self
    }

    /// Answers a request, whatever its bytes. Writes a frame to `answer` and returns its length: 0 if not even a
    /// refusal fits.
    ///
    /// A request that is refused changes nothing but the count of refusals.
    pub fn handle(&mut self, request: &[u8], answer: &mut [u8]) -> usize {
        self.idle();
        let room = answer.len();
        let mut writer = Writer::new(answer);
        let (kind, sequence, result) = match Frame::open(request) {
            Err((status, sequence)) => (0, sequence, Err(status)),
            Ok(Frame { header, .. }) if room < wire::max_answer(E) => {
                (header.kind, header.sequence.get(), Err(Status::Length))
            }
            Ok(frame) => (frame.header.kind, frame.header.sequence.get(), self.execute(frame, &mut writer)),
        };
        let status = result.err().unwrap_or(Status::Done);
        if status != Status::Done {
            writer.clear();
            self.refused = self.refused.saturating_add(1);
            self.log.note(Event::Refused { kind, sequence, status });
        }
        writer.finish(kind | ANSWER, sequence, status).len()
    }

    /// Does what can wait until after the answer; returns whether there was anything to do.
    pub fn idle(&mut self) -> bool {
        self.log.write();
        let finished = self.queue.advance(&mut self.units);
        self.jobs = self.jobs.saturating_add(finished as u64);
        let (Some(layer), Some(configuration)) = (self.pending.layer.take(), &self.configuration) else {
            return finished > 0;
        };
        let begin = self.counter.ticks();
        let known = self.layers.get_mut(layer);
        let lost_lock = known.is_some_and(|layer| layer.update(&configuration.tracker, &self.pending.wanted));
        self.ticks.update = self.ticks.update.saturating_add(elapsed::<C>(begin, self.counter.ticks()));
        if lost_lock {
            Log::lost_lock(layer);
        }
        true
    }

    fn execute(&mut self, frame: Frame<'_>, answer: &mut Writer<'_>) -> Result<(), Status> {
        let Frame { header, body } = frame;
        let (command, sequence) = (Command::try_from(header.kind)?, header.sequence.get());
        if header.status.get() != 0 {
            return Err(Status::Value);
        }
        let counts = !matches!(command, Command::Identify | Command::Reset);
        if counts && self.next.is_some_and(|next| next != sequence) {
            return Err(Status::Sequence);
        }
        match command {
            Command::Identify => return self.identify(body, answer),
            Command::Reset => self.reset(body)?,
            Command::Configure => self.configure(body)?,
            Command::Prefill => self.prefill(body)?,
            Command::Place => self.place(body, answer)?,
            Command::Token => self.token(sequence, body, answer)?,
            Command::Counters => self.counters(body, answer)?,
            Command::Bias => self.bias(body)?,
        }
        self.next = Some(sequence.wrapping_add(1));
        Ok(())
    }

    fn identify(&self, body: Body<'_>, answer: &mut Writer<'_>) -> Result<(), Status> {
        body.end()?;
        let limit = |value: usize, most: usize| U16::new(value.min(most) as u16);
        answer.put(&wire::Identity {
            layers: limit(self.layers.len(), usize::from(ALL_LAYERS)),
            experts: limit(E, wire::MAX_EXPERTS),
            k: MAX_K as u8,
            counts: u8::from(C::BITS > 0),
            queue: limit(QUEUE, usize::from(u16::MAX)),
        });
        Ok(())
    }

    fn reset(&mut self, body: Body<'_>) -> Result<(), Status> {
        body.end()?;
        self.configuration = None;
        self.queue.clear();
        Ok(())
    }

    fn configure(&mut self, mut body: Body<'_>) -> Result<(), Status> {
        let descriptor = body.take::<wire::Configure>()?;
        body.end()?;
        if self.configuration.is_some() {
            return Err(Status::Order);
        }
        let configuration =
            Configuration::new(descriptor, self.layers.len(), E.min(wire::MAX_EXPERTS), self.bias.len())?;
        for layer in self.layers.iter_mut().take(configuration.layers) {
            layer.clear(configuration.experts, configuration.bits);
        }
        (self.ticks, self.jobs) = (Ticks::default(), 0);
        self.configuration = Some(configuration);
        self.log.note(Event::Configured {
            layers: descriptor.layers.get(),
            experts: descriptor.experts.get(),
            k: descriptor.k,
            capacity: descriptor.capacity.get(),
            on_demand: configuration.on_demand,
        });
        Ok(())
    }

    fn bias(&mut self, mut body: Body<'_>) -> Result<(), Status> {
        let descriptor = body.take::<wire::Bias>()?;
        let bias = body.take_all::<I32>(descriptor.experts.get().into())?;
        body.end()?;
        let configuration = self.configuration.filter(|known| known.biased).ok_or(Status::Order)?;
        if bias.len() != configuration.experts {
            return Err(Status::Length);
        }
        layer(self.layers, &configuration, descriptor.layer)?.set_biased();
        let memory = self.bias.get_mut(usize::from(descriptor.layer.get()) * configuration.experts..);
        let memory = memory.unwrap_or_default();
        memory.iter_mut().zip(bias).for_each(|(to, from)| *to = Logit::from_bits(from.get()));
        Ok(())
    }

    fn prefill(&mut self, mut body: Body<'_>) -> Result<(), Status> {
        let descriptor = body.take::<wire::Prefill>()?;
        let (count, weighted) = (usize::from(descriptor.count), flag(descriptor.weighted)?);
        let ids = body.take_all::<U16>(count)?;
        let weights = body.take_all::<U32>(if weighted { count } else { 0 })?;
        body.end()?;
        let configuration = self.configuration.filter(|known| !known.on_demand).ok_or(Status::Order)?;
        let layer = layer(self.layers, &configuration, descriptor.layer)?;
        if count > configuration.router.k() {
            return Err(Status::Length);
        }
        let mut chosen = Vec::new();
        experts(ids, configuration.experts, &mut chosen)?;
        let mut values = [Gate::ZERO; MAX_K];
        for (value, weight) in values.iter_mut().zip(weights) {
            *value = Some(Gate::from_bits(weight.get())).filter(|&weight| weight <= Gate::ONE).ok_or(Status::Value)?;
        }
        layer.observe(&chosen, values.get(..weights.len()).unwrap_or_default());
        Ok(())
    }

    fn place(&mut self, mut body: Body<'_>, answer: &mut Writer<'_>) -> Result<(), Status> {
        let descriptor = body.take::<wire::Place>()?;
        body.end()?;
        let configuration = self.configuration.ok_or(Status::Order)?;
        let layer = layer(self.layers, &configuration, descriptor.layer)?;
        layer.place(descriptor, configuration, answer)?;
        self.log.note(Event::Placed { layer: descriptor.layer.get(), hot: descriptor.hot.get() });
        Ok(())
    }

    fn token(&mut self, sequence: u32, body: Body<'_>, answer: &mut Writer<'_>) -> Result<(), Status> {
        let begin = self.counter.ticks();
        let configuration = self.configuration.as_ref().ok_or(Status::Order)?;
        let logits = self.logits.get_mut(..configuration.experts).ok_or(Status::Capacity)?;
        let mut turn = Turn::default();
        let given = turn.read(body, configuration, logits)?;
        let layer = layer(self.layers, configuration, turn.layer)?;
        if !configuration.on_demand && !layer.placed() || configuration.biased && !layer.biased() {
            return Err(Status::Order);
        }
        let mut router = configuration.router;
        if configuration.biased {
            let bias = self.bias.get(usize::from(turn.layer.get()) * configuration.experts..);
            router.bias = bias.and_then(|bias| bias.get(..configuration.experts)).unwrap_or_default();
        }
        turn.want(&router, given, logits)?;
        let before = self.counter.ticks();
        turn.choose(&router, configuration, logits, layer.resident())?;
        let select = elapsed::<C>(before, self.counter.ticks());
        turn.dispatch(&router, logits, layer, sequence)?;
        // The last thing that can be refused: from here on the state changes.
        self.queue.push(&turn.jobs).map_err(|_| Status::Busy)?;
        layer.count(&turn.chosen, turn.substituted, turn.starts_sequence, router.null_experts);
        let mut loads = Vec::<_, MAX_K>::new();
        if configuration.on_demand {
            layer.load(&turn.chosen, configuration.capacity, &router, &mut loads);
        }
        self.pending.layer = Some(usize::from(turn.layer.get()));
        self.pending.wanted.clone_from(&turn.wanted);
        let decide = elapsed::<C>(begin, self.counter.ticks());
        self.ticks.select = self.ticks.select.saturating_add(select);
        self.ticks.decide = self.ticks.decide.saturating_add(decide);
        let [select_instructions, decide_instructions] =
            [select, decide].map(|ticks| U32::new(u32::try_from(C::instructions(ticks)).unwrap_or(u32::MAX)));
        answer.put(&wire::Decision {
            layer: turn.layer,
            runs: turn.runs.len() as u8,
            substituted: turn.substituted as u8,
            loads: loads.len() as u8,
            reserved: [0; 3],
            select_instructions,
            decide_instructions,
        });
        answer.put(&turn.runs[..]);
        answer.put(&loads[..]);
        Ok(())
    }

    fn counters(&mut self, mut body: Body<'_>, answer: &mut Writer<'_>) -> Result<(), Status> {
        let layer = *body.take::<U16>()?;
        body.end()?;
        let count = self.configuration.as_ref().ok_or(Status::Order)?.layers;
        let layers = match usize::from(layer.get()) {
            _ if layer.get() == ALL_LAYERS => self.layers.get(..count),
            index if index < count => self.layers.get(index..=index),
            _ => None,
        };
        let layers = layers.ok_or(Status::Layer)?;
        let sum = |value: fn(&Metrics) -> u64| {
            layers.iter().map(|layer| value(layer.metrics())).fold(0u64, u64::saturating_add).into()
        };
        answer.put(&wire::Counters {
            tokens: sum(|m| m.tokens),
            runs: sum(|m| m.runs),
            misses: sum(|m| m.misses),
            substituted: sum(|m| m.substituted),
            runs_with_predecessor: sum(|m| m.runs_with_predecessor),
            switches: sum(|m| m.switches),
            lost_locks: sum(|m| m.lost_locks),
            select_instructions: C::instructions(self.ticks.select).into(),
            decide_instructions: C::instructions(self.ticks.decide).into(),
            update_instructions: C::instructions(self.ticks.update).into(),
            jobs: self.jobs.into(),
            outstanding: (self.queue.outstanding() as u32).into(),
            refused: self.refused.into(),
        });
        Ok(())
    }
}

/// The layer of a number.
fn layer<'l, const E: usize, const W: usize>(
    layers: &'l mut [Layer<E, W>],
    configuration: &Configuration,
    index: U16,
) -> Result<&'l mut Layer<E, W>, Status> {
    let layers = layers.get_mut(..configuration.layers);
    layers.and_then(|layers| layers.get_mut(usize::from(index.get()))).ok_or(Status::Layer)
}

/// Ticks from one reading of a counter to a later one.
fn elapsed<C: InstructionCounter>(from: u64, to: u64) -> u64 {
    to.wrapping_sub(from) & ((1 << C::BITS) - 1)
}

/// Fills an empty list with distinct ids below `count`.
fn experts(ids: &[U16], count: usize, list: &mut Vec<u16, MAX_K>) -> Result<(), Status> {
    for id in ids {
        list.push(id.get()).map_err(|_| Status::Length)?;
    }
    Router::check_ids(list, count).map_err(|_| Status::Id)
}

pub(crate) fn flag(value: u8) -> Result<bool, Status> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Status::Value),
    }
}

// The body of every answer fits what `handle` asks for.
const _: () = assert!(wire::max_answer(0) >= OVERHEAD + size_of::<wire::Counters>());
