//! Files to import, wherever they lie: on their own, in a folder, in a tar archive, compressed with gzip or zstd, or
//! coming in.

use std::fs;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes at the beginning of a file that an importer may look at to recognise its format.
pub const HEAD: usize = 1 << 16;
/// Bytes that one archive may inflate to before it is refused as a bomb.
pub const MAX_INFLATED: u64 = 4 << 30;
/// Folders inside folders that are followed.
const MAX_DEPTH: usize = 16;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];

/// What editors put before UTF-8 text.
const BOM: &[u8] = b"\xEF\xBB\xBF";
/// How the stand-in for a file begins that Git LFS did not fetch.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// One file, not read yet.
pub struct Entry<'a> {
    path: PathBuf,
    head: Vec<u8>,
    content: Content<'a>,
}

enum Content<'a> {
    File(fs::File),
    /// What follows the head.
    Stream(&'a mut dyn Read),
}

impl Entry<'_> {
    /// Path of the file; inside an archive, the archive's path followed by the one within. For messages and names.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first bytes, at most [`HEAD`], without a byte-order mark.
    pub fn head(&self) -> &[u8] {
        self.head.strip_prefix(BOM).unwrap_or(&self.head)
    }

    /// The whole file in memory.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn bytes(self) -> Result<Vec<u8>> {
        let Self { path, head, content } = self;
        let mut bytes = head;
        let read = match content {
            Content::File(mut file) => {
                bytes.clear();
                file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes))
            }
            Content::Stream(rest) => rest.read_to_end(&mut bytes),
        };
        read.map_err(|error| Error::io(&path, &error))?;
        if bytes.starts_with(BOM) {
            bytes.drain(..BOM.len());
        }
        Ok(bytes)
    }

    /// An open file with the contents, for readers that seek or map: the file itself, or a temporary one without a
    /// name.
    ///
    /// # Errors
    /// If it cannot be read or the temporary file not be written.
    pub fn file(self) -> Result<fs::File> {
        let Self { path, head, content } = self;
        let file = match content {
            Content::File(file) => Ok(file),
            Content::Stream(rest) => tempfile::tempfile().and_then(|mut file| {
                file.write_all(&head)?;
                io::copy(rest, &mut file)?;
                Ok(file)
            }),
        };
        let rewound = file.and_then(|mut file| file.seek(SeekFrom::Start(0)).map(|_| file));
        rewound.map_err(|error| Error::io(&path, &error))
    }
}

