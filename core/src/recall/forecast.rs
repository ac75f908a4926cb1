//! The nearest places inside a token: how much each is to be believed, layer by layer.

use super::search::Nearest;
use super::{Config, LEADING};
use crate::num::{div_frac_call, exp2_neg, mul_frac};

/// What layers before keep of their say with each layer: 0.9, `U0F32`.
const KEPT: u32 = 3_865_470_566;
/// Fraction bits of sums over layers, which are below 10.
const SUM_BITS: u32 = 28;
/// Layers that the tokens before count for when a token begins, as a shift.
const BEFORE: u32 = 2;
/// Fraction bits of exponents, which count halvings.
const EXPONENT_BITS: u32 = 22;
/// Halvings in 1, `log2(e)`, `U1F31`.
const HALVINGS_EACH: u32 = 3_098_164_009;

/// Largest exponent of a place that has everything in common.
const MOST_NOW: u16 = 60;

/// Layers after which the weight of all layers together does not change any more: 0.9^128 is 1.4e-6.
const STEADY: usize = 128;

/// One over the weight of the tokens before and all layers together, after 0, 1, 2, … layers, `U0F32`, rounded down.
const SHARES: [u32; STEADY] = {
    let mut shares = [0; STEADY];
    // With 32 fraction bits.
    let (mut all, mut run) = (1u64 << (32 + BEFORE), 0);
    while run < STEADY {
        shares[run] = ((1u128 << 64) / all as u128) as u32;
        all = ((all as u128 * KEPT as u128) >> 32) as u64 + (1 << 32);
        run += 1;
    }
    shares
};

/// A remembered place that moves along with the text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    /// First word of its choices.
    pub(super) row: u32,
    /// Share of choices in common with this token, summed up over layers, recent ones counting more, after how alike
    /// the tokens before are, `U4F28`.
    common: u32,
    /// Exponent of its weight, in halvings, `I10F22`.
    exponent: i32,
}

impl Place {
    /// Takes the number of choices in common in a layer.
    #[inline]
    pub(super) fn take(&mut self, common: u32, each: Each) {
        self.common = mul_frac(self.common, KEPT).wrapping_add(common.wrapping_mul(each.share));
        self.exponent = mul_frac(self.common, each.exponent).wrapping_neg().cast_signed();
    }
}

/// What a choice in common counts in a layer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Each {
    /// Share of the layer's choices, `U4F28`, rounded down.
    share: u32,
    /// Exponent of a sum of 1 of these over layers, in halvings, `U6F26`; saturates.
    exponent: u32,
}

/// The places that forecasts go by: the leading ones, and others that may come to lead.
///
/// A place has the weight `exp(16 x)`, normalised over those that count, with x the mean share of choices in common in
/// the layers that have run, a layer counting 0.9 of the next one. Before the first layer stand the tokens before,
/// which count for four layers, and fade like those: as `1 - 0.4 d / bits` choices in common, with d their distance in
/// bits.
///
/// In every layer the leading places take its choices first; then the others do, and one that has overtaken a leading
/// one changes places with it. After every few layers the others pair off and of each pair the nearer one stays: of 48
/// there are 24, 12, 6, 3, 1 and none left.
#[derive(Debug, Clone)]
pub(super) struct Places<const C: usize> {
    places: [Place; C],
    found: usize,
    /// As the configuration says.
    leading: usize,
    thinning: u16,
    farthest: u32,
    /// Exponent of a place that has everything in common, in halvings, `U8F24`.
    now: u32,
    /// What a choice in common counts in the layer that ran last.
    each: Each,
    /// The places that count in forecasts, and the weight of each, `U1F31`: together at most 1, rounded down.
    weights: [(u32, u32); LEADING],
    counting: usize,
    /// Places that took choices since the beginning.
    #[cfg(test)]
    pub(super) taken: usize,
}

impl<const C: usize> Places<C> {
    pub(super) fn new(config: &Config, k: u16) -> Self {
        let mut places = Self {
            places: [Place::default(); C],
            found: 0,
            leading: 0,
            thinning: 0,
            farthest: 0,
            now: 0,
            each: Each { share: (1 << SUM_BITS) / u32::from(k.max(1)), exponent: 0 },
            weights: [(0, 0); LEADING],
            counting: 0,
            #[cfg(test)]
            taken: 0,
        };
        places.configure(config);
        places
    }

    fn configure(&mut self, config: &Config) {
        self.leading = usize::from(config.leading).min(LEADING);
        (self.thinning, self.farthest) = (config.thinning, u32::from(config.farthest) << (EXPONENT_BITS - 6));
        self.now = mul_frac(u32::from(config.now.min(MOST_NOW)) << 25, HALVINGS_EACH);
    }

