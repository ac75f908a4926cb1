//! The image with rings, in memory that the emulator shares with this program: a file.
//!
//! This end sees the machine's memory only where it asks the platform for it, line by line, as over a bus without
//! coherence: a line that is not cleaned or invalidated is noticed.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cptr_protocol::region::Attachment;
use cptr_protocol::ring::LINE;
use cptr_protocol::{HostRegion, Platform};

use super::build::{build, built};
use super::command::Done;
use super::controller::RINGS;
use super::conversation::converse_by;
use super::emulator::Emulator;
use super::machines::{Machine, Scope};

/// Words of the region that are looked at: more than it has.
const WORDS: usize = 1 << 15;
/// Queues of the image.
const QUEUES: usize = 2;
/// An answer takes no longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The machine's memory from here.
pub(super) struct Bus {
    file: File,
    /// Of the shared memory in the file.
    offset: u64,
    /// Address of this program's copy.
    base: usize,
    emulator: Rc<RefCell<Emulator>>,
    doorbells: Rc<RefCell<usize>>,
}

impl Bus {
    fn place(&self, memory: &[AtomicU32]) -> u64 {
        self.offset + (memory.as_ptr().addr() - self.base) as u64
    }

    /// What is read or written at once, and where: a line word by word, as each is whole for who reads it there; a
    /// frame, which nobody reads before its index, as it is.
    fn pieces<'m>(&self, memory: &'m [AtomicU32]) -> impl Iterator<Item = (&'m [AtomicU32], u64)> + use<'m> {
        let words = if memory.len() > LINE { memory.len() } else { 1 };
        memory.chunks(words).zip((self.place(memory)..).step_by(4 * words))
    }
}

impl Platform for Bus {
    fn publish(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    fn clean(&self, memory: &[AtomicU32]) {
        for (words, place) in self.pieces(memory) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
            let _ = self.file.write_all_at(&bytes, place);
        }
    }

    fn invalidate(&self, memory: &[AtomicU32]) {
        for (words, place) in self.pieces(memory) {
            let mut bytes = vec![0; size_of_val(words)];
            if self.file.read_exact_at(&mut bytes, place).is_ok() {
                let values = bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
                words.iter().zip(values).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
            }
        }
    }

    fn notify(&mut self, queue: usize) {
        let _ = self.emulator.borrow_mut().send(&[queue as u8]);
    }

    fn wait(&mut self) {
        let heard = self.emulator.borrow_mut().byte_soon();
        match heard {
            Ok(true) => *self.doorbells.borrow_mut() += 1,
            // Who hears nothing rings again (docs/device.md, Order).
            Ok(false) => self.notify(0),
            Err(_) => {}
        }
    }
}

/// Holds the conversation on each machine: the answers must be the host's, and the doorbell must ring.
pub(super) fn check(scope: Scope) -> Done {
    scope.targets().into_iter().try_for_each(|target| build("cptr-controller", target))?;
    for machine in scope.machines() {
        let doorbells = on(machine).map_err(|error| format!("{}: rings: {error}", machine.core))?;
        println!("{:<12} answers through rings equal the host's; {doorbells} doorbells", machine.core);
    }
    Ok(())
}

/// A file that is gone when this is dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// An image with rings that runs, and what it shares with this program.
pub(super) struct Shared {
    pub(super) emulator: Rc<RefCell<Emulator>>,
    pub(super) file: File,
    /// Of the shared memory in the file.
    pub(super) offset: u64,
    /// This program's copy.
    words: &'static [AtomicU32],
    doorbells: Rc<RefCell<usize>>,
    /// Goes last: the emulator has it open.
    _memory: Temporary,
}

impl Shared {
    pub(super) fn start(machine: &Machine) -> Done<Self> {
        let name = std::env::temp_dir().join(format!("cptr-{}-{}.memory", machine.core, std::process::id()));
        let memory = Temporary(name);
        let failed = |error: std::io::Error| format!("{}: {error}", memory.0.display());
        let (command, offset) = machine.emulator_with_memory(&built(&machine.target, RINGS), &memory.0);
        // As large as the emulator wants it, so that both may write in it from the beginning.
        File::create(&memory.0).and_then(|file| file.set_len(machine.memory_bytes())).map_err(failed)?;
        let emulator = Rc::new(RefCell::new(Emulator::spawn(machine, command, Stdio::inherit())?));
        let file = File::options().read(true).write(true).open(&memory.0).map_err(failed)?;
        let words: Vec<AtomicU32> = (0..WORDS).map(|_| AtomicU32::new(0)).collect();
        Ok(Self { emulator, file, offset, words: words.leak(), doorbells: Rc::default(), _memory: memory })
    }

    /// A host of it, which is not attached.
    pub(super) fn host(&self) -> Done<HostRegion<'static, Bus>> {
        let file = self.file.try_clone().map_err(|error| format!("the shared memory: {error}"))?;
        let (offset, base) = (self.offset, self.words.as_ptr().addr());
        let bus = Bus { file, offset, base, emulator: self.emulator.clone(), doorbells: self.doorbells.clone() };
        Ok(HostRegion::new(self.words, bus))
    }
}

/// Attaches a host.
pub(super) fn attach(host: &mut HostRegion<'_, Bus>) -> Done {
    let begun = Instant::now();
    while host.attach().map_err(|_| "the memory is too small")? != Attachment::Attached {
        if begun.elapsed() > PATIENCE {
            return Err(format!("nobody attaches; the device says {:?}", host.device()));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn on(machine: &Machine) -> Done<usize> {
    let shared = Shared::start(machine)?;
    let mut host = shared.host()?;
    attach(&mut host)?;
    let device = host.device().ok_or("the device has gone")?;
    let queues = device.geometry.queues;
    if queues != QUEUES {
        return Err(format!("expected {QUEUES} queues, found {queues}"));
    }
    let mut answer = vec![0; device.geometry.answer];
    converse_by(queues, device.generation, |request| {
        let corrupt = |_| "an index of the device cannot be".to_owned();
        host.send(0, request).map_err(corrupt)?;
        let begun = Instant::now();
        loop {
            if let Some(length) = host.receive(0, &mut answer).map_err(corrupt)? {
                return Ok(answer[..length].to_vec());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("no answer; the device says {:?}", host.device()));
            }
            host.wait(0).map_err(corrupt)?;
        }
    })?;
    let rung = *shared.doorbells.borrow();
    if rung == 0 { Err("the doorbell never rang".into()) } else { Ok(rung) }
}
