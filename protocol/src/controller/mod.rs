//! The engine: requests in, answers out.
//!
//! [`Controller::handle`] is the critical path: check, choose, say who goes, hand cold experts to the execution units.
//! [`Controller::idle`] is what comes after the answer: the update of the layer's tracker, and the units' queue. What a
//! request finds does not depend on how much idle time there was: `handle` does what `idle` has left over first.

mod answers;
mod configuration;
mod data;
mod decide;
mod events;
mod expected;
mod layer;
mod log;
mod pending;
mod snapshot;
#[cfg(test)]
mod tests;
mod token;

use core::mem::take;

use cptr_core::dispatch::{Job, MOST_BITS, Queue};
use cptr_core::{Gate, Logit, Metrics, Router};
use heapless::Vec;
use zerocopy::little_endian::{I32, U16, U32};

use crate::units::Units;
use crate::wire::{
    self, ALL_LAYERS, ANSWER, Body, Command, Frame, Head, Integrity, MAX_K, OVERHEAD, PART, Status, Writer,
};
use answers::Answers;
use configuration::Configuration;
pub use events::EVENTS;
use events::{Events, Reporting};
pub use expected::{Decided, Next, Placed, Policy};
pub use layer::Layer;
use log::{Event, Log};
use pending::Pending;
use snapshot::Restoring;

/// Jobs that may wait for the execution units: those of as many tokens as a request may have, eight each.
pub const QUEUE: usize = 128;

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

/// Ticks of each part of the work; sums saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ticks {
    select: u64,
    decide: u64,
    update: u64,
}

/// Bytes of an answer that is not kept: a refusal, or who is there.
const REPLY: usize = OVERHEAD + size_of::<wire::Identity>();

/// The controller: layers and answers in the caller's memory, a driver of the execution units, a counter of
/// instructions.
#[derive(Debug)]
pub struct Controller<'a, U, C, const E: usize, const W: usize> {
    layers: &'a mut [Layer<E, W>],
    /// Biases of the routers, layer by layer.
    bias: &'a mut [Logit],
    answers: Answers<'a>,
    units: U,
    counter: C,
    configuration: Option<Configuration>,
    generation: u32,
    /// 0: none has begun since the start.
    session: u32,
    /// Most tokens of a request.
    tokens: usize,
    pending: Pending,
    /// The layer that is being put back.
    restoring: Option<Restoring>,
    queue: Queue<[Job; QUEUE]>,
    events: Events,
    ticks: Ticks,
    jobs: u64,
    /// Tokens decided since the start, modulo 2^32.
    turn: u32,
    refused: u32,
    repeated: u32,
    log: Log,
    /// Logits of the last token, where its frame was not aligned.
    logits: [Logit; E],
    /// The last answer that is not kept.
    reply: [u8; REPLY],
}

/// Where an answer lies.
enum Answer {
    /// With those kept, of a queue.
    Kept(usize),
    /// In the reply, of so many bytes.
    Reply(usize),
}

impl<'a, U: Units, C: InstructionCounter, const E: usize, const W: usize> Controller<'a, U, C, E, W> {
    /// A controller for as many layers as there is memory for, of at most E experts ([`wire::MAX_EXPERTS`] count), and
    /// for as many queues as `answers` has memory for, each a [`max_answer`](wire::max_answer)`(E)`, at most
    /// [`MAX_QUEUES`](crate::region::MAX_QUEUES).
    pub const fn new(layers: &'a mut [Layer<E, W>], answers: &'a mut [u8], units: U, counter: C) -> Self {
        Self {
            layers,
            bias: &mut [],
            answers: Answers::new(answers, wire::max_answer(E)),
            units,
            counter,
            configuration: None,
            generation: 0,
            session: 0,
            tokens: 1,
            pending: Pending::NOTHING,
            restoring: None,
            queue: Queue::new(),
            events: Events::new(),
            ticks: Ticks { select: 0, decide: 0, update: 0 },
            jobs: 0,
            turn: 0,
            refused: 0,
            repeated: 0,
            log: Log::new(),
            logits: [Logit::ZERO; E],
            reply: [0; REPLY],
        }
    }

    /// With memory for the biases of routers, one entry for each expert of each layer that has one; without,
    /// configurations with a bias are refused.
    #[must_use]
    pub const fn with_bias(mut self, memory: &'a mut [Logit]) -> Self {
        self.bias = memory;
        self
    }

    /// With memory in the place of each answer for the decisions of so many tokens, 1 to [`wire::MAX_TOKENS`], which a
    /// request may have: each a [`max_answer_of`](wire::max_answer_of) them.
    #[must_use]
    pub const fn with_tokens(mut self, most: usize) -> Self {
        self.tokens = if most > wire::MAX_TOKENS {
            wire::MAX_TOKENS
        } else if most > 0 {
            most
        } else {
            1
        };
        self.answers.resize(wire::max_answer_of(E, self.tokens));
        self
    }

