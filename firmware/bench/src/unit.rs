//! Turns with the hardware unit on the core's bus: what they take, and that every answer and every job is what a
//! controller without a unit gives to the same requests, right ones and others.
//!
//! Lines: `count turn EXPERTS K 0 CYCLES`, from the host's doorbell to the index of the answer, and `turn_sigmoid` for
//! a choice by scores with a bias in groups; `count turn_behind EXPERTS K INSTRUCTIONS CYCLES`, what the firmware does
//! behind it until the unit waits again, and `turn_behind_sigmoid`; `unit REQUESTS ANSWERED LISTED HANDED WRONG`:
//! requests, those that the unit has answered itself, jobs that it has listed, cycles from the doorbell until it had
//! handed over the others, and answers and jobs that were others than without it.

use core::cell::RefCell;
use core::fmt::Write;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

use cptr_core::dispatch::{Busy, ExecutionUnits, Job};
use cptr_core::router::{GroupRating, Groups};
use cptr_core::{Logit, Router};
use cptr_protocol::platform::Coherent;
use cptr_protocol::region::{FEATURES, Geometry, HostRegion};
use cptr_protocol::unit::Registers;
use cptr_protocol::wire::{self, Command, Integrity, MAX_K, Part, Place, Prefill};
use cptr_protocol::{Controller, Layer, Mailbox, Rings, Uncounted, Unit, Units, Untimed, words_for};
use cptr_rt::Console;
use heapless::Vec;
use zerocopy::little_endian::{I32, U16};

use crate::kernels::{Cost, Counters};
use crate::random::Random;
use crate::turn::{Host, configuration, token};

const MOST: usize = 256;
/// Experts and experts per token of the models in `cptr budget`, and whether the choice is by scores in eight groups.
const LAYERS: [(usize, usize, bool); 7] =
    [(8, 2, false), (32, 4, false), (64, 6, false), (64, 8, false), (128, 8, false), (MOST, 8, false), (MOST, 8, true)];
/// Tokens of each.
const TOKENS: u32 = 60;
/// The most that the unit does, which the image is for.
const MOST_K: usize = 8;
const GEOMETRY: Geometry =
    Geometry { queues: 1, slots: 2, request: wire::max_request_of(MOST, 1), answer: wire::max_answer_of(MOST, 1) };
/// Address of the host's doorbell.
const DOORBELL: u16 = 0x200;

/// What host and device share; and for a device without a unit.
static MEMORY: [[AtomicU32; GEOMETRY.words()]; 2] = [const { [const { AtomicU32::new(0) }; GEOMETRY.words()] }; 2];
/// Where the unit lists jobs.
static JOBS: [AtomicU32; 6 * MOST_K] = [const { AtomicU32::new(0) }; 6 * MOST_K];

struct Buffers {
    request: [[u32; GEOMETRY.request.div_ceil(4)]; 2],
    answers: [[u8; GEOMETRY.answer]; 2],
    frame: [u8; GEOMETRY.request],
    taken: [[u8; GEOMETRY.answer]; 2],
    layers: [[Layer<MOST, { words_for(MOST) }>; 2]; 2],
    bias: [[Logit; 2 * MOST]; 2],
}

static mut BUFFERS: Buffers = Buffers {
    request: [[0; GEOMETRY.request.div_ceil(4)]; 2],
    answers: [[0; GEOMETRY.answer]; 2],
    frame: [0; GEOMETRY.request],
    taken: [[0; GEOMETRY.answer]; 2],
    layers: [const { [const { Layer::new() }; 2] }; 2],
    bias: [[Logit::ZERO; 2 * MOST]; 2],
};

/// The unit on the core's bus.
#[derive(Debug)]
struct Bus;

impl Registers for Bus {
    fn load(&self, address: u16) -> u32 {
        cptr_rt::load_unit(address)
    }

    fn store(&mut self, address: u16, value: u32) {
        cptr_rt::store_unit(address, value);
    }
}

/// Units that write down which jobs they are given.
#[derive(Debug)]
struct Written<'a> {
    jobs: &'a RefCell<Vec<Job, MAX_K>>,
    units: Untimed,
}

