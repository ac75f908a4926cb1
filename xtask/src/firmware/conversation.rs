//! A conversation with a controller, with everything in it that it logs, and at the largest sizes that it has memory
//! for.
//!
//! The answers must be those of the same engine on the host.

use cptr_core::Logit;
use cptr_core::expert::{ActivationGroup, Layout, Replicas, Scratch, Workspace};
use cptr_protocol::wire::{
    self, Bias, Command, Configure, Decision, Frame, Head, Load, Part, Place, Prefill, Read, Reset, Run, Status, Token,
    Write, Writer,
};
use cptr_protocol::{Controller, InstructionCounter, Kernels, Layer, words_for};
use zerocopy::little_endian::{I32, U16};
use zerocopy::{FromBytes, IntoBytes};

use super::command::Done;
use super::emulator::Emulator;

/// Of the image's memory, as in `firmware/controller/src/memory.rs`.
const MOST_LAYERS: usize = 64;
const MOST_EXPERTS: usize = 256;
const MOST_TOKENS: usize = 4;
/// Of the conversation.
const LAYERS: u16 = 2;
const EXPERTS: u16 = MOST_EXPERTS as u16;
const K: u16 = wire::MAX_K as u16;
/// Parts of the state of a layer of so many experts.
const PARTS: u16 = 10;
/// Bytes of the image's memory for replicas and results.
const DATA: usize = 8 << 20;
/// Inputs and rows of the experts that run.
const COLUMNS: usize = 64;
/// Where their replicas, an activation and results lie, each of one line a group of 16 numbers.
const REPLICA_LINE: u32 = 64;
const ACTIVATION_LINE: u32 = 1;
const RESULT_LINE: u32 = 8;
/// Tokens of one context: enough for lock before it changes.
const CONTEXT: usize = 48;

/// Sends all requests over the serial line, each after the answer to the one before.
pub(super) fn converse(emulator: &mut Emulator) -> Done {
    converse_by(1, 0, |request| ask(emulator, request))
}

/// Sends all requests to an image with so many queues, in a generation of it.
pub(super) fn converse_by(queues: usize, generation: u32, mut ask: impl FnMut(&[u8]) -> Done<Vec<u8>>) -> Done {
    let mut layers = vec![Layer::<MOST_EXPERTS, { words_for(MOST_EXPERTS) }>::new(); MOST_LAYERS];
    let mut bias = vec![Logit::ZERO; MOST_LAYERS * MOST_EXPERTS];
    let mut answers = vec![0; queues * wire::max_answer_of(MOST_EXPERTS, MOST_TOKENS)];
    let (mut data, mut values, mut codes) = (vec![0; DATA], vec![0; COLUMNS], vec![0; COLUMNS]);
    let mut groups = vec![ActivationGroup::NONE; COLUMNS];
    let (mut hidden, mut hidden_codes, mut hidden_groups) = (values.clone(), codes.clone(), groups.clone());
    let scratch = Scratch { hidden: &mut hidden, codes: &mut hidden_codes, groups: &mut hidden_groups };
    let workspace = Workspace { values: &mut values, codes: &mut codes, groups: &mut groups, scratch };
    let host = Controller::new(&mut layers, &mut answers, Kernels::new(&mut data, workspace), Still);
    let mut host = host.with_tokens(MOST_TOKENS).with_bias(&mut bias).with_generation(generation);
    for (number, request) in requests(generation).into_iter().enumerate() {
        let expected = host.handle(&request).to_vec();
        host.idle();
        let answer = ask(&request)?;
        if uncounted(&answer)? != uncounted(&expected)? {
            return Err(format!("request {number} has another answer than on the host"));
        }
    }
    Ok(())
}

fn ask(emulator: &mut Emulator, request: &[u8]) -> Done<Vec<u8>> {
    let mut line = cobs::encode_vec(request);
    line.push(0);
    emulator.send(&line)?;
    let mut answer = Vec::new();
    loop {
        match emulator.byte()?.ok_or("the emulator has ended")? {
            0 => return cobs::decode_vec(&answer).map_err(|error| format!("the answer is not in COBS: {error}")),
            byte => answer.push(byte),
        }
    }
}

