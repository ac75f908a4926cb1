//! A router in floating point: the reference that recordings are held against.

use super::{BiasPlace, Count, Rating, Router, Score};

/// The scores of one token in one layer, and what the layer adds to them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row<'a> {
    /// Raw logits `[E]`, those of null experts after them; minus infinity where an expert is masked.
    pub logits: &'a [f32],
    /// Bias of each, or empty.
    pub bias: &'a [f32],
    /// Factor on the weight of each, or empty.
    pub scale: &'a [f32],
}

impl<'a> Row<'a> {
    /// Logits alone.
    #[must_use]
    pub const fn of(logits: &'a [f32]) -> Self {
        Self { logits, bias: &[], scale: &[] }
    }

    fn bias(&self, expert: usize) -> f64 {
        self.bias.get(expert).copied().unwrap_or(0.0).into()
    }

    fn scale(&self, expert: usize) -> f64 {
        self.scale.get(expert).copied().unwrap_or(1.0).into()
    }
}

/// What a router chose.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Choice {
    /// Experts, best first; of equal scores the lower id.
    pub ids: Vec<u16>,
    /// Mixing weights in the order of `ids`.
    pub weights: Vec<f64>,
    /// Routing mass in the order of `ids`, see [`Router::mass`].
    pub mass: Vec<f64>,
}

impl Router {
    /// The choice of at most `k` experts, their weights and their mass. Fewer come where the router takes fewer or
    /// fewer are open.
    #[must_use]
    pub fn choose(&self, row: Row<'_>, k: usize) -> Choice {
        if let Score::SparseMixer { jitter } = self.score {
            return self.mix(row, k, jitter.into());
        }
        let scores = self.selection_scores(row);
        let ids = self.select(&scores, row, k);
        Choice { weights: self.weights(row, &ids), mass: self.mass(row, &ids), ids }
    }

    /// What the experts are ranked by, minus infinity for those of closed groups.
    #[must_use]
    pub fn selection_scores(&self, row: Row<'_>) -> Vec<f64> {
        let mut logits: Vec<f64> = self.logits(row).collect();
        if self.bias == BiasPlace::SelectionLogits {
            logits.iter_mut().enumerate().for_each(|(expert, z)| *z += row.bias(expert));
        }
        let added = self.bias == BiasPlace::Selection && !row.bias.is_empty();
        let sums = self.groups > 1 && self.rating == Rating::TwoBest;
        let mut scores: Vec<f64> = match self.score {
            Score::Sigmoid => logits.iter().map(|&z| sigmoid(z)).collect(),
            Score::SqrtSoftplus => logits.iter().map(|&z| sqrt_softplus(z)).collect(),
            // The order of a softmax is that of its logits; only sums need the shares.
            Score::SoftmaxAll if added || sums => softmax(&logits),
            _ => logits,
        };
        if added {
            scores.iter_mut().enumerate().for_each(|(expert, score)| *score += row.bias(expert));
        }
        self.close_groups(&mut scores);
        scores
    }

    fn logits(&self, row: Row<'_>) -> impl Iterator<Item = f64> {
        let added = self.bias == BiasPlace::Logits;
        row.logits.iter().enumerate().map(move |(e, &z)| f64::from(z) + if added { row.bias(e) } else { 0.0 })
    }

    fn close_groups(&self, scores: &mut [f64]) {
        let (groups, kept) = (usize::from(self.groups), usize::from(self.top_groups));
        if groups <= 1 || scores.len() < groups || kept >= groups {
            return;
        }
        let size = scores.len() / groups;
        let rate = |group: &[f64]| {
            let two = best(group, 2);
            let rating = if self.rating == Rating::Best { &two[..1] } else { &two[..] };
            rating.iter().map(|&i| group[usize::from(i)]).sum::<f64>()
        };
        let ratings: Vec<f64> = scores.chunks(size).take(groups).map(rate).collect();
        let open = best(&ratings, kept);
        for (group, scores) in scores.chunks_mut(size).enumerate() {
            if !open.contains(&(group as u16)) {
                scores.fill(f64::NEG_INFINITY);
            }
        }
    }

    fn select(&self, scores: &[f64], row: Row<'_>, k: usize) -> Vec<u16> {
        let mut ids = best(scores, k);
        ids.retain(|&id| scores[usize::from(id)] > f64::NEG_INFINITY);
        match self.count {
            Count::Fixed => {}
            Count::TopP(share) => {
                let shares = self.shares(row);
                let mut sum = 0.0;
                let share = f64::from(share);
                let enough = ids.iter().position(|&id| {
                    sum += shares[usize::from(id)];
                    sum >= share
                });
                ids.truncate(enough.map_or(ids.len(), |last| last + 1));
            }
            Count::Threshold(least) => {
                let shares = self.shares(row);
                let (least, mut first) = (f64::from(least), true);
                ids.retain(|&id| std::mem::take(&mut first) || shares[usize::from(id)] > least);
            }
        }
        ids
    }

