//! Routers as data: how each family of models turns logits into a choice of experts and into mixing weights.
//!
//! A [`Router`] is one description with public fields: which [`Score`] a logit gives, where a bias is added
//! ([`BiasPlace`]), which [`Groups`] of experts take part, how many experts a token gets ([`Count`]), and what happens
//! to the weights afterwards. The presets are short forms of it; any other router is one of them with fields changed:
//!
//! ```
//! use cptr_core::num::Scale;
//! use cptr_core::router::{GroupRating, Groups, Router};
//! use cptr_core::{Gate, Logit};
//!
//! // Softmax over all, the best two of four groups by their two best experts, weights that sum to 2.
//! let router = Router {
//!     groups: Groups { count: 4, open: 2, rating: GroupRating::TwoBest },
//!     renormalise: true,
//!     scale: Scale::from_num(2),
//!     ..Router::softmax_all(2)
//! };
//! let logits = [2.0, -1.0, 1.5, 1.0, 0.0, 0.0, 1.75, 0.5].map(Logit::from_num);
//! let chosen = router.top_k::<2>(&logits).unwrap();
//! assert_eq!(chosen, [0, 6]);
//! let mut shares = [Gate::ZERO; 2];
//! router.weights(&logits, &chosen, &mut shares);
//! assert!((router.scaled(0, shares[0]).to_num::<f64>() - 2.0 / (1.0 + (-0.25f64).exp())).abs() < 1e-6);
//! ```
//!
//! | model family | preset | score | chosen by | weights |
//! |---|---|---|---|---|
//! | Switch (arXiv 2101.03961) | [`Router::switch`] | softmax over all | best | as they are |
//! | GLaM (arXiv 2112.06905) | [`Router::glam`] | softmax | two best | sum to 1 |
//! | Mixtral (arXiv 2401.04088) | [`Router::mixtral`] | softmax | two best | sum to 1 |
//! | gpt-oss | [`Router::gpt_oss`] | softmax | four best | sum to 1 |
//! | OLMoE (arXiv 2409.02060), Qwen1.5-MoE | [`Router::softmax_all`] | softmax over all | k best | as they are |
//! | Qwen3-MoE and kin | [`Router::softmax_selected`] | softmax | k best | sum to 1 |
//! | DeepSeek-V2 (arXiv 2405.04434) | [`Router::deepseek_v2`] | softmax over all | best in groups | scaled |
//! | DeepSeek-V3 (arXiv 2412.19437) | [`Router::deepseek_v3`] | sigmoid | score + bias in groups | sum to 1, scaled |
//! | DeepSeek-V4 | [`Router::deepseek_v4`] | root of softplus | score + bias, or a table | sum to 1, scaled |
//! | DeepSeek-V3's kin | [`Router::sigmoid_grouped`] | sigmoid | score + bias in groups | sum to 1, scaled |
//! | ERNIE 4.5 | [`Router::ernie4_5_moe`] | softmax over all | score + bias | sum to 1 |
//! | LongCat-Flash (arXiv 2509.01322) | [`Router::longcat_flash`] | softmax over all | score + bias | scaled |
//! | Kolibri 1 | [`Router::kolibri1`] | sigmoid | logit + bias | sum to 1 |
//! | Llama 4 | [`Router::llama4`] | sigmoid | k best | as they are |
//! | Phi-3.5-MoE (arXiv 2409.12136) | [`Router::phimoe`] | sparse mixer | two best | each by itself |
//! | ids without scores | [`Router::ids_only`] | - | as recorded | - |
//!
//! Kin of Qwen3-MoE are Granite, Aria and Gemma 4 (with a scale per expert); kin of DeepSeek-V3 are GLM-4.5, dots.llm1,
//! Nemotron-H, Kimi Linear, EXAONE-MoE, MiMo-V2-Flash, Laguna, MiniMax-M2 and Hunyuan-V3. Choices and weights of each
//! preset but GLaM's are held to those of the module of the same name in the Python library `transformers`
//! (`core/tests/routers.rs`).

mod choice;
mod mass;
#[cfg(test)]
mod tests;

