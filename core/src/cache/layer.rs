//! One layer of a cache: slots, and who goes.

use super::{CacheError, Load, NOTHING, Set, Step};
use crate::level::{Levels, ScaledLevels};
use crate::num::{Level, quotient};
use crate::recall::Skill;
use crate::set::Experts;
use crate::tracker::{Tracker, TrackerConfig};

/// Weight of the next token against levels, where an expert makes room for one that is fetched.
const NEXT: u64 = 10;

/// The state of a layer, in the caller's memory.
#[derive(Debug)]
pub struct Layer<'a> {
    tracker: Tracker<&'a mut [ScaledLevels]>,
    skill: Skill,
    /// Expert in each slot.
    slots: &'a mut [u16],
    /// Slot of each expert.
    places: &'a mut [u16],
    /// Share of the next tokens that will want each expert, by the last forecast.
    pub(super) shares: &'a mut [Level],
    /// Experts that have a slot, those on their way included.
    pub(super) resident: Set,
    pub(super) arriving: Set,
    pub(super) pinned: Set,
}

impl<'a> Layer<'a> {
    /// Nothing is there yet. `levels`, `places` and `shares` have an entry for each expert, `slots` one for each slot;
    /// all of them are overwritten.
    pub fn new(
        levels: &'a mut [ScaledLevels],
        slots: &'a mut [u16],
        places: &'a mut [u16],
        shares: &'a mut [Level],
    ) -> Self {
        levels.fill(ScaledLevels::ZERO);
        slots.fill(NOTHING);
        places.fill(NOTHING);
        shares.fill(Level::ZERO);
        let none = Set::new();
        let (tracker, skill) = (Tracker::over(levels), Skill::new());
        Self { tracker, skill, slots, places, shares, resident: none, arriving: none, pinned: none }
    }

    /// Whether it was made for so many experts and slots.
    pub(super) fn fits(&self, experts: usize, slots: usize) -> bool {
        self.tracker.experts() == experts
            && self.places.len() == experts
            && self.shares.len() == experts
            && self.slots.len() == slots
    }

    /// Experts of the layer.
    pub(super) fn experts(&self) -> usize {
        self.places.len()
    }

    /// Slot of an expert, or [`NOTHING`].
    pub fn slot(&self, expert: u16) -> u16 {
        self.places.get(usize::from(expert)).copied().unwrap_or(NOTHING)
    }

    /// Expert in a slot, or [`NOTHING`].
    pub fn expert(&self, slot: u16) -> u16 {
        self.slots.get(usize::from(slot)).copied().unwrap_or(NOTHING)
    }

    /// Experts that have a slot, those on their way included.
    pub fn resident(&self) -> &Experts {
        &self.resident
    }

    /// What levels say of an expert, `slow + fast / 4`, `U1F31` bits.
    fn level(&self, expert: u16) -> u64 {
        let Some(Levels { slow, fast }) = self.tracker.level(expert) else { return 0 };
        u64::from(slow.to_bits()).wrapping_add(u64::from(fast.to_bits() >> 2))
    }

    /// Weight of the forecast, `U16F16`, less where it has not known more than levels.
    pub(super) fn weight(&self, weight: u32) -> u64 {
        u64::from(weight).wrapping_mul(self.skill.weight().to_bits().into()) >> 31
    }

    /// How much an expert is expected by levels and a forecast of `weight`, `U1F31` bits.
    fn worth(&self, expert: u16, shares: &[Level], weight: u64) -> u64 {
        self.level(expert).wrapping_add(bits(shares, expert).wrapping_mul(weight) >> 16)
    }

    /// The expert of a set that is expected least, of equals the lowest id.
    pub(super) fn victim(&self, free: &Set, weight: u64) -> Option<u16> {
        free.iter().min_by_key(|&expert| self.worth(expert, self.shares, weight))
    }

    /// The same for an expert that is fetched, by a forecast `ahead` and one for the `next` token, in which who goes is
    /// less probable than who comes.
    pub(super) fn victim_ahead(
        &self,
        free: &Set,
        comes: u16,
        ahead: &[Level],
        next: &[Level],
        weight: u64,
    ) -> Option<u16> {
        let worth = |expert: u16| self.worth(expert, ahead, weight).wrapping_add(NEXT.wrapping_mul(bits(next, expert)));
        free.iter().min_by_key(|&expert| worth(expert)).filter(|&goes| bits(next, goes) < bits(next, comes))
    }

    /// Judges forecast and levels by what a token wants.
    pub(super) fn judge(&mut self, wanted: &[u16]) {
        let k = wanted.len() as u64;
        if k == 0 {
            return;
        }
        let mean = |of: &dyn Fn(u16) -> u64| {
            let sum: u64 = wanted.iter().map(|&expert| of(expert)).fold(0, u64::wrapping_add);
            Level::from_bits(quotient(sum, k) as u32)
        };
        let recall = mean(&|expert| bits(self.shares, expert));
        // Levels of all experts add up to 5/4 k.
        let levels = mean(&|expert| quotient(self.level(expert).wrapping_mul(4), 5));
        self.skill.learn(recall, levels);
    }

