//! The driver of the hardware unit (docs/unit.md): logic that takes a token's request out of a ring, decides it and
//! publishes the answer, while the firmware waits.
//!
//! The firmware is as it is without the unit. It arms the unit with what the next request of a queue has to be; the
//! unit answers it if it is that, and hands anything else over. Behind the answer the firmware has the controller do
//! the same request, with the unit's decision in the place of its own, and holds its answer against the unit's, word
//! for word: session, kept answer, queue and levels stay in one place. Where the two are not the same, which a unit
//! with a fault or a host that writes into the rings may cause, the host has to attach anew.
//!
//! Who uses it calls [`Unit::serve`] in the place of [`serve`](crate::serve()).

use core::cell::Cell;
use core::convert::Infallible;

use cptr_core::router::{BiasPlace, Count, GroupRating, Groups, Score};
use cptr_core::{Eps, Gate, Logit};
use heapless::Vec;

use crate::controller::{Controller, Decided, InstructionCounter, Next, Placed, Policy};
use crate::platform::Platform;
use crate::rings::Rings;
use crate::serve::{Mailbox, Watchdog};
use crate::units::Units;
use crate::wire::{Command, Header, Integrity, MAX_K, Status};

/// What came of the request that the unit waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// None has come.
    Nothing,
    /// It is answered.
    Answered,
    /// Something is there that is the firmware's.
    Handed,
}

/// The queue whose requests the unit answers; there is no other.
const QUEUE: usize = 0;
/// Bytes of a request before its body.
const BODY: usize = size_of::<Header>();

/// Registers of the unit, by the byte of their address: its own below 0x100, those of the turn from there on.
pub trait Registers {
    /// Reads a register.
    fn load(&self, address: u16) -> u32;

    /// Writes a register.
    fn store(&mut self, address: u16, value: u32);
}

/// The unit's own registers.
mod choice {
    pub(super) const NAME: (u16, u32) = (0x00, 0x7570_7401);
    pub(super) const SIZES: u16 = 0x04;
    pub(super) const STATUS: u16 = 0x08;
    pub(super) const ERROR: u16 = 0x0C;
    pub(super) const DOORBELL: u16 = 0x10;
    pub(super) const EXPERTS: u16 = 0x14;
    pub(super) const CHOSEN: u16 = 0x18;
    pub(super) const ROUTER: u16 = 0x1C;
    pub(super) const KEEP_TOP: u16 = 0x20;
    pub(super) const CAPACITY: u16 = 0x24;
    pub(super) const EPS_MASS: u16 = 0x28;
    pub(super) const EPS_ERROR: u16 = 0x2C;
    pub(super) const ADDRESS: u16 = 0x68;
    pub(super) const DATA: u16 = 0x6C;
    pub(super) const RECALL_SIZES: u16 = 0x70;
    /// Of that: whether it does routers by sigmoid.
    pub(super) const DOES_SIGMOID: u32 = 1 << 23;
    pub(super) const GROUPS: u16 = 0x74;
    /// Most groups that are open.
    pub(super) const MOST_OPEN: usize = 8;
    /// The window's spaces of resident sets and of biases.
    pub(super) const SETS: u32 = 2 << 28;
    pub(super) const BIASES: u32 = 7 << 28;
    /// Begins a layer.
    pub(super) const BEGIN: u32 = 4;
}

/// Registers of the turn.
mod turn {
    pub(super) const NAME: (u16, u32) = (0x100, 0x7572_7401);
    pub(super) const CONTROL: u16 = 0x104;
    pub(super) const STATUS: u16 = 0x108;
    pub(super) const REQUEST: u16 = 0x10C;
    pub(super) const ANSWER: u16 = 0x110;
    pub(super) const PUT_AT: u16 = 0x114;
    pub(super) const TAKEN: u16 = 0x118;
    pub(super) const ANSWERED_AT: u16 = 0x120;
    pub(super) const ANSWERED: u16 = 0x124;
    pub(super) const SESSION: u16 = 0x128;
    pub(super) const SEQUENCE: u16 = 0x12C;
    pub(super) const QUEUE: u16 = 0x130;
    pub(super) const NUMBER: u16 = 0x134;
    pub(super) const JOBS: u16 = 0x138;
    pub(super) const LISTED: u16 = 0x13C;
    pub(super) const READY: u16 = 0x140;
    pub(super) const BITS_AT: u16 = 0x144;
    pub(super) const BITS_OF: u16 = 0x148;
    pub(super) const CYCLES: u16 = 0x14C;
    pub(super) const EXPERTS: u16 = 0x150;
    pub(super) const CHOSEN: u16 = 0x154;
    /// What was decided: for each rank its word of the answer, then its weight.
    pub(super) const DECIDED: u16 = 0x400;
    /// Of the status: it waits for a doorbell, or works; whether it has answered.
    pub(super) const BUSY: u32 = 0b11;
    /// Of the control: what came of the last request was seen.
    pub(super) const SEEN: u32 = 0b10;
    pub(super) const ARM: u32 = 0b01;
    pub(super) const OUTCOME: u32 = 0b11_0000;
    pub(super) const ANSWERED_IT: u32 = 0b01_0000;
    /// Of a layer: it is ready.
    pub(super) const IS_READY: u32 = 1 << 31;
}

