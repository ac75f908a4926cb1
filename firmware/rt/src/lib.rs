//! What an image needs of its machine, and nothing more: start, console, counters, unused stack, exit. One module per
//! machine; on the host the same images are programs, so that their output can be compared.
//!
//! | machine | core | console | [`instructions`] (exact under `-icount`) |
//! |---|---|---|---|
//! | `mps2-an386`, `-an500`, `-an505` | Cortex-M4F, M7, M33 | CMSDK UART 0 | SysTick, `shift=6`: 1.6, 1.6, 1.28 ticks |
//! | QEMU `versatileab` | Cortex-R5F | PL011 UART 0 | PMCCNTR, `shift=0`: 1 each |
//! | QEMU `virt`, RTL of Ibex and CV32E40P | RV32, RV64 | 16550 UART | `minstret` |
//!
//! An image calls [`entry!`] with its main function, which returns whether all went well.
#![cfg_attr(not(machine = "host"), no_std)]

#[cfg_attr(machine = "cortex-m", path = "cortex_m.rs")]
#[cfg_attr(machine = "cortex-r", path = "cortex_r.rs")]
#[cfg_attr(machine = "riscv", path = "riscv.rs")]
#[cfg_attr(machine = "host", path = "host.rs")]
mod machine;
#[cfg(not(machine = "host"))]
mod stack;
#[cfg(machine = "cortex-m")]
mod watchdog;

use core::fmt;
use core::sync::atomic::AtomicU32;
#[cfg(not(machine = "host"))]
use core::{ptr, slice};

#[cfg(machine = "cortex-m")]
pub use cortex_m_rt::entry as start;
pub use machine::{COUNTER_BITS, cycles, exit, instructions, publish, read, setup, to_instructions, wait, write};
#[cfg(machine = "riscv")]
pub use machine::{load_unit, store_unit};
#[cfg(not(machine = "host"))]
pub use stack::stack_used;
#[cfg(machine = "cortex-m")]
pub use watchdog::{feed_watchdog, start_watchdog};
/// The machine has no watchdog: nothing is started.
#[cfg(not(machine = "cortex-m"))]
pub fn start_watchdog(_: u32) {}
/// The machine has no watchdog: nothing to feed.
#[cfg(not(machine = "cortex-m"))]
pub fn feed_watchdog() {}
/// Words of memory that the machine shares with a host, from its beginning.
#[cfg(not(machine = "host"))]
pub fn shared(words: usize) -> &'static [AtomicU32] {
    // SAFETY: the machine has a MiB of memory there, aligned, which is no part of the image; words that two ends access
    // are atomic.
    unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(machine::shared_address()), words.min(1 << 18)) }
}
/// There is nobody to share memory with.
#[cfg(machine = "host")]
pub fn shared(_: usize) -> &'static [AtomicU32] {
    &[]
}
/// Bytes of the machine's memory for activations, replicas and results.
pub const DATA: usize = 8 << 20;
/// That memory: behind what is [shared] with a host by rings.
///
/// # Safety
/// To be called once.
#[cfg(not(machine = "host"))]
pub unsafe fn data() -> &'static mut [u8] {
    let first = ptr::with_exposed_provenance_mut(machine::shared_address() + (1 << 20));
    // SAFETY: the machine has so much memory there, which is no part of the image, and the caller is here once.
    unsafe { slice::from_raw_parts_mut(first, DATA) }
}
/// That memory.
///
/// # Safety
/// There is nothing to keep to.
#[cfg(machine = "host")]
pub unsafe fn data() -> &'static mut [u8] {
    vec![0; DATA].leak()
}
/// Bytes of stack that were in use at most; unknown on the host.
#[cfg(machine = "host")]
pub fn stack_used() -> usize {
    0
}

/// Goes round a loop of two instructions.
#[inline(never)]
pub fn two_instructions_each(turns: u32) {
    // SAFETY: the loops touch no memory and only the registers and flags that they name.
    #[cfg(any(machine = "cortex-m", machine = "cortex-r"))]
    unsafe {
        core::arch::asm!("1: subs {0}, {0}, #1", "bne 1b", inout(reg) turns => _, options(nomem, nostack));
    }
    // SAFETY: as above.
    #[cfg(machine = "riscv")]
    unsafe {
        core::arch::asm!("1: addi {0}, {0}, -1", "bnez {0}, 1b", inout(reg) turns => _, options(nomem, nostack));
    }
    #[cfg(machine = "host")]
    let _ = turns;
}

/// The console as a formatter's target; never fails.
#[derive(Debug, Clone, Copy)]
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}

/// Prepares the machine, runs `main` and stops the machine: what [`entry!`] starts.
pub fn run(main: fn() -> bool) -> ! {
    setup();
    #[cfg(not(machine = "host"))]
    stack::paint();
    exit(main())
}

/// Makes a function `fn() -> bool` the image.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        $crate::machine_entry!($main);
    };
}

#[cfg(machine = "host")]
#[doc(hidden)]
#[macro_export]
macro_rules! machine_entry {
    ($main:path) => {
        fn main() {
            $crate::run($main)
        }
    };
}

#[cfg(machine = "cortex-m")]
#[doc(hidden)]
#[macro_export]
macro_rules! machine_entry {
    ($main:path) => {
        // SAFETY: `main` is the symbol that cortex-m-rt's reset handler calls, once, after memory is initialised.
        #[unsafe(export_name = "main")]
        extern "C" fn image_main() -> ! {
            $crate::run($main)
        }
    };
}

#[cfg(any(machine = "riscv", machine = "cortex-r"))]
#[doc(hidden)]
#[macro_export]
macro_rules! machine_entry {
    ($main:path) => {
        // SAFETY: the start-up code of this crate calls the symbol, once, after memory is initialised.
        #[unsafe(export_name = "cptr_image_main")]
        extern "C" fn image_main() -> ! {
            $crate::run($main)
        }
    };
}

#[cfg(not(machine = "host"))]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = fmt::Write::write_fmt(&mut Console, format_args!("panic: {info}\n"));
    exit(false)
}
