//! A host that does not give up: asks again, begins a new session where the device has lost its own, puts the last
//! snapshot back, and repeats the tokens since.

use cptr_protocol::wire::{
    self, Command, Configure, Counters, Decision, Head, Identity, Load, Part, Run, Status, Token, Verdict, Writer,
    judge,
};
use zerocopy::little_endian::{I32, U16, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

pub(crate) const EXPERTS: usize = 16;
pub(crate) const QUEUES: usize = 2;
pub(crate) const LAYERS: usize = 2;
/// Most tokens of a request.
pub(crate) const TOKENS: usize = 4;
const K: usize = 4;
/// Tokens between two snapshots.
const SNAPSHOT: usize = 16;
/// Parts of a layer's state: 67 words.
const PARTS: u16 = 2;
/// Turns until a request is given up: the fault cannot be recovered from.
const MOST_TURNS: usize = 10_000;

/// What goes wrong in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A bit is changed: of a frame on the line, anywhere in shared memory.
    Flip,
    /// A frame is lost, or some bytes.
    Loss,
    /// A frame comes twice.
    Repeat,
    /// A frame comes after the next one.
    Reorder,
    /// A frame is cut off.
    Truncate,
    /// Nothing moves for some turns; then all comes at once.
    Stall,
    /// The device starts anew: it has forgotten everything.
    DeviceReset,
    /// The host starts anew, and knows what it has kept.
    HostReset,
}

pub(crate) const FAULTS: [Fault; 8] = [
    Fault::Flip,
    Fault::Loss,
    Fault::Repeat,
    Fault::Reorder,
    Fault::Truncate,
    Fault::Stall,
    Fault::DeviceReset,
    Fault::HostReset,
];

/// Numbers that are the same each time (xorshift, Marsaglia 2003).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `most`.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        (self.next() >> 11) as usize % most.max(1)
    }
}

/// A way to the device and back, and the device.
pub(crate) trait Way {
    /// Queues that the device has.
    fn queues(&self) -> usize {
        QUEUES
    }

    /// Whether a stall goes on: the turn is still one with a fault.
    fn stalls(&self) -> bool;

    /// One turn: sends a request of a queue if there is one, lets the device work, and gives the frames that come back.
    /// `again` if the turn before has brought no answer.
    fn turn(
        &mut self,
        queue: usize,
        request: &[u8],
        again: bool,
        fault: Option<Fault>,
        random: &mut Random,
    ) -> Vec<Vec<u8>>;
}

/// What a fault makes of bytes on their way over a line; `held` is what is held up.
pub(crate) fn disturb(mut bytes: Vec<u8>, fault: Fault, held: &mut Vec<u8>, random: &mut Random) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    match fault {
        Fault::Flip => {
            let place = random.below(bytes.len());
            bytes[place] ^= 1 << random.below(8);
        }
        Fault::Loss if random.below(2) == 0 => bytes.clear(),
        Fault::Loss => {
            let start = random.below(bytes.len());
            bytes.drain(start..(start + 1 + random.below(4)).min(bytes.len()));
        }
        Fault::Repeat => bytes = bytes.repeat(2),
        Fault::Reorder => {
            held.extend(bytes);
            bytes = Vec::new();
        }
        Fault::Truncate => bytes.truncate(random.below(bytes.len())),
        Fault::Stall | Fault::DeviceReset | Fault::HostReset => {}
    }
    bytes
}

/// Tokens on one way until so many faults have been met; the decisions must be those on another without. Returns what
/// happened.
pub(crate) fn run(met: Box<dyn Way>, well: Box<dyn Way>, faults: usize, seed: u64) -> String {
    let mut met = Conversation::new(met, faults, seed);
    let decisions = met.tokens_until_faults();
    let mut well = Conversation::new(well, 0, seed);
    let expected = well.tokens(decisions.len());
    let wrong = decisions.iter().zip(&expected).filter(|(a, b)| a != b).count();
    assert_eq!((wrong, decisions.len()), (0, expected.len()), "decisions that are not those of the run without faults");
    assert_eq!(met.counted(), well.counted(), "what is counted, every token once");
    let sum: usize = met.faults.iter().map(|(_, count)| count).sum();
    assert!(
        sum >= faults && met.faults.iter().all(|(_, count)| *count * 200 > faults),
        "of every kind: {:?}",
        met.faults
    );
    assert!(met.slowest <= 2, "recovery takes {} turns", met.slowest);
    format!("{} tokens, {sum} faults {:?}, most turns behind a fault: {}", decisions.len(), met.faults, met.slowest)
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

struct Conversation {
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
    /// The most turns that a request took behind its last fault.
    slowest: usize,
}

impl Conversation {
    fn new(way: Box<dyn Way>, faults: usize, seed: u64) -> Self {
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

    /// Decides tokens until all faults have been met.
    fn tokens_until_faults(&mut self) -> Vec<Decided> {
        while self.faults_left > 0 {
            self.token();
        }
        self.decided.clone()
    }

    /// Decides so many tokens.
    fn tokens(&mut self, count: usize) -> Vec<Decided> {
        while self.decided.len() < count {
            self.token();
        }
        self.decided.clone()
    }

    /// What the device has counted over all layers.
    fn counted(&mut self) -> [u64; 6] {
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
        let mut number = self.snapshot.tokens;
        while number < self.decided.len() {
            let again = self.decide(number)?;
            let before = &self.decided[number..number + again.len()];
            assert_eq!(again, before, "tokens from {number} on are decided as before");
            number += again.len();
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
        self.decided.extend(decided);
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

    /// Has the tokens of a request decided, the layers in turn: one, or several.
    fn decide(&mut self, first: usize) -> Result<Vec<Decided>, Lost> {
        // The same each time, as what is told to be loaded depends on it.
        let count = match Random((self.seed << 32 ^ first as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1).below(8) {
            more if more < TOKENS => more + 1,
            _ => 1,
        };
        let mut told = self.asked.clone();
        let mut body = Vec::new();
        for number in first..first + count {
            let layer = number % LAYERS;
            body.resize(body.len().next_multiple_of(4), 0);
            body.extend(token(self.seed, number, layer, &std::mem::take(&mut told[layer])));
        }
        let answer = self.request(Command::Token, first / 3 % self.way.queues(), &body)?;
        let (mut rest, mut all) = (&answer[..], Vec::new());
        for number in first..first + count {
            let layer = number % LAYERS;
            let (head, behind) = Decision::read_from_prefix(rest).expect("a decision");
            let (runs, behind) = <[Run]>::ref_from_prefix_with_elems(behind, head.runs.into()).expect("runs");
            let (loads, behind) = <[Load]>::ref_from_prefix_with_elems(behind, head.loads.into()).expect("loads");
            assert_eq!(usize::from(head.layer.get()), layer);
            all.push(Decided { runs: runs.to_vec(), loads: loads.to_vec() });
            rest = behind;
            // The loads of one request are done before the next token of the layer.
            told[layer].extend(loads.iter().map(|load| load.expert.get()));
        }
        assert!(rest.is_empty());
        self.asked = told;
        Ok(all)
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
