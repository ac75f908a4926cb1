//! `cptr advise --measure`: how fast a drive gives experts, one at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cptr_hw_model::{Cold, Model, System};
use cptr_trace::error::{Error, Result};
use serde::Serialize;

use super::reads::{Buffer, PAGE, open, places, read_exact_at, spread, weights};

/// Parts of the reads, as of a recording: their slowest and fastest are the band.
const PARTS: usize = cptr_sim::advise::PARTS;
/// Experts that are read: so many of each part at least, and then for so long.
const LEAST: usize = 4;
const MOST: usize = 64;
const TIME: Duration = Duration::from_secs(2);
/// Threads that share an expert, and what one of them reads at a time, as `cptr-llama` does.
const READERS: usize = 2;
const PIECE: usize = 512 << 10;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    /// The file that was read.
    file: PathBuf,
    /// Bytes of an expert, in whole pages.
    expert_bytes: u64,
    /// Experts that were read, one at a time.
    reads: usize,
    /// 10^9 bytes per second, waiting for each expert.
    gb_s: f64,
    /// The same of the slowest and the fastest part of the reads.
    low_gb_s: f64,
    high_gb_s: f64,
    /// Share of the system's link that copies reach, coming from this drive.
    copy_efficiency: f64,
}

impl Measured {
    /// In a sentence.
    pub(crate) fn said(&self) -> String {
        format!(
            "experts of {:.2} MB are read from the drive of {} at {:.2} GB/s ({:.2} to {:.2}, {} of them)",
            self.expert_bytes as f64 / 1e6,
            self.file.display(),
            self.gb_s,
            self.low_gb_s,
            self.high_gb_s,
            self.reads
        )
    }

    /// The machine whose copies come from the drive, and the share of the link that they reach at least and at most.
    ///
    /// # Errors
    /// A rate that no link has.
    pub(crate) fn system(&self, system: &System) -> Result<(System, [f64; 2])> {
        let link = system.link();
        let share = |gb_s: f64| share(system, gb_s);
        let changed = system.changed(|parts| parts.link.copy_efficiency = share(self.gb_s));
        let changed = changed.map_err(|error| Error::in_file(&self.file, format!("{}: {error}", link.name)))?;
        Ok((changed, [share(self.low_gb_s), share(self.high_gb_s)]))
    }
}

/// Share of a link that is used where a drive gives so much; more than the link's own copies reach it does not.
fn share(system: &System, gb_s: f64) -> f64 {
    (gb_s / system.link().coded_gb_s()).min(system.link().copy_efficiency)
}

/// Reads experts of a file, each from a place of its own.
///
/// # Errors
/// Systems that run experts elsewhere than in the GPU; files that cannot be read directly, or hold no expert.
pub(crate) fn measure(path: &Path, system: &System, model: &Model) -> Result<Measured> {
    if system.cold != Cold::Gpu {
        let found = &system.name;
        let why = "--measure: expected a system that copies experts to its GPU, as offload does";
        return Err(Error::new(format!("{why}, found {found}")));
    }
    let path = weights(path)?;
    let file = open(&path, false)?;
    let bytes = (model.expert_bytes(system.gpu_bits) as usize).max(1).next_multiple_of(PAGE);
    let places = places(&path, &file, bytes)?;
    let mut buffers: Vec<Buffer> = (0..READERS).map(|_| Buffer::new(PIECE)).collect();
    let (mut seconds, start) = (Vec::new(), Instant::now());
    while seconds.len() < PARTS * LEAST || start.elapsed() < TIME && seconds.len() < MOST {
        let start = spread(seconds.len() as u64, places) as usize;
        let before = Instant::now();
        read(&file, start, bytes, &mut buffers).map_err(|error| Error::io(&path, &error))?;
        seconds.push(before.elapsed().as_secs_f64());
    }
    let rate = |seconds: &[f64]| (bytes * seconds.len()) as f64 / seconds.iter().sum::<f64>().max(1e-9) / 1e9;
    let parts = (0..PARTS).map(|part| rate(&seconds[part * seconds.len() / PARTS..(part + 1) * seconds.len() / PARTS]));
    let (low, high) = parts.fold((f64::INFINITY, 0.0_f64), |(low, high), part| (low.min(part), high.max(part)));
    let gb_s = rate(&seconds);
    Ok(Measured {
        file: path,
        expert_bytes: bytes as u64,
        reads: seconds.len(),
        gb_s,
        low_gb_s: low,
        high_gb_s: high,
        copy_efficiency: share(system, gb_s),
    })
}

/// Reads `bytes` from `start`, in pieces that readers share.
fn read(file: &File, start: usize, bytes: usize, buffers: &mut [Buffer]) -> std::io::Result<()> {
    let readers = buffers.len();
    std::thread::scope(|scope| {
        let each = |(reader, buffer): (usize, &mut Buffer)| {
            for piece in (0..bytes.div_ceil(PIECE)).skip(reader).step_by(readers) {
                let at = piece * PIECE;
                let room = buffer.first(PIECE.min(bytes - at));
                read_exact_at(file, room, (start + at) as u64)?;
            }
            Ok(())
        };
        let others: Vec<_> = buffers.iter_mut().enumerate().map(|one| scope.spawn(move || each(one))).collect();
        others.into_iter().try_for_each(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