    /// Begins a token with what was nearest to the one before; signatures have `bits` bits, a power of two; `row` is
    /// where the choices of a place of an age begin.
    pub(super) fn begin(&mut self, config: &Config, nearest: &Nearest<C>, bits: u32, row: impl Fn(u32) -> u32) {
        self.found = 0;
        self.configure(config);
        let each = self.layer(0);
        // What 1/64 of a bit takes from what everything in common says, times the number of bits, `U2F30`.
        let part = div_frac_call(config.before, u32::from(config.now.min(MOST_NOW)) << 18);
        for (place, (age, distance)) in self.places.iter_mut().zip(nearest.iter()) {
            let apart = u64::from(distance).wrapping_mul(part.into()) << 2 >> bits.trailing_zeros();
            let alike = !(apart.min(u32::MAX.into()) as u32);
            *place = Place { row: row(age), common: alike >> (32 - SUM_BITS - BEFORE), exponent: 0 };
            place.exponent = mul_frac(place.common, each.exponent).wrapping_neg().cast_signed();
            self.found = self.found.wrapping_add(1);
        }
        self.weigh();
    }

    /// After `run` layers of the token. Returns what a choice in common counts in the last of them.
    pub(super) fn layer(&mut self, run: u16) -> Each {
        let share = SHARES.get(usize::from(run)).or(SHARES.last()).copied().unwrap_or(0);
        // At most a quarter of 87.
        self.each.exponent = (u64::from(self.now).wrapping_mul(share.into()) >> 30) as u32;
        self.each
    }

    /// Whether there are places beside the leading ones.
    pub(super) const fn others(&self) -> bool {
        self.found > self.leading
    }

    /// What a choice in common counts in the layer that ran last.
    pub(super) const fn each(&self) -> Each {
        self.each
    }

    /// The leading places, and the others.
    pub(super) fn split(&mut self) -> (&mut [Place], &mut [Place]) {
        let found = self.places.get_mut(..self.found).unwrap_or(&mut []);
        let leading = found.len().min(self.leading);
        found.split_at_mut_checked(leading).unwrap_or((&mut [], &mut []))
    }

    /// Others that have overtaken leading ones take their place, and after some layers half of the others go; `run`
    /// layers have run.
    pub(super) fn settle(&mut self, run: u16) {
        let thinning = self.thinning;
        let (leading, others) = self.split();
        let Some(mut last) = farthest(leading) else { return };
        let mut changed = false;
        for other in others.iter_mut() {
            if other.exponent < last.exponent {
                // Compiled for size, a call of `swap` goes byte by byte.
                (*other, *last) = (*last, *other);
                let Some(next) = farthest(leading) else { return };
                (last, changed) = (next, true);
            }
        }
        if thinning > 0 && run.is_multiple_of(thinning) {
            let kept = others.len() / 2;
            if let Some((near, far)) = others.split_at_mut_checked(kept) {
                for (near, far) in near.iter_mut().zip(far) {
                    if far.exponent < near.exponent {
                        // Number by number: moved as a whole, small libraries would hold a `memmove` for it.
                        (near.row, near.common, near.exponent) = (far.row, far.common, far.exponent);
                    }
                }
            }
            self.found = leading.len().wrapping_add(kept);
        }
        if changed {
            self.weigh();
        }
    }

    /// Weighs the leading places, for forecasts until the next layer.
    #[inline(never)]
    pub(super) fn weigh(&mut self) {
        let leading = self.places.get(..self.found.min(self.leading)).unwrap_or(&[]);
        let least = leading.iter().map(|place| place.exponent).min().unwrap_or(0);
        let (mut sum, mut counting) = (0, 0);
        for place in leading {
            let distance = place.exponent.wrapping_sub(least).cast_unsigned();
            if distance <= self.farthest
                && let Some(to) = self.weights.get_mut(counting)
            {
                // 27 fraction bits, of the best one 1, so that all of them fit a word.
                *to = (place.row, exp2_neg(distance) >> 4);
                sum = u32::wrapping_add(sum, to.1);
                counting = usize::wrapping_add(counting, 1);
            }
        }
        self.counting = counting;
        // 2^26 over the sum, which is from 2^27 to 2^31, `U0F32`: 12 bits of it, and by Newton's iteration the others.
        let each = (u32::MAX / (sum >> 15).wrapping_add(1)) << 11;
        let each = each.wrapping_add(mul_frac(each, (1u32 << 26).wrapping_sub(mul_frac(sum, each)) << 6));
        let weights = self.weights.iter_mut().take(counting);
        weights.for_each(|(_, weight)| *weight = mul_frac(*weight, each) << 5);
    }

