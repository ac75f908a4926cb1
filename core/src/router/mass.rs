//! Routing mass and mixing weights.

use heapless::Vec;

use super::{Router, Score};
use crate::num::{
    Eps, Gate, Logit, Scale, Share, exp_neg_bits, exp_neg_call, sigmoid_relative, sqrt_softplus_relative,
    sqrt_softplus_shift,
};
use crate::select::Masses;

impl Router<'_> {
    /// Routing mass of an expert before any normalisation: its score, without bias, in a unit that all experts of a
    /// token share and that `largest` sets, the largest logit that takes part (one above it counts as it).
    ///
    /// - Softmax and sparse mixer: `exp(logit - largest)`.
    /// - Sigmoid: the sigmoid of the logit, over `exp(largest)` where `largest` is below 0.
    /// - Square root of softplus: the score, over `exp(largest / 2)` where `largest` is below 0, and over a power of
    ///   two else.
    ///
    /// So the greatest mass is a quarter at least and 1 at most, and masses keep their relative precision however low
    /// all logits are. Absolute error below 2^-25 (square root of softplus: 2^-24). Cost: an exponential; below 0, of
    /// the latter two, a second one.
    #[inline(never)]
    pub fn mass(&self, logit: Logit, largest: Logit) -> Gate {
        let logit = logit.min(largest);
        Gate::from_bits(match self.score {
            Score::Sigmoid => sigmoid_relative(logit, largest.min(Logit::ZERO)),
            Score::SqrtSoftplus => sqrt_softplus_relative(logit, largest),
            _ => exp_neg_call(largest.to_bits().wrapping_sub(logit.to_bits()).cast_unsigned()),
        })
    }

    /// The mass of a score of 1, of a router whose scores are no shares; `largest` is 0 at least.
    pub(super) fn mass_of_one(&self, largest: Logit) -> u64 {
        match self.score {
            Score::SqrtSoftplus => 1u64.wrapping_shl(31u32.wrapping_sub(sqrt_softplus_shift(largest))),
            _ => 1 << 31,
        }
    }

    /// The sum of all masses.
    #[inline(never)]
    pub(super) fn mass_of_all(&self, logits: &[Logit], largest: Logit) -> u64 {
        self.mass_of_some(logits, largest, |_, _| true)
    }

    #[inline(always)]
    fn mass_of_some(&self, logits: &[Logit], largest: Logit, takes_part: impl Fn(u16, Logit) -> bool) -> u64 {
        let mut sum = 0;
        for expert in 0..logits.len() {
            let logit = self.logit(logits, expert as u16);
            if takes_part(expert as u16, logit) {
                // At most 65,536 masses of at most 2^32.
                sum = u64::wrapping_add(sum, self.mass(logit, largest).to_bits().into());
            }
        }
        sum
    }

    /// Whether mixing weights are shares of the mass of the chosen.
    const fn of_chosen(&self) -> bool {
        self.renormalise || matches!(self.score, Score::SoftmaxSelected)
    }

    /// What `largest` has to be for [`total_mass`](Self::total_mass), where `greatest` is the largest logit.
    pub(crate) fn unit(&self, greatest: Logit) -> Logit {
        let absolute = !self.of_chosen() && matches!(self.score, Score::Sigmoid | Score::SqrtSoftplus);
        if absolute { greatest.max(Logit::ZERO) } else { greatest }
    }

    /// What a mass is divided by to be a mixing weight: `wanted_mass` where the router renormalises, else the mass of
    /// all experts, or of a score of 1. One exponential for every expert in the second case; scores above `largest`
    /// count as `largest`.
    pub(crate) fn total_mass(&self, logits: &[Logit], wanted_mass: u64, largest: Logit) -> u64 {
        match self.score {
            _ if self.of_chosen() => wanted_mass,
            Score::Sigmoid | Score::SqrtSoftplus => self.mass_of_one(largest),
            _ => self.mass_of_all(logits, largest),
        }
    }

    /// Mixing weights of `chosen` from the raw scores, in the order of `chosen`, before any scale
    /// ([`scaled`](Self::scaled)); entries of `weights` beyond it stay as they are.
    ///
    /// Rounded down. Where they are shares of the chosen, each has a relative error below 2^-24 plus an absolute one
    /// below 2^-28 times the number of chosen, whatever the level of the scores: the masses are relative to the
    /// greatest of them. As shares of all experts: 2^-24 and 2^-31 times the number of experts. Scores themselves (of a
    /// sigmoid that is not renormalised): an absolute error below 2^-25; of a square root of softplus 2^-22, and above
    /// 2 they saturate. Ids out of range weigh 0.
    ///
    /// Cost: an exponential (twice, below 0, if they are no softmax) and a 32-bit division for each chosen expert; an
    /// exponential for every expert only where the convention sums over all, and for every expert and each chosen with
    /// a sparse mixer.
    pub fn weights(&self, logits: &[Logit], chosen: &[u16], weights: &mut [Gate]) {
        if let Score::SparseMixer(jitter) = self.score {
            return self.sparse_mixer(logits, chosen, jitter, weights);
        }
        let logit =
            |expert: u16| if usize::from(expert) < logits.len() { Some(self.logit(logits, expert)) } else { None };
        let shares = self.of_chosen() || self.score == Score::SoftmaxAll;
        let largest = if self.of_chosen() {
            chosen.iter().filter_map(|&expert| logit(expert)).fold(Logit::MIN, Logit::max)
        } else {
            self.unit(self.largest(logits))
        };
        // Masses first, in the place of the weights: each is worked out once.
        let (mut sum, mut places) = (0, weights.iter_mut());
        for &expert in chosen {
            let mass = logit(expert).map_or(Gate::ZERO, |logit| self.mass(logit, largest));
            sum = u64::wrapping_add(sum, mass.to_bits().into());
            if let Some(place) = places.next() {
                *place = mass;
            }
        }
        // Scores that are no shares may be above 1: they are taken of 2.
        let total = self.total_mass(logits, sum, largest) << u32::from(!shares);
        let count = chosen.len().min(weights.len());
        let weights = weights.get_mut(..count).unwrap_or_default();
        Share::of(total).of_masses(weights);
        if !shares {
            weights.iter_mut().for_each(|weight| *weight = weight.saturating_add(*weight));
        }
    }

    /// [`weights`](Self::weights) of what a selection has chosen, which may have left their `masses`; else they are
    /// worked out, in `memory`. Nothing if there is no room for them there. Masses become weights where they lie: once
    /// for each selection.
    pub fn weights_of<'m, const K: usize>(
        &self,
        logits: &[Logit],
        chosen: &[u16],
        masses: &'m mut Masses,
        memory: &'m mut Vec<Gate, K>,
    ) -> &'m [Gate] {
        if self.of_chosen()
            && !matches!(self.score, Score::SparseMixer(_))
            && let Some(weights) = masses.of(chosen.len())
        {
            let sum = weights.iter().fold(0u64, |sum, mass| sum.wrapping_add(mass.to_bits().into()));
            Share::of(sum).of_masses(weights);
            return weights;
        }
        memory.clear();
        let _ = memory.resize(chosen.len(), Gate::ZERO);
        self.weights(logits, chosen, memory);
        memory
    }

    /// What the model multiplies the output of `expert` with: its `share` ([`weights`](Self::weights)) times
    /// [`Router::scale`] and its entry of [`Router::expert_scale`]. `U8F24`, rounded to nearest, saturating.
    pub fn scaled(&self, expert: u16, share: Gate) -> Scale {
        let times = |product: u32, factor: Scale, bits: u32| {
            let product = u64::from(product).wrapping_mul(factor.to_bits().into());
            let product = product.wrapping_add(1u64.wrapping_shl(bits.wrapping_sub(1))).wrapping_shr(bits);
            u32::try_from(product).unwrap_or(u32::MAX)
        };
        let own = self.expert_scale.get(usize::from(expert)).copied().unwrap_or(Scale::ONE);
        Scale::from_bits(times(times(share.to_bits(), self.scale, 31), own, 24))
    }

    /// Weights of [`Score::SparseMixer`].
    #[inline(never)]
    fn sparse_mixer(&self, logits: &[Logit], chosen: &[u16], jitter: Eps, weights: &mut [Gate]) {
        for (rank, (weight, &expert)) in (0..chosen.len()).zip(weights.iter_mut().zip(chosen)) {
            let own = self.logit(logits, expert);
            let takes_part = |other: u16, logit: Logit| {
                let below = u64::from(own.to_bits().wrapping_sub(logit.to_bits()).cast_unsigned());
                let size = logit.unsigned_abs().to_bits().max(own.max(Logit::ZERO).unsigned_abs().to_bits());
                (logit >= own || below << 31 <= u64::from(jitter.to_bits()).wrapping_mul(size.into()))
                    && !chosen.iter().take(rank).any(|&before| before == other)
            };
            let sum = Share::of(self.mass_of_some(logits, own, takes_part));
            let one = if usize::from(expert) < logits.len() { 1 << 31 } else { 0 };
            *weight = Gate::from_bits(sum.share(one));
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
