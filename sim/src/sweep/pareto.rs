//! The points of a sweep that none is better than in everything that was asked for.

use std::collections::BTreeMap;

/// Objectives that a front may have.
pub const MOST_OBJECTIVES: usize = 3;

/// A number in the order of numbers, the same for 0 and -0.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}

/// Which of the points are on the front: no other is at least as small in every number and smaller in one. A point
/// without its numbers is not. Points that are equal are on it together. In O(n log n).
///
/// ```
/// use cptr_sim::sweep::front;
///
/// let points = [Some([1.0, 5.0, 0.0]), Some([2.0, 5.0, 0.0]), Some([2.0, 4.0, 0.0]), None];
/// assert_eq!(front(&points), [true, false, true, false]);
/// ```
#[must_use]
pub fn front(points: &[Option<[f64; MOST_OBJECTIVES]>]) -> Vec<bool> {
    let number = |&(_, numbers): &(usize, [f64; MOST_OBJECTIVES])| numbers.map(|number| Ordered(number + 0.0));
    let with_numbers = points.iter().enumerate().filter_map(|(index, point)| Some((index, (*point)?)));
    let mut sorted: Vec<(usize, [f64; MOST_OBJECTIVES])> =
        with_numbers.filter(|(_, numbers)| numbers.iter().all(|number| !number.is_nan())).collect();
    sorted.sort_by_key(number);
    let mut on = vec![false; points.len()];
    // Whoever beats a point comes before it. Of those before, the third numbers that are smallest for their second:
    // falling as the second rises.
    let mut stairs: BTreeMap<Ordered, Ordered> = BTreeMap::new();
    for equal in sorted.chunk_by(|a, b| number(a) == number(b)) {
        let [_, second, third] = number(&equal[0]);
        if stairs.range(..=second).next_back().is_some_and(|(_, best)| *best <= third) {
            continue;
        }
        equal.iter().for_each(|(index, _)| on[*index] = true);
        let behind = stairs.range(second..).take_while(|(_, other)| **other >= third);
        let behind: Vec<Ordered> = behind.map(|(key, _)| *key).collect();
        behind.iter().for_each(|key| {
            stairs.remove(key);
        });
        stairs.insert(second, third);
    }
    on
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Few different numbers, so that many are equal.
        #[test]
        fn is_what_its_definition_says(
            points in prop::collection::vec(prop::option::of(prop::array::uniform3(-3i8..4)), 0..60),
        ) {
            let points: Vec<_> = points.iter().map(|point| point.map(|numbers| numbers.map(f64::from))).collect();
            let beats = |a: &[f64; 3], b: &[f64; 3]| a != b && (0..3).all(|i| a[i] <= b[i]);
            let beaten = |b: &[f64; 3]| points.iter().flatten().any(|a| beats(a, b));
            let expected: Vec<bool> = points.iter().map(|point| point.is_some_and(|point| !beaten(&point))).collect();
            prop_assert_eq!(front(&points), expected);
        }
    }

    #[test]
    fn signs_of_zero_and_no_numbers() {
        let points = [Some([0.0, -0.0, 0.0]), Some([-0.0, 0.0, 0.0]), Some([f64::NAN, 0.0, 0.0])];
        assert_eq!(front(&points), [true, true, false]);
        assert_eq!(front(&[Some([f64::INFINITY, 0.0, 0.0])]), [true]);
        assert!(front(&[]).is_empty());
    }
}
