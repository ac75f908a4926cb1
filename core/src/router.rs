//! Router adapters: how each family of models turns logits into a choice of experts and into mixing weights.
//!
//! | model family | constructor | scoring | chosen by | weights |
//! |---|---|---|---|---|
//! | Switch (arXiv 2101.03961) | [`Router::switch`] | softmax over all | top-1 | not renormalised |
//! | GLaM (arXiv 2112.06905) | [`Router::glam`] | softmax | top-2 | sum to 1 |
//! | Mixtral (arXiv 2401.04088) | [`Router::mixtral`] | softmax | top-2 | sum to 1 |
//! | gpt-oss | [`Router::gpt_oss`] | softmax | top-4 | sum to 1 |
//! | OLMoE (arXiv 2409.02060), DeepSeek-V2-Lite, Qwen1.5-MoE | [`Router::softmax_all`] | softmax over all | top-k | not renormalised |
//! | Qwen3-MoE, Mixtral and kin | [`Router::softmax_selected`] | softmax | top-k | sum to 1 |
//! | DeepSeek-V3 (arXiv 2412.19437) | [`Router::deepseek_v3`] | sigmoid | top-k of score + bias inside the best groups | sum to 1 |
//! | ids without scores | [`Router::ids_only`] | - | as recorded | - |

use core::fmt;

use heapless::Vec;

use crate::num::{Gate, Logit, Share, exp_neg_bits, sigmoid};
use crate::topk::Best;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scoring {
    Softmax,
    Sigmoid,
}

/// Most groups that a grouped router may have.
pub const MAX_GROUPS: usize = 32;

/// A router convention with its sizes; the selection bias stays in the caller's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router<'a> {
    k: usize,
    scoring: Scoring,
    renormalise: bool,
    groups: usize,
    top_groups: usize,
    bias: &'a [Logit],
}

/// Why a router cannot choose.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouterError {
    /// The list of chosen experts cannot hold k entries.
    Capacity,
    /// There are fewer logits, or fewer in the selected groups, than experts to choose, or more than 65,536.
    Experts,
    /// The bias has not one entry per logit.
    Bias,
    /// The groups do not divide the experts, are more than [`MAX_GROUPS`], or fewer than the groups to take.
    Groups,
    /// A recorded expert id is out of range or stands twice.
    Id,
}

impl fmt::Display for RouterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Capacity => "the list of chosen experts is too short for k",
            Self::Experts => "fewer experts than the router must choose",
            Self::Bias => "the selection bias has not one entry per expert",
            Self::Groups => "the groups do not fit the experts",
            Self::Id => "an expert id is out of range or stands twice",
        })
    }
}

impl core::error::Error for RouterError {}

impl<'a> Router<'a> {
    const fn softmax(k: usize, renormalise: bool) -> Self {
        Self { k, scoring: Scoring::Softmax, renormalise, groups: 1, top_groups: 1, bias: &[] }
    }

    /// Softmax over all experts, then the k largest; weights sum to less than 1.
    pub const fn softmax_all(k: usize) -> Self {
        Self::softmax(k, false)
    }

    /// The k largest logits, softmax over them.
    pub const fn softmax_selected(k: usize) -> Self {
        Self::softmax(k, true)
    }

    /// Switch Transformer: top-1 of a softmax over all experts.
    pub const fn switch() -> Self {
        Self::softmax_all(1)
    }

    /// GLaM: top-2, weights renormalised over the two.
    pub const fn glam() -> Self {
        Self::softmax_selected(2)
    }

    /// Mixtral: softmax over the two largest.
    pub const fn mixtral() -> Self {
        Self::softmax_selected(2)
    }

    /// gpt-oss: softmax over the four largest.
    pub const fn gpt_oss() -> Self {
        Self::softmax_selected(4)
    }

    /// Sigmoid scores; `bias` (one entry per expert, or none) is added for the selection only; the experts are cut into
    /// `groups` of equal size, ranked by the sum of their two best biased scores, of which `top_groups` take part.
    pub const fn sigmoid_grouped(k: usize, groups: usize, top_groups: usize, bias: &'a [Logit]) -> Self {
        Self { k, scoring: Scoring::Sigmoid, renormalise: true, groups, top_groups, bias }
    }

    /// DeepSeek-V3: top-8 of 256 experts in 4 of 8 groups.
    pub const fn deepseek_v3(bias: &'a [Logit]) -> Self {
        Self::sigmoid_grouped(8, 8, 4, bias)
    }

