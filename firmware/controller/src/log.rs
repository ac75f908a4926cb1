//! The log: lines in the encoding of defmt, by semihosting to the standard error of the debugger or the emulator. Not
//! over the serial port, which carries the host's frames.

use defmt::Encoder;
use semihosting::io::{Write, stderr};

/// The line that is being written.
struct Line {
    encoder: Encoder,
    output: Output,
}

/// Its bytes that have not been sent yet: a debugger takes milliseconds for each call, however short.
struct Output {
    bytes: [u8; 64],
    length: usize,
}

impl Output {
    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.length == self.bytes.len() {
                self.send();
            }
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
    }

    fn send(&mut self) {
        // Opened anew each time: the crate asserts that a handle which was kept is still one.
        if let Ok(mut file) = stderr() {
            let mut rest = self.bytes.get(..self.length).unwrap_or_default();
            // A log that nobody takes is lost. (`write_all` can panic.)
            while let Ok(sent @ 1..) = file.write(rest) {
                rest = rest.get(sent..).unwrap_or_default();
            }
        }
        self.length = 0;
    }
}

static mut LINE: Line = Line { encoder: Encoder::new(), output: Output { bytes: [0; 64], length: 0 } };

/// The only line.
///
/// # Safety
/// Nobody else has it: one core, and no interrupt but the watchdog's, which logs nothing. A board whose interrupts log
/// must disable them from `acquire` to `release`.
unsafe fn line() -> &'static mut Line {
    let line = &raw mut LINE;
    // SAFETY: the caller's.
    unsafe { &mut *line }
}

#[defmt::global_logger]
struct Logger;

// SAFETY: as for `line`: a line that was begun is finished before the next one begins.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        // SAFETY: as above.
        let Line { encoder, output } = unsafe { line() };
        encoder.start_frame(|bytes| output.put(bytes));
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: as above.
        let Line { encoder, output } = unsafe { line() };
        encoder.end_frame(|bytes| output.put(bytes));
        output.send();
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: as above.
        let Line { encoder, output } = unsafe { line() };
        encoder.write(bytes, |bytes| output.put(bytes));
    }
}