    /// Score of each expert as a softmax over all, or by itself.
    fn shares(&self, row: Row<'_>) -> Vec<f64> {
        let logits: Vec<f64> = self.logits(row).collect();
        match self.score {
            Score::Sigmoid => logits.iter().map(|&z| sigmoid(z)).collect(),
            Score::SqrtSoftplus => logits.iter().map(|&z| sqrt_softplus(z)).collect(),
            _ => softmax(&logits),
        }
    }

    /// The routing mass of some experts, in their order: what a bounded selection keeps a share of. `exp(logit)` up to
    /// a factor that is common to the row for a softmax, the score itself otherwise; with the factor of each expert,
    /// without bias for the selection.
    ///
    /// This is the one definition of routing mass: replay, statistics and tests call it.
    #[must_use]
    pub fn mass(&self, row: Row<'_>, ids: &[u16]) -> Vec<f64> {
        let largest = self.logits(row).fold(f64::NEG_INFINITY, f64::max);
        self.mass_below(row, ids, largest)
    }

    /// As [`Self::mass`], relative to the best of `ids`: where all of them are far below the best expert of the row,
    /// their shares keep their digits.
    #[must_use]
    pub fn mass_among(&self, row: Row<'_>, ids: &[u16]) -> Vec<f64> {
        self.mass_below(row, ids, self.largest(row, ids))
    }

    /// The largest logit of some experts.
    fn largest(&self, row: Row<'_>, ids: &[u16]) -> f64 {
        let added = self.bias == BiasPlace::Logits;
        let logit = |&id: &u16| f64::from(row.logits[usize::from(id)]) + if added { row.bias(id.into()) } else { 0.0 };
        ids.iter().map(logit).fold(f64::NEG_INFINITY, f64::max)
    }

    /// [`Self::mass`] where `largest` weighs 1.
    fn mass_below(&self, row: Row<'_>, ids: &[u16], largest: f64) -> Vec<f64> {
        let added = self.bias == BiasPlace::Logits;
        let mass = |&id: &u16| {
            let expert = usize::from(id);
            let z = f64::from(row.logits[expert]) + if added { row.bias(expert) } else { 0.0 };
            let mass = match self.score {
                Score::Sigmoid => sigmoid(z),
                Score::SqrtSoftplus => sqrt_softplus(z),
                // A row that is masked as a whole has no mass.
                _ if z == f64::NEG_INFINITY => 0.0,
                _ => (z - largest).exp(),
            };
            mass * row.scale(expert)
        };
        ids.iter().map(mass).collect()
    }

    /// Share of the routing mass of `wanted` that `chosen` lacks; negative where they have more. 0 where neither has
    /// any.
    #[must_use]
    pub fn mass_loss(&self, row: Row<'_>, wanted: &[u16], chosen: &[u16]) -> f64 {
        let largest = self.largest(row, wanted);
        let sum = |ids: &[u16]| self.mass_below(row, ids, largest).iter().sum::<f64>();
        let (wanted, chosen) = (sum(wanted), sum(chosen));
        if wanted > 0.0 { 1.0 - chosen / wanted } else { 0.0 }
    }

    /// Mixing weights of some experts, in their order.
    #[must_use]
    pub fn weights(&self, row: Row<'_>, ids: &[u16]) -> Vec<f64> {
        if let Score::SparseMixer { jitter } = self.score {
            let mixed = self.mix(row, ids.len(), jitter.into());
            let weight = |id| mixed.ids.iter().position(|other| other == id).map_or(0.0, |i| mixed.weights[i]);
            return ids.iter().map(weight).collect();
        }
        // The factor of each expert comes after all division.
        let plain = Row { scale: &[], ..row };
        let logit = |&id: &u16| f64::from(row.logits[usize::from(id)]);
        let mass = if self.renormalise && self.is_softmax() && self.bias != BiasPlace::Logits {
            let largest = ids.iter().map(logit).fold(f64::NEG_INFINITY, f64::max);
            self.mass_below(plain, ids, largest)
        } else {
            self.mass(plain, ids)
        };
        let total = match self.score {
            _ if self.renormalise => mass.iter().sum(),
            Score::SoftmaxAll | Score::SoftmaxSelected | Score::Unknown => {
                let largest = self.logits(row).fold(f64::NEG_INFINITY, f64::max);
                self.logits(row).map(|z| (z - largest).exp()).sum()
            }
            _ => 1.0,
        };
        let scaled = |(&mass, &id): (&f64, &u16)| {
            let weight = if total > 0.0 { mass / total } else { 0.0 };
            weight * f64::from(self.scale) * row.scale(id.into())
        };
        mass.iter().zip(ids).map(scaled).collect()
    }

