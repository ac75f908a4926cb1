//! Profiles of flash-moe (github.com/mu-hashmi/flash-moe, `profile_experts.py`): of each layer, in how many prompts
//! each expert was wanted, and the *universal* ones, which a share of the prompts wanted. A sequence is a prompt.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Exporter, Options, Wanted};
use crate::error::{Error, Result};
use crate::file;
use crate::import::Recording;

/// A profile.
pub(super) struct FlashMoe;

impl Exporter for FlashMoe {
    fn name(&self) -> &'static str {
        "flash-moe"
    }

    fn about(&self) -> &'static str {
        "JSON profile of flash-moe: experts that --threshold of the sequences want; --resident is its capacity"
    }

    fn write(&self, recording: &Recording, options: &Options, path: &Path) -> Result<()> {
        let Recording::Tokens(trace) = recording else {
            return Err(Error::new("expected a trace of tokens, whose sequences are prompts, found counts"));
        };
        if !(0.0..=1.0).contains(&options.threshold) {
            return Err(Error::usage(format!("expected a threshold of 0 to 1, found {}", options.threshold)));
        }
        let model = Wanted::of(recording)?.model;
        let (layers, experts) = (trace.shape.layers, trace.shape.experts);
        let mut prompts = vec![vec![0_u64; experts]; layers];
        // The last sequence, from 1, that wanted an expert.
        let mut last = vec![vec![0_u64; experts]; layers];
        let mut sequences = 0;
        for token in 0..trace.shape.tokens {
            sequences += u64::from(trace.starts_sequence(token));
            for layer in 0..layers {
                for &id in trace.chosen(token, layer) {
                    let Some(last) = last[layer].get_mut(usize::from(id)) else { continue };
                    prompts[layer][usize::from(id)] += u64::from(*last != sequences);
                    *last = sequences;
                }
            }
        }
        let least = ((options.threshold * sequences as f64) as u64).max(1);
        let profile = |counts: &[u64]| {
            let wanted = || counts.iter().enumerate().filter(|(_, count)| **count > 0);
            let universal: Vec<usize> =
                wanted().filter(|(_, count)| **count >= least).map(|(expert, _)| expert).collect();
            let all: Map<String, Value> = wanted().map(|(expert, &count)| (expert.to_string(), count.into())).collect();
            json!({ "universal": universal, "activation_counts": all, "total_unique": all.len() })
        };
        let numbers = trace.meta.layer_ids.iter().map(u32::to_string);
        let profiles: Map<String, Value> =
            numbers.zip(&prompts).map(|(number, counts)| (number, profile(counts))).collect();
        let page = json!({
            "model": model, "num_prompts": sequences, "threshold": options.threshold,
            "capacity": options.resident.unwrap_or(experts), "num_experts": experts, "moe_layers": layers,
            "layers": profiles,
        });
        file::replace(path, |out| writeln!(out, "{page:#}"))
    }
}
