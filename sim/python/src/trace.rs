//! Recordings: [`PyTrace`] and [`PyCounts`].

use std::path::PathBuf;

use cptr_trace::array::FloatArray;
use cptr_trace::import::Recording;
use cptr_trace::{NO_EXPERT, Phase, Router, Shape, Trace, counts, native};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{floats, lent, taken, values};
use crate::error::{raise, usage};

/// A routing trace: read by `read`, or made of arrays. Its arrays are lent, not copied; nobody can write to them.
#[pyclass(name = "Trace", module = "cptr", frozen)]
pub(crate) struct PyTrace(pub(crate) Trace);

/// Counts without order of tokens.
#[pyclass(name = "Counts", module = "cptr", frozen)]
pub(crate) struct PyCounts(counts::Counts);

/// The recording that an object of Python is.
pub(crate) fn recording(object: &Bound<'_, PyAny>) -> PyResult<Recording> {
    if let Ok(trace) = object.cast::<PyTrace>() {
        return Ok(Recording::Tokens(trace.get().0.clone()));
    }
    match object.cast::<PyCounts>() {
        Ok(counts) => Ok(Recording::Counts(counts.get().0.clone())),
        Err(_) => Err(usage("expected a Trace or Counts")),
    }
}

/// Reads a recording of any known format; `arguments` are its path and the options of reading, as the command has them.
#[pyfunction]
pub(crate) fn read(py: Python<'_>, arguments: Vec<String>) -> PyResult<Py<PyAny>> {
    match py.detach(|| cptr_cli::read(&arguments)).map_err(|error| raise(&error))? {
        Recording::Tokens(trace) => Ok(Py::new(py, PyTrace(trace))?.into_any()),
        Recording::Counts(counts) => Ok(Py::new(py, PyCounts(counts))?.into_any()),
    }
}

/// An item of a dictionary that is there and not None.
fn item<'py>(of: &Bound<'py, PyDict>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(of.get_item(name)?.filter(|item| !item.is_none()))
}

/// Whole numbers `[T]`.
fn per_token<T: numpy::Element + Copy>(of: &Bound<'_, PyDict>, name: &str) -> PyResult<Option<Vec<T>>> {
    let Some(array) = item(of, name)? else { return Ok(None) };
    let (values, shape) = values::<T>(name, &array)?;
    if shape.len() == 1 { Ok(Some(values)) } else { Err(usage(format!("{name}: expected one axis, found {shape:?}"))) }
}