    /// With a number that is another one after each start: that of the [region](crate::region), a count of starts in
    /// memory that survives, a random number. Without, a reset that was on its way while the device started anew would
    /// begin its session.
    #[must_use]
    pub const fn with_generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }

    /// Answers a request, whatever its bytes, with a frame.
    ///
    /// A request that is refused changes nothing but the count of refusals; one that comes again gets the answer that
    /// was kept, and changes nothing but the count of those.
    pub fn handle(&mut self, request: &[u8]) -> &[u8] {
        self.handle_from(request, Integrity::Checksum)
    }

    /// [`handle`](Self::handle), over a link.
    pub fn handle_from(&mut self, request: &[u8], integrity: Integrity) -> &[u8] {
        self.handle_decided(request, integrity, None)
    }

    /// [`handle_from`](Self::handle_from), of a token that hardware has decided, with what it has decided for each
    /// rank. That is believed: distinct experts of the layer, weights of those that run.
    pub fn handle_decided(&mut self, request: &[u8], integrity: Integrity, decided: Option<&[Decided]>) -> &[u8] {
        self.idle();
        let (head, result) = match Frame::open_from(request, integrity) {
            Err((status, head)) => (head, Err(status)),
            Ok(frame) => (frame.head(), self.answer(frame, integrity, decided)),
        };
        match result {
            Ok(Answer::Kept(queue)) => self.answers.kept(queue),
            Ok(Answer::Reply(length)) => self.reply.get(..length).unwrap_or_default(),
            Err(status) => {
                self.refused = self.refused.saturating_add(1);
                self.log.note(Event::Refused { kind: head.kind, sequence: head.sequence, status });
                Writer::new(&mut self.reply).finish_for(answer_to(head), status, integrity)
            }
        }
    }

    /// Does what can wait until after the answer; returns whether there was anything to do.
    pub fn idle(&mut self) -> bool {
        self.log.write();
        let finished = self.queue.advance(&mut Reporting { units: &mut self.units, events: &mut self.events });
        self.jobs = self.jobs.saturating_add(finished as u64);
        let (false, Some(configuration)) = (self.pending.is_empty(), &self.configuration) else {
            return finished > 0;
        };
        self.pending.learn(self.layers, &configuration.tracker, &self.counter, &mut self.ticks);
        true
    }

    /// Events so far, modulo 2^32.
    pub const fn events(&self) -> u32 {
        self.events.count
    }

    /// Jobs that have not ended.
    pub fn outstanding(&self) -> usize {
        self.queue.outstanding()
    }

    /// Whether a session may follow the one there is.
    const fn follows(&self, session: u32) -> bool {
        session != 0 && (self.session == 0 || session.wrapping_sub(self.session) as i32 > 0)
    }

    /// Answers a frame that is whole.
    fn answer(
        &mut self,
        frame: Frame<'_>,
        integrity: Integrity,
        decided: Option<&[Decided]>,
    ) -> Result<Answer, Status> {
        let (head, command) = (frame.head(), Command::try_from(frame.header.kind)?);
        let queue = usize::from(head.queue);
        if frame.header.status != 0 || queue >= self.answers.queues() {
            return Err(Status::Value);
        }
        if command == Command::Identify {
            return self.identify(head, frame.body, integrity);
        }
        if head.session != self.session || self.session == 0 {
            let begins = command == Command::Reset && head.queue == 0 && head.sequence == 0;
            if !begins || !self.follows(head.session) {
                return Err(Status::Session);
            }
            let mut body = frame.body;
            let descriptor = body.take::<wire::Reset>()?;
            body.end()?;
            if descriptor.generation.get() != self.generation {
                return Err(Status::Session);
            }
            self.reset(head.session);
        } else if self.answers.repeats(queue, head.sequence, frame.checksum) {
            self.repeated = self.repeated.saturating_add(1);
            return Ok(Answer::Kept(queue));
        } else if command == Command::Reset {
            return Err(Status::Session);
        } else if head.sequence != self.answers.next(queue) {
            return Err(Status::Sequence);
        }
        let memory = take(&mut self.answers.memory);
        let mut writer = Writer::new(self.answers.place(memory, queue));
        let done = self.execute(command, frame.body, &mut writer, decided);
        let length = done.map(|()| writer.finish_for(answer_to(head), Status::Done, integrity).len());
        self.answers.memory = memory;
        self.answers.keep(queue, head.sequence, frame.checksum, length?);
        Ok(Answer::Kept(queue))
    }

    /// Does what is asked. Writes nothing before it is sure that it can be done.
    fn execute(
        &mut self,
        command: Command,
        body: Body<'_>,
        answer: &mut Writer<'_>,
        decided: Option<&[Decided]>,
    ) -> Result<(), Status> {
        match command {
            Command::Identify | Command::Reset => Ok(()),
            Command::Configure => self.configure(body),
            Command::Prefill => self.prefill(body),
            Command::Place => self.place(body, answer),
            Command::Token => self.token(body, answer, decided),
            Command::Counters => self.counters(body, answer),
            Command::Bias => self.bias(body),
            Command::Events => self.take_events(body, answer),
            Command::Snapshot => self.snapshot(body, answer),
            Command::Restore => self.restore(body),
            Command::Write => data::write(self.units.memory(), body),
            Command::Read => data::read(self.units.memory(), body, answer),
        }
    }

    fn identify(&mut self, head: Head, body: Body<'_>, integrity: Integrity) -> Result<Answer, Status> {
        body.end()?;
        let limit = |value: usize, most: usize| U16::new(value.min(most) as u16);
        let mut writer = Writer::new(&mut self.reply);
        writer.put(&wire::Identity {
            layers: limit(self.layers.len(), usize::from(ALL_LAYERS)),
            experts: limit(E, wire::MAX_EXPERTS),
            k: MAX_K as u8,
            counts: u8::from(C::BITS > 0),
            jobs: limit(QUEUE, usize::from(u16::MAX)),
            session: self.session.into(),
            generation: self.generation.into(),
            lines: data::lines(self.units.memory()).into(),
            queues: self.answers.queues() as u8,
            tokens: self.tokens as u8,
            reserved: [0; 2],
        });
        Ok(Answer::Reply(writer.finish_for(answer_to(head), Status::Done, integrity).len()))
    }

    /// Begins a session: nothing is left of the one before. Jobs that run are not stopped, and nobody hears of them.
    fn reset(&mut self, session: u32) {
        self.session = session;
        self.configuration = None;
        self.pending.clear();
        self.restoring = None;
        self.answers.clear();
        self.queue.clear();
        self.events.clear(self.turn);
    }

    fn take_events(&mut self, body: Body<'_>, answer: &mut Writer<'_>) -> Result<(), Status> {
        body.end()?;
        for _ in 0..wire::max_events(E) {
            let Some(event) = self.events.waiting.pop_front() else { break };
            answer.put(&event);
        }
        Ok(())
    }

    fn snapshot(&mut self, mut body: Body<'_>, answer: &mut Writer<'_>) -> Result<(), Status> {
        let descriptor = body.take::<wire::Part>()?;
        body.end()?;
        let configuration = self.configuration.as_ref().ok_or(Status::Order)?;
        let layer = layer(self.layers, configuration, descriptor.layer)?;
        if layer.partial() {
            return Err(Status::Order);
        }
        let words = layer.part(descriptor.part.get().into()).ok_or(Status::Value)?;
        words.iter().for_each(|&word| answer.put(&U32::new(word)));
        Ok(())
    }

    fn restore(&mut self, mut body: Body<'_>) -> Result<(), Status> {
        let descriptor = body.take::<wire::Part>()?;
        let mut words = Vec::<u32, PART>::new();
        while !body.rest().is_empty() {
            words.push(body.take::<U32>()?.get()).map_err(|_| Status::Length)?;
        }
        let configuration = self.configuration.as_ref().ok_or(Status::Order)?;
        let layer = layer(self.layers, configuration, descriptor.layer)?;
        layer.restore(*descriptor, &words, MOST_BITS, &mut self.restoring)
    }

    fn configure(&mut self, mut body: Body<'_>) -> Result<(), Status> {
        let descriptor = body.take::<wire::Configure>()?;
        body.end()?;
        if self.configuration.is_some() {
            return Err(Status::Order);
        }
        let configuration =
            Configuration::new(descriptor, self.layers.len(), E.min(wire::MAX_EXPERTS), self.bias.len())?;
        if configuration.replicas > 0 && configuration.replicas >= data::lines(self.units.memory()) {
            return Err(Status::Value);
        }
        self.units.configure(configuration.replicas);
        for layer in self.layers.iter_mut().take(configuration.layers) {
            layer.clear(configuration.experts, configuration.bits);
        }
        (self.ticks, self.jobs) = (Ticks::default(), 0);
        self.events.wanted = configuration.events;
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
        let memory = self.bias.get_mut(usize::from(descriptor.layer.get()).saturating_mul(configuration.experts)..);
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
            failed: self.events.failed.into(),
            repeated: self.repeated.into(),
        });
        Ok(())
    }
}

/// What the answer to a frame is of.
const fn answer_to(head: Head) -> Head {
    Head { kind: head.kind | ANSWER, ..head }
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

/// Fills an empty list with ids.
fn list(ids: &[U16], list: &mut Vec<u16, MAX_K>) -> Result<(), Status> {
    ids.iter().try_for_each(|id| list.push(id.get())).map_err(|_| Status::Length)
}

/// Fills an empty list with distinct ids below `count`.
fn experts(ids: &[U16], count: usize, list: &mut Vec<u16, MAX_K>) -> Result<(), Status> {
    self::list(ids, list)?;
    Router::check_ids(list, count).map_err(|_| Status::Id)
}

pub(crate) fn flag(value: u8) -> Result<bool, Status> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Status::Value),
    }
}

// The body of every answer fits its place.
const _: () = assert!(wire::max_answer(0) >= OVERHEAD + size_of::<wire::Counters>());
const _: () = assert!(wire::max_answer(0) >= OVERHEAD + 4 * PART && wire::max_events(0) > 0);
