//! Pointers from C, checked as far as they can be, and what stands before every state.

use core::slice;

use crate::{
    CPTR_ALIGN, CPTR_ERROR_ALIGN, CPTR_ERROR_NULL, CPTR_ERROR_STATE, CPTR_MAX_EXPERTS, CPTR_MAX_JOBS, CPTR_VERSION,
    CptrStatus,
};

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
        self.write_all(values.iter().copied());
    }

    /// [`write`](Self::write) for values that do not lie one after the other.
    pub(crate) fn write_all(self, values: impl Iterator<Item = T>) {
        for (i, value) in values.take(self.count).enumerate() {
            // SAFETY: `i < count`, and `count` entries may be written by the contract of `outputs`. Volatile, or a call of `memcpy` would
            // come out, which takes 0.9 kB.
            unsafe { self.pointer.add(i).write_volatile(value) };
        }
    }
}

/// Sets words to 0. One by one, and volatile, or a call of the `memclr` of bytes would come out, which takes 0.2 kB and is needed for nothing else.
///
/// # Safety
/// `count` words may be written at `words`, which is aligned.
#[inline(never)]
pub(crate) unsafe fn clear(words: *mut u32, count: usize) {
    for i in 0..count {
        // SAFETY: the caller's contract.
        unsafe { words.add(i).write_volatile(0) };
    }
}

/// Stands before every state. `check` ties magic, version and size together.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Header {
    magic: u32,
    /// Experts of a tracker, jobs of a queue, 0 for a configuration.
    pub(crate) count: u32,
    check: u32,
    reserved: u32,
}

const _: () = assert!(align_of::<Header>() == CPTR_ALIGN);

impl Header {
    pub(crate) const fn new(magic: u32, count: u32) -> Self {
        let check = magic.rotate_left(9) ^ count.wrapping_mul(0x9E37_79B9) ^ CPTR_VERSION;
        Self { magic, count, check, reserved: 0 }
    }

    fn is_valid(&self, magic: u32) -> bool {
        let expected = Self::new(magic, self.count);
        let most = CPTR_MAX_EXPERTS.max(CPTR_MAX_JOBS);
        self.magic == magic && self.check == expected.check && self.count as usize <= most
    }
}

/// Whether a state may lie at `pointer`.
pub(crate) fn aligned(pointer: *const u8) -> Result<(), CptrStatus> {
    check(pointer.cast::<Header>())
}

/// The header of a state that was initialised with this `magic`.
///
/// # Safety
/// `pointer` is null, misaligned, or points to at least a header's bytes that are readable.
pub(crate) unsafe fn header(pointer: *const u8, magic: u32) -> Result<Header, CptrStatus> {
    aligned(pointer)?;
    // SAFETY: aligned, and readable by the caller's contract; every content is a header.
    let header = unsafe { pointer.cast::<Header>().read_volatile() };
    if header.is_valid(magic) { Ok(header) } else { Err(CPTR_ERROR_STATE) }
}

/// The result of a function as C sees it.
pub(crate) fn status(result: Result<CptrStatus, CptrStatus>) -> CptrStatus {
    result.unwrap_or_else(|error| error)
}
