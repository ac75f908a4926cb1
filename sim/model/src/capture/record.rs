//! What the MoE blocks of one sequence see, put together as a trace.

use half::f16;

use super::Options;
use super::sketch::Sketch;
use crate::error::{Error, Result};
use crate::model::{Config, Model, MoeHook};
use cptr_trace::array::FloatArray;
use cptr_trace::{Meta, Phase, Shape, Trace};

/// Everything by layer, in the order of tokens.
pub(super) struct Record<'a> {
    config: &'a Config,
    wide: bool,
    sketch: Option<(Sketch, usize)>,
    layers: Vec<Layer>,
}

#[derive(Default)]
struct Layer {
    /// `[T, E]`.
    scores: Vec<f32>,
    /// `[T, k]`.
    ids: Vec<u16>,
    /// `[T, k]`.
    weights: Vec<f32>,
    /// `[T, d]`.
    sketch: Vec<f32>,
}

impl MoeHook for Record<'_> {
    fn input(&mut self, layer: usize, hidden: &[f32]) {
        if let Some((sketch, _)) = &self.sketch {
            sketch.extend(hidden, &mut self.layers[layer].sketch);
        }
    }

    fn route(&mut self, layer: usize, scores: &[f32], wanted: &[u16], _chosen: &mut [u16]) {
        let (config, layer) = (self.config, &mut self.layers[layer]);
        layer.scores.extend_from_slice(scores);
        layer.ids.extend_from_slice(wanted);
        let first = layer.weights.len();
        layer.weights.resize(first + wanted.len(), 0.0);
        let rows = scores.chunks_exact(config.experts).zip(wanted.chunks_exact(config.k));
        for ((scores, wanted), weights) in rows.zip(layer.weights[first..].chunks_exact_mut(config.k)) {
            config.router.mass(scores, wanted, weights);
        }
    }
}

impl<'a> Record<'a> {
    pub(super) fn new(model: &'a Model, options: Options) -> Self {
        let config = &model.config;
        Self {
            config,
            wide: options.wide,
            sketch: options.sketch.map(|dims| (Sketch::new(config.hidden, dims), dims)),
            layers: config.moe_layers.iter().map(|_| Layer::default()).collect(),
        }
    }

    pub(super) fn trace(self, model: &str, domain: &str, tokens: Vec<u32>, phase: Vec<Phase>) -> Result<Trace> {
        let (config, count) = (self.config, tokens.len());
        let shape = Shape { tokens: count, layers: self.layers.len(), experts: config.experts, k: config.k };
        let floats = |name: &str, width: usize, get: fn(&Layer) -> &[f32]| -> Result<FloatArray> {
            let mut values = by_token(&self.layers, count, width, get);
            if !self.wide {
                narrow(&mut values).map_err(|error| error.at(name))?;
            }
            Ok(FloatArray::owned([count, shape.layers, width], values))
        };
        let hidden = self.sketch.as_ref().map(|(_, dims)| floats("hidden", *dims, |layer| &layer.sketch));
        Ok(Trace {
            shape,
            meta: Meta {
                model: model.into(),
                router: config.router.convention(),
                source: "cptr capture".into(),
                domains: vec![domain.into()],
                layer_ids: config.moe_layers.iter().map(|&layer| layer as u32).collect(),
            },
            ids: by_token(&self.layers, count, config.k, |layer| &layer.ids),
            weights: Some(floats("weights", config.k, |layer| &layer.weights)?),
            logits: Some(floats("logits", config.experts, |layer| &layer.scores)?),
            bias: None,
            hidden: hidden.transpose()?,
            sequence: vec![0; count],
            position: (0..count as u32).collect(),
            phase,
            token: Some(tokens),
            domain: vec![0; count],
            notes: Vec::new(),
        })
    }
}

/// Rows `[T, width]` of every layer as `[T, L, width]`.
fn by_token<T: Copy>(layers: &[Layer], tokens: usize, width: usize, get: fn(&Layer) -> &[T]) -> Vec<T> {
    let rows = |token: usize| layers.iter().flat_map(move |layer| &get(layer)[token * width..(token + 1) * width]);
    (0..tokens).flat_map(rows).copied().collect()
}

/// Rounds to f16.
fn narrow(values: &mut [f32]) -> Result<()> {
    for value in values {
        let rounded = f16::from_f32(*value).to_f32();
        if !rounded.is_finite() {
            return Err(Error::new(format!("expected values that f16 can hold, found {value}: record f32")));
        }
        *value = rounded;
    }
    Ok(())
}
