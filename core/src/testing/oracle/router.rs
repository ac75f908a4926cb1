//! Routers and selections.

use std::vec::Vec;

use crate::num::Logit;
use crate::router::{self, BiasPlace, Count, GroupRating, Groups, Score};
use crate::set::Experts;

/// Natural logarithm of what a logit is worth ([`Score`]); of softmax scores up to what the token's have in common.
#[must_use]
pub fn log_score(score: Score, logit: f64) -> f64 {
    match score {
        Score::Sigmoid => -(-logit).max(0.0) - (-logit.abs()).exp().ln_1p(),
        // There the score is as good as exp(logit / 2).
        Score::SqrtSoftplus if logit < -30.0 => logit / 2.0,
        Score::SqrtSoftplus => (logit.max(0.0) + (-logit.abs()).exp().ln_1p()).sqrt().ln(),
        _ => logit,
    }
}

/// Routing mass of some experts relative to the best of the wanted, whatever the level of the logits.
fn mass(router: &router::Router<'_>, logits: &[Logit], wanted: &[u16], experts: &[u16]) -> f64 {
    let log = |&expert: &u16| log_score(router.score, router.logit(logits, expert).to_num());
    let best = wanted.iter().map(log).fold(f64::MIN, f64::max);
    experts.iter().map(|expert| (log(expert) - best).exp()).sum()
}

/// The share of the routing mass of the wanted experts that the chosen lack; negative where they have more, 0 where
/// nobody is wanted.
#[must_use]
pub fn loss(router: &router::Router<'_>, logits: &[Logit], wanted: &[u16], chosen: &[u16]) -> f64 {
    let all = mass(router, logits, wanted, wanted);
    if all > 0.0 { 1.0 - mass(router, logits, wanted, chosen) / all } else { 0.0 }
}

/// The fewest missing experts of any choice that keeps the first `keep_top` of the wanted and `1 - eps` of their mass,
/// by trying every set of experts: of a router without groups, of at most 20 experts.
///
/// What rounding decides is left open: the fewest at `eps` less `margin`, and at `eps` more `margin`.
#[must_use]
pub fn fewest_misses(
    router: &router::Router<'_>,
    eps: f64,
    margin: f64,
    keep_top: usize,
    logits: &[Logit],
    wanted: &[u16],
    resident: &Experts,
) -> [usize; 2] {
    let experts = logits.len().min(20);
    let all = mass(router, logits, wanted, wanted);
    let mut fewest = [wanted.len(); 2];
    for set in (0u32..1 << experts).filter(|set| set.count_ones() as usize == wanted.len()) {
        let chosen: Vec<u16> = (0..experts as u16).filter(|expert| set >> expert & 1 != 0).collect();
        if !wanted.iter().take(keep_top).all(|first| chosen.contains(first)) {
            continue;
        }
        let misses = chosen.iter().filter(|&&e| !resident.contains(e) && !router.is_null(e, experts)).count();
        let kept = mass(router, logits, wanted, &chosen);
        for (fewest, eps) in fewest.iter_mut().zip([eps - margin, eps + margin]) {
            if kept >= (1.0 - eps) * all {
                *fewest = misses.min(*fewest);
            }
        }
    }
    fewest
}

/// A router's definition, over the logits of one token.
#[derive(Debug, Clone)]
pub struct Router<'a> {
    router: router::Router<'a>,
    /// With the bias that is part of them.
    z: Vec<f64>,
    bias: Vec<f64>,
}

impl<'a> Router<'a> {
    /// With one logit for each expert.
    #[must_use]
    pub fn new(router: router::Router<'a>, logits: &[Logit]) -> Self {
        let mut z: Vec<f64> = logits.iter().map(|z| z.to_num()).collect();
        let mut bias: Vec<f64> = router.bias.iter().map(|b| b.to_num()).collect();
        bias.resize(z.len(), 0.0);
        if router.bias_place == BiasPlace::Logits {
            z.iter_mut().zip(&mut bias).for_each(|(z, bias)| *z += core::mem::take(bias));
        }
        Self { router, z, bias }
    }

    fn exp(&self, expert: usize) -> f64 {
        (self.z[expert] - self.z.iter().copied().fold(f64::MIN, f64::max)).exp()
    }