/// The unit, and what it knows of the model.
#[derive(Debug)]
pub struct Unit<R> {
    registers: R,
    layers: usize,
    experts: usize,
    k: usize,
    /// Whether it does routers by sigmoid.
    sigmoid: bool,
    /// Experts per token of the model that it knows.
    chosen: usize,
    /// Where it lists jobs.
    jobs: u32,
    /// Whether it knows the model, and who is where.
    prepared: bool,
    /// Requests that it has answered, modulo 2^32.
    answered: u32,
}

/// How a router is said to the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// Bits of its register.
    score: u32,
    /// Its groups' register.
    groups: u32,
}

/// Scores by sigmoid, and the choice by these and a bias.
const SIGMOID: u32 = 2;
const BY_SCORES: u32 = 1 << 10;

/// Whether no expert may stand in for another.
fn unaltered(policy: &Policy) -> bool {
    let Policy { router, bounds, keep, .. } = *policy;
    bounds.mass == Eps::ZERO || bounds.error == Some(Eps::ZERO) || keep >= router.k
}

/// What a request may have changed of what tokens are decided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    Nothing,
    /// Who is where in a layer.
    Layer(usize),
    Everything,
}

impl Changed {
    fn by(request: &[u8]) -> Self {
        let kind = request.get(3).copied().map_or(Err(Status::Frame), Command::try_from);
        let layer = request.get(BODY..).and_then(|body| body.first_chunk()).map(|bytes| u16::from_le_bytes(*bytes));
        match (kind, layer) {
            (Ok(Command::Place | Command::Restore), Some(layer)) => Self::Layer(layer.into()),
            (Ok(Command::Reset | Command::Configure | Command::Bias), _) => Self::Everything,
            _ => Self::Nothing,
        }
    }
}

/// Has the controller answer a request, and notes what that may have changed.
fn noting<'e, U: Units, C: InstructionCounter, const E: usize, const W: usize>(
    controller: &'e mut Controller<'_, U, C, E, W>,
    changed: &'e Cell<Changed>,
) -> impl FnOnce(&[u8], Integrity) -> &'e [u8] {
    |request, integrity| {
        changed.set(Changed::by(request));
        controller.handle_from(request, integrity)
    }
}

impl<R: Registers> Unit<R> {
    /// The unit behind these registers, which lists the jobs of a token at the address `jobs`, 24 bytes for each of its
    /// experts; `None` if there is none.
    pub fn find(registers: R, jobs: u32) -> Option<Self> {
        if [choice::NAME, turn::NAME].iter().any(|&(address, name)| registers.load(address) != name) {
            return None;
        }
        let sizes = registers.load(choice::SIZES);
        let (layers, experts) = ((sizes >> 16) as usize, sizes as usize & 0xFFFF);
        let more = registers.load(choice::RECALL_SIZES);
        let (k, sigmoid) = ((more >> 24) as usize, more & choice::DOES_SIGMOID != 0);
        Some(Self { registers, layers, experts, k, sigmoid, chosen: 0, jobs, prepared: false, answered: 0 })
    }

    /// Requests that it has answered, modulo 2^32.
    pub const fn answered(&self) -> u32 {
        self.answered
    }

    /// Cycles of the last one, from the doorbell to the index of its answer.
    pub fn cycles(&self) -> u32 {
        self.registers.load(turn::CYCLES)
    }

    /// Jobs that it has listed for the last one.
    pub fn listed(&self) -> usize {
        self.registers.load(turn::LISTED) as usize
    }

    /// Whether it waits for a request: nothing has come that it has answered or handed over.
    pub fn waits(&self) -> bool {
        self.registers.load(turn::STATUS) & turn::BUSY != 0
    }

