//! How many bits each cold expert gets: exact enumeration of prefix splits from a loss table under an average-bit
//! budget.
//!
//! arXiv 2512.04476, Algorithm 1: the cold experts of a layer in order of falling importance; the first `n4` get 4
//! bits, the next `n3` 3, then `n2` at 2 and `n1` at 1. All start at 1 bit; each step up costs one *increment*; the
//! budget is `R = E (b_avg - 1)` increments, `3 n4 + 2 n3 + n2 = R`. The split whose losses fall most against 1 bit
//! wins. With prefix sums `C_b(m)` of the losses avoided by the first m experts at b bits, the gain of a split that
//! ends its 4-bit part at a, its 3-bit part at b and its 2-bit part at c is
//!
//! ```text
//! [C_4(a) - C_3(a)] + [C_3(b) - C_2(b)] + C_2(c),   a <= b <= c,   a + b + c = R
//! ```
//!
//! [`split`] tries every (a, b): O(E^2), exact. [`split_globally`] shares one budget over layers, which differ in how
//! much they lose: a price per increment, found by bisection, makes the layers independent of each other (O(E) each, as
//! the three terms above only meet in their order), and the increments that are left go where they gain most.

use core::fmt;

use crate::num::{quotient, quotient_up};

/// Bits per weight that replicas exist in, 1 to this.
pub const MAX_BITS: usize = 4;

/// Losses of one expert at 1, 2, 3 and 4 bits, in a unit of the table's own (scale the largest to about 2^30). Not
/// negative, not increasing.
pub type Losses = [i32; MAX_BITS];

/// How many experts get how many bits, and what that gains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Split {
    /// Loss avoided against 1 bit for all, in the unit of the table.
    pub gain: u64,
    /// Experts at 1, 2, 3 and 4 bits. The most important ones get the most.
    pub experts: [u16; MAX_BITS],
}

impl Split {
    /// Bits of the expert at `rank`, 0 being the most important; `None` beyond the last.
    pub fn bits(&self, rank: usize) -> Option<u8> {
        let [one, two, three, four] = self.experts;
        let mut end = 0;
        [(4, four), (3, three), (2, two), (1, one)].into_iter().find_map(|(bits, count)| {
            end = usize::saturating_add(end, count.into());
            (rank < end).then_some(bits)
        })
    }

    /// Increments spent: bits beyond the first, all experts together.
    pub fn increments(&self) -> u32 {
        let [_, two, three, four] = self.experts.map(u32::from);
        two.wrapping_add(three << 1).wrapping_add(four.wrapping_mul(3))
    }
}

/// Why there is no split.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BitsError {
    /// A loss below 0.
    Negative {
        /// Rank of the expert.
        rank: usize,
        /// At how many bits.
        bits: u8,
        /// The loss.
        loss: i32,
    },
    /// More bits lose more.
    Increasing {
        /// Rank of the expert.
        rank: usize,
        /// At how many bits.
        bits: u8,
        /// The loss there.
        loss: i32,
        /// The loss at one bit less.
        before: i32,
    },
    /// No assignment of 1 to 4 bits spends exactly so many increments.
    Budget {
        /// Increments asked for.
        increments: u32,
        /// The most that the experts can take, three each.
        most: u32,
    },
    /// The caller's memory is too small.
    Memory {
        /// Entries needed.
        needed: usize,
        /// Entries given.
        given: usize,
    },
    /// More experts in a layer, or more layers, than can be counted.
    Experts(usize),
}

impl fmt::Display for BitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Negative { rank, bits, loss } => {
                write!(f, "expert of rank {rank}, {bits} bits: expected a loss of at least 0, found {loss}")
            }
            Self::Increasing { rank, bits, loss, before } => write!(
                f,
                "expert of rank {rank}, {bits} bits: expected a loss of at most {before}, as at {} bits, found {loss}",
                bits - 1
            ),
            Self::Budget { increments, most } => {
                write!(f, "expected 0 to {most} increments beyond 1 bit for all experts, found {increments}")
            }
            Self::Memory { needed, given } => write!(f, "expected memory for {needed} entries, found {given}"),
            Self::Experts(count) => write!(f, "expected at most 65535 experts in a layer, found {count}"),
        }
    }
}

impl core::error::Error for BitsError {}

