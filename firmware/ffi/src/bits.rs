//! How many bits each cold expert gets.

use core::mem::{align_of, offset_of, size_of};
use core::slice;

use cptr_core::bits::{BitsError, Losses, Split, split, split_globally};

use crate::memory::{buffer, list, output, status};
use crate::{CPTR_ERROR_RANGE, CPTR_ERROR_SIZE, CPTR_MAX_EXPERTS, CPTR_OK, CptrStatus};

/// Losses of one expert at 1, 2, 3 and 4 bits, in a unit of the table's own; not negative, not increasing.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrLosses {
    /// At 1, 2, 3 and 4 bits.
    pub at: [i32; 4],
}

/// The losses of a layer's cold experts in order of falling importance.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrLayerLosses {
    /// One entry for each expert.
    pub losses: *const CptrLosses,
    /// Experts.
    pub experts: usize,
}

/// How many experts get how many bits, and what that gains. The most important ones get the most.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrSplit {
    /// Loss avoided against 1 bit for all, in the unit of the table.
    pub gain: u64,
    /// Experts at 1, 2, 3 and 4 bits.
    pub experts: [u16; 4],
}

const _: () =
    assert!(size_of::<CptrLosses>() == size_of::<Losses>() && align_of::<CptrLosses>() == align_of::<Losses>());
const _: () = assert!(size_of::<CptrSplit>() == size_of::<Split>() && align_of::<CptrSplit>() == align_of::<Split>());
const _: () = assert!(offset_of!(CptrSplit, gain) == offset_of!(Split, gain));
const _: () = assert!(offset_of!(CptrSplit, experts) == offset_of!(Split, experts));

impl AsRef<[Losses]> for CptrLayerLosses {
    fn as_ref(&self) -> &[Losses] {
        // SAFETY: `cptr_bits_split_layers` has checked the pointer, and what it points to by that function's contract.
        unsafe { slice::from_raw_parts(self.losses.cast(), self.experts) }
    }
}

fn code(error: BitsError) -> CptrStatus {
    match error {
        BitsError::Memory { .. } => CPTR_ERROR_SIZE,
        _ => CPTR_ERROR_RANGE,
    }
}

/// The best split of a layer's cold experts that spends exactly `increments` bits beyond the first of each:
/// `experts * (bits - 1)` for an average.
///
/// `scratch`: at least `CPTR_BITS_SCRATCH(experts)` entries. Of equal gains the split with the fewest experts at 4
/// bits, then the fewest at 3. At most `experts^2 / 3` steps.
///
/// Errors: `NULL`, `ALIGN`, `SIZE` (scratch), `RANGE` (experts; losses that are negative or grow with the bits; more
/// than 3 increments for each expert).
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_bits_split(
    losses: *const CptrLosses,
    experts: usize,
    increments: u32,
    scratch: *mut u64,
    scratch_count: usize,
    split: *mut CptrSplit,
) -> CptrStatus {
    let run = || {
        if experts > CPTR_MAX_EXPERTS {
            return Err(CPTR_ERROR_RANGE);
        }
        // SAFETY: this function's contract; `Losses` and `Split` have the layouts of their twins.
        let (losses, scratch, out) = unsafe {
            (list(losses.cast::<Losses>(), experts)?, buffer(scratch, scratch_count)?, output(split.cast::<Split>())?)
        };
        out.write(&[self::split(losses, increments, scratch).map_err(code)?]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Splits for several layers under one budget of `increments` that they share, one entry of `splits` for each. Layers
/// differ in how much they lose: at least as good as the same bits for every layer.
///
/// `scratch`: at least `CPTR_BITS_SCRATCH` of the most experts of a layer. After an error `splits` holds anything.
///
/// Errors: as `cptr_bits_split`.
///
/// # Safety
/// As `cptr_bits_split`; `splits` are initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_bits_split_layers(
    layers: *const CptrLayerLosses,
    layer_count: usize,
    increments: u32,
    scratch: *mut u64,
    scratch_count: usize,
    splits: *mut CptrSplit,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract; `Split` has the layout of `CptrSplit`.
        let (layers, scratch, splits) = unsafe {
            (list(layers, layer_count)?, buffer(scratch, scratch_count)?, buffer(splits.cast::<Split>(), layer_count)?)
        };
        for layer in layers {
            if layer.experts == 0 || layer.experts > CPTR_MAX_EXPERTS {
                return Err(CPTR_ERROR_RANGE);
            }
            // SAFETY: the same: for `AsRef`.
            unsafe { list(layer.losses, layer.experts) }?;
        }
        split_globally(layers, increments, scratch, splits).map_err(code)?;
        Ok(CPTR_OK)
    };
    status(run())
}
