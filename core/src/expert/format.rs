//! The packed matrix: where every bit lies. The format itself is described in the [parent module](super).

use super::ExpertError;

const MAGIC: [u8; 4] = *b"CPLB";
const VERSION: u8 = 1;
const HEADER: usize = 16;
const MAX_ROWS: u32 = 1 << 20;
const MAX_COLUMNS: u32 = 1 << 15;
/// Rows are padded to a multiple of this many bytes.
const ALIGNMENT: usize = 4;
/// Columns of a full block.
pub(super) const BLOCK: usize = 128;
/// Zero point of 1-bit codes: weights are `±64` scales.
pub(super) const ONE_BIT_ZERO: u8 = 64;

/// Shape and sizes of a packed matrix, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    bits: u8,
    group: u8,
    exponent: i8,
    rows: u32,
    columns: u32,
}

impl Layout {
    /// `bits` per weight, `group` columns per scale, `exponent` of the scales, `rows` outputs and `columns` inputs.
    ///
    /// # Errors
    /// [`ExpertError::Bits`], [`ExpertError::Group`] and [`ExpertError::Size`] where the format has no such matrix.
    pub const fn new(bits: u8, group: u8, exponent: i8, rows: u32, columns: u32) -> Result<Self, ExpertError> {
        if bits < 1 || bits > 4 {
            return Err(ExpertError::Bits);
        }
        if !matches!(group, 32 | 64 | 128) {
            return Err(ExpertError::Group);
        }
        if rows == 0 || rows > MAX_ROWS || columns == 0 || columns > MAX_COLUMNS {
            return Err(ExpertError::Size);
        }
        Ok(Self { bits, group, exponent, rows, columns })
    }

    /// Reads and checks the header of a packed matrix.
    ///
    /// # Errors
    /// [`ExpertError::Header`] where there is none, and the errors of [`Layout::new`].
    pub fn read(bytes: &[u8]) -> Result<Self, ExpertError> {
        let Some(&[m0, m1, m2, m3, VERSION, bits, group, exponent, r0, r1, r2, r3, c0, c1, c2, c3]) =
            bytes.first_chunk::<HEADER>()
        else {
            return Err(ExpertError::Header);
        };
        if [m0, m1, m2, m3] != MAGIC {
            return Err(ExpertError::Header);
        }
        let (rows, columns) = (u32::from_le_bytes([r0, r1, r2, r3]), u32::from_le_bytes([c0, c1, c2, c3]));
        Self::new(bits, group, exponent as i8, rows, columns)
    }

    /// Bits per weight, 1 to 4.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Columns that share a scale: 32, 64 or 128.
    pub const fn group(&self) -> usize {
        self.group as usize
    }

    /// Power of two of the scale mantissas.
    pub const fn exponent(&self) -> i8 {
        self.exponent
    }

    /// Outputs.
    pub const fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Inputs.
    pub const fn columns(&self) -> usize {
        self.columns as usize
    }

    /// Inputs, padded to a multiple of 32: the length of a vector of activation codes.
    pub const fn padded_columns(&self) -> usize {
        // Of at most 32,768.
        self.columns().wrapping_add(31) & !31
    }

    /// Groups of a row; the last one may be short.
    pub const fn groups(&self) -> usize {
        // A division would be by a number of which the compiler does not know that it is not 0.
        match self.group {
            32 => self.padded_columns() / 32,
            64 => self.padded_columns().wrapping_add(63) / 64,
            _ => self.padded_columns().wrapping_add(127) / 128,
        }
    }

    /// The factor that brings a code to eight bits, `2^(8-b)`.
    pub const fn code_step(&self) -> i32 {
        256i32.wrapping_shr(self.bits as u32)
    }

    /// Bytes of codes in a row.
    const fn code_bytes(&self) -> usize {
        (self.padded_columns() / 8).wrapping_mul(self.bits as usize)
    }

    /// Bytes of a row with scales, zero points and padding.
    pub const fn row_bytes(&self) -> usize {
        let zeros = if self.bits == 1 { 0 } else { self.groups() };
        let bytes = self.code_bytes().wrapping_add(self.groups().wrapping_mul(2)).wrapping_add(zeros);
        bytes.wrapping_add(ALIGNMENT - 1) & !(ALIGNMENT - 1)
    }

