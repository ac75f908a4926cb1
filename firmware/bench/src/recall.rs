//! What recall costs, part by part: Qwen3-30B-A3B, 2,048 tokens remembered.

use core::hint::black_box;

use cptr_core::Level;
use cptr_core::recall::{Config, Recall, Shape};

use crate::kernels::{Cost, counts};
use crate::random::{Random, spread};

const SHAPE: Shape = Shape { layers: 48, experts: 128, k: 8 };
const TOKENS: usize = 2048;
/// Tokens that are counted, once the memory is full.
const COUNTED: u32 = 16;
type Match<'a> = Recall<&'a mut [u32], 4, 64>;

/// Mean and most of each part: with the setting for controllers, and with the usual one.
const KERNELS: [[&str; 2]; 6] = [
    ["recall_observe", "recall_observe_worst"],
    ["recall_forecast_1", "recall_forecast_1_worst"],
    ["recall_forecast_4", "recall_forecast_4_worst"],
    ["recall_end", "recall_end_worst"],
    ["recall_settle", "recall_settle_worst"],
    ["recall_end_64", "recall_end_64_worst"],
];
const KERNELS_16: [[&str; 2]; 6] = [
    ["recall_16_observe", "recall_16_observe_worst"],
    ["recall_16_forecast_1", "recall_16_forecast_1_worst"],
    ["recall_16_forecast_4", "recall_16_forecast_4_worst"],
    ["recall_16_end", "recall_16_end_worst"],
    ["recall_16_settle", "recall_16_settle_worst"],
    ["recall_16_end_64", "recall_16_end_64_worst"],
];

/// A text whose passages come again: where it is, and the choices there, a third of which are others each time.
struct Text {
    random: Random,
    at: u32,
}

impl Text {
    fn next(&mut self) {
        self.at = if self.random.bits() >> 27 == 0 { (self.random.bits() >> 8) % 1200 } else { self.at + 1 };
    }

    fn choices(&mut self, layer: u16) -> [u16; 8] {
        let mut usual = Random((self.at / 2 * 48 + u32::from(layer)).wrapping_mul(2_654_435_761));
        let (mut chosen, mut other) = ([0; 8], [0; 8]);
        spread(&mut chosen, &mut usual, SHAPE.experts.into());
        spread(&mut other, &mut self.random, SHAPE.experts.into());
        for (chosen, other) in chosen.iter_mut().zip(other) {
            if self.random.bits() >> 16 < 10_000 {
                *chosen = other;
            }
        }
        chosen
    }
}

#[inline(never)]
fn observe(recall: &mut Match<'_>, config: &Config, layer: u16, experts: &[u16]) -> bool {
    recall.observe_leading(config, layer, experts).is_ok()
}

#[inline(never)]
fn settle(recall: &mut Match<'_>) -> bool {
    recall.settle();
    true
}

#[inline(never)]
fn end_token(recall: &mut Match<'_>, config: &Config) -> bool {
    recall.end_token(config).is_ok()
}

#[inline(never)]
fn forecast(recall: &Match<'_>, layer: u16, tokens: u16, shares: &mut [Level]) -> bool {
    recall.forecast(layer, tokens, shares).is_ok()
}

/// Prints the mean over tokens of each part's calls in a layer (`end`: in a token), and the layer that took most: for
/// the setting for controllers, and for the usual one (`recall_16`).
#[inline(never)]
pub(crate) fn report() {
    if !counts() {
        return;
    }
    let (mut words, mut few) = ([0; SHAPE.words(TOKENS, 4)], [0; SHAPE.words(64, 4)]);
    let empty = Cost::empty();
    for (config, kernels) in [(Config::small(), KERNELS), (Config::default(), KERNELS_16)] {
        let costs = run(&config, &mut words, &mut few);
        for ([mean, worst], cost) in kernels.iter().zip(costs) {
            cost.print(mean, SHAPE.experts.into(), SHAPE.k.into(), empty);
            cost.print_most(worst, SHAPE.experts.into(), SHAPE.k.into(), empty);
        }
    }
}

/// What each part takes with a memory of many tokens, and the end of a token with one of few.
fn run(config: &Config, words: &mut [u32], few: &mut [u32]) -> [Cost; 6] {
    let mut costs = [Cost::default(); 6];
    let Ok(mut recall) = Match::new(config, SHAPE, TOKENS, words) else { return costs };
    let Ok(mut small) = Match::new(config, SHAPE, 64, few) else { return costs };
    let mut text = Text { random: Random(21), at: 0 };
    // Room for every id that a byte can be.
    let mut shares = [Level::ZERO; 256];
    for token in 0..TOKENS as u32 + COUNTED {
        text.next();
        let counted = token >= TOKENS as u32;
        for layer in 0..SHAPE.layers {
            let chosen = text.choices(layer);
            observe(&mut small, config, layer, &chosen);
            if !counted {
                observe(&mut recall, config, layer, &chosen);
                continue;
            }
            costs[0].add(|| black_box(observe(&mut recall, config, layer, black_box(&chosen))));
            let next = (layer + 1) % SHAPE.layers;
            if next > 0 {
                costs[1].add(|| black_box(forecast(&recall, next, 1, black_box(&mut shares))));
            }
            costs[4].add(|| black_box(settle(&mut recall)));
            costs[2].add(|| black_box(forecast(&recall, layer, 4, black_box(&mut shares))));
        }
        costs[5].add(|| black_box(end_token(&mut small, config)));
        if counted {
            costs[3].add(|| black_box(end_token(&mut recall, config)));
        } else {
            end_token(&mut recall, config);
        }
    }
    costs
}
