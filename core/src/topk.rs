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
        if self.limit > 0 && self.bar().is_none_or(|bar| score > bar) {
            self.insert(score, expert);
        }
    }

    /// Considers every entry.
    #[inline]
    pub fn offer_all(&mut self, offered: impl IntoIterator<Item = (S, u16)>) {
        let mut offered = offered.into_iter();
        while self.entries.len() < self.limit {
            let Some((score, expert)) = offered.next() else { return };
            self.insert(score, expert);
        }
        let Some(mut bar) = self.bar() else { return };
        for (score, expert) in offered {
            if score > bar {
                bar = self.insert(score, expert).unwrap_or(bar);
            }
        }
    }

    /// What a score must be above to be kept; `None` as long as there is room, and where nothing is kept at all.
    #[inline]
    pub fn bar(&self) -> Option<S> {
        let full = self.entries.len() == self.limit;
        self.entries.last().filter(|_| full).map(|&(score, _)| score)
    }

    /// Keeps one entry more from now on, up to `most` and `K`.
    #[inline]
    pub fn widen(&mut self, most: usize) {
        self.limit = self.limit.saturating_add(1).min(most).min(K).max(self.limit);
    }

    /// Puts an entry that makes it in its place, below its equals; the last one goes if there is no room. Returns the
    /// new [`bar`](Self::bar).
    pub(crate) fn insert(&mut self, score: S, expert: u16) -> Option<S> {
        if self.entries.len() < self.limit {
            // There is room: fewer than `limit <= K` entries.
            _ = self.entries.push((score, expert));
        }
        let mut above = &mut *self.entries;
        while let [.., next, free] = above
            && next.0 < score
        {
            *free = *next;
            (_, above) = above.split_last_mut()?;
        }
        if let Some(free) = above.last_mut() {
            *free = (score, expert);
        }
        self.bar()
    }

    /// The entries, best first.
    pub fn entries(&self) -> &[(S, u16)] {
        &self.entries
    }

    /// The expert ids, best first.
    pub fn ids(&self) -> Vec<u16, K> {
        let mut ids = Vec::new();
        self.ids_to(&mut ids);
        ids
    }

    /// Adds the expert ids, best first, to an empty list.
    pub(crate) fn ids_to(&self, ids: &mut Vec<u16, K>) {
        // There is room: the same capacity. `collect` would link a panic.
        self.entries.iter().for_each(|&(_, expert)| _ = ids.push(expert));
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
            all.offer_all(scores.iter().copied().zip(0..));
            scores.iter().zip(0..).for_each(|(&score, expert)| each.offer(score, expert));
            prop_assert_eq!(all.entries(), each.entries());
            prop_assert_eq!(all.bar(), all.entries().get(limit.min(8).wrapping_sub(1)).map(|&(score, _)| score));
        }
    }
}
