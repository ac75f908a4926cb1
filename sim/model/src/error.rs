//! The error of this crate: that of [`cptr_trace`], which the libraries below this crate can be turned into.

use std::fmt;
use std::path::Path;

use cptr_trace::error::Kind;

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Bad input or a failed file operation, as one sentence: [`cptr_trace::Error`], either way by `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(cptr_trace::Error);

impl Error {
    /// See [`cptr_trace::Error::new`].
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(cptr_trace::Error::new(message))
    }

    /// See [`cptr_trace::Error::in_file`].
    pub(crate) fn in_file(file: &Path, message: impl Into<String>) -> Self {
        Self(cptr_trace::Error::in_file(file, message))
    }

    /// See [`cptr_trace::Error::io`].
    pub(crate) fn io(file: &Path, error: &std::io::Error) -> Self {
        Self(cptr_trace::Error::io(file, error))
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind()
    }

    /// See [`cptr_trace::Error::at`].
    #[must_use]
    pub(crate) fn at(self, position: impl fmt::Display) -> Self {
        Self(self.0.at(position))
    }

    /// See [`cptr_trace::Error::or_file`].
    #[must_use]
    pub(crate) fn or_file(self, file: &Path) -> Self {
        Self(self.0.or_file(file))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}

impl From<cptr_trace::Error> for Error {
    fn from(error: cptr_trace::Error) -> Self {
        Self(error)
    }
}

impl From<Error> for cptr_trace::Error {
    fn from(error: Error) -> Self {
        error.0
    }
}

/// The tensor library refuses only what this crate gets wrong.
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        match error {
            candle_core::Error::WithBacktrace { inner, .. } => (*inner).into(),
            error => Self::new(format!("tensor arithmetic: {error}")),
        }
    }
}

impl From<cptr_core::expert::ExpertError> for Error {
    fn from(error: cptr_core::expert::ExpertError) -> Self {
        Self::new(error.to_string())
    }
}