    /// Bytes of the matrix with its header. Below 2^35.
    pub const fn byte_len(&self) -> u64 {
        (self.row_bytes() as u64).wrapping_mul(self.rows as u64).wrapping_add(HEADER as u64)
    }

    /// Writes the header into the first bytes of `matrix`, which must be [`Layout::byte_len`] long.
    ///
    /// # Errors
    /// [`ExpertError::Buffer`] if it is not.
    pub fn write(&self, matrix: &mut [u8]) -> Result<(), ExpertError> {
        if matrix.len() as u64 != self.byte_len() {
            return Err(ExpertError::Buffer);
        }
        let Some((magic, rest)) = matrix.split_first_chunk_mut::<4>() else { return Err(ExpertError::Buffer) };
        let Some((fields, rest)) = rest.split_first_chunk_mut::<4>() else { return Err(ExpertError::Buffer) };
        let Some((rows, rest)) = rest.split_first_chunk_mut::<4>() else { return Err(ExpertError::Buffer) };
        let Some(columns) = rest.first_chunk_mut::<4>() else { return Err(ExpertError::Buffer) };
        *magic = MAGIC;
        *fields = [VERSION, self.bits, self.group, self.exponent as u8];
        *rows = self.rows.to_le_bytes();
        *columns = self.columns.to_le_bytes();
        Ok(())
    }

    /// Packs one row: `codes` of all columns (each below `2^b`; higher bits are dropped), `scales` and `zeros` of all
    /// groups (`zeros` are ignored at 1 bit) into `row` of [`Layout::row_bytes`] bytes.
    ///
    /// # Errors
    /// [`ExpertError::Buffer`] where a length is wrong.
    pub fn pack_row(&self, codes: &[u8], scales: &[u16], zeros: &[u8], row: &mut [u8]) -> Result<(), ExpertError> {
        let lengths_fit = codes.len() == self.columns()
            && scales.len() == self.groups()
            && (self.bits == 1 || zeros.len() == self.groups())
            && row.len() == self.row_bytes();
        if !lengths_fit {
            return Err(ExpertError::Buffer);
        }
        row.fill(0);
        for (column, &code) in codes.iter().enumerate() {
            for plane in self.planes() {
                let (byte, shift) = plane.place(column, self.padded_columns());
                if let Some(byte) = row.get_mut(byte) {
                    *byte |= ((code >> plane.code_shift) & plane.mask()) << shift;
                }
            }
        }
        let (_, rest) = row.split_at_mut_checked(self.code_bytes()).ok_or(ExpertError::Buffer)?;
        let (places, rest) = rest.split_at_mut_checked(2 * scales.len()).ok_or(ExpertError::Buffer)?;
        for (place, scale) in places.as_chunks_mut().0.iter_mut().zip(scales) {
            *place = scale.to_le_bytes();
        }
        if self.bits > 1 {
            rest.iter_mut().zip(zeros).for_each(|(place, zero)| *place = *zero);
        }
        Ok(())
    }

    fn planes(&self) -> impl Iterator<Item = Plane> + use<> {
        let (low, high) = match self.bits {
            3 => (2, Some(Plane { bits: 1, code_shift: 2, row_bits: 3, bits_before: 2 })),
            bits => (bits, None),
        };
        core::iter::once(Plane { bits: low, code_shift: 0, row_bits: self.bits, bits_before: 0 }).chain(high)
    }
}

/// Some bits of every code of a block.
struct Plane {
    /// Bits of a code in this plane: 1, 2 or 4.
    bits: u8,
    /// Their position in the code.
    code_shift: u8,
    /// Bits of a weight in all planes.
    row_bits: u8,
    /// Bits of a weight in the planes before this one.
    bits_before: u8,
}

impl Plane {
    const fn mask(&self) -> u8 {
        (1 << self.bits) - 1
    }

