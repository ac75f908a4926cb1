//! 10^7 turns of a controller, one after the other, for an emulator that runs for minutes: experts come and go on
//! demand, each load is told to be done with the next token, contexts change, and now and then a request comes again.
//!
//! Lines: `turns TURNS HASH`, the hash of every decision so far, the same on every machine; a last line `lost N`: turns
//! that were not answered, or a repeated one that was answered otherwise.

use core::fmt::Write;

use cptr_core::Logit;
use cptr_protocol::platform::Coherent;
use cptr_protocol::region::{FEATURES, HostRegion};
use cptr_protocol::wire::{self, ANSWER, Command, Configure, Decision, Frame, Integrity, Load, Run, Token};
use cptr_protocol::{Controller, Layer, Mailbox, Rings, Uncounted, Untimed, words_for};
use cptr_rt::Console;
use zerocopy::little_endian::{I32, U16};

use crate::golden::Hash;
use crate::random::{Random, fill};
use crate::turn::{Buffers, GEOMETRY, Host, MEMORY, buffers, configuration};

/// Turns after which the hash is printed.
const PRINTED: [u32; 5] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];
const EXPERTS: usize = 32;
const K: usize = 4;
const CAPACITY: u16 = 10;
/// Tokens of a context.
const CONTEXT: u32 = 700;
/// Turns from one request that comes again to the next.
const AGAIN: u32 = 997;

/// What a decision asks to be loaded.
#[derive(Default)]
struct Loads {
    experts: [U16; K],
    count: usize,
}

/// Takes in an answer; `None` where it is none.
fn decided(answer: &[u8], sequence: u32, hash: &mut Hash) -> Option<Loads> {
    let frame = Frame::open_from(answer, Integrity::Link).ok()?;
    let head = frame.head();
    let of_request = head.kind == Command::Token as u8 | ANSWER && head.sequence == sequence;
    let mut body = frame.body;
    let (decision, mut loads) = (body.take::<Decision>().ok()?, Loads::default());
    for run in body.take_all::<Run>(decision.runs.into()).ok()? {
        hash.word(u32::from(run.expert.get()) | u32::from(run.bits) << 16 | u32::from(run.stand_in) << 24);
        hash.word(run.weight.get());
    }
    for load in body.take_all::<Load>(decision.loads.into()).ok()? {
        hash.word(u32::from(load.expert.get()) | u32::from(load.victim.get()) << 16);
        *loads.experts.get_mut(loads.count)? = load.expert;
        loads.count += 1;
    }
    (of_request && frame.header.status == 0 && body.end().is_ok()).then_some(loads)
}

#[inline(never)]
pub(crate) fn report() {
    // SAFETY: an image runs either this function or the one of `turn`, and once.
    let Buffers { request, answers, frame, taken } = unsafe { buffers() };
    let Ok(mut rings) = Rings::new(&MEMORY, GEOMETRY, Coherent, request) else { return };
    let mut layers = [Layer::<EXPERTS, { words_for(EXPERTS) }>::new()];
    let controller = Controller::new(&mut layers, answers, Untimed::default(), Uncounted);
    let mut controller = controller.with_generation(rings.generation());
    let mut region = HostRegion::new(&MEMORY, Coherent).with_features(FEATURES);
    let mut host = Host { frame, sequence: 0, random: Random(11), integrity: Integrity::Link };
    let generation = rings.generation();
    for _ in 0..4 {
        let _ = region.attach();
        let Ok(_) = rings.poll(|_, _| &[]);
    }
    let configuration = Configure { on_demand: 1, capacity: CAPACITY.into(), ..configuration(EXPERTS, K, false) };
    let (mut hash, mut lost, mut loads) = (Hash::START, 0u32, Loads::default());
    for turn in 0..PRINTED[PRINTED.len() - 1] + 2 {
        let sequence = host.sequence;
        let request = match turn {
            0 => host.frame(Command::Reset, |writer, _| writer.put(&wire::Reset { generation: generation.into() })),
            1 => host.frame(Command::Configure, |writer, _| writer.put(&configuration)),
            _ => host.frame(Command::Token, |writer, random| {
                let mut logits = [Logit::ZERO; EXPERTS];
                fill(&mut logits, random, turn / CONTEXT);
                writer.put(&Token {
                    layer: 0.into(),
                    experts: (EXPERTS as u16).into(),
                    wanted: 0,
                    starts_sequence: u8::from(turn % CONTEXT == 0),
                    loaded: loads.count as u8,
                    failed: 0,
                    activation: 0.into(),
                    result: 0.into(),
                });
                logits.iter().for_each(|logit| writer.put(&I32::new(logit.to_bits())));
                loads.experts.iter().take(loads.count).for_each(|expert| writer.put(expert));
            }),
        };
        let mut ask = |hash: &mut Hash| {
            let _ = region.send(0, request);
            let Ok(_) = rings.poll(|request, integrity| controller.handle_from(request, integrity));
            (0..2).for_each(|_| _ = controller.idle());
            let length = region.receive(0, taken).ok().flatten()?;
            if turn < 2 { Some(Loads::default()) } else { decided(taken.get(..length)?, sequence, hash) }
        };
        let before = hash.0;
        let answered = ask(&mut hash);
        if turn % AGAIN == 2 && turn >= 2 {
            let mut again = Hash(before);
            lost += u32::from(ask(&mut again).is_none() || again.0 != hash.0);
        }
        lost += u32::from(answered.is_none());
        loads = answered.unwrap_or_default();
        if PRINTED.contains(&turn.wrapping_sub(1)) {
            let _ = writeln!(Console, "turns {} {:08x}", turn - 1, hash.0);
        }
    }
    let _ = writeln!(Console, "lost {lost}");
}