use core::fmt;

use heapless::Vec;

use crate::num::{Eps, Gate, Logit, Scale};

pub(crate) use choice::OpenGroups;
pub(crate) use mass::softmax_mass;

/// Most groups that a grouped router may have.
pub const MAX_GROUPS: usize = 32;
/// Most experts of a token that a selection, a tracker, a protocol or the C interface takes.
pub const MAX_K: usize = 64;

/// What a logit `z` is worth. In each case a higher logit is worth more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// `exp(z)` over the sum of `exp` of all experts, those of closed groups and null experts too.
    SoftmaxAll,
    /// `exp(z)` over the sum of `exp` of the chosen. The choice is by logits: a bias of [`BiasPlace::Scores`] is added
    /// to them.
    SoftmaxSelected,
    /// `1 / (1 + exp(-z))`.
    Sigmoid,
    /// `sqrt(ln(1 + exp(z)))`.
    SqrtSoftplus,
    /// Sparse mixer at inference (SparseMixer-v2, arXiv 2409.12136; the number is its jitter): each of the chosen, in
    /// their order, has its share of a softmax over those experts, the ones before it left out, whose logit is not more
    /// than twice the jitter below its own, relative to the larger of the two magnitudes. The choice is by logits, and
    /// routing masses are those of a softmax.
    SparseMixer(Eps),
}

/// Where [`field@Router::bias`] is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BiasPlace {
    /// To the scores, for the choice of groups and experts alone: weights come from the scores without it ("loss-free
    /// balancing", arXiv 2408.15664).
    Scores,
    /// To the logits, for the choice alone.
    ChoiceLogits,
    /// To the logits, before everything else: the bias of the router's linear map, where the given logits are without
    /// it.
    Logits,
}

/// How a group of experts is rated. Scores are those that the choice goes by, bias included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupRating {
    /// By its best score.
    Best,
    /// By the sum of its two best scores.
    TwoBest,
}

/// Groups of experts with consecutive ids, of which some are open to a token and the others are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Groups of equal size, 1 to [`MAX_GROUPS`].
    pub count: usize,
    /// How many are open to a token, the best rated; of equals the first.
    pub open: usize,
    /// How they are rated.
    pub rating: GroupRating,
}

impl Groups {
    /// All experts together.
    pub const ONE: Self = Self { count: 1, open: 1, rating: GroupRating::Best };
}

/// How many experts a token gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// [`Router::k`].
    Fixed,
    /// As few of the k best as have this share of the mass of all experts together; k if all of them have not (top-p
    /// routing, arXiv 2403.07652).
    TopP(Eps),
    /// The k best down to the first whose score, without bias, is not above this; the best in any case.
    Above(Gate),
}

/// How a model's router chooses experts and weighs them. The fields are checked where they are used.
///
/// The biases and scales of experts stay in the caller's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router<'a> {
    /// Experts per token, or most of them ([`Count`]).
    pub k: usize,
    /// What a logit is worth.
    pub score: Score,
    /// One number for each expert, or none: no bias.
    pub bias: &'a [Logit],
    /// Where it is added.
    pub bias_place: BiasPlace,
    /// Groups of experts.
    pub groups: Groups,
    /// How many experts a token gets.
    pub count: Count,
    /// Whether the experts come from a table, by token id, and only their weights from the scores (hash routing,
    /// DeepSeek-V4): there is no [`Router::top_k`] then.
    pub table: bool,
    /// Whether mixing weights are divided by their sum. [`Score::SoftmaxSelected`] does so anyway,
    /// [`Score::SparseMixer`] never.
    pub renormalise: bool,
    /// What the mixing weights are multiplied with in the end.
    pub scale: Scale,
    /// What the mixing weight of each expert is multiplied with besides; empty: nothing.
    pub expert_scale: &'a [Scale],
    /// How many experts, the last ones, stand for doing nothing (LongCat-Flash's zero experts): they take part with
    /// logit, mass and weight, but there is nothing to load and nothing to run.
    pub null_experts: usize,
}

