//! The memory of the execution units, as far as hosts reach it.

use zerocopy::little_endian::U32;

use crate::wire::{Body, LINE, Read, Status, Write, Writer};

/// Whole lines of a memory.
pub(super) fn lines(memory: &[u8]) -> u32 {
    u32::try_from(memory.len() / LINE).unwrap_or(u32::MAX)
}

/// The memory from a line on.
fn from(memory: &mut [u8], line: U32) -> Result<&mut [u8], Status> {
    let first = usize::try_from(line.get()).ok().and_then(|line| line.checked_mul(LINE));
    first.and_then(|first| memory.get_mut(first..)).ok_or(Status::Value)
}

/// See [`Command::Write`](crate::wire::Command::Write).
pub(super) fn write(memory: &mut [u8], mut body: Body<'_>) -> Result<(), Status> {
    let descriptor = body.take::<Write>()?;
    let bytes = body.rest();
    if bytes.is_empty() || !bytes.len().is_multiple_of(LINE) {
        return Err(Status::Length);
    }
    let place = from(memory, descriptor.line)?;
    place.get_mut(..bytes.len()).ok_or(Status::Value)?.copy_from_slice(bytes);
    Ok(())
}

/// See [`Command::Read`](crate::wire::Command::Read).
pub(super) fn read(memory: &mut [u8], mut body: Body<'_>, answer: &mut Writer<'_>) -> Result<(), Status> {
    let descriptor = body.take::<Read>()?;
    body.end()?;
    let length = usize::from(descriptor.lines.get()).saturating_mul(LINE);
    if length == 0 || descriptor.reserved.get() != 0 {
        return Err(Status::Value);
    }
    if length > answer.room() {
        return Err(Status::Length);
    }
    answer.put(from(memory, descriptor.line)?.get(..length).ok_or(Status::Value)?);
    Ok(())
}
