//! The host's side of the protocol: one request at a time, checked answers.

use cptr_core::{Eps, Gain, Gate, Logit};
use cptr_protocol::wire::{self, Command, Head, Integrity, Status, Verdict, Writer, judge_from};
use zerocopy::little_endian::{I32, U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, KnownLayout, Unaligned};

use super::Routers;
use crate::strategy::residency::Gains;
use crate::strategy::{Strategy, select};
use cptr_trace::Shape;
use cptr_trace::error::{Error, Result};

/// Carries a request to a controller and its answer back.
pub(super) trait Link {
    /// The answer to a frame.
    fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>>;

    /// What keeps frames whole on it.
    fn integrity(&self) -> Integrity {
        Integrity::Checksum
    }

    /// For how long its units have been busy, where they are timed.
    fn busy_ns(&self) -> Option<u64> {
        None
    }
}

/// A controller's answer to a token.
pub(super) struct Decision {
    pub(super) runs: Vec<wire::Run>,
    pub(super) loads: Vec<wire::Load>,
}

/// How often a request is sent whose answer comes damaged.
const TURNS: usize = 3;

/// Where a controller that runs experts has what they need: lines of its memory. All 0 without.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Places {
    pub(super) replicas: u32,
    pub(super) activation: u32,
    pub(super) result: u32,
}

/// A conversation with a controller.
pub(super) struct Session<'a> {
    link: &'a mut dyn Link,
    buffer: Vec<u8>,
    /// What the controller can hold, once it was asked.
    limits: wire::Identity,
    places: Places,
    session: u32,
    sequence: u32,
    requests: u64,
    /// Tokens that it has decided without an instruction, though it counts them.
    in_hardware: u64,
}

/// A controller that does not keep to the protocol.
fn broken(what: &str) -> Error {
    Error::new(format!("the controller's answer {what}"))
}

