//! One writer for an output: a file in the output's folder that a process holds locked while it writes there.
//!
//! ```
//! use cptr_trace::lock::Lock;
//!
//! let folder = tempfile::tempdir().unwrap();
//! let (path, output) = (folder.path().join("out.lock"), folder.path().join("out"));
//! let lock = Lock::take(path.clone(), &output).unwrap();
//! assert!(Lock::take(path.clone(), &output).unwrap_err().to_string().contains("another process writes it"));
//! lock.remove().unwrap();
//! assert!(!path.exists());
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// Held until it is dropped. The system lets go of it when the process ends, however that happens: an interrupted run
/// locks nobody out.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    removed: bool,
}

impl Lock {
    /// Locks the file `path`; `output` is what the message is about.
    ///
    /// # Errors
    /// Another process holds it; a failed file operation.
    pub fn take(path: PathBuf, output: &Path) -> Result<Self> {
        let busy = || Error::in_file(output, "another process writes it: wait for it to end, or name another output");
        let failed = |error: &std::io::Error| Error::io(&path, error);
        let mut file = match OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
            Ok(file) => file,
            // The one before has just removed the folder.
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(busy()),
            Err(error) => return Err(failed(&error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy()),
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        // The one before may have removed the file between opening and locking: a lock on a file without a name keeps
        // nobody out.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mark = format!("{} {:?} {now}\n", std::process::id(), std::thread::current().id());
        let marked = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(mark.as_bytes()));
        marked.map_err(|error| failed(&error))?;
        match fs::read_to_string(&path) {
            Ok(found) if found != mark => Err(busy()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(busy()),
            // Some systems let nobody read a locked file.
            _ => Ok(Self { file, path, removed: false }),
        }
    }

    /// Removes the file, then lets go of it.
    ///
    /// # Errors
    /// A failed file operation.
    pub fn remove(mut self) -> Result<()> {
        self.removed = true;
        fs::remove_file(&self.path).map_err(|error| Error::io(&self.path, &error))
    }
}

/// What ends with an error leaves no file either; the system lets go of the lock after it is gone.
impl Drop for Lock {
    fn drop(&mut self) {
        if !self.removed {
            let _ = fs::remove_file(&self.path);
        }
        let _ = self.file.unlock();
    }
}
