//! Small recordings for the tests of the importers.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use npyz::WriterBuilder;
use tempfile::TempDir;

use super::{Options, Recording, read};
use crate::Trace;
use crate::counts::Counts;
use crate::error::Error;

/// A folder that is gone after the test.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and returns its path.
    pub(super) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// What importing one file gives.
    pub(super) fn import(&self, name: &str, bytes: impl AsRef<[u8]>, options: &Options) -> Result<Recording, Error> {
        read(&self.file(name, bytes), options)
    }

    /// The trace that one file holds.
    pub(super) fn trace(&self, name: &str, bytes: impl AsRef<[u8]>, options: &Options) -> Trace {
        tokens(self.import(name, bytes, options).unwrap())
    }

    /// The message, without the folder, that one file is refused with.
    pub(super) fn refusal(&self, name: &str, bytes: impl AsRef<[u8]>, options: &Options) -> String {
        let message = self.import(name, bytes, options).unwrap_err().to_string();
        message.replace(&format!("{}/", self.path().display()), "")
    }
}

pub(super) fn tokens(recording: Recording) -> Trace {
    match recording {
        Recording::Tokens(trace) => trace,
        Recording::Counts(_) => panic!("counts"),
    }
}

pub(super) fn counts(recording: Recording) -> Counts {
    match recording {
        Recording::Counts(counts) => counts,
        Recording::Tokens(_) => panic!("a trace"),
    }
}

/// An array as numpy writes it.
pub(super) fn npy<T: npyz::AutoSerialize + Clone>(shape: &[u64], values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().unwrap();
    writer.extend(values.iter().cloned()).unwrap();
    writer.finish().unwrap();
    bytes
}

/// A text as numpy writes it.
pub(super) fn npy_text(text: &str) -> Vec<u8> {
    let dtype = npyz::DType::Plain(format!("<U{}", text.chars().count()).parse().unwrap());
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().dtype(dtype).shape(&[]).writer(&mut bytes).begin_nd().unwrap();
    writer.push(text).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Arrays in a zip archive.
pub(super) fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
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
pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Ids `[T, L, k]` that differ between tokens and layers and never repeat within one: neighbours on a ring of E
/// experts.
pub(super) fn ids(tokens: usize, layers: usize, experts: usize, k: usize) -> Vec<i16> {
    let id = |t: usize, l: usize, i: usize| ((t * 7 + l * 3 + (t * t) % 5 + i) % experts) as i16;
    (0..tokens).flat_map(|t| (0..layers).flat_map(move |l| (0..k).map(move |i| id(t, l, i)))).collect()
}
