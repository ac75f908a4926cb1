//! Files that appear whole or not at all.
//!
//! ```
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("a.txt");
//! cptr_trace::file::replace(&path, |out| writeln!(out, "whole")).unwrap();
//! assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\n");
//! ```

use std::io::{BufWriter, Write};
use std::path::Path;

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

/// Writes `path` whole or not at all: to a temporary file beside it, then renamed.
///
/// # Errors
/// Any failed file operation, `write`'s own among them.
pub fn replace(path: &Path, write: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".cptr-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let write = || {
        let mut file = builder.tempfile_in(folder)?;
        let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        write(&mut out)?;
        out.flush()?;
        drop(out);
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| Error::io(path, &error))
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
}