/// An array at the start of `bytes`, and what follows it.
fn array<'a, T>(bytes: &'a [u8], count: usize) -> Result<(Vec<T>, &'a [u8])>
where
    T: FromBytes + Immutable + Unaligned + KnownLayout + Copy + 'a,
{
    let (values, rest) = <[T]>::ref_from_prefix_with_elems(bytes, count).map_err(|_| broken("is too short"))?;
    Ok((values.to_vec(), rest))
}

impl<'a> Session<'a> {
    pub(super) fn new(link: &'a mut dyn Link) -> Self {
        let buffer = vec![0; wire::max_request(wire::MAX_EXPERTS)];
        let (limits, places) = (wire::Identity::new_zeroed(), Places::default());
        Self { link, buffer, limits, places, session: 0, sequence: 0, requests: 0, in_hardware: 0 }
    }

    /// What is asked for from here on lies in the controller's memory.
    pub(super) const fn set_places(&mut self, places: Places) {
        self.places = places;
    }

    /// Requests answered so far.
    pub(super) const fn requests(&self) -> u64 {
        self.requests
    }

    /// Tokens and layers that hardware has decided.
    pub(super) const fn in_hardware(&self) -> u64 {
        self.in_hardware
    }

    /// For how long the controller's units have been busy, where they are timed.
    pub(super) fn busy_ns(&self) -> Option<u64> {
        self.link.busy_ns()
    }

    /// Whether the controller counts instructions.
    pub(super) const fn counts(&self) -> bool {
        self.limits.counts != 0
    }

    /// Sends a request and returns the body of its answer.
    fn request(&mut self, command: Command, body: impl FnOnce(&mut Writer<'_>)) -> Result<Vec<u8>> {
        let mut writer = Writer::new(&mut self.buffer);
        body(&mut writer);
        let head = Head { kind: command as u8, queue: 0, session: self.session, sequence: self.sequence };
        let integrity = self.link.integrity();
        let request = writer.finish_for(head, Status::Done, integrity);
        // What is asked again is not done again.
        for _ in 0..TURNS {
            let answer = self.link.exchange(request)?;
            match judge_from(head, &answer, integrity) {
                Verdict::Done(body) => {
                    // Who is there is asked before there is a session.
                    self.sequence = if command == Command::Identify { 0 } else { self.sequence.wrapping_add(1) };
                    self.requests += 1;
                    return Ok(body.rest().to_vec());
                }
                Verdict::Refused(status) => {
                    return Err(Error::new(format!("the controller refuses a request: {status}")));
                }
                Verdict::Lost => return Err(Error::new("the controller has started anew, or serves another host")),
                Verdict::Again | Verdict::Other => {}
            }
        }
        Err(broken(&format!("is damaged, or to another request, {TURNS} times")))
    }

    /// As [`request`](Self::request), for an answer that is one descriptor.
    fn descriptor<T: FromBytes>(&mut self, command: Command, body: impl FnOnce(&mut Writer<'_>)) -> Result<T> {
        let answer = self.request(command, body)?;
        T::read_from_bytes(&answer).map_err(|_| broken("has another length than its descriptor"))
    }

    /// Asks what the controller can hold, and begins a session.
    pub(super) fn begin(&mut self) -> Result<wire::Identity> {
        self.limits = self.descriptor(Command::Identify, |_| ())?;
        let limits = self.limits;
        self.session = limits.session.get().wrapping_add(1).max(1);
        self.request(Command::Reset, |body| body.put(&wire::Reset { generation: limits.generation }))?;
        Ok(limits)
    }

    /// Tells a controller whose session has begun the model and the policy.
    pub(super) fn configure(
        &mut self,
        shape: Shape,
        routers: &Routers,
        strategy: &Strategy,
        capacity: usize,
        bits: u8,
    ) -> Result<()> {
        let limits = self.limits;
        let fits = shape.layers <= usize::from(limits.layers.get())
            && shape.experts <= usize::from(limits.experts.get())
            && shape.k <= usize::from(limits.k);
        if !fits {
            return Err(Error::new(format!(
                "--controller: expected at most {} layers of {} experts and {} experts per token, found {}, {} and {}",
                limits.layers, limits.experts, limits.k, shape.layers, shape.experts, shape.k
            )));
        }
        // Trackers of placed experts run at their defaults: nobody is evicted, but losses of lock are counted.
        let on_demand = strategy.residency.kind.name == "tracked";
        let tracker = Gains::of(on_demand.then_some(&strategy.residency.values));
        let bounds = select::bounds(&strategy.select.values);
        let gain = |gain: f64| Gain::from_num(gain).to_bits().into();
        // All below their limits: sizes were compared, values are in their parameters' ranges.
        let mut descriptor = wire::Configure {
            layers: (shape.layers as u16).into(),
            experts: (shape.experts as u16).into(),
            keep: strategy.select.values.get("keep") as u8,
            on_demand: on_demand.into(),
            capacity: (capacity as u16).into(),
            bits,
            threshold: tracker.threshold,
            eps: bounds.mass.to_bits().into(),
            bounds_error: bounds.error.is_some().into(),
            error: bounds.error.unwrap_or(Eps::MAX).to_bits().into(),
            slow: gain(tracker.slow),
            reopened: gain(tracker.reopened),
            fast: gain(tracker.fast),
            events: (self.places.replicas > 0).into(),
            replicas: self.places.replicas.into(),
            ..wire::Configure::new_zeroed()
        };
        descriptor.set_router(&routers.layer(0));
        self.request(Command::Configure, |body| body.put(&descriptor))?;
        for layer in (0..shape.layers).filter(|_| descriptor.bias_place != 0) {
            let bias = routers.layer(layer).bias;
            self.request(Command::Bias, |body| {
                body.put(&wire::Bias { layer: (layer as u16).into(), experts: (shape.experts as u16).into() });
                bias.iter().for_each(|bias| body.put(&I32::new(bias.to_bits())));
            })?;
        }
        Ok(())
    }

    /// Says what a token of the prompt chose in a layer.
    pub(super) fn prefill(&mut self, layer: usize, chosen: &[u16], weights: &[Gate]) -> Result<()> {
        let answer = self.request(Command::Prefill, |body| {
            body.put(&wire::Prefill { layer: (layer as u16).into(), count: chosen.len() as u8, weighted: 1 });
            chosen.iter().for_each(|&expert| body.put(&U16::new(expert)));
            weights.iter().for_each(|weight| body.put(&U32::new(weight.to_bits())));
        })?;
        if answer.is_empty() { Ok(()) } else { Err(broken("is too long")) }
    }

    /// Has a layer's experts placed; returns the hot ones, the most important first.
    pub(super) fn place(&mut self, layer: usize, hot: usize, alpha: Eps, split: [u16; 4]) -> Result<Vec<u16>> {
        let descriptor = wire::Place {
            layer: (layer as u16).into(),
            hot: (hot as u16).into(),
            alpha: alpha.to_bits().into(),
            split: split.map(U16::new),
        };
        let answer = self.request(Command::Place, |body| body.put(&descriptor))?;
        let (ids, rest) = array::<U16>(&answer, hot)?;
        if rest.is_empty() { Ok(ids.into_iter().map(U16::get).collect()) } else { Err(broken("is too long")) }
    }

    /// Has a token's experts of a layer decided, after the loads of experts that the layer was told to load.
    pub(super) fn token(
        &mut self,
        layer: usize,
        logits: &[Logit],
        wanted: &[u16],
        starts_sequence: bool,
        loaded: &[u16],
    ) -> Result<Decision> {
        let places = self.places;
        let answer = self.request(Command::Token, |body| {
            body.put(&wire::Token {
                layer: (layer as u16).into(),
                experts: (logits.len() as u16).into(),
                wanted: wanted.len() as u8,
                starts_sequence: starts_sequence.into(),
                loaded: loaded.len() as u8,
                failed: 0,
                activation: places.activation.into(),
                result: places.result.into(),
            });
            logits.iter().for_each(|logit| body.put(&I32::new(logit.to_bits())));
            wanted.iter().chain(loaded).for_each(|&expert| body.put(&U16::new(expert)));
        })?;
        let (head, rest) = wire::Decision::read_from_prefix(&answer).map_err(|_| broken("is too short"))?;
        let (runs, rest) = array(rest, head.runs.into())?;
        let (loads, rest) = array(rest, head.loads.into())?;
        if usize::from(head.layer.get()) != layer || !rest.is_empty() {
            return Err(broken("is not of its request's layer, or too long"));
        }
        self.in_hardware += u64::from(self.counts() && head.decide_instructions.get() == 0);
        Ok(Decision { runs, loads })
    }

    /// Writes whole lines into the controller's memory.
    pub(super) fn write(&mut self, line: u32, bytes: &[u8]) -> Result<()> {
        let most = wire::max_lines(self.limits.experts.get().into());
        for (lines, line) in bytes.chunks(most * wire::LINE).zip((line..).step_by(most)) {
            self.request(Command::Write, |body| {
                body.put(&wire::Write { line: line.into() });
                body.put(lines);
            })?;
        }
        Ok(())
    }

    /// Lines of the controller's memory.
    pub(super) fn read(&mut self, line: u32, lines: usize) -> Result<Vec<u8>> {
        let most = wire::max_lines(self.limits.experts.get().into());
        let mut bytes = Vec::with_capacity(lines * wire::LINE);
        while bytes.len() < lines * wire::LINE {
            let done = bytes.len() / wire::LINE;
            let descriptor = wire::Read {
                line: (line + done as u32).into(),
                lines: (most.min(lines - done) as u16).into(),
                reserved: 0.into(),
            };
            let answer = self.request(Command::Read, |body| body.put(&descriptor))?;
            if answer.len() != usize::from(descriptor.lines.get()) * wire::LINE {
                return Err(broken("has another number of lines than were asked for"));
            }
            bytes.extend(answer);
        }
        Ok(bytes)
    }

    /// The ends of so many jobs, in the order in which they came.
    pub(super) fn ends(&mut self, jobs: usize) -> Result<Vec<wire::Event>> {
        let mut events = Vec::with_capacity(jobs);
        // Each request is at least one look at the units.
        for _ in 0..jobs + 100 {
            if events.len() >= jobs {
                break;
            }
            let mut answer = &self.request(Command::Events, |_| ())?[..];
            while let Ok((event, rest)) = wire::Event::read_from_prefix(answer) {
                events.push(event);
                answer = rest;
            }
        }
        if events.len() == jobs { Ok(events) } else { Err(broken("tells of another number of experts than run")) }
    }

    /// Counters of all layers, once the execution units have nothing left to do.
    pub(super) fn counters(&mut self) -> Result<wire::Counters> {
        let ask =
            |session: &mut Self| session.descriptor(Command::Counters, |body| body.put(&U16::new(wire::ALL_LAYERS)));
        let mut counters: wire::Counters = ask(self)?;
        for _ in 0..100 {
            if counters.outstanding.get() == 0 {
                return Ok(counters);
            }
            counters = ask(self)?;
        }
        Err(Error::new(format!("the controller still has {} experts to run", counters.outstanding)))
    }
}
