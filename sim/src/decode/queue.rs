//! Copies into GPU memory that go on behind decoding.

use std::collections::VecDeque;

use crate::placement::Resident;

/// One expert on its way into GPU memory, in place of another.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Copy {
    layer: usize,
    load: u16,
    evict: u16,
    /// Bytes still to come.
    left: f64,
    started: bool,
}

/// Copies in the order in which they were asked for; one at a time is under way.
///
/// The expert that makes room is gone from the moment its successor's copy starts; the new one is there when its copy has ended.
#[derive(Debug)]
pub struct Queue {
    copies: VecDeque<Copy>,
    bytes: f64,
    busy: Vec<Resident>,
    /// Copies that have ended.
    pub done: u64,
}

impl Queue {
    /// No copies; each takes `bytes` bytes on the link, its start included.
    pub fn new(layers: usize, bytes: f64) -> Self {
        Self { copies: VecDeque::new(), bytes, busy: vec![Resident::new(); layers], done: 0 }
    }

    /// Copies waiting and under way.
    pub fn len(&self) -> usize {
        self.copies.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// Experts of a layer that come or go.
    pub fn busy(&self, layer: usize) -> &Resident {
        &self.busy[layer]
    }

    /// Asks for `load` in place of `evict`. Ignored where one of the two is in another copy.
    pub fn request(&mut self, layer: usize, load: u16, evict: u16) {
        let busy = &mut self.busy[layer];
        if busy.contains(load) || busy.contains(evict) || load == evict {
            return;
        }
        busy.insert(load);
        busy.insert(evict);
        self.copies.push_back(Copy { layer, load, evict, left: self.bytes, started: false });
    }

    /// Forgets the copies that have not started.
    pub fn clear(&mut self) {
        while let Some(copy) = self.copies.back().copied().filter(|copy| !copy.started) {
            self.busy[copy.layer].remove(copy.load);
            self.busy[copy.layer].remove(copy.evict);
            self.copies.pop_back();
        }
    }

    /// What a layer holds once the copies under way have ended.
    pub fn resident(&self, layer: usize, now: &Resident) -> Resident {
        let mut resident = *now;
        for copy in self.copies.iter().filter(|copy| copy.layer == layer && copy.started) {
            resident.remove(copy.evict);
            resident.insert(copy.load);
        }
        resident
    }

    /// Starts the next copy if none is under way.
    pub fn start(&mut self, resident: &mut [Resident]) {
        if let Some(copy) = self.copies.front_mut().filter(|copy| !copy.started) {
            copy.started = true;
            resident[copy.layer].remove(copy.evict);
        }
    }

    /// `bytes` more have passed.
    pub fn advance(&mut self, mut bytes: f64, resident: &mut [Resident]) {
        while bytes > 0.0 {
            self.start(resident);
            let Some(copy) = self.copies.front_mut() else { return };
            if copy.left > bytes {
                copy.left -= bytes;
                return;
            }
            bytes -= copy.left;
            resident[copy.layer].insert(copy.load);
            self.busy[copy.layer].remove(copy.load);
            self.busy[copy.layer].remove(copy.evict);
            self.copies.pop_front();
            self.done += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(ids: &[u16]) -> Resident {
        let mut set = Resident::new();
        ids.iter().for_each(|&id| {
            set.insert(id);
        });
        set
    }

    #[test]
    fn room_is_made_at_the_start_and_taken_at_the_end() {
        let mut resident = [set(&[0, 1])];
        let mut queue = Queue::new(1, 100.0);
        queue.request(0, 5, 0);
        queue.request(0, 5, 1);
        queue.request(0, 6, 0);
        assert_eq!(queue.len(), 1);
        assert!(resident[0].contains(0));
        queue.advance(40.0, &mut resident);
        assert!(!resident[0].contains(0) && !resident[0].contains(5) && queue.busy(0).contains(5));
        assert_eq!(queue.resident(0, &resident[0]), set(&[1, 5]));
        queue.request(0, 7, 1);
        queue.advance(100.0, &mut resident);
        assert_eq!((resident[0], queue.done), (set(&[5]), 1));
        queue.advance(60.0, &mut resident);
        assert_eq!((resident[0], queue.done, queue.is_empty()), (set(&[5, 7]), 2, true));
        assert!(queue.busy(0).is_empty());
    }

    #[test]
    fn what_has_not_started_can_be_forgotten() {
        let mut resident = [set(&[0, 1])];
        let mut queue = Queue::new(1, 100.0);
        queue.request(0, 5, 0);
        queue.request(0, 6, 1);
        queue.advance(1.0, &mut resident);
        queue.clear();
        assert_eq!((queue.len(), queue.busy(0).len()), (1, 2));
    }

    proptest! {
        /// Never more experts than there were, and all requests end.
        #[test]
        fn residents_never_grow(requests in prop::collection::vec((0u16..12, 0u16..12, 0.0f64..300.0), 0..60)) {
            let mut resident = [set(&[0, 1, 2, 3])];
            let mut queue = Queue::new(1, 100.0);
            for (load, evict, bytes) in requests {
                if !resident[0].contains(load) && resident[0].contains(evict) {
                    queue.request(0, load, evict);
                }
                queue.advance(bytes, &mut resident);
                prop_assert!(resident[0].len() <= 4);
                prop_assert_eq!(queue.busy(0).len(), 2 * queue.len());
            }
            queue.advance(1e9, &mut resident);
            prop_assert!(queue.is_empty() && resident[0].len() == 4);
        }
    }
}
