//! Low-bit experts: packed weights of 1 to 4 bits, and integer arithmetic that gives the same bits on every machine.
//!
//! A near-data device keeps cold experts as packed matrices ([`Matrix`]) and runs them on quantised activations
//! ([`Activations`]): [`matvec`] for one matrix, [`Expert::forward`] for a whole SwiGLU expert. Codes and activations
//! are integers, products are summed in `i32` within a group and in `i64` over a row, **without any rounding**: the
//! result of [`matvec`] is the exact product of what is stored. Only three steps round, each in a defined way:
//! quantising the activations ([`Activations::quantise`]), the two factors of the hidden vector, and its quantisation
//! ([`Expert::forward`]). No result depends on the order of additions, so host, Arm and RISC-V agree to the last bit.
//!
//! # Packed matrix, version 1
//!
//! All numbers little-endian, all offsets in bytes. A header of 16 bytes, then the rows, one after another and of equal
//! length.
//!
//! | offset | type | |
//! |---|---|---|
//! | 0 | 4 bytes | `CPLB` |
//! | 4 | u8 | version, 1 |
//! | 5 | u8 | `b`, bits per weight: 1, 2, 3, 4 |
//! | 6 | u8 | group length: 32, 64, 128 |
//! | 7 | i8 | exponent `e` of the scales |
//! | 8 | u32 | rows (outputs), 1 to 2^20 |
//! | 12 | u32 | columns (inputs), 1 to 32,768 |
//!
//! A row of `n` columns, padded to a multiple of 32, of `G` groups (the last one may be short), is
//!
//! 1. the codes, `n * b / 8` bytes, in blocks as below;
//! 2. `G` scale mantissas `m`, u16;
//! 3. for 2, 3 and 4 bits `G` zero points `z`, u8; for 1 bit there are none and `z = 64`;
//! 4. zeros up to a multiple of 4, so that codes are aligned to words where the matrix is.
//!
//! The weight of code `q` is `m * (q * 2^(8-b) - z) * 2^e`: a code is the upper `b` bits of an eight-bit number from
//! which the zero point is taken. So the zero point is finer than a step of the grid, which matters at 2 bits; 1 bit
//! gives `±64 m * 2^e`; and one arithmetic serves all widths. A scale is a 16-bit integer with one power of two **per
//! matrix**: products of scales stay integers, sums over groups need no alignment and no rounding, and a row costs one
//! multiplication a group. A power of two per row would buy range that groups of one matrix do not use: scales 1,000
//! times smaller than the largest still have 6 bits, and the quantiser chooses codes for the scale *as stored*.
//!
//! **Blocks.** The columns are cut into blocks of 128, the rest (32, 64 or 96) into a block of 64 and one of 32 as
//! needed. A block of `c` columns holds planes: one of `b` bits for 1, 2 and 4 bits; for 3 bits one of 2 bits (the
//! lower bits of the codes), then one of 1 bit. A plane of `p` bits is cut into chunks of at most 8 words of 16 bits:
//! `W = min(8, c * p / 16)`. A chunk holds `16 * W / p` columns: bits `p*s` to `p*s + p - 1` of word `w` belong to its
//! column `W * s + w`. So a vector of 8 words, shifted and masked, gives the codes of 8 consecutive columns: no
//! shuffles, three instructions for 8 weights on any processor with 16-bit lanes, and words that a scalar core shifts
//! down one code after another.
//!
//! Bytes per weight: `b/8 + 3/group` (`1/8 + 2/group` at 1 bit): 4 bits in groups of 64 take 4.375 bits.

mod activation;
#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
mod bytes;
mod dot;
mod format;
mod forward;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod lanes;
mod plain;
mod replicas;
mod single;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod words;

pub use activation::{ActivationGroup, Activations};
pub use format::{Layout, Matrix, Row};
pub use forward::{Expert, Scratch, matvec};
pub use replicas::Replicas;
pub use single::{Output, Workspace};

use core::fmt;

/// Why a packed matrix, a buffer or a vector is refused.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpertError {
    /// The bytes do not begin with `CPLB` (a matrix) or `CPLR` (replicas) and version 1.
    Header,
    /// Bits other than 1, 2, 3, 4.
    Bits,
    /// Group length other than 32, 64, 128.
    Group,
    /// No rows or columns, or more than the format allows.
    Size,
    /// The bytes are fewer or more than header and rows take, or a place is outside of them.
    Length,
    /// A caller's buffer is not of the length that the matrix needs.
    Buffer,
    /// Vector and matrix differ in columns or group length, or the matrices of an expert do not fit together.
    Mismatch,
    /// There is no replica of this expert at these bits.
    Missing,
    /// An input is infinite or no number.
    NotFinite,
}

impl fmt::Display for ExpertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "not packed matrices of version 1",
            Self::Bits => "bits per weight are not 1, 2, 3 or 4",
            Self::Group => "group length is not 32, 64 or 128",
            Self::Size => "rows are not 1 to 1048576 or columns not 1 to 32768",
            Self::Length => "length is not that of header and rows",
            Self::Buffer => "a buffer is not of the length that the matrix needs",
            Self::Mismatch => "columns or group lengths do not fit together",
            Self::Missing => "no such replica",
            Self::NotFinite => "an input is not finite",
        })
    }
}

impl core::error::Error for ExpertError {}
