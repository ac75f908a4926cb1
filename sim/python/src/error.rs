//! Exceptions: one for each kind of error, all of them a `CptrError`, which is a `ValueError`.

use cptr_trace::error::{Error, Kind};
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(cptr, CptrError, PyValueError, "What cptr refuses, in one sentence.");
create_exception!(cptr, InputError, CptrError, "A file or a value in it is not what it should be.");
create_exception!(cptr, FileError, CptrError, "An operation on a file failed.");
create_exception!(cptr, UnsupportedError, CptrError, "What is asked for is possible, but not here.");
create_exception!(cptr, UsageError, CptrError, "An argument, or arguments that do not go together.");
create_exception!(cptr, MemoryEngineError, CptrError, "A call that the memory engine refuses; it changed nothing.");

create_exception!(cptr, MemoryBusyError, MemoryEngineError, "A request that may be taken later.");

/// The exception of an error.
pub(crate) fn raise(error: &Error) -> PyErr {
    let sentence = error.to_string();
    match error.kind() {
        Kind::Io => FileError::new_err(sentence),
        Kind::Unsupported => UnsupportedError::new_err(sentence),
        Kind::Usage => UsageError::new_err(sentence),
        _ => InputError::new_err(sentence),
    }
}

/// The exception of an argument that is not what it should be.
pub(crate) fn usage(sentence: impl Into<String>) -> PyErr {
    UsageError::new_err(sentence.into())
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("CptrError", py.get_type::<CptrError>())?;
    module.add("InputError", py.get_type::<InputError>())?;
    module.add("FileError", py.get_type::<FileError>())?;
    module.add("UnsupportedError", py.get_type::<UnsupportedError>())?;
    module.add("UsageError", py.get_type::<UsageError>())?;
    module.add("MemoryEngineError", py.get_type::<MemoryEngineError>())?;
    module.add("MemoryBusyError", py.get_type::<MemoryBusyError>())
}