/// Kind, number, status and body of an answer, less counts of instructions and of jobs, which depend on the machine and
/// its idle time.
fn uncounted(answer: &[u8]) -> Done<(Head, u8, Vec<u8>)> {
    let frame = Frame::open(answer).map_err(|(status, _)| format!("an answer is refused: {status}"))?;
    let (header, mut body) = (frame.header, frame.body.rest().to_vec());
    match Command::try_from(header.kind & !wire::ANSWER) {
        Ok(Command::Token) => without_counts(&mut body),
        Ok(Command::Counters) => body.truncate(56),
        _ => {}
    }
    Ok((frame.head(), header.status, body))
}

/// Sets the counts in decisions to 0.
fn without_counts(mut decisions: &mut [u8]) {
    while let Ok((head, rest)) = Decision::mut_from_prefix(decisions) {
        (head.select_instructions, head.decide_instructions) = (0.into(), 0.into());
        let behind = usize::from(head.runs) * size_of::<Run>() + usize::from(head.loads) * size_of::<Load>();
        decisions = rest.get_mut(behind..).unwrap_or_default();
    }
}

/// A counter that stands still.
struct Still;

impl InstructionCounter for Still {
    const BITS: u32 = 1;

    fn ticks(&self) -> u64 {
        0
    }

    fn instructions(_: u64) -> u64 {
        0
    }
}

/// Requests, the session that they are of, and the sequence number of the next.
struct Script {
    requests: Vec<Vec<u8>>,
    generation: u32,
    session: u32,
    sequence: u32,
}

impl Script {
    /// A request that is done.
    fn put(&mut self, command: Command, body: &[u8]) {
        self.refuse(command as u8, body);
        self.sequence += 1;
    }

    /// A request that takes no number: one that is refused, or asks who is there.
    fn refuse(&mut self, kind: u8, body: &[u8]) {
        self.requests.push(frame(self.head(kind), body));
    }

    /// The last request once more: it is answered as before.
    fn again(&mut self) {
        self.requests.extend(self.requests.last().cloned());
    }

    /// Begins a session.
    fn begin(&mut self) {
        (self.session, self.sequence) = (self.session + 1, 0);
        self.put(Command::Reset, Reset { generation: self.generation.into() }.as_bytes());
    }

    fn head(&self, kind: u8) -> Head {
        Head { kind, queue: 0, session: self.session, sequence: self.sequence }
    }
}

fn frame(head: Head, body: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; wire::OVERHEAD + body.len()];
    let mut writer = Writer::new(&mut memory);
    writer.put(body);
    writer.finish(head, Status::Done).to_vec()
}

