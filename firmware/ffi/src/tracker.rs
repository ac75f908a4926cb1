//! Trackers and their configuration, in the caller's memory.

use core::mem::{align_of, size_of};
use core::ptr;

use cptr_core::{Gain, KalmanConfig, Lock, PhaseConfig, ScaledLevels, Tracker, TrackerConfig, half_life};

use crate::memory::{Header, aligned, clear, header, list, output, status};
use crate::router::experts;
use crate::{
    CPTR_ALIGN, CPTR_CONFIG_SIZE, CPTR_ERROR_RANGE, CPTR_ERROR_SIZE, CPTR_ERROR_VERSION, CPTR_MAX_EXPERTS,
    CPTR_MAX_WANTED, CPTR_NONE, CPTR_OK, CPTR_TRACKER_BASE, CPTR_VERSION, CptrStatus,
};

/// Constants of the filter. Gains in steps of 2^-32.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrParameters {
    /// Gain of the slow level once it has settled (default 1/64).
    pub slow_gain: u32,
    /// Gain that a loss of lock opens to (default 1/20).
    pub reopened_gain: u32,
    /// Gain of the fast level (default 1/8).
    pub fast_gain: u32,
    /// Proportional gain of the phase loop, as a shift, 1 to 15 (default 6).
    pub proportional_shift: u8,
    /// Integral gain of the phase loop, as a shift, 1 to 23 (default 12).
    pub integral_shift: u8,
    /// Error that the lock detector takes as normal, in 1/16 of the mean absolute error (default 18).
    pub slack_16ths: u8,
    /// Evidence that loses lock, in units of the mean absolute error (default 10).
    pub threshold: u8,
    /// Tokens from unlock to the first possible lock (default 32).
    pub acquire_tokens: u16,
}

/// What an update saw.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrStep {
    /// log2 of the power of the tracked context over that of the innovation, in steps of 2^-24.
    pub snr_log2: i32,
    /// Angle between demand and context in radians, in steps of 2^-28.
    pub angle: i32,
    /// 0 unlocked, 1 transition, 2 locked.
    pub lock: u8,
    /// 1 if lock was lost at this token: the context has changed.
    pub lost_lock: u8,
}

const CONFIG_MAGIC: u32 = u32::from_be_bytes(*b"cptC");
const TRACKER_MAGIC: u32 = u32::from_be_bytes(*b"cptT");

#[repr(C)]
struct Config {
    header: Header,
    config: TrackerConfig,
}

/// A tracker of any number of experts. Every content of its levels is valid.
#[repr(C)]
struct State<T: ?Sized = Tracker> {
    header: Header,
    tracker: T,
}

const _: () = assert!(size_of::<Config>() <= CPTR_CONFIG_SIZE && align_of::<Config>() <= CPTR_ALIGN);
const _: () =
    assert!(size_of::<State<Tracker<[ScaledLevels; 2]>>>() <= CPTR_TRACKER_BASE + 2 * size_of::<ScaledLevels>());
const _: () = assert!(align_of::<State<Tracker<[ScaledLevels; 1]>>>() <= CPTR_ALIGN);

/// # Safety
/// `pointer` is null, misaligned, or points to [`CPTR_CONFIG_SIZE`] readable bytes, and nobody writes them for `'a`.
unsafe fn config<'a>(pointer: *const u8) -> Result<&'a TrackerConfig, CptrStatus> {
    // SAFETY: the caller's contract.
    unsafe { header(pointer, CONFIG_MAGIC) }?;
    // SAFETY: only `cptr_config_init` writes the header, after the configuration.
    Ok(unsafe { &(*pointer.cast::<Config>()).config })
}

/// # Safety
/// `pointer` is null, misaligned, or points to readable bytes, as many as it was initialised with if it was.
unsafe fn state(pointer: *const u8) -> Result<*mut State, CptrStatus> {
    // SAFETY: the caller's contract.
    let header = unsafe { header(pointer, TRACKER_MAGIC) }?;
    Ok(ptr::slice_from_raw_parts_mut(pointer.cast_mut().cast::<ScaledLevels>(), header.count as usize) as *mut State)
}

