//! Counts the instructions of the kernels, then runs the corner vectors and 10^6 golden steps, and last the kernels of
//! placement, of the filter in f32, and of a rival.
//!
//! Lines: `count KERNEL EXPERTS K INSTRUCTIONS CYCLES` (on the host both 0, and not printed), `corner NAME HASH`,
//! `golden STEPS HASH`, `stack BYTES`. Corner and golden lines are the same on every machine.
//!
//! With the feature `soak` it runs 10^7 turns of a controller instead, with `unit` turns with the hardware unit.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod float;
mod golden;
mod kernels;
mod placement;
mod random;
mod recall;
mod rival;
mod soak;
mod turn;
#[cfg(target_arch = "riscv32")]
mod unit;

use core::fmt::Write;

use cptr_rt::Console;

cptr_rt::entry!(image);

fn image() -> bool {
    if cfg!(feature = "soak") {
        soak::report();
        return true;
    }
    #[cfg(target_arch = "riscv32")]
    if cfg!(feature = "unit") {
        return unit::report();
    }
    kernels::report();
    turn::report();
    golden::report();
    let done = writeln!(Console, "stack {}", cptr_rt::stack_used()).is_ok();
    // Beyond that line: no token needs its memory.
    placement::report();
    float::report();
    rival::report();
    recall::report();
    done
}
