//! The library for C. `include/cptr.h` is generated from this file (`cargo xtask firmware --bless`); its documentation
//! is the one here.
//!
//! Every function checks its pointers (null, alignment), lengths, ids and the states it is given, and writes nothing
//! unless it returns a status of at least 0. What it cannot check stands in each function's safety section: that a
//! pointer and a length describe memory that is there, and that outputs do not overlap inputs.
#![no_std]

#[cfg(feature = "bits")]
pub mod bits;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "change")]
pub mod change;
#[cfg(feature = "dispatch")]
pub mod dispatch;
#[cfg(feature = "expert")]
pub mod expert;
// Not every feature uses all of it.
#[cfg_attr(
    not(all(feature = "select", feature = "tracker", feature = "placement", feature = "dispatch", feature = "cache")),
    allow(dead_code)
)]
mod memory;
#[cfg(feature = "migration")]
pub mod migration;
#[cfg(feature = "placement")]
pub mod placement;
#[cfg(feature = "select")]
pub mod router;
#[cfg(test)]
mod tests;
#[cfg(feature = "tracker")]
pub mod tracker;

/// What a function returns: 0 or more for success, negative for an error after which nothing has been written.
pub type CptrStatus = i32;

/// Done.
pub const CPTR_OK: CptrStatus = 0;
/// Done, and there is no result: no expert may be evicted.
pub const CPTR_NONE: CptrStatus = 1;
/// A pointer is null.
pub const CPTR_ERROR_NULL: CptrStatus = -1;
/// A pointer is not aligned to what it points to (states: `CPTR_ALIGN`).
pub const CPTR_ERROR_ALIGN: CptrStatus = -2;
/// A buffer or state is too short.
pub const CPTR_ERROR_SIZE: CptrStatus = -3;
/// A number, an expert id or a count is out of range, or an id stands twice.
pub const CPTR_ERROR_RANGE: CptrStatus = -4;
/// A state or configuration was never initialised, or its first 16 bytes have been overwritten. What lies behind them
/// is not looked at: any content is valid, and gives some decision.
pub const CPTR_ERROR_STATE: CptrStatus = -5;
/// The header belongs to another version of the library, or the bytes are no packed matrix.
pub const CPTR_ERROR_VERSION: CptrStatus = -6;
/// The router's fields contradict each other or do not fit the number of experts.
pub const CPTR_ERROR_ROUTER: CptrStatus = -7;
/// The queue has no room for all of the jobs, or all slots of the cache are pinned; the same call later may succeed.
pub const CPTR_ERROR_FULL: CptrStatus = -8;
/// Not the layer that is next, not the tokens of the layer before, or not between two tokens.
pub const CPTR_ERROR_ORDER: CptrStatus = -9;

/// Version of this interface. Pass it to `cptr_config_init`.
pub const CPTR_VERSION: u32 = 2;
/// Most wanted experts of a token, and most experts that a selection holds.
pub const CPTR_MAX_WANTED: usize = 64;
/// Most experts of a layer.
pub const CPTR_MAX_EXPERTS: usize = 4096;
/// Most jobs that a queue holds.
pub const CPTR_MAX_JOBS: usize = 4096;
/// Alignment of trackers, configurations and queues in bytes.
pub const CPTR_ALIGN: usize = 8;
/// Bytes of a tracker beside 8 for each expert; `CPTR_TRACKER_SIZE(experts)` is the sum.
pub const CPTR_TRACKER_BASE: usize = 64;
/// Bytes of a configuration.
pub const CPTR_CONFIG_SIZE: usize = 56;
/// Bytes of a queue beside 24 for each job; `CPTR_QUEUE_SIZE(jobs)` is the sum.
pub const CPTR_QUEUE_BASE: usize = 40;

/// Feature: routers (`cptr_router_top_k`, `cptr_router_weights`) and `cptr_select`.
pub const CPTR_FEATURE_SELECT: u32 = 1;
/// Feature: trackers.
pub const CPTR_FEATURE_TRACKER: u32 = 2;
/// Feature: demand statistics and placement.
pub const CPTR_FEATURE_PLACEMENT: u32 = 4;
/// Feature: dispatch and queues to execution units.
pub const CPTR_FEATURE_DISPATCH: u32 = 8;
/// Feature: caches of whole models.
pub const CPTR_FEATURE_CACHE: u32 = 16;
/// Feature: low-bit experts.
pub const CPTR_FEATURE_EXPERT: u32 = 32;
/// Feature: bits of cold experts.
pub const CPTR_FEATURE_BITS: u32 = 64;
/// Feature: changes of context.
pub const CPTR_FEATURE_CHANGE: u32 = 128;
/// Feature: experts that change places while decoding.
pub const CPTR_FEATURE_MIGRATION: u32 = 256;

/// The layouts that the header asserts, too.
macro_rules! sizes {
    ($($feature:literal: $module:ident::$name:ident is $bytes:expr;)*) => {$(
        #[cfg(feature = $feature)]
        const _: () = assert!(size_of::<$module::$name>() == $bytes);
    )*};
}
sizes! {
    "tracker": tracker::CptrParameters is 20;
    "tracker": tracker::CptrStep is 12;
    "placement": placement::CptrDemand is 8;
    "placement": placement::CptrCandidate is 8;
    "dispatch": dispatch::CptrJob is 24;
    "cache": cache::CptrCacheParameters is 32;
    "cache": cache::CptrLoad is 12;
    "cache": cache::CptrCounters is 48;
    "expert": expert::CptrMatrixShape is 16;
    "bits": bits::CptrLosses is 16;
    "bits": bits::CptrSplit is 16;
    "change": change::CptrChangeConfig is 8;
    "change": change::CptrChangeDetector is 16;
    "migration": migration::CptrSwap is 8;
    "migration": migration::CptrAllowance is 24;
}

/// Version of the library, to be compared with `CPTR_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn cptr_version() -> u32 {
    CPTR_VERSION
}

/// What the library can do: the sum of its `CPTR_FEATURE_…`.
#[unsafe(no_mangle)]
pub extern "C" fn cptr_features() -> u32 {
    let features = [
        (cfg!(feature = "select"), CPTR_FEATURE_SELECT),
        (cfg!(feature = "tracker"), CPTR_FEATURE_TRACKER),
        (cfg!(feature = "placement"), CPTR_FEATURE_PLACEMENT),
        (cfg!(feature = "dispatch"), CPTR_FEATURE_DISPATCH),
        (cfg!(feature = "cache"), CPTR_FEATURE_CACHE),
        (cfg!(feature = "expert"), CPTR_FEATURE_EXPERT),
        (cfg!(feature = "bits"), CPTR_FEATURE_BITS),
        (cfg!(feature = "change"), CPTR_FEATURE_CHANGE),
        (cfg!(feature = "migration"), CPTR_FEATURE_MIGRATION),
    ];
    features.into_iter().filter(|(there, _)| *there).fold(0, |all, (_, feature)| all | feature)
}

/// No function panics (the build checks that no panicking code is linked); a handler is needed to link all the same.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

#[cfg(not(target_os = "none"))]
extern crate std;
