//! A memory in words that can be kept: everything that decisions depend on, between two tokens.
//!
//! | words | what |
//! |---|---|
//! | 0 | magic number, with a version |
//! | 1, 2 | identity of the model, as the caller gave it, low half first |
//! | 3 | layers, in the upper half experts |
//! | 4 | choices of a token in a layer, in the upper half words of a signature |
//! | 5 | tokens that are remembered |
//! | 6 | most places |
//! | 7, 8 | slot of the next token, complete tokens |
//! | 9, 10, 11 | reach of the search, lock, signal-to-noise ratio |
//! | 12 | tokens in the means |
//! | 13 | places found, in the upper half numbers of a sketch |
//! | `C` | the places |
//! | `32 W` | the means |
//! | [`Shape::words`](super::Shape::words) | the memory |
//! | 1 | checksum over all before |

use super::memory::Shape;

/// "cptR", and a version.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"cpR\x02");
/// Words before the places.
pub(super) const HEAD: usize = 14;

/// Words that a memory is saved in.
pub(super) const fn saved_words(shape: Shape, tokens: usize, signature: usize, places: usize) -> usize {
    let head = HEAD.wrapping_add(places).wrapping_add(signature.wrapping_mul(32));
    head.wrapping_add(shape.words(tokens, signature)).wrapping_add(1)
}

/// The checksum of words: the hash of Fowler, Noll and Vo over words, with a shift. For given words after it, each step
/// is one to one, so that two texts that differ in one word have different sums.
pub(super) fn checksum<'a>(words: impl IntoIterator<Item = &'a u32>) -> u32 {
    words.into_iter().fold(0x811C_9DC5, |sum: u32, &word| {
        let sum = (sum ^ word).wrapping_mul(0x0100_0193);
        sum ^ (sum >> 15)
    })
}
