//! One numpy array, read with care: the header parser below us takes sizes on trust, so they are checked before it sees
//! them.

use std::io::Read;

use npyz::{Deserialize, NpyFile, NpyHeader, Order, TypeChar};

use crate::error::{Error, Result};

/// First bytes of a `.npy` file.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header, the limit of numpy itself (`max_header_size`).
const MAX_HEADER: usize = 10_000;
/// Deepest nesting of brackets in a header: a shape in a dictionary, and room for a record type that we then refuse by
/// name.
const MAX_NESTING: usize = 4;

/// An array in C order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Values,
}

/// The values of an array.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Values {
    /// Any integer type, and truth values.
    Integers(Vec<i32>),
    /// Any float type.
    Floats(Vec<f32>),
    /// Text (`<U…`, `|S…`), element by element.
    Text(Vec<String>),
}

/// Reads an array; `budget` is what it may take of memory in bytes, and what is left of it afterwards.
///
/// # Errors
/// If the header is damaged, the type is not one of [`Values`], the data end early, or the budget is passed.
pub(crate) fn read(mut reader: impl Read, budget: &mut u64) -> Result<Array> {
    let header = read_header(&mut reader)?;
    let mut npy = NpyFile::with_header(header, &[][..]);
    let npyz::DType::Plain(dtype) = npy.dtype() else {
        return Err(Error::new(format!("expected an array of numbers, found records {}", npy.dtype().descr())));
    };
    let bytes = dtype.num_bytes().and_then(|size| u64::try_from(size).ok()?.checked_mul(npy.len()));
    let bytes = bytes.filter(|_| !npy.uses_pickled_array());
    let Some(bytes) = bytes else {
        return Err(Error::new(format!("expected an array of numbers, found type {dtype}")));
    };
    if npy.shape().contains(&0) {
        return Err(Error::new(format!("expected at least one value along every axis, found shape {:?}", npy.shape())));
    }
    // What is read, and what it becomes: 32 bits a value.
    let needed = npy.len().checked_mul(4).and_then(|wide| wide.checked_add(bytes));
    *budget = needed.and_then(|needed| budget.checked_sub(needed)).ok_or_else(|| {
        Error::new(format!("expected arrays that become at most {budget} bytes, found {:?} of {dtype}", npy.shape()))
    })?;
    let mut payload = Vec::new();
    let end = reader.take(bytes).read_to_end(&mut payload).map_err(|error| Error::new(error.to_string()))?;
    if (end as u64) < bytes {
        return Err(Error::new(format!("expected {bytes} bytes of values {:?} of {dtype}, found {end}", npy.shape())));
    }
    npy = NpyFile::with_header(npy.header().clone(), &payload);
    let shape = npy.shape().iter().map(|&n| n as usize).collect();
    let values = match (dtype.type_char(), dtype.size_field()) {
        (TypeChar::Bool, _) => integers(npy, |value: bool| Some(value.into())),
        (TypeChar::Int, 1) => integers(npy, |value: i8| Some(value.into())),
        (TypeChar::Int, 2) => integers(npy, |value: i16| Some(value.into())),
        (TypeChar::Int, 4) => integers(npy, Some::<i32>),
        (TypeChar::Int, 8) => integers(npy, |value: i64| value.try_into().ok()),
        (TypeChar::Uint, 1) => integers(npy, |value: u8| Some(value.into())),
        (TypeChar::Uint, 2) => integers(npy, |value: u16| Some(value.into())),
        (TypeChar::Uint, 4) => integers(npy, |value: u32| value.try_into().ok()),
        (TypeChar::Uint, 8) => integers(npy, |value: u64| value.try_into().ok()),
        (TypeChar::Float, 2) => values(npy, |value: half::f16| Ok(value.to_f32())).map(Values::Floats),
        (TypeChar::Float, 4) => values(npy, Ok::<f32, _>).map(Values::Floats),
        (TypeChar::Float, 8) => values(npy, |value: f64| Ok(value as f32)).map(Values::Floats),
        (TypeChar::UnicodeStr | TypeChar::ByteStr, _) => values(npy, Ok::<String, _>).map(Values::Text),
        _ => Err(Error::new(format!("expected an array of numbers, found type {dtype}"))),
    }?;
    Ok(Array { shape, values })
}