    /// Takes what a token wanted.
    pub(super) fn update(&mut self, config: &TrackerConfig, wanted: &[u16]) {
        _ = self.tracker.update(config, wanted);
    }

    /// A slot where nothing lies.
    pub(super) fn empty_slot(&self) -> Option<u16> {
        if self.resident.len() == self.slots.len() {
            return None;
        }
        (0..self.slots.len() as u16).zip(&*self.slots).find(|(_, expert)| **expert == NOTHING).map(|(slot, _)| slot)
    }

    /// Puts an expert into a slot; who was there goes, and is returned.
    pub(super) fn put(&mut self, expert: u16, slot: u16) -> u16 {
        let Some(here) = self.slots.get_mut(usize::from(slot)) else { return NOTHING };
        let victim = core::mem::replace(here, expert);
        self.resident.remove(victim);
        self.arriving.remove(victim);
        if let Some(place) = self.places.get_mut(usize::from(victim)) {
            *place = NOTHING;
        }
        if let Some(place) = self.places.get_mut(usize::from(expert)) {
            *place = slot;
        }
        self.resident.insert(expert);
        victim
    }

    /// Finds slots for the choices of a step, and makes room for those that are not there: `null` ids run nothing.
    /// Returns how many have to be waited for, and the waves.
    pub(super) fn place(
        &mut self,
        weight: u64,
        null: impl Fn(u16) -> bool,
        step: &mut Step<'_>,
        mut load: impl FnMut(Load),
    ) -> (usize, usize) {
        let Step { layer, ids, slots, waves, .. } = step;
        let layer = *layer;
        let (mut here, mut waited, mut wave) = (Set::new(), 0usize, 0);
        let mut wait = |needed| {
            load(needed);
            waited = waited.wrapping_add(1);
        };
        // Those that are there run first.
        for ((&id, slot), runs) in ids.iter().zip(slots.iter_mut()).zip(waves.iter_mut()) {
            (*slot, *runs) = (self.slot(id), 0);
            if *slot != NOTHING {
                here.insert(id);
                if self.arriving.remove(id) {
                    let victim = NOTHING;
                    wait(Load { layer, expert: id, slot: *slot, victim, wave, on_its_way: true });
                }
            }
        }
        for (at, &id) in (0..ids.len()).zip(ids.iter()) {
            if id == NOTHING || null(id) || slots.get(at).is_none_or(|&slot| slot != NOTHING) {
                continue;
            }
            let slot = loop {
                if let Some(slot) = self.empty_slot() {
                    break slot;
                }
                let free = self.free(&here, &self.arriving);
                // Who is on its way goes last: its load has to come to an end before the next one into its slot.
                let victim = self.victim(&free, weight).or_else(|| self.victim(&self.free(&here, &Set::new()), weight));
                match victim {
                    Some(victim) => break self.slot(victim),
                    None if here.is_empty() => return (waited, usize::from(wave) + 1),
                    None => {
                        here.clear();
                        wave = wave.wrapping_add(1);
                    }
                }
            };
            let victim = self.put(id, slot);
            here.insert(id);
            wait(Load { layer, expert: id, slot, victim, wave, on_its_way: false });
            for ((_, to), runs) in
                ids.iter().zip(slots.iter_mut()).zip(waves.iter_mut()).skip(at).filter(|((other, _), _)| **other == id)
            {
                (*to, *runs) = (slot, wave);
            }
        }
        (waited, usize::from(wave) + 1)
    }

    /// What is loaded of an expert does not come.
    pub(super) fn lose(&mut self, expert: u16) -> Result<(), CacheError> {
        let Some(place) = self.places.get_mut(usize::from(expert)).filter(|place| **place != NOTHING) else {
            return Err(CacheError::Expert);
        };
        let slot = core::mem::replace(place, NOTHING);
        if let Some(here) = self.slots.get_mut(usize::from(slot)) {
            *here = NOTHING;
        }
        self.resident.remove(expert);
        self.arriving.remove(expert);
        self.pinned.remove(expert);
        Ok(())
    }

    /// Residents that are in none of two sets and not pinned.
    pub(super) fn free(&self, here: &Set, there: &Set) -> Set {
        let mut free = self.resident;
        for set in [here, there, &self.pinned] {
            free.remove_all(set);
        }
        free
    }
}

fn bits(shares: &[Level], expert: u16) -> u64 {
    shares.get(usize::from(expert)).map_or(0, |share| u64::from(share.to_bits()))
}
