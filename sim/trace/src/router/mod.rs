//! What a router does with its scores, as data: [`Router`] says it, [`Router::choose`] does it in floating point.
//!
//! One description serves traces, checkpoints and the fixed-point core. Its text form is what `--router` takes and what the native format
//! keeps: a score, then the parts in which a router departs from the usual one with that score, each after a colon.
//!
//! | text | router |
//! |---|---|
//! | `softmax-all` | softmax over all experts, the k largest; weights sum to less than 1 (OLMoE, Switch) |
//! | `softmax-selected` | the k largest, softmax over them; weights sum to 1 (Mixtral, gpt-oss) |
//! | `softmax-all:4:2` | the same within the best 2 of 4 groups (DeepSeek-V2) |
//! | `sigmoid:8:4:scale=2.5` | sigmoid, bias for the selection, 4 of 8 groups rated by the sum of their two best (DeepSeek-V3) |
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

use cptr_core::Logit;
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
    /// To the logits.
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
    /// Those whose score (softmax or sigmoid) is at least this, and always the best.
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

    /// The usual router with a score: no groups, no scale, all k experts; renormalised unless it is a softmax over all or a sparse mixer.
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

    /// Whether the routing mass of an expert depends on the other logits of its row only by a common factor, so that adding a number to
    /// all logits changes nothing.
    #[must_use]
    pub fn is_softmax(&self) -> bool {
        matches!(self.score, Score::SoftmaxAll | Score::SoftmaxSelected | Score::Unknown)
    }

    /// The fixed-point router that does the same for `k` experts; `bias` is `[E]` or empty.
    ///
    /// # Errors
    /// If the core has no such router.
    pub fn to_core<'a>(&self, k: usize, bias: &'a [Logit]) -> Result<cptr_core::Router<'a>> {
        let plain = |score| Self { scale: self.scale, null_experts: self.null_experts, ..Self::new(score) };
        let groups = Self { groups: self.groups, top_groups: self.top_groups, ..plain(Score::Sigmoid) };
        match self.score {
            Score::SoftmaxAll if *self == plain(self.score) => Ok(cptr_core::Router::softmax_all(k)),
            Score::SoftmaxSelected | Score::Unknown if *self == plain(self.score) => {
                Ok(cptr_core::Router::softmax_selected(k))
            }
            Score::Sigmoid if *self == groups => {
                Ok(cptr_core::Router::sigmoid_grouped(k, self.groups.into(), self.top_groups.into(), bias))
            }
            _ => Err(Error::unsupported(format!("no fixed-point router for {self} yet"))),
        }
    }
}
