//! The controller's firmware on the RTL of a core with the hardware unit on its bus, in memory that this process sees
//! as a host over a link without coherence does: lines that it has pushed, and lines that it has fetched.

use std::cell::RefCell;
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use cptr_protocol::region::{Attachment, FEATURES};
use cptr_protocol::wire::{self, Integrity};
use cptr_protocol::{HostRegion, Platform};
use zerocopy::IntoBytes;

use super::session::Link;
use cptr_trace::error::{Error, Result};

/// Names of the cores of which there is a model with the unit.
pub(super) const CORES: [&str; 1] = ["ibex-fast+unit"];
/// Where the firmware has what it shares with its host.
const SHARED: u32 = 0x8040_0000;
/// Words of it that this process knows.
const WORDS: usize = 1 << 16;
/// Cycles between two looks of the host at its ring.
const LOOK: u32 = 64;
/// Looks after which nobody answers any more: a hundred times what a request takes whose experts run on the core.
const PATIENCE: u32 = 20_000_000;
/// What the simulation is asked.
const PUSH: u32 = 1;
const FETCH: u32 = 2;
const RING: u32 = 3;
const RUN: u32 = 4;

/// The simulation of the machine.
struct Machine {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// Why it can be asked nothing any more.
    failed: Option<std::io::Error>,
}

impl Machine {
    /// Starts the model with an image.
    fn start(model: &Path, image: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::new(format!("{}: {error}", model.display()));
        let argument = format!("+image={}", image.display());
        let mut command = Command::new(model);
        command.args([argument.as_str(), "+host"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let missing = || failed(std::io::Error::other("its standard streams are missing"));
        let (stdin, stdout) = (child.stdin.take().ok_or_else(missing)?, child.stdout.take().ok_or_else(missing)?);
        Ok(Self { child, stdin, stdout, failed: None })
    }

    /// Asks it, and reads its answer into `answer`.
    fn ask(&mut self, words: &[u32], answer: &mut [u32]) {
        if self.failed.is_some() {
            return;
        }
        let mut asked = self.stdin.write_all(words.as_bytes());
        if !answer.is_empty() {
            asked =
                asked.and_then(|()| self.stdin.flush()).and_then(|()| self.stdout.read_exact(answer.as_mut_bytes()));
        }
        self.failed = asked.err();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What this process has of the shared memory, and the machine behind it.
struct Lines<'a> {
    machine: &'a RefCell<Machine>,
    memory: &'a [AtomicU32],
}

impl Lines<'_> {
    /// The address of a part of the memory in the machine.
    fn address(&self, part: &[AtomicU32]) -> u32 {
        let words = (part.as_ptr().addr() - self.memory.as_ptr().addr()) / size_of::<u32>();
        SHARED + (words * size_of::<u32>()) as u32
    }
}

impl Platform for Lines<'_> {
    fn publish(&self) {}

    fn clean(&self, part: &[AtomicU32]) {
        let head = [PUSH, self.address(part), part.len() as u32];
        let words: Vec<u32> = head.into_iter().chain(part.iter().map(|word| word.load(Ordering::Relaxed))).collect();
        self.machine.borrow_mut().ask(&words, &mut []);
    }

    fn invalidate(&self, part: &[AtomicU32]) {
        let mut words = vec![0; part.len()];
        self.machine.borrow_mut().ask(&[FETCH, self.address(part), part.len() as u32], &mut words);
        part.iter().zip(words).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
    }

    fn notify(&mut self, _: usize) {
        self.machine.borrow_mut().ask(&[RING], &mut []);
    }

    fn wait(&mut self) {
        self.machine.borrow_mut().ask(&[RUN, LOOK], &mut []);
    }
}

impl fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}

/// A host that is attached.
struct Host<'a> {
    region: HostRegion<'a, Lines<'a>>,
    lines: Lines<'a>,
}

impl Host<'_> {
    /// Goes on until `done` has something.
    fn until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Result<Option<T>>) -> Result<T> {
        for _ in 0..PATIENCE {
            if let Some(found) = done(self)? {
                return Ok(found);
            }
            self.lines.wait();
            if let Some(error) = &self.lines.machine.borrow().failed {
                return Err(Error::new(format!("the simulation of the controller has ended: {error}")));
            }
        }
        Err(Error::new(format!("the controller has not answered within {} cycles", u64::from(PATIENCE * LOOK))))
    }
}

fn damaged<E>(_: E) -> Error {
    Error::new("the rings of the controller are damaged")
}

impl Link for Host<'_> {
    fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.region.send(0, request).map_err(damaged)?;
        let mut answer = vec![0; wire::max_answer(wire::MAX_EXPERTS)];
        let length = self.until(|host| host.region.receive(0, &mut answer).map_err(damaged))?;
        answer.truncate(length);
        Ok(answer)
    }

    fn integrity(&self) -> Integrity {
        Integrity::Link
    }
}

/// Model and image of a core, where builds leave them, seen from this program; or another image.
fn built(core: &str, given: Option<&Path>) -> Result<[PathBuf; 2]> {
    let program = std::env::current_exe().unwrap_or_default();
    // This program lies in TARGET/PROFILE.
    let rtl = program.parent().and_then(Path::parent).unwrap_or(Path::new("")).join("firmware/rtl");
    let (model, image) = (rtl.join(core).join("Vtop"), rtl.join(format!("{core}-controller.hex")));
    let image = given.map_or(image, Path::to_owned);
    if let Some(missing) = [&model, &image].into_iter().find(|file| !file.is_file()) {
        return Err(Error::new(format!(
            "no model of {core} at {}; cargo xtask rtl builds it, --image names another image",
            missing.display()
        )));
    }
    Ok([model, image])
}

/// Lets `use_link` talk to the firmware on a core.
pub(super) fn with<T>(
    core: &str,
    image: Option<&Path>,
    use_link: impl FnOnce(&mut dyn Link) -> Result<T>,
) -> Result<T> {
    let [model, image] = built(core, image)?;
    let machine = RefCell::new(Machine::start(&model, &image)?);
    let memory: Vec<AtomicU32> = (0..WORDS).map(|_| AtomicU32::new(0)).collect();
    let lines = || Lines { machine: &machine, memory: &memory };
    let mut host = Host { region: HostRegion::new(&memory, lines()).with_features(FEATURES), lines: lines() };
    let attached = host.until(|host| match host.region.attach().map_err(damaged)? {
        Attachment::Waiting => Ok(None),
        end => Ok(Some(end == Attachment::Attached)),
    })?;
    if !attached {
        return Err(Error::new("the controller lets nobody attach"));
    }
    use_link(&mut host)
}