    /// Byte in the row and bit in the byte where the code of `column` begins.
    fn place(&self, column: usize, padded_columns: usize) -> (usize, u32) {
        let (start, length) = block_of(column, padded_columns);
        let in_block = column - start;
        // All sizes are powers of two: their logarithms. Words of 16 bits in a chunk, at most 8, and columns in it.
        let bits = self.bits.trailing_zeros();
        let words = (length.trailing_zeros() + bits).saturating_sub(4).min(3);
        let columns = words + 4 - bits;
        let low = |value: usize, bits: u32| value & ((1 << bits) - 1);
        let (chunk, in_chunk) = (in_block >> columns, low(in_block, columns));
        let (step, word) = (in_chunk >> words, low(in_chunk, words));
        let bit = step << bits;
        let before = (start * usize::from(self.row_bits) + length * usize::from(self.bits_before)) / 8;
        (before + 2 * ((chunk << words) + word) + bit / 8, (bit % 8) as u32)
    }
}

/// First column and length of the block that holds `column`.
const fn block_of(column: usize, padded_columns: usize) -> (usize, usize) {
    let full = padded_columns / BLOCK * BLOCK;
    if column < full {
        (column / BLOCK * BLOCK, BLOCK)
    } else if padded_columns - full >= 64 && column < full + 64 {
        (full, 64)
    } else {
        (padded_columns - 32, 32)
    }
}

/// A packed matrix over somebody else's bytes, checked once.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    layout: Layout,
    rows: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Checks header and length. There are no invalid codes, scales or zero points. Cost: the header only.
    ///
    /// # Errors
    /// Those of [`Layout::read`]; [`ExpertError::Length`] if `bytes` are not exactly the matrix.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ExpertError> {
        let layout = Layout::read(bytes)?;
        match bytes.split_at_checked(HEADER) {
            Some((_, rows)) if bytes.len() as u64 == layout.byte_len() => Ok(Self { layout, rows }),
            _ => Err(ExpertError::Length),
        }
    }

    /// Shape and sizes.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let layout = self.layout;
        self.rows.chunks_exact(layout.row_bytes().max(1)).map(move |bytes| Row { layout, bytes })
    }
}

/// One row of a packed matrix.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    layout: Layout,
    bytes: &'a [u8],
}

