//! Text with one request a line. Empty lines and what follows `#` are skipped.
//!
//! - Words: `[OPERATION] ADDRESS [OPERATION] [CYCLE]`. An address alone is a read; operations are `R`, `RD`, `READ`,
//!   `LD` and `W`, `WR`, `WRITE`, `ST`; no request is offered before its cycle. So `1f40`, `LD 0x1f40` (Ramulator, load
//!   and store), `0x1f40 READ 0` (DRAMsim3) and `8000 W` are all understood.
//! - Vectors, as Ramulator's: `R 0,0,3,1,4097,12`. The numbers are channel (0), rank or pseudo-channel, stack where
//!   there are some, bank group, bank, row, and the column in accesses.
//! - Columns with commas between them (CSV), named in the first line: `address` (or `addr`), and if they are there `op`
//!   (`operation`, `type`, `cmd`, `rw`, `kind`), `cycle`, `tick` (picoseconds; `time_ps`), `size` (`bytes`). Others are
//!   left alone. Without names the columns are those of gem5's `decode_packet_trace.py`: `r` or `w`, address, size,
//!   then flags if there are five or more columns, and the tick.

use cptr_hw_model::dram::{AddressMap, Device, Location, Request, RequestKind};
use cptr_trace::error::{Error, Result};

use super::{LATEST_CYCLE, LONGEST_LINE, MOST_BYTES, Record};

/// How lines are read.
#[derive(Debug)]
pub(super) struct Format {
    /// Radix of addresses without `0x`.
    radix: u32,
    /// The last address had no `0x` and was read as decimal.
    decimal: bool,
    columns: Option<Columns>,
    map: AddressMap,
    t_ck_ps: u64,
    cycles_per_clock: u64,
}

/// Where things are in a line with commas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Columns {
    /// The first line has names, and was not read yet.
    Named,
    /// Index of each.
    At { address: usize, operation: Option<usize>, cycle: Option<usize>, tick: Option<usize>, size: Option<usize> },
    /// `decode_packet_trace.py` of gem5.
    Gem5,
}

impl Format {
    /// Addresses without `0x` are hexadecimal if one at the start of the file has a letter, decimal otherwise.
    pub(super) fn of(start: &[u8], map: &AddressMap, device: &Device) -> Self {
        let first = start.split(|&byte| byte == b'\n').map(without_comment).find(|line| !line.is_empty());
        let columns = first.and_then(|line| {
            if line.split(|&byte| byte == b',').any(|name| is_one_of(name.trim_ascii(), &ADDRESS)) {
                return Some(Columns::Named);
            }
            // A vector has a space between its operation and the first comma.
            let comma = line.iter().position(|&byte| byte == b',')?;
            operation(line[..comma].trim_ascii()).map(|_| Columns::Gem5)
        });
        // A name has letters and is no address.
        let radix = if columns.is_none() && has_hexadecimal_address(start) { 16 } else { 10 };
        Self {
            radix,
            decimal: false,
            columns,
            map: map.clone(),
            t_ck_ps: u64::from(device.timing.t_ck_ps),
            cycles_per_clock: u64::from(device.cycles_per_clock()),
        }
    }

    /// Whether the last address was read as decimal for want of anything that says otherwise.
    pub(super) const fn was_decimal(&self) -> bool {
        self.decimal
    }

    /// The request of a line; `None` if there is none in it.
    pub(super) fn line(&mut self, bytes: &[u8]) -> Result<Option<Record>> {
        if bytes.len() > LONGEST_LINE {
            return Err(Error::new(format!("expected at most {LONGEST_LINE} bytes, found a longer line")));
        }
        let line = without_comment(bytes);
        if line.is_empty() {
            return Ok(None);
        }
        match self.columns {
            None => self.words(line).map(Some),
            Some(Columns::Named) => {
                self.columns = Some(named(line)?);
                Ok(None)
            }
            Some(columns) => self.columns(line, columns).map(Some),
        }
    }

    fn words(&mut self, line: &[u8]) -> Result<Record> {
        let mut words = Words(line);
        let mut word = words.next().unwrap_or_default();
        let before = operation(word);
        if before.is_some() {
            word = words.next().unwrap_or_default();
        }
        let address = if word.contains(&b',') {
            self.vector(word).ok_or_else(|| {
                wrong(
                    line,
                    "channel 0, rank, bank group, bank, row and column of this device, with commas between them",
                )
            })?
        } else {
            self.address(word).ok_or_else(|| wrong(line, "an address and R or W, such as \"0x1f40 R\""))?
        };
        let mut word = words.next();
        let after = if before.is_none() { word.and_then(operation) } else { None };
        if after.is_some() {
            word = words.next();
        }
        let not_before = match word {
            None => 0,
            Some(word) => number(word, 10).filter(|&cycle| cycle <= LATEST_CYCLE).ok_or_else(|| {
                wrong(line, &format!("R or W, or a cycle from 0 to {LATEST_CYCLE}, after the address"))
            })?,
        };
        if words.next().is_some() {
            return Err(wrong(line, "nothing after the cycle"));
        }
        let kind = before.or(after).unwrap_or(RequestKind::Read);
        Ok(Record { request: Request { address, kind, not_before, source: 0 }, bytes: 0 })
    }

