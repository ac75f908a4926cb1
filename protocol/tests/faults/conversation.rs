//! A host that does not give up: asks again, begins a new session where the device has lost its own, puts the last
//! snapshot back, and repeats the tokens since.

use cptr_protocol::wire::{
    self, Command, Configure, Counters, Decision, Head, Identity, Load, Part, Run, Status, Token, Verdict, Writer,
    judge,
};
use cptr_protocol::{Controller, Layer, Uncounted, Untimed};
use zerocopy::little_endian::{I32, U16, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{FAULTS, Fault, Random, Way};

pub(crate) const EXPERTS: usize = 16;
pub(crate) const QUEUES: usize = 2;
const LAYERS: usize = 2;
const K: usize = 4;
/// Tokens between two snapshots.
const SNAPSHOT: usize = 16;
/// Parts of a layer's state: 67 words.
const PARTS: u16 = 2;
/// Turns until a request is given up: the fault cannot be recovered from.
const MOST_TURNS: usize = 10_000;

/// The controller under test, on its first day.
pub(crate) type Engine = Controller<'static, Untimed, Uncounted, EXPERTS, 1>;

pub(crate) fn engine(generation: u32) -> Engine {
    let layers = Box::leak(Box::new([const { Layer::new() }; LAYERS]));
    let answers = Box::leak(vec![0; QUEUES * wire::max_answer(EXPERTS)].into_boxed_slice());
    Controller::new(layers, answers, Untimed::default(), Uncounted).with_generation(generation)
}

/// What was decided: experts, sites, weights, loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decided {
    runs: Vec<Run>,
    loads: Vec<Load>,
}

/// The device has lost the session.
struct Lost;

/// What a host keeps of a snapshot.
#[derive(Default)]
struct Snapshot {
    /// Tokens before it.
    tokens: usize,
    /// Parts of each layer's state.
    layers: Vec<Vec<Vec<u8>>>,
    /// Loads on their way, layer by layer.
    asked: [Vec<u16>; LAYERS],
}

pub(crate) struct Conversation {
    way: Box<dyn Way>,
    random: Random,
    /// What is decided comes from numbers of its own, which faults do not move.
    seed: u64,
    faults_left: usize,
    faults: Vec<(Fault, usize)>,
    session: u32,
    /// Sequence number of the next request of each queue.
    sequence: [u32; QUEUES],
    identify: u32,
    /// Loads on their way, layer by layer.
    asked: [Vec<u16>; LAYERS],
    snapshot: Snapshot,
    decided: Vec<Decided>,
    slowest: usize,
}

impl Conversation {
    pub(crate) fn new(way: Box<dyn Way>, faults: usize, seed: u64) -> Self {
        let mut host = Self {
            way,
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            seed,
            faults_left: faults,
            faults: FAULTS.map(|fault| (fault, 0)).to_vec(),
            session: 0,
            sequence: [0; QUEUES],
            identify: 0,
            asked: Default::default(),
            snapshot: Snapshot::default(),
            decided: Vec::new(),
            slowest: 0,
        };
        host.recover();
        host
    }

    pub(crate) fn faults(&self) -> &[(Fault, usize)] {
        &self.faults
    }

    /// The most turns that a request took behind its last fault.
    pub(crate) const fn slowest(&self) -> usize {
        self.slowest
    }

    /// Decides tokens until all faults have been met.
    pub(crate) fn tokens_until_faults(&mut self) -> Vec<Decided> {
        while self.faults_left > 0 {
            self.token();
        }
        self.decided.clone()
    }

    /// Decides so many tokens.
    pub(crate) fn tokens(&mut self, count: usize) -> Vec<Decided> {
        (0..count).for_each(|_| self.token());
        self.decided.clone()
    }

    /// What the device has counted over all layers.
    pub(crate) fn counted(&mut self) -> [u64; 6] {
        let bytes = loop {
            match self.request(Command::Counters, 0, &wire::ALL_LAYERS.to_le_bytes()) {
                Ok(bytes) => break bytes,
                Err(Lost) => self.recover(),
            }
        };
        let counters = Counters::read_from_bytes(&bytes).expect("counters");
        assert_eq!(counters.tokens.get(), self.decided.len() as u64, "each token once");
        [counters.tokens, counters.runs, counters.misses, counters.substituted, counters.switches, counters.lost_locks]
            .map(U64::get)
    }

    /// A fault, now and then.
    fn fault(&mut self) -> Option<Fault> {
        if self.faults_left == 0 || self.random.below(2) == 0 {
            return None;
        }
        self.faults_left -= 1;
        // Whoever starts anew takes long; of those there are fewer.
        let kind = match self.random.below(64) {
            0 => Fault::DeviceReset,
            1 => Fault::HostReset,
            other => FAULTS[other % 6],
        };
        self.faults.iter_mut().filter(|(fault, _)| *fault == kind).for_each(|(_, count)| *count += 1);
        Some(kind)
    }

    /// Turns until the request is answered.
    fn ask(&mut self, head: Head, body: &[u8]) -> Result<Vec<u8>, Lost> {
        let mut buffer = vec![0; wire::OVERHEAD + body.len()];
        let mut writer = Writer::new(&mut buffer);
        writer.put(body);
        let request = writer.finish(head, Status::Done).to_vec();
        let mut behind = 0;
        for turn in 0..MOST_TURNS {
            let fault = self.fault();
            let frames = self.way.turn(usize::from(head.queue), &request, turn > 0, fault, &mut self.random);
            behind = if fault.is_some() || self.way.stalls() { 0 } else { behind + 1 };
            for frame in &frames {
                match judge(head, frame) {
                    Verdict::Done(body) => {
                        self.slowest = self.slowest.max(behind);
                        return Ok(body.rest().to_vec());
                    }
                    Verdict::Refused(status) => panic!("{head:?} is refused: {status}"),
                    Verdict::Lost => return Err(Lost),
                    Verdict::Again | Verdict::Other => {}
                }
            }
        }
        panic!("{head:?} is not answered");
    }

