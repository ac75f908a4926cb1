//! What a whole turn of the controller costs: from a doorbell's request in shared memory to the answer in it. Experts
//! are placed, and all that a token takes are cold, so that each becomes a job near the data.
//!
//! A request has 1 to 16 tokens (`turn`, `turn_2` … `turn_16`). The processor copies it out of the ring, or a DMA
//! engine does (`turn_dma` …): then what is counted is a descriptor for the engine and a look whether it is done. The
//! copy itself, which stands in for the engine, is not, and neither is the time that it would take.

use core::cell::Cell;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

use cptr_core::{Logit, Router};
use cptr_protocol::platform::{Coherent, Platform};
use cptr_protocol::region::{FEATURE_NO_CHECKSUM, FEATURES, Geometry, HostRegion};
use cptr_protocol::wire::{self, Command, Configure, Head, Integrity, Place, Prefill, Status, Token, Writer};
use cptr_protocol::{Controller, Layer, Mailbox, Rings, Uncounted, Untimed, words_for};
use cptr_rt::Console;
use zerocopy::little_endian::{I32, U16};

use crate::kernels::{Cost, Counters, counts};
use crate::random::{Random, fill};

const MOST: usize = 256;
/// Experts and experts per token of the models in `cptr budget`.
const LAYERS: [(usize, usize); 6] = [(8, 2), (32, 4), (64, 6), (64, 8), (128, 8), (MOST, 8)];
/// Tokens of a request, beside one, and what they add to the name of a kernel.
const BATCHES: [(usize, [&str; 3]); 4] = [
    (2, ["turn_2", "turn_dma_2", "turn_sigmoid_2"]),
    (4, ["turn_4", "turn_dma_4", "turn_sigmoid_4"]),
    (8, ["turn_8", "turn_dma_8", "turn_sigmoid_8"]),
    (16, ["turn_16", "turn_dma_16", "turn_sigmoid_16"]),
];
/// Tokens before the count, and counted ones; of requests with several, as many requests, but at most 2 and 4.
const WARM: u32 = 4;
const COUNTED: u32 = 8;
/// One queue of one request, and one of the longest answers.
pub(crate) const GEOMETRY: Geometry = Geometry {
    queues: 1,
    slots: 1,
    request: wire::max_request_of(MOST, wire::MAX_TOKENS),
    answer: wire::max_answer_of(MOST, wire::MAX_TOKENS),
};

/// What host and device share, and what each has beside.
pub(crate) static MEMORY: [AtomicU32; GEOMETRY.words()] = [const { AtomicU32::new(0) }; GEOMETRY.words()];

pub(crate) struct Buffers {
    pub(crate) request: [u32; GEOMETRY.request.div_ceil(4)],
    pub(crate) answers: [u8; GEOMETRY.answer],
    pub(crate) frame: [u8; GEOMETRY.request],
    pub(crate) taken: [u8; GEOMETRY.answer],
}

static mut BUFFERS: Buffers = Buffers {
    request: [0; GEOMETRY.request.div_ceil(4)],
    answers: [0; GEOMETRY.answer],
    frame: [0; GEOMETRY.request],
    taken: [0; GEOMETRY.answer],
};

/// Registers of a DMA engine: source, destination, length with the bit that starts it, and whether it is done.
static ENGINE: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];

/// The machine; nobody waits for a call.
#[derive(Clone, Copy)]
struct Machine<'a> {
    /// With a DMA engine: what standing in for it has taken.
    engine: Option<&'a Cell<Counters>>,
}

impl Platform for Machine<'_> {
    fn publish(&self) {
        cptr_rt::publish();
    }

    fn notify(&mut self, _: usize) {}

    fn wait(&mut self) {}

    fn fetch(&self, from: &[AtomicU32], to: &mut [u32]) {
        let Some(taken) = self.engine else { return Coherent.fetch(from, to) };
        let [source, destination, start, done] = &ENGINE;
        source.store(from.as_ptr().addr() as u32, Ordering::Relaxed);
        destination.store(to.as_ptr().addr() as u32, Ordering::Relaxed);
        start.store(1 << 31 | to.len() as u32, Ordering::Release);
        taken.set(Counters::of(|| Coherent.fetch(from, black_box(to))));
        while done.load(Ordering::Acquire) != 0 {}
    }
}

/// What the host asks.
pub(crate) struct Host<'a> {
    pub(crate) frame: &'a mut [u8],
    pub(crate) sequence: u32,
    pub(crate) random: Random,
    pub(crate) integrity: Integrity,
}

