//! Files that `torch.load` reads, `weights_only` or not: a zip archive, nothing in it compressed, with a pickle of
//! `{name: tensor}` and the tensor's bytes (PyTorch's `serialization.md`).

use std::io::{Cursor, Write};
use std::path::Path;

use safetensors::Dtype;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::error::{Error, Result};
use crate::file;

/// A dense tensor.
pub(super) struct Tensor<'a> {
    /// Its key in the dictionary.
    pub(super) name: &'a str,
    /// I64 or BOOL.
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [usize],
    /// Little-endian, the last axis innermost.
    pub(super) bytes: Vec<u8>,
}

/// Writes a dictionary with one tensor.
pub(super) fn write_tensor(tensor: &Tensor<'_>, path: &Path) -> Result<()> {
    let archive = archive(tensor).map_err(|error| Error::in_file(path, error.to_string()))?;
    file::replace(path, |out| out.write_all(&archive))
}

fn archive(tensor: &Tensor<'_>) -> std::io::Result<Vec<u8>> {
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let pickle = pickle(tensor);
    for (name, bytes) in
        [("data.pkl", &pickle[..]), ("byteorder", b"little"), ("data/0", &tensor.bytes), ("version", b"3\n")]
    {
        archive.start_file(format!("archive/{name}"), stored).map_err(std::io::Error::other)?;
        archive.write_all(bytes)?;
    }
    Ok(archive.finish().map_err(std::io::Error::other)?.into_inner())
}

/// The program that makes the dictionary: `{name: _rebuild_tensor_v2(storage, 0, shape, strides, False,
/// OrderedDict())}` in protocol 2.
fn pickle(tensor: &Tensor<'_>) -> Vec<u8> {
    let storage = if tensor.dtype == Dtype::BOOL { "BoolStorage" } else { "LongStorage" };
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |number: usize| [b"J", &i32::try_from(number).unwrap_or(i32::MAX).to_le_bytes()[..]].concat();
    let global = |module: &str, name: &str| format!("c{module}\n{name}\n").into_bytes();
    let tuple = |items: Vec<u8>| [b"(", &items[..], b"t"].concat();
    let strides = (1..=tensor.shape.len()).map(|axis| tensor.shape[axis..].iter().product());
    let elements = tensor.shape.iter().product();
    let place = [text("storage"), global("torch", storage), text("0"), text("cpu"), number(elements)].concat();
    let arguments = [
        [tuple(place), b"Q".to_vec()].concat(),
        number(0),
        tuple(tensor.shape.iter().flat_map(|&size| number(size)).collect()),
        tuple(strides.flat_map(number).collect()),
        b"\x89".to_vec(),
        [global("collections", "OrderedDict"), b")R".to_vec()].concat(),
    ];
    let rebuilt = [global("torch._utils", "_rebuild_tensor_v2"), tuple(arguments.concat()), b"R".to_vec()].concat();
    [b"\x80\x02}".to_vec(), text(tensor.name), rebuilt, b"s.".to_vec()].concat()
}
