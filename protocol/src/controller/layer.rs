//! What the controller knows of one layer.

use cptr_core::bits::Split;
use cptr_core::placement::{Demand, importance, rank};
use cptr_core::{Eps, ExpertSet, Gate, Metrics, Router, ScaledLevels, Tracker, TrackerConfig, words_for};
use heapless::Vec;
use zerocopy::little_endian::U16;

use super::configuration::Configuration;
use crate::wire::{Load, MAX_K, NOBODY, Place, Status, Writer};

/// What is known of what a layer's experts are wanted for: one memory, as a prompt is over when its layer is placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted<const E: usize> {
    /// What tokens ask. It comes first and a new layer has it: its bytes are all 0, so that static layers take no
    /// flash.
    Tokens(Tracker<Vec<ScaledLevels, E, u16>>),
    /// What a prompt has asked of each expert so far.
    Prompt(Vec<Demand, E, u16>),
}

impl<const E: usize> Wanted<E> {
    /// Before the first token; `experts` is at most E.
    // Its copy of the levels is on the stack here, rarely, and not in the frame of the main loop.
    #[inline(never)]
    pub(super) fn begin_tokens(&mut self, experts: usize) {
        let mut levels = Vec::new();
        let _ = levels.resize(experts, ScaledLevels::ZERO);
        *self = Self::Tokens(Tracker::over(levels));
    }

    /// The demand of a prompt: of the one that has begun, or of a new one of at most E experts.
    pub(super) fn prompt(&mut self, experts: usize) -> &mut [Demand] {
        if let Self::Tokens(_) = self {
            *self = Self::Prompt(Vec::new());
        }
        match self {
            Self::Prompt(demand) => {
                let _ = demand.resize(experts, Demand::default());
                demand
            }
            Self::Tokens(_) => &mut [],
        }
    }
}

/// State of one layer of at most E experts, in the caller's memory: 9 bytes for each, three times the words of a set,
/// which must be W = [`words_for`]`(E)` (those resident, being loaded, of the last token), and 112 beside (tracker 48,
/// counters 56).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer<const E: usize, const W: usize> {
    pub(super) wanted: Wanted<E>,
    /// Bits per weight of each expert's replica near the data.
    pub(super) bits: Vec<u8, E, u16>,
    pub(super) resident: ExpertSet<W>,
    /// Experts on their way into fast memory; their place there is theirs already.
    pub(super) loading: ExpertSet<W>,
    /// Experts that the last token ran.
    pub(super) previous: ExpertSet<W>,
    pub(super) metrics: Metrics,
    /// Whether the layer is being put back, and decides nothing until it is whole.
    pub(super) partial: bool,
    /// Whether experts were placed.
    pub(super) placed: bool,
    /// Whether the bias of its router is known.
    biased: bool,
}

/// What a controller may take for a layer; checked on every target. A layer of fewer experts takes more than that.
const fn within_budget<const E: usize, const W: usize>() -> bool {
    size_of::<Layer<E, W>>() <= 12 * E + 64
}
const _: () = assert!(within_budget::<32, 1>() && within_budget::<64, 2>() && within_budget::<256, 8>());

impl<const E: usize, const W: usize> Default for Layer<E, W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const E: usize, const W: usize> Layer<E, W> {
    const ROOM: () = assert!(W == words_for(E), "W is words_for(E)");

    /// Nothing is known; no experts yet.
    pub const fn new() -> Self {
        let () = Self::ROOM;
        Self {
            wanted: Wanted::Tokens(Tracker::over(Vec::new())),
            bits: Vec::new(),
            resident: ExpertSet::new(),
            loading: ExpertSet::new(),
            previous: ExpertSet::new(),
            partial: false,
            metrics: Metrics {
                tokens: 0,
                runs: 0,
                misses: 0,
                substituted: 0,
                runs_with_predecessor: 0,
                switches: 0,
                lost_locks: 0,
            },
            placed: false,
            biased: false,
        }
    }

    /// As new, for so many experts.
    pub(super) fn clear(&mut self, experts: usize, bits: u8) {
        self.wanted.begin_tokens(experts);
        self.bits.clear();
        // There is room: `experts` was checked against E.
        let _ = self.bits.resize(experts, bits);
        self.resident.clear();
        self.loading.clear();
        self.previous.clear();
        self.partial = false;
        self.metrics = Metrics::default();
        self.placed = false;
        self.biased = false;
    }

    pub(super) const fn biased(&self) -> bool {
        self.biased
    }

    pub(super) const fn set_biased(&mut self) {
        self.biased = true;
    }

    /// The last `nulls` experts, which need not be resident, are at hand, too.
    pub(super) fn add_nulls(&self, at_hand: &mut ExpertSet<W>, nulls: usize) {
        let first = self.bits.len().saturating_sub(nulls);
        (first..self.bits.len()).for_each(|expert| _ = at_hand.insert(expert as u16));
    }

    pub(super) const fn placed(&self) -> bool {
        self.placed
    }

    /// Checks that loads are on their way that are said to have ended.
    ///
    /// # Errors
    /// [`Status::Id`] if one is not.
    pub(super) fn check_loads(&self, loaded: &[u16], failed: &[u16]) -> Result<(), Status> {
        let known = loaded.iter().chain(failed).all(|&expert| self.loading.contains(expert));
        if known { Ok(()) } else { Err(Status::Id) }
    }

    /// The resident experts.
    pub(super) const fn resident(&self) -> &ExpertSet<W> {
        &self.resident
    }

