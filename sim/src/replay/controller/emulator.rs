//! The controller's firmware on an emulated machine, behind its serial port: the emulator's standard input and output.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use cptr_protocol::{serial, wire};
use serde::Deserialize;

use super::session::Link;
use cptr_trace::error::{Error, Result};

/// An emulated machine that the firmware is built for.
#[derive(Debug, Deserialize)]
pub struct Machine {
    /// Name of its core on the command line.
    pub core: String,
    /// Target that the image is built for.
    target: String,
    emulator: String,
    /// Debian's package with the emulator.
    package: String,
    arguments: String,
}

#[derive(Deserialize)]
struct Machines {
    /// Arguments for all of them.
    common: String,
    machine: Vec<Machine>,
}

static MACHINES: LazyLock<Machines> = LazyLock::new(|| {
    toml::from_str(include_str!("../../../data/machines.toml"))
        .expect("the shipped table parses: an end-to-end test reads it")
});

/// Every machine, in the order of tables.
pub(super) fn machines() -> &'static [Machine] {
    &MACHINES.machine
}

/// File name of the image.
const IMAGE: &str = "cptr-controller";
/// Bytes of the longest answer on the line.
const LONGEST: usize = serial::encoded(wire::max_answer(wire::MAX_EXPERTS));
/// How long an answer may take: a thousand times what it does.
const PATIENCE: Duration = Duration::from_secs(20);

impl Machine {
    /// The image: given, or where the firmware's builds leave it, seen from this program.
    fn image(&self, given: Option<&Path>) -> Result<PathBuf> {
        let program = std::env::current_exe().unwrap_or_default();
        let mut builds = Vec::new();
        // This program lies in TARGET/PROFILE.
        if let Some(target) = program.parent().and_then(Path::parent) {
            // For some targets the compiler's core library is built, too, and lies there.
            builds.extend([target.join("firmware"), target.join("firmware/core")]);
            builds.extend(target.parent().map(|root| root.join("firmware/target")));
        }
        let usual = builds.into_iter().map(|build| build.join(&self.target).join("release").join(IMAGE));
        let tried: Vec<PathBuf> = given.map_or_else(|| usual.collect(), |image| vec![image.to_owned()]);
        if let Some(found) = tried.iter().find(|path| path.is_file()) {
            return Ok(found.clone());
        }
        Err(Error::new(format!(
            "no firmware image for {} at {}; cargo xtask firmware builds it, --image names another place",
            self.core,
            tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
        )))
    }
}

/// A running emulator; ended when it is dropped.
pub(super) struct Emulator {
    name: &'static str,
    child: Child,
    stdin: ChildStdin,
    /// What comes out of the serial port; closed at its end.
    output: Receiver<Vec<u8>>,
    /// Bytes of `output` that no answer has taken yet.
    rest: Vec<u8>,
    /// What the emulator complains about.
    complaints: File,
    patience: Duration,
}

impl Emulator {
    /// Starts a machine with its image.
    pub(super) fn start(machine: &'static Machine, image: Option<&Path>) -> Result<Self> {
        let image = machine.image(image)?;
        let mut command = Command::new(&machine.emulator);
        command.args(machine.arguments.split(' ')).args(MACHINES.common.split(' ')).arg("-kernel").arg(image);
        Self::spawn(command, &machine.emulator, PATIENCE).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(format!(
                "{} is not installed; on Debian it is in the package {}",
                machine.emulator, machine.package
            )),
            _ => Error::new(format!("{}: {error}", machine.emulator)),
        })
    }

    fn spawn(mut command: Command, name: &'static str, patience: Duration) -> std::io::Result<Self> {
        let complaints = tempfile::tempfile()?;
        let stderr = complaints.try_clone()?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).spawn()?;
        let missing = || std::io::Error::other("its standard streams are missing");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let mut stdout = child.stdout.take().ok_or_else(missing)?;
        let (sender, output) = sync_channel(64);
        // Ends with the emulator, or when nobody listens any more.
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut bytes) {
                if sender.send(bytes[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name, child, stdin, output, rest: Vec::new(), complaints, patience })
    }

    /// Why there is no answer: the emulator has ended, and what it said first, or the firmware last.
    fn ended(&mut self) -> Error {
        // What it wrote before that may still be on its way.
        while self.rest.len() <= LONGEST
            && let Ok(bytes) = self.output.recv_timeout(Duration::from_secs(1))
        {
            self.rest.extend(bytes);
        }
        let status = (0..100).find_map(|_| match self.child.try_wait() {
            Ok(None) => {
                thread::sleep(Duration::from_millis(10));
                None
            }
            status => Some(status),
        });
        let status = match status {
            Some(Ok(Some(status))) => status.to_string(),
            _ => "its output is closed".to_owned(),
        };
        let mut said = String::new();
        let _ = self.complaints.seek(SeekFrom::Start(0));
        let _ = (&self.complaints).take(4096).read_to_string(&mut said);
        let console = String::from_utf8_lossy(&self.rest);
        let said = said.lines().find(|line| !line.trim().is_empty());
        let said = said.or_else(|| console.lines().rfind(|line| !line.trim().is_empty()));
        let said = said.map_or_else(String::new, |line| format!(": {}", line.trim()));
        Error::new(format!("{} has ended without an answer ({status}){said}", self.name))
    }
}

impl Link for Emulator {
    fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        let mut line = cobs::encode_vec(request);
        line.push(0);
        if self.stdin.write_all(&line).and_then(|()| self.stdin.flush()).is_err() {
            return Err(self.ended());
        }
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(end) = self.rest.iter().position(|&byte| byte == 0) {
                let answer: Vec<u8> = self.rest.drain(..=end).collect();
                return cobs::decode_vec(&answer[..end]).map_err(|_| {
                    Error::new(format!("{} has sent no frame: {}", self.name, String::from_utf8_lossy(&answer)))
                });
            }
            if self.rest.len() > LONGEST {
                return Err(Error::new(format!("{} has sent {LONGEST} bytes without a frame", self.name)));
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.rest.extend(bytes),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::new(format!("{} has not answered within {:?}", self.name, self.patience)));
                }
            }
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A shell script in place of an emulator.
    fn exchange(script: &str) -> Result<Vec<u8>> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Emulator::spawn(command, "sh", Duration::from_millis(300)).unwrap().exchange(&[1, 0, 2])
    }

    fn refusal(script: &str) -> String {
        exchange(script).unwrap_err().to_string()
    }

    #[test]
    fn frames_go_there_and_back() {
        assert_eq!(exchange("cat"), Ok(vec![1, 0, 2]));
    }

    #[test]
    fn an_emulator_that_dies_says_why() {
        assert_eq!(refusal("exit 3"), "sh has ended without an answer (exit status: 3)");
        assert_eq!(
            refusal("echo no such board >&2; echo more >&2; exit 1"),
            "sh has ended without an answer (exit status: 1): no such board"
        );
        assert_eq!(
            refusal("echo; echo panic: out of luck; exit 1"),
            "sh has ended without an answer (exit status: 1): panic: out of luck"
        );
        assert_eq!(refusal("kill -9 $$"), "sh has ended without an answer (signal: 9 (SIGKILL))");
    }

    #[test]
    fn silence_and_noise_are_errors() {
        assert_eq!(refusal("exec sleep 60"), "sh has not answered within 300ms");
        assert_eq!(refusal("yes"), format!("sh has sent {LONGEST} bytes without a frame"));
        assert!(refusal("printf '\\377nonsense\\000'; exec sleep 60").starts_with("sh has sent no frame: "));
    }
}
