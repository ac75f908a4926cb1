//! Packed experts of all layers in one memory, found by layer, expert and bits.
//!
//! All numbers little-endian; places are in lines of 64 bytes from the beginning.
//!
//! | offset | type | |
//! |---|---|---|
//! | 0 | 4 bytes | `CPLR` |
//! | 4 | u8 | version, 1 |
//! | 5 | 3 bytes | 0 |
//! | 8 | u16 | layers |
//! | 10 | u16 | experts of a layer |
//! | 12 | u32 | lines of all |
//! | 64 | u32 x layers x experts x 4 | first line of the replica at 1, 2, 3 and 4 bits; 0: there is none |
//!
//! A replica is the expert's packed matrices gate, up and down ([the format](super)), one behind the other, in lines of
//! its own. Nothing of it is trusted: every access stays inside of the memory, whatever is written there.

use super::{Expert, ExpertError, Layout, Matrix};

const MAGIC: [u8; 4] = *b"CPLR";
const VERSION: u8 = 1;
/// Widths of a replica: 1 to 4 bits.
const WIDTHS: usize = 4;

/// Replicas of the experts of a model, over somebody else's bytes.
///
/// ```
/// use cptr_core::expert::Replicas;
///
/// let mut memory = [0; 128];
/// Replicas::write_header(&mut memory, 1, 2, 2).unwrap();
/// let replicas = Replicas::new(&memory).unwrap();
/// assert!(replicas.expert(0, 1, 4).is_err()); // there is none yet
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Replicas<'a> {
    bytes: &'a [u8],
    layers: u16,
    experts: u16,
}

impl<'a> Replicas<'a> {
    /// Bytes of a line.
    pub const LINE: usize = 64;

    /// Checks the header; `bytes` may be longer than what it says. Cost: the header only.
    ///
    /// # Errors
    /// [`ExpertError::Header`], [`ExpertError::Length`] if they are shorter.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ExpertError> {
        let Some(&[m0, m1, m2, m3, VERSION, 0, 0, 0, l0, l1, e0, e1, n0, n1, n2, n3]) = bytes.first_chunk() else {
            return Err(ExpertError::Header);
        };
        if [m0, m1, m2, m3] != MAGIC {
            return Err(ExpertError::Header);
        }
        let (layers, experts) = (u16::from_le_bytes([l0, l1]), u16::from_le_bytes([e0, e1]));
        let lines = u32::from_le_bytes([n0, n1, n2, n3]);
        let bytes = offset(lines).and_then(|length| bytes.get(..length)).ok_or(ExpertError::Length)?;
        if lines < Self::first_line(layers, experts).ok_or(ExpertError::Length)? {
            return Err(ExpertError::Length);
        }
        Ok(Self { bytes, layers, experts })
    }

    /// The first line behind header and table; `None` if there are too many.
    pub const fn first_line(layers: u16, experts: u16) -> Option<u32> {
        let places = layers as u64 * experts as u64 * WIDTHS as u64;
        let line = 1 + (4 * places).div_ceil(Self::LINE as u64);
        if line <= u32::MAX as u64 { Some(line as u32) } else { None }
    }

    /// Writes header and empty table at the beginning of `bytes`; `lines` are those of all, replicas included.
    ///
    /// # Errors
    /// [`ExpertError::Length`] if the lines hold no table, [`ExpertError::Buffer`] if `bytes` do not.
    pub fn write_header(bytes: &mut [u8], layers: u16, experts: u16, lines: u32) -> Result<(), ExpertError> {
        let first = Self::first_line(layers, experts).filter(|&first| first <= lines).ok_or(ExpertError::Length)?;
        let bytes = offset(first).and_then(|length| bytes.get_mut(..length)).ok_or(ExpertError::Buffer)?;
        bytes.fill(0);
        let Some((magic, rest)) = bytes.split_first_chunk_mut::<4>() else { return Err(ExpertError::Buffer) };
        let Some((version, rest)) = rest.split_first_chunk_mut::<4>() else { return Err(ExpertError::Buffer) };
        let Some((sizes, rest)) = rest.split_first_chunk_mut::<4>() else { return Err(ExpertError::Buffer) };
        let Some(length) = rest.first_chunk_mut() else { return Err(ExpertError::Buffer) };
        let ([l0, l1], [e0, e1]) = (layers.to_le_bytes(), experts.to_le_bytes());
        (*magic, *version, *sizes, *length) = (MAGIC, [VERSION, 0, 0, 0], [l0, l1, e0, e1], lines.to_le_bytes());
        Ok(())
    }

    /// Offset of an entry in the table of layers of so many experts, in bytes; `None` where there is none.
    pub const fn entry(experts: u16, layer: u16, expert: u16, bits: u8) -> Option<usize> {
        if expert >= experts || bits < 1 || bits as usize > WIDTHS {
            return None;
        }
        let place = layer as u64 * experts as u64 + expert as u64;
        let offset = Self::LINE as u64 + 4 * (place * WIDTHS as u64 + (bits - 1) as u64);
        if offset <= isize::MAX as u64 { Some(offset as usize) } else { None }
    }

    /// An expert at some bits. Cost: four headers.
    ///
    /// # Errors
    /// [`ExpertError::Missing`]; what is wrong with its matrices.
    pub fn expert(&self, layer: u16, expert: u16, bits: u8) -> Result<Expert<'a>, ExpertError> {
        let entry = Self::entry(self.experts, layer, expert, bits).filter(|_| layer < self.layers);
        let entry = entry.and_then(|entry| self.bytes.get(entry..));
        let line = entry.and_then(<[u8]>::first_chunk).map_or(0, |line| u32::from_le_bytes(*line));
        if line == 0 {
            return Err(ExpertError::Missing);
        }
        let mut rest = offset(line).and_then(|offset| self.bytes.get(offset..)).ok_or(ExpertError::Length)?;
        let mut matrix = || {
            let length = usize::try_from(Layout::read(rest)?.byte_len()).map_err(|_| ExpertError::Length)?;
            let (bytes, others) = rest.split_at_checked(length).ok_or(ExpertError::Length)?;
            rest = others;
            Matrix::new(bytes)
        };
        Expert::new(matrix()?, matrix()?, matrix()?)
    }
}