/// Entries of scratch memory that [`split`] needs for a layer of `experts` cold experts.
pub const fn scratch_for(experts: usize) -> usize {
    3 * (experts + 1)
}

/// The three terms of the gain at every possible end, `[0, experts]` each: `C4 - C3`, `C3 - C2`, `C2`. None of them
/// ever falls.
struct Terms<'a> {
    four: &'a [u64],
    three: &'a [u64],
    two: &'a [u64],
}

/// Checks the losses and writes the terms to `scratch`.
fn terms<'a>(losses: &[Losses], scratch: &'a mut [u64]) -> Result<Terms<'a>, BitsError> {
    let length = losses.len().wrapping_add(1);
    if losses.len() > usize::from(u16::MAX) {
        return Err(BitsError::Experts(losses.len()));
    }
    let given = scratch.len();
    let Some(scratch) = scratch.get_mut(..scratch_for(losses.len())) else {
        return Err(BitsError::Memory { needed: scratch_for(losses.len()), given });
    };
    let (four, rest) = scratch.split_at_mut_checked(length).unwrap_or_default();
    let (three, two) = rest.split_at_mut_checked(length).unwrap_or_default();
    let mut experts = (0..losses.len()).zip(losses);
    let (mut sum_4, mut sum_3, mut sum_2) = (0u64, 0u64, 0u64);
    for ((four, three), two) in four.iter_mut().zip(&mut *three).zip(&mut *two) {
        (*four, *three, *two) = (sum_4, sum_3, sum_2);
        let Some((rank, expert)) = experts.next() else { break };
        check(rank, expert)?;
        let &[at_1, at_2, at_3, at_4] = expert;
        // Differences of values in [0, 2^31): exact and not negative. Of 2^16 of them nothing overflows.
        sum_4 = sum_4.wrapping_add(at_3.abs_diff(at_4).into());
        sum_3 = sum_3.wrapping_add(at_2.abs_diff(at_3).into());
        sum_2 = sum_2.wrapping_add(at_1.abs_diff(at_2).into());
    }
    Ok(Terms { four, three, two })
}

fn check(rank: usize, losses: &Losses) -> Result<(), BitsError> {
    for (index, &loss) in losses.iter().enumerate() {
        let bits = (index as u8).wrapping_add(1);
        if loss < 0 {
            return Err(BitsError::Negative { rank, bits, loss });
        }
        if let Some(&before) = index.checked_sub(1).and_then(|index| losses.get(index))
            && loss > before
        {
            return Err(BitsError::Increasing { rank, bits, loss, before });
        }
    }
    Ok(())
}

/// A term at an end, which is one that there is.
fn at(term: &[u64], end: usize) -> u64 {
    term.get(end).copied().unwrap_or(0)
}

impl Terms<'_> {
    fn experts(&self) -> usize {
        self.two.len().saturating_sub(1)
    }

    /// The split with these ends.
    fn split(&self, [a, b, c]: [usize; 3]) -> Split {
        let count = |from: usize, to: usize| to.wrapping_sub(from) as u16;
        Split {
            experts: [count(c, self.experts()), count(b, c), count(a, b), count(0, a)],
            gain: at(self.four, a).wrapping_add(at(self.three, b)).wrapping_add(at(self.two, c)),
        }
    }

    /// The best ends that spend exactly `increments`, which are at most three per expert. Of equals the one with the
    /// fewest at 4, then at 3 bits.
    fn best(&self, increments: usize) -> Split {
        let experts = self.experts();
        let (mut best, mut ends) = (None, [0; 3]);
        // 3 a <= R, and a <= b <= c <= E must leave room for the rest: a >= R - 2 E.
        for a in increments.saturating_sub(experts << 1)..=(increments / 3).min(experts) {
            let left = increments.wrapping_sub(a);
            // b + c = left with b <= c <= E and b >= a.
            let (low, high) = (a.max(left.saturating_sub(experts)), (left / 2).min(experts));
            let Some(second) =
                self.three.get(low..=high).zip(self.two.get(left.wrapping_sub(high)..=left.wrapping_sub(low)))
            else {
                continue;
            };
            // The sums for every b. The largest first and its place only where it wins: the first pass has no branch.
            let sums = || second.0.iter().zip(second.1.iter().rev()).map(|(three, two)| three.wrapping_add(*two));
            let most = sums().fold(0, u64::max);
            let gain = most.wrapping_add(at(self.four, a));
            if best.is_none_or(|best| gain > best) {
                // The first of the largest: so many are before it.
                let b = sums().take_while(|&sum| sum != most).fold(low, |b, _| b.wrapping_add(1));
                (best, ends) = (Some(gain), [a, b, left.wrapping_sub(b)]);
            }
        }
        self.split(ends)
    }

    /// The best ends if an increment costs `price`: the most gain minus price, of equals the one with the fewest
    /// increments. O(E).
    fn at_price(&self, price: u64) -> Split {
        // Values can be negative: gains are below 2^47, prices below 2^31 times 2^16 experts.
        let value = |term: &[u64], end: usize| at(term, end).wrapping_sub(price.wrapping_mul(end as u64)).cast_signed();
        let (mut a, mut ab, mut abc) = (0, [0, 0], [0, 0, 0]);
        let (mut best_a, mut best_ab, mut best_abc) = (i64::MIN, i64::MIN, i64::MIN);
        for end in 0..=self.experts() {
            if value(self.four, end) > best_a {
                (best_a, a) = (value(self.four, end), end);
            }
            let second = i64::wrapping_add(best_a, value(self.three, end));
            if second > best_ab {
                (best_ab, ab) = (second, [a, end]);
            }
            let third = i64::wrapping_add(best_ab, value(self.two, end));
            if third > best_abc {
                (best_abc, abc) = (third, [ab[0], ab[1], end]);
            }
        }
        self.split(abc)
    }
}

