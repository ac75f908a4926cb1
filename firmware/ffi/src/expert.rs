//! Low-bit experts: a packed matrix times a vector, and a whole expert.

use core::mem::{align_of, size_of};
use core::slice;

use cptr_core::expert::{ActivationGroup, Activations, Expert, ExpertError, Layout, Matrix, Scratch, matvec};

use crate::memory::{buffer, list, output, status};
use crate::{CPTR_ERROR_ALIGN, CPTR_ERROR_RANGE, CPTR_ERROR_SIZE, CPTR_ERROR_VERSION, CPTR_OK, CptrStatus};

/// A packed matrix, as `cptr quantize` writes it: docs/low-bit.md.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrMatrix {
    /// Header and rows.
    pub bytes: *const u8,
    /// How many bytes these are: exactly the matrix.
    pub length: usize,
}

/// What a packed matrix's header says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrMatrixShape {
    /// Outputs.
    pub rows: u32,
    /// Inputs.
    pub columns: u32,
    /// Bits of a weight, 1 to 4.
    pub bits: u32,
    /// Columns that share a scale: 32, 64 or 128.
    pub group: u32,
}

/// A SwiGLU expert, `down * (silu(gate * x) . (up * x))`; its matrices may have different bits.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrExpert {
    /// As many rows and columns, and as long groups, as `up`.
    pub gate: CptrMatrix,
    /// See `gate`.
    pub up: CptrMatrix,
    /// As many columns as `gate` has rows.
    pub down: CptrMatrix,
}

/// Numbers `values[i] * 2^exponent`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrVector {
    /// As many as the matrix has columns.
    pub values: *const i32,
    /// How many.
    pub count: usize,
    /// The power of two of all of them.
    pub exponent: i32,
}

const _: () = assert!(size_of::<ActivationGroup>() == 8 && align_of::<ActivationGroup>() <= 8);

fn code(error: ExpertError) -> CptrStatus {
    match error {
        ExpertError::Header => CPTR_ERROR_VERSION,
        ExpertError::Length | ExpertError::Buffer => CPTR_ERROR_SIZE,
        _ => CPTR_ERROR_RANGE,
    }
}

/// # Safety
/// As [`list`], for `length` bytes.
unsafe fn matrix<'a>(matrix: CptrMatrix) -> Result<Matrix<'a>, CptrStatus> {
    // SAFETY: the caller's contract.
    Matrix::new(unsafe { list(matrix.bytes, matrix.length) }?).map_err(code)
}

/// Cuts arrays off the caller's scratch memory.
struct Rest {
    pointer: *mut u8,
    left: usize,
}

impl Rest {
    /// # Safety
    /// `size` bytes may be written at `pointer`, and nobody else uses them for as long as what [`Self::take`] gives is
    /// used.
    unsafe fn new(pointer: *mut u8, size: usize) -> Result<Self, CptrStatus> {
        // SAFETY: the caller's contract; checks null, and the alignment of the largest entries.
        unsafe { buffer(pointer.cast::<u64>(), size / size_of::<u64>()) }?;
        Ok(Self { pointer, left: size })
    }

    /// The next entries, set to a value. Entries of fewer bytes come after those of more.
    fn take<'a, T: Copy>(&mut self, count: usize, value: T) -> Result<&'a mut [T], CptrStatus> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or(CPTR_ERROR_SIZE)?;
        self.left = self.left.checked_sub(bytes).ok_or(CPTR_ERROR_SIZE)?;
        let first = self.pointer.cast::<T>();
        if !first.is_aligned() {
            return Err(CPTR_ERROR_ALIGN);
        }
        // SAFETY: so many bytes were left, and nobody else uses them by the contract of `new`.
        unsafe {
            (0..count).for_each(|at| first.add(at).write(value));
            self.pointer = self.pointer.add(bytes);
            Ok(slice::from_raw_parts_mut(first, count))
        }
    }

    /// A vector, quantised for a matrix.
    ///
    /// # Safety
    /// The values are as [`list`] says.
    unsafe fn quantise<'a>(&mut self, vector: &CptrVector, layout: &Layout) -> Result<Activations<'a>, CptrStatus> {
        // SAFETY: the caller's contract.
        let values = unsafe { list(vector.values, vector.count) }?;
        let groups = self.take(layout.groups(), ActivationGroup::default())?;
        let codes = self.take(layout.padded_columns(), 0)?;
        Activations::quantise(values, vector.exponent, layout, codes, groups).map_err(code)
    }
}