    /// The main loop: serves requests for ever.
    pub fn serve<P: Platform, U: Units, C: InstructionCounter, const E: usize, const W: usize>(
        &mut self,
        controller: &mut Controller<'_, U, C, E, W>,
        rings: &mut Rings<'_, P>,
        watchdog: &mut impl Watchdog,
    ) -> Infallible {
        loop {
            watchdog.feed();
            if self.waits() {
                if !controller.idle() {
                    rings.idle();
                }
            } else if !self.step(controller, rings) && !self.waits() {
                rings.wait();
            }
        }
    }

    /// One pass of the main loop while the unit does not [wait](Self::waits): takes the ring back, accounts for what
    /// the unit has answered or answers what it has not, and has it wait again, where it can. Returns whether there was
    /// anything to do.
    pub fn step<P: Platform, U: Units, C: InstructionCounter, const E: usize, const W: usize>(
        &mut self,
        controller: &mut Controller<'_, U, C, E, W>,
        rings: &mut Rings<'_, P>,
    ) -> bool {
        let changed = Cell::new(Changed::Nothing);
        let served = match self.stop() {
            Outcome::Answered => {
                self.answered = self.answered.wrapping_add(1);
                let decided = self.decided();
                rings.follow(QUEUE, |request, integrity| controller.handle_decided(request, integrity, Some(&decided)))
            }
            // A request that has come meanwhile is the unit's.
            Outcome::Nothing if self.arm(controller, rings) => return false,
            Outcome::Nothing | Outcome::Handed => {
                let Ok::<_, Infallible>(served) = rings.poll(noting(controller, &changed));
                served
            }
        };
        let worked = controller.idle();
        rings.events(controller.events());
        match changed.get() {
            Changed::Layer(layer) if self.prepared => self.learn_layer(layer, controller),
            Changed::Nothing if self.prepared => {}
            _ => {
                self.prepared = controller.policy().is_some_and(|policy| self.learn(&policy));
                // A layer that the model has not is nowhere placed.
                (0..self.layers).for_each(|layer| self.learn_layer(layer, controller));
            }
        }
        self.arm(controller, rings);
        served || worked
    }

    /// Takes the ring back: waits until the unit has ended what it has begun, and says what came of it, once.
    pub fn stop(&mut self) -> Outcome {
        self.registers.store(turn::CONTROL, 0);
        loop {
            let status = self.registers.load(turn::STATUS);
            if status & turn::BUSY == 0 {
                self.registers.store(turn::CONTROL, turn::SEEN);
                return match status & turn::OUTCOME {
                    0 => Outcome::Nothing,
                    turn::ANSWERED_IT => Outcome::Answered,
                    _ => Outcome::Handed,
                };
            }
        }
    }

    /// Has it wait for the next request, if it knows the model, and returns whether it does.
    fn arm<P: Platform, U: Units, C: InstructionCounter, const E: usize, const W: usize>(
        &mut self,
        controller: &Controller<'_, U, C, E, W>,
        rings: &Rings<'_, P>,
    ) -> bool {
        let (true, Some(Next { session, sequence, turn: number })) = (self.prepared, controller.next(QUEUE)) else {
            return false;
        };
        let Some(places) = rings.places(QUEUE) else { return false };
        for (address, value) in [
            (turn::REQUEST, places.request as u32),
            (turn::ANSWER, places.answer as u32),
            (turn::PUT_AT, places.put as u32),
            (turn::TAKEN, places.taken),
            (turn::ANSWERED_AT, places.answered_at as u32),
            (turn::ANSWERED, places.answered),
            (turn::SESSION, session),
            (turn::SEQUENCE, sequence),
            (turn::QUEUE, QUEUE as u32),
            (turn::NUMBER, number),
            (turn::JOBS, self.jobs),
            (turn::CONTROL, turn::ARM),
        ] {
            self.registers.store(address, value);
        }
        true
    }

    /// What it has decided for the last token.
    fn decided(&self) -> Vec<Decided, MAX_K> {
        let mut decided = Vec::new();
        for at in (turn::DECIDED..).step_by(8).take(self.chosen) {
            let (word, weight) = (self.registers.load(at), self.registers.load(at.wrapping_add(4)));
            // As many as the unit is made for, at most.
            let _ = decided.push(Decided {
                wanted: (word >> 18) as u16,
                runs: word as u16,
                weight: Gate::from_bits(weight),
            });
        }
        decided
    }