    /// A request of the session.
    fn request(&mut self, command: Command, queue: usize, body: &[u8]) -> Result<Vec<u8>, Lost> {
        let sequence = self.sequence[queue];
        let head = Head { kind: command as u8, queue: queue as u8, session: self.session, sequence };
        let answer = self.ask(head, body)?;
        self.sequence[queue] += 1;
        Ok(answer)
    }

    /// Begins a session, until one holds, with all that was decided so far.
    fn recover(&mut self) {
        while self.begin().is_err() {}
    }

    fn begin(&mut self) -> Result<(), Lost> {
        // Who is there is asked with another number each time: an answer that comes late is to another question.
        self.identify += 1;
        let head = Head { kind: Command::Identify as u8, queue: 0, session: 0, sequence: self.identify };
        let identity = Identity::read_from_bytes(&self.ask(head, &[])?).expect("an identity");
        self.session = identity.session.get().max(self.session) + 1;
        self.sequence = [0, 1];
        self.request(Command::Reset, 0, identity.generation.as_bytes())?;
        self.request(Command::Configure, 0, configuration().as_bytes())?;
        for layer in 0..self.snapshot.layers.len() {
            for part in 0..self.snapshot.layers[layer].len() {
                let head = Part { layer: (layer as u16).into(), part: (part as u16).into() };
                let body = [head.as_bytes(), &self.snapshot.layers[layer][part]].concat();
                self.request(Command::Restore, 0, &body)?;
            }
        }
        self.asked = self.snapshot.asked.clone();
        for number in self.snapshot.tokens..self.decided.len() {
            let again = self.decide(number)?;
            assert_eq!(again, self.decided[number], "token {number} is decided as before");
        }
        Ok(())
    }

    fn token(&mut self) {
        if self.decided.len() >= self.snapshot.tokens + SNAPSHOT {
            while self.take_snapshot().is_err() {
                self.recover();
            }
        }
        let decided = loop {
            match self.decide(self.decided.len()) {
                Ok(decided) => break decided,
                Err(Lost) => self.recover(),
            }
        };
        self.decided.push(decided);
    }

    fn take_snapshot(&mut self) -> Result<(), Lost> {
        let mut layers = Vec::new();
        for layer in 0..LAYERS as u16 {
            let mut parts = Vec::new();
            for part in 0..PARTS {
                let part = Part { layer: layer.into(), part: part.into() };
                parts.push(self.request(Command::Snapshot, 0, part.as_bytes())?);
            }
            layers.push(parts);
        }
        self.snapshot = Snapshot { tokens: self.decided.len(), layers, asked: self.asked.clone() };
        Ok(())
    }

    /// Has a token decided, the layers in turn.
    fn decide(&mut self, number: usize) -> Result<Decided, Lost> {
        let layer = number % LAYERS;
        let loaded = self.asked[layer].clone();
        let body = token(self.seed, number, layer, &loaded);
        let answer = self.request(Command::Token, number / 3 % QUEUES, &body)?;
        let (head, rest) = Decision::read_from_prefix(&answer).expect("a decision");
        let (runs, rest) = <[Run]>::ref_from_prefix_with_elems(rest, head.runs.into()).expect("runs");
        let (loads, rest) = <[Load]>::ref_from_prefix_with_elems(rest, head.loads.into()).expect("loads");
        assert!(rest.is_empty() && usize::from(head.layer.get()) == layer);
        // They are done before the next token of the layer.
        self.asked[layer] = loads.iter().map(|load| load.expert.get()).collect();
        Ok(Decided { runs: runs.to_vec(), loads: loads.to_vec() })
    }
}

fn configuration() -> Configure {
    Configure {
        layers: (LAYERS as u16).into(),
        experts: (EXPERTS as u16).into(),
        k: K as u8,
        keep: 1,
        score: 1,
        on_demand: 1,
        capacity: 6.into(),
        bits: 2,
        threshold: 4,
        eps: (1 << 28).into(),
        groups: 1,
        top_groups: 1,
        slow: (1 << 26).into(),
        reopened: (u32::MAX / 20).into(),
        fast: (1 << 29).into(),
        renormalise: 1,
        scale: (1 << 24).into(),
        ..Configure::new_zeroed()
    }
}

/// A token: every 64 of them prefer other experts.
fn token(seed: u64, number: usize, layer: usize, loaded: &[u16]) -> Vec<u8> {
    let mut random = Random((seed << 32 ^ number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let context = number / 64 % EXPERTS;
    let logits: Vec<I32> = (0..EXPERTS)
        .map(|expert| {
            let near = (expert + EXPERTS - context) % EXPERTS < 6;
            I32::new((random.next() >> 46) as i32 + if near { 1 << 17 } else { 0 })
        })
        .collect();
    let head = Token {
        layer: (layer as u16).into(),
        experts: (EXPERTS as u16).into(),
        wanted: 0,
        starts_sequence: 0,
        loaded: loaded.len() as u8,
        failed: 0,
        activation: 0.into(),
        result: 0.into(),
    };
    let loaded: Vec<U16> = loaded.iter().copied().map(U16::new).collect();
    [head.as_bytes(), logits.as_bytes(), loaded.as_bytes()].concat()
}
