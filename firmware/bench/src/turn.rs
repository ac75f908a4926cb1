//! What a whole turn of the controller costs: from a doorbell's request in shared memory to the answer in it. Experts
//! are placed, and all that a token takes are cold, so that each becomes a job near the data.

use core::hint::black_box;
use core::sync::atomic::AtomicU32;

use cptr_core::{Logit, Router};
use cptr_protocol::platform::Platform;
use cptr_protocol::region::{FEATURE_NO_CHECKSUM, FEATURES, Geometry, HostRegion};
use cptr_protocol::wire::{self, Command, Configure, Head, Integrity, Place, Prefill, Status, Token, Writer};
use cptr_protocol::{Controller, Layer, Mailbox, Rings, Uncounted, Untimed, words_for};
use cptr_rt::Console;
use zerocopy::little_endian::{I32, U16};

use crate::kernels::{Cost, counts};
use crate::random::{Random, fill};

const MOST: usize = 256;
/// Experts and experts per token of the models in `cptr budget`.
const LAYERS: [(usize, usize); 6] = [(8, 2), (32, 4), (64, 6), (64, 8), (128, 8), (MOST, 8)];
/// Turns before the count, and counted ones.
const WARM: u32 = 4;
const COUNTED: u32 = 8;
/// One queue of one request, and one of the longest answers.
const GEOMETRY: Geometry =
    Geometry { queues: 1, slots: 1, request: wire::max_request(MOST), answer: wire::max_answer(MOST) };

/// The machine; nobody waits for a call.
struct Machine;

impl Platform for Machine {
    fn publish(&self) {
        cptr_rt::publish();
    }

    fn notify(&mut self, _: usize) {}

    fn wait(&mut self) {}
}

/// What the host asks.
struct Host {
    frame: [u8; GEOMETRY.request],
    sequence: u32,
    random: Random,
    integrity: Integrity,
}

