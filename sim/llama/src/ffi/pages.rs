//! The pages of experts' matrices, taken out of llama.cpp's mapping of the file: memory that is filled by direct reads
//! and given back page by page.
//!
//! llama.cpp computes with its weights where it has mapped them. Anonymous pages are put in the place of the whole pages
//! of each tensor; what comes into them is read from the same place of the file, so that llama.cpp finds every byte
//! where it looks for it. A page that belongs to two experts is read once and stays. Linux only.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cptr_trace::error::{Error, Result};

/// A stacked tensor of experts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where llama.cpp has it.
    pub(crate) address: usize,
    /// Where the file has it.
    pub(crate) offset: u64,
    /// Bytes of one expert.
    pub(crate) expert_bytes: usize,
    /// Experts.
    pub(crate) experts: usize,
}

/// The pages of all tensors.
#[derive(Debug)]
pub(crate) struct Pages {
    places: Vec<Place>,
    path: PathBuf,
    /// For reads past the page cache.
    direct: File,
    page: usize,
    /// Bytes of pages that two experts share, which stay.
    shared: u64,
}

impl Pages {
    /// Takes the tensors' pages. Nothing of them is there afterwards but pages that two experts share.
    ///
    /// # Errors
    /// Tensors that are not where a mapping of the file has them; a file system without direct reads; what the system
    /// refuses.
    pub(crate) fn take(path: &Path, places: Vec<Place>) -> Result<Self> {
        let io = |error: &std::io::Error| Error::io(path, error);
        // SAFETY: asks for a number of the system.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let file = File::open(path).map_err(|error| io(&error))?;
        let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).map_err(|error| {
            Error::in_file(path, format!("expected a file system with direct reads (O_DIRECT), found {error}"))
        })?;
        let maps = maps(path)?;
        let mut pages = Self { places, path: path.into(), direct, page, shared: 0 };
        for place in &pages.places {
            let whole = pages.whole(place.address..place.address + place.experts * place.expert_bytes);
            let mapped = |map: &Mapping| {
                map.addresses.start <= whole.start
                    && whole.end <= map.addresses.end
                    && place.address - map.addresses.start == (place.offset.wrapping_sub(map.offset)) as usize
            };
            if !maps.iter().any(mapped) {
                return Err(Error::unsupported(
                    "expected experts in llama.cpp's mapping of the file, found them elsewhere (a GPU, or no mmap)",
                ));
            }
        }
        for place in &pages.places {
            let whole = pages.whole(place.address..place.address + place.experts * place.expert_bytes);
            if whole.is_empty() {
                continue;
            }
            // SAFETY: the range is whole pages inside llama.cpp's private view of this file, as was checked above; it
            // holds nothing but this tensor. llama.cpp reads them only while it computes, which is not now, and unmaps
            // the whole view when the model is freed, which takes these pages with it.
            unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                let at = std::ptr::with_exposed_provenance_mut(whole.start);
                if libc::mmap(at, whole.len(), protection, flags, -1, 0) == libc::MAP_FAILED {
                    return Err(io(&std::io::Error::last_os_error()));
                }
                // Large pages would hold more than was asked for.
                libc::madvise(at, whole.len(), libc::MADV_NOHUGEPAGE);
            }
        }
        pages.shared = pages.read_shared(&file)?;
        // What llama.cpp read when it loaded the file need not stay in the page cache.
        // SAFETY: advice about an open file.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        Ok(pages)
    }

    /// Tensors.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Bytes of pages that two experts share, which stay.
    pub(crate) fn shared(&self) -> u64 {
        self.shared
    }

    /// Bytes of an expert's own pages in a tensor.
    pub(crate) fn bytes(&self, place: usize, expert: usize) -> usize {
        self.own(&self.places[place], expert).len()
    }

    /// Reads an expert's own pages of a tensor past the page cache.
    ///
    /// Whoever asks for it sees to it that the expert does not run meanwhile.
    ///
    /// # Errors
    /// A read that fails, or a file that has become shorter: what was read is not to be run.
    pub(crate) fn load(&self, place: usize, expert: usize) -> Result<()> {
        let tensor = &self.places[place];
        let own = self.own(tensor, expert);
        let mut done = 0;
        while done < own.len() {
            let offset = tensor.offset + (own.start + done - tensor.address) as u64;
            // SAFETY: the range is inside anonymous pages that `take` put there, which live as long as the model; the
            // system writes no more than is asked for. No reference of Rust points there.
            let read = unsafe {
                let to = std::ptr::with_exposed_provenance_mut(own.start + done);
                libc::pread(self.direct.as_raw_fd(), to, own.len() - done, offset.cast_signed())
            };
            match usize::try_from(read) {
                // Direct reads of part of a page come from the end of the file only.
                Ok(0) => return Err(self.short(offset)),
                Ok(count) if !count.is_multiple_of(self.page) && done + count < own.len() => {
                    return Err(self.short(offset + count as u64));
                }
                Ok(count) => done += count,
                Err(_) => {
                    let error = std::io::Error::last_os_error();
                    if error.kind() != std::io::ErrorKind::Interrupted {
                        return Err(Error::io(&self.path, &error));
                    }
                }
            }
        }
        Ok(())
    }

    fn short(&self, at: u64) -> Error {
        Error::in_file(&self.path, format!("expected as many bytes as when it was opened, found an end at byte {at}"))
    }

    /// Gives an expert's own pages of a tensor back to the system.
    ///
    /// Whoever asks for it sees to it that the expert does not run.
    pub(crate) fn give_back(&self, place: usize, expert: usize) {
        let own = self.own(&self.places[place], expert);
        if !own.is_empty() {
            // SAFETY: whole anonymous pages that `take` put there; they read as zeros afterwards.
            unsafe {
                let at = std::ptr::with_exposed_provenance_mut(own.start);
                libc::madvise(at, own.len(), libc::MADV_DONTNEED);
            }
        }
    }

    /// Whole pages of a range.
    fn whole(&self, range: Range<usize>) -> Range<usize> {
        let start = range.start.next_multiple_of(self.page);
        start..(range.end / self.page * self.page).max(start)
    }

    /// Pages that hold nothing but this expert.
    fn own(&self, place: &Place, expert: usize) -> Range<usize> {
        let start = place.address + expert * place.expert_bytes;
        self.whole(start..start + place.expert_bytes)
    }

    /// Reads what lies between experts' own pages.
    fn read_shared(&self, file: &File) -> Result<u64> {
        let mut bytes = vec![0; self.page];
        let mut shared = 0;
        for place in &self.places {
            let whole = self.whole(place.address..place.address + place.experts * place.expert_bytes);
            let mut next = whole.start;
            for expert in 0..=place.experts {
                let own = if expert < place.experts { self.own(place, expert) } else { whole.end..whole.end };
                for at in (next..own.start).step_by(self.page) {
                    let offset = place.offset + (at - place.address) as u64;
                    file.read_exact_at(&mut bytes, offset).map_err(|error| Error::io(&self.path, &error))?;
                    // SAFETY: one of the pages that `take` has just put there; no reference of Rust points there.
                    unsafe {
                        let to = std::ptr::with_exposed_provenance_mut::<u8>(at);
                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, self.page);
                    }
                    shared += self.page as u64;
                }
                next = next.max(own.end);
            }
        }
        Ok(shared)
    }
}

/// A mapping of this process.
struct Mapping {
    addresses: Range<usize>,
    offset: u64,
}

/// The mappings of a file.
fn maps(path: &Path) -> Result<Vec<Mapping>> {
    let name = path.canonicalize().map_err(|error| Error::io(path, &error))?;
    let table = Path::new("/proc/self/maps");
    let text = std::fs::read(table).map_err(|error| Error::io(table, &error))?;
    let text = String::from_utf8_lossy(&text);
    let read = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        line.ends_with(&*name.to_string_lossy()).then_some(Mapping { addresses: hex(start)?..hex(end)?, offset })
    };
    Ok(text.lines().filter_map(read).collect())
}
