//! The k best of a stream of scores without sorting the rest.

use heapless::Vec;

/// Keeps the best entries offered so far, best first; of equal scores the one offered first ranks higher.
///
/// An entry that does not make it costs one comparison, one that does up to `K` moves.
#[derive(Debug, Clone)]
pub struct Best<S, const K: usize> {
    entries: Vec<(S, u16), K>,
    limit: usize,
}

impl<S: Ord + Copy, const K: usize> Best<S, K> {
    /// Keeps the best `limit` entries, at most `K`.
    pub fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), limit: limit.min(K) }
    }

    /// Considers `expert` with `score`.
    #[inline]
    pub fn offer(&mut self, score: S, expert: u16) {
        self.offer_all([(score, expert)], |_| true);
    }

    /// Considers every entry whose expert `allowed` lets pass; it is asked only about those that would make it.
    #[inline]
    pub fn offer_all(&mut self, offered: impl IntoIterator<Item = (S, u16)>, allowed: impl Fn(u16) -> bool) {
        let mut offered = offered.into_iter();
        while self.entries.len() < self.limit {
            match offered.next() {
                // There is room: fewer than `limit <= K` entries.
                Some(entry) if allowed(entry.1) => _ = self.entries.push(entry),
                Some(_) => continue,
                None => return,
            }
            rise(&mut self.entries);
        }
        let Some(&(mut worst, _)) = self.entries.last() else { return };
        for (score, expert) in offered {
            if score > worst && allowed(expert) {
                if let Some(last) = self.entries.last_mut() {
                    *last = (score, expert);
                }
                rise(&mut self.entries);
                worst = self.entries.last().map_or(worst, |&(score, _)| score);
            }
        }
    }

    /// The entries, best first.
    pub fn entries(&self) -> &[(S, u16)] {
        &self.entries
    }

    /// The expert ids, best first.
    pub fn ids(&self) -> Vec<u16, K> {
        let mut ids = Vec::new();
        // There is room: the same capacity. `collect` would link a panic.
        self.entries.iter().for_each(|&(_, expert)| _ = ids.push(expert));
        ids
    }
}

/// Moves the last entry up to its rank, below its equals.
#[inline]
fn rise<S: Ord>(mut entries: &mut [(S, u16)]) {
    while let [.., above, last] = entries
        && above.0 < last.0
    {
        core::mem::swap(above, last);
        let Some((_, rest)) = entries.split_last_mut() else { return };
        entries = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_a_stable_sort(scores in prop::collection::vec(-20i32..20, 0..60), limit in 0usize..10) {
            let mut best = Best::<i32, 8>::new(limit);
            for (&score, expert) in scores.iter().zip(0..) {
                best.offer(score, expert);
            }
            let mut sorted: std::vec::Vec<(i32, u16)> = scores.iter().copied().zip(0..).collect();
            sorted.sort_by_key(|&(score, _)| core::cmp::Reverse(score));
            sorted.truncate(limit.min(8));
            prop_assert_eq!(best.entries(), &sorted[..]);
        }

        #[test]
        fn all_at_once_equals_one_by_one(scores in prop::collection::vec(-20i32..20, 0..60), limit in 0usize..10) {
            let (mut all, mut each) = (Best::<i32, 8>::new(limit), Best::<i32, 8>::new(limit));
            all.offer_all(scores.iter().copied().zip(0..), |expert| expert % 3 != 0);
            for (&score, expert) in scores.iter().zip(0..).filter(|(_, expert)| expert % 3 != 0) {
                each.offer(score, expert);
            }
            prop_assert_eq!(all.entries(), each.entries());
        }
    }
}
