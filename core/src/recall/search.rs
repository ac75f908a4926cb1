//! The search at the end of a token: which of the remembered places is most like this one.

use core::mem::replace;

use super::signature::distance;
use crate::num::{LogRatio, log2_ratio, mul_frac, quotient};

/// What the distance of the tokens before keeps of its say with each token: 45/64, `U0F32`.
const KEPT: u32 = 45 << 26;
/// Fraction bits of remembered distances, which are below 1024; and of those in keys.
const FRACTION: u32 = 22;
const KEY_FRACTION: u32 = 6;
/// Bits of the signature, times this: what is never exceeded by a distance.
const MOST: u32 = (64 << FRACTION) / (64 - 45) + 1;
/// Places that mean and variance of the crowd are taken over, about.
const CROWD: u32 = 64;

/// The distance of a place of which nothing is known, with signatures of `bits` bits: half of them always differ.
pub(super) const fn unknown(bits: u32) -> u32 {
    ((bits as u64) * (32 << FRACTION) / (64 - 45)) as u32
}

/// The nearest places: a distance in 64ths of a bit in the high half, an age in tokens less one in the low half.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nearest<const C: usize> {
    /// While searching a heap, the farthest on top; then in order.
    keys: [u32; C],
    found: usize,
    most: usize,
    /// What a key must be below.
    limit: u32,
    /// Keys that were moved in the heap.
    #[cfg(test)]
    pub(super) moved: usize,
}

impl<const C: usize> Nearest<C> {
    /// None, of at most `most`.
    pub(super) const fn new(most: usize) -> Self {
        let most = if most < C { most } else { C };
        Self {
            keys: [0; C],
            found: 0,
            most,
            limit: if most == 0 { 0 } else { u32::MAX },
            #[cfg(test)]
            moved: 0,
        }
    }

    /// Most places.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// Ages and distances, the nearest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.keys.iter().take(self.found).map(|key| ((key & 0xffff).wrapping_add(1), key >> 16))
    }

    /// The keys found, to be saved.
    pub(super) fn keys(&self) -> &[u32] {
        self.keys.get(..self.found).unwrap_or(&[])
    }

    /// As they were saved; more than there may be are left out.
    pub(super) fn restore(&mut self, keys: &[u32]) {
        self.found = keys.len().min(self.most);
        self.keys.iter_mut().zip(keys).take(self.found).for_each(|(to, from)| *to = *from);
    }

    /// None, of keys below a limit.
    fn clear(&mut self, limit: u32) {
        (self.found, self.limit) = (0, if self.most == 0 { 0 } else { limit });
    }

    /// All keys may come in while there are not as many as there may be.
    fn widen(&mut self) {
        self.limit = u32::MAX;
    }

    /// Takes a place in that is below the limit. At most `2 log2(C)` comparisons.
    #[inline(never)]
    fn take_in(&mut self, key: u32) {
        let keys = self.keys.as_mut_slice();
        let mut at;
        if self.found < self.most {
            at = self.found;
            self.found = self.found.wrapping_add(1);
            while let Some(&parent) = at.checked_sub(1).and_then(|below| keys.get(below / 2))
                && parent < key
            {
                put(keys, at, parent);
                at = at.wrapping_sub(1) / 2;
            }
        } else {
            at = 0;
            loop {
                let mut child = usize::wrapping_mul(at, 2).wrapping_add(1);
                let Some(mut larger) = keys.get(..self.found).and_then(|keys| keys.get(child)).copied() else { break };
                if child.wrapping_add(1) < self.found
                    && let Some(&other) = keys.get(child.wrapping_add(1))
                    && other > larger
                {
                    (child, larger) = (child.wrapping_add(1), other);
                }
                if larger <= key {
                    break;
                }
                put(keys, at, larger);
                at = child;
                #[cfg(test)]
                {
                    self.moved += 1;
                }
            }
        }
        put(keys, at, key);
        if self.found == self.most {
            self.limit = self.keys.first().copied().unwrap_or(0);
        }
    }

    /// Puts the nearest first: Shell's sort, which for so few takes less code and time than others.
    fn order(&mut self) {
        let keys = self.keys.get_mut(..self.found).unwrap_or(&mut []);
        for gap in [23, 10, 4, 1] {
            // Pairs that are so far apart, and from each of them down as far as they are in the wrong order.
            let mut end = gap;
            while let Some([first, .., last]) = keys.get_mut(usize::wrapping_sub(end, gap)..=end) {
                if *first > *last {
                    let key = replace(last, *first);
                    let mut at = end.wrapping_sub(gap);
                    while let Some(&before) = at.checked_sub(gap).and_then(|before| keys.get(before))
                        && before > key
                    {
                        put(keys, at, before);
                        at = at.wrapping_sub(gap);
                    }
                    put(keys, at, key);
                }
                end = end.wrapping_add(1);
            }
        }
    }
}

/// Writes a key where there is room for it.
#[inline]
fn put(keys: &mut [u32], at: usize, key: u32) {
    if let Some(to) = keys.get_mut(at) {
        *to = key;
    }
}