    /// The score, without the bias of the choice; of softmax routers the share of all.
    #[must_use]
    pub fn score(&self, expert: usize) -> f64 {
        let z = self.z[expert];
        match self.router.score {
            Score::Sigmoid => 1.0 / (1.0 + (-z).exp()),
            Score::SqrtSoftplus => (z.max(0.0) + (-z.abs()).exp().ln_1p()).sqrt(),
            _ => self.exp(expert) / (0..self.z.len()).map(|other| self.exp(other)).sum::<f64>(),
        }
    }

    fn value(&self, expert: usize) -> f64 {
        let by_logits = matches!(self.router.score, Score::SoftmaxSelected | Score::SparseMixer(_));
        let by_logits = by_logits || self.router.bias_place == BiasPlace::ChoiceLogits;
        self.bias[expert] + if by_logits { self.z[expert] } else { self.score(expert) }
    }

    /// The choice, best first, and by how much the closest comparison went as it did: below about 4e-7 fixed point may
    /// choose otherwise.
    #[must_use]
    pub fn choice(&self) -> (Vec<u16>, f64) {
        let experts = self.z.len();
        let Groups { count, open, rating } = self.router.groups;
        let best_first = |values: &[f64]| {
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap());
            order
        };
        let mut gap = f64::MAX;
        let mut closer = |a: f64, b: f64| gap = gap.min((a - b).abs());
        let values: Vec<f64> = (0..experts).map(|expert| self.value(expert)).collect();
        let size = experts / count;
        let ratings: Vec<f64> = values
            .chunks(size)
            .map(|group| {
                let order = best_first(group);
                order.iter().take(if rating == GroupRating::Best { 1 } else { 2 }).map(|&i| group[i]).sum()
            })
            .collect();
        let groups = best_first(&ratings);
        if open < count {
            closer(ratings[groups[open - 1]], ratings[groups[open]]);
        }
        let order: Vec<usize> =
            best_first(&values).into_iter().filter(|e| groups[..open].contains(&(e / size))).collect();
        order.windows(2).take(self.router.k).for_each(|pair| closer(values[pair[0]], values[pair[1]]));
        let (mut kept, mut sum) = (Vec::new(), 0.0);
        let all: f64 = (0..experts).map(|expert| self.score(expert)).sum();
        for &expert in order.iter().take(self.router.k) {
            let score = self.score(expert);
            let keep = match self.router.count {
                Count::Fixed => true,
                Count::TopP(share) => {
                    closer(sum / all, share.to_num());
                    sum / all < share.to_num::<f64>()
                }
                Count::Above(bound) => {
                    closer(score, bound.to_num());
                    score > bound.to_num::<f64>()
                }
            };
            sum += score;
            if !keep && !kept.is_empty() {
                break;
            }
            kept.push(expert as u16);
        }
        (kept, gap)
    }

    /// Mixing weights before any scale, and by how much the closest comparison of a sparse mixer went as it did.
    #[must_use]
    pub fn weights(&self, chosen: &[u16]) -> (Vec<f64>, f64) {
        let mut gap = f64::MAX;
        let share = |expert: u16| {
            let exp = |e: u16| self.exp(e.into());
            match self.router.score {
                Score::SoftmaxSelected => exp(expert) / chosen.iter().map(|&e| exp(e)).sum::<f64>(),
                _ if self.router.renormalise => {
                    // Over the greatest, as they may be below what floating point holds.
                    let log = |e: u16| log_score(self.router.score, self.z[usize::from(e)]);
                    1.0 / chosen.iter().map(|&e| (log(e) - log(expert)).exp()).sum::<f64>()
                }
                _ => self.score(expert.into()).min(2.0),
            }
        };
        let Score::SparseMixer(jitter) = self.router.score else {
            return (chosen.iter().map(|&e| share(e)).collect(), gap);
        };
        let weights = chosen.iter().enumerate().map(|(rank, &expert)| {
            let own = self.z[usize::from(expert)];
            let part = (0..self.z.len()).filter(|&other| !chosen[..rank].contains(&(other as u16)));
            let near = part.filter(|&other| {
                let (below, size) = (own - self.z[other], self.z[other].abs().max(own));
                gap = gap.min((below - 2.0 * jitter.to_num::<f64>() * size).abs());
                other == usize::from(expert) || below / size <= 2.0 * jitter.to_num::<f64>()
            });
            1.0 / near.collect::<Vec<_>>().into_iter().map(|other| (self.z[other] - own).min(0.0).exp()).sum::<f64>()
        });
        let weights = weights.collect();
        (weights, gap)
    }
}
