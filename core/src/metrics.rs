//! Counters that a controller keeps: what the filter does to switching and to misses.

use crate::set::Experts;

/// Counters of one layer; all saturate. The rates that matter are quotients of two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metrics {
    /// Tokens counted.
    pub tokens: u64,
    /// Experts run.
    pub runs: u64,
    /// Experts run that were not resident.
    pub misses: u64,
    /// Experts run that stood in for a wanted one.
    pub substituted: u64,
    /// Experts run by tokens that have a predecessor.
    pub runs_with_predecessor: u64,
    /// Of those, experts that the predecessor did not run.
    pub switches: u64,
    /// Losses of lock: changes of context.
    pub lost_locks: u64,
}

impl Metrics {
    /// Counts one token: the experts it `chose`, those its predecessor `previous`ly chose (empty at the start of a
    /// sequence), and what was `resident` before anything was loaded for it.
    pub fn count(&mut self, chosen: &[u16], previous: &[u16], resident: &Experts, substituted: usize, lost_lock: bool) {
        let add = |counter: &mut u64, count: usize| *counter = counter.saturating_add(count as u64);
        add(&mut self.tokens, 1);
        add(&mut self.runs, chosen.len());
        add(&mut self.misses, chosen.iter().filter(|&&expert| !resident.contains(expert)).count());
        add(&mut self.substituted, substituted);
        add(&mut self.lost_locks, usize::from(lost_lock));
        if !previous.is_empty() {
            add(&mut self.runs_with_predecessor, chosen.len());
            add(&mut self.switches, chosen.iter().filter(|expert| !previous.contains(expert)).count());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::ExpertSet;

    #[test]
    fn counts_by_hand() {
        let mut resident = ExpertSet::<1>::new();
        resident.insert(1);
        let mut metrics = Metrics::default();
        metrics.count(&[1, 2], &[], &resident, 0, false);
        metrics.count(&[2, 3], &[1, 2], &resident, 1, true);
        let expected = Metrics {
            tokens: 2,
            runs: 4,
            misses: 3,
            substituted: 1,
            runs_with_predecessor: 2,
            switches: 1,
            lost_locks: 1,
        };
        assert_eq!(metrics, expected);
        let mut full = Metrics { misses: u64::MAX, ..Metrics::default() };
        full.count(&[2], &[], &resident, 0, false);
        assert_eq!(full.misses, u64::MAX);
    }
}
