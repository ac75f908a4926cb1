//! Fast memory: what is resident in each layer, and the copies that are on their way there.

pub(crate) mod queue;
pub(crate) mod tenants;

use cptr_core::{ExpertSet, words_for};
use cptr_trace::MAX_EXPERTS;

use queue::Queue;

/// Resident experts of one layer.
pub type Resident = ExpertSet<{ words_for(MAX_EXPERTS) }>;

/// Fast memory of one layer, counted in bits per weight of an expert.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    capacity: u32,
    used: u32,
    /// Bits of every expert; 0: it is not there.
    held: Vec<u8>,
    /// Those that are.
    resident: Resident,
}

impl Memory {
    pub(crate) fn new(experts: usize, capacity: u32) -> Self {
        Self { capacity, used: 0, held: vec![0; experts], resident: Resident::new() }
    }

    pub(crate) const fn resident(&self) -> &Resident {
        &self.resident
    }

    /// Bits of an expert that are there.
    pub(crate) fn held(&self, expert: u16) -> u8 {
        self.held[usize::from(expert)]
    }

    pub(crate) const fn room(&self) -> u32 {
        self.capacity.saturating_sub(self.used)
    }

    pub(crate) const fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(crate) const fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity;
    }

    /// Holds `bits` bits of an expert from now on.
    pub(crate) fn hold(&mut self, expert: u16, bits: u8) {
        let held = &mut self.held[usize::from(expert)];
        self.used = self.used - u32::from(*held) + u32::from(bits);
        *held = bits;
        if bits == 0 {
            self.resident.remove(expert)
        } else {
            self.resident.insert(expert)
        };
    }

    /// Bits of all experts that are there.
    pub(crate) const fn used(&self) -> u32 {
        self.used
    }

    /// Takes in experts in their order, as many as fit: at `bits` bits; or where only planes may be held first at `low`
    /// bits, then plane by plane.
    pub(crate) fn fill(&mut self, order: &[u16], bits: u8, low: Option<u8>) {
        for level in low.unwrap_or(bits)..=bits {
            for &expert in order {
                let held = self.held(expert);
                let grows = if held == 0 { level == low.unwrap_or(bits) } else { held + 1 == level };
                if grows && self.room() >= u32::from(level - held) {
                    self.hold(expert, level);
                }
            }
        }
    }
}

/// The fast memory of all layers, and what is on its way there.
pub(crate) struct Fast<'a> {
    pub(crate) memories: &'a mut [Memory],
    pub(crate) queue: &'a mut Queue,
    /// Bits of an expert that is migrated.
    pub(crate) bits: u8,
}

impl Fast<'_> {
    /// Experts that fit in a layer.
    pub(crate) fn fit(&self, layer: usize) -> usize {
        (self.memories[layer].capacity() / u32::from(self.bits)) as usize
    }
}

/// `set` without `others`, of the first `experts`.
pub(crate) fn without(set: &Resident, others: &Resident, experts: usize, out: &mut Resident) {
    // Sets have no public way to write words: members are few.
    out.clear();
    let words = words_for(experts);
    for (index, (&word, &other)) in set.words().iter().zip(others.words()).take(words).enumerate() {
        let mut open = word & !other;
        while open != 0 {
            out.insert(32 * index as u16 + open.trailing_zeros() as u16);
            open &= open - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_and_planes_by_hand() {
        let mut memory = Memory::new(8, 40);
        memory.fill(&[5, 2, 7], 16, None);
        assert_eq!((memory.resident().iter().collect::<Vec<_>>(), memory.room()), (vec![2, 5], 8));
        memory.hold(5, 0);
        assert_eq!((memory.held(5), memory.room(), memory.used()), (0, 24, 16));
        let mut planes = Memory::new(4, 11);
        planes.fill(&[3, 1, 0, 2], 4, Some(2));
        assert_eq!([0, 1, 2, 3].map(|expert| planes.held(expert)), [3, 3, 2, 3]);
    }
}