    /// PhiMoE's sparse mixer: the best expert that is left, weighed among those not far below it, again and again.
    fn mix(&self, row: Row<'_>, k: usize, jitter: f64) -> Choice {
        let scores: Vec<f64> = self.logits(row).collect();
        let mut open = scores.clone();
        let mut choice = Choice::default();
        for _ in 0..k.min(scores.len()) {
            let &[id] = &best(&open, 1)[..] else { break };
            let top = open[usize::from(id)];
            if top == f64::NEG_INFINITY {
                break;
            }
            let near = |&(expert, score): &(usize, &f64)| {
                let far = (top - scores[expert]) / scores[expert].abs().max(top) > 2.0 * jitter;
                !far && *score > f64::NEG_INFINITY
            };
            let total: f64 = open.iter().enumerate().filter(near).map(|(_, score)| (score - top).exp()).sum();
            choice.ids.push(id);
            choice.weights.push(f64::from(self.scale) * row.scale(id.into()) / total);
            open[usize::from(id)] = f64::NEG_INFINITY;
        }
        choice.mass = self.mass(row, &choice.ids);
        choice
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

fn sqrt_softplus(z: f64) -> f64 {
    // ln(1 + e^z) without overflow, and without loss where e^z is small.
    (z.max(0.0) + (-z.abs()).exp().ln_1p()).sqrt()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return vec![0.0; logits.len()];
    }
    let masses: Vec<f64> = logits.iter().map(|z| (z - largest).exp()).collect();
    let total: f64 = masses.iter().sum();
    masses.iter().map(|mass| mass / total).collect()
}

/// Indices of the `k` largest scores, best first; of equal ones the lower index. Not-a-number comes last.
fn best(scores: &[f64], k: usize) -> Vec<u16> {
    let mut best: Vec<(f64, u16)> = Vec::with_capacity(k + 1);
    for (&score, id) in scores.iter().zip(0..=u16::MAX) {
        let score = if score.is_nan() { f64::NEG_INFINITY } else { score };
        if best.len() == k && best.last().is_none_or(|&(last, _)| score <= last) {
            continue;
        }
        let place = best.partition_point(|&(other, _)| other >= score);
        best.insert(place, (score, id));
        best.truncate(k);
    }
    best.into_iter().map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn router(text: &str) -> Router {
        text.parse().unwrap()
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len(), "{found:?} {expected:?}");
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} {expected:?}");
    }

    const Z: [f32; 4] = [1.0, 3.0, 2.0, -1.0];

    #[test]
    fn weights_by_hand() {
        let e = |z: f32| f64::from(z).exp();
        let (two, all) = (e(3.0) + e(2.0), Z.iter().map(|&z| e(z)).sum::<f64>());
        let of = |text: &str| router(text).choose(Row::of(&Z), 2);
        assert_eq!(of("softmax-all").ids, [1, 2]);
        close(&of("softmax-all").weights, &[e(3.0) / all, e(2.0) / all]);
        close(&of("softmax-selected").weights, &[e(3.0) / two, e(2.0) / two]);
        close(&of("unknown").weights, &[e(3.0) / two, e(2.0) / two]);
        close(&of("softmax-all:renormalise=on:scale=3").weights, &[3.0 * e(3.0) / two, 3.0 * e(2.0) / two]);
        let s = |z: f64| 1.0 / (1.0 + (-z).exp());
        close(&of("sigmoid:1:1:renormalise=off").weights, &[s(3.0), s(2.0)]);
        close(&of("sigmoid").weights, &[s(3.0) / (s(3.0) + s(2.0)), s(2.0) / (s(3.0) + s(2.0))]);
        let p = |z: f64| (1.0 + z.exp()).ln().sqrt();
        close(&of("sqrt-softplus:renormalise=off").weights, &[p(3.0), p(2.0)]);
        let row = Row { scale: &[1.0, 2.0, 4.0, 1.0], ..Row::of(&Z) };
        let scaled = router("softmax-selected").choose(row, 2);
        close(&scaled.weights, &[2.0 * e(3.0) / two, 4.0 * e(2.0) / two]);
        close(&scaled.mass, &[2.0, 4.0 * (-1.0_f64).exp()]);
    }

    #[test]
    fn a_bias_selects_or_belongs_to_the_logits() {
        let row = Row { bias: &[5.0, 0.0, 0.0, 0.0], ..Row::of(&Z) };
        let s = |z: f64| 1.0 / (1.0 + (-z).exp());
        let choice = router("sigmoid:1:1:renormalise=off").choose(row, 2);
        assert_eq!(choice.ids, [0, 1]);
        close(&choice.weights, &[s(1.0), s(3.0)]);
        let choice = router("sigmoid:1:1:renormalise=off:bias=logits").choose(row, 2);
        close(&choice.weights, &[s(6.0), s(3.0)]);
        // Added to shares, not to logits: 0.5 moves the last expert past all others.
        let row = Row { bias: &[0.0, 0.0, 0.0, 0.9], ..Row::of(&Z) };
        assert_eq!(router("softmax-all").choose(row, 1).ids, [3]);
        assert_eq!(router("softmax-selected").choose(row, 1).ids, [1]);
    }

    #[test]
    fn groups_are_rated_by_one_or_two() {
        let z = [3.0, 0.0, 2.5, 2.4, 1.0, 1.0];
        assert_eq!(router("softmax-all:3:1").choose(Row::of(&z), 2).ids, [0, 1]);
        assert_eq!(router("sigmoid:3:1").choose(Row::of(&z), 2).ids, [2, 3]);
        assert_eq!(router("sigmoid:3:1:rating=best").choose(Row::of(&z), 2).ids, [0, 1]);
        // Fewer open than wanted: fewer come.
        assert_eq!(router("softmax-all:3:1").choose(Row::of(&z), 4).ids, [0, 1]);
    }

    #[test]
    fn some_routers_take_fewer() {
        // Shares 0.11, 0.83, 0.30 ... of e^1, e^3, e^2, e^-1.
        assert_eq!(router("softmax-all:top-p=0.5").choose(Row::of(&Z), 3).ids, [1]);
        assert_eq!(router("softmax-all:top-p=0.9").choose(Row::of(&Z), 3).ids, [1, 2, 0]);
        assert_eq!(router("sigmoid:1:1:threshold=0.8").choose(Row::of(&Z), 3).ids, [1, 2]);
        assert_eq!(router("sigmoid:1:1:threshold=0.99").choose(Row::of(&Z), 3).ids, [1]);
        let masked = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        let choice = router("softmax-selected").choose(Row::of(&masked), 2);
        assert_eq!((choice.ids, choice.weights), (vec![1], vec![1.0]));
        assert_eq!(router("softmax-all").mass_loss(Row::of(&masked), &[1], &[0]), 1.0);
        assert_eq!(router("softmax-all").mass_loss(Row::of(&masked), &[0], &[2]), 0.0);
    }

    #[test]
    fn the_sparse_mixer_weighs_among_near_logits() {
        // 2 * 0.01: within 2 % of the larger of the best and the logit's own size.
        let choice = router("sparse-mixer").choose(Row::of(&[1.0, 0.99, 0.5, 0.499]), 2);
        assert_eq!(choice.ids, [0, 1]);
        let near = 1.0 / (1.0 + (-0.01_f64).exp());
        assert!((choice.weights[0] - near).abs() < 1e-6 && (choice.weights[1] - 1.0).abs() < 1e-9, "{choice:?}");
    }

    proptest! {
        #[test]
        fn a_choice_is_the_best_and_its_loss_is_none(z in prop::collection::vec(-9.0f32..9.0, 4..24), k in 1usize..4) {
            for text in ["softmax-all", "softmax-selected", "sigmoid", "sqrt-softplus"] {
                let router = router(text);
                let Choice { ids, weights, mass } = router.choose(Row::of(&z), k);
                let least = ids.iter().map(|&id| z[usize::from(id)]).fold(f32::INFINITY, f32::min);
                prop_assert!((0..z.len() as u16).filter(|id| !ids.contains(id)).all(|id| z[usize::from(id)] <= least));
                prop_assert_eq!(router.mass_loss(Row::of(&z), &ids, &ids), 0.0);
                let sum: f64 = weights.iter().sum();
                let fits = if router.renormalise { (sum - 1.0).abs() < 1e-9 } else { sum <= 1.0 + 1e-9 };
                prop_assert!(fits, "{text} {sum}");
                prop_assert!(mass.is_sorted_by(|a, b| a >= b));
            }
        }
    }
}