/// Why a router cannot choose.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouterError {
    /// The list of chosen experts cannot hold k entries.
    Capacity,
    /// There are fewer logits, or fewer in the open groups, than experts to choose, or more than 65,536.
    Experts,
    /// The bias, or the scale per expert, has not one entry per logit.
    Bias,
    /// The groups do not divide the experts, are more than [`MAX_GROUPS`], or fewer than the groups to take.
    Groups,
    /// A recorded expert id is out of range or stands twice.
    Id,
    /// The experts come from a table.
    Table,
}

impl fmt::Display for RouterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Capacity => "the list of chosen experts is too short for k",
            Self::Experts => "fewer experts than the router must choose",
            Self::Bias => "the bias or the scale has not one entry per expert",
            Self::Groups => "the groups do not fit the experts",
            Self::Id => "an expert id is out of range or stands twice",
            Self::Table => "the experts come from a table, not from the scores",
        })
    }
}

impl core::error::Error for RouterError {}

impl<'a> Router<'a> {
    pub(crate) const fn new(k: usize, score: Score, renormalise: bool) -> Self {
        Self {
            k,
            score,
            bias: &[],
            bias_place: BiasPlace::Scores,
            groups: Groups::ONE,
            count: Count::Fixed,
            table: false,
            renormalise,
            scale: Scale::ONE,
            expert_scale: &[],
            null_experts: 0,
        }
    }

    /// Softmax over all experts, then the k largest; weights sum to less than 1.
    pub const fn softmax_all(k: usize) -> Self {
        Self::new(k, Score::SoftmaxAll, false)
    }