    #[inline(always)]
    fn address(&mut self, word: &[u8]) -> Option<u64> {
        if let [b'0', b'x' | b'X', digits @ ..] = word {
            self.decimal = false;
            return number(digits, 16);
        }
        self.decimal = self.radix == 10;
        number(word, self.radix)
    }

    /// The address of a place: the levels from the channel down.
    fn vector(&mut self, word: &[u8]) -> Option<u64> {
        self.decimal = false;
        let mut levels = [0u64; 8];
        let mut count = 0;
        for part in word.split(|&byte| byte == b',') {
            *levels.get_mut(count)? = number(part, 10)?;
            count += 1;
        }
        self.map.place(levels.get(..count)?).map(|at: Location| self.map.encode(at))
    }

    fn columns(&mut self, line: &[u8], columns: Columns) -> Result<Record> {
        const MOST: usize = 32;
        let mut fields: [&[u8]; MOST] = [b""; MOST];
        let mut count = 0;
        for field in line.split(|&byte| byte == b',') {
            let Some(place) = fields.get_mut(count) else { return Err(wrong(line, "at most 32 columns")) };
            *place = field.trim_ascii();
            count += 1;
        }
        let (address, op, cycle, tick, size) = match columns {
            Columns::At { address, operation, cycle, tick, size } => (address, operation, cycle, tick, size),
            _ => (1, Some(0), None, Some(if count > 4 { 4 } else { 3 }), Some(2)),
        };
        let field = |at: usize| fields[..count].get(at).copied().unwrap_or_default();
        let address = self.address(field(address)).ok_or_else(|| wrong(line, "an address in its column"))?;
        let kind = match op {
            None => RequestKind::Read,
            Some(at) => operation(field(at)).ok_or_else(|| wrong(line, "R or W in its column"))?,
        };
        let count_of = |at: Option<usize>, most: u64, what: &str| match at {
            None => Ok(0),
            Some(at) => number(field(at), 10)
                .filter(|&number| number <= most)
                .ok_or_else(|| wrong(line, &format!("{what} from 0 to {most} in its column"))),
        };
        let bytes = count_of(size, MOST_BYTES, "a size")?;
        let ticks = count_of(tick, LATEST_CYCLE * self.t_ck_ps / self.cycles_per_clock, "a tick")?;
        let not_before = count_of(cycle, LATEST_CYCLE, "a cycle")?.max(ticks * self.cycles_per_clock / self.t_ck_ps);
        Ok(Record { request: Request { address, kind, not_before, source: 0 }, bytes })
    }
}

const ADDRESS: [&str; 4] = ["address", "addr", "paddr", "vaddr"];
const OPERATION: [&str; 6] = ["op", "operation", "type", "cmd", "rw", "kind"];
const CYCLE: [&str; 1] = ["cycle"];
const TICK: [&str; 2] = ["tick", "time_ps"];
const SIZE: [&str; 2] = ["size", "bytes"];

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// The columns that a first line names.
fn named(line: &[u8]) -> Result<Columns> {
    let at = |names: &[&str]| line.split(|&byte| byte == b',').position(|name| is_one_of(name.trim_ascii(), names));
    let address = at(&ADDRESS).ok_or_else(|| wrong(line, "a column called address"))?;
    Ok(Columns::At { address, operation: at(&OPERATION), cycle: at(&CYCLE), tick: at(&TICK), size: at(&SIZE) })
}

/// A sentence about a line.
fn wrong(line: &[u8], expected: &str) -> Error {
    let Ok(text) = str::from_utf8(line) else {
        return Error::new("expected text, found bytes that are not UTF-8");
    };
    let found: String = text.chars().take(40).collect();
    Error::new(format!("expected {expected}, found \"{found}\""))
}

/// Without what follows `#`, and white space at both ends.
#[inline(always)]
fn without_comment(line: &[u8]) -> &[u8] {
    let end = line.iter().position(|&byte| byte == b'#').unwrap_or(line.len());
    line[..end].trim_ascii()
}

/// The words of a line, split at white space.
struct Words<'a>(&'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    #[inline(always)]
    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.0.trim_ascii_start();
        if line.is_empty() {
            return None;
        }
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (word, rest) = line.split_at(end);
        self.0 = rest;
        Some(word)
    }
}

#[inline(always)]
fn operation(word: &[u8]) -> Option<RequestKind> {
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    match word.first()?.to_ascii_uppercase() {
        b'R' if is("R") || is("RD") || is("READ") => Some(RequestKind::Read),
        b'L' if is("LD") => Some(RequestKind::Read),
        b'W' if is("W") || is("WR") || is("WRITE") => Some(RequestKind::Write),
        b'S' if is("ST") => Some(RequestKind::Write),
        _ => None,
    }
}

/// Digits only, no sign; `None` too beyond 64 bits.
#[inline(always)]
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

fn has_hexadecimal_address(start: &[u8]) -> bool {
    // The last line may be cut off, but what is left of a word tells no less.
    let is_hexadecimal =
        |word: &[u8]| word.iter().all(u8::is_ascii_hexdigit) && word.iter().any(u8::is_ascii_alphabetic);
    start.split(|&byte| byte == b'\n').any(|line| Words(without_comment(line)).any(is_hexadecimal))
}