impl Host<'_> {
    pub(crate) fn frame(&mut self, command: Command, body: impl FnOnce(&mut Writer<'_>, &mut Random)) -> &[u8] {
        let mut writer = Writer::new(self.frame);
        body(&mut writer, &mut self.random);
        let head = Head { kind: command as u8, queue: 0, session: 1, sequence: self.sequence };
        self.sequence += 1;
        writer.finish_for(head, Status::Done, self.integrity)
    }
}

/// A token that wants none of the experts in fast memory, which are every fourth: it lists what it wants, or has the
/// controller find it. They come close to what it wants, unless a bias has a say in that.
pub(crate) fn token(
    writer: &mut Writer<'_>,
    random: &mut Random,
    experts: usize,
    router: &Router<'_>,
    listed: bool,
    layer: u16,
) {
    let mut logits = [Logit::ZERO; MOST];
    let logits = &mut logits[..experts];
    fill(logits, random, 1);
    // First what it wants of the others; then those in fast memory, which come close to it.
    let mut others = [Logit::ZERO; MOST];
    let others = &mut others[..experts];
    others.copy_from_slice(logits);
    others.iter_mut().step_by(4).for_each(|logit| *logit = Logit::from_num(-32));
    let wanted = router.top_k::<16>(others).unwrap_or_default();
    let least = wanted.iter().map(|&expert| others[usize::from(expert)]).min().unwrap_or_default();
    let close = if router.bias.is_empty() { least - Logit::from_num(0.25) } else { Logit::from_num(-32) };
    logits.iter_mut().step_by(4).for_each(|logit| *logit = (*logit).min(close));
    // As many as make whole words.
    let given = if listed { wanted.len() } else { 0 };
    writer.put(&Token {
        layer: layer.into(),
        experts: (experts as u16).into(),
        wanted: given as u8,
        starts_sequence: 0,
        loaded: 0,
        failed: 0,
        activation: 0.into(),
        result: 0.into(),
    });
    logits.iter().for_each(|logit| writer.put(&I32::new(logit.to_bits())));
    wanted.iter().take(given).for_each(|&expert| writer.put(&U16::new(expert)));
}

