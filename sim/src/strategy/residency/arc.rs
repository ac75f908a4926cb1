//! Adaptive replacement (Megiddo & Modha, FAST'03): experts used once and those used more often in two lists, and how
//! much of memory the first may take follows from which of the two has lost what is wanted again.

use super::listed::{Listed, Rule, first, take};
use super::{Kind, Make};
use crate::memory::Resident;

pub(super) const KIND: Kind<Make> = Kind::new(
    "arc",
    "on demand; recency or frequency, whichever lost what is wanted again (ARC, FAST'03)",
    Make(|_, setup| Box::new(Listed::new(Arc::default(), setup))),
);

/// The letters of the paper; lists with the least recently used first.
#[derive(Debug, Clone, Default)]
struct Arc {
    c: usize,
    /// Room that T1 should have, 0 to c.
    p: f64,
    /// Resident, used once lately and more often.
    t: [Vec<u16>; 2],
    /// Gone from the same.
    b: [Vec<u16>; 2],
    /// Whether the expert that comes has gone from the second list.
    from_second: bool,
}

impl Arc {
    /// No more than `c` in the first two lists, and `2c` in all. The paper does it before an expert is put in, which
    /// comes to the same.
    fn trim(&mut self) {
        while self.t[0].len() + self.b[0].len() > self.c && !self.b[0].is_empty() {
            self.b[0].remove(0);
        }
        let all = |arc: &Self| arc.t.iter().chain(&arc.b).map(Vec::len).sum::<usize>();
        while all(self) > 2 * self.c && !self.b[1].is_empty() {
            self.b[1].remove(0);
        }
    }
}

impl Rule for Arc {
    fn residents(&self, order: &mut Vec<u16>) {
        order.extend(self.t[1].iter().rev().chain(self.t[0].iter().rev()));
    }

    fn resize(&mut self, room: usize) {
        self.c = room;
        self.p = self.p.min(room as f64);
        self.trim();
    }

    fn coming(&mut self, expert: u16) {
        let (one, two) = (self.b[0].len() as f64, self.b[1].len() as f64);
        self.from_second = self.b[1].contains(&expert);
        if self.from_second {
            self.p = (self.p - (one / two).max(1.0)).max(0.0);
        } else if self.b[0].contains(&expert) {
            self.p = (self.p + (two / one).max(1.0)).min(self.c as f64);
        }
    }

    fn victim(&mut self, free: &Resident) -> Option<u16> {
        let once = self.t[0].len() as f64;
        let from_first = once > self.p || self.from_second && once > 0.0 && once == self.p;
        let lists = if from_first { [0, 1] } else { [1, 0] };
        lists.iter().find_map(|&list| first(&self.t[list], free))
    }

    fn loaded(&mut self, expert: u16) {
        let known = self.b.iter_mut().any(|list| take(list, expert));
        self.t[usize::from(known)].push(expert);
        self.trim();
    }

    fn evicted(&mut self, expert: u16) {
        for (t, b) in self.t.iter_mut().zip(&mut self.b) {
            if take(t, expert) {
                b.push(expert);
            }
        }
    }

    fn used(&mut self, expert: u16, first: bool) {
        let once = take(&mut self.t[0], expert);
        take(&mut self.t[1], expert);
        self.t[usize::from(!(once && first))].push(expert);
    }
}

#[cfg(test)]
mod tests {
    use super::super::listed::testing::{Published, is_published};
    use super::*;

    /// Figure 4 of the paper, line by line.
    #[derive(Default)]
    struct Figure4 {
        c: usize,
        p: f64,
        t1: Vec<u16>,
        t2: Vec<u16>,
        b1: Vec<u16>,
        b2: Vec<u16>,
    }

    impl Figure4 {
        fn replace(&mut self, x: u16) {
            let t1 = self.t1.len() as f64;
            if !self.t1.is_empty() && (self.b2.contains(&x) && t1 == self.p || t1 > self.p) {
                self.b1.push(self.t1.remove(0));
            } else {
                self.b2.push(self.t2.remove(0));
            }
        }
    }

    impl Published for Figure4 {
        fn request(&mut self, x: u16) -> bool {
            let c = self.c;
            if take(&mut self.t1, x) || take(&mut self.t2, x) {
                self.t2.push(x);
                return true;
            }
            if self.b1.contains(&x) {
                let step =
                    if self.b1.len() >= self.b2.len() { 1.0 } else { self.b2.len() as f64 / self.b1.len() as f64 };
                self.p = (self.p + step).min(c as f64);
                self.replace(x);
                take(&mut self.b1, x);
                self.t2.push(x);
                return false;
            }
            if self.b2.contains(&x) {
                let step =
                    if self.b2.len() >= self.b1.len() { 1.0 } else { self.b1.len() as f64 / self.b2.len() as f64 };
                self.p = (self.p - step).max(0.0);
                self.replace(x);
                take(&mut self.b2, x);
                self.t2.push(x);
                return false;
            }
            let (l1, l2) = (self.t1.len() + self.b1.len(), self.t2.len() + self.b2.len());
            if l1 == c {
                if self.t1.len() < c {
                    self.b1.remove(0);
                    self.replace(x);
                } else {
                    self.t1.remove(0);
                }
            } else if l1 + l2 >= c {
                if l1 + l2 == 2 * c {
                    self.b2.remove(0);
                }
                self.replace(x);
            }
            self.t1.push(x);
            false
        }
    }

    #[test]
    fn it_is_the_published_one() {
        is_published("arc", |c| Figure4 { c, ..Figure4::default() });
    }

    /// Two experts used twice, then a long run of others: it does not push them out.
    #[test]
    fn a_scan_takes_the_first_list_only() {
        let mut arc = Figure4 { c: 4, ..Figure4::default() };
        [0, 1, 0, 1].iter().for_each(|&x| _ = arc.request(x));
        (4..20).for_each(|x| assert!(!arc.request(x)));
        assert!(arc.request(0) && arc.request(1));
        assert_eq!((arc.t1, arc.t2), (vec![18, 19], vec![0, 1]));
    }
}