/// A tracker to be read.
///
/// # Safety
/// As [`state`], and nobody writes the tracker for `'a`.
#[cfg(any(feature = "change", feature = "migration"))]
pub(crate) unsafe fn read<'a>(pointer: *const u8) -> Result<&'a Tracker, CptrStatus> {
    // SAFETY: the caller's contract; `state` has checked the header.
    Ok(unsafe { &(*state(pointer)?).tracker })
}

/// Makes a configuration in the caller's memory: `CPTR_CONFIG_SIZE` bytes, aligned to `CPTR_ALIGN`. One serves all
/// layers.
///
/// `version` is `CPTR_VERSION`; `parameters` may be null for the defaults.
///
/// Errors: `NULL`, `ALIGN`, `SIZE`, `VERSION`, `RANGE` (shifts).
///
/// # Safety
/// `size` bytes may be written at `memory`. `parameters` is null or points to parameters outside of it. Nobody uses the
/// configuration meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_config_init(
    memory: *mut u8,
    size: usize,
    version: u32,
    parameters: *const CptrParameters,
) -> CptrStatus {
    let run = || {
        aligned(memory)?;
        if size < CPTR_CONFIG_SIZE {
            return Err(CPTR_ERROR_SIZE);
        }
        if version != CPTR_VERSION {
            return Err(CPTR_ERROR_VERSION);
        }
        // SAFETY: this function's contract.
        let parameters = unsafe { list(parameters, usize::from(!parameters.is_null())) }?;
        let config = match parameters {
            [parameters] => from_parameters(parameters)?,
            _ => TrackerConfig::default(),
        };
        let config = Config { header: Header::new(CONFIG_MAGIC, 0), config };
        // SAFETY: aligned and long enough.
        unsafe { memory.cast::<Config>().write(config) };
        Ok(CPTR_OK)
    };
    status(run())
}

fn from_parameters(p: &CptrParameters) -> Result<TrackerConfig, CptrStatus> {
    let phase = PhaseConfig {
        proportional_shift: p.proportional_shift,
        integral_shift: p.integral_shift,
        acquire_tokens: p.acquire_tokens,
        slack_16ths: p.slack_16ths,
        threshold: p.threshold,
    };
    if !phase.is_valid() {
        return Err(CPTR_ERROR_RANGE);
    }
    Ok(TrackerConfig {
        kalman: KalmanConfig::from_gains(Gain::from_bits(p.slow_gain), Gain::from_bits(p.reopened_gain)),
        fast_gain: Gain::from_bits(p.fast_gain),
        phase,
    })
}

/// The gain of a level that forgets half of what it holds in so many tokens, in steps of 2^-32, for `cptr_parameters`;
/// the largest for 0 tokens.
#[unsafe(no_mangle)]
pub extern "C" fn cptr_half_life(tokens: u32) -> u32 {
    half_life(tokens).to_bits()
}

/// Makes a tracker of one layer in the caller's memory: `CPTR_TRACKER_SIZE(experts)` bytes, aligned to `CPTR_ALIGN`.
/// Also starts it anew.
///
/// Errors: `NULL`, `ALIGN`, `SIZE`, `RANGE` (experts 1 to `CPTR_MAX_EXPERTS`).
///
/// # Safety
/// `size` bytes may be written at `memory`. Nobody uses the tracker meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_tracker_init(memory: *mut u8, size: usize, experts: usize) -> CptrStatus {
    let run = || {
        aligned(memory)?;
        if experts == 0 || experts > CPTR_MAX_EXPERTS {
            return Err(CPTR_ERROR_RANGE);
        }
        let bytes = CPTR_TRACKER_BASE + experts * size_of::<ScaledLevels>();
        if size < bytes {
            return Err(CPTR_ERROR_SIZE);
        }
        // SAFETY: aligned and long enough; zero bytes are a valid state (no variance yet, unlocked), which
        // `reset_zeroed` then makes the first one.
        unsafe {
            clear(memory.cast(), bytes / 4);
            memory.cast::<Header>().write(Header::new(TRACKER_MAGIC, experts as u32));
            (*state(memory)?).tracker.reset_zeroed();
        }
        Ok(CPTR_OK)
    };
    status(run())
}