/// Offset of a line in bytes; `None` where addresses end before.
fn offset(line: u32) -> Option<usize> {
    usize::try_from(line).ok()?.checked_mul(Replicas::LINE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// One layer of two experts of which the second has a replica at 2 bits.
    fn image() -> Vec<u8> {
        let layouts = [(2, 32, 64), (3, 32, 64), (4, 64, 32)]
            .map(|(bits, rows, columns)| Layout::new(bits, 32, -3, rows, columns).unwrap());
        let first = Replicas::first_line(1, 2).unwrap();
        let matrices = layouts.iter().flat_map(|layout| {
            let mut bytes = vec![0; layout.byte_len() as usize];
            layout.write(&mut bytes).unwrap();
            bytes
        });
        let mut image = vec![0; offset(first).unwrap()];
        image.extend(matrices);
        image.resize(image.len().next_multiple_of(Replicas::LINE), 0);
        let lines = (image.len() / Replicas::LINE) as u32;
        Replicas::write_header(&mut image, 1, 2, lines).unwrap();
        let entry = Replicas::entry(2, 0, 1, 2).unwrap();
        image[entry..entry + 4].copy_from_slice(&first.to_le_bytes());
        image
    }

    #[test]
    fn an_expert_is_found_where_it_is() {
        let mut image = image();
        image.extend([1, 2, 3]);
        let replicas = Replicas::new(&image).unwrap();
        let expert = replicas.expert(0, 1, 2).unwrap();
        assert_eq!((expert.input().columns(), expert.hidden().columns(), expert.hidden().rows()), (64, 32, 64));
        for (layer, expert, bits) in [(0, 0, 2), (0, 1, 1), (0, 1, 0), (0, 1, 5), (0, 2, 2), (1, 0, 2)] {
            assert_eq!(replicas.expert(layer, expert, bits).unwrap_err(), ExpertError::Missing);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let image = image();
        assert_eq!(Replicas::new(&image[..15]).unwrap_err(), ExpertError::Header);
        assert_eq!(Replicas::new(&image[..image.len() - 1]).unwrap_err(), ExpertError::Length);
        for byte in [0, 4, 5, 7] {
            let mut changed = image.clone();
            changed[byte] ^= 1;
            assert_eq!(Replicas::new(&changed).unwrap_err(), ExpertError::Header);
        }
        // Fewer lines than the table takes, and places outside.
        let mut changed = image.clone();
        changed[12..16].copy_from_slice(&1u32.to_le_bytes());
        assert_eq!(Replicas::new(&changed).unwrap_err(), ExpertError::Length);
        let entry = Replicas::entry(2, 0, 1, 2).unwrap();
        for line in [u32::MAX, (image.len() / Replicas::LINE) as u32 + 1] {
            changed = image.clone();
            changed[entry..entry + 4].copy_from_slice(&line.to_le_bytes());
            assert_eq!(Replicas::new(&changed).unwrap().expert(0, 1, 2).unwrap_err(), ExpertError::Length);
        }
        assert_eq!(Replicas::write_header(&mut [0; 64], 1, 2, 2), Err(ExpertError::Buffer));
        assert_eq!(Replicas::write_header(&mut [0; 256], 1, 2, 1), Err(ExpertError::Length));
        assert_eq!(Replicas::first_line(u16::MAX, u16::MAX), Some(1_073_709_058));
    }

    proptest! {
        #[test]
        fn nothing_outside_is_reached(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut: prop::sample::Index,
            expert in 0u16..3,
            bits in 0u8..6,
        ) {
            let mut image = image();
            let length = image.len();
            changes.into_iter().for_each(|(at, byte)| image[at.index(length)] = byte);
            image.truncate(cut.index(2 * length));
            if let Ok(expert) = Replicas::new(&image).and_then(|replicas| replicas.expert(0, expert, bits)) {
                prop_assert!(expert.hidden().byte_len() <= length as u64);
            }
        }
    }
}
