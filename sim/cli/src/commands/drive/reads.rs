//! Reads of a file of weights, past the memory that the system caches it in.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use cptr_trace::error::{Error, Result};

/// What direct reads begin and end at.
pub(super) const PAGE: usize = 4096;

/// Memory that begins at a page, as direct reads ask for.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = vec![0; bytes + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, start }
    }

    /// Its first bytes.
    pub(super) fn first(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.bytes[self.start..][..bytes]
    }
}

/// The file itself, or the largest of a folder.
pub(super) fn weights(path: &Path) -> Result<PathBuf> {
    let failed = |error: std::io::Error| Error::io(path, &error);
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(path.into());
    }
    let sized = |entry: fs::DirEntry| {
        // Of a link the file behind it: caches of checkpoints are made of them.
        let metadata = fs::metadata(entry.path()).ok().filter(fs::Metadata::is_file)?;
        Some((metadata.len(), entry.path()))
    };
    let largest = fs::read_dir(path).map_err(failed)?.filter_map(|entry| sized(entry.ok()?)).max();
    let none = || Error::in_file(path, "expected a file of weights, found none in the folder");
    largest.map(|(_, path)| path).ok_or_else(none)
}

/// Whole pages of `bytes` bytes begin at so many places of a file.
pub(super) fn places(path: &Path, file: &File, bytes: usize) -> Result<u64> {
    let length = file.metadata().map_err(|error| Error::io(path, &error))?.len();
    let last = (length / PAGE as u64 * PAGE as u64).checked_sub(bytes as u64);
    last.map(|last| last / PAGE as u64 + 1)
        .ok_or_else(|| Error::in_file(path, format!("expected {bytes} bytes at least, found {length}")))
}

/// Byte at which read number `read` begins. Places that follow each other at the golden section are spread evenly,
/// however many there are.
pub(super) fn spread(read: u64, places: u64) -> u64 {
    ((read as f64 * 0.618_033_988_75).fract() * places as f64) as u64 * PAGE as u64
}

#[cfg(target_os = "linux")]
pub(super) fn open(path: &Path, cached: bool) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let direct = if cached { 0 } else { rustix::fs::OFlags::DIRECT.bits() as i32 };
    File::options().read(true).custom_flags(direct).open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => {
            Error::in_file(path, format!("expected a file that can be read directly (O_DIRECT), found {error}"))
        }
        _ => Error::io(path, &error),
    })
}

#[cfg(target_os = "linux")]
pub(super) fn read_exact_at(file: &File, room: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, room, at)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn open(path: &Path, _: bool) -> Result<File> {
    Err(Error::in_file(path, "expected Linux, whose files can be read past its cache, found another system"))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read_exact_at(_: &File, _: &mut [u8], _: u64) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