#[pymethods]
impl PyTrace {
    /// Of arrays `[T, L, k]` and so on, whose types Python has seen to; `names` is what a file's metadata would say.
    #[new]
    fn new(py: Python<'_>, arrays: &Bound<'_, PyDict>, names: &Bound<'_, PyDict>) -> PyResult<Self> {
        let logits = item(arrays, "logits")?.map(|given| taken("logits", &given)).transpose()?;
        let text = |name: &str| item(names, name)?.map_or(Ok(String::new()), |text| text.extract());
        let number = |name: &str| item(names, name)?.map(|number| number.extract::<usize>()).transpose();
        let router = match text("router")? {
            text if text.is_empty() => Router::UNKNOWN,
            text => text.parse().map_err(|error| raise(&error))?,
        };
        let top_k = number("top_k")?;
        let (ids, [tokens, layers, k], chosen) = match (item(arrays, "experts")?, &logits, top_k) {
            (Some(given), ..) => {
                let (ids, shape) = values::<u16>("experts", &given)?;
                let shape = <[usize; 3]>::try_from(shape)
                    .map_err(|found| usage(format!("experts: expected [tokens, layers, k], found {found:?}")))?;
                (ids, shape, true)
            }
            (None, Some(logits), Some(k)) => {
                let [tokens, layers, scored] = logits.shape();
                if !(1..=scored.min(cptr_trace::MAX_TOP_K)).contains(&k) || scored > cptr_trace::MAX_EXPERTS {
                    return Err(usage(format!("top_k: expected 1 to {scored} experts, found {k}")));
                }
                (cptr_trace::top_k::of_logits(logits, k), [tokens, layers, k], false)
            }
            _ => return Err(usage("expected experts, or logits and top_k")),
        };
        if top_k.is_some_and(|wanted| wanted != k) {
            return Err(usage(format!("top_k: expected {k} as in experts, found {}", top_k.unwrap_or(0))));
        }
        let null = usize::from(router.null_experts);
        let recorded = logits.as_ref().map(|logits| logits.shape()[2].saturating_sub(null));
        let highest = ids.iter().filter(|&&id| id != NO_EXPERT).max().map_or(0, |&id| usize::from(id) + 1);
        let stated = number("experts")?;
        if let (Some(stated), Some(recorded)) = (stated, recorded)
            && stated != recorded
        {
            return Err(usage(format!("num_experts: expected {recorded} as in logits, found {stated}")));
        }
        let shape = Shape { tokens, layers, experts: stated.or(recorded).unwrap_or(highest), k };
        let float = |name: &str| item(arrays, name)?.map(|given| taken(name, &given)).transpose();
        let (weights, hidden) = (float("weights")?, float("hidden")?);
        for (name, array, size) in [("logits", &logits, None), ("weights", &weights, Some(k))] {
            let fits = |found: [usize; 3]| found[..2] == [tokens, layers] && size.is_none_or(|size| size == found[2]);
            if let Some(found) = array.as_ref().map(FloatArray::shape).filter(|&found| !fits(found)) {
                return Err(usage(format!("{name}: expected [{tokens}, {layers}, …], found {found:?}")));
            }
        }
        if let Some([t, l, _]) = hidden.as_ref().map(FloatArray::shape)
            && (t != tokens || l != 1 && l != layers)
        {
            return Err(usage(format!("hidden: expected [{tokens}, {layers} or 1, …], found [{t}, {l}, …]")));
        }
        let mut trace = Trace::of_ids(shape, ids);
        (trace.weights, trace.logits, trace.hidden) = (weights, logits, hidden);
        (trace.meta.router, trace.meta.model, trace.meta.source) = (router, text("model")?, text("source")?);
        if let Some(domains) = item(names, "domains")? {
            trace.meta.domains = domains.extract()?;
        }
        if let Some(ids) = item(names, "layer_ids")? {
            trace.meta.layer_ids = ids.extract()?;
        }
        if let Some(notes) = item(names, "notes")? {
            trace.notes = notes.extract()?;
        }
        for (name, field) in [("bias", &mut trace.bias), ("expert_scale", &mut trace.expert_scale)] {
            if let Some(given) = item(arrays, name)? {
                *field = Some(values::<f32>(name, &given)?.0);
            }
        }
        trace.token = per_token(arrays, "token")?;
        if let Some(sequence) = per_token::<u32>(arrays, "sequence")? {
            let mut at = 0;
            let from_0 = |token: usize| {
                at = if token > 0 && sequence[token] == sequence[token - 1] { at + 1 } else { 0 };
                at
            };
            trace.position = (0..sequence.len()).map(from_0).collect();
            trace.sequence = sequence;
        }
        if let Some(position) = per_token(arrays, "position")? {
            trace.position = position;
        }
        if let Some(phase) = per_token::<u8>(arrays, "phase")? {
            let of = |value| match value {
                0 => Ok(Phase::Prefill),
                1 => Ok(Phase::Decode),
                other => Err(usage(format!("phase: expected 0 (prefill) or 1 (decode), found {other}"))),
            };
            trace.phase = phase.into_iter().map(of).collect::<PyResult<_>>()?;
        } else {
            trace.phase.fill(Phase::Prefill);
        }
        if let Some(domain) = per_token(arrays, "domain")? {
            trace.domain = domain;
        }
        if !chosen {
            trace.evidence = Some(cptr_trace::Evidence::derived(router));
        }
        py.detach(|| trace.checked()).map(Self).map_err(|error| raise(&error))
    }

    /// Tokens, layers, experts of a layer, experts of a token.
    #[getter]
    fn shape(&self) -> (usize, usize, usize, usize) {
        let Shape { tokens, layers, experts, k } = self.0.shape;
        (tokens, layers, experts, k)
    }

