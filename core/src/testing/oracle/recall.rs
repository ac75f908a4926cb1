//! [`Recall`](crate::recall::Recall) in real numbers, written a second time from its description: for whole texts,
//! without a ring of words, without bits in slices, without a heap. Only the hash of a choice's signs is taken over.

use crate::recall::signature::{every, signs, signs_from};
use crate::recall::{Config, Shape};
use std::vec;
use std::vec::Vec;

#[derive(Debug, Clone, Copy)]
struct Place {
    age: usize,
    common: f64,
    exponent: f64,
}

/// A [`Recall`](crate::recall::Recall) with signatures of 128 bits that remembers everything.
#[derive(Debug, Clone)]
pub struct Recall {
    config: Config,
    shape: Shape,
    tokens: usize,
    /// Choices of all tokens, by token and layer.
    text: Vec<Vec<Vec<u16>>>,
    signatures: Vec<[bool; 128]>,
    means: Vec<f64>,
    /// By age, in bits.
    distances: Vec<f64>,
    places: Vec<Place>,
    reach: f64,
    norm: f64,
}

impl Recall {
    /// That forecasts from the last `tokens` tokens.
    #[must_use]
    pub fn new(config: Config, shape: Shape, tokens: usize) -> Self {
        let unknown = 64.0 / (1.0 - 45.0 / 64.0);
        Self {
            config,
            shape,
            tokens,
            text: vec![Vec::new()],
            signatures: Vec::new(),
            means: vec![0.0; 128],
            distances: vec![unknown; tokens],
            places: Vec::new(),
            reach: f64::INFINITY,
            norm: 0.0,
        }
    }

    fn now(&self) -> usize {
        self.text.len() - 1
    }

    fn overlap(&self, place: &Place, layer: usize) -> f64 {
        let now = self.now();
        let own = &self.text[now][layer];
        self.text[now - place.age][layer].iter().filter(|id| own.contains(id)).count() as f64
    }

    /// What the next layer of this token has chosen.
    pub fn observe(&mut self, layer: usize, ids: &[u16]) {
        let now = self.now();
        self.text[now].push(ids.to_vec());
        self.norm = self.norm * 0.9 + 1.0;
        let run = layer + 1;
        let mut places = std::mem::take(&mut self.places);
        for place in &mut places {
            place.common = place.common * 0.9 + self.overlap(place, layer);
            place.exponent = -f64::from(self.config.now) * place.common / self.norm / f64::from(self.shape.k);
        }
        let leading = places.len().min(self.config.leading.into());
        let farthest = |places: &[Place]| {
            (0..leading).fold(0, |last, i| if places[i].exponent > places[last].exponent { i } else { last })
        };
        for other in leading..places.len() {
            let last = farthest(&places);
            if places[other].exponent < places[last].exponent {
                places.swap(other, last);
            }
        }
        let thinning = usize::from(self.config.thinning);
        if thinning > 0 && run.is_multiple_of(thinning) {
            let kept = (places.len() - leading) / 2;
            for near in leading..leading + kept {
                if places[near + kept].exponent < places[near].exponent {
                    places[near] = places[near + kept];
                }
            }
            places.truncate(leading + kept);
        }
        self.places = places;
    }

