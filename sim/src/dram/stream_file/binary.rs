//! Binary traces: what takes no time to read.
//!
//! The eight bytes `cptr-req`, a word that is 0 (requests without cycles) or 1 (with), then for each request a word:
//! the byte address, with the highest bit set for a write; with cycles, another word: the cycle before which the
//! request is not offered. Words are 64 bits, lowest byte first.

use std::io::{self, BufRead, ErrorKind};

use cptr_hw_model::dram::{Request, RequestKind};
use cptr_trace::error::{Error, Result};

use super::{LATEST_CYCLE, Record};

/// First bytes.
pub const MARK: [u8; 8] = *b"cptr-req";
/// Bytes before the first request.
pub(super) const HEADER: usize = 16;
const WRITE: u64 = 1 << 63;

/// Whether requests have cycles, if this is the beginning of a binary trace.
pub(super) fn header(start: &[u8]) -> Option<Result<bool>> {
    let rest = start.strip_prefix(&MARK)?;
    let word = rest.first_chunk().map(|word| u64::from_le_bytes(*word));
    Some(match word {
        Some(word @ (0 | 1)) => Ok(word == 1),
        Some(word) => Err(Error::new(format!("expected a binary trace of kind 0 or 1, found kind {word}"))),
        None => Err(Error::new("expected 16 bytes before the requests of a binary trace, found the end")),
    })
}

/// Why there is no record.
pub(super) enum Failure {
    Io(io::Error),
    Bad(Error),
}

/// The next record, after `before` others; `None` at the end.
#[inline(always)]
pub(super) fn record(
    input: &mut impl BufRead,
    timed: bool,
    before: u64,
) -> std::result::Result<Option<Record>, Failure> {
    let Some(word) = word(input, false, before)? else { return Ok(None) };
    let kind = if word & WRITE == 0 { RequestKind::Read } else { RequestKind::Write };
    let mut request = Request { kind, ..Request::read(word & !WRITE) };
    if timed {
        request.not_before = self::word(input, true, before)?.unwrap_or(0);
        if request.not_before > LATEST_CYCLE {
            let found = request.not_before;
            let sentence = format!("expected a cycle from 0 to {LATEST_CYCLE}, found {found}");
            return Err(Failure::Bad(Error::new(sentence).at(format!("request {}", before + 1))));
        }
    }
    Ok(Some(Record { request, bytes: 0 }))
}

#[inline(always)]
fn word(input: &mut impl BufRead, inside: bool, before: u64) -> std::result::Result<Option<u64>, Failure> {
    let block = input.fill_buf().map_err(Failure::Io)?;
    if let Some(word) = block.first_chunk() {
        let word = u64::from_le_bytes(*word);
        input.consume(8);
        return Ok(Some(word));
    }
    if block.is_empty() && !inside {
        return Ok(None);
    }
    // Across two blocks.
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => {
            let sentence = "expected whole words of eight bytes, found the end inside of a request";
            Failure::Bad(Error::new(sentence).at(format!("request {}", before + 1)))
        }
        _ => Failure::Io(error),
    })?;
    Ok(Some(u64::from_le_bytes(bytes)))
}
