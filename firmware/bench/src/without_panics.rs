//! All functions of recall and nothing else that could panic, in sizes and with input that nobody knows: an image to be
//! looked through, not to be run. `cargo xtask firmware` looks for the core library's panics in it.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::hint::black_box;

use cptr_core::Level;
use cptr_core::recall::{Calibration, Config, Recall, Shape, Skill};

const WORDS: usize = Shape { layers: 4, experts: 64, k: 4 }.words(64, 8);
const SAVED: usize = Recall::<&mut [u32], 8, 32>::saved_words(Shape { layers: 4, experts: 64, k: 4 }, 64);

cptr_rt::entry!(image);

fn image() -> bool {
    let right = [all::<2>(), all::<4>(), all::<8>()];
    let (mut calibration, mut skill) = (Calibration::default(), Skill::new());
    let share = Level::from_bits(black_box(7));
    calibration.learn(share, black_box(true));
    skill.learn(share, black_box(share));
    black_box(calibration.confidence(share)) > black_box(skill.weight()) && right == [true; 3]
}

/// Everything with signatures of `32 * W` bits; whether nothing was refused.
#[inline(never)]
fn all<const W: usize>() -> bool {
    let (mut words, mut saved) = ([0; WORDS], [0; SAVED]);
    let (mut shares, mut sketch, ids) = ([Level::ZERO; 64], [0i16; 96], black_box([1, 2, 3, 4]));
    let (config, shape) = (black_box(Config::small()), black_box(Shape { layers: 4, experts: 64, k: 4 }));
    let (tokens, length, count) = (black_box(64), black_box(96usize), black_box(4usize));
    let words = words.get_mut(..black_box(WORDS)).unwrap_or(&mut []);
    let recall = Recall::<_, W, 32>::new(&config, shape, tokens, words);
    let Ok(mut recall) = recall else { return false };
    let mut right = true;
    for turn in 0..black_box(100u16) {
        for layer in 0..black_box(4) {
            let ids = ids.get(..count).unwrap_or(&[]);
            right &= recall.observe_leading(&config, layer, ids).is_ok();
            recall.settle();
            right &= recall.observe(&config, layer + 1, ids).is_ok();
            right &= recall.forecast(layer, black_box(4), &mut shares[..]).is_ok();
        }
        sketch[0] = turn.cast_signed();
        let sketch = sketch.get(..length).unwrap_or(&[]);
        right &= recall.end_token(&config).is_ok() && recall.end_token_with(&config, sketch).is_ok();
    }
    black_box((recall.phase(), recall.lock(), recall.snr()));
    right &= recall.save(black_box(1), &mut saved[..]).is_ok();
    let saved = saved.get(..black_box(SAVED)).unwrap_or(&[]);
    right && recall.restore(&config, black_box(1), saved).is_ok()
}
