//! Memory of Rust as arrays of numpy, and the other way round.
//!
//! What Rust holds is lent: an array that nobody can write to, which keeps its owner alive. Floats of numpy to which
//! nobody can write are kept where they are.

use cptr_trace::array::{Float, FloatArray, Mapping, Stored};
use half::f16;
use numpy::ndarray::{ArrayView, Dimension, IntoDimension, Ix3};
use numpy::{
    Element, PyArray, PyArrayMethods, PyReadonlyArray3, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::error::usage;
use crate::trace::PyTrace;

/// Values that `owner` keeps where they are, as an array that nobody can write to.
///
/// # Safety
/// The values neither move nor change while `owner` lives.
pub(crate) unsafe fn lent<'py, T: Element, S: IntoDimension>(
    values: &[T],
    shape: S,
    owner: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>>
where
    S::Dim: Dimension,
{
    let view = ArrayView::from_shape(shape.into_dimension(), values).map_err(|error| usage(error.to_string()))?;
    // SAFETY: the caller's contract; the array holds a reference to the owner.
    let array = unsafe { PyArray::borrow_from_array(&view, owner.clone()) };
    array.try_readwrite().map_err(|error| usage(error.to_string()))?.make_nonwriteable();
    Ok(array.into_any())
}

/// The floats of an array: lent where they are f32, or f16 at an even address; copied to f32 where they are bf16, which
/// numpy has not, or lie at an odd address.
///
/// # Safety
/// As [`lent`].
pub(crate) unsafe fn floats<'py>(array: &FloatArray, owner: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let shape = array.shape();
    let (f32s, f16s) = match array.stored() {
        Stored::Values(values) => (Some(values), None),
        // SAFETY: every pattern of bits is a float.
        Stored::Bytes(bytes, Float::F32) => (whole(unsafe { bytes.align_to::<f32>() }), None),
        // SAFETY: as above.
        Stored::Bytes(bytes, Float::F16) => (None, whole(unsafe { bytes.align_to::<f16>() })),
        Stored::Bytes(_, Float::Bf16) => (None, None),
    };
    match (f32s, f16s) {
        // SAFETY: the caller's contract.
        (Some(values), _) => unsafe { lent(values, shape, owner) },
        // SAFETY: the caller's contract.
        (_, Some(values)) => unsafe { lent(values, shape, owner) },
        _ => {
            let [tokens, layers, n] = shape;
            let mut values = vec![0.0_f32; tokens * layers * n];
            for (row, out) in values.chunks_exact_mut(n.max(1)).enumerate() {
                array.read_row(row / layers, row % layers, out);
            }
            let copy = numpy::ndarray::Array::from_shape_vec(Ix3(tokens, layers, n), values);
            let copy = copy.map_err(|error| usage(error.to_string()))?;
            Ok(PyArray::from_owned_array(owner.py(), copy).into_any())
        }
    }
}

/// The middle, where all of it is aligned; only where memory has the order of files.
fn whole<'a, T>((head, middle, tail): (&'a [u8], &'a [T], &'a [u8])) -> Option<&'a [T]> {
    (head.is_empty() && tail.is_empty() && cfg!(target_endian = "little")).then_some(middle)
}

/// Floats `[T, L, N]` of numpy, f16 as they are, others as f32: kept where they are if nobody can write to them, else
/// copied once.
pub(crate) fn taken(name: &str, given: &Bound<'_, PyAny>) -> PyResult<FloatArray> {
    if let Ok(array) = given.extract::<PyReadonlyArray3<'_, f16>>() {
        let copy =
            || Mapping::memory(array.as_array().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        let map = kept(given, &array)?.unwrap_or_else(copy);
        return mapped(three_axes(name, array.shape())?, map, Float::F16);
    }
    let array: PyReadonlyArray3<'_, f32> = given
        .extract()
        .map_err(|_| usage(format!("{name}: expected an array of float16 or float32 with three axes")))?;
    let shape = three_axes(name, array.shape())?;
    match kept(given, &array)? {
        Some(map) => mapped(shape, map, Float::F32),
        None => Ok(FloatArray::owned(shape, array.as_array().iter().copied().collect())),
    }
}

fn three_axes(name: &str, shape: &[usize]) -> PyResult<[usize; 3]> {
    shape.try_into().map_err(|_| usage(format!("{name}: expected three axes")))
}

fn mapped(shape: [usize; 3], map: Mapping, float: Float) -> PyResult<FloatArray> {
    FloatArray::mapped(shape, map.into(), 0, float).map_err(|error| crate::error::raise(&error))
}

/// The bytes of `array`, which `given` is, where they lie; `None` if that is in another order or may change.
fn kept<T: Element>(given: &Bound<'_, PyAny>, array: &PyReadonlyArray3<'_, T>) -> PyResult<Option<Mapping>> {
    match array.as_slice() {
        Ok(values) if array.is_c_contiguous() && cfg!(target_endian = "little") && unchangeable(given)? => {
            let (start, bytes) = (values.as_ptr().cast(), size_of_val(values));
            Ok(Some(Mapping::memory(Kept { start, bytes, _array: given.clone().unbind() })))
        }
        _ => Ok(None),
    }
}

/// The bytes of an array that is [`unchangeable`], which it keeps alive.
struct Kept {
    start: *const u8,
    bytes: usize,
    _array: Py<PyAny>,
}

// SAFETY: the bytes are only read, and the array is only let go of, which any thread may do.
unsafe impl Send for Kept {}
// SAFETY: as above.
unsafe impl Sync for Kept {}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: they are the array's, which lives as long as this, and neither moves nor changes: numpy refuses to
        // make an array another size that something refers to unless it is told not to look, and the documentation
        // asks that nobody does that, or makes one writeable again, that a trace was made of.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }
}

/// Whether nobody can write to an array of numpy: not through it, nor through what it is a view of, up to what owns the
/// memory, which is an array too, a trace, `bytes`, or a file mapped for reading.
fn unchangeable(array: &Bound<'_, PyAny>) -> PyResult<bool> {
    let mut owner = array.clone();
    loop {
        owner = if owner.is_instance_of::<PyUntypedArray>() {
            if owner.getattr("flags")?.getattr("writeable")?.extract()? {
                return Ok(false);
            }
            owner.getattr("base")?
        } else if owner.is_instance_of::<PyMemoryView>() {
            // A view may be for reading only of what others write to.
            owner.getattr("obj")?
        } else {
            break;
        };
    }
    if owner.is_none() || owner.is_instance_of::<PyTrace>() || owner.is_instance_of::<PyBytes>() {
        return Ok(true);
    }
    let mapped = owner.py().import("mmap")?.getattr("mmap")?;
    Ok(owner.is_instance(&mapped)? && PyMemoryView::from(&owner)?.getattr("readonly")?.extract()?)
}

/// The values of an array of exactly this type, row-major, and its shape.
pub(crate) fn values<T: Element + Copy>(name: &str, given: &Bound<'_, PyAny>) -> PyResult<(Vec<T>, Vec<usize>)> {
    let array: PyReadonlyArrayDyn<'_, T> = given.extract().map_err(|_| {
        let wanted = T::get_dtype(given.py());
        usage(format!("{name}: expected an array of {wanted}"))
    })?;
    Ok((array.as_array().iter().copied().collect(), array.shape().to_vec()))
}
