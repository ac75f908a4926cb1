//! Inputs that fuzzers have kept, and what is made of them.

use std::io::Read;
use std::path::{Path, PathBuf};

use cptr_tests::fuzz::Target;

/// Where targets, corpora and the record are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Names and bytes of what is kept for a target.
pub(crate) fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let file = folder().join("corpus").join(format!("{}.tar.gz", target.name));
    let file = std::fs::File::open(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().expect("an archive").map(|entry| {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its bytes");
        (name, bytes)
    });
    entries.filter(|(name, _)| !name.ends_with('/')).collect()
}

/// One, two or four changes: bytes written, taken out, doubled, taken from another input.
pub(crate) fn mutated(random: &mut fastrand::Rng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 << random.usize(..3) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..16)).min(bytes.len());
        match random.usize(..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.usize(..8),
            1 if at < bytes.len() => {
                bytes[at] = *random.choice(&[0, 1, 0x7f, 0x80, 0xff, b'0', b'-', b'"']).unwrap_or(&0);
            }
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            4 => {
                let from = random.usize(..=other.len());
                let part = &other[from..(from + random.usize(..64)).min(other.len())];
                bytes.splice(at..end, part.iter().copied());
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}
