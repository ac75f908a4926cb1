//! Copies into fast memory that go on behind decoding: migrations and fetches.

use std::collections::VecDeque;

use super::tenants::{Tenants, What};
use super::{Memory, Resident};

/// One expert on its way into fast memory.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Copy {
    layer: usize,
    load: u16,
    kind: Kind,
    /// Bits per weight.
    bits: u8,
    /// Bytes still to come.
    left: f64,
    started: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Takes the place of another expert, or free room, when it starts, and is there when it ends.
    Migration { evict: Option<u16> },
    /// Counts as there already; only the bytes that are missing when it is wanted are waited for.
    Fetch,
    /// A fetch that was given up under way: nobody needs it, but it is not broken off.
    Dropped,
}

/// Copies in the order in which they were asked for, fetches before migrations; one at a time is under way, and is not
/// broken off unless copies yield.
#[derive(Debug)]
pub(crate) struct Queue {
    copies: VecDeque<Copy>,
    /// Bytes of a copy by its bits: the part for its start, and for each bit per weight.
    start_bytes: f64,
    bit_bytes: f64,
    /// Bits of a migrated expert.
    bits: u8,
    /// Whether a copy under way makes way for others, and need not end when nobody wants it any more.
    yields: bool,
    /// Experts of each layer that come or go by migration.
    busy: Vec<Resident>,
    /// Experts of each layer that are being fetched.
    fetching: Vec<Resident>,
    /// Migrations that have ended.
    migrated: Vec<u64>,
    /// Bytes of weights that have passed.
    pub(crate) payload: f64,
    /// Parts of the sequences, where there is a limit of which they have equal ones.
    pub(crate) tenants: Option<Tenants>,
}

impl Queue {
    /// No copies; each takes `start_bytes` for its start, and `bit_bytes` for each bit per weight.
    pub(crate) fn new(layers: usize, start_bytes: f64, bit_bytes: f64, bits: u8, yields: bool) -> Self {
        Self {
            copies: VecDeque::new(),
            start_bytes,
            bit_bytes,
            bits,
            yields,
            busy: vec![Resident::new(); layers],
            fetching: vec![Resident::new(); layers],
            migrated: vec![0; layers],
            payload: 0.0,
            tenants: None,
        }
    }

