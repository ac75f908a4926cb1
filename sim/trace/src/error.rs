//! The one error of this crate: a sentence that says where the input is wrong and what was expected there.
//!
//! ```
//! use cptr_trace::error::{Error, Kind};
//!
//! let error = Error::new("id 99 is not below 32").at("token 7").or_file("a.npz".as_ref());
//! assert_eq!(error.to_string(), "a.npz: token 7: id 99 is not below 32");
//! assert_eq!(error.kind(), Kind::Input);
//! ```

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Longest message that is printed, in characters: what files say about themselves may be long.
pub const MAX_MESSAGE: usize = 300;

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A file or a value in it is not what it should be.
    Input,
    /// An operation on a file failed.
    Io,
    /// What is asked for is possible, but not here.
    Unsupported,
    /// An option, or options that do not go together.
    Usage,
}

/// Bad input or a failed file operation. Printed as one sentence, `FILE: POSITION: what is wrong`; the command exits
/// with code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    file: Option<PathBuf>,
    position: Option<String>,
    message: String,
}

impl Error {
    /// An error about the input.
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Input, file: None, position: None, message: message.into() }
    }

    /// An error about an option.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::new(message) }
    }

    /// Something that cannot be done here.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self { kind: Kind::Unsupported, ..Self::new(message) }
    }

    /// An error about the contents of `file`; the message says what was expected and what was found.
    pub fn in_file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: Some(file.into()), ..Self::new(message) }
    }

    /// A failed operation on `file`.
    pub fn io(file: &Path, error: &std::io::Error) -> Self {
        Self { kind: Kind::Io, ..Self::in_file(file, error.to_string()) }
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Adds the place inside the file, outermost last: `at("token 7")`, then `at("layer 3")`, reads `layer 3, token 7`.
    #[must_use]
    pub fn at(mut self, position: impl fmt::Display) -> Self {
        self.position = Some(match self.position {
            None => position.to_string(),
            Some(inner) => format!("{position}, {inner}"),
        });
        self
    }

    /// Names the file where the code that found the error did not know it.
    #[must_use]
    pub fn or_file(mut self, file: &Path) -> Self {
        self.file.get_or_insert_with(|| file.into());
        self
    }
}

/// Always one line of at most [`MAX_MESSAGE`] characters that a terminal shows as they are: messages may quote files,
/// and parsers draw pictures.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        if let Some(file) = &self.file {
            text += &format!("{}: ", printable(&file.to_string_lossy()));
        }
        if let Some(position) = &self.position {
            text += &format!("{}: ", printable(position));
        }
        text += &printable(&one_line(&self.message));
        f.write_str(&shortened(&text))
    }
}

/// The lines of a text behind each other, each without spaces around it.
fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(['\n', '\r', '\t']) {
        return text.into();
    }
    let parts = text.split(['\n', '\r', '\t']).map(str::trim).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ").into()
}

/// At most [`MAX_MESSAGE`] characters of a text. What is left out is in its middle: the beginning says where, the end
/// what was expected, and between them may stand a value of any length.
fn shortened(text: &str) -> Cow<'_, str> {
    if text.char_indices().nth(MAX_MESSAGE).is_none() {
        return text.into();
    }
    let (begin, end) = (MAX_MESSAGE * 3 / 5, MAX_MESSAGE * 2 / 5 - 1);
    let until = text.char_indices().nth(begin).map_or(text.len(), |(at, _)| at);
    let from = text.char_indices().nth_back(end - 1).map_or(0, |(at, _)| at);
    format!("{}…{}", &text[..until], &text[from..]).into()
}

/// The text with control characters, and those that turn the direction of writing, shown as escapes: names in files are
/// foreign, and a terminal obeys them.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(obeyed) {
        return text.into();
    }
    text.chars()
        .fold(String::new(), |mut out, c| {
            if obeyed(c) {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
            out
        })
        .into()
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_line_whatever_it_quotes() {
        let error =
            Error::new("syntax error:\n  |\n1 | \u{1b}[31mx\r\n").at("key \"a\nb\"").or_file(Path::new("c\td.npy"));
        let shown = "c\\td.npy: key \"a\\nb\": syntax error: | 1 | \\u{1b}[31mx";
        assert_eq!(error.to_string(), shown);
    }

    #[test]
    fn is_never_long() {
        let long = Error::new(format!("found {} where 7 was expected", "ä".repeat(1 << 20))).at("line 1").to_string();
        assert_eq!(long.chars().count(), MAX_MESSAGE);
        assert!(long.starts_with("line 1: found ä") && long.ends_with("ä where 7 was expected"), "{long}");
        assert_eq!(Error::new("ä".repeat(MAX_MESSAGE)).to_string().chars().count(), MAX_MESSAGE);
    }

    #[test]
    fn foreign_names_are_shown_not_obeyed() {
        assert_eq!(printable("\u{1b}[2Jm\u{202e}"), "\\u{1b}[2Jm\\u{202e}");
        assert!(matches!(printable("plain ä"), Cow::Borrowed(_)));
    }

    #[test]
    fn reads_from_the_outside_in() {
        let error = Error::new("id 99 is not below 32").at("token 7").at("layer 3").or_file(Path::new("a.npz"));
        assert_eq!(error.to_string(), "a.npz: layer 3, token 7: id 99 is not below 32");
        assert_eq!(error.or_file(Path::new("b")).to_string(), "a.npz: layer 3, token 7: id 99 is not below 32");
        assert_eq!(Error::usage("x").at("y").or_file(Path::new("z")).kind(), Kind::Usage);
        assert_eq!(Error::io(Path::new("z"), &std::io::Error::other("x")).kind(), Kind::Io);
    }
}
