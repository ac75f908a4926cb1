//! The nearest places inside a token: how much each is to be believed, layer by layer.

use core::mem::swap;

use super::search::Nearest;
use super::{Config, LEADING};
use crate::num::{div_frac, exp2_neg_64ths, mul_frac};

/// What layers before keep of their say with each layer: 0.9, `U0F32`.
const KEPT: u32 = 3_865_470_566;
/// Fraction bits of sums over layers.
const SUM_BITS: u32 = 16;
/// Layers until this token's own choices have their full say.
const FULL_SAY: u16 = 4;
/// Layers in which half of the places beside the leading ones go, all up to here with an even number.
const HALVINGS: u16 = 12;
/// 64ths of a halving in 1, times 2^10 over 2^16: from `U16F16` natural exponents, `U0F32`.
const HALVINGS_EACH: u32 = 6_051_102;
/// How far an exponent may be from the best so that the place counts in a forecast, in 64ths of a halving: 1/6 of the
/// best one's weight.
const FARTHEST: u32 = 160;

/// A remembered place that moves along with the text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    /// First word of its choices.
    pub(super) row: u32,
    /// Exponent of what the tokens before say, in 64ths of a halving: larger is farther.
    behind: u32,
    /// Choices in common with this token, recent layers counting more, `U16F16`.
    common: u32,
    /// Exponent of its weight, in 64ths of a halving.
    exponent: i32,
}

impl Place {
    /// Takes the number of choices in common in a layer; `each` is the exponent of one, `U0F32` of `U16F16`.
    #[inline]
    pub(super) fn take(&mut self, common: u32, each: u32) {
        self.common = mul_frac(self.common, KEPT) + (common << SUM_BITS);
        self.exponent = self.behind.wrapping_sub(mul_frac(self.common, each)).cast_signed();
    }
}

/// The places that forecasts go by: up to [`LEADING`] leading ones, and others that may come to lead.
///
/// A place has the weight `exp(-x)`, normalised over those that count, with `x = 0.4 * 8 * d * 2 / bits` from the
/// distance d of the tokens before (64 in a bit), less `16 s (overlap of the layers that have run)`: the mean share of
/// choices in common, a layer counting 0.9 of the next one; `s` rises from a quarter to 1 over the first four layers.
///
/// In every layer the leading places take its choices first; then the others do, and one that has overtaken a leading
/// one changes places with it. After the second layer, the fourth, and so on up to the twelfth, the others pair off and
/// of each pair the nearer one stays: of 56 there are 28, 14, 7, 3, 1 and none left.
#[derive(Debug, Clone)]
pub(super) struct Places<const C: usize> {
    places: [Place; C],
    found: usize,
    /// Layers that have run, recent ones counting more, `U16F16`; below 10.
    layers: u32,
    /// Exponent of a choice in common, in 64ths of a halving, `U0F32` of `U16F16`.
    each: u32,
    /// Places that took choices since the beginning.
    #[cfg(test)]
    pub(super) taken: usize,
}

impl<const C: usize> Places<C> {
    pub(super) const fn new() -> Self {
        let none = Place { row: 0, behind: 0, common: 0, exponent: 0 };
        Self {
            places: [none; C],
            found: 0,
            layers: 0,
            each: 0,
            #[cfg(test)]
            taken: 0,
        }
    }

    /// Begins a token with what was nearest to the one before; signatures have `bits` bits, a power of two; `row` is
    /// where the choices of a place of an age begin.
    pub(super) fn begin(&mut self, config: &Config, nearest: &Nearest<C>, bits: u32, row: impl Fn(u32) -> u32) {
        (self.found, self.layers) = (0, 0);
        for (place, (age, distance)) in self.places.iter_mut().zip(nearest.iter()) {
            // Below 2^18 times the weight, over the bits: of the default one below 2^19.
            let behind = (u64::from(distance) * u64::from(config.before)) >> bits.trailing_zeros();
            let behind = mul_frac(behind.min(u32::MAX.into()) as u32, HALVINGS_EACH);
            *place = Place { row: row(age), behind, common: 0, exponent: behind.cast_signed() };
            self.found += 1;
        }
    }

    /// A layer runs, the `run`-th of the token. Returns the exponent of a choice in common in it.
    pub(super) fn layer(&mut self, config: &Config, run: u16, k: u16) -> u32 {
        self.layers = mul_frac(self.layers, KEPT) + (1 << SUM_BITS);
        // The overlap is `common / (layers * k)`; 23.08 64ths of a halving are a quarter of 1.
        let whole = self.layers.wrapping_mul(k.into());
        let now = (u32::from(config.now) * u32::from(run.min(FULL_SAY))).wrapping_mul(1477) >> 6;
        self.each = div_frac(now, whole);
        self.each
    }

    /// Whether there are places beside the leading ones.
    pub(super) const fn others(&self) -> bool {
        self.found > LEADING
    }

    /// Exponent of a choice in common in this layer.
    pub(super) const fn each(&self) -> u32 {
        self.each
    }

    /// The leading places, and the others.
    pub(super) fn split(&mut self) -> (&mut [Place], &mut [Place]) {
        let found = self.places.get_mut(..self.found).unwrap_or(&mut []);
        let leading = found.len().min(LEADING);
        found.split_at_mut_checked(leading).unwrap_or((&mut [], &mut []))
    }

    /// Others that have overtaken leading ones take their place, and after some layers half of the others go; `run`
    /// layers have run.
    pub(super) fn settle(&mut self, run: u16) {
        let (leading, others) = self.split();
        let Some(mut last) = farthest(leading) else { return };
        for other in others.iter_mut() {
            if other.exponent < last.exponent {
                swap(other, last);
                let Some(next) = farthest(leading) else { return };
                last = next;
            }
        }
        if run <= HALVINGS && run % 2 == 0 {
            let kept = others.len() / 2;
            if let Some((near, far)) = others.split_at_mut_checked(kept) {
                for (near, far) in near.iter_mut().zip(far) {
                    if far.exponent < near.exponent {
                        *near = *far;
                    }
                }
            }
            self.found = LEADING + kept;
        }
    }

    /// The leading places, and what each adds to the share of an expert in a token of a forecast of `tokens`, `U1F31`:
    /// together at most 1 in all tokens, rounded down (by at most 1/4,000 of it with one token and 1/500 with 12); 0 for
    /// those that are too far from the best one.
    #[inline]
    pub(super) fn forecast(&self, tokens: u16) -> (&[Place], [u32; LEADING]) {
        let leading = self.places.get(..self.found.min(LEADING)).unwrap_or(&[]);
        let least = leading.iter().map(|place| place.exponent).min().unwrap_or(0);
        let mut sum = 0;
        let mut weights: [u32; LEADING] = core::array::from_fn(|i| {
            let distance = leading.get(i).map_or(u32::MAX, |place| place.exponent.wrapping_sub(least).cast_unsigned());
            // 15 fraction bits, of the best one 1.
            let weight = if distance <= FARTHEST { exp2_neg_64ths(distance) >> 16 } else { 0 };
            sum += weight;
            weight
        });
        let each = (1u32 << 31).checked_div(sum * u32::from(tokens)).unwrap_or(0);
        weights.iter_mut().for_each(|weight| *weight *= each);
        (leading, weights)
    }
}

/// The place whose exponent is largest.
#[inline]
fn farthest(places: &mut [Place]) -> Option<&mut Place> {
    let mut places = places.iter_mut();
    let first = places.next()?;
    Some(places.fold(first, |last, place| if place.exponent > last.exponent { place } else { last }))
}