    /// The places that count in a forecast, as where their choices begin, and the weight of each, `U1F31`: together at
    /// most 1, rounded down. Error below 2e-5 of it and 1e-7.
    #[inline]
    pub(super) fn weights(&self) -> &[(u32, u32)] {
        self.weights.get(..self.counting).unwrap_or(&[])
    }
}

/// The place whose exponent is largest.
#[inline]
fn farthest(places: &mut [Place]) -> Option<&mut Place> {
    let mut places = places.iter_mut();
    let first = places.next()?;
    Some(places.fold(first, |last, place| if place.exponent > last.exponent { place } else { last }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::search::{Search, unknown};
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
        let search = Search { now: &[0; 4], slot: 4, least: 1, most: 4, reach: u32::MAX };
        search.run(&signatures, &mut [unknown(128); 64], &mut found);
        found
    }

    /// The exponents of places and layers with choices in common, by real numbers, and the places by the fixed ones.
    fn scored(ones: [u32; 4], layers: &[[u32; 4]]) -> ([f64; 4], Places<8>) {
        let config = Config { farthest: 31 * 64, thinning: 0, ..Config::default() };
        let mut places = Places::<8>::new(&config, 8);
        // Of age 1 is slot 3.
        places.begin(&config, &nearest(ones), 128, |age| 4 - age);
        for (run, common) in (1..).zip(layers) {
            let each = places.layer(run);
            places.split().0.iter_mut().for_each(|place| place.take(common[place.row as usize], each));
            places.weigh();
            places.settle(run);
        }
        let norm = layers.iter().fold(4.0, |norm, _| norm * 0.9 + 1.0);
        let exponents = std::array::from_fn(|slot| {
            let distance = f64::from(ones[slot]) + 45.0 / 64.0 * f64::from(unknown(128)) / 4_194_304.0;
            let alike = 1.0 - f64::from(config.before) / 1024.0 * distance / 128.0 / 16.0;
            let overlap = layers.iter().fold(4.0 * alike, |sum, common| sum * 0.9 + f64::from(common[slot]) / 8.0);
            -16.0 * overlap / norm
        });
        (exponents, places)
    }

    proptest! {
        #[test]
        fn weights_are_those_of_real_numbers(
            ones in prop::array::uniform4(0u32..=128),
            layers in prop::collection::vec(prop::array::uniform4(0u32..=8), 0..60),
        ) {
            let (exponents, places) = scored(ones, &layers);
            let least = exponents.iter().copied().fold(f64::INFINITY, f64::min);
            let weights = exponents.map(|exponent| (least - exponent).exp());
            let sum: f64 = weights.iter().sum();
            let found: f64 = places.weights().iter().map(|&(_, weight)| f64::from(weight) / 2f64.powi(31)).sum();
            prop_assert!(found <= 1.0);
            for &(row, weight) in places.weights() {
                let found = f64::from(weight) / 2f64.powi(31);
                let expected = weights[row as usize] / sum;
                prop_assert!((found - expected).abs() < 2e-5 * expected + 1e-7, "{found} {expected}");
            }
        }
    }

    #[test]
    fn nothing_found_weighs_nothing() {
        let config = Config::default();
        let mut places = Places::<4>::new(&config, 8);
        places.begin(&config, &Nearest::new(4), 128, |age| age);
        places.layer(1);
        places.settle(1);
        assert!(places.weights().is_empty());
    }

    #[test]
    fn equals_weigh_the_same() {
        let (_, places) = scored([7; 4], &[[1; 4]]);
        assert!(
            places.weights().len() == 4 && places.weights().iter().all(|(_, weight)| weight.abs_diff(1 << 29) <= 64)
        );
    }

    #[test]
    fn the_better_ones_lead_and_the_others_thin_out() {
        let config = Config { leading: 2, thinning: 1, ..Config::default() };
        let mut places = Places::<8>::new(&config, 8);
        places.begin(&config, &nearest([9, 10, 11, 12]), 128, |age| 4 - age);
        let rows = |places: &[Place]| places.iter().map(|place| place.row).collect::<Vec<_>>();
        assert_eq!(rows(places.split().0), [0, 1]);
        // The farthest one has everything in common.
        let each = places.layer(1);
        let (leading, others) = places.split();
        leading.iter_mut().chain(others).for_each(|place| place.take(if place.row == 3 { 8 } else { 0 }, each));
        places.settle(1);
        assert_eq!((rows(places.split().0), rows(places.split().1)), (vec![0, 3], vec![1]));
        places.layer(2);
        places.settle(2);
        assert!(!places.others());
    }
}
