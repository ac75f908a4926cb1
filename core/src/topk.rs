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
        if self.entries.len() == self.limit {
            match self.entries.last() {
                Some(&(worst, _)) if score > worst => self.entries.pop(),
                _ => return,
            };
        }
        let rank = self.entries.iter().take_while(|(other, _)| *other >= score).count();
        // There is room: the buffer held fewer than `limit <= K` entries, or has just lost one.
        let _ = self.entries.insert(rank, (score, expert));
    }

    /// The entries, best first.
    pub fn entries(&self) -> &[(S, u16)] {
        &self.entries
    }

    /// The expert ids, best first.
    pub fn ids(&self) -> Vec<u16, K> {
        self.entries.iter().map(|&(_, expert)| expert).collect()
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
    }
}