/// What a host does, and in between what it may not.
fn requests(generation: u32) -> Vec<Vec<u8>> {
    let mut script = Script { requests: Vec::new(), generation, session: 0, sequence: 0 };
    let [configure_kind, place_kind, token_kind] =
        [Command::Configure, Command::Place, Command::Token].map(|c| c as u8);
    script.begin();
    script.again();
    script.refuse(token_kind, &token(0, 0));
    script.refuse(configure_kind, configuration(EXPERTS + 1).as_bytes());
    script.put(Command::Configure, configuration(EXPERTS).as_bytes());
    script.refuse(configure_kind, configuration(EXPERTS).as_bytes());
    script.refuse(place_kind, &place(0));
    script.refuse(99, &[]);
    let mut damaged = frame(script.head(token_kind), &token(0, 0));
    damaged[23] ^= 1;
    script.requests.push(damaged);
    for layer in 0..LAYERS {
        script.put(Command::Prefill, &prefill(layer));
        script.put(Command::Place, &place(layer));
    }
    script.refuse(token_kind, &token(LAYERS, 0));
    // A context that the filter locks on, and then another one.
    for first in [0, EXPERTS / 2] {
        (0..CONTEXT).for_each(|_| script.put(Command::Token, &token(1, first)));
    }
    // The same answer, bit for bit, and nothing is done again.
    script.again();
    // Several tokens in a request, and what is not made of tokens.
    let several = |count: usize| (0..count as u16).flat_map(|number| token(1, 3 * number)).collect::<Vec<u8>>();
    script.put(Command::Token, &several(MOST_TOKENS));
    script.again();
    script.refuse(token_kind, &[several(2), vec![0; 2]].concat());
    let late = Head { sequence: script.sequence + 7, ..script.head(token_kind) };
    script.requests.push(frame(late, &token(0, 0)));
    let over = Head { session: script.session - 1, ..script.head(token_kind) };
    script.requests.push(frame(over, &token(0, 0)));
    // What a layer knows, in parts.
    let part = |part: u16| Part { layer: 1.into(), part: part.into() };
    (0..PARTS).for_each(|number| script.put(Command::Snapshot, part(number).as_bytes()));
    script.refuse(Command::Snapshot as u8, part(PARTS).as_bytes());
    script.put(Command::Events, &[]);
    // The other way to hold experts and the other scores; the controller takes the best logits itself.
    script.begin();
    let router = Configure { score: 2, renormalise: 1, bias_place: 1, ..configuration(EXPERTS) };
    let groups = Configure { groups: 8, top_groups: 4, group_rating: 1, null_experts: 16.into(), ..router };
    script.put(Command::Configure, Configure { on_demand: 1, ..groups }.as_bytes());
    script.refuse(token_kind, &token(0, 0));
    script.put(Command::Bias, &bias(0));
    for first in (0..EXPERTS).step_by(usize::from(K)) {
        let mut token = token(0, first);
        token.truncate(token.len() - 2 * usize::from(K));
        token[4] = 0;
        script.put(Command::Token, &token);
    }
    script.put(Command::Counters, &wire::ALL_LAYERS.to_le_bytes());
    experts_that_run(&mut script);
    // Its answer says that everything before is in the log.
    script.refuse(Command::Identify as u8, &[]);
    script.requests
}

/// A session whose experts run, of each number of bits; each result is read when its job has ended.
fn experts_that_run(script: &mut Script) {
    for bits in 1..=4 {
        script.begin();
        let replicas = replicas(bits);
        for (number, lines) in replicas.chunks(wire::LINE * wire::max_lines(MOST_EXPERTS)).enumerate() {
            let line = REPLICA_LINE + (number * wire::max_lines(MOST_EXPERTS)) as u32;
            script.put(Command::Write, &[Write { line: line.into() }.as_bytes(), lines].concat());
        }
        let all_cold = Configure {
            bits,
            k: 1,
            keep: 0,
            layers: 1.into(),
            on_demand: 1,
            replicas: REPLICA_LINE.into(),
            ..configuration(EXPERTS)
        };
        script.put(Command::Configure, all_cold.as_bytes());
        let input: Vec<u8> = (0..COLUMNS).flat_map(|i| (i as f32 * 0.43 - 11.0).to_le_bytes()).collect();
        let at = Write { line: ACTIVATION_LINE.into() };
        script.put(Command::Write, &[at.as_bytes(), &input].concat());
        // Expert 0 has a replica, and the next one none.
        for expert in [0, 1] {
            let mut token = token(0, expert);
            token.truncate(token.len() - 2 * usize::from(K - 1));
            token[4] = 1;
            token[8..12].copy_from_slice(&ACTIVATION_LINE.to_le_bytes());
            token[12..16].copy_from_slice(&RESULT_LINE.to_le_bytes());
            script.put(Command::Token, &token);
            // By the second of these the job has ended, however little idle time there was.
            (0..2).for_each(|_| script.refuse(Command::Identify as u8, &[]));
            let lines = Read { line: RESULT_LINE.into(), lines: 4.into(), reserved: 0.into() };
            script.put(Command::Read, lines.as_bytes());
        }
    }
}

