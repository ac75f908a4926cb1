//! SIEVE (Zhang et al., NSDI'24): a queue in the order of loading, and a hand that goes from old to new and takes the
//! first expert that was not used since it came by.

use super::listed::{Listed, Rule};
use super::{Kind, Make};
use crate::memory::Resident;

pub(super) const KIND: Kind<Make> = Kind::new(
    "sieve",
    "on demand; a hand goes from old to new and takes what was not used since it came by (SIEVE, NSDI'24)",
    Make(|_, setup| Box::new(Listed::new(Sieve::default(), setup))),
);

#[derive(Debug, Clone, Default)]
struct Sieve {
    /// The oldest first, and whether each was used since the hand came by.
    queue: Vec<(u16, bool)>,
    /// Where it stands; the oldest where there is nobody.
    hand: usize,
}

impl Rule for Sieve {
    fn residents(&self, order: &mut Vec<u16>) {
        let visited = self.queue.iter().rev().filter(|(_, visited)| *visited);
        order.extend(visited.chain(self.queue.iter().rev().filter(|(_, visited)| !*visited)).map(|(expert, _)| expert));
    }

    fn resize(&mut self, _: usize) {}

    fn victim(&mut self, free: &Resident) -> Option<u16> {
        // Twice round: once to find all used, once to take one.
        for _ in 0..=2 * self.queue.len() {
            if self.hand >= self.queue.len() {
                self.hand = 0;
            }
            let (expert, visited) = self.queue.get_mut(self.hand)?;
            if free.contains(*expert) && !std::mem::take(visited) {
                return Some(*expert);
            }
            self.hand += 1;
        }
        None
    }

    fn loaded(&mut self, expert: u16) {
        // Behind the newest there is nobody, whoever comes next.
        if self.hand >= self.queue.len() {
            self.hand = 0;
        }
        self.queue.push((expert, false));
    }

    fn evicted(&mut self, expert: u16) {
        let Some(at) = self.queue.iter().position(|(other, _)| *other == expert) else { return };
        self.queue.remove(at);
        // The hand stays where it is: on the next newer one.
        self.hand -= usize::from(at < self.hand);
    }

    fn used(&mut self, expert: u16, first: bool) {
        if let Some((_, visited)) = self.queue.iter_mut().find(|(other, _)| *other == expert) {
            *visited |= !first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::listed::testing::{Published, is_published};

    /// Algorithm 1 of the paper, with a list of (expert, visited), the head last.
    struct Algorithm1 {
        capacity: usize,
        list: Vec<(u16, bool)>,
        hand: Option<u16>,
    }

    impl Algorithm1 {
        fn new(capacity: usize) -> Self {
            Self { capacity, list: Vec::new(), hand: None }
        }

        /// The one nearer to the head; none beside the head.
        fn previous(&self, o: u16) -> Option<u16> {
            let at = self.list.iter().position(|(x, _)| *x == o).unwrap();
            self.list.get(at + 1).map(|(x, _)| *x)
        }
    }

    impl Published for Algorithm1 {
        fn request(&mut self, x: u16) -> bool {
            if let Some((_, visited)) = self.list.iter_mut().find(|(other, _)| *other == x) {
                *visited = true;
                return true;
            }
            if self.list.len() == self.capacity {
                let tail = self.list[0].0;
                let mut o = self.hand.unwrap_or(tail);
                loop {
                    let (_, visited) = self.list.iter_mut().find(|(other, _)| *other == o).unwrap();
                    if !std::mem::replace(visited, false) {
                        break;
                    }
                    o = self.previous(o).unwrap_or(tail);
                }
                self.hand = self.previous(o);
                self.list.retain(|(other, _)| *other != o);
            }
            self.list.push((x, false));
            false
        }
    }

    #[test]
    fn it_is_the_published_one() {
        is_published("sieve", Algorithm1::new);
    }

    /// Traced by hand: A to G come, A, B and G are used again. H: the hand passes A and B and takes C. A is used, D is
    /// there, I takes E.
    #[test]
    fn the_hand_by_hand() {
        let mut sieve = Algorithm1::new(7);
        (0..7).for_each(|x| assert!(!sieve.request(x)));
        assert!([0, 1, 6].iter().all(|&x| sieve.request(x)));
        assert!(!sieve.request(7) && sieve.hand == Some(3));
        assert!(sieve.request(0) && sieve.request(3) && !sieve.request(8));
        let left: Vec<u16> = sieve.list.iter().map(|(x, _)| *x).collect();
        assert_eq!((left, sieve.hand), (vec![0, 1, 3, 5, 6, 7, 8], Some(5)));
    }
}