/// Reads and checks the header of a packed matrix.
///
/// Errors: `NULL`, `ALIGN`, `VERSION` (no packed matrix of version 1), `RANGE` (its numbers), `SIZE` (not exactly the
/// matrix).
///
/// # Safety
/// The pointers that are neither null nor misaligned point to what they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_expert_shape(matrix: *const CptrMatrix, shape: *mut CptrMatrixShape) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (matrix, shape) = unsafe { (list(matrix, 1)?, output(shape)?) };
        let [matrix] = matrix else { return Err(CPTR_ERROR_RANGE) };
        // SAFETY: the same.
        let layout = *unsafe { self::matrix(*matrix) }?.layout();
        shape.write(&[CptrMatrixShape {
            rows: layout.rows() as u32,
            columns: layout.columns() as u32,
            bits: layout.bits().into(),
            group: layout.group() as u32,
        }]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// `matrix * vector`: output `r` is `out[r] * 2^*exponent`. The vector is rounded to 8 bits in groups of the matrix's;
/// the product is exact, below 2^62 in magnitude.
///
/// `scratch`: at least `CPTR_PRODUCT_SCRATCH(columns)` bytes, aligned to `CPTR_ALIGN`. `out`: `rows` entries, exactly
/// those of the matrix.
///
/// Errors: `NULL`, `ALIGN`, `SIZE` (scratch, rows, length of the matrix), `VERSION`, `RANGE` (the vector's count is not
/// that of the columns; the header).
///
/// # Safety
/// The pointers that are neither null nor misaligned point to as many entries as their counts say; `out` to initialised
/// ones. Nothing overlaps; nobody else uses `scratch` meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_expert_product(
    matrix: *const CptrMatrix,
    vector: *const CptrVector,
    scratch: *mut u8,
    scratch_bytes: usize,
    out: *mut i64,
    rows: usize,
    exponent: *mut i32,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (matrix, vector, exponent) = unsafe { (list(matrix, 1)?, list(vector, 1)?, output(exponent)?) };
        let ([matrix], [vector]) = (matrix, vector) else { return Err(CPTR_ERROR_RANGE) };
        // SAFETY: the same.
        let matrix = unsafe { self::matrix(*matrix) }?;
        if rows != matrix.layout().rows() {
            return Err(CPTR_ERROR_SIZE);
        }
        // SAFETY: the same.
        let (out, mut rest) = unsafe { (buffer(out, rows)?, Rest::new(scratch, scratch_bytes)?) };
        // SAFETY: the same.
        let x = unsafe { rest.quantise(vector, matrix.layout()) }?;
        exponent.write(&[matvec(&matrix, &x, out).map_err(code)?]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Runs an expert on a vector: output `r` is `out[r] * 2^*exponent`. The same bits on every machine; where it rounds,
/// and what that may be off: docs/low-bit.md.
///
/// `scratch`: at least `CPTR_EXPERT_SCRATCH(columns, rows)` bytes by the columns and rows of `gate`, aligned to
/// `CPTR_ALIGN`. `out`: `rows` entries, exactly those of `down`.
///
/// Errors: `NULL`, `ALIGN`, `SIZE` (scratch, rows, lengths of matrices), `VERSION`, `RANGE` (the vector's count is not
/// that of the columns, matrices that do not fit together; a header).
///
/// # Safety
/// As `cptr_expert_product`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_expert_forward(
    expert: *const CptrExpert,
    vector: *const CptrVector,
    scratch: *mut u8,
    scratch_bytes: usize,
    out: *mut i64,
    rows: usize,
    exponent: *mut i32,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (expert, vector, exponent) = unsafe { (list(expert, 1)?, list(vector, 1)?, output(exponent)?) };
        let ([expert], [vector]) = (expert, vector) else { return Err(CPTR_ERROR_RANGE) };
        // SAFETY: the same.
        let (gate, up, down) = unsafe { (matrix(expert.gate)?, matrix(expert.up)?, matrix(expert.down)?) };
        if rows != down.layout().rows() {
            return Err(CPTR_ERROR_SIZE);
        }
        let expert = Expert::new(gate, up, down).map_err(code)?;
        // SAFETY: the same.
        let (out, mut rest) = unsafe { (buffer(out, rows)?, Rest::new(scratch, scratch_bytes)?) };
        let hidden = rest.take(gate.layout().rows(), 0)?;
        let groups = rest.take(down.layout().groups(), ActivationGroup::default())?;
        // SAFETY: the same.
        let x = unsafe { rest.quantise(vector, gate.layout()) }?;
        let codes = rest.take(down.layout().padded_columns(), 0)?;
        exponent.write(&[expert.forward(&x, Scratch { hidden, codes, groups }, out).map_err(code)?]);
        Ok(CPTR_OK)
    };
    status(run())
}