    /// Experts per token.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// The experts that the model wants, best first; of equal scores the lower id ranks higher.
    ///
    /// Cost: one pass over the logits for softmax routers (which need no exponential here), one sigmoid per expert otherwise.
    ///
    /// # Errors
    /// See [`RouterError`].
    pub fn top_k<const K: usize>(&self, logits: &[Logit]) -> Result<Vec<u16, K>, RouterError> {
        self.check::<K>(logits)?;
        let best = match self.scoring {
            Scoring::Softmax => {
                let mut best = Best::<Logit, K>::new(self.k);
                best.offer_all(logits.iter().enumerate().map(|(expert, &logit)| (logit, expert as u16)));
                best.ids()
            }
            Scoring::Sigmoid => self.grouped(logits),
        };
        if best.len() == self.k { Ok(best) } else { Err(RouterError::Experts) }
    }

    fn check<const K: usize>(&self, logits: &[Logit]) -> Result<(), RouterError> {
        if self.k > K {
            return Err(RouterError::Capacity);
        }
        if logits.len() < self.k || logits.len() > 1 << 16 {
            return Err(RouterError::Experts);
        }
        if !self.bias.is_empty() && self.bias.len() != logits.len() {
            return Err(RouterError::Bias);
        }
        let fits = self.groups >= 1 && self.groups <= MAX_GROUPS && self.top_groups <= self.groups;
        if fits && logits.len().is_multiple_of(self.groups) { Ok(()) } else { Err(RouterError::Groups) }
    }

    /// Sigmoid plus bias, 31 fraction bits.
    fn biased(&self, expert: usize, logit: Logit) -> i64 {
        let bias = self.bias.get(expert).map_or(0, |bias| i64::from(bias.to_bits()) << 15);
        i64::from(sigmoid(logit).to_bits()) + bias
    }

    fn grouped<const K: usize>(&self, logits: &[Logit]) -> Vec<u16, K> {
        let size = logits.len() / self.groups;
        let mut groups = Best::<i64, MAX_GROUPS>::new(self.top_groups);
        if self.groups > 1 {
            for (group, index) in logits.chunks_exact(size.max(1)).zip(0u16..) {
                let mut two = Best::<i64, 2>::new(2);
                for (i, &logit) in group.iter().enumerate() {
                    two.offer(self.biased(usize::from(index) * size + i, logit), 0);
                }
                groups.offer(two.entries().iter().map(|(score, _)| score).sum(), index);
            }
        } else {
            groups.offer(0, 0);
        }
        let open = groups.entries().iter().fold(0u32, |open, &(_, group)| open | 1 << (group % 32));
        // In ascending order, as the lower id wins a tie.
        let mut best = Best::<i64, K>::new(self.k);
        for (expert, &logit) in logits.iter().enumerate() {
            if open >> ((expert / size.max(1)) % 32) & 1 != 0 {
                best.offer(self.biased(expert, logit), expert as u16);
            }
        }
        best.ids()
    }

    /// Takes a recorded list of ids as the choice, after checking that the ids are below `experts` and distinct.
    ///
    /// # Errors
    /// [`RouterError::Capacity`], [`RouterError::Id`].
    pub fn ids_only<const K: usize>(ids: &[u16], experts: usize) -> Result<Vec<u16, K>, RouterError> {
        Self::check_ids(ids, experts)?;
        Vec::from_slice(ids).map_err(|_| RouterError::Capacity)
    }

    /// Whether a list of ids may be a choice: all below `experts` and distinct. Cost: a comparison for each pair.
    ///
    /// # Errors
    /// [`RouterError::Id`].
    pub fn check_ids(ids: &[u16], experts: usize) -> Result<(), RouterError> {
        let mut rest = ids;
        while let [id, others @ ..] = rest {
            if usize::from(*id) >= experts || others.contains(id) {
                return Err(RouterError::Id);
            }
            rest = others;
        }
        Ok(())
    }

    /// Routing mass of an expert before any normalisation: `exp(logit - largest)` for softmax routers, with `largest` the
    /// largest logit that takes part (one above it counts as it); the sigmoid of the logit otherwise.
    #[inline]
    pub fn mass(&self, logit: Logit, largest: Logit) -> Gate {
        match self.scoring {
            Scoring::Softmax => softmax_mass(logit, largest),
            Scoring::Sigmoid => sigmoid(logit),
        }
    }

    /// Whether masses depend on the largest logit.
    #[inline]
    pub(crate) const fn compares(&self) -> bool {
        matches!(self.scoring, Scoring::Softmax)
    }

