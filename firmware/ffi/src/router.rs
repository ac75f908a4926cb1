//! Routers, weights and selection.

use core::ptr;

use cptr_core::num::Scale;
use cptr_core::router::{BiasPlace, Count, GroupRating, Groups, Score};
use cptr_core::{Eps, Experts, Gate, Logit, Router, RouterError, SelectError, select_in_place};
use heapless::Vec;

use crate::memory::{list, output, outputs, status};
use crate::{
    CPTR_ERROR_NULL, CPTR_ERROR_RANGE, CPTR_ERROR_ROUTER, CPTR_ERROR_SIZE, CPTR_MAX_EXPERTS, CPTR_MAX_WANTED, CPTR_OK,
    CptrStatus,
};

/// Score: softmax over all experts; weights are not renormalised (OLMoE, DeepSeek-V2, Switch with k = 1).
pub const CPTR_ROUTER_SOFTMAX_ALL: u32 = 0;
/// Score: softmax over the chosen (Mixtral, Qwen3-MoE, gpt-oss).
pub const CPTR_ROUTER_SOFTMAX_SELECTED: u32 = 1;
/// Score: sigmoid; weights are renormalised (DeepSeek-V3: k = 8, groups = 8, top_groups = 4; Llama 4 does not
/// renormalise).
pub const CPTR_ROUTER_SIGMOID_GROUPED: u32 = 2;
/// Score: square root of softplus; weights are renormalised (DeepSeek-V4).
pub const CPTR_ROUTER_SQRT_SOFTPLUS: u32 = 3;
/// Score: sparse mixer (Phi-3.5-MoE).
pub const CPTR_ROUTER_SPARSE_MIXER: u32 = 4;

/// The bias is added to the scores, for the choice alone (to the logits, where the choice goes by logits).
pub const CPTR_BIAS_SCORES: u32 = 0;
/// The bias is added to the logits, for the choice alone.
pub const CPTR_BIAS_CHOICE_LOGITS: u32 = 1;
/// The bias is added to the logits before everything else.
pub const CPTR_BIAS_LOGITS: u32 = 2;

/// Groups are rated by the sum of their two best scores.
pub const CPTR_RATING_TWO_BEST: u32 = 0;
/// Groups are rated by their best score.
pub const CPTR_RATING_BEST: u32 = 1;

/// Weights are renormalised as the score says.
pub const CPTR_RENORMALISE_USUAL: u32 = 0;
/// Weights are renormalised.
pub const CPTR_RENORMALISE_YES: u32 = 1;
/// Weights are not renormalised.
pub const CPTR_RENORMALISE_NO: u32 = 2;

/// A token gets k experts.
pub const CPTR_COUNT_FIXED: u32 = 0;
/// A token gets as few of the k best as have the share `count_bound` of the mass (2^-32).
pub const CPTR_COUNT_TOP_P: u32 = 1;
/// A token gets those of the k best whose score is above `count_bound` (2^-31), and the best.
pub const CPTR_COUNT_ABOVE: u32 = 2;

/// How a model's router turns logits into a choice. Not opaque: fill it in, and the rest with 0; it is checked at every
/// call.
#[repr(C)]
pub struct CptrRouter {
    /// One of `CPTR_ROUTER_…`.
    pub kind: u32,
    /// Experts per token, 1 to `CPTR_MAX_WANTED`.
    pub k: u32,
    /// Groups of equal size into which the experts are cut, 1 to 32; 0 is 1.
    pub groups: u32,
    /// Groups that take part, 1 to `groups`; 0 is 1.
    pub top_groups: u32,
    /// Bias, one entry per expert in steps of 2^-16, or null for none.
    pub bias: *const i32,
    /// Entries of `bias`; 0 for none.
    pub bias_count: usize,
    /// One of `CPTR_BIAS_…`.
    pub bias_place: u32,
    /// One of `CPTR_RATING_…`.
    pub group_rating: u32,
    /// One of `CPTR_RENORMALISE_…`.
    pub renormalise: u32,
    /// One of `CPTR_COUNT_…`.
    pub count: u32,
    /// What `count` goes by.
    pub count_bound: u32,
    /// 1: the experts come from a table, and `cptr_router_top_k` has nothing to say.
    pub table: u32,
    /// How many experts, the last ones, stand for doing nothing.
    pub null_experts: u32,
    /// Jitter of a sparse mixer in steps of 2^-32.
    pub jitter: u32,
    /// What the weights are multiplied with, in steps of 2^-24; 0 is 1.
    pub scale: u32,
    /// What the weight of each expert is multiplied with besides, in steps of 2^-24, or null for nothing.
    pub expert_scale: *const u32,
    /// Entries of `expert_scale`; 0 for none.
    pub expert_scale_count: usize,
}

