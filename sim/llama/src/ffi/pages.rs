//! The pages of experts' matrices, taken out of llama.cpp's mapping of the file: memory that is filled by direct reads,
//! or from a copy in host memory, and given back page by page.
//!
//! llama.cpp computes with its weights where it has mapped them. Anonymous pages are put in the place of the mapping;
//! what comes into them is read from the same place of the file, so that llama.cpp finds every byte where it looks for
//! it. All but experts is read at once and stays, as are pages that belong to two experts. Linux only.

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

/// Where experts' bytes come from.
#[derive(Debug)]
enum Source {
    /// The file, past the page cache.
    Drive(File),
    /// A copy of every tensor.
    Host(Vec<Vec<u8>>),
}

/// The pages of all tensors.
#[derive(Debug)]
pub(crate) struct Pages {
    places: Vec<Place>,
    path: PathBuf,
    source: Source,
    page: usize,
    /// Bytes of pages that two experts share, which stay.
    shared: u64,
}

impl Pages {
    /// Takes llama.cpp's mapping of the file. Nothing of these tensors is there afterwards but pages that two experts
    /// share. What comes later comes from the file, or with `host` from a copy of all tensors in host memory.
    ///
    /// # Errors
    /// Tensors that are not where a mapping of the file has them; a file system without direct reads, or too little
    /// memory for a copy; what the system refuses.
    pub(crate) fn take(path: &Path, places: Vec<Place>, host: bool) -> Result<Self> {
        let io = |error: &std::io::Error| Error::io(path, error);
        // SAFETY: asks for a number of the system.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let file = File::open(path).map_err(|error| io(&error))?;
        let source = if host { Source::Host(copies(path, &file, &places)?) } else { Source::Drive(direct(path)?) };
        let maps = maps(path)?;
        let mut pages = Self { places, path: path.into(), source, page, shared: 0 };
        for place in &pages.places {
            let end = place.address + place.experts * place.expert_bytes;
            let mapped = |map: &Mapping| {
                map.addresses.start <= place.address
                    && end <= map.addresses.end
                    && (place.address - map.addresses.start) as u64 + map.offset == place.offset
            };
            if !maps.iter().any(mapped) {
                return Err(Error::unsupported(
                    "expected experts in llama.cpp's mapping of the file, found them elsewhere (a GPU, or no mmap)",
                ));
            }
            let own: usize = (0..place.experts).map(|expert| pages.own(place, expert).len()).sum();
            pages.shared += (pages.whole(place.address..end).len() - own) as u64;
        }
        let mut own: Vec<Range<usize>> = Vec::new();
        for place in &pages.places {
            own.extend((0..place.experts).map(|expert| pages.own(place, expert)).filter(|own| !own.is_empty()));
        }
        own.sort_unstable_by_key(|own| own.start);
        for map in &maps {
            pages.replace(map, &own, &file)?;
        }
        // What llama.cpp read when it loaded the file need not stay in the page cache.
        // SAFETY: advice about an open file.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        Ok(pages)
    }