impl ExecutionUnits for Written<'_> {
    fn submit(&mut self, job: &Job) -> Result<(), Busy> {
        self.units.submit(job)?;
        self.jobs.borrow_mut().push(*job).map_err(|_| Busy)
    }

    fn poll(&mut self) -> Option<Job> {
        self.units.poll()
    }
}

impl Units for Written<'_> {}

/// The job at a place of the unit's list, as its six words.
fn listed(place: usize) -> [u32; 6] {
    let mut words = [0; 6];
    let list = JOBS.iter().skip(6 * place);
    words.iter_mut().zip(list).for_each(|(word, from)| *word = from.load(Ordering::Relaxed));
    words
}

/// The words of a job.
fn words(job: &Job) -> [u32; 6] {
    let Job { token, layer, expert, bits, rank, weight, activation, result } = *job;
    let ids = u32::from(layer) | u32::from(expert) << 16;
    [token, ids, u32::from(bits) | u32::from(rank) << 8, weight.to_bits(), activation, result]
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    requests: u32,
    flipped: u32,
    elsewhere: u32,
    answered: u32,
    listed: u32,
    handed: u32,
    wrong: u32,
}

/// Prints the mean of a turn for each layer, and what was seen; whether nothing was wrong.
pub(crate) fn report() -> bool {
    let buffers = &raw mut BUFFERS;
    // SAFETY: nobody else names the memory, and an image runs this function once.
    let buffers = unsafe { &mut *buffers };
    let mut seen = Seen::default();
    for (case, layer) in (1..).zip(LAYERS) {
        turns(layer, case, buffers, &mut seen);
    }
    let Seen { requests, answered, listed, handed, wrong, .. } = seen;
    let _ = writeln!(Console, "unit {requests} {answered} {listed} {handed} {wrong}");
    wrong == 0 && answered > 0
}

/// How a request is spoilt, if it is: what the unit has to hand over, and the firmware to refuse or to do itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Right,
    /// The host leaves it to the controller what is wanted.
    Unlisted,
    /// The host wants another expert than the best.
    Other,
    /// A bit of the header or the descriptor, its first 32 bytes, is another one.
    Flipped(u32),
    /// A bit of the word of its checksum is.
    Summed(u32),
    /// It ends some bytes early.
    Cut(u32),
    /// The last request again.
    Repeated,
    /// Its layer is one that the model has not, or whose experts are not placed.
    Elsewhere(u16),
}

/// The bias of an expert: little, so that it decides between scores that are near each other.
fn bias(layer: usize, expert: usize) -> Logit {
    Logit::from_bits((expert * 37 + layer * 11) as i32 % 61 - 30)
}

