//! `cptr._cptr`, the compiled part of the Python package: traces ([`trace`]), what the command answers ([`answer`]), a
//! strategy in the loop of a model ([`stepper`]), routers ([`router`]) and the memory engine ([`memory`]). What is only
//! Python's way of saying things is in `python/cptr`.

mod answer;
mod arrays;
mod error;
mod memory;
mod router;
mod stepper;
mod trace;

use pyo3::prelude::*;

/// The compiled part of cptr.
#[pymodule]
fn _cptr(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    error::register(module)?;
    module.add_class::<trace::PyTrace>()?;
    module.add_class::<trace::PyCounts>()?;
    module.add_class::<stepper::Stepper>()?;
    module.add_class::<memory::Memory>()?;
    module.add_function(wrap_pyfunction!(trace::read, module)?)?;
    module.add_function(wrap_pyfunction!(answer::answer, module)?)?;
    module.add_function(wrap_pyfunction!(answer::lists, module)?)?;
    module.add_function(wrap_pyfunction!(router::canonical, module)?)?;
    module.add_function(wrap_pyfunction!(router::choose, module)?)?;
    module.add_function(wrap_pyfunction!(router::weights, module)?)?;
    module.add_function(wrap_pyfunction!(router::explained, module)?)
}
