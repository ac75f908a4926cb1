//! Which expert to bring into fast memory while decoding, whether that pays, and how often at most.

use core::mem::{align_of, offset_of, size_of};

use cptr_core::Level;
use cptr_core::replace::{Allowance, ReplaceConfig, swap};

use crate::memory::{buffer, output, status};
use crate::router::experts;
use crate::tracker;
use crate::{CPTR_ERROR_RANGE, CPTR_MAX_EXPERTS, CPTR_NONE, CPTR_OK, CptrStatus};

/// One expert for another.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrSwap {
    /// The expert to copy into fast memory.
    pub load: u16,
    /// The resident expert that makes room.
    pub evict: u16,
    /// How much more often the new one is wanted, in steps of 2^-31.
    pub gain: u32,
}

/// A limit on copies: at most `burst + n * rate` in any n tokens. Made by `cptr_migration_limit`; every content is
/// valid.
#[repr(C)]
pub struct CptrAllowance {
    /// Most copies saved up, in steps of 2^-16.
    pub most: u64,
    /// Copies left, in steps of 2^-16.
    pub left: u64,
    /// Copies for each token, in steps of 2^-16.
    pub rate: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<CptrAllowance>() == size_of::<Allowance>());
const _: () = assert!(align_of::<CptrAllowance>() == align_of::<Allowance>());
const _: () = assert!(offset_of!(CptrSwap, gain) == 4);

/// How much more often an expert must be wanted than another one so that exchanging them pays, in steps of 2^-31:
/// `copy / (saving * horizon_tokens)`, rounded up. `saving` is what a token saves if an expert that it wants is in fast
/// memory, `copy` what a copy costs, in the same unit, `horizon_tokens` how long a context lasts. Returns `CPTR_NONE`,
/// and writes nothing, if it never pays.
///
/// Errors: `NULL`, `ALIGN`.
///
/// # Safety
/// `margin` is null, misaligned, or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_migration_margin(
    saving: u32,
    copy: u32,
    horizon_tokens: u32,
    margin: *mut u32,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let out = unsafe { output(margin) }?;
        let Some(margin) = (ReplaceConfig { saving, copy, horizon_tokens }).margin() else { return Ok(CPTR_NONE) };
        out.write(&[margin.to_bits()]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// The exchange with the largest gain by the tracker's slow levels, if that is above `margin`; of equals the lowest
/// ids. Experts of `busy` (on their way in) count neither as resident nor as outside. Returns `CPTR_NONE`, and writes
/// nothing, if there is none.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (words, margin above 1).
///
/// # Safety
/// As `cptr_change_distance`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_migration_swap(
    tracker: *const u8,
    resident: *const u32,
    resident_words: usize,
    busy: *const u32,
    busy_words: usize,
    margin: u32,
    swap: *mut CptrSwap,
) -> CptrStatus {
    let run = || {
        let most = CPTR_MAX_EXPERTS / 32;
        if resident_words > most || busy_words > most || margin > 1 << 31 {
            return Err(CPTR_ERROR_RANGE);
        }
        // SAFETY: this function's contract.
        let (tracker, resident, busy, out) = unsafe {
            (tracker::read(tracker)?, experts(resident, resident_words)?, experts(busy, busy_words)?, output(swap)?)
        };
        let slow = tracker.levels().map(|levels| levels.slow);
        let Some(swap) = self::swap(slow, resident, busy, Level::from_bits(margin)) else { return Ok(CPTR_NONE) };
        out.write(&[CptrSwap { load: swap.load, evict: swap.evict, gain: swap.gain.to_bits() }]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Makes a limit: `rate` copies for each token in steps of 2^-16, at most `burst` saved up, and so many there now.
///
/// Errors: `NULL`, `ALIGN`.
///
/// # Safety
/// `allowance` is null, misaligned, or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_migration_limit(allowance: *mut CptrAllowance, rate: u32, burst: u32) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract; `Allowance` has the layout of `CptrAllowance`.
        unsafe { output(allowance.cast::<Allowance>()) }?.write(&[Allowance::new(rate, burst)]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// `tokens` tokens have passed. Errors: `NULL`, `ALIGN`.
///
/// # Safety
/// `allowance` is null, misaligned, or points to one that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_migration_token(allowance: *mut CptrAllowance, tokens: u32) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract; every content is valid.
        let allowance = unsafe { buffer(allowance.cast::<Allowance>(), 1) }?;
        allowance.iter_mut().for_each(|allowance| allowance.tokens(tokens));
        Ok(CPTR_OK)
    };
    status(run())
}

/// Takes one copy out; returns `CPTR_NONE` if there is none. Errors: `NULL`, `ALIGN`.
///
/// # Safety
/// As `cptr_migration_token`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_migration_take(allowance: *mut CptrAllowance) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract; every content is valid.
        let allowance = unsafe { buffer(allowance.cast::<Allowance>(), 1) }?;
        let taken = allowance.iter_mut().all(Allowance::take);
        Ok(if taken { CPTR_OK } else { CPTR_NONE })
    };
    status(run())
}