fn budget(experts: usize, increments: u32) -> Result<(), BitsError> {
    let most = u32::try_from(experts.saturating_mul(MAX_BITS - 1)).unwrap_or(u32::MAX);
    if increments > most { Err(BitsError::Budget { increments, most }) } else { Ok(()) }
}

/// The best split of a layer's cold experts, whose `losses` are in order of falling importance, that spends exactly
/// `increments` (`E (b_avg - 1)` for an average of b_avg bits).
///
/// `scratch` holds at least [`scratch_for`] entries. Of equal gains the split with the fewest 4-bit experts, then the
/// fewest of 3 bits. Cost: at most E^2 / 3 additions and comparisons.
///
/// # Errors
/// Losses that are negative or grow with more bits, a budget that no assignment spends, too little scratch memory: with
/// the numbers.
pub fn split(losses: &[Losses], increments: u32, scratch: &mut [u64]) -> Result<Split, BitsError> {
    let terms = terms(losses, scratch)?;
    budget(losses.len(), increments)?;
    Ok(terms.best(increments as usize))
}

/// Splits for several layers under one budget of `increments` that they share, written to `splits`.
///
/// `losses[l]` is the table of layer l in order of falling importance. The result gains at least as much as an equal
/// share for every layer (increments left over by the division go to the first layers), and less than the optimum by at
/// most what the last price step of one layer gains. Cost: 32 passes over all experts and one exact enumeration per
/// layer and attempt.
///
/// # Errors
/// As [`split`]; ranks in messages are inside their layer.
pub fn split_globally<L: AsRef<[Losses]>>(
    losses: &[L],
    increments: u32,
    scratch: &mut [u64],
    splits: &mut [Split],
) -> Result<(), BitsError> {
    let given = splits.len();
    let Some(splits) = splits.get_mut(..losses.len()) else {
        return Err(BitsError::Memory { needed: losses.len(), given });
    };
    budget(losses.iter().map(|layer| layer.as_ref().len()).fold(0, usize::saturating_add), increments)?;
    equally(losses, increments, scratch, splits)?;
    let gain = |splits: &[Split]| splits.iter().map(|split| split.gain).fold(0, u64::saturating_add);
    let equal = gain(splits);
    priced(losses, increments, scratch, splits)?;
    if gain(splits) < equal {
        equally(losses, increments, scratch, splits)?;
    }
    Ok(())
}

/// Every layer gets its share by its number of experts.
fn equally<L: AsRef<[Losses]>>(
    losses: &[L],
    increments: u32,
    scratch: &mut [u64],
    splits: &mut [Split],
) -> Result<(), BitsError> {
    let (mut left, mut experts) =
        (u64::from(increments), losses.iter().map(|layer| layer.as_ref().len() as u64).fold(0, u64::saturating_add));
    for (layer, out) in losses.iter().zip(splits) {
        let layer = layer.as_ref();
        let own = layer.len() as u64;
        let part = quotient_up(left.wrapping_mul(own), experts).min(left).min(own.wrapping_mul(3));
        *out = split(layer, part as u32, scratch)?;
        (left, experts) = (left.wrapping_sub(part), experts.wrapping_sub(own));
    }
    Ok(())
}

