//! What stands for the hardware unit: its registers, and what it does when a host rings, by the functions of the core.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use cptr_core::router::{GroupRating, Groups};
use cptr_core::{Bounds, Eps, ExpertSet, Gate, Logit, Router, select};
use cptr_protocol::unit::Registers;

pub(crate) const EXPERTS: usize = 64;
pub(crate) const K: usize = 8;
pub(crate) const LAYERS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Armed,
}

/// Registers of docs/unit.md, by their addresses.
#[derive(Debug)]
pub(crate) struct Engine<'a> {
    memory: &'a [AtomicU32],
    registers: RefCell<BTreeMap<u16, u32>>,
    sets: RefCell<Vec<u32>>,
    bits: RefCell<Vec<u8>>,
    biases: RefCell<Vec<Logit>>,
    ready: RefCell<[bool; LAYERS]>,
    state: Cell<State>,
    outcome: Cell<u32>,
    /// What was decided: for each rank its word and its weight.
    decided: RefCell<Vec<u32>>,
    /// Jobs of the last token, six words each.
    pub(crate) jobs: RefCell<Vec<[u32; 6]>>,
    /// Whether it publishes another weight than it says it has decided.
    pub(crate) garbles: Cell<bool>,
}

impl<'a> Engine<'a> {
    /// Beside a region of shared memory.
    pub(crate) fn new(memory: &'a [AtomicU32]) -> Self {
        Self {
            memory,
            registers: RefCell::default(),
            sets: RefCell::new(vec![0; LAYERS * EXPERTS / 32]),
            bits: RefCell::new(vec![0; LAYERS * EXPERTS]),
            biases: RefCell::new(vec![Logit::ZERO; LAYERS * EXPERTS]),
            ready: RefCell::default(),
            state: Cell::new(State::Idle),
            outcome: Cell::new(0),
            decided: RefCell::default(),
            jobs: RefCell::default(),
            garbles: Cell::new(false),
        }
    }

    /// Whether it waits for a request.
    pub(crate) fn armed(&self) -> bool {
        self.state.get() == State::Armed
    }

    /// The host's doorbell.
    pub(crate) fn ring(&self) {
        self.look(true);
    }

    fn register(&self, address: u16) -> u32 {
        self.registers.borrow().get(&address).copied().unwrap_or(0)
    }

    /// The word of the region at an address, of which the lower half is there.
    fn word(&self, address: u32) -> &AtomicU32 {
        let base = self.memory.as_ptr().addr() as u32;
        &self.memory[(address.wrapping_sub(base) / 4) as usize]
    }

    fn read(&self, address: u32) -> u32 {
        self.word(address).load(Ordering::Relaxed)
    }