/// The replicas of a layer of which expert 0 has one.
fn replicas(bits: u8) -> Vec<u8> {
    let first = Replicas::first_line(1, EXPERTS).unwrap_or(0);
    let mut image = vec![0; first as usize * wire::LINE];
    for matrix in 0..3usize {
        let Ok(layout) = Layout::new(bits, 32, -14, COLUMNS as u32, COLUMNS as u32) else { continue };
        let mut bytes = vec![0; layout.byte_len() as usize];
        // The sizes fit.
        let _ = layout.write(&mut bytes);
        let header = bytes.len() - layout.row_bytes() * COLUMNS;
        for (row, packed) in bytes[header..].chunks_exact_mut(layout.row_bytes()).enumerate() {
            let code =
                |column: usize| ((37 * row + 11 * column + 5 * matrix + row * column) >> 1) as u8 & ((1 << bits) - 1);
            let codes: Vec<u8> = (0..COLUMNS).map(code).collect();
            let scales: Vec<u16> = (0..layout.groups()).map(|group| 900 + (61 * row + group) as u16).collect();
            let _ = layout.pack_row(&codes, &scales, &vec![101; layout.groups()], packed);
        }
        image.extend(bytes);
    }
    image.resize(image.len().next_multiple_of(wire::LINE), 0);
    let lines = (image.len() / wire::LINE) as u32;
    let _ = Replicas::write_header(&mut image, 1, EXPERTS, lines);
    if let Some(entry) = Replicas::entry(EXPERTS, 0, 0, bits) {
        image[entry..entry + 4].copy_from_slice(&first.to_le_bytes());
    }
    image
}

fn configuration(experts: u16) -> Configure {
    let share = |percent: u32| (u32::MAX / 100 * percent).into();
    Configure {
        layers: LAYERS.into(),
        experts: experts.into(),
        k: K as u8,
        keep: 1,
        score: 0,
        on_demand: 0,
        capacity: (EXPERTS / 4).into(),
        bits: 4,
        threshold: 4,
        eps: share(4),
        bounds_error: 0,
        bias_place: 0,
        groups: 1,
        top_groups: 1,
        error: 0.into(),
        slow: share(2),
        reopened: share(10),
        fast: share(20),
        group_rating: 0,
        renormalise: 0,
        table: 0,
        count: 0,
        bound: 0.into(),
        jitter: 0.into(),
        scale: (1 << 24).into(),
        null_experts: 0.into(),
        events: 0,
        reserved: 0,
        replicas: 0.into(),
    }
}

/// A bias that is larger for every other expert.
fn bias(layer: u16) -> Vec<u8> {
    let bias: Vec<I32> = (0..EXPERTS).map(|id| I32::new(i32::from(id % 2) << 14)).collect();
    [Bias { layer: layer.into(), experts: EXPERTS.into() }.as_bytes(), bias.as_bytes()].concat()
}

fn prefill(layer: u16) -> Vec<u8> {
    let head = Prefill { layer: layer.into(), count: K as u8, weighted: 0 };
    [head.as_bytes(), experts(0).as_bytes()].concat()
}

fn place(layer: u16) -> Vec<u8> {
    let cold = EXPERTS - K;
    let split = [0, cold, 0, 0].map(U16::new);
    Place { layer: layer.into(), hot: K.into(), alpha: u32::MAX.into(), split }.as_bytes().to_vec()
}

/// A token that wants the experts from `first` on, the first most; what it wants least others may stand in for.
fn token(layer: u16, first: u16) -> Vec<u8> {
    let head = Token {
        layer: layer.into(),
        experts: EXPERTS.into(),
        wanted: K as u8,
        starts_sequence: 0,
        loaded: 0,
        failed: 0,
        activation: 0.into(),
        result: 0.into(),
    };
    let wanted = first..first + K;
    let score = |id| if wanted.contains(&id) { i32::from(wanted.end - id) << 15 } else { 0 };
    let logits: Vec<I32> = (0..EXPERTS).map(|id| I32::new(score(id))).collect();
    [head.as_bytes(), logits.as_bytes(), experts(first).as_bytes()].concat()
}

fn experts(first: u16) -> [U16; K as usize] {
    std::array::from_fn(|i| U16::new(first + i as u16))
}
