//! Equal parts of the copies behind decoding for the sequences of a batch, so that none of them takes all.
//!
//! A copy is charged to a sequence that wants it: of those that wanted the expert in the last [`RECENT`] steps, or are
//! forecast to want it next, the one that has most of its part left. So nobody pays for what others alone want, and
//! nobody is refused what they want themselves because others have spent theirs. Where nobody has wanted the expert of
//! late the last one who did answers for it, and where nobody ever has, whoever has most left.

use cptr_core::shares::{Share, Shares};

/// Steps for which a sequence answers for an expert that it wanted: about as long as a context lasts at the least.
const RECENT: u32 = 256;
/// Steps whose copies may be saved up.
const SAVED: f64 = 8.0;

/// What goes on behind decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Migration,
    Fetch,
}

/// What each sequence has of the limits, and what it has wanted.
#[derive(Debug)]
pub(crate) struct Tenants {
    migrations: Shares<Vec<Share>>,
    fetches: Shares<Vec<Share>>,
    /// When each sequence wanted each expert last, `[L, E, S]`; 0: never.
    wanted: Vec<u32>,
    experts: usize,
    sequences: usize,
    step: u32,
}

impl Tenants {
    /// At most `copies` migrations, and as many fetches, a step.
    pub(crate) fn new(copies: f64, layers: usize, experts: usize, sequences: usize) -> Self {
        let burst = (SAVED * copies).ceil() as u32;
        let shares = || Shares::new((copies * 65536.0) as u32, burst, vec![Share::default(); sequences]);
        let wanted = vec![0; layers * experts * sequences];
        Self { migrations: shares(), fetches: shares(), wanted, experts, sequences, step: 0 }
    }

    /// A step begins, of all sequences; of the prompts nothing is saved up.
    pub(crate) fn step(&mut self, prefill: bool) {
        self.step = self.step.saturating_add(1);
        if !prefill {
            self.migrations.step(|_| true);
            self.fetches.step(|_| true);
        }
    }

    /// A sequence wants experts of a layer, or is forecast to.
    pub(crate) fn want(&mut self, layer: usize, sequence: usize, experts: &[u16]) {
        for &expert in experts.iter().filter(|expert| usize::from(**expert) < self.experts) {
            self.wanted[(layer * self.experts + usize::from(expert)) * self.sequences + sequence] = self.step;
        }
    }

    /// Whether somebody who wants an expert may have it copied; a refusal is counted.
    pub(crate) fn admits(&mut self, what: What, layer: usize, expert: u16) -> bool {
        let payer = self.payer(what, layer, expert);
        let shares = self.of(what);
        if shares.of(payer).is_some_and(|share| share.left() > 0) {
            return true;
        }
        // Takes nothing, and counts.
        _ = shares.take(payer);
        false
    }

    /// A copy that was admitted goes on.
    pub(crate) fn charge(&mut self, what: What, layer: usize, expert: u16) {
        let payer = self.payer(what, layer, expert);
        _ = self.of(what).take(payer);
    }

    /// What a sequence has of one of the limits.
    pub(crate) fn share(&self, what: What, sequence: usize) -> Share {
        let shares = match what {
            What::Migration => &self.migrations,
            What::Fetch => &self.fetches,
        };
        shares.of(sequence).copied().unwrap_or_default()
    }

    const fn of(&mut self, what: What) -> &mut Shares<Vec<Share>> {
        match what {
            What::Migration => &mut self.migrations,
            What::Fetch => &mut self.fetches,
        }
    }

    fn payer(&self, what: What, layer: usize, expert: u16) -> usize {
        let first = (layer * self.experts + usize::from(expert)) * self.sequences;
        let wanted = &self.wanted[first..first + self.sequences];
        let last = wanted.iter().copied().max().unwrap_or(0);
        let since = if last > 0 { last.min(self.step.saturating_sub(RECENT)) } else { 0 };
        let claim =
            (0..self.sequences).filter(|&sequence| wanted[sequence] >= since && (last == 0 || wanted[sequence] > 0));
        let shares = match what {
            What::Migration => &self.migrations,
            What::Fetch => &self.fetches,
        };
        shares.richest(claim).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two sequences the first wants expert 0, the second expert 1, both expert 2; nobody wants expert 3.
    fn tenants(copies: f64) -> Tenants {
        let mut tenants = Tenants::new(copies, 1, 4, 2);
        tenants.step(true);
        tenants.want(0, 0, &[0, 2]);
        tenants.want(0, 1, &[1, 2, 7]);
        tenants.step(false);
        tenants
    }

    fn copies(tenants: &mut Tenants, expert: u16, asks: usize) -> usize {
        let one = |_: &usize| {
            let admitted = tenants.admits(What::Migration, 0, expert);
            if admitted {
                tenants.charge(What::Migration, 0, expert);
            }
            admitted
        };
        (0..asks).filter(one).count()
    }

    #[test]
    fn each_pays_for_what_it_wants() {
        // Sixteen copies are saved up, eight for each.
        let mut all = tenants(2.0);
        assert_eq!((copies(&mut all, 0, 20), copies(&mut all, 1, 3)), (8, 3));
        assert_eq!(all.share(What::Migration, 0).refused(), 12);
        assert_eq!(all.share(What::Migration, 1).refused(), 0);
        // What both want goes on as long as one of them has something left.
        assert_eq!((copies(&mut all, 2, 20), copies(&mut all, 0, 1)), (5, 0));
        // One copy each a step; and the other limit is another one.
        all.step(false);
        assert_eq!((copies(&mut all, 3, 9), all.admits(What::Fetch, 0, 0)), (2, true));
        assert_eq!((all.share(What::Migration, 0).taken(), all.share(What::Fetch, 0).taken()), (9, 0));
    }

    #[test]
    fn who_wanted_it_last_answers_for_what_nobody_wants_any_more() {
        let mut all = tenants(1.0);
        all.want(0, 1, &[0]);
        (0..2 * RECENT).for_each(|_| all.step(false));
        assert_eq!((copies(&mut all, 0, 9), all.share(What::Migration, 1).taken()), (4, 4));
        assert_eq!(all.share(What::Migration, 0).taken(), 0);
    }
}
