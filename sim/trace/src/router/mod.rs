//! What a router does with its scores, as data: [`Router`] says it, [`Router::choose`] does it in floating point.
//!
//! One description serves traces, checkpoints and the fixed-point core. Its text form is what `--router` takes and what
//! the native format keeps: a score, then the parts in which a router departs from the usual one with that score, each
//! after a colon.
//!
//! | text | router |
//! |---|---|
//! | `softmax-all` | softmax over all experts, the k largest; weights sum to less than 1 (OLMoE, Switch) |
//! | `softmax-selected` | the k largest, softmax over them; weights sum to 1 (Mixtral, gpt-oss) |
//! | `softmax-all:4:2` | the same within the best 2 of 4 groups (DeepSeek-V2) |
//! | `sigmoid:8:4:scale=2.5` | sigmoid, bias for the selection, 4 of 8 groups by their two best (DeepSeek-V3) |
//! | `sigmoid:1:1:renormalise=off` | sigmoid of the chosen as it is (Llama 4) |
//! | `sqrt-softplus:table=3` | square root of the softplus; layers below 3 look their experts up in a table |
//! | `sparse-mixer:jitter=0.01` | PhiMoE |
//! | `softmax-all:null=16` | the last 16 scores belong to experts that do nothing (LongCat) |
//! | `softmax-all:top-p=0.9` | as many experts as hold 0.9 of the mass, at most k |
//! | `unknown` | not recorded |
//!
//! ```
//! use cptr_trace::router::{Router, Row};
//!
//! let router: Router = "softmax-all:2:1".parse().unwrap();
//! let choice = router.choose(Row::of(&[1.0, 3.0, 2.9, 2.8]), 2);
//! assert_eq!(choice.ids, [1, 0]); // the second group would have had experts 2 and 3
//! assert!(choice.weights.iter().sum::<f64>() < 1.0);
//! assert_eq!(router.to_string(), "softmax-all:2:1");
//! ```

mod choose;
mod text;

use cptr_core::num::Scale;
use cptr_core::router as core;
use cptr_core::{Eps, Gate, Logit};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use choose::{Choice, Row};

/// What a router makes of a logit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Score {
    /// Not recorded; where something must be assumed, it is [`Self::SoftmaxSelected`].
    #[default]
    Unknown,
    /// Softmax over all experts, before the choice.
    SoftmaxAll,
    /// Softmax over the chosen, after the choice.
    SoftmaxSelected,
    /// Sigmoid of each logit.
    Sigmoid,
    /// Square root of the softplus of each logit.
    SqrtSoftplus,
    /// Expert after expert, each with a softmax over those logits that are not far below the best one left (PhiMoE).
    SparseMixer {
        /// A logit counts as far below from twice this share of its size on.
        jitter: f32,
    },
}

/// Where a router's bias, if it has one, is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BiasPlace {
    /// To the scores, for the selection only: the weights do not see it.
    #[default]
    Selection,
    /// To the logits, for the selection only (Kolibri).
    SelectionLogits,
    /// To the logits, for everything.
    Logits,
}

/// How good a group of experts is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rating {
    /// As its best expert.
    Best,
    /// As its two best together.
    TwoBest,
}

/// How many of the k experts take part.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Count {
    /// All k.
    #[default]
    Fixed,
    /// The best ones until they hold this share of the mass of all experts.
    TopP(f32),
    /// Those whose score, without bias, is above this, and always the best.
    Threshold(f32),
}

/// A router, without its bias and its k, which are data of the trace or the model. See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Router {
    /// What becomes of a logit.
    pub score: Score,
    /// Where the bias is added.
    pub bias: BiasPlace,
    /// Groups that the experts are cut into, side by side; 1 where there are none.
    pub groups: u16,
    /// Groups whose experts take part.
    pub top_groups: u16,
    /// How a group is rated.
    pub rating: Rating,
    /// Whether the weights of the chosen are divided by their sum.
    pub renormalise: bool,
    /// Factor on all weights.
    pub scale: f32,
    /// How many of the k take part.
    pub count: Count,
    /// Scores after those of the experts that mean "no expert".
    pub null_experts: u16,
    /// Layers with a number below this look their experts up by token id: their logits decide weights, not experts.
    pub table_layers: u32,
}

impl Default for Router {
    fn default() -> Self {
        Self::new(Score::Unknown)
    }
}

impl Router {
    /// [`Score::Unknown`].
    pub const UNKNOWN: Self = Self::new(Score::Unknown);
    /// [`Score::SoftmaxAll`], not renormalised.
    pub const SOFTMAX_ALL: Self = Self::new(Score::SoftmaxAll);
    /// [`Score::SoftmaxSelected`].
    pub const SOFTMAX_SELECTED: Self = Self::new(Score::SoftmaxSelected);
    /// [`Score::Sigmoid`], renormalised, without groups.
    pub const SIGMOID: Self = Self::new(Score::Sigmoid);

    /// The usual router with a score: no groups, no scale, all k experts; renormalised unless it is a softmax over all
    /// or a sparse mixer.
    #[must_use]
    pub const fn new(score: Score) -> Self {
        Self {
            score,
            bias: BiasPlace::Selection,
            groups: 1,
            top_groups: 1,
            rating: match score {
                Score::Sigmoid | Score::SqrtSoftplus => Rating::TwoBest,
                _ => Rating::Best,
            },
            renormalise: !matches!(score, Score::SoftmaxAll | Score::SparseMixer { .. }),
            scale: 1.0,
            count: Count::Fixed,
            null_experts: 0,
            table_layers: 0,
        }
    }

