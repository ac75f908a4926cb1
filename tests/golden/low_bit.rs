//! Golden vectors of the low-bit experts: what every machine must compute, to the last bit.
//!
//! No `std`, no allocation, `cptr_core` only: the firmware's image `cptr-bench` includes this file as a module, too,
//! and compares with [`EXPECTED`] on every machine. Sizes are small, since some of them are models of cores in logic.

use cptr_core::expert::{ActivationGroup, Activations, Expert, ExpertError, Layout, Matrix, Scratch};

/// Inputs of the expert: a block of 128, one of 64 and one of 32.
const COLUMNS: usize = 224;
/// Rows of gate and up, an odd number of columns of down.
const INNER: usize = 7;
/// Outputs.
const ROWS: usize = 5;

/// Formats in the order of [`EXPECTED`]: bits, group length.
pub(crate) const FORMATS: [(u8, u8); 12] =
    [(1, 32), (1, 64), (1, 128), (2, 32), (2, 64), (2, 128), (3, 32), (3, 64), (3, 128), (4, 32), (4, 64), (4, 128)];

/// FNV-1a hashes of the outputs, as computed on x86-64; a change of the format or of any rounding changes them.
pub(crate) const EXPECTED: [u64; 12] = [
    0xecda_e5f7_dab6_4c0f,
    0x1210_100a_51bb_7fff,
    0x4979_c692_5b39_7cb5,
    0x2e7a_87cb_f298_2765,
    0xcc8f_bb9d_c6e3_bbd3,
    0xe554_c17e_fe69_3193,
    0xdc0f_a6c6_ff49_c484,
    0x40e8_b43d_8902_e10d,
    0xfadb_2b52_b224_f213,
    0x0948_98f1_3c3c_6e91,
    0x15a3_05f3_3461_1a9e,
    0x5d93_0ae2_d442_5409,
];

/// Working memory, below 4 KiB.
pub(crate) struct Memory {
    gate: [u8; 16 + INNER * 144],
    up: [u8; 16 + INNER * 144],
    down: [u8; 16 + ROWS * 24],
    input: [i32; COLUMNS],
    hidden: [i64; INNER],
    out: [i64; ROWS],
    codes: [i16; COLUMNS],
    groups: [ActivationGroup; COLUMNS / 32],
    hidden_codes: [i16; 32],
    hidden_groups: [ActivationGroup; 1],
}

impl Memory {
    /// All zeros.
    pub(crate) fn new() -> Self {
        Self {
            gate: [0; 16 + INNER * 144],
            up: [0; 16 + INNER * 144],
            down: [0; 16 + ROWS * 24],
            input: [0; COLUMNS],
            hidden: [0; INNER],
            out: [0; ROWS],
            codes: [0; COLUMNS],
            groups: [ActivationGroup::default(); COLUMNS / 32],
            hidden_codes: [0; 32],
            hidden_groups: [ActivationGroup::default(); 1],
        }
    }
}

/// Runs one random expert of every format and hashes outputs and exponent.
///
/// # Errors
/// None but bugs.
pub(crate) fn hashes(memory: &mut Memory) -> Result<[u64; 12], ExpertError> {
    let mut hashes = [0; 12];
    let mut random = 1;
    for (hash, (bits, group)) in hashes.iter_mut().zip(FORMATS) {
        *hash = one(memory, bits, group, &mut random)?;
    }
    Ok(hashes)
}

fn one(memory: &mut Memory, bits: u8, group: u8, random: &mut u64) -> Result<u64, ExpertError> {
    let wide = Layout::new(bits, group, -22, INNER as u32, COLUMNS as u32)?;
    let narrow = Layout::new(bits, group, -22, ROWS as u32, INNER as u32)?;
    let gate = fill(&wide, &mut memory.gate, random)?;
    let up = fill(&wide, &mut memory.up, random)?;
    let down = fill(&narrow, &mut memory.down, random)?;
    let expert = Expert::new(gate, up, down)?;
    memory.input.iter_mut().for_each(|value| *value = next(random) as i32 >> 13);
    let groups = memory.groups.get_mut(..wide.groups()).ok_or(ExpertError::Buffer)?;
    let x = Activations::quantise(&memory.input, -16, &wide, &mut memory.codes, groups)?;
    let scratch = Scratch {
        hidden: &mut memory.hidden,
        codes: &mut memory.hidden_codes,
        groups: memory.hidden_groups.get_mut(..narrow.groups()).ok_or(ExpertError::Buffer)?,
    };
    let exponent = expert.forward(&x, scratch, &mut memory.out)?;
    let hash = memory.out.iter().fold(0xcbf2_9ce4_8422_2325, |hash, value| fnv(hash, &value.to_le_bytes()));
    Ok(fnv(hash, &exponent.to_le_bytes()))
}

/// A matrix of random codes, scales and zero points: every byte of a row is one of them.
fn fill<'a>(layout: &Layout, memory: &'a mut [u8], random: &mut u64) -> Result<Matrix<'a>, ExpertError> {
    let bytes = memory.get_mut(..layout.byte_len() as usize).ok_or(ExpertError::Buffer)?;
    bytes.iter_mut().for_each(|byte| *byte = next(random) as u8);
    layout.write(bytes)?;
    Matrix::new(bytes)
}

/// Knuth's 64-bit linear congruential generator, its upper half.
fn next(random: &mut u64) -> u32 {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*random >> 32) as u32
}

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
