//! What a model reads: the bundled held-out text, or files.

use std::path::{Path, PathBuf};

use cptr_trace::error::{Error, Result};
use include_dir::{Dir, include_dir};

use crate::ffi::Model;

static HELD_OUT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../data/held-out");

/// Arguments of all commands that read text.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Text to read: files, each a document, or folders, each a domain with its .txt files (default: the held-out text
    /// that comes with cptr)
    #[arg(long, value_name = "PATH", num_args = 1..)]
    text: Vec<PathBuf>,
    /// Tokens of each document that are read
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    pub(crate) length: u32,
    /// At most this many documents
    #[arg(long, value_name = "N")]
    documents: Option<usize>,
}

/// A text that the model reads from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// What kind of text it is.
    pub(crate) domain: String,
    /// Token ids, at least two.
    pub(crate) tokens: Vec<u32>,
}

impl Args {
    /// The documents in the order of their names.
    ///
    /// # Errors
    /// Files that cannot be read or are no UTF-8, folders without text, texts of less than two tokens.
    pub(crate) fn read(&self, model: &Model) -> Result<Vec<Document>> {
        let mut texts: Vec<(String, String)> = Vec::new();
        if self.text.is_empty() {
            let mut domains: Vec<_> = HELD_OUT.dirs().collect();
            domains.sort_by_key(|domain| domain.path());
            for domain in domains {
                let mut files: Vec<_> = domain.files().collect();
                files.sort_by_key(|file| file.path());
                let text = |file: &include_dir::File<'_>| file.contents_utf8().map(str::to_owned);
                texts.extend(files.into_iter().filter_map(text).map(|text| (stem(domain.path()), text)));
            }
        }
        self.text.iter().try_for_each(|path| add(path, &mut texts))?;
        texts.truncate(self.documents.unwrap_or(usize::MAX));
        let document = |(domain, text): (String, String)| {
            let mut tokens = model.tokenize(&text)?;
            tokens.truncate(self.length as usize);
            match tokens.len() {
                0 | 1 => {
                    Err(Error::new(format!("{domain}: expected a text of at least two tokens, found {}", tokens.len())))
                }
                _ => Ok(Document { domain, tokens }),
            }
        };
        texts.into_iter().map(document).collect()
    }
}

/// Adds a file, or the `.txt` files of a folder and of those below it, by name.
fn add(path: &Path, texts: &mut Vec<(String, String)>) -> Result<()> {
    let read = |path: &Path| {
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, &error))?;
        String::from_utf8(bytes).map_err(|_| Error::in_file(path, "expected text in UTF-8, found other bytes"))
    };
    if !path.is_dir() {
        texts.push((stem(path), read(path)?));
        return Ok(());
    }
    let before = texts.len();
    let entries = std::fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut entries: Vec<PathBuf> = entries.map_err(|error| Error::io(path, &error))?;
    entries.sort_unstable();
    for entry in entries {
        if entry.is_dir() {
            add(&entry, texts)?;
        } else if entry.extension().is_some_and(|extension| extension == "txt") {
            texts.push((stem(path), read(&entry)?));
        }
    }
    match texts.len() {
        count if count == before => Err(Error::in_file(path, "expected .txt files in the folder, found none")),
        _ => Ok(()),
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