impl Host {
    fn frame(&mut self, command: Command, body: impl FnOnce(&mut Writer<'_>)) -> &[u8] {
        let mut writer = Writer::new(&mut self.frame);
        body(&mut writer);
        let head = Head { kind: command as u8, queue: 0, session: 1, sequence: self.sequence };
        self.sequence += 1;
        writer.finish_for(head, Status::Done, self.integrity)
    }

    /// A token that wants none of the experts in fast memory, which are every fourth: it lists what it wants, or has
    /// the controller find it.
    fn token(&mut self, experts: usize, router: &Router<'_>, listed: bool) -> &[u8] {
        let mut logits = [Logit::ZERO; MOST];
        let logits = &mut logits[..experts];
        fill(logits, &mut self.random, 1);
        // First what it wants of the others; then those in fast memory, which come close to it.
        let mut others = [Logit::ZERO; MOST];
        let others = &mut others[..experts];
        others.copy_from_slice(logits);
        others.iter_mut().step_by(4).for_each(|logit| *logit = Logit::from_num(-32));
        let wanted = router.top_k::<16>(others).unwrap_or_default();
        let least = wanted.iter().map(|&expert| others[usize::from(expert)]).min().unwrap_or_default();
        let close = least - Logit::from_num(0.25);
        logits.iter_mut().step_by(4).for_each(|logit| *logit = (*logit).min(close));
        let scores = logits.iter().map(|logit| I32::new(logit.to_bits()));
        let mut bits = [I32::new(0); MOST];
        bits.iter_mut().zip(scores).for_each(|(to, from)| *to = from);
        let mut ids = [U16::new(0); 16];
        ids.iter_mut().zip(&wanted).for_each(|(to, from)| to.set(*from));
        let given = if listed { wanted.len() } else { 0 };
        self.frame(Command::Token, |writer| {
            let (experts, wanted) = (U16::new(experts as u16), given as u8);
            writer.put(&Token {
                layer: 0.into(),
                experts,
                wanted,
                starts_sequence: 0,
                loaded: 0,
                failed: 0,
                activation: 0.into(),
                result: 0.into(),
            });
            writer.put(&bits[..usize::from(experts.get())]);
            writer.put(&ids[..given]);
        })
    }
}

/// A softmax router, a bound of 0.04, a quarter of the experts in fast memory.
fn configuration(experts: usize, k: usize, sigmoid: bool) -> Configure {
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
    /// Whether the host lists what it wants.
    listed: bool,
    /// Sigmoid scores in eight groups instead of a softmax.
    sigmoid: bool,
    /// Whether link and memory keep frames whole.
    link: bool,
}

/// Prints the mean of a turn for each layer; nothing where the machine has no counters.
pub(crate) fn report() {
    if !counts() {
        return;
    }
    let empty = Cost::empty();
    for (experts, k) in LAYERS {
        let case = Case { experts, k, listed: true, sigmoid: false, link: true };
        turns("turn", case, empty);
        turns("turn_top_k", Case { listed: false, ..case }, empty);
        turns("turn_checksum", Case { link: false, ..case }, empty);
    }
    turns("turn_sigmoid", Case { experts: MOST, k: 8, listed: true, sigmoid: true, link: true }, empty);
}

#[inline(never)]
fn turns(name: &str, case: Case, empty: Cost) {
    let Case { experts, k, listed, sigmoid, link } = case;
    let memory = [const { AtomicU32::new(0) }; GEOMETRY.words()];
    let (mut request, mut answers, mut taken) =
        ([0; GEOMETRY.request.div_ceil(4)], [0; GEOMETRY.answer], [0; GEOMETRY.answer]);
    let Ok(mut rings) = Rings::new(&memory, GEOMETRY, Machine, &mut request) else { return };
    let mut layers = [Layer::<MOST, { words_for(MOST) }>::new()];
    let controller = Controller::new(&mut layers, &mut answers, Untimed::default(), Uncounted);
    let mut controller = controller.with_generation(rings.generation());
    let features = if link { FEATURES } else { FEATURES & !FEATURE_NO_CHECKSUM };
    let mut region = HostRegion::new(&memory, Machine).with_features(features);
    let integrity = if link { Integrity::Link } else { Integrity::Checksum };
    let mut host = Host { frame: [0; GEOMETRY.request], sequence: 0, random: Random(5), integrity };
    let router = if sigmoid { Router::sigmoid_grouped(k, 8, 4, &[]) } else { Router::softmax_selected(k) };
    let generation = rings.generation();
    for _ in 0..2 {
        let _ = region.attach();
        let Ok(_) = rings.poll(|_, _| &[]);
    }
    let (mut cost, mut refused) = (Cost::default(), 0);
    let placing = 2 + (experts / 4).div_ceil(k) as u32;
    for turn in 0..placing + 1 + WARM + COUNTED {
        let frame = match turn {
            0 => host.frame(Command::Reset, |writer| writer.put(&wire::Reset { generation: generation.into() })),
            1 => host.frame(Command::Configure, |writer| writer.put(&configuration(experts, k, sigmoid))),
            // Every fourth expert is wanted, and placed.
            _ if turn < placing => host.frame(Command::Prefill, |writer| {
                let wanted = (0..experts as u16).step_by(4).skip((turn as usize - 2) * k).take(k);
                writer.put(&Prefill { layer: 0.into(), count: wanted.clone().count() as u8, weighted: 0 });
                wanted.for_each(|expert| writer.put(&U16::new(expert)));
            }),
            _ if turn == placing => host.frame(Command::Place, |writer| {
                let hot = (experts as u16 / 4).into();
                writer.put(&Place { layer: 0.into(), hot, alpha: 0.into(), split: [0.into(); 4] });
            }),
            _ => host.token(experts, &router, listed),
        };
        let _ = region.send(0, frame);
        let mut serve = || rings.poll(|request, integrity| controller.handle_from(request, integrity));
        let done = if turn <= placing + WARM { serve() } else { cost.add(|| black_box(serve())) };
        controller.idle();
        let length = region.receive(0, &mut taken).ok().flatten().unwrap_or(0);
        let answer = wire::Frame::open_from(&taken[..length], integrity);
        refused += u32::from(done != Ok(true) || !answer.is_ok_and(|frame| frame.header.status == 0));
    }
    if refused > 0 {
        let _ = core::fmt::Write::write_fmt(&mut Console, format_args!("{name} {experts} {k}: {refused} refused\n"));
        return;
    }
    cost.print(name, experts, k, empty);
}
