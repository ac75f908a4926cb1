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
use cptr_protocol::{HostRegion, Platform, wire};

use super::build::{build, built};
use super::command::Done;
use super::controller::RINGS;
use super::conversation::converse_by;
use super::emulator::Emulator;
use super::machines::{Machine, Scope};

/// Words of the region that are looked at: more than it has.
const WORDS: usize = 1 << 14;
/// Queues of the image.
const QUEUES: usize = 2;
/// An answer takes no longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The machine's memory from here.
struct Bus {
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
}

impl Platform for Bus {
    fn publish(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    fn clean(&self, memory: &[AtomicU32]) {
        // Word by word: each is whole for who reads it there.
        for (word, place) in memory.iter().zip((self.place(memory)..).step_by(4)) {
            let _ = self.file.write_all_at(&word.load(Ordering::Relaxed).to_le_bytes(), place);
        }
    }

    fn invalidate(&self, memory: &[AtomicU32]) {
        let mut bytes = [0; 4];
        for (word, place) in memory.iter().zip((self.place(memory)..).step_by(4)) {
            if self.file.read_exact_at(&mut bytes, place).is_ok() {
                word.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
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

fn on(machine: &Machine) -> Done<usize> {
    let name = std::env::temp_dir().join(format!("cptr-{}-{}.memory", machine.core, std::process::id()));
    let memory = Temporary(name);
    let failed = |error: std::io::Error| format!("{}: {error}", memory.0.display());
    let (command, offset) = machine.emulator_with_memory(&built(&machine.target, RINGS), &memory.0);
    // As large as the emulator wants it, so that both may write in it from the beginning.
    File::create(&memory.0).and_then(|file| file.set_len(machine.memory_bytes())).map_err(failed)?;
    let emulator = Rc::new(RefCell::new(Emulator::spawn(machine, command, Stdio::inherit())?));
    let file = File::options().read(true).write(true).open(&memory.0).map_err(failed)?;
    let words: Vec<AtomicU32> = (0..WORDS).map(|_| AtomicU32::new(0)).collect();
    let doorbells = Rc::new(RefCell::new(0));
    let base = words.as_ptr().addr();
    let bus = Bus { file, offset, base, emulator: emulator.clone(), doorbells: doorbells.clone() };
    let mut host = HostRegion::new(&words, bus);
    let begun = Instant::now();
    while host.attach().map_err(|_| "the memory is too small")? != Attachment::Attached {
        if begun.elapsed() > PATIENCE {
            return Err(format!("nobody attaches; the device says {:?}", host.device()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let device = host.device().ok_or("the device has gone")?;
    let queues = device.geometry.queues;
    if queues != QUEUES {
        return Err(format!("expected {QUEUES} queues, found {queues}"));
    }
    let mut answer = vec![0; wire::max_answer(wire::MAX_EXPERTS)];
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
    let rung = *doorbells.borrow();
    if rung == 0 { Err("the doorbell never rang".into()) } else { Ok(rung) }
}
