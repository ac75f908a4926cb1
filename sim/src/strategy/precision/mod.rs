//! At how many bits experts run, lie in fast memory and are copied.
//!
//! ```
//! let kinds = cptr_sim::strategy::precision::KINDS;
//! assert!(kinds.iter().any(|kind| kind.name == "full"));
//! ```

mod full;
mod graded;
mod mean;
mod nested;
mod uniform;

use cptr_core::bits::MAX_BITS;
use cptr_core::bits::{self, Losses, Split, scratch_for};
use cptr_trace::LossTable;
use cptr_trace::error::{Error, Result};

use super::residency::Ranking;
use super::{Choice, Kind, Parameter, Unit, Values, by_demand};
use crate::memory::Resident;

/// Every kind, in the order of tables.
pub const KINDS: &[&Kind<Make>] = &[&full::KIND, &uniform::KIND, &mean::KIND, &graded::KIND, &nested::KIND];

/// Makes the state of all layers.
#[derive(Debug, Clone, Copy)]
pub struct Make(pub(crate) fn(&Values, &Setup<'_>) -> Box<dyn Precision>);

/// What a precision is made for.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) layers: usize,
    pub(crate) experts: usize,
    /// Bits of full precision.
    pub(crate) full_bits: u8,
    /// Measured losses.
    pub(crate) losses: Option<&'a LossTable>,
}

/// Decides about bits. The least it says is full precision everywhere.
pub(crate) trait Precision: Send {
    /// Fills `bits` with what each choice asks for on the GPU; 0: it is left out unless it is in fast memory.
    fn on_gpu(&mut self, choices: &[Choice], bits: &mut Vec<u8>);

    /// Bits of an expert near the data.
    fn near(&self, layer: usize, expert: u16) -> u8;

    /// Bits near the data, on average.
    fn near_bits(&self) -> u8;

    /// Bits of an expert that comes into fast memory ahead of its use, or beside it.
    fn load_bits(&self) -> u8;

    /// Fewest bits of an expert of which fast memory may hold a part of its planes; `None` if it holds whole experts.
    fn planes(&self) -> Option<u8> {
        None
    }

    /// Experts have been placed in a layer, by this ranking.
    ///
    /// # Errors
    /// Losses that cannot be used.
    fn placed(&mut self, _layer: usize, _ranking: &Ranking, _resident: &Resident) -> Result<()> {
        Ok(())
    }

    /// Whether it asks for [`Self::placed`].
    fn ranks(&self) -> bool {
        false
    }
}

/// What quantisation costs at 1 to 4 bits where no table says: noise power falls to a quarter with each bit.
pub(crate) const USUAL: [f64; MAX_BITS] = [1.0, 0.25, 0.0625, 0.015625];

/// The split that loses least at `average` bits, 1 to 4. `losses`: what each cold expert loses at 1 to 4 bits times how
/// often it is wanted, the most important expert first.
pub(crate) fn split(losses: &[[f64; MAX_BITS]], average: u8) -> Result<Split> {
    let largest = losses.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
    let scaled: Vec<Losses> =
        losses.iter().map(|losses| losses.map(|loss| (loss / largest * f64::from(1 << 30)) as i32)).collect();
    let increments = losses.len() as u32 * (u32::from(average) - 1);
    let mut scratch = vec![0; scratch_for(losses.len())];
    bits::split(&scaled, increments, &mut scratch).map_err(|error| Error::new(error.to_string()))
}

/// Losses of an expert at 1 to 4 bits by a table.
///
/// Published tables are not always monotone (MC-MoE's is not in 5 of 256 experts) and may lack widths: where more bits
/// lose more, the loss of fewer counts, and a width that is missing loses four times, or a quarter, of its neighbour's.
pub(crate) fn losses_of(table: &LossTable, layer: usize, expert: usize) -> [f64; MAX_BITS] {
    let mut losses: [Option<f64>; MAX_BITS] = std::array::from_fn(|bits| table.get(layer, expert, bits as u8 + 1));
    for at in 1..MAX_BITS {
        losses[at] = losses[at].or(losses[at - 1].map(|loss| loss / 4.0));
    }
    for at in (0..MAX_BITS - 1).rev() {
        losses[at] = losses[at].or(losses[at + 1].map(|loss| loss * 4.0));
    }
    let mut least = f64::INFINITY;
    losses.map(|loss| {
        least = least.min(loss.unwrap_or(0.0));
        least
    })
}

/// Experts of a table in which more bits lose more: `None` if there are none, else a sentence for people.
#[must_use]
pub fn repaired(table: &LossTable) -> Option<String> {
    let grows = |layer: usize, expert: usize| {
        let losses: Vec<f64> = table.bits().iter().filter_map(|&bits| table.get(layer, expert, bits)).collect();
        losses.windows(2).any(|pair| pair[1] > pair[0])
    };
    let experts = (0..table.layers()).flat_map(|layer| (0..table.experts()).map(move |expert| (layer, expert)));
    let count = experts.filter(|&(layer, expert)| grows(layer, expert)).count();
    (count > 0).then(|| {
        let of = table.layers() * table.experts();
        format!("The losses of {count} of {of} experts grow with the bits: there the loss of fewer bits counts.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_with_three_widths_is_completed() {
        let table = LossTable::new(1, 2, &[2, 3, 4], vec![0.4, 0.2, 0.1, 0.8, 0.8, 0.0]).unwrap();
        assert_eq!(losses_of(&table, 0, 0), [1.6, 0.4, 0.2, 0.1]);
        let table = LossTable::new(1, 1, &[1, 2, 3], vec![0.4, 0.2, 0.1]).unwrap();
        assert_eq!(losses_of(&table, 0, 0), [0.4, 0.2, 0.1, 0.025]);
        assert_eq!(repaired(&table), None);
    }
}
