//! Texts that people write: machines, models, strategies, descriptions of logs.

use std::sync::LazyLock;

use cptr_hw_model::{ExpertRun, LayerWork, Model, System};
use cptr_sim::replay::{self, Budget, Plan};
use cptr_sim::strategy::Strategy;
use cptr_trace::Trace;
use cptr_trace::import::{self, Columns, Options};

use super::readers::{file, refusal};

pub(super) fn machine(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let system = match System::from_toml(text) {
        Err(error) => return refusal(&error),
        Ok(system) => system,
    };
    let model = Model::find("Qwen3-30B-A3B").expect("a known model");
    let runs = [ExpertRun::at(4.0); 2];
    let work = LayerWork { tokens: 1, gpu: &runs, scored: 128, tracked: 128, ..LayerWork::default() };
    let time = system.layer_time(model, &work);
    assert!(time.gpu_ps <= time.total_ps && time.ndp_ps <= time.total_ps, "{time:?}");
}

pub(super) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Model::from_config("a model", text) {
        Err(error) => refusal(&error),
        Ok(model) => assert!(model.experts_per_token <= model.experts, "{model:?}"),
    }
}

/// 40 tokens of 2 layers of 16 experts, with logits.
static TRACE: LazyLock<Trace> = LazyLock::new(|| {
    let text =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/trace.safetensors")).expect("the trace is there");
    cptr_trace::native::read(&file("trace.safetensors", &text)).expect("a trace")
});

pub(super) fn strategy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let strategy = match Strategy::parse(text) {
        Err(error) => return refusal(&error),
        Ok(strategy) => strategy,
    };
    let trace = &*TRACE;
    match replay::drive(trace, &Plan::new(Budget::Experts(6)), &strategy, &mut []) {
        Err(error) => refusal(&error),
        Ok(tally) => {
            let stalls: u64 = tally.layers.iter().map(|layer| layer.stalls).sum();
            assert!(stalls <= (trace.shape.tokens * trace.shape.layers * trace.shape.k) as u64, "{stalls} stalls");
        }
    }
}

/// A description, an empty line with a form feed, and the log.
pub(super) fn columns(data: &[u8]) {
    let at = data.iter().position(|&byte| byte == 0x0c).unwrap_or(data.len());
    let (description, log) = data.split_at(at);
    let Ok(description) = std::str::from_utf8(description) else { return };
    match Columns::parse(description) {
        Err(error) => refusal(&error),
        Ok(columns) => {
            let options = Options { columns: Some(columns), memory: Some(16 << 20), ..Options::default() };
            if let Err(error) = import::read(&file("log.csv", log.get(1..).unwrap_or_default()), &options) {
                refusal(&error);
            }
        }
    }
}
