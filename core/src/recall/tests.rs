use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::vec;
use std::vec::Vec;

const SHAPE: Shape = Shape { layers: 3, experts: 16, k: 2 };

type Small = Recall<Vec<u32>, 4, 32>;

fn new(shape: Shape, tokens: usize) -> Small {
    Recall::new(&Config::default(), shape, tokens, vec![0; shape.words(tokens, 4)]).unwrap()
}

/// Runs a token through all layers.
fn token(recall: &mut Small, choices: &[Vec<u16>]) {
    for (layer, experts) in (0..).zip(choices) {
        recall.observe(&Config::default(), layer, experts).unwrap();
    }
    recall.end_token(&Config::default()).unwrap();
}

/// Choices that depend on nothing but `seed`.
fn choices(shape: Shape, seed: u64) -> Vec<Vec<u16>> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 33) % u64::from(shape.experts)) as u16
    };
    (0..shape.layers)
        .map(|_| {
            let mut ids = Vec::new();
            while ids.len() < usize::from(shape.k) {
                let id = draw();
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            ids
        })
        .collect()
}

fn shares(recall: &Small, layer: u16, tokens: u16) -> Vec<f64> {
    let mut shares = vec![Level::MAX; recall.memory.shape().experts.into()];
    recall.forecast(layer, tokens, &mut shares).unwrap();
    shares.iter().map(|share| share.to_num()).collect()
}

#[test]
fn a_text_that_comes_again_is_known_before_it_runs() {
    let mut recall = new(SHAPE, 256);
    // 100 different tokens, 60 others, and the 100 again.
    let text: Vec<u64> = (0..100).chain(1000..1060).chain(0..100).collect();
    let mut right = 0;
    for (t, &seed) in text.iter().enumerate() {
        let wanted = choices(SHAPE, seed);
        if t >= 165 {
            let ahead = shares(&recall, 0, 1);
            right += wanted[0].iter().filter(|&&id| ahead[usize::from(id)] > 0.5).count();
            assert_eq!(recall.phase(), Some(160), "{t}");
        }
        token(&mut recall, &wanted);
    }
    assert!(right >= 68, "{right} of 70");
    assert_eq!(recall.lock(), Lock::Locked);
    assert!(recall.snr() > 3);
    // The next four tokens of a layer are what followed.
    let four = shares(&recall, 1, 4);
    for seed in 1000..1004 {
        choices(SHAPE, seed)[1].iter().for_each(|&id| assert!(four[usize::from(id)] > 0.2, "{id} {four:?}"));
    }
    // Something new loses the match.
    (5000..5040).for_each(|seed| token(&mut recall, &choices(SHAPE, seed)));
    assert_eq!(recall.lock(), Lock::Unlocked);
    assert!(recall.snr() < 4, "{}", recall.snr());
}

#[test]
fn layers_that_have_run_tell_places_apart() {
    let mut recall = new(SHAPE, 256);
    // The same twenty tokens before, then one of two ways to go on, ten times each.
    for turn in 0..20u64 {
        (0..20).for_each(|seed| token(&mut recall, &choices(SHAPE, seed)));
        token(&mut recall, &choices(SHAPE, 100 + turn % 2));
    }
    (0..20).for_each(|seed| token(&mut recall, &choices(SHAPE, seed)));
    let (one, other) = (choices(SHAPE, 100), choices(SHAPE, 101));
    let seen = |shares: &[f64], ids: &[u16]| ids.iter().map(|&id| shares[usize::from(id)]).sum::<f64>() / 2.0;
    let open = shares(&recall, 1, 1);
    assert!((seen(&open, &one[1]) - 0.5).abs() < 0.2 && (seen(&open, &other[1]) - 0.5).abs() < 0.2, "{open:?}");
    recall.observe(&Config::default(), 0, &one[0]).unwrap();
    let decided = shares(&recall, 1, 1);
    assert!(seen(&decided, &one[1]) > 0.9 && seen(&decided, &other[1]) < 0.1, "{decided:?}");
}

#[test]
fn hostile_input_is_refused_and_changes_nothing() {
    let config = Config::default();
    let mut recall = new(SHAPE, 64);
    (0..40).for_each(|seed| token(&mut recall, &choices(SHAPE, seed % 20)));
    recall.observe(&config, 0, &[1, 2]).unwrap();
    let before = std::format!("{recall:?}");
    let mut room = [Level::ZERO; 16];
    assert_eq!(recall.observe(&config, 0, &[1, 2]), Err(RecallError::Layer));
    assert_eq!(recall.observe(&config, 2, &[1, 2]), Err(RecallError::Layer));
    assert_eq!(recall.observe(&config, u16::MAX, &[1, 2]), Err(RecallError::Layer));
    for wrong in [&[16, 1][..], &[u16::MAX], &[3, 3], &[1, 2, 3]] {
        assert_eq!(recall.observe(&config, 1, wrong), Err(RecallError::Id), "{wrong:?}");
    }
    assert_eq!(recall.end_token(&config), Err(RecallError::Layer));
    assert_eq!(recall.forecast(3, 1, &mut room), Err(RecallError::Layer));
    assert_eq!(recall.forecast(0, 0, &mut room), Err(RecallError::Forecast));
    assert_eq!(recall.forecast(0, 13, &mut room), Err(RecallError::Forecast));
    assert_eq!(recall.forecast(0, 1, &mut room[..15]), Err(RecallError::Forecast));
    assert_eq!(std::format!("{recall:?}"), before);
    // Fewer choices than k, and none, are choices.
    recall.observe(&config, 1, &[]).unwrap();
    recall.observe(&config, 2, &[7]).unwrap();
    assert_eq!(recall.observe(&config, 3, &[1, 2]), Err(RecallError::Layer));
    recall.end_token(&config).unwrap();
    let words = SHAPE.words(64, 4);
    let refused = |tokens, words| Small::new(&config, SHAPE, tokens, vec![0; words]).map(drop);
    assert_eq!(refused(64, words - 1), Err(RecallError::Memory));
    assert_eq!(refused(63, words), Err(RecallError::Tokens));
}

