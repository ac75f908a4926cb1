//! Text files with their domains: what a model reads.
//!
//! ```
//! let folder = tempfile::tempdir()?;
//! std::fs::write(folder.path().join("law.txt"), "Nobody is above it.")?;
//! let texts = cptr_model::text::read(&[folder.path().join("law.txt")])?;
//! assert_eq!((texts[0].domain.as_str(), texts[0].text.as_str()), ("law", "Nobody is above it."));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A text file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Name of the file without its ending, or of the folder that it was found in.
    pub domain: String,
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// Reads text files, and all `.txt` files of folders and the folders below them, by name.
///
/// # Errors
/// If a file cannot be read or is no UTF-8, or if a folder has no `.txt` files.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    paths.iter().try_for_each(|path| add(path, &mut texts))?;
    Ok(texts)
}

fn add(path: &Path, texts: &mut Vec<Text>) -> Result<()> {
    if !path.is_dir() {
        texts.push(Text { domain: stem(path), path: path.into(), text: file(path)? });
        return Ok(());
    }
    let before = texts.len();
    let entries = std::fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut entries: Vec<PathBuf> = entries.map_err(|error| Error::io(path, &error))?;
    entries.sort_unstable();
    let domain = path.canonicalize().as_deref().map_or_else(|_| stem(path), stem);
    for entry in entries {
        if entry.is_dir() {
            add(&entry, texts)?;
        } else if entry.extension().is_some_and(|extension| extension == "txt") {
            let text = file(&entry)?;
            texts.push(Text { domain: domain.clone(), path: entry, text });
        }
    }
    if texts.len() == before {
        return Err(Error::in_file(path, "expected .txt files in the folder, found none"));
    }
    Ok(())
}

/// Reads a whole text file.
pub(crate) fn file(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, &error))?;
    String::from_utf8(bytes).map_err(|error| {
        Error::in_file(path, "expected text in UTF-8, found other bytes")
            .at(format!("byte {}", error.utf8_error().valid_up_to()))
    })
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
