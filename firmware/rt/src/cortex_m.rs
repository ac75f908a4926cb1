//! QEMU's mps2 boards with a Cortex-M. Instructions are counted with SysTick: under `-icount shift=6` each takes 64 ns
//! of virtual time.

use core::arch::asm;
use core::ptr;

/// CMSDK UART 0: data, state, control, baud-rate divider.
const UART: usize = if cfg!(secure) { 0x5020_0000 } else { 0x4000_4000 };
/// Core clock of the board in MHz.
const CLOCK_MHZ: u64 = if cfg!(secure) { 20 } else { 25 };
/// SysTick: control, reload, current value.
const SYSTICK: usize = 0xE000_E010;
const NS_PER_INSTRUCTION: u64 = 64;
/// Interrupts: enable; clear what is pending at 0x180. Those of the UART's received bytes, 0 and 32.
const NVIC: usize = if cfg!(secure) { 0xE000_E104 } else { 0xE000_E100 };
/// The bit of the UART's interrupt for a byte there.
const RECEIVED: u32 = 1;
/// Which processor this is.
const CPUID: usize = 0xE000_ED00;
/// Interrupt control: bit 25 forgets that SysTick is pending.
const ICSR: usize = 0xE000_ED04;

fn store(address: usize, value: u32) {
    // SAFETY: only called with the device registers above, which the board has at these addresses.
    unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(address), value) };
}

fn load(address: usize) -> u32 {
    // SAFETY: as for `store`.
    unsafe { ptr::read_volatile(ptr::with_exposed_provenance(address)) }
}

/// Starts the UART and SysTick (core clock, no interrupt).
pub fn setup() {
    store(UART + 0x10, 16);
    store(UART + 8, 3);
    store(SYSTICK + 4, 0xFF_FFFF);
    store(SYSTICK + 8, 0);
    store(SYSTICK, 5);
}

/// Writes to the UART, waiting for it.
pub fn write(bytes: &[u8]) {
    for &byte in bytes {
        while load(UART + 4) & 1 != 0 {}
        store(UART, u32::from(byte));
    }
}

/// The next byte from the UART, if there is one.
pub fn read() -> Option<u8> {
    (load(UART + 4) & 2 != 0).then(|| load(UART) as u8)
}

/// PSRAM of the board, which nothing else uses: memory that an emulator can share with its host. The board of the
/// Cortex-M7 has it elsewhere.
pub(crate) fn shared_address() -> usize {
    let part = load(CPUID) >> 4 & 0xFFF;
    match (cfg!(secure), part) {
        (true, _) => 0x8000_0000,
        (false, 0xC27) => 0x6000_0000,
        (false, _) => 0x2100_0000,
    }
}

/// Everything stored or loaded before, in memory and in devices, is over before anything after it begins.
#[unsafe(export_name = "cptr_rt_publish")]
#[inline(never)]
pub extern "C" fn publish() {
    // SAFETY: waits for memory. Without `nomem` the compiler, too, moves no access over it.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Waits until a byte has come, or the counter wraps. Interrupts are enabled at their source and masked in the
/// processor, so that one that came before ends the wait at once, and none is ever taken.
pub fn wait() {
    // SAFETY: masks interrupts, of which this image takes none.
    unsafe { asm!("cpsid i", options(nostack, preserves_flags)) };
    // UART: transmit, receive, and an interrupt for a byte; SysTick: also an interrupt.
    store(UART + 8, 0xB);
    store(SYSTICK, 7);
    store(NVIC, RECEIVED);
    // SAFETY: waits; the barrier completes what was stored to the devices before.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
    // Whoever looks now finds the byte; what is pending is forgotten, so that the next wait waits.
    store(UART + 0xC, 2);
    store(NVIC + 0x180, RECEIVED);
    store(ICSR, 1 << 25);
}

/// The instruction counter, in ticks; wraps at [`COUNTER_BITS`].
pub fn instructions() -> u64 {
    u64::from(0xFF_FFFF - load(SYSTICK + 8))
}

/// Width of the counters.
pub const COUNTER_BITS: u32 = 24;

/// What a number of the counter's ticks means.
pub fn to_instructions(ticks: u64) -> u64 {
    (ticks * 1000 + CLOCK_MHZ * NS_PER_INSTRUCTION / 2) / (CLOCK_MHZ * NS_PER_INSTRUCTION)
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
        unsafe { asm!("bkpt #0xab", in("r0") 0x20, in("r1") block.as_ptr(), options(nostack, readonly)) };
    }
}
