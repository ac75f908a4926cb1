//! What the commands answer, and the names that they take.

use cptr_hw_model::dram::presets;
use cptr_hw_model::{Model, System};
use cptr_sim::strategy::{KindRow, PRESETS, Parameter, kinds};
use cptr_trace::import::IMPORTERS;
use pyo3::prelude::*;
use serde_json::{Value, json};

use crate::error::raise;
use crate::trace;

/// Runs a command of `cptr` on a recording in memory, or on what its arguments name: the JSON that `--json` prints, and
/// the text.
#[pyfunction]
#[pyo3(signature = (arguments, given=None))]
pub(crate) fn answer(
    py: Python<'_>,
    arguments: Vec<String>,
    given: Option<&Bound<'_, PyAny>>,
) -> PyResult<(String, String)> {
    let given = given.map(trace::recording).transpose()?;
    let answer = py.detach(|| cptr_cli::answer(&arguments, given)).map_err(|error| raise(&error))?;
    Ok((answer.json.to_string(), answer.text))
}

/// The names that a kind of argument takes, with what they mean, as JSON: strategies, presets, importers, systems,
/// models, devices.
#[pyfunction]
pub(crate) fn lists() -> String {
    let parameter = |p: &Parameter| {
        let unit = p.unit.to_string();
        json!({"name": p.name, "default": p.default_text(), "unit": unit, "help": p.summary})
    };
    let kind = |kind: KindRow| {
        let parameters: Vec<Value> = kind.parameters.iter().map(parameter).collect();
        json!({
            "axis": kind.axis, "name": kind.name, "help": kind.summary, "needs": kind.needs.to_string(),
            "sees_future": kind.sees_future, "slow": kind.slow, "parameters": parameters,
        })
    };
    let presets = PRESETS.iter().map(|p| json!({"name": p.name, "help": p.summary, "parts": p.text}));
    json!({
        "strategies": kinds().into_iter().map(kind).collect::<Vec<_>>(),
        "presets": presets.collect::<Vec<_>>(),
        "formats": IMPORTERS.iter().map(|i| json!({"name": i.name(), "help": i.about()})).collect::<Vec<_>>(),
        "systems": System::all().iter().map(|s| json!({"name": s.name, "help": s.summary})).collect::<Vec<_>>(),
        "models": Model::all().iter().map(|m| json!({"name": m.name})).collect::<Vec<_>>(),
        "devices": presets::NAMES.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
    })
    .to_string()
}