/// What has been remembered of how alike all places are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Crowd {
    places: u32,
    sum: u32,
    squares: u64,
    /// Of this token alone, in bits, and how many places that is of.
    alone: u32,
    few: u32,
}

impl Crowd {
    /// About 64 of the places of ages from `least` to `most`, at equal steps; `before` as in [`Search::run`].
    pub(super) fn of(before: &[u32], least: u32, most: u32) -> Self {
        let step = (most.wrapping_add(1).saturating_sub(least) / CROWD).max(1);
        let mut crowd = Self::default();
        let slots = before.len();
        let (oldest, newest) =
            (slots.saturating_sub((most as usize).wrapping_add(1)), slots.saturating_sub(least as usize));
        let places = before.get(oldest..newest).unwrap_or(&[]);
        for &distance in places.iter().step_by(step as usize) {
            let distance = distance >> (FRACTION - KEY_FRACTION);
            crowd.places = crowd.places.wrapping_add(1);
            crowd.sum = crowd.sum.wrapping_add(distance);
            crowd.squares = crowd.squares.wrapping_add(u64::from(distance).wrapping_mul(distance.into()));
        }
        crowd
    }

    /// Takes the bits in which this token alone differs from a place.
    pub(super) const fn alone(&mut self, bits: u32) {
        self.alone = self.alone.wrapping_add(bits);
        self.few = self.few.wrapping_add(1);
    }

    /// Margin of the nearest place over the crowd: squared distance of its distance from the mean over the variance,
    /// as a base-2 logarithm; 0 where there is no crowd, saturates at ±32.
    pub(super) fn snr(&self, nearest: u32) -> LogRatio {
        let Some(mean) = self.sum.checked_div(self.places) else { return LogRatio::ZERO };
        let variance =
            quotient(self.squares, self.places.into()).saturating_sub(u64::from(mean).wrapping_mul(mean.into()));
        let margin = mean.saturating_sub(nearest);
        // Both are below 2^32, as distances are below 2^16.
        log2_ratio(margin.wrapping_mul(margin), variance as u32)
    }

    /// Whether a place that is `alone` bits from this token alone is where the text goes on: nearer than three
    /// quarters of the mean. By chance, at 128 bits, that is 2.8 standard deviations away.
    pub(super) const fn follows(&self, alone: u32) -> bool {
        alone.wrapping_mul(4).wrapping_mul(self.few) < self.alone.wrapping_mul(3)
    }
}

/// Goes through the places of all ages from `least` to `most` (at most the slots of the ring less one), and remembers
/// their distances: the bits in which this token differs from the place, and 45/64 of the distance of the token
/// before. Ages do not change as places move along with the text, so what was found for the token before lies
/// under the same age.
///
/// Of most places only a quarter of the signature is looked at, 32 bits or more, a different one at each token: where
/// four times what differs there is out of `reach` by a 32nd of the bits, that is taken for their distance. Of the
/// others all of it is.
///
/// Cost per place, at 128 bits: 15 instructions and a population count (one instruction with Zbb, 9 to 12 without); of
/// those within reach 80 more, 35 with Zbb. Up to `2 log2(C)` steps of a heap for each that is among the nearest so
/// far: where ages come in no order, `C ln(N / C)` of them.
#[derive(Debug)]
pub(super) struct Search<'a, const W: usize> {
    /// Signature of the token.
    pub(super) now: &'a [u32; W],
    /// Its slot.
    pub(super) slot: u32,
    pub(super) least: u32,
    pub(super) most: u32,
    /// Distance that the farthest of the nearest had at the token before.
    pub(super) reach: u32,
}

