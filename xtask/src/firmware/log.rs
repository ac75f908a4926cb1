//! The controller's log: an image with it holds a conversation with everything in it that is logged.
//!
//! The answers must be those of the same engine on the host, so that a log disturbs neither the decisions nor the serial line; the decoded log
//! must be `firmware/golden/log.out`.

use std::fs::File;
use std::path::Path;

use cptr_protocol::wire::{self, Command, Configure, Frame, Place, Prefill, Status, Token, Writer};
use cptr_protocol::{Controller, InstructionCounter, Layer, Untimed};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{I32, U16};

use super::emulator::Emulator;
use super::linked::Linked;
use super::machines::{MACHINES, Machine};
use super::{Done, build_with_log, cargo, golden, output};

/// Where it runs: one machine of each instruction set.
const CORES: [&str; 2] = ["cortex-m4f", "rv32imac"];
/// Of the image's memory, as in `firmware/controller/src/main.rs`.
const MOST_LAYERS: usize = 64;
const MOST_EXPERTS: usize = 256;
/// Of the conversation.
const LAYERS: u16 = 2;
const EXPERTS: u16 = 32;
const K: u16 = 4;
/// Tokens of one context: enough for lock before it changes.
const CONTEXT: usize = 48;

/// What must be in the log at least once.
const KINDS: [&str; 4] = ["configured", "placed", "refused", "lost lock"];

/// Runs the conversation on each of [`CORES`]: every machine must log the same.
pub(super) fn check(bless: bool) -> Done {
    let mut found: Option<String> = None;
    for machine in MACHINES.iter().filter(|machine| CORES.contains(&machine.core)) {
        let text = logged(machine).map_err(|error| format!("{}: with a log: {error}", machine.core))?;
        println!("{:<12} answers as without a log, which has {} lines", machine.core, text.lines().count());
        if found.get_or_insert_with(|| text.clone()) != &text {
            return Err(format!("{}: logs\n{text}", machine.core));
        }
    }
    let found = found.unwrap_or_default();
    match KINDS.iter().find(|kind| !found.contains(**kind)) {
        Some(kind) => Err(format!("there is no \"{kind}\" in\n{found}")),
        None => golden("log.out", &found, bless),
    }
}

/// The decoded log of the conversation.
fn logged(machine: &Machine) -> Done<String> {
    let image = build_with_log("cptr-controller", machine.target)?;
    let panics = Linked::read(&image)?.panics().join(", ");
    if !panics.is_empty() {
        return Err(format!("the image can panic: {panics}"));
    }
    let log = image.with_extension("log");
    converse(machine, &image, &log)?;
    output(cargo(&["run", "--quiet", "--release", "--package", "cptr-log", "--"]).arg(&image).arg(&log))
}

/// Sends all requests, each after the answer to the one before.
fn converse(machine: &Machine, image: &Path, log: &Path) -> Done {
    let mut layers = vec![Layer::<MOST_EXPERTS>::new(); MOST_LAYERS];
    let mut host = Controller::new(&mut layers, Untimed::default(), Still);
    let log = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
    let mut emulator = Emulator::start(machine, image, log.into())?;
    for (number, request) in requests().into_iter().enumerate() {
        let mut expected = vec![0; wire::max_answer(MOST_EXPERTS)];
        let length = host.handle(&request, &mut expected);
        host.idle();
        expected.truncate(length);
        let answer = ask(&mut emulator, &request)?;
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

/// Status and body of an answer, less the counts of instructions in a decision.
fn uncounted(answer: &[u8]) -> Done<(u8, u32, u16, Vec<u8>)> {
    let frame = Frame::open(answer).map_err(|(status, _)| format!("an answer is refused: {status}"))?;
    let (header, mut body) = (frame.header, frame.body.rest().to_vec());
    if header.kind == wire::ANSWER | Command::Token as u8 && header.status.get() == 0 {
        body.drain(8..16);
    }
    Ok((header.kind, header.sequence.get(), header.status.get(), body))
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

/// Requests, and the sequence number of the next.
struct Script {
    requests: Vec<Vec<u8>>,
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
        self.requests.push(frame(kind, self.sequence, body));
    }
}

fn frame(kind: u8, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; wire::OVERHEAD + body.len()];
    let mut writer = Writer::new(&mut memory);
    writer.put(body);
    writer.finish(kind, sequence, Status::Done).to_vec()
}

/// What a host does, and in between what it may not.
fn requests() -> Vec<Vec<u8>> {
    let mut script = Script { requests: Vec::new(), sequence: 1 };
    let [configure_kind, place_kind, token_kind] =
        [Command::Configure, Command::Place, Command::Token].map(|c| c as u8);
    script.refuse(token_kind, &token(0, 0));
    script.refuse(configure_kind, &configure(MOST_EXPERTS as u16 + 1));
    script.put(Command::Configure, &configure(EXPERTS));
    script.refuse(configure_kind, &configure(EXPERTS));
    script.refuse(place_kind, &place(0));
    script.refuse(99, &[]);
    let mut damaged = frame(token_kind, script.sequence, &token(0, 0));
    damaged.iter_mut().take(20).skip(19).for_each(|byte| *byte ^= 1);
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
    script.requests.push(frame(token_kind, script.sequence + 7, &token(0, 0)));
    // Its answer says that everything before is in the log.
    script.refuse(Command::Identify as u8, &[]);
    script.requests
}

fn configure(experts: u16) -> Vec<u8> {
    let share = |percent: u32| (u32::MAX / 100 * percent).into();
    let configure = Configure {
        layers: LAYERS.into(),
        experts: experts.into(),
        k: K as u8,
        keep: 1,
        scoring: 0,
        on_demand: 0,
        capacity: (EXPERTS / 4).into(),
        bits: 4,
        threshold: 4,
        eps: share(4),
        bounds_error: 0,
        reserved: [0; 3],
        error: 0.into(),
        slow: share(2),
        reopened: share(10),
        fast: share(20),
    };
    configure.as_bytes().to_vec()
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

/// A token that wants the experts from `first` on.
fn token(layer: u16, first: u16) -> Vec<u8> {
    let head =
        Token { layer: layer.into(), experts: EXPERTS.into(), wanted: K as u8, starts_sequence: 0, reserved: 0.into() };
    let logits: Vec<I32> =
        (0..EXPERTS).map(|id| I32::new(if (first..first + K).contains(&id) { 8 << 16 } else { 0 })).collect();
    [head.as_bytes(), logits.as_bytes(), experts(first).as_bytes()].concat()
}

fn experts(first: u16) -> [U16; K as usize] {
    std::array::from_fn(|i| U16::new(first + i as u16))
}
