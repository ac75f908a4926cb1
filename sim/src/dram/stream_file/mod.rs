//! Requests from a file or from standard input, read as they are needed.
//!
//! What a file is, its beginning tells: a binary trace ([`binary`]), text with one request a line ([`text`]), or either
//! of them compressed with gzip.

pub mod binary;
pub mod text;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use cptr_hw_model::dram::{AddressMap, Device, Request};

use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;
use flate2::bufread::MultiGzDecoder;

/// The name of standard input.
pub const STANDARD_INPUT: &str = "-";
/// Longest line in bytes.
const LONGEST_LINE: usize = 256;
/// Latest cycle of a request: so far ahead that nothing sensible is refused, so near that the end comes.
const LATEST_CYCLE: u64 = 1_000_000_000_000;
/// Most bytes of one request.
const MOST_BYTES: u64 = 1 << 20;
/// Bytes that are read at once, that are looked at to tell what a file is, and that one step of the progress is.
const BLOCK: usize = 1 << 16;

/// The requests of a file; ends after the first error.
pub struct Requests {
    path: PathBuf,
    input: BufReader<Box<dyn Read>>,
    format: Format,
    /// Number of the line, or of the request in a binary trace, from 1.
    place: u64,
    map: AddressMap,
    /// Whether addresses are brought to the start of an access, inside the memory.
    wrap: bool,
    progress: Progress,
    unreported: u64,
    failed: bool,
    /// A line that did not end within a block.
    line: Vec<u8>,
    /// Accesses that are left of a request of several.
    left: u64,
    next: Request,
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").field("path", &self.path).field("place", &self.place).finish_non_exhaustive()
    }
}

enum Format {
    Binary { timed: bool },
    Text(Box<text::Format>),
}

/// A request as a trace has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    request: Request,
    /// Bytes from the address on; 0 for one access.
    bytes: u64,
}

impl Requests {
    /// Opens `path`, or standard input if it is `-`. Addresses are checked against `map`, or with `wrap` rounded down
    /// to an access and taken modulo the capacity: traces of other tools hold addresses of bytes, of more memory than
    /// one channel has. Times in picoseconds become cycles of `device`, rounded down.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(path: &Path, map: AddressMap, device: &Device, wrap: bool) -> Result<Self> {
        let fail = |error: io::Error| Error::io(path, &error);
        let (raw, size): (Box<dyn Read>, _) = if path == Path::new(STANDARD_INPUT) {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(path).map_err(fail)?;
            let size = file.metadata().map_err(fail)?.len();
            (Box::new(file), Some(size))
        };
        let mut input = BufReader::with_capacity(BLOCK, raw);
        let compressed = input.fill_buf().map_err(fail)?.starts_with(&[0x1f, 0x8b]);
        if compressed {
            input = BufReader::with_capacity(BLOCK, Box::new(MultiGzDecoder::new(input)));
        }
        let progress = match size {
            Some(size) if !compressed => Progress::new(size, "reading"),
            _ => Progress::unknown("reading"),
        };
        let start = input.fill_buf().map_err(fail)?;
        let format = match binary::header(start) {
            Some(timed) => Format::Binary { timed: timed.map_err(|error| error.or_file(path))? },
            None => Format::Text(Box::new(text::Format::of(start, &map, device))),
        };
        if let Format::Binary { .. } = format {
            input.consume(binary::HEADER);
        }
        Ok(Self {
            path: path.into(),
            input,
            format,
            place: 0,
            map,
            wrap,
            progress,
            unreported: 0,
            failed: false,
            line: Vec::new(),
            left: 0,
            next: Request::read(0),
        })
    }

    /// The next request; `None` at the end of the file.
    fn read(&mut self) -> Result<Option<Request>> {
        if self.left > 0 {
            self.left -= 1;
            self.next.address += self.map.access_bytes();
            return self.placed(self.next, false).map(Some);
        }
        let Some(record) = self.record()? else { return Ok(None) };
        if record.bytes == 0 {
            return self.placed(record.request, true).map(Some);
        }
        // Of several accesses: whole ones from the first byte to the last.
        let access = self.map.access_bytes();
        let offset = record.request.address % access;
        self.next = Request { address: record.request.address - offset, ..record.request };
        self.left = (offset + record.bytes).div_ceil(access) - 1;
        self.placed(self.next, true).map(Some)
    }

    /// The next record; `None` at the end of the file.
    fn record(&mut self) -> Result<Option<Record>> {
        match &mut self.format {
            Format::Binary { timed } => {
                let record = binary::record(&mut self.input, *timed, self.place).map_err(|error| match error {
                    binary::Failure::Io(error) => Error::io(&self.path, &error),
                    binary::Failure::Bad(error) => error,
                })?;
                self.place += 1;
                self.report(if record.is_some() { 8 } else { 0 });
                Ok(record)
            }
            Format::Text(_) => self.text_record(),
        }
    }

    fn text_record(&mut self) -> Result<Option<Record>> {
        loop {
            let Format::Text(format) = &mut self.format else { return Ok(None) };
            let block = self.input.fill_buf().map_err(|error| Error::io(&self.path, &error))?;
            let at_end = block.is_empty();
            if at_end && self.line.is_empty() {
                return Ok(None);
            }
            let end = block.iter().position(|&byte| byte == b'\n');
            let taken = end.map_or(block.len(), |end| end + 1);
            let parsed = if self.line.is_empty() && end.is_some() {
                self.place += 1;
                format.line(&block[..taken - 1])
            } else {
                let room = (LONGEST_LINE + 1).saturating_sub(self.line.len());
                self.line.extend_from_slice(&block[..taken.min(room)]);
                if end.is_none() && !at_end && self.line.len() <= LONGEST_LINE {
                    self.input.consume(taken);
                    continue;
                }
                self.place += 1;
                let parsed = format.line(self.line.strip_suffix(b"\n").unwrap_or(&self.line));
                self.line.clear();
                parsed
            };
            self.input.consume(taken);
            self.report(taken as u64);
            if let Some(record) = parsed.map_err(|error| error.at(self.where_it_is()))? {
                return Ok(Some(record));
            }
        }
    }

    fn where_it_is(&self) -> String {
        let unit = if matches!(self.format, Format::Binary { .. }) { "request" } else { "line" };
        format!("{unit} {}", self.place)
    }

    /// The request inside of the memory.
    #[inline(always)]
    fn placed(&self, mut request: Request, first: bool) -> Result<Request> {
        if self.wrap {
            request.address = (request.address % self.map.capacity()) & !(self.map.access_bytes() - 1);
        }
        match self.map.check(request.address) {
            Ok(()) => Ok(request),
            Err(error) => {
                let decimal = matches!(&self.format, Format::Text(format) if format.was_decimal());
                let hint =
                    if decimal && first { " (read as decimal; hexadecimal addresses begin with 0x)" } else { "" };
                Err(Error::new(format!("{error}{hint}")).at(self.where_it_is()))
            }
        }
    }

    fn report(&mut self, bytes: u64) {
        self.unreported += bytes;
        if self.unreported >= BLOCK as u64 {
            self.progress.advance(std::mem::take(&mut self.unreported));
        }
    }
}

impl Iterator for Requests {
    type Item = Result<Request>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.read().map_err(|error| error.or_file(&self.path)).transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

#[cfg(test)]
mod tests;
