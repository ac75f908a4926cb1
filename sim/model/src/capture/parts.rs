//! The finished sequences of a capture, kept beside the trace until it is whole.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Options, Sequence};
use crate::error::{Error, Result};
use crate::model::Model;
use cptr_trace::file;

/// File in the folder that says which capture it belongs to.
const KEY: &str = "capture.key";

/// The folder `OUT.part`: a native trace for each finished sequence.
#[derive(Debug)]
pub struct Parts {
    folder: PathBuf,
    /// Whether parts of another capture were thrown away.
    pub replaced: bool,
}

impl Parts {
    /// Opens the folder that goes with the trace `out`. What is in it counts if the model, the sequences and the
    /// options are the same; otherwise it is removed.
    ///
    /// # Errors
    /// If the folder is not of a capture or cannot be written.
    pub fn open(out: &Path, model: &Model, name: &str, sequences: &[Sequence], options: Options) -> Result<Self> {
        let mut folder = out.as_os_str().to_owned();
        folder.push(".part");
        let folder = PathBuf::from(folder);
        let key = key(model, name, sequences, options);
        let mut replaced = false;
        if folder.exists() {
            let found = fs::read_to_string(folder.join(KEY)).map_err(|_| {
                Error::in_file(&folder, format!("expected the folder of an interrupted capture, found no {KEY} in it"))
            })?;
            if found == key {
                return Ok(Self { folder, replaced });
            }
            replaced = true;
            fs::remove_dir_all(&folder).map_err(|error| Error::io(&folder, &error))?;
        }
        fs::create_dir(&folder).map_err(|error| Error::io(&folder, &error))?;
        file::replace(&folder.join(KEY), |out| out.write_all(key.as_bytes()))?;
        Ok(Self { folder, replaced })
    }

    /// The file of a sequence; it exists once the sequence is finished.
    pub fn path(&self, sequence: usize) -> PathBuf {
        self.folder.join(format!("{sequence}.safetensors"))
    }

    /// Removes the folder, once the trace is written.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(|error| Error::io(&self.folder, &error))
    }
}

/// A digest of all that the trace depends on.
fn key(model: &Model, name: &str, sequences: &[Sequence], options: Options) -> String {
    let mut digest = Sha256::new();
    digest.update(model.fingerprint());
    let mut text = |text: &str| {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    };
    text(env!("CARGO_PKG_VERSION"));
    text(name);
    text(&format!("{options:?}"));
    for Sequence { domain, tokens } in sequences {
        text(domain);
        text(&format!("{tokens:?}"));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