/// Logits in steps of 2^-16, as the core sees them.
///
/// # Safety
/// As [`list`].
unsafe fn logits<'a>(pointer: *const i32, count: usize) -> Result<&'a [Logit], CptrStatus> {
    // SAFETY: `Logit` is a transparent wrapper of `i32`; the rest is the caller's contract.
    unsafe { list(pointer.cast::<Logit>(), count) }
}

/// A resident set from its words.
///
/// # Safety
/// As [`list`].
pub(crate) unsafe fn experts<'a>(words: *const u32, count: usize) -> Result<&'a Experts, CptrStatus> {
    // SAFETY: the caller's contract.
    let words = unsafe { list(words, count) }?;
    // SAFETY: `Experts<[u32]>` is a transparent wrapper of `[u32]`, valid for every content.
    Ok(unsafe { &*(ptr::from_ref(words) as *const Experts) })
}

/// # Safety
/// `router` is null, misaligned, or points to a router whose `bias` and `expert_scale` follow the contract of [`list`].
pub(crate) unsafe fn router<'a>(router: *const CptrRouter) -> Result<Router<'a>, CptrStatus> {
    // SAFETY: the caller's contract, for one entry.
    let [router] = (unsafe { list(router, 1) })? else { return Err(CPTR_ERROR_NULL) };
    let k = router.k as usize;
    let in_range = (1..=CPTR_MAX_WANTED).contains(&k)
        && router.bias_count <= CPTR_MAX_EXPERTS
        && router.expert_scale_count <= CPTR_MAX_EXPERTS
        && router.table <= 1;
    let score = match router.kind {
        CPTR_ROUTER_SOFTMAX_ALL => Score::SoftmaxAll,
        CPTR_ROUTER_SOFTMAX_SELECTED => Score::SoftmaxSelected,
        CPTR_ROUTER_SIGMOID_GROUPED => Score::Sigmoid,
        CPTR_ROUTER_SQRT_SOFTPLUS => Score::SqrtSoftplus,
        CPTR_ROUTER_SPARSE_MIXER => Score::SparseMixer(Eps::from_bits(router.jitter)),
        _ => return Err(CPTR_ERROR_ROUTER),
    };
    let usual = router.kind != CPTR_ROUTER_SOFTMAX_ALL;
    let bias_place = match router.bias_place {
        CPTR_BIAS_SCORES => BiasPlace::Scores,
        CPTR_BIAS_CHOICE_LOGITS => BiasPlace::ChoiceLogits,
        CPTR_BIAS_LOGITS => BiasPlace::Logits,
        _ => return Err(CPTR_ERROR_ROUTER),
    };
    let count = match router.count {
        CPTR_COUNT_FIXED => Count::Fixed,
        CPTR_COUNT_TOP_P => Count::TopP(Eps::from_bits(router.count_bound)),
        CPTR_COUNT_ABOVE => Count::Above(Gate::from_bits(router.count_bound)),
        _ => return Err(CPTR_ERROR_ROUTER),
    };
    let rating = if router.group_rating == CPTR_RATING_BEST { GroupRating::Best } else { GroupRating::TwoBest };
    if !in_range || router.group_rating > CPTR_RATING_BEST || router.renormalise > CPTR_RENORMALISE_NO {
        return Err(CPTR_ERROR_ROUTER);
    }
    // SAFETY: the caller's contract; `Scale` is a transparent wrapper of `u32`.
    let (bias, expert_scale) = unsafe {
        (logits(router.bias, router.bias_count)?, list(router.expert_scale.cast::<Scale>(), router.expert_scale_count)?)
    };
    Ok(Router {
        k,
        score,
        bias,
        bias_place,
        groups: Groups { count: router.groups.max(1) as usize, open: router.top_groups.max(1) as usize, rating },
        count,
        table: router.table != 0,
        renormalise: router.renormalise == CPTR_RENORMALISE_YES
            || router.renormalise == CPTR_RENORMALISE_USUAL && usual,
        scale: if router.scale == 0 { Scale::ONE } else { Scale::from_bits(router.scale) },
        expert_scale,
        null_experts: router.null_experts as usize,
    })
}

fn range(count: usize, most: usize) -> Result<usize, CptrStatus> {
    if count <= most { Ok(count) } else { Err(CPTR_ERROR_RANGE) }
}

/// The experts that the model wants, best first; of equal scores the lower id ranks higher. Writes `router->k` ids, the
/// last of them 0xFFFF where the token gets fewer.
///
/// `scores`: logits in steps of 2^-16, `experts` of them. `capacity`: entries of `wanted`, at least `router->k`.
///
/// Errors: `NULL`, `ALIGN`, `SIZE` (capacity), `RANGE` (experts), `ROUTER`.
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. `wanted` overlaps
/// nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_router_top_k(
    router: *const CptrRouter,
    scores: *const i32,
    experts: usize,
    wanted: *mut u16,
    capacity: usize,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (router, scores, wanted) = unsafe {
            (self::router(router)?, logits(scores, range(experts, CPTR_MAX_EXPERTS)?)?, outputs(wanted, capacity)?)
        };
        if wanted.len() < router.k() {
            return Err(CPTR_ERROR_SIZE);
        }
        let mut best = Vec::<u16, CPTR_MAX_WANTED>::new();
        router.top_k_in_place(scores, &mut best).map_err(|error| match error {
            RouterError::Experts => CPTR_ERROR_RANGE,
            _ => CPTR_ERROR_ROUTER,
        })?;
        wanted.write_all((0..router.k()).map(|rank| best.get(rank).copied().unwrap_or(u16::MAX)));
        Ok(CPTR_OK)
    };
    status(run())
}

