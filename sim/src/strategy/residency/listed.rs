//! What rules have in common that keep lists of a layer's experts, in fast memory and gone from it.
//!
//! Such rules are published for memories that get one request after the other. Here the experts of a token come
//! together: those that are missing are loaded first, one after the other, none of which may go for another; then all
//! are used, the best last. An expert that has just been loaded, or fetched, has come for its next use, which therefore
//! counts as none of its own. In the prompts, for which nothing is loaded, the lists go on as if it were.

use cptr_core::placement::Demand;

use super::{Residency, Setup, least};
use crate::memory::{Resident, without};
use crate::strategy::Served;

/// A rule for one layer.
pub(super) trait Rule: Send {
    /// Experts that are resident, those first that would go last.
    fn residents(&self, order: &mut Vec<u16>);

    /// As many experts fit from now on.
    fn resize(&mut self, room: usize);

    /// An expert that is not resident is wanted.
    fn coming(&mut self, _expert: u16) {}

    /// Who of `free` goes for it.
    fn victim(&mut self, free: &Resident) -> Option<u16>;

    /// It is resident now.
    fn loaded(&mut self, expert: u16);

    /// A resident expert is gone.
    fn evicted(&mut self, expert: u16);

    /// A resident expert was used; `first`: it has been loaded for that.
    fn used(&mut self, expert: u16, first: bool);
}

/// A rule in every layer.
pub(super) struct Listed<R> {
    layers: Vec<Layer<R>>,
    experts: usize,
}

struct Layer<R> {
    rule: R,
    /// Who is resident, as far as the rule was told.
    resident: Resident,
    /// Those of them that have not been used since they were loaded.
    unused: Resident,
    /// Experts that fit.
    room: usize,
}

impl<R: Rule + Clone> Listed<R> {
    /// The same empty lists for every layer.
    pub(super) fn new(mut rule: R, setup: &Setup<'_>) -> Self {
        let room = (setup.fit / setup.layers.max(1)).max(1);
        rule.resize(room);
        let layer = Layer { rule, resident: Resident::new(), unused: Resident::new(), room };
        let layers = (0..setup.layers).map(|_| Layer {
            rule: layer.rule.clone(),
            resident: layer.resident,
            unused: layer.unused,
            room,
        });
        Self { layers: layers.collect(), experts: setup.experts }
    }
}

impl<R: Rule> Layer<R> {
    fn resize(&mut self, room: usize) {
        if room != self.room {
            self.room = room;
            self.rule.resize(room);
        }
    }

    fn coming(&mut self, expert: u16) {
        if !self.resident.contains(expert) {
            self.rule.coming(expert);
        }
    }

    fn loaded(&mut self, expert: u16) {
        if self.resident.insert(expert) {
            self.unused.insert(expert);
            self.rule.loaded(expert);
        }
    }

    fn evicted(&mut self, expert: u16) {
        if self.resident.remove(expert) {
            self.unused.remove(expert);
            self.rule.evicted(expert);
        }
    }

    fn used(&mut self, expert: u16) {
        if self.resident.contains(expert) {
            let first = self.unused.remove(expert);
            self.rule.used(expert, first);
        }
    }

    /// Loads what a step of the prompts runs.
    fn pretend(&mut self, served: &Served<'_>, experts: usize) {
        let mut keep = Resident::new();
        served.choices.iter().for_each(|choice| _ = keep.insert(choice.expert));
        for choice in served.choices.iter().filter(|choice| !self.resident.contains(choice.expert)).collect::<Vec<_>>()
        {
            self.rule.coming(choice.expert);
            if self.resident.len() >= self.room {
                let mut free = Resident::new();
                without(&self.resident, &keep, experts, &mut free);
                let Some(victim) = self.rule.victim(&free) else { return };
                self.evicted(victim);
            }
            self.loaded(choice.expert);
        }
    }
}

impl<R: Rule> Residency for Listed<R> {
    fn on_demand(&self) -> bool {
        true
    }

    fn coming(&mut self, layer: usize, expert: u16) {
        self.layers[layer].coming(expert);
    }

    fn victim(&mut self, layer: usize, free: &Resident) -> Option<u16> {
        let layer = &mut self.layers[layer];
        // Memory is full: that is how many there is room for.
        layer.resize(layer.resident.len().max(1));
        layer.rule.victim(free).or_else(|| least(free, |_| 0))
    }

