//! `logical_count`: how often each expert of each layer was chosen. SGLang takes it as `--init-expert-location`, where
//! EPLB makes places of it, and as `--kt-expert-frequency-file`, where the most wanted go to the GPU.

use std::path::Path;

use safetensors::Dtype;

use super::torch::{Tensor, write_tensor};
use super::{Exporter, Options, Wanted};
use crate::error::Result;
use crate::file;
use crate::import::Recording;

/// As JSON, `[L][E]`.
pub(super) struct Eplb;

impl Exporter for Eplb {
    fn name(&self) -> &'static str {
        "eplb"
    }

    fn about(&self) -> &'static str {
        "JSON logical_count [L][E]: SGLang's --init-expert-location"
    }

    fn write(&self, recording: &Recording, _: &Options, path: &Path) -> Result<()> {
        let counts = serde_json::json!({ "logical_count": Wanted::of(recording)?.all_layers()? });
        file::replace(path, |out| writeln!(out, "{counts}"))
    }
}

/// As SGLang's recorder writes it: a tensor `[1, L, E]`.
pub(super) struct Sglang;

impl Exporter for Sglang {
    fn name(&self) -> &'static str {
        "sglang"
    }

    fn about(&self) -> &'static str {
        "logical_count of SGLang's recorder (.pt): --init-expert-location, --kt-expert-frequency-file"
    }

    fn write(&self, recording: &Recording, _: &Options, path: &Path) -> Result<()> {
        let rows = Wanted::of(recording)?.all_layers()?;
        let shape = [1, rows.len(), rows.first().map_or(0, Vec::len)];
        let counts = rows.iter().flatten().map(|&count| i64::try_from(count).unwrap_or(i64::MAX));
        let bytes = counts.flat_map(i64::to_le_bytes).collect();
        write_tensor(&Tensor { name: "logical_count", dtype: Dtype::I64, shape: &shape, bytes }, path)
    }
}
