//! QEMU's `virt`, and RTL cores behind a top level with the same map. The counters are the core's own.

use core::arch::{asm, global_asm};
use core::ptr;

/// 16550 UART: data; line status at 5.
const UART: usize = 0x1000_0000;
/// Interrupt controller: priorities; enabled ones of the core in machine mode at 0x2000, claim and completion at
/// 0x20_0004. The UART's is its tenth.
const PLIC: usize = 0x0C00_0000;
const RECEIVED: usize = 10;
/// Timer: what it is compared with at 0x4000, the time at 0xBFF8.
const CLINT: usize = 0x0200_0000;
/// A wait takes no more ticks of 100 ns.
const LONGEST: u64 = 1_000_000;
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

/// Waits until a byte has come, or a tenth of a second has gone. Interrupts are enabled at their source and masked in
/// the processor, so that one that came before ends the wait at once, and none is ever taken.
///
/// What is pending is claimed behind the wait and never before it: an edge may be told once, so that a claim between
/// the last look and the wait would take the byte that came meanwhile, and nothing would end the wait (docs/device.md,
/// Order). Whoever looks now finds the byte.
pub fn wait() {
    store(UART + 1, 1u8);
    // Priority and enabling of the UART for the core in machine mode; its threshold is 0 from the reset on.
    store(PLIC + 4 * RECEIVED, 1u32);
    store(PLIC + 0x2000, 1u32 << RECEIVED);
    let claim = PLIC + 0x20_0004;
    // In two halves, of which no time between is past.
    let until = time().wrapping_add(LONGEST);
    for (half, word) in [(4, u32::MAX), (0, until as u32), (4, (until >> 32) as u32)] {
        store(CLINT + 0x4000 + half, word);
    }
    // SAFETY: enables external and timer interrupts in `mie` alone, which with those masked in `mstatus` only end the
    // wait; the fence completes what was stored to the devices before.
    unsafe { asm!("csrs mie, {0}", "fence iorw, iorw", "wfi", in(reg) 0x880, options(nostack, preserves_flags)) };
    match load(claim) {
        0 => {}
        source => store(claim, source),
    }
}

/// Ticks of the board's clock, of 100 ns.
fn time() -> u64 {
    loop {
        let (high, low) = (load(CLINT + 0xBFFC), load(CLINT + 0xBFF8));
        if load(CLINT + 0xBFFC) == high {
            return u64::from(high) << 32 | u64::from(low);
        }
    }
}

fn store<T>(address: usize, value: T) {
    // SAFETY: only called with registers of devices that the machine has at these addresses, in their width.
    unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(address), value) };
}

fn load(address: usize) -> u32 {
    // SAFETY: as for `store`.
    unsafe { ptr::read_volatile(ptr::with_exposed_provenance(address)) }
}

/// Registers of the hardware unit, where a top level has one.
const UNIT: usize = 0x4000_0000;

/// Reads a register of the hardware unit, by the byte of its address.
pub fn load_unit(address: u16) -> u32 {
    load(UNIT + usize::from(address & 0x7FC))
}

/// Writes a register of the hardware unit.
pub fn store_unit(address: u16, value: u32) {
    store(UNIT + usize::from(address & 0x7FC), value);
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