/// A softmax router, a bound of 0.04, a quarter of the experts in fast memory.
pub(crate) fn configuration(experts: usize, k: usize, sigmoid: bool) -> Configure {
    Configure {
        layers: 1.into(),
        experts: (experts as u16).into(),
        k: k as u8,
        keep: 1,
        score: if sigmoid { 2 } else { 1 },
        on_demand: 0,
        capacity: (experts as u16).into(),
        bits: 2,
        threshold: 8,
        eps: 171_798_692.into(),
        bounds_error: 0,
        bias_place: 0,
        groups: if sigmoid { 8 } else { 1 },
        top_groups: if sigmoid { 4 } else { 1 },
        error: 0.into(),
        slow: (1 << 26).into(),
        reopened: (1 << 29).into(),
        fast: (1 << 29).into(),
        group_rating: u8::from(sigmoid),
        renormalise: 1,
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

/// A layer, and how its turns are asked for.
#[derive(Clone, Copy)]
struct Case {
    experts: usize,
    k: usize,
    /// Tokens of a request.
    tokens: usize,
    /// Whether the host lists what it wants.
    listed: bool,
    /// Sigmoid scores in eight groups instead of a softmax.
    sigmoid: bool,
    /// Whether link and memory keep frames whole.
    link: bool,
    /// Whether a DMA engine fetches requests.
    dma: bool,
}

/// The memory of an image's turns.
///
/// # Safety
/// To be called once in an image: what it returns is the only reference to that memory.
pub(crate) unsafe fn buffers() -> &'static mut Buffers {
    let buffers = &raw mut BUFFERS;
    // SAFETY: nobody else names the memory, and the caller calls this once.
    unsafe { &mut *buffers }
}

/// Prints the mean of a turn for each layer; nothing where the machine has no counters.
pub(crate) fn report() {
    if !counts() {
        return;
    }
    // SAFETY: an image runs either this function or the long one, and once.
    let buffers = unsafe { buffers() };
    let empty = Cost::empty();
    let mut turns = |name: &str, case: Case| turns(name, case, buffers, empty);
    for (experts, k) in LAYERS {
        let case = Case { experts, k, tokens: 1, listed: true, sigmoid: false, link: true, dma: false };
        turns("turn", case);
        turns("turn_top_k", Case { listed: false, ..case });
        turns("turn_checksum", Case { link: false, ..case });
        turns("turn_dma", Case { dma: true, ..case });
        for (tokens, [name, with_dma, _]) in BATCHES {
            turns(name, Case { tokens, ..case });
            turns(with_dma, Case { tokens, dma: true, ..case });
        }
    }
    let case = Case { experts: MOST, k: 8, tokens: 1, listed: true, sigmoid: true, link: true, dma: false };
    turns("turn_sigmoid", case);
    for (tokens, [.., name]) in BATCHES {
        turns(name, Case { tokens, ..case });
    }
}

#[inline(never)]
fn turns(name: &str, case: Case, buffers: &mut Buffers, empty: Cost) {
    let Case { experts, k, tokens, listed, sigmoid, link, dma } = case;
    let Buffers { request, answers, frame, taken } = buffers;
    let uncounted = Cell::new(Counters::default());
    let machine = Machine { engine: dma.then_some(&uncounted) };
    let Ok(mut rings) = Rings::new(&MEMORY, GEOMETRY, machine, request) else { return };
    let mut layers = [Layer::<MOST, { words_for(MOST) }>::new()];
    let controller = Controller::new(&mut layers, answers, Untimed::default(), Uncounted);
    let mut controller = controller.with_tokens(wire::MAX_TOKENS).with_generation(rings.generation());
    let features = if link { FEATURES } else { FEATURES & !FEATURE_NO_CHECKSUM };
    let mut region = HostRegion::new(&MEMORY, machine).with_features(features);
    let integrity = if link { Integrity::Link } else { Integrity::Checksum };
    let mut host = Host { frame, sequence: 0, random: Random(5), integrity };
    let router = if sigmoid { Router::sigmoid_grouped(k, 8, 4, &[]) } else { Router::softmax_selected(k) };
    let generation = rings.generation();
    // The memory is that of the case before: its host lets go first.
    for _ in 0..4 {
        let _ = region.attach();
        let Ok(_) = rings.poll(|_, _| &[]);
    }
    let (mut cost, mut refused) = (Cost::default(), 0);
    let placing = 2 + (experts / 4).div_ceil(k) as u32;
    let (warm, counted) = if tokens > 1 { (2, 4) } else { (WARM, COUNTED) };
    for turn in 0..placing + 1 + warm + counted {
        let frame = match turn {
            0 => host.frame(Command::Reset, |writer, _| writer.put(&wire::Reset { generation: generation.into() })),
            1 => host.frame(Command::Configure, |writer, _| writer.put(&configuration(experts, k, sigmoid))),
            // Every fourth expert is wanted, and placed.
            _ if turn < placing => host.frame(Command::Prefill, |writer, _| {
                let wanted = (0..experts as u16).step_by(4).skip((turn as usize - 2) * k).take(k);
                writer.put(&Prefill { layer: 0.into(), count: wanted.clone().count() as u8, weighted: 0 });
                wanted.for_each(|expert| writer.put(&U16::new(expert)));
            }),
            _ if turn == placing => host.frame(Command::Place, |writer, _| {
                let hot = (experts as u16 / 4).into();
                writer.put(&Place { layer: 0.into(), hot, alpha: 0.into(), split: [0.into(); 4] });
            }),
            _ => host.frame(Command::Token, |writer, random| {
                (0..tokens).for_each(|_| token(writer, random, experts, &router, listed, 0));
            }),
        };
        let _ = region.send(0, frame);
        let mut serve = || rings.poll(|request, integrity| controller.handle_from(request, integrity));
        let done =
            if turn <= placing + warm { serve() } else { cost.add_but(|| black_box(serve()), || uncounted.take()) };
        (0..4).for_each(|_| _ = controller.idle());
        let length = region.receive(0, taken).ok().flatten().unwrap_or(0);
        let answer = wire::Frame::open_from(&taken[..length], integrity);
        // Each token has a head and its runs, all of which are cold, and no loads.
        let decided = if turn > placing { tokens * (size_of::<wire::Decision>() + 8 * k) } else { 0 };
        let whole = answer.is_ok_and(|frame| frame.header.status == 0 && frame.body.rest().len() >= decided);
        refused += u32::from(done != Ok(true) || !whole);
    }
    if refused > 0 {
        let _ = core::fmt::Write::write_fmt(&mut Console, format_args!("{name} {experts} {k}: {refused} refused\n"));
        return;
    }
    cost.print(name, experts, k, if dma { empty.twice() } else { empty });
}
