//! Low-bit experts: the golden vectors that the host's tests compute, too.

#[path = "../../../../tests/golden/low_bit.rs"]
mod low_bit;

use super::Hash;

/// One SwiGLU expert of each format, and whether each gives what the tests expect.
#[inline(never)]
pub(super) fn experts() -> Hash {
    let mut hash = Hash::START;
    match low_bit::hashes(&mut low_bit::Memory::new()) {
        Ok(hashes) => {
            for (found, expected) in hashes.into_iter().zip(low_bit::EXPECTED) {
                hash.long(found);
                hash.word((found == expected).into());
            }
        }
        Err(error) => hash.word(error as u32),
    }
    hash.word(low_bit::FORMATS.len() as u32);
    hash
}
