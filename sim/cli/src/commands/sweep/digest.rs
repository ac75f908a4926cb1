//! Digests of what points read, and of the program that runs them: figures of others may differ.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use cptr_trace::error::{Error, Result};

/// Characters of a digest that is shown.
const SHOWN: usize = 16;

/// The version of this program and a digest of its file: of builds between versions figures may differ too.
pub(super) fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let file = std::env::current_exe().ok().and_then(|path| of_file(&path).ok());
    file.map_or_else(|| version.into(), |digest| format!("{version} ({})", &digest[..SHOWN]))
}

/// A digest of texts, each with its end.
pub(super) fn of_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    shown(digest)
}

fn shown(digest: Sha256) -> String {
    let bytes = digest.finalize();
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text[..SHOWN].into()
}

fn of_file(path: &Path) -> Result<String> {
    let failed = |error: std::io::Error| Error::io(path, &error);
    let mut digest = Sha256::new();
    std::io::copy(&mut File::open(path).map_err(failed)?, &mut digest).map_err(failed)?;
    Ok(shown(digest))
}

/// Digests of the files and folders that points name; each is read once.
#[derive(Debug, Default)]
pub(super) struct Digests(HashMap<String, Option<String>>);

impl Digests {
    /// The digest of a file or folder.
    pub(super) fn of_source(&mut self, name: &str) -> Result<String> {
        if let Some(Some(known)) = self.0.get(name) {
            return Ok(known.clone());
        }
        let digest = of_path(Path::new(name))?;
        self.0.insert(name.into(), Some(digest.clone()));
        Ok(digest)
    }

    /// The digests of all files that the value of an option names, whole or as a part such as `file=NAME`.
    pub(super) fn of_value(&mut self, value: &str) -> Result<Vec<String>> {
        let parts = value.split([':', '=', '+', ',']).chain([value]);
        let mut found = Vec::new();
        for part in parts.filter(|part| part.contains(['.', '/']) && part.parse::<f64>().is_err()) {
            if !self.0.contains_key(part) {
                let path = Path::new(part);
                let digest = if path.exists() { Some(of_path(path)?) } else { None };
                self.0.insert(part.into(), digest);
            }
            found.extend(self.0.get(part).cloned().flatten());
        }
        Ok(found)
    }
}

/// A file, what a file in TOML names beside itself, or all files of a folder with their names.
fn of_path(path: &Path) -> Result<String> {
    if !path.is_dir() {
        let own = of_file(path)?;
        if path.extension().is_none_or(|extension| extension != "toml") {
            return Ok(own);
        }
        let text = file_text(path)?;
        let named = text.split('"').filter(|name| name.ends_with(".toml")).map(|name| path.with_file_name(name));
        let named = named.filter(|path| path.is_file()).map(|path| of_file(&path)).collect::<Result<Vec<_>>>()?;
        return Ok(of_texts(std::iter::once(&own).chain(&named).map(String::as_str)));
    }
    let failed = |error: std::io::Error| Error::io(path, &error);
    let entries = fs::read_dir(path).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    let mut entries: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
    entries.sort();
    let mut texts = Vec::new();
    for entry in entries {
        texts.push(entry.file_name().unwrap_or_default().to_string_lossy().into_owned());
        texts.push(of_path(&entry)?);
    }
    Ok(of_texts(texts.iter().map(String::as_str)))
}

fn file_text(path: &Path) -> Result<String> {
    cptr_trace::file::text(path, 1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        fs::write(at("a.csv"), "1").unwrap();
        fs::write(at("b.toml"), "device = \"c.toml\"").unwrap();
        fs::write(at("c.toml"), "x").unwrap();
        let all = || {
            let mut digests = Digests::default();
            let value = format!("bounded:file={}:eps=0.5+lru", at("a.csv"));
            let values = digests.of_value(&value).unwrap();
            let system = digests.of_value(&format!("{}:gpu.memory_gb=2", at("b.toml"))).unwrap();
            let folder = digests.of_source(&at("")).unwrap();
            assert_eq!((values.len(), system.len()), (1, 1));
            [values, system, vec![folder]].concat()
        };
        let before = all();
        assert_eq!(all(), before);
        fs::write(at("c.toml"), "y").unwrap();
        let after = all();
        assert_eq!((&after[0], after[1] == before[1], after[2] == before[2]), (&before[0], false, false));
        let mut digests = Digests::default();
        assert!(digests.of_source(&at("none")).unwrap_err().to_string().contains("none: "));
        assert!(digests.of_value("lru:eps=0.1,no/such.csv").unwrap().is_empty());
        assert_ne!(of_texts(["ab", "c"]), of_texts(["a", "bc"]));
        assert!(version().starts_with(env!("CARGO_PKG_VERSION")));
    }
}