/// Calls `visit` with every file under `path` in the order of their names, unpacking archives; files of folders first.
///
/// # Errors
/// Those of `visit`, and files and archives that cannot be read, or inflate beyond `max_inflated` bytes.
pub(super) fn visit(path: &Path, max_inflated: u64, visit: &mut dyn FnMut(Entry<'_>) -> Result<()>) -> Result<()> {
    if is_standard_input(path) {
        return visit_input(max_inflated, visit);
    }
    let about = fs::metadata(path).map_err(|error| Error::io(path, &error))?;
    if about.is_dir() {
        return visit_folder(path, max_inflated, 0, visit);
    }
    if !about.is_file() {
        return Err(Error::in_file(path, "expected a file or a folder, found a device or a pipe"));
    }
    if about.len() == 0 {
        return Err(Error::in_file(path, "expected a routing trace, found an empty file"));
    }
    visit_file(path, max_inflated, visit)
}

fn visit_folder(
    folder: &Path,
    max_inflated: u64,
    depth: usize,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<()>,
) -> Result<()> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>();
    let mut paths = list().map_err(|error| Error::io(folder, &error))?;
    paths.sort();
    let (folders, files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    for file in files.iter().filter(|path| path.is_file()) {
        visit_file(file, max_inflated, visit)?;
    }
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    for inner in folders.iter().filter(|path| !path.is_symlink() && !hidden(path)) {
        if depth == MAX_DEPTH {
            return Err(Error::in_file(inner, format!("expected at most {MAX_DEPTH} folders inside each other")));
        }
        visit_folder(inner, max_inflated, depth + 1, visit)?;
    }
    Ok(())
}

/// What stands for the standard input.
pub(super) fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

/// The standard input, through a temporary file: importers seek.
fn visit_input(max_inflated: u64, visit: &mut dyn FnMut(Entry<'_>) -> Result<()>) -> Result<()> {
    let path = Path::new("standard input");
    let fail = |error: io::Error| Error::io(path, &error);
    let mut file = tempfile::tempfile().map_err(fail)?;
    let read = io::copy(&mut io::stdin().lock().take(max_inflated.saturating_add(1)), &mut file).map_err(fail)?;
    if read > max_inflated {
        return Err(Error::in_file(path, format!("expected at most {max_inflated} bytes, found more")));
    }
    if read == 0 {
        return Err(Error::in_file(path, "expected a routing trace, found nothing"));
    }
    file.seek(SeekFrom::Start(0)).map_err(fail)?;
    visit_open(path, file, max_inflated, visit)
}

fn visit_file(path: &Path, max_inflated: u64, visit: &mut dyn FnMut(Entry<'_>) -> Result<()>) -> Result<()> {
    let file = fs::File::open(path).map_err(|error| Error::io(path, &error))?;
    visit_open(path, file, max_inflated, visit)
}

/// A file at its beginning.
fn visit_open(
    path: &Path,
    mut file: fs::File,
    max_inflated: u64,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<()>,
) -> Result<()> {
    let fail = |error: io::Error| Error::io(path, &error);
    let head = read_head(&mut file).map_err(fail)?;
    if head.starts_with(LFS) {
        return Err(Error::in_file(
            path,
            "expected a recording, found a Git LFS pointer: fetch the file with git lfs pull",
        ));
    }
    file.seek(SeekFrom::Start(0)).map_err(fail)?;
    let mut inflate =
        |name, inner| visit_inflated(path, name, Limited { inner, left: max_inflated, max: max_inflated }, visit);
    if head.starts_with(&ZSTD_MAGIC) {
        let inner: Box<dyn Read> = Box::new(zstd::Decoder::new(file).map_err(fail)?);
        return inflate("zstd", inner);
    }
    if head.starts_with(&GZIP_MAGIC) {
        return inflate("gzip", Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(HEAD, file))));
    }
    if is_tar(&head) {
        return visit_tar(path, BufReader::with_capacity(HEAD, file), visit);
    }
    visit(Entry { path: path.into(), head, content: Content::File(file) })
}

/// What is compressed: an archive or a file.
fn visit_inflated(
    path: &Path,
    format: &str,
    inflated: impl Read,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<()>,
) -> Result<()> {
    let mut inflated = BufReader::with_capacity(HEAD, inflated);
    let head = read_head(&mut inflated).map_err(|error| broken(path, format, &error))?;
    if is_tar(&head) {
        return visit_tar(path, head.chain(inflated), visit);
    }
    visit(Entry { path: path.with_extension(""), head: head.clone(), content: Content::Stream(&mut inflated) })
}

fn visit_tar(archive: &Path, reader: impl Read, visit: &mut dyn FnMut(Entry<'_>) -> Result<()>) -> Result<()> {
    let fail = |error: io::Error| broken(archive, "tar", &error);
    for entry in tar::Archive::new(reader).entries().map_err(fail)? {
        let mut entry = entry.map_err(fail)?;
        if !entry.header().entry_type().is_file() || entry.size() == 0 {
            continue;
        }
        let path = archive.join(entry.path().map_err(fail)?.to_string_lossy().trim_start_matches('/'));
        let head = read_head(&mut entry).map_err(fail)?;
        visit(Entry { path, head, content: Content::Stream(&mut entry) })?;
    }
    Ok(())
}

fn broken(path: &Path, format: &str, error: &io::Error) -> Error {
    Error::in_file(path, format!("expected a whole {format} archive: {error}"))
}

fn read_head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// A reader that fails after so many bytes, where [`Read::take`] would end quietly.
struct Limited<R> {
    inner: R,
    left: u64,
    max: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::other(format!("it inflates to more than {} bytes, which is the limit", self.max))
        })?;
        Ok(n)
    }
}

/// Whether a file is an archive or compressed. False where it cannot be read: [`visit`] says why.
pub(super) fn is_packed(path: &Path) -> bool {
    let head = fs::File::open(path).and_then(|mut file| read_head(&mut file)).unwrap_or_default();
    head.starts_with(&ZSTD_MAGIC) || head.starts_with(&GZIP_MAGIC) || is_tar(&head)
}
