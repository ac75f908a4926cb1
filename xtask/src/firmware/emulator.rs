//! An image that runs in an emulator, and the other end of its serial line.

use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::Done;
use super::machines::Machine;

/// An image that is silent for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends when it is dropped.
pub(super) struct Emulator {
    child: Child,
    /// What comes from the serial line; disconnected at the end.
    line: Receiver<u8>,
}

impl Emulator {
    /// Starts an image; its log goes to `log`.
    pub(super) fn start(machine: &Machine, image: &Path, log: Stdio) -> Done<Self> {
        let failed = |error: std::io::Error| format!("{}: {error}", machine.qemu);
        let mut command = Command::new(machine.qemu);
        // No sound card is asked for.
        command.args(machine.command_line(image)).env("QEMU_AUDIO_DRV", "none");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().map_err(failed)?;
        let output = child.stdout.take().ok_or("no standard output")?;
        let (sender, line) = channel();
        std::thread::spawn(move || {
            BufReader::new(output).bytes().map_while(Result::ok).try_for_each(|byte| sender.send(byte))
        });
        Ok(Self { child, line })
    }

    /// Puts bytes on the serial line.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Done {
        let input = self.child.stdin.as_mut().ok_or("no standard input")?;
        input.write_all(bytes).and_then(|()| input.flush()).map_err(|error| format!("the emulator has ended: {error}"))
    }

    /// The next byte from the serial line; `None` when the emulator has ended.
    pub(super) fn byte(&mut self) -> Done<Option<u8>> {
        match self.line.recv_timeout(PATIENCE) {
            Ok(byte) => Ok(Some(byte)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(format!("the image is silent for {} s", PATIENCE.as_secs())),
        }
    }

    /// Waits for the end: everything that the image prints, and whether it ended well.
    pub(super) fn finish(mut self) -> Done<(String, bool)> {
        let mut bytes = Vec::new();
        while let Some(byte) = self.byte()? {
            bytes.push(byte);
        }
        let status = self.child.wait().map_err(|error| format!("the emulator: {error}"))?;
        Ok((String::from_utf8_lossy(&bytes).replace('\r', ""), status.success()))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