/// Magic, version, length and dictionary, with everything refused that numpy never writes.
fn read_header(reader: &mut impl Read) -> Result<NpyHeader> {
    let io = |error: std::io::Error| Error::new(format!("expected a numpy header: {error}"));
    let mut start = [0; 10];
    reader.read_exact(&mut start).map_err(io)?;
    if !start.starts_with(MAGIC) {
        return Err(Error::new("expected a numpy array, found no \"\\x93NUMPY\" at its beginning"));
    }
    let mut bytes = start.to_vec();
    let mut len = usize::from(u16::from_le_bytes([start[8], start[9]]));
    if start[6] >= 2 {
        let mut high = [0; 2];
        reader.read_exact(&mut high).map_err(io)?;
        bytes.extend(high);
        len |= usize::from(u16::from_le_bytes(high)) << 16;
    }
    if len > MAX_HEADER {
        return Err(Error::new(format!("expected a numpy header of at most {MAX_HEADER} bytes, found one of {len}")));
    }
    let text_start = bytes.len();
    bytes.resize(text_start + len, 0);
    reader.read_exact(&mut bytes[text_start..]).map_err(io)?;
    check_header(&bytes[text_start..])?;
    NpyHeader::from_reader(&bytes[..]).map_err(io)
}

/// Refuses brackets so deep that a parser runs out of stack, and shapes whose product overflows.
fn check_header(text: &[u8]) -> Result<()> {
    let wrong = |what: &str| Error::new(format!("expected a numpy header with a type and a shape, found {what}"));
    let text = std::str::from_utf8(text).map_err(|_| wrong("bytes that are no text"))?;
    let mut depth = 0_usize;
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            // An escape could hide a second shape.
            '\\' => return Err(wrong("a backslash")),
            _ => {}
        }
        if depth > MAX_NESTING {
            return Err(wrong("brackets too deep"));
        }
    }
    let [_, after] = text.split("shape").collect::<Vec<_>>()[..] else { return Err(wrong("not one \"shape\"")) };
    let end = after.find(')').ok_or_else(|| wrong("a shape without end"))?;
    let digits = after[..end].split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    let fits = digits
        .map(|part| part.parse::<u64>().ok().filter(|&n| n < 1 << 48))
        .try_fold(1_u64, |product, n| product.checked_mul(n?.max(1)));
    fits.map(|_| ()).ok_or_else(|| wrong("a shape too large for any file"))
}

fn integers<T: Deserialize>(npy: NpyFile<&[u8]>, convert: impl Fn(T) -> Option<i32>) -> Result<Values> {
    let convert =
        |value| convert(value).ok_or_else(|| Error::new("expected integers of at most 32 bits, found a larger one"));
    values(npy, convert).map(Values::Integers)
}