/// Takes what one token wanted: the model's own choice, not the selection. Off the critical path. Writes `step`, unless
/// it is null.
///
/// Errors: `NULL`, `ALIGN`, `STATE` (tracker or configuration), `RANGE` (count, ids, an id twice).
///
/// # Safety
/// `tracker` and `config` are null, misaligned, or point to the memory that their `init` was given (or would be). The
/// other pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps;
/// nobody else uses the tracker meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_tracker_update(
    tracker: *mut u8,
    config: *const u8,
    wanted: *const u16,
    wanted_count: usize,
    step: *mut CptrStep,
) -> CptrStatus {
    let run = || {
        if wanted_count > CPTR_MAX_WANTED {
            return Err(CPTR_ERROR_RANGE);
        }
        // SAFETY: this function's contract.
        let (state, config, wanted) = unsafe { (state(tracker)?, self::config(config)?, list(wanted, wanted_count)?) };
        // SAFETY: `state` has checked the header, which only `cptr_tracker_init` writes.
        let tracker = unsafe { &mut (*state).tracker };
        cptr_core::Router::check_ids(wanted, tracker.experts()).map_err(|_| CPTR_ERROR_RANGE)?;
        // SAFETY: this function's contract.
        let step = if step.is_null() { None } else { Some(unsafe { output(step) }?) };
        let seen = tracker.update(config, wanted);
        if let Some(step) = step {
            step.write(&[CptrStep {
                snr_log2: seen.snr.to_bits(),
                angle: seen.angle.to_bits(),
                lock: match seen.lock {
                    Lock::Unlocked => 0,
                    Lock::Transition => 1,
                    Lock::Locked => 2,
                },
                lost_lock: u8::from(seen.lost_lock),
            }]);
        }
        Ok(CPTR_OK)
    };
    status(run())
}

/// The resident expert that is least likely to be wanted soon, those of `keep` left out; the lowest id of equals.
/// Returns `CPTR_NONE`, and writes nothing, if none may go.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (counts).
///
/// # Safety
/// As `cptr_tracker_update`; others may read the tracker meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_tracker_victim(
    tracker: *const u8,
    resident: *const u32,
    resident_words: usize,
    keep: *const u16,
    keep_count: usize,
    victim: *mut u16,
) -> CptrStatus {
    let run = || {
        if keep_count > CPTR_MAX_EXPERTS || resident_words > CPTR_MAX_EXPERTS / 32 {
            return Err(CPTR_ERROR_RANGE);
        }
        // SAFETY: this function's contract.
        let (state, resident, keep, victim) =
            unsafe { (state(tracker)?, experts(resident, resident_words)?, list(keep, keep_count)?, output(victim)?) };
        // SAFETY: `state` has checked the header; nobody writes the tracker meanwhile.
        match unsafe { &(*state).tracker }.victim(resident, keep) {
            Some(expert) => {
                victim.write(&[expert]);
                Ok(CPTR_OK)
            }
            None => Ok(CPTR_NONE),
        }
    };
    status(run())
}

/// How much the tracked context wants an expert: `slow` (the context) and `fast` (the last few tokens), in steps of
/// 2^-31, at most 1.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (expert).
///
/// # Safety
/// As `cptr_tracker_victim`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_tracker_level(
    tracker: *const u8,
    expert: u16,
    slow: *mut u32,
    fast: *mut u32,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (state, slow, fast) = unsafe { (state(tracker)?, output(slow)?, output(fast)?) };
        // SAFETY: `state` has checked the header; nobody writes the tracker meanwhile.
        let levels = unsafe { &(*state).tracker }.level(expert).ok_or(CPTR_ERROR_RANGE)?;
        slow.write(&[levels.slow.to_bits()]);
        fast.write(&[levels.fast.to_bits()]);
        Ok(CPTR_OK)
    };
    status(run())
}