    /// What a mass is divided by to be a mixing weight: the mass of all experts, or `wanted_mass` where the router renormalises. One
    /// exponential for every expert in the first case; scores above `largest` count as `largest`.
    pub(crate) fn total_mass(&self, logits: &[Logit], wanted_mass: u64, largest: Logit) -> u64 {
        if self.renormalise {
            return wanted_mass;
        }
        logits.iter().map(|&logit| u64::from(self.mass(logit.min(largest), largest).to_bits())).sum()
    }

    /// Mixing weights of `chosen` from the raw scores, in the order of `chosen`; entries of `weights` beyond it stay as they are.
    ///
    /// Rounded down, absolute error below 2^-24 for up to 1,024 experts. Two 32-bit divisions for each chosen expert; an exponential for
    /// every expert only where the convention sums over all. Ids out of range weigh 0.
    pub fn weights(&self, logits: &[Logit], chosen: &[u16], weights: &mut [Gate]) {
        let largest = logits.iter().copied().max().unwrap_or(Logit::ZERO);
        let mass = |expert: u16| logits.get(usize::from(expert)).map_or(Gate::ZERO, |&logit| self.mass(logit, largest));
        let sum: u64 = if self.renormalise {
            chosen.iter().map(|&expert| u64::from(mass(expert).to_bits())).sum()
        } else {
            logits.iter().map(|&logit| u64::from(self.mass(logit, largest).to_bits())).sum()
        };
        let share = Share::of(sum);
        for (weight, &expert) in weights.iter_mut().zip(chosen) {
            *weight = Gate::from_bits(share.share(mass(expert).to_bits().into()));
        }
    }
}