/// Mixing weights of `chosen` from the raw scores, in steps of 2^-31 and in the order of `chosen`: what the model would
/// give them.
///
/// `weights` has `chosen_count` entries, at most `CPTR_MAX_WANTED`.
///
/// Errors: `NULL`, `ALIGN`, `RANGE` (counts, ids), `ROUTER`.
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. `weights` overlaps
/// nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_router_weights(
    router: *const CptrRouter,
    scores: *const i32,
    experts: usize,
    chosen: *const u16,
    chosen_count: usize,
    weights: *mut u32,
) -> CptrStatus {
    let run = || {
        let chosen_count = range(chosen_count, CPTR_MAX_WANTED)?;
        // SAFETY: this function's contract.
        let (router, scores, chosen, weights) = unsafe {
            (
                self::router(router)?,
                logits(scores, range(experts, CPTR_MAX_EXPERTS)?)?,
                list(chosen, chosen_count)?,
                outputs(weights, chosen_count)?,
            )
        };
        if chosen.iter().any(|&expert| usize::from(expert) >= scores.len()) {
            return Err(CPTR_ERROR_RANGE);
        }
        let mut shares = Vec::<Gate, CPTR_MAX_WANTED>::new();
        chosen.iter().for_each(|_| _ = shares.push(Gate::ZERO));
        router.weights(scores, chosen, &mut shares);
        weights.write_all(shares.iter().map(|share| share.to_bits()));
        Ok(CPTR_OK)
    };
    status(run())
}

/// What the model multiplies the output of `expert` with, in steps of 2^-24: its `weight` of `cptr_router_weights`
/// times the router's scales. Saturates.
///
/// Errors: `NULL`, `ALIGN`, `ROUTER`.
///
/// # Safety
/// The pointers that are neither null nor misaligned point to what they say. `scaled` overlaps nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_router_scaled(
    router: *const CptrRouter,
    expert: u16,
    weight: u32,
    scaled: *mut u32,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (router, scaled) = unsafe { (self::router(router)?, output(scaled)?) };
        scaled.write(&[router.scaled(expert, Gate::from_bits(weight)).to_bits()]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Chooses the experts to run: resident ones may stand in for wanted ones that are not resident, while the chosen keep
/// at least `1 - eps` of the wanted routing mass. The critical path.
///
/// `eps` in steps of 2^-32; 0 returns `wanted`. The first `keep_top` of `wanted` are never replaced. `wanted`: the
/// model's own choice, best first, `wanted_count` distinct ids. `resident`: a bit field, id `i` is bit `i % 32` of word
/// `i / 32`. Writes `wanted_count` ids to `chosen`, a stand-in in the place of the one it stands in for, and the number
/// of stand-ins to `substituted`.
///
/// Errors: `NULL`, `ALIGN`, `RANGE` (counts, ids, an id twice), `ROUTER`.
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. `chosen`
/// (`wanted_count` entries) and `substituted` overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_select(
    router: *const CptrRouter,
    eps: u32,
    keep_top: usize,
    scores: *const i32,
    experts: usize,
    wanted: *const u16,
    wanted_count: usize,
    resident: *const u32,
    resident_words: usize,
    chosen: *mut u16,
    substituted: *mut u32,
) -> CptrStatus {
    let run = || {
        let wanted_count = range(wanted_count, CPTR_MAX_WANTED)?;
        // SAFETY: this function's contract.
        let (router, scores, wanted, resident, chosen, substituted) = unsafe {
            (
                self::router(router)?,
                logits(scores, range(experts, CPTR_MAX_EXPERTS)?)?,
                list(wanted, wanted_count)?,
                self::experts(resident, range(resident_words, CPTR_MAX_EXPERTS / 32)?)?,
                outputs(chosen, wanted_count)?,
                output(substituted)?,
            )
        };
        let mut experts = Vec::<u16, CPTR_MAX_WANTED>::new();
        for &expert in wanted {
            experts.push(expert).map_err(|_| CPTR_ERROR_RANGE)?;
        }
        let stand_ins = select_in_place(&router, Eps::from_bits(eps), keep_top, scores, &mut experts, resident)
            .map_err(|_: SelectError| CPTR_ERROR_RANGE)?;
        chosen.write(&experts);
        substituted.write(&[stand_ins as u32]);
        Ok(CPTR_OK)
    };
    status(run())
}
