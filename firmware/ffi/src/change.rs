//! Has the context changed?

use core::mem::{align_of, size_of};

use cptr_core::context::{ChangeConfig, ChangeDetector, distance};
use cptr_core::{Angle, Router};

use crate::memory::{buffer, list, output, status};
use crate::tracker;
use crate::{CPTR_ERROR_RANGE, CPTR_MAX_WANTED, CPTR_OK, CptrStatus};

/// Slow gain of trackers whose levels `cptr_change_distance` takes: the long run, 1/4096.
pub const CPTR_CHANGE_SLOW_GAIN: u32 = 1 << 20;
/// Fast gain of these trackers: the context, 1/64. What a loss of lock opens to is 0.
pub const CPTR_CHANGE_FAST_GAIN: u32 = 1 << 26;

/// Constants of a detector.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrChangeConfig {
    /// Tokens at the start from which the usual distance is learnt, without alarms; at least 1 (usual 64).
    pub acquire_tokens: u16,
    /// Tokens after an alarm in which nothing is learnt and no alarm raised (usual 32).
    pub hold_tokens: u16,
    /// Gain of the usual distance and deviation, as a shift (usual 8).
    pub gain_shift: u8,
    /// Excess that counts as usual, in 1/16 of the usual deviation (usual 16).
    pub slack_16ths: u8,
    /// Evidence that raises the alarm, in units of the usual deviation (usual 20).
    pub threshold: u8,
    /// 0.
    pub reserved: u8,
}

/// A detector of changes, one for all layers. Set to zero before the first token; every content is valid.
#[repr(C)]
pub struct CptrChangeDetector {
    /// For the library alone.
    pub state: [u32; 4],
}

const _: () = assert!(size_of::<CptrChangeDetector>() == size_of::<ChangeDetector>());
const _: () = assert!(align_of::<CptrChangeDetector>() == align_of::<ChangeDetector>());

/// How far what a token wants is from the context of a layer, from 0 to 3, in steps of 2^-28; before
/// `cptr_tracker_update`. The tracker is updated with a configuration of its own: gains `CPTR_CHANGE_SLOW_GAIN`, 0 and
/// `CPTR_CHANGE_FAST_GAIN`.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (count, ids, an id twice).
///
/// # Safety
/// `tracker` is null, misaligned, or points to the memory that `cptr_tracker_init` was given (or would be). The other
/// pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps; others
/// may read the tracker meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_change_distance(
    tracker: *const u8,
    wanted: *const u16,
    wanted_count: usize,
    distance: *mut i32,
) -> CptrStatus {
    let run = || {
        if wanted_count > CPTR_MAX_WANTED {
            return Err(CPTR_ERROR_RANGE);
        }
        // SAFETY: this function's contract.
        let (tracker, wanted, out) =
            unsafe { (tracker::read(tracker)?, list(wanted, wanted_count)?, output(distance)?) };
        Router::check_ids(wanted, tracker.experts()).map_err(|_| CPTR_ERROR_RANGE)?;
        out.write(&[self::distance(tracker, wanted).to_bits()]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Takes the distances of one token in all layers; writes 1 to `changed` if the context has changed, else 0. `config`
/// may be null for the usual constants.
///
/// Errors: `NULL`, `ALIGN`, `RANGE` (fields; no layers, or more than 65,535).
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps;
/// nobody else uses the detector meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_change_step(
    detector: *mut CptrChangeDetector,
    config: *const CptrChangeConfig,
    distances: *const i32,
    layers: usize,
    changed: *mut u32,
) -> CptrStatus {
    let run = || {
        if !(1..=0xFFFF).contains(&layers) {
            return Err(CPTR_ERROR_RANGE);
        }
        // SAFETY: this function's contract; `Angle` is a transparent wrapper of `i32`, `ChangeDetector` has the layout
        // of `CptrChangeDetector` and every content of it is valid.
        let (detector, config, distances, changed) = unsafe {
            (
                buffer(detector.cast::<ChangeDetector>(), 1)?,
                list(config, usize::from(!config.is_null()))?,
                list(distances.cast::<Angle>(), layers)?,
                output(changed)?,
            )
        };
        let config = match config {
            [] => ChangeConfig::default(),
            [c] if c.acquire_tokens > 0 && c.gain_shift <= 31 && c.reserved == 0 => {
                let &CptrChangeConfig { acquire_tokens, hold_tokens, gain_shift, slack_16ths, threshold, .. } = c;
                ChangeConfig { gain_shift, acquire_tokens, hold_tokens, slack_16ths, threshold }
            }
            _ => return Err(CPTR_ERROR_RANGE),
        };
        let [detector] = detector else { return Err(CPTR_ERROR_RANGE) };
        changed.write(&[detector.step(&config, distances).into()]);
        Ok(CPTR_OK)
    };
    status(run())
}