    /// Copies waiting and under way.
    pub(crate) fn len(&self) -> usize {
        self.copies.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// Experts of a layer that come or go by migration.
    pub(crate) fn busy(&self, layer: usize) -> &Resident {
        &self.busy[layer]
    }

    /// Migrations into a layer that have ended.
    pub(crate) fn migrated(&self, layer: usize) -> u64 {
        self.migrated[layer]
    }

    /// Bytes of a copy at `bits` bits per weight, the part for its start included.
    pub(crate) fn size(&self, bits: u8) -> f64 {
        self.start_bytes + self.bit_bytes * f64::from(bits)
    }

    /// Whether a sequence that wants an expert may have it copied.
    pub(crate) fn admits(&mut self, what: What, layer: usize, expert: u16) -> bool {
        self.tenants.as_mut().is_none_or(|tenants| tenants.admits(what, layer, expert))
    }

    /// Asks for `load` in place of `evict`, or in free room. Ignored where one of the two is in another copy, or nobody
    /// who wants it may have it.
    pub(crate) fn migrate(&mut self, layer: usize, load: u16, evict: Option<u16>) {
        let left = self.size(self.bits);
        let busy = &self.busy[layer];
        if busy.contains(load) || evict.is_some_and(|evict| busy.contains(evict)) || Some(load) == evict {
            return;
        }
        if !self.admits(What::Migration, layer, load) {
            return;
        }
        if let Some(tenants) = &mut self.tenants {
            tenants.charge(What::Migration, layer, load);
        }
        let busy = &mut self.busy[layer];
        busy.insert(load);
        evict.map(|evict| busy.insert(evict));
        self.copies.push_back(Copy {
            layer,
            load,
            kind: Kind::Migration { evict },
            bits: self.bits,
            left,
            started: false,
        });
    }

    /// Has the copy under way end, if there is one that does not yield, because others have to pass that something
    /// waits for: the bits per weight that were still to come, which pass before theirs, and are not counted here.
    pub(crate) fn finish(&mut self, memories: &mut [Memory]) -> f64 {
        if self.yields {
            return 0.0;
        }
        let Some(copy) = self.copies.pop_front_if(|copy| copy.started) else { return 0.0 };
        self.end(copy, &mut memories[copy.layer]);
        self.bits_left(copy)
    }

    /// Has an expert fetched that counts as resident already.
    pub(crate) fn fetch(&mut self, layer: usize, load: u16, bits: u8) {
        self.fetching[layer].insert(load);
        let copy = Copy { layer, load, kind: Kind::Fetch, bits, left: self.size(bits), started: false };
        // Behind what has started and the fetches before it, and before migrations.
        let waits = |copy: &Copy| !copy.started && copy.kind != Kind::Fetch;
        let at = self.copies.iter().rposition(|copy| !waits(copy)).map_or(0, |at| at + 1);
        self.copies.insert(at, copy);
    }

    /// Whether an expert is being fetched.
    pub(crate) fn fetches(&self, layer: usize, expert: u16) -> bool {
        self.fetching[layer].contains(expert)
    }

    /// Takes a fetched expert out that is wanted now: the bits per weight that are still to come.
    pub(crate) fn take(&mut self, layer: usize, expert: u16) -> f64 {
        self.drop_fetch(layer, expert).map_or(0.0, |copy| self.bits_left(copy))
    }

    fn bits_left(&self, copy: Copy) -> f64 {
        let bits = f64::from(copy.bits);
        (copy.left / self.size(copy.bits) * bits).min(bits)
    }

    /// A fetched expert has to go: it need not come any more, unless its copy has started and does not yield.
    pub(crate) fn cancel(&mut self, layer: usize, expert: u16) {
        if self.fetches(layer, expert)
            && let Some(copy) = self.drop_fetch(layer, expert).filter(|copy| copy.started && !self.yields)
        {
            self.copies.push_front(Copy { kind: Kind::Dropped, ..copy });
        }
    }

    fn drop_fetch(&mut self, layer: usize, expert: u16) -> Option<Copy> {
        self.fetching[layer].remove(expert);
        let is = |copy: &Copy| copy.layer == layer && copy.load == expert && copy.kind == Kind::Fetch;
        let at = self.copies.iter().position(is)?;
        self.copies.remove(at)
    }

    /// Forgets the migrations that have not started.
    pub(crate) fn clear(&mut self) {
        let busy = &mut self.busy;
        self.copies.retain(|copy| {
            let Kind::Migration { evict } = copy.kind else { return true };
            if !copy.started {
                busy[copy.layer].remove(copy.load);
                evict.map(|evict| busy[copy.layer].remove(evict));
            }
            copy.started
        });
    }

    /// What a layer holds once the migrations under way have ended.
    pub(crate) fn resident(&self, layer: usize, now: &Resident) -> Resident {
        self.after(layer, now, |copy| copy.started)
    }

    /// What a layer holds once all migrations have ended.
    pub(crate) fn settled(&self, layer: usize, now: &Resident) -> Resident {
        self.after(layer, now, |_| true)
    }

    fn after(&self, layer: usize, now: &Resident, which: impl Fn(&Copy) -> bool) -> Resident {
        let mut resident = *now;
        for copy in self.copies.iter().filter(|copy| copy.layer == layer && which(copy)) {
            if let Kind::Migration { evict } = copy.kind {
                evict.map(|evict| resident.remove(evict));
                resident.insert(copy.load);
            }
        }
        resident
    }

    /// Starts the next copy if none is under way: who makes room is gone from then on.
    pub(crate) fn start(&mut self, memories: &mut [Memory]) {
        if let Some(copy) = self.copies.front_mut().filter(|copy| !copy.started) {
            copy.started = true;
            if let Kind::Migration { evict: Some(evict) } = copy.kind {
                memories[copy.layer].hold(evict, 0);
            }
        }
    }

    /// `bytes` more may pass: those that nothing was left for.
    pub(crate) fn advance(&mut self, mut bytes: f64, memories: &mut [Memory]) -> f64 {
        while bytes > 0.0 {
            self.start(memories);
            let Some(&copy) = self.copies.front() else { break };
            let passed = bytes.min(copy.left);
            self.payload += passed * (1.0 - self.start_bytes / self.size(copy.bits));
            if let Some(first) = self.copies.front_mut().filter(|first| first.left > bytes) {
                first.left -= bytes;
                return 0.0;
            }
            bytes -= passed;
            self.copies.pop_front();
            self.end(copy, &mut memories[copy.layer]);
        }
        bytes
    }

    fn end(&mut self, copy: Copy, memory: &mut Memory) {
        let evict = match copy.kind {
            Kind::Migration { evict } => evict,
            Kind::Fetch => {
                self.fetching[copy.layer].remove(copy.load);
                return;
            }
            Kind::Dropped => return,
        };
        self.busy[copy.layer].remove(copy.load);
        evict.map(|evict| self.busy[copy.layer].remove(evict));
        if memory.room() + u32::from(memory.held(copy.load)) >= u32::from(copy.bits) {
            memory.hold(copy.load, copy.bits);
            self.migrated[copy.layer] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory(ids: &[u16], fit: u32) -> [Memory; 1] {
        let mut memory = Memory::new(16, 16 * fit);
        ids.iter().for_each(|&id| memory.hold(id, 16));
        [memory]
    }

    fn ids(memories: &[Memory; 1]) -> Vec<u16> {
        memories[0].resident().iter().collect()
    }

    fn queue() -> Queue {
        Queue::new(1, 4.0, 6.0, 16, false)
    }

    #[test]
    fn room_is_made_at_the_start_and_taken_at_the_end() {
        let mut memories = memory(&[0, 1], 2);
        let mut queue = queue();
        queue.migrate(0, 5, Some(0));
        queue.migrate(0, 5, Some(1));
        queue.migrate(0, 6, Some(0));
        assert_eq!(queue.len(), 1);
        assert_eq!(ids(&memories), [0, 1]);
        queue.advance(40.0, &mut memories);
        assert_eq!(ids(&memories), [1]);
        assert!(queue.busy(0).contains(5));
        assert_eq!(queue.resident(0, memories[0].resident()).iter().collect::<Vec<_>>(), [1, 5]);
        queue.migrate(0, 7, Some(1));
        assert_eq!(queue.settled(0, memories[0].resident()).iter().collect::<Vec<_>>(), [5, 7]);
        queue.advance(100.0, &mut memories);
        assert_eq!((ids(&memories), queue.migrated(0)), (vec![5], 1));
        queue.advance(60.0, &mut memories);
        assert_eq!((ids(&memories), queue.migrated(0), queue.is_empty()), (vec![5, 7], 2, true));
        assert!(queue.busy(0).is_empty());
        assert!((queue.payload - 192.0).abs() < 1e-9);
    }

    #[test]
    fn what_has_not_started_can_be_forgotten() {
        let mut memories = memory(&[0, 1], 2);
        let mut queue = queue();
        queue.migrate(0, 5, Some(0));
        queue.migrate(0, 6, Some(1));
        queue.advance(1.0, &mut memories);
        queue.clear();
        assert_eq!((queue.len(), queue.busy(0).len()), (1, 2));
    }

    #[test]
    fn fetches_go_before_migrations_and_cost_what_is_missing() {
        let mut memories = memory(&[0, 1, 9], 3);
        let mut queue = queue();
        queue.migrate(0, 5, Some(0));
        queue.migrate(0, 6, Some(1));
        queue.advance(1.0, &mut memories);
        queue.fetch(0, 9, 16);
        assert!(queue.fetches(0, 9));
        // 99 bytes are left of the first migration, 100 of the fetch.
        queue.advance(99.0 + 25.0, &mut memories);
        assert_eq!((ids(&memories), queue.len()), (vec![1, 5, 9], 2));
        assert!((queue.take(0, 9) - 12.0).abs() < 1e-12);
        assert_eq!((queue.take(0, 9), queue.len()), (0.0, 1));
        queue.fetch(0, 9, 4);
        queue.cancel(0, 9);
        assert_eq!((queue.fetches(0, 9), queue.len()), (false, 1));
    }

    #[test]
    fn what_has_started_is_not_broken_off() {
        let mut memories = memory(&[0, 1, 9], 3);
        let mut queue = queue();
        queue.fetch(0, 9, 16);
        queue.fetch(0, 1, 16);
        assert_eq!(queue.finish(&mut memories), 0.0);
        queue.advance(25.0, &mut memories);
        // Of the two only the one that has not started need not come.
        queue.cancel(0, 9);
        queue.cancel(0, 1);
        assert_eq!((queue.len(), queue.fetches(0, 9), queue.take(0, 9)), (1, false, 0.0));
        assert!((queue.finish(&mut memories) - 12.0).abs() < 1e-12);
        assert_eq!((queue.is_empty(), queue.advance(7.0, &mut memories)), (true, 7.0));
    }

    #[test]
    fn what_yields_makes_way_and_goes_on() {
        let mut memories = memory(&[0, 1, 9], 3);
        let mut queue = Queue::new(1, 4.0, 6.0, 16, true);
        queue.fetch(0, 9, 16);
        queue.fetch(0, 1, 16);
        queue.advance(25.0, &mut memories);
        // What is waited for passes meanwhile, which is nothing to the queue; three quarters are still to come.
        assert_eq!((queue.finish(&mut memories), queue.len()), (0.0, 2));
        assert_eq!((queue.advance(75.0, &mut memories), queue.fetches(0, 9), queue.len()), (0.0, false, 1));
        // Given up under way.
        queue.advance(25.0, &mut memories);
        queue.cancel(0, 1);
        assert_eq!((queue.is_empty(), queue.advance(7.0, &mut memories)), (true, 7.0));
    }

    proptest! {
        /// Never more experts than fit, and all requests end.
        #[test]
        fn residents_never_grow(requests in prop::collection::vec((0u16..12, 0u16..12, 0.0f64..300.0), 0..60)) {
            let mut memories = memory(&[0, 1, 2, 3], 4);
            let mut queue = queue();
            for (load, evict, bytes) in requests {
                let resident = memories[0].resident();
                if !resident.contains(load) && resident.contains(evict) {
                    queue.migrate(0, load, Some(evict));
                }
                queue.advance(bytes, &mut memories);
                prop_assert!(memories[0].resident().len() <= 4);
                prop_assert_eq!(queue.busy(0).len(), 2 * queue.len());
            }
            queue.advance(1e9, &mut memories);
            prop_assert!(queue.is_empty());
            prop_assert_eq!(memories[0].resident().len(), 4);
        }
    }
}
