//! The nearest places inside a token: how much each is to be believed, layer by layer.

use super::Config;
use super::search::Nearest;
use crate::num::{div_frac, exp_neg_bits, mul_frac};

/// Fraction bits of exponents.
const EXPONENT_BITS: u32 = 16;
/// Exponents farther than this from the best count as no weight: `exp(-10)` is 0.005 %.
const FARTHEST: u32 = 10 << EXPONENT_BITS;
/// What layers before keep of their say with each layer: 0.9, `U0F32`.
const KEPT: u32 = 3_865_470_566;
/// Layers until this token's own choices have their full say.
const FULL_SAY: u32 = 4;

/// A remembered place that moves along with the text.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Tokens that lie between it and the token that is on its way.
    age: u32,
    /// Exponent of what the tokens before say, `U16F16`: larger is farther.
    behind: u32,
    /// Choices in common with this token, recent layers counting more, `U16F16`.
    common: u32,
    /// Its share of the forecast, `U0F32`.
    weight: u32,
}

/// The places that a forecast goes by, the nearest by the tokens before first.
///
/// A place has the weight `exp(-x)`, normalised over all of them, with `x = 0.5 * 8 * (d0 + 0.7 d1 + 0.5 d2 + 0.35
/// d3) * 2 / bits` from the Hamming distances of the tokens before, less `16 s (overlap of the layers that have
/// run)`: the mean share of choices in common, a layer counting 0.9 of the next one; `s` rises from a quarter to 1
/// over the first four layers.
#[derive(Debug, Clone)]
pub(super) struct Places<const C: usize> {
    places: [Place; C],
    found: usize,
    /// Layers that have run, recent ones counting more, `U16F16`; below 10.
    layers: u32,
    /// Layers that have run, up to [`FULL_SAY`].
    say: u32,
}

impl<const C: usize> Places<C> {
    pub(super) const fn new() -> Self {
        let none = Place { age: 0, behind: 0, common: 0, weight: 0 };
        Self { places: [none; C], found: 0, layers: 0, say: 0 }
    }

    /// Begins a token with what was nearest to the one before; signatures have `bits` bits, a power of two.
    pub(super) fn begin(&mut self, config: &Config, nearest: &Nearest<C>, bits: u32) {
        (self.found, self.layers, self.say) = (0, 0, 0);
        for (place, (age, distance)) in self.places.iter_mut().zip(nearest.iter()) {
            // At most 163 64ths of all bits: below 2^21 with the default weight.
            let behind = (u64::from(distance) * u64::from(config.before)) >> bits.trailing_zeros();
            *place = Place { age, behind: behind.min(u32::MAX.into()) as u32, common: 0, weight: 0 };
            self.found += 1;
        }
        self.weigh(config, 1);
    }

    /// Takes the choices that each place has in common with this token in a layer.
    pub(super) fn layer(&mut self, config: &Config, k: u16, common: impl Fn(u32) -> u32) {
        for place in &mut self.places[..self.found] {
            place.common = mul_frac(place.common, KEPT) + (common(place.age) << EXPONENT_BITS);
        }
        self.layers = mul_frac(self.layers, KEPT) + (1 << EXPONENT_BITS);
        self.say = (self.say + 1).min(FULL_SAY);
        self.weigh(config, k);
    }

    /// Normalised weights of all places, each rounded down: together at most 1.
    fn weigh(&mut self, config: &Config, k: u16) {
        // Exponent per choice in common, `U8F24`: the overlap is `common / (layers * k)`.
        let whole = u64::from(self.layers) * u64::from(k) * u64::from(FULL_SAY);
        let each = ((u64::from(config.now) * u64::from(self.say)) << (24 + EXPONENT_BITS)).checked_div(whole);
        let each = each.unwrap_or(0).min(u32::MAX.into()) as u32;
        let places = &mut self.places[..self.found];
        let exponent = |place: &Place| {
            let nearer = (u64::from(place.common) * u64::from(each)) >> 24;
            i64::from(place.behind) - nearer as i64
        };
        let Some(least) = places.iter().map(exponent).min() else { return };
        let mut sum = 0;
        for place in places.iter_mut() {
            let distance = (exponent(place) - least).unsigned_abs();
            // 23 fraction bits, so that all of them fit a word.
            let weight = if distance < u64::from(FARTHEST) { exp_neg_bits(distance as u32) >> 8 } else { 0 };
            (place.weight, sum) = (weight, sum + weight);
        }
        for place in places.iter_mut().filter(|place| place.weight > 0) {
            place.weight = div_frac(place.weight, sum);
        }
    }

