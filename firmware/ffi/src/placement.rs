//! What lies in fast memory after prefill: demand, importance, and what fits a budget.

use core::mem::{align_of, offset_of, size_of};

use cptr_core::placement::{Candidate, Demand, hot_globally, hot_in_layer, importance, rank};
use cptr_core::{Eps, Gate};

use crate::memory::{buffer, clear, list, output, status};
use crate::{CPTR_ERROR_RANGE, CPTR_ERROR_SIZE, CPTR_MAX_EXPERTS, CPTR_MAX_WANTED, CPTR_OK, CptrStatus};

/// What prefill asked of one expert. Set to zero before the first token.
#[repr(C)]
pub struct CptrDemand {
    /// Lowest 22 bits: tokens that chose it (`CPTR_DEMAND_COUNT`). The others: sum of its mixing weights in steps of
    /// 2^-20 (`CPTR_DEMAND_SCORE`). Both saturate, after 2^22 tokens at the earliest.
    pub sums: u64,
}

/// One expert of one layer in a placement over all layers.
#[repr(C)]
pub struct CptrCandidate {
    /// Its importance inside its layer, from `cptr_demand_importance`.
    pub importance: u32,
    /// Index of its layer.
    pub layer: u16,
    /// Its id in the layer.
    pub expert: u16,
}

const _: () =
    assert!(size_of::<CptrDemand>() == size_of::<Demand>() && align_of::<CptrDemand>() == align_of::<Demand>());
const _: () = assert!(size_of::<CptrCandidate>() == size_of::<Candidate>());
const _: () = assert!(align_of::<CptrCandidate>() == align_of::<Candidate>());
const _: () = assert!(offset_of!(CptrCandidate, importance) == offset_of!(Candidate, importance));
const _: () = assert!(offset_of!(CptrCandidate, layer) == offset_of!(Candidate, layer));

fn layer(experts: usize) -> Result<usize, CptrStatus> {
    if experts <= CPTR_MAX_EXPERTS { Ok(experts) } else { Err(CPTR_ERROR_RANGE) }
}

/// Counts one token of a layer's prefill: the experts it chose, and their mixing weights in steps of 2^-31 and in the
/// same order (`cptr_router_weights`), or null if they are not known: every choice then counts as 1.
///
/// `demand`: one entry per expert of the layer. Errors: `NULL`, `ALIGN`, `RANGE` (counts, ids).
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say (`weights`:
/// `chosen_count`). Nothing overlaps; nobody else uses `demand` meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_demand_observe(
    demand: *mut CptrDemand,
    experts: usize,
    chosen: *const u16,
    chosen_count: usize,
    weights: *const u32,
) -> CptrStatus {
    let run = || {
        let experts = layer(experts)?;
        if chosen_count > CPTR_MAX_WANTED {
            return Err(CPTR_ERROR_RANGE);
        }
        let weight_count = if weights.is_null() { 0 } else { chosen_count };
        // SAFETY: this function's contract; `Demand` has the layout of `CptrDemand`, `Gate` is a transparent wrapper of
        // `u32`.
        let (demand, chosen, weights) = unsafe {
            (
                buffer(demand.cast::<Demand>(), experts)?,
                list(chosen, chosen_count)?,
                list(weights.cast::<Gate>(), weight_count)?,
            )
        };
        if chosen.iter().any(|&expert| usize::from(expert) >= experts) {
            return Err(CPTR_ERROR_RANGE);
        }
        Demand::observe(demand, chosen, weights);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Importance of every expert of a layer: `alpha` times its share of the choices and `1 - alpha` times its share of the
/// mixing weights.
///
/// `alpha` in steps of 2^-32, its largest value stands for 1. `importance`: `experts` entries, in steps of 2^-31; they
/// sum to at most 1, and are 0 where nothing was asked. Errors: `NULL`, `ALIGN`, `RANGE` (experts).
///
/// # Safety
/// The pointers that are neither null nor misaligned point to `experts` entries. Nothing overlaps; nobody writes
/// `demand` meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_demand_importance(
    demand: *const CptrDemand,
    experts: usize,
    alpha: u32,
    importance: *mut u32,
) -> CptrStatus {
    let run = || {
        let experts = layer(experts)?;
        // SAFETY: as in `cptr_demand_observe`.
        let (demand, shares) =
            unsafe { (list(demand.cast::<Demand>(), experts)?, buffer(importance.cast::<Gate>(), experts)?) };
        self::importance(demand, Eps::from_bits(alpha), shares);
        Ok(CPTR_OK)
    };
    status(run())
}

/// The experts of one layer that lie in fast memory if each takes `expert_bytes` and the layer has `budget_bytes`: the
/// most important ones.
///
/// Writes all ids by falling importance to `order` (`experts` entries; of equals the lower id first), the resident set
/// to the first `CPTR_SET_WORDS(experts)` words of `resident`, as `cptr_select` takes it, and their number to `hot`:
/// the first `hot` of `order`.
///
/// Errors: `NULL`, `ALIGN`, `SIZE` (words), `RANGE` (experts).
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_place_layer(
    importance: *const u32,
    experts: usize,
    expert_bytes: u64,
    budget_bytes: u64,
    order: *mut u16,
    resident: *mut u32,
    resident_words: usize,
    hot: *mut u32,
) -> CptrStatus {
    let run = || {
        let words = layer(experts)?.div_ceil(32);
        if resident_words < words {
            return Err(CPTR_ERROR_SIZE);
        }
        // SAFETY: this function's contract; `Gate` is a transparent wrapper of `u32`.
        let (importance, order, resident, hot) = unsafe {
            (list(importance.cast::<Gate>(), experts)?, buffer(order, experts)?, buffer(resident, words)?, output(hot)?)
        };
        rank(importance, order);
        let count = hot_in_layer(experts, expert_bytes, budget_bytes);
        // SAFETY: the words are there, and aligned.
        unsafe { clear(resident.as_mut_ptr(), resident.len()) };
        for &expert in order.iter().take(count) {
            if let Some(word) = resident.get_mut(usize::from(expert / 32)) {
                *word |= 1 << (expert % 32);
            }
        }
        hot.write(&[count as u32]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// The experts of all layers that lie in fast memory under one budget, if each takes `expert_bytes`: moves the most
/// important candidates to the front and writes their number to `hot`. The order inside the two parts is not defined.
///
/// Errors: `NULL`, `ALIGN`.
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps;
/// nobody else uses `candidates` meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_place_layers(
    candidates: *mut CptrCandidate,
    count: usize,
    expert_bytes: u64,
    budget_bytes: u64,
    hot: *mut usize,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract; `Candidate` has the layout of `CptrCandidate`.
        let (candidates, hot) = unsafe { (buffer(candidates.cast::<Candidate>(), count)?, output(hot)?) };
        hot.write(&[hot_globally(candidates, expert_bytes, budget_bytes)]);
        Ok(CPTR_OK)
    };
    status(run())
}
