//! Memory of Rust as arrays of numpy, and the other way round.
//!
//! What Rust holds is lent: an array that nobody can write to, which keeps its owner alive.

use cptr_trace::array::{Float, FloatArray, Mapping, Stored};
use half::f16;
use numpy::ndarray::{ArrayView, Dimension, IntoDimension, Ix3};
use numpy::{Element, PyArray, PyArrayMethods, PyReadonlyArray3, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::error::usage;

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

/// Floats `[T, L, N]` of numpy, copied once: f16 as they are, others as f32.
pub(crate) fn taken(name: &str, given: &Bound<'_, PyAny>) -> PyResult<FloatArray> {
    if let Ok(array) = given.extract::<PyReadonlyArray3<'_, f16>>() {
        let shape = <[usize; 3]>::try_from(array.shape()).map_err(|_| usage(format!("{name}: expected three axes")))?;
        let bytes: Vec<u8> = array.as_array().iter().flat_map(|value| value.to_le_bytes()).collect();
        let mapped = FloatArray::mapped(shape, Mapping::memory(bytes).into(), 0, Float::F16);
        return mapped.map_err(|error| crate::error::raise(&error));
    }
    let array: PyReadonlyArray3<'_, f32> = given
        .extract()
        .map_err(|_| usage(format!("{name}: expected an array of float16 or float32 with three axes")))?;
    let shape = <[usize; 3]>::try_from(array.shape()).map_err(|_| usage(format!("{name}: expected three axes")))?;
    Ok(FloatArray::owned(shape, array.as_array().iter().copied().collect()))
}

/// The values of an array of exactly this type, row-major, and its shape.
pub(crate) fn values<T: Element + Copy>(name: &str, given: &Bound<'_, PyAny>) -> PyResult<(Vec<T>, Vec<usize>)> {
    let array: PyReadonlyArrayDyn<'_, T> = given.extract().map_err(|_| {
        let wanted = T::get_dtype(given.py());
        usage(format!("{name}: expected an array of {wanted}"))
    })?;
    Ok((array.as_array().iter().copied().collect(), array.shape().to_vec()))
}
