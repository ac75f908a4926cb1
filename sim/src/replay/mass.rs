//! The router of a source, and the one routing mass: what a choice of experts is worth to it.

use cptr_core::{Gate, Logit, Router};
use cptr_trace::{Convention, Trace};

/// The routers of all layers.
#[derive(Debug, Clone, Default)]
pub struct Routers {
    convention: Convention,
    k: usize,
    experts: usize,
    /// Selection bias `[L, E]`; empty where there is none.
    bias: Vec<f32>,
    fixed_bias: Vec<Logit>,
}

impl Routers {
    /// Routers of one convention that choose `k` of `experts` experts; `bias` is `[L, E]` or empty.
    #[must_use]
    pub fn new(convention: Convention, k: usize, experts: usize, bias: &[f32]) -> Self {
        let fixed_bias = bias.iter().map(|&bias| Logit::saturating_from_num(bias)).collect();
        Self { convention, k, experts, bias: bias.to_vec(), fixed_bias }
    }

    /// Those of a trace.
    #[must_use]
    pub fn of(trace: &Trace) -> Self {
        Self::new(trace.meta.router, trace.shape.k, trace.shape.experts, trace.bias.as_deref().unwrap_or(&[]))
    }

    /// One layer's in the controller's arithmetic.
    pub(crate) fn layer(&self, layer: usize) -> Router<'_> {
        match self.convention {
            Convention::SoftmaxAll => Router::softmax_all(self.k),
            Convention::SoftmaxSelected | Convention::Unknown => Router::softmax_selected(self.k),
            Convention::Sigmoid { groups, top_groups } => {
                let first = layer * self.experts;
                let bias = self.fixed_bias.get(first..first + self.experts).unwrap_or(&[]);
                Router::sigmoid_grouped(self.k, groups.into(), top_groups.into(), bias)
            }
        }
    }

    /// Fills `ranked` with what a layer's router ranks by.
    pub(crate) fn rank(&self, layer: usize, logits: &[f32], ranked: &mut Vec<f32>) {
        ranked.clear();
        match self.convention {
            Convention::Sigmoid { .. } => {
                let bias = |expert: usize| self.bias.get(layer * self.experts + expert).copied().unwrap_or(0.0);
                ranked.extend(logits.iter().enumerate().map(|(e, &z)| 1.0 / (1.0 + (-z).exp()) + bias(e)));
            }
            _ => ranked.extend_from_slice(logits),
        }
    }

    /// Routing mass of an expert before any normalisation; `largest` is the largest logit that takes part.
    fn mass(&self, logit: f64, largest: f64) -> f64 {
        match self.convention {
            Convention::Sigmoid { .. } => 1.0 / (1.0 + (-logit).exp()),
            _ => (logit - largest).exp(),
        }
    }

    /// Share of the wanted routing mass that the chosen experts lack; negative where they have more (a selection bias
    /// was overruled).
    pub(crate) fn loss(&self, logits: &[f32], wanted: &[u16], chosen: &[u16]) -> f64 {
        let logit = |expert: u16| f64::from(logits[usize::from(expert)]);
        let largest = wanted.iter().map(|&expert| logit(expert)).fold(f64::MIN, f64::max);
        let mass = |experts: &[u16]| experts.iter().map(|&expert| self.mass(logit(expert), largest)).sum::<f64>();
        1.0 - mass(chosen) / mass(wanted)
    }

    /// Appends each wanted expert's share of their mass: of the recorded mixing weights, else of the logits, else
    /// equal.
    pub(crate) fn shares(&self, wanted: &[u16], weights: &[f32], logits: &[f32], shares: &mut Vec<f32>) {
        let first = shares.len();
        if weights.len() == wanted.len() {
            shares.extend_from_slice(weights);
        } else if logits.is_empty() {
            shares.resize(first + wanted.len(), 1.0);
        } else {
            let logit = |expert: u16| f64::from(logits[usize::from(expert)]);
            let largest = wanted.iter().map(|&expert| logit(expert)).fold(f64::MIN, f64::max);
            shares.extend(wanted.iter().map(|&expert| self.mass(logit(expert), largest) as f32));
        }
        let sum: f32 = shares[first..].iter().sum();
        let equal = 1.0 / wanted.len() as f32;
        shares[first..].iter_mut().for_each(|share| *share = if sum > 0.0 { *share / sum } else { equal });
    }
}

/// Shares in the controller's format.
pub(crate) fn gates(shares: &[f32], gates: &mut Vec<Gate>) {
    gates.clear();
    gates.extend(shares.iter().map(|&share| Gate::saturating_from_num(share)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_shares_by_hand() {
        let logits = [2.0, 1.0, 0.0, -1.0];
        let e = |z: f64| z.exp();
        let expected = 1.0 - (e(2.0) + e(0.0)) / (e(2.0) + e(1.0));
        for convention in [Convention::SoftmaxAll, Convention::SoftmaxSelected, Convention::Unknown] {
            let routers = Routers::new(convention, 2, 4, &[]);
            assert!((routers.loss(&logits, &[0, 1], &[0, 2]) - expected).abs() < 1e-12);
            let mut shares = vec![9.0];
            routers.shares(&[0, 1], &[], &logits, &mut shares);
            assert!((f64::from(shares[1]) - e(2.0) / (e(2.0) + e(1.0))).abs() < 1e-7);
        }
        let s = |z: f64| 1.0 / (1.0 + (-z).exp());
        let routers = Routers::new(Convention::Sigmoid { groups: 1, top_groups: 1 }, 2, 4, &[]);
        let expected = 1.0 - (s(2.0) + s(0.0)) / (s(2.0) + s(1.0));
        assert!((routers.loss(&logits, &[0, 1], &[0, 2]) - expected).abs() < 1e-12);
        let mut shares = Vec::new();
        routers.shares(&[0, 1], &[], &logits, &mut shares);
        assert!((f64::from(shares[0]) - s(2.0) / (s(2.0) + s(1.0))).abs() < 1e-7);
        shares.clear();
        routers.shares(&[0, 1], &[3.0, 1.0], &logits, &mut shares);
        assert_eq!(shares, [0.75, 0.25]);
        shares.clear();
        routers.shares(&[0, 1], &[0.0, 0.0], &[], &mut shares);
        assert_eq!(shares, [0.5, 0.5]);
    }
}