    /// All layers of this token have chosen: looks for places like it.
    pub fn end_token(&mut self) {
        let now = self.now();
        let mut sums = vec![0.0; 128];
        let every = every(4, self.shape.layers);
        for (layer, ids) in self.text[now].iter().enumerate() {
            for (bit, sum) in sums.iter_mut().enumerate().filter(|(bit, _)| bit / 32 % every == layer % every) {
                for &id in ids {
                    *sum += f64::from((signs(signs_from(layer as u16, bit as u32 / 32), id.into()) >> (bit % 32)) & 1);
                }
            }
        }
        let gain = 0.5f64.powi((32 - (now as u32).leading_zeros()).min(9) as i32);
        let signature: [bool; 128] = std::array::from_fn(|bit| sums[bit] > self.means[bit]);
        self.means.iter_mut().zip(&sums).for_each(|(mean, sum)| *mean += (sum - *mean) * gain);
        self.signatures.push(signature);
        let mut found: Vec<(f64, usize)> = Vec::new();
        for age in 13..=now.min(self.tokens - 1) {
            let other = &self.signatures[now - age];
            // Bits of words that differ, from the one whose turn it is.
            let first = now % self.tokens % 4;
            let differ = |words: usize| {
                let bits = (0..32 * words).map(|bit| (32 * first + bit) % 128);
                bits.filter(|&bit| signature[bit] != other[bit]).count() as f64 * 4.0 / words as f64
            };
            let old = 45.0 / 64.0 * self.distances[age];
            let look = differ(1) + old;
            let distance = if look > self.reach + 4.0 { look } else { differ(4) + old };
            self.distances[age] = distance;
            // Whole 64ths are compared, the newer first.
            found.push(((distance * 64.0).floor() / 64.0, age));
        }
        found.sort_by(|a, b| a.partial_cmp(b).unwrap());
        found.truncate(self.config.candidates.into());
        let all = found.len() == usize::from(self.config.candidates);
        self.reach = found.last().filter(|_| all).map_or(f64::INFINITY, |place| place.0);
        // The tokens before stand for four layers.
        let now = f64::from(self.config.now);
        let before = f64::from(self.config.before) / 65536.0 * 64.0;
        let place = |&(distance, age): &(f64, usize)| {
            let alike = (1.0 - before * distance / 128.0 / now).max(0.0);
            Place { age, common: 4.0 * alike * f64::from(self.shape.k), exponent: -now * alike }
        };
        self.places = found.iter().map(place).collect();
        self.norm = 4.0;
        self.text.push(Vec::new());
    }

    /// The share of the next `tokens` tokens that will want each expert of a layer.
    #[must_use]
    pub fn forecast(&self, layer: usize, tokens: usize) -> Vec<f64> {
        let mut shares = vec![0.0; self.shape.experts.into()];
        let leading = &self.places[..self.places.len().min(self.config.leading.into())];
        let least = leading.iter().map(|place| place.exponent).fold(f64::INFINITY, f64::min);
        let most = f64::from(self.config.farthest) / 64.0 * std::f64::consts::LN_2;
        let counts = |place: &&Place| place.exponent - least <= most;
        let weight = |place: &Place| (least - place.exponent).exp();
        let sum: f64 = leading.iter().filter(counts).map(weight).sum();
        let now = self.now();
        let first = usize::from(layer < self.text[now].len());
        for place in leading.iter().filter(counts) {
            for ahead in first..first + tokens {
                for &id in &self.text[now - place.age + ahead][layer] {
                    shares[usize::from(id)] += weight(place) / sum / tokens as f64;
                }
            }
        }
        shares
    }
}

/// Shares in which the layer that is next will choose each expert: of the last eight times that each of the last
/// choices had been chosen in the layer before, those with the expert behind them. `seen` is what each layer chose, the
/// oldest first, beginning with the first layer of a token.
#[must_use]
pub fn companions(shape: Shape, seen: &[Vec<u16>]) -> Vec<f64> {
    const TIMES: usize = 8;
    let layers = usize::from(shape.layers);
    let mut shares = vec![0.0; shape.experts.into()];
    let Some(now) = seen.last() else { return shares };
    for &from in now {
        // Places where the layer before had chosen it.
        let place = |&at: &usize| at % layers == seen.len() % layers && seen[at - 1].contains(&from);
        for at in (1..seen.len()).filter(place).rev().take(TIMES) {
            seen[at].iter().for_each(|&to| shares[usize::from(to)] += 1.0 / (TIMES * now.len()) as f64);
        }
    }
    shares
}
