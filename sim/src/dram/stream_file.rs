//! Requests from a text file, one a line, read as they are needed.
//!
//! A line is `[OPERATION] ADDRESS [OPERATION] [CYCLE]`: an address alone is a read; operations are `R`, `RD`, `READ`,
//! `LD` and `W`, `WR`, `WRITE`, `ST`; no request is offered before its cycle. So `1f40`, `LD 0x1f40`, `0x1f40 READ 0`
//! and `8000 W` are all understood. Empty lines and what follows `#` are skipped.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use cptr_hw_model::dram::{AddressMap, Request, RequestKind};

use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;

/// Longest line in bytes.
const LONGEST_LINE: u64 = 256;
/// Latest cycle of a request: so far ahead that nothing sensible is refused, so near that the end comes.
const LATEST_CYCLE: u64 = 1_000_000_000_000;
/// Bytes that are looked at to tell hexadecimal from decimal, and bytes from one step of the progress bar to the next.
const BLOCK: usize = 1 << 16;

/// The requests of a file; ends after the first error.
#[derive(Debug)]
pub struct Requests {
    path: PathBuf,
    input: BufReader<File>,
    line: u64,
    /// Radix of addresses without `0x`.
    radix: u32,
    map: AddressMap,
    /// Whether addresses are brought to the start of an access, inside the memory.
    wrap: bool,
    progress: Progress,
    unreported: u64,
    failed: bool,
}

impl Requests {
    /// Opens `path`; addresses are checked against `map`, or with `wrap` rounded down to an access and taken modulo the
    /// capacity: traces of other tools hold addresses of bytes, of more memory than one channel has.
    ///
    /// Addresses without `0x` are hexadecimal if one in the first 64 KiB has a letter, decimal otherwise.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(path: &Path, map: AddressMap, wrap: bool) -> Result<Self> {
        let fail = |error: std::io::Error| Error::io(path, &error);
        let file = File::open(path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        let mut input = BufReader::with_capacity(BLOCK, file);
        let start = input.fill_buf().map_err(fail)?;
        let radix = if has_hexadecimal_address(start) { 16 } else { 10 };
        let progress = Progress::new(size, "reading");
        Ok(Self { path: path.into(), input, line: 0, radix, map, wrap, progress, unreported: 0, failed: false })
    }

    /// The next request; `None` at the end of the file.
    fn read(&mut self) -> Result<Option<Request>> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let read = (&mut self.input).take(LONGEST_LINE + 1).read_until(b'\n', &mut bytes);
            let read = read.map_err(|error| Error::io(&self.path, &error))? as u64;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            self.report(read);
            if let Some(request) = self.request(&bytes).map_err(|error| error.at(format!("line {}", self.line)))? {
                return Ok(Some(request));
            }
        }
    }

    /// The request of a line; `None` if the line is empty.
    fn request(&self, bytes: &[u8]) -> Result<Option<Request>> {
        if bytes.len() as u64 > LONGEST_LINE {
            return Err(Error::new(format!("expected at most {LONGEST_LINE} bytes, found a longer line")));
        }
        let text = str::from_utf8(bytes).map_err(|_| Error::new("expected text, found bytes that are not UTF-8"))?;
        let Some(mut request) = parse(text, self.radix)? else { return Ok(None) };
        if self.wrap {
            request.address = (request.address % self.map.capacity()) & !(self.map.access_bytes() - 1);
        }
        self.map.check(request.address).map_err(|error| {
            let decimal = self.radix == 10 && !text.to_ascii_lowercase().contains("0x");
            let hint = if decimal { " (read as decimal; hexadecimal addresses begin with 0x)" } else { "" };
            Error::new(format!("{error}{hint}"))
        })?;
        Ok(Some(request))
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

/// The words of a line without its comment.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split('#').next().unwrap_or_default().split_whitespace()
}

fn operation(word: &str) -> Option<RequestKind> {
    match word.to_ascii_uppercase().as_str() {
        "R" | "RD" | "READ" | "LD" => Some(RequestKind::Read),
        "W" | "WR" | "WRITE" | "ST" => Some(RequestKind::Write),
        _ => None,
    }
}

fn has_hexadecimal_address(start: &[u8]) -> bool {
    // The last line may be cut off, but what is left of a word tells no less.
    let text = String::from_utf8_lossy(start);
    let is_hexadecimal = |word: &str| {
        word.bytes().all(|digit| digit.is_ascii_hexdigit()) && word.bytes().any(|digit| digit.is_ascii_alphabetic())
    };
    text.lines().any(|line| words(line).any(is_hexadecimal))
}