    /// Ends loads: those `loaded` are resident, those that have `failed` are not.
    pub(super) fn end_loads(&mut self, loaded: &[u16], failed: &[u16]) {
        loaded.iter().for_each(|&expert| _ = self.resident.insert(expert));
        loaded.iter().chain(failed).for_each(|&expert| _ = self.loading.remove(expert));
    }

    pub(super) fn bits(&self) -> &[u8] {
        &self.bits
    }

    pub(super) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes what a token of the prompt chose. The first one ends what was tracked: another prompt is another context.
    pub(super) fn observe(&mut self, chosen: &[u16], weights: &[Gate]) {
        Demand::observe(self.wanted.prompt(self.bits.len()), chosen, weights);
    }

    /// Makes the most important experts resident and gives the others their bits; answers with the ids of the former.
    pub(super) fn place(
        &mut self,
        descriptor: &Place,
        configuration: Configuration,
        answer: &mut Writer<'_>,
    ) -> Result<(), Status> {
        let hot = usize::from(descriptor.hot.get());
        let split = Split { experts: descriptor.split.map(U16::get), gain: 0 };
        let cold = split.experts.iter().fold(0usize, |sum, &count| sum.saturating_add(count.into()));
        let nulls = configuration.router.null_experts;
        let experts = configuration.experts.saturating_sub(nulls);
        if hot > configuration.capacity.min(experts) || (cold > 0 && hot.saturating_add(cold) != experts) {
            return Err(Status::Value);
        }
        let Wanted::Prompt(demand) = &self.wanted else { return Err(Status::Order) };
        if demand.iter().all(|demand| demand.count() == 0) {
            return Err(Status::Order);
        }
        let (mut values, mut order) = ([Gate::ZERO; E], [0; E]);
        let values = values.get_mut(..configuration.experts).ok_or(Status::Capacity)?;
        let order = order.get_mut(..configuration.experts).ok_or(Status::Capacity)?;
        importance(demand, Eps::from_bits(descriptor.alpha.get()), values);
        rank(values, order);
        self.resident.clear();
        let null = |expert: &&u16| configuration.router.is_null(**expert, configuration.experts);
        for (place, &expert) in (0..order.len()).zip(order.iter().filter(|expert| !null(expert))) {
            match place.checked_sub(hot) {
                None => {
                    self.resident.insert(expert);
                    answer.put(&U16::new(expert));
                }
                Some(cold) => {
                    if let Some(bits) = self.bits.get_mut(usize::from(expert)) {
                        *bits = split.bits(cold).unwrap_or(configuration.bits);
                    }
                }
            }
        }
        self.wanted.begin_tokens(configuration.experts);
        self.placed = true;
        Ok(())
    }

    /// Counts what a token ran, of which so many experts were `cold`.
    pub(super) fn count(&mut self, chosen: &[u16], cold: usize, substituted: usize, starts_sequence: bool) {
        let follows = !starts_sequence && !self.previous.is_empty();
        let new = |&expert: &u16| usize::from(!self.previous.contains(expert));
        let switches = || chosen.iter().map(new).fold(0, usize::saturating_add);
        self.metrics.count(chosen.len(), follows.then(switches), cold, substituted, false);
        self.previous.clear();
        chosen.iter().for_each(|&expert| _ = self.previous.insert(expert));
    }

    /// Whether all of the chosen are resident.
    pub(super) fn holds(&self, chosen: &[u16]) -> bool {
        chosen.iter().all(|&expert| self.resident.contains(expert))
    }

    /// Has the experts of a token loaded, as long as there is room or somebody who may go; says so in `loads`.
    pub(super) fn load(&mut self, chosen: &[u16], capacity: usize, router: &Router<'_>, loads: &mut Vec<Load, MAX_K>) {
        let Wanted::Tokens(tracker) = &self.wanted else { return };
        // Mostly everything that was asked for is there: counting costs more than asking whether.
        let loading = if self.loading.is_empty() { 0 } else { self.loading.len() };
        let mut room = capacity.saturating_sub(self.resident.len().saturating_add(loading));
        for &expert in chosen {
            let there = self.resident.contains(expert) || self.loading.contains(expert);
            if there || router.is_null(expert, self.bits.len()) {
                continue;
            }
            let victim = if room > 0 {
                room = room.saturating_sub(1);
                NOBODY
            } else if let Some(victim) = tracker.victim(&self.resident, chosen) {
                self.resident.remove(victim);
                victim
            } else {
                continue;
            };
            self.loading.insert(expert);
            // At most one for each of the chosen, which are as many.
            let _ = loads.push(Load { expert: expert.into(), victim: victim.into() });
        }
    }

    /// Learns what a token wanted, and returns whether lock was lost at it; nothing while a prompt is observed.
    pub(super) fn update(&mut self, config: &TrackerConfig, wanted: &[u16]) -> bool {
        let Wanted::Tokens(tracker) = &mut self.wanted else { return false };
        let step = tracker.update(config, wanted);
        self.metrics.lost_locks = self.metrics.lost_locks.saturating_add(u64::from(step.lost_lock));
        step.lost_lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_the_documentation_says() {
        assert_eq!((size_of::<Layer<8, 1>>(), size_of::<Layer<16, 1>>(), size_of::<Layer<32, 1>>()), (208, 280, 424));
        assert_eq!(size_of::<Layer<256, 8>>(), 9 * 256 + 3 * 8 * 4 + 120);
    }
}
