//! Recall's signatures and search: texts whose passages come again, through the library and the unit.

use std::io::Write;

use cptr_core::recall::{Config, Recall, Shape};

use super::Done;
use super::cases::{below, logits, one, residents, settings};
use super::model::Unit;
use super::random::Random;
use super::script::command::{CLEAR_RECALL, END, LEARN, LIST, OBSERVE, SELECT};
use super::script::{Register, Space, error};

/// Words of what is saved before the places.
const HEAD: usize = 14;

/// What a memory is shaped like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    pub(super) layers: u16,
    pub(super) experts: u16,
    pub(super) k: u16,
    pub(super) remembered: usize,
    pub(super) places: u16,
    pub(super) tokens: u32,
}

/// Tokens of a text, all of its state after every so many.
pub(super) fn text<W: Write, const WORDS: usize, const PLACES: usize>(
    unit: &mut Unit<W>,
    seed: u32,
    text: Text,
    every: u32,
) -> Done {
    let Text { layers, experts, k, remembered, places, tokens } = text;
    let shape = Shape { layers, experts, k };
    let config = Config { candidates: places, ..Config::default() };
    let new = || {
        let words = vec![0; shape.words(remembered, WORDS)];
        Recall::<_, WORDS, PLACES>::new(&config, shape, remembered, words).map_err(|error| error.to_string())
    };
    let mut recall = new()?;
    unit.forget();
    unit.script.write(Register::Experts, experts.into());
    unit.script.write(Register::RecallShape, u32::from(layers) << 16 | u32::from(k));
    unit.script.write(Register::RecallTokens, remembered as u32);
    unit.script.write(Register::RecallPlaces, places.into());
    unit.script.write(Register::Doorbell, CLEAR_RECALL);
    unit.script.idle();
    let mut random = Random(seed);
    let mut saved = vec![0; Recall::<Vec<u32>, WORDS, PLACES>::saved_words(shape, remembered)];
    let mut at = 0;
    for token in 1..=tokens {
        at = if random.bits() >> 28 == 0 { random.bits() >> 26 } else { at + 1 };
        for layer in 0..layers {
            let mut passage = Random((at % 50).wrapping_mul(977).wrapping_add(layer.into()));
            let mut wanted: Vec<u16> = Vec::new();
            let count = if random.bits() >> 29 == 0 { below(&mut random, usize::from(k) + 1) } else { k.into() };
            while wanted.len() < count {
                let source = if random.bits() >> 30 == 0 { &mut random } else { &mut passage };
                let id = below(source, experts.into()) as u16;
                if !wanted.contains(&id) {
                    wanted.push(id);
                }
            }
            recall.observe(&config, layer, &wanted).map_err(|error| error.to_string())?;
            // The unit's layers are fewer than a model's: learning has its own.
            unit.list(layer.into(), &wanted, OBSERVE);
        }
        recall.end_token(&config).map_err(|error| error.to_string())?;
        let count = recall.save(0, &mut saved).map_err(|error| error.to_string())?;
        let found = (saved[13] & 0xffff) as usize;
        unit.script.step();
        unit.script.write(Register::Doorbell, END);
        let mut answer = vec![found as u32];
        answer.extend(&saved[HEAD..HEAD + found]);
        unit.script.expect(&answer);
        unit.script.idle();
        unit.script.read(Register::Found, found as u32);
        let state = [saved[7], saved[8], saved[9], saved[12]];
        let state = (Space::Recall, &state[..]);
        compare(unit, state);
        if token % every == 0 {
            let memory = memory::<WORDS>(&saved[HEAD + PLACES..count], remembered, token as usize);
            memory.iter().for_each(|&words| compare(unit, words));
            // Forgotten and put back, it goes on.
            unit.script.write(Register::Doorbell, CLEAR_RECALL);
            unit.script.idle();
            memory.iter().chain([&state]).for_each(|&words| put_back(unit, words));
        }
    }
    unit.script.errors(0);
    Ok(())
}

