//! What a router would choose of its logits, for who holds a model to its description.

use cptr_trace::router::{Row, Score};
use cptr_trace::{NO_EXPERT, Router};
use numpy::{PyArray2, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::error::{raise, usage};

/// Routers as their text says, with what a layer adds.
struct Layer<'a> {
    router: Router,
    bias: &'a [f32],
    scale: &'a [f32],
}

impl Layer<'_> {
    fn row<'r>(&'r self, logits: &'r [f32]) -> Row<'r> {
        Row { logits, bias: self.bias, scale: self.scale }
    }
}

fn read<'a>(router: &str, scored: usize, bias: &'a [f32], scale: &'a [f32]) -> PyResult<Layer<'a>> {
    let router: Router = router.parse().map_err(|error| raise(&error))?;
    for (name, list) in [("bias", bias), ("expert_scale", scale)] {
        if !list.is_empty() && list.len() != scored {
            return Err(usage(format!("{name}: expected {scored} values, found {}", list.len())));
        }
    }
    if !scored.is_multiple_of(usize::from(router.groups.max(1))) {
        return Err(usage(format!("groups: expected a divisor of {scored} experts, found {}", router.groups)));
    }
    Ok(Layer { router, bias, scale })
}

/// The text of a router as it is written down, whatever way it was said.
#[pyfunction]
pub(crate) fn canonical(router: &str) -> PyResult<String> {
    Ok(router.parse::<Router>().map_err(|error| raise(&error))?.to_string())
}

/// Experts `[N, k]`, best first, and their weights, that a router chooses of logits `[N, S]`; 65,535 where it takes
/// fewer.
#[pyfunction]
#[pyo3(signature = (router, logits, k, bias=Vec::new(), expert_scale=Vec::new()))]
#[expect(clippy::type_complexity, reason = "two arrays")]
pub(crate) fn choose<'py>(
    py: Python<'py>,
    router: &str,
    logits: PyReadonlyArray2<'py, f32>,
    k: usize,
    bias: Vec<f32>,
    expert_scale: Vec<f32>,
) -> PyResult<(Bound<'py, PyArray2<u16>>, Bound<'py, PyArray2<f32>>)> {
    let [rows, scored] = [logits.shape()[0], logits.shape()[1]];
    if !(1..=scored).contains(&k) {
        return Err(usage(format!("k: expected 1 to {scored}, found {k}")));
    }
    let layer = read(router, scored, &bias, &expert_scale)?;
    let values: Vec<f32> = logits.as_array().iter().copied().collect();
    let (mut ids, mut weights) = (vec![NO_EXPERT; rows * k], vec![0.0_f32; rows * k]);
    for (at, row) in values.chunks_exact(scored).enumerate() {
        let choice = layer.router.choose(layer.row(row), k);
        for (i, (&id, &weight)) in choice.ids.iter().zip(&choice.weights).enumerate() {
            (ids[at * k + i], weights[at * k + i]) = (id, weight as f32);
        }
    }
    let shape = |error: numpy::ndarray::ShapeError| usage(error.to_string());
    let ids = numpy::ndarray::Array2::from_shape_vec((rows, k), ids).map_err(shape)?;
    let weights = numpy::ndarray::Array2::from_shape_vec((rows, k), weights).map_err(shape)?;
    Ok((PyArray2::from_owned_array(py, ids), PyArray2::from_owned_array(py, weights)))
}

/// The weights `[N, k]` that a router gives to these experts `[N, k]`, whichever it would choose.
#[pyfunction]
#[pyo3(signature = (router, logits, ids, bias=Vec::new(), expert_scale=Vec::new()))]
pub(crate) fn weights<'py>(
    py: Python<'py>,
    router: &str,
    logits: PyReadonlyArray2<'py, f32>,
    ids: PyReadonlyArray2<'py, i64>,
    bias: Vec<f32>,
    expert_scale: Vec<f32>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let (rows, scored, k) = (logits.shape()[0], logits.shape()[1], ids.shape()[1]);
    let layer = read(router, scored, &bias, &expert_scale)?;
    let ids: Vec<i64> = ids.as_array().iter().copied().collect();
    let known = |&id: &i64| id >= 0 && (id as usize) < scored;
    if ids.len() != rows * k || !ids.iter().all(known) {
        return Err(usage(format!("ids: expected {rows} rows of ids below {scored}, found others")));
    }
    let values: Vec<f32> = logits.as_array().iter().copied().collect();
    let mut weights = Vec::with_capacity(ids.len());
    for (row, set) in values.chunks_exact(scored).zip(ids.chunks_exact(k)) {
        let set: Vec<u16> = set.iter().map(|&id| id as u16).collect();
        weights.extend(layer.router.weights(layer.row(row), &set).into_iter().map(|weight| weight as f32));
    }
    let weights = numpy::ndarray::Array2::from_shape_vec((rows, k), weights);
    Ok(PyArray2::from_owned_array(py, weights.map_err(|error| usage(error.to_string()))?))
}

/// How many of the sets `[N, k]` the router would choose of the logits `[N, S]`, up to scores that lie nearer to each
/// other than `tolerance` times the largest logit. Negative ids are no experts.
#[pyfunction]
#[pyo3(signature = (router, logits, ids, bias=Vec::new(), tolerance=1e-5))]
pub(crate) fn explained(
    router: &str,
    logits: PyReadonlyArray2<'_, f32>,
    ids: PyReadonlyArray2<'_, i64>,
    bias: Vec<f32>,
    tolerance: f64,
) -> PyResult<usize> {
    let [rows, scored] = [logits.shape()[0], logits.shape()[1]];
    let k = ids.shape()[1];
    if ids.shape()[0] != rows {
        return Err(usage(format!("ids: expected {rows} rows, found {}", ids.shape()[0])));
    }
    let layer = read(router, scored, &bias, &[])?;
    let values: Vec<f32> = logits.as_array().iter().copied().collect();
    let ids: Vec<i64> = ids.as_array().iter().copied().collect();
    let mut explained = 0;
    for (row, set) in values.chunks_exact(scored).zip(ids.chunks_exact(k)) {
        let set: Vec<u16> = set.iter().filter_map(|&id| u16::try_from(id).ok()).collect();
        if set.iter().any(|&id| usize::from(id) >= scored) {
            continue;
        }
        explained += usize::from(explains(&layer, row, &set, tolerance));
    }
    Ok(explained)
}

fn explains(layer: &Layer<'_>, logits: &[f32], set: &[u16], tolerance: f64) -> bool {
    let row = layer.row(logits);
    if matches!(layer.router.score, Score::SparseMixer { .. }) {
        let chosen = layer.router.choose(row, set.len()).ids;
        return chosen.len() == set.len() && chosen.iter().all(|id| set.contains(id));
    }
    let scores = layer.router.selection_scores(row);
    let least = set.iter().map(|&id| scores[usize::from(id)]).fold(f64::INFINITY, f64::min);
    let others = (0..scores.len() as u16).filter(|id| !set.contains(id));
    let best = others.map(|id| scores[usize::from(id)]).fold(f64::NEG_INFINITY, f64::max);
    let largest = logits.iter().filter(|z| z.is_finite()).fold(1.0_f32, |most, z| most.max(z.abs()));
    least > f64::NEG_INFINITY && best <= least + tolerance * f64::from(largest)
}
