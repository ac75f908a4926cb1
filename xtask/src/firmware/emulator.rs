//! An image that runs in an emulator, and the other end of its serial line.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::command::Done;
use super::machines::Machine;

/// An image that is silent for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

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
        let monitor = std::env::temp_dir().join(format!("cptr-{}-{}.qmp", machine.core, std::process::id()));
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

    /// What lies in the machine's memory, while it runs.
    pub(super) fn memory(&self, from: u64, to: u64) -> Done<Vec<u8>> {
        let failed = |error: std::io::Error| format!("the emulator's monitor: {error}");
        let dump = self.monitor.with_extension("memory");
        let stream = UnixStream::connect(&self.monitor).map_err(failed)?;
        let (mut writer, mut reader) = (&stream, BufReader::new(&stream));
        let name = dump.display();
        let save =
            format!(r#"{{"execute":"memsave","arguments":{{"val":{from},"size":{},"filename":"{name}"}}}}"#, to - from);
        writeln!(writer, r#"{{"execute":"qmp_capabilities"}}"#)
            .and_then(|()| writeln!(writer, "{save}"))
            .map_err(failed)?;
        // Its greeting, and two answers.
        let mut answer = String::new();
        for _ in 0..3 {
            answer.clear();
            reader.read_line(&mut answer).map_err(failed)?;
        }
        if !answer.contains("\"return\"") {
            return Err(format!("the emulator's monitor: {answer}"));
        }
        let memory = fs::read(&dump).map_err(failed);
        fs::remove_file(&dump).map_err(failed)?;
        memory
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
