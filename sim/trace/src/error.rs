//! The one error of this crate: a sentence that says where the input is wrong and what was expected there.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Bad input or a failed file operation. Printed as one sentence, `FILE: POSITION: what is wrong`; the command exits with code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    file: Option<PathBuf>,
    position: Option<String>,
    message: String,
}

impl Error {
    /// An error without a file, such as an impossible option.
    pub fn new(message: impl Into<String>) -> Self {
        Self { file: None, position: None, message: message.into() }
    }

    /// An error about the contents of `file`; the message says what was expected and what was found.
    pub fn in_file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: Some(file.into()), position: None, message: message.into() }
    }

    /// A failed operation on `file`.
    pub fn io(file: &Path, error: &std::io::Error) -> Self {
        Self::in_file(file, error.to_string())
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

/// Always one line: messages may quote files, and parsers draw pictures.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", one_line(&file.to_string_lossy()))?;
        }
        if let Some(position) = &self.position {
            write!(f, "{}: ", one_line(position))?;
        }
        f.write_str(&one_line(&self.message))
    }
}

/// The text without control characters; a space where they stood.
fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let parts = text.split(char::is_control).map(str::trim).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ").into()
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_line_whatever_it_quotes() {
        let error =
            Error::new("syntax error:\n  |\n1 | \u{1b}[31mx\r\n").at("key \"a\nb\"").or_file(Path::new("c\td.npy"));
        assert_eq!(error.to_string(), "c d.npy: key \"a b\": syntax error: | 1 | [31mx");
    }

    #[test]
    fn reads_from_the_outside_in() {
        let error = Error::new("id 99 is not below 32").at("token 7").at("layer 3").or_file(Path::new("a.npz"));
        assert_eq!(error.to_string(), "a.npz: layer 3, token 7: id 99 is not below 32");
        assert_eq!(error.or_file(Path::new("b")).to_string(), "a.npz: layer 3, token 7: id 99 is not below 32");
    }
}
