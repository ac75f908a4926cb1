//! What should not come: streams that end early or late, doorbells in the middle, registers out of range, resets and
//! aborts at any cycle. Each gives its error and nothing else; a layer is then as before, or as after.

use std::io::Write;

use cptr_core::Logit;

use super::Done;
use super::cases::{below, logits, residents, settings};
use super::model::{Abort, Settings, Unit};
use super::random::Random;
use super::script::command::{ABORT, APPLY, CLEAR_LAYER, END, LEARN, LIST, OBSERVE, SELECT};
use super::script::{Register, error};

/// Bits of the router's register that say something else than a softmax without bias and groups.
const OTHER_ROUTERS: [u32; 12] = [2, 3, 4, 8, 0x103, 0x104, 1 << 4, 1 << 7, 0x402, 0x501, 1 << 11 | 0x502, 1 << 31];

/// All of them, over and over.
pub(super) fn all<W: Write>(unit: &mut Unit<W>, seed: u32, rounds: usize) -> Done {
    let mut random = Random(seed);
    for _ in 0..rounds {
        unit.restart();
        streams(unit, &mut random)?;
        registers(unit, &mut random)?;
        aborts(unit, &mut random)?;
        lists(unit, &mut random)?;
    }
    Ok(())
}

fn words(logits: &[Logit]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits().cast_unsigned()).collect()
}

fn ring<W: Write>(unit: &mut Unit<W>, layer: usize, command: u32) {
    unit.script.step();
    unit.script.write(Register::Doorbell, (layer as u32) << 16 | command);
}

/// A request that is right, and the whole state after it.
fn right<W: Write>(unit: &mut Unit<W>, random: &mut Random, experts: usize) -> Done {
    let settings = settings(random, unit.sizes.k, experts);
    let logits = logits(random, experts);
    unit.request(0, settings, &logits, APPLY | LEARN)?;
    unit.script.silent();
    unit.compare(0);
    unit.script.errors(0);
    Ok(())
}

/// Streams that end early or late, and what comes while a request is under way.
fn streams<W: Write>(unit: &mut Unit<W>, random: &mut Random) -> Done {
    let experts = 2 + below(random, unit.sizes.experts - 1);
    let resident = residents(random, experts);
    unit.residents(0, resident);
    right(unit, random, experts)?;
    let usual = Settings { experts, ..settings(random, unit.sizes.k, experts) };
    unit.settings(usual);
    let all = words(&logits(random, experts));
    for early in [1, experts - 1, 1 + below(random, experts - 1)] {
        ring(unit, 0, SELECT | APPLY | LEARN);
        unit.script.stream(&all[..early.max(1)], true);
        unit.script.idle();
        unit.script.silent();
        unit.script.errors(error::SHORT);
        unit.compare(0);
    }
    for late in [1, 2, 1 + below(random, 100)] {
        ring(unit, 0, SELECT | APPLY | LEARN);
        unit.script.stream(&all, false);
        unit.script.stream(&vec![77; late], true);
        unit.script.idle();
        unit.script.silent();
        unit.script.errors(error::LONG);
        unit.compare(0);
    }
    right(unit, random, experts)?;
    // A second doorbell, other numbers and a word through the window while logits come in.
    let usual = settings(random, unit.sizes.k, experts);
    let token = logits(random, experts);
    unit.interrupted(0, usual, &token, below(random, experts), APPLY | LEARN)?;
    unit.compare(0);
    right(unit, random, experts)
}

/// Commands that ask for what there is not.
fn registers<W: Write>(unit: &mut Unit<W>, random: &mut Random) -> Done {
    let sizes = unit.sizes;
    let experts = 2 + below(random, sizes.experts - 1);
    let resident = residents(random, experts);
    unit.residents(0, resident);
    let usual = settings(random, sizes.k, experts);
    unit.settings(usual);
    unit.script.read(Register::Name, 0x7570_7401);
    unit.script.read(Register::Sizes, (sizes.layers as u32) << 16 | sizes.experts as u32);
    let routers = u32::from(sizes.sigmoid) << 23;
    let recall = (sizes.k as u32) << 24 | routers | (sizes.words as u32) << 16 | (sizes.tokens as u32 - 1);
    unit.script.read(Register::RecallSizes, recall);
    let refused = |unit: &mut Unit<W>, layer: usize, command: u32, expected: u32| {
        ring(unit, layer, command);
        unit.script.idle();
        unit.script.silent();
        unit.script.read(Register::Status, 2);
        unit.script.errors(expected);
        unit.script.read(Register::Status, 0);
    };
    for (register, values, right) in [
        (Register::Experts, [0, sizes.experts as u32 + 1, u32::MAX], experts as u32),
        (Register::Chosen, [0, sizes.k as u32 + 1, u32::MAX], usual.k as u32),
        (Register::Chosen, [experts as u32 + 1, 127, 128], usual.k as u32),
        (Register::Capacity, [sizes.experts as u32 + 1, 1 << 16, u32::MAX], usual.capacity as u32),
    ] {
        for value in values {
            unit.script.write(register, value);
            refused(unit, 0, SELECT, error::RANGE);
        }
        unit.script.write(register, right);
    }
    for bits in OTHER_ROUTERS {
        unit.script.write(Register::Router, bits);
        refused(unit, 0, SELECT | LEARN, error::REFUSED);
    }
    // A choice by scores that may be altered; groups that do not divide the experts, are too many, open or have too
    // few.
    unit.script.write(Register::Router, 0x502);
    unit.script.write(Register::EpsMass, 1);
    refused(unit, 0, SELECT, error::REFUSED);
    unit.script.write(Register::EpsMass, 0);
    let most = sizes.experts as u32;
    unit.script.write(Register::Chosen, 8.min(sizes.k as u32));
    for (experts, groups) in [
        (31, 1 | 2 << 4),
        (most, (most / 64).ilog2() | 1 << 4),
        (most, most.ilog2() | 2 << 4),
        (most, (most.ilog2() - 4) | 9 << 4),
        (most, (most / 32).ilog2() | 1 << 9),
        (most, 15 | 1 << 4),
        (32, 2 | 1 << 4),
    ] {
        unit.script.write(Register::Experts, experts);
        unit.script.write(Register::Groups, groups);
        refused(unit, 0, SELECT, error::RANGE);
    }
    for (register, value) in [
        (Register::Experts, experts as u32),
        (Register::Chosen, usual.k as u32),
        (Register::EpsMass, usual.mass),
        (Register::Groups, 0),
    ] {
        unit.script.write(register, value);
    }
    unit.script.write(Register::Router, usual.router_word());
    refused(unit, sizes.layers, SELECT, error::RANGE);
    refused(unit, sizes.layers, LIST | LEARN, error::RANGE);
    refused(unit, 0xffff, CLEAR_LAYER, error::RANGE);
    for command in [0, 7, 15, SELECT | 1 << 7, LIST | APPLY, END | LEARN, CLEAR_LAYER | OBSERVE, 1 << 15 | SELECT] {
        refused(unit, 0, command, error::COMMAND);
    }
    refused(unit, 0, SELECT | OBSERVE, error::UNKNOWN);
    refused(unit, 0, LIST | OBSERVE, error::UNKNOWN);
    refused(unit, 0, END, error::UNKNOWN);
    refused(unit, 0, ABORT, error::BUSY);
    unit.compare(0);
    right(unit, random, experts)?;
    // Nothing of a layer survives a reset: it is asked to begin, and then nothing is wrong.
    unit.script.reset();
    unit.forget();
    unit.settings(usual);
    refused(unit, 0, SELECT, error::UNKNOWN);
    refused(unit, 0, LIST | LEARN, error::UNKNOWN);
    unit.restart();
    right(unit, random, experts)
}