/// [`Router::mass`] of softmax routers.
#[inline(always)]
pub(crate) fn softmax_mass(logit: Logit, largest: Logit) -> Gate {
    if logit >= largest {
        return Gate::ONE;
    }
    // The difference may need 32 bits without a sign.
    Gate::from_bits(exp_neg_bits(largest.to_bits().wrapping_sub(logit.to_bits()).cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec as StdVec;

    fn logits(values: &[f64]) -> StdVec<Logit> {
        values.iter().map(|&v| Logit::saturating_from_num(v)).collect()
    }

    fn weights(router: &Router<'_>, logits: &[Logit], chosen: &[u16]) -> StdVec<f64> {
        let mut weights = std::vec![Gate::ZERO; chosen.len()];
        router.weights(logits, chosen, &mut weights);
        weights.iter().map(|w| w.to_num()).collect()
    }

    #[test]
    fn conventions_differ_in_their_weights() {
        let z = logits(&[1.0, 3.0, 2.0, -1.0]);
        let exp: StdVec<f64> = [1.0f64, 3.0, 2.0, -1.0].iter().map(|v| v.exp()).collect();
        let (top, all) = (exp[1] + exp[2], exp.iter().sum::<f64>());
        assert_eq!(Router::mixtral().top_k::<2>(&z).unwrap(), [1, 2]);
        for (router, sum) in [(Router::mixtral(), top), (Router::glam(), top), (Router::softmax_all(2), all)] {
            let w = weights(&router, &z, &[1, 2]);
            assert!((w[0] - exp[1] / sum).abs() < 1e-7 && (w[1] - exp[2] / sum).abs() < 1e-7, "{router:?} {w:?}");
        }
        assert_eq!(Router::switch().top_k::<1>(&z).unwrap(), [1]);
        assert!((weights(&Router::switch(), &z, &[1])[0] - exp[1] / all).abs() < 1e-7);
    }

    /// The published routing of DeepSeek-V3 written out in floating point, as an oracle.
    fn deepseek_oracle(z: &[f64], bias: &[f64], k: usize, groups: usize, top_groups: usize) -> StdVec<u16> {
        let score: StdVec<f64> = z.iter().zip(bias).map(|(z, b)| 1.0 / (1.0 + (-z).exp()) + b).collect();
        let size = z.len() / groups;
        let rank = |values: &[f64]| {
            let mut order: StdVec<usize> = (0..values.len()).collect();
            order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap());
            order
        };
        let group_scores: StdVec<f64> = (0..groups)
            .map(|g| {
                let part = &score[g * size..(g + 1) * size];
                rank(part).iter().take(2).map(|&i| part[i]).sum()
            })
            .collect();
        let open: StdVec<usize> = rank(&group_scores).into_iter().take(top_groups).collect();
        rank(&score).into_iter().filter(|e| open.contains(&(e / size))).take(k).map(|e| e as u16).collect()
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let z = logits(&[0.0; 8]);
        assert_eq!(Router::softmax_all(3).top_k::<2>(&z), Err(RouterError::Capacity));
        assert_eq!(Router::softmax_all(9).top_k::<16>(&z), Err(RouterError::Experts));
        assert_eq!(Router::sigmoid_grouped(2, 3, 1, &[]).top_k::<2>(&z), Err(RouterError::Groups));
        assert_eq!(Router::sigmoid_grouped(2, 2, 3, &[]).top_k::<2>(&z), Err(RouterError::Groups));
        assert_eq!(Router::sigmoid_grouped(2, 0, 0, &[]).top_k::<2>(&z), Err(RouterError::Groups));
        assert_eq!(Router::sigmoid_grouped(5, 2, 1, &[]).top_k::<5>(&z), Err(RouterError::Experts));
        assert_eq!(Router::sigmoid_grouped(2, 2, 1, &z[..7]).top_k::<2>(&z), Err(RouterError::Bias));
        assert_eq!(Router::ids_only::<2>(&[1, 1], 8), Err(RouterError::Id));
        assert_eq!(Router::ids_only::<2>(&[1, 8], 8), Err(RouterError::Id));
        assert_eq!(Router::ids_only::<2>(&[1, 2, 3], 8), Err(RouterError::Capacity));
        assert_eq!(Router::ids_only::<2>(&[7, 2], 8).unwrap(), [7, 2]);
        assert_eq!(weights(&Router::mixtral(), &z, &[9, 1]), [0.0, 1.0]);
        assert_eq!(weights(&Router::mixtral(), &[], &[0]), [0.0]);
    }

    #[test]
    fn end_values_do_not_overflow() {
        let z = [Logit::MAX, Logit::MIN, Logit::MAX, Logit::ZERO];
        assert_eq!(Router::mixtral().top_k::<2>(&z).unwrap(), [0, 2]);
        assert_eq!(weights(&Router::mixtral(), &z, &[0, 2]), [0.5, 0.5]);
        assert_eq!(weights(&Router::mixtral(), &z, &[0, 1]), [1.0, 0.0]);
        let bias = [Logit::MIN, Logit::MAX, Logit::ZERO, Logit::MIN];
        assert_eq!(Router::sigmoid_grouped(2, 2, 2, &bias).top_k::<2>(&z).unwrap(), [1, 2]);
    }

    proptest! {
        #[test]
        fn deepseek_equals_its_floating_point_form(
            z in prop::collection::vec(-6.0f64..6.0, 32),
            bias in prop::collection::vec(-0.3f64..0.3, 32),
            top_groups in 1usize..=4,
        ) {
            // Both sides see the same rounded numbers; draws closer than the format resolves are left out.
            let (z, bias) = (logits(&z), logits(&bias));
            let float = |v: &[Logit]| v.iter().map(|x| x.to_num::<f64>()).collect::<StdVec<_>>();
            let expected = deepseek_oracle(&float(&z), &float(&bias), 4, 4, top_groups);
            let router = Router::sigmoid_grouped(4, 4, top_groups, &bias);
            let found = router.top_k::<4>(&z).unwrap();
            let score = |e: u16| router.biased(usize::from(e), z[usize::from(e)]);
            let close = found.iter().zip(&expected).any(|(&a, &b)| a != b && (score(a) - score(b)).abs() < 1 << 8);
            prop_assume!(!close);
            prop_assert_eq!(&found[..], &expected[..]);
        }

        #[test]
        fn weights_meet_their_bound(z in prop::collection::vec(-30.0f64..30.0, 4..64)) {
            let z = logits(&z);
            let chosen = Router::softmax_all(4).top_k::<4>(&z).unwrap();
            let exp = |e: usize| (z[e] - *z.iter().max().unwrap()).to_num::<f64>().exp();
            let all: f64 = (0..z.len()).map(exp).sum();
            let top: f64 = chosen.iter().map(|&e| exp(usize::from(e))).sum();
            for (router, sum) in [(Router::softmax_all(4), all), (Router::softmax_selected(4), top)] {
                for (weight, &expert) in weights(&router, &z, &chosen).iter().zip(&chosen) {
                    prop_assert!((weight - exp(usize::from(expert)) / sum).abs() < 2f64.powi(-24));
                }
            }
        }
    }
}
