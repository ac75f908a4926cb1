//! Atomics: the processor's, or with `--cfg loom` those of a checker that tries every order in which two ends may see
//! each other's stores.

#[cfg(not(all(test, loom)))]
pub(crate) use core::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};

/// How an index is stored: after everything that it stands for.
#[cfg(not(all(test, loom)))]
pub(crate) const fn release() -> Ordering {
    Ordering::Release
}

#[cfg(all(test, loom))]
pub(crate) use mutant::release;

/// What the checker must find.
#[cfg(all(test, loom))]
pub(crate) mod mutant {
    use super::Ordering;
    use std::cell::Cell;

    std::thread_local! {
        /// Whether indices are stored in any order.
        pub(crate) static RELAXED: Cell<bool> = const { Cell::new(false) };
    }

    pub(crate) fn release() -> Ordering {
        if RELAXED.get() { Ordering::Relaxed } else { Ordering::Release }
    }
}
