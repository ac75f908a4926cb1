//! Files that appear whole or not at all.
//!
//! ```
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("a.txt");
//! cptr_trace::file::replace(&path, |out| writeln!(out, "whole")).unwrap();
//! assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\n");
//! ```

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// The text of a file that people write, without the mark that some editors begin it with.
///
/// # Errors
/// What is no file (a folder, a device), or larger than `most` bytes, or no text.
pub fn text(path: &Path, most: u64) -> Result<String> {
    let wrong = |error: std::io::Error| Error::in_file(path, error.to_string());
    let about = std::fs::metadata(path).map_err(wrong)?;
    if !about.is_file() || about.len() > most {
        return Err(Error::in_file(path, format!("expected a file of at most {most} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(wrong)?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// How the names of temporary files begin and end; between them are [`RANDOM`] letters and digits.
const BEGIN: &str = ".cptr-";
const END: &str = ".tmp";
const RANDOM: usize = 6;

/// Writes `path` whole or not at all: to a temporary file beside it, then renamed. Of two processes that write the same
/// file the last one has it; they never mix. What replaces a file keeps its permissions, and a link stays a link.
///
/// # Errors
/// Any failed file operation, `write`'s own among them; a folder or a device in the place of the file.
pub fn replace(path: &Path, write: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<()>) -> Result<()> {
    Written::new(path, write)?.publish()
}

/// A file that is whole, and on the drive, but has no name yet; dropped, it leaves nothing. For commands that write
/// several files: all are written before the first is published.
#[derive(Debug)]
pub struct Written {
    file: NamedTempFile,
    path: PathBuf,
}

impl Written {
    /// Writes what is to be published as `path`.
    ///
    /// # Errors
    /// As [`replace`].
    pub fn new(path: &Path, write: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<()>) -> Result<Self> {
        let failed = |error: &std::io::Error| Error::io(path, error);
        let there = std::fs::metadata(path).ok();
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            return Err(failed(&std::io::Error::other("expected a file to replace, found a folder or a device")));
        }
        // A link is followed, or it would be replaced.
        let target = if there.is_some() { path.canonicalize().map_err(|error| failed(&error))? } else { path.into() };
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sweep(folder);
        let write = || {
            let mut file = temporary(folder)?;
            let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
            write(&mut out)?;
            out.flush()?;
            drop(out);
            if let Some(there) = &there {
                file.as_file().set_permissions(there.permissions())?;
            }
            // Or a name could outlive what it stands for when the power fails.
            file.as_file().sync_all()?;
            Ok(file)
        };
        let file = write().map_err(|error| failed(&error))?;
        Ok(Self { file, path: target })
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// If it cannot be renamed; then nothing is left of it.
    pub fn publish(self) -> Result<()> {
        let Self { file, path } = self;
        file.persist(&path).map_err(|error| Error::io(&path, &error.error))?;
        Ok(())
    }
}

/// A new file that this process holds locked: others see that its writer lives.
fn temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(BEGIN).suffix(END).rand_bytes(RANDOM);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    loop {
        let file = builder.tempfile_in(folder)?;
        // Another process may have swept it before it was locked. Where there are no locks nobody sweeps.
        if file.as_file().lock().is_err() || file.path().exists() {
            return Ok(file);
        }
    }
}

/// Removes temporary files of processes that were ended while they wrote: those that nobody holds locked. What cannot
/// be removed stays.
fn sweep(folder: &Path) {
    let ours = |name: &OsStr| {
        let random = name.to_str().and_then(|name| name.strip_prefix(BEGIN)?.strip_suffix(END));
        random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| ours(&entry.file_name())) {
        let path = entry.path();
        // Of a pipe opening would wait for the other end.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let opened = is_file.then(|| OpenOptions::new().write(true).open(&path)).and_then(std::io::Result::ok);
        if opened.is_some_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        replace(&path, |out| out.write_all(b"old")).unwrap();
        let failed = replace(&path, |out| {
            out.write_all(b"new")?;
            Err(std::io::Error::other("full"))
        });
        assert!(failed.unwrap_err().to_string().ends_with("out: full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_dead_writer_left_is_swept_and_a_living_one_is_not_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        for name in [".cptr-Abc123.tmp", ".cptr-other.tmp", ".cptr-Abc12é.tmp", "mine.tmp"] {
            std::fs::write(folder.path().join(name), "half").unwrap();
        }
        let living = Written::new(&path, |out| out.write_all(b"first")).unwrap();
        assert!(!path.exists());
        replace(&path, |out| out.write_all(b"second")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        living.publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        drop(Written::new(&path, |out| out.write_all(b"third")).unwrap());
        let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".cptr-Abc12é.tmp", ".cptr-other.tmp", "mine.tmp", "out"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_links_permissions_stay_and_devices_are_left_alone() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("out"), folder.path().join("link"));
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        symlink("out", &link).unwrap();
        replace(&link, |out| out.write_all(b"new")).unwrap();
        assert!(link.is_symlink() && std::fs::read(&path).unwrap() == b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for wrong in [Path::new("/dev/null"), folder.path()] {
            let error = replace(wrong, |out| out.write_all(b"new")).unwrap_err().to_string();
            assert!(error.ends_with("expected a file to replace, found a folder or a device"), "{error}");
        }
    }
}
