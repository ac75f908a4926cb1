//! The routers of a source's layers, in the controller's arithmetic and in floating point, and what a choice of experts
//! is worth to them.

use cptr_core::num::Scale;
use cptr_core::{Gate, Logit, Router};
use cptr_trace::error::Result;
use cptr_trace::router;
use cptr_trace::{Meta, Shape, Trace};

/// The routers of all layers.
#[derive(Debug, Clone)]
pub struct Routers {
    description: router::Router,
    /// Without what is of a layer.
    core: Router<'static>,
    /// Scores of a layer S: of the experts, then of the null experts.
    scored: usize,
    /// Layers that look their experts up, `[L]`.
    table: Vec<bool>,
    /// Bias `[L, S]`; empty where there is none.
    bias: Vec<f32>,
    fixed_bias: Vec<Logit>,
    /// Factor on each expert's weight `[L, S]`; empty where there is none.
    expert_scale: Vec<Scale>,
}

impl Routers {
    /// Routers of one description for the layers of `shape`, numbered as `meta` says; `bias` and `expert_scale` are
    /// `[L, S]` or empty.
    ///
    /// # Errors
    /// A description beyond the controller's numbers.
    pub fn new(meta: &Meta, shape: Shape, bias: &[f32], expert_scale: &[f32]) -> Result<Self> {
        let description = meta.router;
        Ok(Self {
            description,
            core: description.to_core(shape.k, &[])?,
            scored: shape.experts + usize::from(description.null_experts),
            table: meta.layer_ids.iter().map(|&id| description.is_table(id)).collect(),
            bias: bias.to_vec(),
            fixed_bias: bias.iter().map(|&bias| Logit::saturating_from_num(bias)).collect(),
            expert_scale: expert_scale.iter().map(|&scale| Scale::saturating_from_num(scale)).collect(),
        })
    }

    /// Those of a trace.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of(trace: &Trace) -> Result<Self> {
        let list = |values: &Option<Vec<f32>>| values.clone().unwrap_or_default();
        Self::new(&trace.meta, trace.shape, &list(&trace.bias), &list(&trace.expert_scale))
    }

    /// One layer's in the controller's arithmetic.
    pub(crate) fn layer(&self, layer: usize) -> Router<'_> {
        Router {
            bias: of_layer(&self.fixed_bias, layer, self.scored),
            expert_scale: of_layer(&self.expert_scale, layer, self.scored),
            table: self.table.get(layer).copied().unwrap_or(false),
            ..self.core
        }
    }

    /// A layer's logits with what the layer adds to them. Routing mass is before the factor of each expert.
    fn row<'r>(&'r self, layer: usize, logits: &'r [f32]) -> router::Row<'r> {
        router::Row { bias: of_layer(&self.bias, layer, self.scored), ..router::Row::of(logits) }
    }

    /// Fills `ranked` with what a layer's router ranks by: minus infinity for experts that may not be chosen.
    pub(crate) fn rank(&self, layer: usize, logits: &[f32], ranked: &mut Vec<f32>) {
        ranked.clear();
        if self.description.is_plain(!self.bias.is_empty()) && self.description.is_softmax() {
            ranked.extend_from_slice(logits);
        } else {
            let scores = self.description.selection_scores(self.row(layer, logits));
            ranked.extend(scores.into_iter().map(|score| score as f32));
        }
    }

    /// Share of the wanted routing mass that the chosen experts lack; 0 where they have more, as a bias or a table may
    /// prefer experts of less mass.
    pub(crate) fn loss(&self, layer: usize, logits: &[f32], wanted: &[u16], chosen: &[u16]) -> f64 {
        self.description.mass_loss(self.row(layer, logits), wanted, chosen).max(0.0)
    }

    /// Appends each wanted expert's share of their mass: of the recorded mixing weights, else of the logits, else
    /// equal.
    pub(crate) fn shares(&self, layer: usize, wanted: &[u16], weights: &[f32], logits: &[f32], shares: &mut Vec<f32>) {
        let first = shares.len();
        if weights.len() == wanted.len() {
            shares.extend_from_slice(weights);
        } else if logits.is_empty() {
            shares.resize(first + wanted.len(), 1.0);
        } else {
            let mass = self.description.mass_among(self.row(layer, logits), wanted);
            shares.extend(mass.into_iter().map(|mass| mass as f32));
        }
        let sum: f32 = shares[first..].iter().sum();
        let equal = 1.0 / wanted.len() as f32;
        shares[first..].iter_mut().for_each(|share| *share = if sum > 0.0 { *share / sum } else { equal });
    }
}

