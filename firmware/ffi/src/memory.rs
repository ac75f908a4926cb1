//! Pointers from C, checked as far as they can be.

use core::slice;

use crate::{CPTR_ERROR_ALIGN, CPTR_ERROR_NULL, CptrStatus};

fn check<T>(pointer: *const T) -> Result<(), CptrStatus> {
    match pointer {
        pointer if pointer.is_null() => Err(CPTR_ERROR_NULL),
        pointer if !pointer.is_aligned() => Err(CPTR_ERROR_ALIGN),
        _ => Ok(()),
    }
}

/// A list of `count` entries; of none if `count` is 0, whatever the pointer.
///
/// # Safety
/// If `count` is not 0 and `pointer` neither null nor misaligned, `count` initialised entries are there, which nobody changes for `'a`,
/// and which end before the end of the address space.
pub(crate) unsafe fn list<'a, T>(pointer: *const T, count: usize) -> Result<&'a [T], CptrStatus> {
    if count == 0 {
        return Ok(&[]);
    }
    check(pointer)?;
    // SAFETY: not null and aligned; the rest is the caller's contract.
    Ok(unsafe { slice::from_raw_parts(pointer, count) })
}

/// As [`list`], to be changed in place.
///
/// # Safety
/// As [`list`], and nobody else uses the entries for `'a`; they need be initialised only where they are read.
pub(crate) unsafe fn buffer<'a, T: Copy>(pointer: *mut T, count: usize) -> Result<&'a mut [T], CptrStatus> {
    if count == 0 {
        return Ok(&mut []);
    }
    check(pointer)?;
    // SAFETY: not null and aligned; the rest is the caller's contract, and integers from C always hold some value.
    Ok(unsafe { slice::from_raw_parts_mut(pointer, count) })
}

/// Space for a result.
///
/// # Safety
/// If `pointer` is neither null nor misaligned, a `T` may be written there, and nobody else uses it for `'a`.
pub(crate) unsafe fn output<'a, T: Copy>(pointer: *mut T) -> Result<Output<'a, T>, CptrStatus> {
    // SAFETY: the caller's contract, for one entry.
    unsafe { outputs(pointer, 1) }
}

/// Space for `count` results; null is allowed for none.
///
/// # Safety
/// As [`output`], for `count` entries.
pub(crate) unsafe fn outputs<'a, T: Copy>(pointer: *mut T, count: usize) -> Result<Output<'a, T>, CptrStatus> {
    if count > 0 {
        check(pointer)?;
    }
    Ok(Output { pointer, count, memory: core::marker::PhantomData })
}

/// Memory that may not be initialised yet: written, never read.
pub(crate) struct Output<'a, T> {
    pointer: *mut T,
    count: usize,
    memory: core::marker::PhantomData<&'a mut T>,
}

impl<T: Copy> Output<'_, T> {
    /// Number of entries that fit.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Writes the values that fit, from the first entry on.
    pub(crate) fn write(self, values: &[T]) {
        for (i, &value) in values.iter().take(self.count).enumerate() {
            // SAFETY: `i < count`, and `count` entries may be written by the contract of `outputs`.
            unsafe { self.pointer.add(i).write(value) };
        }
    }
}

/// The result of a function as C sees it.
pub(crate) fn status(result: Result<CptrStatus, CptrStatus>) -> CptrStatus {
    result.unwrap_or_else(|error| error)
}