    /// The k largest logits, softmax over them.
    pub const fn softmax_selected(k: usize) -> Self {
        Self::new(k, Score::SoftmaxSelected, true)
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

    /// gpt-oss: softmax over the four largest. Its logits have a bias: [`BiasPlace::Logits`] for those who have them
    /// without it.
    pub const fn gpt_oss() -> Self {
        Self::softmax_selected(4)
    }

    /// DeepSeek-V2, `group_limited_greedy`: softmax over all, the k best in the `open` of `groups` groups with the best
    /// experts. Weights are times `routed_scaling_factor`, which is [`Router::scale`]. (`greedy`:
    /// [`Router::softmax_all`].)
    pub const fn deepseek_v2(k: usize, groups: usize, open: usize) -> Self {
        Self { groups: Groups { count: groups, open, rating: GroupRating::Best }, ..Self::softmax_all(k) }
    }

    /// Sigmoid scores; `bias` (one entry per expert, or none) is added for the selection only; the experts are cut into
    /// `groups` of equal size, ranked by the sum of their two best biased scores, of which `top_groups` take part.
    ///
    /// The models that [`Router`]'s table names with DeepSeek-V3, most of them with one group; `routed_scaling_factor`
    /// is [`Router::scale`], and `norm_topk_prob` is [`Router::renormalise`].
    pub const fn sigmoid_grouped(k: usize, groups: usize, top_groups: usize, bias: &'a [Logit]) -> Self {
        let groups = Groups { count: groups, open: top_groups, rating: GroupRating::TwoBest };
        Self { groups, bias, ..Self::new(k, Score::Sigmoid, true) }
    }

    /// DeepSeek-V3: top-8 of 256 experts in 4 of 8 groups, weights times 2.5.
    pub const fn deepseek_v3(bias: &'a [Logit]) -> Self {
        Self { scale: Scale::from_bits(5 << 23), ..Self::sigmoid_grouped(8, 8, 4, bias) }
    }

    /// DeepSeek-V4: square root of softplus, bias for the selection only, weights renormalised (and times
    /// `routed_scaling_factor`, which is [`Router::scale`]). Layers with `hash_moe` set [`Router::table`].
    pub const fn deepseek_v4(k: usize, bias: &'a [Logit]) -> Self {
        Self { bias, ..Self::new(k, Score::SqrtSoftplus, true) }
    }

    /// ERNIE 4.5: softmax over all, bias for the selection only, weights renormalised.
    pub const fn ernie4_5_moe(k: usize, bias: &'a [Logit]) -> Self {
        Self { bias, ..Self::new(k, Score::SoftmaxAll, true) }
    }

    /// LongCat-Flash: softmax over all experts, the last `null_experts` of which do nothing; bias for the selection
    /// only; weights times 6.
    pub const fn longcat_flash(k: usize, null_experts: usize, bias: &'a [Logit]) -> Self {
        Self { bias, null_experts, scale: Scale::from_bits(6 << 24), ..Self::softmax_all(k) }
    }

    /// Kolibri 1: the k best of logit + bias, sigmoid of their logits, renormalised.
    pub const fn kolibri1(k: usize, bias: &'a [Logit]) -> Self {
        Self { bias, bias_place: BiasPlace::ChoiceLogits, ..Self::new(k, Score::Sigmoid, true) }
    }

    /// Llama 4: the k best logits (k = 1 in Scout and Maverick), each weighed by its sigmoid.
    pub const fn llama4(k: usize) -> Self {
        Self::new(k, Score::Sigmoid, false)
    }

    /// Phi-3.5-MoE: sparse mixer over the two best, with a jitter of 0.01.
    pub const fn phimoe() -> Self {
        Self::new(2, Score::SparseMixer(Eps::from_bits(42_949_673)), false)
    }

    /// Experts per token.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Whether `expert` of a layer of `experts`, null experts included, is a null expert.
    pub const fn is_null(&self, expert: u16, experts: usize) -> bool {
        let expert = expert as usize;
        expert < experts && experts - expert <= self.null_experts
    }

    /// Whether the router can choose from a layer of so many experts, null experts included.
    ///
    /// # Errors
    /// [`RouterError::Experts`], [`RouterError::Bias`], [`RouterError::Groups`].
    pub fn fits(&self, experts: usize) -> Result<(), RouterError> {
        if experts < self.k || experts > 1 << 16 {
            return Err(RouterError::Experts);
        }
        let empty_or_all = |count: usize| count == 0 || count == experts;
        if !empty_or_all(self.bias.len()) || !empty_or_all(self.expert_scale.len()) {
            return Err(RouterError::Bias);
        }
        let Groups { count, open, .. } = self.groups;
        if count == 1 && open == 1 {
            return Ok(());
        }
        let fits = (1..=MAX_GROUPS).contains(&count) && (1..=count).contains(&open) && experts.is_multiple_of(count);
        if !fits {
            return Err(RouterError::Groups);
        }
        if experts / count * open >= self.k { Ok(()) } else { Err(RouterError::Experts) }
    }

    /// Whether a bias has a say in the choice and none in the masses, so that the chosen need not be those of most
    /// mass.
    pub(crate) const fn biased_choice(&self) -> bool {
        !self.bias.is_empty() && !matches!(self.bias_place, BiasPlace::Logits)
    }

    /// Takes a recorded list of ids as the choice, after checking that the ids are below `experts` and distinct.
    ///
    /// # Errors
    /// [`RouterError::Capacity`], [`RouterError::Id`].
    pub fn ids_only<const K: usize>(ids: &[u16], experts: usize) -> Result<Vec<u16, K>, RouterError> {
        Self::check_ids(ids, experts)?;
        Vec::from_slice(ids).map_err(|_| RouterError::Capacity)
    }

    /// Whether a list of ids may be a choice: all below `experts` and distinct. Cost: a step for each; the list is
    /// searched for one that leaves the same remainder by 128 as one before.
    ///
    /// # Errors
    /// [`RouterError::Id`].
    pub fn check_ids(ids: &[u16], experts: usize) -> Result<(), RouterError> {
        let mut seen = [0u32; 4];
        for (index, &id) in ids.iter().enumerate() {
            let (word, bit) = (usize::from(id / 32) % seen.len(), 1u32.wrapping_shl(id.into()));
            let repeats = seen[word] & bit != 0 && ids.iter().take(index).any(|&before| before == id);
            if usize::from(id) >= experts || repeats {
                return Err(RouterError::Id);
            }
            seen[word] |= bit;
        }
        Ok(())
    }
}