fn parse(text: &str, radix: u32) -> Result<Option<Request>> {
    let wrong = |what: &str| {
        let found: String = text.trim().chars().take(40).collect();
        Error::new(format!("expected {what}, found \"{found}\""))
    };
    let mut words = words(text).peekable();
    let Some(first) = words.peek() else { return Ok(None) };
    let before = operation(first);
    if before.is_some() {
        words.next();
    }
    let address = words.next().and_then(|word| match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => number(digits, 16),
        None => number(word, radix),
    });
    let address = address.ok_or_else(|| wrong("an address and R or W, such as \"0x1f40 R\""))?;
    let after = if before.is_none() { words.peek().and_then(|word| operation(word)) } else { None };
    if after.is_some() {
        words.next();
    }
    let not_before = match words.next() {
        None => 0,
        Some(word) => number(word, 10)
            .filter(|&cycle| cycle <= LATEST_CYCLE)
            .ok_or_else(|| wrong(&format!("R or W, or a cycle from 0 to {LATEST_CYCLE}, after the address")))?,
    };
    if words.next().is_some() {
        return Err(wrong("nothing after the cycle"));
    }
    Ok(Some(Request { address, kind: before.or(after).unwrap_or(RequestKind::Read), not_before }))
}

/// Digits only: `from_str_radix` would take a sign as well.
fn number(digits: &str, radix: u32) -> Option<u64> {
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use cptr_hw_model::dram::{MappingKind, presets};
    use proptest::prelude::*;

    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<Request>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_ref()).unwrap();
        let map = AddressMap::new(MappingKind::RoBaRaCoCh, &presets::ddr4_3200()).unwrap();
        Requests::open(file.path(), map, false)?.collect()
    }

    fn refusal(text: impl AsRef<[u8]>) -> String {
        let sentence = read(text).unwrap_err().to_string();
        sentence.split_once(": ").unwrap().1.into()
    }

    #[test]
    fn the_formats_of_simulators() {
        let wanted = vec![Request::read(0), Request::read(0x1f40), Request::read(0xc0)];
        for text in [
            "0\n1f40\nc0\n",
            "LD 0x0\nLD 0x1f40\nLD 0xc0",
            "0x0 READ 0\r\n0x1F40 READ 0\r\n0XC0 READ 0\r\n",
            "# decimal\n0 r\n\n8000 R # here\n192",
        ] {
            assert_eq!(read(text).unwrap(), wanted, "{text}");
        }
        assert_eq!(read("ST 64").unwrap(), [Request::write(64)]);
        assert_eq!(read("64 WRITE 100").unwrap(), [Request { not_before: 100, ..Request::write(64) }]);
        assert_eq!(read("128 7").unwrap(), [Request { not_before: 7, ..Request::read(128) }]);
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn bad_lines_are_refused_with_their_number() {
        assert_eq!(refusal("0\n\n0x41"), "line 3: address 0x41 is not a multiple of the 64 bytes of one access");
        assert_eq!(
            refusal("0\n40\n"),
            "line 2: address 0x28 is not a multiple of the 64 bytes of one access (read as decimal; hexadecimal addresses begin with 0x)"
        );
        assert_eq!(refusal("0x200000000"), "line 1: address 0x200000000 lies outside the memory of 0x200000000 bytes");
        for (text, expected) in [
            ("hello", "line 1: expected an address and R or W"),
            ("R", "expected an address"),
            ("-64", "expected an address"),
            ("+64", "expected an address"),
            ("0x", "expected an address"),
            ("0x1ffffffffffffffff", "expected an address"),
            ("64 X", "expected R or W, or a cycle from 0 to 1000000000000, after the address, found \"64 X\""),
            ("64 R 1000000000001", "a cycle from 0 to"),
            ("64 R 0 0", "expected nothing after the cycle"),
            ("R 64 W", "a cycle from 0 to"),
        ] {
            let sentence = refusal(text);
            assert!(sentence.contains(expected), "{text}: {sentence}");
        }
        assert_eq!(refusal(b"64\n\xff\xfe"), "line 2: expected text, found bytes that are not UTF-8");
        assert_eq!(refusal(vec![b'0'; 1 << 20]), "line 1: expected at most 256 bytes, found a longer line");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[ 0-9a-fxRW#\n]{0,200}") {
            for input in [bytes, text.into_bytes()] {
                if let Ok(requests) = read(&input) {
                    prop_assert!(requests.iter().all(|request| request.address % 64 == 0));
                }
            }
        }
    }
}
