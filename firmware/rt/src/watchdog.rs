//! The CMSDK watchdog of the mps2 boards: its time-out is a non-maskable interrupt, which ends the run here; a product
//! would reset.

use core::ptr;

/// Load, control at 8, interrupt clear at 12, lock at 0xC00.
const WATCHDOG: usize = if cfg!(secure) { 0x5008_1000 } else { 0x4000_8000 };
/// What opens the lock.
const KEY: u32 = 0x1ACC_E551;

fn store(offset: usize, value: u32) {
    // SAFETY: only called with the registers above, which the board has at these addresses.
    unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(WATCHDOG + offset), value) };
}

/// Starts the watchdog: the run ends as a failure if it is not fed for so many ticks of the core clock.
pub fn start_watchdog(ticks: u32) {
    store(0xC00, KEY);
    store(0, ticks);
    // Interrupt and reset.
    store(8, 3);
}

/// Starts its time anew.
pub fn feed_watchdog() {
    store(12, 1);
}

// SAFETY: cortex-m-rt's vector table calls this symbol on a non-maskable interrupt, which on these boards is the
// watchdog's.
#[unsafe(export_name = "NonMaskableInt")]
extern "C" fn timed_out() -> ! {
    crate::write(b"the watchdog was not fed\n");
    crate::exit(false)
}
