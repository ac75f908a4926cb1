//! QEMU's `virt`, and RTL cores behind a top level with the same map. The counters are the core's own.

use core::arch::{asm, global_asm};
use core::ptr;

/// 16550 UART: data; line status at 5.
const UART: usize = 0x1000_0000;
/// Test finisher: a word ends the run.
const FINISHER: usize = 0x0010_0000;

// Ibex fetches its first instruction at boot address + 0x80, the others at the boot address.
global_asm!(
    ".section .init, \"ax\"",
    ".global _start",
    "_start:",
    "j 2f",
    ".balign 128",
    "2: .option push",
    ".option norelax",
    "la gp, __global_pointer$",
    ".option pop",
    "la sp, _stack_start",
    // The counters of CV32E40P stand still after reset: mcountinhibit = 0.
    "csrw 0x320, zero",
    // Floating-point unit on, where there is one.
    "li t0, 0x6000",
    "csrs mstatus, t0",
    "la t0, trap",
    "csrw mtvec, t0",
    "la t0, _bss_start",
    "la t1, _bss_end",
    "3: bgeu t0, t1, 4f",
    "sw zero, 0(t0)",
    "addi t0, t0, 4",
    "j 3b",
    "4: call cptr_image_main",
    // Any trap is a failure: the finisher's code for it, 0x3333 with status 2.
    ".balign 256",
    "trap: li t0, 0x100000",
    "li t1, 0x23333",
    "sw t1, 0(t0)",
    "5: j 5b",
);

/// Nothing more to prepare.
pub fn setup() {}

/// Writes to the UART, waiting for it.
pub fn write(bytes: &[u8]) {
    for &byte in bytes {
        // SAFETY: the UART's registers, which the machine has at this address.
        unsafe {
            while ptr::read_volatile(ptr::with_exposed_provenance::<u8>(UART + 5)) & 0x20 == 0 {}
            ptr::write_volatile(ptr::with_exposed_provenance_mut::<u8>(UART), byte);
        }
    }
}

/// The next byte from the UART, if there is one.
pub fn read() -> Option<u8> {
    // SAFETY: the UART's registers, which the machine has at this address.
    unsafe {
        let ready = ptr::read_volatile(ptr::with_exposed_provenance::<u8>(UART + 5)) & 1 != 0;
        ready.then(|| ptr::read_volatile(ptr::with_exposed_provenance::<u8>(UART)))
    }
}

/// RAM behind the image: memory that an emulator can share with its host.
pub(crate) fn shared_address() -> usize {
    0x8040_0000
}

/// Everything stored or loaded before, in memory and in devices, is over before anything after it begins.
#[unsafe(export_name = "cptr_rt_publish")]
#[inline(never)]
pub extern "C" fn publish() {
    // SAFETY: waits for memory. Without `nomem` the compiler, too, moves no access over it.
    unsafe { asm!("fence iorw, iorw", options(nostack, preserves_flags)) };
}

/// Looks again: with `wfi` and the interrupt of the UART, answers did not come a few times in many thousand, and it was
/// not found why (docs/device.md, Order).
pub fn wait() {
    core::hint::spin_loop();
}

/// Instructions retired, modulo 2^32 on RV32.
pub fn instructions() -> u64 {
    let count: usize;
    // SAFETY: reads a counter.
    unsafe { asm!("csrr {0}, minstret", out(reg) count, options(nomem, nostack)) };
    count as u64
}

/// Width of the counters that is the same on all cores.
pub const COUNTER_BITS: u32 = 32;

/// The counter's ticks are instructions.
pub fn to_instructions(ticks: u64) -> u64 {
    ticks
}

/// Cycles, modulo 2^32 on RV32; in the emulator the same as instructions.
pub fn cycles() -> u64 {
    let count: usize;
    // SAFETY: reads a counter.
    unsafe { asm!("csrr {0}, mcycle", out(reg) count, options(nomem, nostack)) };
    count as u64
}

/// Stops the machine with exit status 0, or 1.
pub fn exit(success: bool) -> ! {
    let word = if success { 0x5555 } else { 0x1_3333 };
    // SAFETY: the finisher's register, which the machine has at this address.
    unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut::<u32>(FINISHER), word) };
    loop {
        core::hint::spin_loop();
    }
}
