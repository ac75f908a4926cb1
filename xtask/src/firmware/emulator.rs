//! An image that runs in an emulator, and the other end of its serial line.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::command::Done;
use super::machines::Machine;

/// An image that is silent for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Emulators started so far.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// Ends when it is dropped.
pub(super) struct Emulator {
    child: Child,
    /// The socket of its monitor.
    monitor: PathBuf,
    /// What comes from the serial line; disconnected at the end.
    line: Receiver<u8>,
}

impl Emulator {
    /// Starts an image; its log goes to `log`.
    pub(super) fn start(machine: &Machine, image: &Path, log: Stdio) -> Done<Self> {
        Self::spawn(machine, machine.emulator(image), log)
    }

    /// Starts a machine by its command.
    pub(super) fn spawn(machine: &Machine, mut command: Command, log: Stdio) -> Done<Self> {
        // A socket's name is short, as that of a folder for builds may not be.
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let monitor = std::env::temp_dir().join(format!("cptr-{}-{}-{number}.qmp", machine.core, std::process::id()));
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = child.map_err(|error| format!("{}: the emulator: {error}", machine.core))?;
        let output = child.stdout.take().ok_or("no standard output")?;
        let (sender, line) = channel();
        std::thread::spawn(move || {
            BufReader::new(output).bytes().map_while(Result::ok).try_for_each(|byte| sender.send(byte))
        });
        Ok(Self { child, monitor, line })
    }

    /// Puts bytes on the serial line.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Done {
        let input = self.child.stdin.as_mut().ok_or("no standard input")?;
        input.write_all(bytes).and_then(|()| input.flush()).map_err(|error| format!("the emulator has ended: {error}"))
    }

    /// Waits for a byte from the serial line, but not for long; returns whether there was one.
    pub(super) fn byte_soon(&mut self) -> Done<bool> {
        match self.line.recv_timeout(Duration::from_millis(100)) {
            Ok(_) => Ok(true),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => Err("the emulator has ended".into()),
        }
    }

    /// The next byte from the serial line; `None` when the emulator has ended.
    pub(super) fn byte(&mut self) -> Done<Option<u8>> {
        match self.line.recv_timeout(PATIENCE) {
            Ok(byte) => Ok(Some(byte)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(format!("the image is silent for {} s", PATIENCE.as_secs())),
        }
    }

    /// The next byte from the serial line, if one comes within a time.
    pub(super) fn byte_within(&mut self, time: Duration) -> Done<Option<u8>> {
        match self.line.recv_timeout(time) {
            Ok(byte) => Ok(Some(byte)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("the emulator has ended".into()),
        }
    }

    /// What lies in the machine's memory, while it runs.
    pub(super) fn memory(&self, from: u64, to: u64) -> Done<Vec<u8>> {
        let failed = |error: std::io::Error| format!("the emulator's monitor: {error}");
        let dump = self.monitor.with_extension("memory");
        let arguments = format!(r#"{{"val":{from},"size":{},"filename":"{}"}}"#, to - from, dump.display());
        self.tell("memsave", &arguments, r#""return""#)?;
        let memory = fs::read(&dump).map_err(failed);
        fs::remove_file(&dump).map_err(failed)?;
        memory
    }

    /// Holds the machine up.
    pub(super) fn stop(&self) -> Done {
        self.tell("stop", "{}", r#""return""#).map(drop)
    }

    /// Goes on: one that was reset meanwhile may have to be told again, as it is held up once more by that.
    pub(super) fn go_on(&self) -> Done {
        for _ in 0..100 {
            self.tell("cont", "{}", r#""return""#)?;
            if self.tell("query-status", "{}", r#""return""#)?.contains(r#""running": true"#) {
                return Ok(());
            }
        }
        Err("the emulator does not go on".into())
    }

    /// Has the machine start anew, and returns when it does.
    pub(super) fn reset(&self) -> Done {
        self.tell("system_reset", "{}", r#""RESET""#).map(drop)
    }

    /// Has the monitor do something, waits for a line that says so, and returns it.
    fn tell(&self, command: &str, arguments: &str, expected: &str) -> Done<String> {
        let failed = |error: std::io::Error| format!("the emulator's monitor: {error}");
        let stream = UnixStream::connect(&self.monitor).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let (mut writer, mut reader) = (&stream, BufReader::new(&stream));
        writeln!(writer, r#"{{"execute":"qmp_capabilities"}}"#).map_err(failed)?;
        let mut line = String::new();
        // Its greeting, and what it says to the first command.
        for _ in 0..2 {
            line.clear();
            reader.read_line(&mut line).map_err(failed)?;
        }
        writeln!(writer, r#"{{"execute":"{command}","arguments":{arguments}}}"#).map_err(failed)?;
        loop {
            line.clear();
            if reader.read_line(&mut line).map_err(failed)? == 0 || line.contains("\"error\"") {
                return Err(format!("the emulator's monitor: {command}: {line}"));
            }
            if line.contains(expected) {
                return Ok(line);
            }
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
        // It may have ended already, and its socket with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.monitor);
    }
}
