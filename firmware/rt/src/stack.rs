//! How much stack was used: the unused part is painted at the start, and what has kept its paint at the end was never
//! used.

use core::ptr;

const PAINT: u32 = 0x5AFE_57AC;
/// Bytes below the current frame that are left alone while painting.
const MARGIN: usize = 256;

unsafe extern "C" {
    /// Lowest address of the stack (end of all other memory), from the linker script.
    static _stack_end: u8;
    /// Address above the stack.
    static _stack_start: u8;
}

fn words() -> (*mut u32, *mut u32) {
    let (low, high) = (&raw const _stack_end, &raw const _stack_start);
    (low.cast_mut().cast::<u32>().map_addr(|a| a.next_multiple_of(4)), high.cast_mut().cast())
}

/// Paints everything below the caller's frame.
#[inline(never)]
pub(crate) fn paint() {
    let local = 0u32;
    let (mut word, _) = words();
    let top = (&raw const local).addr() - MARGIN;
    while word.addr() < top {
        // SAFETY: between `_stack_end` and the current frame lies only stack that is not in use; one core, no
        // interrupts.
        unsafe { ptr::write_volatile(word, PAINT) };
        word = word.wrapping_add(1);
    }
}

/// Bytes of stack that were in use at most since the start.
pub fn stack_used() -> usize {
    let (mut word, high) = words();
    // SAFETY: the addresses lie in the stack's memory and are aligned.
    while word < high && unsafe { ptr::read_volatile(word) } == PAINT {
        word = word.wrapping_add(1);
    }
    high.addr() - word.addr()
}
