//! Counters that a controller keeps: what the filter does to switching and to misses.

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
    /// Counts one token: how many experts it chose, those of them that its predecessor did not run (`None` at the start
    /// of a sequence), that were not resident before anything was loaded for it (`misses`), and that stood in.
    pub fn count(
        &mut self,
        chosen: usize,
        switches: Option<usize>,
        misses: usize,
        substituted: usize,
        lost_lock: bool,
    ) {
        let add = |counter: &mut u64, count: usize| *counter = counter.saturating_add(count as u64);
        add(&mut self.tokens, 1);
        add(&mut self.runs, chosen);
        add(&mut self.misses, misses);
        add(&mut self.substituted, substituted);
        add(&mut self.lost_locks, usize::from(lost_lock));
        if let Some(switches) = switches {
            add(&mut self.runs_with_predecessor, chosen);
            add(&mut self.switches, switches);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        let mut metrics = Metrics::default();
        metrics.count(2, None, 1, 0, false);
        metrics.count(2, Some(1), 2, 1, true);
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
        full.count(1, None, 1, 0, false);
        assert_eq!(full.misses, u64::MAX);
    }
}