    #[getter]
    fn experts<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let trace = &this.get().0;
        // SAFETY: the class is frozen: a trace in it neither moves nor changes.
        unsafe { lent(&trace.ids, [trace.shape.tokens, trace.shape.layers, trace.shape.k], this) }
    }

    #[getter]
    fn logits<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        // SAFETY: as for the experts.
        this.get().0.logits.as_ref().map(|array| unsafe { floats(array, this) }).transpose()
    }

    #[getter]
    fn weights<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        // SAFETY: as for the experts.
        this.get().0.weights.as_ref().map(|array| unsafe { floats(array, this) }).transpose()
    }

    #[getter]
    fn hidden<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        // SAFETY: as for the experts.
        this.get().0.hidden.as_ref().map(|array| unsafe { floats(array, this) }).transpose()
    }

    #[getter]
    fn bias<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        per_expert(this, this.get().0.bias.as_deref())
    }

    #[getter]
    fn expert_scale<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        per_expert(this, this.get().0.expert_scale.as_deref())
    }

    #[getter]
    fn token<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        // SAFETY: as for the experts.
        this.get().0.token.as_ref().map(|list| unsafe { lent(list, list.len(), this) }).transpose()
    }

    #[getter]
    fn sequence<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let list = &this.get().0.sequence;
        // SAFETY: as for the experts.
        unsafe { lent(list, list.len(), this) }
    }

    #[getter]
    fn position<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let list = &this.get().0.position;
        // SAFETY: as for the experts.
        unsafe { lent(list, list.len(), this) }
    }

    #[getter]
    fn phase<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let list = &this.get().0.phase;
        // SAFETY: `Phase` is a u8 by its representation.
        let bytes = unsafe { std::slice::from_raw_parts(list.as_ptr().cast::<u8>(), list.len()) };
        // SAFETY: as for the experts.
        unsafe { lent(bytes, bytes.len(), this) }
    }

    #[getter]
    fn domain<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let list = &this.get().0.domain;
        // SAFETY: as for the experts.
        unsafe { lent(list, list.len(), this) }
    }

    #[getter]
    fn model(&self) -> &str {
        &self.0.meta.model
    }

    #[getter]
    fn router(&self) -> String {
        self.0.meta.router.to_string()
    }

    #[getter]
    fn source(&self) -> &str {
        &self.0.meta.source
    }

    #[getter]
    fn domains(&self) -> Vec<String> {
        self.0.meta.domains.clone()
    }

    #[getter]
    fn layer_ids(&self) -> Vec<u32> {
        self.0.meta.layer_ids.clone()
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        self.0.notes.clone()
    }

    /// How far the router explains the recorded choice, in one sentence; None without logits.
    #[getter]
    fn evidence(&self) -> Option<String> {
        self.0.evidence.as_ref().map(ToString::to_string)
    }

    /// Sets that the router explains, and sets looked at; None without logits.
    #[getter]
    fn explained(&self) -> Option<(usize, usize)> {
        self.0.evidence.as_ref().map(|evidence| (evidence.explained, evidence.total))
    }

    /// Writes the native format; the file appears whole or not at all.
    fn write(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| native::write(&self.0, &path)).map_err(|error| raise(&error))
    }

    /// The first tokens.
    fn first(&self, tokens: usize) -> PyResult<Self> {
        if tokens == 0 { Err(usage("tokens: expected at least 1, found 0")) } else { Ok(Self(self.0.first(tokens))) }
    }

    fn __len__(&self) -> usize {
        self.0.shape.tokens
    }

    fn __repr__(&self) -> String {
        let Shape { tokens, layers, experts, k } = self.0.shape;
        let model = &self.0.meta.model;
        let model = if model.is_empty() { "unknown model" } else { model };
        let known = self.0.knowledge();
        format!("<cptr.Trace of {model}: {tokens} tokens, {layers} layers x {experts} experts, top-{k}; {known}>")
    }
}

/// Numbers `[L, S]`, lent.
fn per_expert<'py>(this: &Bound<'py, PyTrace>, list: Option<&[f32]>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let trace = &this.get().0;
    // SAFETY: as for the experts: the list is the trace's.
    list.map(|list| unsafe { lent(list, [trace.shape.layers, trace.scored()], this) }).transpose()
}

#[pymethods]
impl PyCounts {
    #[getter]
    fn source(&self) -> &str {
        &self.0.source
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        self.0.notes.clone()
    }

    /// For each table its name, model, experts per token, numbers of its layers, and counts by layer and expert.
    #[getter]
    #[expect(clippy::type_complexity, reason = "Python makes names of it")]
    fn rows(&self) -> Vec<(String, String, usize, Vec<u32>, Vec<Vec<u64>>)> {
        let of = |t: &counts::CountTable| (t.name.clone(), t.model.clone(), t.k, t.layer_ids.clone(), t.counts.clone());
        self.0.tables.iter().map(of).collect()
    }

    fn __repr__(&self) -> String {
        format!("<cptr.Counts: {} tables, {} pairs of layers>", self.0.tables.len(), self.0.pairs.len())
    }
}