    /// Puts anonymous pages in the place of a mapping of the file, and reads all of it but experts' own pages, which
    /// are in order: whatever becomes of the file, what is computed with does not change.
    fn replace(&self, map: &Mapping, own: &[Range<usize>], file: &File) -> Result<()> {
        let addresses = &map.addresses;
        // SAFETY: the range is a mapping of the file, which this process has from llama.cpp alone. llama.cpp reads
        // there only while it computes, which is not now, and unmaps by range when the model is freed, which takes
        // these pages with it. Until everything is read again below, nobody computes.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let at = std::ptr::with_exposed_provenance_mut(addresses.start);
            if libc::mmap(at, addresses.len(), protection, flags, -1, 0) == libc::MAP_FAILED {
                return Err(Error::io(&self.path, &std::io::Error::last_os_error()));
            }
            // Large pages would hold more than was asked for.
            libc::madvise(at, addresses.len(), libc::MADV_NOHUGEPAGE);
        }
        let inside = own.iter().filter(|own| addresses.start <= own.start && own.end <= addresses.end);
        let mut next = addresses.start;
        for end in inside.chain([&(addresses.end..addresses.end)]) {
            self.read(map, next..end.start, file)?;
            next = end.end;
        }
        Ok(())
    }

    /// Reads a range of a mapping, as far as the file goes.
    fn read(&self, map: &Mapping, range: Range<usize>, file: &File) -> Result<()> {
        let io = |error: &std::io::Error| Error::io(&self.path, error);
        let length = file.metadata().map_err(|error| io(&error))?.len();
        let mut bytes = vec![0; 1 << 20];
        for at in range.clone().step_by(bytes.len()) {
            let offset = map.offset + (at - map.addresses.start) as u64;
            let count =
                bytes.len().min(range.end - at).min(usize::try_from(length.saturating_sub(offset)).unwrap_or(0));
            file.read_exact_at(&mut bytes[..count], offset).map_err(|error| io(&error))?;
            // SAFETY: inside the anonymous pages that `replace` has just put there; no reference of Rust points there.
            unsafe {
                let to = std::ptr::with_exposed_provenance_mut::<u8>(at);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count);
            }
        }
        Ok(())
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

    /// Reads a range of an expert's own pages of a tensor, in bytes; it begins with a page.
    ///
    /// Whoever asks for it sees to it that the expert does not run meanwhile.
    ///
    /// # Errors
    /// A read that fails, or a file that has become shorter: what was read is not to be run.
    pub(crate) fn load(&self, place: usize, expert: usize, range: Range<usize>) -> Result<()> {
        let tensor = &self.places[place];
        let all = self.own(tensor, expert);
        let own = all.start + range.start.min(all.len())..all.start + range.end.min(all.len());
        match &self.source {
            Source::Drive(file) => self.read_direct(tensor, own, file),
            Source::Host(copies) => {
                let from = &copies[place][own.start - tensor.address..own.end - tensor.address];
                // SAFETY: the range is inside anonymous pages that `take` put there, which live as long as the model,
                // and as long as what is copied. No reference of Rust points there.
                unsafe {
                    let to = std::ptr::with_exposed_provenance_mut::<u8>(own.start);
                    std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
                }
                Ok(())
            }
        }
    }

    /// Reads pages of a tensor past the page cache.
    fn read_direct(&self, tensor: &Place, own: Range<usize>, file: &File) -> Result<()> {
        let mut done = 0;
        while done < own.len() {
            let offset = tensor.offset + (own.start + done - tensor.address) as u64;
            // SAFETY: the range is inside anonymous pages that `take` put there, which live as long as the model; the
            // system writes no more than is asked for. No reference of Rust points there.
            let read = unsafe {
                let to = std::ptr::with_exposed_provenance_mut(own.start + done);
                libc::pread(file.as_raw_fd(), to, own.len() - done, offset.cast_signed())
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
        shorter(&self.path, at)
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

    /// Hands the pages of one expert's part of a tensor, which go, on to another as long: the system need not clear new
    /// ones, which are written over in any case. Whether that was possible; else nothing has changed.
    ///
    /// Whoever asks for it sees to it that neither runs.
    pub(crate) fn hand_on(&self, from: (usize, usize), to: (usize, usize)) -> bool {
        let own = |(place, expert): (usize, usize)| self.own(&self.places[place], expert);
        let (from, to) = (own(from), own(to));
        if from.is_empty() || from.len() != to.len() || from.start == to.start {
            return false;
        }
        // SAFETY: two ranges of whole anonymous pages that `take` put there, which do not overlap, as each belongs to
        // one expert and tensor. The first stays mapped and reads as zeros; of the second nothing is there that is
        // needed.
        unsafe {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
            let old = std::ptr::with_exposed_provenance_mut::<libc::c_void>(from.start);
            let new = std::ptr::with_exposed_provenance_mut::<libc::c_void>(to.start);
            libc::mremap(old, from.len(), from.len(), flags, new) != libc::MAP_FAILED
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
}

fn shorter(path: &Path, at: u64) -> Error {
    Error::in_file(path, format!("expected as many bytes as when it was opened, found an end at byte {at}"))
}

/// The file, for reads past the page cache.
fn direct(path: &Path) -> Result<File> {
    File::options().read(true).custom_flags(libc::O_DIRECT).open(path).map_err(|error| {
        Error::in_file(path, format!("expected a file system with direct reads (O_DIRECT), found {error}"))
    })
}

/// Copies of all tensors.
fn copies(path: &Path, file: &File, places: &[Place]) -> Result<Vec<Vec<u8>>> {
    let sizes = places.iter().map(|place| place.experts * place.expert_bytes);
    let (bytes, free) = (sizes.clone().sum::<usize>() as u64, available());
    if let Some(free) = free.filter(|free| *free < bytes) {
        return Err(Error::unsupported(format!(
            "expected {} MB of host memory for all experts, found {} MB",
            bytes / 1_000_000,
            free / 1_000_000
        )));
    }
    let copy = |(place, size): (&Place, usize)| {
        let mut copy = vec![0; size];
        file.read_exact_at(&mut copy, place.offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => shorter(path, file.metadata().map_or(0, |found| found.len())),
            _ => Error::io(path, &error),
        })?;
        Ok(copy)
    };
    places.iter().zip(sizes).map(copy).collect()
}

/// Bytes of memory that the system has for programs; `None` where it does not say.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
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