/// Converts the values and lays them out in C order.
fn values<T: Deserialize, U: Clone>(npy: NpyFile<&[u8]>, convert: impl Fn(T) -> Result<U>) -> Result<Vec<U>> {
    let (order, shape, strides) = (npy.order(), npy.shape().to_vec(), npy.strides().to_vec());
    let reader = npy.data::<T>().map_err(|error| Error::new(error.to_string()))?;
    let values = reader
        .map(|value| value.map_err(|error| Error::new(error.to_string())).and_then(&convert))
        .collect::<Result<Vec<U>>>()?;
    if order == Order::C || shape.len() < 2 || values.is_empty() {
        return Ok(values);
    }
    let mut index = vec![0; shape.len()];
    let mut ordered = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        let from: u64 = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        ordered.push(values[from as usize].clone());
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{npy, npy_text};
    use super::*;

    fn read_all(bytes: &[u8]) -> Result<Array> {
        read(bytes, &mut { 1 << 20 })
    }

    /// A version 1 file with any header.
    fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
        [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn reads_every_type_of_number() {
        let ints = |bytes: Vec<u8>| match read_all(&bytes).unwrap().values {
            Values::Integers(values) => values,
            other => panic!("{other:?}"),
        };
        assert_eq!(ints(npy(&[2], &[-1_i8, 2])), [-1, 2]);
        assert_eq!(ints(npy(&[2], &[-1_i64, 2])), [-1, 2]);
        assert_eq!(ints(npy(&[2], &[1_u16, 65535])), [1, 65535]);
        assert_eq!(ints(npy(&[2], &[1_u64, 7])), [1, 7]);
        assert!(read_all(&npy(&[1], &[u64::MAX])).unwrap_err().to_string().contains("at most 32 bits"));
        for bytes in [
            npy(&[2], &[half::f16::ONE, half::f16::INFINITY]),
            npy(&[2], &[1.0_f32, f32::INFINITY]),
            npy(&[2], &[1.0_f64, f64::INFINITY]),
        ] {
            assert_eq!(read_all(&bytes).unwrap().values, Values::Floats(vec![1.0, f32::INFINITY]));
        }
        assert_eq!(read_all(&npy_text("{\"k\": \"ä\"}")).unwrap().values, Values::Text(vec!["{\"k\": \"ä\"}".into()]));
        let big_endian = with_header("{'descr': '>i2', 'fortran_order': False, 'shape': (2,), }", &[0, 1, 1, 0]);
        assert_eq!(read_all(&big_endian).unwrap().values, Values::Integers(vec![1, 256]));
    }

    #[test]
    fn fortran_order_becomes_c_order() {
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }";
        let array = read_all(&with_header(header, &[0, 10, 1, 11, 2, 12])).unwrap();
        assert_eq!(array, Array { shape: vec![2, 3], values: Values::Integers(vec![0, 1, 2, 10, 11, 12]) });
    }

    #[test]
    fn refuses_what_cannot_be() {
        let header = |shape: &str| format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}");
        let refusal = |bytes: &[u8]| read_all(bytes).unwrap_err().to_string();
        let claims = |shape: &str| refusal(&with_header(&header(shape), &[0; 64]));
        assert!(claims("(1250000000,)").contains("expected arrays that become at most 1048576 bytes"));
        assert!(claims("(4294967296, 4294967296, 4294967296)").contains("too large for any file"));
        assert!(claims("(99999999999999999999999,)").contains("too large for any file"));
        assert!(claims("(10,)").contains("expected 80 bytes of values [10] of <f8, found 64"));
        assert!(claims(&format!("{}1{}", "(".repeat(4000), ")".repeat(4000))).contains("brackets too deep"));
        assert!(claims("(1,), '\\x73hape': (2,)").contains("a backslash"));
        assert!(claims("(1,), 'shape': (2,)").contains("not one \"shape\""));
        let long = [MAGIC, &[2, 0], &u32::MAX.to_le_bytes(), b"{}"].concat();
        assert!(refusal(&long).contains("at most 10000 bytes, found one of 4294967295"));
        let object = with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", &[0; 64]);
        assert!(refusal(&object).contains("expected an array of numbers"));
        let record = with_header("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }", &[0; 64]);
        assert!(refusal(&record).contains("expected an array of numbers, found records"));
        assert!(refusal(b"").contains("expected a numpy header"));
        assert!(refusal(b"\x93NUMPY\x09\x00\x00\x00").contains("expected a numpy header"));
    }

    proptest! {
        #[test]
        fn no_header_brings_it_down(header in "[{}()\\[\\]':,<>iufUSO|0-9 a-z]{0,80}", data in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = read_all(&with_header(&header, &data));
            let dictionary = format!("{{'descr': '<i2', 'fortran_order': False, 'shape': {header}}}");
            let _ = read_all(&with_header(&dictionary, &data));
            let dictionary = format!("{{'descr': {header}, 'fortran_order': True, 'shape': (2, 3)}}");
            let _ = read_all(&with_header(&dictionary, &data));
        }
    }
}