impl<const W: usize> Search<'_, W> {
    /// Words that are looked at first.
    const FIRST: usize = if W < 4 { 1 } else { W / 4 };

    /// `before` has the distances by age, the oldest first.
    pub(super) fn run<const C: usize>(&self, signatures: &[[u32; W]], before: &mut [u32], nearest: &mut Nearest<C>) {
        // Hardly more than before are as near as the farthest of them was: those first, which fills the heap with less.
        let start = if self.reach < u32::MAX { key(self.beyond(), 0) } else { u32::MAX };
        nearest.clear(start);
        let (slot, slots) = (self.slot as usize, signatures.len());
        let (least, end) = (self.least as usize, (self.most as usize).wrapping_add(1));
        // Ages up to the slot lie below it, the others at the end of the ring; in both the oldest come first.
        let near = end.min(slot.wrapping_add(1));
        let straight = slot.wrapping_add(1).saturating_sub(near)..slot.wrapping_add(1).saturating_sub(least);
        self.part(signatures.get(straight), before.get_mut(slots.saturating_sub(near)..), near, nearest);
        let far = least.max(slot.wrapping_add(1));
        let beyond = slots.wrapping_add(slot).wrapping_add(1);
        let wrapped = beyond.saturating_sub(end)..beyond.saturating_sub(far);
        self.part(signatures.get(wrapped), before.get_mut(slots.saturating_sub(end)..), end, nearest);
        if nearest.found < nearest.most && start < u32::MAX {
            let newest = slots.saturating_sub(least);
            let places = before.get(slots.saturating_sub(end)..newest).unwrap_or(&[]);
            nearest.widen();
            for (past, age) in places.iter().zip((0..end as u32).rev()) {
                let key = key(*past, age.wrapping_sub(1));
                if (start..nearest.limit).contains(&key) {
                    nearest.take_in(key);
                }
            }
        }
        nearest.order();
    }

    /// Distance of what is out of reach at the first look.
    const fn beyond(&self) -> u32 {
        self.reach.saturating_add((32 * W as u32) << (FRACTION - 5))
    }

    /// Places in a range of slots, the first of which has the age `end` less one.
    fn part<const C: usize>(
        &self,
        signatures: Option<&[[u32; W]]>,
        before: Option<&mut [u32]>,
        end: usize,
        nearest: &mut Nearest<C>,
    ) {
        let (Some(signatures), Some(before)) = (signatures, before) else { return };
        let beyond = self.beyond();
        let first = (self.slot as usize).wrapping_mul(Self::FIRST) % W;
        let now = self.now[first];
        // Of the first place; ages fall.
        let mut age = end as u32;
        for (signature, past) in signatures.iter().zip(before) {
            age = age.wrapping_sub(1);
            let old = mul_frac(*past, KEPT);
            let mut few = (signature[first] ^ now).count_ones();
            for word in first.wrapping_add(1)..first.wrapping_add(Self::FIRST) {
                few = u32::wrapping_add(few, (signature[word % W] ^ self.now[word % W]).count_ones());
            }
            *past = few.wrapping_mul((W / Self::FIRST) as u32).wrapping_mul(1 << FRACTION).wrapping_add(old);
            if *past <= beyond {
                *past = (distance(self.now, signature) << FRACTION).wrapping_add(old);
                // What is beyond is never among the nearest: their limit is nearer than that.
                let key = key(*past, age.wrapping_sub(1));
                if key < nearest.limit {
                    nearest.take_in(key);
                }
            }
        }
    }
}

/// A remembered distance and an age less one, to be compared.
#[inline]
const fn key(distance: u32, age: u32) -> u32 {
    ((distance >> (FRACTION - KEY_FRACTION)) << 16) | age
}

/// The reach for the next search: distance of the farthest, once there are as many as there may be.
pub(super) fn reach<const C: usize>(nearest: &Nearest<C>) -> u32 {
    let last = nearest.keys().last().filter(|_| nearest.found == nearest.most);
    last.map_or(u32::MAX, |key| (key >> 16) << (FRACTION - KEY_FRACTION))
}

/// A remembered distance as it can be.
pub(super) const fn possible(distance: u32, bits: u32) -> bool {
    distance <= bits.wrapping_mul(MOST)
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
        let crowd = Crowd::of(&[7, 30, 20, 10, 7].map(|distance| distance << 16), 1, 3);
        let expected = (100.0f64 / 66.0).log2();
        assert!((crowd.snr(10).to_num::<f64>() - expected).abs() < 1e-3);
        assert_eq!(Crowd::of(&[], 1, 0).snr(0), LogRatio::ZERO);
        assert_eq!(Crowd::of(&[10 << 16; 2], 0, 1).snr(10), LogRatio::ZERO);
        // A crowd that differs in half of 128 bits.
        let mut crowd = Crowd::default();
        [60, 68].iter().for_each(|&bits| crowd.alone(bits));
        assert!(crowd.follows(47) && !crowd.follows(48));
    }

    #[test]
    fn distances_fit_half_a_word() {
        assert!(key(256 * MOST, 0) >> 16 < 1 << 16);
        let most = (0..1000).fold(unknown(256), |distance, _| (256 << FRACTION) + mul_frac(distance, KEPT));
        assert!(possible(most, 256) && !possible(most + 512, 256));
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
            let mut expected = vec![unknown(64); SLOTS];
            for t in 0..tokens.len() {
                signatures[t % SLOTS] = tokens[t];
                let last = t.min(SLOTS - 1);
                let reach = if t == 0 { u32::MAX } else { reach(&nearest) };
                let search = Search { now: &tokens[t], slot: (t % SLOTS) as u32, least: 3, most: last as u32, reach };
                search.run(&signatures, &mut before, &mut nearest);
                let mut keys = Vec::new();
                for age in 3..=last {
                    let other = tokens[t - age];
                    let word = t % SLOTS % 2;
                    let half = 2 * (other[word] ^ tokens[t][word]).count_ones();
                    let old = (u64::from(expected[age]) * 45 / 64) as u32;
                    let out = u64::from((half << 22) + old) > u64::from(reach) + (2 << 22);
                    let bits = if out { half } else { distance(&other, &tokens[t]) };
                    expected[age] = (bits << 22) + old;
                    keys.push((expected[age] >> 16, age as u32));
                }
                keys.sort_unstable();
                keys.truncate(most.min(16));
                let found: Vec<(u32, u32)> = nearest.iter().map(|(age, distance)| (distance, age)).collect();
                prop_assert_eq!(found, keys);
            }
        }
    }
}
