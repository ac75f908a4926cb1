//! Which experts run on the GPU, as `KTMoEWrapper` of kt-kernel takes it, for all layers in one file: a tensor of truth
//! values `gpu_experts_mask` `[L, E]`, a row of it for each wrapper.

use std::path::Path;

use safetensors::Dtype;

use super::torch::{Tensor, write_tensor};
use super::{Exporter, Options, Wanted};
use crate::error::{Error, Result};
use crate::import::Recording;

/// A mask.
pub(super) struct Ktransformers;

impl Exporter for Ktransformers {
    fn name(&self) -> &'static str {
        "ktransformers"
    }

    fn about(&self) -> &'static str {
        "gpu_experts_mask [L, E] of the --resident most wanted experts of each layer (.pt): KTMoEWrapper"
    }

    fn write(&self, recording: &Recording, options: &Options, path: &Path) -> Result<()> {
        let rows = Wanted::of(recording)?.all_layers()?;
        let experts = rows.first().map_or(0, Vec::len);
        let resident = options.resident.filter(|&resident| (1..=experts).contains(&resident)).ok_or_else(|| {
            let found = options.resident.map_or_else(|| "none".into(), |found| found.to_string());
            Error::usage(format!("expected --resident, 1 to {experts} experts of a layer, found {found}"))
        })?;
        let mut bytes = Vec::with_capacity(rows.len() * experts);
        for row in &rows {
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by_key(|&expert| (std::cmp::Reverse(row[expert]), expert));
            let mut mask = vec![0; experts];
            // A layer without experts has none on the GPU.
            order.iter().take(resident).filter(|_| row.iter().any(|&count| count > 0)).for_each(|&e| mask[e] = 1);
            bytes.extend(mask);
        }
        let shape = [rows.len(), experts];
        write_tensor(&Tensor { name: "gpu_experts_mask", dtype: Dtype::BOOL, shape: &shape, bytes }, path)
    }
}