    /// The same with groups, rated as is usual for the score.
    #[must_use]
    pub const fn grouped(self, groups: u16, top_groups: u16) -> Self {
        Self { groups, top_groups, ..self }
    }

    /// Whether anything is known.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.score != Score::Unknown
    }

    /// Whether the choice is the k largest logits, whatever the bias: nothing but the order of the logits matters.
    #[must_use]
    pub fn is_plain(&self, biased: bool) -> bool {
        let ordered = !matches!(self.score, Score::SparseMixer { .. });
        ordered && self.groups <= 1 && !biased && self.count == Count::Fixed
    }

    /// Whether the routing mass of an expert depends on the other logits of its row only by a common factor, so that
    /// adding a number to all logits changes nothing.
    #[must_use]
    pub fn is_softmax(&self) -> bool {
        matches!(self.score, Score::SoftmaxAll | Score::SoftmaxSelected | Score::Unknown)
    }

    /// Whether the layer with this number looks its experts up.
    #[must_use]
    pub fn is_table(&self, layer_id: u32) -> bool {
        layer_id < self.table_layers
    }

    /// The fixed-point router that does the same for `k` experts; `bias` is `[S]` or empty. A factor for each expert,
    /// and whether the layer is a table, are of the layer: callers set `expert_scale` and `table` ([`Self::is_table`]).
    ///
    /// # Errors
    /// If the scale is beyond the core's numbers.
    pub fn to_core<'a>(&self, k: usize, bias: &'a [Logit]) -> Result<cptr_core::Router<'a>> {
        let scale = Scale::checked_from_num(self.scale).filter(|_| self.scale.is_finite());
        let scale =
            scale.ok_or_else(|| Error::unsupported(format!("expected a scale below 256, found {}", self.scale)))?;
        Ok(cptr_core::Router {
            k,
            score: match self.score {
                Score::SoftmaxAll => core::Score::SoftmaxAll,
                Score::SoftmaxSelected | Score::Unknown => core::Score::SoftmaxSelected,
                Score::Sigmoid => core::Score::Sigmoid,
                Score::SqrtSoftplus => core::Score::SqrtSoftplus,
                Score::SparseMixer { jitter } => core::Score::SparseMixer(Eps::saturating_from_num(jitter)),
            },
            bias,
            bias_place: match self.bias {
                BiasPlace::Selection => core::BiasPlace::Scores,
                BiasPlace::SelectionLogits => core::BiasPlace::ChoiceLogits,
                BiasPlace::Logits => core::BiasPlace::Logits,
            },
            groups: core::Groups {
                count: self.groups.max(1).into(),
                open: self.top_groups.max(1).into(),
                rating: match self.rating {
                    Rating::Best => core::GroupRating::Best,
                    Rating::TwoBest => core::GroupRating::TwoBest,
                },
            },
            count: match self.count {
                Count::Fixed => core::Count::Fixed,
                Count::TopP(share) => core::Count::TopP(Eps::saturating_from_num(share)),
                Count::Threshold(score) => core::Count::Above(Gate::saturating_from_num(score)),
            },
            table: false,
            renormalise: self.renormalise,
            scale,
            expert_scale: &[],
            null_experts: self.null_experts.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The description, the reference and the core mean the same.
        #[test]
        fn the_core_chooses_and_weighs_alike(z in prop::collection::vec(-8_000_i32..8_000, 16), b in prop::collection::vec(-500_i32..500, 16)) {
            // Numbers that both hold exactly.
            let z: Vec<f32> = z.into_iter().map(|z| z as f32 / 1024.0).collect();
            let b: Vec<f32> = b.into_iter().map(|b| b as f32 / 1024.0).collect();
            let fixed = |values: &[f32]| values.iter().map(|&v| Logit::from_num(v)).collect::<Vec<_>>();
            let (logits, bias) = (fixed(&z), fixed(&b));
            for text in [
                "softmax-all", "softmax-selected", "unknown", "softmax-all:4:2", "softmax-all:4:2:rating=two:renormalise=on",
                "sigmoid:4:2", "sigmoid:1:1:bias=choice", "sigmoid:1:1:bias=logits:renormalise=off", "sqrt-softplus:scale=2.5",
                "softmax-all:null=4:scale=6", "sparse-mixer",
            ] {
                let router: Router = text.parse().unwrap();
                // The sparse mixer has no bias.
                let biased = !matches!(router.score, Score::SparseMixer { .. });
                let core = router.to_core(3, if biased { &bias } else { &[] }).unwrap();
                let row = Row { bias: if biased { &b } else { &[] }, ..Row::of(&z) };
                let choice = router.choose(row, 3);
                let scores = router.selection_scores(row);
                let mut ranked: Vec<f64> = scores.clone();
                ranked.sort_by(|a, b| b.total_cmp(a));
                // Scores closer than the core resolves may change places.
                prop_assume!(ranked.windows(2).take(4).all(|pair| pair[0] - pair[1] > 1e-6));
                let ids = core.top_k::<3>(&logits).unwrap();
                prop_assert_eq!(&ids[..], &choice.ids[..], "{}", text);
                let mut shares = [Gate::ZERO; 3];
                core.weights(&logits, &ids, &mut shares);
                for ((share, weight), &id) in shares.iter().zip(&choice.weights).zip(&choice.ids) {
                    let found: f64 = core.scaled(id, *share).to_num();
                    prop_assert!((found - weight).abs() < 1e-5 * weight.max(1.0), "{text}: {found} {weight}");
                }
            }
        }
    }
}
