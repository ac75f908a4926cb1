//! How far an expert may be silenced.

use fixed::types::U4F28;

use crate::num::Eps;
use crate::set::Experts;

/// Sees to it that of the tokens that want an expert at least a share run it.
///
/// A bound on what a token loses says nothing of one expert: of one that is never resident, all tokens that want it may
/// do without, and whoever knows that can silence it. So each expert has a credit: a token that runs it adds `1 -
/// share`, one that wants it and does not takes `share` off, and where the credit does not last for that the expert has
/// to run. So **of the tokens so far that wanted an expert, `share` or more ran it**, whatever came. The credit is at
/// most that of [`Floor::MOST`] stand-ins in a row: a long time of running does not pay for as long a silence.
///
/// The share is rounded up to a multiple of 2^-28, at most 1. Memory: 4 bytes an expert, the caller's; all zeros are a
/// new layer. Cost: a step per wanted expert, and a word per 32 experts.
///
/// ```
/// use cptr_core::select::{Floor, select_in_place};
/// use cptr_core::{Eps, ExpertSet, Logit, Router};
///
/// let (router, logits) = (Router::softmax_all(1), [1.0, 0.9].map(Logit::from_num));
/// let mut resident = ExpertSet::<1>::new();
/// assert!(resident.insert(1));
/// let mut credits = [0u32; 2];
/// let mut floor = Floor::new(Eps::from_num(0.25), &mut credits);
/// let mut ran = [false; 8];
/// for ran in &mut ran {
///     let (wanted, mut guarded) = ([0], resident);
///     floor.guard(&wanted, &mut guarded);
///     let mut chosen = wanted;
///     select_in_place(&router, Eps::from_num(0.5), 0, &logits, &mut chosen, &guarded)?;
///     floor.learn(&wanted, &chosen);
///     *ran = chosen == wanted;
/// }
/// // Expert 0 is loaded for every fourth token, though expert 1 could always stand in.
/// assert_eq!(ran, [true, false, false, false, true, false, false, false]);
/// # Ok::<(), cptr_core::SelectError>(())
/// ```
#[derive(Debug)]
pub struct Floor<'a> {
    /// Of the tokens that want an expert.
    share: u32,
    /// By expert, 2^-28.
    credits: &'a mut [u32],
}

impl<'a> Floor<'a> {
    /// Stand-ins in a row, at most.
    pub const MOST: u32 = 8;

    /// A floor over the experts of a layer, whose credits go on from earlier tokens. Experts behind the end of the
    /// credits have no floor.
    pub fn new(share: Eps, credits: &'a mut [u32]) -> Self {
        // Below 2^28 + 1.
        Self { share: share.to_bits().div_ceil(1 << (Eps::FRAC_NBITS - U4F28::FRAC_NBITS)), credits }
    }

    /// Adds to the resident experts those of the wanted that have to run, so that nothing stands in for them.
    pub fn guard(&self, wanted: &[u16], resident: &mut Experts) {
        for &expert in wanted {
            if self.credits.get(usize::from(expert)).is_some_and(|&credit| credit < self.share) {
                resident.insert(expert);
            }
        }
    }

    /// Takes in what a token wanted and what it ran.
    pub fn learn(&mut self, wanted: &[u16], chosen: &[u16]) {
        let most = self.share.wrapping_mul(Self::MOST);
        for &expert in wanted {
            if let Some(credit) = self.credits.get_mut(usize::from(expert)) {
                *credit = if chosen.contains(&expert) {
                    credit.saturating_add(U4F28::ONE.to_bits().wrapping_sub(self.share)).min(most)
                } else {
                    credit.saturating_sub(self.share)
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::select_in_place;
    use super::*;
    use crate::{ExpertSet, Logit, Router};
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        /// Whatever comes, in whole numbers: ran / wanted >= share, after every token and for every expert; and a floor
        /// of 0 changes nothing.
        #[test]
        fn no_expert_is_silenced_below_the_floor(
            rows in prop::collection::vec(prop::collection::vec(-4.0f32..4.0, 8), 1..200),
            residents in any::<u8>(), share in any::<u32>(),
        ) {
            let mut resident = ExpertSet::<1>::new();
            (0..8).filter(|expert| residents >> expert & 1 != 0).for_each(|expert| _ = resident.insert(expert));
            let (router, share) = (Router::softmax_all(3), Eps::from_bits(share));
            let (mut credits, mut none, mut counts) = ([0; 8], [0; 8], [[0u64; 2]; 8]);
            for row in rows {
                let logits: Vec<Logit> = row.into_iter().map(Logit::from_num).collect();
                let wanted = router.top_k::<3>(&logits).unwrap();
                let run = |floor: &mut Floor<'_>| {
                    let (mut chosen, mut guarded) = (wanted.clone(), resident);
                    floor.guard(&wanted, &mut guarded);
                    select_in_place(&router, Eps::MAX, 0, &logits, &mut chosen, &guarded).unwrap();
                    floor.learn(&wanted, &chosen);
                    chosen
                };
                let mut free = wanted.clone();
                select_in_place(&router, Eps::MAX, 0, &logits, &mut free, &resident).unwrap();
                prop_assert_eq!(run(&mut Floor::new(Eps::ZERO, &mut none)), free);
                let chosen = run(&mut Floor::new(share, &mut credits));
                for &expert in &wanted {
                    let [wanted, ran] = &mut counts[usize::from(expert)];
                    *wanted += 1;
                    *ran += u64::from(chosen.contains(&expert));
                    let least = *wanted * u64::from(share.to_bits());
                    prop_assert!(*ran << 32 >= least, "{}: {} of {}", expert, ran, wanted);
                }
            }
        }
    }

    #[test]
    fn experts_without_credit_have_no_floor() {
        let mut credits = [0; 1];
        let mut floor = Floor::new(Eps::MAX, &mut credits);
        let mut resident = ExpertSet::<1>::new();
        floor.guard(&[0, 1], &mut resident);
        assert!(resident.contains(0) && !resident.contains(1));
        floor.learn(&[0, 1], &[1]);
        assert_eq!(credits, [0]);
    }
}