/// Aborts at any cycle: before the last logit a layer is as before, from then on as after.
fn aborts<W: Write>(unit: &mut Unit<W>, random: &mut Random) -> Done {
    let experts = 2 + below(random, unit.sizes.experts - 1);
    let resident = residents(random, experts);
    unit.residents(0, resident);
    for _ in 0..8 {
        let usual = settings(random, unit.sizes.k, experts);
        let token = logits(random, experts);
        unit.settings(usual);
        ring(unit, 0, SELECT | APPLY | LEARN);
        unit.script.stream(&words(&token[..below(random, experts)]), false);
        unit.script.cycles(8 + below(random, 8) as u32);
        unit.script.write(Register::Doorbell, ABORT);
        unit.script.idle();
        unit.script.cycles(below(random, 8) as u32);
        unit.script.silent();
        unit.script.errors(error::ABORTED);
        unit.compare(0);
        let token = logits(random, experts);
        unit.aborted(0, usual, &token, Abort::AfterStream(below(random, 400) as u32), APPLY | LEARN)?;
        unit.compare(0);
    }
    // One that comes before the stream is taken is none.
    for cycles in 0..=4 {
        let usual = settings(random, unit.sizes.k, experts);
        unit.aborted(0, usual, &logits(random, experts), Abort::AfterDoorbell(cycles), APPLY | LEARN)?;
        unit.compare(0);
    }
    // Also a stream that does not end.
    ring(unit, 0, SELECT);
    unit.script.stream(&vec![1; experts + 5], false);
    unit.script.write(Register::Doorbell, ABORT);
    unit.script.idle();
    unit.script.errors(error::LONG | error::ABORTED);
    ring(unit, 0, LIST | LEARN);
    unit.script.stream(&[1, 0], false);
    unit.script.write(Register::Doorbell, ABORT);
    unit.script.idle();
    unit.script.errors(error::ABORTED);
    unit.compare(0);
    right(unit, random, experts)
}

/// Lists that are too long.
fn lists<W: Write>(unit: &mut Unit<W>, random: &mut Random) -> Done {
    ring(unit, 0, LIST | LEARN);
    unit.script.stream(&[0; 64], false);
    unit.script.stream(&[1, 2, 3], true);
    unit.script.idle();
    unit.script.errors(error::LONG);
    unit.compare(0);
    let resident = residents(random, 2);
    unit.residents(0, resident);
    right(unit, random, 2)
}

/// A reset at every cycle of a request, one after the other: whatever it comes into, the unit begins anew.
pub(super) fn resets<W: Write>(unit: &mut Unit<W>, seed: u32, cycles: impl Iterator<Item = u32>) -> Done {
    let mut random = Random(seed);
    let experts = 32;
    for cycle in cycles {
        unit.restart();
        let resident = residents(&mut random, experts);
        unit.residents(0, resident);
        let usual = settings(&mut random, unit.sizes.k, experts);
        let token = logits(&mut random, experts);
        unit.settings(usual);
        ring(unit, 0, SELECT | APPLY | LEARN);
        let sent = (cycle as usize).min(experts);
        unit.script.stream(&words(&token[..sent]), sent == experts);
        unit.script.cycles(cycle - sent as u32);
        unit.script.reset();
        unit.script.silent();
        unit.script.read(Register::Status, 0);
        unit.script.read(Register::Experts, 0);
        unit.script.read(Register::Cycles, 0);
        unit.restart();
        right(unit, &mut random, experts)?;
    }
    Ok(())
}