/// A layer's part of a list `[L, S]`, or nothing where the list is empty.
fn of_layer<T>(values: &[T], layer: usize, scored: usize) -> &[T] {
    values.get(layer * scored..(layer + 1) * scored).unwrap_or(&[])
}

/// Shares in the controller's format.
pub(crate) fn gates(shares: &[f32], gates: &mut Vec<Gate>) {
    gates.clear();
    gates.extend(shares.iter().map(|&share| Gate::saturating_from_num(share)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routers(text: &str, bias: &[f32]) -> Routers {
        let meta = Meta { router: text.parse().unwrap(), layer_ids: vec![0], ..Meta::default() };
        Routers::new(&meta, Shape { tokens: 1, layers: 1, experts: 4, k: 2 }, bias, &[]).unwrap()
    }

    #[test]
    fn losses_and_shares_by_hand() {
        let logits = [2.0, 1.0, 0.0, -1.0];
        let e = |z: f64| z.exp();
        let expected = 1.0 - (e(2.0) + e(0.0)) / (e(2.0) + e(1.0));
        for text in ["softmax-all", "softmax-selected", "unknown"] {
            let routers = routers(text, &[]);
            assert!((routers.loss(0, &logits, &[0, 1], &[0, 2]) - expected).abs() < 1e-12);
            let mut shares = vec![9.0];
            routers.shares(0, &[0, 1], &[], &logits, &mut shares);
            assert!((f64::from(shares[1]) - e(2.0) / (e(2.0) + e(1.0))).abs() < 1e-7);
        }
        let s = |z: f64| 1.0 / (1.0 + (-z).exp());
        let sigmoid = routers("sigmoid", &[]);
        let expected = 1.0 - (s(2.0) + s(0.0)) / (s(2.0) + s(1.0));
        assert!((sigmoid.loss(0, &logits, &[0, 1], &[0, 2]) - expected).abs() < 1e-12);
        let mut shares = Vec::new();
        sigmoid.shares(0, &[0, 1], &[], &logits, &mut shares);
        assert!((f64::from(shares[0]) - s(2.0) / (s(2.0) + s(1.0))).abs() < 1e-7);
        shares.clear();
        sigmoid.shares(0, &[0, 1], &[3.0, 1.0], &logits, &mut shares);
        assert_eq!(shares, [0.75, 0.25]);
        shares.clear();
        sigmoid.shares(0, &[0, 1], &[0.0, 0.0], &[], &mut shares);
        assert_eq!(shares, [0.5, 0.5]);
    }

    #[test]
    fn ranks_are_those_of_the_router() {
        let logits = [2.0, 1.0, 0.0, -1.0];
        let ranked = |text: &str, bias: &[f32]| {
            let mut ranked = Vec::new();
            routers(text, bias).rank(0, &logits, &mut ranked);
            ranked
        };
        assert_eq!(ranked("softmax-all", &[]), logits);
        assert_eq!(ranked("softmax-all:2:1", &[]), [2.0, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
        let biased = ranked("sigmoid", &[0.0, 0.0, 0.0, 1.0]);
        assert!(biased[3] > biased[0] && (biased[0] - 1.0 / (1.0 + (-2.0f32).exp())).abs() < 1e-6);
        // More mass than the wanted is no loss.
        assert_eq!(routers("sigmoid", &[0.0, 0.0, 0.0, 1.0]).loss(0, &logits, &[3, 0], &[1, 0]), 0.0);
    }
}