/// The lowest price at which the layers together do not spend more than the budget, then the rest where it gains most.
fn priced<L: AsRef<[Losses]>>(
    losses: &[L],
    increments: u32,
    scratch: &mut [u64],
    splits: &mut [Split],
) -> Result<(), BitsError> {
    let (mut low, mut high) = (0, 1u64 << 31);
    while low < high {
        let price = low.midpoint(high);
        let mut spent = 0u64;
        for layer in losses {
            spent = u64::wrapping_add(spent, terms(layer.as_ref(), scratch)?.at_price(price).increments().into());
        }
        if spent > u64::from(increments) { low = price.wrapping_add(1) } else { high = price }
    }
    let mut left = u64::from(increments);
    for (layer, out) in losses.iter().zip(splits.iter_mut()) {
        *out = terms(layer.as_ref(), scratch)?.at_price(low);
        left = left.saturating_sub(out.increments().into());
    }
    spend_rest(losses, left, scratch, splits)
}

/// Gives the `left` increments to the layers that gain most by all of them, each as much as it can take, until none is
/// left.
fn spend_rest<L: AsRef<[Losses]>>(
    losses: &[L],
    mut left: u64,
    scratch: &mut [u64],
    splits: &mut [Split],
) -> Result<(), BitsError> {
    while left > 0 {
        let mut best: Option<(u64, usize, Split)> = None;
        for (index, (layer, split)) in (0..losses.len()).zip(losses.iter().zip(splits.iter())) {
            let layer = layer.as_ref();
            let room = (layer.len() as u64).wrapping_mul(3).wrapping_sub(split.increments().into());
            let more = left.min(room);
            if more == 0 {
                continue;
            }
            let candidate = terms(layer, scratch)?.best((split.increments() as usize).wrapping_add(more as usize));
            let gain = quotient(candidate.gain.saturating_sub(split.gain), more);
            if best.is_none_or(|(most, ..)| gain > most) {
                best = Some((gain, index, candidate));
            }
        }
        // The budget was checked: as long as something is left, some layer has room.
        let Some((_, index, candidate)) = best else { break };
        let Some(split) = splits.get_mut(index) else { break };
        left = left.wrapping_sub(u64::from(candidate.increments()).wrapping_sub(split.increments().into()));
        *split = candidate;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::oracle;
    use crate::testing::strategies::losses;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn gain_of(losses: &[Losses], split: &Split) -> u64 {
        let bits = |rank| usize::from(split.bits(rank).unwrap());
        losses.iter().enumerate().map(|(rank, l)| (l[0] - l[bits(rank) - 1]) as u64).sum()
    }

    proptest! {
        #[test]
        fn splits_are_optimal(losses in losses(0..8), increments in 0u32..26) {
            let mut scratch = [0; scratch_for(8)];
            match split(&losses, increments, &mut scratch) {
                Ok(found) => {
                    prop_assert_eq!(Some(found.gain), oracle::split(&losses, increments));
                    prop_assert_eq!(found.increments(), increments);
                    prop_assert_eq!(found.experts.iter().map(|&n| usize::from(n)).sum::<usize>(), losses.len());
                    prop_assert_eq!(gain_of(&losses, &found), found.gain);
                }
                Err(error) => {
                    prop_assert_eq!(error, BitsError::Budget { increments, most: 3 * losses.len() as u32 });
                    prop_assert_eq!(oracle::split(&losses, increments), None);
                }
            }
        }

        /// At any price, no split is worth more.
        #[test]
        fn priced_splits_are_optimal(losses in losses(1..7), price in 0u64..1 << 31) {
            let mut scratch = [0; scratch_for(7)];
            let worth = |split: &Split| split.gain as i64 - (price * u64::from(split.increments())) as i64;
            let found = terms(&losses, &mut scratch).unwrap().at_price(price);
            let best = (0..=3 * losses.len() as u32)
                .map(|r| oracle::split(&losses, r).unwrap() as i64 - (price * u64::from(r)) as i64)
                .max();
            prop_assert_eq!(Some(worth(&found)), best);
        }

        #[test]
        fn shared_budgets_beat_equal_ones_and_stay_below_the_optimum(
            layers in prop::collection::vec(losses(1..5), 1..4), share in 0.0f64..=1.0,
        ) {
            let experts: usize = layers.iter().map(Vec::len).sum();
            let increments = (share * 3.0 * experts as f64) as u32;
            let tables: Vec<&[Losses]> = layers.iter().map(Vec::as_slice).collect();
            let mut scratch = [0; scratch_for(5)];
            let mut splits = [Split::default(); 4];
            split_globally(&tables, increments, &mut scratch, &mut splits).unwrap();
            let found: u64 = splits.iter().map(|s| s.gain).sum();
            prop_assert_eq!(splits.iter().map(Split::increments).sum::<u32>(), increments);
            for (table, split) in tables.iter().zip(&splits) {
                prop_assert_eq!(gain_of(table, split), split.gain);
            }
            // Optimum by trying every division of the budget.
            let mut best = std::vec![Some(0u64)];
            for layer in &tables {
                let gains: Vec<u64> = (0..=3 * layer.len() as u32).map(|r| oracle::split(layer, r).unwrap()).collect();
                let mut next = std::vec![None; best.len() + gains.len() - 1];
                for (spent, gain) in best.iter().enumerate() {
                    for (more, &extra) in gains.iter().enumerate() {
                        next[spent + more] = next[spent + more].max(gain.map(|gain| gain + extra));
                    }
                }
                best = next;
            }
            let optimum = best[increments as usize].unwrap();
            prop_assert!(found <= optimum);
            // What one layer can gain at most bounds the gap.
            let largest = tables.iter().map(|t| oracle::split(t, 3 * t.len() as u32).unwrap()).max().unwrap();
            prop_assert!(found + largest >= optimum, "{found} {optimum}");
            let mut equal = [Split::default(); 4];
            equally(&tables, increments, &mut scratch, &mut equal).unwrap();
            prop_assert!(found >= equal.iter().map(|s| s.gain).sum::<u64>());
        }
    }

    #[test]
    fn the_paper_s_own_sizes() {
        // Four cold experts at 3 bits on average: R = 8; six at 2: R = 6.
        let falling = [[90, 30, 10, 0], [80, 30, 10, 0], [70, 30, 10, 0], [60, 30, 10, 0]];
        let mut scratch = [0; scratch_for(6)];
        let found = split(&falling, 8, &mut scratch).unwrap();
        assert_eq!((found.increments(), found.gain), (8, 60 + 50 + 40 + 30 + 4 * 20));
        assert_eq!(found.experts, [0, 0, 4, 0]);
        assert_eq!((found.bits(0), found.bits(3), found.bits(4)), (Some(3), Some(3), None));
        let steep = [[90, 80, 70, 0], [9, 8, 7, 6], [9, 8, 7, 6], [9, 8, 7, 6], [9, 8, 7, 6], [9, 8, 7, 6]];
        assert_eq!(split(&steep, 6, &mut scratch).unwrap().experts, [2, 3, 0, 1]);
    }

    #[test]
    fn refuses_with_the_numbers() {
        let mut scratch = [0; scratch_for(2)];
        let refusal = |layer: &[Losses], increments, scratch: &mut [u64]| {
            std::string::ToString::to_string(&split(layer, increments, scratch).unwrap_err())
        };
        let fine = [[4, 3, 2, 1]; 2];
        assert_eq!(
            refusal(&[fine[0], [4, 3, 2, -1]], 1, &mut scratch),
            "expert of rank 1, 4 bits: expected a loss of at least 0, found -1"
        );
        assert_eq!(
            refusal(&[fine[0], [4, 3, 5, 1]], 1, &mut scratch),
            "expert of rank 1, 3 bits: expected a loss of at most 3, as at 2 bits, found 5"
        );
        assert_eq!(refusal(&fine, 7, &mut scratch), "expected 0 to 6 increments beyond 1 bit for all experts, found 7");
        assert_eq!(refusal(&fine, 1, &mut scratch[..8]), "expected memory for 9 entries, found 8");
        let tables: [&[Losses]; 2] = [&fine, &fine];
        let mut splits = [Split::default(); 1];
        assert!(split_globally(&tables, 1, &mut scratch, &mut splits).is_err());
    }
}
