//! What a whole turn of the controller costs: from a doorbell's request in shared memory to the answer in it. Experts
//! are placed, and all that a token takes are cold, so that each becomes a job near the data.

use core::hint::black_box;
use core::sync::atomic::AtomicU32;

use cptr_core::{Logit, Router};
use cptr_protocol::wire::{self, Command, Configure, Place, Prefill, Status, Token, Writer};
use cptr_protocol::{Controller, Layer, Mailbox, Ring, Uncounted, Untimed, ring, words_for};
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
/// Bytes of a frame on its way, and words of a ring of one.
const REQUEST: usize = wire::max_request(MOST);
const ANSWER: usize = wire::max_answer(MOST);

/// A doorbell that nobody hears.
struct Bell;

impl embedded_hal::digital::ErrorType for Bell {
    type Error = core::convert::Infallible;
}

impl embedded_hal::digital::OutputPin for Bell {
    fn set_low(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// What the host asks.
struct Host {
    frame: [u8; REQUEST],
    sequence: u32,
    random: Random,
}

impl Host {
    fn frame(&mut self, command: Command, body: impl FnOnce(&mut Writer<'_>)) -> &[u8] {
        let mut writer = Writer::new(&mut self.frame);
        body(&mut writer);
        self.sequence += 1;
        writer.finish(command as u8, self.sequence, Status::Done)
    }

    /// A token that wants none of the experts in fast memory, the first quarter: it lists what it wants, or has the
    /// controller find it.
    fn token(&mut self, experts: usize, router: &Router<'_>, listed: bool) -> &[u8] {
        let mut logits = [Logit::ZERO; MOST];
        let logits = &mut logits[..experts];
        fill(logits, &mut self.random, 1);
        logits.iter_mut().take(experts / 4).for_each(|logit| *logit -= Logit::from_num(16));
        let wanted = router.top_k::<16>(logits).unwrap_or_default();
        let scores = logits.iter().map(|logit| I32::new(logit.to_bits()));
        let mut bits = [I32::new(0); MOST];
        bits.iter_mut().zip(scores).for_each(|(to, from)| *to = from);
        let mut ids = [U16::new(0); 16];
        ids.iter_mut().zip(&wanted).for_each(|(to, from)| to.set(*from));
        let given = if listed { wanted.len() } else { 0 };
        self.frame(Command::Token, |writer| {
            let (experts, wanted) = (U16::new(experts as u16), given as u8);
            writer.put(&Token { layer: 0.into(), experts, wanted, starts_sequence: 0, reserved: 0.into() });
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
        reserved: 0.into(),
    }
}

/// Prints the mean of a turn for each layer; nothing where the machine has no counters.
pub(crate) fn report() {
    if !counts() {
        return;
    }
    let empty = Cost::empty();
    for (experts, k) in LAYERS {
        turns("turn", experts, k, true, false, empty);
        turns("turn_top_k", experts, k, false, false, empty);
    }
    turns("turn_sigmoid", MOST, 8, true, true, empty);
}

#[inline(never)]
fn turns(name: &str, experts: usize, k: usize, listed: bool, sigmoid: bool, empty: Cost) {
    let [up, down] = [ring::words(1, REQUEST), ring::words(1, ANSWER)];
    let memory = [const { AtomicU32::new(0) }; ring::words(1, REQUEST) + ring::words(1, ANSWER)];
    let (up, down) = (&memory[..up], &memory[up..up + down]);
    let (Ok(requests), Ok(answers)) = (Ring::new(up, REQUEST), Ring::new(down, ANSWER)) else { return };
    let (mut request, mut answer, mut taken) = ([0; REQUEST], [0; ANSWER], [0; ANSWER]);
    let mut rings = cptr_protocol::Rings::new(requests, answers, Bell, &mut request, &mut answer);
    let mut layers = [Layer::<MOST, { words_for(MOST) }>::new()];
    let mut controller = Controller::new(&mut layers, Untimed::default(), Uncounted);
    let mut host = Host { frame: [0; REQUEST], sequence: 0, random: Random(5) };
    let router = if sigmoid { Router::sigmoid_grouped(k, 8, 4, &[]) } else { Router::softmax_selected(k) };
    let (mut cost, mut refused) = (Cost::default(), 0);
    for turn in 0..WARM + COUNTED + 3 {
        let frame = match turn {
            0 => host.frame(Command::Configure, |writer| writer.put(&configuration(experts, k, sigmoid))),
            // Of equal ones the first are placed.
            1 => host.frame(Command::Prefill, |writer| {
                writer.put(&Prefill { layer: 0.into(), count: 1, weighted: 0 });
                writer.put(&U16::new(0));
            }),
            2 => host.frame(Command::Place, |writer| {
                let hot = (experts as u16 / 4).into();
                writer.put(&Place { layer: 0.into(), hot, alpha: 0.into(), split: [0.into(); 4] });
            }),
            _ => host.token(experts, &router, listed),
        };
        let _ = requests.put(frame);
        let mut serve = || rings.poll(|request, answer| controller.handle(request, answer));
        let done = if turn < WARM + 3 { serve() } else { cost.add(|| black_box(serve())) };
        controller.idle();
        let length = answers.take(&mut taken).ok().flatten().unwrap_or(0);
        let ok = done == Ok(true) && wire::Frame::open(&taken[..length]).is_ok_and(|f| f.header.status.get() == 0);
        refused += u32::from(!ok);
    }
    if refused > 0 {
        let _ = core::fmt::Write::write_fmt(&mut Console, format_args!("{name} {experts} {k}: {refused} refused\n"));
        return;
    }
    cost.print(name, experts, k, empty);
}