    fn loaded(&mut self, layer: usize, expert: u16) {
        self.layers[layer].loaded(expert);
    }

    fn fetched(&mut self, layer: usize, expert: u16) {
        self.layers[layer].loaded(expert);
    }

    fn evicted(&mut self, layer: usize, expert: u16) {
        self.layers[layer].evicted(expert);
    }

    fn placed(&mut self, layer: usize, resident: &Resident) {
        let layer = &mut self.layers[layer];
        layer.resize(resident.len().max(1));
        let mut gone = Resident::new();
        without(&layer.resident, resident, self.experts, &mut gone);
        gone.iter().for_each(|expert| layer.evicted(expert));
        resident.iter().for_each(|expert| layer.loaded(expert));
    }

    fn observe(&mut self, served: &Served<'_>) {
        let layer = &mut self.layers[served.layer];
        if served.prefill {
            layer.pretend(served, self.experts);
        }
        for (choice, _) in served.choices.iter().zip(served.used).rev().filter(|(_, used)| **used) {
            layer.used(choice.expert);
        }
    }

    fn worth(&mut self, layer: usize, _: &[Demand], order: &mut Vec<u16>) {
        let layer = &self.layers[layer];
        order.clear();
        layer.rule.residents(order);
        order.extend((0..self.experts as u16).filter(|&expert| !layer.resident.contains(expert)));
    }
}

/// Takes an expert out of a list; whether it was there.
pub(super) fn take(list: &mut Vec<u16>, expert: u16) -> bool {
    let at = list.iter().position(|&other| other == expert);
    at.map(|at| list.remove(at)).is_some()
}

/// The first of a list that is in a set.
pub(super) fn first(list: &[u16], set: &Resident) -> Option<u16> {
    list.iter().copied().find(|&expert| set.contains(expert))
}

#[cfg(test)]
pub(super) mod testing {
    use cptr_trace::{Shape, Trace};
    use proptest::prelude::*;
    use proptest::strategy::Strategy as Draw;

    use crate::replay::{Budget, Plan, drive};
    use crate::strategy::Strategy;

    /// A memory as it is published: whether each of some requests, one after the other, was a hit.
    pub(in super::super) trait Published {
        fn request(&mut self, expert: u16) -> bool;
    }

    /// Misses of a residency, one expert a token, in the loop; the first `prefill` are shown.
    fn misses(name: &str, requests: &[u16], room: usize, prefill: usize) -> u64 {
        let trace = Trace::of_ids(Shape { tokens: requests.len(), layers: 1, experts: 24, k: 1 }, requests.to_vec());
        let plan = Plan { prefill, ..Plan::new(Budget::Experts(room)) };
        drive(&trace, &plan, &Strategy::parse(name).unwrap(), &mut []).unwrap().layers[0].misses
    }

    /// Requests of some experts more often than of others, runs of one among them.
    fn requests() -> impl Draw<Value = Vec<u16>> {
        let one = prop_oneof![0u16..4, 0u16..12, 0u16..24];
        prop::collection::vec((one, 1usize..4), 2..300)
            .prop_map(|runs| runs.into_iter().flat_map(|(expert, count)| vec![expert; count]).collect())
    }

    /// With one expert a token a residency misses what the published memory misses, whether or not memory was filled
    /// by prompts.
    pub(in super::super) fn is_published<P: Published>(name: &str, memory: impl Fn(usize) -> P) {
        let some = ProptestConfig::with_cases(300);
        proptest!(some, |(requests in requests(), room in 2usize..16, prompt in 0usize..200)| {
            let mut published = memory(room);
            let hits: Vec<bool> = requests.iter().map(|&expert| published.request(expert)).collect();
            let expected = |from: usize| hits[from..].iter().filter(|hit| !**hit).count() as u64;
            prop_assert_eq!(misses(name, &requests, room, 0), expected(0));
            // Prompts that leave room are filled up with experts that nobody wanted: no rule knows these.
            let full = hits.iter().enumerate().filter(|(_, hit)| !**hit).nth(room - 1).map_or(usize::MAX, |(at, _)| at);
            if prompt > full && prompt < requests.len() {
                prop_assert_eq!(misses(name, &requests, room, prompt), expected(prompt));
            }
        });
    }
}
