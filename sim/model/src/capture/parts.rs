//! The finished sequences of a capture, kept beside the trace until it is whole.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Options, Sequence};
use crate::Model;
use crate::error::{Error, Result};
use cptr_trace::lock::Lock;
use cptr_trace::{Trace, file, native};

/// File in the folder that says which capture it belongs to.
const KEY: &str = "capture.key";
/// File in the folder that its one writer holds locked.
const LOCK: &str = "capture.lock";

/// The folder `OUT.part`: a native trace for each finished sequence, each with the capture's key among its notes.
#[derive(Debug)]
pub(super) struct Parts {
    folder: PathBuf,
    key: String,
    lock: Lock,
    /// Whether parts of another capture were thrown away.
    pub(super) replaced: bool,
}

impl Parts {
    /// Opens the folder that goes with the trace `out`, for this process alone. What is in it counts if the model, the
    /// sequences and the options are the same; otherwise it is removed.
    pub(super) fn open(
        out: &Path,
        model: &Model,
        name: &str,
        sequences: &[Sequence],
        options: Options,
    ) -> Result<Self> {
        let mut folder = out.as_os_str().to_owned();
        folder.push(".part");
        let folder = PathBuf::from(folder);
        let failed = |error: &std::io::Error| Error::io(&folder, error);
        let made = match fs::create_dir(&folder) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(&error)),
        };
        // A folder of somebody else's must not even get a lock.
        let used = || fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
        if !made && used() && ![KEY, LOCK].iter().any(|name| folder.join(name).exists()) {
            let error = format!("expected the folder of an interrupted capture, found no {KEY} in it");
            return Err(Error::in_file(&folder, error));
        }
        let lock = Lock::take(folder.join(LOCK), out)?;
        let key = key(model, name, sequences, options);
        let found = fs::read_to_string(folder.join(KEY)).ok();
        let replaced = found.as_ref().is_some_and(|found| *found != key);
        if replaced {
            clear(&folder)?;
        }
        if found.as_ref() != Some(&key) {
            file::replace(&folder.join(KEY), |out| out.write_all(key.as_bytes()))?;
        }
        Ok(Self { folder, key, lock, replaced })
    }

    fn path(&self, sequence: usize) -> PathBuf {
        self.folder.join(format!("{sequence}.safetensors"))
    }

    /// What a part says of itself.
    fn mark(&self, sequence: usize) -> String {
        format!("Sequence {sequence} of capture {}.", self.key)
    }

    /// Whether a sequence is finished.
    pub(super) fn has(&self, sequence: usize) -> bool {
        self.path(sequence).exists()
    }

    /// Keeps a finished sequence.
    pub(super) fn keep(&self, sequence: usize, trace: Trace) -> Result<()> {
        Ok(native::write(&Trace { notes: vec![self.mark(sequence)], ..trace }, &self.path(sequence))?)
    }

    /// A finished sequence.
    pub(super) fn read(&self, sequence: usize) -> Result<Trace> {
        let path = self.path(sequence);
        let trace = native::read(&path)?;
        if !trace.notes.contains(&self.mark(sequence)) {
            return Err(Error::in_file(
                &path,
                "expected a part of this capture, found one of another: remove the folder",
            ));
        }
        Ok(trace)
    }

    /// Removes the folder, once the trace is written.
    pub(super) fn remove(self) -> Result<()> {
        clear(&self.folder)?;
        let key = self.folder.join(KEY);
        fs::remove_file(&key).map_err(|error| Error::io(&key, &error))?;
        // The lock goes last: whoever comes before finds it, whoever comes after finds nothing.
        self.lock.remove()?;
        // It stays where a capture that began in between has its lock there.
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }
}

/// Removes the parts in a folder.
fn clear(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    for entry in entries.map_err(|error| Error::io(folder, &error))? {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            fs::remove_file(&path).map_err(|error| Error::io(&path, &error))?;
        }
    }
    Ok(())
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