impl<'a> Row<'a> {
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Codes of all blocks.
    #[inline(always)]
    pub(super) fn codes(&self) -> &'a [u8] {
        self.bytes.get(..self.layout.code_bytes()).unwrap_or_default()
    }

    /// Mantissas of the scales.
    #[inline(always)]
    pub(super) fn scales(&self) -> &'a [[u8; 2]] {
        let rest = self.bytes.get(self.layout.code_bytes()..).unwrap_or_default();
        rest.as_chunks().0.get(..self.layout.groups()).unwrap_or_default()
    }

    /// Zero points; none at 1 bit.
    #[inline(always)]
    pub(super) fn zeros(&self) -> &'a [u8] {
        let groups = self.layout.groups();
        let rest = self.bytes.get(self.layout.code_bytes().wrapping_add(groups.wrapping_mul(2))..).unwrap_or_default();
        if self.layout.bits == 1 { &[] } else { rest.get(..groups).unwrap_or_default() }
    }

    /// The `N` bytes before the scale of a group: those of the groups before it are the last ones.
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    #[inline(always)]
    pub(super) fn scales_before<const N: usize>(&self, group: usize) -> [u8; N] {
        self.before(self.layout.code_bytes() + 2 * group)
    }

    /// The `N` bytes before the zero point of a group.
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    #[inline(always)]
    pub(super) fn zeros_before<const N: usize>(&self, group: usize) -> [u8; N] {
        self.before(self.layout.code_bytes() + 2 * self.layout.groups() + group)
    }

    /// The `N` bytes from one of the codes on; zeros where the row has not so many.
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    #[inline(always)]
    pub(super) fn codes_from<const N: usize>(&self, first: usize) -> [u8; N] {
        let bytes = self.bytes.get(first..).unwrap_or_default();
        bytes.first_chunk().copied().unwrap_or_else(|| {
            let mut padded = [0; N];
            padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            padded
        })
    }

    /// The `N` bytes before one, zeros where the row has not so many.
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    #[inline(always)]
    fn before<const N: usize>(&self, end: usize) -> [u8; N] {
        let bytes = self.bytes.get(..end).unwrap_or_default();
        bytes.last_chunk().copied().unwrap_or_else(|| {
            let mut padded = [0; N];
            padded.iter_mut().rev().zip(bytes.iter().rev()).for_each(|(to, from)| *to = *from);
            padded
        })
    }

    /// Reads a byte of every cache line of the codes: measured on a Xeon, a fifth more bandwidth from memory for a
    /// tenth less from the cache. Rows in pairs or fours gave nothing.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(super) fn touch(&self) {
        core::hint::black_box(self.codes().iter().step_by(64).fold(0, |all, byte| all ^ byte));
    }

    /// Where every cache line of the row is.
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    #[inline(always)]
    pub(super) fn lines(&self) -> impl Iterator<Item = *const i8> + use<'a> {
        self.bytes.chunks(64).map(|line| line.as_ptr().cast())
    }

    /// Scale mantissa and zero point of the groups, in order.
    pub fn groups(&self) -> impl Iterator<Item = (u16, u8)> + use<'a> {
        let zeros = self.zeros().iter().copied().chain(core::iter::repeat(ONE_BIT_ZERO));
        self.scales().iter().map(|scale| u16::from_le_bytes(*scale)).zip(zeros)
    }

    /// Code of one column, 0 for columns beyond the padding.
    pub fn code(&self, column: usize) -> u8 {
        let padded = self.layout.padded_columns();
        if column >= padded {
            return 0;
        }
        let bits = self.layout.planes().map(|plane| {
            let (byte, shift) = plane.place(column, padded);
            ((self.codes().get(byte).copied().unwrap_or(0) >> shift) & plane.mask()) << plane.code_shift
        });
        bits.fold(0, |code, bits| code | bits)
    }

    /// Weights of the columns as integers, below 2^24 in magnitude; a weight is this times `2^exponent`. For
    /// dequantisation: slow.
    pub fn weights(&self) -> impl Iterator<Item = i32> + use<'a> {
        let (row, step, group) = (*self, self.layout.code_step(), self.layout.group());
        let groups = self.groups().flat_map(move |entry| core::iter::repeat_n(entry, group));
        (0..self.layout.columns()).zip(groups).map(move |(column, (scale, zero))| {
            i32::from(scale) * (i32::from(row.code(column)) * step - i32::from(zero))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::strategies::layout;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// Where a code lies by the words of the format's description, bit by bit and without the arithmetic of the code
    /// under test.
    fn described_bits(bits: usize, padded: usize) -> Vec<Vec<usize>> {
        let mut places = vec![Vec::new(); padded];
        let (mut blocks, mut rest) = (vec![128; padded / 128], padded % 128);
        for size in [64, 32] {
            if rest >= size {
                blocks.push(size);
                rest -= size;
            }
        }
        let (mut column, mut bit) = (0, 0);
        for block in blocks {
            for plane in if bits == 3 { vec![2, 1] } else { vec![bits] } {
                let words = 8.min(block * plane / 16);
                for chunk in 0..block * plane / 16 / words {
                    for s in 0..16 / plane {
                        for w in 0..words {
                            let of_column = &mut places[column + chunk * 16 * words / plane + words * s + w];
                            of_column.extend((0..plane).map(|p| bit + 16 * (chunk * words + w) + plane * s + p));
                        }
                    }
                }
                bit += block * plane;
            }
            column += block;
        }
        places
    }

    proptest! {
        #[test]
        fn packed_rows_are_as_described_and_read_back(layout in layout(), seed: u64) {
            let mut random = seed;
            let mut next = move || { random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); (random >> 40) as u16 };
            let codes: Vec<u8> = (0..layout.columns()).map(|_| next() as u8 & ((1 << layout.bits()) - 1)).collect();
            let scales: Vec<u16> = (0..layout.groups()).map(|_| next()).collect();
            let zeros: Vec<u8> = (0..layout.groups()).map(|_| if layout.bits() == 1 { 64 } else { next() as u8 }).collect();
            let mut bytes = vec![0xAA; layout.byte_len() as usize];
            layout.write(&mut bytes).unwrap();
            for row in bytes[HEADER..].chunks_exact_mut(layout.row_bytes()) {
                layout.pack_row(&codes, &scales, &zeros, row).unwrap();
            }
            let matrix = Matrix::new(&bytes).unwrap();
            prop_assert_eq!(matrix.layout(), &layout);
            prop_assert_eq!(matrix.rows().count(), layout.rows());
            let places = described_bits(usize::from(layout.bits()), layout.padded_columns());
            for row in matrix.rows() {
                let described = places.iter().map(|bits| {
                    bits.iter().rev().fold(0, |code, bit| code << 1 | (row.codes()[bit / 8] >> (bit % 8) & 1))
                });
                prop_assert!(described.take(layout.columns()).eq(codes.iter().copied()));
                prop_assert!((0..layout.columns()).map(|column| row.code(column)).eq(codes.iter().copied()));
                prop_assert!(row.groups().eq(scales.iter().copied().zip(zeros.iter().copied())));
                for (column, weight) in row.weights().enumerate() {
                    let group = column / layout.group();
                    let level = i32::from(codes[column]) * (256 >> layout.bits()) - i32::from(zeros[group]);
                    prop_assert_eq!(weight, i32::from(scales[group]) * level);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), head: bool) {
            let mut bytes = bytes;
            if head {
                bytes.splice(0..0, *b"CPLB\x01\x02\x20\x00\x01\x00\x00\x00\x08\x00\x00\x00");
            }
            if let Ok(matrix) = Matrix::new(&bytes) {
                prop_assert!(matrix.rows().all(|row| row.weights().count() == matrix.layout().columns()));
            }
        }
    }

    #[test]
    fn refuses_what_the_format_has_not() {
        assert_eq!(Layout::new(0, 32, 0, 1, 1), Err(ExpertError::Bits));
        assert_eq!(Layout::new(5, 32, 0, 1, 1), Err(ExpertError::Bits));
        assert_eq!(Layout::new(4, 16, 0, 1, 1), Err(ExpertError::Group));
        assert_eq!(Layout::new(4, 32, 0, 0, 1), Err(ExpertError::Size));
        assert_eq!(Layout::new(4, 32, 0, 1, 32_769), Err(ExpertError::Size));
        let layout = Layout::new(4, 64, -20, 2, 64).unwrap();
        let mut bytes = vec![0; layout.byte_len() as usize];
        layout.write(&mut bytes).unwrap();
        assert!(Matrix::new(&bytes).is_ok());
        assert_eq!(Matrix::new(&bytes[..bytes.len() - 1]).unwrap_err(), ExpertError::Length);
        assert_eq!(Matrix::new(&bytes[..15]).unwrap_err(), ExpertError::Header);
        bytes.push(0);
        assert_eq!(Matrix::new(&bytes).unwrap_err(), ExpertError::Length);
        bytes[4] = 2;
        assert_eq!(Matrix::new(&bytes).unwrap_err(), ExpertError::Header);
        assert_eq!(layout.write(&mut bytes[..20]), Err(ExpertError::Buffer));
        assert_eq!(layout.pack_row(&[0; 63], &[0], &[0], &mut [0; 36]), Err(ExpertError::Buffer));
    }

    #[test]
    fn sizes_of_a_real_expert() {
        // Qwen3-30B-A3B, gate: 768 x 2048, 4 bits, groups of 64: 4.375 bits a weight.
        let layout = Layout::new(4, 64, 0, 768, 2048).unwrap();
        assert_eq!(layout.row_bytes(), 1024 + 64 + 32);
        assert_eq!(layout.byte_len(), 16 + 768 * 1120);
        assert_eq!(Layout::new(1, 128, 0, 1, 2048).unwrap().row_bytes(), 256 + 32);
        // 72 bytes of codes, 3 scales, 3 zero points, 3 bytes of padding.
        assert_eq!(Layout::new(3, 64, 0, 1, 192).unwrap().row_bytes(), 72 + 6 + 3 + 3);
    }
}
