//! Routers, weights and selection.

use core::ptr;

use cptr_core::{Eps, Experts, Gate, Logit, Router, RouterError, SelectError, select_in_place};

use crate::memory::{list, output, outputs, status};
use crate::{
    CPTR_ERROR_NULL, CPTR_ERROR_RANGE, CPTR_ERROR_ROUTER, CPTR_ERROR_SIZE, CPTR_MAX_EXPERTS, CPTR_MAX_WANTED, CPTR_OK,
    CptrStatus,
};

/// Router: softmax over all experts, then the k largest; weights sum to less than 1 (OLMoE, DeepSeek-V2-Lite, Switch with k = 1).
pub const CPTR_ROUTER_SOFTMAX_ALL: u32 = 0;
/// Router: softmax over the k largest (Mixtral, Qwen3-MoE, gpt-oss).
pub const CPTR_ROUTER_SOFTMAX_SELECTED: u32 = 1;
/// Router: sigmoid, bias for the selection only, best groups first (DeepSeek-V3: k = 8, groups = 8, top_groups = 4).
pub const CPTR_ROUTER_SIGMOID_GROUPED: u32 = 2;

/// How a model's router turns logits into a choice. Not opaque: fill it in; it is checked at every call.
#[repr(C)]
pub struct CptrRouter {
    /// One of `CPTR_ROUTER_…`.
    pub kind: u32,
    /// Experts per token, 1 to `CPTR_MAX_WANTED`.
    pub k: u32,
    /// Groups of equal size into which the experts are cut, 1 to 32; used by `CPTR_ROUTER_SIGMOID_GROUPED` only.
    pub groups: u32,
    /// Groups that take part, 1 to `groups`; used by `CPTR_ROUTER_SIGMOID_GROUPED` only.
    pub top_groups: u32,
    /// Selection bias, one entry per expert in steps of 2^-16, or null for none; used by `CPTR_ROUTER_SIGMOID_GROUPED` only.
    pub bias: *const i32,
    /// Entries of `bias`; 0 for none.
    pub bias_count: usize,
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
/// `router` is null, misaligned, or points to a router whose `bias` follows the contract of [`list`].
unsafe fn router<'a>(router: *const CptrRouter) -> Result<Router<'a>, CptrStatus> {
    // SAFETY: the caller's contract, for one entry.
    let [router] = (unsafe { list(router, 1) })? else { return Err(CPTR_ERROR_NULL) };
    let k = router.k as usize;
    if k == 0 || k > CPTR_MAX_WANTED {
        return Err(CPTR_ERROR_ROUTER);
    }
    match router.kind {
        CPTR_ROUTER_SOFTMAX_ALL => Ok(Router::softmax_all(k)),
        CPTR_ROUTER_SOFTMAX_SELECTED => Ok(Router::softmax_selected(k)),
        CPTR_ROUTER_SIGMOID_GROUPED => {
            if router.bias_count > CPTR_MAX_EXPERTS || router.top_groups == 0 {
                return Err(CPTR_ERROR_ROUTER);
            }
            // SAFETY: the caller's contract.
            let bias = unsafe { logits(router.bias, router.bias_count) }?;
            Ok(Router::sigmoid_grouped(k, router.groups as usize, router.top_groups as usize, bias))
        }
        _ => Err(CPTR_ERROR_ROUTER),
    }
}

fn range(count: usize, most: usize) -> Result<usize, CptrStatus> {
    if count <= most { Ok(count) } else { Err(CPTR_ERROR_RANGE) }
}

/// The experts that the model wants, best first; of equal scores the lower id ranks higher. Writes `router->k` ids.
///
/// `scores`: logits in steps of 2^-16, `experts` of them. `capacity`: entries of `wanted`, at least `router->k`.
///
/// Errors: `NULL`, `ALIGN`, `SIZE` (capacity), `RANGE` (experts), `ROUTER`.
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. `wanted` overlaps nothing.
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
        let best = router.top_k::<CPTR_MAX_WANTED>(scores).map_err(|error| match error {
            RouterError::Experts => CPTR_ERROR_RANGE,
            _ => CPTR_ERROR_ROUTER,
        })?;
        wanted.write(&best);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Mixing weights of `chosen` from the raw scores, in steps of 2^-31 and in the order of `chosen`: what the model would give them.
///
/// `weights` has `chosen_count` entries, at most `CPTR_MAX_WANTED`.
///
/// Errors: `NULL`, `ALIGN`, `RANGE` (counts, ids), `ROUTER`.
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. `weights` overlaps nothing.
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
        let mut shares = [Gate::ZERO; CPTR_MAX_WANTED];
        router.weights(scores, chosen, &mut shares);
        weights.write(&shares.map(Gate::to_bits));
        Ok(CPTR_OK)
    };
    status(run())
}

/// Chooses the experts to run: resident ones may stand in for wanted ones that are not resident, while the chosen keep at least
/// `1 - eps` of the wanted routing mass. The critical path.
///
/// `eps` in steps of 2^-32; 0 returns `wanted`. The first `keep_top` of `wanted` are never replaced. `wanted`: the model's own choice, best
/// first, `wanted_count` distinct ids. `resident`: a bit field, id `i` is bit `i % 32` of word `i / 32`. Writes `wanted_count` ids to `chosen`, a
/// stand-in in the place of the one it stands in for, and the number of stand-ins to `substituted`.
///
/// Errors: `NULL`, `ALIGN`, `RANGE` (counts, ids, an id twice), `ROUTER`.
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. `chosen` (`wanted_count` entries) and
/// `substituted` overlap nothing.
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
        let mut experts = [0; CPTR_MAX_WANTED];
        let experts = experts.get_mut(..wanted_count).ok_or(CPTR_ERROR_RANGE)?;
        experts.iter_mut().zip(wanted).for_each(|(to, from)| *to = *from);
        let stand_ins = select_in_place(&router, Eps::from_bits(eps), keep_top, scores, experts, resident)
            .map_err(|_: SelectError| CPTR_ERROR_RANGE)?;
        chosen.write(experts);
        substituted.write(&[stand_ins as u32]);
        Ok(CPTR_OK)
    };
    status(run())
}