    /// Ages and weights (`U0F32`) of the places that have any.
    #[inline]
    pub(super) fn weights(&self) -> impl Iterator<Item = (u32, u32)> {
        self.places[..self.found].iter().filter(|place| place.weight > 0).map(|place| (place.age, place.weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::search::{search, unknown};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// The nearest of four remembered tokens with given distances to a token of zeros.
    fn nearest(ones: [u32; 4]) -> Nearest<8> {
        let mut signatures = vec![[0u32; 4]; 64];
        for (slot, ones) in ones.into_iter().enumerate() {
            signatures[slot] = std::array::from_fn(|word| {
                let ones = ones.saturating_sub(32 * word as u32).min(32);
                ((1u64 << ones) - 1) as u32
            });
        }
        let mut found = Nearest::new(8);
        search(&[0; 4], 4, &signatures, &mut [unknown(128); 64], 1, 4, &mut found);
        found
    }

    proptest! {
        #[test]
        fn weights_are_those_of_real_numbers(
            ones in prop::array::uniform4(0u32..=128),
            layers in prop::collection::vec(prop::array::uniform4(0u32..=8), 0..60),
        ) {
            let (config, nearest) = (Config::default(), nearest(ones));
            let mut places = Places::<8>::new();
            places.begin(&config, &nearest, 128);
            for common in &layers {
                places.layer(&config, 8, |age| common[age as usize - 1]);
            }
            let mut norm = 0.0;
            let mut overlap = [0.0f64; 4];
            for common in &layers {
                norm = norm * 0.9 + 1.0;
                overlap.iter_mut().zip(common).for_each(|(sum, &common)| *sum = *sum * 0.9 + f64::from(common) / 8.0);
            }
            let say = (layers.len() as f64 / 4.0).min(1.0);
            // Of age 1 is slot 3.
            let exponent = |age: usize| {
                let distance = f64::from(ones[4 - age]) + (0.703_125 + 0.5 + 0.343_75) * 64.0;
                let overlap = if norm > 0.0 { overlap[age - 1] / norm } else { 0.0 };
                4.0 * 2.0 * distance / 128.0 - 16.0 * say * overlap
            };
            let least = (1..=4).map(exponent).fold(f64::INFINITY, f64::min);
            let weight = |age: usize| (least - exponent(age)).exp();
            let sum: f64 = (1..=4).map(weight).sum();
            let mut found = [0.0; 4];
            places.weights().for_each(|(age, weight)| found[age as usize - 1] = f64::from(weight) / 2f64.powi(32));
            prop_assert!(found.iter().sum::<f64>() <= 1.0);
            for age in 1..=4 {
                let expected = weight(age) / sum;
                prop_assert!((found[age - 1] - expected).abs() < 1e-3, "{age}: {found:?} {expected}");
            }
        }
    }

    #[test]
    fn nothing_found_weighs_nothing() {
        let mut places = Places::<4>::new();
        places.begin(&Config::default(), &Nearest::new(4), 128);
        places.layer(&Config::default(), 8, |_| 8);
        assert_eq!(places.weights().count(), 0);
    }

    #[test]
    fn equals_weigh_the_same() {
        let mut places = Places::<8>::new();
        places.begin(&Config::default(), &nearest([7; 4]), 128);
        places.layer(&Config::default(), 1, |_| 1);
        let weights: Vec<u32> = places.weights().map(|(_, weight)| weight).collect();
        assert!(weights.len() == 4 && weights.iter().all(|&weight| weight == 1 << 30), "{weights:?}");
    }
}
