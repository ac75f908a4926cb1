//! Recall: what is remembered, what comes with what, and what of it is believed.

use cptr_core::Level;
use cptr_core::recall::{Companions, Config, JointCalibration, MAX_AHEAD, Recall, RecallError, Shape, Skill};

use super::Hash;
use crate::random::{Random, spread};

/// All functions of recall over texts whose passages come again: ids as bytes and wider ones, both settings, a memory
/// that is saved and restored midway, and what is refused.
#[inline(never)]
pub(super) fn recalls() -> Hash {
    let (mut hash, mut random) = (Hash::START, Random(19));
    recall::<{ Shape { layers: 8, experts: 32, k: 4 }.words(64, 4) }>(
        32,
        4,
        &Config::default(),
        &mut hash,
        &mut random,
    );
    recall::<{ Shape { layers: 8, experts: 300, k: 3 }.words(64, 4) }>(
        300,
        3,
        &Config::small(),
        &mut hash,
        &mut random,
    );
    let (mut calibration, mut skill) = (JointCalibration::new(), Skill::new());
    for _ in 0..3000 {
        let (share, other) = (Level::from_bits(random.bits() >> 1), Level::from_bits(random.bits() >> 1));
        calibration.learn(share, other, other < share);
        skill.learn(share, other >> 1);
        hash.word(calibration.confidence(other, share).to_bits());
        hash.word(skill.weight().to_bits());
    }
    hash
}

#[inline(never)]
fn recall<const WORDS: usize>(experts: u16, k: u16, config: &Config, hash: &mut Hash, random: &mut Random) {
    const SAVED: usize = Recall::<&mut [u32], 4, 32>::saved_words(Shape { layers: 8, experts: 300, k: 3 }, 64);
    let shape = Shape { layers: 8, experts, k };
    let mut memory = [0; WORDS];
    let Ok(mut recall) = Recall::<_, 4, 32>::new(config, shape, 64, &mut memory[..]) else { return };
    let (mut shares, mut saved) = ([Level::ZERO; 300], [0; SAVED]);
    let mut at = 0;
    for token in 0..120u32 {
        at = if random.bits() >> 28 == 0 { random.bits() >> 27 } else { at + 1 };
        for layer in 0..shape.layers {
            let mut wanted = [0; 4];
            let wanted = &mut wanted[..usize::from(k)];
            spread(wanted, &mut Random((at % 40).wrapping_mul(8).wrapping_add(layer.into())), experts.into());
            wanted[0] = if random.bits() >> 30 == 0 { (random.bits() >> 29) as u16 } else { wanted[0] };
            let seen = recall.observe_leading(config, layer, wanted);
            hash.word(seen.is_ok().into());
            if seen.is_err() {
                hash.word(recall.observe(config, layer, &[]).is_ok().into());
            }
            if token % 3 == 0 {
                recall.settle();
            }
            // Not in every layer of every token: a model of a core in logic takes a second for a million cycles.
            if u32::from(layer) % 4 != token % 4 {
                continue;
            }
            for (layer, tokens) in [(layer, 4), ((layer + 1) % shape.layers, 1), (layer, MAX_AHEAD), (layer, 13)] {
                hash.word(recall.forecast(layer, tokens, &mut shares).map_or(1, |()| 0));
            }
            let _ = recall.forecast(layer, 2, &mut shares);
            shares.iter().for_each(|share| hash.word(share.to_bits()));
        }
        hash.word(recall.end_token(config).is_ok().into());
        hash.word(recall.phase().unwrap_or(0));
        hash.word(recall.lock() as u32);
        hash.word(recall.snr().to_bits() as u32);
        if token == 80 {
            let count = recall.save(u64::from(experts), &mut saved).unwrap_or(0);
            saved[..count].iter().for_each(|&word| hash.word(word));
        }
        if token == 100 {
            let count = Recall::<&mut [u32], 4, 32>::saved_words(shape, 64);
            for model in [0, u64::from(experts)] {
                let restored = recall.restore(config, model, &saved[..count]);
                hash.word((restored == Err(RecallError::Saved)).into());
            }
        }
    }
}

/// Ids as bytes and wider ones; choices that are too many, out of range or of another layer change nothing.
#[inline(never)]
pub(super) fn companions() -> Hash {
    const NARROW: Shape = Shape { layers: 3, experts: 20, k: 3 };
    const WIDE: Shape = Shape { layers: 1, experts: 260, k: 2 };
    let (mut hash, mut random) = (Hash::START, Random(29));
    companions_of::<{ Companions::<&mut [u32]>::words(NARROW) }>(NARROW, &mut hash, &mut random);
    companions_of::<{ Companions::<&mut [u32]>::words(WIDE) }>(WIDE, &mut hash, &mut random);
    hash
}

#[inline(never)]
fn companions_of<const WORDS: usize>(shape: Shape, hash: &mut Hash, random: &mut Random) {
    let (experts, most) = (shape.experts, shape.k + 1);
    let mut words = [0; WORDS];
    let Ok(mut companions) = Companions::new(shape, &mut words[..]) else { return };
    let mut shares = [Level::ZERO; 260];
    for token in 0..40u16 {
        for layer in 0..shape.layers {
            // Few choices, so that they come again; now and then one too many.
            let mut wanted = [0; 4];
            wanted.fill_with(|| (random.bits() >> 29) as u16 * (experts / 8));
            let count = if token % 8 == 7 { most } else { token % most };
            let observed = companions.observe(layer, &wanted[..count.into()]);
            hash.word(observed.is_ok().into());
            if observed.is_err() {
                wanted[0] = experts;
                hash.word(companions.observe(layer, &wanted[..1]).is_ok().into());
                hash.word(companions.observe(layer + 1, &[]).is_ok().into());
                hash.word(companions.observe(layer, &[experts - 1, 0]).is_ok().into());
            }
            if token % 4 == layer {
                hash.word(companions.forecast(&mut shares).is_ok().into());
                shares[..experts.into()].iter().for_each(|share| hash.word(share.to_bits()));
            }
        }
    }
    hash.word(companions.forecast(&mut shares[..2]).is_ok().into());
}
