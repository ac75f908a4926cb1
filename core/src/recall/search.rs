//! The search at the end of a token: which of the remembered places is most like this one.

use super::signature::distance;
use crate::num::{LogRatio, log2_ratio};

/// Bits of one remembered distance; three of them are a word.
const FIELD: u32 = 10;
/// Distances of the tokens before, of which nothing is known: half of the bits differ.
pub(super) const fn unknown(bits: u32) -> u32 {
    let half = bits / 2;
    half | half << FIELD | half << (2 * FIELD)
}

/// Weights of this token and of the three before, in 64ths: 1, 0.7, 0.5 and 0.35.
const WEIGHTS: [u32; 4] = [64, 45, 32, 22];

/// The nearest places, the nearest first: a distance in 64ths of a bit in the high half, an age in tokens less one in
/// the low half.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nearest<const C: usize> {
    /// While searching a heap, the farthest on top.
    keys: [u32; C],
    found: usize,
    most: usize,
}

impl<const C: usize> Nearest<C> {
    /// None, of at most `most`.
    pub(super) const fn new(most: usize) -> Self {
        Self { keys: [0; C], found: 0, most: if most < C { most } else { C } }
    }

    /// Ages and distances.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.keys[..self.found].iter().map(|key| ((key & 0xffff) + 1, key >> 16))
    }

    /// Takes a place in if it is among the nearest so far. At most `2 log2(C)` comparisons.
    #[inline]
    fn offer(&mut self, key: u32) {
        if self.found < self.most {
            let mut at = self.found;
            self.found += 1;
            while at > 0 && self.keys[(at - 1) / 2] < key {
                self.keys[at] = self.keys[(at - 1) / 2];
                at = (at - 1) / 2;
            }
            self.keys[at] = key;
        } else if self.found > 0 && key < self.keys[0] {
            let mut at = 0;
            loop {
                let mut child = 2 * at + 1;
                if child + 1 < self.found && self.keys[child + 1] > self.keys[child] {
                    child += 1;
                }
                if child >= self.found || self.keys[child] <= key {
                    break;
                }
                self.keys[at] = self.keys[child];
                at = child;
            }
            self.keys[at] = key;
        }
    }
}

/// All places that were searched.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Crowd {
    places: u32,
    /// Distances of this token alone, in bits.
    alone: u32,
    sum: u32,
    squares: u64,
}

impl Crowd {
    /// Margin of the nearest place over the crowd: squared distance of its distance from the mean over the variance,
    /// as a base-2 logarithm; 0 where there is no crowd, saturates at ±32.
    pub(super) fn snr(&self, nearest: u32) -> LogRatio {
        let Some(mean) = self.sum.checked_div(self.places) else { return LogRatio::ZERO };
        let variance = (self.squares / u64::from(self.places)).saturating_sub(u64::from(mean) * u64::from(mean));
        let margin = mean.saturating_sub(nearest);
        // Both are below 2^32, as distances are below 2^16.
        log2_ratio(margin * margin, variance as u32)
    }

    /// Whether a place at a distance of this token alone is where the text goes on: nearer than three quarters of the
    /// mean. By chance, at 128 bits, that is 2.8 standard deviations away.
    pub(super) const fn follows(&self, alone: u32) -> bool {
        4 * alone as u64 * (self.places as u64) < 3 * self.alone as u64
    }
}

/// Distance of this token alone to the place of an age that has been searched.
pub(super) fn alone(before: &[u32], age: u32) -> Option<u32> {
    before.get(age as usize).map(|past| past & ((1 << FIELD) - 1))
}

/// Goes through the places of all ages from `least` to `most` (at most the slots of the ring less one), and remembers
/// this token's distances for the next ones. Ages do not change as places move along with the text, so what was found
/// for the tokens before lies under the same age.
///
/// Cost per place, at 128 bits: 4 loads of the signature, 4 exclusive ors, 4 population counts (one instruction with
/// Zbb, 12 without), 3 multiplications, a load and a store.
pub(super) fn search<const W: usize, const C: usize>(
    now: &[u32; W],
    slot: u32,
    signatures: &[[u32; W]],
    before: &mut [u32],
    least: u32,
    most: u32,
    nearest: &mut Nearest<C>,
) -> Crowd {
    let slots = signatures.len() as u32;
    let mut crowd = Crowd::default();
    nearest.found = 0;
    for age in least..=most {
        let place = if age <= slot { slot - age } else { slot + slots - age };
        let (Some(signature), Some(past)) = (signatures.get(place as usize), before.get_mut(age as usize)) else {
            continue;
        };
        let found = distance(now, signature);
        let mask = (1 << FIELD) - 1;
        let (one, two, three) = (*past & mask, (*past >> FIELD) & mask, *past >> (2 * FIELD));
        *past = found | (*past << FIELD) & ((1 << (3 * FIELD)) - 1);
        let sum = WEIGHTS[0] * found + WEIGHTS[1] * one + WEIGHTS[2] * two + WEIGHTS[3] * three;
        crowd.places += 1;
        crowd.alone += found;
        crowd.sum += sum;
        crowd.squares += u64::from(sum) * u64::from(sum);
        nearest.offer(sum << 16 | (age - 1));
    }
    let found = nearest.found;
    nearest.keys[..found].sort_unstable();
    crowd
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn a_margin_by_hand() {
        // Distances 10, 20, 30: mean 20, variance 66 (rounded down); the nearest is 10 away.
        let crowd = Crowd { places: 3, sum: 60, squares: 1400, ..Crowd::default() };
        let expected = (100.0f64 / 66.0).log2();
        assert!((crowd.snr(10).to_num::<f64>() - expected).abs() < 1e-3);
        assert_eq!(Crowd::default().snr(0), LogRatio::ZERO);
        assert_eq!(Crowd { places: 2, sum: 20, squares: 200, ..Crowd::default() }.snr(10), LogRatio::ZERO);
    }

    proptest! {
        #[test]
        fn finds_what_sorting_finds(
            tokens in prop::collection::vec(prop::array::uniform2(0u32..8), 2..200),
            most in 1usize..20,
        ) {
            const SLOTS: usize = 64;
            let (mut signatures, mut before) = (vec![[0u32; 2]; SLOTS], vec![unknown(64); SLOTS]);
            let mut nearest = Nearest::<16>::new(most);
            for t in 0..tokens.len() {
                signatures[t % SLOTS] = tokens[t];
                let last = t.min(SLOTS - 1);
                let crowd =
                    search(&tokens[t], (t % SLOTS) as u32, &signatures, &mut before, 3, last as u32, &mut nearest);
                let apart = |back: usize, age: usize| {
                    // A pair of tokens that was not searched, because its older one did not exist, is unknown.
                    if t < back + age { 32 } else { distance(&tokens[t - back], &tokens[t - back - age]) }
                };
                let mut expected: Vec<(u32, u32)> = (3..=last)
                    .map(|age| ((0..4).map(|back| WEIGHTS[back] * apart(back, age)).sum(), age as u32))
                    .collect();
                prop_assert_eq!(crowd.sum, expected.iter().map(|pair| pair.0).sum::<u32>());
                expected.sort_unstable();
                expected.truncate(most.min(16));
                let found: Vec<(u32, u32)> = nearest.iter().map(|(age, distance)| (distance, age)).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