/// Means, signatures and distances; signatures of slots that have had no token are never read.
fn memory<const WORDS: usize>(saved: &[u32], remembered: usize, tokens: usize) -> [(Space, &[u32]); 3] {
    let (means, rest) = saved.split_at(32 * WORDS);
    let (signatures, rest) = rest.split_at(remembered * WORDS);
    let (signatures, past) = (&signatures[..remembered.min(tokens) * WORDS], &rest[..remembered]);
    [(Space::Means, means), (Space::Signatures, signatures), (Space::Distances, past)]
}

fn compare<W: Write>(unit: &mut Unit<W>, (space, words): (Space, &[u32])) {
    words.iter().enumerate().for_each(|(at, &word)| unit.script.window(space, at, word));
}

fn put_back<W: Write>(unit: &mut Unit<W>, (space, words): (Space, &[u32])) {
    words.iter().enumerate().for_each(|(at, &word)| unit.script.set(space, at, word));
}

/// What is out of order or out of range.
pub(super) fn refusals<W: Write>(unit: &mut Unit<W>, seed: u32) -> Done {
    unit.restart();
    let mut random = Random(seed);
    let sizes = unit.sizes;
    let shape = |layers: u32, k: u32| layers << 16 | k;
    let tokens = sizes.tokens as u32;
    let refused = |unit: &mut Unit<W>, command: u32, expected: u32| {
        unit.script.step();
        unit.script.write(Register::Doorbell, command);
        unit.script.idle();
        unit.script.silent();
        unit.script.errors(expected);
    };
    let right = [(Register::Experts, 16), (Register::RecallShape, shape(2, 3)), (Register::RecallTokens, tokens)];
    let places = (Register::RecallPlaces, sizes.places as u32);
    for (register, values) in [
        (Register::Experts, [0, sizes.experts as u32 + 1, u32::MAX]),
        (Register::RecallShape, [shape(0, 3), shape(3, 0), shape(2, 65)]),
        (Register::RecallShape, [shape(sizes.choices as u32, 2), shape(4095, 2), u32::MAX]),
        (Register::RecallTokens, [63, tokens + 1, u32::MAX]),
        (Register::RecallPlaces, [0, sizes.places as u32 + 1, u32::MAX]),
    ] {
        for value in values {
            right.iter().chain([&places]).for_each(|&(register, value)| unit.script.write(register, value));
            unit.script.write(register, value);
            refused(unit, CLEAR_RECALL, error::RANGE);
            refused(unit, END, error::UNKNOWN);
        }
    }
    right.iter().chain([&places]).for_each(|&(register, value)| unit.script.write(register, value));
    unit.script.write(Register::Doorbell, CLEAR_RECALL);
    unit.script.idle();
    refused(unit, END, error::ORDER);
    refused(unit, 1 << 16 | LIST | OBSERVE, error::ORDER);
    unit.forget();
    let list = |unit: &mut Unit<W>, ids: &[u32], expected: u32| {
        unit.script.step();
        unit.script.write(Register::Doorbell, LIST | OBSERVE | LEARN);
        unit.script.stream(ids, true);
        unit.script.idle();
        unit.script.read(Register::NextLayer, 0);
        unit.script.errors(expected);
    };
    for ids in [&[1, 2, 3, 4][..], &[5, 16], &[65_535], &[4, 4], &[1, 2, 1], &[2, 3, 3]] {
        list(unit, ids, error::ID);
    }
    // A layer that chooses more than is remembered.
    let experts = 16;
    let mut usual = settings(&mut random, sizes.k, experts);
    usual.k = 4;
    unit.settings(super::model::Settings { experts, ..usual });
    unit.script.write(Register::Doorbell, CLEAR_RECALL);
    unit.script.idle();
    refused(unit, SELECT | OBSERVE, error::ID);
    unit.compare(0);
    // A token by selections.
    let resident = residents(&mut random, experts);
    unit.residents(0, resident);
    usual.k = one(&mut random, &[1, 2, 3]);
    let token = logits(&mut random, experts);
    unit.request(0, usual, &token, OBSERVE | LEARN)?;
    unit.script.read(Register::NextLayer, 1);
    refused(unit, SELECT | OBSERVE, error::ORDER);
    Ok(())
}
