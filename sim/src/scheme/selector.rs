//! The bit selector: how many of a layer's cold experts get how many bits, the average being given (arXiv 2512.04476, Algorithm 1).

use cptr_core::bits::{self, Losses, MAX_BITS, Split, scratch_for};

use cptr_trace::error::{Error, Result};

/// What quantisation costs at 1 to 4 bits where no table says: noise power falls to a quarter with each bit.
pub const USUAL: [f64; MAX_BITS] = [1.0, 0.25, 0.0625, 0.015625];

/// The split that loses least at `average` bits, 1 to 4. `losses`: what each cold expert loses at 1 to 4 bits times how often it is wanted, the most
/// important expert first.
///
/// # Errors
/// Losses that grow with the bits, or below 0.
pub fn split(losses: &[[f64; MAX_BITS]], average: u8) -> Result<Split> {
    let largest = losses.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
    let scaled: Vec<Losses> =
        losses.iter().map(|losses| losses.map(|loss| (loss / largest * f64::from(1 << 30)) as i32)).collect();
    let increments = losses.len() as u32 * (u32::from(average) - 1);
    let mut scratch = vec![0; scratch_for(losses.len())];
    bits::split(&scaled, increments, &mut scratch).map_err(|error| Error::new(error.to_string()))
}