    /// What its registers say of the router.
    fn router<'b>(&self, bias: &'b [Logit]) -> Router<'b> {
        let (router, groups, k) = (self.register(0x1C), self.register(0x74), self.register(0x154) as usize);
        let by = match router & 0xF {
            0 => Router::softmax_all(k),
            1 => Router::softmax_selected(k),
            _ => Router::sigmoid_grouped(k, 1, 1, &[]),
        };
        let by = Router { renormalise: router & 0x100 != 0, ..by };
        if router & 0x400 == 0 {
            return by;
        }
        assert_eq!(self.register(0x28), 0, "nobody stands in");
        let open = (groups >> 4) as usize & 0xF;
        let rating = if groups & 0x100 != 0 { GroupRating::TwoBest } else { GroupRating::Best };
        let groups = Groups { count: bias.len() >> (groups & 0xF), open, rating };
        Router { bias, groups: if open == 0 { Groups::ONE } else { groups }, ..by }
    }

    fn look(&self, rung: bool) {
        if !self.armed() {
            return;
        }
        let waiting = self.read(self.register(0x114)).wrapping_sub(self.register(0x118));
        if waiting == 0 && !rung {
            return;
        }
        self.state.set(State::Idle);
        let answered = waiting == 1 && self.answer().is_some();
        self.outcome.set(if answered { 1 } else { 2 });
    }

    /// Decides and publishes; `None` if the request is not one that it answers.
    fn answer(&self) -> Option<()> {
        let (slot, to) = (self.register(0x10C), self.register(0x110));
        let word = |index: u32| self.read(slot + 4 * index);
        let (experts, k) = (self.register(0x150), self.register(0x154));
        let counts = word(6);
        let listed = counts & 0xFF;
        let body = 16 + 4 * experts + 2 * listed;
        let layer = word(5) & 0xFFFF;
        let right = [
            word(0) == body + 20,
            word(1) == 0x0604_7063,
            word(2) == self.register(0x128),
            word(3) == self.register(0x12C),
            word(4) == body,
            self.ready.borrow().get(layer as usize) == Some(&true),
            word(5) >> 16 == experts,
            counts & !0x1FF == 0 && (listed == 0 || listed == k && k % 2 == 0),
            self.read(slot + 20 + body) == 0,
        ];
        if right.contains(&false) {
            return None;
        }
        let logits: Vec<Logit> = (0..experts).map(|expert| Logit::from_bits(word(9 + expert) as i32)).collect();
        let first = layer as usize * EXPERTS;
        let biases = self.biases.borrow();
        let router = self.router(&biases[first..first + experts as usize]);
        let wanted = router.top_k::<K>(&logits).ok()?;
        let list = (0..listed).map(|rank| (word(9 + experts + rank / 2) >> (16 * (rank % 2))) as u16);
        if listed > 0 && !list.eq(wanted.iter().copied()) {
            return None;
        }
        let mut resident = ExpertSet::<{ EXPERTS / 32 }>::new();
        let is_resident = |expert: u16| {
            let at = first + usize::from(expert);
            self.sets.borrow()[at / 32] >> (at % 32) & 1 != 0
        };
        (0..experts as u16).filter(|&expert| is_resident(expert)).for_each(|expert| _ = resident.insert(expert));
        let error = (self.register(0x1C) & 0x200 != 0).then(|| Eps::from_bits(self.register(0x2C)));
        let bounds = Bounds { mass: Eps::from_bits(self.register(0x28)), error };
        let keep = self.register(0x20) as usize;
        let chosen = select::<K>(&router, bounds, keep, &logits, &wanted, &resident).ok()?;
        let mut weights = [Gate::ZERO; K];
        router.weights(&logits, &chosen.experts, &mut weights);
        let number = self.register(0x134);
        let runs = chosen.experts.len() as u32;
        let head = [
            36 + 8 * runs,
            0x8604_7063,
            word(2),
            word(3),
            16 + 8 * runs,
            layer | runs << 16 | (chosen.substituted as u32) << 24,
            number << 16,
            0,
            0,
        ];
        let mut answer = head.to_vec();
        let mut jobs = Vec::new();
        self.decided.borrow_mut().clear();
        for (rank, ((&expert, &wanted), weight)) in (0..).zip(chosen.experts.iter().zip(&wanted).zip(weights)) {
            let cold = !resident.contains(expert);
            let bits = if cold { u32::from(self.bits.borrow()[first + usize::from(expert)]) } else { 0 };
            let stands_in = u32::from(expert != wanted);
            answer.extend([u32::from(expert) | bits << 16 | stands_in << 24, weight.to_bits()]);
            let word_of = u32::from(expert) | stands_in << 16 | u32::from(cold) << 17 | u32::from(wanted) << 18;
            self.decided.borrow_mut().extend([word_of, weight.to_bits()]);
            if cold {
                jobs.push([
                    number,
                    layer | u32::from(expert) << 16,
                    bits | rank << 8,
                    weight.to_bits(),
                    word(7),
                    word(8),
                ]);
            }
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(job[2] & 0xFF));
        *self.jobs.borrow_mut() = jobs;
        answer.push(0);
        if self.garbles.get() {
            answer[10] ^= 1;
        }
        (0..).zip(answer).for_each(|(at, value)| self.word(to + 4 * at).store(value, Ordering::Relaxed));
        self.word(self.register(0x120)).store(self.register(0x124), Ordering::Release);
        Some(())
    }
}

impl Registers for &Engine<'_> {
    fn load(&self, address: u16) -> u32 {
        match address {
            0x00 => 0x7570_7401,
            0x04 => (LAYERS << 16 | EXPERTS) as u32,
            0x08 => 0,
            0x70 => (K as u32) << 24 | 1 << 23,
            0x100 => 0x7572_7401,
            0x108 => self.outcome.get() << 4 | u32::from(self.armed()),
            0x13C => self.jobs.borrow().len() as u32,
            0x400.. => self.decided.borrow().get(usize::from(address - 0x400) / 4).copied().unwrap_or(0),
            _ => self.register(address),
        }
    }

    fn store(&mut self, address: u16, value: u32) {
        match address {
            0x104 if value & 1 != 0 => {
                self.outcome.set(0);
                self.state.set(State::Armed);
                self.look(false);
            }
            0x104 => {
                self.state.set(State::Idle);
                if value & 2 != 0 {
                    self.outcome.set(0);
                }
            }
            // Begin a layer.
            0x10 => {
                assert_eq!(value & 0xFFFF, 4);
                let words = EXPERTS / 32;
                self.sets.borrow_mut()[(value >> 16) as usize * words..][..words].fill(0);
            }
            // The window: resident sets and biases.
            0x6C => {
                let at = self.register(0x68);
                let word = at as usize & 0xFFFF;
                match at >> 28 {
                    2 => self.sets.borrow_mut()[word] = value,
                    space => {
                        assert_eq!(space, 7);
                        self.biases.borrow_mut()[word] = Logit::from_bits(value.cast_signed());
                    }
                }
            }
            0x140 => self.ready.borrow_mut()[value as usize & 0xFFFF] = value >> 31 != 0,
            0x148 => {
                let at = self.register(0x144);
                self.bits.borrow_mut()[at as usize] = value as u8;
                self.registers.borrow_mut().insert(0x144, at + 1);
            }
            _ => _ = self.registers.borrow_mut().insert(address, value),
        }
    }
}
