//! Simple, scalable caching with three queues (Yang et al., SOSP'23): a small queue, out of which only experts that
//! were used again go on into the main one, and the ids of those that did not.

use super::listed::{Listed, Rule, first, take};
use super::{Kind, Make};
use crate::memory::Resident;
use crate::strategy::{Parameter, Unit};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter::new("small", 0.1, Unit::Share, "share of the memory that is the small queue")],
    ..Kind::new(
        "s3-fifo",
        "on demand; out of a small queue goes what was not used again (S3-FIFO, SOSP'23)",
        Make(|values, setup| Box::new(Listed::new(S3Fifo { share: values.get("small"), ..S3Fifo::default() }, setup))),
    )
};

/// Queues with the oldest first.
#[derive(Debug, Clone, Default)]
struct S3Fifo {
    share: f64,
    room: usize,
    small: Vec<u16>,
    main: Vec<u16>,
    ghosts: Vec<u16>,
    /// Uses of each resident expert since it came, or moved on, at most 3.
    uses: Vec<u8>,
}

impl S3Fifo {
    fn uses(&mut self, expert: u16) -> &mut u8 {
        let at = usize::from(expert);
        if self.uses.len() <= at {
            self.uses.resize(at + 1, 0);
        }
        &mut self.uses[at]
    }

    /// Room of the main queue, as of the ghosts.
    fn main_room(&self) -> usize {
        self.room - (self.share * self.room as f64).round() as usize
    }

    /// The oldest of the main queue that was not used; uses let it go round.
    fn victim_of_main(&mut self, free: &Resident) -> Option<u16> {
        loop {
            let expert = first(&self.main, free)?;
            let uses = self.uses(expert);
            if *uses == 0 {
                return Some(expert);
            }
            *uses -= 1;
            take(&mut self.main, expert);
            self.main.push(expert);
        }
    }

    /// The oldest of the small queue that was used no more than once; the others move on.
    fn victim_of_small(&mut self, free: &Resident) -> Option<u16> {
        loop {
            let expert = first(&self.small, free)?;
            if *self.uses(expert) <= 1 {
                return Some(expert);
            }
            take(&mut self.small, expert);
            *self.uses(expert) = 0;
            self.main.push(expert);
            if self.main.len() > self.main_room() {
                return self.victim_of_main(free);
            }
        }
    }
}

impl Rule for S3Fifo {
    fn residents(&self, order: &mut Vec<u16>) {
        order.extend(self.main.iter().rev().chain(self.small.iter().rev()));
    }

    fn resize(&mut self, room: usize) {
        self.room = room;
    }

    fn victim(&mut self, free: &Resident) -> Option<u16> {
        if self.small.len() as f64 >= self.share * self.room as f64 {
            self.victim_of_small(free).or_else(|| self.victim_of_main(free))
        } else {
            self.victim_of_main(free).or_else(|| self.victim_of_small(free))
        }
    }

    fn loaded(&mut self, expert: u16) {
        *self.uses(expert) = 0;
        let known = take(&mut self.ghosts, expert);
        if known { &mut self.main } else { &mut self.small }.push(expert);
    }

    fn evicted(&mut self, expert: u16) {
        if take(&mut self.small, expert) {
            self.ghosts.push(expert);
            while self.ghosts.len() > self.main_room() {
                self.ghosts.remove(0);
            }
        }
        take(&mut self.main, expert);
    }

    fn used(&mut self, expert: u16, first: bool) {
        let uses = self.uses(expert);
        *uses = (*uses + u8::from(!first)).min(3);
    }
}

#[cfg(test)]
mod tests {
    use super::super::listed::testing::{Published, is_published};
    use std::collections::VecDeque;

    /// Algorithm 1 of the paper, one expert going for one that comes, as in the authors' program. Queues with the
    /// head at the back.
    #[derive(Default)]
    struct Algorithm1 {
        size: usize,
        s: VecDeque<(u16, u8)>,
        m: VecDeque<(u16, u8)>,
        g: VecDeque<u16>,
    }

    impl Algorithm1 {
        fn tenth(&self) -> f64 {
            0.1 * self.size as f64
        }

        fn main_size(&self) -> usize {
            self.size - self.tenth().round() as usize
        }

        fn evict_main(&mut self) {
            while let Some((x, uses)) = self.m.pop_front() {
                if uses == 0 {
                    return;
                }
                self.m.push_back((x, uses - 1));
            }
        }

        fn evict_small(&mut self) {
            while let Some((x, uses)) = self.s.pop_front() {
                if uses <= 1 {
                    self.g.push_back(x);
                    if self.g.len() > self.main_size() {
                        self.g.pop_front();
                    }
                    return;
                }
                self.m.push_back((x, 0));
                if self.m.len() > self.main_size() {
                    return self.evict_main();
                }
            }
            self.evict_main();
        }
    }

    impl Published for Algorithm1 {
        fn request(&mut self, x: u16) -> bool {
            if let Some((_, uses)) = self.s.iter_mut().chain(&mut self.m).find(|(other, _)| *other == x) {
                *uses = (*uses + 1).min(3);
                return true;
            }
            if self.s.len() + self.m.len() == self.size {
                if self.s.len() as f64 >= self.tenth() { self.evict_small() } else { self.evict_main() }
            }
            if let Some(at) = self.g.iter().position(|&other| other == x) {
                self.g.remove(at);
                self.m.push_back((x, 0));
            } else {
                self.s.push_back((x, 0));
            }
            false
        }
    }

    #[test]
    fn it_is_the_published_one() {
        is_published("s3-fifo", |size| Algorithm1 { size, ..Algorithm1::default() });
    }

    /// Used twice after it came, an expert outlives a run of others; used once, it does not.
    #[test]
    fn one_hit_is_not_enough() {
        let mut memory = Algorithm1 { size: 10, ..Algorithm1::default() };
        [0, 0, 0, 1, 1].iter().for_each(|&x| _ = memory.request(x));
        (2..20).for_each(|x| assert!(!memory.request(x)));
        assert!(memory.request(0) && !memory.request(1));
    }
}