    /// Tells it the model; returns whether it can decide tokens of that.
    fn learn(&mut self, policy: &Policy) -> bool {
        let Policy { router, bounds, keep, experts, .. } = *policy;
        let k = router.k;
        let plain =
            router.count == Count::Fixed && router.expert_scale.is_empty() && !router.table && router.null_experts == 0;
        let Some(Way { score, groups }) = self.way(policy).filter(|_| plain && experts <= self.experts && k <= self.k)
        else {
            return false;
        };
        self.chosen = k;
        let error = bounds.error.map_or(0, Eps::to_bits);
        let mass = if unaltered(policy) { 0 } else { bounds.mass.to_bits() };
        let router = score | u32::from(router.renormalise) << 8 | u32::from(bounds.error.is_some()) << 9;
        for (address, value) in [
            (choice::ERROR, u32::MAX),
            (choice::EXPERTS, experts as u32),
            (choice::CHOSEN, k as u32),
            (choice::ROUTER, router),
            (choice::GROUPS, groups),
            (choice::KEEP_TOP, keep.min(k) as u32),
            (choice::CAPACITY, experts as u32),
            (choice::EPS_MASS, mass),
            (choice::EPS_ERROR, error),
            (turn::EXPERTS, experts as u32),
            (turn::CHOSEN, k as u32),
        ] {
            self.registers.store(address, value);
        }
        true
    }

    /// How it does a router: a softmax or a sigmoid whose wanted experts are those with the greatest logits, or scores
    /// with a bias, in groups or not, where nobody stands in for them. `None` if it does not.
    fn way(&self, policy: &Policy) -> Option<Way> {
        let Policy { router, biased, experts, .. } = *policy;
        let Groups { count, open, rating } = router.groups;
        let grouped = open < count;
        match router.score {
            Score::SoftmaxAll if !biased && !grouped => Some(Way { score: 0, groups: 0 }),
            Score::SoftmaxSelected if !biased && !grouped => Some(Way { score: 1, groups: 0 }),
            Score::Sigmoid if !self.sigmoid || !router.renormalise => None,
            Score::Sigmoid if !biased && !grouped => Some(Way { score: SIGMOID, groups: 0 }),
            Score::Sigmoid if biased && router.bias_place == BiasPlace::Scores && unaltered(policy) => {
                let size = experts.checked_div(count)?;
                if grouped && (!size.is_power_of_two() || open > choice::MOST_OPEN) {
                    return None;
                }
                let two = u32::from(rating == GroupRating::TwoBest) << 8;
                let groups = if grouped { two | (open as u32) << 4 | size.trailing_zeros() } else { 0 };
                Some(Way { score: SIGMOID | BY_SCORES, groups })
            }
            _ => None,
        }
    }

    /// Tells it who is where in a layer, if it knows the model and has a place for the layer.
    fn learn_layer<U: Units, C: InstructionCounter, const E: usize, const W: usize>(
        &mut self,
        layer: usize,
        controller: &Controller<'_, U, C, E, W>,
    ) {
        if !self.prepared || layer >= self.layers {
            return;
        }
        // A bias that is 0 everywhere is none for the router.
        let chooses = |bias: &[Logit]| bias.is_empty() || bias.iter().any(|&bias| bias != Logit::ZERO);
        let placed = controller.placed(layer).filter(|placed| chooses(placed.bias));
        let ready = if placed.is_some() { turn::IS_READY } else { 0 };
        self.registers.store(turn::READY, ready | layer as u32);
        let Some(Placed { resident, bits, bias }) = placed else { return };
        self.registers.store(choice::DOORBELL, choice::BEGIN | (layer as u32) << 16);
        while self.registers.load(choice::STATUS) & 1 != 0 {}
        let first = layer.saturating_mul(self.experts);
        for start in (0..bits.len()).step_by(32) {
            let bit = |bit: usize| u32::from(resident.contains(start.saturating_add(bit) as u16)) << bit;
            let at = first.saturating_add(start) / 32;
            self.registers.store(choice::ADDRESS, choice::SETS | at as u32);
            self.registers.store(choice::DATA, (0..32).fold(0, |word, place| word | bit(place)));
        }
        for (at, bias) in (first..).zip(bias) {
            self.registers.store(choice::ADDRESS, choice::BIASES | at as u32);
            self.registers.store(choice::DATA, bias.to_bits().cast_unsigned());
        }
        self.registers.store(turn::BITS_AT, first as u32);
        bits.iter().for_each(|&bits| self.registers.store(turn::BITS_OF, bits.into()));
    }
}