fn turns((experts, k, scores): (usize, usize, bool), case: u32, buffers: &mut Buffers, seen: &mut Seen) {
    let Buffers { request, answers, frame, taken, layers, bias: biases } = buffers;
    let ([request, twin_request], [answer, twin_answer], [taken, twin_taken], [layer, twin_layer]) =
        (request, answers, taken, layers);
    let [of_layers, of_twin] = biases;
    let mut biases = [[Logit::ZERO; MOST]; 2];
    for (layer, biases) in biases.iter_mut().enumerate() {
        biases.iter_mut().enumerate().for_each(|(expert, to)| *to = bias(layer, expert));
    }
    let [memory, twin_memory] = &MEMORY;
    let jobs = RefCell::new(Vec::new());
    let Ok(mut rings) = Rings::new(memory, GEOMETRY, Coherent, request) else { return };
    let Ok(mut twin_rings) = Rings::new(twin_memory, GEOMETRY, Coherent, twin_request) else { return };
    let units = Written { jobs: &jobs, units: Untimed::default() };
    let generation = rings.generation();
    let controller = Controller::new(layer, answer, units, Uncounted).with_generation(generation);
    let mut controller = controller.with_bias(of_layers);
    let twin = Controller::new(twin_layer, twin_answer, Untimed::default(), Uncounted).with_bias(of_twin);
    let mut twin = twin.with_generation(twin_rings.generation());
    let Some(mut unit) = Unit::find(Bus, JOBS.as_ptr().expose_provenance() as u32) else {
        seen.wrong += 1;
        return;
    };
    // It may wait for the layer before.
    unit.stop();
    let mut region = HostRegion::new(memory, Coherent).with_features(FEATURES);
    let mut twin_region = HostRegion::new(twin_memory, Coherent).with_features(FEATURES);
    for _ in 0..6 {
        let _ = (region.attach(), twin_region.attach());
        unit.step(&mut controller, &mut rings);
        let Ok(_) = twin_rings.poll(|_, _| &[]);
    }
    let mut host = Host { frame, sequence: 0, random: Random(case), integrity: Integrity::Link };
    let groups = Groups { count: 8, open: 4, rating: GroupRating::TwoBest };
    let router = |layer: usize| {
        if scores {
            let bias = biases[layer].get(..experts).unwrap_or_default();
            Router { groups, bias, ..Router::sigmoid_grouped(k, 1, 1, &[]) }
        } else {
            Router::softmax_selected(k)
        }
    };
    let (mut turn, mut behind, mut counted) = (0u64, Cost::default(), 0u32);
    // Two more to say the biases.
    let first = if scores { 4 } else { 2 };
    // A layer is asked for a token before its experts are placed, when the unit may know it of the model before.
    let each = (experts / 4).div_ceil(k) as u32 + 2;
    let placing = first + 2 * each;
    for number in 0..placing + TOKENS + 4 {
        let layer = if number < placing { number.saturating_sub(first) / each } else { number & 1 };
        let kind = match number {
            _ if number >= first && number < placing && (number - first) % each == 0 => Kind::Elsewhere(layer as u16),
            _ if number < placing + 12 || number >= placing + TOKENS => Kind::Right,
            _ if number % 10 == 1 => Kind::Unlisted,
            _ if number % 10 == 6 => Kind::Other,
            _ if number % 10 == 2 => Kind::Repeated,
            _ if number % 20 == 7 => Kind::Summed(number % 32),
            _ if number % 20 == 17 => Kind::Cut(1 + number % 3),
            // Every bit above those that a model of two layers needs, in the course of all layers.
            _ if number % 10 == 4 => {
                seen.elsewhere += 1;
                Kind::Elsewhere(layer as u16 | 2 << (seen.elsewhere % 15))
            }
            _ if number % 5 == 3 => {
                // All over them in the course of all layers.
                seen.flipped += 1;
                Kind::Flipped(seen.flipped * 113 % 256)
            }
            _ => Kind::Right,
        };
        let sequence = host.sequence;
        let mut length = match number {
            0 => host.frame(Command::Reset, |writer, _| writer.put(&wire::Reset { generation: generation.into() })),
            1 => host.frame(Command::Configure, |writer, _| {
                let usual = wire::Configure { layers: 2.into(), ..configuration(experts, k, scores) };
                // Of scores nobody alters the choice.
                let by_scores = wire::Configure { bias_place: 1, eps: 0.into(), ..usual };
                writer.put(if scores { &by_scores } else { &usual });
            }),
            _ if number < first => host.frame(Command::Bias, |writer, _| {
                let layer = number as usize - 2;
                writer.put(&wire::Bias { layer: (layer as u16).into(), experts: (experts as u16).into() });
                (0..experts).for_each(|expert| writer.put(&I32::new(bias(layer, expert).to_bits())));
            }),
            _ if number < placing && (number - first) % each == each - 1 => host.frame(Command::Place, |writer, _| {
                let hot = (experts as u16 / 4).into();
                // A few of each width, so that jobs have an order.
                let cold = experts as u16 - experts as u16 / 4;
                let split = [cold - 3 * (cold / 4), cold / 4, cold / 4, cold / 4].map(U16::new);
                writer.put(&Place { layer: (layer as u16).into(), hot, alpha: 0.into(), split });
            }),
            _ if number < placing && kind == Kind::Right => host.frame(Command::Prefill, |writer, _| {
                let before = ((number - first) % each - 1) as usize * k;
                let wanted = (0..experts as u16).step_by(4).skip(before).take(k);
                let count = wanted.clone().count() as u8;
                writer.put(&Prefill { layer: (layer as u16).into(), count, weighted: 0 });
                wanted.for_each(|expert| writer.put(&U16::new(expert)));
            }),
            // What the layers have learnt.
            _ if number >= placing + TOKENS => host.frame(Command::Snapshot, |writer, _| {
                let part = ((number - placing - TOKENS) / 2) as u16;
                writer.put(&Part { layer: (layer as u16).into(), part: part.into() });
            }),
            _ => host.frame(Command::Token, |writer, random| {
                let asked = if let Kind::Elsewhere(asked) = kind { asked } else { layer as u16 };
                token(writer, random, experts, &router(layer as usize), kind != Kind::Unlisted, asked);
            }),
        }
        .len();
        if kind == Kind::Other {
            // The least of all, in the place of the last that is wanted, behind header, descriptor and logits.
            let at = 32 + 4 * experts + 2 * (k - 1);
            let logit = |expert: usize| {
                let bytes = host.frame.get(32 + 4 * expert..).and_then(|rest| rest.first_chunk());
                bytes.map_or(0, |bytes| i32::from_le_bytes(*bytes))
            };
            let least = (0..experts).min_by_key(|&expert| logit(expert)).unwrap_or(0);
            host.frame[at..at + 2].copy_from_slice(&(least as u16).to_le_bytes());
        }
        if kind == Kind::Repeated {
            // The number of the one before; its bytes are others, so that it is refused.
            host.frame[8..12].copy_from_slice(&(sequence.wrapping_sub(1)).to_le_bytes());
        }
        match kind {
            Kind::Flipped(bit) => host.frame[bit as usize / 8] ^= 1 << (bit % 8),
            Kind::Summed(bit) => host.frame[length - 1 - bit as usize / 8] ^= 1 << (bit % 8),
            Kind::Cut(bytes) => length -= bytes as usize,
            _ => {}
        }
        let frame = &host.frame[..length];
        let _ = (region.send(0, frame), twin_region.send(0, frame));
        let before = unit.answered();
        jobs.borrow_mut().clear();
        let waits = unit.waits();
        cptr_rt::store_unit(DOORBELL, 1);
        // Until it has answered, or handed the request over.
        while waits && unit.waits() {}
        let cycles = unit.cycles();
        let spent = Counters::of(|| _ = black_box(unit.step(&mut controller, &mut rings)));
        let Ok(_) = twin_rings.poll(|request, integrity| twin.handle_from(request, integrity));
        while twin.idle() {}
        let by_unit = unit.answered() != before;
        let received = region.receive(0, taken).ok().flatten().unwrap_or(0);
        let expected = twin_region.receive(0, twin_taken).ok().flatten().unwrap_or(usize::MAX);
        let same = received == expected && taken[..received] == twin_taken[..received];
        let mut right = same;
        if by_unit {
            let jobs = jobs.borrow();
            let in_list = (0..).zip(&*jobs).all(|(place, job)| listed(place) == words(job));
            let refused = matches!(kind, Kind::Other | Kind::Repeated | Kind::Elsewhere(_));
            right &= in_list && unit.listed() == jobs.len() && !refused;
            seen.listed += jobs.len() as u32;
        } else {
            seen.handed += if waits { cycles } else { 0 };
            // A right token is the unit's to answer.
            right &= !(placing..placing + TOKENS).contains(&number) || kind != Kind::Right && kind != Kind::Unlisted;
        }
        if !right {
            let _ = writeln!(Console, "{experts} {k}: request {number} is wrong, by the unit: {by_unit}");
        }
        // A refusal takes no number, and neither does the kept answer, which is to another one.
        let answered_it = taken.get(8..12) == Some(&sequence.to_le_bytes()) && taken[..received].get(14) == Some(&0);
        if kind == Kind::Repeated || !answered_it {
            host.sequence = sequence;
        }
        // Armed for the next one, if the answer was still in its ring.
        unit.step(&mut controller, &mut rings);
        if by_unit && number >= placing + 4 && number < placing + 12 {
            turn += u64::from(cycles);
            behind.record(spent);
            counted += 1;
        }
        seen.requests += 1;
        seen.answered += u32::from(by_unit);
        seen.wrong += u32::from(!right);
    }
    let [kernel, behind_kernel] =
        if scores { ["turn_sigmoid", "turn_behind_sigmoid"] } else { ["turn", "turn_behind"] };
    let _ = writeln!(Console, "count {kernel} {experts} {k} 0 {}", turn.checked_div(counted.into()).unwrap_or(0));
    behind.print(behind_kernel, experts, k, Cost::empty());
}