#[test]
fn every_token_alike_and_no_two_alike() {
    let mut recall = new(SHAPE, 64);
    (0..500).for_each(|_| token(&mut recall, &choices(SHAPE, 7)));
    let ahead = shares(&recall, 2, 4);
    for (id, share) in ahead.iter().enumerate() {
        let wanted = choices(SHAPE, 7)[2].contains(&(id as u16));
        assert!(if wanted { *share > 0.999 } else { *share == 0.0 }, "{id} {share}");
    }
    assert_eq!((recall.phase(), recall.snr()), (Some(13), LogRatio::ZERO));
    for seed in 0..500 {
        token(&mut recall, &choices(SHAPE, 10_000 + seed));
        let sum: f64 = shares(&recall, 0, 1).iter().sum();
        assert!(sum <= 2.0);
    }
    assert_eq!(recall.lock(), Lock::Unlocked);
}

#[test]
fn no_match_before_there_is_anything_to_match() {
    let mut recall = new(SHAPE, 64);
    for seed in 0..13 {
        assert_eq!(recall.phase(), None);
        assert!(shares(&recall, 0, 1).iter().all(|&share| share == 0.0));
        token(&mut recall, &choices(SHAPE, seed));
    }
    token(&mut recall, &choices(SHAPE, 0));
    assert_eq!(recall.phase(), Some(13));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against a second writing in real numbers that keeps everything and goes through all of it: the signatures
    /// alone are taken over.
    #[test]
    fn is_what_brute_force_finds(
        text in prop::collection::vec(0u64..30, 20..160),
        layers in 1u16..5,
        run in 0u16..5,
        ahead in 1u16..=4,
        asked in 0u16..5,
        tokens in 64usize..100,
    ) {
        let shape = Shape { layers, experts: 12, k: 3 };
        let (run, asked) = (run.min(layers), asked % layers);
        let mut recall = new(shape, tokens);
        let mut signatures: Vec<[u32; 4]> = Vec::new();
        for &seed in &text[..text.len() - 1] {
            token(&mut recall, &choices(shape, seed));
            let slot = (recall.slot + recall.memory.tokens() - 1) % recall.memory.tokens();
            signatures.push(recall.memory.signature(slot));
        }
        let now = choices(shape, text[text.len() - 1]);
        (0..run).for_each(|layer| recall.observe(&Config::default(), layer, &now[usize::from(layer)]).unwrap());
        let last = signatures.len() - 1;
        let apart = |a: usize, b: usize| -> u32 {
            signatures[a].iter().zip(&signatures[b]).map(|(a, b)| (a ^ b).count_ones()).sum()
        };
        let distance = |age: usize| -> u32 {
            let of = |back: usize| if last < back + age { 64 } else { apart(last - back, last - back - age) };
            64 * of(0) + 45 * of(1) + 32 * of(2) + 22 * of(3)
        };
        let mut nearest: Vec<(u32, usize)> =
            (13..=last.min(tokens - 1)).map(|age| (distance(age), age)).collect();
        nearest.sort_unstable();
        nearest.truncate(32);
        let overlap = |age: usize, layer: usize| {
            let there = &choices(shape, text[last + 1 - age])[layer];
            there.iter().filter(|id| now[layer].contains(id)).count() as f64 / 3.0
        };
        let exponent = |&(distance, age): &(u32, usize)| {
            let (mut sum, mut norm) = (0.0, 0.0);
            for layer in 0..usize::from(run) {
                (sum, norm) = (sum * 0.9 + overlap(age, layer), norm * 0.9 + 1.0);
            }
            let say = (f64::from(run) / 4.0).min(1.0);
            0.5 * 8.0 * 2.0 * f64::from(distance) / (64.0 * 128.0) - 16.0 * say * sum / f64::max(norm, 1.0)
        };
        let least = nearest.iter().map(exponent).fold(f64::INFINITY, f64::min);
        let weights: HashMap<usize, f64> =
            nearest.iter().map(|place| (place.1, (least - exponent(place)).exp())).collect();
        let all: f64 = weights.values().sum();
        let mut expected = vec![0.0; 12];
        for (age, weight) in weights {
            for step in 0..usize::from(ahead) {
                let at = last + 1 - age + usize::from(asked < run) + step;
                for &id in &choices(shape, text[at])[usize::from(asked)] {
                    expected[usize::from(id)] += weight / all / f64::from(ahead);
                }
            }
        }
        prop_assert_eq!(recall.phase(), nearest.first().map(|place| place.1 as u32));
        for (found, expected) in shares(&recall, asked, ahead).iter().zip(&expected) {
            prop_assert!((found - expected).abs() < 2e-3, "{found} {expected}");
        }
    }
}
