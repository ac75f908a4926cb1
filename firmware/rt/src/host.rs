//! The host: standard streams; nothing is counted.
use std::io::{Read, Write};

/// Nothing to prepare.
pub fn setup() {}

/// Writes to standard output. A reader that has gone away ends the program.
pub fn write(bytes: &[u8]) {
    if std::io::stdout().write_all(bytes).is_err() {
        exit(false);
    }
}

/// The next byte from standard input, if there is one.
pub fn read() -> Option<u8> {
    let mut byte = [0];
    std::io::stdin().read_exact(&mut byte).is_ok().then_some(byte[0])
}

/// Everything stored or loaded before is over before anything after it begins.
pub fn publish() {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Nothing to wait for: [`read`] does.
pub fn wait() {}

/// Always 0.
pub fn instructions() -> u64 {
    0
}

/// Width of the counters.
pub const COUNTER_BITS: u32 = 32;

/// The counter's ticks are instructions.
pub fn to_instructions(ticks: u64) -> u64 {
    ticks
}

/// Always 0.
pub fn cycles() -> u64 {
    0
}

/// Ends the program.
pub fn exit(success: bool) -> ! {
    std::process::exit(i32::from(!success))
}
