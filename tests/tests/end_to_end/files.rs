//! File formats, as far as their libraries leave something to do.

use std::collections::HashMap;
use std::io::{Cursor, Write};

use npyz::WriterBuilder;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// An array as numpy writes it.
pub(crate) fn npy<T: npyz::AutoSerialize + Clone>(shape: &[usize], values: &[T]) -> Vec<u8> {
    let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut bytes).begin_nd().unwrap();
    writer.extend(values.iter().cloned()).unwrap();
    writer.finish().unwrap();
    bytes
}

/// A text as numpy writes it.
pub(crate) fn npy_text(text: &str) -> Vec<u8> {
    let dtype = npyz::DType::Plain(format!("<U{}", text.chars().count()).parse().unwrap());
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().dtype(dtype).shape(&[]).writer(&mut bytes).begin_nd().unwrap();
    writer.push(text).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Arrays in a zip archive.
pub(crate) fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let mut zip = zip::ZipWriter::new(&mut bytes);
    for (name, array) in arrays {
        zip.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(array).unwrap();
    }
    zip.finish().unwrap();
    bytes.into_inner()
}

/// Files in a tar archive.
pub(crate) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn zstd(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    zstd::encode_all(bytes.as_ref(), 1).unwrap()
}

/// A tensor: its name, type, shape and little-endian bytes.
pub(crate) type Tensor<'a> = (&'a str, Dtype, &'a [usize], Vec<u8>);

/// A safetensors file with metadata.
pub(crate) fn safetensors(tensors: &[Tensor<'_>], metadata: &[(&str, &str)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    safetensors::serialize(views, Some(metadata)).unwrap()
}

/// A safetensors file with this header, whatever it claims.
pub(crate) fn safetensors_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

pub(crate) fn u16s(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
