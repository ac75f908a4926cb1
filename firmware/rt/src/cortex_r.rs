//! QEMU's `versatileab` with a Cortex-R5F. The cycle counter counts nanoseconds of virtual time: instructions under
//! `-icount shift=0`.

use core::arch::{asm, global_asm};
use core::ptr;

/// PL011 UART 0: data; flags at 0x18.
const UART: usize = 0x101F_1000;
/// PL190 interrupt controller: enable at 0x10.
const VIC: usize = 0x1014_0000;

global_asm!(
    ".section .init, \"ax\"",
    ".global _start",
    ".arm",
    ".fpu vfpv3-d16",
    "_start:",
    "ldr sp, =_stack_start",
    // Full access to the floating-point unit, then switch it on.
    "mrc p15, 0, r0, c1, c0, 2",
    "orr r0, r0, #(0xf << 20)",
    "mcr p15, 0, r0, c1, c0, 2",
    "isb",
    "mov r0, #0x40000000",
    "vmsr fpexc, r0",
    "ldr r0, =_bss_start",
    "ldr r1, =_bss_end",
    "mov r2, #0",
    "1: cmp r0, r1",
    "strlo r2, [r0], #4",
    "blo 1b",
    "bl cptr_image_main",
    "2: b 2b",
);

fn store(address: usize, value: u32) {
    // SAFETY: only called with the device registers above, which the board has at these addresses.
    unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(address), value) };
}

fn load(address: usize) -> u32 {
    // SAFETY: as for `store`.
    unsafe { ptr::read_volatile(ptr::with_exposed_provenance(address)) }
}

/// Starts the cycle counter (PMCR: enable and reset; PMCNTENSET: cycle counter).
pub fn setup() {
    store(UART + 0x30, 0x301);
    // SAFETY: the core has the performance monitors; nobody else uses them.
    unsafe {
        asm!("mcr p15, 0, {0}, c9, c12, 0", in(reg) 5u32);
        asm!("mcr p15, 0, {0}, c9, c12, 1", in(reg) 0x8000_0000u32);
    }
}

/// Writes to the UART, waiting for it.
pub fn write(bytes: &[u8]) {
    for &byte in bytes {
        while load(UART + 0x18) & 0x20 != 0 {}
        store(UART, u32::from(byte));
    }
}

/// The next byte from the UART, if there is one.
pub fn read() -> Option<u8> {
    (load(UART + 0x18) & 0x10 == 0).then(|| load(UART) as u8)
}

/// RAM behind the image: memory that an emulator can share with its host.
pub(crate) fn shared_address() -> usize {
    0x0040_0000
}

/// Everything stored or loaded before, in memory and in devices, is over before anything after it begins.
#[unsafe(export_name = "cptr_rt_publish")]
#[inline(never)]
pub extern "C" fn publish() {
    // SAFETY: waits for memory. Without `nomem` the compiler, too, moves no access over it.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Waits until a byte has come. The interrupt is enabled at its source and masked in the processor since the reset, so
/// that a byte that nobody has read ends the wait at once, and no interrupt is ever taken.
pub fn wait() {
    // A byte received; line 12 of the interrupt controller.
    store(UART + 0x38, 0x10);
    store(VIC + 0x10, 1 << 12);
    // SAFETY: waits; the barrier completes what was stored to the devices before.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Instructions since [`setup`], modulo 2^32.
pub fn instructions() -> u64 {
    let count: u32;
    // SAFETY: reads PMCCNTR.
    unsafe { asm!("mrc p15, 0, {0}, c9, c13, 0", out(reg) count, options(nomem, nostack)) };
    u64::from(count)
}

/// Width of the counters.
pub const COUNTER_BITS: u32 = 32;

/// The counter's ticks are instructions.
pub fn to_instructions(ticks: u64) -> u64 {
    ticks
}

/// The emulator has no cycles: the same as [`instructions`].
pub fn cycles() -> u64 {
    instructions()
}

/// Stops the emulator by semihosting: `SYS_EXIT_EXTENDED`, which carries the exit status.
pub fn exit(success: bool) -> ! {
    let block = [0x2_0026, u32::from(!success)];
    loop {
        // SAFETY: semihosting call 0x20 reads two words from the block and does not return.
        unsafe { asm!("svc #0x123456", in("r0") 0x20, in("r1") block.as_ptr(), out("lr") _, options(nostack)) };
    }
}
