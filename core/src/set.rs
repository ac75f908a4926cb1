//! A set of expert ids as a bit field: which experts are resident, which a token chose.

/// Number of 32-bit words that [`ExpertSet`] needs for `experts` experts.
pub const fn words_for(experts: usize) -> usize {
    experts.div_ceil(32)
}

/// Set of expert ids below `32 * WORDS` in the caller's memory, `4 * WORDS` bytes.
pub type ExpertSet<const WORDS: usize> = Experts<[u32; WORDS]>;

/// A set of expert ids, of fixed (`Experts<[u32; WORDS]>`) or of any size (`&Experts`, to which references to the
/// former coerce).
///
/// Ids beyond the capacity are never in the set and cannot be inserted. In memory it is its words: bit `id % 32` of
/// word `id / 32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Experts<W: ?Sized = [u32]> {
    words: W,
}

impl<const WORDS: usize> Experts<[u32; WORDS]> {
    /// The empty set.
    pub const fn new() -> Self {
        Self { words: [0; WORDS] }
    }
}

impl<const WORDS: usize> Default for Experts<[u32; WORDS]> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: AsRef<[u32]> + AsMut<[u32]> + ?Sized> Experts<W> {
    /// Whether `expert` is in the set.
    pub fn contains(&self, expert: u16) -> bool {
        self.words.as_ref().get(usize::from(expert / 32)).is_some_and(|word| word >> (expert % 32) & 1 != 0)
    }

    /// Adds `expert`; returns whether it was added, that is, was absent and within the capacity.
    pub fn insert(&mut self, expert: u16) -> bool {
        let absent = !self.contains(expert);
        match self.words.as_mut().get_mut(usize::from(expert / 32)) {
            Some(word) => *word |= 1 << (expert % 32),
            None => return false,
        }
        absent
    }

    /// Removes `expert`; returns whether it was in the set.
    pub fn remove(&mut self, expert: u16) -> bool {
        let present = self.contains(expert);
        if let Some(word) = self.words.as_mut().get_mut(usize::from(expert / 32)) {
            *word &= !(1 << (expert % 32));
        }
        present
    }

    /// Removes every expert that is in another set of the same capacity.
    pub fn remove_all(&mut self, other: &Self) {
        let words = self.words.as_mut().iter_mut().zip(other.words.as_ref());
        words.for_each(|(word, other)| *word &= !other);
    }

    /// Removes every expert.
    pub fn clear(&mut self) {
        self.words.as_mut().fill(0);
    }

    /// Number of experts in the set.
    pub fn len(&self) -> usize {
        self.words.as_ref().iter().map(|word| word.count_ones() as usize).fold(0, usize::wrapping_add)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.words.as_ref().iter().all(|&word| word == 0)
    }

    /// The set as it lies in memory.
    #[inline]
    pub fn words(&self) -> &[u32] {
        self.words.as_ref()
    }

    /// The experts in ascending order. Cost: one step per word and per member.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let words = self.words.as_ref().iter().scan(0u16, |next, &word| {
            let base = *next;
            *next = base.wrapping_add(32);
            Some(Bits { word, base })
        });
        words.flatten()
    }
}

struct Bits {
    word: u32,
    base: u16,
}

impl Iterator for Bits {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros();
        self.word &= self.word.wrapping_sub(1);
        Some(self.base | bit as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn beyond_the_capacity_is_never_in() {
        let mut set = ExpertSet::<2>::new();
        assert!(!set.insert(64) && !set.contains(64) && !set.remove(64) && set.is_empty());
        assert!(!set.insert(u16::MAX));
        assert!(set.insert(63) && !set.insert(63) && set.len() == 1);
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(actions in prop::collection::vec((0u16..96, any::<bool>()), 0..200)) {
            let (mut set, mut model) = (ExpertSet::<3>::new(), BTreeSet::new());
            for (expert, insert) in actions {
                if insert {
                    prop_assert_eq!(set.insert(expert), model.insert(expert));
                } else {
                    prop_assert_eq!(set.remove(expert), model.remove(&expert));
                }
                prop_assert_eq!(set.len(), model.len());
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
        }
    }
}
